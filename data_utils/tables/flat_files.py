"""Tables of patients as texts: CSV, TSV (see :mod:`data_utils.tables.text_table`), Excel and parquet.

Every cell is the text that stands in it, so that an identifier ``0037`` keeps its zeros; a cell that says that
nothing is known (see :func:`data_utils.tables.values.is_missing`) is None.
"""

from __future__ import annotations

import datetime
import importlib.util
import logging
import math
import re
from contextlib import closing
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pandas as pd

from data_utils.tables.text_table import inspect_layout, read_table
from data_utils.tables.values import is_missing
from utils.barcodes import plain
from utils.files import FileError

logger = logging.getLogger(__name__)

FORMATS = (".csv", ".tsv", ".txt", ".xlsx", ".parquet")
_AGAIN = "copy it again from where it came, or write it anew"
# In files with decimal commas.
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
# A workbook of patients unpacks to no more.
_MOST_BYTES = 1 << 30
_ERRORS = re.compile(r"#(?:REF!|DIV/0!|VALUE!|NAME\?|NUM!|NULL!|SPILL!|CALC!)")
_PADDED = re.compile(r"0{2,}")


def read_texts(path: str | Path) -> pd.DataFrame:
    """Rows of a table as texts, missing cells as None; empty rows are left out.

    Of an Excel file the first sheet counts, with the zeros that a number format such as ``0000`` shows.

    Raises:
        FileNotFoundError: the file does not exist.
        ImportError: the format needs a package that is not installed.
        ValueError: the format is unknown, the file is damaged, a column has no name or stands twice, or there is
            no row.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"table {path} does not exist")
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise FileError(path, f"is no table: those are {', '.join(FORMATS)}", "save it as one of them")
    rows = {".xlsx": _read_excel, ".parquet": _read_parquet}.get(suffix, _read_text)(path)
    if not rows:
        raise FileError(path, "is empty", _AGAIN)
    header, *body = rows
    names = ["" if is_blank(cell) else _text(cell) for cell in header]
    while names and not names[-1] and all(len(r) < len(names) or is_blank(r[len(names) - 1]) for r in body):
        names.pop()  # a separator too many at the end of every row
    if not all(names):
        raise FileError(path, f": column {names.index('') + 1} has no name", "name it, or remove it")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise FileError(path, f": columns stand twice: {twice}", "name them apart")
    for number, row in enumerate(body, 2):
        if extra := [cell for cell in row[len(names) :] if not is_blank(cell)]:
            fault = f": row {number} has more cells than the header has names: {extra[:3]}"
            raise FileError(path, fault, "correct that row")
    body = [row[: len(names)] + [None] * (len(names) - len(row)) for row in body]
    table = pd.DataFrame(body, columns=names, dtype=object)
    for name in names:
        texts = table[name].map(lambda cell: None if is_blank(cell) else _text(cell)).astype(object)
        table[name] = texts.mask(is_missing(texts), None)
        wrong = [n for n, cell in enumerate(texts) if isinstance(cell, str) and _ERRORS.fullmatch(cell)]
        if wrong:
            where = f"{name} in row {wrong[0] + 2}"
            raise FileError(
                path, f": {where} is {texts[wrong[0]]}, an error of a spreadsheet", "correct the cell"
            )
    table = table[table.notna().any(axis=1)].reset_index(drop=True)
    if table.empty:
        raise FileError(path, "has no rows", _AGAIN)
    return table


def _text(cell: Any) -> str:
    """Without blanks around it; an umlaut is one letter, as in the names of files and columns it is compared with."""
    return plain(str(cell)).strip()


def is_blank(cell: Any) -> bool:
    """Whether there is nothing in a cell."""
    return cell is None or (isinstance(cell, float) and math.isnan(cell)) or not str(cell).strip()


def _read_text(path: Path) -> list[list[Any]]:
    layout = inspect_layout(path, "table of patients")
    table = read_table(path, "table of patients", "pass the table of the cohort")
    rows = table.to_numpy(dtype=object).tolist()
    if layout.decimal == ",":
        rows = [[c.replace(",", ".") if _DECIMAL_COMMA.fullmatch(c) else c for c in row] for row in rows]
    return [list(table.columns), *rows]


def _read_excel(path: Path) -> list[list[Any]]:
    if importlib.util.find_spec("openpyxl") is None:
        raise ImportError(
            f"{path}: Excel files need openpyxl: pip install openpyxl, or save the sheet as CSV"
        )
    from openpyxl import load_workbook

    try:
        _check_archive(path)
        values, formulas = (load_workbook(path, read_only=True, data_only=only) for only in (True, False))
        with closing(values), closing(formulas):
            sheet, *others = values.worksheets
            pairs = list(zip(sheet.iter_rows(), formulas.worksheets[0].iter_rows(), strict=True))
            rows = [[_cell_text(cell) for cell in row] for row, _ in pairs]
            unsaved = [
                number
                for number, (row, made) in enumerate(pairs, 1)
                if any(c.value is None and f.data_type == "f" for c, f in zip(row, made, strict=True))
            ]
    except Exception as error:  # bytes that are no workbook end in almost anything
        raise FileError(path, f"is no Excel file ({error})", "save it anew as XLSX or CSV") from error
    if unsaved:
        fault = f": formulas in the rows {unsaved[:5]} have no value, as no program has computed them"
        raise FileError(path, fault, "open and save it in Excel or LibreOffice, or save it as CSV")
    if others:
        logger.warning("%s: the first sheet, %s, is read alone", path, sheet.title)
    return rows


def _check_archive(path: Path) -> None:
    """Checksums of a workbook, and its size once it is unpacked."""
    with ZipFile(path) as archive:
        if (size := sum(member.file_size for member in archive.infolist())) > _MOST_BYTES:
            raise ValueError(f"it would unpack to {size / 2**30:.1f} GiB")
        if (part := archive.testzip()) is not None:
            raise ValueError(f"{part} in it is damaged")


def _cell_text(cell: Any) -> str | None:
    """What Excel shows of a cell, as far as it matters here: whole numbers without a point, zeros in front."""
    text = value_text(cell.value)
    if text is not None and text.isdigit() and _PADDED.fullmatch(str(cell.number_format)):
        return text.zfill(len(cell.number_format))
    return text


def _read_parquet(path: Path) -> list[list[Any]]:
    if importlib.util.find_spec("pyarrow") is None:
        raise ImportError(
            f"{path}: parquet files need pyarrow: pip install pyarrow, or save the table as CSV"
        )
    try:
        table = pd.read_parquet(path, engine="pyarrow")
    except (OSError, ValueError) as error:  # pyarrow's errors are both
        raise FileError(path, f"is no parquet file ({error})", _AGAIN) from error
    if table.index.name is not None:
        table = table.reset_index()
    return [
        list(map(str, table.columns)),
        *[list(map(value_text, row)) for row in table.to_numpy(dtype=object)],
    ]


def value_text(value: Any) -> str | None:
    """The text of a typed value; a whole number has no decimal point, a date is ``YYYY-MM-DD``."""
    if value is None or value is pd.NaT or value is pd.NA:
        return None
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() else repr(float(value))
    if isinstance(value, datetime.datetime):
        return value.date().isoformat() if value.time() == datetime.time() else value.isoformat(" ")
    return str(value)
