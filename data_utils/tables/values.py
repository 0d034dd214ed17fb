"""What single cells of clinical tables say: missing or not, alive or dead, a number or none."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import pandas as pd

DAYS_PER_MONTH = 30.44
# Longer than any follow-up: such a time is in other units, or a placeholder.
MAX_MONTHS = 1_200
MAX_AGE = 130
# Months; when nobody was followed as long, or half of all longer, the unit of the times is rather a wrong one.
IMPLAUSIBLY_SHORT = 3
IMPLAUSIBLY_LONG = 240

_WORDS = (
    "",
    "'--",
    "--",
    "-",
    "nan",
    "na",
    "n/a",
    "none",
    "null",
    "unknown",
    "not reported",
    "not applicable",
    "not available",
    "not evaluated",
)
# TCGA's biotab files write them in brackets.
MISSING = frozenset({*_WORDS, *(f"[{word}]" for word in _WORDS if word), "[discrepancy]"})
# Numbers of split rows, and the least that each can be.
_LEAST = {"age_at_index": 0, "durations": 0, "vital_status": 0, "primary_class": -1}
_DEAD = frozenset({"dead", "deceased", "1", "1.0", "1:deceased"})
_ALIVE = frozenset({"alive", "living", "0", "0.0", "0:living"})


def number(value: Any) -> float | None:
    """The number that a value is, or that its text says; None for anything else, NaN and infinity included."""
    if not isinstance(value, (bool, int, float, str)):
        return None
    # Python reads "1_2" as 12.
    if isinstance(value, str) and ("_" in value or not value.isascii()):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def amount(value: Any) -> float | None:
    """As :func:`number`, for what is measured: a truth value is none."""
    return None if isinstance(value, bool) else number(value)


def odd_times(months: Sequence[float]) -> str | None:
    """What makes survival times of patients look as if they were in another unit, if anything does."""
    if not months:
        return None
    if max(months) < IMPLAUSIBLY_SHORT:
        return f"nobody was followed for {IMPLAUSIBLY_SHORT} months"
    if statistics.median(months) > IMPLAUSIBLY_LONG:
        years = IMPLAUSIBLY_LONG // 12
        return f"half of the patients were followed for more than {years} years"
    return None


def fits(name: str, value: Any) -> bool:
    """Whether a value of a split row is of the kind that its field holds; only identifiers may not be missing."""
    if name in ("case_id", "case_submitter_id", "project_id"):
        return isinstance(value, (str, int))
    if value is None or value != value:
        return True
    if name in _LEAST:
        found = amount(value) if name in ("age_at_index", "durations") else number(value)
        return found is not None and found >= _LEAST[name]
    return isinstance(value, str) or not name.startswith(("ajcc_", "primary_diagnosis"))


def is_missing(texts: pd.Series) -> pd.Series:
    """Where a column says in one of the usual ways that a value is not known."""
    return texts.isna() | texts.astype(str).str.strip().str.lower().isin(MISSING)


def events_of(texts: pd.Series) -> pd.Series:
    """1 dead, 0 alive, NaN for every other text, of vital status as GDC, cBioPortal and Xena write it."""
    lower = texts.astype(object).where(texts.notna(), "").astype(str).str.strip().str.lower()
    return lower.map({**dict.fromkeys(_DEAD, 1.0), **dict.fromkeys(_ALIVE, 0.0)}).astype(float)


def is_finite(value: object) -> bool:
    """Whether a value is a finite number; a truth value is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
