"""A DICOM slide, written by hand: explicit little-endian values, uncompressed tiles."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

WHOLE_SLIDE_IMAGE = "1.2.840.10008.5.1.4.1.1.77.1.6"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
LONG = ("OB", "OW", "SQ", "UT")


def element(group: int, number: int, kind: str, value: str | bytes | int) -> bytes:
    if isinstance(value, int):
        value = struct.pack({"US": "<H", "UL": "<I"}[kind], value)
    elif isinstance(value, str):
        value = value.encode()
    value += (b"\0" if kind in ("UI", "OB") else b" ") * (len(value) % 2)
    length = struct.pack("<2xI" if kind in LONG else "<H", len(value))
    return struct.pack("<HH", group, number) + kind.encode() + length + value


def sequence(group: int, number: int, item: bytes, marked: bool = False) -> bytes:
    """A sequence of one item, its end marked or its length stated."""
    if not marked:
        return element(group, number, "SQ", struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item)
    begin = struct.pack("<HH2s2xI", group, number, b"SQ", 0xFFFFFFFF)
    ends = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return begin + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + item + ends


def write_dicom_level(
    path: Path,
    image: np.ndarray,
    mpp: float,
    series: str,
    number: int = 1,
    tile: int = 64,
    resampled: bool = False,
) -> Path:
    """Writes ``[h, w, 3]`` uint8, sides whole tiles, as one level of the slide ``series``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, columns = (side // tile for side in image.shape[:2])
    frames = image.reshape(rows, tile, columns, tile, 3).transpose(0, 2, 1, 3, 4).tobytes()
    instance = f"{series}.{number}"
    meta = b"".join(
        (
            element(2, 0x1, "OB", b"\0\1"),
            element(2, 0x2, "UI", WHOLE_SLIDE_IMAGE),
            element(2, 0x3, "UI", instance),
            element(2, 0x10, "UI", EXPLICIT_LITTLE_ENDIAN),
            element(2, 0x12, "UI", "1.2.3"),
        )
    )
    spacing = element(0x28, 0x30, "DS", f"{mpp / 1000:.6f}\\{mpp / 1000:.6f}")
    kind = "DERIVED\\PRIMARY\\VOLUME\\RESAMPLED" if resampled else "ORIGINAL\\PRIMARY\\VOLUME\\NONE"
    content = (
        element(8, 0x8, "CS", kind),
        element(8, 0x16, "UI", WHOLE_SLIDE_IMAGE),
        element(8, 0x18, "UI", instance),
        element(8, 0x60, "CS", "SM"),
        # Names another series, whose number must not be taken for that of this file.
        sequence(8, 0x1115, element(0x20, 0xE, "UI", "1.9.9"), marked=number % 2 == 1),
        element(0x20, 0xD, "UI", "1.2.3.4"),
        element(0x20, 0xE, "UI", series),
        element(0x20, 0x13, "IS", str(number)),
        element(0x20, 0x9311, "CS", "TILED_FULL"),
        element(0x28, 0x2, "US", 3),
        element(0x28, 0x4, "CS", "RGB"),
        element(0x28, 0x6, "US", 0),
        element(0x28, 0x8, "IS", str(rows * columns)),
        element(0x28, 0x10, "US", tile),
        element(0x28, 0x11, "US", tile),
        element(0x28, 0x100, "US", 8),
        element(0x28, 0x101, "US", 8),
        element(0x28, 0x102, "US", 7),
        element(0x28, 0x103, "US", 0),
        element(0x48, 0x6, "UL", image.shape[1]),
        element(0x48, 0x7, "UL", image.shape[0]),
        element(0x48, 0x303, "UL", 1),
        sequence(0x5200, 0x9229, sequence(0x28, 0x9110, spacing)),
        element(0x7FE0, 0x10, "OB", frames),
    )
    path.write_bytes(bytes(128) + b"DICM" + element(2, 0, "UL", len(meta)) + meta + b"".join(content))
    return path
