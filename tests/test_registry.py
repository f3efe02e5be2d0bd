"""Every registered thing is known by name, once, and has an example that is tried."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
import torch
from operators import EXAMPLES, NEIGHBOURS, NOT_ON_CPU, Example
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from slimnet.capture.trace import Trace, capture
from slimnet.coupling.constraints import Reason
from slimnet.coupling.couple import Coupling, couple
from slimnet.coupling.survival import Survival
from slimnet.errors import InputError, UnknownNameError
from slimnet.network import Network
from slimnet.operator import OPERATORS, rule
from slimnet.registry import Registry, declared, import_all


class Holder(nn.Module):
    """The parameters of an example, and the call of its operator on them."""

    def __init__(self, made: Example):
        super().__init__()
        torch.manual_seed(0)
        self.body = made.body
        self.given = nn.ParameterList(torch.randn(shape) for shape in made.shapes)

    def forward(self) -> list[Tensor]:
        return [leaf for leaf in tree_leaves(self.body(*self.given)) if isinstance(leaf, Tensor)]


def labelled(model: nn.Module) -> tuple[Trace, Coupling, list]:
    """A recorded call, its labels, and the records of what came out (which stays prunable)."""
    trace = capture(Network.of(model), ())
    outputs, trace.outputs = trace.outputs, []
    return trace, couple([trace]), outputs


def packets() -> set[str]:
    """``aten.name.overload`` is one operator for all its overloads."""
    return {name.split(".")[1] for name in OPERATORS if "." in name}


def test_every_rule_has_an_example():
    assert packets() - NOT_ON_CPU == set(EXAMPLES)


@pytest.mark.parametrize("name", list(EXAMPLES))
def test_the_example_reaches_its_rule(name):
    trace, coupling, _ = labelled(Holder(EXAMPLES[name]))
    assert name in {str(call.op).split(".")[1] for call in trace.calls}
    assert not [r for r in coupling.reasons if is_unknown(r)]
    assert coupling.atoms.free.any() == EXAMPLES[name].free


def is_unknown(reason: Reason) -> bool:
    return "its rule does not know" in reason.text or "has no rule" in reason.text


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_of_each_way_to_call_it_the_right_axes_can_lose_slots(name):
    _, coupling, _ = labelled(Holder(NEIGHBOURS[name]))
    first = coupling.weights["given.0"]
    free = {d: coupling.atoms.free[coupling.atoms.of[axis]] for d, axis in enumerate(first.axes)}
    assert tuple(d for d, flags in free.items() if flags.any()) == NEIGHBOURS[name].axes
    assert all(flags.all() for flags in free.values() if flags.any())
    assert not [r for r in coupling.reasons if is_unknown(r)]


@pytest.mark.parametrize("name", [*EXAMPLES, *NEIGHBOURS])
def test_what_survives_of_the_result_is_the_result_on_what_survives(name):
    made = {**EXAMPLES, **NEIGHBOURS}[name]
    model = Holder(made)
    _, coupling, refs = labelled(model)
    free = coupling.atoms.free
    survival = Survival(
        coupling.atoms, ~(free & (np.random.default_rng(0).random(len(free)) < 0.4))
    )
    whole, slim = Holder(made), Holder(made)
    for index in range(len(model.given)):
        weight = coupling.weights.get(f"given.{index}")
        if weight is None:
            continue
        full = model.given[index].detach().clone()
        for d, axis in enumerate(weight.axes):
            full.index_fill_(d, places(~survival.along(axis)), 0)
        whole.given[index] = nn.Parameter(full)
        slim.given[index] = nn.Parameter(surviving(full, weight.axes, survival))
    with torch.no_grad():
        pairs = zip(refs, whole(), slim(), strict=True)
    for ref, expected, found in pairs:
        expected = surviving(expected, coupling.tensors[0][ref.id].axes, survival)
        assert found.shape == expected.shape
        if not made.random and not coupling.restricted:
            torch.testing.assert_close(found, expected)


def places(which):
    return torch.from_numpy(np.flatnonzero(which))


def surviving(tensor, axes, survival):
    for d, axis in enumerate(axes):
        if axis is not None:
            tensor = tensor.index_select(d, places(survival.along(axis)))
    return tensor


def test_an_unknown_name_lists_the_known_ones():
    colours: Registry[int] = Registry("colour")
    colours.add("red", 1)
    colours.add("blue", 2)
    with pytest.raises(UnknownNameError) as refusal:
        colours["green"]
    assert str(refusal.value) == "unknown colour 'green': the known ones are blue, red"
    assert isinstance(refusal.value, InputError)


def test_a_name_is_taken_once():
    colours: Registry[int] = Registry("colour")
    colours.add("red", 1)
    with pytest.raises(ValueError, match="colour 'red' is registered twice"):
        colours.add("red", 2)
    assert colours["red"] == 1


def test_a_registry_is_a_sorted_collection_of_names():
    colours: Registry[int] = Registry("colour")
    assert colours.add("red", 1) == 1
    assert colours.register("blue")(2) == 2
    assert list(colours) == ["blue", "red"] and len(colours) == 2
    assert "red" in colours and "green" not in colours


def test_import_all_imports_each_module_of_a_folder(tmp_path, monkeypatch):
    folder = tmp_path / "plugged"
    folder.mkdir()
    (folder / "__init__.py").write_text("found = []")
    for name in ("one", "two"):
        (folder / f"{name}.py").write_text(f"import plugged\nplugged.found.append({name!r})")
    monkeypatch.syspath_prepend(str(tmp_path))
    import plugged

    import_all("plugged", [str(folder)])
    assert sorted(plugged.found) == ["one", "two"]


def test_a_second_rule_for_an_operator_is_refused():
    with pytest.raises(ValueError, match=r"'aten\.flip\.default' is registered twice"):
        rule(torch.ops.aten.flip)(lambda at, x, dims: x.axes)


def test_an_operator_that_this_torch_lacks_is_passed_over():
    before = len(OPERATORS)
    rule("aten.no_such_operator")(lambda at, x: x.axes)
    assert len(OPERATORS) == before


def test_names_are_read_from_files_that_are_not_run(tmp_path):
    (tmp_path / "one.py").write_text(
        'raise RuntimeError\nROWS.add("b", 1)\nROWS.add(\n    "a",\n    2,\n)\nOTHER.add("x", 3)\n'
    )
    (tmp_path / "two.py").write_text('@ROWS.register("c")\ndef c():\n    ROWS.add("inner", 0)\n')
    assert declared(tmp_path, "ROWS") == ["a", "b", "c"]
    assert declared(tmp_path, "NONE") == []


def test_plugged_in_names_are_read_without_being_loaded(tmp_path, monkeypatch):
    (tmp_path / "plug-1.dist-info").mkdir()
    (tmp_path / "plug-1.dist-info" / "METADATA").write_text("Name: plug\nVersion: 1\n")
    (tmp_path / "plug-1.dist-info" / "entry_points.txt").write_text("[some.group]\nz = no.module\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert declared(tmp_path, "ROWS", "some.group") == ["z"]


@pytest.fixture
def slow(tmp_path, monkeypatch) -> Registry[int]:
    """A registry whose folder takes a moment to import, and asks for what is there meanwhile."""
    folder = tmp_path / "slow_plugged"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from slimnet.registry import Registry\nKNOWN = Registry('colour', folder='slow_plugged')\n"
    )
    (folder / "one.py").write_text(
        "import time\nfrom slow_plugged import KNOWN\n"
        "KNOWN.add('red', 1)\ntime.sleep(0.2)\nKNOWN.add('blue', len(KNOWN) + 1)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import slow_plugged

    yield slow_plugged.KNOWN
    for name in ("slow_plugged", "slow_plugged.one"):
        sys.modules.pop(name, None)


def test_threads_that_ask_at_once_all_get_everything(slow):
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append(list(slow))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [["blue", "red"]] * 3
    assert slow["blue"] == 2


def test_nothing_is_imported_before_somebody_asks(slow):
    assert "slow_plugged.one" not in sys.modules
    assert "blue" in slow
    assert "slow_plugged.one" in sys.modules
