"""Planning: from scores and a budget to the indices that leave.

:mod:`.request` holds every option of a cut; :mod:`.review` is a cut as a text to edit, which makes
one. :mod:`.scoring` scores; :mod:`.budget` is how much is to leave, and what narrows the choice,
:mod:`.prescribed` the widths that a user names. :mod:`.allocate` moves widths up and down their
:mod:`.ladder` until the budget is met, by :mod:`.greedy` where damage is the scope, and
:mod:`.finish` takes the last single steps; what they move is a :mod:`.search`. What is
:mod:`.unread` goes before all else. :mod:`.draft` cuts to score again, where groups are not
:mod:`.alike`, and finds what becomes of attributes that only other methods read
(:mod:`.bystanders`); :mod:`.returned` says what becomes of outputs that nobody reads.
:mod:`.outcome` and :mod:`.shortfall` say what was achieved, and why no more.
"""
