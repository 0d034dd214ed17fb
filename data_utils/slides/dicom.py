"""Which DICOM files belong together: those of one series are one slide, a file a level."""

from __future__ import annotations

import struct
from pathlib import Path

DICOM_SUFFIX = ".dcm"
# The number of the series lies long before; frames follow.
_HEADER_BYTES = 1 << 16
_SERIES_INSTANCE_UID = (0x0020, 0x000E)
_ITEM, _ITEM_END, _SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
# Kinds of values whose length has four bytes.
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_UNDEFINED = 0xFFFFFFFF


def series_of(path: Path) -> str | None:
    """SeriesInstanceUID of a DICOM file; None where it cannot be read.

    All slides in DICOM have explicit kinds of values in little-endian order.
    """
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
        return _series(header) if header[128:132] == b"DICM" else None
    except (OSError, struct.error, UnicodeDecodeError):
        return None


def _series(header: bytes) -> str | None:
    position, depth = 132, 0  # depth: of sequences and items whose end is marked instead of stated
    while position < len(header):
        tag = struct.unpack_from("<HH", header, position)
        position += 4
        if tag in (_ITEM, _ITEM_END, _SEQUENCE_END):
            (length,) = struct.unpack_from("<I", header, position)
            position += 4
            if tag == _ITEM and length == _UNDEFINED:
                depth += 1
            elif tag == _ITEM:
                position += length
            else:
                depth -= 1
            continue
        kind = header[position : position + 2]
        if kind in _LONG:
            (length,) = struct.unpack_from("<I", header, position + 4)
            position += 8
        else:
            (length,) = struct.unpack_from("<H", header, position + 2)
            position += 4
        if length == _UNDEFINED:
            depth += 1
            continue
        if tag == _SERIES_INSTANCE_UID and depth == 0:
            return header[position : position + length].decode("ascii").strip("\0 ")
        position += length
    return None


def dicom_files(folder: Path) -> list[Path]:
    """The DICOM files directly in a folder, those first whose series can be read."""
    files = [path for path in folder.iterdir() if path.suffix.lower() == DICOM_SUFFIX]
    return sorted(files, key=lambda path: (series_of(path) is None, path.name))
