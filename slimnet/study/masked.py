"""The baselines of a study that get smaller on paper and no faster: single weights masked.

They stand among the criteria as ``unstructured`` (the largest final magnitudes stay, as in Han et
al. 2015) and ``unstructured-NAME``, for every mask criterion of :data:`slimnet.train.masks.MASKS`;
their ratio is the share of the weights that the mask takes. Nothing is cut, so they have no
certificate, all MACs and, measured, the dense network's latency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from slimnet.network import Network
from slimnet.study.candidate import Candidate
from slimnet.study.cells import mask_of
from slimnet.study.facts import Facts, LatencyFacts
from slimnet.train.masks import HOLDS, MASKS, Held, masks_by, single_weights


def cutting(criteria: Sequence[str]) -> tuple[str, ...]:
    """Those of a study's criteria that choose channels to cut."""
    return tuple(name for name in criteria if mask_of(name) is None)


@dataclass(frozen=True, eq=False)
class Masked:
    """A dense network, and which of its single weights a criterion masks.

    ``initial`` are its weights before training, for criteria and actions that read them.
    """

    dense: nn.Module
    criterion: str  # a name of MASKS
    rate: float
    initial: Mapping[str, Tensor] | None = None

    @property
    def reads_initial(self) -> bool:
        """Whether its criterion asks for what the weights were."""
        return MASKS[self.criterion].reads_initial

    def masks(self) -> dict[str, Tensor]:
        """0 where a weight is masked, by name."""
        return masks_by(self.criterion, self.rate, self._final(), self.initial)

    def held(self, action: str = "zero") -> Held:
        """What holds the masked weights, by a name of HOLDS, wherever a training starts from."""
        if action == "zero":
            return Held(self.masks())
        initial, hold = self.initial or {}, HOLDS[action]
        values = {name: hold(initial[name].to(x), x.detach()) for name, x in self._final().items()}
        return Held(self.masks(), values)

    def _final(self) -> dict[str, nn.Parameter]:
        return dict(single_weights(Network.of(self.dense)))


def masked_candidate(
    model: nn.Module, masked: Masked, macs: int, latency: LatencyFacts | None = None
) -> Candidate:
    """``model``, which the caller hands over, with its masked weights at zero.

    ``params`` counts what is left.
    """
    held = masked.held()
    held.apply(model)
    zeros = sum(int(mask.eq(0).sum()) for mask in held.masks.values())
    facts = Facts(
        macs=macs,
        params=sum(parameter.numel() for parameter in model.parameters()) - zeros,
        latency=latency,
        achieved={
            "asked": {"rate": masked.rate},
            "remarks": [f"{zeros:,} single weights are zero"],
        },
    )
    return Candidate(model, facts, masked=masked.rate)
