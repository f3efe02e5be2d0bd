"""Cutting: from a plan to a slim network, with its proof.

:mod:`.rebuild` indexes every tensor by what survives and mends what modules say of themselves;
:mod:`.fold` makes up for numbers that code computes from a length, also in tensors
(:mod:`.numbers`), :mod:`.bystanders` for attributes that only other methods read. :mod:`.verify`
is the proof: the slim network and the original whose removed parts are zero run on the same
:mod:`.inputs` and on what stands for their weights (:mod:`.reference`, :mod:`.standins`), and
:mod:`.comparison` holds each result, as a :mod:`.projection`, against what
survives of the other. :mod:`.diagnose` finds the call in the way of one that fails, by what its
code has :mod:`.raised`. :mod:`.draft` cuts to score again, :mod:`.shorten` takes whole blocks out.
"""
