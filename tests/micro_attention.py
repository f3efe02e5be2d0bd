"""Micro networks of attention, of transformers and of sizes that attributes hold.

More rows of :mod:`micro`: stem ``a``, the construct, tail ``b``; sequences are [batch, tokens,
channels]. A row that ends in ``_heads`` loses whole heads, the others a part of every head's width
(or of what else the attribute counts).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from micro import Net, buffer, conv, image, lin, row, seq, tokens, weight
from torch import Tensor, nn

SEQUENCE = {"a": lin(8, 32), "b": lin(32, 5), "example": tokens}
MAP = {"a": conv(3, 32), "b": conv(32, 5), "example": image}


def norm(width: int, **options: Any) -> partial:
    return partial(nn.LayerNorm, width, **options)


def rms(width: int) -> partial:
    return partial(nn.RMSNorm, width)


def causal(n: int) -> Tensor:
    return torch.full((n, n), -math.inf, dtype=torch.float64).triu(1)


# ---------------------------------------------------------------------------- nn.MultiheadAttention


def mha(width: int = 32, heads: int = 4, **options: Any) -> partial:
    return partial(nn.MultiheadAttention, width, heads, **{"batch_first": True} | options)


def attended(m: Net, x: Tensor, **options: Any) -> Tensor:
    y = m.a(x)
    return m.b(m.mha(y, y, y, **options)[0])


def attended_residual(m: Net, x: Tensor) -> Tensor:
    y = m.a(x)
    return m.b(y + m.mha(y, y, y, need_weights=False)[0])


def with_weights(m: Net, x: Tensor) -> tuple[Tensor, Tensor]:
    y = m.a(x)
    out, attention = m.mha(y, y, y, average_attn_weights=False)
    return m.b(out), attention


def crossed(m: Net, x: Tensor, z: Tensor) -> Tensor:
    return m.b(m.mha(m.a(x), z, m.c(z))[0])


ALONE = {"need_weights": False}
PADDED = torch.tensor([[False] * 7, [False] * 4 + [True] * 3])
for name, part, body in (
    ("mha", mha(), attended),
    ("mha_no_weights", mha(), partial(attended, **ALONE)),
    ("mha_residual", mha(), attended_residual),
    ("mha_tokens_first", mha(batch_first=False), attended),
    ("mha_plain", mha(bias=False), attended),
    ("mha_extra_key", mha(add_bias_kv=True), attended),
    ("mha_zero_key", mha(add_zero_attn=True), attended),
    ("mha_padded", mha(), partial(attended, key_padding_mask=PADDED)),
    ("mha_masked", mha(), partial(attended, attn_mask=causal(7), **ALONE)),
    ("mha_causal", mha(), partial(attended, attn_mask=causal(7), is_causal=True, **ALONE)),
):
    row(name, "exact", body, mha=part, layer="mha", **SEQUENCE)
    # The mean over the heads, of weights that nobody asked for, is a statistic of the heads.
    whole = "exact" if body is attended_residual or "need" in str(body) else "exact or approximate"
    row(f"{name}_heads", whole, body, mha=part, layer="mha", whole_heads=True, **SEQUENCE)
row("mha_weights", "exact", with_weights, mha=mha(), layer="mha", **SEQUENCE)
row(
    "mha_weights_heads",
    "pinned:it is an output of the network",
    with_weights,
    mha=mha(),
    layer="mha.in_proj_weight",
    whole_heads=True,
    **SEQUENCE,
)
row(
    "mha_other_widths",
    "exact",
    crossed,
    mha=mha(kdim=8, vdim=24),
    c=lin(8, 24),
    layer="mha",
    **SEQUENCE | {"example": lambda: (torch.randn(2, 7, 8), torch.randn(2, 5, 8))},
)
row(
    "mha_twice",
    "exact",
    lambda m, x: (lambda y: m.b(m.mha(y, m.mha(y, y, y)[0], y)[0]))(m.a(x)),
    mha=mha(),
    layer="mha",
    **SEQUENCE,
)

# ------------------------------------------------------------------------- torch's own transformers


def encoder(**options: Any) -> partial:
    return partial(nn.TransformerEncoderLayer, 32, 4, 24, **{"batch_first": True} | options)


def decoder(**options: Any) -> partial:
    return partial(nn.TransformerDecoderLayer, 32, 4, 24, **{"batch_first": True} | options)


for name, part in (
    ("encoder_layer", encoder()),
    ("encoder_layer_norm_first", encoder(norm_first=True)),
    ("encoder_layer_gelu", encoder(activation="gelu")),
    ("encoder_layer_plain", encoder(bias=False, batch_first=False)),
    ("encoder", partial(lambda: nn.TransformerEncoder(encoder()(), 2, enable_nested_tensor=False))),
):
    row(name, "approximate", lambda m, x: m.b(m.t(m.a(x))), t=part, layer="t", **SEQUENCE)
row(
    "encoder_layer_heads",
    "approximate",
    lambda m, x: m.b(m.t(m.a(x))),
    t=encoder(),
    layer="t",
    whole_heads=True,
    **SEQUENCE,
)


def decoded(m: Net, x: Tensor) -> Tensor:
    return m.b(m.t(m.a(x), m.c(x)))


for name, part in (
    ("decoder_layer", decoder()),
    ("decoder_layer_norm_first", decoder(norm_first=True, activation="gelu")),
):
    row(
        name,
        "approximate",
        lambda m, x: m.b(m.t(m.a(x), m.c(x))),
        t=part,
        layer="t",
        c=lin(8, 32),
        **SEQUENCE,
    )
row(
    "encoder_feed_forward",
    "exact",
    lambda m, x: m.b(m.t(x)),
    t=partial(nn.TransformerEncoderLayer, 8, 2, 48, batch_first=True),
    layer="t.linear1",
    a=None,
    b=lin(8, 5),
    example=tokens,
)

# ------------------------------------------------------------------------------ one fused attention


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, N, C] → [B, H, N, C/H], whatever the width."""
    b, n, c = x.shape
    return x.reshape(b, n, heads, c // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def fused(m: Net, x: Tensor, **options: Any) -> Tensor:
    q, k, v = (split_heads(layer(x), m.heads) for layer in (m.q, m.k, m.v))
    return m.b(merge_heads(F.scaled_dot_product_attention(q, k, v, **options)))


def three(width: int = 32, inner: int = 8, **options: Any) -> dict[str, partial]:
    return {name: lin(inner, width, **options) for name in "qkv"}


HEADS = three() | {"a": None, "b": lin(32, 5), "heads": 4, "example": tokens, "layer": "q"}
KEPT = torch.rand(7, 7, generator=torch.Generator().manual_seed(0)) > 0.4
for name, body in (
    ("sdpa", fused),
    ("sdpa_mask_float", partial(fused, attn_mask=causal(7))),
    ("sdpa_mask_bool", partial(fused, attn_mask=KEPT | torch.eye(7, dtype=torch.bool))),
    ("sdpa_causal", partial(fused, is_causal=True)),
    ("sdpa_scale", partial(fused, scale=0.3)),
):
    row(name, "exact", body, **HEADS)
    row(f"{name}_heads", "exact", body, whole_heads=True, **HEADS)


def fused_in_two_ways(m: Net, x: Tensor) -> Tensor:
    """Queries name heads and width, keys and values let torch count the heads."""
    q = m.q(x).view(*x.shape[:2], m.heads, m.width).transpose(1, 2)
    k, v = (layer(x).view(*x.shape[:2], -1, m.width).transpose(1, 2) for layer in (m.k, m.v))
    return m.b(merge_heads(F.scaled_dot_product_attention(q, k, v)))


row("sdpa_views_of_two_kinds", "exact", fused_in_two_ways, width=8, **HEADS)
row("sdpa_views_of_two_kinds_heads", "exact", fused_in_two_ways, width=8, whole_heads=True, **HEADS)


def grouped_query(m: Net, x: Tensor) -> Tensor:
    q, k, v = split_heads(m.q(x), 4), split_heads(m.k(x), 2), split_heads(m.v(x), 2)
    return m.b(merge_heads(F.scaled_dot_product_attention(q, k, v, enable_gqa=True)))


def grouped_query_repeated(m: Net, x: Tensor) -> Tensor:
    q, k, v = split_heads(m.q(x), 4), split_heads(m.k(x), 2), split_heads(m.v(x), 2)
    k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    return m.b(merge_heads(F.scaled_dot_product_attention(q, k, v)))


def multi_query(m: Net, x: Tensor) -> Tensor:
    q, k, v = split_heads(m.q(x), m.heads), m.k(x)[:, None], m.v(x)[:, None]
    return m.b(merge_heads(F.scaled_dot_product_attention(q, k, v)))


GROUPED = HEADS | {"k": lin(8, 16), "v": lin(8, 16)}
row("grouped_query", "exact", grouped_query, **GROUPED)
row("grouped_query_repeated", "exact", grouped_query_repeated, **GROUPED)
row("multi_query", "exact", multi_query, **HEADS | {"k": lin(8, 8), "v": lin(8, 8)})
row("value_width_of_its_own", "exact", fused, **HEADS | {"v": lin(8, 48), "b": lin(48, 5)})
row("value_alone", "exact", fused, layer="v", **{k: v for k, v in HEADS.items() if k != "layer"})


def normalised(m: Net, x: Tensor) -> Tensor:
    q, k, v = (split_heads(layer(x), m.heads) for layer in (m.q, m.k, m.v))
    return m.b(merge_heads(F.scaled_dot_product_attention(m.nq(q), m.nk(k), v)))


def normalised_by_shape(m: Net, x: Tensor) -> Tensor:
    q, k, v = (split_heads(layer(x), m.heads) for layer in (m.q, m.k, m.v))
    q, k = (F.rms_norm(t, t.shape[-1:]) for t in (q, k))
    return m.b(merge_heads(F.scaled_dot_product_attention(q, k, v)))


def unit(*vectors: Tensor) -> list[Tensor]:
    return [F.normalize(x, dim=-1) for x in vectors]


row("query_norm", "approximate", normalised, nq=norm(8), nk=norm(8), **HEADS)
row("query_norm_heads", "exact", normalised, nq=norm(8), nk=norm(8), whole_heads=True, **HEADS)
row("query_norm_rms", "approximate", normalised, nq=rms(8), nk=rms(8), **HEADS)
row("query_norm_rms_heads", "exact", normalised, nq=rms(8), nk=rms(8), whole_heads=True, **HEADS)
NO_WEIGHT = "pinned:no weight can make up for it"
row("query_norm_without_weights", NO_WEIGHT, normalised_by_shape, **HEADS)
row(
    "query_of_unit_length",
    NO_WEIGHT,
    lambda m, x: m.b(
        F.scaled_dot_product_attention(*(F.normalize(f(x), dim=-1) for f in (m.q, m.k)), m.v(x))
    ),
    **HEADS,
)
row(
    "query_rectified",
    NO_WEIGHT,
    lambda m, x: m.b(F.scaled_dot_product_attention(m.q(x).relu(), m.k(x).relu(), m.v(x))),
    **HEADS,
)
row(
    "query_rectified_key_not",
    "exact",
    lambda m, x: m.b(F.scaled_dot_product_attention(m.q(x).relu(), m.k(x), m.v(x))),
    **HEADS,
)
row(
    "query_is_an_input",
    "exact",
    lambda m, x, q: m.b(F.scaled_dot_product_attention(q, m.k(x), m.v(x))),
    **HEADS | {"layer": "v", "example": lambda: (*tokens(), torch.randn(2, 5, 32))},
)

# ------------------------------------------------------------------------- attention in a few lines


def qkv_of(m: Net, x: Tensor) -> tuple[Tensor, ...]:
    """As timm writes it, its sizes from attributes."""
    b, n, _ = x.shape
    return m.qkv(x).reshape(b, n, 3, m.num_heads, m.head_dim).permute(2, 0, 3, 1, 4).unbind(0)


def vision(m: Net, x: Tensor) -> Tensor:
    q, k, v = qkv_of(m, x)
    y = (q * m.scale) @ k.transpose(-2, -1)
    return m.b((y.softmax(-1) @ v).transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))


