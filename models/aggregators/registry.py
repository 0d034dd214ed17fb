"""The registry behind ``--mil_name``."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

MISSING_MODALITIES = ("drop", "learned")


@dataclass(frozen=True)
class DataSpec:
    """What a model has to know of the data.

    Attributes:
        pathways: for each pathway, positions of its genes in a case's gene vector.
        num_tasks: task tokens.
        shapes: shape of a case's input by modality, where the data decide it; None for an axis that
            differs between cases.
        missing: what stands for a modality that a case lacks: nothing (``drop``: such cases are left
            out) or a learned token (``learned``).
    """

    pathways: tuple[tuple[int, ...], ...] = ()
    num_tasks: int = 3
    shapes: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    missing: str = "drop"

    def __post_init__(self) -> None:
        if self.missing not in MISSING_MODALITIES:
            raise ValueError(f"missing is {self.missing!r}, should be one of {MISSING_MODALITIES}")


Builder = Callable[[Mapping[str, Any], DataSpec], nn.Module]
_BUILDERS: dict[str, Builder] = {}
_MODALITIES: dict[str, tuple[str, ...]] = {}


def register(name: str, modalities: Sequence[str] = ()) -> Callable[[Builder], Builder]:
    """Registers a function ``(config, spec) -> model`` under a ``--mil_name``.

    Args:
        name: the ``--mil_name``.
        modalities: what the model reads of a case besides its slides; names of ``models.modalities``.
    """

    def decorate(builder: Builder) -> Builder:
        if name in _BUILDERS:
            raise ValueError(f"aggregator {name!r} is registered twice")
        _BUILDERS[name], _MODALITIES[name] = builder, tuple(modalities)
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
    _check_name(name)
    return _BUILDERS[name](config, spec)


def modalities_of(name: str) -> tuple[str, ...]:
    """The modalities that the model registered as ``name`` reads of a case.

    Raises:
        ValueError: no such model.
    """
    _check_name(name)
    return _MODALITIES[name]


def _check_name(name: str) -> None:
    if name not in (names := available_aggregators()):
        raise ValueError(f"unknown --mil_name {name!r}; there are {names}")
