"""The table in which findings end."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from utils.findings import LEVELS, Finding


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
