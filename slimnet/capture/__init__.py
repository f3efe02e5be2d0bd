"""Capture: a network as the list of calls that its pass really ran.

:mod:`.trace` records one eager pass, and :mod:`.graph` says of its calls and tensors who makes and
who reads what; :mod:`.calls`, :mod:`.composites`, :mod:`.sizes` and
:mod:`.sites` say what a call is, what is recorded whole, where an integer came from and which line
of whose code asked. :mod:`.attributes` lets the integers that hang on modules (:mod:`.belongings`)
remember where they are, by the :mod:`.books` that torch's own modules keep of their weights;
:mod:`.journal`, :mod:`.caches` and :mod:`.conversions` see to what remembered results and ``int``
would lose of it.
:mod:`.program` runs calls without the class that they came from, those that :mod:`.permitted` knows
to be safe and in the memory that :mod:`.allowance` grants; :mod:`.exported`, :mod:`.pt2`,
:mod:`.nodes`, :mod:`.archive` and :mod:`.effects` bring one from and to a file of ``torch.export``.
:mod:`.modules` switches and clones a network, :mod:`.copying` copies what its modules hold,
:mod:`.randomness` lets passes draw alike, and :mod:`.suitable` refuses what cannot be recorded.
"""
