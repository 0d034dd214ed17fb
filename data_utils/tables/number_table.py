"""Tables of numbers with names in the first column and row: expression matrices, gene tables, in parts of any size."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_utils.tables.text_table import (
    MISSING_NUMBERS,
    Layout,
    open_rows,
    parser_options,
)
from utils.files import FileError, quoted

logger = logging.getLogger(__name__)


def number_chunks(
    path: Path,
    layout: Layout,
    rows_at_once: int | None = None,
    texts: Collection[str] = (),
    kinds: tuple[str, str] = ("row", "column"),
) -> Iterator[pd.DataFrame]:
    """The rows of a table, float32, index = first column; missing cells are NaN.

    Args:
        path: the table.
        layout: of :func:`data_utils.tables.text_table.inspect_layout`.
        rows_at_once: rows of a part; all where None.
        texts: columns that hold texts and stay such.
        kinds: what rows and columns are, for messages.

    Raises:
        FileError: a cell is no finite number, or rows differ in length; row and column are named.
    """
    if layout.decimal == ",":
        logger.warning("%s: decimal commas are read as such", path)
    labels = {0, *(n for n, name in enumerate(layout.columns) if name in texts)}
    types: dict[Any, Any] = {n: str if n in labels else np.float32 for n in range(len(layout.columns))}
    options: dict[str, Any] = {
        "dtype": types,
        "na_values": list(MISSING_NUMBERS),
        "keep_default_na": False,
        **parser_options(layout),
    }
    try:
        with (
            open_rows(path, layout) as text,
            pd.read_csv(
                text, decimal=layout.decimal, chunksize=rows_at_once or 2**31 - 1, **options
            ) as reader,
        ):
            for part in reader:
                yield _named(path, part, layout, labels, kinds)
    except FileError:
        raise
    except ValueError as error:
        raise _bad_cell(path, layout, labels, kinds) or FileError(
            path, f"is no table: {error}", "correct it"
        ) from error


def _named(
    path: Path, part: pd.DataFrame, layout: Layout, labels: Collection[int], kinds: tuple[str, str]
) -> pd.DataFrame:
    index = pd.Index(part[0].fillna("").astype(str))
    part = part.iloc[:, 1:]
    numbers = part.drop(columns=[n for n in labels if n > 0]).to_numpy(dtype=np.float32)
    if np.isinf(numbers).any():
        raise ValueError("infinite value")
    empty = [not name and bool(part[n].isna().all()) for n, name in enumerate(layout.columns[1:], start=1)]
    part.columns, part.index = list(layout.columns[1:]), index
    return part.loc[:, ~np.array(empty)] if any(empty) else part


def _bad_cell(
    path: Path, layout: Layout, labels: Collection[int], kinds: tuple[str, str]
) -> FileError | None:
    """Where the first cell that is no finite number stands; only read after an error."""
    with open_rows(path, layout) as text:
        cells = pd.read_csv(text, dtype=str, na_filter=False, **parser_options(layout))
    texts = cells.drop(columns=list(labels))
    numbers = texts.apply(
        lambda column: pd.to_numeric(
            column.str.replace(",", ".") if layout.decimal == "," else column, "coerce"
        )
    )
    bad = np.argwhere((~np.isfinite(numbers.astype(float)) & ~texts.isin(MISSING_NUMBERS)).to_numpy())
    if not len(bad):
        return None
    row, column = bad[0]
    place = f"{kinds[0]} {cells.iat[row, 0]}, {kinds[1]} {layout.columns[texts.columns[column]]}"
    fault = f"has no finite number at {quoted(place, 120)}: {quoted(texts.iat[row, column], 40)!r}"
    return FileError(path, fault, "correct it")
