"""Label sentences: what the clinical table says of a case, in English.

The words of each category (:data:`WORDS`) are those of the published text embeddings, but for "Stage 0" and
"Ta", which the published preparation does not know and which are ours. A raw text is reduced to its category
first (data_utils.tables.ajcc: "Stage IIA" is "Stage II", "Tis" is "T0"); one that names no category counts as
missing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from data_utils.tables.ajcc import AJCC_COLUMNS, STAGE, M, N, T, reduce_text
from data_utils.tables.cohorts import Cohort
from data_utils.tables.flat_files import value_text
from data_utils.tables.tasks import CLASSES, OWN_CLASS, TaskSet, published

logger = logging.getLogger(__name__)

_NUMBERS = ("one", "two", "three", "four")
WORDS = {
    STAGE: {
        **{
            f"Stage {roman}": f"stage {n}"
            for roman, n in zip(("I", "II", "III", "IV"), _NUMBERS, strict=True)
        },
        "Stage X": "stage cannot be determined",
        "Stage 0": "stage zero",
    },
    T: {
        "T0": "no tumor detected",
        **{f"T{number}": f"tumor stage {word}" for number, word in enumerate(_NUMBERS, start=1)},
        "TX": "tumor stage cannot be assessed",
        "Ta": "noninvasive papillary carcinoma",
    },
    N: {
        "N0": "cancer has not spread to lymph nodes",
        **{f"N{number}": f"node stage {word}" for number, word in enumerate(_NUMBERS[:3], start=1)},
        "NX": "node spread cannot be assessed",
    },
    M: {
        "M0": "no metastasis detected",
        "M1": "cancer has spread to distant organs",
        "MX": "metastasis status cannot be assessed",
    },
}
_FATES = {True: "died", False: "was censored"}


def survival_edges(months: Sequence[float]) -> tuple[float, ...]:
    """Quartile edges q0..q4 of survival months, one value per case.

    Raises:
        ValueError: there is no case, or a value is missing.
    """
    values = np.asarray(months, dtype=float)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"quartile edges need finite survival times, got {values.tolist()[:5]}")
    edges = tuple(float(edge) for edge in np.quantile(values, (0.0, 0.25, 0.5, 0.75, 1.0)))
    if len(set(_rounded(edges, 0))) < len(edges):
        words = "; ".join(_interval_words(edges))
        logger.warning("quartiles of survival times coincide in whole months; the sentences say: %s", words)
    return edges


def survival_interval(months: float, edges: Sequence[float]) -> str:
    """Words for the quartile ``months`` lies in; an edge belongs to the quartile above it.

    Times beyond the outer edges (a test case, with edges of the training split) fall into the outer quartiles.
    """
    quartile = int(np.searchsorted(np.asarray(edges[1:4]), months, side="right"))
    return _interval_words(edges)[quartile]


def _rounded(edges: Sequence[float], digits: int) -> list[str]:
    return [f"{round(edge, digits):.{digits}f}" for edge in edges]


def _interval_words(edges: Sequence[float]) -> tuple[str, ...]:
    # Whole months as published, unless two intervals would have the same words.
    digits = next((n for n in range(4) if len(set(_rounded(edges, n))) == len(edges)), 0)
    _, first, second, third, last = _rounded(edges, digits)
    return (
        f"before {first} months",
        f"between {first} and {second} months",
        f"between {second} and {third} months",
        f"between {third} and {last} months",
    )


def fields_of(row: Mapping[str, Any], site: str, edges: Sequence[float] | None) -> dict[str, str]:
    """What the sentences of a case can say; what is missing has no entry.

    Args:
        row: split row of the case: ``primary_diagnosis, ajcc_pathologic_{stage,t,n,m}, durations`` (months, NaN where
            not known), ``vital_status``, and whatever else it holds.
        site: words of the cohort for the location.
        edges: five quartile edges in months, see :func:`survival_edges`; None where nobody has a survival time.
    """
    fields = {name: str(value_text(cell)).strip() for name, cell in row.items() if _known(cell)}
    fields["site"] = site
    for name, column in zip(("stage", "t", "n", "m"), AJCC_COLUMNS, strict=True):
        fields.pop(name, None)
        if (words := words_of(row.get(column), column)) is not None:
            fields[name] = words
    months = float(row["durations"]) if _known(row["durations"]) else math.nan
    if math.isfinite(months) and edges is not None:
        fields["fate"] = _FATES[int(row["vital_status"]) == 1]
        fields["interval"] = survival_interval(months, edges)
    return fields


def _known(cell: Any) -> bool:
    return cell is not None and not (isinstance(cell, float) and math.isnan(cell)) and bool(str(cell).strip())


def build_sentences(
    row: Mapping[str, Any], site: str, edges: Sequence[float] | None, tasks: TaskSet | None = None
) -> dict[str, str | None]:
    """The label sentences of a case by text row; None where the case has no such sentence.

    A missing part leaves an empty string in its place, so two spaces meet there.

    Args:
        row: see :func:`fields_of`, as the other two.
        site: words of the cohort for the location.
        edges: quartile edges.
        tasks: the sentences; the published ones if not given.
    """
    tasks = tasks or published()
    fields = fields_of(row, site, edges)
    return dict(zip(tasks.rows, (task.sentence(fields) for task in tasks.entries), strict=True))


def words_of(raw: str | None, column: str) -> str | None:
    """Words for a raw AJCC text; None where it is missing or names no category."""
    return WORDS[column].get(reduce_text(raw, column)) if isinstance(raw, str) else None


def candidate_sentences(
    cohort: Cohort,
    edges: Sequence[float] | None,
    diagnoses: Collection[tuple[int, str]] = (),
    tasks: TaskSet | None = None,
) -> dict[str, list[str]]:
    """Sentences that zero-shot evaluation compares a patient with; what nobody knows stays empty.

    Each is the sentence of the task that says the thing and the least besides: of the published tasks, Diagnosis for
    the classes and Survival for the fate.

    Args:
        cohort: names the location and the diagnoses of its classes.
        edges: five quartile edges in months, see :func:`survival_edges`; None where nobody has a survival time.
        diagnoses: class and diagnosis of the patients at hand. Those that the definition of the cohort does
            not name (split files that others made) become candidates of their class, too.
        tasks: their sentences; the published ones if not given.

    Returns:
        Under ``class_<i>`` one diagnosis sentence for every diagnosis of the class, under ``other`` for those
        of class -1 (left out where there are none), under ``died`` and ``censored`` one survival sentence for
        every quartile, the earliest first (left out without ``edges``). Of a task that is evaluated by classes of a
        column, one sentence each under ``task:<name>:<class>``. What no sentence says has no candidates.

    Raises:
        ValueError: a patient is of a class that the cohort does not have.
    """
    tasks, site = tasks or published(), cohort.site
    members = {f"class_{index}": dict.fromkeys(names) for index, names in enumerate(cohort.classes)}
    for label, diagnosis in sorted(diagnoses):
        if label >= len(cohort.classes):
            raise ValueError(
                f"{diagnosis!r} is of class {label} in the split files; cohort {cohort.name} has "
                f"{len(cohort.classes)} classes, numbered from 0: edit its definition or the split files"
            )
        members.setdefault(f"class_{label}" if label >= 0 else "other", {})[diagnosis] = None
    sentences: dict[str, list[str]] = {}
    if (diagnosis_task := tasks.shortest("primary_diagnosis")) is not None:
        for name, group in members.items():
            sentences[name] = [
                diagnosis_task.told({"site": site, "primary_diagnosis": diagnosis}) for diagnosis in group
            ]
    for task in tasks.tokens:
        own = task.target(CLASSES)
        if own is not None and (telling := tasks.shortest(own.column)) is not None:
            for value in own.values:
                sentences[f"{OWN_CLASS}{task.name}:{value}"] = [
                    telling.told({"site": site, own.column: value})
                ]
    fate_task = tasks.shortest("fate")
    if edges is None or fate_task is None:
        return sentences
    for name, died in (("died", True), ("censored", False)):
        fates = [{"site": site, "fate": _FATES[died], "interval": words} for words in _interval_words(edges)]
        sentences[name] = [fate_task.told(fields) for fields in fates]
    return sentences
