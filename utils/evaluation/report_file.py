"""``report.csv`` of a fold or seed: its results, and the sign that it is finished.

It has a checksum, so that a file that was cut off or changed is not taken for a whole one.
"""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pandas as pd

from data_utils.tables.checked_table import checked_text, write_checked

logger = logging.getLogger(__name__)

REPORT = "report.csv"


def write_report(folder: Path, results: pd.DataFrame) -> None:
    """Writes the results of a fold or seed, atomically."""
    write_checked(results, folder / REPORT)


def read_report(folder: Path) -> pd.DataFrame | None:
    """What :func:`write_report` wrote; None where there is none, or it is not whole.

    Reports of older versions have no checksum and are taken as they are, with a warning.
    """
    path = folder / REPORT
    if not path.is_file():
        return None
    content = path.read_bytes()
    try:
        body = checked_text(content)
        table = None if body is None else pd.read_csv(io.StringIO(body))
        older = False
    except LookupError:
        table, older = _older(content), True
    if table is None or table.empty:
        logger.warning("%s is cut off or was changed, so it is made anew", path)
        return None
    if older:
        logger.warning("%s has no checksum (an older version wrote it): taken as it is", path)
    return table


def _older(content: bytes) -> pd.DataFrame | None:
    try:
        table = pd.read_csv(io.BytesIO(content), on_bad_lines="error")
    except (ValueError, pd.errors.ParserError):
        return None
    whole = content.endswith(b"\n") and {"task", "split", "metric", "value"} <= set(table.columns)
    return table if whole and len(table) else None
