"""Symbols that a spreadsheet turned into dates."""

from __future__ import annotations

import pytest

from data_utils.tables.excel_dates import month_and_number, undo_dates
from data_utils.tables.gene_aliases import GeneAliases

ALIASES = GeneAliases.from_table(
    ["SEPTIN9", "MARCHF1", "MTARC1", "MARCHF3", "DELEC1"],
    ["SEPT9", "MARCH1", "MARC1", "MARCH3", "DEC1"],
    [""] * 5,
)


@pytest.mark.parametrize(
    ("symbol", "found"),
    [
        ("9-Sep", (9, 9)),
        ("Sep-09", (9, 9)),
        ("9-SEP-22", (9, 9)),
        ("2022-09-01", (9, 1)),
        ("2022-03-11 00:00:00", (3, 11)),
        ("SEPT9", None),
        ("HLA-A", None),
        ("NKX2-1", None),
        ("1-Foo", None),
    ],
)
def test_which_symbols_are_dates(symbol: str, found: tuple[int, int] | None) -> None:
    assert month_and_number(symbol) == found


@pytest.mark.parametrize(
    ("symbols", "pairs"),
    [
        (["TP53"], {}),
        (["9-Sep", "1-Dec", "TP53"], {"9-Sep": "SEPTIN9", "1-Dec": "DELEC1"}),
        (["3-Mar"], {"3-Mar": "MARCHF3"}),
        (["1-Mar"], {}),  # MARCH1 or MARC1
        (["9-Sep", "SEPT9"], {}),
        (["9-Sep", "Sep-09"], {}),
        (["9-Sep", "9-Sep"], {}),
    ],
)
def test_dates_that_one_gene_became(
    symbols: list[str], pairs: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    assert undo_dates(symbols, ALIASES, "m.tsv") == pairs
    assert ("m.tsv: a spreadsheet turned" in caplog.text) == (symbols != ["TP53"])
    assert all(date in caplog.text for date in symbols if month_and_number(date))
