"""Gene symbols that a spreadsheet turned into dates: SEPT9 into "9-Sep", MARCH1 into "1-Mar"."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path

from data_utils.tables.gene_aliases import GeneAliases

logger = logging.getLogger(__name__)

# Symbols that begin like the name of a month, by month.
_STEMS = {3: ("MARCH", "MARC"), 9: ("SEPT",), 10: ("OCT",), 12: ("DEC",)}
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_WORDS = re.compile(r"(\d{1,2})-([a-z]{3})(?:-\d{2,4})?|([a-z]{3})-(\d{1,2})", re.IGNORECASE)
_NUMBERS = re.compile(r"(?:19|20)\d{2}-(\d{2})-(\d{2})(?: 00:00:00)?")


def month_and_number(symbol: str) -> tuple[int, int] | None:
    """Month (1 to 12) and number of a symbol that is a date; None where it is none."""
    if match := _NUMBERS.fullmatch(symbol):
        return int(match[1]), int(match[2])
    match = _WORDS.fullmatch(symbol)
    word = (match[2] or match[3]).lower() if match else ""
    if match is None or word not in _MONTHS:
        return None
    return _MONTHS.index(word) + 1, int(match[1] or match[4])


def undo_dates(symbols: Iterable[str], aliases: GeneAliases, path: str | Path) -> dict[str, str]:
    """``{date: symbol}`` of those that one gene only can have become; all of them are named in the log.

    A symbol that is in the table as it should be, or that two dates of the table stand for, is given to none.
    """
    names = [str(symbol) for symbol in symbols]
    dates = {name: found for name in dict.fromkeys(names) if (found := month_and_number(name))}
    if not dates:
        return {}
    here, pairs = set(names), {}
    for name, (month, number) in dates.items():
        genes: dict[str, str] = {}
        for stem in _STEMS.get(month, ()):
            if gene := aliases.identify(f"{stem}{number}"):
                genes.setdefault(gene[0], f"{stem}{number}")
        if len(genes) == 1 and names.count(name) == 1:
            ((approved, old),) = genes.items()
            if not {approved, old} & here:
                pairs[name] = approved
    claimed = list(pairs.values())
    pairs = {name: gene for name, gene in pairs.items() if claimed.count(gene) == 1}
    lost = [name for name in dates if name not in pairs]
    logger.warning(
        "%s: a spreadsheet turned %d gene symbols into dates; read as %s; lost, as several genes can be meant: %s. "
        "Take the original file, or import it with the first column as text",
        path,
        len(dates),
        pairs,
        lost,
    )
    return pairs
