from argparse import Namespace
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from slimnet.errors import InputError
from slimnet.networks.arch import Arch, parse_arch
from slimnet.networks.checkpoint import load_payload, open_model, read_state

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 2)


@pytest.fixture
def saved(tmp_path):
    def save(value, name="model.pt", **options):
        torch.save(value, tmp_path / name, **options)
        return tmp_path / name

    return save


@pytest.fixture
def digits():
    torch.manual_seed(0)
    return Arch("slimnet", "digits_vgg").build(init=True)


def same(model, other):
    x = torch.rand(2, 1, 8, 8)
    return torch.equal(model(x), other(x))


WRAPPINGS = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "best": torch.tensor(0.9)},
    "model": lambda state: {"model": state, "optimizer": {"state": {}}},
    "model_state_dict": lambda state: {"model_state_dict": state},
    "net": lambda state: {"net": state, "acc": 91.0},
    "ema": lambda state: {"ema": state},
    "nested": lambda state: {"model": {"state_dict": state}},
    "weights before their average": lambda state: {"ema": {"b": torch.ones(1)}, "model": state},
    "DataParallel": lambda state: {f"module.{name}": value for name, value in state.items()},
    "compiled": lambda state: {f"module._orig_mod.{name}": v for name, v in state.items()},
    "Lightning": lambda state: {"state_dict": {f"model.{name}": v for name, v in state.items()}},
    "averaged": lambda state: {
        "n_averaged": torch.tensor(3),
        **{f"module.{name}": value for name, value in state.items()},
    },
    "with a number": lambda state: {**state, "epoch": 3},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_state_dicts_are_unwrapped(saved, wrapping):
    state = read_state(saved(WRAPPINGS[wrapping](STATE)))
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)


def test_a_prefix_that_not_all_share_stays(saved):
    mixed = {"model.weight": torch.ones(2), "head.weight": torch.ones(2)}
    assert read_state(saved(mixed)).keys() == mixed.keys()


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({"epoch": 3}, "holds no tensors"),
        ({}, "holds no tensors"),
        ({"state_dict": {}}, "holds no tensors"),
        ([torch.ones(2)], "holds a list, not a state dict"),
        (torch.ones(2), "holds a Tensor, not a state dict"),
        ({"slimnet_artifact": 1, "a": torch.ones(2)}, "is a slimnet artifact"),
    ],
)
def test_what_is_no_state_dict_is_refused(saved, payload, reason):
    with pytest.raises(InputError, match=rf"model\.pt:? {reason}"):
        read_state(saved(payload))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused(saved, bad, dtype):
    state = {name: value.to(dtype, copy=True) for name, value in STATE.items()}
    state["a.bias"][1] = bad
    with pytest.raises(InputError, match=r"a\.bias holds NaN or Inf"):
        read_state(saved(state))


@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_sparse_tensors_are_refused(saved):
    sparse = saved({"a": torch.ones(2).to_sparse()})
    with pytest.raises(InputError, match="a is a quantised or sparse tensor"):
        read_state(sparse)


def test_empty_and_integer_tensors_are_finite(saved):
    assert read_state(saved({"none": torch.empty(0), "steps": torch.tensor(3)})).keys() == {
        "none",
        "steps",
    }


@pytest.mark.parametrize("wrapping", ["plain", "state_dict", "DataParallel"])
def test_a_checkpoint_opens_without_being_told_its_architecture(saved, digits, wrapping):
    opened = open_model(saved(WRAPPINGS[wrapping](digits.state_dict())))
    assert opened.arch == Arch("slimnet", "digits_vgg")
    assert opened.notes == ("recognised as slimnet:digits_vgg",)
    named = open_model(saved(digits.state_dict(), "named.pt"), Arch("slimnet", "digits_vgg"))
    assert opened.recognised and not named.recognised
    assert not opened.model.training
    assert all(parameter.requires_grad for parameter in opened.model.parameters())
    assert same(opened.model, digits)


def test_other_numbers_of_classes_open(saved):
    model = Arch("slimnet", "digits_resnet", {"num_classes": 4}).build(init=True)
    path = saved(model.state_dict())
    assert "recognised as slimnet:digits_resnet with num_classes=4" in open_model(path).notes
    told = open_model(path, Arch("slimnet", "digits_resnet"))
    assert told.arch.options == {"num_classes": 4}
    assert "slimnet:digits_resnet is built with num_classes=4, as its weights have it" in told.notes
    assert same(told.model, model)


def test_files_without_counters_or_metadata_open(saved, digits):
    state = {name: v for name, v in digits.state_dict().items() if "num_batches" not in name}
    assert same(open_model(saved(state)).model, digits)