def vision_fused(m: Net, x: Tensor) -> Tensor:
    q, k, v = qkv_of(m, x)
    y = F.scaled_dot_product_attention(q, k, v)
    return m.b(y.transpose(1, 2).reshape(x.shape[0], x.shape[1], m.attn_dim))


def by_width(m: Net, x: Tensor) -> Tensor:
    """The first transformers: the head's width from the stream's."""
    b, n, c = x.shape
    shape = (b, n, 3, m.num_heads, c // m.num_heads)
    q, k, v = m.qkv(x).reshape(shape).permute(2, 0, 3, 1, 4).unbind(0)
    attention = (q @ k.mT) * m.scale
    return m.b(x + m.o((attention.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c)))


QKV = {"a": None, "qkv": lin(8, 96), "b": lin(32, 5), "layer": "qkv", "example": tokens}
SIZES = {"num_heads": 4, "head_dim": 8, "attn_dim": 32, "scale": 8**-0.5}
STREAM = {"a": lin(8, 32), "qkv": lin(32, 96), "o": lin(32, 32), "b": lin(32, 5), "example": tokens}
row("vision", "exact", vision, **QKV | SIZES)
row("vision_heads", "exact", vision, whole_heads=True, **QKV | SIZES)
row("vision_fused", "exact", vision_fused, **QKV | SIZES)
row("vision_fused_heads", "exact", vision_fused, whole_heads=True, **QKV | SIZES)
row("width_over_heads", "exact", lambda m, x: by_width(m, m.a(x)), layer="qkv", **STREAM | SIZES)
row(
    "width_over_heads_heads",
    "exact",
    lambda m, x: by_width(m, m.a(x)),
    layer="qkv",
    whole_heads=True,
    **STREAM | SIZES,
)


def scaled(m: Net, x: Tensor, q_scale: Callable, k_scale: Callable, after: Callable) -> Tensor:
    q, k, v = (split_heads(layer(x), m.heads) for layer in (m.q, m.k, m.v))
    scores = after(m, q, q_scale(m, q) @ k_scale(m, k).mT)
    return m.b(merge_heads(scores.softmax(-1) @ v))


def same(m: Net, x: Tensor) -> Tensor:
    return x


SCALES: dict[str, tuple[Callable, Callable, Callable]] = {
    "root_of_shape_times_query": (lambda m, q: q * q.shape[-1] ** -0.5, same, lambda m, q, s: s),
    "root_of_shape_times_key": (same, lambda m, k: k / math.sqrt(k.shape[-1]), lambda m, q, s: s),
    "root_of_shape_under_scores": (same, same, lambda m, q, s: s / math.sqrt(q.shape[-1])),
    "root_of_size_under_scores": (same, same, lambda m, q, s: s / q.size(-1) ** 0.5),
    "root_of_attribute": (same, same, lambda m, q, s: s / math.sqrt(m.width)),
    "fourth_root_on_both": (
        lambda m, q: q * q.shape[-1] ** -0.25,
        lambda m, k: k * k.shape[-1] ** -0.25,
        lambda m, q, s: s,
    ),
    "in_place": (same, same, lambda m, q, s: s.mul_(q.shape[-1] ** -0.5)),
    "literal": (lambda m, q: q * 0.35, same, lambda m, q, s: s),
    "not_at_all": (same, same, lambda m, q, s: s),
}
for name, steps in SCALES.items():
    body = partial(scaled, q_scale=steps[0], k_scale=steps[1], after=steps[2])
    row(f"scale_{name}", "exact", body, width=8, **HEADS)
    row(f"scale_{name}_heads", "exact", body, width=8, whole_heads=True, **HEADS)


def by_einsum(m: Net, x: Tensor) -> Tensor:
    b, n, _ = x.shape
    q, k, v = (layer(x).view(b, n, m.heads, -1) for layer in (m.q, m.k, m.v))
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * q.shape[-1] ** -0.5
    return m.b(torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).reshape(b, n, -1))


