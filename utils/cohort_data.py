"""From files to datasets: standardises genes, groups pathways and builds the three splits."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from torch import Tensor

from data_utils.cohorts import load_cohort
from data_utils.datasets import CaseDataset, GeneVectors, PatchOptions, read_tensor_table
from data_utils.feature_folder import FeatureFolder
from data_utils.folds import make_folds, read_folds
from data_utils.genes import (
    GeneScaler,
    PathwayGroups,
    align_genes,
    read_gene_sites,
    read_gene_table,
    read_pathway_table,
)
from data_utils.splits import Patient, check_disjoint, read_split
from utils import constants

logger = logging.getLogger(__name__)

TEXT_SHAPE = (len(constants.TEXT_ROWS), 512)
CLINICAL_SHAPE = (5,)
# Name of the only group where genes are standardised over everybody.
ALL = "all"

Splits = Mapping[str, Sequence[Patient]]


@dataclass(frozen=True)
class CohortData:
    """The tables of a cohort, read once and shared by all folds and seeds.

    Attributes:
        patients: per split.
        genes: case x gene table, not standardised.
        gene_sites: of every row of ``genes`` the group within which it is standardised: its cancer site, or
            ``ALL`` for everybody.
        pathways: the pathways of the model; of the training run, where one is evaluated.
        texts: label sentences, where given.
        clinical: clinical features, where given.
        protocol: ``published`` or ``strict``.
    """

    patients: Splits
    genes: pd.DataFrame
    gene_sites: pd.Series
    pathways: PathwayGroups
    texts: Mapping[str, Tensor] | None
    clinical: Mapping[str, Tensor] | None
    protocol: str

    @classmethod
    def read(cls, args: argparse.Namespace, pathways: PathwayGroups | None = None) -> CohortData:
        """Reads everything the arguments name.

        Args:
            args: see :mod:`utils.arguments`.
            pathways: of a trained model; without, they come from ``--pathway_table``.
        """
        folder = None if args.features_dir is None else FeatureFolder(args.features_dir)
        patients = {split: read_split(getattr(args, f"{split}_json"), folder) for split in constants.SPLITS}
        check_disjoint(patients)
        if sites := getattr(args, "sites", None):
            patients = name_sites(patients, sites)
        genes = read_gene_table(args.genomics_csv_path)
        if pathways is None:
            pathways = PathwayGroups.from_table(read_pathway_table(args.pathway_table), genes.columns)
        cls._check_overlap(args, patients, genes)
        return cls(
            patients=patients,
            genes=align_genes(genes, pathways.genes),
            gene_sites=cls._gene_sites(args, genes.index),
            pathways=pathways,
            texts=_read(args.text_location, TEXT_SHAPE, "data_utils.make_textemb_conch"),
            clinical=_read(args.clinical_location, CLINICAL_SHAPE, "data_utils.make_clinical"),
            protocol=args.protocol,
        )

    @staticmethod
    def _check_overlap(args: argparse.Namespace, patients: Splits, genes: pd.DataFrame) -> None:
        everyone = [p for split in patients.values() for p in split]
        known = set(genes.index)
        if not any(p.submitter_id in known or p.case_id in known for p in everyone):
            raise ValueError(
                f"no patient of the split files is in {args.genomics_csv_path}: the splits hold such as "
                f"{[p.submitter_id for p in everyone[:3]]}, the gene table such as {list(genes.index[:3])}"
            )

    @staticmethod
    def _gene_sites(args: argparse.Namespace, cases: pd.Index) -> pd.Series:
        sites = read_gene_sites(args.genomics_csv_path) if args.gene_scaling == "site" else None
        return pd.Series(ALL, index=cases) if sites is None else sites

    def folds(self, num_folds: int, fold_json: Any, seed: int) -> list[Splits]:
        """The splits to run: those of the files, or ``num_folds`` of all patients together."""
        if num_folds == 1 and fold_json is None:
            return [self.patients]
        everyone = [p for split in self.patients.values() for p in split]
        vectors = GeneVectors(self.genes)
        eligible = [p.case_id for p in everyone if vectors.get(p) is not None]
        if fold_json is not None:
            folds = read_folds(fold_json, everyone, eligible, seed)
            if num_folds > len(folds):
                raise ValueError(f"{fold_json} holds {len(folds)} folds, fewer than --num_folds {num_folds}")
            return folds[:num_folds]
        return make_folds(everyone, eligible, num_folds, seed)

    def fit_scalers(self, patients: Splits) -> dict[str, GeneScaler]:
        """Standardisation of the genes within every group of ``gene_sites``.

        Over all rows of the table (published), or over the training split (strict).
        """
        table = self.genes
        if self.protocol == "strict":
            train = {name for p in patients["train"] for name in (p.case_id, p.submitter_id)}
            table = table[table.index.isin(train)]
        sites = self.gene_sites[table.index]
        if absent := sorted(set(self.gene_sites) - set(sites)):
            raise ValueError(f"no training patient with RNA to standardise the genes of {absent} with")
        return {site: GeneScaler.fit(rows) for site, rows in table.groupby(sites.to_numpy())}

    def standardise(self, scalers: Mapping[str, GeneScaler]) -> pd.DataFrame:
        """The gene table, standardised by what :meth:`fit_scalers` gave."""
        groups = self.genes.groupby(self.gene_sites.to_numpy())
        return pd.concat([scalers[site].transform(rows) for site, rows in groups]).loc[self.genes.index]

    def datasets(
        self, patients: Splits, scalers: Mapping[str, GeneScaler], patches: PatchOptions, clinical: bool
    ) -> dict[str, CaseDataset]:
        """One dataset per split, plus ``fit``: the training split with fresh patch subsets every epoch.

        Splits in which no patient has RNA are left out.
        """
        genes = GeneVectors(self.standardise(scalers))
        tables = {"genes": genes, "clinical": self.clinical if clinical else None}
        datasets = {}
        for split in constants.SPLITS:
            if any(genes.get(patient) is not None for patient in patients[split]):
                datasets[split] = CaseDataset(
                    patients[split], texts=None, options=patches, name=split, **tables
                )
            else:
                logger.warning("no patient of the %s split has RNA: nothing is evaluated on it", split)
        if self.texts is not None:
            resampling = PatchOptions(**{**vars(patches), "resample": True})
            datasets["fit"] = CaseDataset(
                patients["train"], texts=self.texts, options=resampling, name="train", **tables
            )
        return datasets


def name_sites(patients: Splits, sites: Sequence[str]) -> Splits:
    """The same patients with their cancer site, by project where the split files name none (published ones).

    Raises:
        ValueError: a patient belongs to none of the sites.
    """
    site_of = {project: site for site in sites for project in load_cohort(site).projects}
    strange = {
        p.site or p.project_id
        for part in patients.values()
        for p in part
        if (p.site or site_of.get(p.project_id)) not in sites
    }
    if strange:
        raise ValueError(f"the split files hold patients of {sorted(strange)}, which --sites {sites} lacks")
    return {
        split: [replace(p, site=p.site or site_of[p.project_id]) for p in part]
        for split, part in patients.items()
    }


def _read(path: Any, shape: tuple[int, ...], writer: str) -> dict[str, Tensor] | None:
    if path is None:
        return None
    return read_tensor_table(path, shape, f"write it with python -m {writer}")
