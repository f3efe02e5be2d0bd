"""Tasks that a command line names: read from files as they lie, trained on, and measured."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import AnchorGenerator

import slimnet
from slimnet.errors import InputError
from slimnet.task import Task, fingerprint_of, samples_in
from slimnet.tasks.data import load_data, load_task
from slimnet.tasks.kind import TASKS
from slimnet.train import Schedule, measure, train

SHORT = Schedule(epochs=6, lr=0.02, batch=8)


def trained(model, task, schedule=SHORT):
    before = measure(model, task, "cpu")
    return before, train(model, task, schedule, seed=0, device="cpu").metrics


def test_every_kind_has_an_example_here():
    assert set(TASKS) == {"regression", "segmentation", "detection"}


# --------------------------------------------------------------------------------- regression


def numbers(count, seed=0):
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(count, 3, 4)).astype(np.float32)
    return x, x.sum((1, 2))


def write_npz(path, **changes):
    (x, y), (x_test, y_test) = numbers(96), numbers(40, 1)
    arrays = {"x_train": x, "y_train": y, "x_test": x_test, "y_test": y_test, **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return f"task:regression:{path}"


def test_a_regression_is_learnt(tmp_path):
    task = load_task(write_npz(tmp_path / "own.npz"))
    assert isinstance(task, Task) and [m.name for m in task.metrics] == ["mse", "mae"]
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 1))
    before, after = trained(model, task, Schedule(epochs=20, lr=0.05, batch=16))
    assert after["mse"] < 0.1 < before["mse"]
    x, y = (torch.tensor(a) for a in numbers(40, 1))
    with torch.no_grad():
        told = model(x)[:, 0]
    assert after["mse"] == pytest.approx(float((told - y).square().mean()), rel=1e-5)
    assert after["mae"] == pytest.approx(float((told - y).abs().mean()), rel=1e-5)


def test_a_teacher_of_a_regression_is_heard_in_its_numbers(tmp_path):
    """Two numbers are no scores of two classes, of which a shift would say nothing."""
    pairs = {"y_train": np.eye(2).repeat(48, 0), "y_test": np.eye(2).repeat(20, 0)}
    task = load_task(write_npz(tmp_path / "own.npz", **pairs))
    outputs = torch.randn(8, 2)
    told = float(task.teacher_loss(outputs + 1, outputs))
    assert told == pytest.approx(1 / float(outputs.var()), rel=1e-5)


def test_images_of_a_regression_are_scaled(tmp_path):
    pixels = np.full((5, 8, 6, 3), 51, np.uint8)
    spec = write_npz(tmp_path / "own.npz", x_train=pixels, y_train=np.arange(5.0))
    images, _ = next(iter(load_task(spec).batches("train", 5)))
    assert images.shape == (5, 3, 8, 6) and torch.allclose(images, torch.tensor(0.2))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"y_train": None}, "lacks y_train; it must hold x_train, y_train, x_test, y_test"),
        ({"y_train": np.ones(7)}, "96 inputs and 7 targets to train on"),
        ({"y_train": np.full(96, np.nan)}, "NaN or infinite numbers in x_train or y_train"),
        ({"x_test": np.ones(4)}, r"x_test is float64 of shape \[4\]: give floating point"),
        ({"y_test": np.ones((2, 2, 2))}, r"y_test is float64 of shape \[2, 2, 2\]"),
    ],
)
def test_arrays_that_are_no_regression_are_refused(changes, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        load_task(write_npz(tmp_path / "own.npz", **changes))


def test_targets_that_are_all_alike_teach_nothing(tmp_path):
    task = load_task(write_npz(tmp_path / "own.npz", y_train=np.full(96, 2.5)))
    assert len(list(task.batches("train", 32))) == 3  # enough for a repair
    with pytest.raises(InputError, match=r"all 96 targets to train on are 2\.5"):
        task.batches("train", 32, torch.Generator())


def test_a_network_with_another_number_of_outputs_is_refused(tmp_path):
    task = load_task(write_npz(tmp_path / "own.npz"))
    with pytest.raises(InputError, match="a regression needs as many numbers of both"):
        measure(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), task, "cpu")


# ------------------------------------------------------------------------------- segmentation


def scene(number, size=24):
    """A bright square on a dark ground, and where it is."""
    draw = np.random.default_rng(number)
    x, y = draw.integers(2, size - 10, 2)
    picture = draw.integers(0, 60, (size, size, 3)).astype(np.uint8)
    mask = np.zeros((size, size), np.uint8)
    picture[y : y + 8, x : x + 8] += 150
    mask[y : y + 8, x : x + 8] = 1
    mask[0] = 255
    return picture, mask, [int(x), int(y), 8, 8]


@pytest.fixture
def masks(tmp_path):
    for split, count in (("train", 16), ("val", 6)):
        for part in ("images", "masks"):
            (tmp_path / split / part).mkdir(parents=True)
        for number in range(count):
            picture, mask, _ = scene(number + 100 * (split == "val"))
            Image.fromarray(picture).save(tmp_path / split / "images" / f"{number:02}.png")
            Image.fromarray(mask).save(tmp_path / split / "masks" / f"{number:02}.png")
    return tmp_path


class Dense(nn.Module):
    """Scores at half the size, as ``out`` beside others."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 2, 3, 1, 1))

    def forward(self, x):
        return {"out": self.body(x), "aux": torch.zeros(1)}


