"""Splits that contradict each other, or hold normal tissue, are doubted; sound ones are not."""

import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_utils.cases.cohort_data import CohortData
from data_utils.cases.doubts import doubts
from data_utils.cases.splits import Patient
from tests.small_cohort import make_small_cohort
from utils import constants
from utils.barcodes import patient_of

DIAGNOSES = ("duct", "lobular", "mucinous")


def patient(number, generator, **changes):
    """One of four dies; the third diagnosis is of the second class."""
    kind = int(generator.integers(3))
    own = {
        "case_id": f"case-{number}",
        "submitter_id": f"TCGA-AA-{number:04d}",
        "project_id": "TCGA-BRCA",
        "slides": (Path(f"{number}.h5"),),
        "label": min(kind, 1),
        "duration": float(generator.exponential(40)),
        "event": int(generator.random() < 0.25),
        "slide_ids": (f"TCGA-AA-{number:04d}-01Z-00-DX1",),
        "diagnosis": DIAGNOSES[kind],
    }
    return Patient(**{**own, **changes})


def cohort(seed=0, sizes=(60, 12, 18)):
    generator = np.random.default_rng(seed)
    numbers = iter(range(sum(sizes)))
    return {
        split: [patient(next(numbers), generator) for _ in range(size)]
        for split, size in zip(constants.SPLITS, sizes, strict=True)
    }


def changed(splits, name, change):
    return {**splits, name: [change(p) for p in splits[name]]}


def test_cohorts_drawn_at_random_are_hardly_ever_doubted():
    """Three tests of events at one in a thousand each: 0.12 of 40 cohorts are expected."""
    assert sum(bool(list(doubts(cohort(seed)))) for seed in range(40)) <= 1


@pytest.mark.parametrize("name", constants.SPLITS)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: replace(p, event=1 - p.event), "inverted"),
        (lambda p: replace(p, duration=p.duration * 30.44), "another unit"),
        (lambda p: replace(p, duration=p.duration / 12), "another unit"),
        (lambda p: replace(p, label=1 - p.label), "of another class"),
    ],
)
def test_a_split_that_contradicts_the_others(name, change, words):
    found = [f.what for f in doubts(changed(cohort(), name, change))]
    assert any(f"{name}: " in what and words in what for what in found), found


def test_one_patient_of_another_class_than_its_diagnosis():
    splits = cohort()
    first = splits["val"][0]
    splits["val"][0] = replace(first, label=1 - first.label)
    (found,) = doubts(splits)
    assert "val: 1 of 12" in found.what and f"{first.case_id}: {first.diagnosis} is class" in found.what


def test_classes_that_diagnoses_do_not_tell_are_not_doubted():
    """Such as molecular subtypes beside the histology."""
    generator = np.random.default_rng(1)
    splits = {
        name: [replace(p, label=int(generator.random() < 0.2)) for p in part]
        for name, part in cohort().items()
    }
    assert not list(doubts(splits))


def test_unknown_survival_and_no_classes_are_not_doubted():
    splits = {
        name: [replace(p, label=-1, duration=math.nan, event=0) for p in part]
        for name, part in cohort().items()
    }
    assert not list(doubts(splits))


@pytest.mark.parametrize("factor", [30.44, 1 / 365])
def test_times_of_all_splits_in_another_unit(factor):
    splits = {
        name: [replace(p, duration=min(1199.0, p.duration * factor)) for p in part]
        for name, part in cohort().items()
    }
    assert [f.what for f in doubts(splits) if "split files" in f.what and "another unit" in f.what]


def test_normal_tissue_is_not_stacked_and_named(tmp_path, caplog):
    """A patient who has nothing else keeps it, and is named, too."""
    small = make_small_cohort(tmp_path, train=8, val=4, test=4)
    path = small.split("train")
    text = path.read_text().replace("TCGA-AA-0005-01Z-00-DX1", "TCGA-AA-0005-11A-01-TS1")
    path.write_text(text.replace("TCGA-AA-0003-01Z-00-DX0", "TCGA-AA-0003-11A-01-TS1"))
    files = {name: small.split(name) for name in constants.SPLITS}
    with caplog.at_level(logging.WARNING):
        data = CohortData.read(files, {}, None, "published")
    by_case = {p.case_id: p for p in data.patients["train"]}
    assert [s.name for s in by_case["case-5"].slides] == ["slide-5-0.h5"]
    assert by_case["case-3"].slide_ids == ("TCGA-AA-0003-11A-01-TS1",)
    assert (
        "TCGA-AA-0005-11A-01-TS1" in caplog.text and "1 patients are of normal tissue: case-3" in caplog.text
    )
    assert {patient_of(s) for p in data.patients["train"] for s in p.slide_ids} == {
        p.submitter_id for p in data.patients["train"]
    }
