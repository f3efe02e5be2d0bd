import copy
import io
import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from slimnet.capture import exported
from slimnet.capture.exported import record_program
from slimnet.capture.modules import named_tensors, set_attribute
from slimnet.capture.program import LITERALS, Program
from slimnet.capture.trace import capture
from slimnet.errors import InputError

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
    return {name: tensor.detach().clone() for name, tensor in named_tensors(model)}


def reloaded(program):
    file = io.BytesIO()
    torch.save(program, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def recorded():
    torch.manual_seed(0)
    model = Net().train()
    example = ({"image": torch.randn(1, 3, 6, 6)}, 2)
    program = record_program(model, example)
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
    runs = Program(reloaded(record_program(model, ({"a": a, "b": b},))), stored(model))
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
    program = reloaded(record_program(model, (x,)))
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
        assert record_program(model, (torch.ones(1, 3),)) is None


def test_writing_into_its_own_results_is_no_obstacle():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Linear(3, 2))
    x = torch.randn(4, 3)
    assert torch.equal(Program(record_program(model, (x,)), stored(model))(x), model(x))


def test_a_literal_batch_stays_what_it_was():
    class Literal(nn.Module):
        def forward(self, x):
            return x.view(2, 3, 4).sum(0)

    model = Literal()
    runs = Program(record_program(model, (torch.ones(2, 12),)), {})
    x = torch.randn(2, 12)
    assert torch.equal(runs(x), model(x))
    with pytest.raises(InputError, match="2x12"):
        runs(torch.ones(4, 12))


class Halves(nn.Module):
    def forward(self, x):
        return x.split([2, 4], 1)


def test_literals_are_attributes_that_a_cut_may_change():
    runs = Program(reloaded(record_program(Halves(), (torch.ones(2, 6),))), {})
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
    runs = Program(record_program(model, (torch.ones(2, 3),)), {})
    with Alive() as alive:
        runs(torch.ones(2, 3))
    assert len(alive.made) >= 20
    assert alive.most <= 3


def test_a_call_that_was_recorded_elsewhere_tells_its_own_line():
    program = record_program(Halves(), (torch.ones(2, 6),))
    program["calls"][0]["site"] = ["net.py", 7, "forward", "body", "Halves"]
    trace = capture(Program(program, {}), (torch.ones(2, 6),))
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
    runs = Program(reloaded(record_program(model, (x,))), stored(model))
    assert torch.allclose(runs(x), model(x))
    with pytest.raises(InputError, match=f"recorded for the inputs {batch}x5x8"):
        runs(torch.randn(batch + 1, 5, 8))


def test_a_network_that_draws_numbers_is_recorded_with_a_free_batch():
    class Drawn(nn.Linear):
        def forward(self, x):
            return super().forward(x + torch.rand_like(x))

    model = Drawn(8, 4).eval()
    runs = Program(record_program(model, (torch.randn(1, 8),)), stored(model))
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

    assert record_program(Leaky(8, 4).eval(), (torch.randn(2, 8),)) is None


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
    program = reloaded(record_program(model, (x,)))
    assert set(program["weights"].values()) <= stored(model).keys()
    assert torch.equal(Program(program, stored(model))(x), model(x))


def test_nothing_is_printed_where_torch_cannot_export(capfd):
    class Branches(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2 if x.sum() > 0 else x

    assert record_program(Branches(4, 4).eval(), (torch.ones(2, 4),)) is None
    assert capfd.readouterr() == ("", "")
