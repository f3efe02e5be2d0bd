import copy
import io
import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from slimnet.capture.modules import set_attribute
from slimnet.capture.trace import capture
from slimnet.errors import InputError
from slimnet.network import Network
from slimnet.program import exported
from slimnet.program.exported import record_program
from slimnet.program.program import LITERALS, Program

WIDTH = 8


class Net(nn.Module):
    """A network with what gets lost: a tie, a frozen scale, buffers, half precision, an int."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.first = nn.Linear(WIDTH, WIDTH, bias=False)
        self.second = nn.Linear(WIDTH, WIDTH, bias=False)
        self.second.weight = self.first.weight
        self.frozen = nn.Parameter(torch.rand(WIDTH), requires_grad=False)
        self.narrow = nn.Parameter(torch.rand(WIDTH).half())
        self.register_buffer("shift", torch.rand(WIDTH), persistent=False)

    def forward(self, data, times=2):
        x = torch.relu(self.norm(self.conv(data["image"]))).mean((2, 3))
        for _ in range(times):
            x = self.second(self.first(x)) * self.frozen + self.shift
        return {"scores": x * self.narrow, "pair": (x, [x.sum(1)])}


def stored(model):
    return {name: tensor.detach().clone() for name, tensor in Network.of(model).tensors.items()}


def reloaded(program):
    file = io.BytesIO()
    torch.save(program, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def recorded():
    torch.manual_seed(0)
    model = Net().train()
    example = ({"image": torch.randn(1, 3, 6, 6)}, 2)
    program = record_program(Network.of(model), example)
    return model, reloaded(program)


def test_a_program_gives_the_networks_outputs_to_the_bit_at_any_batch():
    model, program = recorded()
    assert model.training
    runs = Program(program, stored(model))
    model.eval()
    for batch in (1, 2, 5):
        inputs = ({"image": torch.randn(batch, 3, 6, 6)}, 2)
        expected, found = model(*inputs), runs(*inputs)
        assert found.keys() == expected.keys()
        assert torch.equal(found["scores"], expected["scores"])
        assert type(found["pair"]) is tuple
        assert torch.equal(found["pair"][1][0], expected["pair"][1][0])


def test_inputs_that_the_program_was_not_recorded_for_are_refused():
    model, program = recorded()
    runs = Program(program, stored(model))
    image = torch.randn(1, 3, 6, 6)
    others = [
        ({"image": image}, 3),
        ({"image": image}, 2.0),
        ({"image": image[:, :, :5]}, 2),
        ({"picture": image}, 2),
        ({"image": image},),
        (image, 2),
    ]
    for inputs in others:
        with pytest.raises(InputError, match="recorded for the inputs Nx3x6x6, 2"):
            runs(*inputs)


def test_the_order_of_a_dict_does_not_matter():
    class Difference(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, data):
            return (data["a"] - data["b"]) * self.scale

    a, b = torch.randn(2, 4), torch.randn(2, 4)
    model = Difference()
    runs = Program(reloaded(record_program(Network.of(model), ({"a": a, "b": b},))), stored(model))
    assert torch.equal(runs({"b": b, "a": a}), model({"a": a, "b": b}))


def test_parameters_and_buffers_are_the_modules_own():
    model, program = recorded()
    runs = Program(program, stored(model), frozen=("frozen",)).double()
    assert "conv.weight" in dict(runs.named_parameters())
    assert not dict(runs.named_parameters())["frozen"].requires_grad
    result = runs({"image": torch.randn(2, 3, 6, 6).double()}, 2)
    assert result["pair"][0].dtype == torch.float64


def test_names_that_a_module_uses_itself_do_no_harm():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.ModuleDict({"a__b": nn.Linear(2, 2), "a": nn.Linear(2, 2)})
            self._modules["_calls"] = nn.Linear(2, 2)

        def forward(self, x):
            return self._modules["_calls"](self.first["a"](self.first["a__b"](x)))

    model, x = Odd().eval(), torch.randn(3, 2)
    program = reloaded(record_program(Network.of(model), (x,)))
    assert torch.equal(Program(program, stored(model))(x), model(x))


def test_what_cannot_be_exported_has_no_program():
    class Branches(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum().item() > 0 else x

    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x):
            self.calls.add_(1)
            return x + self.calls

    class Writes(nn.Module):
        def forward(self, x):
            return nn.functional.dropout(x.view(-1)[1:], training=False).mul_(2)

    for model in (Branches(), Counts(), Writes()):
        assert record_program(Network.of(model), (torch.ones(1, 3),)) is None


def test_writing_into_its_own_results_is_no_obstacle():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Linear(3, 2))
    x = torch.randn(4, 3)
    assert torch.equal(Program(record_program(Network.of(model), (x,)), stored(model))(x), model(x))


def test_a_literal_batch_stays_what_it_was():
    class Literal(nn.Module):
        def forward(self, x):
            return x.view(2, 3, 4).sum(0)

    model = Literal()
    runs = Program(record_program(Network.of(model), (torch.ones(2, 12),)), {})
    x = torch.randn(2, 12)
    assert torch.equal(runs(x), model(x))
    with pytest.raises(InputError, match="2x12"):
        runs(torch.ones(4, 12))


class Halves(nn.Module):
    def forward(self, x):
        return x.split([2, 4], 1)


def test_literals_are_attributes_that_a_cut_may_change():
    runs = Program(reloaded(record_program(Network.of(Halves()), (torch.ones(2, 6),))), {})
    literals = runs.get_submodule(LITERALS)
    name = next(name for name in vars(literals) if name.startswith("split"))
    assert vars(literals)[name] == [2, 4, 1]
    for place in (0, 1):
        set_attribute(literals, name, (place,), 3)
    again = Program(reloaded(runs.plain()), {})
    for program in (runs, again):
        assert [part.shape[1] for part in program(torch.ones(2, 6))] == [3, 3]


def test_no_value_is_held_longer_than_it_is_needed():
    class Alive(TorchDispatchMode):
        made, most = [], 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            self.made.append(weakref.ref(result))
            self.most = max(self.most, sum(made() is not None for made in self.made))
            return result

    model = nn.Sequential(*(nn.Hardswish() for _ in range(20)))
    runs = Program(record_program(Network.of(model), (torch.ones(2, 3),)), {})
    with Alive() as alive:
        runs(torch.ones(2, 3))
    assert len(alive.made) >= 20
    assert alive.most <= 3


def test_a_call_that_was_recorded_elsewhere_tells_its_own_line():
    program = record_program(Network.of(Halves()), (torch.ones(2, 6),))
    program["calls"][0]["site"] = ["net.py", 7, "forward", "body", "Halves"]
    trace = capture(Network.of(Program(program, {})), (torch.ones(2, 6),))
    assert str(trace.calls[0].site) == "net.py:7, in body (forward)"


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "operator.attrgetter",
        "prim.device",
        "quantized.add.default",
        "aten.relu",
        "aten.relu.__class__",
        "aten.__dict__.default",
        "aten.no_such.default",
        "aten.save.default",
        "aten.from_file.default",
        "",
    ],
)
def test_nothing_but_operators_on_tensors_is_run(target):
    model, program = recorded()
    evil = copy.deepcopy(program)
    evil["calls"][0]["target"] = target
    with pytest.raises(InputError, match="embedded program cannot be read"):
        Program(evil, stored(model))


def test_a_constant_is_only_ever_of_its_kind():
    model, program = recorded()
    evil = copy.deepcopy(program)
    evil["calls"][0]["args"][0] = {"dtype": "load"}
    with pytest.raises(InputError, match="'load' is no dtype"):
        Program(evil, stored(model))({"image": torch.randn(1, 3, 6, 6)}, 2)


@pytest.mark.parametrize("key", ["calls", "inputs", "weights", "output", "constants", "parameters"])
def test_a_damaged_program_is_refused(key):
    model, program = recorded()
    with pytest.raises(InputError, match="embedded program cannot be read"):
        Program({name: value for name, value in program.items() if name != key}, stored(model))


def test_missing_weights_are_refused():
    _, program = recorded()
    with pytest.raises(InputError, match="embedded program cannot be read"):
        Program(program, {})


CODE = 'a" + (str(exec("import sys; sys.touched = 1")) and "") + "'


def renamed(data, old, new):
    """The same data with one text exchanged wherever it stands, in keys too."""
    if isinstance(data, dict):
        return {renamed(k, old, new): renamed(v, old, new) for k, v in data.items()}
    if isinstance(data, (list, tuple)):
        return type(data)(renamed(entry, old, new) for entry in data)
    return data.replace(old, new) if isinstance(data, str) else data


@pytest.mark.parametrize("old", ["conv.weight", "relu", "p_conv_weight", "scores", "data"])
def test_no_name_of_a_program_is_source_text(old):
    model, program = recorded()
    evil = renamed(program, old, CODE)
    assert evil != program
    tensors = renamed(stored(model), old, CODE)
    with pytest.raises(InputError, match="embedded program cannot be read"):
        Program(evil, tensors)


def call(target, *args, name="evil", **kwargs):
    return {"name": name, "target": target, "args": list(args), "kwargs": kwargs}


def runs(*calls, weights=None, output="evil"):
    """A program of these calls, whose input is x [1, 4]."""
    program = {
        "inputs": [{"name": "x", "path": "[0]", "shape": [1, 4]}],
        "weights": {name: name for name in weights or {}},
        "calls": list(calls),
        "output": {"leaf": {"node": output}},
        "constants": {},
        "parameters": [],
    }
    return Program(program, weights or {}, example=(torch.ones(1, 4),))(torch.ones(1, 4))


X = {"node": "x"}


@pytest.mark.parametrize(
    "evil",
    [
        call("aten._reshape_alias.default", X, [1 << 40], [1 << 20]),
        call("aten._reshape_alias_copy.default", X, [1 << 10], [1 << 20]),
        call("aten.as_strided.default", X, [4], [1]),
        call("aten.max_pool2d_with_indices_backward.default", X, X, [2], [2], [0], [1], False, X),
        call("aten.set_.source_Tensor", X, X),
        call("aten.resize_.default", X, [1000]),
        call("aten.empty_strided.default", [4], [1 << 20]),
        call("aten.view.dtype", X, {"dtype": "bool"}),
        call("aten.add.out", X, X, out=X),
        call("aten.softmax.int", X, 1, -1),  # a number for a type
        call("aten.softmax.int", X, 1, X),
        call("aten.sum.default", X, dtype={"layout": "strided"}),
        call("aten.sum.default", X, dtype={"dtype": "Tensor"}),
        call("aten.relu.default", X, X, X),
        call("aten.relu.default", X, **{CODE: 1}),
        call("aten.relu.default", {"node": "later"}),
        call("aten.relu.default", {"node": "evil"}),
        call("aten.relu.default", {"shape": [1]}),
        call("aten.relu.default", {"node": "x", "dtype": "float32"}),
        call("aten.einsum.default", CODE, [X]),
        call("aten.add.Tensor", X, 10**30),
        call("aten.add.Tensor", X, b"raw"),
        call("aten.relu.default", X, name="x"),
        call("aten.relu.default", X, name=CODE),
        call("aten.relu.default", X, name=3),
        call("operator.add", 1, 2, key=1),
    ],
    ids=lambda row: f"{row['target']}",
)
def test_what_a_call_may_not_say_is_refused_when_it_is_read(evil):
    with pytest.raises(InputError):
        runs(evil, call("aten.relu.default", X, name="later"), output="later")


@pytest.mark.parametrize(
    "evil",
    [
        call("operator.mul", [1, 2], 10**9),
        call("operator.add", [1], [2]),
        call("operator.mul", 2**40, 2**40),
        call("operator.getitem", X, 0),
        call("operator.getitem", "text", 0),
    ],
    ids=lambda row: f"{row['target']} {row['args']}",
)
def test_arithmetic_is_of_numbers(evil):
    with pytest.raises(InputError, match="something else than numbers"):
        runs(evil)


def test_a_program_returns_what_it_computes():
    with pytest.raises(InputError, match="returns nothing that it computes"):
        Program({**recorded()[1], "output": {"tuple": []}}, stored(recorded()[0]))


def test_memory_that_nobody_wrote_is_zero():
    made = runs(
        call("aten.empty.memory_format", [1000], name="a"),
        call("aten.empty_like.default", {"node": "a"}, name="b"),
        call("aten.new_empty.default", {"node": "b"}, [500]),
    )
    assert torch.equal(made, torch.zeros(500))


@pytest.mark.parametrize(
    "path",
    [
        [call("aten.full.default", [10**12], 1.0)],
        [call("aten.zeros.default", [10**6, 10**6])],
        [call("aten.repeat.default", X, [10**6, 10**6])],
        [call("aten.arange.default", 10**12)],
        [call("aten.constant_pad_nd.default", X, [0, 10**12])],
        [
            call("aten.expand.default", X, [10**12, 4], name="a"),
            call("aten.clone.default", {"node": "a"}),
        ],
        [
            call("aten.unsqueeze.default", X, 0, name="a"),
            call("aten.upsample_nearest1d.vec", {"node": "a"}, None, [1e11]),
        ],
        [
            call("aten.ones.default", [60000], name="a"),
            call("aten.outer.default", {"node": "a"}, {"node": "a"}),
        ],
        [  # each is small enough, and all are kept
            *(call("aten.zeros.default", [50_000_000], name=f"a{n}") for n in range(10)),
            call("aten.cat.default", [{"node": f"a{n}"} for n in range(10)]),
        ],
    ],
    ids=lambda path: path[-1]["target"],
)
def test_a_small_program_takes_little_memory(path):
    with pytest.raises(InputError, match=r"asks for [\d,]+ bytes of memory|which its kernel would"):
        runs(*path)


def test_masks_choose_as_many_as_they_have():
    mask = torch.tensor([[True, False, True, True]])
    made = runs(
        call("aten.index.Tensor", X, [{"node": "mask"}], name="chosen"),
        call("aten.nonzero.default", {"node": "mask"}, name="places"),
        call("aten.masked_select.default", X, {"node": "mask"}, name="selected"),
        call("aten.cat.default", [{"node": "chosen"}, {"node": "selected"}]),
        weights={"mask": mask},
    )
    assert torch.equal(made, torch.ones(6))


def test_larger_inputs_may_take_more():
    program = record_program(Network.of(nn.Upsample(scale_factor=64)), (torch.ones(1, 3, 8, 8),))
    made = Program(program, {}, example=(torch.ones(1, 3, 8, 8),))(torch.ones(100, 3, 8, 8))
    assert torch.equal(made, torch.ones(100, 3, 512, 512))


def test_an_operator_that_no_program_may_hold_is_not_recorded():
    class Strided(nn.Module):
        def forward(self, x):
            return x.as_strided((2, 2), (1, 2))

    assert record_program(Network.of(Strided()), (torch.ones(2, 6),)) is None


class Counted(nn.Module):
    """``int`` of a batch is a constant where torch.export looks, and the recorded batch is two."""

    def __init__(self):
        super().__init__()
        self.f, self.g = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x):
        n = int(x.shape[0])
        h = self.f(x).relu().view(n, 5, -1)
        return self.g(h + torch.cat([torch.arange(5.0) for _ in range(n)]).view(n, 5, 1))


class Unbound(Counted):
    def forward(self, x):
        samples = [self.f(t) for t in x]
        return self.g(torch.stack(samples).relu() + len(samples))


class Scaled(Counted):
    """Runs at any batch, and only the numbers would be wrong."""

    def forward(self, x):
        return self.g(self.f(x).relu()) / max(int(x.shape[0]), 1)


@pytest.mark.parametrize("kind", [Counted, Unbound, Scaled])
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_a_batch_that_became_a_constant_is_kept_as_the_examples(kind, batch):
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(batch, 5, 8)
    runs = Program(reloaded(record_program(Network.of(model), (x,))), stored(model))
    assert torch.allclose(runs(x), model(x))
    with pytest.raises(InputError, match=f"recorded for the inputs {batch}x5x8"):
        runs(torch.randn(batch + 1, 5, 8))


def test_a_network_that_draws_numbers_is_recorded_with_a_free_batch():
    class Drawn(nn.Linear):
        def forward(self, x):
            return super().forward(x + torch.rand_like(x))

    model = Drawn(8, 4).eval()
    runs = Program(record_program(Network.of(model), (torch.randn(1, 8),)), stored(model))
    assert runs(torch.randn(7, 8)).shape == (7, 4)


def test_a_program_that_gives_other_numbers_is_not_kept(monkeypatch):
    monkeypatch.setattr(
        exported, "_plain", lambda value, plain=exported._plain: other(value, plain)
    )

    def other(value, plain):
        return 0.25 if value == 0.5 else plain(value)

    class Leaky(nn.Linear):
        def forward(self, x):
            return nn.functional.leaky_relu(super().forward(x), 0.5)

    assert record_program(Network.of(Leaky(8, 4).eval()), (torch.randn(2, 8),)) is None


class Twice(nn.Module):
    """One module under two names, and one tensor."""

    def __init__(self):
        super().__init__()
        self.first, self.a, self.last = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 2)
        self.b = self.a
        self.inner = nn.ModuleDict({"again": self.a, "last": self.last})
        self.bias = self.a.bias

    def forward(self, x):
        x = self.inner["again"](self.b(self.first(x)).relu())
        return self.inner["last"](x + self.bias)


def test_a_module_under_two_names_runs_from_its_tensors_first_names():
    model, x = Twice().eval(), torch.randn(2, 8)
    program = reloaded(record_program(Network.of(model), (x,)))
    assert set(program["weights"].values()) <= stored(model).keys()
    assert torch.equal(Program(program, stored(model))(x), model(x))


def test_nothing_is_printed_where_torch_cannot_export(capfd):
    class Branches(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2 if x.sum() > 0 else x

    assert record_program(Network.of(Branches(4, 4).eval()), (torch.ones(2, 4),)) is None
    assert capfd.readouterr() == ("", "")
