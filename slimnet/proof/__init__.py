"""Proof: the slim network is the original with what was removed zeroed.

Both run on the same :mod:`.inputs`, and on their weights as well as on :mod:`.stand_ins` for them;
:mod:`.reference` runs the original. :mod:`.comparison` holds every result, as a :mod:`.projection`,
against what survives of the other, and a :mod:`.certificate` says how far they were apart. Of one
that fails :mod:`.diagnosis` finds the call in the way, by what its code has :mod:`.raised`.
"""
