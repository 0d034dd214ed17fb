"""A run folder opened again: its model with the trained weights, its patients, and its probes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data_utils.cases.cohort_data import CohortData
from data_utils.cases.datasets import CaseDataset
from data_utils.features.source import FeatureSource
from data_utils.tables.cohorts import class_names_of
from utils.evaluation.embeddings import Embeddings
from utils.evaluation.plots import class_labels
from utils.evaluation.probes import fit_subtype, fit_survival
from utils.evaluation.zero_shot import read_candidates
from utils.explain.targets import Target, class_target, risk_target, zero_shot_target
from utils.run_config import RunConfig
from utils.training.checkpoint import TrainedWeights
from utils.training.jobs import Job, eval_weights, evaluations, find_weights, trainings
from utils.training.model_setup import (
    fitted_inputs,
    model_setup,
    patch_options,
    read_modalities,
    trained_model,
)
from utils.training.objectives import Objective
from utils.training.objectives.build import distillation_of
from utils.training.trainer import BEST_WEIGHTS

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LoadedRun:
    """A trained model and everything it was evaluated with.

    Attributes:
        config: of the run.
        job: which fold and seed.
        model: in evaluation mode, on its device.
        objective: holds the text projector.
        datasets: by split.
        structures: of the modalities.
        train: the embeddings that the probes of the run are fitted on.
        device: of the model.
    """

    config: RunConfig
    job: Job
    model: nn.Module
    objective: Objective
    datasets: Mapping[str, CaseDataset]
    structures: Mapping[str, Any]
    train: Embeddings
    device: torch.device

    @classmethod
    def open(cls, folder: Path, device: torch.device, job_name: str | None = None) -> LoadedRun:
        """Opens a run, or an evaluation of one.

        Args:
            folder: with ``config.json``.
            device: where to run.
            job_name: such as ``seed_1`` or ``fold_0/seed_1``; the first if not given.

        Raises:
            FileNotFoundError: the folder is no run, was not finished, or holds no such job.
            ValueError: what it was made from does not fit any more, or it is a pan-cancer run.
        """
        config = RunConfig.read(folder)
        config = replace(config, output=replace(config.output, output_path=folder, eval_name=None))
        if config.data.sites:
            raise ValueError(
                f"{folder} is a pan-cancer run, whose sites have probes of their own; evaluate it on one cohort "
                f"(train_modaltune.py --eval_only --eval_weights {folder} --onco ...) and explain that folder"
            )
        files = find_weights(eval_weights(config)) if config.output.eval_only else []
        weights = [TrainedWeights.read(path) for path in files]
        trained = weights[0].run if weights else {}
        setup = model_setup(config, trained)
        tables = read_modalities(setup, config.data, trained)
        data = CohortData.read(
            config.data.split_files,
            tables,
            None,
            config.data.protocol,
            config.data.features_dir,
            patches=setup.reads_patches,
        )
        jobs = list(evaluations(config, data, weights) if weights else trainings(config, setup, data))
        job = _with_weights(_pick(jobs, folder, job_name))
        embeddings = job.folder / "data" / "train_embeddings.npz"
        if not embeddings.is_file():
            raise FileNotFoundError(
                f"{embeddings} does not exist, and the probes are fitted on it; finish the run, with --save_embeddings"
            )
        assert job.weights is not None
        structures = job.weights.run.get("structures", {}) or data.structures
        model, objective = trained_model(config, setup, job.weights, structures, job.seed)
        datasets = data.datasets(
            job.patients,
            fitted_inputs(job.weights, job.patients, data),
            patch_options(config, model, job.seed, FeatureSource()),
            setup.options(),
        )
        model.to(device).eval()
        return cls(
            config,
            job,
            model,
            objective.to(device).eval(),
            datasets,
            structures,
            Embeddings.load(embeddings),
            device,
        )

    @property
    def class_names(self) -> list[str]:
        """Names of the subtype classes, as in the figures of the run."""
        (num_classes,) = self.config.data.num_classes
        return class_labels(num_classes, class_names_of(self.config.data.onco, num_classes))

    def targets(self, words: Sequence[str], task: int = 0) -> list[Target]:
        """The targets of a command line.

        Args:
            words: ``class`` (with two classes the second, else every one), ``class:K``, ``probability:K``, ``risk``,
                ``zero_shot:K`` or ``zero_shot:risk``.
            task: index of the task token that the probes read.

        Raises:
            ValueError: a word means nothing here, or the run has no such probe.
        """
        width, (num_classes,) = self.train.vectors.shape[2], self.config.data.num_classes
        plain = [f"class:{c}" for c in ([1] if num_classes == 2 else range(num_classes))]
        wanted = [word for given in words for word in (plain if given == "class" else [given])]
        found: list[Target] = []
        for word in dict.fromkeys(wanted):
            kind, _, what = word.partition(":")
            if kind in ("class", "probability") and what.isdigit() and int(what) < num_classes:
                probe = fit_subtype(self.train, task, num_classes)
                title = self.class_names[int(what)]
                found.append(class_target(probe, width, int(what), title, kind == "probability"))
            elif word == "risk":
                found.append(risk_target(fit_survival(self.train, task), width))
            elif kind == "zero_shot" and what:
                found.append(self._zero_shot(what, task))
            else:
                raise ValueError(
                    f"target {word!r}: should be class, class:K, probability:K, risk, zero_shot:K or zero_shot:risk, "
                    f"with K from 0 to {num_classes - 1}"
                )
        return found

    def _zero_shot(self, what: str, task: int) -> Target:
        distillation, location = distillation_of(self.objective), self.config.data.candidate_location
        if (
            distillation is None
            or location is None
            or self.job.weights is None
            or not self.job.weights.have_projector
        ):
            raise ValueError(
                f"zero_shot:{what}: needs the text projector of the run and --candidate_location, which it lacks"
            )
        candidates = read_candidates(location, distillation)
        if len(candidates) != 1:
            raise ValueError(
                f"zero_shot:{what}: {location} holds sentences of {sorted(candidates)}, not of one cohort"
            )
        return zero_shot_target(next(iter(candidates.values())), what, task, self.class_names)


def _pick(jobs: Sequence[Job], folder: Path, name: str | None) -> Job:
    known = {str(job.folder.relative_to(folder)): job for job in jobs}
    if name is None:
        return jobs[0]
    if name not in known:
        raise FileNotFoundError(f"{folder} holds no {name}; there are {', '.join(known)}")
    return known[name]


def _with_weights(job: Job) -> Job:
    """The job with its weights, which those of a training do not name."""
    return (
        job
        if job.weights is not None
        else replace(job, weights=TrainedWeights.read(job.folder / BEST_WEIGHTS))
    )
