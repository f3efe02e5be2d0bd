"""Plans: what leaves a network, as plain data, and the network without it.

A :mod:`.plan` names indices of tensors, and whole blocks by what stands in their place
(:mod:`.shortcut`); its :mod:`.outcome` says what was asked for and what came of it.
:mod:`.rebuild` indexes every tensor by what survives and corrects what modules say of themselves;
:mod:`.fold` makes up for numbers that code computes from a length, also in tensors
(:mod:`.numbers`). :mod:`.compose` makes one plan of two, and :mod:`.companions` cuts
other weights of the network, and its optimiser.
"""
