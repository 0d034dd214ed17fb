"""Raw expression matrices, and how they become the case x gene table."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_utils.tables.gene_aliases import GeneAliases
from utils.barcodes import is_normal_tissue, patient_of

logger = logging.getLogger(__name__)

CASE_BARCODE = 12  # characters of "TCGA-XX-XXXX"
MAX_MISSING_SHARE = 0.2  # a gene without a value in more cases than this is dropped
_MISSING = ["", "NA", "NaN", "nan", "null", "NULL", "N/A"]


# ---------------------------------------------------------------------------- raw matrices
def read_expression(path: str | Path) -> pd.DataFrame:
    """Expression matrix of a cohort, genes x samples, float32; rows keep their order and duplicates.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a cell is no finite number (file, gene and sample are named), or there is no gene or no
            sample.
    """
    (matrix,) = _expression_chunks(
        path, None
    )  # unpacking runs the generator to its end, which closes the file
    if matrix.empty:
        raise ValueError(f"{path} holds no gene or no sample; expected genes in rows, tab separated")
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
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expression matrix {path} does not exist; download it from UCSC Xena")
    with path.open(encoding="utf-8") as handle:
        first_column = handle.readline().rstrip("\r\n").split("\t")[0]
    # pandas calls a column without a name "Unnamed: 0".
    types: defaultdict[str, type] = defaultdict(lambda: np.float32, {first_column: str, "Unnamed: 0": str})
    options: dict[str, Any] = {"sep": "\t", "index_col": 0, "na_values": _MISSING, "keep_default_na": False}
    try:
        with pd.read_csv(path, dtype=types, chunksize=rows_at_once or 2**31 - 1, **options) as reader:
            for chunk in reader:
                if np.isinf(chunk.to_numpy(dtype=np.float32)).any():
                    raise ValueError("infinite value")
                yield chunk
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise ValueError(f"{path} is no tab separated matrix: {error}") from error
    except ValueError as error:
        raise ValueError(_bad_cell(path, options) or f"{path}: {error}") from error


def _bad_cell(path: Path, options: dict[str, Any]) -> str | None:
    """Where the first cell that is no finite number stands; only read after an error."""
    texts = pd.read_csv(path, dtype=str, **options)
    numbers = texts.apply(pd.to_numeric, errors="coerce")
    bad = np.argwhere(((numbers.isna() | np.isinf(numbers)) & texts.notna()).to_numpy())
    if not len(bad):
        return None
    row, column = bad[0]
    return (
        f"{path}: gene {texts.index[row]}, sample {texts.columns[column]} is no finite number: "
        f"{texts.iat[row, column]!r}"
    )


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
        tumor_only: leave out samples of normal tissue (type codes 10 to 19). The published tables keep
            them, and the first sample of a case wins.

    Returns:
        float32 ``[cases, genes]``, index ``case_id`` = 12-character case barcodes, sorted.

    Raises:
        ValueError: no sample or no pathway gene is left; the message shows examples of both sides.
    """
    unknown = expression.index.astype(str).str.startswith("?") | expression.index.isna()
    known = expression[~unknown]
    duplicates = known.index.duplicated(keep="first")
    known = known[~duplicates]
    dropped_constant = known.index.isin(list(constant))
    known = known[~dropped_constant]
    logger.info(
        "genes: %d rows, dropped %d without symbol, %d repeating a symbol (the first counts), %d constant",
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
            f"no pathway gene is in the expression matrix: pathway genes such as {wanted[:5]}, "
            f"matrix genes such as {here[:5].tolist()}"
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


def _one_row_per_case(table: pd.DataFrame, tumor_only: bool) -> pd.DataFrame:
    samples = table.index.astype(str)
    normal = np.array([is_normal_tissue(sample) for sample in samples], dtype=bool)
    if tumor_only:
        logger.info("%d samples of normal tissue left out", normal.sum())
        table, samples, normal = table[~normal], samples[~normal], normal[~normal]
    cases = pd.Index([patient_of(sample) for sample in samples])
    first = ~cases.duplicated(keep="first")
    if not first.any():
        raise ValueError("no sample is left in the expression matrix")
    logger.info("samples: %d of %d cases, the first of each case counts", len(samples), first.sum())
    if normal[first].any():
        logger.warning(
            "%d cases are represented by normal tissue, such as %s; leave it out with --tumor_only",
            normal[first].sum(),
            samples[first & normal][:3].tolist(),
        )
    table = table[first]
    table.index = pd.Index(cases[first], name="case_id")
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
