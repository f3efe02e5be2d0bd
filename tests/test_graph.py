"""Who makes and who reads each tensor of a recorded pass, worked out once for each pass."""

from __future__ import annotations

import gc
import weakref

import torch
from micro import Net, conv
from torch import nn

from slimnet.capture.trace import capture
from slimnet.coupling.scaling import path_to
from slimnet.network import Network

aten = torch.ops.aten
IMAGE = (torch.randn(1, 3, 8, 8),)


def graph_of(body, **layers):
    return capture(Network.of(Net(body, layers).eval()), IMAGE).graph


def twice(m, x):
    x = m.a(x)
    return m.b((x + m.a(IMAGE[0])).relu())


def test_the_kth_call_of_an_operator_is_that_call():
    graph = graph_of(twice, a=conv(3, 8), b=conv(8, 4))
    convolution = aten.convolution.default
    calls = [call for call in graph.calls if call.op == convolution]
    assert [graph.nth[convolution, k] for k in range(3)] == calls
    assert (convolution, 3) not in graph.nth
    assert graph.by_place[convolution, "a"] == calls[:2]


def test_a_tensor_has_one_maker_and_all_its_readers():
    graph = graph_of(lambda m, x: (y := m.a(x)).relu() + y, a=conv(3, 8))
    made, relu, add = graph.calls
    (ref,) = made.outputs
    assert graph.made[ref.id] is made
    assert graph.readers[ref.id] == [relu, add]
    assert graph.users[ref.id] == {relu.index, add.index}
    assert graph.only_reader(relu.outputs[0]) is add
    assert graph.only_reader(ref) is None


def test_a_call_that_nobody_reads_is_idle_and_so_is_what_only_it_reads():
    def body(m, x):
        y = m.a(x)
        (y * 2).exp()
        return y.relu()

    graph = graph_of(body, a=conv(3, 8))
    made, mul, exp, relu = graph.calls
    assert graph.readers[made.outputs[0].id] == [mul, relu]
    assert graph.users[made.outputs[0].id] == {relu.index}
    assert graph.readers[mul.outputs[0].id] == [exp] and not graph.users[mul.outputs[0].id]
    assert graph.under("a") == {made.index}


def test_what_varies_depends_on_the_inputs():
    def body(m, x):
        return m.a(x) * (m.a.bias.exp().sum() + 1)

    graph = graph_of(body, a=conv(3, 8))
    varying = {call.op for call in graph.calls for ref in call.outputs if ref.id in graph.varies}
    assert varying == {aten.convolution.default, aten.mul.Tensor}


def test_a_tensor_that_a_call_reads_twice_is_read_twice_by_one_call():
    graph = graph_of(lambda m, x: (y := m.a(x)) * y, a=conv(3, 8))
    made, product = graph.calls
    assert [ref.id for ref in product.reads] == [made.outputs[0].id] * 2
    assert graph.readers[made.outputs[0].id] == [product]


def test_modules_that_only_hold_others_are_no_module_around_a_call():
    layers = nn.ModuleDict({"a": conv(3, 8)(), "b": conv(8, 8)()})
    graph = graph_of(lambda m, x: m.held["b"](m.held["a"](x)), held=layers)
    assert graph.under("held") == {0, 1}
    assert graph.modules_inside(frozenset({0, 1})) == ("held.a", "held.b")


def test_a_pass_is_read_once_and_its_answers_go_with_it():
    model = Net(lambda m, x: m.b(m.a(x)) * 2, {"a": conv(3, 8), "b": conv(8, 4)}).eval()
    trace = capture(Network.of(model), IMAGE)
    assert trace.graph is trace.graph
    call = trace.graph.nth[aten.mul.Tensor, 0]
    assert path_to(trace, call, call.args[0]) is path_to(trace, call, call.args[0])
    assert trace.graph.answers
    gone = weakref.ref(trace.graph)
    del trace, call
    gc.collect()
    assert gone() is None