def test_a_segmentation_is_learnt(masks):
    task = load_task(f"task:segmentation:{masks}", size=24)
    images, wanted = next(iter(task.batches("test", 6)))
    assert images.shape == (6, 3, 24, 24) and wanted.dtype == torch.int64
    assert set(wanted.unique().tolist()) == {0, 1, 255}
    model = Dense()
    before, after = trained(model, task, Schedule(epochs=15, lr=0.1, batch=8))
    assert after["mIoU"] > 60 > before["mIoU"]
    assert after["mIoU"] == pytest.approx(mean_iou(model, images, wanted), rel=1e-4)


def mean_iou(model, images, wanted):
    with torch.no_grad():
        scores = nn.functional.interpolate(model(images)["out"], size=24, mode="bilinear")
    counted = wanted != 255
    shares = []
    for kind in (0, 1):
        one, other = (scores.argmax(1) == kind) & counted, (wanted == kind) & counted
        shares.append(float((one & other).sum() / (one | other).sum()))
    return 100 * sum(shares) / 2


def test_mirrored_images_have_mirrored_masks(masks):
    task = load_task(f"task:segmentation:{masks}", size=24)
    plain = next(iter(task.batches("train", 16)))
    drawn = next(iter(task.batches("train", 16, torch.Generator().manual_seed(3))))
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    turned = 0
    for place, number in enumerate(order.tolist()):
        same = torch.equal(drawn[0][place], plain[0][number])
        turned += not same
        flips = [-1] if not same else []
        assert torch.equal(drawn[0][place], plain[0][number].flip(flips))
        assert torch.equal(drawn[1][place], plain[1][number].flip(flips))
    assert 0 < turned < 16


def test_pixels_that_do_not_count_teach_nothing(masks):
    task = load_task(f"task:segmentation:{masks}", size=24)
    model, (images, labels) = Dense(), next(iter(task.batches("train", 4)))
    none = torch.full_like(labels, 255)
    assert float(task.loss(model, (images, none)).detach()) == 0
    some = torch.where(torch.arange(24) < 9, none, labels)
    scores = nn.functional.interpolate(model(images)["out"], size=24, mode="bilinear")
    wanted = nn.functional.cross_entropy(scores, some, ignore_index=255)
    torch.testing.assert_close(task.loss(model, (images, some)), wanted)


def test_folders_that_do_not_fit_are_refused(masks):
    (masks / "train" / "masks" / "03.png").unlink()
    with pytest.raises(InputError, match="03 has no partner of its name"):
        load_task(f"task:segmentation:{masks}")
    with pytest.raises(InputError, match="has no val/ or test/ folder with images/ and masks/"):
        load_task(f"task:segmentation:{masks / 'train'}")


def test_more_classes_than_the_network_has_are_refused(masks):
    picture = np.full((24, 24), 9, np.uint8)
    Image.fromarray(picture).save(masks / "val" / "masks" / "00.png")
    with pytest.raises(InputError, match="a mask holds class 9, and the network has 2"):
        measure(Dense(), load_task(f"task:segmentation:{masks}", size=24), "cpu")


# ---------------------------------------------------------------------------------- detection


@pytest.fixture
def boxes(tmp_path):
    for split, count in (("train", 4), ("val", 2)):
        folder = tmp_path / split
        (folder / "images").mkdir(parents=True)
        rows = {"images": [], "annotations": []}
        for number in range(count):
            picture, _, box = scene(number, 64 + 8 * number)
            Image.fromarray(picture).save(folder / "images" / f"{number}.png")
            rows["images"].append({"id": number, "file_name": f"{number}.png"})
            rows["annotations"].append({"image_id": number, "bbox": box, "category_id": 1})
        (folder / "annotations.json").write_text(json.dumps(rows))
    return tmp_path


