"""What a check has to say: everything is well, or what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

LEVELS = ("OK", "warning", "error")


@dataclass(frozen=True)
class Finding:
    """One row of the doctor's table.

    Attributes:
        level: ``OK``, ``warning`` (a run works, perhaps not as meant) or ``error`` (it stops, or its numbers
            mean nothing).
        what: what was found; names the file and the case.
        remedy: what to do; warnings and errors must have one.
        area: the check; filled in by the doctor.
    """

    level: str
    what: str
    remedy: str = ""
    area: str = ""

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"level {self.level!r} of a finding should be one of {LEVELS}")
        if self.level != "OK" and not self.remedy:
            raise ValueError(f"a finding without a remedy helps nobody: {self.what}")


def ok(what: str) -> Finding:
    """All is well."""
    return Finding("OK", what)


def warning(what: str, remedy: str) -> Finding:
    """A run works, perhaps not as meant."""
    return Finding("warning", what, remedy)


def error(what: str, remedy: str) -> Finding:
    """A run stops, or its numbers mean nothing."""
    return Finding("error", what, remedy)


def listing(items: Iterable[object], shown: int = 3) -> str:
    """``a, b, c and 4 more``."""
    words = [str(item) for item in items]
    rest = f" and {len(words) - shown} more" if len(words) > shown else ""
    return ", ".join(words[:shown]) + rest
