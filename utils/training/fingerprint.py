"""What a run was made from: a run may only be continued with the same arguments, model and data."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_utils.cases.splits import Patient
from data_utils.features.identity import copies, feature_identity
from utils.configuration.run_config import RunConfig
from utils.findings import listing

logger = logging.getLogger(__name__)
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
    owners = {slide: p.case_id for split in patients.values() for p in split for slide in p.slides}
    found = {slide: feature_identity(slide) for slide in owners}
    if same := copies({slide: digest for slide, (_, digest) in found.items()}, owners):
        logger.warning("%d feature files hold the patches of another case: %s", len(same), listing(same))
    digests["features"] = hashlib.sha256(json.dumps(sorted(found.values())).encode()).hexdigest()
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