def by_bmm(m: Net, x: Tensor) -> Tensor:
    b, n, _ = x.shape
    q, k, v = (split_heads(f(x), m.heads).reshape(b * m.heads, n, m.width) for f in (m.q, m.k, m.v))
    y = torch.bmm(torch.bmm(q, k.transpose(1, 2)).div(math.sqrt(m.width)).softmax(-1), v)
    return m.b(y.view(b, m.heads, n, m.width).transpose(1, 2).reshape(b, n, m.heads * m.width))


def by_baddbmm(m: Net, x: Tensor) -> Tensor:
    b, n, _ = x.shape
    q, k, v = (split_heads(f(x), m.heads).reshape(b * m.heads, n, -1) for f in (m.q, m.k, m.v))
    zeros = torch.zeros(b * m.heads, n, n, dtype=x.dtype)
    y = torch.baddbmm(zeros, q, k.transpose(1, 2), beta=0, alpha=m.scale).softmax(-1) @ v
    return m.b(y.view(b, m.heads, n, -1).transpose(1, 2).reshape(b, n, -1))


def tokens_last(m: Net, x: Tensor) -> Tensor:
    """[B, C, N], as attention over maps of convolutions writes it."""
    b, _, h, w = x.shape
    q, k, v = m.qkv(m.a(x)).view(b, m.heads, m.width * 3, h * w).split([m.width] * 3, 2)
    y = v @ (q.transpose(-2, -1) @ k * m.scale).softmax(-1).transpose(-2, -1)
    return m.b(y.reshape(b, -1, h, w))


