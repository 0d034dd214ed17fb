"""Command line for weights: ``python -m utils.checkpoint --help``."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from utils.files import check_output, setup_logging
from utils.prediction.bundle import bundle
from utils.training.checkpoint import clean, load_weights, save

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; see ``--help``."""
    parser = argparse.ArgumentParser(description="Translate ModalTune checkpoints, and bundle runs.")
    commands = parser.add_subparsers(dest="command", required=True)
    convert = commands.add_parser("convert", help="published best_model_weights.pt -> our parameter names")
    cleaning = commands.add_parser("clean", help="any PyTorch file -> tensors and plain values only")
    bundling = commands.add_parser("bundle", help="run folder -> one folder with all that predictions need")
    for command in (convert, cleaning, bundling):
        command.add_argument("source", type=Path)
        command.add_argument("target", type=Path)
    cleaning.add_argument(
        "--trust_checkpoint", action="store_true", help="you know: reading the file runs code from it"
    )
    args = parser.parse_args(argv)
    setup_logging()
    if args.command == "bundle":
        bundle(args.source, args.target)
        return
    check_output(args.target, (args.source,))
    if args.command == "convert":
        content = load_weights(args.source)
        save(args.target, {"run": {}, **content})
        logger.info("%s: %d tensors written to %s", args.source, len(content["model"]), args.target)
    elif args.trust_checkpoint:
        dropped = clean(args.source, args.target)
        logger.info("%s written; left out: %s", args.target, ", ".join(dropped) or "nothing")
    else:
        parser.error(f"reading {args.source} may run code from it; if you trust it, add --trust_checkpoint")


if __name__ == "__main__":
    main()
