"""The registry of modalities."""

from __future__ import annotations

import importlib
import logging
import pkgutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data_utils.tables.tensor_table import ModalityTable
from models.modalities.base import Modality
from models.plugins import load_plugins

logger = logging.getLogger(__name__)

_REGISTERED: dict[str, Modality] = {}


def register_modality(declaration: type[Modality]) -> type[Modality]:
    """Class decorator that makes a modality known.

    Raises:
        ValueError: its name, word or flag is taken.
    """
    new = declaration()
    for other in _REGISTERED.values():
        for attribute in ("name", "word", "flag"):
            if (taken := getattr(new, attribute)) == getattr(other, attribute):
                raise ValueError(
                    f"modality {new.name!r}: the {attribute} {taken!r} is that of {other.name!r}"
                )
    _REGISTERED[new.name] = new
    return declaration


def all_modalities() -> dict[str, Modality]:
    """Every registered modality by name, in the order of their words in a ``--mil_name``."""
    package = importlib.import_module("models.modalities")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"models.modalities.{module.name}")
    load_plugins()
    # Those whose tokens follow the task token are named first, the others by the alphabet.
    return dict(sorted(_REGISTERED.items(), key=lambda item: (not item[1].after_task, item[0])))


def modality(name: str) -> Modality:
    """The modality of that name.

    Raises:
        ValueError: there is none.
    """
    known = all_modalities()
    if name not in known:
        raise ValueError(f"unknown modality {name!r}; there are {sorted(known)}")
    return known[name]


def read_tables(
    names: Iterable[str],
    files: Mapping[str, Path | None],
    options: Mapping[str, Mapping[str, Any]],
    structures: Mapping[str, Any],
) -> dict[str, ModalityTable]:
    """Reads the files of the modalities named; those without a file are left out.

    Args:
        names: of modalities.
        files: by modality; None where the cohort has none.
        options: see :meth:`Modality.read`, by modality.
        structures: of a trained model, by modality; empty in a training.
    """
    tables = {}
    for name in names:
        if (path := files.get(name)) is not None:
            tables[name] = modality(name).read(path, options.get(name, {}), structures.get(name))
    return tables
