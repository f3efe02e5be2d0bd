"""What a data spec reads, and one sentence for each thing that cannot be read."""

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from slimnet.errors import InputError
from slimnet.tasks.augment import augmented
from slimnet.tasks.classification import Dataset, check_classes, check_fits, describe
from slimnet.tasks.data import DATA, load_data, parse_normalize

SPECS = {"digits", "npz", "cifar10", "imagefolder", "file"}


def arrays(size=8, channels=3, train=12, test=6, classes=3):
    rng = np.random.default_rng(0)
    images = [
        rng.integers(0, 256, (count, size, size, channels), dtype=np.uint8)
        for count in (train, test)
    ]
    labels = [np.arange(count) % classes for count in (train, test)]
    return {
        "x_train": images[0],
        "y_train": labels[0],
        "x_test": images[1],
        "y_test": labels[1],
    }


def written(path, **changes):
    kept = {key: value for key, value in (arrays() | changes).items() if value is not None}
    np.savez(path, **kept)
    return f"npz:{path}"


def folder(root, splits=("train", "val"), classes=("cat", "dog")):
    for split in splits:
        for number, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for image in range(2):
                colour = (100 * number, 50 * image, 200)
                Image.new("RGB", (40, 30), colour).save(root / split / name / f"{image}.png")
    return f"imagefolder:{root}"


def test_every_source_has_an_example_here():
    assert set(DATA) - {"task"} == SPECS  # tests/test_tasks.py has those of tasks


def test_digits_are_split_the_same_way_each_time_and_in_equal_shares():
    first, second = load_data("digits"), load_data("digits")
    assert first.fingerprint() == second.fingerprint()
    assert (len(first.y_train), len(first.y_test), first.num_classes) == (1198, 599, 10)
    shares = torch.bincount(first.y_train) / torch.bincount(first.y_test)
    assert (shares - 2).abs().max() < 0.1
    assert first.x_train.dtype == torch.uint8
    assert first.image_shape == (1, 8, 8)


def test_no_digit_is_in_both_splits():
    data = load_data("digits")
    train = {bytes(image.numpy().tobytes()) for image in data.x_train}
    assert not any(bytes(image.numpy().tobytes()) in train for image in data.x_test)


def test_npz_is_read_channels_first(tmp_path):
    held = arrays()
    data = load_data(written(tmp_path / "d.npz"))
    assert torch.equal(data.x_train, torch.from_numpy(held["x_train"]).permute(0, 3, 1, 2))
    assert data.y_test.tolist() == held["y_test"].tolist()
    assert data.num_classes == 3


def test_labels_in_a_column_are_read(tmp_path):
    spec = written(tmp_path / "d.npz", y_train=np.zeros((12, 1), np.uint8) + 2)
    assert load_data(spec).y_train.tolist() == [2] * 12


def test_image_folder_decodes_the_images_that_are_asked_for(tmp_path):
    data = load_data(folder(tmp_path), normalize="none", size=16)
    assert data.image_shape == (3, 16, 16)
    assert data.y_train.tolist() == [0, 0, 1, 1]
    pixel = data.x_train[torch.tensor([3, 0])][:, :, 5, 5]
    assert pixel.tolist() == [[100, 50, 200], [0, 0, 200]]


def test_a_test_folder_does_instead_of_val(tmp_path):
    assert len(load_data(folder(tmp_path, ("train", "test")), size=8).y_test) == 4


def test_cifar10_is_read_from_the_folder_that_torchvision_knows(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR10", FakeCifar)
    data = load_data(f"cifar10:{tmp_path}")
    assert data.image_shape == (3, 32, 32)
    assert data.normalize.name == "cifar10"
    assert data.augment


class FakeCifar:
    def __init__(self, root, train, download):
        assert not download
        self.data = np.zeros((10, 32, 32, 3), np.uint8)
        self.targets = list(range(10))


def test_cifar10_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="no intact CIFAR-10 there"):
        load_data(f"cifar10:{tmp_path}")


