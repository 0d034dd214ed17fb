"""Which slides lie below a folder; what is no slide although it looks like one is named with the reason."""

from __future__ import annotations

import os
import stat
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_utils.features.slide_names import IMAGE_SUFFIXES
from data_utils.features.store import FEATURE_SUFFIXES
from data_utils.slides.dicom import DICOM_SUFFIX, series_of
from data_utils.slides.opening import CONVERT, NOT_ALLOWED, NOT_THERE, mirax_folder

# What OpenSlide opens.
SLIDE_SUFFIXES = (*IMAGE_SUFFIXES, DICOM_SUFFIX)
# What scanners write and OpenSlide does not open.
UNSUPPORTED_SUFFIXES = {
    ".isyntax": "Philips iSyntax",
    ".i2syntax": "Philips iSyntax",
    ".kfb": "KFBIO",
    ".sdpc": "Sqray",
    ".tmap": "Unic",
    ".tron": "InteMedic",
    ".mds": "Motic",
    ".mdsx": "Motic",
    ".vsi": "Olympus",
    ".lif": "Leica LIF",
    ".zvi": "Zeiss ZVI",
    ".zarr": "OME-Zarr",
    ".jp2": "JPEG 2000",
    ".qptiff": "PerkinElmer",
}
# Behind the suffix of a slide: what is packed, or was not downloaded to its end.
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".tar", ".tgz")
_UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", ".download", ".filepart", ".aria2")
# The longest name of a file, in bytes, on common file systems.
_LONGEST_NAME = 255


def slide_name(path: Path) -> str:
    """The name of a slide: that of its file (or folder) without the suffix of slides; other dots belong to it.

    Its feature file is this name and ``.h5``, which :mod:`data_utils.features.slide_names` takes back to the slide.
    """
    name = path.name
    return name[: -len(path.suffix)] if path.suffix.lower() in SLIDE_SUFFIXES else name


def printable(text: str | Path) -> str:
    r"""A file name for logs and tables: bytes that are no UTF-8 appear as ``\xe4``."""
    return os.fsencode(text).decode("utf-8", errors="backslashreplace")


@dataclass(frozen=True)
class Fault:
    """Something that should be a slide and is none.

    Attributes:
        path: the file or folder.
        reason: what is wrong and what to do.
        status: ``failed``, or ``duplicate`` where nothing is lost.
    """

    path: Path
    reason: str
    status: str = "failed"


@dataclass
class FoundSlides:
    """What lies below a folder.

    Attributes:
        slides: sorted by name; each has a feature file of its own.
        faults: files and folders that cannot be used or are there twice.
        others: files that nobody would take for slides, by suffix.
    """

    slides: list[Path] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """Rows of the report of all of them."""
        return len(self.slides) + len(self.faults)


def find_slides(folder: str | Path) -> FoundSlides:
    """All slides below a folder, in linked folders too; suffixes in any case.

    Raises:
        FileNotFoundError: the folder is not there, or neither a slide nor a fault is in it.
        PermissionError: the folder cannot be read.
    """
    folder = Path(folder)
    found = FoundSlides()
    candidates: list[Path] = []
    dicom: dict[Path, list[Path]] = defaultdict(list)
    for path in _files(folder, found):
        if path.suffix.lower() == DICOM_SUFFIX:
            dicom[path.parent].append(path)
        else:
            candidates.append(path)
    for parent, files in dicom.items():
        candidates += _dicom_slides(parent, files, parent == folder)
    _sort_out_duplicates(candidates, found)
    found.slides.sort(key=lambda path: (slide_name(path), str(path)))
    found.faults.sort(key=lambda fault: (fault.path.name, str(fault.path)))
    if not found.slides and not found.faults:
        raise FileNotFoundError(
            f"no slides found in {folder.absolute()} or below (looked for {' '.join(SLIDE_SUFFIXES)}). "
            "Set DATA_ROOT in utils/constants.py, MODALTUNE_DATA_ROOT, or --slides_dir."
        )
    return found


