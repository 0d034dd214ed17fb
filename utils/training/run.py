"""One call of a training entry point: folds x seeds, each trained and evaluated, then one table.

Layout of a run folder: ``config.json``, ``results.csv``, ``results.md`` and one folder
``[fold_<k>/]seed_<s>`` per training with its checkpoints, metrics, embeddings and figures. A folder
that has its ``report.csv`` is finished and is not run again; one that has not continues from its last
checkpoint.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import platform
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from data_utils.cases.cohort_data import CohortData, Splits
from data_utils.cases.datasets import CaseDataset, ModalityOptions, PatchOptions
from data_utils.cases.splits import Patient
from data_utils.features.source import FeatureSource
from data_utils.tables.clinical import ClinicalCodes
from data_utils.tables.genes import PathwayGroups
from models.aggregators import modalities_of
from models.compilation import compile_parts
from utils import constants
from utils.devices import pick_device
from utils.evaluation.embeddings import with_complete_parts
from utils.evaluation.results import Evaluator, write_results
from utils.evaluation.zero_shot import Candidates, read_candidates
from utils.files import atomic_path, read_json, setup_logging, write_json
from utils.training.checkpoint import TrainedWeights
from utils.training.distributed import Group, process_group
from utils.training.fingerprint import (
    FREE_ARGUMENTS,
    data_digests,
    differences,
    patients_digest,
    plain_arguments,
)
from utils.training.model_setup import about_missing, build_model, clinical_codes, input_shapes, model_config
from utils.training.objectives import TextDistillation
from utils.training.precision import Precision
from utils.training.run_lock import run_lock
from utils.training.tracking import Tracker
from utils.training.trainer import BEST_WEIGHTS, Trainer, TrainingOptions, set_seed

logger = logging.getLogger(__name__)

REPORT = "report.csv"
_PACKAGES = ("torch", "timm", "numpy", "pandas", "scikit-learn", "lifelines", "h5py")

EvaluatorFactory = Callable[[argparse.Namespace], Evaluator]


@dataclass(frozen=True)
class Job:
    """One training or evaluation: its folder, seed, patients and, for an evaluation, its weights."""

    folder: Path
    seed: int
    patients: Splits
    weights: TrainedWeights | None = None


def run(args: argparse.Namespace, make_evaluator: EvaluatorFactory) -> pd.DataFrame:
    """Runs everything the arguments ask for.

    Args:
        args: see :mod:`utils.arguments`.
        make_evaluator: builds the evaluator of the entry point.

    Returns:
        The results over folds and seeds, as written to ``results.csv``.
    """
    setup_logging()
    output = args.output_path / args.eval_name if args.eval_name else args.output_path
    with process_group() as group, ExitStack() as stack:
        group.on_main(lambda: stack.enter_context(run_lock(output)))
        return _run(args, make_evaluator, output, group)


def _run(
    args: argparse.Namespace, make_evaluator: EvaluatorFactory, output: Path, group: Group
) -> pd.DataFrame:
    files = find_weights(args.eval_weights) if args.eval_only else []
    weights = [TrainedWeights.read(path) for path in files]
    trained = weights[0].run if weights else {}
    config = model_config(args, trained)
    pathways = PathwayGroups.from_dict(trained["pathways"]) if trained else None
    data = CohortData.read(args, pathways)
    config.setdefault("shapes", input_shapes(config["mil_name"], data))
    jobs = list(_evaluations(output, args, data, weights) if weights else _trainings(output, args, data))
    codes = clinical_codes(jobs[0].weights, jobs[0].patients, config, data)
    fingerprint = _fingerprint(args, config, data, group)
    group.on_main(lambda: _claim(output, args, fingerprint, data, codes))

    source = FeatureSource(args.cache_features)
    for number, job in enumerate(jobs, 1):
        logger.info("%d of %d: %s", number, len(jobs), job.folder)
        if not group.on_main((job.folder / REPORT).is_file):
            _run_job(job, args, config, data, make_evaluator(args), fingerprint, group, source)

    def results() -> pd.DataFrame:
        frames = [pd.read_csv(job.folder / REPORT, keep_default_na=True) for job in jobs]
        names = [str(job.folder.relative_to(output)) for job in jobs]
        return write_results(frames, output, _header(args, config, data, jobs), names)

    return group.on_main(results)


def _run_job(
    job: Job,
    args: argparse.Namespace,
    config: dict[str, Any],
    data: CohortData,
    evaluator: Evaluator,
    fingerprint: dict[str, Any],
    group: Group,
    source: FeatureSource,
) -> None:
    set_seed(job.seed)
    model = build_model(args, config, data)
    objective = TextDistillation(model.output_dim, args.num_tasks)
    scalers = data.fit_scalers(job.patients)
    codes = clinical_codes(job.weights, job.patients, config, data)
    modalities = ModalityOptions(
        modalities_of(config["mil_name"]), config["missing_modalities"], args.modality_dropout
    )
    patches = PatchOptions(
        threshold=args.threshold,
        cumulative_stacking=args.protocol == "strict",
        extent=model.backbone.grid_extent,
        patch_size=args.patch_size_lv0,
        check_slide=model.backbone.check_slide,
        seed=job.seed,
        source=source,
    )
    datasets = data.datasets(job.patients, scalers, patches, modalities, codes)
    needed = {"train"} if job.weights else {"train", "val"}
    if missing := needed - datasets.keys():
        raise ValueError(f"no patient to run on in the splits {sorted(missing)}, which this run needs")
    device = pick_device(args.device, group.local_rank if group.size > 1 else None)
    if args.compile:
        compile_parts(model, device.type)
    options = TrainingOptions(**{f.name: getattr(args, f.name) for f in fields(TrainingOptions)})
    trainer = Trainer(
        model,
        objective,
        evaluator,
        job.folder,
        TrainingOptions(**{**vars(options), "seed": job.seed}),
        device,
        Precision(device, args.use_amp),
        run={
            **config,
            "seed": job.seed,
            "num_tasks": args.num_tasks,
            "protocol": args.protocol,
            "train_cases": [p.case_id for p in job.patients["train"]],
            "pathways": data.pathways.to_dict(),
            "gene_scaler": {site: scaler.to_dict() for site, scaler in scalers.items()},
            "clinical_codes": None if codes is None else codes.to_dict(),
        },
        fingerprint={**fingerprint, "seed": job.seed, "patients": patients_digest(job.patients)},
        group=group,
    )
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    logger.info(
        "%s: %s trainable and %s frozen parameters", config["mil_name"], f"{trainable:,}", f"{frozen:,}"
    )
    if job.weights is None:
        rows = trainer.resume() if args.resume == "auto" else None
        settings = {**config, "seed": job.seed}
        with Tracker(job.folder, args.wandb_mode, settings, rows, silent=not group.is_main) as tracker:
            trainer.fit(datasets["fit"], datasets["train"], datasets["val"], tracker)
    else:
        job.weights.load_into(model, objective)
    _report(trainer, datasets, job, args)


def _report(trainer: Trainer, datasets: dict[str, CaseDataset], job: Job, args: argparse.Namespace) -> None:
    embeddings = {split: trainer.embed(datasets[split]) for split in constants.SPLITS if split in datasets}

    def write() -> None:
        if args.save_embeddings:
            for split, embedded in embeddings.items():
                embedded.save(job.folder / "data" / f"{split}_embeddings.npz")
        candidates = _candidates(trainer, job, args)
        frame = trainer.evaluator.report(with_complete_parts(embeddings), job.folder, job.seed, candidates)
        with atomic_path(job.folder / REPORT) as temporary:
            frame.to_csv(temporary, index=False)

    trainer.group.on_main(write)


def _candidates(trainer: Trainer, job: Job, args: argparse.Namespace) -> dict[str, Candidates] | None:
    if args.candidate_location is None:
        logger.info("no candidate sentences (--candidate_location): nothing is evaluated zero-shot")
        return None
    if job.weights is not None and not job.weights.have_projector:
        logger.warning("%s holds no text projector: nothing is evaluated zero-shot", job.weights.path)
        return None
    return read_candidates(args.candidate_location, trainer.objective)


# ---------------------------------------------------------------------------- jobs
def _trainings(output: Path, args: argparse.Namespace, data: CohortData) -> Iterator[Job]:
    modalities = ModalityOptions(modalities_of(args.mil_name), args.missing_modalities)
    folds = data.folds(args.num_folds, args.fold_json, args.seed, modalities)
    for k, patients in enumerate(folds):
        for seed in range(args.seed, args.seed + args.multi_seed):
            parent = output / f"fold_{k}" if len(folds) > 1 else output
            yield Job(parent / f"seed_{seed}", seed, patients)


def _evaluations(
    output: Path, args: argparse.Namespace, data: CohortData, weights: list[TrainedWeights]
) -> Iterator[Job]:
    for trained in weights:
        seen = set(trained.run.get("train_cases", ())) & {p.case_id for p in data.patients["test"]}
        if seen:
            raise ValueError(
                f"{trained.path} was trained on {len(seen)} patients of {args.test_json}, such as {sorted(seen)[:3]}; "
                "pass the split files (the fold) it was trained with"
            )
        seed = trained.run.get("seed", args.seed)
        # Folders keep the names they have below the run folder that is evaluated.
        folder = trained.path.parent
        below = folder.relative_to(args.eval_weights) if args.eval_weights.is_dir() else Path(f"seed_{seed}")
        yield Job(output / below, seed, data.patients, trained)


def find_weights(path: Path) -> list[Path]:
    """The weights of a run folder (one per fold and seed), or the one file given.

    Raises:
        FileNotFoundError: there are none.
    """
    if path.is_file():
        return [path]
    found = sorted(path.rglob(BEST_WEIGHTS)) if path.is_dir() else []
    if not found:
        raise FileNotFoundError(f"--eval_weights {path}: neither a file nor a folder with {BEST_WEIGHTS}")
    return found


# ---------------------------------------------------------------------------- record
def _fingerprint(
    args: argparse.Namespace, config: dict[str, Any], data: CohortData, group: Group
) -> dict[str, Any]:
    """What the numbers of a run depend on."""
    arguments = {name: v for name, v in plain_arguments(args).items() if name not in FREE_ARGUMENTS}
    fingerprint = {"arguments": arguments, "model": config, "data": data_digests(args, data.patients)}
    return fingerprint if args.eval_only else {**fingerprint, "processes": group.size}


def _claim(
    output: Path,
    args: argparse.Namespace,
    fingerprint: dict[str, Any],
    data: CohortData,
    codes: ClinicalCodes | None,
) -> None:
    """Writes ``config.json``, or refuses a folder that holds a run made from something else.

    ``codes`` are those of the first training; under the strict protocol every fold has its own, which are
    stored with its weights.
    """
    path = output / "config.json"
    if path.is_file():
        before = read_json(path)
        before["arguments"] = {k: v for k, v in before["arguments"].items() if k not in FREE_ARGUMENTS}
        if changed := differences({name: before.get(name) for name in fingerprint}, fingerprint):
            raise ValueError(
                f"{output} holds a run with other arguments or data (before, now): {changed}. Choose another "
                "--output_path, or remove the folder"
            )
    write_json(
        path,
        {
            **fingerprint,
            "arguments": plain_arguments(args),
            "pathways": len(data.pathways.names),
            "genes": len(data.pathways.genes),
            "clinical_codes": None if codes is None else codes.to_dict(),
            "versions": versions(),
            "git_commit": git_commit(),
        },
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages numbers depend on."""
    return {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in _PACKAGES}


def git_commit() -> str:
    """Commit of the repository, ``unknown`` outside of git."""
    command = ["git", "-C", str(constants.REPO_ROOT), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _header(
    args: argparse.Namespace, config: dict[str, Any], data: CohortData, jobs: list[Job]
) -> dict[str, Any]:
    everyone: list[Patient] = [p for split in data.patients.values() for p in split]
    return {
        "cohort": ", ".join(sorted({p.project_id for p in everyone})),
        "model": config["mil_name"],
        "protocol": args.protocol,
        "missing_modalities": about_missing(args, config),
        "seeds": ", ".join(str(s) for s in sorted({job.seed for job in jobs})),
        "weights" if args.eval_only else "epochs": args.eval_weights if args.eval_only else args.num_epochs,
        "git_commit": git_commit(),
        **versions(),
    }