def detector():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
    body.out_channels = 8
    anchors = AnchorGenerator(sizes=((8, 16),), aspect_ratios=((1.0,),))
    return FasterRCNN(body, 2, rpn_anchor_generator=anchors, min_size=64, max_size=96)


def test_a_detector_is_trained_on_images_of_any_size(boxes):
    task = load_task(f"task:detection:{boxes}")
    batch = next(iter(task.batches("train", 4)))
    assert samples_in(batch) == 4 and len({image.shape for image in batch[0]}) == 4
    assert batch[1][0]["boxes"].shape == (1, 4)
    pytest.importorskip("pycocotools")
    model = detector()
    history = train(model, task, Schedule(epochs=3, lr=0.01, batch=2), seed=0, device="cpu")
    assert history.losses[-1] < history.losses[0]
    assert set(history.metrics) == {"mAP", "mAP50"}


def test_mirrored_boxes_lie_where_their_objects_are(boxes):
    task = load_task(f"task:detection:{boxes}")
    for seed in range(4):
        draw = torch.Generator().manual_seed(seed)
        for images, targets in task.batches("train", 4, draw):
            for image, target in zip(images, targets, strict=True):
                x0, y0, x1, y1 = (int(v) for v in target["boxes"][0])
                assert image[:, y0:y1, x0:x1].min() > 0.5
                assert float(image.mean()) < 0.3


def test_annotations_that_are_none_are_refused(boxes):
    file = boxes / "train" / "annotations.json"
    rows = json.loads(file.read_text())
    for change, sentence in (
        ({"annotations": [{"image_id": 0}]}, "not annotations in the form of COCO"),
        ({"images": []}, "lists no image"),
        ({"images": [{"id": 0, "file_name": "../../../etc/passwd"}]}, "which lies outside"),
        (
            {"annotations": [{"image_id": 0, "bbox": [0, 0, 5, 5], "category_id": 0}]},
            "category 0: classes count from 1",
        ),
        ({"annotations": []}, "holds no box: list images and boxes that belong together"),
        (
            {"annotations": [{"image_id": 77, "bbox": [0, 0, 5, 5], "category_id": 1}]},
            "holds boxes of image 77, which it does not list",
        ),
    ):
        file.write_text(json.dumps({**rows, **change}))
        with pytest.raises(InputError, match=sentence):
            load_task(f"task:detection:{boxes}")
    file.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        load_task(f"task:detection:{boxes}")


def test_a_detector_that_gives_no_losses_is_refused(boxes):
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(1, 1)

        def forward(self, images, targets=None):
            return [{}]

    with pytest.raises(InputError, match="the loss of a detector is what it returns in training"):
        train(Other(), load_task(f"task:detection:{boxes}"), SHORT, seed=0, device="cpu")


# ---------------------------------------------------------------------------------- no labels


def test_images_without_labels_are_enough_for_a_repair(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 1)).astype(np.uint8)
    np.savez(tmp_path / "images.npz", x_train=pixels)
    task = load_task(f"npz:{tmp_path / 'images.npz'}")
    samples = task.samples(32, seed=1)
    assert samples.labels is None and samples.images.shape == (32, 1, 8, 8)
    assert abs(float(samples.images.mean())) < 0.1  # normalised
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 8, 3)).eval()
    pruned = slimnet.prune(model, (torch.zeros(1, 1, 8, 8),), ratio=0.5, align=None)
    done = slimnet.repair(pruned, model, samples)
    assert done.repair.after < done.repair.before
    for asked in (task.loss, task.measure):
        with pytest.raises(InputError, match=r"without labels, and an? .* needs them"):
            asked(model, samples.images)
    with pytest.raises(InputError, match="holds images without labels"):
        load_data(f"npz:{tmp_path / 'images.npz'}")


# ---------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("task:poetry:x", "unknown kind of task 'poetry': the known ones are detection"),
        ("task:regression", "write task:regression:FILE.npz"),
        ("task", "write task:KIND"),
    ],
)
def test_what_is_no_task_is_refused(spec, sentence):
    with pytest.raises(InputError, match=sentence):
        load_task(spec)


def test_fingerprints_tell_data_apart(tmp_path):
    one, other = write_npz(tmp_path / "a.npz"), write_npz(tmp_path / "b.npz", y_test=np.ones(40))
    again = write_npz(tmp_path / "c.npz")
    digests = [fingerprint_of(load_task(spec)) for spec in (one, other, again)]
    assert digests[0] != digests[1] and digests[0] == digests[2]
