"""Trains ModalTune on one cohort, or evaluates trained weights on one (``--eval_only``)."""

from __future__ import annotations

from collections.abc import Sequence

from data_utils.tables.cohorts import load_cohort
from utils import constants
from utils.arguments import parse_args
from utils.run_config import RunConfig
from utils.test_utils_modaltune import CohortEvaluator
from utils.training.run import run


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; see ``--help``."""
    run(parse_args(__doc__, argv), make_evaluator)


def make_evaluator(config: RunConfig) -> CohortEvaluator:
    """The evaluator of a cohort; with ``--onco``, figures name its classes."""
    (num_classes,) = config.data.num_classes
    classes = load_cohort(config.data.onco).classes if config.data.onco else ()
    names = [members[0] for members in classes] if len(classes) == num_classes else None
    return CohortEvaluator(num_classes, constants.TASKS[: config.model.num_tasks], names)


if __name__ == "__main__":
    main()