def test_mnasnet_opens_from_a_plain_dict(saved):
    model = Arch("torchvision", "mnasnet0_5").build(init=True)
    opened = open_model(saved(dict(model.state_dict())))
    assert str(opened.arch) == "torchvision:mnasnet0_5"
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(opened.model(x), model(x))


@pytest.mark.parametrize(
    ("name", "today", "once"),
    [
        ("densenet121", ".norm1.", ".norm.1."),
        ("vit_b_32", ".mlp.0.", ".mlp.linear_1."),
    ],
)
def test_names_of_older_torchvision_files_are_known(saved, name, today, once):
    state = Arch("torchvision", name).build().state_dict()
    zeros = {key.replace(today, once): torch.zeros_like(value) for key, value in state.items()}
    assert any(once in key for key in zeros)
    assert str(open_model(saved(zeros)).arch) == f"torchvision:{name}"


def test_half_precision_weights_are_used_as_float32_and_that_is_said(saved, digits):
    opened = open_model(saved(digits.half().state_dict()))
    assert {parameter.dtype for parameter in opened.model.parameters()} == {torch.float32}
    assert "weights stored as float16 are used as float32" in opened.notes
    assert same(opened.model, digits.float())


def test_networks_that_transform_their_input_are_noted(saved):
    state = Arch("torchvision", "googlenet", {"aux_logits": False}).build().state_dict()
    zeros = {name: torch.zeros_like(value) for name, value in state.items()}
    opened = open_model(saved(zeros))
    assert opened.arch.options == {"aux_logits": False}
    assert any("transform_input=False" in note for note in opened.notes)


def test_weights_that_do_not_fit_are_refused_with_the_difference(saved, digits):
    state = digits.state_dict()
    state["features.0.weight"] = torch.zeros(9, 1, 3, 3)
    state["extra"] = state.pop("classifier.bias")
    with pytest.raises(InputError) as refusal:
        open_model(saved(state), Arch("slimnet", "digits_vgg"))
    assert str(refusal.value).endswith(
        "model.pt does not fit slimnet:digits_vgg: missing classifier.bias; unexpected extra; "
        "of another shape features.0.weight (9x1x3x3 in the file, 64x1x3x3 in the network)"
    )


def test_a_long_difference_is_cut_short(saved, digits):
    path = saved(digits.state_dict())
    with pytest.raises(InputError, match=r"missing conv1\.weight, .* and \d+ more; unexpected"):
        open_model(path, Arch("slimnet", "resnet20"))


def test_unknown_weights_are_refused(saved):
    with pytest.raises(InputError, match=r"no known network.*--arch"):
        open_model(saved(STATE))


TIED = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
        self.net["b"].weight = self.net["a"].weight
make_model = Net
"""


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_file_keeps_its_tied_weights_and_own_prefix(saved, tmp_path, prefix):
    (tmp_path / "tied.py").write_text(TIED)
    arch = parse_arch(f"{tmp_path / 'tied.py'}:make_model")
    state = arch.build(init=True).state_dict()
    opened = open_model(saved({prefix + name: v for name, v in state.items()}), arch)
    assert opened.model.net["b"].weight is opened.model.net["a"].weight
    assert torch.equal(opened.model.net["a"].weight, state["net.a.weight"])
    assert opened.arch == arch


STUBBORN = """
from torch import nn
class make_model(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)
    def _load_from_state_dict(self, *args):
        raise ValueError("not today")
