"""Self-contained HTML pages: pictures are part of the file, nothing is loaded when it is read."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from utils.files import atomic_path

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Table:
    """Cells are texts, numbers, or links ``{"href": ..., "text": ...}``."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Table:
        """The columns of a table, without its index."""
        return cls([str(name) for name in frame.columns], frame.astype(object).to_numpy().tolist())


@dataclass(frozen=True)
class Picture:
    """A PNG and what stands below it."""

    path: Path
    caption: str

    @property
    def data(self) -> str:
        """The file in base64."""
        return base64.b64encode(self.path.read_bytes()).decode()


@dataclass(frozen=True)
class Bars:
    """Bar charts side by side on one scale, drawn by the browser.

    Attributes:
        panels: values by name, by title of the chart; bars have the order of the values.
        caption: what stands below them.
    """

    panels: Mapping[str, pd.Series]
    caption: str

    @property
    def limit(self) -> float:
        """The greatest absolute value."""
        return (
            max((float(values.abs().max()) for values in self.panels.values() if len(values)), default=0)
            or 1.0
        )


@dataclass
class Section:
    """A part of a page under a heading."""

    title: str
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    charts: list[Bars] = field(default_factory=list)


def write_page(path: Path, title: str, about: Sequence[str], sections: Sequence[Section]) -> None:
    """Writes a page; texts are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("page.html.j2").render(title=title, about=about, sections=sections)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
