"""Feature files without HDF5: published ``.pt`` dicts, and plain arrays with their coordinates beside them.

Rule for plain arrays: features ``<stem>.pt`` (a tensor) or ``<stem>.npy``, ``[L, D]`` or ``[1, L, D]``; their
coordinates ``<stem>_coords.npy`` or ``<stem>_coords.pt`` in the same folder, ``[L, 2]``, level-0 (x, y). Such
files cannot state the patch size: ``--patch_size_lv0`` does.
"""

from __future__ import annotations

import functools
import zipfile
from pathlib import Path

import numpy as np
import torch

from utils.files import ARCHIVE_ERRORS, FileError
from utils.tensor_files import read_tensors

PLAIN_SUFFIXES = (".pt", ".npy")
COORDS_ENDING = "_coords"


class FeatureFileError(FileError):
    """A feature file that cannot be used; the message names the file, the fault and what to do."""

    def __init__(self, path: str | Path, fault: str, remedy: str = "extract it again") -> None:
        super().__init__(f"feature file {path}:", fault, remedy)
        self.path = path


def read_plain(path: Path) -> dict[str, np.ndarray]:
    """``features`` and ``coords`` of a ``.pt`` or ``.npy`` file, mapped rather than read where that is possible.

    The dict lacks what the dict of a ``.pt`` file lacks.

    Raises:
        FeatureFileError: damaged, holds something else, or a plain array without (or with two) coords files.
    """
    content = _read(path)
    if isinstance(content, dict):
        arrays = {name: content.get(name) for name in ("features", "coords")}
        return {name: _array(path, name, value) for name, value in arrays.items() if value is not None}
    features = _array(path, "features", content)
    beside = [path.with_name(path.stem + COORDS_ENDING + suffix) for suffix in (".npy", ".pt")]
    found = [file for file in beside if file.is_file()]
    if len(found) != 1:
        fault = "both are there" if found else "neither is there"
        raise FeatureFileError(
            path,
            f"is a plain array, its coordinates [L, 2] (level-0 x, y) are expected beside it in either "
            f"{beside[0].name} or {beside[1].name}; {fault}",
        )
    return {"features": features, "coords": _array(found[0], "coords", _read(found[0]))}


def _read(path: Path) -> object:
    try:
        if path.suffix.lower() == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            if isinstance(array, np.memmap) and array.offset + array.nbytes != path.stat().st_size:
                raise ValueError("bytes were added to the file, or its header was changed")
            return array
        if zipfile.is_zipfile(path):
            stat = path.stat()
            _check_archive(path, stat.st_size, stat.st_mtime_ns)
        return read_tensors(path, "file of tensors", mmap=True)
    except FileError as error:
        raise FeatureFileError(path, error.fault, error.remedy) from error
    except (OSError, *ARCHIVE_ERRORS) as error:
        raise FeatureFileError(path, f"damaged ({error})") from error


@functools.cache
def _check_archive(path: Path, size: int, mtime_ns: int) -> None:
    """Compares the checksums of a ``.pt`` file, which PyTorch does not; once a process and state of the file.

    Raises:
        ValueError: a part of the file was altered.
    """
    with zipfile.ZipFile(path) as archive:
        if (part := archive.testzip()) is not None:
            raise ValueError(f"the checksum of {part} is wrong: the file was altered after it was written")


def _array(path: Path, name: str, value: object) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        if value.is_sparse or value.is_quantized or value.device.type == "meta":
            raise FeatureFileError(path, f"{name} are no plain tensor (sparse, quantized or without values)")
        value = value.detach().resolve_conj().resolve_neg()
        if value.dtype == torch.bfloat16:
            if name == "coords":
                raise FeatureFileError(
                    path, "coords are bfloat16, which counts whole pixels up to 256 only; store them as int64"
                )
            value = value.float()
        value = value.numpy()
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise FeatureFileError(
            path, f"holds a {kind}, should be an array of numbers or a dict with features and coords"
        )
    return value
