"""What GDC tables say of a case's survival: vital status, days, and the months that become of them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from data_utils.tables.values import DAYS_PER_MONTH, MAX_MONTHS, events_of
from utils.files import FileError

logger = logging.getLogger(__name__)

FOLLOW_UP_FILE = "follow_up.tsv"
# So many living patients with days to death, and no dead one, are no slips.
_TOO_MANY = 3
FATE_COLUMNS = ("vital_status", "days_to_death", "days_to_last_follow_up")


def check_status(path: Path, rows: pd.DataFrame) -> None:
    """Of 0 and 1, 1 means dead; days to death must not say the opposite, of words neither."""
    events = events_of(rows["vital_status"])
    codes = rows["vital_status"].isin(("0", "1", "0.0", "1.0"))
    remedy = "write Dead and Alive instead of numbers"
    if codes.any() and rows["vital_status"].isin(("2", "2.0")).any():
        raise FileError(path, "has vital status 1 and 2, and 1 may mean alive as well as dead", remedy)
    with_death = events[rows["days_to_death"].notna()].dropna()
    living = with_death == 0
    if codes.any() and len(with_death) and living.all():
        fault = "has days to death for vital status 0 and none for 1, so 1 does not mean dead"
        raise FileError(path, fault, remedy)
    cases = rows.loc[with_death.index[living], "case_submitter_id"].unique()
    if living.all() and len(cases) >= _TOO_MANY and 2 * len(with_death) > (events == 0).sum():
        fault = f"has days to death for {len(cases)} living cases and for no dead one"
        raise FileError(path, fault, "correct vital_status, or remove these days")
    if living.any():
        logger.warning(
            "%s: days to death of %d living cases, such as %s, are not used", path, len(cases), cases[0]
        )
    if codes.any():
        logger.warning("%s: vital status is in numbers: 1 is read as dead, 0 as alive", path)


def fate_of(path: Path, rows: pd.DataFrame) -> dict[str, str | None]:
    """Vital status and the latest days of a case: dead beats alive."""
    status = rows["vital_status"].dropna()
    events = events_of(status)
    found: dict[str, str | None] = {"vital_status": None}
    if len(status):
        dead, alive = status[events == 1], status[events == 0]
        known = dead if len(dead) else alive
        found["vital_status"] = str((known if len(known) else status).iloc[0])
    for name in FATE_COLUMNS[1:]:
        texts = rows.loc[rows[name].notna(), ["case_submitter_id", name]]
        # Numbers are compared only where there is a choice; what is none is found later in any case.
        if len(texts) > 1:
            found[name] = str(texts[name].loc[numbers_of(texts, name, path).abs().idxmax()])
        else:
            found[name] = None if texts.empty else texts[name].iloc[0]
    return found


def survival(raw: pd.DataFrame, source: str | Path = "clinical table") -> tuple[pd.Series, pd.Series]:
    """Survival months and event (1 dead, 0 alive), missing where the tables do not tell.

    Months are days / 30.44 without sign: days to death of the dead (to the last follow-up where that is
    missing), days to the last follow-up of the living.
    """
    event = events_of(raw["vital_status"])
    largest = MAX_MONTHS * DAYS_PER_MONTH
    follow_up = numbers_of(raw, "days_to_last_follow_up", source, largest)
    days = numbers_of(raw, "days_to_death", source, largest).fillna(follow_up).where(event == 1, follow_up)
    if (negative := days < 0).any():
        logger.warning(
            "%s: the days of %d cases are negative, such as %s; they are taken without sign, as published",
            source,
            negative.sum(),
            raw.loc[negative, "case_submitter_id"].iloc[0],
        )
    return days.abs() / DAYS_PER_MONTH, event


def numbers_of(
    table: pd.DataFrame, column: str, source: str | Path, largest: float = np.inf, least: float = -np.inf
) -> pd.Series:
    numbers = pd.to_numeric(table[column], errors="coerce").astype(float)
    absurd = ~np.isfinite(numbers) | (numbers > largest) | (numbers < max(least, -largest))
    if (wrong := absurd & table[column].notna()).any():
        row = table[wrong].iloc[0]
        limit = f" from {least:g}" if np.isfinite(least) else ""
        limit += f" up to {largest:,.0f}" if np.isfinite(largest) else ""
        fault = f"has no possible number in {column} of case {row['case_submitter_id']}: {str(row[column])[:60]!r}"
        raise FileError(source, fault, f"correct the row, it should be a number{limit}")
    return numbers


def check_living(cases: pd.DataFrame, reasons: pd.Series, foreign: pd.Series, source: str | Path) -> None:
    """Leaving out the living and keeping the dead would make a cohort without censoring."""
    living, dead = (cases["vital_status"] == event for event in (0, 1))
    lost = reasons == "survival time missing"
    of_living, of_dead = (int((group & lost).sum()) for group in (living, dead))
    all_living, all_dead = (int((group & ~foreign).sum()) for group in (living, dead))
    if not of_living or not all_dead:
        return
    fault = (
        f"has no survival time for {of_living} of {all_living} living and {of_dead} of {all_dead} dead cases"
    )
    remedy = (
        f"since release 42 GDC has the last follow-up in {FOLLOW_UP_FILE}: export it, too, and put it beside the "
        "clinical table"
    )
    if 2 * of_living > all_living and of_dead * all_living < of_living * all_dead:
        raise FileError(source, fault, remedy)
    logger.warning("%s %s; %s", source, fault, remedy)
