"""Operators of random networks: attention, transformers, and sizes that attributes hold.

Registered like those of :mod:`random_operators`. An attention reads a map as a sequence of its
positions and gives a map of the same positions. How it is written (torch's module, the fused
function, by hand) and where its sizes and its scale come from is what the variants draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from random_operators import WIDTHS, Fit, Op, operator, width_of
from torch import Tensor, nn

LONGEST = 128  # positions that may attend to each other


def tokens(x: Tensor) -> Tensor:
    """[B, C, H, W] → [B, H·W, C]."""
    return x.flatten(2).transpose(1, 2)


def as_map(sequence: Tensor, like: Tensor) -> Tensor:
    """The inverse, at the positions of another map."""
    return sequence.transpose(1, 2).unflatten(2, like.shape[2:])


def heads_of(width: int, n: int) -> int:
    """A number of heads that divides the width."""
    return next(h for h in ((4, 2, 1), (2, 4, 1), (8, 4, 2, 1))[n % 3] if width % h == 0)


def is_long(x: Tensor) -> bool:
    return x[0, 0].numel() > LONGEST


# ------------------------------------------------------------------------------ torch's own modules


@operator
def attention_module(x: Tensor, y: Tensor, n: int) -> nn.Module | None:
    if is_long(x):
        return None
    width = width_of(x)
    options = {"batch_first": n % 2 == 0, "bias": n % 3 > 0, "add_bias_kv": n % 5 == 0}
    mha = nn.MultiheadAttention(width, heads_of(width, n), **options)
    return Op(_module, mha=mha, weighs=n % 4 == 0, residual=n % 6 > 0)


def _module(m: Any, x: Tensor, y: Tensor) -> Tensor:
    z = tokens(x)
    found = as_map(m.mha(z, z, z, need_weights=m.weighs)[0], x)
    return x + found if m.residual else found


@operator
def attention_module_across(x: Tensor, y: Tensor, n: int) -> nn.Module | None:
    if is_long(x) or is_long(y):
        return None
    width = width_of(x)
    others = {} if width == width_of(y) else {"kdim": width_of(y), "vdim": width_of(y)}
    mha = nn.MultiheadAttention(width, heads_of(width, n), batch_first=True, **others)
    return Op(lambda m, x, y: as_map(m.mha(tokens(x), tokens(y), tokens(y))[0], x), mha=mha)


@operator
def transformer_layer(x: Tensor, y: Tensor, n: int) -> nn.Module | None:
    if is_long(x):
        return None
    width = width_of(x)
    layer = nn.TransformerEncoderLayer(
        width,
        heads_of(width, n),
        WIDTHS[n % 4],
        activation="gelu" if n % 3 else "relu",
        batch_first=True,
        norm_first=n % 2 == 0,
    )
    return Op(lambda m, x, y: as_map(m.layer(tokens(x)), x), layer=layer)


# ------------------------------------------------------------------------- attention in a few lines


class Attention(nn.Module):
    """q, k and v as heads [B, H, N, D], from one layer or from three; then the projection.

    ``sizes`` says how the code splits heads: by the attributes ``num_heads`` and ``head_dim``, by
    the shape over ``num_heads``, or by ``num_heads`` and -1.
    """

    def __init__(self, width: int, source: int, n: int, attend: Callable[..., Tensor]) -> None:
        super().__init__()
        self.attend, self.sizes = attend, ("attributes", "shape", "rest")[n % 3]
        self.num_heads, self.head_dim = (4, 2)[n % 2], (4, 8, 6)[n // 2 % 3]
        self.inner = self.num_heads * self.head_dim
        self.scale = self.head_dim**-0.5
        self.fused = width == source and n % 4 > 0
        if self.fused:
            self.qkv = nn.Linear(width, 3 * self.inner, bias=n % 5 > 0)
        else:
            self.q = nn.Linear(width, self.inner, bias=n % 5 > 0)
            self.kv = nn.Linear(source, 2 * self.inner)
        self.out = nn.Linear(self.inner, width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        q, k, v = self.projected(tokens(x), tokens(y))
        z = self.attend(self, q, k, v).transpose(1, 2)
        return as_map(self.out(self.joined(z)), x)

    def projected(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        if self.fused:
            return self.split(self.qkv(x), 3).unbind(0)
        return (*self.split(self.q(x), 1).unbind(0), *self.split(self.kv(y), 2).unbind(0))

    def split(self, x: Tensor, parts: int) -> Tensor:
        b, n, c = x.shape
        width = {"attributes": self.head_dim, "shape": c // parts // self.num_heads, "rest": -1}
        shape = (b, n, parts, self.num_heads, width[self.sizes])
        return x.reshape(shape).permute(2, 0, 3, 1, 4)

    def joined(self, x: Tensor) -> Tensor:
        b, n, _, _ = x.shape
        return x.reshape(b, n, self.inner if self.sizes == "attributes" else -1)


def fused(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def masked(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    away = torch.arange(q.shape[2])[:, None] - torch.arange(k.shape[2])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=away.abs() < 5)


def biased(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    bias = m.bias[None, :, None, None] * torch.ones(q.shape[2], k.shape[2], dtype=q.dtype).tril()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def scaled(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, scale=m.scale)


def normalised(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(m.norm_q(q), m.norm_k(k), v)


def by_hand(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q * m.scale) @ k.transpose(-2, -1)).softmax(-1) @ v


def by_root(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q @ k.transpose(-2, -1)) / math.sqrt(q.shape[-1])).softmax(-1) @ v


def by_attribute(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q * m.head_dim**-0.5) @ k.mT).softmax(-1) @ v


def by_einsum(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.einsum("bhid,bhjd->bhij", q * q.shape[-1] ** -0.5, k).softmax(-1)
    return torch.einsum("bhij,bhjd->bhid", weights, v)


def talking(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = m.mix((q @ k.mT * m.scale).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return scores.softmax(-1) @ v


def linear(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = q.relu(), k.relu()
    return (q @ (k.mT @ v)) / (q @ k.sum(2)[..., None] + 1)


def of_channels(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k = F.normalize(q, dim=2), F.normalize(k, dim=2)
    return v @ (q.mT @ k).softmax(-1)


def rotary(m: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    frequency = 0.5 ** torch.arange(q.shape[-1] // 2, dtype=q.dtype)
    q, k = _rotated(q, frequency), _rotated(k, frequency)
    return F.scaled_dot_product_attention(q, k, v)


def _rotated(x: Tensor, frequency: Tensor) -> Tensor:
    angle = torch.arange(x.shape[2], dtype=x.dtype)[:, None] * frequency
    first, second = x.chunk(2, -1)
    turned = (
        first * angle.cos() - second * angle.sin(),
        second * angle.cos() + first * angle.sin(),
    )
    return torch.cat(turned, -1)


KINDS = (
    *(fused, masked, biased, scaled, normalised, by_hand, by_root, by_attribute, by_einsum),
    *(talking, linear, of_channels, rotary),
)


def attention(width: int, source: int, n: int, *, seed: int) -> nn.Module:
    """One of all kinds; ``n`` picks the sizes, ``seed`` how it is written."""
    made = Attention(width, source, n, KINDS[seed % len(KINDS)])
    if made.attend is biased:
        made.bias = nn.Parameter(torch.ones(made.num_heads))
    if made.attend is talking:
        made.mix = nn.Linear(made.num_heads, made.num_heads)
    if made.attend is normalised:
        norm = nn.LayerNorm if n % 2 else nn.RMSNorm
        made.norm_q, made.norm_k = norm(made.head_dim), norm(made.head_dim)
    return made


@operator
def attention_self(x: Tensor, y: Tensor, n: int) -> nn.Module | None:
    if is_long(x):
        return None
    layer = attention(width_of(x), width_of(x), n, seed=n + width_of(y))
    return Op(lambda m, x, y: x + m.layer(x, x), layer=layer)


@operator
def attention_alone(x: Tensor, y: Tensor, n: int) -> nn.Module | None:
    if is_long(x):
        return None
    layer = attention(width_of(x), width_of(x), n, seed=n + x.shape[2] + width_of(y))
    return Op(lambda m, x, y: m.layer(x, x), layer=layer)


@operator
def attention_across(x: Tensor, y: Tensor, n: int) -> nn.Module | None:
    if is_long(x) or is_long(y):
        return None
    kind = (fused, by_hand, by_root, by_einsum, linear)[n % 5]
    layer = Attention(width_of(x), width_of(y), n, kind)
    return Op(lambda m, x, y: x + m.layer(x, y), layer=layer)


@operator
def attention_of_width(x: Tensor, y: Tensor, n: int) -> nn.Module | None:
    """The head's width is the stream's over the number of heads: both shrink alike."""
    width, heads = width_of(x), heads_of(width_of(x), n)
    if is_long(x):
        return None
    qkv, out = nn.Linear(width, 3 * width, bias=n % 2 == 0), nn.Linear(width, width)
    parts = {"num_heads": heads, "scale": (width // heads) ** -0.5, "fused": n % 3 == 0}
    return Op(_of_width, qkv=qkv, out=out, **parts)


def _of_width(m: Any, x: Tensor, y: Tensor) -> Tensor:
    z = tokens(x)
    b, n, c = z.shape
    q, k, v = m.qkv(z).reshape(b, n, 3, m.num_heads, c // m.num_heads).permute(2, 0, 3, 1, 4)
    z = fused(m, q, k, v) if m.fused else by_hand(m, q, k, v)
    return x + as_map(m.out(z.transpose(1, 2).reshape(b, n, c)), x)


@operator
def attention_grouped_query(x: Tensor, y: Tensor, n: int) -> nn.Module | None:
    if is_long(x):
        return None
    width = width_of(x)
    parts = {"q": nn.Linear(width, 32), "kv": nn.Linear(width, 32), "out": nn.Linear(32, width)}
    return Op(_grouped_query, **parts, heads=4, shared=2, repeats=n % 2 == 0)


def _grouped_query(m: Any, x: Tensor, y: Tensor) -> Tensor:
    z = tokens(x)
    b, n, _ = z.shape
    q = m.q(z).view(b, n, m.heads, -1).transpose(1, 2)
    k, v = m.kv(z).view(b, n, 2, m.shared, -1).permute(2, 0, 3, 1, 4)
    if m.repeats:
        k, v = (t.repeat_interleave(m.heads // m.shared, 1) for t in (k, v))
    z = F.scaled_dot_product_attention(q, k, v, enable_gqa=not m.repeats)
    return as_map(m.out(z.transpose(1, 2).flatten(2)), x)


@operator
def attention_in_windows(x: Tensor, y: Tensor, n: int) -> nn.Module | None:
    if x.shape[2] % 4 or x.shape[3] % 4 or x.shape[2] > 16:
        return None
    layer = attention(width_of(x), width_of(x), n, seed=n)
    return Op(_in_windows, layer=layer, window=4, shift=(0, 2)[n % 2])


def _in_windows(m: Any, x: Tensor, y: Tensor) -> Tensor:
    b, c, h, w = x.shape
    z = torch.roll(x, (-m.shift, -m.shift), (2, 3)) if m.shift else x
    z = z.view(b, c, h // m.window, m.window, w // m.window, m.window)
    z = z.permute(0, 2, 4, 1, 3, 5).reshape(-1, c, m.window, m.window)
    z = m.layer(z, z).view(b, h // m.window, w // m.window, c, m.window, m.window)
    z = z.permute(0, 3, 1, 4, 2, 5).reshape(b, c, h, w)
    return x + (torch.roll(z, (m.shift, m.shift), (2, 3)) if m.shift else z)


@operator
def attention_pooled(x: Tensor, y: Tensor, n: int) -> nn.Module | None:
    """Keys and values from a smaller map."""
    if is_long(x) or min(x.shape[2:]) < 2:
        return None
    width = width_of(x)
    pool = nn.AvgPool2d(2) if n % 2 else nn.Conv2d(width, width, 2, 2)
    layer = Attention(width, width, 4 * (n // 4), (fused, by_hand, by_root)[n % 3])
    return Op(lambda m, x, y: x + m.layer(x, m.pool(x)), pool=pool, layer=layer)


# --------------------------------------------------------------------------- blocks of transformers


@operator
def transformer_block(x: Tensor, y: Tensor, n: int) -> nn.Module | None:
    """Pre-norm, layer scale, and a feed-forward that may be gated."""
    if is_long(x):
        return None
    width, inner = width_of(x), WIDTHS[n % 4]
    norm = nn.LayerNorm if n % 2 else nn.RMSNorm
    parts = {
        "n1": norm(width),
        "n2": norm(width),
        "layer": attention(width, width, n, seed=n + 3 * width_of(y)),
        "up": nn.Linear(width, inner * (2 if n % 3 == 0 else 1)),
        "down": nn.Linear(inner, width),
        "gamma": nn.Parameter(torch.ones(width)),
    }
    return Op(_block, **parts, gated=n % 3 == 0)


def _block(m: Any, x: Tensor, y: Tensor) -> Tensor:
    z = as_map(m.n1(tokens(x)), x)
    x = x + m.layer(z, z)
    hidden = m.up(m.n2(tokens(x)))
    hidden = torch.mul(*hidden.chunk(2, -1)) if m.gated else F.gelu(hidden)
    return x + as_map(m.down(hidden) * m.gamma, x)


@operator
def class_token(x: Tensor, y: Tensor, n: int) -> nn.Module | None:
    """A learned token and positions; afterwards the token gates the map, or is dropped."""
    if is_long(x):
        return None
    width, positions = width_of(x), x[0, 0].numel() + 1
    parts = {
        "token": nn.Parameter(torch.ones(1, 1, width)),
        "position": nn.Parameter(torch.ones(1, positions, width)),
        "mha": nn.MultiheadAttention(width, heads_of(width, n), batch_first=True),
    }
    return Op(_with_token, **parts, gates=n % 2 == 0)


def _with_token(m: Any, x: Tensor, y: Tensor) -> Tensor:
    z = torch.cat([m.token.expand(x.shape[0], -1, -1), tokens(x)], 1) + m.position
    z = z + m.mha(z, z, z, need_weights=False)[0]
    return x * z[:, 0, :, None, None] if m.gates else as_map(z[:, 1:], x)


@operator
def patch_merging(x: Tensor, y: Tensor, n: int) -> nn.Module | None:
    """Four neighbours become one position of four times the channels."""
    if x.shape[2] % 2 or x.shape[3] % 2 or width_of(x) > 48:
        return None
    width = width_of(x)
    norm = nn.LayerNorm(4 * width) if n % 2 else nn.Identity()
    return Op(_merged, norm=norm, reduce=nn.Linear(4 * width, WIDTHS[n % 4]))


def _merged(m: Any, x: Tensor, y: Tensor) -> Tensor:
    x = x.permute(0, 2, 3, 1)
    parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
    return m.reduce(m.norm(torch.cat(parts, -1))).permute(0, 3, 1, 2)


@operator
def mixer(x: Tensor, y: Tensor, n: int) -> nn.Module | None:
    """A linear layer over the positions of every channel."""
    if is_long(x):
        return None
    positions = x[0, 0].numel()
    mix = nn.Sequential(nn.Linear(positions, 12), nn.GELU(), nn.Linear(12, positions))
    return Op(lambda m, x, y: x + m.mix(x.flatten(2)).view(x.shape), mix=mix)


@operator
def rms_norm(x: Tensor, y: Tensor, n: int) -> nn.Module:
    norm = nn.RMSNorm(width_of(x), elementwise_affine=n % 3 > 0)
    return Op(lambda m, x, y: m.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), norm=norm)


# ----------------------------------------------------------------------- sizes that attributes hold


@operator
def view_of_heads(x: Tensor, y: Tensor, n: int) -> nn.Module:
    """[B, heads · width, ..] to heads and back, one of the three sizes given by the code."""
    heads = heads_of(width_of(x), n)
    sizes = {"heads": heads, "head_dim": width_of(x) // heads, "width": width_of(x)}
    return Op((_heads_by_shape, _heads_by_attributes, _heads_by_product)[n // 3 % 3], **sizes)


def _heads_by_shape(m: Any, x: Tensor, y: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, m.heads, c // m.heads, h, w).tanh().view(b, c, h, w)


def _heads_by_attributes(m: Any, x: Tensor, y: Tensor) -> Tensor:
    b, _, h, w = x.shape
    x = x.reshape(b, m.heads, m.head_dim, h, w).transpose(1, 2)
    return x.reshape(b, m.width, h, w)


def _heads_by_product(m: Any, x: Tensor, y: Tensor) -> Tensor:
    b, _, h, w = x.shape
    x = x.unflatten(1, (m.heads, m.width // m.heads)).relu()
    return x.reshape(b, m.heads * m.head_dim, h, w)


@operator
def view_of_groups(x: Tensor, y: Tensor, n: int) -> nn.Module | None:
    """A mean over, or a maximum within, groups of channels."""
    groups = (2, 4)[n % 2]
    if width_of(x) % groups:
        return None
    return Op(_within_groups, groups=groups, c=width_of(x), largest=n % 3 == 0)


def _within_groups(m: Any, x: Tensor, y: Tensor) -> Tensor:
    b, _, h, w = x.shape
    x = x.view(b, m.groups, m.c // m.groups, h, w)
    return x.amax(1) if m.largest else x.mean(1)


@operator
def split_by_attributes(x: Tensor, y: Tensor, n: int) -> nn.Module:
    width, first = width_of(x), max(width_of(x) // (2, 3, 4)[n % 3], 1)
    run = (_split_by_list, _split_by_difference, _split_by_number)[n // 3 % 3]
    return Op(run, sizes=(first, width - first), first=first, width=width)


def _split_by_list(m: Any, x: Tensor, y: Tensor) -> Tensor:
    one, two = torch.split(x, m.sizes, 1)
    return torch.cat([two, one.relu()], 1)


def _split_by_difference(m: Any, x: Tensor, y: Tensor) -> Tensor:
    one, two = torch.split(x, [m.first, m.width - m.first], 1)
    return torch.cat([one.relu(), two], 1)


def _split_by_number(m: Any, x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([part.relu() for part in x.split(m.first, 1)][::-1], 1)


@operator
def sized_by_a_float(x: Tensor, y: Tensor, n: int) -> nn.Module:
    """What ``int(size * ratio)`` came from is lost: it stays, or it is never wrong."""
    width = width_of(x)
    if n % 2:
        return Op(lambda m, x, y: x[:, : int(m.width * m.ratio)], width=width, ratio=0.5)
    return Op(lambda m, x, y: x[:, : int(x.shape[1] * m.ratio)], ratio=0.5)


@operator
def expanded_parameter(x: Tensor, y: Tensor, n: int) -> nn.Module:
    """A learned row, expanded by an attribute, by the shape, or viewed by an attribute."""
    gate = nn.Parameter(torch.ones(width_of(x)))
    if n % 3 == 0:
        return Op(lambda m, x, y: x * m.gate.view(1, m.width, 1, 1), gate=gate, width=width_of(x))
    if n % 3 == 1:
        return Op(lambda m, x, y: x + m.gate[:, None, None].expand(x.shape), gate=gate)
    return Op(
        lambda m, x, y: x * torch.ones(1, m.width, 1, 1, dtype=x.dtype).sigmoid(), width=width_of(x)
    )


@operator
def attends_to_the_other(x: Tensor, y: Tensor, n: int) -> nn.Module | None:
    """The other value, brought to this one's shape, is keys and values at once."""
    if is_long(x):
        return None
    return Op(_attends, fit=Fit(x, y), residual=n % 2 == 0)


def _attends(m: Any, x: Tensor, y: Tensor) -> Tensor:
    q, k = tokens(x), tokens(m.fit(y))
    found = as_map(F.scaled_dot_product_attention(q, k, k), x)
    return x + found if m.residual else found
