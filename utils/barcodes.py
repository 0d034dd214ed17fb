"""What an identifier says: TCGA barcodes have parts, so have samples of GDC's other programmes; others are whole."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

from utils.files import FileError

_TCGA = re.compile(r"(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})(?:-(\d{2})([A-Z])?)?(?=-|$)", re.IGNORECASE)
# R turns dashes in column names into dots.
_TCGA_OF_R = re.compile(r"TCGA[.-][A-Z0-9]{2}[.-][A-Z0-9]{4}(?:[.-]\w+)*", re.IGNORECASE)
# Slides of TCGA: diagnostic ones, and frozen sections from the top, the middle or the bottom of the tissue.
_SLIDE_KINDS = {"DX": "dx", "TS": "frozen", "MS": "frozen", "BS": "frozen"}
_SLIDE_PART = re.compile(r"-(DX|TS|MS|BS)\w{1,2}(?=[.]|$)", re.IGNORECASE)
# A sample of another programme: the patient, type and vial.
_SAMPLE = re.compile(r"(.+)-(\d{2})([A-Z])")
# Characters that no program shows: soft hyphens, marks of direction (Windows copies them with paths) and of no width.
_INVISIBLE = dict.fromkeys(
    (0xAD, 0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0xFEFF)
)
# What word processors make of a hyphen.
_DASHES = dict.fromkeys((*range(0x2010, 0x2016), 0x2212, 0xFE58, 0xFE63, 0xFF0D), "-")


def plain(text: str) -> str:
    """A text as it is compared: an umlaut is one letter (Unicode NFC), what nobody can see is left out."""
    return text if text.isascii() else unicodedata.normalize("NFC", text.translate(_INVISIBLE))


def folded(identifier: str) -> str:
    """Without what people mistake: upper and lower case, the kinds of dashes."""
    return plain(identifier).translate(_DASHES).strip().casefold()


def spelled_twice(identifiers: Iterable[str], key: Callable[[str], str] = folded) -> tuple[str, str] | None:
    """The first two different ones that ``key`` makes equal: one of them is a slip."""
    seen: dict[str, str] = {}
    for own in identifiers:
        if (other := seen.setdefault(key(own), own)) != own:
            return other, own
    return None


def misnamed(names: Iterable[str], patients: Iterable[str]) -> str | None:
    """A name and a patient without one that are meant to be the same, in words: they differ by :func:`folded` alone,
    or the name is that of a tumour sample of the patient."""
    left, right = set(names), set(patients)
    alone = {folded(patient): patient for patient in sorted(right - left)}
    for name in sorted(left - right):
        if (patient := alone.get(folded(name))) is not None:
            return f"{name!r} and {patient!r} differ in upper and lower case or dashes only"
        owner = alone.get(folded(patient_of(tidy_barcode(name))))
        if owner is not None and not is_normal_tissue(tidy_barcode(name)):
            return f"{name!r} is a sample of the patient {owner!r}, who is not there by that name"
    return None


def patient_of(identifier: str) -> str:
    """The patient of a sample or slide: the first 12 characters of a TCGA barcode, else the identifier itself."""
    match = _TCGA.match(identifier)
    return match[1] if match else identifier


def is_normal_tissue(identifier: str) -> bool:
    """Whether a sample is of normal tissue: types 10 to 19 of TCGA, all of GTEx; of others nothing is known."""
    match = _TCGA.match(identifier)
    return identifier.upper().startswith("GTEX-") or bool(match and match[2] and match[2].startswith("1"))


def is_tcga(identifier: str) -> bool:
    """Whether it is a TCGA barcode."""
    return _TCGA.match(identifier) is not None


def is_sample(identifier: str) -> bool:
    """Whether it has the parts of a sample's barcode, of whatever programme."""
    return identifier.count("-") >= 2


def slide_kind(identifier: str) -> str | None:
    """Whether a TCGA barcode is of a diagnostic slide (``dx``) or a ``frozen`` section; None of other identifiers."""
    match = _SLIDE_PART.search(identifier) if _TCGA.match(identifier) else None
    return _SLIDE_KINDS[match[1].upper()] if match else None


def tidy_barcode(identifier: str) -> str:
    """A TCGA barcode in capitals and with dashes, however R or a table wrote it; other identifiers stay."""
    text = identifier.strip()
    return text.upper().replace(".", "-") if _TCGA_OF_R.fullmatch(text) else text


def sample_rank(identifier: str) -> tuple[int, str]:
    """Sorts samples of a patient: by type (01 is the primary tumour, 02 a recurrence, 06 a metastasis), then vial."""
    match = _TCGA.match(identifier) or _SAMPLE.fullmatch(identifier)
    return (int(match[2] or 99), match[3] or "") if match else (99, "")


def patients_of(samples: Iterable[str]) -> list[str]:
    """The patient of every sample of a table.

    TCGA barcodes are cut. If all the others end with a sample type and a vial ("TARGET-30-PAAPFA-01A"), these are cut
    off, unless two of them would become one patient: what looks like a sample may be a patient.
    """
    names = list(samples)
    others = {name for name in names if not _TCGA.match(name)}
    parts = {name: match[1] for name in others if (match := _SAMPLE.fullmatch(name))}
    cut = len(parts) == len(others) == len(set(parts.values()))
    return [parts[name] if cut and name in others else patient_of(name) for name in names]


def owners_of_slides(pairs: Iterable[tuple[str, str]], path: Path) -> dict[str, str]:
    """The patient of every slide.

    Raises:
        FileError: a slide is of two patients, or its TCGA barcode is that of another.
    """
    owner: dict[str, str] = {}
    for slide, patient in pairs:
        other, coded = owner.setdefault(slide, patient), patient_of(slide)
        if is_tcga(slide) and is_tcga(patient) and coded.upper() != patient_of(patient).upper():
            other = coded
        if other != patient:
            fault = f": slide {slide} belongs to the patients {other} and {patient}"
            raise FileError(path, fault, "a slide is of one patient")
    return owner
