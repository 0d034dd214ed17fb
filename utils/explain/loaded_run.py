"""A run folder opened again: its model with the trained weights, its patients, and its probes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data_utils.cases.datasets import CaseDataset
from utils.configuration.run_config import RunConfig
from utils.evaluation.stored_probes import PROBES, StoredProbes
from utils.evaluation.zero_shot import read_candidates
from utils.explain.sentences import TextModel
from utils.explain.targets import (
    Target,
    class_target,
    number_target,
    risk_target,
    text_target,
    zero_shot_target,
)
from utils.files import read_json
from utils.prediction.models import SITES
from utils.training.checkpoint import TrainedWeights
from utils.training.fingerprint import data_digests, file_digest
from utils.training.jobs import Job, Plan
from utils.training.model_setup import fitted_inputs, patch_options, trained_model
from utils.training.objectives import Objective
from utils.training.objectives.build import distillation_of
from utils.training.objectives.distillation import TextDistillation
from utils.training.record import check_probes
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
        probes: fitted on the training patients.
        site: of a pan-cancer run, the cancer site whose probes and patients they are.
        device: of the model.
    """

    config: RunConfig
    job: Job
    model: nn.Module
    objective: Objective
    datasets: Mapping[str, CaseDataset]
    structures: Mapping[str, Any]
    probes: StoredProbes
    site: str | None
    device: torch.device

    @classmethod
    def open(
        cls, folder: Path, device: torch.device, job_name: str | None = None, site: str | None = None
    ) -> LoadedRun:
        """Opens a run, or an evaluation of one.

        Args:
            folder: with ``config.json``.
            device: where to run.
            job_name: such as ``seed_1`` or ``fold_0/seed_1``; the first if not given.
            site: of a pan-cancer run, the cancer site whose patients are explained by its probes.

        Raises:
            FileNotFoundError: the folder is no run, was not finished, or holds no such job.
            ValueError: what it was made from does not fit any more, or ``site`` is none of its sites.
        """
        config = RunConfig.read(folder)
        if site not in (config.data.sites or (None,)):
            raise ValueError(
                f"{folder} is a pan-cancer run; choose one of its sites with --site: {', '.join(config.data.sites)}"
                if config.data.sites
                else f"--site {site}: {folder} is no pan-cancer run"
            )
        # Nothing is learned here, so that no sentences are needed.
        config = replace(
            config,
            data=replace(config.data, text_location=None),
            output=replace(config.output, output_path=folder, eval_name=None),
        )
        plan = Plan.read(config)
        job = _pick(plan.jobs, folder, job_name)
        _compare_data(folder, config, plan)
        probes = job.folder / (PROBES if site is None else Path(SITES, site, PROBES))
        if not probes.is_file():
            raise FileNotFoundError(
                f"{probes} does not exist: the run has not ended, or an older version wrote it. Fit the probes: python "
                f"train_modaltune.py --onco COHORT --eval_only --eval_weights {folder} --output_path OUTPUT, then "
                "explain OUTPUT"
            )
        weights = job.weights or TrainedWeights.read(job.folder / BEST_WEIGHTS)
        check_probes(job.folder, weights.path, probes)
        model, objective = trained_model(config, plan.setup, weights, plan.structures, job.seed)
        model.to(device).eval()
        # Genes of a strict run are standardised over the training patients of every site.
        fitted = fitted_inputs(weights, job.patients, plan.data)
        patients = {
            split: [p for p in part if site is None or p.site == site] for split, part in job.patients.items()
        }
        datasets = plan.data.datasets(
            patients, fitted, patch_options(config, model, job.seed), plan.setup.options()
        )
        return cls(
            config,
            replace(job, weights=weights),
            model,
            objective.to(device).eval(),
            datasets,
            plan.structures,
            StoredProbes.load(probes),
            site,
            device,
        )

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the trained weights."""
        assert self.job.weights is not None
        return file_digest(self.job.weights.path)

    def targets(self, words: Sequence[str], token: str, text_model: TextModel | None = None) -> list[Target]:
        """The targets of a command line.

        Args:
            words: ``class`` (with two classes the second, else every one), ``class:K``, ``probability:K``, ``risk``,
                ``number``, ``zero_shot:K``, ``zero_shot:risk`` or ``text:`` and any sentence.
            token: name of the task token that is read.
            text_model: embeds the sentences; CONCH if not given.

        Raises:
            ValueError: a word means nothing here, or the run has no such probe.
        """
        count = len(self.probes.classes_of(token))
        plain = [f"class:{c}" for c in ([1] if count == 2 else range(count))]
        wanted = [word for given in words for word in (plain if given == "class" else [given])]
        found: list[Target] = []
        for word in dict.fromkeys(wanted):
            kind, _, what = word.partition(":")
            if kind in ("class", "probability") and what.isdigit() and int(what) < count:
                found.append(class_target(self.probes, token, int(what), kind == "probability"))
            elif word == "risk":
                found.append(risk_target(self.probes, token))
            elif word == "number":
                found.append(number_target(self.probes, token))
            elif kind == "zero_shot" and what:
                found.append(self._zero_shot(what, token))
            elif kind == "text" and what.strip():
                found.append(self._text(what.strip(), token, text_model or TextModel()))
            else:
                raise ValueError(
                    f"target {word!r}: should be class, class:K, probability:K, risk, number, zero_shot:K, "
                    f"zero_shot:risk or text:SENTENCE, with K from 0 to {count - 1}"
                )
        return found

    def _zero_shot(self, what: str, token: str) -> Target:
        distillation, location = self._distillation(f"zero_shot:{what}"), self.config.data.candidate_location
        if location is None:
            raise ValueError(
                f"zero_shot:{what}: needs candidate sentences, and the run had no --candidate_location"
            )
        candidates = read_candidates(location, distillation)
        if self.site is not None:
            candidates = {name: own for name, own in candidates.items() if name == self.site}
        if len(candidates) != 1:
            raise ValueError(
                f"zero_shot:{what}: {location} holds sentences of {sorted(candidates) or 'other cohorts'}, not of "
                f"{self.site or 'one cohort'}"
            )
        task = list(self.probes.tasks).index(token)
        (own,) = candidates.values()
        if token in self.probes.own_classes and what != "risk":
            own = own.of_task(token)
        return zero_shot_target(own, what, task, self.probes.classes_of(token))

    def _text(self, sentence: str, token: str, text_model: TextModel) -> Target:
        distillation = self._distillation("text:SENTENCE")
        vector = text_model.embed([sentence], self.device)
        weight = next(distillation.projector.parameters())  # of the first layer
        if vector.shape[1] != weight.shape[1]:
            raise ValueError(
                f"text:{sentence}: vectors of {vector.shape[1]} numbers, but the run learned from sentences of "
                f"{weight.shape[1]}; take the text model it was trained with"
            )
        with torch.no_grad():
            unit = distillation.project(vector[0].to(weight)).double().cpu().numpy()
        return text_target(sentence, unit, list(self.probes.tasks).index(token))

    def _distillation(self, what: str) -> TextDistillation:
        """What the run did to sentences."""
        found, weights = distillation_of(self.objective), self.job.weights
        if found is None or weights is None or not weights.have_projector:
            raise ValueError(f"{what}: needs the text projector of the run, which it lacks")
        return found


def _compare_data(folder: Path, config: RunConfig, plan: Plan) -> None:
    """Says which files are not what the run was made from; the model reads them all the same."""
    before = read_json(folder / "config.json").get("data", {})
    now = data_digests(config, plan.data.patients)
    files = {"features": "feature files", **{name: str(path) for name, path in config.paths()}}
    if changed := [files[name] for name in sorted(now.keys() & before.keys()) if now[name] != before[name]]:
        logger.warning(
            "%s was made from other data than there is now, so explanations may not fit its results: %s. Put the "
            "files back, or evaluate the run on the new ones and explain that",
            folder,
            ", ".join(changed),
        )


def _pick(jobs: Sequence[Job], folder: Path, name: str | None) -> Job:
    known = {str(job.folder.relative_to(folder)): job for job in jobs}
    if name is None:
        return jobs[0]
    if name not in known:
        raise FileNotFoundError(f"{folder} holds no {name}; there are {', '.join(known)}")
    return known[name]
