"""The registry behind ``--mil_name``."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from models.plugins import load_plugins

MISSING_MODALITIES = ("drop", "learned")
# What ModalTune learns from, and every model unless it says otherwise: label sentences.
DISTILL = "distill"
# What a model with one output for each task can be trained under.
EVERY_OBJECTIVE = (DISTILL, "distill+multitask", "multitask", "subtype", "survival")


@dataclass(frozen=True)
class DataSpec:
    """What a model has to know of the data.

    Attributes:
        structures: by modality, what of the data decides the parameters of its encoder (see
            :attr:`data_utils.tables.tensor_table.ModalityTable.structure`); modalities where nothing does are
            left out.
        num_tasks: task tokens.
        missing: what stands for a modality that a case lacks: nothing (``drop``: such cases are left
            out) or a learned token (``learned``).
    """

    structures: Mapping[str, Any] = field(default_factory=dict)
    num_tasks: int = 3
    missing: str = "drop"

    def __post_init__(self) -> None:
        if self.missing not in MISSING_MODALITIES:
            raise ValueError(f"missing is {self.missing!r}, should be one of {MISSING_MODALITIES}")


Builder = Callable[[Mapping[str, Any], DataSpec], nn.Module]


@dataclass(frozen=True)
class Aggregator:
    """A model that can be trained: ``Case -> outputs [T, O]``.

    Attributes:
        name: its ``--mil_name``.
        build: ``(config, spec) -> model`` with random weights.
        modalities: what the model reads of a case besides its slides.
        objectives: what it can be trained under; the first one unless a flag says otherwise.
        encoder: the slide encoder whose patch features it takes; None for any.
        patches: whether it reads patches; a model that does not runs without feature files.
    """

    name: str
    build: Builder
    modalities: tuple[str, ...] = ()
    objectives: tuple[str, ...] = (DISTILL,)
    encoder: str | None = None
    patches: bool = True


_REGISTERED: dict[str, Aggregator] = {}


def register(
    name: str,
    modalities: Sequence[str] = (),
    objectives: Sequence[str] = (DISTILL,),
    encoder: str | None = None,
    patches: bool = True,
) -> Callable[[Builder], Builder]:
    """Registers a function ``(config, spec) -> model``; the arguments are those of :class:`Aggregator`.

    Raises:
        ValueError: the name is taken.
    """

    def decorate(builder: Builder) -> Builder:
        if name in _REGISTERED:
            raise ValueError(f"aggregator {name!r} is registered twice")
        _REGISTERED[name] = Aggregator(name, builder, tuple(modalities), tuple(objectives), encoder, patches)
        return builder

    return decorate


def available_aggregators() -> list[str]:
    """Every registered ``--mil_name``."""
    package = importlib.import_module("models.aggregators")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"models.aggregators.{module.name}")
    load_plugins()
    return sorted(_REGISTERED)


def aggregator(name: str) -> Aggregator:
    """The model registered as ``name``.

    Raises:
        ValueError: no such model.
    """
    if name not in (names := available_aggregators()):
        raise ValueError(f"unknown --mil_name {name!r}; there are {names}")
    return _REGISTERED[name]


def build_aggregator(name: str, config: Mapping[str, Any], spec: DataSpec) -> nn.Module:
    """The model registered as ``name``, with random weights.

    Raises:
        ValueError: no such model, or the config does not fit it.
    """
    return aggregator(name).build(config, spec)


def modalities_of(name: str) -> tuple[str, ...]:
    """The modalities that the model registered as ``name`` reads of a case.

    Raises:
        ValueError: no such model.
    """
    return aggregator(name).modalities