# ---------------------------------------------------------------------------- walking
def _files(root: Path, found: FoundSlides) -> Iterator[Path]:
    """Files with the suffix of a slide; the rest is noted in ``found``.

    Every folder is searched once, by its own name before the names of links to it, so that links that lead back
    end.
    """
    own, linked = deque([root]), deque[Path]()
    searched: dict[tuple[int, int], Path] = {}
    while own or linked:
        folder = own.popleft() if own else linked.popleft()
        try:
            status = folder.stat()
            entries = sorted(folder.iterdir())
        except FileNotFoundError as error:
            if folder == root:
                raise FileNotFoundError(
                    f"no slides found in {folder.absolute()}: there is no such folder. Set DATA_ROOT in "
                    "utils/constants.py, MODALTUNE_DATA_ROOT, or --slides_dir."
                ) from error
            found.faults.append(Fault(folder, f"{printable(folder)} {NOT_THERE}"))
            continue
        except NotADirectoryError as error:
            raise FileNotFoundError(f"no slides found: {folder.absolute()} is no folder") from error
        except OSError as error:
            if folder == root:
                raise
            why = NOT_ALLOWED if isinstance(error, PermissionError) else f"cannot be read ({error.strerror})"
            reason = f"the folder {printable(folder)} {why}; slides in it are left out"
            found.faults.append(Fault(folder, reason))
            continue
        if (first := searched.setdefault((status.st_dev, status.st_ino), folder)) != folder:
            reason = f"{printable(folder)} is a link to {printable(first)}, which is searched already"
            found.faults.append(Fault(folder, reason, "duplicate"))
            continue
        data = {mirax_folder(path) for path in entries if path.suffix.lower() == ".mrxs"}
        for path in entries:
            if path in data and (path / "Slidedat.ini").exists():
                continue  # belongs to the .mrxs file of the same name
            if _is_folder(path) and path.suffix.lower() not in UNSUPPORTED_SUFFIXES:
                if path.name.startswith("."):
                    found.others["hidden folders"] += 1
                else:
                    (linked if path.is_symlink() else own).append(path)
            elif _looks_like_slide(path, found):
                yield path


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # of a link whose target may not be looked at
        return False


def _looks_like_slide(path: Path, found: FoundSlides) -> bool:
    """Whether a file should be opened; notes it otherwise."""
    suffix = path.suffix.lower()
    inner = Path(path.stem).suffix.lower()
    name = printable(path)
    if path.name.startswith("."):
        found.others["hidden"] += 1
    elif suffix in SLIDE_SUFFIXES:
        if (reason := _no_file(path)) is None:
            return True
        found.faults.append(Fault(path, f"{name} {reason}"))
    elif suffix in UNSUPPORTED_SUFFIXES:
        reason = (
            f"{name} is of a kind that OpenSlide does not read ({UNSUPPORTED_SUFFIXES[suffix]}); {CONVERT}"
        )
        found.faults.append(Fault(path, reason))
    elif inner in SLIDE_SUFFIXES and suffix in _PACKED:
        found.faults.append(Fault(path, f"{name} is packed; unpack it"))
    elif inner in SLIDE_SUFFIXES and suffix in _UNFINISHED:
        found.faults.append(Fault(path, f"{name} was not downloaded to its end; finish the download"))
    elif path.is_symlink() and _no_file(path):
        # Nobody knows whether a folder of slides was meant.
        found.faults.append(Fault(path, f"{name} {_no_file(path)}"))
    else:
        found.others[suffix or "without suffix"] += 1
    return False


def _no_file(path: Path) -> str | None:
    """Why a path cannot be opened as a file, as far as its name tells; opening a pipe would wait forever."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return f"is a link to {printable(path.readlink())}, which {NOT_THERE}"
    except PermissionError:
        return NOT_ALLOWED
    except OSError as error:
        return f"cannot be looked at ({error.strerror}); correct the link"
    return None if stat.S_ISREG(mode) else "is no file but a pipe, socket or device; remove it"


# ---------------------------------------------------------------------------- names
def _dicom_slides(folder: Path, files: list[Path], is_root: bool) -> list[Path]:
    """DICOM slides consist of several files: a folder with one slide is that slide, else its first file."""
    first_of: dict[str, Path] = {}
    unreadable = []
    for path in files:
        if (series := series_of(path)) is None:
            unreadable.append(path)  # opening it says why
        else:
            first_of.setdefault(series, path)
    slides = [folder] if len(first_of) == 1 and not is_root else list(first_of.values())
    return slides + unreadable


def _sort_out_duplicates(candidates: Iterable[Path], found: FoundSlides) -> None:
    """Slides of one name would share a feature file: kept is one that is the same file, none where they differ.

    Names that differ in upper and lower case or in spaces at their ends are one name, as in all tables.
    """
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(candidates, key=lambda path: (path.is_symlink(), str(path))):
        if len(os.fsencode(slide_name(path))) + len(FEATURE_SUFFIXES[0]) > _LONGEST_NAME:
            found.faults.append(
                Fault(path, f"the name of {printable(path)} is too long for a feature file; shorten it")
            )
        else:
            by_name[slide_name(path).strip().casefold()].append(path)
    for first, *rest in by_name.values():
        second = next((path for path in rest if not _same(first, path)), None)
        if second is None:
            found.slides.append(first)
            same = f"is the same file as {printable(first)}"
            found.faults += [Fault(path, f"{printable(path)} {same}", "duplicate") for path in rest]
            continue
        for path in (first, *rest):
            other = printable(second if path == first else first)
            reason = f"{printable(path)} and {other} would share one feature file; remove or rename one"
            found.faults.append(Fault(path, reason))


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
