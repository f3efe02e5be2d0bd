"""Blocks compete with channels: what does least harm after a repair leaves, measured."""

import pytest
import torch
from test_repair import Stage

import slimnet
from slimnet.cli import main
from slimnet.errors import InputError, PruneError
from slimnet.models import MODELS
from slimnet.network import Network
from slimnet.progress import not_shown
from slimnet.repairs import reestimated
from slimnet.repairs.rivals import Rival, contest
from slimnet.samples import Samples

drawn = torch.Generator().manual_seed(0)
IMAGES = torch.randn(96, 3, 8, 8, generator=drawn) + 2 * torch.randn(96, 3, 1, 1, generator=drawn)


@pytest.fixture
def model():
    """Blocks 1 and 2 add next to nothing; all the others' channels count."""
    torch.manual_seed(0)
    model = reestimated(Network.of(Stage(4).eval()), IMAGES, 32).model.eval()
    with torch.no_grad():
        for block in (1, 2):
            model.blocks[block].bn2.weight.mul_(1e-3)
    return model


def pruned(model, **options):
    return slimnet.prune(
        model, (IMAGES[:1],), data=IMAGES, drop_blocks="auto", align=None, **options
    )


def test_blocks_leave_that_do_next_to_nothing(model):
    slim = pruned(model, macs=0.55)
    assert [block.name for block in slim.plan.blocks] == ["blocks.1", "blocks.2"]
    assert (
        slim.certificate is not None and slim.plan.after["macs"] <= 0.55 * slim.plan.before["macs"]
    )
    assert "blocks competed with channels, 2 leave" in slim.plan.notes[0]


def test_blocks_stay_where_channels_are_redundant():
    torch.manual_seed(0)
    model = reestimated(Network.of(Stage(4).eval()), IMAGES, 32).model.eval()
    with torch.no_grad():
        for block in model.blocks:  # half of the inner channels are read by nobody
            block.conv2.weight[:, 8:] = 0
    slim = pruned(model, macs=0.7, repair=True)
    assert not slim.plan.blocks and "0 leave" in slim.plan.notes[0]
    with torch.no_grad():
        assert torch.allclose(slim.model(IMAGES), model(IMAGES), atol=1e-5)


def test_blocks_leave_where_no_cut_of_channels_alone_meets_the_budget(model):
    """What keeps all channels leaves only blocks to go."""
    slim = pruned(model, macs=0.6, keep=("*",))
    assert len(slim.plan.blocks) >= 2
    with pytest.raises(PruneError, match="cannot be met"):
        pruned(model, macs=0.01, keep=("*",))


def test_numbers_between_those_tried_first_are_tried(model):
    names = [f"blocks.{n}" for n in range(4)]
    errors = {0: 5.0, 1: 4.0, 2: 3.0, 3: 2.0, 4: 9.0}
    network, asked = Network.of(model), []
    rivals = [Rival(name, network, 1.0) for name in names]

    def cut(blocks):
        asked.append(len(blocks))
        raise PruneError(str(errors[len(blocks)]))

    with pytest.raises(PruneError, match="5"):
        contest(network, rivals, 4.0, cut, Samples(IMAGES), watch=not_shown)
    assert asked == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ratio": 0.5}, "a ratio counts channels alone"),
        ({"macs": 0.5, "data": None}, "needs images"),
        ({}, "give exactly one budget"),
    ],
)
def test_what_cannot_compete(model, options, words):
    with pytest.raises(InputError, match=words):
        slimnet.prune(model, (IMAGES[:1],), **{"data": IMAGES, "drop_blocks": "auto", **options})


def test_the_command_line(tmp_path, capsys):
    torch.manual_seed(0)
    dense, slim = tmp_path / "dense.pt", tmp_path / "slim.pt"
    torch.save(MODELS["digits_resnet"].make().state_dict(), dense)
    words = "--data digits --samples 64 --macs 0.5 --drop-blocks auto -o"
    with pytest.raises(SystemExit) as ended:
        main(["prune", str(dense), *words.split(), str(slim)])
    said = capsys.readouterr()
    assert not ended.value.code, said.err
    assert "blocks competed with channels" in said.out and slim.exists()
