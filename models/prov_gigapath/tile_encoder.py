"""GigaPath's tile encoder: a timm vision transformer in its published shape, or smaller for the demo.

Source: H. Xu et al., A whole-slide foundation model for digital pathology from real-world data, Nature
2024; checkpoint ``pytorch_model.bin`` (shapes: 224 px, patches of 16, 1536 wide, 40 blocks).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from models.pretrained import load_frozen, read_checkpoint
from utils import constants

NAME = "the GigaPath tile encoder"
SOURCE = "https://huggingface.co/prov-gigapath/prov-gigapath (gated; python -m utils.weights fetch gigapath)"


def build_tile_encoder(config: Mapping[str, Any]) -> nn.Module:
    """The encoder of a config (``model_name``, ``model_args``), with random weights.

    Maps normalised images ``[n, 3, input_size, input_size]`` to ``[n, D]`` (D = 1536 as published); its
    ``num_features`` is ``D``.

    Raises:
        ValueError: the config is incomplete, names no timm model, or one with a classifier.
    """
    if missing := [key for key in ("model_name", "model_args") if key not in config]:
        raise ValueError(f"tile encoder config: entries {missing} are missing")
    name, arguments = config["model_name"], dict(config["model_args"])
    if not timm.is_model(name):
        raise ValueError(f"tile encoder config: timm has no model {name!r}")
    if arguments.get("num_classes") != 0:
        raise ValueError("tile encoder config: model_args.num_classes must be 0, features are wanted")
    return timm.create_model(name, pretrained=False, **arguments)


def read_tile_state(path: str | Path) -> dict[str, Tensor]:
    """The flat state dict of ``pytorch_model.bin``.

    Raises:
        FileNotFoundError: the file does not exist; the message says where to get it.
        ValueError: the file is damaged.
    """
    return read_checkpoint(path, NAME, SOURCE, "GIGAPATH_TILE_ENCODER")


def load_tile_encoder(config: Mapping[str, Any], checkpoint: str | Path | None = None) -> nn.Module:
    """The frozen encoder of a config in evaluation mode, float32 on the CPU.

    Args:
        config: contents of a ``model_configs/*_tile_encoder.json``.
        checkpoint: flat state dict of the encoder; ``constants.GIGAPATH_TILE_ENCODER`` when ``None``.

    Raises:
        FileNotFoundError: the checkpoint does not exist; the message says where to get it.
        ValueError: the checkpoint does not fit the config, or the config is wrong.
    """
    path = Path(checkpoint or constants.GIGAPATH_TILE_ENCODER)
    return load_frozen(lambda: build_tile_encoder(config), read_tile_state(path), NAME, path)