def test_a_users_function_gives_arrays_tensors_or_a_dataset(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np, torch\n"
        "from slimnet.tasks.data import load_data\n"
        "def make_arrays():\n"
        "    x = np.zeros((4, 5, 6, 3), np.uint8); return x, [0, 1, 0, 1], x, [1, 1, 0, 0]\n"
        "def make_tensors():\n"
        "    x = torch.rand(4, 3, 5, 6); y = torch.tensor([0, 1, 0, 1]); return x, y, x, y\n"
        "def make_dataset():\n"
        "    return load_data('digits')\n"
        "def make_nothing():\n"
        "    return None\n"
        "def make_meta():\n"
        "    return [t.to('meta') if k < 1 else t for k, t in enumerate(make_tensors())]\n"
        "def make_learned():\n"
        "    return [t.requires_grad_() if k == 0 else t for k, t in enumerate(make_tensors())]\n"
    )
    assert load_data(f"{file}:make_arrays").image_shape == (3, 5, 6)
    assert load_data(f"{file}:make_tensors").image_shape == (3, 5, 6)
    assert load_data(f"{file}:make_dataset").fingerprint() == load_data("digits").fingerprint()
    with pytest.raises(InputError, match="returned a NoneType, which is no task"):
        load_data(f"{file}:make_nothing")
    with pytest.raises(InputError, match="x_train is a tensor on meta"):
        load_data(f"{file}:make_meta")
    assert not load_data(f"{file}:make_learned").x_train.requires_grad


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"y_test": None}, "lacks y_test; it must hold x_train"),
        ({"x_train": np.zeros((12, 8, 8), np.uint8)}, r"x_train is uint8 of shape \[12, 8, 8\]"),
        ({"x_test": np.zeros((6, 8, 8, 3))}, "x_test is float64"),
        ({"x_test": np.zeros((6, 8, 8, 1), np.uint8)}, "3 channels and the test images 1"),
        ({"y_train": np.zeros(11, np.int64)}, "12 images but 11 labels"),
        ({"y_train": np.zeros(12)}, "y_train is float64"),
        ({"y_train": np.zeros((12, 2), np.int64)}, r"y_train is int64 of shape \[12, 2\]"),
        ({"y_train": np.arange(12) - 1}, "run from -1 to 10: classes count from 0, so"),
        ({"y_test": np.arange(6)}, "run from 0 to 5, outside the 3 classes 0 to 2 that"),
        (
            {"x_train": np.zeros((0, 8, 8, 3), np.uint8), "y_train": np.zeros(0, int)},
            r"shape \[0\]",
        ),
    ],
)
def test_an_archive_that_does_not_hold_together_is_refused(tmp_path, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        load_data(written(tmp_path / "d.npz", **changes))


def test_classes_that_no_image_has_are_said(tmp_path, caplog):
    load_data(written(tmp_path / "d.npz"))
    assert not caplog.text
    load_data(written(tmp_path / "e.npz", y_train=np.arange(12) % 2 * 3))
    assert "no training image is of class 1, 2: nothing is learnt of it" in caplog.text


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        load_data(f"npz:{tmp_path / 'absent.npz'}")
    (tmp_path / "text.npz").write_text("no archive")
    whole = tmp_path / "whole.npz"
    written(whole)
    (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:300])
    flipped = bytearray(whole.read_bytes())
    flipped[400] ^= 255
    (tmp_path / "flipped.npz").write_bytes(flipped)
    np.save(tmp_path / "one.npy", np.zeros(3))
    for name in ("text.npz", "cut.npz", "flipped.npz", "one.npy"):
        with pytest.raises(InputError, match="not a NumPy"):
            load_data(f"npz:{tmp_path / name}")


def test_image_folders_that_do_not_fit_are_refused(tmp_path):
    belong = "the pictures of each class belong into a folder of its own"
    with pytest.raises(InputError, match=f"train: there is no such folder; {belong}"):
        load_data(f"imagefolder:{tmp_path}")
    (tmp_path / "flat" / "train").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "flat" / "train" / "0.png")
    with pytest.raises(InputError, match=f"train: it holds no folders; {belong}"):
        load_data(f"imagefolder:{tmp_path / 'flat'}")
    folder(tmp_path / "c")
    (tmp_path / "c" / "train" / "eel").mkdir()
    with pytest.raises(InputError, match=f"train: no picture of eel; {belong}"):
        load_data(f"imagefolder:{tmp_path / 'c'}")
    with pytest.raises(InputError, match="no val/ or test/ folder"):
        load_data(folder(tmp_path / "a", ("train",)))
    folder(tmp_path / "b", ("train",))
    with pytest.raises(InputError, match=r"classes of the two splits differ \(bird, dog\)"):
        load_data(folder(tmp_path / "b", ("val",), ("bird", "cat")))


