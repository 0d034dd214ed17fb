"""What the doctor says about the resolutions that feature files state."""

from pathlib import Path

import pytest

from data_utils.features.store import FeatureInfo, FeatureMeta
from utils.diagnosis.scale import check_scale

SOUND = FeatureMeta(256, 512, 0.25, 0.5, "e", False)


def findings(*metas):
    headers = {Path(f"{number}.h5"): FeatureInfo(3, 8, meta) for number, meta in enumerate(metas)}
    return [(finding.level, finding.what) for finding in check_scale(headers)]


def test_sound_files_are_not_mentioned():
    rounded = FeatureMeta(256, 507, 0.2525, 0.5, "e", False)
    other_tool = FeatureMeta(patch_size=512, patch_size_level0=1024)
    assert findings(SOUND, rounded, other_tool, FeatureMeta(256, 171, 0.75, 0.5)) == []


@pytest.mark.parametrize(
    ("meta", "level", "words"),
    [
        (FeatureMeta(256, 512, 0.25, 0.5, "e", True), "warning", "assumed: 1.h5"),
        (FeatureMeta(256, 128, 1.0, 0.5), "warning", "most (2 times) in 1.h5"),
        (FeatureMeta(256, 13, 10.0, 0.5), "error", "most (20 times) in 1.h5"),
        (FeatureMeta(256, 256, 0.25, 0.5), "warning", "1.h5 (256)"),
        (FeatureMeta(256, 1024, 0.25, 1.0), "warning", "1 of 0.5, 1 of 1"),
    ],
)
def test_planted_faults(meta, level, words):
    (found,) = findings(SOUND, meta)
    assert found[0] == level and words in found[1]
