"""RNA expression as tokens: standardised genes, grouped by pathways."""

from __future__ import annotations

import logging
from argparse import Action, ArgumentTypeError
from argparse import _ArgumentGroup as ArgumentGroup
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from data_utils.tables.genes import (
    MAX_MISSING_GENES,
    GeneScaler,
    PathwayGroups,
    align_genes,
    read_gene_sites,
    read_gene_table,
)
from data_utils.tables.pathway_table import read_pathway_table
from data_utils.tables.tensor_table import ModalityTable
from models.configuration import construct
from models.genomic_utils.gene_mixer import (
    GeneMixer,
    PathwayNetworks,
    pack_pathway_networks,
    pathway_sizes,
    unpack_pathway_networks,
)
from models.modalities.base import Entries, Modality, ModalityEncoder
from models.modalities.registry import register_modality
from utils import constants
from utils.files import FileError, content_of
from utils.findings import Finding, error, listing, ok, warning

# Name of the only group where genes are standardised over everybody.
ALL = "all"
# Share of the pathway genes that a cohort should offer.
GOOD_COVERAGE = 0.8
# Half of the z-scores of a cohort lie within 0.7; no cohort on the scale of the training is so far away.
IMPLAUSIBLE_SCORE = 5.0
logger = logging.getLogger(__name__)
_LOGARITHM = "take log2(x + 1) before the table is written; z-scores of a skewed scale follow its extremes"


class GeneEncoder(ModalityEncoder):
    """RNA expression by pathways (see :class:`GeneMixer`).

    Args:
        embed_dim: width of the tokens.
        pathways: for each pathway, positions of its genes in a case's gene vector.
        config: of :class:`GeneMixer`.
    """

    def __init__(self, embed_dim: int, pathways: Sequence[Sequence[int]], **config: Any) -> None:
        super().__init__()
        self.network = construct(GeneMixer, config, "gene_encoder", pathways=pathways, out_dim=embed_dim)
        self.num_tokens = self.network.num_tokens
        self.width = self.network.gene_networks.num_genes

    def vector(self, data: Tensor) -> Tensor:
        return self.network.gene_networks.whole(data)

    def forward(self, data: Tensor, num_tasks: int, case_id: str) -> Tensor:
        if self.training:
            return self.network(data, num_tasks)
        return self.network(data).expand(num_tasks, -1, -1)  # without dropout all copies agree


