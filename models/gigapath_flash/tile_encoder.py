"""GigaPath-Flash's tile encoder: GigaPath's family of vision transformers, 384 wide.

Source: ``pytorch_model.bin`` of https://huggingface.co/prov-gigapath/prov-gigapath-flash (224 px, patches of 16, 12
blocks, 6 heads). It is built from its config: ``timm`` does not know the architecture that the hub names and would
return random weights.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from models.pretrained import read_checkpoint

NAME = "the GigaPath-Flash tile encoder"
SOURCE = (
    "https://huggingface.co/prov-gigapath/prov-gigapath-flash (pytorch_model.bin; gated; python -m utils.weights "
    "fetch gigapath_flash)"
)


def read_tile_state(path: str | Path) -> dict[str, Tensor]:
    """The state dict of ``pytorch_model.bin``, which may lie under ``model``.

    Raises:
        FileNotFoundError: the file does not exist; the message says where to get it.
        ValueError: the file is damaged, or holds no state dict.
    """
    return read_checkpoint(path, NAME, SOURCE, "GIGAPATH_FLASH_TILE_ENCODER")
