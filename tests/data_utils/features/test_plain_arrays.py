"""Plain arrays of features, with their coordinates beside them."""

import numpy as np
import pytest
import torch

from data_utils.features.store import (
    FeatureFileError,
    FeatureMeta,
    inspect_features,
    read_coords,
    read_features,
)


def patches(n=7, dim=5):
    generator = np.random.default_rng(n)
    return generator.normal(size=(n, dim)).astype(np.float32), np.arange(2 * n).reshape(n, 2) * 256


def write(path, array):
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        torch.save(torch.from_numpy(array), path)
    return path


@pytest.mark.parametrize("suffix", [".pt", ".npy"])
@pytest.mark.parametrize("coords_suffix", [".pt", ".npy"])
@pytest.mark.parametrize("leading", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_features_with_a_coords_file(tmp_path, suffix, coords_suffix, leading, dtype):
    features, coords = patches()
    path = write(tmp_path / f"a.b{suffix}", (features[None] if leading else features).astype(dtype))
    write(tmp_path / f"a.b_coords{coords_suffix}", coords.astype(np.float32 if leading else np.int32))
    slide = read_features(path, np.array([0, 2, 5]))
    assert np.array_equal(slide.features, features.astype(dtype).astype(np.float32)[[0, 2, 5]])
    assert np.array_equal(slide.coords, coords[[0, 2, 5]]) and slide.coords.dtype == np.int64
    assert type(slide.features) is np.ndarray and slide.features.flags.writeable
    assert inspect_features(path).num_patches == 7 and inspect_features(path).dim == 5
    assert np.array_equal(read_coords(path)[0], coords) and slide.meta == FeatureMeta()


def test_bfloat16(tmp_path):
    features, coords = patches()
    torch.save(torch.from_numpy(features).bfloat16(), tmp_path / "a.pt")
    write(tmp_path / "a_coords.npy", coords)
    expected = torch.from_numpy(features).bfloat16().float().numpy()
    assert np.array_equal(read_features(tmp_path / "a.pt").features, expected)


@pytest.mark.parametrize("suffix", [".pt", ".npy"])
def test_the_coords_file_is_asked_for_by_name(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", patches()[0])
    with pytest.raises(FeatureFileError, match=r"a_coords\.npy or a_coords\.pt; neither is there"):
        read_features(path)
    for other in (".npy", ".pt"):
        write(tmp_path / f"a_coords{other}", patches()[1])
    with pytest.raises(FeatureFileError, match="both are there"):
        read_features(path)


@pytest.mark.parametrize(
    ("features", "coords", "message"),
    [
        (np.zeros((3, 4), "f4"), np.zeros((2, 2), int), "3 feature vectors but 2 coordinates"),
        (np.zeros((3, 4), "f4"), np.zeros((3, 3), int), r"coords are \(3, 3\)"),
        (np.zeros(3, "f4"), np.zeros((3, 2), int), r"features are \(3,\), should be"),
        (np.zeros((0, 4), "f4"), np.zeros((0, 2), int), "has no patches"),
        (np.full((3, 4), np.nan), np.zeros((3, 2), int), "NaN"),
        (np.zeros((3, 4), "f4"), np.full((3, 2), 0.5), "whole level-0 pixels"),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".npy"])
def test_bad_arrays(tmp_path, features, coords, message, suffix):
    path = write(tmp_path / f"a{suffix}", features)
    write(tmp_path / f"a_coords{suffix}", coords)
    with pytest.raises(FeatureFileError, match=message):
        read_features(path)


@pytest.mark.parametrize("which", ["a.npy", "a_coords.npy"])
@pytest.mark.parametrize("damage", ["cut", "text", "empty", "one byte more"])
def test_damaged_npy(tmp_path, which, damage):
    features, coords = patches(500)
    write(tmp_path / "a.npy", features)
    write(tmp_path / "a_coords.npy", coords)
    content = (tmp_path / which).read_bytes()
    (tmp_path / which).write_bytes(
        {
            "cut": content[: len(content) // 2],
            "text": b"<html>404</html>",
            "empty": b"",
            "one byte more": content[:1000] + b"x" + content[1000:],
        }[damage]
    )
    with pytest.raises(FeatureFileError, match=rf"{which}: damaged"):
        read_features(tmp_path / "a.npy")


@pytest.mark.parametrize(("at", "value"), [(8, 1), (10, 99)])
def test_an_archive_that_says_it_is_packed_otherwise(tmp_path, at, value):
    """Flipped bits: its part is encrypted, or of a method that nobody knows."""
    write(tmp_path / "a_coords.npy", patches()[1])
    content = bytearray(write(tmp_path / "a.pt", patches()[0]).read_bytes())
    content[content.index(b"PK\1\2") + at] = value
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(FeatureFileError, match=r"a\.pt: damaged"):
        read_features(tmp_path / "a.pt")


def test_what_is_no_array_of_numbers_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array(["x", "y"]))
    with pytest.raises(FeatureFileError, match=r"a\.npy: holds a <U1, should be an array of numbers"):
        read_features(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(FeatureFileError, match="damaged"):
        read_features(tmp_path / "b.npy")
    torch.save([1, 2], tmp_path / "c.pt")
    with pytest.raises(FeatureFileError, match=r"c\.pt: holds a list"):
        read_features(tmp_path / "c.pt")
