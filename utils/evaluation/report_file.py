"""``report.csv`` of a fold or seed: its results, and the sign that it is finished.

Every row ends with a checksum of the table, so that a file that was cut off or changed is not taken for a whole one.
"""

from __future__ import annotations

import hashlib
import io
import logging
from pathlib import Path

import pandas as pd

from utils.files import atomic_path

logger = logging.getLogger(__name__)

REPORT = "report.csv"
_CHECKSUM = "checksum"


def write_report(folder: Path, results: pd.DataFrame) -> None:
    """Writes the results of a fold or seed, atomically."""
    digest = _digest(results.to_csv(index=False, lineterminator="\n"))
    with atomic_path(folder / REPORT) as temporary:
        results.assign(**{_CHECKSUM: digest}).to_csv(temporary, index=False, lineterminator="\n")


def read_report(folder: Path) -> pd.DataFrame | None:
    """What :func:`write_report` wrote; None where there is none, or it is not whole.

    Reports of older versions have no checksum and are taken as they are, with a warning.
    """
    path = folder / REPORT
    if not path.is_file():
        return None
    content = path.read_bytes()
    body, known = _without_checksum(content.decode("utf-8", errors="replace"))
    if known and _digest(body) == known:
        return pd.read_csv(io.StringIO(body))
    table = None if known else _older(content)
    if table is None:
        logger.warning("%s is cut off or was changed, so it is made anew", path)
    else:
        logger.warning("%s has no checksum (an older version wrote it): taken as it is", path)
    return table


def _digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _without_checksum(text: str) -> tuple[str, str]:
    """The table without its last column, and what that says; an empty text where the table has no such column."""
    rows = [line.rpartition(",") for line in text.split("\n")]
    if rows[0][2] != _CHECKSUM:
        return text, ""
    said = {row[2] for row in rows[1:-1]}
    return "\n".join(row[0] for row in rows), said.pop() if len(said) == 1 else "unclear"


def _older(content: bytes) -> pd.DataFrame | None:
    try:
        table = pd.read_csv(io.BytesIO(content), on_bad_lines="error")
    except (ValueError, pd.errors.ParserError):
        return None
    whole = content.endswith(b"\n") and {"task", "split", "metric", "value"} <= set(table.columns)
    return table if whole and len(table) else None
