"""Reading text tables that people hand in: from GDC, Xena, R, pandas or Excel.

What cannot be misunderstood is read: gzip (known by its first bytes, not by the name), UTF-8 and UTF-16 with a byte
order mark, tabs, commas or semicolons, quotes, any line ends, R's header without a name for the row names, a
separator too many at every row end, decimal commas, umlauts of one letter or two (they become one). Everything else
is one error: the file, what is wrong and what to do. Rows of another length than the header are errors, because a
file that was cut off looks like that.

Tables that this project writes itself are read by :func:`read_own_table`, which takes what it wrote and no other
layout.
"""

from __future__ import annotations

import csv
import gzip
import io
import logging
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pandas as pd

from utils.barcodes import plain
from utils.files import FileError

logger = logging.getLogger(__name__)

SEPARATORS = (",", "\t", ";")
NAMES = {"\t": "tabs", ",": "commas", ";": "semicolons"}
MISSING_NUMBERS = ("", "NA", "NaN", "nan", "null", "NULL", "N/A")
_GZIP = b"\x1f\x8b"
_SAMPLE_ROWS = 50
_LONGEST_CELL = 10_000
# A header that begins so has a name for its row names: if it is one short, a separator is missing.
_ROW_NAMES = ("sample", "gene", "gene_id", "symbol", "id", "case_id", "case_submitter_id", "project_id")
_SAMPLE_BYTES = 1 << 22
# Text shrinks to a hundredth at most; a file that unpacks to more is none, and would fill the memory.
_MAX_UNPACKED = 200
_MIN_UNPACKED = 1 << 26
_TEXT_REMEDY = "save it as text in UTF-8"
_AGAIN = "copy it again from where it came, or write it anew"


@dataclass(frozen=True)
class Layout:
    """How a table is written.

    Attributes:
        columns: names of the columns, the first included; "" where the header has none for the row names.
        separator: between cells.
        encoding: of the text.
        gzipped: whether it is packed.
        surplus: 1 where every row ends with a separator too many, else 0.
        decimal: "." or ",".
    """

    columns: tuple[str, ...]
    separator: str
    encoding: str
    gzipped: bool
    surplus: int
    decimal: str


