"""Quantisation-aware, quantised and parametrised modules: cut exactly, or left with the reason."""

from __future__ import annotations

import copy

import pytest
import torch
from micro import Net, conv, lin
from torch import Tensor, nn
from torch.ao import quantization
from torch.nn.utils import parametrizations, parametrize, prune

import slimnet
from slimnet.errors import CertificateError, PruneError
from slimnet.network import Network
from slimnet.proving import prove

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.ao says on every call that it moves
IMAGE = (torch.randn(2, 3, 8, 8),)


class Quantisable(nn.Module):
    """A network as eager-mode quantisation wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = quantization.QuantStub(), quantization.DeQuantStub()
        self.a, self.n, self.r = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()
        self.c, self.b = nn.Conv2d(16, 24, 3), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c(self.r(self.n(self.a(self.enter(x)))))
        return self.leave(self.b(x.mean((2, 3))))


def aware(backend: str = "fbgemm", *, fused: bool = False, observing: bool = False) -> nn.Module:
    """A network in the middle of quantisation-aware training."""
    torch.manual_seed(0)
    model = Quantisable().train()
    if fused:
        model = quantization.fuse_modules_qat(model, [["a", "n", "r"]])
    model.qconfig = quantization.get_default_qat_qconfig(backend)
    quantization.prepare_qat(model, inplace=True)
    for _ in range(2):
        model(*IMAGE)
    if not observing:
        model.apply(quantization.disable_observer)
    return model.eval()


def halved(model: nn.Module) -> slimnet.Pruned:
    return slimnet.prune(model, IMAGE, ratio=0.5, align=None)


@pytest.mark.parametrize("backend", ["fbgemm", "qnnpack"])  # scales per channel, and one for all
@pytest.mark.parametrize("fused", [False, True])
def test_fake_quantised_channels_leave_exactly_and_with_their_scales(backend, fused):
    model = aware(backend, fused=fused)
    before = copy.deepcopy(model.state_dict())
    pruned = halved(model)
    slim = pruned.model
    assert pruned.certificate.exact
    assert tuple(slim.c.weight.shape) == (12, 8, 3, 3)
    scales = slim.c.weight_fake_quant.scale
    assert len(scales) == (12 if backend == "fbgemm" else 1)
    assert len(slim.c.weight_fake_quant.zero_point) == len(scales)
    if backend == "fbgemm":
        gone = pruned.plan.removed["c.weight"][0]
        left = [channel for channel in range(24) if channel not in gone]
        assert torch.equal(scales, model.c.weight_fake_quant.scale[left])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_training_and_conversion_go_on_after_the_cut():
    slim = halved(aware(fused=True)).model.train()
    slim.apply(quantization.enable_observer)
    slim(*IMAGE).sum().backward()
    slim.eval()
    torch.backends.quantized.engine = "fbgemm"
    converted = quantization.convert(slim)
    assert converted.c.in_channels == 8 and converted(*IMAGE).isfinite().all()


RANGE = "c.weight_fake_quant.activation_post_process.max_val"  # the scale follows from it


@pytest.mark.parametrize("name", ["c.weight", "c.bias", RANGE])
def test_coarse_grids_do_not_hide_a_wrong_slim_network(name):
    model = aware()
    pruned = halved(model)
    tensors = Network.of(pruned.model).tensors
    assert prove(Network.of(model), Network.of(pruned.model), pruned.plan, IMAGE).exact
    with torch.no_grad():
        tensors[name].mul_(1.5)
    with pytest.raises(CertificateError):
        prove(Network.of(model), Network.of(pruned.model), pruned.plan, IMAGE)


def test_a_range_that_is_observed_keeps_its_channels_and_says_what_to_do():
    model = aware(observing=True)
    before = copy.deepcopy(model.state_dict())
    (row,) = (layer for layer in slimnet.inspect(model, IMAGE).layers if layer.name == "c")
    assert row.prunable == 0
    assert "switch observers off: model.apply(torch.ao.quantization.disable_observer)" in str(row)
    assert "in c.weight_fake_quant (forward)" in row.reasons[0]
    with pytest.raises(PruneError, match="observes its range"):
        halved(model)
    assert slimnet.prune(model, IMAGE, ratio=0.0).certificate.exact
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_observers_of_a_network_that_is_being_calibrated_name_themselves():
    model = Quantisable().eval()
    model.qconfig = quantization.get_default_qconfig("fbgemm")
    quantization.prepare(model, inplace=True)
    model(*IMAGE)
    (row,) = (layer for layer in slimnet.inspect(model, IMAGE).layers if layer.name == "c")
    assert row.prunable == 0
    assert "in c.activation_post_process (forward)" in row.reasons[0]


def test_a_quantised_network_is_refused():
    model = Quantisable().eval()
    model.qconfig = quantization.get_default_qconfig("fbgemm")
    quantization.prepare(model, inplace=True)
    model(*IMAGE)
    quantised = quantization.convert(model)
    dynamic = quantization.quantize_dynamic(nn.Sequential(nn.LSTM(8, 16)), {nn.LSTM})
    for network, name in ((quantised, "a"), (dynamic, "0._all_weight_values.0")):
        with pytest.raises(slimnet.InputError) as refusal:
            slimnet.inspect(network, IMAGE)
        assert str(refusal.value) == (
            f"{name} holds packed weights, as quantised layers do: prune the network before it is "
            "quantised"
        )


def chain(change) -> Net:
    """Three layers, the middle one changed in place."""
    torch.manual_seed(0)
    parts = {"a": conv(3, 16), "c": conv(16, 24), "b": lin(24, 5)}
    model = Net(lambda m, x: m.b(m.c(m.a(x).relu()).relu().mean((2, 3))), parts)
    change(model)
    return model.eval()


class Map(nn.Module):
    """A parametrisation of the user's own."""

    def __init__(self, body) -> None:
        super().__init__()
        self.body = body

    def forward(self, weight: Tensor) -> Tensor:
        return self.body(weight)


