"""Where results go: refused before the work, whole or not at all, on whatever the path is."""

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import slimnet.output
import slimnet.temporary
from slimnet.errors import InputError
from slimnet.output import (
    check_writable,
    in_memory,
    make_folder,
    replacing,
    replacing_all,
    scratch,
    set_aside,
    write_bytes,
    write_text,
    write_torch,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    target = tmp_path / "out.pt"
    target.write_text("old")
    with pytest.raises(KeyError), replacing(target) as temporary:
        temporary.write_text("half")
        raise KeyError("stopped")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_success_replaces_the_old_file(tmp_path):
    target = tmp_path / "out.pt"
    target.write_text("old")
    with replacing(target) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_of_the_writer_is_a_refusal(tmp_path):
    with pytest.raises(InputError, match="cannot be written: no space"), replacing(tmp_path / "x"):
        raise RuntimeError("no space\nand a stack")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_known_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="there is no folder"):
        check_writable(tmp_path / "file" / "x.pt")
    with pytest.raises(InputError, match="is a folder: name a file"):
        check_writable(tmp_path)
    with pytest.raises(InputError, match="cannot be made"):
        make_folder(tmp_path / "file" / "folder")
    with pytest.raises(InputError, match="cannot be written: File name too long"):
        check_writable(tmp_path / ("x" * 300))
    check_writable(tmp_path / "x.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# ------------------------------------------------------------------------------ special places


def test_devices_pipes_and_sockets_are_refused_and_stay(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)  # a socket's path may not be long
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("socket")
        (tmp_path / "link").symlink_to("pipe")
        cases = {
            "pipe": "is a pipe: name a file",
            "link": "is a pipe: name a file",
            "socket": "is a socket: name a file",
            "/dev/fd/1": "is a stream or a device",
            "/proc/self/fd/1": "is a stream or a device",
            "-": "is a stream or a device",
        }
        for name, why in cases.items():
            for write in (check_writable, lambda path: write_text(path, "x")):
                with pytest.raises(InputError, match=why):
                    write(Path(name))
    for name in ("/dev/null", "/dev/stdout"):  # only asked: a fault here would replace them
        with pytest.raises(InputError, match="is a stream or a device"):
            check_writable(Path(name))
    assert names(tmp_path) == ["link", "pipe", "socket"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_link_stays_and_what_it_names_is_written(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "out.pt").symlink_to("far/real.pt")
    (tmp_path / "all.onnx").symlink_to("far/real.onnx")
    (tmp_path / "loop").symlink_to("loop")
    for text in ("new", "newer"):
        write_text(tmp_path / "out.pt", text)
        assert (tmp_path / "out.pt").is_symlink()
        assert (tmp_path / "far" / "real.pt").read_text() == text
    with replacing_all(tmp_path / "all.onnx") as folder:
        (folder / "all.onnx").write_text("graph")
        (folder / "all.onnx.data").write_text("weights")
    assert names(tmp_path / "far") == ["all.onnx.data", "real.onnx", "real.pt"]
    with pytest.raises(InputError, match="loop cannot be written"):
        check_writable(tmp_path / "loop")
    (tmp_path / "lost").symlink_to("nowhere/x")
    with pytest.raises(InputError, match=r"there is no folder .*nowhere"):
        check_writable(tmp_path / "lost")


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_umask_is_respected_and_never_touched(tmp_path, mask, monkeypatch):
    before = os.umask(mask)
    try:
        monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("other threads see this"))
        write_text(tmp_path / "text", "x")
        write_torch(tmp_path / "tensors", [torch.zeros(1)])
        with replacing_all(tmp_path / "all") as folder:
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            (folder / "all").write_text("x")
    finally:
        monkeypatch.undo()
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o666 & ~mask}


def test_a_name_may_be_long_and_odd(tmp_path):
    for name in ("x" * 250 + ".pt", "a b'\"*[?]\n.pt", "é\udcff.pt", ".hidden", "--help"):
        write_text(tmp_path / name, "x\udcff")
        assert (tmp_path / name).read_text() == "x\\udcff"
    assert len(names(tmp_path)) == 5


# ------------------------------------------------------------------------------------ full disks

FULL = """
import resource, signal, sys
import torch
from pathlib import Path
from slimnet import output
import slimnet.output
import slimnet.temporary
from slimnet.errors import InputError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
tensors, target = [torch.zeros(10_000), torch.zeros(3)], Path(sys.argv[1])
def all_parts():
    with output.replacing_all(target) as folder:
        torch.zeros(10_000).numpy().tofile(folder / "a.data")
for write in (
    lambda: output.write_text(target, "x" * 30_000),
    lambda: output.write_torch(target, tensors),
    all_parts,
):
    try:
        write()
    except InputError as error:
        print(error)
"""


def python(code, *arguments, **options):
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        **options,
    )


