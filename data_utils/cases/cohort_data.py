"""From files to datasets: standardises genes, groups pathways and builds the three splits."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from torch import Tensor

from data_utils.cases.datasets import (
    CaseDataset,
    GeneVectors,
    ModalityOptions,
    ModalityTable,
    PatchOptions,
    TensorTable,
    read_tensor_table,
    usable_patients,
)
from data_utils.cases.folds import make_folds, read_folds
from data_utils.cases.splits import Patient, check_disjoint, read_split
from data_utils.features.folder import FeatureFolder
from data_utils.tables.clinical import ClinicalCodes, ClinicalTable, read_clinical_table
from data_utils.tables.cohorts import load_cohort
from data_utils.tables.genes import (
    GeneScaler,
    PathwayGroups,
    align_genes,
    read_gene_sites,
    read_gene_table,
    read_pathway_table,
)
from data_utils.tables.vectors import VectorTable, read_vectors
from utils import constants

logger = logging.getLogger(__name__)

TEXT_SHAPE = (len(constants.TEXT_ROWS), 512)
# Name of the only group where genes are standardised over everybody.
ALL = "all"

_PUBLISHED = ModalityOptions()

Splits = Mapping[str, Sequence[Patient]]


@dataclass(frozen=True)
class CohortData:
    """The tables of a cohort, read once and shared by all folds and seeds.

    Attributes:
        patients: per split.
        genes: case x gene table, not standardised; None where a cohort has none.
        gene_sites: of every row of ``genes`` the group within which it is standardised: its cancer site, or
            ``ALL`` for everybody.
        pathways: the pathways of the model; of the training run, where one is evaluated.
        texts: label sentences, where given.
        clinical: clinical values or features, where given.
        protocol: ``published`` or ``strict``.
        vectors: precomputed vectors, where given.
    """

    patients: Splits
    genes: pd.DataFrame | None
    gene_sites: pd.Series | None
    pathways: PathwayGroups
    texts: Mapping[str, Tensor] | None
    clinical: ClinicalTable | None
    protocol: str
    vectors: VectorTable | None = None

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
        genes, clinical, vectors = (
            None if (path := getattr(args, constants.MODALITIES[name].flag)) is None else read(path)
            for name, read in _READERS.items()
        )
        if pathways is None:
            if genes is None:
                raise ValueError(
                    "--genomics_csv_path was not given: pathways need a gene table, or a trained model"
                )
            pathways = PathwayGroups.from_table(read_pathway_table(args.pathway_table), genes.columns)
        data = cls(
            patients=patients,
            genes=None if genes is None else align_genes(genes, pathways.genes),
            gene_sites=None if genes is None else _gene_sites(args, genes.index),
            pathways=pathways,
            texts=_read(args.text_location, TEXT_SHAPE, "data_utils.make_textemb_conch"),
            clinical=clinical,
            protocol=args.protocol,
            vectors=vectors,
        )
        for name, ids in data._ids().items():
            if ids:
                _check_overlap(getattr(args, constants.MODALITIES[name].flag), patients, ids)
        return data

    @property
    def shapes(self) -> dict[str, tuple[int | None, ...]]:
        """Shapes of inputs that the tables decide (see :class:`models.aggregators.DataSpec`)."""
        return {} if self.vectors is None else {"vectors": self.vectors.shape}

    def folds(
        self, num_folds: int, fold_json: Any, seed: int, modalities: ModalityOptions = _PUBLISHED
    ) -> list[Splits]:
        """The splits to run: those of the files, or ``num_folds`` of all patients together.

        Patients without RNA or another modality of the model are in training splits only, unless a learned
        token stands in for what they lack.
        """
        if num_folds == 1 and fold_json is None:
            return [self.patients]
        everyone = [p for split in self.patients.values() for p in split]
        known = self._ids()
        needed = () if modalities.missing == "learned" else {"genes", *modalities.names}
        eligible = [
            p.case_id for p in everyone if all({p.case_id, p.submitter_id} & known[name] for name in needed)
        ]
        if fold_json is not None:
            folds = read_folds(fold_json, everyone, eligible, seed)
            if num_folds > len(folds):
                raise ValueError(f"{fold_json} holds {len(folds)} folds, fewer than --num_folds {num_folds}")
            return folds[:num_folds]
        return make_folds(everyone, eligible, num_folds, seed)

    def _ids(self) -> dict[str, set[str]]:
        """Whom the table of every modality holds, by barcode or GDC identifier."""
        return {
            "genes": set() if self.genes is None else set(self.genes.index),
            "clinical": set() if self.clinical is None else set(self.clinical.ids),
            "vectors": set() if self.vectors is None else set(self.vectors.ids),
        }

    def fit_scalers(self, patients: Splits) -> dict[str, GeneScaler]:
        """Standardisation of the genes within every group of ``gene_sites``; empty without a gene table.

        Over all rows of the table (published), or over the training split (strict).
        """
        if self.genes is None:
            return {}
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

    def fit_codes(self, patients: Splits) -> ClinicalCodes | None:
        """Codes of the clinical values: of the whole table (published), or the training split.

        None where there is no table, or where it does not tell its codes.
        """
        if self.clinical is None:
            return None
        train = {name for p in patients["train"] for name in (p.case_id, p.submitter_id)}
        return self.clinical.fit(train if self.protocol == "strict" else None)

    def datasets(
        self,
        patients: Splits,
        scalers: Mapping[str, GeneScaler],
        patches: PatchOptions,
        modalities: ModalityOptions,
        codes: ClinicalCodes | None = None,
    ) -> dict[str, CaseDataset]:
        """One dataset per split, plus ``fit``: the training split with fresh patch subsets every epoch.

        Splits in which no patient has the modalities of the model are left out; with learned absent tokens,
        empty ones only.

        Args:
            patients: of every split.
            scalers: of the genes.
            patches: how patches are prepared.
            modalities: what the model reads, and what happens to patients who lack some of it.
            codes: of the clinical values; those of a trained model where one is evaluated.
        """
        tables = self._tables(modalities.names, scalers, codes)
        as_evaluated = ModalityOptions(**{**vars(modalities), "dropout": 0.0})
        datasets = {}
        for split in constants.SPLITS:
            if usable_patients(patients[split], tables, modalities.missing):
                datasets[split] = CaseDataset(
                    patients[split], tables, None, patches, name=split, modalities=as_evaluated
                )
            else:
                nouns = " and ".join(constants.MODALITIES[name].noun for name in tables)
                logger.warning("no patient of the %s split has %s: nothing is evaluated on it", split, nouns)
        if self.texts is not None:
            resampling = PatchOptions(**{**vars(patches), "resample": True})
            datasets["fit"] = CaseDataset(
                patients["train"], tables, self.texts, resampling, name="train", modalities=modalities
            )
        return datasets

    def _tables(
        self, names: Sequence[str], scalers: Mapping[str, GeneScaler], codes: ClinicalCodes | None
    ) -> dict[str, ModalityTable]:
        """What the model reads, ready to be handed out; an empty table where the cohort has none."""
        tables: dict[str, ModalityTable] = {name: TensorTable({}) for name in names}
        if "genes" in names and self.genes is not None:
            tables["genes"] = GeneVectors(self.standardise(scalers))
        if "clinical" in names and self.clinical is not None:
            tables["clinical"] = TensorTable(self.clinical.encode(codes))
        if "vectors" in names and self.vectors is not None:
            tables["vectors"] = self.vectors
        return tables


# By the name of the modality, in the order in which their files are read.
_READERS = {"genes": read_gene_table, "clinical": read_clinical_table, "vectors": read_vectors}


def _gene_sites(args: argparse.Namespace, cases: pd.Index) -> pd.Series:
    sites = read_gene_sites(args.genomics_csv_path) if args.gene_scaling == "site" else None
    return pd.Series(ALL, index=cases) if sites is None else sites


def _check_overlap(path: Any, patients: Splits, ids: set[str]) -> None:
    everyone = [p for split in patients.values() for p in split]
    if not any(p.submitter_id in ids or p.case_id in ids for p in everyone):
        raise ValueError(
            f"no patient of the split files is in {path}: the splits hold such as "
            f"{[p.submitter_id for p in everyone[:3]]}, the table such as {sorted(ids)[:3]}"
        )


def _gene_sites(args: argparse.Namespace, cases: pd.Index) -> pd.Series:
    sites = read_gene_sites(args.genomics_csv_path) if args.gene_scaling == "site" else None
    return pd.Series(ALL, index=cases) if sites is None else sites


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
