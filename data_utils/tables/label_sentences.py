"""Label sentences: what the clinical table says of a case, in English.

The words of each category (:data:`WORDS`) are those of the published text embeddings, but for "Stage 0" and
"Ta", which the published preparation does not know and which are ours. A raw text is reduced to its category
first (data_utils.tables.ajcc: "Stage IIA" is "Stage II", "Tis" is "T0"); one that names no category counts as
missing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from data_utils.tables.ajcc import AJCC_COLUMNS, STAGE, M, N, T, reduce_text
from data_utils.tables.cohorts import Cohort
from utils import constants

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
_LABELS = {
    STAGE: "Overall stage",
    T: "Tumor stage status",
    N: "Lymph node status",
    M: "Distant metastasis status",
}


def survival_edges(months: Sequence[float]) -> tuple[float, ...]:
    """Quartile edges q0..q4 of survival months, one value per case.

    Raises:
        ValueError: there is no case, or a value is missing.
    """
    values = np.asarray(months, dtype=float)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"quartile edges need finite survival times, got {values.tolist()[:5]}")
    return tuple(float(edge) for edge in np.quantile(values, (0.0, 0.25, 0.5, 0.75, 1.0)))


def survival_interval(months: float, edges: Sequence[float]) -> str:
    """Words for the quartile ``months`` lies in; an edge belongs to the quartile above it.

    Times beyond the outer edges (a test case, with edges of the training split) fall into the outer quartiles.
    """
    quartile = int(np.searchsorted(np.asarray(edges[1:4]), months, side="right"))
    return _interval_words(edges)[quartile]


def _interval_words(edges: Sequence[float]) -> tuple[str, ...]:
    _, first, second, third, last = (round(edge) for edge in edges)
    return (
        f"before {first} months",
        f"between {first} and {second} months",
        f"between {second} and {third} months",
        f"between {third} and {last} months",
    )


def build_sentences(row: Mapping[str, Any], site: str, edges: Sequence[float]) -> dict[str, str]:
    """The four label sentences of a case, keyed by ``constants.TEXT_ROWS``.

    A missing part leaves an empty string in its place, so two spaces meet there.

    Args:
        row: split row of the case: ``primary_diagnosis, ajcc_pathologic_{stage,t,n,m}, durations`` (months),
            ``vital_status``.
        site: words of the cohort for the location.
        edges: five quartile edges in months, see :func:`survival_edges`.

    Raises:
        ValueError: the survival time is missing.
    """
    months = float(row["durations"])
    if not math.isfinite(months):
        raise ValueError(f"case {row.get('case_submitter_id')} has no survival time")
    location = _part("Cancer location", site)
    diagnosis = _part("Cancer diagnosis", row["primary_diagnosis"])
    spread = [_part(_LABELS[column], words_of(row[column], column)) for column in AJCC_COLUMNS]
    fate = _fate(int(row["vital_status"]) == 1, survival_interval(months, edges))
    sentences = {
        "general": [location, diagnosis, *spread, fate],
        "diagnosis": [location, diagnosis],
        "stage": [location, *spread],
        "survival": [location, *spread, fate],
    }
    return {name: " ".join(sentences[name]) for name in constants.TEXT_ROWS}


def words_of(raw: str | None, column: str) -> str | None:
    """Words for a raw AJCC text; None where it is missing or names no category."""
    return WORDS[column].get(reduce_text(raw, column)) if isinstance(raw, str) else None


def candidate_sentences(
    cohort: Cohort, edges: Sequence[float], diagnoses: Collection[tuple[int, str]] = ()
) -> dict[str, list[str]]:
    """Sentences that zero-shot evaluation compares a patient with; what nobody knows stays empty.

    Args:
        cohort: names the location and the diagnoses of its classes.
        edges: five quartile edges in months, see :func:`survival_edges`.
        diagnoses: class and diagnosis of the patients at hand. Those that the definition of the cohort does
            not name (split files that others made) become candidates of their class, too.

    Returns:
        Under ``class_<i>`` one diagnosis sentence for every diagnosis of the class, under ``other`` for those
        of class -1 (left out where there are none), under ``died`` and ``censored`` one survival sentence for
        every quartile, the earliest first.

    Raises:
        ValueError: a patient is of a class that the cohort does not have.
    """
    location = _part("Cancer location", cohort.site)
    members = {f"class_{index}": dict.fromkeys(names) for index, names in enumerate(cohort.classes)}
    for label, diagnosis in sorted(diagnoses):
        if label >= len(cohort.classes):
            raise ValueError(
                f"{diagnosis!r} is of class {label} in the split files; cohort {cohort.name} has "
                f"{len(cohort.classes)} classes, numbered from 0: edit its definition or the split files"
            )
        members.setdefault(f"class_{label}" if label >= 0 else "other", {})[diagnosis] = None
    sentences = {
        name: [f"{location} {_part('Cancer diagnosis', diagnosis)}" for diagnosis in group]
        for name, group in members.items()
    }
    unknown = [""] * len(AJCC_COLUMNS)
    for name, died in (("died", True), ("censored", False)):
        fates = [_fate(died, interval) for interval in _interval_words(edges)]
        sentences[name] = [" ".join([location, *unknown, fate]) for fate in fates]
    return sentences


def _fate(died: bool, interval: str) -> str:
    return f"Survival status: The patient {'died' if died else 'was censored'} {interval}"


def _part(label: str, value: str | None) -> str:
    return f"{label}: {value};" if value else ""
