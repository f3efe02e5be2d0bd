"""What a file may hold: names, nesting, sizes; and what stays as it was."""

import io
import zipfile

import pytest
import torch

from slimnet import limits
from slimnet.errors import InputError
from slimnet.text import legible

CODE = 'a" + (str(exec("import os")) and "") + "'


@pytest.mark.parametrize(
    "name",
    [
        CODE,
        "a'b",
        "a\\b",
        "a\nb",
        "a\x1b[31mb",
        "a\x00",
        "a`b",
        "a{b}",
        "\u202egnp",
        "a\x7f",
        "x" * 9999,
    ],
    ids=ascii,
)
def test_a_name_that_could_end_a_string_or_move_a_cursor_is_refused(name):
    with pytest.raises(InputError):
        limits.checked_name(name)
    with pytest.raises(InputError):
        limits.checked_key(name)
    with pytest.raises(InputError):
        limits.checked_path(f"features.{name}.weight")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "layer1.0.conv1.weight",
            "features.3x3 conv.weight",
            "(12)",
            "(input 0)",
            "größe.比.weight",
        ),
        *("encoder/layer_0/attention:0", "parametrizations.weight.original0", "a[red]b", "x@2"),
    ],
)
def test_names_of_networks_are_names(name):
    assert limits.checked_path(name) == name


@pytest.mark.parametrize("name", ["a..b", ".a", "a.", ".".join("a" * 60), 3, None])
def test_a_path_is_of_parts(name):
    with pytest.raises(InputError):
        limits.checked_path(name)


def laughing(depth):
    value = ["ha"]
    for _ in range(depth):
        value = [value, value]
    return value


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def test_shared_lists_are_counted_wherever_they_stand():
    limits.check_plain(laughing(10), "it")
    with pytest.raises(InputError, match=r"it holds more than 30,000,000 values"):
        limits.check_plain({"a": laughing(50)}, "it")


def test_nesting_ends_somewhere():
    limits.check_plain(nested(limits.DEEPEST - 1), "it")
    for deep in (nested(5000), {"a": nested(limits.DEEPEST)}):
        with pytest.raises(InputError, match="it is nested more than 60 deep"):
            limits.check_plain(deep, "it")
    with pytest.raises(InputError, match="it is nested"):
        limits.from_json("[" * 100_000 + "]" * 100_000, "it")
    own = []
    own.append(own)
    with pytest.raises(InputError, match="it is nested"):
        limits.check_plain(own, "it")


def test_a_tensor_shows_what_it_stores():
    weight = torch.zeros(100)
    limits.check_tensors({"a": weight, "b": weight.view(10, 10), "c": weight[:50]}, "it", 400)
    limits.check_tensors({"ids": torch.zeros(1, 1).expand(1, 512)}, "it", 10)
    with pytest.raises(InputError, match="repeats the numbers that it stores too often"):
        limits.check_tensors([{"a": torch.zeros(1).expand(10**12)}], "it", 1000)
    with pytest.raises(InputError, match="too often"):
        many = {str(n): torch.zeros(10**4).expand(10**4, 10**4)[n:] for n in range(10)}
        limits.check_tensors(many, "it", 10**6)
    with pytest.raises(InputError, match="fewer numbers"):
        limits.check_tensors({"a": torch.zeros(100)}, "it", 100)
    with pytest.raises(InputError, match="without numbers"):
        limits.check_tensors({"a": torch.zeros(100, device="meta")}, "it", 1000)


def test_a_truth_value_is_true_or_false():
    odd = torch.frombuffer(bytearray([0, 1, 255]), dtype=torch.bool)
    limits.check_tensors([odd[:2].clone()], "it", 10)
    with pytest.raises(InputError, match="neither true nor false"):
        limits.check_tensors([odd], "it", 10)


@pytest.mark.parametrize("shape", [(1, 10**9), (10**30,), (-1, 4), (2.0,), ("3",), (True,)])
def test_an_input_has_a_shape_that_fits(shape):
    with pytest.raises(InputError):
        limits.check_example([(shape, torch.float32)])


def test_usual_inputs_fit():
    limits.check_example([((200, 3, 224, 224), torch.float32), ((), torch.float64)])


def zipped(compression, *names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name in names:
            archive.writestr(name, bytes(10**6))
    return zipfile.ZipFile(file).infolist(), len(file.getvalue())


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_of_torch_unpacks_to_itself():
    limits.check_stored(*zipped(zipfile.ZIP_STORED, "a", "b"), "it")
    for trouble, archive in {
        "is compressed": zipped(zipfile.ZIP_DEFLATED, "a"),
        "have one name": zipped(zipfile.ZIP_STORED, "a", "A"),
    }.items():
        with pytest.raises(InputError, match=trouble):
            limits.check_stored(*archive, "it")
    members, size = zipped(zipfile.ZIP_STORED, "a", "b")
    with pytest.raises(InputError, match="overlap"):
        limits.check_stored(members, size // 2, "it")


def test_a_packed_archive_unpacks_to_what_images_do():
    members, size = zipped(zipfile.ZIP_DEFLATED, "a")
    limits.check_packed(members, size, "it")
    for member in members:
        member.file_size = 10**11
    with pytest.raises(InputError, match="would unpack from"):
        limits.check_packed(members, size, "it")


def test_a_text_for_a_terminal_spells_its_controls_out():
    assert legible("a\x1b[31mb\x07\r\u202e é 比 [red]\n") == (
        "a\\x1b[31mb\\x07\\r\\u202e é 比 [red]\n"
    )
