"""Blocks: residual branches that can leave whole.

:mod:`.blocks` finds them in a recorded pass, with what makes each exactly zero (:mod:`.silence`)
and what has to stand in its place (:mod:`.stubs`); :mod:`.shorten` takes them out, with a proof.
"""
