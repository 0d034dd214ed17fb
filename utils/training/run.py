"""One call of a training entry point: folds x seeds, each trained and evaluated, then one table.

Layout of a run folder: ``config.json``, ``results.csv``, ``results.md`` and one folder
``[fold_<k>/]seed_<s>`` per training with its checkpoints, metrics, embeddings and figures. A folder
that has its whole ``report.csv`` is finished and is not run again; one that has not continues from its last
checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from data_utils.cases.cohort_data import CohortData, Fitted
from data_utils.cases.datasets import CaseDataset
from data_utils.cases.splits import Patient
from data_utils.features.source import FeatureSource
from data_utils.tables.sentence_table import text_width
from data_utils.tables.tasks import TaskSet, parse_tasks, published
from models.compilation import compile_parts
from utils import constants
from utils.configuration.protocol import PROTOCOLS
from utils.configuration.run_config import RunConfig
from utils.devices import pick_device
from utils.evaluation import plots
from utils.evaluation.embeddings import with_complete_parts
from utils.evaluation.report_file import read_report, write_report
from utils.evaluation.results import Evaluator, write_results
from utils.evaluation.zero_shot import Candidates, read_candidates
from utils.files import FileError, content_of, read_json, setup_logging, write_json
from utils.training.distributed import Group, process_group
from utils.training.fingerprint import data_digests, differences, file_digest, patients_digest
from utils.training.jobs import INPUTS, Job, Plan
from utils.training.linear_start import fit_readout
from utils.training.modality_report import ModalityReport
from utils.training.model_setup import (
    ModelSetup,
    about_missing,
    build_model,
    fitted_inputs,
    objective_setup,
    patch_options,
)
from utils.training.objectives import build_objective
from utils.training.objectives.build import distillation_of
from utils.training.precision import Precision
from utils.training.recipes import always, recipe_of
from utils.training.record import (
    choices_of,
    class_names_of_run,
    git_commit,
    note_kernels,
    note_probes,
    trained_how,
    versions,
)
from utils.training.run_lock import LOCK_FILE, run_lock
from utils.training.tracking import Tracker
from utils.training.trainer import BEST_WEIGHTS, Trainer, set_seed

logger = logging.getLogger(__name__)


EvaluatorFactory = Callable[[RunConfig, TaskSet], Evaluator]


@dataclass(frozen=True)
class Run:
    """What all jobs of a run share.

    Attributes:
        config: what was asked for.
        setup: which model.
        structures: of the data, by modality, that decide the model's parameters.
        data: the tables of the cohort.
        fingerprint: what the numbers depend on.
        group: the processes of the run.
        source: reads features.
    """

    config: RunConfig
    setup: ModelSetup
    structures: Mapping[str, Any]
    data: CohortData
    fingerprint: Mapping[str, Any]
    group: Group
    source: FeatureSource


def run(config: RunConfig, make_evaluator: EvaluatorFactory) -> pd.DataFrame:
    """Runs everything that was asked for.

    Args:
        config: see :mod:`utils.arguments`.
        make_evaluator: builds the evaluator of the entry point, for the tasks of the model.

    Returns:
        The results over folds and seeds, as written to ``results.csv``.
    """
    setup_logging()
    with process_group() as group, ExitStack() as stack:
        group.on_main(lambda: stack.enter_context(run_lock(config.output.folder)))
        return _run(config, make_evaluator, group)


def _run(config: RunConfig, make_evaluator: EvaluatorFactory, group: Group) -> pd.DataFrame:
    plan = Plan.read(config)
    setup, structures, data, jobs = plan.setup, plan.structures, plan.data, plan.jobs
    shared = Run(
        config,
        setup,
        structures,
        data,
        _fingerprint(config, setup, data, group),
        group,
        FeatureSource(config.compute.cache_features),
    )
    fitted = fitted_inputs(jobs[0].weights, jobs[0].patients, data)
    # A config that builds no model must not leave a claimed folder behind.
    with (
        torch.device("meta"),
        content_of(jobs[0].weights.path if jobs[0].weights else config.model.model_config, "correct it"),
    ):
        setup.build(structures)
    group.on_main(lambda: _claim(shared, fitted))
    for number, job in enumerate(jobs, 1):
        logger.info("%d of %d: %s", number, len(jobs), job.folder)
        if not group.on_main(partial(_finished, job.folder)):
            with plots.caption(job.caption(config, setup.mil_name)):
                own = fitted if number == 1 else fitted_inputs(job.weights, job.patients, data)
                _run_job(job, shared, make_evaluator(config, setup.tokens), own)

    def results() -> pd.DataFrame:
        frames = [frame for job in jobs if (frame := read_report(job.folder)) is not None]
        if len(frames) < len(jobs):
            raise FileError(
                config.output.folder, "lacks a report of this run", "start the same command again"
            )
        output = config.output.folder
        names = [str(job.folder.relative_to(output)) for job in jobs]
        return write_results(frames, output, _header(shared, jobs), names)

    return group.on_main(results)


def _finished(folder: Path) -> bool:
    """Whether a fold or seed is done."""
    return read_report(folder) is not None


def _run_job(job: Job, shared: Run, evaluator: Evaluator, fitted: Fitted) -> None:
    config, setup, data, group = shared.config, shared.setup, shared.data, shared.group
    set_seed(job.seed)
    model = build_model(config, setup, shared.structures)
    learned = objective_setup(config, setup, job.weights, job.patients, text_width(data.texts))
    objective = build_objective(learned, model, setup.num_tasks)
    patches = patch_options(config, model, job.seed, shared.source)
    training = [] if job.weights else [p for p in job.patients["train"] if objective.learns_from(p)]
    if left_out := 0 if job.weights else len(job.patients["train"]) - len(training):
        logger.info(
            "%d training patients have no label that --objective %s learns from", left_out, learned.name
        )
    datasets = data.datasets(
        job.patients, fitted, patches, setup.options(config.training.modality_dropout), training
    )
    distillation = distillation_of(objective)
    if distillation is not None and data.texts is not None and training:
        distillation.fit_centre(torch.stack([data.texts[p.case_id] for p in datasets["fit"].patients]))
    validates = not (job.weights or config.data.survpath_protocol)
    needed = {"train", *(() if job.weights else ("fit",)), *(("val",) if validates else ())}
    if missing := needed - datasets.keys():
        part = next((name for name in constants.SPLITS if name in missing), "train")
        where = config.data.fold_json or config.data.split_files[part]
        fault = f": no patient to run on in the splits {sorted(missing)}, which this run needs"
        raise FileError(where, fault, "split the patients again so that every part has some")
    recipe = recipe_of(config.training.recipe, setup.mil_name)
    if training:
        recipe.check_steps(len(datasets["fit"]) // group.size, config.training.gc)
    device = pick_device(config.compute.device, group.local_rank if group.size > 1 else None)
    if config.compute.compile:
        compile_parts(model, device.type)
    trainer = Trainer(
        model,
        objective,
        evaluator,
        job.folder,
        replace(config.training, seed=job.seed),
        device,
        Precision(device, config.compute.use_amp, config.compute.tf32),
        run={
            **setup.plain(),
            "seed": job.seed,
            "protocol": config.data.protocol,
            "train_cases": [p.case_id for p in job.patients["train"]],
            "structures": dict(shared.structures),
            "fitted": dict(fitted),
            "objective": learned.to_dict(),
        },
        fingerprint={**shared.fingerprint, "seed": job.seed, "patients": patients_digest(job.patients)},
        group=group,
        workers=config.compute.workers,
        better=always if config.training.model_select == "last" else PROTOCOLS[config.data.protocol].better,
        recipe=recipe,
    )
    group.on_main(lambda: note_kernels(config.output.folder, trainer.model, device, trainer.precision.dtype))
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    logger.info("%s: %s trainable and %s frozen parameters", setup.mil_name, f"{trainable:,}", f"{frozen:,}")
    if job.weights is None:
        rows = trainer.resume() if config.training.resume == "auto" else None
        if rows is None:
            group.on_main(lambda: fit_readout(model, distillation, datasets["fit"], setup.tokens.names))
        settings = {**setup.plain(), "seed": job.seed}
        mode, silent = config.output.wandb_mode, not group.is_main
        with Tracker(job.folder, mode, settings, rows, silent=silent) as tracker:
            trainer.fit(datasets["fit"], datasets["train"], datasets.get("val"), tracker)
    else:
        job.weights.load_into(model, objective, shared.structures)
        # Predictions for further patients of this cohort read them as this evaluation does.
        group.on_main(lambda: write_json(job.folder / INPUTS, trainer.run))
    _report(trainer, datasets, job, config)


def _report(trainer: Trainer, datasets: Mapping[str, CaseDataset], job: Job, config: RunConfig) -> None:
    embeddings = {split: trainer.embed(datasets[split]) for split in constants.SPLITS if split in datasets}

    used = trainer.report_modalities(datasets["val"], embeddings["val"]) if "val" in datasets else None

    def write() -> None:
        if used is not None:
            _say_what_is_used(used, job)
        if config.output.save_embeddings:
            for split, embedded in embeddings.items():
                embedded.save(job.folder / "data" / f"{split}_embeddings.npz")
        candidates = _candidates(trainer, job, config.data.candidate_location)
        frame = trainer.evaluator.report(
            with_complete_parts(embeddings), job.folder, job.seed, candidates, trainer.objective.heads()
        )
        note_probes(job.folder, job.weights.path if job.weights else job.folder / BEST_WEIGHTS)
        write_report(job.folder, frame)

    trainer.group.on_main(write)


def _say_what_is_used(used: ModalityReport, job: Job) -> None:
    used.save(job.folder)
    finding = used.finding("validation patients")
    if finding is not None and finding.remedy:
        logger.warning("%s - %s", finding.what, finding.remedy)
    elif finding is not None:
        logger.info(finding.what)


def _candidates(trainer: Trainer, job: Job, location: Path | None) -> dict[str, Candidates] | None:
    distillation = distillation_of(trainer.objective)
    if distillation is None:
        return None
    if location is None:
        logger.info("no candidate sentences (--candidate_location): nothing is evaluated zero-shot")
        return None
    if job.weights is not None and not job.weights.have_projector:
        logger.warning("%s holds no text projector: nothing is evaluated zero-shot", job.weights.path)
        return None
    return read_candidates(location, distillation)


# ---------------------------------------------------------------------------- record
def _fingerprint(config: RunConfig, setup: ModelSetup, data: CohortData, group: Group) -> dict[str, Any]:
    """What the numbers of a run depend on."""
    fingerprint = {
        "arguments": config.plain(free=False),
        "model": setup.plain(),
        "data": data_digests(config, data.patients),
    }
    return fingerprint if config.output.eval_only else {**fingerprint, "processes": group.size}


def _claim(shared: Run, fitted: Fitted) -> None:
    """Writes ``config.json``, or refuses a folder that holds a run made from something else.

    A folder in which no training or evaluation has begun is taken over. ``fitted`` is what the first training
    learned of the data; under the strict protocol every fold has its own, stored with its weights.
    """
    output, path = shared.config.output.folder, shared.config.output.folder / "config.json"
    begun = any(entry.name not in (path.name, LOCK_FILE) for entry in output.iterdir())
    if path.is_file() and begun:
        before, now = read_json(path), shared.fingerprint
        _check_tasks(output, before, shared.setup)
        free = shared.config.plain(free=False)
        before["arguments"] = {
            group: {name: v for name, v in before["arguments"].get(group, {}).items() if name in free[group]}
            for group in free
        }
        if changed := differences({name: before.get(name) for name in now}, now):
            raise ValueError(
                f"{output} holds a run with other arguments or data (before, now): {changed}. Choose another "
                "--output_path, or remove the folder"
            )
    training = shared.config.training
    recipe = recipe_of(training.recipe, shared.setup.mil_name)
    write_json(
        path,
        {
            **shared.fingerprint,
            "arguments": shared.config.plain(),
            "task_file": _task_file(shared.config),
            "protocol_choices": choices_of(shared.config, shared.setup),
            **({} if shared.config.output.eval_only else {"recipe": recipe.plain(training)}),
            "inputs": {name: table.describe(fitted.get(name)) for name, table in shared.data.tables.items()},
            "versions": versions(),
            "git_commit": git_commit(),
        },
    )


def _check_tasks(output: Path, before: dict[str, Any], setup: ModelSetup) -> None:
    """Says which tasks differ, where the tasks of a begun run do; they do not count in its fingerprint any more.

    Runs from before there were task files have the published tasks.
    """
    content = before.setdefault("model", {}).setdefault("tasks", published().plain())
    if difference := parse_tasks(content, output / "config.json").difference(
        parse_tasks(setup.tasks, "--tasks")
    ):
        raise ValueError(
            f"{output} holds a run on other tasks than --tasks names (before, now): {difference}. Choose another "
            "--output_path, or pass the task file of that run"
        )
    before["model"]["tasks"] = setup.tasks


def _task_file(config: RunConfig) -> dict[str, str] | None:
    """Which file the tasks were read from; None where the weights said them."""
    path = config.data.tasks
    return None if path is None else {"path": str(path), "sha256": file_digest(path)}


def _header(shared: Run, jobs: Sequence[Job]) -> dict[str, Any]:
    config = shared.config
    everyone: list[Patient] = [p for split in shared.data.patients.values() for p in split]
    made_from = config.output.eval_weights if config.output.eval_only else config.training.num_epochs
    return {
        "cohort": ", ".join(sorted({p.project_id for p in everyone})),
        **class_names_of_run(config, shared.setup.tokens),
        "model": shared.setup.mil_name,
        "protocol": config.data.protocol,
        **choices_of(shared.config, shared.setup),
        "objective": shared.config.training.objective,
        **trained_how(config, shared.setup),
        "missing_modalities": about_missing(shared.setup, config.data),
        **{name: table.remark for name, table in shared.data.tables.items() if table.remark},
        "seeds": ", ".join(str(s) for s in sorted({job.seed for job in jobs})),
        "weights" if config.output.eval_only else "epochs": made_from,
        **(
            {"probes": "fitted anew on the training patients of this cohort"}
            if config.output.eval_only
            else {}
        ),
        "git_commit": git_commit(),
        **versions(),
    }