class GeneTable(ModalityTable):
    """A case x gene table, not standardised, and the pathways over it.

    Args:
        path: the case x gene table.
        pathway_table: gene x pathway table; not read where ``structure`` is given.
        scaling: ``site`` standardises genes within each cancer site of a pan-cancer table, ``union`` over all.
        structure: the pathways of a trained model.
        max_missing: share of the genes of a trained model that may be missing; they stand at the mean.
    """

    def __init__(
        self,
        path: Path,
        pathway_table: Path,
        scaling: str,
        structure: Any = None,
        max_missing: float = MAX_MISSING_GENES,
    ) -> None:
        self.path, self.pathway_table, self.max_missing = path, pathway_table, max_missing
        self.stored = read_gene_table(path)
        self._trained = None if structure is None else PathwayGroups.from_dict(structure)
        sites = read_gene_sites(path) if scaling == "site" else None
        self.sites = pd.Series(ALL, index=self.stored.index) if sites is None else sites

    @property
    def ids(self) -> Collection[str]:
        return self.stored.index

    @cached_property
    def pathways(self) -> PathwayGroups:
        """The pathways of the trained model, or what the gene table leaves of the pathway table."""
        if self._trained is not None:
            return self._trained
        table = read_pathway_table(self.pathway_table)
        with content_of(self.path, f"pass a gene table with the symbols of {self.pathway_table}"):
            return PathwayGroups.from_table(table, self.stored.columns)

    @property
    def structure(self) -> dict[str, Any]:
        return self.pathways.to_dict()

    @cached_property
    def values(self) -> pd.DataFrame:
        """The genes of the pathways, in their order."""
        return align_genes(self.stored, self.pathways.genes, self.max_missing, self.path)

    @property
    def missing_by_pathway(self) -> dict[str, float]:
        """Share of the genes that the table lacks, of every pathway of a trained model that lacks some."""
        if self._trained is None:
            return {}
        absent = [gene not in self.stored.columns for gene in self._trained.genes]
        shares = {
            name: sum(absent[i] for i in group) / max(len(group), 1)
            for name, group in zip(self._trained.names, self._trained.indices, strict=True)
        }
        return {name: share for name, share in sorted(shares.items(), key=lambda item: -item[1]) if share}

    @property
    def remark(self) -> str:
        shares = self.missing_by_pathway
        if not shares:
            return ""
        genes = self.pathways.genes
        missing = sum(gene not in self.stored.columns for gene in genes)
        most = ", ".join(f"{name} {share:.0%}" for name, share in list(shares.items())[:5])
        return (
            f"{missing} of {len(genes)} genes of the model are missing and stand at the mean, in {len(shares)} of "
            f"{len(self.pathways.names)} pathways (most: {most}; all: config.json)"
        )

    def fit(self, only: Collection[str] | None = None) -> dict[str, Any]:
        """Mean and standard deviation of every gene, ``{site: GeneScaler}`` as plain values."""
        table = self.values if only is None else self.values[self.values.index.isin(list(only))]
        sites = self.sites[table.index]
        if absent := sorted(set(self.sites) - set(sites)):
            fault = f"holds no training patient to standardise the genes of {absent} with"
            raise FileError(self.path, fault, "leave the site out (--sites), or add patients of it")
        return {str(s): GeneScaler.fit(rows).to_dict() for s, rows in table.groupby(sites.to_numpy())}

    def of_site(self, site: str) -> GeneTable:
        own = copy(self)
        own.sites = pd.Series(site, index=self.stored.index)
        return own

    def encode(self, fitted: Mapping[str, Any] | None) -> dict[str, Tensor]:
        """``{case: [n_genes]}``, standardised by what :meth:`fit` gave."""
        if fitted is None:
            raise ValueError("the weights hold no means and deviations of the genes")
        sites = pd.Series(ALL, index=self.stored.index) if fitted.keys() == {ALL} else self.sites
        if unknown := sorted(set(sites) - fitted.keys()):
            fault = f": the genes of {unknown} cannot be standardised, the weights know {sorted(fitted)}"
            raise FileError(self.path, fault, "name its site as the training did")
        groups = self.values.groupby(sites.to_numpy())
        parts = [GeneScaler.from_dict(fitted[str(site)]).transform(rows) for site, rows in groups]
        table = pd.concat(parts).loc[self.values.index]
        typical = (
            float(np.median(np.abs(table.to_numpy()))) if self._trained is not None and table.size else 0.0
        )
        if typical > IMPLAUSIBLE_SCORE:
            logger.warning(
                "%s: half of the values are more than %.0f standard deviations from the mean of the training; is the "
                "table on another scale?",
                self.path,
                typical,
            )
        values = torch.from_numpy(np.ascontiguousarray(table.to_numpy(dtype=np.float32)))
        return dict(zip(map(str, table.index), values.unbind(), strict=True))

    def describe(self, fitted: Mapping[str, Any] | None) -> dict[str, Any]:
        names, genes = self.pathways.names, self.pathways.genes
        counts = {"pathways": len(names), "genes": len(genes)}
        if self._trained is not None:
            missing = sorted(set(genes) - set(self.stored.columns))
            return {
                **super().describe(fitted),
                **counts,
                "genes_missing_here": missing,
                "missing_by_pathway": self.missing_by_pathway,
            }
        every = read_pathway_table(self.pathway_table).columns.astype(str)
        return {**super().describe(fitted), **counts, "dropped_pathways": sorted(set(every) - set(names))}

    # ------------------------------------------------------------------------ for the doctor
    def check(self) -> Iterator[Finding]:
        """What scale the table has, which genes vary, and which pathway genes it offers."""
        yield _check_scale(self.path, self.stored.to_numpy(dtype=np.float32))
        constant = self.stored.columns[(self.stored.max() == self.stored.min()).to_numpy()]
        if len(constant):
            yield warning(
                f"{self.path}: {len(constant)} of {self.stored.shape[1]} genes are constant and become 0: "
                f"{listing(constant)}",
                "harmless for a few; many mean that another cohort or platform was merged in",
            )
        yield replace(self._check_pathways(), area="pathways")

    def _check_pathways(self) -> Finding:
        """Which pathway genes the cohort offers."""
        if self._trained is not None:
            wanted, kept = set(self._trained.genes), len(self._trained.names)
            offered = wanted & set(self.stored.columns)
            try:
                align_genes(self.stored, self._trained.genes, self.max_missing, self.path)
            except ValueError as reason:
                return error(
                    str(reason),
                    "pass the --genomics_csv_path of the new cohort with the symbols of the training",
                )
            every, remedy = kept, self.remark or "genes that are missing stand at the cohort mean"
        else:
            try:
                table = read_pathway_table(self.pathway_table)
                kept = len(self.pathways.names)
            except (OSError, ValueError) as reason:
                return error(
                    str(reason), "pass --pathway_table, and gene symbols of the same kind in both files"
                )
            used = table.index[table.to_numpy().any(axis=1)]
            wanted, every = set(used), table.shape[1]
            offered = wanted & set(self.stored.columns)
            remedy = (
                "the others are dropped; take the full expression table, and resolve symbols with "
                "make_gene_dataset"
            )
        what = f"{len(offered)} of {len(wanted)} pathway genes are in the gene table, {kept} of {every} pathways kept"
        if further := len(set(self.stored.columns) - offered):
            what += f"; {further} further genes of the table are in no pathway and not read"
        good = len(offered) >= GOOD_COVERAGE * len(wanted) and kept == every
        return ok(what) if good else warning(what, remedy)


