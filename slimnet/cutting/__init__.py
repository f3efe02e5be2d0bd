"""Cutting: from a plan to a slim network, with its proof.

:mod:`.rebuild` indexes every tensor by what survives and mends what modules say of themselves;
:mod:`.fold` makes up for numbers that code computes from a length, also in tensors
(:mod:`.numbers`), :mod:`.bystanders` for attributes that only other methods read. :mod:`.verify`
compares the result with the original whose removed parts are zero (:mod:`.reference`,
:mod:`.standins`, :mod:`.bands`); :mod:`.diagnose` finds the call in the way of one that does not
run, by what its code has :mod:`.raised`. :mod:`.draft`
cuts to score again, :mod:`.shorten` takes whole blocks out.
"""
