"""The report of an extraction: one line a slide, kept current while it runs, with a checksum of the table."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pandas as pd

from data_utils.tables.checked_table import write_checked

logger = logging.getLogger(__name__)

# The report is written at most this often (and at the end), in seconds.
REPORT_INTERVAL = 30.0
NOT_REACHED = "not reached yet; where nothing runs any more, start again: what is finished is skipped"


@dataclass(frozen=True)
class SlideResult:
    """One line of the report.

    ``status`` is done, skipped (was finished before), failed, duplicate, or pending while the extraction runs and
    where it was ended before it reached the slide.
    """

    slide: str
    status: str
    tiles: int | None = None
    mpp: float | None = None
    mpp_assumed: bool | None = None
    seconds: float | None = None
    reason: str = ""
    reader: str = ""
    mpp_source: str = ""


class ExtractionReport:
    """Collects results of slides and keeps ``path`` (CSV) current.

    Attributes:
        path: the file.
        results: one a slide.
        slides: names of all that the extraction is to handle.
        waiting: share of the time of the extraction in which the encoder waited for tiles.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results: list[SlideResult] = []
        self.slides: list[str] = []
        self.waiting = 0.0
        self._written = time.monotonic()

    def add(self, result: SlideResult) -> None:
        """Notes one slide; writes the file if the last time was some seconds ago."""
        self.results.append(result)
        if result.status == "failed":
            logger.error("%s failed: %s", result.slide, result.reason)
        if time.monotonic() - self._written > REPORT_INTERVAL:
            self.write()

    def write(self) -> None:
        """Writes all results so far, atomically, sorted by slide."""
        reached = {result.slide for result in self.results}
        pending = [
            SlideResult(name, "pending", reason=NOT_REACHED) for name in self.slides if name not in reached
        ]
        table = pd.DataFrame(
            [asdict(result) for result in (*self.results, *pending)],
            columns=[field.name for field in fields(SlideResult)],
        )
        table = table.astype({"tiles": "Int64", "seconds": float, "mpp": float}).round({"seconds": 2})
        write_report(table, self.path)
        self._written = time.monotonic()

    def count(self, status: str) -> int:
        """Number of slides with this status."""
        return sum(result.status == status for result in self.results)


def write_report(table: pd.DataFrame, path: Path) -> None:
    """Writes a report sorted by slide, atomically."""
    write_checked(table.sort_values("slide", kind="stable"), path)
