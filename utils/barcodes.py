"""What an identifier says: TCGA barcodes have parts, other identifiers are whole."""

from __future__ import annotations

import re

_TCGA = re.compile(r"(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})(?:-(\d{2})[A-Z]?)?(?=-|$)", re.IGNORECASE)


def patient_of(identifier: str) -> str:
    """The patient of a sample or slide: the first 12 characters of a TCGA barcode, else the identifier itself."""
    match = _TCGA.match(identifier)
    return match[1] if match else identifier


def is_normal_tissue(identifier: str) -> bool:
    """Whether a TCGA barcode is of normal tissue (sample types 10 to 19); of other identifiers nothing is known."""
    match = _TCGA.match(identifier)
    return bool(match and match[2] and match[2].startswith("1"))
