"""Labels of a split file: what can be one, and what cannot be."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_utils.tables.flat_files import value_text
from data_utils.tables.tasks import CLASSES, Target
from data_utils.tables.values import MAX_AGE, MAX_MONTHS, amount, number
from utils.files import FileError

logger = logging.getLogger(__name__)


def read_labels(row: Mapping[str, Any], path: Path, where: str) -> tuple[int, float, int]:
    """Class, months and event of a row; ``True``, ``"1"`` and ``1.0`` are the number 1.

    A class that is null is -1. Where the survival is not known, ``durations`` and ``vital_status`` are null, and
    months are NaN.

    Args:
        row: of a split file.
        path: of the split file, for messages.
        where: row and case, for messages.

    Raises:
        FileError: a value is impossible.
    """
    label = -1 if row["primary_class"] is None else number(row["primary_class"])
    if label is None or label != int(label) or label < -1:
        _refuse(path, where, "primary_class", row, "a class is a whole number from 0, or -1 for none")
    months, event = amount(row["durations"]), number(row["vital_status"])
    unknown = [name for name in ("durations", "vital_status") if row[name] is None]
    if len(unknown) == 1:
        _refuse(
            path, where, unknown[0], row, "a patient of unknown survival has null for both, time and event"
        )
    if unknown:
        months, event = math.nan, 0
    elif months is None or not 0 <= months <= MAX_MONTHS:
        _refuse(path, where, "durations", row, f"survival times are months from 0 to {MAX_MONTHS:,}")
    if event not in (0, 1):
        _refuse(path, where, "vital_status", row, "1 is dead, 0 is censored")
    age = row.get("age_at_index")
    if age is not None and not (isinstance(age, float) and math.isnan(age)):
        years = amount(age)
        if years is None or not 0 <= years <= MAX_AGE:
            _refuse(path, where, "age_at_index", row, f"ages are years from 0 to {MAX_AGE}, or null")
    assert label is not None and months is not None and event is not None
    return int(label), months, int(event)


def read_values(
    path: Path, cases: Mapping[str, Sequence[Mapping[str, Any]]], columns: Mapping[str, Target]
) -> dict[str, dict[str, float]]:
    """What tasks are evaluated by, by case and column; NaN where a case has none, -1 where it is none of the classes.

    Values that are none of the classes are named in the log.

    Args:
        path: of the split file, for messages.
        cases: the rows of every case.
        columns: how each column is read.

    Raises:
        FileError: rows of a case contradict each other, or a number is none.
    """
    strange: dict[str, Counter[str]] = {column: Counter() for column in columns}
    values: dict[str, dict[str, float]] = {}
    for case_id, rows in cases.items():
        values[case_id] = {}
        for column, target in columns.items():
            texts = {(value_text(row.get(column)) or "").strip() for row in rows}
            if len(texts) > 1:
                fault = f": the slides of case {case_id} disagree on {column}: {sorted(texts)}"
                raise FileError(path, fault, "a patient has one value: make the rows alike")
            try:
                value = target.read(text := texts.pop())
            except ValueError as error:
                raise FileError(
                    path, f": case {case_id}: {error}", "correct it, or leave it empty"
                ) from error
            values[case_id][column] = value
            if target.kind == CLASSES and value < 0:
                strange[column][text] += 1
    for column, texts in strange.items():
        if texts:
            logger.warning(
                "%s: %s of %d patients is none of the classes %s and not evaluated: %s",
                path,
                column,
                texts.total(),
                ", ".join(columns[column].values),
                dict(texts.most_common(5)),
            )
    return values


def _refuse(path: Path, where: str, name: str, row: Mapping[str, Any], rule: str) -> None:
    raise FileError(path, f": {where}: {name} is {str(row[name])[:60]!r}", f"{rule}. Correct the row")
