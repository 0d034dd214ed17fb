"""CONCH v1.5, TITAN's patch encoder: a timm vision transformer and an attentional pooler on top of it.

Source: T. Ding et al., Multimodal whole slide foundation model for pathology, 2024; checkpoint
``pytorch_model_vision.bin`` (448 px, patches of 16, 1024 wide, 24 blocks, 16 heads, output 768).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.configuration import from_mapping
from models.pretrained import load_frozen, read_checkpoint
from utils import constants

NAME = "the CONCH v1.5 patch encoder"
SOURCE = "https://huggingface.co/MahmoodLab/conchv1_5 (gated; python -m utils.weights fetch titan)"


@dataclass(frozen=True)
class PoolerConfig:
    """Shape of the attentional pooler: output width and attention heads."""

    embed_dim: int
    num_heads: int


class AttentionalPooler(nn.Module):
    """Learned queries that attend to all tokens of an image; nothing but the norms has a bias.

    Args:
        embed_dim: width ``E`` of queries and output.
        context_dim: width ``C`` of tokens.
        num_heads: attention heads.
        num_queries: number ``Q`` of queries.

    Raises:
        ValueError: heads do not divide the width.
    """

    def __init__(self, embed_dim: int, context_dim: int, num_heads: int, num_queries: int = 1) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"pooler: {num_heads} heads do not divide the width {embed_dim}")
        self.num_heads = num_heads
        self.query = nn.Parameter(torch.randn(num_queries, embed_dim))
        self.ln_q = nn.LayerNorm(embed_dim)
        self.ln_k = nn.LayerNorm(context_dim)
        self.to_q = nn.Linear(embed_dim, embed_dim, bias=False)
        self.to_kv = nn.Linear(context_dim, 2 * embed_dim, bias=False)
        self.to_out = nn.Linear(embed_dim, embed_dim, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[n, L, C] -> [n, Q, E]``."""
        query = self.to_q(self.ln_q(self.query)).expand(len(tokens), -1, -1)  # [n, Q, E]
        key, value = self.to_kv(self.ln_k(tokens)).chunk(2, dim=-1)  # [n, L, E] each
        heads = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (query, key, value))
        pooled = F.scaled_dot_product_attention(*heads)  # [n, heads, Q, E / heads]
        return self.to_out(pooled.transpose(1, 2).flatten(2))


class ConchV15(nn.Module):
    """Normalised images ``[n, 3, s, s]`` -> features ``[n, D]`` (D = 768 as published).

    Parameter names are those of the checkpoint.

    Args:
        trunk: a timm vision transformer without a classifier.
        pooler: shape of the pooler; its width is ``D``, also ``num_features``.
    """

    def __init__(self, trunk: nn.Module, pooler: PoolerConfig) -> None:
        super().__init__()
        self.trunk = trunk
        self.attn_pool_contrast = AttentionalPooler(
            pooler.embed_dim, self.trunk.embed_dim, num_heads=pooler.num_heads
        )
        self.ln_contrast = nn.LayerNorm(pooler.embed_dim)
        self.num_features = pooler.embed_dim

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.trunk.forward_features(images)  # [n, 1 + patches, C], after the final norm
        return self.ln_contrast(self.attn_pool_contrast(tokens)[:, 0])


def build_conch_v1_5(config: Mapping[str, Any]) -> ConchV15:
    """The encoder of a config (``model_name``, ``model_args``, ``model_pooler``), with random weights.

    Raises:
        ValueError: the config is incomplete, contradicts itself, names no timm model, or one with a
            classifier.
    """
    where = "CONCH v1.5 config"
    if missing := [key for key in ("model_name", "model_args", "model_pooler") if key not in config]:
        raise ValueError(f"{where}: entries {missing} are missing")
    name, arguments = config["model_name"], dict(config["model_args"])
    if not timm.is_model(name):
        raise ValueError(f"{where}: timm has no model {name!r}")
    if arguments.get("num_classes") != 0:
        raise ValueError(f"{where}: model_args.num_classes must be 0, features are wanted")
    if config.get("input_size") != arguments.get("img_size"):
        raise ValueError(
            f"{where}: tiles are {config.get('input_size')} px (input_size), the encoder takes "
            f"{arguments.get('img_size')} px (model_args.img_size)"
        )
    pooler = from_mapping(PoolerConfig, config["model_pooler"], f"{where}, model_pooler")
    return ConchV15(timm.create_model(name, pretrained=False, **arguments), pooler)


def read_conch_v1_5(path: str | Path) -> dict[str, Tensor]:
    """The flat state dict of ``pytorch_model_vision.bin``.

    Raises:
        FileNotFoundError: the file does not exist; the message says where to get it.
        ValueError: the file is damaged.
    """
    return read_checkpoint(path, NAME, SOURCE, "CONCH_V1_5")


def load_conch_v1_5(config: Mapping[str, Any], checkpoint: str | Path | None = None) -> ConchV15:
    """The frozen encoder of a config in evaluation mode, float32 on the CPU.

    Args:
        config: contents of ``model_configs/conch_v1_5.json`` or a smaller one.
        checkpoint: flat state dict of the encoder; ``constants.CONCH_V1_5`` when ``None``.

    Raises:
        FileNotFoundError: the checkpoint does not exist; the message says where to get it.
        ValueError: the checkpoint does not fit the config, or the config is wrong.
    """
    path = Path(checkpoint or constants.CONCH_V1_5)
    return load_frozen(lambda: build_conch_v1_5(config), read_conch_v1_5(path), NAME, path)
