"""Arrays of feature files as numbers: every kind of wrong one is refused by name, and sound ones are not."""

import zipfile

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_utils.features.checks import COORDS_RANGE, whole_pixels
from data_utils.features.store import (
    FeatureFileError,
    FeatureMeta,
    inspect_features,
    read_coords,
    read_features,
    write_features,
)

FEATURES = np.random.default_rng(0).normal(size=(24, 5)).astype("f4")
COORDS = np.stack([np.arange(24) % 6, np.arange(24) // 6], axis=1) * 256


def write(path, features=FEATURES, coords=COORDS, **attributes):
    with h5py.File(path, "w") as file:
        file["features"], file["coords"] = features, coords
        file["coords"].attrs.update(attributes)
    return path


def changed(row, value, dtype):
    coords = COORDS.astype(dtype)
    coords[row] = value
    return coords


BAD_COORDS = {
    "infinite": (changed(3, np.inf, "f4"), "1 of 24 coords are NaN or infinite .*row 3"),
    "overflowed half": (np.full((24, 2), np.inf, "f2"), "24 of 24 coords are NaN or infinite"),
    "NaN": (changed(0, np.nan, "f8"), "NaN or infinite"),
    "unsigned beyond int64": (changed(3, 2**64 - 1, "u8"), "coords reach from 0 to 18446744073709551615"),
    "far out": (changed(3, 1e300, "f8"), "coords reach"),
    "far negative": (changed(3, -(2**62), "i8"), "coords reach from -4611686018427387904"),
    "half beyond its range": ((COORDS + 4096).astype("f2"), "counts whole pixels up to 2,048 only"),
    "fractions": (COORDS * 0.2527, "not whole level-0 pixels"),
    "never written": (np.zeros((24, 2), "i8"), r"all 24 patches have the same coordinates \[0, 0\]"),
    "compound": (np.zeros((24, 2), dtype=[("x", "i4")]), "coords are of type"),
    "truth values": (COORDS > 0, "coords are of type bool"),
}


@pytest.mark.parametrize("kind", BAD_COORDS)
def test_coordinates_that_no_slide_has(tmp_path, kind):
    coords, words = BAD_COORDS[kind]
    path = write(tmp_path / "a.h5", coords=coords)
    for read in (read_coords, read_features):
        with pytest.raises(FeatureFileError, match=rf"a\.h5: .*{words}"):
            read(path)


@pytest.mark.parametrize("dtype", ["i4", "i8", "u2", "u4", "u8", "f4", "f8"])
def test_types_that_hold_them_exactly_are_read(tmp_path, dtype):
    path = write(tmp_path / "a.h5", coords=(COORDS + 8192).astype(dtype))
    assert np.array_equal(read_coords(path)[0], COORDS + 8192)
    assert np.array_equal(read_features(path).coords, COORDS + 8192)


@given(st.lists(st.tuples(*[st.integers(-(2**63), 2**63 - 1)] * 2), min_size=1, max_size=5))
def test_no_whole_number_is_altered(values):
    corners = np.array(values, dtype=np.int64)
    if COORDS_RANGE[0] <= corners.min() and corners.max() <= COORDS_RANGE[1]:
        assert np.array_equal(whole_pixels("x", corners), corners)
    else:
        with pytest.raises(FeatureFileError):
            whole_pixels("x", corners)


BAD_FEATURES = {
    "texts": (np.array([[b"a"] * 5] * 24), "features are of type"),
    "complex": (FEATURES * 1j, "features are of type complex64"),
    "no width": (np.empty((24, 0), "f4"), "width 0"),
}


@pytest.mark.parametrize("kind", BAD_FEATURES)
def test_features_that_are_no_numbers(tmp_path, kind):
    features, words = BAD_FEATURES[kind]
    with pytest.raises(FeatureFileError, match=rf"a\.h5: .*{words}"):
        inspect_features(write(tmp_path / "a.h5", features=features))


def test_values_that_no_encoder_gives(tmp_path):
    values = FEATURES.copy()
    values[3, 1] = -1e30
    with pytest.raises(FeatureFileError, match=r"a\.h5: .* hold values up to 1e\+30.*; extract it again"):
        read_features(write(tmp_path / "a.h5", features=values))


def test_all_zero(tmp_path):
    with pytest.raises(FeatureFileError, match=r"a\.h5: all features of its 24 patches are zero"):
        read_features(write(tmp_path / "a.h5", features=FEATURES * 0))


def test_groups_and_broken_links(tmp_path):
    with h5py.File(tmp_path / "group.h5", "w") as file:
        file["features/uni"], file["features/gigapath"], file["coords"] = FEATURES, FEATURES, COORDS
    with pytest.raises(FeatureFileError, match=r"group\.h5: 'features' is a group of \['gigapath', 'uni'\]"):
        inspect_features(tmp_path / "group.h5")
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["features"], file["coords"] = h5py.SoftLink("/gone"), COORDS
    with pytest.raises(FeatureFileError, match=r"link\.h5"):
        inspect_features(tmp_path / "link.h5")


@pytest.mark.parametrize("options", [{}, {"chunks": (8, 5)}, {"chunks": (8, 5), "compression": "gzip"}])
@pytest.mark.parametrize("rows", [0, 16, 24])
def test_parts_that_were_never_written(tmp_path, options, rows):
    """Unwritten parts of contiguous datasets cannot be seen: they are all there or not at all."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        features = file.create_dataset("features", (24, 5), "f4", **options)
        features[:rows] = FEATURES[:rows]
        file["coords"] = COORDS
    if rows == 24 or (rows and not options):
        assert inspect_features(tmp_path / "a.h5").num_patches == 24
    else:
        with pytest.raises(
            FeatureFileError, match=rf"{100 - round(100 * rows / 24)}% of its features were never"
        ):
            inspect_features(tmp_path / "a.h5")


@pytest.mark.parametrize("value", [0, -256, 1e9, "-1"])
def test_patch_sizes_that_no_patch_has(tmp_path, value):
    with pytest.raises(FeatureFileError, match=r"a\.h5: states patch_size_level0"):
        read_coords(write(tmp_path / "a.h5", patch_size_level0=value))


def test_attributes_of_other_types(tmp_path):
    path = write(
        tmp_path / "a.h5", encoder=np.array([1, 2]), mpp_assumed=np.array([0, 1]), patch_size_level0="256"
    )
    meta = inspect_features(path).meta
    assert (meta.encoder, meta.mpp_assumed, meta.patch_size_level0) == (None, False, 256)
    path = write(tmp_path / "clam.h5", patch_size=256, downsample=np.array([4.0, 4.0]))
    assert inspect_features(path).meta.patch_size_level0 == 1024


# ---------------------------------------------------------------------------- altered bytes
def test_an_altered_byte_of_ours_is_found(tmp_path):
    path = tmp_path / "a.h5"
    write_features(path, FEATURES, COORDS, FeatureMeta(256, 256))
    content = path.read_bytes()
    place = content.index(FEATURES.astype("f2")[7].tobytes())
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(FeatureFileError, match=r"a\.h5: damaged"):
        read_features(path)


def test_an_altered_byte_of_a_pt_file_is_found(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"features": torch.from_numpy(FEATURES), "coords": torch.from_numpy(COORDS)}, path)
    assert read_features(path).features.shape == (24, 5)
    content = path.read_bytes()
    place = content.index(FEATURES[7].tobytes())
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    assert zipfile.is_zipfile(path)
    with pytest.raises(FeatureFileError, match=r"a\.pt: damaged .*checksum"):
        read_features(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            {"features": torch.ones(3, 4), "coords": torch.arange(6).view(3, 2).bfloat16()},
            "coords are bfloat16",
        ),
        ({"features": torch.ones(3, 4), "coords": [1, 2]}, "holds a list"),
        (
            {"features": torch.ones(3, 4).to_sparse(), "coords": torch.arange(6).view(3, 2)},
            "is sparse; store its values densely$",
        ),
        ({"features": torch.ones(3, 4)}, "has no 'coords'"),
    ],
)
def test_tensors_that_cannot_be_used(tmp_path, content, words):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(FeatureFileError, match=rf"a\.pt: .*{words}"):
        read_features(tmp_path / "a.pt")
