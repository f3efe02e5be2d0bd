"""Planning: from scores and a budget to the indices that leave.

:mod:`.request` holds every option of a cut. :mod:`.gather` gets what a criterion needs and
:mod:`.scoring` scores; :mod:`.budget` is how much is to leave, and what narrows the choice.
:mod:`.allocate` moves widths up and down their :mod:`.ladder` until the budget is met, by
:mod:`.harm` where that is the scope, and :mod:`.finish` takes the last single steps; what they move
is a :mod:`.search`. What is :mod:`.unread` goes before all else. A :mod:`.plan` is plain data;
:mod:`.outcome` and :mod:`.shortfall` say what was achieved, and why no more. :mod:`.compose` makes
one plan of two.
"""