def existing(path: str | Path, what: str, remedy: str) -> Path:
    """The path of a file that must exist.

    Raises:
        FileNotFoundError: it does not.
        FileError: it is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise FileError(path, f"is a folder, not a {what}", remedy)
    if not path.is_file():
        raise FileNotFoundError(f"{what} {path} does not exist; {remedy}")
    return path


# ---------------------------------------------------------------------------- whole tables of texts
def read_table(path: str | Path, what: str, remedy: str) -> pd.DataFrame:
    """Every cell as text without blanks around it; nothing is taken for a missing value.

    Args:
        path: the table.
        what: what it is, for messages.
        remedy: where to get it.

    Raises:
        FileNotFoundError: the file does not exist.
        FileError: it is no table, or its rows differ in length.
    """
    path = existing(path, what, remedy)
    return _texts(path, inspect_layout(path, what))


def read_own_table(path: str | Path, what: str, remedy: str) -> pd.DataFrame:
    """As :func:`read_table`, for CSV files as this project writes them; errors as :func:`own_layout`, too."""
    path = existing(path, what, remedy)
    return _texts(path, own_layout(path, what, remedy))


def own_layout(path: Path, what: str, remedy: str) -> Layout:
    """The layout of a table that should be as this project writes it.

    Raises:
        FileError: other separators, another encoding, or packed without saying so in the name.
    """
    layout = inspect_layout(path, what)
    odd = [f"{NAMES[layout.separator]} between the cells"] if layout.separator != "," else []
    odd += [f"the encoding {layout.encoding}"] if "utf-16" in layout.encoding else []
    odd += ["gzip without .gz in its name"] if layout.gzipped and path.suffix != ".gz" else []
    odd += ["decimal commas"] if layout.decimal == "," else []
    if odd:
        raise FileError(path, f"has {' and '.join(odd)}", f"save it as CSV with commas in UTF-8, or {remedy}")
    return layout


def _texts(path: Path, layout: Layout) -> pd.DataFrame:
    with open_rows(path, layout) as rows:
        table = pd.read_csv(rows, dtype=str, na_filter=False, **parser_options(layout))
    table = table.apply(lambda column: column.str.strip())
    table.columns = list(layout.columns)
    # Names that stand twice are kept apart by their place.
    keep = [
        bool(name) or number == 0 or bool((table.iloc[:, number] != "").any())
        for number, name in enumerate(layout.columns)
    ]
    return table.loc[:, keep]


def parser_options(layout: Layout) -> dict[str, Any]:
    """Options of ``pandas.read_csv`` for what :func:`open_rows` gives; columns are numbered."""
    return {
        "sep": layout.separator,
        "header": None,
        "names": range(len(layout.columns)),
        "index_col": False,
    }


# ---------------------------------------------------------------------------- bytes and text
@contextmanager
def open_rows(path: Path, layout: Layout) -> Iterator[Rows]:
    """The rows below the header, for a parser; what goes wrong while they are read becomes a FileError."""
    try:
        with _open_text(path, layout.gzipped, layout.encoding) as text:
            yield Rows(path, text, layout)
    except UnicodeDecodeError as error:
        raise _no_utf8(path, error) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FileError(path, f"is damaged: {error}", _AGAIN) from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error) as error:
        raise FileError(path, f"is no table: {error}", _AGAIN) from error


class Rows(io.TextIOBase):
    """The text of the rows below the header, as a file that pandas reads; every row has as many cells as it should.

    pandas fills short rows up without a word.
    """

    mode = "r"

    def __init__(self, path: Path, text: IO[str], layout: Layout) -> None:
        super().__init__()
        self.path, self.layout = path, layout
        self._lines = self._checked(text)

    def readable(self) -> bool:
        return True

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]
        """The next row."""
        return next(self._lines, "")

    def read(self, size: int | None = -1, /) -> str:
        """The next rows, whole ones, of at least ``size`` characters if there are as many."""
        part, length, size = [], 0, -1 if size is None else size
        for line in self._lines:
            part.append(line)
            length += len(line)
            if 0 <= size <= length:
                break
        return "".join(part)

    def _checked(self, text: IO[str]) -> Iterator[str]:
        separator, width = self.layout.separator, len(self.layout.columns) + self.layout.surplus
        blank, header = f"{separator} \r\n", True
        for number, line in enumerate(iter(text.readline, ""), start=1):
            if not line.strip(blank):
                continue
            line = plain(line)
            if header:
                header = False
                continue
            cells = line.count(separator) + 1
            if '"' in line:
                row = next(csv.reader([line], delimiter=separator))
                cells = len(row)
                # A single one may open a cell that goes on in the next line, or stand in a cell by accident.
                if line.count('"') % 2 or any("\n" in cell or "\r" in cell for cell in row):
                    fault = f"has a quote in line {number} that is not closed there"
                    raise FileError(self.path, fault, "close or remove it")
            if len(line) > _LONGEST_CELL and max(map(len, line.split(separator))) > _LONGEST_CELL:
                fault = f"has a cell of more than {_LONGEST_CELL:,} characters in line {number}"
                raise FileError(self.path, fault, "correct that line")
            surplus = self.layout.surplus and line.rstrip("\r\n").endswith(separator)
            if cells != width or bool(self.layout.surplus) != bool(surplus):
                fault = (
                    f"has {cells} cells in line {number} where its header and the rows before have {width}"
                )
                raise FileError(
                    self.path, f"{fault} (cut off, or a separator inside a cell)", "correct that line"
                )
            yield f"{line.rstrip(chr(13) + chr(10))[: -1 if surplus else None]}\n"


def _open_text(path: Path, gzipped: bool, encoding: str) -> io.TextIOWrapper:
    raw = path.open("rb")
    stream = _Bounded(raw, path) if gzipped else raw
    return io.TextIOWrapper(stream, encoding=encoding, newline="")


class _Bounded(gzip.GzipFile):
    """Unpacks no more than a text can be packed into the file."""

    def __init__(self, raw: IO[bytes], path: Path) -> None:
        super().__init__(fileobj=raw, mode="rb")
        self.path, self.unpacked = path, 0
        self.largest = max(_MIN_UNPACKED, _MAX_UNPACKED * path.stat().st_size)

    def read1(self, size: int = -1) -> bytes:
        return self._counted(super().read1(size))

    def read(self, size: int | None = -1) -> bytes:
        return self._counted(super().read(self.largest + 1 if size is None or size < 0 else size))

    def _counted(self, part: bytes) -> bytes:
        self.unpacked += len(part)
        if self.unpacked > self.largest:
            raise FileError(self.path, f"unpacks to more than {self.largest:,} bytes", "unpack it yourself")
        return part


def _no_utf8(path: Path, error: UnicodeDecodeError) -> FileError:
    found = error.object[error.start : error.start + 1].hex()
    return FileError(
        path,
        f"is no text in {error.encoding.upper()}: a byte {found} that cannot be in it, as Latin-1 or Excel's CSV have",
        _TEXT_REMEDY,
    )


# ---------------------------------------------------------------------------- layout
def inspect_layout(path: Path, what: str) -> Layout:
    """How a table is written, by its first rows.

    Raises:
        FileError: it is no text, or empty.
    """
    with path.open("rb") as raw:
        head = raw.read(4)
    gzipped = head.startswith(_GZIP)
    encoding = "utf-8-sig"
    try:
        with _open_text(path, gzipped, "latin-1") as text:
            begin = text.read(4).encode("latin-1")
        if begin.startswith((b"\xff\xfe", b"\xfe\xff")):
            encoding = "utf-16"
        with _open_text(path, gzipped, encoding) as text:
            sample = text.read(_SAMPLE_BYTES)
            # A long line is taken to its end: the header of a wide table.
            sample = plain(sample + text.readline())
            complete = not text.read(1)
    except UnicodeDecodeError as error:
        raise _no_utf8(path, error) from error
    except (EOFError, OSError, zlib.error, UnicodeError) as error:
        if isinstance(error, PermissionError):
            raise
        raise FileError(path, f"cannot be unpacked: {error}", _AGAIN) from error
    if "\0" in sample:
        fault = "is no text: it holds NUL bytes, as binary files and UTF-16 without a byte order mark do"
        raise FileError(path, fault, _TEXT_REMEDY)
    if not sample.strip(f" \r\n{''.join(SEPARATORS)}"):
        raise FileError(path, f"is empty; it should be a {what}", _AGAIN)
    fits = [_try(sample, complete, separator) for separator in SEPARATORS]
    separator, columns, surplus, decimal = max(fits, key=lambda fit: len(fit[1]))
    return Layout(columns, separator, encoding, gzipped, surplus, decimal)


def _try(sample: str, complete: bool, separator: str) -> tuple[str, tuple[str, ...], int, str]:
    """Separator, columns, surplus and decimal separator, if the cells are separated so."""
    lines = csv.reader(io.StringIO(sample, newline=""), delimiter=separator)
    rows: list[list[str]] = []
    try:
        for row in lines:
            if any(cell.strip() for cell in row):
                rows.append(row)
            if len(rows) > _SAMPLE_ROWS:
                break
        else:
            rows = rows if complete or len(rows) < 2 else rows[:-1]
    except csv.Error:  # a cell of more than 131,072 characters: a row of another separator
        return separator, ("",), 0, "."
    header, body = [name.strip() for name in rows[0]], rows[1:]
    surplus = 0
    one_more = [len(row) == len(header) + 1 for row in body]
    if len(header) > 1 and body and all(one_more):
        if all(not row[-1].strip() for row in body):
            surplus = 1
        # R leaves the name of the row names out; without any it numbers the rows.
        elif header[0].lower() not in _ROW_NAMES or all(row[0] == str(n) for n, row in enumerate(body, 1)):
            header = ["", *header]
    cells = [cell for row in body for cell in row[1:]]
    return separator, tuple(header), surplus, _decimal(cells) if separator != "," else "."


_COMMA_NUMBER = re.compile(r"\s*[+-]?\d+,\d+(?:[eE][+-]?\d+)?\s*")
_THOUSANDS = re.compile(r"\s*[+-]?[1-9]\d{0,2},\d{3}\s*")
_POINT_NUMBER = re.compile(r"\s*[+-]?\d*\.\d+(?:[eE][+-]?\d+)?\s*")


def _decimal(cells: Sequence[str]) -> str:
    """The decimal separator; a comma only where some number cannot be a count of thousands."""
    with_comma = [cell for cell in cells if _COMMA_NUMBER.fullmatch(cell)]
    if any(_POINT_NUMBER.fullmatch(cell) for cell in cells):
        return "."
    return "," if any(not _THOUSANDS.fullmatch(cell) for cell in with_comma) else "."
