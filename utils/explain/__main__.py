"""Explains what a trained model says of patients: attributions, maps, pathways and a report.

    python -m utils.explain RUN

Writes ``RUN/report``: ``index.html`` for the run, a folder for every patient, and tables of everything. Started
again, it explains only patients who are missing. docs/explain.md says what the numbers mean.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from data_utils.tables.cohorts import cohort_name
from utils import constants
from utils.devices import pick_device
from utils.explain.baselines import PATCH_BASELINES, baselines
from utils.explain.cohort import write_cohort
from utils.explain.loaded_run import LoadedRun
from utils.explain.maps import slides_below
from utils.explain.patients import Settings, explain_patient, is_done
from utils.explain.sentences import TextModel
from utils.files import check_writable, setup_logging

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.explain",
        description="Explain what a trained model says of patients.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="run folder, or the folder of an evaluation in it")
    parser.add_argument(
        "--job", help="which training of the run, such as seed_1 or fold_0/seed_1; if not given, the first"
    )
    parser.add_argument("--site", type=cohort_name, help="pan-cancer runs: whose patients and probes")
    parser.add_argument(
        "--split", choices=constants.SPLITS, default="test", help="split whose patients are explained"
    )
    parser.add_argument(
        "--patients", nargs="+", help="barcodes or GDC identifiers; if not given, all of the split"
    )
    parser.add_argument("--limit", type=int, help="explain at most so many patients")
    parser.add_argument(
        "--targets",
        nargs="+",
        help="class (of two the second, else every one), class:K (its log-odds), probability:K, risk, number, "
        "zero_shot:K, zero_shot:risk, 'text:any sentence' (similarity to it); if not given, class, risk and number as "
        "far as the task is evaluated by them",
    )
    parser.add_argument(
        "--text_vectors",
        type=Path,
        help="{sentence: vector} of text: targets by the run's text model, for CONCH",
    )
    parser.add_argument(
        "--conch_config", type=Path, help="sizes of CONCH's text tower, where not the official"
    )
    parser.add_argument("--task", help="task token to explain; if not given, the first of the run")
    parser.add_argument(
        "--steps", type=int, default=20, help="more follow for a patient until the gap is below 1 %%"
    )
    parser.add_argument(
        "--patch_baseline",
        choices=PATCH_BASELINES,
        default="mean",
        help="where integration begins: the mean training patch, or zero",
    )
    parser.add_argument(
        "--attention_heads", action="store_true", help="also write the attention of every head, as NPZ"
    )
    parser.add_argument("--slides_dir", type=Path, help="whole slides; if not given, those of the cohort")
    parser.add_argument(
        "--output", type=Path, help="folder of the report; if not given, report in the run folder"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or the index of a GPU")
    args = parser.parse_args(argv)
    if args.steps < 1 or (args.limit is not None and args.limit < 1):
        parser.error("--steps and --limit must be at least 1")
    setup_logging()
    output = args.output or args.run / "report" / (args.site or "")
    check_writable(output)
    run = LoadedRun.open(args.run, pick_device(args.device), args.job, args.site)
    if args.split not in run.datasets:
        parser.error(f"--split {args.split}: no patient of it can be evaluated")
    dataset = run.datasets[args.split]
    token = args.task or next(iter(run.probes.tasks))
    if token not in run.probes.tasks:
        parser.error(f"--task {token}: the run has {', '.join(run.probes.tasks)}")
    parts = {"class": "subtype", "risk": "survival", "number": "number"}
    usual = [word for word, part in parts.items() if run.probes.predicts(token, part)]
    targets = run.targets(args.targets or usual, token, TextModel(args.text_vectors, args.conch_config))
    names = [patient.submitter_id for patient in dataset.patients]
    chosen = list(range(len(names)))
    if args.patients is not None:
        place = {n: k for k, p in enumerate(dataset.patients) for n in (p.submitter_id, p.case_id)}
        if unknown := [name for name in args.patients if name not in place]:
            parser.error(
                f"--patients {unknown} are not in the {args.split} split, which has such as {names[:3]}"
            )
        chosen = [place[name] for name in dict.fromkeys(args.patients)]
    chosen = chosen[: args.limit]
    slides_dir = args.slides_dir
    if slides_dir is None and (cohort := run.site or run.config.data.onco) is not None:
        slides_dir = constants.slide_dir(cohort)
    settings = Settings(
        args.steps,
        args.patch_baseline,
        token,
        tuple(target.name for target in targets),
        str(run.job.folder.relative_to(args.run)),
        args.attention_heads,
        run.weights_digest,
    )
    folders = {k: output / "patients" / names[k] for k in chosen}
    missing = [k for k in chosen if not is_done(folders[k], settings)]
    if len(missing) < len(chosen):
        logger.info("%d of %d patients are explained already", len(chosen) - len(missing), len(chosen))
    pictures = slides_below(slides_dir)
    starts = baselines(run.datasets["train"], args.patch_baseline) if missing else {}
    for k in tqdm(missing, desc="patients explained", disable=None):
        explain_patient(run, dataset, k, targets, starts, settings, folders[k], pictures)
    write_cohort(output, [names[k] for k in chosen], targets, args.run, run.job.folder, run.site)
    logger.info("report: %s", output / "index.html")


if __name__ == "__main__":
    main()
