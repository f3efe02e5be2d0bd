"""A recorded pass holds every call that ran, and nothing of the model is changed by it."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from micro import Net, bn, conv, weight
from torch import nn

import slimnet
from slimnet.capture.sizes import AttributeOf, ShapeOf, Size
from slimnet.capture.trace import capture, source
from slimnet.errors import CaptureError
from slimnet.example import map_tensors
from slimnet.network import Network

IMAGE = (torch.randn(2, 3, 8, 8),)


def net(body, **parts):
    return Net(body, {"a": conv(3, 8), **parts}).eval()


def operators(trace):
    return [str(call.op).split(".")[1] for call in trace.calls]


def test_calls_come_in_order_with_the_tensors_that_flow():
    model = net(lambda m, x: m.b(m.a(x).relu()), b=conv(8, 4))
    trace = capture(Network.of(model), IMAGE)
    assert operators(trace) == ["convolution", "relu", "convolution"]
    first, middle, last = trace.calls
    assert [call.index for call in trace.calls] == [0, 1, 2]
    assert first.args[0] is trace.inputs[0]
    assert middle.args[0] is first.outputs[0]
    assert trace.outputs == [last.outputs[0]]
    assert last.outputs[0].shape == (2, 4, 8, 8)


def test_parameters_and_buffers_are_known_by_name_and_only_those_that_ran():
    model = net(lambda m, x: m.n(m.a(x)) * m.p, n=bn(8), p=weight(8, 1, 1), unused=conv(3, 3))
    model.register_buffer("shift", torch.randn(8, 1, 1))
    trace = capture(Network.of(model), IMAGE)
    names = ("a.weight", "a.bias", "n.weight", "n.bias", "n.running_mean", "n.running_var", "p")
    assert set(trace.tensors) == set(names)
    kinds = {name: ref.kind for name, ref in trace.tensors.items()}
    assert kinds["n.running_mean"] == "buffer" and kinds["p"] == "parameter"
    assert all(trace.tensors[name].shape == model.state_dict()[name].shape for name in names)


def test_a_shared_module_and_a_tied_weight_are_one_tensor():
    model = net(lambda m, x: m.c(m.b(m.b(m.a(x)))), b=conv(8, 8), c=conv(8, 8))
    model.c.weight = model.b.weight
    trace = capture(Network.of(model), IMAGE)
    weights = [call.args[1] for call in trace.calls]
    assert weights[1] is weights[2] is weights[3] and weights[0] is not weights[1]
    assert weights[1].name == "b.weight"


def test_no_activation_is_kept():
    alive = []

    def body(m, x):
        y = m.a(x)
        alive.append(weakref.ref(y))
        return y.relu().sum()

    trace = capture(Network.of(net(body)), IMAGE)
    gc.collect()
    assert len(trace.calls) == 3 and alive[0]() is None


def test_a_site_is_the_users_line_and_module():
    model = net(lambda m, x: F.max_pool2d(m.a(x), 2))
    called, pooled = capture(Network.of(model), IMAGE).calls[:2]
    assert called.site.module == "a" and pooled.site.module == ""
    assert str(pooled.site).startswith("test_trace.py:")
    assert str(pooled.site).endswith("in the model (<lambda>)")
    assert (
        called.site.line
        == pooled.site.line
        == test_a_site_is_the_users_line_and_module.__code__.co_firstlineno + 1
    )


def test_shapes_and_attributes_arrive_as_sizes_in_the_users_call():
    model = net(lambda m, x: m.a(x).view(x.shape[0], m.width, -1), width=8)
    call = next(c for c in capture(Network.of(model), IMAGE).calls if "view" in str(c.op))
    assert call.request.name == "view"
    batch, width, rest = call.request.args[1:]
    assert isinstance(batch, Size) and isinstance(batch.source, ShapeOf)
    assert source(width) == AttributeOf("", "width", 8)
    assert source(rest) is None
    assert call.request.args[0] is call.args[0]


@pytest.mark.parametrize(
    "read",
    {
        "shape": lambda x: x.shape[1],
        "size()": lambda x: x.size()[1],
        "size(1)": lambda x: x.size(1),
        "size(dim=1)": lambda x: x.size(dim=1),
        "size(-3)": lambda x: x.size(-3),
        "unpacked": lambda x: tuple(x.shape)[1],
        "slice": lambda x: x.shape[1:3][0],
    }.values(),
)
def test_every_way_to_read_a_length_tells_its_axis(read):
    found = []
    model = net(lambda m, x: found.append(read(m.a(x))) or x)
    capture(Network.of(model), IMAGE)
    assert found == [8] and source(found[0]).axis == 1


def test_integer_attributes_are_put_back():
    model = net(lambda m, x: m.a(x), sizes=[4, (8, "x")], groups=2)
    sizes = model.sizes
    capture(Network.of(model), IMAGE)
    assert type(model.groups) is int and model.sizes is sizes
    assert type(sizes[0]) is int and type(sizes[1][0]) is int
    assert not isinstance(model.a.groups, Size)


def test_attributes_are_put_back_when_the_forward_fails():
    def body(m, x):
        raise ValueError("no")

    model = net(body, groups=2)
    with pytest.raises(CaptureError):
        capture(Network.of(model), IMAGE)
    assert type(model.groups) is int


def test_what_the_pass_writes_is_undone():
    def body(m, x):
        m.count.add_(1)
        x.zero_()
        return m.a(x)

    model = net(body)
    model.register_buffer("count", torch.zeros(1))
    example = (torch.ones(1, 3, 8, 8),)
    capture(Network.of(model), example)
    assert model.count.item() == 0 and example[0].min() == 1


def test_the_mode_of_the_model_is_put_back_and_the_pass_runs_in_evaluation_mode():
    seen = []
    model = net(lambda m, x: seen.append(m.training) or m.a(x)).train()
    capture(Network.of(model), IMAGE)
    assert seen == [False] and model.training
    capture(Network.of(model), IMAGE, training=True)
    assert seen == [False, True]


def test_running_statistics_survive_a_pass_in_training_mode():
    model = net(lambda m, x: m.n(m.a(x)), n=bn(8))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    capture(Network.of(model), IMAGE, training=True)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_no_gradient_is_recorded():
    seen = []
    capture(Network.of(net(lambda m, x: seen.append(torch.is_grad_enabled()) or m.a(x))), IMAGE)
    assert seen == [False]


def test_a_shape_that_does_not_fit_is_refused_with_the_shape():
    with pytest.raises(CaptureError) as refusal:
        capture(Network.of(net(lambda m, x: m.a(x))), (torch.randn(1, 4, 8, 8),))
    assert str(refusal.value) == (
        "Net does not run on an input of shape (1, 4, 8, 8): Given groups=1, weight of size "
        "[8, 3, 3, 3], expected input[1, 4, 8, 8] to have 3 channels, but got 4 channels instead; "
        "give the shape that it was made for (--input, or the example argument)"
    )


class Answer:
    """An output that torch's tree utilities do not know."""

    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize(
    ("wrap", "count"),
    [
        (lambda y: (y, [y + 1]), 2),
        (lambda y: {"logits": y}, 1),
        (Answer, 1),
        (lambda y: 3, 0),
    ],
)
def test_outputs_are_found_inside_whatever_comes_back(wrap, count):
    assert len(capture(Network.of(net(lambda m, x: wrap(m.a(x)))), IMAGE).outputs) == count


