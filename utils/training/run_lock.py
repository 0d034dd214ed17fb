"""One process at a time works on a run folder."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
# What file systems answer that know no locks.
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}


@contextmanager
def run_lock(folder: str | Path) -> Iterator[None]:
    """Holds ``<folder>/.lock`` during the block, and removes what a killed job left half-written.

    A POSIX record lock: it ends with this process however that ends, is not passed on to the processes
    that read cases (one of which may outlive a killed trainer by seconds), and works across machines on
    the usual network file systems.

    Raises:
        RuntimeError: another process holds it; the message names machine and process.
    """
    path = Path(folder) / LOCK_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                logger.warning("%s: this file system knows no locks; start only one job per folder", folder)
            elif error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise RuntimeError(
                    f"{folder} is in use by another job ({holder}); wait for it, end it, or choose another "
                    "--output_path"
                ) from error
            else:
                raise
        file.seek(0)
        file.truncate()
        file.write(f"host {socket.gethostname()}, process {os.getpid()}\n")
        file.flush()
        remove_leftovers(folder)
        yield


def remove_leftovers(folder: str | Path) -> None:
    """Removes temporary files (see :func:`utils.files.atomic_path`) of jobs that were killed."""
    for path in Path(folder).rglob(".*.tmp*"):
        if path.is_file():
            logger.info("%s, left behind by a killed job, is removed", path)
            path.unlink(missing_ok=True)
