"""Feature files: what is written is read back; foreign layouts are understood; bad files are named."""

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_utils.features import store as feature_store
from data_utils.features.store import (
    FeatureFileError,
    FeatureMeta,
    FeatureWriter,
    inspect_features,
    num_patches,
    read_features,
    write_features,
)

META = FeatureMeta(256, 512, 0.25, 0.5, "gigapath_tile_encoder", mpp_assumed=True)


def patches(n, dim=8, seed=0):
    generator = np.random.default_rng(seed)
    coords = np.stack([np.arange(n) * 512, np.arange(n) * 1024 + 70_000], axis=1)
    return generator.normal(size=(n, dim)).astype(np.float32), coords


def write_h5(path, features, coords, **attributes):
    """A file as other tools write it."""
    with h5py.File(path, "w") as file:
        if features is not None:
            file["features"] = features
        if coords is not None:
            file["coords"] = coords
            file["coords"].attrs.update(attributes)
    return path


# ---------------------------------------------------------------------------- round trips
@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 150), min_size=1, max_size=4),
    dim=st.integers(1, 40),
    dtype=st.sampled_from(["float16", "float32"]),
)
def test_streamed_patches_are_read_back(tmp_path_factory, sizes, dim, dtype):
    path = tmp_path_factory.mktemp("store") / "a.b.h5"
    features, coords = patches(sum(sizes), dim)
    with FeatureWriter(path, dim, META, dtype) as writer:
        for stop, size in zip(np.cumsum(sizes), sizes, strict=True):
            writer.append(features[stop - size : stop], coords[stop - size : stop])
    slide = read_features(path)
    assert np.array_equal(slide.features, features.astype(dtype).astype(np.float32))
    assert np.array_equal(slide.coords, coords)
    assert slide.features.dtype == np.float32 and slide.coords.dtype == np.int64
    assert slide.meta == META and slide.patch_size_level0 == 512
    assert num_patches(path) == sum(sizes) and inspect_features(path).dim == dim


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_rows_are_the_rows_asked_for(tmp_path_factory, data):
    n = data.draw(st.integers(1, 80))
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, n - 1)))), dtype=np.int64)
    path = tmp_path_factory.mktemp("store") / "a.h5"
    features, coords = patches(n)
    leading = (None,) if data.draw(st.booleans()) else ()
    write_h5(path, features[leading], coords)
    with pytest.MonkeyPatch.context() as patch:  # small numbers, so that few rows meet every branch
        patch.setattr(feature_store, "MAX_GAP_ROWS", 3)
        patch.setattr(feature_store, "MAX_READ_ROWS", 16)
        slide = read_features(path, rows)
    assert np.array_equal(slide.features, features[rows]) and np.array_equal(slide.coords, coords[rows])


def test_rows_far_apart_do_not_read_what_is_between(tmp_path):
    features, coords = patches(1000)
    features[500] = np.nan
    path = write_h5(tmp_path / "a.h5", features, coords)
    assert len(read_features(path, np.array([3, 400, 999])).features) == 3
    with pytest.raises(FeatureFileError, match="NaN"):
        read_features(path, np.array([3, 500]))


@pytest.mark.parametrize("rows", [[3, 1], [1, 1], [-1, 2], [2, 10], [0.5], [[1, 2]]])
def test_wrong_rows_are_refused(tmp_path, rows):
    write_features(tmp_path / "a.h5", *patches(10), META)
    with pytest.raises(ValueError, match="rows for"):
        read_features(tmp_path / "a.h5", np.array(rows))


# ---------------------------------------------------------------------------- foreign layouts
def test_trident_file(tmp_path):
    features, coords = patches(5)
    path = write_h5(
        tmp_path / "a.h5",
        features[None],
        coords,
        patch_size=512,
        patch_size_level0=1024,
        level0_magnification=40,
        target_magnification=20,
        overlap=0,
        name="a",
    )
    slide = read_features(path)
    assert np.array_equal(slide.features, features)
    assert slide.meta == FeatureMeta(512, 1024, 0.25, 0.5, None)
    assert num_patches(path) == 5


def test_clam_file_gets_its_level0_size_from_the_downsample(tmp_path):
    features, coords = patches(5)
    path = write_h5(
        tmp_path / "a.h5",
        features,
        coords.astype(np.int32),
        patch_size=256,
        patch_level=1,
        downsample=np.array([4.0, 4.0]),
    )
    assert read_features(path).patch_size_level0 == 1024


def test_file_without_attributes_has_unknown_sizes(tmp_path):
    slide = read_features(write_h5(tmp_path / "a.h5", *patches(5)))
    assert slide.meta == FeatureMeta() and slide.patch_size_level0 is None


