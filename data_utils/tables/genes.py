"""The case x gene table and the pathways, as the trainer reads them."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_utils.tables.number_table import number_chunks
from data_utils.tables.text_table import existing, open_rows, own_layout, parser_options
from data_utils.tables.values import is_finite
from utils.barcodes import plain
from utils.files import FileError, quoted

logger = logging.getLogger(__name__)

_GENES_REMEDY = "write it with data_utils.make_gene_dataset"

# Column of pan-cancer gene tables that names the cancer site of a case.
SITE_COLUMN = "site"
# What names cases is no gene.
_ID_COLUMNS = {"case_id", "case_submitter_id", "submitter_id", "patient", "patient_id", "sample", "sample_id"}
# Of so many genes no two patients have the same values.
_MANY_GENES = 100


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
    path = existing(path, "gene table", _GENES_REMEDY)
    table = _read_parquet(path) if path.suffix == ".parquet" else _read_csv_table(path)
    table.index = table.index.astype(str).rename("case_id")
    if blank := [name for name in table.index if name != name.strip()]:
        fault = f"has blanks around {len(blank)} case ids, such as {blank[0]!r} for {blank[0].strip()!r}"
        raise FileError(path, fault, "delete them")
    if names := [str(column) for column in table.columns if str(column).lower() in _ID_COLUMNS]:
        fault = (
            f"has cases in the column {names[0]}, which is not the first, such as {table.iloc[0][names[0]]}"
        )
        raise FileError(path, fault, "put that column first (row numbers in front: to_csv(index=False))")
    sites = table.pop(SITE_COLUMN) if SITE_COLUMN in table else None
    for kind, labels in (("cases", table.index), ("genes", table.columns)):
        if labels.has_duplicates:
            twice = labels[labels.duplicated()][:5].tolist()
            raise FileError(path, f"is contradictory: {kind} stand twice: {twice}", "keep one of each")
    if table.empty:
        raise FileError(path, "holds no case or no gene", _GENES_REMEDY)
    if texts := [str(name) for name, kind in table.dtypes.items() if not _is_numbers(kind)]:
        raise FileError(
            path, f"has texts in the columns {texts[:5]}", "genes are numbers; leave the others out"
        )
    values = table.to_numpy(dtype=np.float32)
    finite = np.isfinite(values)
    if sites is not None:
        for site in sites.unique():
            rows = (sites == site).to_numpy()
            finite[rows] |= np.isnan(values[rows]).all(axis=0)
    bad = np.argwhere(~finite)
    if len(bad):
        row, column = bad[0]
        where = f"gene {table.columns[column]} of case {table.index[row]}: {values[row, column]}"
        fault = f"has {len(bad)} cells without a finite number, the first is {quoted(where, 120)}"
        raise FileError(path, fault, "leave patients without expression out of the table")
    if values.shape[1] >= _MANY_GENES:
        _check_rows(path, table.index, values)
    return pd.DataFrame(values, index=table.index, columns=table.columns)


def _is_numbers(kind: Any) -> bool:
    return pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind)


def _check_rows(path: Path, cases: pd.Index, values: np.ndarray) -> None:
    """Raises FileError where a case has one value for all genes, or the values of another case."""
    seen: dict[bytes, str] = {}
    for case, row in zip(cases, values, strict=True):
        known = row[~np.isnan(row)]  # the others a whole site lacks
        if len(known) and (known == known[0]).all():
            fault = f"has {known[0]:g} for every gene of case {case}"
            raise FileError(path, fault, "leave patients without expression out of the table")
        if (other := seen.setdefault(row.tobytes(), case)) != case:
            fault = f"has the same values for all genes of the cases {other} and {case}"
            raise FileError(path, fault, "one is a copy: correct or remove it")


def read_gene_sites(path: str | Path) -> pd.Series | None:
    """Cancer site of every row of a pan-cancer gene table, None for the table of one cohort."""
    path = Path(path)
    if path.suffix == ".parquet":
        table = _read_parquet(path)
        table.index = table.index.astype(str)
        return table[SITE_COLUMN].astype(str) if SITE_COLUMN in table else None
    layout = own_layout(path, "gene table", _GENES_REMEDY)
    if SITE_COLUMN not in layout.columns:
        return None
    column = layout.columns.index(SITE_COLUMN)
    with open_rows(path, layout) as rows:
        table = pd.read_csv(rows, dtype=str, na_filter=False, usecols=[0, column], **parser_options(layout))
    return pd.Series(table[column].to_numpy(), index=pd.Index(table[0]), name=SITE_COLUMN)


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
        return table.set_axis([plain(str(name)) for name in table.index])
    # What a damaged file ends in depends on where it is damaged.
    except Exception as error:
        raise FileError(path, f"is no readable parquet table: {error}", _GENES_REMEDY) from error


def _read_csv_table(path: Path) -> pd.DataFrame:
    layout = own_layout(path, "gene table", _GENES_REMEDY)
    return pd.concat(number_chunks(path, layout, texts=(SITE_COLUMN,), kinds=("case", "gene")))


# Share of the genes of a trained model that a new cohort may lack.
MAX_MISSING_GENES = 0.2


def align_genes(
    table: pd.DataFrame,
    genes: Sequence[str],
    max_missing: float = MAX_MISSING_GENES,
    path: str | Path = "the gene table",
) -> pd.DataFrame:
    """Columns of ``table`` in the order of ``genes``, for a model trained on another cohort.

    A gene the table lacks becomes NaN, which :class:`GeneScaler` turns into 0, the mean of the cohort.

    Args:
        table: case x gene table.
        genes: of the model.
        max_missing: share of them that may be missing.
        path: of the table, for messages.

    Raises:
        FileError: more are missing; the message shows examples of both sides and says what to do.
    """
    missing = [gene for gene in genes if gene not in table.columns]
    share = len(missing) / max(len(genes), 1)
    if missing and share > max_missing:
        raise FileError(
            path,
            f"lacks {len(missing)} of {len(genes)} genes of the model ({share:.1%}), such as {missing[:3]}; it holds "
            f"genes such as {table.columns[:3].tolist()}",
            "write it with the symbols of the training (data_utils.make_gene_dataset), or accept it: --missing_genes "
            f"zero --max_missing_genes {math.ceil(100 * share) / 100:g}",
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
        stored = {name: list(value[name]) for name in ("mean", "std")}
        # A truth value is no number, and what is missing is None.
        if odd := [v for part in stored.values() for v in part if v is not None and not is_finite(v)]:
            raise ValueError(f"gene scaler: mean and std hold {str(odd[0])[:40]!r}")
        numbers = {
            name: tuple(math.nan if item is None else float(item) for item in part)
            for name, part in stored.items()
        }
        if not len(value["genes"]) == len(numbers["mean"]) == len(numbers["std"]):
            raise ValueError("gene scaler: genes, mean and std differ in length")
        if not all(isinstance(gene, str) for gene in value["genes"]):
            raise ValueError("gene scaler: genes are names")
        return cls(tuple(value["genes"]), **numbers)


# ---------------------------------------------------------------------------- pathways
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
                f"{pathway_table.index[:3].tolist()}, available genes such as {sorted(available)[:3]}"
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
        further = len(available.difference(pathway_table.index[used]))
        logger.info(
            "%d pathways over %d genes%s",
            len(names),
            used.sum(),
            f"; {further} genes of the table are in none and not read" if further else "",
        )
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
        indices = tuple(tuple(group) for group in value["indices"])
        places = range(len(value["genes"]))
        if len(indices) != len(value["names"]) or any(
            isinstance(item, bool) or item not in places for group in indices for item in group
        ):
            raise ValueError("pathway groups: names, genes and indices do not fit together")
        return cls(tuple(value["names"]), tuple(value["genes"]), indices)
