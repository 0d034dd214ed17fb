"""What a run is made from."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from data_utils.cases.splits import read_split
from data_utils.features.identity import feature_identity
from data_utils.features.making import Making
from data_utils.features.store import FeatureMeta, write_features
from tests.small_cohort import make_small_cohort, write_slide
from utils.arguments import parse_args
from utils.training.fingerprint import data_digests, differences, patients_digest


@pytest.fixture
def cohort(tmp_path):
    return make_small_cohort(tmp_path / "cohort", train=4, val=2, test=2)


def config(cohort):
    return parse_args("test", cohort.flags(Path("x"), text_location="nowhere"))


def digests(cohort):
    return data_digests(config(cohort), {"train": read_split(cohort.split("train"))})


def test_content_of_tables_counts(cohort):
    before = digests(cohort)
    assert set(before) >= {"data.files.genes", "data.train_json", "features"} and digests(cohort) == before
    cohort.genes.write_text(cohort.genes.read_text().replace("TCGA-AA-0001", "TCGA-AA-9001"))
    changed = differences(before, digests(cohort))
    assert list(changed) == ["data.files.genes"]


def test_copies_of_another_case_are_named(cohort, caplog):
    digests(cohort)
    assert "patches of another case" not in caplog.text
    features = cohort.root / "features"
    write_slide(features / "slide-2-0.h5", 5, seed=7)
    write_slide(features / "slide-3-0.h5", 5, seed=7)
    digests(cohort)
    assert "1 feature files hold the patches of another case" in caplog.text
    assert f"{features / 'slide-3-0.h5'} of case case-3 as {features / 'slide-2-0.h5'} of case" in caplog.text


def test_features_count_by_what_they_are_not_by_time_or_folder(cohort, tmp_path):
    before = digests(cohort)["features"]
    slide = next((cohort.root / "features").glob("slide-1-*"))
    os.utime(slide, (1, 1))
    assert digests(cohort)["features"] == before
    patients = read_split(cohort.split("train"))
    moved = []
    for patient in patients:
        slides = []
        for path in patient.slides:
            target = tmp_path / "scratch" / path.name
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
            slides.append(target)
        moved.append(dataclasses.replace(patient, slides=tuple(slides)))
    assert data_digests(config(cohort), {"train": moved})["features"] == before
    write_slide(slide, 40, seed=1)
    assert digests(cohort)["features"] != before
    slide.unlink()
    assert digests(cohort)["features"] != before


def test_how_a_feature_file_was_made_does_not_count_but_every_patch_does(tmp_path):
    coords = np.arange(400).reshape(200, 2)
    features = np.random.default_rng(0).normal(size=(200, 8))

    def identity(features=features, coords=coords, size=256, **making):
        fields = {
            "slide_bytes": 9,
            "slide_mtime": 1.0,
            "slide_ends": "ab",
            "tissue": "auto",
            "min_tissue": 0.1,
        }
        fields |= {"recipe": "r", "weights": "w", "precision": "fp32"} | making
        meta = FeatureMeta(patch_size_level0=size, making=Making(**fields))
        write_features(tmp_path / "a.h5", features, coords, meta)
        return feature_identity(tmp_path / "a.h5")

    before = identity()
    assert identity(slide_mtime=2.0, weights="other") == before
    moved = coords.copy()
    moved[100] += 1
    assert identity(coords=moved) != before
    assert identity(size=512) != before
    assert identity(features=features[:199], coords=coords[:199]) != before
    assert identity(features=features + 0.01) != before


def test_files_without_a_record_and_damaged_ones_count_by_their_bytes(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.ones((3, 4)))
    before = feature_identity(path)
    np.save(path, np.zeros((3, 4)))
    assert feature_identity(path) != before
    (tmp_path / "b.h5").write_bytes(b"no HDF5")
    assert feature_identity(tmp_path / "b.h5")[1].startswith("7 bytes")
    assert feature_identity(tmp_path / "missing.h5") == ("missing.h5", "")


def test_who_is_in_which_split_counts(cohort):
    train, val = (read_split(cohort.split(name)) for name in ("train", "val"))
    one = patients_digest({"train": train, "val": val})
    assert one == patients_digest({"val": val, "train": train})
    assert one != patients_digest({"train": train[:-1], "val": [*val, train[-1]]})


def test_differences_name_nested_entries():
    before = {"a": {"b": 1, "c": {"d": [1, 2]}}, "gone": 3}
    now = {"a": {"b": 1, "c": {"d": [1, 3]}}, "new": None, "list": []}
    assert differences(before, now) == {"a.c.d": ([1, 2], [1, 3]), "gone": (3, None), "list": (None, [])}
    assert differences(before, before) == {}
