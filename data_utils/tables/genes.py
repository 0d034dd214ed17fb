"""The case x gene table and the pathways, as the trainer reads them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

logger = logging.getLogger(__name__)

# Column of pan-cancer gene tables that names the cancer site of a case.
SITE_COLUMN = "site"


# ---------------------------------------------------------------------------- case x gene table
def read_gene_table(path: str | Path) -> pd.DataFrame:
    """Case x gene table, float32, index = case barcodes.

    Pan-cancer tables have a column ``site`` too (see :func:`read_gene_sites`), and NaN where a whole site lacks
    a gene.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a case or gene stands twice, or a cell is missing or no number; file, gene and case are
            named.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"gene table {path} does not exist; write it with data_utils.make_gene_dataset"
        )
    table = pd.read_parquet(path) if path.suffix == ".parquet" else _read_csv_table(path)
    table.index = table.index.astype(str).str.strip().rename("case_id")
    sites = table.pop(SITE_COLUMN) if SITE_COLUMN in table else None
    for kind, labels in (("cases", table.index), ("genes", table.columns)):
        if labels.has_duplicates:
            raise ValueError(f"{path}: {kind} stand twice: {labels[labels.duplicated()][:5].tolist()}")
    if table.empty:
        raise ValueError(f"{path} holds no case or no gene")
    numbers = (
        table.apply(pd.to_numeric, errors="coerce")
        if any(map(pd.api.types.is_object_dtype, table.dtypes))
        else table
    )
    values = numbers.to_numpy(dtype=np.float32)
    finite = np.isfinite(values)
    if sites is not None:
        finite |= table.isna().groupby(sites.to_numpy()).transform("all").to_numpy()
    bad = np.argwhere(~finite)
    if len(bad):
        row, column = bad[0]
        raise ValueError(
            f"{path}: {len(bad)} cells are no finite number, the first is gene {table.columns[column]} of "
            f"case {table.index[row]}: {table.iat[row, column]}"
        )
    return pd.DataFrame(values, index=table.index, columns=table.columns)


def read_gene_sites(path: str | Path) -> pd.Series | None:
    """Cancer site of every row of a pan-cancer gene table, None for the table of one cohort."""
    path = Path(path)
    if path.suffix == ".parquet":
        table = pd.read_parquet(path)
    else:
        head = pd.read_csv(path, nrows=0)
        columns = [head.columns[0], *(c for c in head.columns[1:] if c == SITE_COLUMN)]
        # (As index_col the first column would not be read as text.)
        table = pd.read_csv(path, usecols=columns, dtype=str).set_index(columns[0])
    table.index = table.index.astype(str).str.strip()
    return table[SITE_COLUMN].astype(str) if SITE_COLUMN in table else None


def _read_csv_table(path: Path) -> pd.DataFrame:
    try:
        # pandas renames columns that stand twice; reading the header apart keeps the true names.
        names = pd.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False).iloc[0, 1:].tolist()
        # An identifier is a text: 0037 keeps its zeros.
        table = pd.read_csv(path, index_col=0, low_memory=False, converters={0: str})
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no CSV table: {error}") from error
    table.columns = names
    return table


def align_genes(table: pd.DataFrame, genes: Sequence[str]) -> pd.DataFrame:
    """Columns of ``table`` in the order of ``genes``, for a model trained on another cohort.

    A gene the table lacks becomes NaN, which :class:`GeneScaler` turns into 0, the mean of the cohort.

    Raises:
        ValueError: more than half of the genes are missing; the message shows examples of both sides.
    """
    missing = [gene for gene in genes if gene not in table.columns]
    if 2 * len(missing) > len(genes):
        raise ValueError(
            f"the gene table lacks {len(missing)} of {len(genes)} genes of the model, such as {missing[:5]}; "
            f"it holds genes such as {table.columns[:5].tolist()}"
        )
    if missing:
        logger.warning(
            "%d of %d genes of the model are missing and stand at the cohort mean: %s",
            len(missing),
            len(genes),
            missing[:10],
        )
    return table.reindex(columns=list(genes)).astype(np.float32)


