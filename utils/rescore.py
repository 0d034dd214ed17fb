"""Scores the saved embeddings of a run again, without its model: other probes, other figures, newer metrics.

    python -m utils.rescore RUN OUTPUT

Reads ``config.json`` and the ``data/*_embeddings.npz`` of every fold and seed below the run folder, and writes
tables, figures and predictions as the run did. Zero-shot results and trained heads need the model: for these,
evaluate the run with ``--eval_only --eval_weights RUN``.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from utils import constants
from utils.configuration.run_config import RunConfig
from utils.evaluation import plots
from utils.evaluation.embeddings import Embeddings, with_complete_parts
from utils.evaluation.report_file import write_report
from utils.evaluation.results import Evaluator, write_results
from utils.files import check_writable, read_json, setup_logging
from utils.test_utils_modaltune import CohortEvaluator
from utils.test_utils_pancancer import PanCancerEvaluator
from utils.training.model_setup import ModelSetup

logger = logging.getLogger(__name__)

EMBEDDINGS = "{split}_embeddings.npz"


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; see ``--help``."""
    parser = argparse.ArgumentParser(description="Score the saved embeddings of a run again.")
    parser.add_argument("run", type=Path, help="run folder, or the folder of an evaluation in it")
    parser.add_argument("output", type=Path, help="folder for the tables and figures; must not exist")
    args = parser.parse_args(argv)
    setup_logging()
    rescore(args.run, args.output)


def rescore(run: Path, output: Path) -> None:
    """Writes the results of ``run`` anew below ``output``.

    Raises:
        FileNotFoundError: no ``config.json``, or no fold or seed with embeddings of training patients.
        FileExistsError: ``output`` exists.
    """
    config = RunConfig.read(run)
    train = EMBEDDINGS.format(split="train")
    folders = sorted(path.parent.parent for path in run.glob(f"**/data/{train}"))
    # An evaluation of another cohort lies in the run folder, too, with a config of its own.
    folders = [f for f in folders if not any((up / "config.json").is_file() for up in _between(f, run))]
    if not folders:
        raise FileNotFoundError(
            f"{run}: no fold or seed holds data/{train} (--save_embeddings 0 leaves them out)"
        )
    if output.exists():
        raise FileExistsError(f"{output} exists; choose another folder")
    check_writable(output.parent)
    make = PanCancerEvaluator.of if config.data.sites else CohortEvaluator.of
    evaluator: Evaluator = make(config, ModelSetup(**read_json(run / "config.json")["model"]).tokens)
    names, frames = [str(f.relative_to(run)) for f in folders], []
    for folder, name in zip(folders, names, strict=True):
        files = {split: folder / "data" / EMBEDDINGS.format(split=split) for split in constants.SPLITS}
        splits = {split: Embeddings.load(path) for split, path in files.items() if path.is_file()}
        seed = int(folder.name.removeprefix("seed_"))
        about = " · ".join([config.data.onco or run.name, config.model.mil_name, *Path(name).parts])
        with plots.caption(about.replace("_", " ")):
            frames.append(evaluator.report(with_complete_parts(splits), output / name, seed))
        write_report(output / name, frames[-1])
    about_run = {"model": config.model.mil_name, "protocol": config.data.protocol, "rescored": str(run)}
    write_results(frames, output, about_run, names)
    logger.info("%d folds or seeds of %s scored again: %s", len(frames), run, output / "results.md")


def _between(folder: Path, run: Path) -> list[Path]:
    """The folders from ``folder`` up to ``run``, without it."""
    return [folder, *(up for up in folder.parents if run in up.parents)]


if __name__ == "__main__":
    main()