"""


def test_a_class_whose_own_loading_fails_is_refused(saved, tmp_path):
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    state = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}
    with pytest.raises(InputError, match=r"does not fit .*make_model: ValueError: not"):
        open_model(saved(state), parse_arch(f"{tmp_path / 'stubborn.py'}:make_model"))


@pytest.mark.parametrize("wrap", [lambda m: m, nn.DataParallel, lambda m: {"model": m}])
def test_a_pickled_module_opens_with_the_flag(saved, wrap):
    path = saved(wrap(Mine().half()))
    with pytest.raises(InputError, match="--allow-pickle"):
        open_model(path)
    opened = open_model(path, allow_pickle=True)
    assert type(opened.model) is Mine
    assert opened.arch is None
    assert opened.model.a.weight.dtype is torch.float32
    assert opened.notes == ("weights stored as float16 are used as float32",)


def test_a_pickled_module_that_is_not_finite_is_refused(saved):
    model = Mine()
    model.a.weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"a\.weight holds NaN or Inf"):
        open_model(saved(model), allow_pickle=True)


def test_a_pickled_module_gives_its_weights_to_a_named_architecture(saved, digits):
    opened = open_model(saved(digits), Arch("slimnet", "digits_vgg"), allow_pickle=True)
    assert opened.arch == Arch("slimnet", "digits_vgg")
    assert same(opened.model, digits)


def test_weights_stay_mapped_from_the_file(saved, digits):
    """Assigned tensors lie in the one mapping of the file, in the order of the file."""
    path = saved(digits.state_dict())
    model = open_model(path).model
    span = [p.untyped_storage().data_ptr() for p in model.parameters()]
    assert max(span) - min(span) < path.stat().st_size


def test_the_file_on_disk_is_not_changed_by_changing_the_model(saved, digits):
    path = saved(digits.state_dict())
    before = path.read_bytes()
    with torch.no_grad():
        open_model(path).model.classifier.weight.zero_()
    assert path.read_bytes() == before


def test_load_payload_gives_an_artifact_untouched(saved):
    payload = load_payload(saved(OrderedDict(slimnet_artifact=1, tensors={"a": torch.ones(2)})))
    assert payload["slimnet_artifact"] == 1


def test_a_mask_of_minus_infinity_is_read_and_a_broken_weight_is_not(saved, tmp_path):
    (tmp_path / "masked.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Linear):\n"
        "    def __init__(self):\n"
        "        super().__init__(4, 4)\n"
        "        self.register_buffer('mask', torch.full((4, 4), float('-inf')).triu(1))\n"
        "    def forward(self, x):\n"
        "        return (super().forward(x) + self.mask).softmax(-1)\n"
    )
    arch = Arch("file", f"{tmp_path / 'masked.py'}:Net")
    state = arch.build(init=True).state_dict()
    assert open_model(saved(state), arch).model.mask[0, 1] == -float("inf")
    for name in ("weight", "mask"):
        broken = {**state, name: state[name].clone()}
        broken[name][0, 0] = float("nan") if name == "mask" else float("inf")
        with pytest.raises(InputError, match=f"{name} holds NaN or Inf"):
            open_model(saved(broken), arch)


# ------------------------------------------------------------- several sets, and what lies beside


def averaged(state):
    return {
        name: value + 1 if value.is_floating_point() else value for name, value in state.items()
    }


SETS = {
    "ema": lambda state: {"model": state, "ema": averaged(state)},
    "state_dict_ema": lambda state: {"state_dict": state, "state_dict_ema": averaged(state)},
    "model_ema": lambda state: {"net": state, "model_ema": averaged(state), "epoch": 3},
    "teacher": lambda state: {"state_dict": state, "teacher": averaged(state)},
    "best.weights": lambda state: {"model": state, "best": {"weights": averaged(state), "acc": 1}},
    "a.b": lambda state: {"model": state, "a.b": averaged(state)},
    "ema.module": lambda state: {
        "model": state,
        "ema": {"module": {f"module.{n}": t for n, t in averaged(state).items()}, "decay": 0.9},
    },
}


@pytest.mark.parametrize("key", SETS)
def test_what_was_read_is_said_and_another_can_be_chosen(saved, digits, key):
    path = saved(SETS[key](digits.state_dict()))
    opened = open_model(path, Arch("slimnet", "digits_vgg"))
    assert same(opened.model, digits)
    (told,) = (note for note in opened.notes if "were read" in note)
    assert f"also there: '{key}' (--weights KEY chooses)" in told
    other = open_model(path, Arch("slimnet", "digits_vgg"), weights=key)
    bias = dict(digits.named_parameters())["classifier.bias"]
    assert torch.equal(other.model.classifier.bias, bias + 1)
    assert not any("were read" in note for note in other.notes)


def test_a_key_that_is_not_there_lists_those_that_are(saved):
    path = saved({"model": STATE, "ema": STATE, "epoch": 3, "optimizer": {"state": {"a": STATE}}})
    for key in ("swa", "epoch", "model.a", ""):
        with pytest.raises(InputError, match=rf"no weights under '{key}'; it holds 'model', 'ema'"):
            read_state(path, weights=key)


def test_weights_under_an_unusual_key_are_found_where_they_are_alone(saved):
    assert read_state(saved({"encoder_q": STATE, "epoch": 3})).keys() == STATE.keys()
    two = saved({"student": STATE, "teacher": STATE})
    with pytest.raises(InputError, match=r"several sets of weights, 'student', 'teacher': say wh"):
        read_state(two)
    assert read_state(two, weights="student").keys() == STATE.keys()


def test_wrappers_without_end_are_refused(saved):
    payload = STATE
    for _ in range(200):
        payload = {"model": payload}
    with pytest.raises(InputError, match="nested more than 60 deep"):
        read_state(saved(payload))


def test_a_pickled_module_beside_others_is_chosen_by_its_key(saved):
    path = saved({"model": Mine(), "ema": Mine()})
    with pytest.raises(InputError, match=r"pickled Python object \(.*Mine\)"):
        open_model(path)
    with pytest.raises(InputError, match=r"pickled Python object \(.*Mine\)"):
        open_model(path, weights="ema")
    opened = open_model(path, weights="ema", allow_pickle=True)
    assert type(opened.model) is Mine
    assert "also there: 'ema'" in open_model(path, allow_pickle=True).notes[0]


def test_a_pickled_module_beside_plain_weights_stays_unread(saved):
    assert read_state(saved({"ema": Mine(), "model": STATE})).keys() == STATE.keys()


EXTRAS = {
    "thop": {"total_ops": torch.zeros(1), "features.0.total_params": torch.zeros(1)},
    "a loss": {"loss.weight": torch.ones(10)},
    "a criterion": {"criterion.center": torch.ones(10), "train_acc.total": torch.tensor(3)},
    "averages": {"n_averaged": torch.tensor(3)},
}


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
@pytest.mark.parametrize("extra", EXTRAS)
def test_what_training_left_beside_the_weights_is_named_and_ignored(saved, digits, extra, prefix):
    state = {prefix + name: tensor for name, tensor in digits.state_dict().items()}
    path = saved({"state_dict": {**EXTRAS[extra], **state}, "args": Namespace(lr=0.1)})
    for arch in (None, Arch("slimnet", "digits_vgg")):
        opened = open_model(path, arch)
        assert same(opened.model, digits)
        if extra != "averages":
            name = next(iter(EXTRAS[extra]))
            assert any(f"not of this network, and ignored: {name}" in n for n in opened.notes)


def test_a_part_that_the_network_does_not_have_is_ignored_where_its_class_was_named(saved, digits):
    path = saved({**digits.state_dict(), "projector.weight": torch.ones(4, 4)})
    opened = open_model(path, Arch("slimnet", "digits_vgg"))
    assert "not of this network, and ignored: projector.weight" in opened.notes
    with pytest.raises(InputError, match="no known network"):
        open_model(path)


@pytest.mark.parametrize("name", ["features.20.weight", "scale", "features.0.bias", "9.weight"])
def test_what_may_be_a_layer_is_never_ignored(saved, digits, name):
    path = saved({**digits.state_dict(), name: torch.ones(4)})
    with pytest.raises(InputError, match=f"does not fit slimnet:digits_vgg: unexpected {name}"):
        open_model(path, Arch("slimnet", "digits_vgg"))


def test_a_smaller_network_does_not_take_a_part_of_a_larger_ones_weights(saved):
    state = Arch("torchvision", "resnet34").build(init=True).state_dict()
    with pytest.raises(InputError, match=r"does not fit torchvision:resnet18: unexpected layer1"):
        open_model(saved(state), Arch("torchvision", "resnet18"))


def test_a_weight_that_is_no_tensor_is_named(saved, digits):
    state = {**digits.state_dict(), "classifier.bias": np.zeros(10)}
    with pytest.raises(InputError, match=r"missing classifier\.bias \(a pickled numpy"):
        open_model(saved(state), Arch("slimnet", "digits_vgg"))


def test_a_tied_weight_may_be_stored_under_one_of_its_names(saved, tmp_path):
    (tmp_path / "tied.py").write_text(TIED)
    arch = parse_arch(f"{tmp_path / 'tied.py'}:make_model")
    state = arch.build(init=True).state_dict()
    del state["net.a.weight"]
    opened = open_model(saved(state), arch)
    assert torch.equal(opened.model.net["a"].weight, state["net.b.weight"])
    assert opened.model.net["b"].weight is opened.model.net["a"].weight


SCALED = """
from torch import nn
class make_model(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)
        self.scale = 1
    def get_extra_state(self):
        return {"scale": self.scale}
    def set_extra_state(self, state):
        self.scale = state["scale"]
"""


def test_a_state_of_a_modules_own_is_read(saved, tmp_path):
    (tmp_path / "scaled.py").write_text(SCALED)
    arch = parse_arch(f"{tmp_path / 'scaled.py'}:make_model")
    model = arch.build(init=True)
    model.scale = 7
    assert open_model(saved({"model": model.state_dict()}), arch).model.scale == 7
    state = {n: t for n, t in model.state_dict().items() if n != "_extra_state"}
    assert open_model(saved(state), arch).model.scale == 1
    state["_extra_state"] = Namespace(scale=7)
    with pytest.raises(InputError, match=r"missing _extra_state \(a pickled argparse\.Namespace\)"):
        open_model(saved(state), arch)


def test_a_name_without_end_does_not_fill_the_screen(saved):
    path = saved({"layer" * 20_000: torch.zeros(3), "1.weight": torch.zeros(2, 2)})
    with pytest.raises(InputError, match="does not fit") as refusal:
        open_model(path, parse_arch("slimnet:digits_resnet"))
    assert len(str(refusal.value)) < 2_000
