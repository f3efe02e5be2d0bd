"""What a file may state about the architecture that it belongs to.

A builder of torchvision or timm takes options that download weights, read other files or run
through a million layers. Of a file's own options only those are passed on that are listed here:
numbers, switches and short words that change what a network computes, within bounds. What the user
types or writes in Python is his own and is not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from slimnet.errors import InputError
from slimnet.limits import LONGEST, checked_name
from slimnet.text import legible

_WIDEST = 2**17
"""Of a number of classes or channels; ImageNet-21k has 21 843."""

_LARGEST = {
    **dict.fromkeys(("image_size", "img_size", "min_size", "max_size"), 4096),
    **dict.fromkeys(("groups", "width_per_group", "growth_rate", "bn_size", "output_stride"), 512),
    **dict.fromkeys(("width_mult", "alpha", "mlp_ratio"), 16),
}
"""Bounds of options that make a network large."""

_TORCHVISION = """
    num_classes num_keypoints image_size min_size max_size groups width_per_group growth_rate
    bn_size replace_stride_with_dilation zero_init_residual init_weights aux_logits aux_loss
    transform_input memory_efficient dropout dropout_aux drop_rate attention_dropout
    stochastic_depth_prob layer_scale width_mult alpha round_nearest trainable_backbone_layers
"""
_TIMM = """
    num_classes in_chans img_size global_pool act_layer norm_layer drop_rate pos_drop_rate
    patch_drop_rate proj_drop_rate attn_drop_rate drop_path_rate drop_block_rate output_stride
    qkv_bias qk_norm class_token no_embed_class pre_norm init_values dynamic_img_size
    dynamic_img_pad strict_img_size aa_layer pad_type
"""
_SLIMNET = "num_classes in_channels"

STATED: Mapping[str, frozenset[str]] = {
    "torchvision": frozenset(_TORCHVISION.split()),
    "timm": frozenset(_TIMM.split()),
    "slimnet": frozenset(_SLIMNET.split()),
}
"""For each source that a file's architecture is built from: the options that it may state."""


def check_stated(
    source: str, name: str, options: Mapping[str, Any], args: Sequence[Any] = ()
) -> None:
    """Raise InputError for an architecture that no file may state."""
    if source == "file":  # never built because a file says so
        if len(name) > LONGEST:
            raise InputError("a file's architecture has a name of more than a line")
        return
    checked_name(name, "architecture's name")
    for option, value in (*options.items(), *(("(no name)", value) for value in args)):
        if option not in STATED.get(source, ()) or not _is_plain(option, value):
            raise InputError(
                f"{source}:{name} is stated with {legible(f'{option}={value!r:.60}')}, and a file "
                "may only state sizes and switches that its builder knows: save it without arch, "
                "so that the network is kept as a program"
            )


def _is_plain(option: str, value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) <= _MOST and all(_is_plain(option, entry) for entry in value)
    if isinstance(value, str):
        return _WORD.fullmatch(value) is not None
    if isinstance(value, (int, float)):
        return abs(value) <= _LARGEST.get(option, _WIDEST)
    return value is None


_WORD = re.compile("[a-z0-9_]{0,40}")
_MOST = 64  # entries of a list
