"""What the checks look at: the files of the flags, each read once and as far as it can be read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data_utils.cases.cohort_data import name_sites
from data_utils.cases.splits import Patient, read_split
from data_utils.features.folder import FeatureFolder
from data_utils.tables.tasks import TaskSet
from data_utils.tables.tensor_table import ModalityTable
from models.aggregators import aggregator, modalities_of
from models.modalities import modality
from models.slide_backbone import SlideBackbone
from utils import constants
from utils.configuration.run_config import RunConfig
from utils.files import content_of
from utils.training import checkpoint
from utils.training.jobs import find_weights
from utils.training.model_setup import ModelSetup, model_setup, tasks_of


class Unavailable(Exception):
    """A check needs what another check has already reported as unreadable."""


class Inputs:
    """Lazily read files of a run.

    Reading raises what the readers raise. A check that reports on a file reads it by its attribute; one that
    only needs it calls :meth:`need`.

    Args:
        config: of the run.
        feature_samples: feature files whose values are read.
        tile_config: config of the patch encoder, where not the usual one.
        text_config: config of the text tower, where not the usual one.
        slides_dir: slides to look at, too.
    """

    def __init__(
        self,
        config: RunConfig,
        feature_samples: int = 50,
        tile_config: Path | None = None,
        text_config: Path | None = None,
        slides_dir: Path | None = None,
    ) -> None:
        self.config, self.feature_samples = config, feature_samples
        self.tile_config, self.text_config = tile_config, text_config
        self.slides_dir = slides_dir
        self._tables: dict[str, ModalityTable | None] = {}
        self.unreadable_splits: dict[str, Exception] = {}

    def need(self, name: str) -> Any:
        """The attribute ``name``; raises Unavailable where it cannot be read."""
        try:
            return getattr(self, name)
        except (OSError, ValueError) as reason:
            raise Unavailable(f"{name.replace('_', ' ')} cannot be read, see the error about it") from reason

    # ------------------------------------------------------------------------ patients
    @cached_property
    def features_folder(self) -> FeatureFolder | None:
        """The folder of ``--features_dir``, where given and read."""
        folder = self.config.data.features_dir
        return FeatureFolder(folder) if folder is not None and self.reads_patches else None

    @cached_property
    def splits(self) -> dict[str, list[Patient]]:
        """Patients of every split file that can be read; see ``unreadable_splits`` for the others."""
        folder = self.need("features_folder")
        splits = {}
        for name in constants.SPLITS:
            try:
                file = self.config.data.split_files[name]
                splits[name] = read_split(file, folder, self.reads_patches, self.tokens.columns)
            except (OSError, ValueError) as reason:
                self.unreadable_splits[name] = reason
        sites = self.config.data.sites
        return name_sites(splits, sites) if sites else splits

    @cached_property
    def tokens(self) -> TaskSet:
        """The tasks that the model has tokens of; the published ones where weights that say it cannot be read."""
        try:
            trained = self.need("trained")
        except Unavailable:
            trained = {}
        tasks = tasks_of(self.config, trained)
        wanted = trained.get("num_tasks", self.config.model.num_tasks)
        return tasks if wanted is None else tasks.first(wanted)

    def patients(self) -> Iterator[tuple[str, Patient]]:
        """Every patient with the name of the split."""
        for name, members in self.need("splits").items():
            for patient in members:
                yield name, patient

    # ------------------------------------------------------------------------ modalities
    @cached_property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that the model reads."""
        return modalities_of(self.mil_name)

    @cached_property
    def reads_patches(self) -> bool:
        """Whether the run reads feature files; an unknown model, which has its own finding, counts as if it did."""
        try:
            return aggregator(self.mil_name).patches
        except (ValueError, Unavailable):
            return True

    @property
    def learned(self) -> bool:
        """Whether learned tokens stand in for what a patient lacks; else such patients are left out."""
        stored = self.need("trained").get("missing_modalities")
        return (stored or self.config.data.missing_modalities) == "learned"

    def path(self, name: str) -> Path | None:
        """The file of a modality; None where the cohort has none."""
        return self.config.data.files.get(name)

    def table(self, name: str) -> ModalityTable | None:
        """The table of a modality; None where the cohort has none.

        Raises:
            OSError, ValueError: as :meth:`models.modalities.Modality.read`.
        """
        if name not in self._tables:
            path, data = self.path(name), self.config.data
            structure = self.need("trained").get("structures", {}).get(name)
            read = modality(name).read
            self._tables[name] = None if path is None else read(path, data.options.get(name, {}), structure)
        return self._tables[name]

    def ids(self, name: str) -> set[str]:
        """Whom the table of a modality holds, by barcode or GDC identifier."""
        table = self.table(name)
        return set() if table is None else set(table.ids)

    def runs(self, patient: Patient) -> bool:
        """Whether a run uses the patient: those who lack a modality may be left out."""
        return all({patient.case_id, patient.submitter_id} & ids for ids in self._needed_ids)

    @cached_property
    def _needed_ids(self) -> list[set[str]]:
        needed: list[set[str]] = []
        # What cannot be read is reported once; the checks of everything else assume that nobody lacks it.
        try:
            names = [n for n in self.need("modalities") if not self.learned or not modality(n).may_be_absent]
        except Unavailable:
            return needed
        for name in names:
            with suppress(OSError, ValueError):
                needed.append(self.ids(name))
        return needed

    # ------------------------------------------------------------------------ model
    @cached_property
    def weights(self) -> list[Path]:
        """The files of ``--eval_weights``; none in a training."""
        path = self.config.output.eval_weights
        return find_weights(path) if self.config.output.eval_only and path is not None else []

    @cached_property
    def trained(self) -> dict[str, Any]:
        """What the first of them say of their training; empty in a training."""
        return checkpoint.load_weights(self.weights[0]).get("run", {}) if self.weights else {}

    @cached_property
    def structures(self) -> dict[str, Any]:
        """What of the data decides the model's parameters: of its training, or what the tables say."""
        if self.trained:
            return self.trained["structures"]
        return {name: table.structure for name in self.modalities if (table := self.table(name)) is not None}

    @property
    def mil_name(self) -> str:
        """Which model: what the weights say, else what the flag says."""
        return self.need("trained").get("mil_name", self.config.model.mil_name)

    @cached_property
    def setup(self) -> ModelSetup:
        """What decides the parameters of the model."""
        return model_setup(self.config, self.need("trained"))

    @cached_property
    def model(self) -> nn.Module:
        """The model without values (on the meta device); where a table cannot be read, with a small stand-in."""
        try:
            structures = self.structures
        except (OSError, ValueError):
            structures = {name: entry.stand_in for name, entry in self.setup.modalities.items()}
        source = self.weights[0] if self.weights else self.config.model.model_config
        setup = self.setup
        with torch.device("meta"), content_of(source, "correct it"):
            return setup.build(structures)

    @property
    def backbone(self) -> SlideBackbone | None:
        """The slide encoder of the model, where it has one."""
        return getattr(self.need("model"), "backbone", None)
