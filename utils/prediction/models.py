"""Trained models with the probes that were fitted on their training patients, as runs and bundles hold them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from data_utils.tables.tasks import published
from models.encoders import encoder_of
from utils.configuration.run_config import RunConfig
from utils.evaluation.stored_probes import PROBES, StoredProbes
from utils.files import FileError, content_of, read_json
from utils.training.checkpoint import TrainedWeights
from utils.training.jobs import INPUTS
from utils.training.model_setup import ModelSetup, read_model_config
from utils.training.record import check_probes
from utils.training.trainer import BEST_WEIGHTS

CHECKSUMS = "checksums.json"
CANDIDATES = "candidates.pt"
SITES = "sites"


@dataclass(frozen=True)
class TrainedModel:
    """One fold or seed of a run.

    Attributes:
        name: folder of the run and of the fold or seed in it.
        config: of the run.
        weights: adapter, text projector and what they say of their training.
        probes: fitted on the training patients of a cohort.
        evaluation: where the probes are of an evaluation, what that fitted of the modalities of its cohort.
        site: of a pan-cancer run, the cancer site whose probes they are.
        encoder_digest: SHA-256 of the slide encoder's file in the training, where it is known.
    """

    name: str
    config: RunConfig
    weights: TrainedWeights
    probes: StoredProbes
    evaluation: Mapping[str, Any]
    site: str | None = None
    encoder_digest: str | None = None

    @property
    def run(self) -> dict[str, Any]:
        """What the weights say of their training, or the evaluation of its cohort."""
        return {**self.weights.run, **self.evaluation}

    @property
    def setup(self) -> ModelSetup:
        """The model; weights of the published code say nothing, their run does."""
        model, run = self.config.model, self.run
        return ModelSetup(
            run.get("mil_name", model.mil_name),
            run["model_config"]
            if "model_config" in run
            else read_model_config(model.model_config, model.mil_name),
            run["num_tasks"] if "num_tasks" in run else len(published().tokens),
            run.get("missing_modalities", self.config.data.missing_modalities),
            run.get("tasks", published().plain()),
        )

    @property
    def seed(self) -> int:
        return int(self.run.get("seed", self.config.training.seed))

    def with_backbone(self, weights: Path | None) -> TrainedModel:
        """The same with the slide encoder's file of this machine: the one given, that of the run, or the default.

        Raises:
            ValueError: its content is not that of the training.
        """
        model = self.config.model
        known = model.backbone_weights
        if weights is None and (known is None or not known.is_file()):
            weights = encoder_of(self.setup.mil_name).weights()
        path = weights or known
        if (
            path is not None
            and path.is_file()
            and not model.random_backbone
            and self.encoder_digest is not None
        ):
            found = checksum(path)
            if found != self.encoder_digest:
                raise ValueError(
                    f"{path} is not the slide encoder that {self.name} was trained on: its SHA-256 is {found}, that of "
                    f"the training {self.encoder_digest}; pass the right file with --backbone_weights"
                )
        chosen = replace(model, backbone_weights=path)
        return replace(self, config=replace(self.config, model=chosen))


def find_models(run: Path, site: str | None = None) -> list[TrainedModel]:
    """The folds and seeds of a run folder, of an evaluation or of a bundle.

    Args:
        run: the folder with ``config.json``.
        site: of a pan-cancer run, the cancer site whose probes are wanted.

    Raises:
        FileNotFoundError: there is no run, or one without stored probes; the message says how to fit them.
        ValueError: a pan-cancer run needs ``site``, a file is damaged or does not have its checksum.
    """
    if not (run / "config.json").is_file():
        raise FileNotFoundError(
            f"{run} is no run folder, it holds no config.json. Weights alone have no probes; fit them on a cohort with "
            f"labels: python train_modaltune.py --onco COHORT --eval_only --eval_weights {run} --output_path OUTPUT, "
            "then predict with OUTPUT"
        )
    _verify(run)
    config = RunConfig.read(run)
    with content_of(run / "config.json", "copy it again from where it came"):
        digests = dict(read_json(run / "config.json").get("data", {}))
    folders = _folders(run, config, site)
    if not folders:
        raise FileNotFoundError(
            f"{run} holds no {PROBES}: it was written by an older version or has not ended. Fit the probes: python "
            f"train_modaltune.py --onco COHORT --eval_only --eval_weights {run} --output_path OUTPUT, then predict "
            "with OUTPUT"
        )
    models = [
        TrainedModel(
            f"{run.name}/{job.relative_to(run)}",
            config,
            TrainedWeights.read(_weights_of(run, job, config)),
            StoredProbes.load(probes / PROBES),
            read_json(job / INPUTS) if (job / INPUTS).is_file() else {},
            site if config.data.sites else None,
            digests.get("model.backbone_weights"),
        )
        for job, probes in folders
    ]
    for model, (job, probes) in zip(models, folders, strict=True):
        check_probes(job, model.weights.path, probes / PROBES)
    return models


def _folders(run: Path, config: RunConfig, site: str | None) -> list[tuple[Path, Path]]:
    """Folder of every fold or seed, and where its probes lie."""
    found = sorted(path.parent for path in run.rglob(PROBES))
    # An evaluation of another cohort lies in the run folder, too, with a config of its own.
    inner = {path.parent for path in run.rglob("config.json")} - {run}
    found = [folder for folder in found if not inner & {folder, *folder.parents}]
    if not config.data.sites:
        return [(folder, folder) for folder in found]
    known = sorted({folder.name for folder in found if folder.parent.name == SITES})
    if site not in known:
        raise ValueError(
            f"{run} is of several cancer sites; choose the probes of one with --site: {', '.join(known)}"
        )
    return [(folder.parent.parent, folder) for folder in found if folder.name == site]


def _weights_of(run: Path, job: Path, config: RunConfig) -> Path:
    """The weights of a fold or seed: its own, or those that an evaluation was made of."""
    evaluated = config.output.eval_weights
    if (job / BEST_WEIGHTS).is_file() or evaluated is None:
        return job / BEST_WEIGHTS
    return evaluated if evaluated.is_file() else evaluated / job.relative_to(run) / BEST_WEIGHTS


def candidate_file(run: Path, config: RunConfig) -> Path | None:
    """Candidate sentences for zero-shot classes: those of a bundle, or of the run where they still lie there."""
    places = [run / CANDIDATES, config.data.candidate_location]
    return next((place for place in places if place is not None and place.is_file()), None)


# ---------------------------------------------------------------------------- checksums
def checksum(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    return _checksum(path, path.stat().st_mtime_ns)


@cache
def _checksum(path: Path, changed: int) -> str:
    """Once for all models of an ensemble: the files of slide encoders have gigabytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def checksums_below(folder: Path) -> dict[str, str]:
    """Checksums of all files below a folder, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    return {str(path.relative_to(folder)): checksum(path) for path in files}


def _verify(run: Path) -> None:
    if not (run / CHECKSUMS).is_file():
        return
    with content_of(run / CHECKSUMS, "copy the bundle again"):
        expected = read_json(run / CHECKSUMS)["files"]
        wrong = [
            name
            for name, value in expected.items()
            if not (run / name).is_file() or checksum(run / name) != value
        ]
    if wrong:
        fault = f"is not whole: {len(wrong)} files of the bundle are missing or changed: {wrong[:3]}"
        raise FileError(run, fault, "copy it again")


def check_same_tasks(models: Sequence[TrainedModel]) -> StoredProbes:
    """Probes that say which tasks and classes an ensemble predicts: those of its first model.

    Raises:
        ValueError: the models do not predict the same.
    """
    first = models[0].probes
    for model in models[1:]:
        other = model.probes
        for what, one, two in (
            ("tasks", tuple(first.tasks), tuple(other.tasks)),
            ("classes", first.class_names, other.class_names),
            ("classes of tasks", first.own_classes, other.own_classes),
        ):
            if one != two:
                raise ValueError(
                    f"the runs predict different {what}: {models[0].name} {one}, {model.name} {two}; predict with each "
                    "on its own"
                )
    return first
