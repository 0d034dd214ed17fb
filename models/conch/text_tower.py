"""CONCH's text tower, through open_clip.

The CoCa text transformer of CONCH is open_clip's ``TextTransformer`` with a CLS embedding appended after
the 127 tokens of a sentence and ``correct_cls_mask=False``: its weights were trained with the padding mask
shifted by one, and give other numbers with the repaired mask.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from models.configuration import from_mapping
from models.frozen import freeze
from models.pretrained import load_strict, read_checkpoint
from utils.files import content_of, read_json

logger = logging.getLogger(__name__)

PAD_ID = 0
_PREFIX = "text."


@dataclass(frozen=True)
class TextTowerConfig:
    """Sizes of the tower; those of CONCH are in ``model_configs/conch_text.json``.

    Attributes:
        context_length: tokens of a sentence, without the CLS.
        output_dim: width of an embedding.
    """

    context_length: int = field(metadata={"least": 1})
    vocab_size: int = field(metadata={"least": 1})
    width: int = field(metadata={"least": 1})
    heads: int = field(metadata={"least": 1})
    layers: int = field(metadata={"least": 1})
    output_dim: int = field(metadata={"least": 1})


def read_text_config(path: str | Path) -> TextTowerConfig:
    """Reads a config file.

    Raises:
        FileError: a key is unknown or missing, or a tower of these sizes cannot be.
    """
    with content_of(path, "correct it; model_configs/conch_text.json is that of CONCH"):
        config = from_mapping(TextTowerConfig, read_json(path), "text tower")
        with torch.device("meta"):
            build_text_tower(config)
    return config


def build_text_tower(config: TextTowerConfig) -> TextTransformer:
    """The tower with random weights; parameter names are those of ``conch.pt`` without ``text.``."""
    return TextTransformer(
        **asdict(config),
        embed_cls=True,
        output_tokens=True,
        pad_id=PAD_ID,
        correct_cls_mask=False,
    )


def read_text_state(checkpoint: str | Path) -> dict[str, Tensor]:
    """The tensors of the text tower in ``conch.pt``; errors as :func:`load_text_tower`."""
    source = "https://huggingface.co/MahmoodLab/CONCH"
    return read_checkpoint(checkpoint, "CONCH", source, "CONCH_CHECKPOINT", _PREFIX)


def load_text_tower(config: TextTowerConfig | Mapping[str, Any], checkpoint: str | Path) -> nn.Module:
    """The frozen tower with the weights of ``conch.pt``.

    Args:
        config: sizes of the tower.
        checkpoint: parameters under ``text.*``, possibly inside ``state_dict`` and behind ``module.``. The
            other towers in the file are passed over.

    Raises:
        FileNotFoundError: the checkpoint does not exist.
        ValueError: it is damaged, has no text tower, or does not fit the config.
    """
    if not isinstance(config, TextTowerConfig):
        config = from_mapping(TextTowerConfig, config, "config of the text tower")
    state = read_text_state(checkpoint)
    tower = build_text_tower(config)
    load_strict(tower, state, "CONCH's text tower", checkpoint)
    return freeze(tower).eval()


@torch.inference_mode()
def encode_tokens(tower: nn.Module, tokens: Tensor) -> Tensor:
    """L2-normalised embeddings of tokenised sentences.

    Args:
        tower: see :func:`load_text_tower`.
        tokens: ids ``[n, context_length + 1]`` of ``ConchTokenizer``; the last column, which keeps the place
            of the CLS, is dropped because the tower appends the CLS itself.

    Returns:
        ``[n, output_dim]``, float32.
    """
    pooled, _ = tower(tokens[:, :-1])
    return nn.functional.normalize(pooled.float(), dim=-1)
