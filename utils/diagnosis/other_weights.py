"""``--all_weights``: checkpoints that a training does not read, but the steps before it do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from models.conch.text_tower import build_text_tower, read_text_config, read_text_state
from models.encoders import encoder_of
from utils import constants
from utils.diagnosis.inputs import Inputs
from utils.diagnosis.weights import compare
from utils.files import read_json
from utils.findings import Finding, error, ok


def check_other_weights(inputs: Inputs) -> Iterator[Finding]:
    """The encoders of patches and label sentences."""
    encoder = encoder_of(inputs.config.model.mil_name)
    tile_file, tile_config = encoder.tile_weights, inputs.tile_config or encoder.tile_config
    if tile_file is None or tile_config is None or encoder.tile_reader is None:
        yield ok(f"slide encoder {encoder.name} declares no patch encoder to check")
        return
    build, read_tiles = encoder.load("tile_builder"), encoder.load("tile_reader")
    text_config = inputs.text_config or constants.CONFIGS_ROOT / "conch_text.json"
    for constant, config, read, make in (
        (
            tile_file,
            tile_config,
            read_tiles,
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
