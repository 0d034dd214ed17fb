"""Folds neither leak nor forget anybody, drawn here or read from the files of others."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_utils.cases.folds import count_folds, make_folds, read_folds
from data_utils.cases.splits import Patient
from utils.files import FileError


def patient(number, label=0, prefix="case"):
    return Patient(f"{prefix}-{number}", f"TCGA-{number:04d}", "TCGA-TEST", (), label, 5.0, 1)


def ids(patients):
    return [p.case_id for p in patients]


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


@pytest.mark.parametrize("labels", [[], [0] * 3, [0] * 9 + [1] * 3])
def test_too_few_patients_for_the_folds(labels):
    patients = [patient(i, label) for i, label in enumerate(labels)]
    with pytest.raises(ValueError, match="4 folds need as many patients"):
        make_folds(patients, [p.case_id for p in patients], 4, 0)


def test_validation_of_a_few_patients_is_not_stratified(caplog):
    patients = [patient(i, i % 3) for i in range(9)]
    with caplog.at_level("WARNING"):
        folds = make_folds(patients, [p.case_id for p in patients], 3, 0)
    assert all(len(fold["val"]) == 1 for fold in folds) and "too few patients" in caplog.text


# ---------------------------------------------------------------------------- JSON
def test_folds_from_a_file_by_either_name(tmp_path):
    patients = [patient(i) for i in range(4)]
    content = [
        {"train": ["case-0", "TCGA-0001"], "val": ["case-2"], "test": ["TCGA-0003"]},
        {"train": ["case-3"], "val": [], "test": ["case-0"]},
    ]
    (tmp_path / "folds.json").write_text(json.dumps(content))
    first, second = read_folds(tmp_path / "folds.json", patients, (), 0)
    assert [p.case_id for p in first["train"]] == ["case-0", "case-1"]
    assert [p.case_id for p in first["test"]] == ["case-3"] and second["val"] == []
    assert count_folds(tmp_path / "folds.json") == 2


def test_folds_of_rows_are_those_of_names(tmp_path):
    patients = [patient(i) for i in range(3)]
    named = {"train": ["case-0"], "val": ["TCGA-0001"], "test": ["case-2"]}
    rows = {
        "train": [{"case_id": "case-0", "slide_id": "S", "label": 1}],
        "val": [{"submitter_id": "TCGA-0001"}],
        "test": [{"case_id": "case-2"}],
    }
    folds = []
    for name, fold in (("names", named), ("rows", rows)):
        (tmp_path / f"{name}.json").write_text(json.dumps([fold]))
        folds.append(read_folds(tmp_path / f"{name}.json", patients, (), 0))
    assert folds[0] == folds[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            [{"train": [{"slide": "x"}], "val": [], "test": []}],
            "fold 0 has the entry .*slide.*a row with case_id",
        ),
        ([{"train": [7], "val": [], "test": []}], "fold 0 has the entry 7; it should be a case id"),
        ({"train": []}, "should hold a list of folds"),
        ([], "should hold a list of folds"),
        ([{"train": [], "val": []}], r"fold 0 has \['train', 'val'\]"),
        ([["case-0"]], r"fold 0 has \['case-0'\]"),
        ([3], "fold 0 has 3"),
        ([{"train": True, "val": [], "test": []}], "fold 0 holds True where a list belongs"),
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
        read_folds(tmp_path / "folds.json", [patient(i) for i in range(3)], (), 0)


def test_no_fold_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folds\.json"):
        read_folds(tmp_path / "folds.json", [], (), 0)


# ---------------------------------------------------------------------------- SurvPath's CSVs
def write_csv(path, **columns):
    """As SurvPath writes them: an unnamed index, columns of different length."""
    length = max(map(len, columns.values()))
    rows = [
        [str(i), *(names[i] if i < len(names) else "" for names in columns.values())] for i in range(length)
    ]
    path.write_text("\n".join(",".join(row) for row in [["", *columns], *rows]) + "\n")
    return path


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(8, 40),
    tested=st.integers(1, 4),
    without_rna=st.sets(st.integers(0, 39)),
    seed=st.integers(0, 3),
)
def test_the_val_column_is_tested_and_validation_comes_from_training(
    tmp_path_factory, n, tested, without_rna, seed
):
    patients = [patient(i, i % 3 - 1) for i in range(n)]
    barcodes = [p.submitter_id for p in patients]
    eligible = [p.case_id for i, p in enumerate(patients) if i not in without_rna]
    usable = [p for p in patients[tested:] if p.label >= 0 and p.case_id in eligible]
    path = write_csv(
        tmp_path_factory.mktemp("folds") / "a.csv", train=barcodes[tested:], val=barcodes[:tested]
    )
    if len(usable) < 2:
        with pytest.raises(ValueError, match="too few"):
            read_folds(path, patients, eligible, seed)
        return
    (fold,) = read_folds(path, patients, eligible, seed)
    assert ids(fold["test"]) == ids(patients[:tested])
    assert sorted(ids(fold["train"] + fold["val"])) == sorted(ids(patients[tested:]))
    assert len(fold["val"]) == -(-15 * len(usable) // 100) and all(p in usable for p in fold["val"])
    assert [fold] == read_folds(path, patients, eligible, seed)


def test_a_folder_of_csvs_in_the_order_of_their_numbers(tmp_path, caplog):
    patients = [patient(i, i % 2) for i in range(12)]
    barcodes = [p.submitter_id for p in patients]
    for k in range(11):
        write_csv(tmp_path / f"splits_{k}.csv", train=barcodes[:k] + barcodes[k + 1 :], val=[barcodes[k]])
    (tmp_path / "splits_0_bool.csv").write_text("of another tool")
    with caplog.at_level("INFO"):
        folds = read_folds(tmp_path, patients, ids(patients), 0)
    assert count_folds(tmp_path) == len(folds) == 11 and count_folds(tmp_path / "splits_3.csv") == 1
    assert [ids(fold["test"]) for fold in folds] == [[f"case-{k}"] for k in range(11)]
    assert "no test column: its val column (1 patients) is the test set" in caplog.text


def test_a_test_column_is_used(tmp_path):
    patients = [patient(i) for i in range(4)]
    path = write_csv(
        tmp_path / "a.csv", train=["TCGA-0000", "TCGA-0003"], val=["TCGA-0001"], test=["TCGA-0002"]
    )
    (fold,) = read_folds(path, patients, ids(patients), 0)
    assert {name: ids(part) for name, part in fold.items()} == {
        "train": ["case-0", "case-3"],
        "val": ["case-1"],
        "test": ["case-2"],
    }


def test_patients_of_other_cohorts_are_left_out_and_counted(tmp_path, caplog):
    patients = [patient(i) for i in range(4)]
    csv = {"train": ["TCGA-0000", "TCGA-9999"], "val": ["TCGA-0001"], "test": ["TCGA-0002"]}
    with caplog.at_level("INFO"):
        (fold,) = read_folds(write_csv(tmp_path / "a.csv", **csv), patients, ids(patients), 0)
    assert ids(fold["train"]) == ["case-0"]
    assert "1 of its patients are in no split file, 1 of the split files are not in it" in caplog.text


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"train": ["TCGA-0000"], "test": ["TCGA-0001"]}, "should have the columns train and val"),
        ({"train": ["X-1", "X-2"], "val": ["TCGA-0001"]}, "names 2 patients that are in no split file.*X-1"),
        ({"train": ["TCGA-0000"], "val": ["TCGA-0000"]}, "case-0 is in the splits train and val"),
        ({"train": ["TCGA-0000", "case-0"], "val": ["TCGA-0001"]}, "names a patient twice in train"),
    ],
)
def test_bad_csvs(tmp_path, columns, message):
    write_csv(tmp_path / "splits_0.csv", **columns)
    patients = [patient(i) for i in range(3)]
    with pytest.raises(ValueError, match=message):
        read_folds(tmp_path, patients, ids(patients), 0)


def test_no_csv_at_all(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no splits_0\.csv"):
        count_folds(tmp_path)
    (tmp_path / "empty.csv").touch()
    with pytest.raises(ValueError, match=r"empty\.csv is empty"):
        read_folds(tmp_path / "empty.csv", [patient(0)], (), 0)


# ---------------------------------------------------------------------------- files that could be misread
def test_a_comma_at_every_row_end_shifts_nothing(tmp_path):
    patients = [patient(i, i % 2) for i in range(8)]
    rows = [
        f"{i},{patients[i].submitter_id},{patients[6 + i].submitter_id if i < 2 else ''}" for i in range(6)
    ]
    (tmp_path / "splits_0.csv").write_text("\n".join([",train,val", *(f"{row}," for row in rows)]))
    (fold,) = read_folds(tmp_path, patients, ids(patients), 0)
    assert ids(fold["test"]) == ["case-6", "case-7"]
    assert sorted(ids(fold["train"]) + ids(fold["val"])) == [f"case-{i}" for i in range(6)]


def test_two_names_of_one_fold_and_empty_columns_are_refused(tmp_path):
    (tmp_path / "splits_0.csv").write_text(",train,val\n0,TCGA-0001,\n")
    with pytest.raises(ValueError, match=r"splits_0\.csv: nobody is in val"):
        read_folds(tmp_path, [patient(1)], ["case-1"], 0)
    (tmp_path / "splits_00.csv").write_text(",train,val\n0,TCGA-0001,TCGA-0002\n")
    with pytest.raises(ValueError, match=r"splits_0\.csv and .*splits_00\.csv are the same fold"):
        count_folds(tmp_path)


def test_without_classes_folds_are_stratified_by_event():
    patients = [patient(i, -1) for i in range(20)]
    folds = make_folds(patients, [p.case_id for p in patients], 4, seed=0)
    assert sorted(p.case_id for fold in folds for p in fold["test"]) == sorted(p.case_id for p in patients)
    events = sum(p.event for p in patients)
    assert all(abs(sum(p.event for p in fold["test"]) - events / 4) < 1 for fold in folds)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tcga-aa-0003", "'tcga-aa-0003' and 'TCGA-AA-0003' differ in upper and lower case"),
        ("TCGA-AA-0003-01A", "'TCGA-AA-0003-01A' is a sample of the patient 'TCGA-AA-0003'"),
        ("CASE-3", "'CASE-3' and 'case-3' differ in upper and lower case"),
    ],
)
def test_patients_under_other_names_are_not_left_out(tmp_path, name, words):
    """Patients of other cohorts are; these were meant."""
    patients = [replace(patient(n), submitter_id=f"TCGA-AA-{n:04d}") for n in range(8)]
    path = write_csv(tmp_path / "a.csv", train=["case-0", "case-1", name], val=["case-4"], test=["case-5"])
    with pytest.raises(FileError, match=rf"a\.csv: {words}"):
        read_folds(path, patients, ids(patients), 0)
