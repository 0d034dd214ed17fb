"""Whole-slide images -> patch features of any registered slide encoder.

Example: python -m data_utils.extract_features --encoder gigapath_flash --onco BRCA --previews
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from data_utils.slides.command_line import ExtractionConfig, extraction_parser, run_extraction
from models.encoders import DEFAULT, SlideEncoder, slide_encoder, slide_encoders
from models.pretrained import load_frozen
from utils import constants
from utils.files import setup_logging


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line; the encoder decides the defaults of its config and checkpoint."""
    chosen = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    names = [name for name, encoder in slide_encoders().items() if encoder.tile_reader]
    chosen.add_argument(
        "--encoder",
        choices=names,
        default=DEFAULT,
        help="slide encoder whose patch features are wanted (default: %(default)s)",
    )
    encoder = slide_encoder(chosen.parse_known_args(argv)[0].encoder)
    if encoder.tile_config is None or encoder.tile_weights is None:
        raise ValueError(
            f"slide encoder {encoder.name} declares a tile_reader without tile_config or tile_weights"
        )
    parser = extraction_parser(
        __doc__, encoder.name, encoder.tile_config, getattr(constants, encoder.tile_weights), parents=[chosen]
    )
    return parser.parse_args(argv)


def load_patch_encoder(encoder: SlideEncoder, config: Mapping[str, Any], checkpoint: Path) -> nn.Module:
    """The frozen patch encoder of a slide encoder, in evaluation mode, float32 on the CPU.

    Raises:
        FileNotFoundError: the checkpoint does not exist; the message says where to get it.
        ValueError: the checkpoint does not fit the config, or the config is wrong.
    """
    state = encoder.load("tile_reader")(checkpoint)
    build = encoder.load("tile_builder")
    return load_frozen(lambda: build(config), state, f"the patch encoder of {encoder.name}", checkpoint)


def main(argv: Sequence[str] | None = None) -> int:
    """Extracts one cohort; see ``--help`` for the exit status."""
    setup_logging()
    args = parse_args(argv)
    load = partial(load_patch_encoder, slide_encoder(args.encoder))
    return run_extraction(ExtractionConfig.of(vars(args)), load)


if __name__ == "__main__":
    raise SystemExit(main())
