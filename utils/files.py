"""Small helpers for files and logs that every part of the repository shares."""

from __future__ import annotations

import json
import logging
import os
import pickle
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


def setup_logging(level: int = logging.INFO) -> None:
    """One clear line per step, with the time, on standard error."""
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname).1s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path`` that takes its place only when the block succeeds.

    A reader therefore never sees a half-written file, and a failure leaves an older file as it was.
    The temporary name keeps the suffix, because some writers choose their format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Writes ``value`` as readable JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Reads a JSON file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is no JSON; the message names it and the place of the fault.
    """
    text = Path(path).read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from error


def read_tensors(path: str | Path, what: str, mmap: bool = False) -> Any:
    """Reads a file written by ``torch.save``, on the CPU and without executing code from it.

    Args:
        path: the file.
        what: what the file should be, for the message.
        mmap: map the file instead of reading it, where its format allows that.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged, or holds more than tensors and plain values.
    """
    try:
        # Only files in torch's zip format can be mapped.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and zipfile.is_zipfile(path))
    # Bytes that are no checkpoint end in any of these, depending on how they begin.
    except (RuntimeError, EOFError, LookupError, ValueError, struct.error, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is no readable {what}: {error}") from error
