"""Patch-feature files: written here as HDF5; read also from TRIDENT, CLAM, published ``.pt`` and plain arrays.

Layout of our files (TRIDENT's slide encoders open them too): datasets ``features [L, D]`` and
``coords [L, 2]`` (level-0 x, y of the upper left corner), attributes on ``coords``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from data_utils.features.checks import (
    check_arrays,
    check_distinct,
    check_not_all_zero,
    check_patch_size_attribute,
    check_values,
    whole_pixels,
)
from data_utils.features.making import Making
from data_utils.features.plain_arrays import PLAIN_SUFFIXES, FeatureFileError, read_plain
from utils.files import atomic_path

logger = logging.getLogger(__name__)

HDF5_SUFFIXES = (".h5", ".hdf5")
FEATURE_SUFFIXES = (*HDF5_SUFFIXES, *PLAIN_SUFFIXES)
# Rows of one HDF5 chunk when writing.
CHUNK_ROWS = 64
# When rows are picked, gaps up to this many rows are read over, and no read is longer than the second number.
MAX_GAP_ROWS = 64
MAX_READ_ROWS = 4096


@dataclass(frozen=True)
class FeatureMeta:
    """How the patches of a file were cut; ``None`` where the file does not say.

    Attributes:
        patch_size: side of a patch in pixels at ``target_mpp``.
        patch_size_level0: level-0 distance between neighbouring patches, in pixels.
        level0_mpp: micrometres per pixel of the slide's level 0.
        target_mpp: micrometres per pixel at which patches were encoded.
        encoder: name of the patch encoder.
        mpp_assumed: whether ``level0_mpp`` was guessed because the slide does not state it.
        mpp_source: where ``level0_mpp`` comes from.
        making: the slide, the weights and the settings the features were made of.
    """

    patch_size: int | None = None
    patch_size_level0: int | None = None
    level0_mpp: float | None = None
    target_mpp: float | None = None
    encoder: str | None = None
    mpp_assumed: bool | None = None
    mpp_source: str | None = None
    making: Making | None = None


@dataclass(frozen=True)
class FeatureInfo:
    """What a feature file holds, without its features."""

    num_patches: int
    dim: int
    meta: FeatureMeta


@dataclass(frozen=True)
class SlideFeatures:
    """Patches of one slide.

    Attributes:
        features: ``[L, D]`` float32 (float16 where that was asked for and is what the file holds).
        coords: ``[L, 2]`` int64, (x, y) of the upper left corner in level-0 pixels.
        patch_size_level0: level-0 distance between neighbouring patches, if the file states it.
        meta: everything the file states about its patches.
    """

    features: np.ndarray
    coords: np.ndarray
    patch_size_level0: int | None
    meta: FeatureMeta


# ---------------------------------------------------------------------------- writing
class FeatureWriter:
    """Streams patches of one slide into an HDF5 file that appears only when the block succeeds.

    ``with FeatureWriter(path, 1536, meta) as writer: writer.append(features, coords)``

    Raises:
        FeatureFileError: on ``append``, shapes do not fit or values are not finite (also after the
            conversion to ``dtype``); on leaving the block, nothing was appended.
    """

    def __init__(self, path: str | Path, dim: int, meta: FeatureMeta, dtype: str = "float16") -> None:
        self.path = Path(path)
        self.dim = dim
        self.meta = meta
        self.dtype = np.dtype(dtype)
        self.num_patches = 0

    def __enter__(self) -> FeatureWriter:
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self.path))
            file = stack.enter_context(h5py.File(temporary, "w"))
            self._features = file.create_dataset(
                "features",
                shape=(0, self.dim),
                maxshape=(None, self.dim),
                chunks=(CHUNK_ROWS, self.dim),
                dtype=self.dtype,
                fletcher32=True,
            )
            self._coords = file.create_dataset(
                "coords", shape=(0, 2), maxshape=(None, 2), chunks=(1024, 2), dtype=np.int64, fletcher32=True
            )
            attributes = asdict(self.meta)
            attributes |= attributes.pop("making") or {}
            self._coords.attrs.update({k: v for k, v in attributes.items() if v is not None})
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self.num_patches == 0:
            error = FeatureFileError(self.path, "no patches were written")
            self._stack.__exit__(type(error), error, None)
            raise error
        self._stack.__exit__(kind, error, trace)

    def append(self, features: np.ndarray, coords: np.ndarray) -> None:
        """Adds patches: ``features [n, D]``, ``coords [n, 2]`` integers."""
        features = np.asarray(features)
        coords = np.asarray(coords)
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise FeatureFileError(
                self.path, f"features to write are {features.shape}, should be [n, {self.dim}]"
            )
        if coords.shape != (len(features), 2) or coords.dtype.kind not in "iu":
            raise FeatureFileError(
                self.path,
                f"coords to write are {coords.dtype} {coords.shape}, should be integers [{len(features)}, 2]",
            )
        with np.errstate(over="ignore"):
            features = features.astype(self.dtype)
        check_values(self.path, features, f"to write after patch {self.num_patches} ({self.dtype})")
        stop = self.num_patches + len(features)
        for dataset, values in ((self._features, features), (self._coords, coords)):
            dataset.resize(stop, axis=0)
            dataset[self.num_patches : stop] = values
        self.num_patches = stop


def write_features(
    path: str | Path, features: np.ndarray, coords: np.ndarray, meta: FeatureMeta, dtype: str = "float16"
) -> None:
    """Writes one slide at once; arguments and errors as for :class:`FeatureWriter`."""
    features = np.asarray(features)
    if features.ndim != 2:
        raise FeatureFileError(path, f"features to write are {features.shape}, should be [L, D]")
    with FeatureWriter(path, features.shape[1], meta, dtype) as writer:
        writer.append(features, coords)


# ---------------------------------------------------------------------------- reading
def num_patches(path: str | Path) -> int:
    """Number of patches in a feature file, without reading its features.

    Raises:
        FeatureFileError: as :func:`inspect_features`.
    """
    return inspect_features(path).num_patches


def inspect_features(path: str | Path) -> FeatureInfo:
    """Size, width and origin of a feature file, without reading its features.

    Raises:
        FeatureFileError: the file is missing, damaged, has no patches or not the datasets it needs.
    """
    path = Path(path)
    with _arrays(path) as (features, _, attributes):
        meta = replace(_read_meta(path, attributes), making=Making.read(attributes))
        return FeatureInfo(features.shape[-2], features.shape[-1], meta)


def read_features(path: str | Path, rows: np.ndarray | None = None, keep_half: bool = False) -> SlideFeatures:
    """Reads the patches of one slide.

    Args:
        path: ``.h5`` (ours, TRIDENT, CLAM), ``.pt`` (dict with ``features`` and ``coords``), or a plain array
            (see :mod:`data_utils.features.plain_arrays`).
        rows: patches to read, strictly increasing; all when ``None``. Only their part of an HDF5
            file is read from disk.
        keep_half: leave float16 as it is; half the bytes on the way to a GPU, which converts them.

    Raises:
        FeatureFileError: missing or damaged file, missing dataset, no patches, lengths of features and
            coords differ, values that are not finite among the patches read, coordinates that no slide has
            (see :func:`whole_pixels`), or all of the file is zero.
        ValueError: ``rows`` are not strictly increasing indices into the file.
    """
    path = Path(path)
    with _arrays(path) as (features, coords, attributes):
        values, rows = _take_values(path, features, rows, keep_half)
        corners = whole_pixels(path, _take(coords, rows))
        meta = replace(_read_meta(path, attributes), making=Making.read(attributes))
    if rows is None:
        check_distinct(path, corners)
        check_not_all_zero(path, values)
    return SlideFeatures(values, corners, meta.patch_size_level0, meta)


def read_coords(path: str | Path) -> tuple[np.ndarray, FeatureMeta]:
    """Coordinates ``[L, 2]`` int64 of a slide's patches and what the file states of them, without its features.

    Trainings ask for this at every case: the record of how the file was made, half of what it states, is left out.

    Raises:
        FeatureFileError: as :func:`inspect_features`, or the coordinates are not whole pixels.
    """
    path = Path(path)
    with _arrays(path) as (_, coords, attributes):
        return _all_corners(path, coords), _read_meta(path, attributes)


def read_ends(path: str | Path) -> tuple[np.ndarray, FeatureMeta, np.ndarray]:
    """Answer of :func:`read_coords` and the features ``[1 or 2, D]`` of the first and the last patch.

    Raises:
        FeatureFileError: as :func:`read_features` of two rows.
    """
    path = Path(path)
    with _arrays(path) as (features, coords, attributes):
        corners = _all_corners(path, coords)
        values, _ = _take_values(path, features, np.unique([0, len(corners) - 1]), keep_half=True)
        return corners, _read_meta(path, attributes), values


def read_values(path: str | Path, rows: np.ndarray | None = None) -> np.ndarray:
    """Features of :func:`read_features` with ``keep_half``, of a file whose coordinates have been read and checked."""
    path = Path(path)
    with _arrays(path) as (features, _, _):
        values, rows = _take_values(path, features, rows, keep_half=True)
    if rows is None:
        check_not_all_zero(path, values)
    return values


def _all_corners(path: Path, coords: Any) -> np.ndarray:
    corners = whole_pixels(path, _take(coords, None))
    check_distinct(path, corners)
    return corners


def _take_values(
    path: Path, features: Any, rows: np.ndarray | None, keep_half: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Checked values of some rows, and the rows as whole numbers."""
    rows = None if rows is None else _check_rows(path, rows, features.shape[-2])
    values = _take(features, rows)
    if not (keep_half and values.dtype == np.float16):
        values = values.astype(np.float32)
    check_values(path, values, "as float32")
    return values, rows


