"""One flipped bit anywhere in any file that slimnet writes: one sentence, or the same numbers."""

import dataclasses
import json
import logging
import random
from pathlib import Path

import pytest
import torch
from torch import nn

import slimnet
from slimnet.demo import _restored
from slimnet.digest import digest
from slimnet.errors import InputError
from slimnet.export import export_pt2
from slimnet.files.slim_file import read_slim, record_of
from slimnet.files.tensors_file import write_state as write_tensors_of
from slimnet.files.tensors_file import write_tensors
from slimnet.models import MODELS
from slimnet.network import Network
from slimnet.networks.payload import load_payload
from slimnet.sparsity.training import Recipe, sparsify
from slimnet.study import (
    Candidate,
    Facts,
    FolderStore,
    Study,
    read_results,
    run_study,
    write_results,
)
from slimnet.study.budget import ratios
from slimnet.tasks.data import load_data
from slimnet.train import Schedule
from slimnet.train.checkpoint import write_state

FLIPS = 120


@pytest.fixture(scope="module")
def data():
    return load_data("digits").limited(train=32, test=16)


class Net(nn.Module):
    """Of no known architecture: its program lies in the file."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3))
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


IMAGE = (torch.randn(2, 1, 8, 8),)


def slim_of(path):
    artifact = read_slim(path)
    numbers = {
        name: tensor.clone() for name, tensor in Network.of(artifact.model()).tensors.items()
    }
    return digest([numbers, artifact.plan.to_json(), artifact.trained, artifact.class_name])


def built_in(folder, data):
    torch.manual_seed(0)
    model = MODELS["digits_vgg"].make().eval()
    pruned = slimnet.prune(model, (torch.zeros(1, 1, 8, 8),), ratio=0.5, verify=False)
    return slimnet.save(pruned, folder / "slim.pt", "slimnet:digits_vgg"), slim_of


def own(folder, data):
    pruned = slimnet.prune(Net().eval(), IMAGE, ratio=0.5, verify=False)
    return slimnet.save(pruned, folder / "own.pt"), slim_of


def program(folder, data):
    pruned = slimnet.prune(Net().eval(), IMAGE, ratio=0.5, verify=False)
    artifact = read_slim(slimnet.save(pruned, folder / "own.pt"))
    export_pt2(pruned.model, IMAGE, folder / "slim.pt2", extra=record_of(artifact))
    return folder / "slim.pt2", slim_of


def tensors(folder, data):
    built_in(folder, data)
    return write_tensors(read_slim(folder / "slim.pt"), folder / "slim.safetensors"), slim_of


def tensors_alone(folder, data):
    path = write_tensors_of(Net(), folder / "net.safetensors")
    return path, lambda path: digest([(n, t.tolist()) for n, t in load_payload(path).items()])


def state(folder, data):
    write_state(Net(), folder / "sparse.pt")
    return folder / "sparse.pt", lambda path: digest(load_payload(path))


STUDY = Study(ratios(0.5), ("l1",), ("finetune",), (0,), Schedule(epochs=1, lr=0.01, batch=16))


def tiny():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 10))
    return Candidate(model, Facts(592, 610))


def ran(folder, data):
    return run_study(STUDY, lambda cut: tiny(), tiny(), data, folder, device="cpu")


def results(folder, data):
    path = write_results(ran(folder, data), folder)
    return path, read_results


@pytest.mark.parametrize("kind", [built_in, own, program, tensors, tensors_alone, state, results])
def test_a_flipped_bit_is_refused_or_harmless(kind, tmp_path, data):
    path, read = kind(tmp_path, data)
    whole, before = path.read_bytes(), read(path)
    drawn = random.Random(0)
    ends = [*range(40), *(len(whole) - 1 - n for n in range(40))]
    places = [*ends, *(drawn.randrange(len(whole)) for _ in range(FLIPS))]
    refused = 0
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << drawn.randrange(8)
        path.write_bytes(flipped)
        try:
            assert read(path) == before, place
        except InputError as error:
            assert len(str(error).splitlines()) == 1
            refused += 1
    assert refused > FLIPS / 2
    path.write_bytes(whole)
    assert read(path) == before


def spoil(path, place=0.5, bit=1):
    raw = bytearray(path.read_bytes())
    raw[int(len(raw) * place)] ^= bit
    path.write_bytes(raw)


@pytest.mark.parametrize("how", ["flipped", "truncated", "empty", "foreign", "folder"])
def test_a_damaged_cell_is_set_aside_and_run_again(how, tmp_path, data, caplog):
    expected = ran(tmp_path, data)
    cell = expected.records[1].cell
    path = tmp_path / "cells" / f"{cell.id}.json"
    whole = path.read_bytes()
    if how == "flipped":
        spoil(path, whole.index(b'"accuracy"') / len(whole) + 14 / len(whole))
    elif how == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes({"truncated": whole[:99], "empty": b"", "foreign": b"[1]"}[how])
    with caplog.at_level(logging.WARNING):
        again = ran(tmp_path, data)
    assert [r.metrics for r in again.records] == [r.metrics for r in expected.records]
    (said,) = caplog.messages
    assert said == (
        f"{path} is damaged: it is kept as {path.name}.damaged, and the cell (l1, ratio 0.5, "
        "finetune, seed 0) is run again"
    )
    caplog.clear()
    assert ran(tmp_path, data) == again and not caplog.messages
    assert (tmp_path / "cells" / f"{path.name}.damaged").exists()


def test_every_digit_of_a_cell_is_under_its_digest(tmp_path, data, caplog):
    """Also where the JSON is still a record: an accuracy of 13 is as good as one of 12."""
    caplog.set_level(logging.CRITICAL)
    record = ran(tmp_path, data).records[1]
    path, store = tmp_path / "cells" / f"{record.cell.id}.json", FolderStore(tmp_path)
    whole = path.read_bytes()
    for place, byte in enumerate(whole):
        if chr(byte).isdigit():
            path.write_bytes(whole[:place] + bytes([byte ^ 1]) + whole[place + 1 :])
            found = store.read(record.cell)
            if found is None:
                assert not path.exists()
            else:  # the last digit of a number that needs one less: the same number
                assert found == record


def test_cells_of_another_version_are_run_again_and_stay(tmp_path, data, caplog):
    first = ran(tmp_path, data)
    record = first.records[1]
    cell = dataclasses.replace(record.cell, version="0.0.9")
    older = dataclasses.replace(record, cell=cell, metrics={"accuracy": 1.0})
    (tmp_path / "cells" / f"{record.cell.id}.json").unlink()
    FolderStore(tmp_path).write(older)
    with caplog.at_level(logging.WARNING):
        again = ran(tmp_path, data)
    assert again.records[1].metrics == record.metrics
    assert caplog.messages == [
        "1 of the cells were finished by slimnet 0.0.9 and are run again: numbers of two versions "
        f"are not compared. They stay in {tmp_path}: that version goes on with them"
    ]
    assert FolderStore(tmp_path).read(older.cell) == older


RECIPE = Recipe("slimming", 0.05, Schedule(epochs=2, lr=0.05, batch=16))


class Stopped(BaseException):
    pass


def trained(data, file, recipe=RECIPE, stop=False):
    def progress(part):
        if stop and part > 0.5:
            raise Stopped

    torch.manual_seed(0)
    model = MODELS["digits_vgg"].make().eval()
    example = (torch.zeros(1, 1, 8, 8),)
    return sparsify(model, example, data, recipe, checkpoint=file, device="cpu", progress=progress)


def numbers_of(sparse):
    return digest({name: tensor.clone() for name, tensor in sparse.model.state_dict().items()})


def test_a_damaged_training_is_set_aside_and_starts_anew(tmp_path, data, caplog):
    file = Path(tmp_path / "sparse.pt.training")
    with pytest.raises(Stopped):
        trained(data, file, stop=True)
    whole = file.read_bytes()
    resumed = trained(data, file)
    assert resumed.resumed == 1 and not caplog.messages
    file.write_bytes(whole)
    for place in (0.3, 0.7):
        file.write_bytes(whole)
        spoil(file, place)
        caplog.clear()
        again = trained(data, file)
        if again.resumed:  # between the parts of the archive, where nothing is
            assert not caplog.messages
        else:
            assert caplog.messages[0].startswith(f"{file} is damaged: it is kept as {file.name}.da")
        assert numbers_of(again) == numbers_of(resumed)
    assert (tmp_path / "sparse.pt.training.damaged").exists()


def test_another_training_is_set_aside_and_not_overwritten(tmp_path, data, caplog):
    file = Path(tmp_path / "sparse.pt.training")
    with pytest.raises(Stopped):
        trained(data, file, stop=True)
    whole = file.read_bytes()
    other = dataclasses.replace(RECIPE, amount=0.06, seed=1)
    assert trained(data, file, other).resumed == 0
    assert caplog.messages == [
        f"{file} is of a training with other strength and seed: it is kept as {file.name}.other, "
        "and the training starts anew"
    ]
    assert (tmp_path / f"{file.name}.other").read_bytes() == whole


def test_cells_of_before_they_knew_their_version_stay_and_are_run_again(tmp_path, data, caplog):
    record = ran(tmp_path, data).records[1]
    path = tmp_path / "cells" / f"{record.cell.id}.json"
    fields = json.loads(path.read_text())
    del fields["digest"], fields["cell"]["version"]
    (tmp_path / "cells" / "0123456789abcdef.json").write_text(json.dumps(fields))
    path.unlink()
    assert ran(tmp_path, data).records[1].metrics == record.metrics
    assert "1 of the cells were finished by slimnet 0.1.0 or earlier" in caplog.text
    assert len(list((tmp_path / "cells").iterdir())) == 3


def test_a_damaged_network_of_the_demo_is_set_aside_and_trained_again(tmp_path, caplog):
    kept = tmp_path / "dense.pt"
    write_state(Net(), kept)
    assert _restored(Net(), kept) and not caplog.messages
    spoil(kept)
    assert not _restored(Net(), kept)
    assert caplog.messages == [
        f"{kept} is damaged: it is kept as dense.pt.damaged, and the network is trained again"
    ]
    assert not _restored(Net(), kept) and len(caplog.messages) == 1
