"""Label sentences, word for word."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_utils.tables.cohorts import load_cohort
from data_utils.tables.label_sentences import (
    build_sentences,
    candidate_sentences,
    survival_edges,
    survival_interval,
)
from data_utils.tables.tasks import published

EDGES = (0.0, 11.6, 24.2, 48.5, 120.4)
ROW = {
    "case_submitter_id": "TCGA-AA-0000",
    "primary_diagnosis": "lobular carcinoma",
    "ajcc_pathologic_stage": "Stage IIA",
    "ajcc_pathologic_t": "T2",
    "ajcc_pathologic_n": "N0 (i-)",
    "ajcc_pathologic_m": "M0",
    "durations": 30.0,
    "vital_status": 1,
}
LOCATION = "Cancer location: breast;"
SPREAD = (
    "Overall stage: stage two; Tumor stage status: tumor stage two; "
    "Lymph node status: cancer has not spread to lymph nodes; "
    "Distant metastasis status: no metastasis detected;"
)
FATE = "Survival status: The patient died between 24 and 48 months"


def test_full_sentences() -> None:
    sentences = build_sentences(ROW, "breast", EDGES)
    assert tuple(sentences) == published().rows
    assert sentences == {
        "general": f"{LOCATION} Cancer diagnosis: lobular carcinoma; {SPREAD} {FATE}",
        "diagnosis": f"{LOCATION} Cancer diagnosis: lobular carcinoma;",
        "stage": f"{LOCATION} {SPREAD}",
        "survival": f"{LOCATION} {SPREAD} {FATE}",
    }


def test_missing_parts_leave_an_empty_string() -> None:
    row = ROW | {
        "primary_diagnosis": None,
        "ajcc_pathologic_stage": None,
        "ajcc_pathologic_m": "unclear",
        "vital_status": 0,
    }
    sentences = build_sentences(row, "breast", EDGES)
    middle = "Tumor stage status: tumor stage two; Lymph node status: cancer has not spread to lymph nodes;"
    fate = "Survival status: The patient was censored between 24 and 48 months"
    assert sentences["diagnosis"] == f"{LOCATION} "
    assert sentences["stage"] == f"{LOCATION}  {middle} "
    assert sentences["general"] == f"{LOCATION}   {middle}  {fate}"


def test_candidates_are_the_sentences_of_patients_of_whom_nothing_else_is_known() -> None:
    cohort = load_cohort("GBMLGG")
    candidates = candidate_sentences(cohort, EDGES)
    unknown = dict.fromkeys(ROW) | {"vital_status": 1, "durations": 30.0}
    for index, members in enumerate(cohort.classes):
        sentences = [
            build_sentences(unknown | {"primary_diagnosis": name}, "brain", EDGES)["diagnosis"]
            for name in members
        ]
        assert candidates[f"class_{index}"] == sentences
    for name, status in (("died", 1), ("censored", 0)):
        assert candidates[name] == [
            build_sentences(unknown | {"vital_status": status, "durations": months}, "brain", EDGES)[
                "survival"
            ]
            for months in (edge - 0.5 for edge in EDGES[1:])
        ]
    assert len(candidates) == 4


@pytest.mark.parametrize(
    ("column", "raw", "words"),
    [
        ("ajcc_pathologic_stage", "Stage 0", "Overall stage: stage zero;"),
        ("ajcc_pathologic_t", "Ta", "Tumor stage status: noninvasive papillary carcinoma;"),
    ],
)
def test_words_of_our_own(column: str, raw: str, words: str) -> None:
    sentences = build_sentences(ROW | {column: raw}, "breast", EDGES)
    assert all((words in sentences[name]) == (name != "diagnosis") for name in sentences)


@pytest.mark.parametrize(
    ("months", "words"),
    [
        (0.0, "before 12 months"),
        (11.5, "before 12 months"),
        (11.6, "between 12 and 24 months"),
        (24.2, "between 24 and 48 months"),
        (48.5, "between 48 and 120 months"),
        (120.4, "between 48 and 120 months"),
        (500.0, "between 48 and 120 months"),
    ],
)
def test_interval(months: float, words: str) -> None:
    assert survival_interval(months, EDGES) == words


def test_edges_are_quartiles() -> None:
    assert survival_edges([4, 0, 1, 3, 2]) == (0.0, 1.0, 2.0, 3.0, 4.0)


@settings(deadline=None)
@given(st.lists(st.floats(0, 300), min_size=1, max_size=60))
def test_quartiles_hold_equal_shares(months: list[float]) -> None:
    edges = survival_edges(months)
    assert list(edges) == sorted(edges)
    rank = (len(months) - 1) / 4  # of the first quartile, counted from 0
    assert sum(value < edges[1] for value in months) <= math.ceil(rank)
    assert sum(value <= edges[1] for value in months) > math.floor(rank)
    for value in months:
        assert survival_interval(value, edges).endswith("months")


@pytest.mark.parametrize("months", [[], [1.0, float("nan")]])
def test_edges_need_times(months: list[float]) -> None:
    with pytest.raises(ValueError, match="finite survival times"):
        survival_edges(months)


@pytest.mark.parametrize("edges", [EDGES, None])
def test_without_survival_there_is_no_survival_sentence(edges: tuple[float, ...] | None) -> None:
    unknown = ROW | {"durations": float("nan"), "vital_status": 0}
    sentences, full = build_sentences(unknown, "breast", edges), build_sentences(ROW, "breast", EDGES)
    assert sentences["survival"] is None
    assert sentences["general"] == f"{full['general'].split('Survival status')[0]}"
    assert (sentences["diagnosis"], sentences["stage"]) == (full["diagnosis"], full["stage"])


def test_quartiles_that_coincide_in_whole_months(caplog: pytest.LogCaptureFixture) -> None:
    months = [1.0, 1.1, 1.2, 1.3, 9.0]
    edges = survival_edges(months)
    assert "coincide in whole months" in caplog.text
    words = [survival_interval(value, edges) for value in months]
    assert words[0] == "before 1.1 months" and words[1] == "between 1.1 and 1.2 months"
    assert len(set(words)) == 4
    caplog.clear()
    assert survival_interval(3.0, survival_edges([1.0, 2.0, 3.0, 4.0, 5.0])) == "between 3 and 4 months"
    assert not caplog.text
