from collections import OrderedDict

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
