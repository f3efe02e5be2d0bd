import importlib.util
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from slimnet.errors import InputError, UnknownNameError
from slimnet.models import MODELS
from slimnet.networks import arch as arch_module
from slimnet.networks.arch import Arch, fitted, index, indexed, parse_arch, recognise
from slimnet.networks.sources import USAGE, torchvision_names

ROUND_TRIP = [
    "slimnet:resnet20",
    "slimnet:vgg16",
    "slimnet:densenet40",
    "slimnet:digits_vgg",
    "torchvision:resnet18",
    "torchvision:vgg11_bn",
    "torchvision:mobilenet_v2",
    "torchvision:squeezenet1_1",
    "torchvision:efficientnet_b0",
    "torchvision:shufflenet_v2_x0_5",
    "torchvision:swin_t",
    "torchvision:vit_b_16",
    "torchvision:fcn_resnet50",
    "torchvision:fasterrcnn_resnet50_fpn",
    "torchvision:keypointrcnn_resnet50_fpn",
    "torchvision:retinanet_resnet50_fpn",
    "torchvision:ssdlite320_mobilenet_v3_large",
    "torchvision:r3d_18",
    "torchvision:mvit_v2_s",
]


@pytest.fixture
def user_file(tmp_path):
    def write(text, name="nets.py"):
        (tmp_path / name).write_text(text)
        return f"{tmp_path / name}:make_model"

    return write


@pytest.mark.parametrize("spec", ROUND_TRIP)
def test_weights_are_recognised_with_their_classes(spec):
    asked = parse_arch(spec)
    assert recognise(asked.build().state_dict()) == asked
    three = Arch(asked.source, asked.name, {"num_classes": 3})
    assert recognise(three.build().state_dict()) == three


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_are_recognised_with_and_without_auxiliary_heads(name):
    for options in ({}, {"aux_logits": False}, {"aux_logits": False, "num_classes": 5}):
        built = Arch("torchvision", name, options)
        assert recognise(built.build().state_dict()) == built


def test_other_input_channels_are_recognised_in_built_in_networks():
    built = Arch("slimnet", "digits_resnet", {"in_channels": 3})
    found = recognise(built.build().state_dict())
    assert found == built
    assert found.input_shape == (3, 8, 8)


def test_old_files_lack_the_counters_of_batch_norms():
    state = Arch("torchvision", "resnet18").build().state_dict()
    old = {name: value for name, value in state.items() if "num_batches" not in name}
    assert recognise(old) == Arch("torchvision", "resnet18")


def test_unknown_weights_name_the_three_closest():
    state = Arch("torchvision", "resnet50").build().state_dict()
    state["extra.weight"] = torch.zeros(3)
    with pytest.raises(InputError) as refusal:
        recognise(state)
    text = str(refusal.value)
    assert "names and shapes: torchvision:resnet50 9" in text
    assert text.count("%") == 3
    assert f"--arch {USAGE}" in text


def test_weights_like_no_others_say_so():
    with pytest.raises(InputError, match="none shares even one name"):
        recognise({"my.own": torch.zeros(3)})


def test_ambiguous_weights_name_the_candidates(monkeypatch):
    rows = [row for row in index() if row.arch == "slimnet:resnet20"]
    twin = type(rows[0])(**{**vars(rows[0]), "arch": "slimnet:twin"})
    monkeypatch.setattr(arch_module, "index", lambda: (*rows, twin))
    with pytest.raises(InputError, match=r"slimnet:resnet20 and slimnet:twin alike.*--arch"):
        recognise(Arch("slimnet", "resnet20").build().state_dict())


def test_fitted_reads_the_classes_unless_they_are_given():
    state = Arch("slimnet", "resnet20", {"num_classes": 4}).build().state_dict()
    assert fitted(Arch("slimnet", "resnet20"), state).options == {"num_classes": 4}
    given = Arch("slimnet", "resnet20", {"num_classes": 6})
    assert fitted(given, state) == given


def test_fitted_leaves_files_alone():
    mine = Arch("file", "nets.py:make_model")
    assert fitted(mine, {"fc.weight": torch.zeros(3, 4)}) == mine


