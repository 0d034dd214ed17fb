"""Clinical values, the codes that make numbers of them, and whose codes they are."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_utils.tables.ajcc import AJCC_COLUMNS, reduce_text
from data_utils.tables.clinical import (
    AGE,
    ClinicalCodes,
    EncodedClinical,
    RawClinical,
    read_clinical_table,
)
from utils.files import write_json


def table(*rows):
    """``(age, stage, t, n, m)`` of cases a, b, c, ..."""
    index = pd.Index([chr(97 + i) for i in range(len(rows))], name="case_id")
    frame = pd.DataFrame(list(rows), columns=[AGE, *AJCC_COLUMNS], index=index, dtype=object)
    return frame.assign(**{AGE: frame[AGE].astype(float)})


TRAIN = table((40, "I", "T1", "N0", "M0"), (80, "II", "T2", "N0", None), (None, "I", None, "N1", "M0"))
NEW = table((100, "II", "T9", None, "M1"), (None, None, "T1", "N1", "M0"))


# ---------------------------------------------------------------------------- codes
def test_a_new_cohort_is_encoded_with_the_codes_of_the_training(caplog):
    codes = ClinicalCodes.fit(TRAIN, "strict")
    with caplog.at_level("WARNING"):
        features = codes.transform(NEW)
    # Largest age 80, median 60; T1, T2, unknown; N0, N1, unknown; M0, unknown.
    assert features.tolist() == [[1.25, 1, 2, 2, 1], [0.75, 2, 0, 1, 0]]
    assert "1 missing ages set to the median 60" in caplog.text
    assert "ajcc_pathologic_t: ['T9'] get the code of unknown (1 of 2 cases)" in caplog.text
    assert "ajcc_pathologic_m: ['M1']" in caplog.text and "_stage" not in caplog.text


def test_published_codes_have_nan_where_a_training_case_lacked_the_text(caplog):
    codes = ClinicalCodes.fit(TRAIN)
    with caplog.at_level("WARNING"):
        features = codes.transform(NEW)
    # Stage I, Stage II; Nan, T1, T2; N0, N1; M0, Nan. Stage and N have none: the number after the last.
    assert features.tolist() == [[1.25, 1, 0, 2, 1], [0.75, 2, 1, 1, 0]]
    assert "ajcc_pathologic_stage: ['Nan'] get the code of unknown (1 of 2 cases)" in caplog.text


def test_codes_of_raw_texts_from_older_versions_go_on_meaning_the_same():
    older = {"max_age": 80.0, "median_age": 60.0, "codes": {c: {"unknown": 2} for c in AJCC_COLUMNS}}
    older["codes"]["ajcc_pathologic_t"] = {"T1": 0, "T1c": 1, "unknown": 2}
    features = ClinicalCodes.from_dict(older, "older").transform(table((40, None, "T1c", None, None)))
    assert features.tolist() == [[0.5, 2, 1, 2, 2]]


text = st.none() | st.sampled_from(["I", "II", "X", "Stage IIA"])
rows = st.lists(st.tuples(st.none() | st.integers(0, 120), text, text, text, text), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(fitted=rows, encoded=rows, protocol=st.sampled_from(["published", "strict"]))
def test_features_are_finite_and_follow_the_text(fitted, encoded, protocol):
    codes, cases = ClinicalCodes.fit(table(*fitted), protocol), table(*encoded)
    features = codes.transform(cases)
    assert features.shape == (len(encoded), 5) and torch.isfinite(features).all()
    for k, column in enumerate(AJCC_COLUMNS, start=1):
        known = codes.codes[column]
        assert list(known.values()) == list(range(len(known)))
        for row, feature in zip(encoded, features, strict=True):
            category = None if row[k] is None else reduce_text(row[k], column)
            assert feature[k] == known.get(category, known.get(codes.missing, len(known)))


def test_nothing_known(caplog):
    cases = table((None, None, None, None, None), (None, None, None, None, None))
    assert ClinicalCodes.fit(cases).transform(cases).tolist() == [[0.0] * 5] * 2
    assert "no case has an age" in caplog.text


def test_codes_survive_json(tmp_path):
    codes = ClinicalCodes.fit(TRAIN)
    write_json(tmp_path / "codes.json", {"protocol": "strict", **codes.to_dict()})
    read = ClinicalCodes.from_dict(json.loads((tmp_path / "codes.json").read_text()), "codes.json")
    assert read == codes and torch.equal(read.transform(NEW), codes.transform(NEW))


GOOD = ClinicalCodes.fit(TRAIN, "strict").to_dict()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "holds no clinical codes"),
        ({**GOOD, "codes": {}}, "holds no clinical codes"),
        ({**GOOD, "codes": {column: [1] for column in AJCC_COLUMNS}}, "holds no clinical codes"),
        ({**GOOD, "max_age": "old"}, "holds no clinical codes"),
        ({**GOOD, "max_age": 0}, "impossible clinical codes: max_age 0"),
        ({**GOOD, "median_age": float("nan")}, "impossible clinical codes"),
        ({**GOOD, "codes": {column: {"I": 0} for column in AJCC_COLUMNS}}, 'without "unknown"'),
        ({**GOOD, "missing": "?"}, r"missing texts are '\?'"),
    ],
)
def test_bad_codes_name_their_file(content, message):
    with pytest.raises(ValueError, match=rf"^c\.json.*{message}|^c\.json: {message}"):
        ClinicalCodes.from_dict(content, "c.json")


# ---------------------------------------------------------------------------- raw values
def write_csv(path, cases):
    cases.to_csv(path)
    return path


def test_raw_values_are_read_as_they_are(tmp_path):
    raw = read_clinical_table(write_csv(tmp_path / "c.csv", TRAIN))
    assert isinstance(raw, RawClinical) and raw.ids == ["a", "b", "c"]
    pd.testing.assert_frame_equal(raw.values, TRAIN)


def test_codes_come_from_all_cases_or_from_some():
    raw = RawClinical(TRAIN)
    assert raw.fit() == ClinicalCodes.fit(TRAIN)
    assert raw.fit({"b", "elsewhere"}) == ClinicalCodes.fit(TRAIN.loc[["b"]], "strict")
    with pytest.raises(ValueError, match="no training case has clinical features"):
        raw.fit({"elsewhere"})


def test_raw_values_without_codes_say_what_to_do():
    with pytest.raises(ValueError, match=r"hold no clinical codes.*make_clinical --codes"):
        RawClinical(TRAIN).encode(None)


@pytest.mark.parametrize("missing", ["'--", "", "nan", "Not Reported", "None"])
def test_every_way_to_write_missing(tmp_path, missing):
    path = tmp_path / "c.csv"
    path.write_text("case_id,{}\na,{}\n".format(",".join((AGE, *AJCC_COLUMNS)), ",".join([missing] * 5)))
    values = read_clinical_table(path).values
    assert np.isnan(values.at["a", AGE]) and values.loc["a", list(AJCC_COLUMNS)].isna().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="ajcc_pathologic_n"), r"c\.csv lacks the columns \['ajcc_pathologic_n'\]"),
        (lambda t: t.rename(index={"b": "a"}), r"c\.csv: cases stand twice: \['a'\]"),
        (lambda t: t.iloc[:0], r"c\.csv holds no case"),
        (
            lambda t: t.assign(**{AGE: ["40", "old", "3"]}),
            r"age_at_index of case b is no age in years: 'old'",
        ),
        (lambda t: t.assign(**{AGE: [40, 50, -3]}), "age_at_index of case c is no age"),
        (lambda t: t.assign(**{AGE: [np.inf, 50, 3]}), "age_at_index of case a is no age"),
    ],
)
def test_bad_raw_values_are_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        read_clinical_table(write_csv(tmp_path / "c.csv", change(TRAIN)))


def test_no_raw_values(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"c\.csv does not exist; write it with python -m data_utils.mak"
    ):
        read_clinical_table(tmp_path / "c.csv")
    (tmp_path / "c.csv").write_text("")
    with pytest.raises(ValueError, match=r"c\.csv is empty"):
        read_clinical_table(tmp_path / "c.csv")


# ---------------------------------------------------------------------------- published layout
@pytest.fixture
def encoded(tmp_path):
    """``encoded(protocol)``: tensors on disk, with their codes beside them unless protocol is None."""

    def make(protocol="published"):
        codes = ClinicalCodes.fit(TRAIN)
        torch.save(RawClinical(TRAIN).encode(codes), tmp_path / "c.pt")
        if protocol:
            write_json(tmp_path / "c_codes.json", {"protocol": protocol, **codes.to_dict()})
        return read_clinical_table(tmp_path / "c.pt")

    return make


def test_missing_ages_of_published_tensors_become_the_median(tmp_path, caplog):
    rows = {
        c: torch.tensor([age, 1.0, 2.0, 0.0, 1.0])
        for c, age in zip("abcd", [0.5, np.nan, 0.9, 0.6], strict=True)
    }
    torch.save(rows, tmp_path / "c.pt")
    tensors = read_clinical_table(tmp_path / "c.pt").encode(None)
    assert tensors["b"].tolist() == pytest.approx([0.6, 1, 2, 0, 1]) and torch.equal(tensors["a"], rows["a"])
    assert "1 of 4 ages are missing, such as that of b, and set to the median (0.6 of" in caplog.text
    for broken in ([0.5, np.nan, 2.0, 0.0, 1.0], [np.inf, 1.0, 2.0, 0.0, 1.0]):
        torch.save({**rows, "e": torch.tensor(broken)}, tmp_path / "c.pt")
        with pytest.raises(ValueError, match=r"c\.pt: case e holds NaN or infinite values"):
            read_clinical_table(tmp_path / "c.pt")


def test_tensors_stay_as_they_are(encoded):
    data = encoded()
    codes = ClinicalCodes.fit(TRAIN)
    assert isinstance(data, EncodedClinical) and data.ids == ["a", "b", "c"]
    assert data.fit() == codes
    tensors = data.encode(codes)
    assert all(torch.equal(tensors[c], row) for c, row in RawClinical(TRAIN).encode(codes).items())


def test_tensors_of_other_codes_are_refused(encoded):
    with pytest.raises(ValueError, match=r"c\.pt was made with other codes.*pass the raw values .*c\.csv"):
        encoded().encode(ClinicalCodes.fit(NEW))


def test_tensors_of_unknown_codes_are_taken_with_a_warning(encoded, caplog):
    data = encoded(None)
    assert data.fit() is None and set(data.encode(ClinicalCodes.fit(NEW))) == {"a", "b", "c"}
    assert "not known whether its codes are those of the model" in caplog.text


def test_tensors_fitted_on_everyone_are_not_strict(encoded, caplog):
    with pytest.raises(ValueError, match=r"its codes come from all cases; pass the raw values .*c\.csv"):
        encoded("published").fit({"a"})
    assert encoded("strict").fit({"a"}) == ClinicalCodes.fit(TRAIN)


def test_tensors_of_the_wrong_shape(tmp_path):
    torch.save({"a": torch.zeros(4)}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match=r"case a is \(4,\), should be \(5,\)"):
        read_clinical_table(tmp_path / "c.pt")
