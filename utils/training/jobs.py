"""The trainings or evaluations that a run consists of: one per fold and seed, each in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_utils.cases.cohort_data import CohortData, Splits, check_classes
from utils.configuration.run_config import RunConfig
from utils.training.checkpoint import TrainedWeights
from utils.training.model_setup import ModelSetup, model_setup, read_modalities
from utils.training.trainer import BEST_WEIGHTS

# What an evaluation fitted of the modalities, beside its probes.
INPUTS = "inputs.json"


@dataclass(frozen=True)
class Job:
    """One training or evaluation: its folder, seed, patients and, for an evaluation, its weights."""

    folder: Path
    seed: int
    patients: Splits
    weights: TrainedWeights | None = None

    def caption(self, config: RunConfig, mil_name: str) -> str:
        """What the figures of the job are of: cohort, model, fold and seed."""
        cohort = config.data.onco or config.data.test_json.stem
        below = self.folder.relative_to(config.output.folder)
        return " · ".join([cohort, mil_name, *(part.replace("_", " ") for part in below.parts)])


@dataclass(frozen=True)
class Plan:
    """What a run is made from, and the jobs it consists of.

    Attributes:
        setup: which model.
        structures: of the data, by modality, that decide the model's parameters.
        data: the tables of the cohort.
        jobs: in the order in which they run.
    """

    setup: ModelSetup
    structures: Mapping[str, Any]
    data: CohortData
    jobs: Sequence[Job]

    @classmethod
    def read(cls, config: RunConfig) -> Plan:
        """Reads the weights that are evaluated, if any, and the tables.

        Raises:
            FileNotFoundError, ValueError: a file is missing, or does not fit the others; the message says which.
        """
        files = find_weights(eval_weights(config)) if config.output.eval_only else []
        weights = [TrainedWeights.read(path) for path in files]
        trained = weights[0].run if weights else {}
        setup, data_config = model_setup(config, trained), config.data
        data = CohortData.read(
            data_config.split_files,
            read_modalities(setup, data_config, trained),
            data_config.text_location,
            data_config.protocol,
            data_config.features_dir,
            data_config.sites,
            setup.tokens,
            patches=setup.reads_patches,
        )
        check_classes(data.patients, data_config.split_files, data_config.classes_by_site)
        jobs = evaluations(config, data, weights) if weights else trainings(config, setup, data)
        return cls(setup, trained.get("structures", {}) or data.structures, data, list(jobs))


def trainings(config: RunConfig, setup: ModelSetup, data: CohortData) -> Iterator[Job]:
    """A training for every fold and seed."""
    output, first = config.output.folder, config.training.seed
    wanted = config.data
    folds = data.folds(
        wanted.num_folds, wanted.fold_json, first, setup.options(), not wanted.survpath_protocol
    )
    for k, patients in enumerate(folds):
        for seed in range(first, first + config.training.multi_seed):
            parent = output / f"fold_{k}" if len(folds) > 1 else output
            yield Job(parent / f"seed_{seed}", seed, patients)


def evaluations(config: RunConfig, data: CohortData, weights: Sequence[TrainedWeights]) -> Iterator[Job]:
    """An evaluation for each of the weights.

    Raises:
        ValueError: weights were trained on patients of the test split.
    """
    root = eval_weights(config)
    for trained in weights:
        seen = set(trained.run.get("train_cases", ())) & {p.case_id for p in data.patients["test"]}
        if seen:
            raise ValueError(
                f"{trained.path} was trained on {len(seen)} patients of {config.data.test_json}, such as "
                f"{sorted(seen)[:3]}; pass the split files (the fold) it was trained with"
            )
        seed = trained.run.get("seed", config.training.seed)
        # Folders keep the names they have below the run folder that is evaluated.
        below = trained.path.parent.relative_to(root) if root.is_dir() else Path(f"seed_{seed}")
        yield Job(config.output.folder / below, seed, data.patients, trained)


def eval_weights(config: RunConfig) -> Path:
    """The ``--eval_weights`` that an evaluation needs."""
    if config.output.eval_weights is None:
        raise ValueError("an evaluation needs --eval_weights")
    return config.output.eval_weights


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
