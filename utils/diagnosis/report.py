"""Findings, and the table they end in."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LEVELS = ("OK", "warning", "error")


@dataclass(frozen=True)
class Finding:
    """One row of the table.

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


def count_levels(findings: Sequence[Finding]) -> str:
    """``12 OK, 1 warning, 0 errors``."""
    oks, warnings, errors = (sum(f.level == level for f in findings) for level in LEVELS)
    plural = {True: "", False: "s"}
    return f"{oks} OK, {warnings} warning{plural[warnings == 1]}, {errors} error{plural[errors == 1]}"


def text_table(findings: Sequence[Finding], width: int) -> str:
    """The table for a terminal ``width`` characters wide; a remedy stands below its finding after ``->``."""
    area = max([4, *(len(f.area) for f in findings)])
    left = area + len("  warning  ")
    lines = []
    for finding in findings:
        head = f"{finding.area:<{area}}  {finding.level:<7}  "
        parts = [(head, finding.what)]
        if finding.remedy:
            parts.append((" " * left + "-> ", finding.remedy))
        for first, text in parts:
            lines += textwrap.wrap(
                text,
                max(width, left + 40),
                initial_indent=first,
                subsequent_indent=" " * len(first),
                break_long_words=False,
                break_on_hyphens=False,
            )
    rule = "-" * min(width, max(map(len, lines), default=left))
    return "\n".join([rule, *lines, rule, count_levels(findings)]) + "\n"


def markdown_table(findings: Sequence[Finding]) -> str:
    """The table for ``--output``."""

    def cell(text: str) -> str:
        return text.replace("|", "\\|").replace("\n", " ")

    rows = [f"| {cell(f.area)} | {f.level} | {cell(f.what)} | {cell(f.remedy)} |" for f in findings]
    head = ["| area | status | finding | remedy |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *rows, "", count_levels(findings)]) + "\n"
