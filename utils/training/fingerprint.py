"""What a run was made from: a run may only be continued with the same arguments, model and data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_utils.cases.splits import Patient
from utils.run_config import RunConfig

# Files whose content is recorded elsewhere: in the model, and with the weights.
_KEPT = {"model.model_config", "output.eval_weights", "data.tasks"}
# Bytes read at either end of a feature file.
_END_BYTES = 4096


def data_digests(config: RunConfig, patients: Mapping[str, Iterable[Patient]]) -> dict[str, str]:
    """SHA-256 of the content of every file that the configuration names, and of the feature files' identity.

    Feature files are many and large: name, size, beginning and end stand for them. Their folder and
    their times do not count, so that features may be copied to a faster disk between two jobs.
    """
    digests = {
        name: file_digest(path) for name, path in config.paths() if path.is_file() and name not in _KEPT
    }
    slides = {slide for split in patients.values() for p in split for slide in p.slides}
    digests["features"] = hashlib.sha256(json.dumps(sorted(map(_identity, slides))).encode()).hexdigest()
    return digests


def patients_digest(patients: Mapping[str, Iterable[Patient]]) -> str:
    """SHA-256 of who is in which split."""
    cases = {split: [p.case_id for p in members] for split, members in patients.items()}
    return hashlib.sha256(json.dumps(cases, sort_keys=True).encode()).hexdigest()


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """``{name: (before, now)}`` of all entries that differ; entries of nested mappings by dotted names."""
    one, other = _flat(before), _flat(now)
    names = sorted(one.keys() | other.keys())
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _identity(path: Path) -> tuple[str, int, str]:
    """Name, size and a digest of both ends; a file that is missing is reported where it is needed."""
    if not path.is_file():
        return path.name, -1, ""
    size = path.stat().st_size
    with path.open("rb") as file:
        ends = file.read(_END_BYTES)
        file.seek(max(0, size - _END_BYTES))
        ends += file.read()
    return path.name, size, hashlib.sha256(ends).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
