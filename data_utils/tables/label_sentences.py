"""Label sentences: what the clinical table says of a case, in English.

Spellings of the categories (:data:`STAGE_WORDS`, :data:`T_WORDS`, :data:`N_WORDS`, :data:`M_WORDS`):

=====  =================================  ====================================================
part   category, examples of raw texts    words
=====  =================================  ====================================================
stage  0, I, II (Stage IIA), III, IV      stage zero, stage one, ... stage four
stage  X                                  stage cannot be assessed
T      0, 1 (T1c), 2, 3, 4 (T4b)          tumor stage zero, ... tumor stage four
T      is                                 carcinoma in situ
T      a                                  noninvasive papillary carcinoma
T      X                                  tumor cannot be assessed
N      0 (N0 (i-), N0 (mol+))             cancer has not spread to lymph nodes
N      1 (N1mi), 2, 3                     cancer has spread to lymph nodes, node stage one, ...
N      X                                  lymph nodes cannot be assessed
M      0 (cM0 (i+))                       no metastasis detected
M      1 (M1a)                            metastasis detected
M      X                                  metastasis cannot be assessed
=====  =================================  ====================================================

The published work gives stage two, tumor stage two, N0, M0 and "cannot be assessed" in these words; the
others follow their pattern. A text that names no category counts as missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_utils.tables.cohorts import Cohort
from data_utils.tables.gdc import reduce_stage, reduce_tnm
from utils import constants

_NUMBERS = {"0": "zero", "1": "one", "2": "two", "3": "three", "4": "four"}
STAGE_WORDS = {
    **{
        roman: f"stage {word}"
        for roman, word in zip(("0", "I", "II", "III", "IV"), _NUMBERS.values(), strict=True)
    },
    "X": "stage cannot be assessed",
}
T_WORDS = {
    **{digit: f"tumor stage {word}" for digit, word in _NUMBERS.items()},
    "is": "carcinoma in situ",
    "a": "noninvasive papillary carcinoma",
    "X": "tumor cannot be assessed",
}
N_WORDS = {
    "0": "cancer has not spread to lymph nodes",
    **{digit: f"cancer has spread to lymph nodes, node stage {_NUMBERS[digit]}" for digit in "123"},
    "X": "lymph nodes cannot be assessed",
}
M_WORDS = {
    "0": "no metastasis detected",
    "1": "metastasis detected",
    "X": "metastasis cannot be assessed",
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
    """Words for the quartile ``months`` lies in; an edge belongs to the quartile below it.

    Times beyond the last edge (a test case, with edges of the training split) fall into the last quartile.
    """
    quartile = int(np.searchsorted(np.asarray(edges[1:4]), months, side="left"))
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
    spread = [
        _part("Overall stage", STAGE_WORDS.get(reduce_stage(row["ajcc_pathologic_stage"]))),
        _part("Tumor stage status", T_WORDS.get(reduce_tnm(row["ajcc_pathologic_t"], "t"))),
        _part("Lymph node status", N_WORDS.get(reduce_tnm(row["ajcc_pathologic_n"], "n"))),
        _part("Distant metastasis status", M_WORDS.get(reduce_tnm(row["ajcc_pathologic_m"], "m"))),
    ]
    fate = _fate(int(row["vital_status"]) == 1, survival_interval(months, edges))
    sentences = {
        "general": [location, diagnosis, *spread, fate],
        "diagnosis": [location, diagnosis],
        "stage": [location, *spread],
        "survival": [location, *spread, fate],
    }
    return {name: " ".join(sentences[name]) for name in constants.TEXT_ROWS}


def candidate_sentences(cohort: Cohort, edges: Sequence[float]) -> dict[str, list[str]]:
    """Sentences that zero-shot evaluation compares a patient with; what nobody knows stays empty.

    Returns:
        Under ``class_<i>`` one diagnosis sentence for every diagnosis of the class, under ``died`` and
        ``censored`` one survival sentence for every quartile, the earliest first.
    """
    location = _part("Cancer location", cohort.site)
    sentences = {
        f"class_{index}": [f"{location} {_part('Cancer diagnosis', diagnosis)}" for diagnosis in members]
        for index, members in enumerate(cohort.classes)
    }
    unknown = [""] * 4  # stage, T, N, M
    for name, died in (("died", True), ("censored", False)):
        fates = [_fate(died, interval) for interval in _interval_words(edges)]
        sentences[name] = [" ".join([location, *unknown, fate]) for fate in fates]
    return sentences


def _fate(died: bool, interval: str) -> str:
    return f"Survival status: The patient {'died' if died else 'was censored'} {interval}"


def _part(label: str, value: str | None) -> str:
    return f"{label}: {value};" if value else ""
