"""Files of tensors: written whole or not at all, read without running code from them."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch

from utils.files import FileError, atomic_path

# A tensor that repeats stored numbers may have this many bytes.
_MAX_REPEATED = 1 << 26
_AGAIN = "copy it again from where it came, or write it anew"


def write_tensors(path: str | Path, value: Any) -> None:
    """``torch.save``, atomically; the same value gives the same bytes.

    (Given a path, ``torch.save`` would write the temporary name into the file.)

    Raises:
        OSError: there is no room; what the file held before is intact.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:
            # PyTorch stumbles over its own archive when the disk is full; the cause hangs on its error.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def read_tensors(path: str | Path, what: str, mmap: bool = False) -> Any:
    """Reads a file written by ``torch.save``, on the CPU and without executing code from it.

    Args:
        path: the file.
        what: what the file should be, for the message.
        mmap: map the file instead of reading it, where its format allows that.

    Raises:
        FileNotFoundError: the file does not exist.
        FileError: the file is damaged, or holds more than tensors and plain values.
    """
    try:
        packed = zipfile.is_zipfile(path)
        if packed and not mmap:
            _check_archive(path, what)
        # Only files in torch's zip format can be mapped.
        if mmap and packed:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        else:  # given a name, torch would go by its ending
            with Path(path).open("rb") as file:
                content = torch.load(file, map_location="cpu", weights_only=True)
        _check_sizes(content, path, what)
        return content
    except pickle.UnpicklingError as error:
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            holds = f"it holds a {found[1][:80]}, and reading that would run code from the file"
            raise FileError(
                path,
                f"is no readable {what}: {holds}",
                f"if you trust where it comes from: python -m utils.checkpoint clean {path} NEW_FILE "
                "--trust_checkpoint, and use the new file",
            ) from error
        raise FileError(path, f"is no readable {what}: {error}", _AGAIN) from error
    except (FileError, FileNotFoundError, PermissionError):
        raise
    # Bytes that are no checkpoint end in almost anything, depending on how they begin.
    except Exception as error:
        raise FileError(path, f"is no readable {what}: {type(error).__name__}: {error}", _AGAIN) from error


def is_plain(value: object) -> TypeGuard[torch.Tensor]:
    """Whether a value is a tensor of real numbers with every value stored."""
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_complex()


def _check_archive(path: str | Path, what: str) -> None:
    """Compares the checksums in a file of torch's zip format, which torch itself does not look at."""
    with zipfile.ZipFile(path) as archive:
        declared, held = sum(member.file_size for member in archive.infolist()), Path(path).stat().st_size
        if declared > held:
            fault = f"is no readable {what}: it declares {declared:,} bytes and has {held:,}"
            raise FileError(path, fault, _AGAIN)
        if damaged := archive.testzip():
            raise FileError(path, f"is no readable {what}: {damaged} in it is damaged", _AGAIN)


def _check_sizes(content: Any, path: str | Path, what: str) -> None:
    """Refuses tensors that repeat few stored numbers without end: the first computation would fill the memory."""
    largest = max(_MAX_REPEATED, 64 * Path(path).stat().st_size)
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, (list, tuple)):
            waiting += value
        elif isinstance(value, torch.Tensor):
            if value.layout != torch.strided:
                raise FileError(
                    path, f"is no readable {what}: a tensor in it is sparse", "store its values densely"
                )
            if value.numel() * value.element_size() > largest:
                fault = f"is no readable {what}: a tensor in it claims to be {tuple(value.shape)}"
                raise FileError(path, fault, _AGAIN)
