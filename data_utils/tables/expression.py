"""Raw expression matrices, and how they become the case x gene table."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from data_utils.tables.gene_aliases import GeneAliases
from data_utils.tables.number_table import number_chunks
from data_utils.tables.text_table import existing, inspect_layout
from utils.barcodes import (
    is_normal_tissue,
    is_sample,
    is_tcga,
    patient_of,
    patients_of,
    sample_rank,
    tidy_barcode,
)
from utils.files import FileError

logger = logging.getLogger(__name__)

MAX_MISSING_SHARE = 0.2  # a gene without a value in more cases than this is dropped


# ---------------------------------------------------------------------------- raw matrices
def read_expression(path: str | Path) -> pd.DataFrame:
    """Expression matrix of a cohort, genes x samples, float32; rows keep their order and duplicates.

    Raises:
        FileNotFoundError: the file does not exist.
        FileError: a cell is no finite number (file, gene and sample are named), or there is no gene or no
            sample.
    """
    matrix = pd.concat(_expression_chunks(path, None))
    if matrix.empty:
        raise FileError(path, "holds no gene or no sample", "it should have genes in rows, separated by tabs")
    tidy = [tidy_barcode(sample) for sample in matrix.columns]
    if changed := sum(new != old for new, old in zip(tidy, matrix.columns, strict=True)):
        logger.info("%s: %d barcodes brought into capitals and dashes, such as %s", path, changed, tidy[0])
    matrix = matrix.set_axis(tidy, axis=1)
    if twice := sorted(set(matrix.columns[matrix.columns.duplicated()])):
        differ = [sample for sample in twice if len(matrix[sample].T.drop_duplicates()) > 1]
        if differ:
            raise FileError(path, f"has columns of one sample that differ: {differ[:5]}", "keep one of each")
        matrix = matrix.loc[:, ~matrix.columns.duplicated()]
    strangers = [sample for sample in matrix.columns if not is_tcga(sample)]
    if 2 * len(strangers) < matrix.shape[1] and (odd := [name for name in strangers if not is_sample(name)]):
        logger.warning("%s: %d columns are left out, as they are no samples: %s", path, len(odd), odd[:5])
        matrix = matrix.drop(columns=odd)
    return matrix


def constant_genes(path: str | Path, rows_at_once: int = 1000) -> set[str]:
    """Symbols whose value is the same in all samples of a matrix that may be too large to hold.

    A symbol that stands several times is constant if all its rows are; missing values do not count. Errors as
    in :func:`read_expression`.
    """
    constant: set[str] = set()
    varying: set[str] = set()
    for chunk in _expression_chunks(path, rows_at_once):
        same = _is_constant(chunk)
        constant.update(chunk.index[same])
        varying.update(chunk.index[~same])
    return constant - varying


def _is_constant(matrix: pd.DataFrame) -> np.ndarray:
    return ~(matrix.max(axis=1) > matrix.min(axis=1)).to_numpy()


def _expression_chunks(path: str | Path, rows_at_once: int | None) -> Iterator[pd.DataFrame]:
    path = existing(path, "expression matrix", "download it from UCSC Xena")
    layout = inspect_layout(path, "expression matrix")
    for chunk in number_chunks(path, layout, rows_at_once, kinds=("gene", "sample")):
        yield chunk.set_axis(chunk.index.str.strip(), axis=0)


# ---------------------------------------------------------------------------- case x gene table
def build_gene_table(
    expression: pd.DataFrame,
    pathway_genes: Sequence[str],
    constant: Iterable[str],
    aliases: GeneAliases,
    clip: float | None = None,
    tumor_only: bool = False,
) -> pd.DataFrame:
    """Case x gene table of the pathway genes, raw values; what was dropped and why goes to the log.

    Args:
        expression: genes x samples, see :func:`read_expression`.
        pathway_genes: symbols of the pathway table; the columns of the answer keep this order.
        constant: symbols to drop because they never vary.
        aliases: resolves pathway genes that stand under another name in the matrix.
        clip: values beyond +-clip are set to it, for matrices of z-scores with outliers.
        tumor_only: of several samples of a case, take the primary tumour (01 before 02 and 06, vial A before B)
            instead of the first of the matrix, as published. Normal tissue (types 10 to 19) never counts.

    Returns:
        float32 ``[cases, genes]``, index ``case_id`` = 12-character case barcodes, sorted.

    Raises:
        ValueError: no sample or no pathway gene is left; the message shows examples of both sides.
    """
    unknown = expression.index.astype(str).str.startswith("?") | expression.index.isna()
    known = expression[~unknown]
    duplicates = _surplus_copies(known)
    known = known[~duplicates]
    dropped_constant = known.index.isin(list(constant))
    known = known[~dropped_constant]
    logger.info(
        "genes: %d rows, dropped %d without symbol, %d repeating a symbol (the first that varies counts), %d constant",
        len(expression),
        unknown.sum(),
        duplicates.sum(),
        dropped_constant.sum(),
    )

    wanted = list(dict.fromkeys(pathway_genes))
    renamed = aliases.match(wanted, known.index)
    for new, old in renamed.items():
        logger.debug("pathway gene %s stands as %s in the matrix", new, old)
    here = known.index
    sources = {gene: renamed.get(gene, gene) for gene in wanted if gene in renamed or gene in here}
    if not sources:
        raise ValueError(
            f"no pathway gene is in the expression matrix: pathway genes such as {wanted[:3]}, "
            f"matrix genes such as {here[:3].tolist()}"
        )
    missing = [gene for gene in wanted if gene not in sources]
    table = known.loc[list(sources.values())].T
    table.columns = list(sources)
    table = _one_row_per_case(table, tumor_only)
    table = _fill_missing(table)
    if clip is not None:
        beyond = int((table.abs() > clip).to_numpy().sum())
        logger.info("%d values beyond +-%g clipped", beyond, clip)
        table = table.clip(-clip, clip)
    logger.info(
        "gene table: %d cases x %d genes; of %d pathway genes %d are missing (%s), %d go by another name",
        *table.shape,
        len(wanted),
        len(missing),
        missing[:5],
        len(renamed),
    )
    return table.astype(np.float32)


def _surplus_copies(matrix: pd.DataFrame) -> np.ndarray:
    """Which rows repeat a symbol; the first that varies stays, or the first where none does."""
    repeated = np.flatnonzero(matrix.index.duplicated(keep=False))
    surplus = np.zeros(len(matrix), dtype=bool)
    if not len(repeated):
        return surplus
    surplus[repeated] = True
    constant = pd.Series(_is_constant(matrix.iloc[repeated]), index=repeated)
    for rows in pd.Series(repeated, index=repeated).groupby(matrix.index[repeated].to_numpy(), sort=False):
        surplus[constant[rows[1].to_numpy()].idxmin()] = False
    return surplus


def _one_row_per_case(table: pd.DataFrame, tumor_only: bool) -> pd.DataFrame:
    samples = np.array(list(map(str, table.index)), dtype=object)
    normal = np.array([is_normal_tissue(sample) for sample in samples], dtype=bool)
    table, tumours, cases = table[~normal], samples[~normal], patients_of(samples[~normal])
    if not len(tumours):
        raise ValueError("no sample is left in the expression matrix")
    without = sorted({patient_of(sample) for sample in samples[normal]} - set(cases))
    logger.info(
        "samples: %d of normal tissue left out, %d of %d cases", normal.sum(), len(tumours), len(set(cases))
    )
    if without:
        logger.warning(
            "%d cases have normal tissue only, and so no row, such as %s", len(without), without[:3]
        )
    order = range(len(tumours))
    by_type = sorted(order, key=lambda n: (*sample_rank(tumours[n]), n))
    chosen = {cases[n]: n for n in reversed(by_type if tumor_only else order)}
    best = {cases[n]: n for n in reversed(by_type)}
    if several := len(tumours) - len(chosen):
        logger.info(
            "%d further samples of the same cases left out; %s counts",
            several,
            "the primary tumour" if tumor_only else "the first",
        )
    if odd := [tumours[n] for case, n in chosen.items() if n != best[case]]:
        logger.warning(
            "%d cases are represented by another sample than their primary tumour, such as %s: it comes first in the "
            "matrix, as published; --tumor_only takes the primary tumour",
            len(odd),
            odd[:3],
        )
    table = table.iloc[np.array(list(chosen.values()))]
    table.index = pd.Index(list(chosen), name="case_id")
    return table.sort_index()


def _fill_missing(table: pd.DataFrame) -> pd.DataFrame:
    share = table.isna().mean()
    sparse = share.index[share > MAX_MISSING_SHARE]
    if len(sparse):
        logger.warning(
            "%d genes dropped: without value in more than %d %% of the cases: %s",
            len(sparse),
            round(100 * MAX_MISSING_SHARE),
            sparse[:10].tolist(),
        )
        table = table.drop(columns=sparse)
        if table.columns.empty:
            raise ValueError(f"no gene is left: all have missing values, such as {sparse[:5].tolist()}")
    holes = int(table.isna().to_numpy().sum())
    if holes:
        logger.warning("%d missing values set to the median of their gene", holes)
        table = table.fillna(table.median())
    return table