def parametrised(body):
    return lambda m: parametrize.register_parametrization(m.c, "weight", Map(body))


def unit_rows(weight: Tensor) -> Tensor:
    """A zeroed row would be 0/0."""
    return weight / weight.flatten(1).norm(dim=1)[:, None, None, None]


EXACT = {
    **{
        f"weight norm {dim}": lambda m, d=dim: parametrizations.weight_norm(m.c, dim=d)
        for dim in (0, 1, None)
    },
    "weight norm by hook": lambda m: nn.utils.weight_norm(m.c),
    "unit rows": parametrised(unit_rows),
    "exponential": parametrised(torch.exp),
    "mask": lambda m: prune.l1_unstructured(m.c, "weight", 0.3),
    "mask of rows": lambda m: prune.ln_structured(m.c, "weight", 0.3, n=1, dim=0),
}


@pytest.mark.parametrize("change", EXACT.values(), ids=EXACT)
def test_a_parametrised_layer_is_cut_exactly_and_trains_on(change):
    pruned = halved(chain(change))
    assert pruned.certificate.exact
    slim = pruned.model.train()
    slim(*IMAGE).sum().backward()
    assert tuple(slim.c.weight.shape) == (12, 8, 3, 3)
    assert all(p.grad is not None for p in slim.parameters())


def test_a_spectral_norm_is_exact():
    """u·Wv is the same without the rows and columns of W that are zero."""
    pruned = halved(chain(lambda m: parametrizations.spectral_norm(m.c)))
    assert tuple(pruned.model.c.weight.shape) == (12, 8, 3, 3)
    assert pruned.certificate.exact


@pytest.mark.parametrize("way", ["matrix_exp", "cayley"])
def test_an_orthogonal_layer_stays_and_names_its_parametrisation(way):
    model = chain(lambda m: parametrizations.orthogonal(m.c, orthogonal_map=way))
    rows = {layer.name: layer for layer in slimnet.inspect(model, IMAGE).layers}
    assert rows["c"].prunable == rows["a"].prunable == 0
    assert " has no rule (" in rows["c"].reasons[0]
    assert "in c.parametrizations.weight.0 (" in rows["c"].reasons[0]


def test_a_parametrisation_that_two_layers_share_ties_them():
    scale = nn.Parameter(torch.rand(24, 1, 1, 1))

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = scale

        def forward(self, weight: Tensor) -> Tensor:
            return weight * self.scale

    def change(m: Net) -> None:
        m.d = nn.Conv2d(3, 24, 1)
        for layer in (m.c, m.d):
            parametrize.register_parametrization(layer, "weight", Scaled())

    model = chain(change)
    model.body = lambda m, x: m.b(
        (m.c(m.a(x).relu()).relu() * 2).mean((2, 3)) + m.d(x).mean((2, 3))
    )
    pruned = halved(model)
    assert pruned.certificate.exact
    removed = pruned.plan.removed
    assert (
        removed["c.parametrizations.weight.original"][0]
        == removed["d.parametrizations.weight.original"][0]
        == removed["c.parametrizations.weight.0.scale"][0]
    )
    slim = pruned.model
    assert slim.c.parametrizations.weight[0].scale is slim.d.parametrizations.weight[0].scale
