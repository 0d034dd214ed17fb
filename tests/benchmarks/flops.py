"""Floating-point operations of the slide encoders by formula: fused kernels are invisible to counters.

Counted are the matrix products and attentions of the frozen blocks, which are nearly all of a step; a backward
pass forms gradients of activations only, and attention computes its scores again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.prov_gigapath.dilated_parts import plan
from models.prov_gigapath.longnet import PUBLISHED_RATIOS, PUBLISHED_SEGMENTS

# Of a backward pass, in forward passes.
BACKWARD_PRODUCTS, BACKWARD_ATTENTION = 1.0, 2.5
_EMBED_DIM, _MLP_RATIO = 768, 4.0
_DEFAULTS = {
    "gigapath": {"depth": 12, "num_heads": 16, "ffn_dim": 3072},
    "gigapath_flash": {"depth": 12, "num_heads": 16, "ffn_dim": 1536, "embed_dim": 384},
    "titan": {"depth": 6, "num_heads": 12},
}


def products(encoder: str, config: Mapping[str, Any], tokens: int) -> float:
    """Of the linear layers of all blocks, forward, one copy."""
    config = {**_DEFAULTS[encoder], **config}
    width = config.get("embed_dim", _EMBED_DIM)
    hidden = config.get("ffn_dim", int(config.get("mlp_ratio", _MLP_RATIO) * width))
    return 2.0 * config["depth"] * tokens * (4 * width**2 + 2 * width * hidden)


def attention(encoder: str, config: Mapping[str, Any], tokens: int) -> float:
    """Of scores and weighted sums of all blocks, forward, one copy."""
    config = {**_DEFAULTS[encoder], **config}
    width, heads = config.get("embed_dim", _EMBED_DIM), config["num_heads"]
    if encoder.startswith("gigapath"):
        segments = tuple(config.get("segment_lengths", PUBLISHED_SEGMENTS))
        ratios = tuple(config.get("dilated_ratios", PUBLISHED_RATIOS))
        pairs = sum(part.count * part.positions**2 for part in plan(segments, ratios, tokens, heads))
    else:
        pairs = tokens**2
    return 4.0 * config["depth"] * width * pairs


def step(encoder: str, config: Mapping[str, Any], patches: int, tasks: int, train: bool) -> float:
    """Of a whole step on a case; ``config`` is the section ``slide_encoder`` of a model config."""
    parts = (products(encoder, config, patches + 1), attention(encoder, config, patches + 1))
    backward = (BACKWARD_PRODUCTS, BACKWARD_ATTENTION)
    return tasks * sum(part * (1 + train * more) for part, more in zip(parts, backward, strict=True))
