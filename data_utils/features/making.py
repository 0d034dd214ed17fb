"""The record of how a feature file was made, by which a later extraction tells whether it would make the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

# A digest is shown by so many digits.
_SHOWN_DIGITS = 10


@dataclass(frozen=True)
class Making:
    """What features depend on besides their resolution.

    Attributes:
        slide_bytes: size of the slide's files.
        slide_mtime: when they were last changed, in seconds since 1970.
        slide_ends: SHA-256 of both ends of every file; a copy has another time and the same ends.
        tissue: rule of the tissue mask.
        min_tissue: least share of tissue in a tile.
        recipe: SHA-256 of how tiles are cut and prepared.
        weights: SHA-256 of the encoder's weights.
        precision: fp32, bf16 or fp16.
    """

    slide_bytes: int
    slide_mtime: float
    slide_ends: str
    tissue: str
    min_tissue: float
    recipe: str
    weights: str
    precision: str

    @classmethod
    def read(cls, attributes: Mapping[str, Any]) -> Making | None:
        """From the attributes of a file; None where they are not all there."""
        values: dict[str, Any] = {}
        for name, kind in _KINDS.items():
            value = attributes.get(name)
            value = value.item() if isinstance(value, np.generic) else value
            value = float(value) if kind is float and isinstance(value, int) else value
            if not isinstance(value, kind):
                return None
            values[name] = value
        return cls(**values)

    def differences(self, wanted: Making) -> dict[str, str]:
        """What would be other than here, in words, by field; the slide's time alone is no difference."""
        return {
            name: f"{_WORDS.get(name, name)} {shown(value)} instead of {shown(getattr(wanted, name))}"
            for name, value in asdict(self).items()
            if name != "slide_mtime" and value != getattr(wanted, name)
        }


_KINDS = {entry.name: {"int": int, "float": float, "str": str}[str(entry.type)] for entry in fields(Making)}
_WORDS = {
    "slide_bytes": "bytes of the slide",
    "slide_ends": "content of the slide",
    "tissue": "tissue rule",
    "recipe": "tile recipe",
}


def shown(value: object) -> object:
    """A value of the record for a message: digests are cut."""
    return f"{value[:_SHOWN_DIGITS]}..." if isinstance(value, str) and len(value) == 64 else value
