"""What tells one feature file from another at the cost of a few reads: its patches, not its bytes."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

import numpy as np

from data_utils.features.plain_arrays import FeatureFileError
from data_utils.features.store import HDF5_SUFFIXES, read_coords, read_features
from utils.files import ends_digest


def feature_identity(path: Path) -> tuple[str, str]:
    """Name of a feature file and SHA-256 of its shape, its coordinates, and its first and last patch.

    The record of how a file was made does not count: an extraction from a copied slide gives the same
    features and another record. Plain arrays hold no record; their size and both ends stand for them, and
    for files that cannot be read, which are reported where they are needed.
    """
    if not path.is_file():
        return path.name, ""
    if path.suffix.lower() in HDF5_SUFFIXES:
        with suppress(FeatureFileError):
            return path.name, _patches_digest(path)
    return path.name, f"{path.stat().st_size} bytes, {ends_digest([path])}"


def _patches_digest(path: Path) -> str:
    coords, meta = read_coords(path)
    features = read_features(path, np.unique([0, len(coords) - 1]), keep_half=True).features
    digest = hashlib.sha256(repr((len(coords), features.shape[1], meta.patch_size_level0)).encode())
    digest.update(coords.tobytes())
    digest.update(f"{features.dtype}".encode() + features.tobytes())
    return digest.hexdigest()
