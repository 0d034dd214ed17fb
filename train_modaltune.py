"""Trains ModalTune on one cohort, or evaluates trained weights on one (``--eval_only``)."""

from __future__ import annotations

from collections.abc import Sequence

from utils import constants
from utils.arguments import parse_args
from utils.run import run
from utils.test_utils_modaltune import CohortEvaluator


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; see ``--help``."""
    args = parse_args(__doc__, argv)
    run(args, lambda a: CohortEvaluator(a.num_classes, constants.TASKS[: a.num_tasks]))


if __name__ == "__main__":
    main()
