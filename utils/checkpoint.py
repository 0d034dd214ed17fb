"""Command line for weights: ``python -m utils.checkpoint --help``."""

from __future__ import annotations

from collections.abc import Sequence

from utils.prediction.bundle import add_command
from utils.training import checkpoint


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; see ``--help``."""
    checkpoint.main(argv, [add_command])


if __name__ == "__main__":
    main()
