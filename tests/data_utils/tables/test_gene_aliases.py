"""Old and new gene symbols."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_utils.tables.gene_aliases import GeneAliases, load_gene_aliases
from utils import constants

#                approved, previous, alias
ALIASES = GeneAliases.from_table(
    ["KMT2A", "ADGRE5", "SEPTIN9", "NEW1", "NEW2"],
    ["MLL", "CD97", "SEPT9|MSF", "OLD|OLDER", "OLD"],
    ["TRX1|HRX", "", "", "NICK", "HRX"],
)


@pytest.mark.parametrize(
    ("wanted", "available", "pairs"),
    [
        (["MLL"], ["KMT2A"], {"MLL": "KMT2A"}),
        (["KMT2A"], ["MLL"], {"KMT2A": "MLL"}),
        (["SEPT9"], ["MSF"], {"SEPT9": "MSF"}),  # two old names of one gene
        (["MLL"], ["MLL", "KMT2A"], {}),  # matches directly
        (["MLL", "KMT2A"], ["KMT2A"], {}),  # the partner is taken by the symbol that matches directly
        (["OLD"], ["NEW1", "NEW2"], {}),  # previous name of two genes
        (["HRX"], ["KMT2A"], {}),  # alias of two genes
        (["OLDER"], ["NEW1"], {"OLDER": "NEW1"}),
        (["MLL", "TRX1"], ["KMT2A"], {"MLL": "KMT2A"}),  # a previous name is surer than an alias
        (["SEPT9", "MSF"], ["SEPTIN9"], {}),  # equally sure claims
        (["KMT2A"], ["TRX1", "MLL"], {"KMT2A": "MLL"}),
        (["SEPTIN9"], ["SEPT9", "MSF"], {}),
        (["NOBODY"], ["KMT2A"], {}),
    ],
)
def test_match(wanted: list[str], available: list[str], pairs: dict[str, str]) -> None:
    assert ALIASES.match(wanted, available) == pairs


def test_approved_symbol_hides_older_meanings() -> None:
    aliases = GeneAliases.from_table(["A", "B"], ["", "A"], ["", ""])
    assert aliases.identify("A") == ("A", 0)
    assert aliases.match(["B"], ["A"]) == {}


SYMBOLS = ["KMT2A", "MLL", "TRX1", "HRX", "SEPTIN9", "SEPT9", "MSF", "OLD", "OLDER", "NEW1", "NEW2", "X"]


@settings(deadline=None)
@given(st.sets(st.sampled_from(SYMBOLS)), st.sets(st.sampled_from(SYMBOLS)))
def test_no_symbol_is_given_twice(wanted: set[str], available: set[str]) -> None:
    pairs = ALIASES.match(sorted(wanted), sorted(available))
    assert len(set(pairs.values())) == len(pairs)
    assert not set(pairs) & available
    assert not set(pairs.values()) & wanted
    assert set(pairs.values()) <= available


def test_downloaded_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hgnc_complete_set.txt"
    path.write_text(
        "hgnc_id\tsymbol\tstatus\talias_symbol\tprev_symbol\n"
        "1\tNOW\tApproved\tNICK|PET\tTHEN\n"
        "2\tGONE\tEntry Withdrawn\tNICK\t\n"
    )
    monkeypatch.setattr(constants, "HGNC_TABLE", path)
    aliases = load_gene_aliases()
    assert aliases.match(["THEN"], ["NOW"]) == {"THEN": "NOW"}
    assert aliases.identify("NICK") == ("NOW", 2)
    assert aliases.identify("GONE") is None


def test_table_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HGNC_TABLE", tmp_path / "absent.txt")
    aliases = load_gene_aliases()
    pairs = aliases.match(["CD97", "SEPT9", "KMT2A", "TP53"], ["ADGRE5", "SEPTIN9", "MLL", "TP53"])
    assert pairs == {"CD97": "ADGRE5", "SEPT9": "SEPTIN9", "KMT2A": "MLL"}


def test_wrong_table(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="genenames"):
        load_gene_aliases(tmp_path / "absent.txt")
    path = tmp_path / "hgnc.txt"
    path.write_text("symbol\tstatus\nA\tApproved\n")
    with pytest.raises(ValueError, match=r"hgnc.txt lacks.*prev_symbol"):
        load_gene_aliases(path)
