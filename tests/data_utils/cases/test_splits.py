"""Split files, ours and published, become patients; what is wrong with a file is named."""

import json
from dataclasses import replace

import numpy as np
import pytest

from data_utils.cases.splits import Patient, check_disjoint, read_split, resolve_features_path
from data_utils.features.folder import FeatureFolder
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
    slide_ids = ("TCGA-AA-0001-01Z-00-DX0",)
    assert one == Patient(
        "case-1", "TCGA-AA-0001", "TCGA-TEST", one.slides, 0, 12.5, 1, "", slide_ids, "type 0"
    )
    assert isinstance(one.label, int) and isinstance(one.event, int) and isinstance(one.duration, float)


def test_paths_are_resolved(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "DATABASE_ROOT", tmp_path / "base")
    monkeypatch.setattr(constants, "FEATURES_ROOT", tmp_path / "features")
    assert resolve_features_path("PATHTODATABASE/TCGA/a.pt") == tmp_path / "base" / "TCGA" / "a.pt"
    assert resolve_features_path("gigapath/a.h5") == tmp_path / "features" / "gigapath" / "a.h5"
    assert resolve_features_path("/elsewhere/a.h5").as_posix() == "/elsewhere/a.h5"


def test_a_published_row_is_read_unchanged(tmp_path, monkeypatch):
    """Field by field what published split files hold: more fields than needed, and a placeholder in paths."""
    monkeypatch.setattr(constants, "DATABASE_ROOT", tmp_path)
    row = {
        "case_id": "93ed6066-b567-4e1c-ab81-23370f9d3452",
        "age_at_index": 62,
        "vital_status": 0,
        "ajcc_pathologic_stage": "Stage IIA",
        "primary_diagnosis": "infiltrating duct carcinoma",
        "year_of_diagnosis": "2008",
        "slide_submitter_id": "TCGA-BH-A0AY-01Z-00-DX1",
        "durations": 25.52562417871222,
        "patches_path": "PATHTODATABASE/TCGA-extractedpatches/TCGA-BH-A0AY-01Z-00-DX1_patches.pt",
        "features_path": "PATHTODATABASE/TCGA-extractedfeatures/ProvGigapath/TCGA-BH-A0AY-01Z-00-DX1_featvec.pt",
        "project_id": "TCGA-BRCA",
        "primary_class": 0,
        "case_submitter_id": "TCGA-BH-A0AY",
        "gene_availability": 1,
    }
    (one,) = read_split(write_split(tmp_path / "train_brca_cls_feat.json", row))
    assert (one.submitter_id, one.label, one.duration, one.event) == ("TCGA-BH-A0AY", 0, row["durations"], 0)
    (slide,) = one.slides
    assert (
        slide == tmp_path / "TCGA-extractedfeatures" / "ProvGigapath" / "TCGA-BH-A0AY-01Z-00-DX1_featvec.pt"
    )


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


@pytest.mark.parametrize(
    ("field", "missing"),
    [
        (field, missing)
        for field in ("case_id", "primary_class", "durations", "features_path", "project_id")
        for missing in ("absent", "null")
        if missing == "absent" or field not in ("primary_class", "durations")
    ],
)
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
    other[field] = {"case_submitter_id": "TCGA-ZZ-9999", "vital_status": 1 - other["vital_status"]}.get(
        field, 99
    )
    path = write_split(tmp_path / "s.json", split_row(1, 0, "/a.h5", 0), other)
    with pytest.raises(ValueError, match=rf"case case-1 disagree on {field}"):
        read_split(path)


def test_a_slide_twice_is_refused(tmp_path):
    row = split_row(1, 0, "/a.h5", 0)
    with pytest.raises(ValueError, match="a slide of case case-1 stands twice"):
        read_split(write_split(tmp_path / "s.json", row, row))


