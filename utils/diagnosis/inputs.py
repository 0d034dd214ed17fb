"""What the checks look at: the files of the flags, each read once and as far as it can be read."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from data_utils.cases.cohort_data import name_sites
from data_utils.cases.splits import Patient, read_split
from data_utils.features.folder import FeatureFolder
from data_utils.tables.clinical import ClinicalTable, read_clinical_table
from data_utils.tables.genes import PathwayGroups, read_gene_table, read_pathway_table
from data_utils.tables.vectors import VectorTable, read_vectors
from models.aggregators import build_aggregator, modalities_of
from models.slide_backbone import SlideBackbone
from utils import constants
from utils.training import checkpoint
from utils.training.model_setup import model_config, model_spec
from utils.training.run import find_weights

# Pathways of a model whose pathway table cannot be read; its slide encoder is checked all the same.
_STAND_IN = PathwayGroups(("A", "B"), ("G",), ((0,), (0,)))


class Unavailable(Exception):
    """A check needs what another check has already reported as unreadable."""


class Inputs:
    """Lazily read files of a run.

    Reading raises what the readers raise. A check that reports on a file reads it by its attribute; one that
    only needs it calls :meth:`need`.

    Args:
        args: of ``train_modaltune.py``, completed (see :mod:`utils.arguments`).
        feature_samples: feature files whose values are read.
    """

    def __init__(self, args: argparse.Namespace, feature_samples: int) -> None:
        self.args = args
        self.feature_samples = feature_samples
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
        """The folder of ``--features_dir``, where given."""
        return None if self.args.features_dir is None else FeatureFolder(self.args.features_dir)

    @cached_property
    def splits(self) -> dict[str, list[Patient]]:
        """Patients of every split file that can be read; see ``unreadable_splits`` for the others."""
        folder = self.need("features_folder")
        splits = {}
        for name in constants.SPLITS:
            try:
                splits[name] = read_split(getattr(self.args, f"{name}_json"), folder)
            except (OSError, ValueError) as reason:
                self.unreadable_splits[name] = reason
        return name_sites(splits, self.args.sites) if self.args.sites else splits

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

    @property
    def learned(self) -> bool:
        """Whether learned tokens stand in for what a patient lacks; else such patients are left out."""
        stored = self.need("trained").get("missing_modalities")
        return (stored or self.args.missing_modalities) == "learned"

    def path(self, modality: str) -> Path | None:
        """The file of a modality; None where the cohort has none."""
        return getattr(self.args, constants.MODALITIES[modality].flag)

    @cached_property
    def genes(self) -> pd.DataFrame | None:
        """Case x gene table, as stored."""
        return None if (path := self.path("genes")) is None else read_gene_table(path)

    @cached_property
    def clinical(self) -> ClinicalTable | None:
        """Clinical values or features."""
        return None if (path := self.path("clinical")) is None else read_clinical_table(path)

    @cached_property
    def vectors(self) -> VectorTable | None:
        """Precomputed vectors."""
        return None if (path := self.path("vectors")) is None else read_vectors(path)

    def ids(self, modality: str) -> set[str]:
        """Whom the table of a modality holds, by barcode or GDC identifier."""
        table = getattr(self, modality)
        if table is None:
            return set()
        return set(table.index if modality == "genes" else table.ids)

    def runs(self, patient: Patient) -> bool:
        """Whether a run uses the patient: those who lack a modality may be left out."""
        return all({patient.case_id, patient.submitter_id} & ids for ids in self._needed_ids)

    @cached_property
    def _needed_ids(self) -> list[set[str]]:
        needed: list[set[str]] = []
        # What cannot be read is reported once; the checks of everything else assume that nobody lacks it.
        try:
            modalities = () if self.learned else self.need("modalities")
        except Unavailable:
            return needed
        for modality in modalities:
            with suppress(OSError, ValueError):
                needed.append(self.ids(modality))
        return needed

    # ------------------------------------------------------------------------ model
    @cached_property
    def pathway_table(self) -> pd.DataFrame:
        """Gene x pathway table."""
        return read_pathway_table(self.args.pathway_table)

    @cached_property
    def weights(self) -> list[Path]:
        """The files of ``--eval_weights``; none in a training."""
        return find_weights(self.args.eval_weights) if self.args.eval_only else []

    @cached_property
    def trained(self) -> dict[str, Any]:
        """What the first of them say of their training; empty in a training."""
        return checkpoint.load_weights(self.weights[0]).get("run", {}) if self.weights else {}

    @cached_property
    def pathways(self) -> PathwayGroups:
        """The pathways of the model: those of its training, or what the gene table leaves."""
        if self.trained:
            return PathwayGroups.from_dict(self.trained["pathways"])
        if self.genes is None:
            raise ValueError(
                "--genomics_csv_path was not given: pathways need a gene table, or a trained model"
            )
        return PathwayGroups.from_table(self.pathway_table, self.genes.columns)

    @property
    def mil_name(self) -> str:
        """Which model: what the weights say, else what the flag says."""
        return self.need("trained").get("mil_name", self.args.mil_name)

    @cached_property
    def model(self) -> nn.Module:
        """The model without values (on the meta device)."""
        config = model_config(self.args, self.need("trained"))
        if "shapes" not in config:
            config["shapes"] = {"vectors": self.need("vectors").shape} if "vectors" in self.modalities else {}
        try:
            pathways = self.pathways
        except (OSError, ValueError):
            pathways = _STAND_IN
        spec = model_spec(config, pathways, self.args.num_tasks)
        with torch.device("meta"):
            return build_aggregator(config["mil_name"], config["model_config"], spec)

    @property
    def backbone(self) -> SlideBackbone | None:
        """The slide encoder of the model, where it has one."""
        return getattr(self.need("model"), "backbone", None)
