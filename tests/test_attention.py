"""Which channels meet in an attention, and the narrower heads that change its products least."""

from __future__ import annotations

import micro_attention  # noqa: F401  (fills the table)
import pytest
import torch
import torch.nn.functional as F
from micro import MICRO, Net
from micro_attention import HEADS, fused, merge_heads, split_heads

from slimnet.capture.trace import capture
from slimnet.network import Network
from slimnet.reconstruction.attention import meetings_of, projections
from slimnet.reconstruction.consumers import consumers_of

DOUBLE = torch.float64


def meetings(model, inputs):
    trace = capture(Network.of(model), inputs)
    return meetings_of(trace, {layer.call.index: layer for layer in consumers_of(trace)})


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("width", [1, 4, 7])
def test_no_products_of_so_many_channels_are_nearer(heads, width):
    """All logits of all heads that share keys, as one matrix: its best approximation is known."""
    torch.manual_seed(0)
    keys = torch.randn(50, 8, dtype=DOUBLE) @ torch.randn(8, 8, dtype=DOUBLE)
    queries = torch.randn(heads, 20, 8, dtype=DOUBLE) @ torch.randn(8, 8, dtype=DOUBLE)
    onto, back = projections(keys.mT @ keys, queries.mT @ queries, width)
    assert onto.shape == (width, 8) and back.shape == (heads, width, 8)
    logits = (queries @ keys.mT).flatten(0, 1)
    narrow = ((queries @ back.mT) @ (keys @ onto.mT).mT).flatten(0, 1)
    left_out = torch.linalg.svdvals(logits)[width:]
    torch.testing.assert_close((logits - narrow).norm(), left_out.norm())


def test_keys_that_lie_in_fewer_directions_lose_nothing():
    torch.manual_seed(0)
    keys = torch.randn(50, 3, dtype=DOUBLE) @ torch.randn(3, 8, dtype=DOUBLE)
    queries = torch.randn(1, 20, 8, dtype=DOUBLE)
    onto, back = projections(keys.mT @ keys, queries.mT @ queries, 3)
    narrow = (queries[0] @ back[0].mT) @ (keys @ onto.mT).mT
    torch.testing.assert_close(narrow, queries[0] @ keys.mT)


@torch.no_grad()
def mix(model, meeting):
    """Mix the channels of the left of every head, and undo it on the right."""
    tensors = dict(model.named_parameters())
    left, right = meeting.left, meeting.right
    for row in meeting.left_channels.unique(dim=0):
        turned = torch.linalg.qr(torch.randn(len(row), len(row), dtype=DOUBLE)).Q
        mixing = turned * torch.linspace(0.5, 2, len(row))
        of_rows(tensors, left, row, mixing)
        for channels in meeting.right_channels[(meeting.left_channels == row).all(1)]:
            if meeting.is_of_values:
                weight = tensors[right.weight]
                weight[:, channels] = weight[:, channels] @ torch.linalg.inv(mixing)
            else:
                of_rows(tensors, right, channels, torch.linalg.inv(mixing).mT)


def of_rows(tensors, layer, rows, mixing):
    for name in filter(None, (layer.weight, layer.constants)):
        tensors[name][rows] = mixing @ tensors[name][rows]


ATTENTIONS = {
    "sdpa": 2,
    "sdpa_causal": 2,
    "mha_no_weights": 2,
    "mha_tokens_first": 0,  # whose weights are asked for: products are no attention
    "grouped_query": 2,
    "grouped_query_repeated": 2,
    "encoder": 4,
    "decoder_layer": 2,  # the other attention splits a weight: no single call reads it
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_what_is_mixed_on_one_side_and_undone_on_the_other_changes_nothing(name):
    torch.manual_seed(0)
    model, inputs = MICRO[name].make().eval(), MICRO[name].example()
    found = meetings(model, inputs)
    assert len(found) == ATTENTIONS[name]
    model, inputs = model.double(), tuple(x.double() for x in inputs)
    with torch.no_grad():
        answers = model(*inputs)
    for meeting in found:
        before = model.state_dict()[meeting.left.weight].clone()
        mix(model, meeting)
        assert not torch.equal(model.state_dict()[meeting.left.weight], before)
    with torch.no_grad():
        now = model(*inputs)
    torch.testing.assert_close(now, answers)


def layers_of(model, x):
    return (split_heads(layer(x), model.heads) for layer in (model.q, model.k, model.v))


def normed_queries(m, x):
    q, k, v = layers_of(m, x)
    return m.b(merge_heads(F.scaled_dot_product_attention(F.normalize(q, dim=-1), k, v)))


def queries_returned(m, x):
    q, k, v = layers_of(m, x)
    return m.b(merge_heads(F.scaled_dot_product_attention(q, k, v))), q


def queries_as_keys(m, x):
    q, k, v = layers_of(m, x)
    return m.b(merge_heads(F.scaled_dot_product_attention(q, q, k + v)))


def reversed_for_some(m, x):
    """Half of the tokens meet by other channels."""
    q, k, v = layers_of(m, x)
    q = torch.cat([q[:, :, :3].flip(-1), q[:, :, 3:]], 2)
    return m.b(merge_heads(F.scaled_dot_product_attention(q, k, v)))


def gated(m, x):
    q, k, v = layers_of(m, x)
    return m.b(merge_heads(F.scaled_dot_product_attention(q, k, v)).sigmoid())


@pytest.mark.parametrize(
    ("body", "logits", "values"),
    [
        (fused, 1, 1),
        (normed_queries, 0, 1),
        (queries_returned, 0, 1),
        (queries_as_keys, 0, 0),
        (reversed_for_some, 0, 1),
        (gated, 1, 0),
    ],
)
def test_channels_that_something_else_computes_with_meet_nothing(body, logits, values):
    parts = {k: v for k, v in HEADS.items() if k not in ("a", "example", "layer")}
    model = Net(body, parts).eval()
    found = [meeting.is_of_values for meeting in meetings(model, HEADS["example"]())]
    assert (found.count(False), found.count(True)) == (logits, values)
