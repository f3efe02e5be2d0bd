"""Capture: a network as the list of calls that its pass really ran.

:mod:`.passes` are what is recorded of a network: :mod:`.trace` records each, and :mod:`.graph`
says of its calls and tensors who makes and who reads what; :mod:`.composites`, :mod:`.sizes` and
:mod:`.sites` say what is recorded whole, where an integer came from and which line of whose code
asked. :mod:`.attributes` lets the integers that hang on modules (:mod:`.belongings`) remember where
they are, by the :mod:`.books` that torch's own modules keep of their weights; :mod:`.journal`,
:mod:`.caches` and :mod:`.conversions` see to what remembered results and ``int`` would lose of it.
:mod:`.modules` switches and clones a network,
:mod:`.copying` copies what its modules hold, :mod:`.randomness` lets passes draw alike, and
:mod:`.suitable` refuses what cannot be recorded.
"""
