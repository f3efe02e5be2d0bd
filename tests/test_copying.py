"""A slim network never computes with the original, and the original stays as it was."""

from __future__ import annotations

import collections
import functools
import threading
import types
import weakref

import pytest
import torch
from torch import nn

import slimnet
from slimnet.capture.modules import clone, copied
from slimnet.errors import InputError
from slimnet.network import Network


class Net(nn.Module):
    """Two layers and nothing else; what holds them is added by each kind."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 16, 1)
        self.b = nn.Conv2d(16, 2, 1)
        self.prepare()

    def prepare(self):
        pass

    def run(self, x, scale=1.0):
        return self.b(self.a(x).relu() * scale)

    def forward(self, x):
        return self.run(x)


class Partial(Net):
    def prepare(self):
        self.call = functools.partial(self.run, scale=2.0)

    def forward(self, x):
        return self.call(x)


class Table(Net):
    def prepare(self):
        self.steps = {"all": [self.run, (self.b.forward,)], "a": collections.OrderedDict(a=self.a)}

    def forward(self, x):
        return self.steps["all"][1][0](self.steps["a"]["a"](x).relu()) + self.steps["all"][0](x)


class Lambda(Net):
    def prepare(self):
        self.call = lambda x: self.b(self.a(x).relu())

    def forward(self, x):
        return self.call(x)


class Closure(Net):
    """Over a module and a parameter, in a decorated function that calls itself."""

    def prepare(self):
        first, weight, bias = self.a, self.b.weight, self.b.bias

        @functools.wraps(self.run)
        def call(x, again=True):
            if again:
                return call(x, again=False)
            return nn.functional.conv2d(first(x).relu(), weight, bias)

        self.call = call

    def forward(self, x):
        return self.call(x)


class Defaults(Net):
    def prepare(self):
        def call(x, net=self, *, last=self.b):
            return last(net.a(x).relu())

        self.call = call

    def forward(self, x):
        return self.call(x)


class OwnForward(Net):
    def prepare(self):
        self.forward = self.run


class Compiled(Net):
    def prepare(self):
        self.forward = torch.compile(self.run, backend="eager")


class Weak(Net):
    def prepare(self):
        self.first = weakref.ref(self.a)
        self.method = weakref.WeakMethod(self.run)
        self.all = weakref.WeakValueDictionary(b=self.b)
        self.set = weakref.WeakSet([self.a])

    def forward(self, x):
        (first,) = self.set
        return self.all["b"](self.first()(x).relu() + first(x) * 0) + self.method()(x)


class Runner:
    """A callable object of the user's, with slots."""

    __slots__ = ("net", "steps")

    def __init__(self, net):
        self.net = net
        self.steps = [lambda x: net.a(x), torch.relu]

    def __call__(self, x):
        for step in self.steps:
            x = step(x)
        return self.net.b(x)


class Object(Net):
    def prepare(self):
        self.call = Runner(self)
        self.held = types.SimpleNamespace(run=self.call, names=collections.deque(["a"]))

    def forward(self, x):
        return self.call(x) + self.held.run(x)


class Hooks(Net):
    def prepare(self):
        self.gain = nn.Parameter(torch.full((1, 16, 1, 1), 2.0))
        self.a.register_forward_hook(lambda module, given, made: made * self.gain)
        self.b.register_forward_pre_hook(self.before)

    def before(self, module, given):
        return (given[0] * self.gain,)


class Keyed(Net):
    def prepare(self):
        self.of = {self.a: self.b}

    def forward(self, x):
        return self.of[self.a](self.a(x).relu())


class BuiltIn(Net):
    """A method of a list of its own."""

    def prepare(self):
        self.seen = [self.a]
        self.last = self.seen.__getitem__

    def forward(self, x):
        return self.b(self.last(0)(x).relu())


class Mapped(Net):
    def forward(self, x):
        return torch.func.vmap(lambda t: self.b(self.a(t).relu()))(x)


KINDS = [
    *(Net, Partial, Table, Lambda, Closure, Defaults, OwnForward, Weak, Object, Hooks, Keyed),
    *(BuiltIn, Compiled),
]