def test_the_fused_attention_path_is_off_while_recording_and_back_on_afterwards():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    trace = capture(Network.of(layer), (torch.randn(2, 5, 16),))
    assert "_transformer_encoder_layer_fwd" not in operators(trace)
    assert torch.backends.mha.get_fastpath_enabled()


def test_index_tensors_are_recorded_with_their_values():
    model = net(lambda m, x: m.a(x)[:, torch.tensor([2, 0])])
    call = next(c for c in capture(Network.of(model), IMAGE).calls if "index" in str(c.op))
    assert call.args[1][1].values.tolist() == [2, 0]


def test_an_integer_input_that_chooses_the_branch_is_followed():
    model = net(lambda m, x, k: m.a(x).relu() if k else m.a(x).tanh())
    assert "tanh" in operators(capture(Network.of(model), (*IMAGE, 0)))
    assert "relu" in operators(capture(Network.of(model), (*IMAGE, 1)))


def test_map_tensors_leaves_everything_else_alone():
    found = map_tensors(torch.neg, ({"x": torch.ones(1)}, 3, [None, torch.ones(1)]))
    assert found[0]["x"].item() == -1 and found[1] == 3 and found[2][0] is None


def test_a_number_of_elements_follows_the_shape():
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 32), nn.Linear(32, 4)

        def forward(self, x):
            bias = self.a.bias.clone()
            bias[bias.numel() // 2 :].zero_()
            return self.b(nn.functional.linear(x, self.a.weight, bias).tanh())

    pruned = slimnet.prune(Halves().eval(), (torch.randn(2, 8),), ratio=0.5, align=None)
    assert pruned.model.a.weight.shape == (16, 8)
    assert pruned.certificate.exact
