"""Text tables as people hand them in: what is read, and what is refused by name."""

from __future__ import annotations

import csv
import gzip
import io
import re
import string
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_utils.tables import text_table
from data_utils.tables.number_table import number_chunks
from data_utils.tables.text_table import inspect_layout, read_own_table, read_table
from utils.files import FileError

PLAIN = "id\tb\tc\nx\t1\t2\ny\t3\t\n"
CELLS = [["x", "1", "2"], ["y", "3", ""]]


def read(path: Path) -> pd.DataFrame:
    return read_table(path, "thing", "get it from the portal")


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode(),
        b"\xef\xbb\xbf" + PLAIN.encode(),
        PLAIN.encode("utf-16"),
        b"\xfe\xff" + PLAIN.encode("utf-16-be"),
        gzip.compress(PLAIN.encode(), mtime=0),
        gzip.compress(PLAIN.encode("utf-16"), mtime=0),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        PLAIN.replace("\t", ",").encode(),
        PLAIN.replace("\t", ";").encode(),
        PLAIN.replace("\t", '"\t"').replace("\n", '"\n"').encode()[:-1].join([b'"', b""]),
        PLAIN.replace("\n", "\t\n").encode(),
        PLAIN.replace("\t", ",").replace("\n", ",\n").encode(),
        b"id,b,c\nx,1,2,\ny,3,,\n",
        ("\n" + PLAIN + "\n\n").encode(),
        (PLAIN + "\t\t\n").encode(),
        PLAIN.replace("x", " x ").encode(),
    ],
)
def test_ways_to_write_the_same_table(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.tsv"
    path.write_bytes(content)
    table = read(path)
    assert list(table.columns) == ["id", "b", "c"]
    assert table.to_numpy().tolist() == CELLS


def test_header_of_r(tmp_path: Path) -> None:
    (tmp_path / "t").write_text('"b"\t"c"\n"x"\t1\t2\n"y"\t3\t4\n')
    table = read(tmp_path / "t")
    assert list(table.columns) == ["", "b", "c"]
    assert table.to_numpy().tolist() == [["x", "1", "2"], ["y", "3", "4"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PLAIN.replace("x", "\u00e9").encode("latin-1"), "is no text in UTF-8.*e9.*save it as text in UTF-8"),
        (PLAIN.encode("utf-16-le"), "NUL bytes"),
        (b"\0\1\2\3", "NUL bytes"),
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b",,\n;\t", "is empty"),
        (PLAIN[:-2].encode(), "2 cells in line 3 where .* 3"),
        (PLAIN.replace("3\t", "3\t4\t5").encode(), "4 cells in line 3"),
        (PLAIN.replace("b\tc", "bc").encode(), "has 3 cells in line 2 where .* 2"),
        (PLAIN.replace("3", "x" * 20_000).encode(), "more than 10,000 characters in line 3"),
        (b'id,b\nx,"1\ny,2\n', "quote in line 2 that is not closed"),
        (b'id,b\nx,one" two\ny,2\n', "quote in line 2 that is not closed"),
        (gzip.compress(PLAIN.encode(), mtime=0)[:-9], "cannot be unpacked|damaged"),
        (b"\x1f\x8bnothing", "cannot be unpacked"),
    ],
)
def test_what_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "t.tsv"
    path.write_bytes(content)
    with pytest.raises(FileError, match=rf"^{re.escape(str(path))}.*({message})") as stopped:
        read(path)
    assert len(str(stopped.value)) < 500


def test_a_missing_table_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"thing .*t\.tsv does not exist; get it from the portal"):
        read(tmp_path / "t.tsv")
    with pytest.raises(FileError, match="is a folder"):
        read(tmp_path)


