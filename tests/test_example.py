from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._pytree import register_pytree_node

import slimnet
from slimnet.errors import InputError
from slimnet.example import named_tensors, normal, positional, tensors_of

Pair = namedtuple("Pair", ["a", "b"])
A, B = torch.zeros(1), torch.ones(2)


class Named(nn.Module):
    def forward(self, image, scale=2.0, mask=None, *, only=None):
        return image


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        ((A, B), (A, B)),
        ({"image": A}, (A,)),
        ({"mask": B, "image": A}, (A, 2.0, B)),
        (UserDict(image=A), (A,)),
        (Pair(A, B), (A, B)),
    ],
)
def test_keyword_inputs_take_the_order_of_forward(example, expected):
    assert positional(Named(), example) == expected


@pytest.mark.parametrize(
    ("example", "reason"),
    [
        ({"picture": A}, "no input 'picture': its inputs are image, scale, mask"),
        ({"image": A, "only": B}, "takes 'only' by keyword only.*wrap it in a module"),
        ({"mask": B}, "lacks 'image', which Named.forward needs"),
        ([A], "tuple of the positional inputs.* or a dict of keyword inputs, and it is a list"),
        (A, "and it is a Tensor"),
    ],
)
def test_what_forward_does_not_take_is_refused(example, reason):
    with pytest.raises(InputError, match=reason):
        positional(Named(), example)


def test_what_forward_takes_among_any_others_is_given_as_a_tuple():
    class Any(nn.Module):
        def forward(self, *given, **named):
            return given

    reason = r"Any.forward takes 'x' among any others \(\*\*\).*: give a tuple of the inputs"
    with pytest.raises(InputError, match=reason):
        positional(Any(), {"x": A})
    assert positional(Any(), (A,)) == (A,)


@dataclass
class Record:
    a: torch.Tensor
    b: object = None


@dataclass(slots=True)
class Slotted:
    a: torch.Tensor


class Output(OrderedDict):
    """As in transformers: a dict whose entries are attributes too."""

    def __init__(self, **entries):
        super().__init__(entries)
        self.__dict__.update(entries)


def circle():
    found = SimpleNamespace(a=A)
    found.self = found
    return found


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (A, 1),
        ([A, {"b": (B, None)}], 2),
        (Pair(A, B), 2),
        (Record(A, Record(B)), 2),
        (Slotted(A), 1),
        (Output(a=A, b=B), 2),
        (UserDict(a=A), 1),
        ({"a": A, "b": Record(B)}, 2),
        (SimpleNamespace(a=A, b=[B, "text", 3]), 2),
        (circle(), 1),
        ("text", 0),
        (nn.Linear(2, 2), 0),
        (torch.nn, 0),
    ],
)
def test_tensors_are_found_in_whatever_holds_them(value, count):
    assert len(tensors_of(value)) == count


class Sorted(UserDict):
    """Taken apart by its keys in their order."""


def test_a_container_taken_apart_in_another_order_is_counted():
    register_pytree_node(
        Sorted,
        lambda box: ([box[key] for key in sorted(box)], None),
        lambda parts, _: Sorted(enumerate(parts)),
    )
    (zero, b), (one, a) = named_tensors(Sorted(b=torch.ones(2, 2), a=torch.zeros(2, 2)))
    assert (zero, one) == ("0", "1") and float(b.sum()) == 0 and float(a.sum()) == 4


def test_noise_is_the_same_every_time():
    assert torch.equal(normal((2, 3)), normal([2, 3]))


class Two(nn.Module):
    """Two inputs, of which the second can be left out, and an output of any kind."""

    def __init__(self, wrap):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.body = nn.Conv2d(16, 16, 1)
        self.other = nn.Linear(5, 16)
        self.head = nn.Conv2d(16, 8, 1)
        self.wrap = wrap

    def forward(self, image, size=4, context=None):
        x = self.body(self.stem(image).relu())
        if context is not None:
            x = x * self.other(context)[:, :, None, None]
        return self.wrap(self.head(x.relu()), x.mean((2, 3)).narrow(1, 0, size))


WRAPS = {
    "tuple": lambda a, b: (a, b),
    "nested": lambda a, b: {"scores": [a], "rest": {"mean": (b, None)}},
    "namedtuple": Pair,
    "dataclass": Record,
    "model output": lambda a, b: Output(a=a, b=b),
    "an object in a dict": lambda a, b: {"a": a, "b": Record(b)},
}
INPUTS = {"context": torch.randn(2, 5), "image": torch.randn(2, 3, 8, 8)}


@pytest.mark.parametrize("kind", WRAPS)
def test_named_inputs_and_outputs_of_any_kind_are_pruned_and_proven(kind, tmp_path):
    model = Two(WRAPS[kind]).eval()
    pruned = slimnet.prune(model, INPUTS, ratio=0.5, align=None)
    assert pruned.certificate.exact
    assert pruned.model.stem.out_channels == 8
    assert pruned.model.head.out_channels == 8  # an output is left alone, wherever it lies
    assert pruned.example[1] == 4
    path = slimnet.save(pruned, tmp_path / "slim.pt")
    assert slimnet.verify(path, model).exact
    with torch.no_grad():
        expected = tensors_of(pruned.model(**INPUTS))
        for loaded in (slimnet.load(path), slimnet.load(path, into=Two(WRAPS[kind]))):
            assert all(map(torch.equal, tensors_of(loaded(**INPUTS)), expected))


def test_without_the_class_objects_become_dicts(tmp_path):
    pruned = slimnet.prune(Two(Record).eval(), INPUTS, ratio=0.5, align=None)
    loaded = slimnet.load(slimnet.save(pruned, tmp_path / "slim.pt"))
    assert loaded(**INPUTS).keys() == {"a", "b"}
    with pytest.raises(InputError, match="no input 'picture': its inputs are image, size, context"):
        loaded(picture=INPUTS["image"])
    with pytest.raises(InputError, match="recorded for the inputs"):
        loaded(image=INPUTS["image"])


def test_inspect_and_cost_take_keyword_inputs():
    model = Two(WRAPS["tuple"]).eval()
    assert slimnet.inspect(model, INPUTS).groups
    both, one = (slimnet.cost(model, given).macs for given in (INPUTS, (INPUTS["image"],)))
    assert both > one


@pytest.mark.parametrize("kind", ["nested", "namedtuple", "dataclass"])
def test_named_inputs_and_outputs_go_to_onnx(kind, tmp_path):
    model = Two(WRAPS[kind]).eval()
    exported = slimnet.export_onnx(model, INPUTS, tmp_path / "net.onnx")
    assert len(exported.inputs) == len(exported.outputs) == 2
    assert exported.parity.error < 1e-4


def test_a_network_that_returns_no_tensor_is_refused():
    model = Two(lambda a, b: None).eval()
    with pytest.raises(InputError, match="Two returns no tensor"):
        slimnet.prune(model, INPUTS, ratio=0.5)