@pytest.mark.parametrize(
    "spec",
    [
        "slimnet:digits_vgg",
        "slimnet:vgg19",
        "torchvision:googlenet",
        "torchvision:inception_v3",
        "torchvision:resnet18",
        "torchvision:vit_b_32",
        "torchvision:raft_small",
        "torchvision:ssd300_vgg16",
    ],
)
def test_index_is_what_its_script_makes(spec):
    script = load_script()
    stored = [row for row in index() if row.arch == spec]
    made = [indexed(arch) for arch in script.architectures() if str(arch) == spec]
    assert stored == [type(row).from_json(json.loads(json.dumps(row.to_json()))) for row in made]


def test_index_lists_every_built_in_network():
    assert {row.arch for row in index() if row.arch.startswith("slimnet:")} == {
        f"slimnet:{name}" for name in MODELS
    }


def test_index_lists_all_of_torchvision():
    listed = {row.arch for row in index() if row.arch.startswith("torchvision:")}
    assert listed == {f"torchvision:{name}" for name in torchvision_names()}


def test_indexed_architectures_are_alike_only_where_their_inputs_alone_differ():
    same = {}
    for row in index():
        same.setdefault((row.names, row.shapes), []).append(row.arch)
    assert [names for names in same.values() if len(names) > 1] == [
        [
            "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn",
            "torchvision:fasterrcnn_mobilenet_v3_large_fpn",
        ]
    ]


def test_a_segmentation_network_is_recognised_with_its_auxiliary_head():
    built = Arch("torchvision", "fcn_resnet50", {"aux_loss": True})
    assert recognise(built.build().state_dict()) == built


def load_script():
    path = Path(__file__).parent.parent / "scripts" / "index_architectures.py"
    spec = importlib.util.spec_from_file_location("index_architectures", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("spec", ["torchvision:swin_t", "torchvision:vit_b_32", "slimnet:vgg16"])
def test_build_without_initialisation_is_complete_once_loaded(spec):
    full = parse_arch(spec).build(init=True)
    quick = parse_arch(spec).build()
    quick.load_state_dict(full.state_dict())
    assert not quick.training
    assert {name: t.shape for name, t in quick.named_buffers()} == {
        name: t.shape for name, t in full.named_buffers()
    }
    assert all(torch.equal(t, full.get_buffer(name)) for name, t in quick.named_buffers())
    x = torch.rand(1, *parse_arch(spec).input_shape)
    assert torch.equal(quick(x), full(x))


def test_build_without_initialisation_draws_no_random_number():
    before = torch.get_rng_state()
    Arch("torchvision", "resnet18").build()
    assert torch.equal(torch.get_rng_state(), before)


def test_build_with_initialisation_follows_the_seed():
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        weights.append(Arch("slimnet", "digits_vgg").build(init=True).classifier.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_buffers_of_a_file_keep_their_random_values(user_file):
    spec = user_file(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.register_buffer('b', torch.empty(9).normal_(), persistent=False)\n"
        "make_model = Net\n"
    )
    torch.manual_seed(3)
    expected = torch.empty(9).normal_()
    torch.manual_seed(3)
    assert torch.equal(parse_arch(spec).build().b, expected)


@pytest.mark.parametrize("spec", ["torchvision:resnet18", "slimnet:resnet56", "a.py:make_model"])
def test_a_name_is_read_and_written(spec):
    assert str(parse_arch(spec)) == spec


def test_json_there_and_back():
    arch = Arch("slimnet", "resnet20", {"num_classes": 3})
    assert Arch.from_json(json.loads(json.dumps(arch.to_json()))) == arch
    with pytest.raises(InputError, match="not an architecture"):
        Arch.from_json({"name": "resnet20"})


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("torchvision:resnet19", "torchvision:resnet18"),
        ("torchvision:resnet56", "slimnet:resnet56"),
        ("slimnet:resnet50", "torchvision:resnet50"),
    ],
)
def test_unknown_names_list_the_closest(spec, hint):
    with pytest.raises(UnknownNameError, match=hint):
        parse_arch(spec)


