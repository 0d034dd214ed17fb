"""What the doctor says where feature files of one cohort were made differently."""

from dataclasses import replace
from pathlib import Path

import pytest

from data_utils.features.making import Making
from data_utils.features.store import FeatureInfo, FeatureMeta
from utils.diagnosis.making import check_making

MADE = Making(1000, 1e9, "e" * 64, "auto", 0.1, "c" * 64, "a" * 64, "fp32")


def findings(*makings):
    metas = [FeatureMeta(making=making) for making in makings]
    return list(check_making({Path(f"{n}.h5"): FeatureInfo(3, 8, meta) for n, meta in enumerate(metas)}))


def test_other_slides_and_unknown_files_are_no_fault():
    assert findings(MADE, replace(MADE, slide_bytes=7, slide_ends="d" * 64, slide_mtime=3.0), None) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": "b" * 64}, "weights: 2 of aaaaaaaaaa..., 1 of bbbbbbbbbb... (1.h5)"),
        ({"min_tissue": 0.5}, "min_tissue: 2 of 0.1, 1 of 0.5 (1.h5)"),
        ({"tissue": "published"}, "tissue: 2 of auto, 1 of published (1.h5)"),
        ({"precision": "bf16"}, "precision: 2 of fp32, 1 of bf16 (1.h5)"),
    ],
)
def test_mixed_files(change, words):
    (found,) = findings(MADE, replace(MADE, **change), MADE)
    assert found.level == "warning" and words in found.what
