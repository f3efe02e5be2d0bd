"""Capture: a network as the list of calls that its pass really ran.

:mod:`.passes` are what is recorded of a network. :mod:`.trace` records each, and :mod:`.graph` says
which call makes a tensor and which read it. :mod:`.composites` says what is recorded whole,
:mod:`.sizes` where an integer came from, and :mod:`.sites` which line of the user's code made a
call. :mod:`.attributes` gives the integers among modules' attributes (:mod:`.belongings`) a source,
with the :mod:`.books` that torch's own modules keep of their weights. :mod:`.journal`,
:mod:`.caches` and :mod:`.conversions` keep caches and ``int`` from losing it. :mod:`.modules`
switches and clones a network, :mod:`.copying` copies what its modules hold, :mod:`.randomness` lets
passes draw the same numbers, and :mod:`.suitable` refuses what cannot be recorded.
"""
