"""The case x gene table and the pathways over it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data_utils.tables.genes import PathwayGroups
from utils.diagnosis.inputs import Inputs
from utils.diagnosis.report import Finding, error, listing, ok, warning
from utils.diagnosis.tables import check_coverage

# Share of the pathway genes that a cohort should offer.
GOOD_COVERAGE = 0.8
_WRITE = "write it with python -m data_utils.make_gene_dataset, or pass --genomics_csv_path"
_LOGARITHM = "take log2(x + 1) before the table is written; z-scores of a skewed scale follow its extremes"


def check_genes(inputs: Inputs) -> Iterator[Finding]:
    """Who has RNA, what scale it has, which genes vary."""
    path = inputs.path("genes")
    try:
        table = inputs.genes
    except (OSError, ValueError) as reason:
        yield error(str(reason), _WRITE)
        return
    if table is None:
        yield from check_coverage(inputs, "genes")
        return
    yield from _check_scale(path, table.to_numpy(dtype=np.float32))
    constant = table.columns[(table.max() == table.min()).to_numpy()]
    if len(constant):
        yield warning(
            f"{path}: {len(constant)} of {table.shape[1]} genes are constant and become 0: {listing(constant)}",
            "harmless for a few; many mean that another cohort or platform was merged in",
        )
    yield from check_coverage(inputs, "genes")


def _check_scale(path: object, values: np.ndarray) -> Iterator[Finding]:
    low, high = float(np.nanmin(values)), float(np.nanmax(values))  # NaN: genes a whole cancer site lacks
    where = f"{path}: values from {low:.4g} to {high:.4g}"
    if low >= 0 and high > 100:
        if np.mean(values[~np.isnan(values)] % 1 == 0) > 0.99:
            yield warning(f"{where}, all whole numbers, look like raw counts", f"normalise, and {_LOGARITHM}")
        else:
            yield warning(f"{where} look like a linear scale (TPM, FPKM, RSEM)", _LOGARITHM)
    elif max(-low, high) > 50:
        yield warning(
            f"{where} have extremes that no logarithm or z-score of expression has",
            "clip them: python -m data_utils.make_gene_dataset --clip 10",
        )
    elif low < 0 and abs(np.nanmedian(values)) < 0.5 and 0.5 < np.median(np.nanstd(values, axis=0)) < 1.5:
        yield ok(f"{where} look like z-scores")
    else:
        yield ok(f"{where} look like a logarithm")


def check_pathways(inputs: Inputs) -> Iterator[Finding]:
    """Which pathway genes the cohort offers."""
    genes = inputs.need("genes")
    if genes is None:
        return
    if inputs.need("trained"):
        wanted, kept = set(inputs.pathways.genes), len(inputs.pathways.names)
        offered = wanted & set(genes.columns)
        if 2 * len(offered) < len(wanted):
            yield error(
                f"the gene table offers {len(offered)} of {len(wanted)} genes of the trained model",
                "write the table of the new cohort with the same gene symbols (data_utils.make_gene_dataset)",
            )
            return
        every, remedy = kept, "genes that are missing stand at the cohort mean"
    else:
        try:
            table = inputs.pathway_table
            kept = len(PathwayGroups.from_table(table, genes.columns).names)
        except (OSError, ValueError) as reason:
            yield error(str(reason), "pass --pathway_table, and gene symbols of the same kind in both files")
            return
        used = table.index[table.to_numpy().any(axis=1)]
        wanted, every = set(used), table.shape[1]
        offered = wanted & set(genes.columns)
        remedy = "the others are dropped; take the full expression table, and resolve symbols with make_gene_dataset"
    what = f"{len(offered)} of {len(wanted)} pathway genes are in the gene table, {kept} of {every} pathways kept"
    yield ok(what) if len(offered) >= GOOD_COVERAGE * len(wanted) and kept == every else warning(what, remedy)