def test_an_image_that_cannot_be_decoded_is_named(tmp_path):
    spec = folder(tmp_path)
    (tmp_path / "train" / "cat" / "0.png").write_text("no image")
    data = load_data(spec, size=8)
    with pytest.raises(InputError, match=r"0\.png: not an image that can be read"):
        data.x_train[torch.tensor([0])]


@pytest.mark.parametrize("spec", ["mnist", "file:x", "digitsx", ""])
def test_an_unknown_kind_lists_the_known_ones(spec):
    with pytest.raises(InputError, match=r"cifar10:ROOT, digits, file\.py:make_task, imagefolder"):
        load_data(spec)


def test_a_spec_without_its_file_says_how_it_is_written():
    with pytest.raises(InputError, match="write npz:FILE"):
        load_data("npz")
    with pytest.raises(InputError, match="write digits"):
        load_data("digits:7")


def test_normalisation_by_name_by_numbers_and_measured():
    data = load_data("digits")
    seen = data.normalize(data.x_train)
    assert abs(seen.mean()) < 1e-3
    assert abs(seen.std() - 1) < 1e-3
    named = load_data("digits", "none")
    assert named.normalize(named.x_train).max() == 1
    assert parse_normalize("0.5/0.25").mean == (0.5,)
    colour = parse_normalize("imagenet")
    images = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    assert torch.allclose(
        colour(images)[0, :, 0, 0], torch.tensor([0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225])
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("mnist", "unknown normalisation 'mnist': the known ones are cifar10, imagenet, none"),
        ("0.5/x", "cannot read the normalisation"),
        ("0.5,0.5/1", "as many deviations as means"),
        ("0.5/0", "greater than 0"),
        ("imagenet", "is for 3 channels and the images have 1"),
    ],
)
def test_a_normalisation_that_does_not_fit_is_refused(text, sentence):
    with pytest.raises(InputError, match=sentence):
        load_data("digits", text)


def test_data_that_does_not_fit_the_network_is_refused():
    data = load_data("digits")
    check_fits(data, (1, 8, 8))
    check_fits(data, (1, 32, 32))
    with pytest.raises(InputError, match="images have 1 channels and the network takes 3"):
        check_fits(data, (3, 8, 8))


def made(**changes):
    images, labels = torch.rand(6, 1, 8, 8), torch.arange(6) % 3
    parts = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels, **changes}
    return Dataset("made", num_classes=3, normalize=parse_normalize("none"), **parts)