@dataclass(frozen=True)
class GeneScaler:
    """z-score per gene with the population standard deviation, as scikit-learn's StandardScaler.

    Attributes:
        genes: symbols ``[n]``, in the order of ``mean`` and ``std``.
        mean: mean per gene; NaN where a gene had no value.
        std: standard deviation per gene; where it is 0 or NaN the gene becomes 0.
    """

    genes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def fit(cls, table: pd.DataFrame) -> GeneScaler:
        """Mean and standard deviation of every column of ``table [cases, genes]``."""
        if table.empty:
            raise ValueError("cannot standardise genes: the table holds no case or no gene")
        values = table.astype(np.float64)
        # Rounding may leave a constant column a tiny deviation, which would blow up into z-scores of +-1.
        mean, std = values.mean(), values.std(ddof=0).mask(values.max() == values.min(), 0.0)
        flat = std.index[~(std > 0)]
        if len(flat):
            logger.warning("%d genes do not vary and become 0, such as %s", len(flat), ", ".join(flat[:3]))
        return cls(tuple(map(str, table.columns)), tuple(mean.tolist()), tuple(std.tolist()))

    def transform(self, table: pd.DataFrame) -> pd.DataFrame:
        """Standardised float32 table with the columns of the scaler; missing values become 0.

        Raises:
            ValueError: the columns are not the genes of the scaler in its order (see :func:`align_genes`).
        """
        if tuple(table.columns) != self.genes:
            raise ValueError(
                f"gene table has {table.shape[1]} genes, the scaler {len(self.genes)} or another order; "
                "call align_genes first"
            )
        std = np.asarray(self.std)
        usable = std > 0
        values = (table.to_numpy(dtype=np.float64) - np.asarray(self.mean)) / np.where(usable, std, 1.0)
        values = np.nan_to_num(np.where(usable, values, 0.0), nan=0.0)
        return pd.DataFrame(values.astype(np.float32), index=table.index, columns=table.columns)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, for JSON and checkpoints; a missing number is None."""
        numbers = {
            name: [value if np.isfinite(value) else None for value in getattr(self, name)]
            for name in ("mean", "std")
        }
        return {"genes": list(self.genes), **numbers}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> GeneScaler:
        """Inverse of :meth:`to_dict`."""
        numbers = {
            name: tuple(float("nan") if item is None else float(item) for item in value[name])
            for name in ("mean", "std")
        }
        if not len(value["genes"]) == len(numbers["mean"]) == len(numbers["std"]):
            raise ValueError("gene scaler: genes, mean and std differ in length")
        return cls(tuple(value["genes"]), **numbers)


# ---------------------------------------------------------------------------- pathways
def read_pathway_table(path: str | Path) -> pd.DataFrame:
    """Gene x pathway table of 0 and 1 (int8); index = gene symbols.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a cell is neither 0 nor 1, a gene or pathway stands twice, or the table is empty.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"pathway table {path} does not exist; use SurvPath's combine_comps.csv or a table of your own "
            "(first column gene, one 0/1 column per pathway) and set PATHWAY_TABLE in utils/constants.py or "
            "MODALTUNE_PATHWAY_TABLE"
        )
    table = _read_csv_table(path)
    table.index = table.index.astype(str).rename("gene")
    if table.empty:
        raise ValueError(
            f"{path} holds no gene or no pathway; its first column is gene, then one per pathway"
        )
    for kind, labels in (("genes", table.index), ("pathways", table.columns)):
        if labels.has_duplicates:
            raise ValueError(f"{path}: {kind} stand twice: {labels[labels.duplicated()][:5].tolist()}")
    bad = np.argwhere(~table.isin([0, 1]).to_numpy())
    if len(bad):
        row, column = bad[0]
        raise ValueError(
            f"{path}: cells must be 0 or 1, gene {table.index[row]} in pathway {table.columns[column]} is "
            f"{table.iat[row, column]}"
        )
    return table.astype(np.int8)


@dataclass(frozen=True)
class PathwayGroups:
    """Which entries of a case's gene vector belong to which pathway.

    Attributes:
        names: pathways ``[P]``.
        genes: symbols of the gene vector ``[n_genes]``.
        indices: for every pathway the positions of its genes in ``genes``, ascending.
    """

    names: tuple[str, ...]
    genes: tuple[str, ...]
    indices: tuple[tuple[int, ...], ...]

    @classmethod
    def from_table(
        cls, pathway_table: pd.DataFrame, available_genes: Iterable[str], min_genes: int = 1
    ) -> PathwayGroups:
        """Pathways in column order, genes in row order, both limited to what the cohort offers.

        Pathways with fewer than ``min_genes`` available genes are dropped and counted in the log.

        Raises:
            ValueError: no pathway is left; the message shows examples of both sides.
        """
        available = set(available_genes)
        here = pathway_table.index.isin(list(available))
        member = pathway_table.to_numpy(dtype=bool) & here[:, None]
        kept = member.sum(axis=0) >= max(min_genes, 1)
        if not kept.any():
            raise ValueError(
                f"no pathway keeps {min_genes} genes: pathway genes such as "
                f"{pathway_table.index[:5].tolist()}, available genes such as {sorted(available)[:5]}"
            )
        if not kept.all():
            dropped = pathway_table.columns[~kept]
            logger.warning(
                "%d of %d pathways dropped, fewer than %d of their genes are available, such as %s",
                len(dropped),
                len(kept),
                max(min_genes, 1),
                ", ".join(map(str, dropped[:3])),
            )
        member = member[:, kept]
        used = np.any(member, axis=1)
        indices = tuple(tuple(np.flatnonzero(column).tolist()) for column in member[used].T)
        names = tuple(map(str, pathway_table.columns[kept]))
        logger.info("%d pathways over %d genes", len(names), used.sum())
        return cls(names, tuple(map(str, pathway_table.index[used])), indices)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, for JSON and checkpoints."""
        return {
            "names": list(self.names),
            "genes": list(self.genes),
            "indices": [list(group) for group in self.indices],
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> PathwayGroups:
        """Inverse of :meth:`to_dict`.

        Raises:
            ValueError: a pathway has no name or points outside the genes.
        """
        indices = tuple(tuple(int(item) for item in group) for group in value["indices"])
        size = len(value["genes"])
        if len(indices) != len(value["names"]) or any(
            not 0 <= item < size for group in indices for item in group
        ):
            raise ValueError("pathway groups: names, genes and indices do not fit together")
        return cls(tuple(value["names"]), tuple(value["genes"]), indices)
