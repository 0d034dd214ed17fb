"""Features from memory are those of the files, read once."""

import numpy as np
import pytest

from data_utils.features import source as feature_source
from data_utils.features.source import FeatureSource
from data_utils.features.store import (
    FeatureFileError,
    FeatureMeta,
    read_coords,
    read_features,
    write_features,
)


@pytest.fixture
def slides(tmp_path):
    paths = []
    for number, dtype in enumerate(("float16", "float32")):
        path = tmp_path / f"slide-{number}.h5"
        features = np.random.default_rng(number).normal(size=(20, 6))
        coords = np.stack([np.arange(20) * 256, np.arange(20) * 512], axis=1)
        write_features(path, features, coords, FeatureMeta(256, 256 + number), dtype=dtype)
        paths.append(path)
    return paths


@pytest.mark.parametrize("cache", ["none", "ram"])
@pytest.mark.parametrize("rows", [None, np.array([0, 3, 19])])
def test_the_same_as_from_the_files(slides, cache, rows):
    source = FeatureSource(cache)
    source.load(slides)
    for path in slides:
        expected = read_features(path, rows).features
        found = source.features(path, rows)
        assert found.dtype == (np.float16 if path is slides[0] else np.float32)  # half the bytes to a GPU
        assert np.array_equal(found.astype(np.float32), expected)
        corners, meta = source.coords(path)
        assert np.array_equal(corners, read_coords(path)[0]) and meta == read_coords(path)[1]


def test_files_are_read_once(slides, monkeypatch):
    reads = []
    monkeypatch.setattr(
        feature_source, "read_features", lambda path: reads.append(path) or read_features(path)
    )
    source = FeatureSource("ram")
    source.load(slides[:1])
    source.load([*slides, *slides])
    assert reads == slides
    for path in slides:
        path.unlink()
    assert source.features(slides[0], None).shape == (20, 6) and len(source.coords(slides[1])[0]) == 20


def test_what_is_handed_out_is_a_copy(slides):
    source = FeatureSource("ram")
    source.load(slides)
    for path in slides:
        before = source.features(path, None).copy()
        source.features(path, None)[:] = 0
        source.coords(path)[0][:] = 0
        assert np.array_equal(source.features(path, None), before) and source.coords(path)[0].any()


def test_half_precision_only_where_it_loses_nothing(slides):
    source = FeatureSource("ram")
    source.load(slides)
    kept = [source._slides[path].features.dtype for path in slides]
    assert kept == [np.float16, np.float32]


def test_nothing_is_kept_unless_asked_for(slides):
    source = FeatureSource()
    source.load(slides)
    slides[0].unlink()
    with pytest.raises(FeatureFileError, match="does not exist"):
        source.features(slides[0], None)


def test_unknown_cache():
    with pytest.raises(ValueError, match="cache_features"):
        FeatureSource("disk")
