"""What a run was made from: a run may only be continued with the same arguments, model and data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_utils.cases.splits import Patient
from data_utils.features.identity import feature_identity
from utils.configuration.run_config import RunConfig

# Files whose content is recorded elsewhere: in the model, and with the weights.
_KEPT = {"model.model_config", "output.eval_weights", "data.tasks"}


def data_digests(config: RunConfig, patients: Mapping[str, Iterable[Patient]]) -> dict[str, str]:
    """SHA-256 of the content of every file that the configuration names, and of the feature files' identity.

    Feature files are many and large: what :func:`feature_identity` reads of them stands for them. Their folder
    and their times do not count, so that features may be copied to a faster disk between two jobs.
    """
    digests = {
        name: file_digest(path) for name, path in config.paths() if path.is_file() and name not in _KEPT
    }
    slides = {slide for split in patients.values() for p in split for slide in p.slides}
    digests["features"] = hashlib.sha256(
        json.dumps(sorted(map(feature_identity, slides))).encode()
    ).hexdigest()
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


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