def test_spellings_that_differ_in_case_only_are_refused(tmp_path):
    rows = [split_row(1, 0, "/a.h5", 0), split_row(2, 0, "/b.h5", 0, case_id="CASE-1 ")]
    with pytest.raises(ValueError, match="case_id 'case-1' and 'CASE-1' differ in case or dashes only"):
        read_split(write_split(tmp_path / "s.json", *rows))
    rows[1] = split_row(2, 0, "/b.h5", 0, case_id="case\u20111")
    with pytest.raises(ValueError, match="differ in case or dashes only"):
        read_split(write_split(tmp_path / "s.json", *rows))
    rows = [split_row(1, 0, "/a.h5", 0), split_row(1, 1, "/b.h5", 0, case_id=" case-1 ")]
    assert [p.case_id for p in read_split(write_split(tmp_path / "s.json", *rows))] == ["case-1"]


def test_a_slide_of_two_patients_or_splits_is_refused(tmp_path):
    one = replace(patient(1), slides=(tmp_path / "a.h5",))
    same_file = replace(patient(2), slides=one.slides)
    same_name = replace(patient(2), slide_ids=("S",))
    with pytest.raises(ValueError, match=r"feature file .* is in the splits train and test"):
        check_disjoint({"train": [one], "val": [], "test": [same_file]})
    with pytest.raises(ValueError, match="slide S belongs to the cases case-1 and case-2"):
        check_disjoint({"train": [replace(one, slide_ids=("S",)), same_name]})
    with pytest.raises(
        ValueError, match=r"barcode .* is in the splits train and val \(cases case-1 and case-2\)"
    ):
        check_disjoint({"train": [one], "val": [replace(patient(2), submitter_id=one.submitter_id)]})


def test_a_patient_in_two_splits_is_refused():
    splits = {"train": [patient(1), patient(2)], "val": [patient(3)], "test": [patient(2)]}
    with pytest.raises(ValueError, match="case-2 is in the splits train and test"):
        check_disjoint(splits)
    other = replace(patient(2), case_id="CASE\u20112", slide_ids=("X",), submitter_id="X", slides=())
    with pytest.raises(ValueError, match=r"is in the splits train and test"):
        check_disjoint({"train": [patient(2)], "val": [], "test": [other]})
    check_disjoint({"train": [patient(1)], "val": [patient(2)], "test": []})


# ---------------------------------------------------------------------------- --features_dir
def test_a_folder_replaces_every_path(tmp_path, caplog):
    folder = tmp_path / "features"
    folder.mkdir()
    (folder / "a.npy").touch()
    (folder / "TCGA-AA-0002-01Z-00-DX0.h5").touch()
    rows = [
        split_row(1, 0, "PATHTODATABASE/somewhere/a.pt", 0),
        {k: v for k, v in split_row(2, 0, "", 1).items() if k != "features_path"},
        split_row(3, 0, "/gone/c.pt", 0),
        {k: v for k, v in split_row(4, 0, "", 1).items() if k != "features_path"},
    ]
    path = write_split(tmp_path / "s.json", *rows)
    with caplog.at_level("WARNING"):
        patients = read_split(path, FeatureFolder(folder))
    names = ["a.npy", "TCGA-AA-0002-01Z-00-DX0.h5", "c.pt", "TCGA-AA-0004-01Z-00-DX0.h5"]
    assert [p.slides for p in patients] == [(folder / name,) for name in names]
    assert "2 slides are not in" in caplog.text and "c.pt" in caplog.text and "0004" in caplog.text
    with pytest.raises(ValueError, match=r"row 1 .*lacks \['features_path'\]"):
        read_split(path)


def test_labels_may_be_null(tmp_path):
    rows = [split_row(n, 0, f"/{n}.h5", 0) for n in range(3)]
    rows[1]["primary_class"] = None
    rows[2] |= {"durations": None, "vital_status": None}
    known, no_class, no_survival = read_split(write_split(tmp_path / "s.json", *rows))
    assert (known.label, no_class.label, no_survival.label) == (0, -1, 0)
    assert np.isnan(no_survival.duration)
    assert no_survival.event == 0
    for half in ("durations", "vital_status"):
        rows[2] |= {"durations": 3.0, "vital_status": 1} | {half: None}
        with pytest.raises(ValueError, match=rf"{half} is 'None'; .* has null for both"):
            read_split(write_split(tmp_path / "s.json", *rows))
