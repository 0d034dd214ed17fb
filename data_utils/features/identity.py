"""What tells one feature file from another at the cost of a few reads: its patches, not its bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from data_utils.features.plain_arrays import FeatureFileError
from data_utils.features.store import HDF5_SUFFIXES, read_ends
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


def copies(digests: Mapping[Path, str], owners: Mapping[Path, str]) -> list[str]:
    """Files that hold the same patches although they are of different cases, in words.

    Args:
        digests: see :func:`feature_identity`.
        owners: the case of every file.
    """
    first: dict[str, Path] = {}
    found = []
    for path, digest in digests.items():
        other = first.setdefault(digest, path)
        if digest and owners[path] != owners[other]:
            found.append(f"{path} of case {owners[path]} as {other} of case {owners[other]}")
    return found


def _patches_digest(path: Path) -> str:
    coords, meta, features = read_ends(path)
    digest = hashlib.sha256(repr((len(coords), features.shape[1], meta.patch_size_level0)).encode())
    digest.update(coords.tobytes())
    digest.update(f"{features.dtype}".encode() + features.tobytes())
    return digest.hexdigest()
