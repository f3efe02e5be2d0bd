"""Prune to any budget: of what is counted, or of time."""

from __future__ import annotations

from torch import nn

from slimnet.output import scratch
from slimnet.pruning import PruneArguments, Pruned, cut_down
from slimnet.signature import keywords


@keywords(PruneArguments)
def prune(model: nn.Module | Pruned, asked: PruneArguments) -> Pruned:
    """Cut a network down to a budget; ``model`` itself is never changed.

    Args:
        model: any network that runs on ``example``; or a :class:`Pruned` (or its model, or what
            ``load`` gave), which is cut once more, and can be saved relative to the original.
        {options}

    Raises:
        InputError: for arguments that cannot be used.
        PruneError: where nothing can be cut, a layer would be left without channels, or the budget
            cannot be met.
        CertificateError: where the slim network cannot be proven equal to the zeroed original.
    """
    if asked.latency is None:
        return cut_down(model, asked)
    from slimnet.timing.aiming import Aiming  # which imports the runtime

    with scratch() as folder:
        return Aiming(model, asked, folder).pruned()
