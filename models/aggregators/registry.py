"""The registry behind ``--mil_name``."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class DataSpec:
    """What a model has to know of the data.

    Attributes:
        pathways: for each pathway, positions of its genes in a case's gene vector.
        num_tasks: task tokens.
    """

    pathways: tuple[tuple[int, ...], ...] = ()
    num_tasks: int = 3


Builder = Callable[[Mapping[str, Any], DataSpec], nn.Module]
_BUILDERS: dict[str, Builder] = {}


def register(name: str) -> Callable[[Builder], Builder]:
    """Registers a function ``(config, spec) -> model`` under a ``--mil_name``."""

    def decorate(builder: Builder) -> Builder:
        if name in _BUILDERS:
            raise ValueError(f"aggregator {name!r} is registered twice")
        _BUILDERS[name] = builder
        return builder

    return decorate


def available_aggregators() -> list[str]:
    """Every registered ``--mil_name``."""
    package = importlib.import_module("models.aggregators")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"models.aggregators.{module.name}")
    return sorted(_BUILDERS)


def build_aggregator(name: str, config: Mapping[str, Any], spec: DataSpec) -> nn.Module:
    """The model registered as ``name``, with random weights.

    Raises:
        ValueError: no such model, or the config does not fit it.
    """
    names = available_aggregators()
    if name not in names:
        raise ValueError(f"unknown --mil_name {name!r}; there are {names}")
    return _BUILDERS[name](config, spec)
