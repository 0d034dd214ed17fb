"""What the checks look at: the files of the flags, each read once and as far as it can be read."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from data_utils.datasets import GeneVectors
from data_utils.feature_folder import FeatureFolder
from data_utils.genes import PathwayGroups, read_gene_table, read_pathway_table
from data_utils.splits import Patient, read_split
from data_utils.vectors import VectorTable, read_vectors
from models.aggregators import DataSpec, build_aggregator, modalities_of
from models.slide_backbone import SlideBackbone
from utils import checkpoint, constants
from utils.files import read_json
from utils.run import find_weights

# Pathways of a model whose pathway table cannot be read; its slide encoder is checked all the same.
_STAND_IN = ((0,), (0,))


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
        return splits

    def patients(self) -> Iterator[tuple[str, Patient]]:
        """Every patient with the name of the split."""
        for name, members in self.need("splits").items():
            for patient in members:
                yield name, patient

    @cached_property
    def genes(self) -> pd.DataFrame:
        """Case x gene table, as stored."""
        if self.args.genomics_csv_path is None:
            raise ValueError("--genomics_csv_path was not given")
        return read_gene_table(self.args.genomics_csv_path)

    @property
    def learned(self) -> bool:
        """Whether learned tokens stand for modalities that patients lack."""
        missing = self.need("trained").get("missing_modalities", self.args.missing_modalities)
        return missing == "learned"

    def runs(self, patient: Patient) -> bool:
        """Whether a run uses the patient: those without RNA are left out, unless tokens stand in."""
        return self.learned or self.has_rna(patient)

    def has_rna(self, patient: Patient) -> bool:
        """Whether the patient has RNA; True for all where the gene table cannot be read."""
        try:
            vectors = self._vectors
        except (OSError, ValueError):
            return True
        return vectors.get(patient) is not None

    @cached_property
    def _vectors(self) -> GeneVectors:
        return GeneVectors(self.genes)

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
        return PathwayGroups.from_table(self.pathway_table, self.genes.columns)

    @property
    def mil_name(self) -> str:
        """Which model: what the weights say, else what the flag says."""
        return self.need("trained").get("mil_name", self.args.mil_name)

    @cached_property
    def model(self) -> nn.Module:
        """The model without values (on the meta device)."""
        config = self.need("trained").get("model_config") or read_json(self.args.model_config)
        try:
            pathways = self.pathways.indices
        except (OSError, ValueError):
            pathways = _STAND_IN
        missing = "learned" if self.learned else "drop"
        spec = DataSpec(pathways, self.args.num_tasks, self._shapes(), missing)
        with torch.device("meta"):
            return build_aggregator(self.mil_name, config, spec)

    def _shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Shapes of inputs: those of the training, or what the tables say."""
        shapes = {name: tuple(shape) for name, shape in self.need("trained").get("shapes", {}).items()}
        if "vectors" in modalities_of(self.mil_name) and "vectors" not in shapes:
            shapes["vectors"] = self.need("vectors").shape
        return shapes

    @cached_property
    def vectors(self) -> VectorTable:
        """Precomputed vectors."""
        if self.args.vectors_location is None:
            raise ValueError("--vectors_location was not given")
        return read_vectors(self.args.vectors_location)

    @property
    def backbone(self) -> SlideBackbone | None:
        """The slide encoder of the model, where it has one."""
        return getattr(self.need("model"), "backbone", None)
