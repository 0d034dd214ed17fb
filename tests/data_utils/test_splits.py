"""Split files become patients; folds neither leak nor forget anybody."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_utils.splits import (
    Patient,
    check_disjoint,
    make_folds,
    read_folds,
    read_split,
    resolve_features_path,
)
from tests.small_cohort import split_row
from utils import constants


def write_split(path, *rows):
    path.write_text(json.dumps({"data": list(rows)}), encoding="utf-8")
    return path


def patient(number, label=0, prefix="case"):
    return Patient(f"{prefix}-{number}", f"TCGA-{number:04d}", "TCGA-TEST", (), label, 5.0, 1)


# ---------------------------------------------------------------------------- reading
def test_slides_of_a_patient_are_joined_in_order(tmp_path):
    rows = [
        split_row(2, 1, "/features/b.h5", 1),
        split_row(1, 0, "/features/c.h5", 0, durations=12.5, vital_status=1),
        split_row(2, 0, "/features/a.h5", 1),
    ]
    two, one = read_split(write_split(tmp_path / "train.json", *rows))
    assert (two.case_id, one.case_id) == ("case-2", "case-1")
    assert [path.as_posix() for path in two.slides] == ["/features/b.h5", "/features/a.h5"]
    assert one == Patient("case-1", "TCGA-AA-0001", "TCGA-TEST", one.slides, 0, 12.5, 1)
    assert isinstance(one.label, int) and isinstance(one.event, int) and isinstance(one.duration, float)


def test_paths_are_resolved(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "DATABASE_ROOT", tmp_path / "base")
    monkeypatch.setattr(constants, "FEATURES_ROOT", tmp_path / "features")
    assert resolve_features_path("PATHTODATABASE/TCGA/a.pt") == tmp_path / "base" / "TCGA" / "a.pt"
    assert resolve_features_path("gigapath/a.h5") == tmp_path / "features" / "gigapath" / "a.h5"
    assert resolve_features_path("/elsewhere/a.h5").as_posix() == "/elsewhere/a.h5"


@pytest.mark.parametrize("value", [0, -1, 0.0])
def test_zeros_are_values(tmp_path, value):
    row = split_row(1, 0, "/a.h5", value, durations=0.0, vital_status=0)
    (one,) = read_split(write_split(tmp_path / "s.json", row))
    assert (one.label, one.duration, one.event) == (value, 0.0, 0)


def test_a_split_may_be_empty(tmp_path):
    assert read_split(write_split(tmp_path / "s.json")) == []


def test_missing_split_says_what_writes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json.*make_dataset"):
        read_split(tmp_path / "nowhere.json")


@pytest.mark.parametrize("content", ["[]", '{"rows": [1]}', '{"data": {"a": 1}}', "3", "null"])
def test_other_layouts_are_refused(tmp_path, content):
    path = tmp_path / "s.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"s\.json should hold"):
        read_split(path)


def test_a_row_that_is_no_object_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"s\.json: row 1 is 'x'"):
        read_split(write_split(tmp_path / "s.json", split_row(1, 0, "/a.h5", 0), "x"))


def test_no_json_names_the_file(tmp_path):
    (tmp_path / "s.json").write_text("{'data'")
    with pytest.raises(ValueError, match=r"s\.json is not valid JSON"):
        read_split(tmp_path / "s.json")


@pytest.mark.parametrize("field", ["case_id", "primary_class", "durations", "features_path", "project_id"])
@pytest.mark.parametrize("missing", ["absent", "null"])
def test_missing_fields_name_row_and_slide(tmp_path, field, missing):
    row = split_row(3, 1, "/b.h5", 0)
    if missing == "absent":
        del row[field]
    else:
        row[field] = None
    path = write_split(tmp_path / "s.json", split_row(1, 0, "/a.h5", 0), row)
    with pytest.raises(ValueError, match=rf"s\.json: row 1 \(TCGA-AA-0003-01Z-00-DX1\) lacks \['{field}'\]"):
        read_split(path)


@pytest.mark.parametrize("field", ["case_submitter_id", "primary_class", "durations", "vital_status"])
def test_contradicting_slides_are_refused(tmp_path, field):
    other = split_row(1, 1, "/b.h5", 0)
    other[field] = "TCGA-ZZ-9999" if field == "case_submitter_id" else 99
    path = write_split(tmp_path / "s.json", split_row(1, 0, "/a.h5", 0), other)
    with pytest.raises(ValueError, match=rf"case case-1 disagree on {field}"):
        read_split(path)


def test_a_slide_twice_is_refused(tmp_path):
    row = split_row(1, 0, "/a.h5", 0)
    with pytest.raises(ValueError, match="a slide of case case-1 stands twice"):
        read_split(write_split(tmp_path / "s.json", row, row))


def test_a_patient_in_two_splits_is_refused():
    splits = {"train": [patient(1), patient(2)], "val": [patient(3)], "test": [patient(2)]}
    with pytest.raises(ValueError, match="case-2 is in the splits train and test"):
        check_disjoint(splits)
    check_disjoint({"train": [patient(1)], "val": [patient(2)], "test": []})


# ---------------------------------------------------------------------------- folds
@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(5, 25), min_size=1, max_size=3),
    unscored=st.integers(0, 6),
    without_rna=st.integers(0, 6),
    num_folds=st.integers(2, 5),
    seed=st.integers(0, 5),
)
def test_every_scored_patient_is_tested_once(sizes, unscored, without_rna, num_folds, seed):
    labels = [label for label, size in enumerate(sizes) for _ in range(size)] + [-1] * unscored
    scored = [patient(i, label) for i, label in enumerate(labels)]
    others = [patient(i, 0, "no-rna") for i in range(without_rna)]
    folds = make_folds(scored + others, [p.case_id for p in scored], num_folds, seed)
    assert len(folds) == num_folds
    tested = Counter(p.case_id for fold in folds for p in fold["test"])
    assert tested == {p.case_id: 1 for p in scored if p.label >= 0}
    for fold in folds:
        everyone = [p.case_id for split in fold.values() for p in split]
        assert sorted(everyone) == sorted(p.case_id for p in scored + others)  # each once: nothing leaks
        assert all(p.label >= 0 and p in scored for p in fold["val"] + fold["test"])
        left = sum(sizes) - len(fold["test"])
        assert len(fold["val"]) == -(-15 * left // 100)
        for label, size in enumerate(sizes):
            assert abs(sum(p.label == label for p in fold["test"]) - size / num_folds) <= 1


def test_folds_follow_the_seed():
    patients = [patient(i, i % 2) for i in range(40)]
    ids = [p.case_id for p in patients]
    first, again, other = (make_folds(patients, ids, 4, seed) for seed in (0, 0, 1))
    assert first == again
    for part in ("val", "test"):
        assert [fold[part] for fold in first] != [fold[part] for fold in other]


@pytest.mark.parametrize("labels", [[], [0] * 3, [0] * 9 + [1] * 3, [-1] * 20])
def test_too_few_patients_for_the_folds(labels):
    patients = [patient(i, label) for i, label in enumerate(labels)]
    with pytest.raises(ValueError, match="4 folds need as many patients"):
        make_folds(patients, [p.case_id for p in patients], 4, 0)


def test_validation_of_a_few_patients_is_not_stratified(caplog):
    patients = [patient(i, i % 3) for i in range(9)]
    with caplog.at_level("WARNING"):
        folds = make_folds(patients, [p.case_id for p in patients], 3, 0)
    assert all(len(fold["val"]) == 1 for fold in folds) and "too few patients" in caplog.text


def test_folds_from_a_file_by_either_name(tmp_path):
    patients = [patient(i) for i in range(4)]
    content = [
        {"train": ["case-0", "TCGA-0001"], "val": ["case-2"], "test": ["TCGA-0003"]},
        {"train": ["case-3"], "val": [], "test": ["case-0"]},
    ]
    (tmp_path / "folds.json").write_text(json.dumps(content))
    first, second = read_folds(tmp_path / "folds.json", patients)
    assert [p.case_id for p in first["train"]] == ["case-0", "case-1"]
    assert [p.case_id for p in first["test"]] == ["case-3"] and second["val"] == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": []}, "should hold a list of folds"),
        ([], "should hold a list of folds"),
        ([{"train": [], "val": []}], r"fold 0 has \['train', 'val'\]"),
        ([["case-0"]], r"fold 0 has \['case-0'\]"),
        ([3], "fold 0 has 3"),
        (
            [{"train": ["case-9"], "val": [], "test": []}],
            "names 1 patients that are in no split file.*case-9",
        ),
        ([{"train": ["case-1"], "val": [], "test": ["TCGA-0001"]}], "case-1 is in the splits train and test"),
        (
            [{"train": ["case-1", "TCGA-0001"], "val": [], "test": []}],
            "fold 0 names a patient twice in train",
        ),
    ],
)
def test_bad_fold_files(tmp_path, content, message):
    (tmp_path / "folds.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_folds(tmp_path / "folds.json", [patient(i) for i in range(3)])


def test_no_fold_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folds\.json"):
        read_folds(tmp_path / "folds.json", [])
