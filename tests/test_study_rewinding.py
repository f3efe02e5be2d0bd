"""Regimes that go back, held to brute force: the same weights to the bit, by hand."""

import dataclasses

import pytest
import torch
from small_study import IMAGE, SPEC, STUDY, candidate, net, ran

import slimnet
from slimnet.errors import InputError
from slimnet.rewinding import Rewinds, train_dense
from slimnet.study import Candidate
from slimnet.study.cells import cells, mask_of
from slimnet.study.masked import Masked, masked_candidate
from slimnet.train import Callback, Moment, Schedule, train

BASE = Schedule(epochs=4, lr=0.1, batch=50)
REGIMES = ("ticket", "weight-rewind@2", "lr-rewind", "lr-rewind@3", "supermask")
BACK = dataclasses.replace(
    STUDY, criteria=("l1",), regimes=(*REGIMES, "scratch-e"), seeds=(0,), base=BASE
)


@pytest.fixture(scope="module")
def data():
    return SPEC.load()


@pytest.fixture(scope="module")
def history(data, tmp_path_factory):
    rewinds = Rewinds(tmp_path_factory.mktemp("history"))
    train_dense(net(), data, BASE, rewinds=rewinds, epochs=(0, 2, 4), device="cpu")
    return rewinds


def dense_at(history, epoch):
    model = net()
    history.write_into(model, epoch)
    return model.eval()


@pytest.fixture(scope="module")
def done(data, history, tmp_path_factory):
    """The study, with all its networks kept."""
    trained = dense_at(history, 4)
    dense = Candidate(trained, candidate().facts)

    def cut(asked):
        how = {**asked.budget.options, "criterion": asked.criterion}
        pruned = slimnet.prune(trained, IMAGE, align=None, **how)
        return slimnet.study.slim_candidate(pruned)

    folder = tmp_path_factory.mktemp("study")
    results = ran(data, folder, BACK, cut, dense, history=history, keep="all")
    return folder, {one.cell.regime: (folder / one.file) for one in results.kept}, results


@pytest.mark.parametrize(
    ("regime", "starts_at", "epoch"),
    [("ticket", 0, 0), ("weight-rewind@2", 2, 2), ("lr-rewind", 4, 0), ("lr-rewind@3", 4, 3)],
)
def test_the_weights_are_those_that_hands_get(data, history, done, regime, starts_at, epoch):
    plan = slimnet.prune(dense_at(history, 4), IMAGE, ratio=0.5, criterion="l1", align=None)
    slim = slimnet.apply(plan, dense_at(history, starts_at))
    # the rest of the schedule, by hand: drops after half and three quarters of the four epochs
    left = [m for m in (2, 3) if m > epoch]
    schedule = Schedule(
        epochs=4 - epoch,
        lr=0.1 * 0.1 ** (2 - len(left)),
        milestones=tuple((m - epoch) / (4 - epoch) for m in left),
        batch=50,
    )
    train(slim, data, schedule, seed=0, device="cpu")
    kept = slimnet.load(done[1][regime], into=dense_at(history, 4)).state_dict()
    for name, tensor in slim.state_dict().items():
        assert torch.equal(tensor, kept[name]), name


def test_a_supermask_is_the_first_weights_cut_and_not_trained(history, done):
    plan = slimnet.prune(dense_at(history, 4), IMAGE, ratio=0.5, criterion="l1", align=None)
    slim = slimnet.apply(plan, dense_at(history, 0))
    kept = slimnet.load(done[1]["supermask"], into=dense_at(history, 4)).state_dict()
    assert all(torch.equal(x, kept[name]) for name, x in slim.state_dict().items())
    (record,) = (r for r in done[2].records if r.cell.regime == "supermask")
    assert (record.epochs, record.samples) == (0, 0)


def test_the_studys_folder_is_all_that_is_read(history, done):
    assert sorted(Rewinds(done[0] / "history").files) == [0, 2]


def test_other_weights_make_other_cells_of_those_regimes_alone(data, history, tmp_path):
    def ids(rewinds):
        listed = cells(BACK, net(), data, rewinds)
        return {cell.regime: cell.id for cell in listed}

    other = Rewinds(tmp_path)
    train_dense(net(), data, BASE, seed=1, rewinds=other, epochs=(0, 2), device="cpu")
    one, two = ids(history), ids(other)
    assert {name for name in one if one[name] != two[name]} == {"weight-rewind@2"}


