"""A file that computes something else is caught, whatever the difference."""

import pytest
import torch
from torch import nn

from slimnet.errors import InputError
from slimnet.export import (
    ExportError,
    ParityError,
    check_parity,
    export_onnx,
    export_pt2,
    measure_latency,
)
from slimnet.export.inputs import random_inputs
from slimnet.export.parity import TOLERANCES

IMAGES = (torch.zeros(1, 3, 6, 6),)


def toy(seed=0, width=4):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 2, 1))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("parity") / "toy.onnx"
    export_onnx(toy(), IMAGES, path, verify=False)
    return path


def test_the_right_file_passes_at_two_batch_sizes(file):
    parity = check_parity(toy(), file, IMAGES)
    assert parity.error < parity.tolerance == 1e-4
    assert parity.batches == (1, 3)
    same = {"error": parity.error, "tolerance": 1e-4, "batches": (1, 3), "images": ()}
    assert parity.to_json() == {**same, "found": None}


def test_another_models_file_is_caught(file):
    with pytest.raises(ParityError, match=r"toy\.onnx does not compute what Sequential computes"):
        check_parity(toy(seed=1), file, IMAGES)


def test_one_weight_off_by_a_thousandth_of_the_output_is_caught(file):
    model = toy()
    with torch.no_grad():
        model[2].bias[0] += 1e-2
    with pytest.raises(ParityError, match="relative error"):
        check_parity(model, file, IMAGES)
    assert check_parity(model, file, IMAGES, tolerance=1.0).error > 1e-4


def test_other_shapes_are_caught(file):
    model = nn.Sequential(toy(), nn.Flatten())
    with pytest.raises(ParityError, match=r"shapes \(1, 2, 4, 4\) in the ONNX file, \(1, 32\) in"):
        check_parity(model, file, IMAGES)


def test_what_is_not_a_number_is_caught(file):
    model = toy()
    with torch.no_grad():
        model[2].bias[0] = float("nan")
    with pytest.raises(ParityError, match="relative error inf"):
        check_parity(model, file, IMAGES)


def test_a_model_that_depends_on_its_batch_is_caught(file):
    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = toy()

        def forward(self, x):
            return self.net(x if len(x) == 1 else x - x.mean(0))

    with pytest.raises(ParityError):
        check_parity(Centred(), file, IMAGES)


def test_a_file_that_is_missing_or_no_onnx_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no such file"):
        check_parity(toy(), tmp_path / "none.onnx", IMAGES)
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"junk\.onnx: onnxruntime cannot run it"):
        check_parity(toy(), tmp_path / "junk.onnx", IMAGES)


def test_another_number_of_inputs_is_refused(file):
    with pytest.raises(InputError, match="takes 1 inputs"):
        check_parity(toy(), file, (*IMAGES, torch.zeros(1)))


def test_random_inputs_keep_kind_and_range_and_follow_the_batch():
    tokens = torch.tensor([[3, 5, 9]])
    scale = torch.tensor([2.0, 4.0])
    drawn = random_inputs((tokens, scale, "name", 7), batch=6)
    assert drawn[0].shape == (6, 3)
    assert set(drawn[0].flatten().tolist()) <= {3, 5, 9}
    assert drawn[1].shape == (2,)
    assert drawn[2:] == ("name", 7)
    again = random_inputs((tokens, scale, "name", 7), batch=6)
    assert torch.equal(drawn[0], again[0])


def test_a_constant_example_gives_noise():
    (images,) = random_inputs((torch.zeros(1, 3, 4),), batch=2)
    assert images.std() > 0.1


class Rooted(nn.Module):
    """NaN on half of what a normal distribution draws, in the file as in PyTorch."""

    def forward(self, x):
        return x.sqrt().sum((2, 3))


def test_two_that_both_give_nan_are_not_equal(tmp_path):
    path = tmp_path / "rooted.onnx"
    export_onnx(Rooted(), IMAGES, path, verify=False)
    with pytest.raises(ParityError, match="itself gives NaN at batch 1 on random inputs"):
        check_parity(Rooted(), path, IMAGES)
    assert check_parity(Rooted(), path, (torch.rand(1, 3, 6, 6),)).error < 1e-6


def test_a_broken_weight_is_not_exported(tmp_path):
    model = toy().eval()
    with torch.no_grad():
        model[2].bias[0] = torch.nan
    for write in (export_onnx, export_pt2):
        with pytest.raises(ParityError, match="look for NaN in its weights"):
            write(model, IMAGES, tmp_path / "broken")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_the_tolerance_is_that_of_the_networks_type(kind, tmp_path):
    model, example = toy(width=16).to(kind), (IMAGES[0].to(kind),)
    parity = export_pt2(model, example, tmp_path / "toy.pt2").parity
    assert parity.tolerance == TOLERANCES.get(kind, 1e-4)
    if kind == torch.float16:
        parity = export_onnx(model, example, tmp_path / "toy.onnx").parity
        assert parity.error < parity.tolerance == 1e-2
        with pytest.raises(ParityError, match="allowed"):
            check_parity(toy(seed=1, width=16).half(), tmp_path / "toy.onnx", example)
    else:  # onnxruntime on a CPU has no such convolution
        with pytest.raises((ExportError, InputError), match=r"export it in float32 \(model.float"):
            export_onnx(model, example, tmp_path / "toy.onnx")
        assert [file.name for file in tmp_path.iterdir()] == ["toy.pt2"]


def test_a_half_network_in_many_layers_rounds_within_its_tolerance(tmp_path):
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU()) for _ in range(6)]
    model = nn.Sequential(nn.Conv2d(3, 16, 1), *layers).eval().half()
    example = (torch.randn(1, 3, 16, 16).half(),)
    assert 1e-4 < export_onnx(model, example, tmp_path / "deep.onnx").parity.error < 1e-2
    timed = measure_latency(
        {"deep": tmp_path / "deep.onnx", "again": tmp_path / "deep.onnx"}, example, rounds=2
    )
    assert timed.timing("again").median_ms > 0
