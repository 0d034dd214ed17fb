"""Trains one ModalTune on several cancer sites, or evaluates trained weights on them (``--eval_only``).

``python -m data_utils.make_pancancer`` joins the cohorts first. Flags are those of ``train_modaltune.py`` and
the few below; ``--onco`` names the union.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from data_utils.tables.cohorts import cohort_name
from utils import constants
from utils.arguments import parse_args
from utils.test_utils_pancancer import PanCancerEvaluator
from utils.training.run import run


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; see ``--help``."""
    run(parse_args(__doc__, argv, add_flags), PanCancerEvaluator.of)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of pan-cancer runs."""
    parser.set_defaults(onco=constants.PANCANCER)
    group = parser.add_argument_group("pan-cancer")
    group.add_argument(
        "--sites",
        nargs="+",
        type=cohort_name,
        default=list(constants.PANCANCER_SITES),
        help="cancer sites (cohorts) of the union, in the order of the result table",
    )
    group.add_argument(
        "--stratified_cox",
        action="store_true",
        help="the common Cox model has a baseline hazard per TCGA project",
    )


if __name__ == "__main__":
    main()