def test_a_small_file_does_not_unpack_to_a_large_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_table, "_SAMPLE_BYTES", 1 << 16)
    monkeypatch.setattr(text_table, "_MIN_UNPACKED", 1 << 20)
    path = tmp_path / "t.gz"
    with gzip.open(path, "wb") as packed:
        packed.write(b"a,b\n" + b"1,2\n" * 500_000)
    assert path.stat().st_size < 1 << 13
    with pytest.raises(FileError, match="unpacks to more than"):
        read(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_cells_survive(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Written by Python's csv, any cells come back, whatever the separator and the encoding."""
    path = tmp_path_factory.getbasetemp() / "cells.csv"
    width = data.draw(st.integers(2, 4))
    text = st.text(string.ascii_letters + string.digits + "\t,;\"' .\u00e9", max_size=6).map(str.strip)
    filled = text.filter(bool)
    rows = data.draw(st.lists(st.lists(text, min_size=width - 1, max_size=width - 1), min_size=1, max_size=4))
    rows = [[data.draw(filled), *row] for row in rows]
    header = [f"column{number}" for number in range(width)]
    separator = data.draw(st.sampled_from("\t,;"))
    written = io.StringIO()
    csv.writer(written, delimiter=separator, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(
        [header, *rows]
    )
    path.write_bytes(written.getvalue().encode(data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))))
    assert read(path).to_numpy().tolist() == rows


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_cut_table_is_refused_or_ends_at_a_row(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.tsv"
    content = "id\ta\tb\n" + "".join(f"case-{n}\t{n}.5\t{n}.25\n" for n in range(6))
    length = data.draw(st.integers(len("id\ta\tb\n"), len(content)))
    path.write_text(content[:length])
    try:
        rows = read(path).to_numpy().tolist()
    except FileError as refused:
        assert path.name in str(refused)
    else:
        assert content[:length].count("\t") == 2 * len(rows) + 2


# ---------------------------------------------------------------------------- our own tables
@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (PLAIN.encode(), "tabs"),
        (PLAIN.replace("\t", ";").encode(), "semicolons"),
        (PLAIN.replace("\t", ",").encode("utf-16"), "utf-16"),
        (gzip.compress(PLAIN.replace("\t", ",").encode(), mtime=0), "gzip without .gz"),
    ],
)
def test_our_own_tables_are_as_we_write_them(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(FileError, match=rf"t\.csv has .*{fault}.*write it anew"):
        read_own_table(path, "thing", "write it anew")


def test_our_own_tables_may_be_packed_by_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(PLAIN.replace("\t", ",").encode(), mtime=0))
    assert read_own_table(tmp_path / "t.csv.gz", "thing", "write it").to_numpy().tolist() == CELLS


# ---------------------------------------------------------------------------- numbers
def numbers(path: Path, rows_at_once: int | None = None) -> pd.DataFrame:
    layout = inspect_layout(path, "matrix")
    return pd.concat(number_chunks(path, layout, rows_at_once, kinds=("gene", "sample")))


@pytest.mark.parametrize("rows_at_once", [None, 1, 2])
def test_numbers_in_parts(tmp_path: Path, rows_at_once: int | None) -> None:
    (tmp_path / "m").write_text("g\ts1\ts2\nA\t1.5\t-2\nB\tNA\t\nC\t3e-2\t7\n")
    table = numbers(tmp_path / "m", rows_at_once)
    assert table.index.tolist() == ["A", "B", "C"]
    np.testing.assert_array_equal(
        table.to_numpy(), np.array([[1.5, -2], [np.nan, np.nan], [0.03, 7]], np.float32)
    )
    assert table.to_numpy().dtype == np.float32


def test_decimal_commas(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "m").write_text("g;s1;s2\nA;1,5;-2,25\nB;1,250;7\n")
    assert numbers(tmp_path / "m").to_numpy().tolist() == [[1.5, -2.25], [1.25, 7]]
    assert "decimal commas" in caplog.text


@pytest.mark.parametrize("cell", ["1,500", "inf", "-Infinity", "abc", "1.5.2", "9-Sep", "1,5,2", "1.2,5"])
def test_no_number(tmp_path: Path, cell: str) -> None:
    (tmp_path / "m").write_text(f"g\ts1\ts2\nA\t1.5\t-2\nB\t4\t{cell}\n")
    with pytest.raises(FileError, match=r"m has no finite number at gene B, sample s2: '"):
        numbers(tmp_path / "m")


def test_a_row_cut_short_is_no_missing_number(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("g\ts1\ts2\nA\t1.5\t-2\nB\t4\n")
    with pytest.raises(FileError, match="2 cells in line 3"):
        numbers(tmp_path / "m")
