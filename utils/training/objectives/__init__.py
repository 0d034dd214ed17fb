"""What a model learns from: label sentences, subtype classes, survival times, or several at once."""

from utils.training.objectives.base import Objective
from utils.training.objectives.build import OBJECTIVES, ObjectiveConfig, build_objective
from utils.training.objectives.distillation import TEXT_DIM, TextDistillation, TextProjector
from utils.training.objectives.multitask import MultiTask
from utils.training.objectives.subtype import SubtypeObjective
from utils.training.objectives.survival import SurvivalObjective

__all__ = [
    "OBJECTIVES",
    "TEXT_DIM",
    "MultiTask",
    "Objective",
    "ObjectiveConfig",
    "SubtypeObjective",
    "SurvivalObjective",
    "TextDistillation",
    "TextProjector",
    "build_objective",
]