@pytest.mark.parametrize("spec", ["resnet18", "keras:resnet18", "", "file:resnet18", "net.py"])
def test_what_names_no_source_lists_them(spec):
    with pytest.raises(InputError, match=r"torchvision:resnet18 \| timm:NAME"):
        parse_arch(spec)


@pytest.mark.parametrize("spec", ["torchvision:resnet18", "slimnet:resnet20"])
def test_options_that_do_not_exist_are_refused(spec):
    source, name = spec.split(":")
    with pytest.raises(InputError, match=f"{spec} does not build with"):
        Arch(source, name, {"colour": "red"}).build()


def test_a_file_builds_its_network_with_options(user_file):
    spec = user_file(
        "from torch import nn\n"
        "def make_model(num_classes=10):\n"
        "    return nn.Linear(4, num_classes)\n"
    )
    built = Arch("file", spec, {"num_classes": 3}).build()
    assert isinstance(built, nn.Linear)
    assert built.out_features == 3
    assert not built.training


def test_a_file_that_returns_no_module_is_refused(user_file):
    with pytest.raises(InputError, match=r"returned dict, not a torch\.nn\.Module"):
        parse_arch(user_file("make_model = dict")).build()


NET = """
from torch import nn
class Net(nn.Linear):
    def __init__(self, width, act="relu", sizes=(1, 2)):
        super().__init__(4, width)
        self.act, self.sizes = act, sizes
"""


def test_a_class_is_built_with_literal_arguments(user_file):
    file = user_file(NET).rpartition(":")[0]
    arch = parse_arch(f"{file}:Net(7, act='silu', sizes=[3, 4])")
    assert arch == Arch("file", f"{file}:Net", {"act": "silu", "sizes": [3, 4]}, (7,))
    built = arch.build()
    assert (built.out_features, built.act, built.sizes) == (7, "silu", [3, 4])
    assert str(arch) == f"{file}:Net(7, act='silu', sizes=[3, 4])"
    assert parse_arch(str(arch)) == arch
    assert Arch.from_json(json.loads(json.dumps(arch.to_json()))) == arch
    assert parse_arch(f"{file}:Net(width=-2.5)").options == {"width": -2.5}
    with pytest.raises(InputError, match=r"Net failed: TypeError.*width"):
        parse_arch(f"{file}:Net()").build()


def test_options_of_a_library_are_typed_by_name():
    arch = parse_arch("torchvision:resnet18(num_classes=7)")
    assert arch == Arch("torchvision", "resnet18", {"num_classes": 7})
    assert arch.build().fc.out_features == 7
    with pytest.raises(InputError, match=r"name each option, as in torchvision:resnet18\(num"):
        parse_arch("torchvision:resnet18(7)")
    for loads in ("weights='DEFAULT'", "weights_backbone='x'", "pretrained=True"):
        with pytest.raises(InputError, match="would load weights, and those come from the file"):
            parse_arch(f"torchvision:resnet18({loads})")


@pytest.mark.parametrize(
    "call",
    [
        *(
            "(print(1))",
            "(__import__('os'))",
            "(x)",
            "(1 + a)",
            "(f'{1}')",
            "(*[1])",
            "(**{'a': 1})",
        ),
        *("(1)(2)", "(lambda: 1)", "(1, 2", "([x for x in [1]])", "(b'1')", "({1, 2})", "(1j)"),
        "(" + "(" * 5000 + ")" * 5000 + ")",
    ],
)
def test_nothing_but_literals_is_read(call, monkeypatch):
    with pytest.raises(InputError):
        parse_arch(f"net.py:Net{call}").build()


def test_a_module_is_named_by_its_dots(tmp_path, monkeypatch):
    (tmp_path / "nets_of_a_test").mkdir()
    (tmp_path / "nets_of_a_test" / "linear.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    arch = parse_arch("nets_of_a_test.linear:Net(width=3)")
    assert arch.source == "file" and arch.build().out_features == 3
    assert str(arch) == "nets_of_a_test.linear:Net(width=3)"
