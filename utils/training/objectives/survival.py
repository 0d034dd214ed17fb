"""Discrete-time survival: hazards of intervals and their negative log-likelihood."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from data_utils.cases.case import Case
from data_utils.tables.survival_bins import SurvivalBins
from utils.evaluation.heads import Head
from utils.training.objectives.base import Labelled, Objective, task_output

ALPHA = 0.5
_SMALLEST = 1e-7


def survival_nll(logits: Tensor, interval: int, censored: bool, alpha: float = ALPHA) -> Tensor:
    """Negative log-likelihood of a patient under the hazards ``sigmoid(logits) [K]``.

    A death in interval ``k``: survived all intervals before it and died in it. A censoring: survived it too,
    weighted by ``1 - alpha``. Logarithms are of values of at least 1e-7, as published: a hazard that is wrong
    with more confidence has no gradient.
    """
    hazards = logits.sigmoid()
    alive = torch.cat([hazards.new_ones(1), (1 - hazards).cumprod(dim=0)])  # [K + 1], before each interval

    def log(value: Tensor) -> Tensor:
        return value.clamp(min=_SMALLEST).log()

    if censored:
        return -(1 - alpha) * log(alive[interval + 1])
    return -(log(alive[interval]) + log(hazards[interval]))


class SurvivalObjective(Objective):
    """:func:`survival_nll` of a linear head on one task token.

    Args:
        output_dim: ``O``.
        bins: the intervals; they are saved with the weights of the run.
        task: which task token the head reads.
        alpha: by how much censored patients count less.
    """

    def __init__(self, output_dim: int, bins: SurvivalBins, task: int = 0, alpha: float = ALPHA) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is {alpha}, should be between 0 and 1")
        self.bins, self.task, self.alpha = bins, task, alpha
        self.classifier = nn.Linear(output_dim, len(bins))

    def forward(self, outputs: Tensor, case: Case) -> Tensor:
        """The loss of a case of known survival."""
        logits = self.classifier(task_output(outputs, self.task)).to(
            torch.promote_types(outputs.dtype, torch.float32)
        )
        return survival_nll(logits, self.bins.index(case.duration), case.event == 0, self.alpha)

    def learns_from(self, patient: Labelled) -> bool:
        return not math.isnan(patient.duration)

    def kind_of(self, patient: Labelled) -> str | None:
        """Interval and censoring."""
        if not self.learns_from(patient):
            return None
        return f"{self.bins.index(patient.duration)}/{patient.event}"

    def heads(self) -> Mapping[str, Head]:
        return {"survival": Head.of(self.classifier, self.task, self.bins)}
