"""Which cuts made a network, from the original on: what lets rounds of pruning compose.

A slim network that ``prune`` or ``load`` gave is known by identity, weakly, for as long as it
lives: pruning it again gives a plan that starts where it stands, and :class:`Lineage` puts both
into one. A network whose tensors have other shapes than it was given with is not known any more.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from slimnet.network import Network
from slimnet.plan.compose import compose
from slimnet.plan.plan import Plan
from slimnet.proof.certificate import Certificate, join_certificates


@dataclass(frozen=True, eq=False)
class Lineage:
    """All cuts up to a network as one, relative to the original, and their proof."""

    plan: Plan
    certificate: Certificate | None  # None unless every cut was proven
    trained: bool  # weights changed after a cut
    shapes: Mapping[str, tuple[int, ...]]  # of the tensors that it has, in the original

    def and_then(self, plan: Plan, certificate: Certificate | None) -> tuple[Plan, Any]:
        """The plan and the certificate of these cuts and a further one."""
        proven = self.certificate is not None and certificate is not None
        both = join_certificates(self.certificate, certificate) if certificate and proven else None
        return compose(self.plan, plan, self.shapes), both


def remember(slim: Network, plan: Plan, certificate: Certificate | None, *, trained: bool) -> None:
    """Keep how a network was made: ``plan`` and ``certificate`` are relative to the original."""
    shapes = {name: plan.of(name).before(t.shape) for name, t in slim.tensors.items()}
    key = id(slim.model)  # a class may define equality, and be no key then
    made = Lineage(plan, certificate, trained, shapes)
    _KNOWN[key] = (weakref.ref(slim.model, lambda _: _KNOWN.pop(key, None)), made, _state(slim))


def lineage_of(network: Network) -> Lineage | None:
    """How a network was made; None for one that slimnet did not cut, or that is another by now."""
    known = _KNOWN.get(id(network.model))
    if known is None or known[0]() is not network.model:
        return None
    _, lineage, then = known
    now = _state(network)
    if {n: s[0] for n, s in then.items()} != {n: s[0] for n, s in now.items()}:
        return None
    return replace(lineage, trained=lineage.trained or then != now)


def is_cut_from(slim: Network, plan: Plan, network: Network) -> bool:
    """Whether a network has the tensors, and their shapes, that the plan cut ``slim`` from."""
    shapes, left = network.shapes, slim.tensors
    gone = {name for name in shapes if any(stub.drops(name) for stub in plan.stubs)}
    blocks = bool(gone) or not plan.stubs
    return blocks and all(
        shapes.get(name) == plan.of(name).before(t.shape) for name, t in left.items()
    )


_KNOWN: dict[int, tuple[weakref.ref[nn.Module], Lineage, dict[str, Any]]] = {}


def _state(network: Network) -> dict[str, Any]:
    """Of each tensor its shape, and what tells that it was written to."""
    return {
        name: (tuple(tensor.shape), _writes(tensor)) for name, tensor in network.tensors.items()
    }


def _writes(tensor: Tensor) -> Any:
    """How often; of buffers, which are put back after a pass in training mode, what is in them."""
    if isinstance(tensor, nn.Parameter) and not tensor.is_inference():
        return tensor._version, tensor.data_ptr()
    return float(tensor.detach().double().abs().sum()) if tensor.is_floating_point() else None
