"""Tables as texts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from openpyxl import Workbook

from data_utils.tables.flat_files import read_texts
from utils.files import FileError


def test_cells_are_texts_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('\ufeffid,value,note\n0037,1.50,"a, b"\n\n0038,n/a,\n', encoding="utf-8")
    table = read_texts(tmp_path / "t.csv")
    assert table.to_dict("records") == [
        {"id": "0037", "value": "1.50", "note": "a, b"},
        {"id": "0038", "value": None, "note": None},
    ]


def test_semicolons_bring_decimal_commas(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id;value;note\n1;2,5;a, b\n")
    assert read_texts(tmp_path / "t.csv").to_dict("records") == [{"id": "1", "value": "2.5", "note": "a, b"}]


def test_excel_shows_zeros_in_front(tmp_path: Path) -> None:
    book = Workbook()
    book.active.append(["id", "months", "date"])
    book.active.append([37, 12.0, None])
    book.active["A2"].number_format = "0000"
    book.save(tmp_path / "t.xlsx")
    assert read_texts(tmp_path / "t.xlsx").to_dict("records") == [
        {"id": "0037", "months": "12", "date": None}
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("id,value\n", "has no rows"),
        ("id,id\n1,2\n", "columns stand twice"),
        ("id,,b\n1,2,3\n", "column 2 has no name"),
        ("id,value\n1,2\n2,#REF!\n", "value in row 3 is #REF!, an error of a spreadsheet"),
    ],
)
def test_what_is_no_table(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_texts(tmp_path / "t.csv")


def test_a_comma_too_many_at_every_row_end(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,b,\n1,2,\n")
    assert list(read_texts(tmp_path / "t.csv").columns) == ["id", "b"]


def test_damaged_and_unknown_files(tmp_path: Path) -> None:
    for name in ("t.xlsx", "t.parquet"):
        (tmp_path / name).write_bytes(b"not what it says")
        with pytest.raises(ValueError, match=name):
            read_texts(tmp_path / name)
    (tmp_path / "t.ods").write_bytes(b"")
    with pytest.raises(ValueError, match="save it as one of them"):
        read_texts(tmp_path / "t.ods")
    (tmp_path / "t.csv").write_bytes("id\nMüller".encode("latin-1"))
    with pytest.raises(ValueError, match="UTF-8"):
        read_texts(tmp_path / "t.csv")


@pytest.mark.parametrize(("name", "package"), [("t.xlsx", "openpyxl"), ("t.parquet", "pyarrow")])
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    (tmp_path / name).write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("importlib.util.find_spec", lambda found: None)
    with pytest.raises(ImportError, match=f"pip install {package}"):
        read_texts(tmp_path / name)


def test_formulas_that_nobody_computed_are_no_empty_cells(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    book = Workbook()
    for row in (("id", "months"), ("a", 3), ("b", "=B2*2")):
        book.active.append(row)
    book.create_sheet("others").append(("c", 4))
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(
        FileError, match=r"t\.xlsx: formulas in the rows \[3\] have no value.*save it in Excel"
    ):
        read_texts(tmp_path / "t.xlsx")
    book.active["B3"] = 6
    book.save(tmp_path / "t.xlsx")
    assert read_texts(tmp_path / "t.xlsx")["months"].tolist() == ["3", "6"]
    assert "first sheet, Sheet, is read alone" in caplog.text
