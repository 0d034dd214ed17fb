"""Trains ModalTune on one cohort, or evaluates trained weights on one (``--eval_only``)."""

from __future__ import annotations

from collections.abc import Sequence

from utils.arguments import parse_args
from utils.test_utils_modaltune import CohortEvaluator
from utils.training.run import run


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; see ``--help``."""
    run(parse_args(__doc__, argv), CohortEvaluator.of)


if __name__ == "__main__":
    main()
