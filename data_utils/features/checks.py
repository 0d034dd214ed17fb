"""What the arrays of a feature file must be, looked at as numbers: kind, size, completeness, range."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data_utils.features.plain_arrays import FeatureFileError

# No slide has more patches and no encoder wider features: a file that declares more is damaged or hostile.
MAX_PATCHES = 5_000_000
MAX_DIM = 65_536
# Features hardly compress; a file that declares this many times more bytes than it stores is refused too.
MAX_EXPANSION = 100
_HARMLESS_BYTES = 2**30
# Level-0 coordinates. The largest scans have some 300,000 pixels a side; grids may begin a little before the scan.
COORDS_RANGE = (-100_000, 10_000_000)
# Features of encoders are below some hundreds; float16 ends at 65,504.
MAX_VALUE = 1e6
# No patch is larger, in level-0 pixels.
MAX_PATCH_SIZE = 1_000_000
_AS_INT64 = "extract it again, with coordinates as int64"


def check_arrays(path: Path, content: Mapping[str, Any]) -> tuple[Any, Any]:
    """``features [L, D]`` or ``[1, L, D]`` and ``coords`` of a file, by what they declare; nothing is read.

    Raises:
        FeatureFileError: one is missing, is no array of real numbers, does not fit the other, is empty, was never
            written completely, or declares more than a file of its size can hold.
    """
    for name in ("features", "coords"):
        if name not in content:
            raise FeatureFileError(path, f"has no {name!r}, only {sorted(content)[:20]}")
    features, coords = content["features"], content["coords"]
    for name, array in (("features", features), ("coords", coords)):
        _check_kind(path, name, array)
    for name, array in (("features", features), ("coords", coords)):
        if not (array.ndim == 2 or (array.ndim == 3 and array.shape[0] == 1)):
            raise FeatureFileError(path, f"{name} are {tuple(array.shape)}, should be [L, D] or [1, L, D]")
    if coords.shape[-1] != 2:
        raise FeatureFileError(path, f"coords are {tuple(coords.shape)}, should be [L, 2]")
    if features.shape[-2] != coords.shape[-2]:
        raise FeatureFileError(
            path, f"{features.shape[-2]} feature vectors but {coords.shape[-2]} coordinates"
        )
    _check_size(path, features)
    if features.shape[-2] == 0:
        raise FeatureFileError(path, "has no patches")
    if features.shape[-1] == 0:
        raise FeatureFileError(path, "its feature vectors hold no values (width 0)")
    for name, array in (("features", features), ("coords", coords)):
        if isinstance(array, h5py.Dataset):
            _check_written(path, name, array)
    return features, coords


def _check_kind(path: Path, name: str, array: Any) -> None:
    if isinstance(array, h5py.Group):
        raise FeatureFileError(
            path,
            f"{name!r} is a group of {sorted(array)[:5]}, should be one array [L, D]",
            "files of several encoders have to be divided, one file an encoder",
        )
    if not isinstance(array, (h5py.Dataset, np.ndarray)):
        raise FeatureFileError(path, f"{name!r} is a {type(array).__name__}, should be an array of numbers")
    if array.dtype.kind not in "fiu":
        raise FeatureFileError(path, f"{name} are of type {str(array.dtype)[:60]}, should be real numbers")


def _check_size(path: Path, features: Any) -> None:
    """Refuses declared sizes that would exhaust the memory when they are read."""
    rows, dim = features.shape[-2:]
    if rows > MAX_PATCHES or dim > MAX_DIM:
        raise FeatureFileError(
            path, f"declares {rows:,} patches of {dim:,} values; the most are {MAX_PATCHES:,} and {MAX_DIM:,}"
        )
    stored = features.id.get_storage_size() if isinstance(features, h5py.Dataset) else features.nbytes
    if features.nbytes > max(_HARMLESS_BYTES, MAX_EXPANSION * stored):
        raise FeatureFileError(
            path,
            f"declares {features.nbytes / 2**30:,.0f} GiB of features and stores {stored / 2**20:,.1f} MiB",
        )


def _check_written(path: Path, name: str, dataset: h5py.Dataset) -> None:
    """Parts of a dataset that nobody wrote are read as zeros."""
    made = dataset.id.get_create_plist()  # h5py's properties would each ask for it again
    if made.get_layout() == h5py.h5d.VIRTUAL or made.get_external_count():
        raise FeatureFileError(
            path, f"{name} are stored in other files", "copy them into this one (h5repack does it)"
        )
    stored = dataset.id.get_storage_size()
    if made.get_layout() == h5py.h5d.CHUNKED and made.get_nfilters():
        parts = zip(dataset.shape, made.get_chunk(), strict=True)
        wanted, found = prod(ceil(length / chunk) for length, chunk in parts), dataset.id.get_num_chunks()
    else:
        wanted, found = dataset.nbytes, min(stored, dataset.nbytes)
    if found < wanted:
        raise FeatureFileError(
            path,
            f"{1 - found / wanted:.0%} of its {name} were never written; the writer was interrupted",
        )


def whole_pixels(path: Path, corners: np.ndarray) -> np.ndarray:
    """Coordinates ``[L, 2]`` of any type of number as int64.

    Raises:
        FeatureFileError: not finite, no whole pixels, further out than any scan, or of a type that cannot count
            so far.
    """
    if corners.dtype.kind == "f":
        bad = ~np.isfinite(corners).all(axis=1)
        if bad.any():
            raise FeatureFileError(
                path,
                f"{int(bad.sum())} of {len(corners)} coords are NaN or infinite ({corners.dtype}), the first is "
                f"row {int(np.argmax(bad))}",
                _AS_INT64,
            )
        if not np.array_equal(corners, np.rint(corners)):
            raise FeatureFileError(path, "coords are not whole level-0 pixels")
    low, high = corners.min(initial=0).item(), corners.max(initial=0).item()
    if low < COORDS_RANGE[0] or high > COORDS_RANGE[1]:
        raise FeatureFileError(
            path,
            f"coords reach from {low} to {high}, level-0 pixels lie between {COORDS_RANGE[0]:,} and "
            f"{COORDS_RANGE[1]:,}",
            _AS_INT64,
        )
    exact = _exact_to(corners.dtype)
    if max(-int(low), int(high)) > exact:
        raise FeatureFileError(
            path,
            f"coords are {corners.dtype} and reach {int(high):,}, but this type counts whole pixels up to "
            f"{exact:,} only",
            _AS_INT64,
        )
    return corners.astype(np.int64)


def _exact_to(dtype: np.dtype) -> int:
    """Up to which number a type holds every whole number."""
    return 2 ** (np.finfo(dtype).nmant + 1) if dtype.kind == "f" else COORDS_RANGE[1]


def check_distinct(path: Path, corners: np.ndarray) -> None:
    """Refuses the coordinates of a whole file ``[L, 2]`` that all are the same."""
    if len(corners) > 1 and (corners == corners[0]).all():
        raise FeatureFileError(
            path,
            f"all {len(corners)} patches have the same coordinates {corners[0].tolist()}: they were never "
            "written",
        )


def check_patch_size_attribute(path: Path, value: float | None) -> None:
    """Refuses a stated ``patch_size_level0`` that no patch has."""
    if value is not None and not 1 <= value <= MAX_PATCH_SIZE:
        raise FeatureFileError(
            path,
            f"states patch_size_level0 {value:g}; it should be the level-0 distance between neighbouring patches, "
            "in pixels",
            "correct the attribute",
        )


def check_values(path: Path, values: np.ndarray, what: str) -> None:
    """Refuses feature vectors ``[n, D]`` with values that are not finite."""
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise FeatureFileError(
            path,
            f"{int(bad.sum())} of {len(bad)} feature vectors {what} hold NaN or infinite values, "
            f"the first is row {int(np.argmax(bad))} of them",
        )
    if values.size and (largest := float(np.abs(values).max())) > MAX_VALUE:
        raise FeatureFileError(
            path, f"feature vectors {what} hold values up to {largest:.3g}, which no encoder gives"
        )


def check_not_all_zero(path: Path, values: np.ndarray) -> None:
    """Refuses a whole file of several patches whose features ``[L, D]`` are all zero."""
    if len(values) > 1 and not values.any():
        raise FeatureFileError(
            path, f"all features of its {len(values)} patches are zero: they were never written"
        )