@pytest.mark.parametrize("zip_format", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_published_pt_file(tmp_path, dtype, zip_format):
    features, coords = (torch.from_numpy(array) for array in patches(6))
    path = tmp_path / "a.pt"
    torch.save(
        {"features": features[None].to(dtype), "coords": coords.float()},
        path,
        _use_new_zipfile_serialization=zip_format,
    )
    slide = read_features(path, np.array([1, 4]))
    assert np.array_equal(slide.features, features.to(dtype).float().numpy()[[1, 4]])
    assert np.array_equal(slide.coords, coords.numpy()[[1, 4]]) and slide.coords.dtype == np.int64
    assert num_patches(path) == 6


def test_other_tools_read_the_layout(tmp_path):
    features, coords = patches(5)
    write_features(tmp_path / "a.h5", features, coords, META)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["features"].shape == (5, 8) and file["features"].dtype == np.float16
        assert file["coords"].attrs["patch_size_level0"] == 512
        assert file["coords"].attrs["target_mpp"] == 0.5 and file["coords"].attrs["encoder"] == META.encoder


# ---------------------------------------------------------------------------- bad files
def bad_files():
    features, coords = patches(5)
    nan, infinite = features.copy(), features.copy()
    nan[3, 2], infinite[1, 0] = np.nan, np.inf
    return {
        "no 'coords'": (features, None),
        "no 'features'": (None, coords),
        "has no patches": (features[:0], coords[:0]),
        "5 feature vectors but 4 coordinates": (features, coords[:4]),
        "1 of 5 feature vectors.* NaN or infinite.*row 3": (nan, coords),
        "NaN or infinite.*row 1": (infinite, coords),
        "should be \\[L, D\\]": (features[None, None], coords),
        "coords are \\(5, 3\\)": (features, np.zeros((5, 3))),
        "whole level-0 pixels": (features, coords + 0.5),
    }


@pytest.mark.parametrize("message", bad_files())
@pytest.mark.parametrize("suffix", [".h5", ".pt"])
def test_bad_content_is_named(tmp_path, message, suffix):
    path = tmp_path / f"case{suffix}"
    features, coords = bad_files()[message]
    if suffix == ".h5":
        write_h5(path, features, coords)
    else:
        arrays = {"features": features, "coords": coords}
        torch.save({k: torch.from_numpy(v) for k, v in arrays.items() if v is not None}, path)
    with pytest.raises(FeatureFileError, match=rf"case\{suffix}.*{message}"):
        read_features(path)


@pytest.mark.parametrize("read", [read_features, num_patches])
def test_missing_file(tmp_path, read):
    with pytest.raises(FeatureFileError, match=r"gone\.h5: does not exist"):
        read(tmp_path / "gone.h5")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
@pytest.mark.parametrize("read", [read_features, num_patches])
def test_truncated_hdf5(tmp_path, share, read):
    path = tmp_path / "a.h5"
    write_features(path, *patches(3000, 64), META)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(FeatureFileError, match=r"a\.h5: damaged"):
        read(path)


@pytest.mark.parametrize("suffix", [".h5", ".pt"])
def test_no_feature_file_at_all(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_text("<html>404</html>")
    with pytest.raises(FeatureFileError, match=rf"a\{suffix}: (damaged|is no readable file)"):
        read_features(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_truncated_pt(tmp_path, share):
    path = tmp_path / "a.pt"
    features, coords = (torch.from_numpy(array) for array in patches(500))
    torch.save({"features": features, "coords": coords}, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(FeatureFileError, match=r"a\.pt: is no readable file of tensors"):
        read_features(path)


def test_unknown_format(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"")
    with pytest.raises(FeatureFileError, match=r"unknown format; known are \.h5, \.hdf5, \.pt, \.npy"):
        read_features(tmp_path / "a.csv")


# ---------------------------------------------------------------------------- writing
@pytest.mark.parametrize(
    ("features", "coords", "message"),
    [
        (np.full((2, 8), np.nan), np.zeros((2, 2), int), "NaN"),
        (np.full((2, 8), 7e4), np.zeros((2, 2), int), r"after patch 0 \(float16\) hold NaN or infinite"),
        (np.zeros((2, 9)), np.zeros((2, 2), int), r"should be \[n, 8\]"),
        (np.zeros((2, 8)), np.zeros((3, 2), int), r"should be integers \[2, 2\]"),
        (np.zeros((2, 8)), np.zeros((2, 2)), "should be integers"),
        (np.zeros((0, 8)), np.zeros((0, 2), int), "no patches were written"),
    ],
)
def test_what_cannot_be_read_is_not_written(tmp_path, features, coords, message):
    path = tmp_path / "a.h5"
    with pytest.raises(FeatureFileError, match=message), FeatureWriter(path, 8, META) as writer:
        writer.append(features, coords)
    assert list(tmp_path.iterdir()) == []


def test_failure_leaves_the_older_file(tmp_path):
    path = tmp_path / "a.h5"
    features, coords = patches(5)
    write_features(path, features, coords, META, "float32")
    with pytest.raises(KeyboardInterrupt), FeatureWriter(path, 8, META) as writer:
        writer.append(features[:2], coords[:2])
        raise KeyboardInterrupt
    assert np.array_equal(read_features(path).features, features)
    assert list(tmp_path.iterdir()) == [path]


def test_file_appears_only_when_complete(tmp_path):
    path = tmp_path / "new" / "a.h5"
    features, coords = patches(5)
    with FeatureWriter(path, 8, META) as writer:
        writer.append(features, coords)
        assert not path.exists()
    assert path.exists() and list(path.parent.iterdir()) == [path]
    with pytest.raises(FeatureFileError, match=r"should be \[L, D\]"):
        write_features(path, features[0], coords, META)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((10**12, 4), "declares 1,000,000,000,000 patches of 4 values"),
        ((10, 10**6), "declares 10 patches of 1,000,000 values"),
        ((4_900_000, 60_000), r"declares 1,095 GiB of features and stores 0\.0 MiB"),
    ],
)
@pytest.mark.parametrize("read", [inspect_features, read_features])
def test_sizes_that_would_exhaust_the_memory_are_refused(tmp_path, shape, message, read):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("features", shape, "f4", chunks=(1, 4))
        file.create_dataset("coords", (shape[0], 2), "i8", chunks=(1, 2))
    with pytest.raises(FeatureFileError, match=rf"a\.h5: {message}"):
        read(tmp_path / "a.h5")
