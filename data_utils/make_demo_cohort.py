"""Generates a demo: raw cohorts in the layouts of TCGA and Xena, and small checkpoints in official formats.

    python -m data_utils.make_demo_cohort --root demo_data --seed 0

writes ``demo_data/data`` (for ``MODALTUNE_DATA_ROOT``), ``demo_data/weights`` (for
``MODALTUNE_WEIGHTS_ROOT``) and ``demo_data/pathways.csv`` (for ``MODALTUNE_PATHWAY_TABLE``). A subtype and
an aggressiveness are planted in the images, the expression and the survival times, so a correct pipeline
finds them; ``truth_{onco}.csv`` holds them for tests. The same seed gives the same cohort. Files that exist
are kept, so an interrupted run continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from data_utils.demo.cohorts import COHORTS, DemoCohort
from data_utils.demo.expression import (
    cohort_expression,
    write_cohort_matrix,
    write_pancan_matrix,
    write_pathways,
)
from data_utils.demo.histology import write_slide
from data_utils.demo.patients import (
    Patient,
    Slide,
    cohort_patients,
    write_clinical,
    write_slide_table,
    write_truth,
)
from utils import constants
from utils.files import read_json, setup_logging, write_json

logger = logging.getLogger(__name__)

# Raise when the same seed gives another cohort than before.
VERSION = 3
DEFAULT_COHORTS = ("BRCA", "BLCA")


def make_demo_cohort(
    root: str | Path,
    seed: int = 0,
    scale: float = 1.0,
    cohorts: Sequence[str] = DEFAULT_COHORTS,
    workers: int = 2,
    split: bool = False,
) -> None:
    """Writes what is missing of the demo below ``root``.

    Args:
        root: folder of the demo.
        seed: of everything random.
        scale: factor on the numbers of patients; a cohort keeps at least twelve, one of each peculiarity.
        cohorts: names out of ``data_utils.demo.cohorts.COHORTS``.
        workers: processes that paint slides; 0 or 1 paints in this one.
        split: image and expression show a part of the signal each, instead of nearly all of it.

    Raises:
        ValueError: a cohort is unknown, ``scale`` is not positive, or ``root`` holds another demo.
    """
    root = Path(root)
    if unknown := sorted(set(cohorts) - COHORTS.keys()):
        raise ValueError(f"unknown demo cohorts {unknown}; known: {sorted(COHORTS)}")
    # The pan-cancer matrix holds all cohorts, whichever are asked for, so that order does not matter.
    patients = {name: cohort_patients(cohort, seed, scale, split) for name, cohort in COHORTS.items()}
    _claim(root, {"version": VERSION, "seed": seed, "scale": scale} | ({"split": True} if split else {}))

    slides: list[tuple[Slide, Path]] = []
    for name in cohorts:
        folder = root / "data" / f"TCGA-{name}"
        slides += [(s, folder / "images" / s.path) for patient in patients[name] for s in patient.slides]
    _write_slides(slides, workers)
    for name in cohorts:
        _write_tables(root, name, patients[name])
    _write_expression(root, {name: COHORTS[name] for name in cohorts}, patients, seed)
    if not (pathways := root / "pathways.csv").exists():
        write_pathways(pathways)

    # Imported late: the processes that paint slides import this module and have no use for torch.
    from data_utils.demo.checkpoints import write_checkpoints

    write_checkpoints(root / "weights", seed)
    for name in cohorts:
        count = sum(len(patient.slides) for patient in patients[name])
        logger.info("%s: %d patients, %d slides below %s", name, len(patients[name]), count, root / "data")


def _claim(root: Path, description: dict[str, float]) -> None:
    """Marks ``root`` as the demo of these settings; mixing two would give inconsistent tables."""
    marker = root / "demo.json"
    if not marker.exists():
        write_json(marker, description)
    elif (found := read_json(marker)) != description:
        raise ValueError(
            f"{root} holds a demo made with {json.dumps(found)}, not {json.dumps(description)}: "
            f"choose another --root or delete the folder"
        )


def _write_slides(slides: list[tuple[Slide, Path]], workers: int) -> None:
    missing = [(slide, path) for slide, path in slides if not path.exists()]
    logger.info("slides: %d exist, painting %d", len(slides) - len(missing), len(missing))
    progress = tqdm(total=len(missing), desc="slides", unit="slide", disable=None if missing else True)
    with progress:
        if workers <= 1 or len(missing) < 2:
            for slide, path in missing:
                write_slide(slide, path)
                progress.update()
            return
        # Not forked: a fork of a process with running threads can hang.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            for done in as_completed([pool.submit(write_slide, slide, path) for slide, path in missing]):
                done.result()
                progress.update()


def _write_tables(root: Path, name: str, patients: list[Patient]) -> None:
    folder = root / "data" / f"TCGA-{name}"
    writers = {
        folder / "clinical" / "clinical.tsv": write_clinical,
        folder / "biospecimen" / "slide.tsv": write_slide_table,
        root / f"truth_{name.lower()}.csv": write_truth,
    }
    for path, write in writers.items():
        if not path.exists():
            write(patients, path)


def _write_expression(
    root: Path, chosen: dict[str, DemoCohort], patients: dict[str, list[Patient]], seed: int
) -> None:
    folder = root / "data" / "TCGA-genomics" / "raw"
    pancan = folder / constants.pancan_expression_table().name
    single = {name: folder / constants.expression_table(name).name for name in chosen}
    if pancan.exists() and all(path.exists() for path in single.values()):
        return
    matrices = {name: cohort_expression(cohort, patients[name], seed) for name, cohort in COHORTS.items()}
    for name, path in single.items():
        if not path.exists():
            write_cohort_matrix(matrices[name], seed, path)
    if not pancan.exists():
        write_pancan_matrix(list(matrices.values()), pancan)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of the entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--root", type=Path, default=constants.REPO_ROOT / "demo_data", help="folder of the demo"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the numbers of patients")
    parser.add_argument("--workers", type=int, default=2, help="processes that paint slides")
    parser.add_argument(
        "--split", action="store_true", help="images and genes show a part of the signal each, not most of it"
    )
    parser.add_argument("--cohorts", nargs="+", default=list(DEFAULT_COHORTS), choices=sorted(COHORTS))
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    args = parse_args(argv)
    setup_logging()
    make_demo_cohort(args.root, args.seed, args.scale, args.cohorts, args.workers, args.split)


if __name__ == "__main__":
    main()