BROKEN = torch.rand(6, 1, 8, 8)
BROKEN[4, 0, 3, 3] = torch.nan


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"x_train": BROKEN}, "made: train images hold NaN or infinite numbers"),
        ({"x_test": BROKEN * torch.inf}, "made: test images hold NaN or infinite numbers"),
        (
            {"x_train": torch.ones(6, 1, 8, 8).long()},
            "images are torch.int64: give uint8, or",
        ),
        ({"y_train": [0, 1, 2, 0, 1, 2]}, "train labels are a list: give a tensor of int64"),
        ({"y_test": torch.arange(6).int() % 3}, r"test labels are torch.int32 of shape \[6\]"),
        (
            {"x_test": torch.rand(6, 1, 8, 8, device="meta")},
            "test images is a tensor on meta: give",
        ),
        ({"y_train": torch.arange(6, device="meta")}, "train labels is a tensor on meta: give"),
        ({"x_train": torch.rand(6, 1, 8, 8).to_sparse()}, "is a tensor torch.sparse_coo, torch.fl"),
        ({"y_train": torch.eye(6)[:, :3]}, r"train labels are torch.float32 of shape \[6, 3\]"),
    ],
)
def test_what_no_network_learns_from_is_refused(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        made(**changes)


def test_images_of_one_class_are_no_training_data():
    one = made(y_train=torch.full((6,), 2))
    for check in (check_classes, lambda data: check_fits(data, (1, 8, 8))):
        check(made())
        with pytest.raises(InputError, match="all 6 training images are of class 2"):
            check(one)


def test_a_limited_set_is_part_of_the_whole_and_always_the_same(tmp_path):
    data = load_data("digits")
    small = data.limited(train=100, test=50)
    assert (len(small.y_train), len(small.y_test)) == (100, 50)
    assert small.fingerprint() == data.limited(train=100, test=50).fingerprint()
    assert small.fingerprint() != data.fingerprint()
    assert data.limited(train=10_000).fingerprint() == data.fingerprint()
    lazy = load_data(folder(tmp_path), size=8)
    fewer = lazy.limited(train=3)
    assert fewer.x_train.shape == (3, 3, 8, 8)
    assert fewer.fingerprint() != lazy.fingerprint()
    with pytest.raises(InputError, match="at least 1"):
        data.limited(train=0)


def test_augmentation_shifts_and_mirrors_and_follows_the_generator():
    images = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8).repeat(200, 2, 1, 1)
    seen = augmented(images, torch.Generator().manual_seed(3))
    again = augmented(images, torch.Generator().manual_seed(3))
    assert torch.equal(seen, again)
    assert torch.equal(seen[:, 0], seen[:, 1])
    candidates = [
        torch.nn.functional.pad(images[:1, :1], [1] * 4)[..., y : y + 8, x : x + 8].flip(flip)
        for y in range(3)
        for x in range(3)
        for flip in ([], [3])
    ]
    drawn = {next(n for n, c in enumerate(candidates) if torch.equal(c[0, 0], i[0])) for i in seen}
    assert drawn == set(range(18))


def test_only_colour_photographs_are_augmented_by_default(tmp_path):
    photos = np.zeros((12, 32, 32, 3), np.uint8)
    spec = written(tmp_path / "d.npz", x_train=photos, x_test=photos[:6])
    assert load_data(spec).augment
    assert not load_data(spec, augment="none").augment
    assert not load_data("digits").augment
    assert load_data("digits", augment="standard").augment
    with pytest.raises(InputError, match="the known ones are auto, none, standard"):
        load_data("digits", augment="strong")


def test_the_description_names_sizes_and_normalisation():
    assert describe(load_data("digits", "none").facts()) == (
        "digits: 1198 training and 599 test images of 1x8x8, 10 classes, no augmentation, "
        "normalisation none"
    )


def test_an_archive_that_unpacks_to_a_thousand_times_its_size_is_refused(tmp_path):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, **arrays())
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("more.npy", "w", force_zip64=True) as member,
    ):
        for _ in range(1100):
            member.write(bytes(10**6))
    with pytest.raises(InputError, match=r"would unpack from [\d,]+ to 1,1[\d,]+ bytes"):
        load_data(f"npz:{path}")


def test_an_array_that_is_said_to_be_larger_than_it_is_is_refused(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**12, 8, 8, 1)}
    )
    path = tmp_path / "long.npz"
    written(path, x_train=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train.npy", header.getvalue() + bytes(100))
    with pytest.raises(InputError, match="that can be read"):
        load_data(f"npz:{path}")


def picture(width, height):
    """A few bytes that say that they are a picture of this size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@pytest.mark.parametrize(
    "content",
    [picture(60_000, 60_000), picture(9_000, 9_000), picture(30, 30)[:40], picture(2**31 - 1, 8)],
    ids=["huge", "large", "cut", "wide"],
)
def test_a_picture_of_any_size_is_refused(content, tmp_path):
    spec = folder(tmp_path)
    next((tmp_path / "train").rglob("*.png")).write_bytes(content)
    data = load_data(spec, size=8)
    with pytest.raises(InputError, match=r"make it smaller|not an image that can be read"):
        data.x_train[torch.arange(4)]


def test_a_label_that_no_network_has_is_named(tmp_path):
    images, labels = np.zeros((4, 8, 8, 1), np.uint8), np.array([0, 1, 2, 10**12])
    path = tmp_path / "odd.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    with pytest.raises(InputError, match="has the label 1000000000000"):
        load_data(f"npz:{path}")
