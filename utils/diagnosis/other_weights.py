"""``--all_weights``: checkpoints that a training does not read, but the steps before it do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from models.conch.text_tower import build_text_tower, read_text_config, read_text_state
from models.pretrained import read_checkpoint
from models.prov_gigapath.tile_encoder import build_tile_encoder
from models.titan.conch_v1_5 import build_conch_v1_5
from utils import constants
from utils.diagnosis.inputs import Inputs
from utils.diagnosis.weights import compare
from utils.files import read_json
from utils.findings import Finding, error


def check_other_weights(inputs: Inputs) -> Iterator[Finding]:
    """The encoders of patches and label sentences."""
    encoder = constants.encoder_of(inputs.config.model.mil_name)
    tile_file, tile_config, build = {
        "gigapath": ("GIGAPATH_TILE_ENCODER", "gigapath_tile_encoder.json", build_tile_encoder),
        "titan": ("CONCH_V1_5", "conch_v1_5.json", build_conch_v1_5),
    }[encoder]
    tile_config = inputs.tile_config or constants.CONFIGS_ROOT / tile_config
    text_config = inputs.text_config or constants.CONFIGS_ROOT / "conch_text.json"
    for constant, config, read, make in (
        (
            tile_file,
            tile_config,
            lambda path: read_checkpoint(path, "the patch encoder", "its authors", tile_file),
            lambda: build(read_json(tile_config)),
        ),
        (
            "CONCH_CHECKPOINT",
            text_config,
            read_text_state,
            lambda: build_text_tower(read_text_config(text_config)),
        ),
    ):
        path = getattr(constants, constant)
        try:
            with torch.device("meta"):
                module = make()
            yield from compare(module, read(path), f"{constant} ({Path(config).name})", path)
        except (OSError, ValueError) as reason:
            yield error(str(reason), f"set {constant} in utils/constants.py, or pass the config that it has")
    if not constants.CONCH_TOKENIZER.is_file():
        yield error(
            f"the tokeniser {constants.CONCH_TOKENIZER} does not exist",
            "get it with the CONCH checkpoint and set CONCH_TOKENIZER in utils/constants.py",
        )
