"""Model configs: JSON objects become dataclasses, and an unknown key is an error."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

T = TypeVar("T")


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Builds the dataclass ``cls`` from ``values``.

    Args:
        cls: a dataclass.
        values: its fields.
        where: name of the file or section, for messages.

    Raises:
        ValueError: a key is unknown (the message suggests a known one) or a required one is missing.
    """
    known = {field.name: field for field in fields(cls)}
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys are {sorted(known)}"
            raise ValueError(f"{where}: unknown key {key!r}; {hint}")
    missing = [
        name
        for name, field in known.items()
        if name not in values and field.default is MISSING and field.default_factory is MISSING
    ]
    if missing:
        raise ValueError(f"{where}: missing keys {missing}")
    return cls(**values)