@contextmanager
def _arrays(path: Path) -> Iterator[tuple[Any, Any, Mapping[str, Any]]]:
    """Opens a file and yields features, coords (sliceable, checked shapes) and the attributes of the latter."""
    if not path.is_file():
        raise FeatureFileError(path, "does not exist")
    suffix = path.suffix.lower()
    if suffix in PLAIN_SUFFIXES:
        yield *check_arrays(path, read_plain(path)), {}
    elif suffix in HDF5_SUFFIXES:
        try:
            with h5py.File(path, "r") as file:
                features, coords = check_arrays(path, file)
                yield features, coords, coords.attrs
        except (OSError, RuntimeError, KeyError, TypeError) as error:  # HDF5 reports damage as any of these
            raise FeatureFileError(path, f"damaged or no HDF5 file ({error})") from error
    else:
        raise FeatureFileError(path, f"unknown format; known are {', '.join(FEATURE_SUFFIXES)}")


def _read_meta(path: Path, attributes: Mapping[str, Any]) -> FeatureMeta:
    """Attributes of ours, TRIDENT's (magnifications instead of mpp) and CLAM's (down-sampling factors).

    Not how the file was made.
    """

    def number(*names: str) -> float | None:
        return next((value for name in names if (value := _number(attributes.get(name))) is not None), None)

    def mpp(name: str, magnification_name: str) -> float | None:
        if stated := number(name):
            return stated
        magnification = number(magnification_name)
        return 10.0 / magnification if magnification else None

    patch_size = number("patch_size")
    level0 = number("patch_size_level0")
    if level0 is None and patch_size is not None and (downsample := number("downsample")) is not None:
        level0 = patch_size * downsample
    check_patch_size_attribute(path, level0)
    assumed = number("mpp_assumed")
    return FeatureMeta(
        patch_size=None if patch_size is None else round(patch_size),
        patch_size_level0=None if level0 is None else round(level0),
        level0_mpp=mpp("level0_mpp", "level0_magnification"),
        target_mpp=mpp("target_mpp", "target_magnification"),
        encoder=_text(attributes.get("encoder")),
        mpp_assumed=None if assumed is None else bool(assumed),
        mpp_source=_text(attributes.get("mpp_source")),
    )


