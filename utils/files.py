"""Small helpers for files and logs that every part of the repository shares.

Commands that need no tensors start without PyTorch, which takes seconds to import: :mod:`utils.tensor_files`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# Full disk, exhausted quota, limit on the size of files.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# In bytes; common file systems allow 255 for a whole name.
_LONGEST_STEM = 200
# What reading a damaged zip archive ends in: besides its own error, those of a flipped bit that says that a part is
# encrypted or packed in another way.
ARCHIVE_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)
# So much of what a file holds is quoted in a message.
_QUOTED = 200
# No text in a JSON file of ours is longer; one that is was damaged.
_LONGEST_TEXT = 10_000
# So much of both ends tells a large file from another one of the same size, in bytes.
_END_BYTES = 1 << 16


class FileError(ValueError):
    """A file that cannot be used; the message says which, what is wrong with it and what to do.

    Args:
        path: the file.
        fault: goes on after its name, as in "holds no gene" or ": row 3 is no object".
        remedy: what to do.
    """

    def __init__(self, path: str | Path, fault: str, remedy: str) -> None:
        joint = "" if fault.startswith(":") else " "
        super().__init__(f"{path}{joint}{quoted(' '.join(fault.split()))}; {remedy}")
        self.path, self.fault, self.remedy = path, fault, remedy

    def __reduce__(self) -> tuple[Any, ...]:  # crosses processes
        return type(self), (self.path, self.fault, self.remedy)


@contextmanager
def content_of(path: str | Path, remedy: str) -> Iterator[None]:
    """Whatever the content of a file ends in becomes a FileError that names the file.

    Args:
        path: the file.
        remedy: what to do.
    """
    try:
        yield
    except (FileError, OSError):
        raise
    except KeyError as error:
        raise FileError(path, f"cannot be used: it lacks {error}", remedy) from error
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise FileError(path, f"cannot be used: {error}", remedy) from error
    except (RuntimeError, AssertionError, MemoryError) as error:  # of libraries
        raise FileError(path, f"cannot be used: {error}", remedy) from error


def quoted(text: str, limit: int = _QUOTED) -> str:
    """A text for a message: cut where it is long, because files hold whatever they hold."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def setup_logging(level: int = logging.INFO) -> None:
    """One clear line per step, with the time, on standard error."""
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname).1s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )
    for handler in logging.getLogger().handlers:
        handler.addFilter(_name_command)


def _name_command(record: logging.LogRecord) -> bool:
    """Lines of the module that is run carry its name, as those of all others do, not ``__main__``."""
    if record.name == "__main__":
        spec = sys.modules["__main__"].__spec__
        record.name = spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).stem
    return True


def temporary_stem(stem: str) -> str:
    """How the temporary name of a file begins: with its stem, or a digest where the name would become too long."""
    name = os.fsencode(stem)
    return stem if len(name) <= _LONGEST_STEM else hashlib.sha256(name).hexdigest()[:32]


def check_writable(folder: Path) -> None:
    """Makes a file in a folder, or where the folder is to be made, to be told before long work if that is not possible.

    Nothing is left behind.

    Raises:
        OSError: it is not; the message names the folder.
    """
    try:
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        if nearest == folder and not folder.is_dir():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        reason = (
            f"nothing can be written to the folder {folder} ({os.strerror(error.errno or 0)}); name another"
        )
        raise OSError(error.errno, reason) from error


def check_output(output: Path, inputs: Iterable[object]) -> None:
    """Whether a command can write a file, and would not write over one that it reads; ``inputs`` that are no paths do
    not count.

    Raises:
        FileError: it would, or ``output`` is a folder.
        OSError: nothing can be written beside it.
    """
    if output.is_dir():
        raise FileError(output, "is a folder", "name a file to write")
    for path in inputs:
        if isinstance(path, Path) and path.is_file() and output.is_file() and output.samefile(path):
            raise FileError(output, "is read by this command and would be lost", "name another file to write")
    check_writable(output.parent)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path`` that takes its place only when the block succeeds.

    A reader therefore never sees a half-written file, and a failure leaves an older file as it was.
    The temporary name keeps the suffix, because some writers choose their format by it.

    Raises:
        OSError: the disk or a quota is full, a folder or the file cannot be written, or a folder has its name; the
            message names the file and what to do.
    """
    path = Path(path)
    temporary = path.with_name(f".{temporary_stem(path.stem)}.{os.getpid()}.tmp{path.suffix}")
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        with _naming(path):
            temporary.replace(path)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        free = shutil.disk_usage(path.parent).free / 2**20
        raise OSError(
            error.errno,
            f"no room to write {path} ({os.strerror(error.errno)}; {free:,.0f} MiB are free on its disk). What it "
            "held before is intact: make room, then start again",
        ) from error
    finally:
        with suppress(OSError):  # where the temporary file could not be made, it cannot be removed either
            temporary.unlink(missing_ok=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What keeps a file from being written names the file instead of a part of its path."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise
        reason = os.strerror(error.errno or 0)
        message = (
            f"{path} cannot be written ({reason}: {error.filename}); name another, or correct its rights"
        )
        raise OSError(error.errno, message) from error


def ends_digest(paths: Iterable[Path]) -> str:
    """SHA-256 of both ends of files, which stand for files that are too large to be read as a whole."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(file.read(_END_BYTES))
            file.seek(max(0, path.stat().st_size - _END_BYTES))
            digest.update(file.read())
    return digest.hexdigest()


def write_json(path: str | Path, value: Any) -> None:
    """Writes ``value`` as readable JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Reads a JSON file.

    Raises:
        FileNotFoundError: the file does not exist.
        FileError: the file is no JSON, is nested without end, holds a number of thousands of digits or names a
            key of an object twice; the message says where, if it can.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        return json.loads(text, object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        where = f"is no text in UTF-8 ({error.reason} at byte {error.start})"
        raise FileError(path, where, "save it as UTF-8") from error
    except RecursionError as error:
        fault = "is not valid JSON: brackets are nested too deeply"
        raise FileError(path, fault, "write it again") from error
    except ValueError as error:
        fault = f"is not valid JSON ({error})"
        raise FileError(path, fault, "correct it there, or write the file again") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are all different, without endless texts.

    Of two equal keys Python would keep the last without a word.
    """
    found = dict(pairs)
    for name, value in pairs:
        for text in (name, *(value if isinstance(value, list) else (value,))):
            if isinstance(text, str) and len(text) > _LONGEST_TEXT:
                raise ValueError(f"{quoted(name, 60)} holds a text of {len(text):,} characters")
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name[:60] for name in names if names.count(name) > 1})
        raise ValueError(f"keys stand twice: {twice[:5]}")
    return found
