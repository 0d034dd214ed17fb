"""Predicts patients without labels by trained models: no training data, nothing is fitted.

    python -m utils.prediction RUN [RUN ...] --features_dir DIR --output predictions.csv

A RUN is the folder of a training, of an evaluation (its probes are those of the cohort it was evaluated on) or a bundle
(``python -m utils.checkpoint bundle``). All folds and seeds of all runs are one ensemble.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_utils.tables.cohorts import cohort_name
from models.modalities import all_modalities
from utils.devices import pick_device
from utils.files import atomic_path, check_output, setup_logging
from utils.prediction.embed import embed_patients, tables_of
from utils.prediction.export import write_embeddings
from utils.prediction.models import candidate_file, find_models
from utils.prediction.patients import listed_patients, one_per_slide, read_patients
from utils.prediction.table import Asked, prediction_table

logger = logging.getLogger(__name__)

MONTHS = (12.0, 36.0, 60.0)


def build_parser() -> tuple[argparse.ArgumentParser, dict[str, list[str]]]:
    """The parser, and the names of the flags that each modality adds."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m utils.prediction",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="run folder, folder of an evaluation, or bundle")
    add(
        "--features_dir",
        type=Path,
        help="feature files of the new slides; models that read none predict everybody in the tables without",
    )
    add(
        "--patients",
        type=Path,
        help="table (.csv, .tsv, .xlsx, .parquet) with the columns patient and slide; if not given, file names decide",
    )
    add("--output", type=Path, default=Path("predictions.csv"), help="table to write")
    add(
        "--task",
        help="task token whose classes and risk are written; if not given, the first that predicts each",
    )
    add("--site", type=cohort_name, help="pan-cancer runs: the cancer site of the patients")
    add("--months", nargs="+", type=float, default=MONTHS, help="when to give survival probabilities")
    add(
        "--candidate_location",
        type=Path,
        help="candidate sentences for zero-shot classes; if not given, the run's",
    )
    add("--embeddings", type=Path, help="also write the embeddings: .npz, .csv or .h5ad")
    add(
        "--per_slide", action="store_true", help="with --embeddings: every slide of a patient on its own, too"
    )
    add(
        "--backbone_weights",
        type=Path,
        help="slide encoder; if not given, that of the run or utils/constants.py",
    )
    add("--device", default="auto", help="auto, cpu, cuda or the index of a GPU")
    tables = parser.add_argument_group("tables of the new patients")
    flags = {}
    for name, entry in all_modalities().items():
        tables.add_argument(f"--{entry.flag}", type=Path, help=entry.help.split(";")[0])
        flags[name] = [action.dest for action in entry.add_flags(tables)]
    return parser, flags


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; the status is 1 where no patient could be predicted."""
    parser, flags = build_parser()
    args = parser.parse_args(argv)
    setup_logging()
    if wrong := [month for month in args.months if not 0 <= month < float("inf")]:
        parser.error(f"--months {wrong}: should be 0 or more")
    if args.embeddings is None and args.per_slide:
        parser.error("--per_slide is for --embeddings")
    if args.features_dir is None and (args.patients is not None or args.per_slide):
        parser.error("--patients and --per_slide are about slides: pass --features_dir")
    files = {name: getattr(args, entry.flag) for name, entry in all_modalities().items()}
    options: dict[str, dict[str, Any]] = {
        n: {flag: getattr(args, flag) for flag in own} for n, own in flags.items()
    }
    inputs = [value for name, value in vars(args).items() if name not in ("output", "embeddings")]
    for path in filter(None, (args.output, args.embeddings)):
        check_output(path, inputs)
    if args.embeddings is not None and args.embeddings.resolve() == args.output.resolve():
        parser.error(f"--embeddings and --output are both {args.output}: name two files")
    device = pick_device(args.device)
    found = [(model, run) for run in args.runs for model in find_models(run, args.site)]
    if args.features_dir is not None:
        requested = read_patients(args.features_dir, args.patients)
    elif with_patches := [model.name for model, _ in found if model.setup.reads_patches]:
        parser.error(f"{with_patches[0]} reads patches: pass --features_dir")
    else:
        requested = listed_patients(
            t for model, _ in found for t in tables_of(model, files, options).values()
        )
    cases = requested.patients + (one_per_slide(requested.patients) if args.per_slide else [])
    models, embedded = [], []
    for number, (model, run) in enumerate(found, 1):
        logger.info("model %d of %d: %s", number, len(found), model.name)
        models.append(model.with_backbone(args.backbone_weights))
        candidates = args.candidate_location or candidate_file(run, model.config)
        embedded.append(embed_patients(models[-1], cases, files, options, device, candidates))
    asked = Asked(args.task, args.months, args.site or models[0].config.data.onco)
    table = prediction_table(requested, models, embedded, asked)
    with atomic_path(args.output) as temporary:
        table.to_csv(temporary, index=False)
    if args.embeddings is not None:
        write_embeddings(args.embeddings, cases, models, embedded)
    good = int((table["error"] == "").sum())
    logger.info("%d of %d patients predicted by %d models: %s", good, len(table), len(models), args.output)
    return int(good == 0)


if __name__ == "__main__":
    raise SystemExit(main())