def test_what_nobody_kept_is_refused_before_anything_is_made(data, history, tmp_path):
    with pytest.raises(InputError, match="ticket goes back to epoch 0 of the dense network's"):
        ran(data, tmp_path, BACK)
    late = dataclasses.replace(BACK, regimes=("weight-rewind@3",))
    with pytest.raises(InputError, match="no weights of epoch 3"):
        ran(data, tmp_path, late, history=history)
    with pytest.raises(InputError, match="going back to epoch 4 of a schedule of 4"):
        dataclasses.replace(BACK, regimes=("weight-rewind@4",))
    assert list(tmp_path.iterdir()) == []


MASKED = dataclasses.replace(
    STUDY,
    criteria=("unstructured", "unstructured-movement"),
    regimes=("ticket", "ticket-frozen", "ticket-toward-zero", "supermask", "finetune"),
    seeds=(0,),
    base=BASE,
)


@pytest.fixture(scope="module")
def masked(data, history, tmp_path_factory):
    trained = dense_at(history, 4)
    dense, folder = Candidate(trained, candidate().facts), tmp_path_factory.mktemp("masked")

    def mask(cut):
        of = Masked(trained, mask_of(cut.criterion), cut.budget.amount, history.state(0))
        return masked_candidate(dense_at(history, 4), of, 74 * 32)

    results = ran(data, folder, MASKED, mask, dense, history=history, keep="all")
    return {(x.cell.criterion, x.cell.regime): folder / x.file for x in results.kept}


@pytest.mark.parametrize("criterion", MASKED.criteria)
@pytest.mark.parametrize("regime", MASKED.regimes)
def test_a_masked_network_is_what_hands_make_it(data, history, masked, criterion, regime):
    """Scores, masks and what is held written out; the training masks after each step."""
    first, last = (dict(dense_at(history, epoch).named_parameters()) for epoch in (0, 4))
    layers = ["1.weight", "4.weight"]
    moved = criterion == "unstructured-movement"
    scores = torch.cat(
        [(last[n] - first[n] if moved else last[n]).detach().abs().flatten() for n in layers]
    )
    threshold = scores.sort().values[round(0.5 * len(scores))]
    parts = (scores >= threshold).split([last[n].numel() for n in layers])
    masks = {n: part.view_as(last[n]) for n, part in zip(layers, parts, strict=True)}
    shrunk = {n: last[n].abs() < first[n].abs() for n in layers}
    at = {
        "ticket-frozen": first,
        "ticket-toward-zero": {n: first[n] * ~shrunk[n] for n in layers},
    }.get(regime, {n: torch.zeros_like(last[n]) for n in layers})

    class ByHand(Callback):
        def on_start(self, moment):
            self.on_step_end(moment)

        @torch.no_grad()
        def on_step_end(self, moment):
            for name, weight in moment.model.named_parameters():
                if name in masks:
                    weight.copy_(torch.where(masks[name], weight, at[name]))

    model = dense_at(history, 4 if regime == "finetune" else 0)
    if regime == "supermask":
        ByHand().on_step_end(Moment(model, None, 0, 0))
    else:
        short = Schedule(epochs=1, lr=0.01, batch=50)
        schedule = short if regime == "finetune" else BASE
        train(model, data, schedule, seed=0, device="cpu", callbacks=[ByHand()])
    kept = slimnet.load(masked[criterion, regime], into=dense_at(history, 4)).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, kept[name]), name


def test_what_only_masks_can_do_is_refused_for_cuts():
    with pytest.raises(InputError, match="l1 cuts channels, and these regimes say at what"):
        dataclasses.replace(STUDY, regimes=("ticket-frozen",))
    both = dataclasses.replace(
        STUDY, criteria=("l1", "unstructured"), regimes=("ticket-frozen", "finetune")
    )
    assert both.regimes_of("l1") == ("finetune",)
    assert both.epochs_needed() == {0: "ticket-frozen"}
    with pytest.raises(InputError, match="unknown mask criterion 'nothing'"):
        dataclasses.replace(STUDY, criteria=("unstructured-nothing",))
