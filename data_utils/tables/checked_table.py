"""CSV tables that say whether they are whole: every row ends with a checksum of the table."""

from __future__ import annotations

import csv
import hashlib
import io
from pathlib import Path

import pandas as pd

from utils.files import atomic_path

CHECKSUM = "checksum"


def write_checked(table: pd.DataFrame, path: Path) -> None:
    """Writes a table with its checksum, atomically."""
    digest = _digest(table.to_csv(index=False, lineterminator="\n"))
    with atomic_path(path) as temporary:
        table.assign(**{CHECKSUM: digest}).to_csv(temporary, index=False, lineterminator="\n")


def checked_text(content: bytes) -> str | None:
    """The table that :func:`write_checked` wrote, as CSV without the checksum; None where it was cut or changed.

    Raises:
        LookupError: it has no checksum.
    """
    try:
        rows = list(csv.reader(io.StringIO(content.decode("utf-8", errors="replace"), newline="")))
    except csv.Error:
        return None
    if not rows or not rows[0] or rows[0][-1] != CHECKSUM:
        raise LookupError(CHECKSUM)
    if not all(rows) or not content.endswith(b"\n"):
        return None
    body = io.StringIO()
    csv.writer(body, lineterminator="\n").writerows(row[:-1] for row in rows)
    return body.getvalue() if {row[-1] for row in rows[1:]} <= {_digest(body.getvalue())} else None


def _digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"