row("attention_einsum", "exact", by_einsum, **HEADS)
row("attention_bmm", "exact", by_bmm, width=8, **HEADS)
row("attention_bmm_heads", "exact", by_bmm, width=8, whole_heads=True, **HEADS)
row("attention_baddbmm", "exact", by_baddbmm, scale=0.35, **HEADS)
row(
    "attention_tokens_last",
    "exact",
    tokens_last,
    **MAP,
    qkv=conv(32, 96, 1),
    heads=4,
    width=8,
    scale=0.35,
    layer="qkv",
)

# Numbers that the code puts into tensors are followed like plain ones.
SCALARS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "root_of_tensor": lambda q, s: s / torch.sqrt(torch.tensor(q.size(-1), dtype=q.dtype)),
    "tensor_of_root": lambda q, s: s / torch.tensor(math.sqrt(q.size(-1)), dtype=q.dtype),
    "tensor_of_integer": lambda q, s: s * torch.tensor(q.shape[-1]).to(q.dtype) ** -0.5,
    "tensor_before": lambda q, s: torch.tensor(q.shape[-1], dtype=q.dtype).rsqrt() * s,
    "tensor_of_list": lambda q, s: s / torch.tensor([q.shape[-1]]).to(q.dtype).sqrt(),
    "tensor_filled": lambda q, s: s / torch.full((1, 1), q.shape[-1], dtype=q.dtype).sqrt(),
    "tensor_like": lambda q, s: s / s.new_tensor(q.shape[-1]).sqrt(),
}
for name, number in SCALARS.items():
    body = partial(scaled, q_scale=same, k_scale=same, after=lambda m, q, s, n=number: n(q, s))
    row(f"scale_{name}", "exact", body, **HEADS)

