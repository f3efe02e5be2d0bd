"""A cut as a text: unedited it makes the same cut again, and what is no such text is refused."""

import json

import pytest
import torch

import slimnet
from slimnet.errors import InputError
from slimnet.models import MODELS
from slimnet.output import write_json
from slimnet.planning.review import read_review, review_of

IMAGE = (torch.zeros(1, 1, 8, 8),)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return MODELS["digits_resnet"].make().eval()


@pytest.mark.parametrize(
    "asked",
    [
        {"ratio": 0.4},
        {"macs": 0.5, "steps": 3, "align": None},
        {"macs": 0.3, "drop_blocks": 1},
    ],
)
def test_unedited_it_makes_the_same_cut(net, tmp_path, asked):
    pruned = slimnet.prune(net, IMAGE, **asked)
    path = tmp_path / "plan.json"
    write_json(path, review_of(pruned.plan, pruned.inspection.groups))
    again = slimnet.prune(net, IMAGE, **read_review(path))
    assert again.plan.removed == pruned.plan.removed and pruned.plan.removed
    assert [x.name for x in again.plan.blocks] == [x.name for x in pruned.plan.blocks]


ROW = {"layers": ["a"], "channels": "0-3", "keep": "0-1"}
WRONG = {
    "is no JSON": "{",
    "is no plan to apply: .*KeyError.'groups'": {},
    "is no plan to apply: .*AttributeError": [],
    "is no plan to apply: .*KeyError.'keep'": {"groups": [ROW, {"layers": "a", "channels": "0"}]},
    "is no plan to apply: .*IndexError": {"groups": [{**ROW, "layers": []}]},
    "drop_blocks is no list": {"groups": [ROW], "drop_blocks": "layer1.0"},
    "outputs is no list": {"groups": [ROW], "outputs": 3},
    "a:0-3: keep True is no number": {"groups": [{**ROW, "keep": True}]},
    "'' does not name channels": {"groups": [{**ROW, "keep": ""}]},
}


@pytest.mark.parametrize("words", WRONG)
def test_what_is_no_such_text_is_refused(tmp_path, words):
    path, content = tmp_path / "plan.json", WRONG[words]
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError, match=words):
        read_review(path)


def test_a_folder_or_a_file_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no plan: it is no file"):
        read_review(tmp_path)
    (tmp_path / "plan.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is no plan that can be read"):
        read_review(tmp_path / "plan.json")
