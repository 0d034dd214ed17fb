"""The one rule by which a feature file belongs to a slide.

A file is that of a slide when its name without a known suffix is the slide's identifier. Failing that, what other
tools append is taken off: ``<slide>.<uuid>`` (GDC) and ``<slide>_featvec``. A name is never cut at a dot: ``S1`` and
``S1.2`` are two slides. Identifiers are texts, compared after trimming; ``ü`` is one letter, however a file system
writes it (Unicode NFC).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from data_utils.features.store import FEATURE_SUFFIXES
from utils.barcodes import folded, plain
from utils.files import FileError

# Suffixes of slides, but for DICOM.
IMAGE_SUFFIXES = (
    ".svs",
    ".tif",
    ".tiff",
    ".ndpi",
    ".mrxs",
    ".scn",
    ".vms",
    ".vmu",
    ".bif",
    ".svslide",
    ".czi",
)
_APPENDED = re.compile(r"(\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|_featvec)$", re.IGNORECASE)


def stem_of(name: str) -> str:
    """A file name without its suffix, where that is one of feature files; any other dot belongs to the name."""
    name = plain(name)
    for suffix in FEATURE_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def slide_of(name: str) -> str:
    """A file name without its suffix and without what tools append to the slide's identifier."""
    return _APPENDED.sub("", stem_of(name))


def slide_in_table(cell: str) -> str:
    """The slide that a cell of a table names: by its identifier, or by its image or feature file, path or name."""
    suffix = next((s for s in (*IMAGE_SUFFIXES, *FEATURE_SUFFIXES) if cell.lower().endswith(s)), None)
    if suffix is None:
        return cell
    name = cell.replace("\\", "/").rpartition("/")[2]
    return slide_of(name[: -len(suffix)]).strip()


class SlideFiles:
    """Files by the slides they may belong to."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        self._by_slide: dict[str, list[Path]] = defaultdict(list)
        self._spelling: dict[str, Path] = {}
        for path in sorted(files):
            self._by_stem[stem_of(path.name).strip()].append(path)
            self._by_slide[slide_of(path.name).strip()].append(path)
            self._spelling.setdefault(folded(slide_of(path.name)), path)

    def candidates(self, slide: str, stated: str | None = None) -> list[Path]:
        """The files of a slide, those that fit best only; a name that ``stated`` gives goes first.

        Raises:
            FileError: no file fits but for upper and lower case or dashes; both names are shown.
        """
        slide, name = plain(slide).strip(), Path(stated or "").name
        for files in (
            self._by_stem.get(stem_of(name).strip()) if name else None,
            self._by_stem.get(slide),
            self._by_slide.get(slide),
        ):
            if files:
                return [file for file in files if file.name == name] or list(files)
        other = self._spelling.get(folded(slide))
        if other is not None:
            raise FileError(
                other, f"and slide {slide!r} differ in upper and lower case or dashes", "write them alike"
            )
        return []