def attributes(model):
    tables = ("_parameters", "_buffers")
    return {name: id(value) for name, value in vars(model).items() if name not in tables}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_slim_network_does_not_see_the_original(kind):
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(2, 3, 4, 4)
    before = {name: tensor.clone() for name, tensor in Network.of(model).tensors.items()}
    held = attributes(model)
    pruned = slimnet.prune(model, (x,), ratio=0.5, align=None)
    assert pruned.model.a.out_channels == 8
    assert attributes(model) == held
    assert all(
        torch.equal(before[name], tensor) for name, tensor in Network.of(model).tensors.items()
    )
    with torch.no_grad():
        expected = pruned.model(x)
        for tensor in Network.of(model).tensors.values():
            tensor.fill_(torch.nan)
        assert torch.equal(pruned.model(x), expected)
        for tensor in Network.of(pruned.model).tensors.values():
            tensor.zero_()
        assert not pruned.model(x).any()


def test_functions_that_share_a_variable_go_on_sharing_it():
    model = Net()
    count = 0

    def add():
        nonlocal count
        count += 1 if model.a is not None else 0

    model.add, model.read = add, lambda: (count, model)
    new = copied(Network.of(model))
    new.add()
    assert new.read()[0] == 1 and new.read()[1] is new
    assert model.read() == (0, model)


def test_functions_that_lead_nowhere_are_shared():
    model = Net()
    model.act, model.power = torch.relu, functools.partial(pow, exp=2)
    model.plain = lambda x: x + 1
    new = copied(Network.of(model))
    assert new.act is torch.relu and new.plain is model.plain
    assert new.power.keywords == {"exp": 2}


def test_a_generator_of_its_own_is_not_drawn_from():
    model = Net()
    model.generator = torch.Generator().manual_seed(3)
    new = copied(Network.of(model))
    torch.rand(5, generator=new.generator)
    assert torch.equal(
        torch.rand(2, generator=model.generator),
        torch.rand(2, generator=torch.Generator().manual_seed(3)),
    )


def test_compiled_modules_are_cut_and_the_users_stay_compiled():
    ran = []

    def backend(graph, inputs):
        ran.append(graph)
        return graph.forward

    model, x = Net().eval(), torch.randn(2, 3, 4, 4)
    model.compile(backend=backend)
    model.a.compile(backend=backend)
    pruned = slimnet.prune(model, (x,), ratio=0.5, align=None)
    assert pruned.model.a.out_channels == 8 and not ran
    pruned.model(x)
    assert not ran
    model(x)
    assert ran


class Global(Net):
    def forward(self, x):
        return MODEL.run(x)


class Locked(Net):
    """What cannot be copied, and holds the network."""

    def prepare(self):
        self.lock = threading.Lock()
        self.helper = Helper(self)

    def forward(self, x):
        return self.helper.net.run(x)


class Helper:
    def __init__(self, net):
        self.net = net

    def __reduce_ex__(self, protocol):
        raise TypeError("cannot be copied")


MODEL: Net


def test_what_cannot_be_bound_to_the_copy_is_named():
    global MODEL
    MODEL = model = Global().eval()
    x = torch.randn(2, 3, 4, 4)
    with pytest.raises(InputError, match=r"something outside of it holds Global itself"):
        slimnet.prune(model, (x,), ratio=0.5, align=None)
    with pytest.raises(
        InputError, match=r"^helper holds Locked itself .*: call the module through"
    ):
        slimnet.prune(Locked().eval(), (x,), ratio=0.5, align=None)


def test_vmap_is_followed():
    model, x = Mapped().eval(), torch.randn(5, 3, 4, 4)
    pruned = slimnet.prune(model, (x,), ratio=0.5, align=None)
    assert pruned.model.a.out_channels == 8


def test_a_clone_of_many_modules_looks_at_each_function_once():
    shared = functools.partial(pow, exp=2)
    model = nn.Sequential(*(nn.ReLU() for _ in range(200)))
    for layer in model:
        layer.act = shared
    new = clone(Network.of(model), lambda _, tensor: tensor.clone())
    assert len({id(layer.act) for layer in new}) == 1
