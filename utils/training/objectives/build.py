"""From the name of an objective to the objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from data_utils.tables.survival_bins import SurvivalBins
from utils.training.objectives.base import Objective
from utils.training.objectives.distillation import PUBLISHED_ROWS, TEXT_DIM, TextDistillation
from utils.training.objectives.multitask import MultiTask
from utils.training.objectives.subtype import SubtypeObjective
from utils.training.objectives.survival import ALPHA, SurvivalObjective

# What each objective is made of.
OBJECTIVES = {
    "distill": ("distill",),
    "subtype": ("subtype",),
    "survival": ("survival",),
    "multitask": ("subtype", "survival"),
    "distill+multitask": ("distill", "subtype", "survival"),
}
# The task token that a head reads of the published tasks: Diagnosis and Survival.
PUBLISHED_HEADS: Mapping[str, int] = {"subtype": 1, "survival": 2}


@dataclass(frozen=True)
class ObjectiveConfig:
    """What decides an objective.

    Attributes:
        name: one of :data:`OBJECTIVES`.
        num_classes: subtype classes.
        bins: survival intervals; needed where survival is learned.
        alpha: see :func:`utils.training.objectives.survival.survival_nll`.
        weights: of the parts, in the order of :data:`OBJECTIVES`; empty learns them.
        text_targets: arguments of :class:`TextDistillation`, from the model config.
        text_dim: width of the text embeddings.
        text_rows: the sentence that each task learns from.
        head_tokens: index of the task token that a head reads, where the model has it; else the first.

    Raises:
        ValueError: the name is unknown, or the weights do not fit it.
    """

    name: str = "distill"
    num_classes: int = 2
    bins: SurvivalBins | None = None
    alpha: float = ALPHA
    weights: tuple[float, ...] = ()
    text_targets: Mapping[str, Any] = field(default_factory=dict)
    text_dim: int = TEXT_DIM
    text_rows: tuple[int, ...] = PUBLISHED_ROWS
    head_tokens: Mapping[str, int] = field(default_factory=lambda: PUBLISHED_HEADS)

    def __post_init__(self) -> None:
        if self.name not in OBJECTIVES:
            raise ValueError(f"unknown objective {self.name!r}; there are {sorted(OBJECTIVES)}")
        if self.weights and len(self.weights) != len(self.parts):
            raise ValueError(
                f"--task_weights {list(self.weights)}: objective {self.name} has the parts {', '.join(self.parts)}"
            )

    @property
    def parts(self) -> tuple[str, ...]:
        """What it is made of."""
        return OBJECTIVES[self.name]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and checkpoints."""
        bins = None if self.bins is None else self.bins.to_dict()
        return {
            **vars(self),
            "bins": bins,
            "weights": list(self.weights),
            "text_targets": dict(self.text_targets),
            "text_rows": list(self.text_rows),
            "head_tokens": dict(self.head_tokens),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> ObjectiveConfig:
        """Inverse of :meth:`to_dict`."""
        bins = None if value["bins"] is None else SurvivalBins.from_dict(value["bins"])
        rows = tuple(value.get("text_rows", PUBLISHED_ROWS))
        return cls(**{**value, "bins": bins, "weights": tuple(value["weights"]), "text_rows": rows})


def build_objective(config: ObjectiveConfig, model: nn.Module, num_tasks: int) -> Objective:
    """The objective for the outputs ``[num_tasks, model.output_dim]`` of a model.

    A model may initialise the heads itself, by a method ``init_head(linear)``.

    Raises:
        ValueError: survival is learned and there are no intervals.
    """
    parts = {name: _PARTS[name](config, model, num_tasks) for name in config.parts}
    if init := getattr(model, "init_head", None):
        for part in parts.values():
            if isinstance(part, (SubtypeObjective, SurvivalObjective)):
                init(part.classifier)
    if len(parts) == 1:
        return next(iter(parts.values()))
    weights = dict(zip(parts, config.weights, strict=True)) if config.weights else None
    return MultiTask(parts, weights)


def distillation_of(objective: Objective) -> TextDistillation | None:
    """The text distillation of an objective, or None where it has none."""
    parts = objective.parts.values() if isinstance(objective, MultiTask) else (objective,)
    return next((part for part in parts if isinstance(part, TextDistillation)), None)


def _token(config: ObjectiveConfig, part: str, num_tasks: int) -> int:
    token = config.head_tokens[part]
    return token if token < num_tasks else 0


def _distill(config: ObjectiveConfig, model: nn.Module, num_tasks: int) -> Objective:
    known = {"text_dim": config.text_dim, "text_rows": config.text_rows}
    try:
        return TextDistillation(model.output_dim, num_tasks, **known | dict(config.text_targets))
    except TypeError as error:
        raise ValueError(f"model config, text_targets: {error}") from error


def _subtype(config: ObjectiveConfig, model: nn.Module, num_tasks: int) -> Objective:
    return SubtypeObjective(model.output_dim, config.num_classes, _token(config, "subtype", num_tasks))


def _survival(config: ObjectiveConfig, model: nn.Module, num_tasks: int) -> Objective:
    if config.bins is None:
        raise ValueError(f"objective {config.name} needs survival intervals")
    return SurvivalObjective(
        model.output_dim, config.bins, _token(config, "survival", num_tasks), config.alpha
    )


_PARTS: dict[str, Callable[[ObjectiveConfig, nn.Module, int], Objective]] = {
    "distill": _distill,
    "subtype": _subtype,
    "survival": _survival,
}