# -------------------------------------------------------------------------- biases on the attention


def relative(m: Net, x: Tensor) -> Tensor:
    """A table of learned biases, one column a head, looked up by a buffer."""
    q, k, v = qkv_of(m, x)
    n = x.shape[1]
    bias = m.table[m.index.view(-1)].view(n, n, -1).permute(2, 0, 1).contiguous()
    y = (q * m.scale) @ k.transpose(-2, -1) + bias.unsqueeze(0)
    return m.b((y.softmax(-1) @ v).transpose(1, 2).reshape(x.shape[0], n, -1))


def alibi(m: Net, x: Tensor) -> Tensor:
    """A constant slope a head."""
    q, k, v = qkv_of(m, x)
    n = x.shape[1]
    away = torch.arange(n)[:, None] - torch.arange(n)
    bias = -away.abs() * m.slopes[:, None, None]
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return m.b(y.transpose(1, 2).reshape(x.shape[0], n, -1))


def rotary(m: Net, x: Tensor) -> Tensor:
    q, k, v = qkv_of(m, x)
    angle = torch.arange(x.shape[1], dtype=x.dtype)[:, None] * m.frequency
    q, k = (_rotated(t, torch.cat([angle, angle], -1)) for t in (q, k))
    y = F.scaled_dot_product_attention(q, k, v)
    return m.b(y.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))


def _rotated(x: Tensor, angle: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * angle.cos() + torch.cat([-second, first], -1) * angle.sin()


def talking(m: Net, x: Tensor) -> Tensor:
    """Heads are mixed by a linear before and after the softmax."""
    q, k, v = qkv_of(m, x)
    y = ((q * m.scale) @ k.mT).permute(0, 2, 3, 1)
    y = m.after(m.before(y).softmax(2)).permute(0, 3, 1, 2) @ v
    return m.b(y.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))


TABLE = {"table": weight(13, 4), "index": partial(lambda: nn.Buffer(_distance(7)))}


def _distance(n: int) -> Tensor:
    return torch.arange(n)[:, None] - torch.arange(n) + n - 1


