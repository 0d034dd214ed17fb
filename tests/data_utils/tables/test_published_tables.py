"""Raw clinical rows, the four sentences and the five codes that belong to them: a table, and a second opinion."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_utils.tables.ajcc import AJCC_COLUMNS, OWN_CATEGORIES, PUBLISHED_CATEGORIES, M, N, T
from data_utils.tables.clinical import AGE, ClinicalCodes
from data_utils.tables.cohorts import load_cohort
from data_utils.tables.gdc import read_split_cases, split_paths
from data_utils.tables.label_sentences import WORDS, build_sentences, candidate_sentences, survival_edges
from tests.data_utils.tables import published

# Quartile edges of the 17 survival times below are exactly 8, 16, 24 and 32 months; 8, 16, 24 and 32 lie on one.
COLUMNS = ("diagnosis", *AJCC_COLUMNS, "months", "died", "age")
TABLE = [
    # diagnosis, stage, T, N, M, months, died, age, then the words and the codes they become
    (
        ("lobular carcinoma", "Stage IA", "Tis", "N0 (i-)", "cM0 (i+)", 0, 1, 50),
        ("stage one", "no tumor detected", "cancer has not spread to lymph nodes", "no metastasis detected"),
        ("died before 8 months", [0.5, 1, 1, 0, 0]),
    ),
    (
        ("lobular carcinoma", "Stage IIB", "T1c", "N1mi", "M1", 2, 0, 100),
        ("stage two", "tumor stage one", "node stage one", "cancer has spread to distant organs"),
        ("was censored before 8 months", [1.0, 2, 2, 1, 1]),
    ),
    (
        ("metaplastic carcinoma", "Stage IIIC", "T2a", "N2b", "MX", 4, 1, 25),
        ("stage three", "tumor stage two", "node stage two", "metastasis status cannot be assessed"),
        ("died before 8 months", [0.25, 3, 3, 2, 2]),
    ),
    (
        ("metaplastic carcinoma", "Stage IV", "T3b", "N3c", None, 7.9, 0, 75),
        ("stage four", "tumor stage three", "node stage three", None),
        ("was censored before 8 months", [0.75, 4, 4, 3, 3]),
    ),
    (
        ("phyllodes tumor, malignant", "Stage X", "T4d", "NX", "M0", 8, 1, 50),
        ("stage cannot be determined", "tumor stage four", "node spread cannot be assessed", "no metastasis detected"),
        ("died between 8 and 16 months", [0.5, 5, 5, 4, 0]),
    ),
    (
        (None, None, "TX", None, "M1a", 8.1, 0, 50),
        (None, "tumor stage cannot be assessed", None, "cancer has spread to distant organs"),
        ("was censored between 8 and 16 months", [0.5, 0, 6, 5, 1]),
    ),
    (
        ("carcinoma", "Stage III", None, "N0 (mol+)", "M0", 10, 1, 50),
        ("stage three", None, "cancer has not spread to lymph nodes", "no metastasis detected"),
        ("died between 8 and 16 months", [0.5, 3, 0, 0, 0]),
    ),
    (
        ("carcinoma", "Stage II", "T0", "N1a", "M1b", 15.9, 0, 50),
        ("stage two", "no tumor detected", "node stage one", "cancer has spread to distant organs"),
        ("was censored between 8 and 16 months", [0.5, 2, 1, 1, 1]),
    ),
    (
        ("carcinoma", "Stage IVB", "T4", "N3", "M1", 16, 1, 50),
        ("stage four", "tumor stage four", "node stage three", "cancer has spread to distant organs"),
        ("died between 16 and 24 months", [0.5, 4, 5, 3, 1]),
    ),
    (
        ("carcinoma", "Stage I", "T1", "N0", "M0", 16.1, 0, 50),
        ("stage one", "tumor stage one", "cancer has not spread to lymph nodes", "no metastasis detected"),
        ("was censored between 16 and 24 months", [0.5, 1, 2, 0, 0]),
    ),
    (
        ("carcinoma", "Stage IIIB", "T2", "N1c", "M0", 18, 1, 50),
        ("stage three", "tumor stage two", "node stage one", "no metastasis detected"),
        ("died between 16 and 24 months", [0.5, 3, 3, 1, 0]),
    ),
    (
        ("carcinoma", "Stage IB", "T1a", "N0 (i+)", "MX", 23.9, 0, 50),
        (
            "stage one",
            "tumor stage one",
            "cancer has not spread to lymph nodes",
            "metastasis status cannot be assessed",
        ),
        ("was censored between 16 and 24 months", [0.5, 1, 2, 0, 2]),
    ),
    (
        ("carcinoma", "Stage IIA", "T3", "N2", "M0", 24, 1, 50),
        ("stage two", "tumor stage three", "node stage two", "no metastasis detected"),
        ("died between 24 and 32 months", [0.5, 2, 4, 2, 0]),
    ),
    (
        ("carcinoma", "Stage IIIA", "T4b", "N2a", "M0", 24.1, 0, 50),
        ("stage three", "tumor stage four", "node stage two", "no metastasis detected"),
        ("was censored between 24 and 32 months", [0.5, 3, 5, 2, 0]),
    ),
    (
        ("carcinoma", "Stage IIC", "T2b", "N1b", "M0", 26, 1, 50),
        ("stage two", "tumor stage two", "node stage one", "no metastasis detected"),
        ("died between 24 and 32 months", [0.5, 2, 3, 1, 0]),
    ),
    (
        ("carcinoma", "Stage IVA", "T4a", "N3b", "M1b", 31.9, 0, 50),
        ("stage four", "tumor stage four", "node stage three", "cancer has spread to distant organs"),
        ("was censored between 24 and 32 months", [0.5, 4, 5, 3, 1]),
    ),
    (
        ("carcinoma", "Stage II", "T1b", "N3a", "M0", 32, 1, 50),
        ("stage two", "tumor stage one", "node stage three", "no metastasis detected"),
        ("died between 24 and 32 months", [0.5, 2, 2, 3, 0]),
    ),
]  # fmt: skip


def as_cases(rows: list[tuple]) -> pd.DataFrame:
    """The rows as ``read_split_cases`` gives them."""
    table = pd.DataFrame(rows, columns=COLUMNS, dtype=object)
    table = table.rename(
        columns={"diagnosis": "primary_diagnosis", "months": "durations", "died": "vital_status"}
    )
    table[AGE] = table.pop("age").astype(float)
    return table.assign(case_submitter_id=[f"case {i}" for i in range(len(rows))])


ROWS = [row for row, _, _ in TABLE]


def test_edges_of_the_table_are_whole_months() -> None:
    assert survival_edges([row[5] for row in ROWS]) == (0, 8, 16, 24, 32)


def test_every_published_category_is_in_the_table() -> None:
    for k, (column, part) in enumerate(zip(AJCC_COLUMNS, published.REMOVED, strict=True), start=1):
        shown = {published.reduced(row[k], part) for row in ROWS}
        assert shown == {*PUBLISHED_CATEGORIES[column], "Nan"}


@pytest.mark.parametrize("number", range(len(TABLE)))
def test_sentences_of_the_table(number: int) -> None:
    row, (stage, t, n, m), (fate, _) = TABLE[number]
    where = "Cancer location: breast;"
    what = f"Cancer diagnosis: {row[0]};" if row[0] else ""
    spread = " ".join(
        [
            f"Overall stage: {stage};" if stage else "",
            f"Tumor stage status: {t};" if t else "",
            f"Lymph node status: {n};" if n else "",
            f"Distant metastasis status: {m};" if m else "",
        ]
    )
    end = f"Survival status: The patient {fate}"
    (case,) = as_cases([row]).to_dict("records")
    assert list(build_sentences(case, "breast", (0, 8, 16, 24, 32)).values()) == [
        f"{where} {what} {spread} {end}",
        f"{where} {what}",
        f"{where} {spread}",
        f"{where} {spread} {end}",
    ]


def test_codes_of_the_table() -> None:
    cases = as_cases(ROWS)
    codes = ClinicalCodes.fit(cases)
    assert codes.transform(cases).tolist() == [code for _, _, (_, code) in TABLE]
    assert list(codes.codes[T]) == ["Nan", "T0", "T1", "T2", "T3", "T4", "TX"]
    assert list(codes.codes[N]) == ["N0", "N1", "N2", "N3", "NX", "Nan"]
    assert list(codes.codes[M]) == ["M0", "M1", "MX", "Nan"]


# ---------------------------------------------------------------------------- the second opinion
STAGES = ["Stage X", *(f"Stage {n}{sub}" for n in ("I", "II", "III", "IV") for sub in ("", "A", "B", "C"))]
TS = ["Tis", "T0", "TX", *(f"T{n}{sub}" for n in "1234" for sub in ("", "a", "b", "c", "d"))]
NS = ["NX", "N0 (i-)", "N0 (i+)", "N0 (mol+)", "N1mi"]
NS += [f"N{n}{sub}" for n in "0123" for sub in ("", "a", "b", "c")]
MS = ["MX", "M0", "cM0 (i+)", "M1", "M1a", "M1b"]
rows = st.tuples(
    st.none() | st.sampled_from(["lobular carcinoma", "metaplastic carcinoma"]),
    *(st.none() | st.sampled_from(texts) for texts in (STAGES, TS, NS, MS)),
    # Few different times, so that many lie on an edge.
    st.integers(0, 12) | st.floats(0, 300),
    st.integers(0, 1),
    st.integers(1, 90),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(rows, min_size=1, max_size=25))
def test_any_cohort_agrees_with_the_second_opinion(drawn: list[tuple]) -> None:
    cases = as_cases(drawn)
    edges = survival_edges(cases["durations"].tolist())
    assert edges == pytest.approx(published.quartiles([float(row[5]) for row in drawn]))
    for row, case in zip(drawn, cases.to_dict("records"), strict=True):
        expected = published.sentences("breast", row[0], row[1:5], row[5], row[6] == 1, edges)
        found = list(build_sentences(case, "breast", edges).values())
        if len({round(edge) for edge in edges}) < len(edges):  # the published words would be alike
            found, expected = (
                [text.partition(" Survival status")[0] for text in part] for part in (found, expected)
            )
        assert found == expected
    columns = [
        published.codes([row[k] for row in drawn], part) for k, part in enumerate(published.REMOVED, start=1)
    ]
    features = ClinicalCodes.fit(cases).transform(cases).tolist()
    assert [feature[1:] for feature in features] == [list(codes) for codes in zip(*columns, strict=True)]
    assert [feature[0] for feature in features] == pytest.approx(
        [row[7] / max(row[7] for row in drawn) for row in drawn]
    )


def test_strict_differs_in_what_it_is_fitted_on_only() -> None:
    cases, train = as_cases(ROWS), as_cases(ROWS[:6])
    strict = ClinicalCodes.fit(train, "strict")
    assert strict.codes[T] == {"T0": 0, "T1": 1, "T2": 2, "T3": 3, "T4": 4, "TX": 5, "unknown": 6}
    assert strict.codes[M] == {"M0": 0, "M1": 1, "MX": 2, "unknown": 3}
    features = strict.transform(cases).numpy()
    assert features[:6, 2].tolist() == [0, 1, 2, 3, 4, 5] and features[6, 2] == 6
    edges = survival_edges(train["durations"].tolist())
    assert edges == tuple(np.quantile([row[5] for row in ROWS[:6]], (0, 0.25, 0.5, 0.75, 1)))


# ---------------------------------------------------------------------------- what only we know
def test_every_category_has_words() -> None:
    for column in AJCC_COLUMNS:
        assert set(WORDS[column]) == {*PUBLISHED_CATEGORIES[column], *OWN_CATEGORIES[column]}
        own = {WORDS[column][text] for text in OWN_CATEGORIES[column]}
        assert not own & set(published.WORDS.values())


def test_own_categories_have_codes_of_their_own(caplog: pytest.LogCaptureFixture) -> None:
    cases = as_cases([("x", stage, t, "N0", "M0", 1, 1, 50) for stage, t in
                      [("Stage 0a", "Ta"), ("Stage I", "T1"), ("Stage IS", "TX"), ("Stage 0is", "pT1")]])  # fmt: skip
    with caplog.at_level("WARNING"):
        codes = ClinicalCodes.fit(cases)
    assert list(codes.codes["ajcc_pathologic_stage"]) == ["Stage 0", "Stage I", "Stage IS"]
    assert list(codes.codes[T]) == ["T1", "TX", "Ta"]
    assert "['Stage IS'] name no AJCC category" in caplog.text


# ---------------------------------------------------------------------------- published split files
@pytest.mark.parametrize(
    ("onco", "project", "diagnoses"),
    [
        ("GBMLGG", "TCGA-LGG", {"oligodendroglioma, anaplastic": 1, "astrocytoma, anaplastic": 1}),
        ("NSCLC", "TCGA-LUAD", {"lung bronchiolo-alveolar carcinoma, mucinous": -1, "lung adenocarcinoma": 0}),
        # A class member that the definition of the cohort does not name.
        ("BLCA", "TCGA-BLCA", {"micropapillary carcinoma": 1}),
    ],
)  # fmt: skip
def test_candidates_hold_the_diagnosis_of_every_patient(
    tmp_path: Path, onco: str, project: str, diagnoses: dict[str, int]
) -> None:
    rows = [
        {
            "case_id": name, "case_submitter_id": name, "project_id": project, "primary_diagnosis": name,
            "primary_class": label, "durations": 3.0, "vital_status": 1, "age_at_index": float("nan"),
        }
        for name, label in diagnoses.items()
    ]  # fmt: skip
    paths = split_paths(onco, folder=tmp_path)
    for split, path in paths.items():
        path.write_text(json.dumps({"data": rows if split == "train" else []}))
    cases, cohort = read_split_cases(paths), load_cohort(onco)
    edges = survival_edges(cases["durations"].tolist())
    candidates = candidate_sentences(
        cohort, edges, set(zip(cases["primary_class"], cases["primary_diagnosis"], strict=True))
    )
    for case in cases.to_dict("records"):
        label = case["primary_class"]
        sentence = build_sentences(case, cohort.site, edges)["diagnosis"]
        assert sentence == f"Cancer location: {cohort.site}; Cancer diagnosis: {case['primary_diagnosis']};"
        assert candidates[f"class_{label}" if label >= 0 else "other"].count(sentence) == 1


def test_a_class_that_the_cohort_does_not_have() -> None:
    with pytest.raises(
        ValueError, match="'glioma' is of class 2 in the split files; cohort BRCA has 2 classes"
    ):
        candidate_sentences(load_cohort("BRCA"), (0, 1, 2, 3, 4), {(2, "glioma")})
