"""Whole-slide images -> GigaPath patch features (tiles of 256 px at 0.5 micrometres per pixel).

Example: python -m data_utils.TCGA_extract_feats_GIGAPATH --onco BRCA --previews
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from data_utils.slides.command_line import ExtractionConfig, extraction_parser, run_extraction
from models.prov_gigapath.tile_encoder import load_tile_encoder
from utils import constants
from utils.files import setup_logging


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    return extraction_parser(
        __doc__,
        encoder="gigapath",
        config=constants.CONFIGS_ROOT / "gigapath_tile_encoder.json",
        checkpoint=constants.GIGAPATH_TILE_ENCODER,
    ).parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Extracts one cohort; see ``--help`` for the exit status."""
    setup_logging()
    return run_extraction(ExtractionConfig.of(vars(parse_args(argv))), load_tile_encoder)


if __name__ == "__main__":
    raise SystemExit(main())