row("relative_bias", "exact", relative, **QKV | SIZES | TABLE)
row("relative_bias_heads", "exact", relative, whole_heads=True, **QKV | SIZES | TABLE)
row("alibi", "exact", alibi, slopes=buffer(4), **QKV | SIZES)
row("alibi_heads", "exact", alibi, slopes=buffer(4), whole_heads=True, **QKV | SIZES)
row("rotary", "exact", rotary, frequency=buffer(4), **QKV | SIZES)
row("rotary_heads", "exact", rotary, frequency=buffer(4), whole_heads=True, **QKV | SIZES)
row("talking_heads", "exact", talking, before=lin(4, 4), after=lin(4, 4), **QKV | SIZES)
row(
    "talking_heads_heads",
    "exact",
    talking,
    before=lin(4, 4),
    after=lin(4, 4),
    whole_heads=True,
    **QKV | SIZES,
)

# --------------------------------------------------------------------- windows, pooling and merging


def windows(x: Tensor, size: int) -> Tensor:
    """[B, H, W, C] → [B·windows, size², C]."""
    b, h, w, c = x.shape
    x = x.view(b, h // size, size, w // size, size, c).permute(0, 1, 3, 2, 4, 5)
    return x.contiguous().view(-1, size * size, c)


def unwindows(x: Tensor, size: int, h: int, w: int) -> Tensor:
    b = x.shape[0] // (h * w // size // size)
    x = x.view(b, h // size, w // size, size, size, -1).permute(0, 1, 3, 2, 4, 5)
    return x.contiguous().view(b, h, w, -1)


def windowed(m: Net, x: Tensor, shift: int = 0) -> Tensor:
    y = m.a(x).permute(0, 2, 3, 1)
    z = torch.roll(y, (-shift, -shift), (1, 2)) if shift else y
    z = windows(z, m.window)
    b, n, c = z.shape
    q, k, v = m.qkv(z).reshape(b, n, 3, m.heads, c // m.heads).permute(2, 0, 3, 1, 4).unbind(0)
    scores = q * m.scale @ k.transpose(-2, -1)
    if shift:
        count = m.mask.shape[0]
        scores = scores.view(b // count, count, m.heads, n, n) + m.mask[:, None]
        scores = scores.view(-1, m.heads, n, n)
    z = m.o((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))
    z = unwindows(z, m.window, y.shape[1], y.shape[2])
    z = torch.roll(z, (shift, shift), (1, 2)) if shift else z
    return m.b((y + z).permute(0, 3, 1, 2))


WINDOWS = MAP | {"qkv": lin(32, 96), "o": lin(32, 32), "heads": 4, "window": 4, "scale": 0.35}
SHIFTED = {"mask": partial(lambda: nn.Buffer(torch.randn(4, 16, 16)))}
row("windows", "exact", windowed, layer="qkv", **WINDOWS)
row("windows_heads", "exact", windowed, layer="qkv", whole_heads=True, **WINDOWS)
row("windows_shifted", "exact", partial(windowed, shift=2), layer="qkv", **WINDOWS | SHIFTED)
row(
    "windows_shifted_heads",
    "exact",
    partial(windowed, shift=2),
    layer="qkv",
    whole_heads=True,
    **WINDOWS | SHIFTED,
)


def pooled(m: Net, x: Tensor) -> Tensor:
    """Keys and values from a smaller map."""
    y = m.a(x)
    z = m.pool(y).flatten(2).transpose(1, 2)
    q = split_heads(m.q(y.flatten(2).transpose(1, 2)), m.heads)
    k, v = m.kv(z).reshape(z.shape[0], -1, 2, m.heads, m.width).permute(2, 0, 3, 1, 4)
    y = merge_heads(F.scaled_dot_product_attention(q, k, v))
    return m.b(y.transpose(1, 2).unflatten(2, x.shape[2:]))


POOLED = MAP | {"q": lin(32, 32), "kv": lin(32, 64), "heads": 4, "width": 8, "layer": "q"}
row("pooled_by_conv", "exact", pooled, pool=partial(nn.Conv2d, 32, 32, 2, 2), **POOLED)
row("pooled_by_average", "exact", pooled, pool=partial(nn.AvgPool2d, 2), **POOLED)
row("pooled_heads", "exact", pooled, pool=partial(nn.AvgPool2d, 2), whole_heads=True, **POOLED)


def head_pooled(m: Net, x: Tensor) -> Tensor:
    """Each head's map is convolved on its own, as multi-scale transformers do."""
    y = m.a(x)
    b, _, h, w = y.shape
    q, k, v = m.qkv(y.flatten(2).mT).reshape(b, h * w, 3, m.heads, -1).permute(2, 0, 3, 1, 4)
    k, v = (_small(m, t, h, w) for t in (k, v))
    y = merge_heads(F.scaled_dot_product_attention(q, k, v))
    return m.b(y.mT.unflatten(2, (h, w)))


def _small(m: Net, x: Tensor, h: int, w: int) -> Tensor:
    b, heads, _, width = x.shape
    x = m.pool(x.reshape(b * heads, h, w, width).permute(0, 3, 1, 2))
    return x.reshape(b, heads, width, -1).transpose(2, 3)


row(
    "pooled_in_each_head",
    "exact",
    head_pooled,
    pool=partial(nn.Conv2d, 8, 8, 3, 2, 1, groups=8),
    qkv=lin(32, 96),
    heads=4,
    layer="qkv",
    **MAP,
)


def merged(m: Net, x: Tensor) -> Tensor:
    """Four neighbours become one position of four times the channels."""
    y = m.a(x).permute(0, 2, 3, 1)
    parts = [y[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
    return m.b(m.reduce(m.norm(torch.cat(parts, -1))).permute(0, 3, 1, 2))


row("patch_merging", "approximate", merged, norm=norm(128), reduce=lin(128, 32), **MAP)
row(
    "patch_merging_exact",
    "exact",
    merged,
    norm=partial(nn.Identity),
    reduce=lin(128, 32),
    **MAP,
)

# ------------------------------------------------------------------------ tokens and whole networks


def block(m: Net, y: Tensor) -> Tensor:
    """Pre-norm: attention and a feed-forward, each behind a norm and a layer scale."""
    q, k, v = qkv_of(m, m.n1(y))
    z = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    y = y + m.drop(m.o(z) * m.gamma)
    return y + m.drop(m.mlp(m.n2(y)))


class DropPath(nn.Module):
    """Stochastic depth: drops a sample's branch in training, nothing in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = x.new_empty(x.shape[0], *(1,) * (x.dim() - 1)).bernoulli_(0.9)
        return x * keep / 0.9


def vit(m: Net, x: Tensor) -> Tensor:
    y = m.a(x).flatten(2).transpose(1, 2)
    y = torch.cat([m.cls.expand(y.shape[0], -1, -1), y], 1) + m.position
    return m.b(m.n(block(m, y))[:, 0])


def averaged(m: Net, x: Tensor) -> Tensor:
    y = m.a(x).flatten(2).transpose(1, 2) + m.position[:, 1:]
    return m.b(m.n(block(m, y).mean(1)))


VIT = {
    "a": partial(nn.Conv2d, 3, 32, 4, 4),
    "cls": weight(1, 1, 32),
    "position": weight(1, 5, 32),
    "n1": norm(32),
    "n2": norm(32),
    "n": norm(32),
    "qkv": lin(32, 96),
    "o": lin(32, 32),
    "gamma": weight(32),
    "drop": partial(DropPath),
    "mlp": seq(lin(32, 48), partial(nn.GELU), lin(48, 32)),
    "b": lin(32, 5),
    "example": image,
}
row("vit", "approximate", vit, **VIT | SIZES)
row("vit_heads", "approximate", vit, layer="qkv", whole_heads=True, **VIT | SIZES)
row("vit_widths_of_heads", "approximate", vit, layer="qkv", **VIT | SIZES)
row("vit_averaged", "approximate", averaged, **VIT | SIZES)


def latents(m: Net, x: Tensor) -> Tensor:
    """A few learned queries read the whole input."""
    y = m.a(x)
    q = split_heads(m.q(m.latent.expand(x.shape[0], -1, -1)), m.heads)
    k, v = split_heads(m.k(y), m.heads), split_heads(m.v(y), m.heads)
    return m.b(merge_heads(F.scaled_dot_product_attention(q, k, v)).mean(1))


def linear_attention(m: Net, x: Tensor) -> Tensor:
    """No softmax over the tokens: keys and values are multiplied first."""
    q, k, v = (split_heads(f(x), m.heads) for f in (m.q, m.k, m.v))
    q, k = F.elu(q) + 1, F.elu(k) + 1
    y = (q @ (k.mT @ v)) / (q @ k.sum(2)[..., None])
    return m.b(merge_heads(y))


def rectified_attention(m: Net, x: Tensor) -> Tensor:
    """As linear attention; what is removed stays zero through a ReLU."""
    q, k, v = (split_heads(f(x), m.heads) for f in (m.q, m.k, m.v))
    q, k = q.relu(), k.relu()
    return m.b(merge_heads((q @ (k.mT @ v)) / ((q @ k.sum(2)[..., None]) + 1)))


LATENTS = HEADS | three(inner=32) | {"a": lin(8, 32), "latent": weight(1, 3, 32)}
row("latent_queries", "exact", latents, **LATENTS)
row("latent_queries_heads", "exact", latents, whole_heads=True, **LATENTS)
row("linear_attention", "approximate", linear_attention, **HEADS)
row("linear_attention_heads", "exact", linear_attention, whole_heads=True, **HEADS)
row("linear_attention_rectified", "exact", rectified_attention, **HEADS)


def channels_attend(m: Net, x: Tensor) -> Tensor:
    """Cross-covariance attention: channels of a head attend to each other."""
    q, k, v = (t.transpose(-2, -1) for t in qkv_of(m, x))
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    y = (q @ k.mT * m.temperature).softmax(-1) @ v
    return m.b(y.permute(0, 3, 1, 2).reshape(x.shape[0], x.shape[1], -1))


row("channels_attend", "approximate", channels_attend, temperature=weight(4, 1, 1), **QKV | SIZES)
row(
    "channels_attend_heads",
    "exact",
    channels_attend,
    temperature=weight(4, 1, 1),
    whole_heads=True,
    **QKV | SIZES,
)

# ----------------------------------------------------------------------- sizes that attributes hold

row(
    "attribute_dim",
    "exact",
    lambda m, x: m.b(m.a(x).reshape(-1, m.dim).relu()),
    dim=32,
    **SEQUENCE,
)
row(
    "attribute_heads_times_width",
    "exact",
    lambda m, x: m.b(split_heads(m.a(x), m.h).tanh().transpose(1, 2).reshape(2, 7, m.h * m.d)),
    h=4,
    d=8,
    **SEQUENCE,
)
row(
    "attribute_inner",
    "exact",
    lambda m, x: m.b(m.a(x).unflatten(-1, (m.h, m.d)).tanh().reshape(2, 7, m.inner)),
    h=4,
    d=8,
    inner=32,
    **SEQUENCE,
)
row(
    "attribute_groups",
    "exact",
    lambda m, x: m.b(
        m.a(x).view(2, m.groups, m.c // m.groups, 8, 8).transpose(1, 2).reshape(2, m.c, 8, 8)
    ),
    groups=4,
    c=32,
    **MAP,
)
row(
    "attribute_split_sizes",
    "exact",
    lambda m, x: (lambda p: m.b(torch.cat([p[0].relu(), p[1], p[2].tanh()], 1)))(
        m.a(x).split(m.sizes, 1)
    ),
    sizes=[16, 8, 8],
    **MAP,
)
row(
    "attribute_torch_split",
    "exact or pinned:from half, which cannot be mended (micro_attention.py",
    lambda m, x: (lambda p: m.b(torch.cat([p[1].relu(), p[0]], 1)))(
        torch.split(m.a(x), [m.c - m.half, m.half], 1)
    ),
    c=32,
    half=16,
    **MAP,
)
row(
    "attribute_chunks",
    "exact",
    lambda m, x: m.b(torch.cat([p.relu() for p in m.a(x).chunk(m.parts, 1)], 1)),
    parts=4,
    **MAP,
)
row(
    "attribute_unflatten",
    "exact",
    lambda m, x: m.b(m.a(x).unflatten(1, (m.groups, -1)).relu().flatten(1, 2)),
    groups=4,
    **MAP,
)
row(
    "attribute_times_a_float",
    "exact",
    lambda m, x: m.b(m.a(x).view(2, int(m.dim * m.ratio), 8, 8).relu()),
    dim=16,
    ratio=2.0,
    **MAP,
)
row(
    "shape_times_a_float",
    "exact",
    lambda m, x: m.b(m.a(x)[:, : int(m.a(x).shape[1] * 0.5)]),
    **MAP | {"b": conv(16, 5)},
)
row(
    "attribute_over_a_float",
    "exact",
    lambda m, x: m.b(m.a(x).view(x.shape[0], int(m.dim / 2), -1, 8, 8).flatten(1, 2)),
    dim=32,
    **MAP,
)
row(
    "rounded_up",
    "exact or pinned:micro_attention.py",
    lambda m, x: m.b(m.a(x)[:, : math.ceil(m.a(x).shape[1] / 2)]),
    **MAP | {"b": conv(16, 5)},
)
