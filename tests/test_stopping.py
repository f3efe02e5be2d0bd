"""Full disks and signals: one sentence, the right exit code, and nothing half left behind."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from slimnet import cli
from slimnet.cli.stopping import Stopped, farewell, stoppable
from slimnet.models import MODELS

FULL = """
import os, resource, signal, sys
from pathlib import Path
from slimnet import cli

def run(command):
    try:
        cli.main(command.split())
    except SystemExit as stopped:
        print(f"{command.split()[0]}: {stopped.code}", flush=True)

commands = sys.argv[1:]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
run("prune m.pt --ratio 0.5 --no-verify -o s.pt")
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
for command in commands:
    run(command)
"""
COMMANDS = [
    "prune m.pt --ratio 0.5 --no-verify -o old.pt",
    "prune m.pt --ratio 0.5 --no-verify -o old.pt2",
    "prune m.pt --ratio 0.5 --no-verify -o old.safetensors",
    "export s.pt old.onnx --onnx --no-latency",
    "export s.pt old.pt2 --pt2",
    "inspect m.pt --graph old.svg",
    "sensitivity m.pt --points 1 -o old.html",
    "sparsify m.pt --data digits --train-images 16 --test-images 16 --epochs 1 -o old.pth",
    "compare m.pt --data digits --train-images 16 --test-images 16 --epochs 1 --seeds 1 "
    "--regime finetune --no-time -o study",
]


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    torch.save(MODELS["digits_vgg"].make().state_dict(), tmp_path / "m.pt")
    return tmp_path


def process(folder, *arguments, **options):
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **options,
    )


def test_a_full_disk_is_one_sentence_from_every_command_that_writes(folder):
    old = {
        f"old.{ending}": b"old" for ending in ("pt", "pt2", "safetensors", "onnx", "svg", "html")
    }
    old["old.safetensors"] = b"old"
    for name, content in old.items():
        (folder / name).write_bytes(content)
    told, _ = process(folder, "-c", FULL, *COMMANDS).communicate(timeout=280)
    assert "Traceback" not in told
    lines = [line for line in told.splitlines() if line.startswith("slimnet: ")]
    codes = [line for line in told.splitlines() if line.endswith((": 0", ": 2", ": 1"))]
    assert codes == ["prune: 0", *(f"{command.split()[0]}: 2" for command in COMMANDS)], told
    assert len(lines) == len(COMMANDS)
    assert all("cannot be written: no space left" in line for line in lines), told
    assert {name: (folder / name).read_bytes() for name in old} == old
    left = {path.name for path in folder.iterdir()} - old.keys()
    assert left == {"m.pt", "s.pt", "study"}
    assert not list((folder / "study" / "cells").iterdir())


TRAINING = "sparsify m.pt --data digits --train-images 256 --epochs 500 --threads 1 -o sparse.pt"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_training_with_a_word_how_to_go_on(number, code, folder):
    started = process(folder, "-m", "slimnet", *TRAINING.split(), "--device", "cpu")
    while started.poll() is None and not (folder / "sparse.pt.training").exists():
        time.sleep(0.01)
    started.send_signal(number)
    told, _ = started.communicate(timeout=120)
    assert started.returncode == code, told
    assert told.splitlines()[-1] == (
        "slimnet: stopped; the last full epoch is kept, and the same command goes on from there"
    )
    assert "Traceback" not in told
    assert {path.name for path in folder.iterdir()} == {"m.pt", "sparse.pt.training"}


def test_every_signal_is_told_apart_and_handed_back():
    codes = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
    before = [signal.getsignal(number) for number in codes]
    for number, code in codes.items():
        with pytest.raises(Stopped) as stopped, stoppable():
            signal.raise_signal(number)
        assert stopped.value.code == code
    assert [signal.getsignal(number) for number in codes] == before


def test_a_signal_that_is_ignored_or_handled_stays_so():
    heard = []
    kept = signal.signal(signal.SIGTERM, lambda *_: heard.append("own"))
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGTERM, kept)
        signal.signal(signal.SIGHUP, ignored)
    assert heard == ["own"]


def test_another_thread_takes_no_signals():
    found = []

    def work():
        with stoppable():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


def test_every_command_says_what_is_left():
    for command in cli.COMMANDS:
        assert farewell(command).startswith("stopped; ")
    assert "the same command goes on" in farewell("compare")
    assert farewell("prune") == "stopped; no file was left half written"