def _check_scale(path: Path, values: np.ndarray) -> Finding:
    low, high = float(np.nanmin(values)), float(np.nanmax(values))  # NaN: genes a whole cancer site lacks
    where = f"{path}: values from {low:.4g} to {high:.4g}"
    if low >= 0 and high > 100:
        if np.mean(values[~np.isnan(values)] % 1 == 0) > 0.99:
            return warning(
                f"{where}, all whole numbers, look like raw counts", f"normalise, and {_LOGARITHM}"
            )
        return warning(f"{where} look like a linear scale (TPM, FPKM, RSEM)", _LOGARITHM)
    if max(-low, high) > 50:
        return warning(
            f"{where} have extremes that no logarithm or z-score of expression has",
            "clip them: python -m data_utils.make_gene_dataset --clip 10",
        )
    if low < 0 and abs(np.nanmedian(values)) < 0.5 and 0.5 < np.median(np.nanstd(values, axis=0)) < 1.5:
        return ok(f"{where} look like z-scores")
    return ok(f"{where} look like a logarithm")


def _share(text: str) -> float:
    """A share on the command line."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ArgumentTypeError(f"{text!r} is no share: it should be from 0 to 1, 0.2 for 20 %")
    return value


@register_modality
class Genes(Modality):
    """RNA expression. Every cohort is standardised over its own patients, as published."""

    name, word, noun = "genes", "gene", "RNA"
    flag = "genomics_csv_path"
    help = "case x gene table; with --eval_only, none for a cohort without (also in the next flags)"
    remedy = "write it with python -m data_utils.make_gene_dataset, or pass --genomics_csv_path"
    config_section = "gene_encoder"
    after_task = True
    per_cohort = True
    published_prefix = "gene_encoder."
    stand_in: ClassVar[Any] = {"names": ["A", "B"], "genes": ["G"], "indices": [[0], [0]]}

    def locate(self, onco: str) -> Path:
        return constants.gene_table(onco)

    def add_flags(self, group: ArgumentGroup) -> list[Action]:
        return [
            group.add_argument(
                "--pathway_table", type=Path, default=constants.PATHWAY_TABLE, help="gene x pathway CSV"
            ),
            group.add_argument(
                "--gene_scaling",
                choices=("site", "union"),
                help="pan-cancer gene tables: standardise genes within each cancer site, as for single cohorts, or "
                "over all sites together; if not given, union under the published protocol and site under strict",
            ),
            group.add_argument(
                "--missing_genes",
                choices=("zero", "error"),
                default="zero",
                help="genes of a trained model that a new cohort lacks: zero puts them at the mean, as many as "
                "--max_missing_genes allows",
            ),
            group.add_argument(
                "--max_missing_genes",
                type=_share,
                default=MAX_MISSING_GENES,
                metavar="SHARE",
                help="share of the genes of a trained model that may be missing",
            ),
        ]

    def read(self, path: Path, options: Mapping[str, Any], structure: Any = None) -> GeneTable:
        allowed = 0.0 if options.get("missing_genes") == "error" else options.get("max_missing_genes")
        return GeneTable(
            path,
            options["pathway_table"],
            options["gene_scaling"],
            structure,
            MAX_MISSING_GENES if allowed is None else allowed,
        )

    def build(self, embed_dim: int, structure: Any, **config: Any) -> GeneEncoder:
        if structure is None:
            raise ValueError(
                "--genomics_csv_path was not given: pathways need a gene table, or a trained model"
            )
        return GeneEncoder(embed_dim, structure["indices"], **config)

    def check_stored(self, structure: Any, fitted: Any) -> None:
        if structure is not None:
            PathwayGroups.from_dict(structure)
        for scaler in (fitted or {}).values():
            GeneScaler.from_dict(scaler)

    def entries(self, structure: Any, shape: tuple[int, ...]) -> Entries:
        return Entries(tuple(structure["genes"]))

    @contextmanager
    def apart(self, model: nn.Module, data: Tensor, structure: Any) -> Iterator[tuple[Tensor, Entries]]:
        """One copy of a gene for every pathway that reads it, ``[sum of the pathways' sizes]``.

        What a model reads of a gene past the pathways is shared evenly by its copies.

        Models without pathway networks have no pathways to tell apart.
        """
        networks = [module for module in model.modules() if isinstance(module, PathwayNetworks)]
        if not networks:
            yield data, self.entries(structure, tuple(data.shape))
            return
        members = [gene for group in structure["indices"] for gene in group]
        groups = [n for n, group in zip(structure["names"], structure["indices"], strict=True) for _ in group]
        names = tuple(structure["genes"][gene] for gene in members)
        for network in networks:
            network.takes_members = True
        try:
            yield data[torch.tensor(members, device=data.device)], Entries(names, tuple(groups))
        finally:
            for network in networks:
                network.takes_members = False

    def from_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {f"network.{name}": value for name, value in pack_pathway_networks(state).items()}

    def published_layout(self, state: Mapping[str, Tensor]) -> list[int]:
        """Genes of every pathway; side by side, two pathways with one gene too many and one too few would fit."""
        return pathway_sizes(state)

    def misfit(self, layout: Any, structure: Any) -> tuple[str, str] | None:
        sizes, names = [len(group) for group in structure["indices"]], structure["names"]
        if list(layout) == sizes:
            return None
        remedy = (
            "published checkpoints were trained with gene_pathway_processed_v2.csv of the published code: pass it with "
            "--pathway_table, and a gene table that has all of its genes"
        )
        if len(layout) != len(sizes):
            return f"the weights have {len(layout)} pathways, the tables {len(sizes)}", remedy
        other = [
            f"{name} ({then}, here {now})"
            for name, then, now in zip(names, layout, sizes, strict=True)
            if then != now
        ]
        return f"{len(other)} pathways have another number of genes: {listing(other)}", remedy

    def to_published(self, state: Mapping[str, Tensor], structure: Any) -> dict[str, Tensor]:
        sizes = [len(group) for group in structure["indices"]]
        return unpack_pathway_networks({k.removeprefix("network."): v for k, v in state.items()}, sizes)
