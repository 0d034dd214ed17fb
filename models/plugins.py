"""Packages of users that register slide encoders, modalities and aggregators of their own."""

from __future__ import annotations

import importlib
import os

VARIABLE = "MODALTUNE_PLUGINS"


def load_plugins() -> None:
    """Imports the modules that ``MODALTUNE_PLUGINS`` names, separated by commas; importing them registers.

    Raises:
        ImportError: one cannot be imported; the message names the variable.
    """
    for name in filter(None, (part.strip() for part in os.environ.get(VARIABLE, "").split(","))):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ImportError(f"{VARIABLE} names {name!r}, which cannot be imported: {error}") from error
