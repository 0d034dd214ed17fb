"""Trains ModalTune on one cohort, or evaluates trained weights on one (``--eval_only``)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from data_utils.tables.cohorts import load_cohort
from utils import constants
from utils.arguments import parse_args
from utils.test_utils_modaltune import CohortEvaluator
from utils.training.run import run


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; see ``--help``."""
    run(parse_args(__doc__, argv), make_evaluator)


def make_evaluator(args: argparse.Namespace) -> CohortEvaluator:
    """The evaluator of a cohort; with ``--onco``, figures name its classes."""
    classes = load_cohort(args.onco).classes if args.onco else ()
    names = [members[0] for members in classes] if len(classes) == args.num_classes else None
    return CohortEvaluator(args.num_classes, constants.TASKS[: args.num_tasks], names)


if __name__ == "__main__":
    main()