def test_a_full_disk_is_one_sentence_and_the_old_file_stays(tmp_path):
    (tmp_path / "out").write_text("old")
    told, _ = python(FULL, tmp_path / "out").communicate(timeout=120)
    assert len(told.splitlines()) == 3
    for line in told.splitlines():
        assert line.startswith(f"{tmp_path / 'out'} cannot be written: no space left")
    assert names(tmp_path) == ["out"] and (tmp_path / "out").read_text() == "old"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_every_way_of_being_full_says_so(tmp_path, number, monkeypatch):
    def full(descriptor):
        raise OSError(number, "…")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="out cannot be written: no space left"):
        write_torch(tmp_path / "out", {"a": torch.zeros(3)})
    assert not names(tmp_path)


def test_what_goes_wrong_beside_the_writing_keeps_its_name(tmp_path):
    for writing in (scratch(), replacing_all(tmp_path / "out")):
        with pytest.raises(RuntimeError, match="of the network"), writing:
            raise RuntimeError("of the network")
    with pytest.raises(FileNotFoundError), scratch():
        (tmp_path / "missing").read_text()


def test_what_is_needed_for_a_while_goes_with_who_needs_it(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with scratch() as folder:
        (folder / "dense.onnx").write_text("large")
        left = names(tmp_path)
    assert not names(tmp_path)
    (tmp_path / left[0]).mkdir()
    (tmp_path / left[0] / "dense.onnx").write_text("left by a kill")
    with scratch():
        assert len(names(tmp_path)) == 1 and names(tmp_path) != left
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(InputError, match="gone cannot be written: No such file"), scratch():
        pass


def test_a_writer_that_must_not_fail_writes_to_memory(tmp_path):
    write_bytes(tmp_path / "out", in_memory(lambda file: torch.save({"a": 1}, file)))
    assert torch.load(tmp_path / "out", weights_only=True) == {"a": 1}


# ---------------------------------------------------------------------------------------- litter

HOLDING = """
import sys, time
from pathlib import Path
from slimnet.output import replacing, replacing_all

with replacing(Path(sys.argv[1])) as file, replacing_all(Path(sys.argv[1])) as folder:
    (folder / "part").write_text("x")
    print("there", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_writer_left_goes_and_what_a_living_one_writes_stays(tmp_path):
    target = tmp_path / "out.pt"
    others = {".out.pt.tmp", ".out.pt.0123456789abcdef", ".out.pt2.0123456789abcdef.part"}
    for name in others:
        (tmp_path / name).write_text("a user's own")
    process = python(HOLDING, target)
    try:
        assert process.stdout.readline() == "there\n"
        assert len(names(tmp_path)) == len(others) + 2
        write_text(target, "meanwhile")
        assert len(names(tmp_path)) == len(others) + 3
    finally:
        process.kill()
        process.communicate()
    assert len(names(tmp_path)) == len(others) + 3
    write_text(tmp_path / "other.pt", "x")
    assert len(names(tmp_path)) == len(others) + 4
    write_text(target, "afterwards")
    assert set(names(tmp_path)) == {"out.pt", "other.pt", *others}


def test_two_writers_of_one_file_in_one_process_do_not_disturb_each_other(tmp_path):
    target = tmp_path / "out.pt"
    with replacing(target) as one:
        one.write_text("one")
        with replacing(target) as two:
            two.write_text("two")
        assert target.read_text() == "two"
    assert target.read_text() == "one" and names(tmp_path) == ["out.pt"]


def test_a_stopped_writer_cleans_up(tmp_path):
    process = python(HOLDING, tmp_path / "out.pt", stderr=subprocess.DEVNULL)
    assert process.stdout.readline() == "there\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert not names(tmp_path)


def test_what_is_set_aside_is_never_overwritten(tmp_path):
    aside = []
    for text in ("one", "two", "three"):
        (tmp_path / "cell.json").write_text(text)
        aside.append(set_aside(tmp_path / "cell.json", "damaged"))
    assert [path.name for path in aside] == [
        "cell.json.damaged",
        "cell.json.damaged1",
        "cell.json.damaged2",
    ]
    assert [path.read_text() for path in aside] == ["one", "two", "three"]


def test_a_signal_while_a_temporary_file_leaves_lets_it_leave(tmp_path, monkeypatch):
    remove, calls = slimnet.temporary._remove, []

    def interrupted(path):
        calls.append(path)
        if len(calls) == 1:
            raise KeyboardInterrupt
        remove(path)

    monkeypatch.setattr(slimnet.temporary, "_remove", interrupted)
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "new.txt") as path:
        path.write_text("half")
    assert len(calls) == 2 and list(tmp_path.iterdir()) == [tmp_path / "new.txt"]


@pytest.mark.parametrize("write", range(8))
def test_a_signal_while_torch_writes_is_no_refusal(write, tmp_path, monkeypatch):
    writes, real = [], slimnet.output._Patient.write

    def interrupted(stream, data):
        writes.append(len(data))
        if len(writes) == write + 1:
            raise KeyboardInterrupt
        return real(stream, data)

    monkeypatch.setattr(slimnet.output._Patient, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_torch(tmp_path / "x.pt", {"a": torch.ones(100), "b": torch.ones(200)})
    assert not list(tmp_path.iterdir())