def _text(value: object) -> str | None:
    value = value.decode(errors="replace") if isinstance(value, bytes) else value
    return value if isinstance(value, str) else None


def _number(value: object) -> float | None:
    """An attribute that is a number, also as text; of several (CLAM's factors of x and y) the first."""
    values = np.asarray([] if value is None else value).ravel()
    if not values.size or values.dtype.kind not in "iufbSUO":
        return None
    try:
        found = float(values[0])
    except (TypeError, ValueError):
        return None
    return found if np.isfinite(found) else None


def _check_rows(path: Path, rows: np.ndarray, length: int) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise ValueError(f"rows for {path} must be a list of integers, got {rows.dtype} {rows.shape}")
    if rows.size and (rows[0] < 0 or rows[-1] >= length or np.any(np.diff(rows) <= 0)):
        raise ValueError(f"rows for {path} must be strictly increasing within its {length} patches")
    return rows.astype(np.int64)


def _take(dataset: Any, rows: np.ndarray | None) -> np.ndarray:
    """Rows of ``[L, D]`` or ``[1, L, D]``.

    Runs of near rows are read as one slice and thinned in memory: HDF5's own row picking takes
    seconds for some ten thousand rows.
    """
    view = (0,) if dataset.ndim == 3 else ()
    if rows is None:
        return np.asarray(dataset[(*view, slice(None))])
    if rows.size == 0:
        return np.empty((0, dataset.shape[-1]), dataset.dtype)
    breaks = np.flatnonzero((np.diff(rows) > MAX_GAP_ROWS) | (np.diff(rows // MAX_READ_ROWS) > 0)) + 1
    parts = []
    for run in np.split(rows, breaks):
        start, stop = int(run[0]), int(run[-1]) + 1
        parts.append(np.asarray(dataset[(*view, slice(start, stop))])[run - start])
    return np.concatenate(parts)
