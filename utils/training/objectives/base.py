"""What the trainer needs of an objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from data_utils.cases.case import Case
from utils.evaluation.heads import Head


class Labelled(Protocol):
    """What is known of a patient, in a split file as in a case."""

    label: int
    duration: float
    event: int


class Objective(nn.Module, ABC):
    """The loss of one case; heads that it trains are part of it and are saved with the weights."""

    # Whether cases need the text embeddings of their label sentences.
    needs_text: bool = False

    @abstractmethod
    def forward(self, outputs: Tensor, case: Case) -> Tensor:
        """The loss of a case from its outputs ``[T, O]``."""

    @abstractmethod
    def learns_from(self, patient: Labelled) -> bool:
        """Whether there is anything to learn from what is known of the patient, its text aside."""

    def kind_of(self, patient: Labelled) -> str | None:
        """The kind of patient that weighted sampling draws as often as the others; None where there are no kinds."""
        return None

    def heads(self) -> Mapping[str, Head]:
        """The heads as they are now, ready to be evaluated, by what they predict: ``subtype``, ``survival``."""
        return {}


def task_output(outputs: Tensor, task: int) -> Tensor:
    """The output ``[O]`` that a head reads.

    Raises:
        ValueError: the model has no such task token.
    """
    if not 0 <= task < len(outputs):
        raise ValueError(f"a head reads task token {task}, the model has {len(outputs)}")
    return outputs[task]
