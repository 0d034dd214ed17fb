"""Several objectives at once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from data_utils.cases.case import Case
from utils.evaluation.heads import Head
from utils.training.objectives.base import Labelled, Objective


class MultiTask(Objective):
    """A weighted sum; a case counts in the parts that it has labels for.

    Args:
        parts: the objectives, by name.
        weights: factor of every part; learned where it is None (Kendall et al., CVPR 2018): a part of loss
            ``l`` adds ``exp(-s) l + s / 2`` with a learned ``s`` that starts at 0.

    Raises:
        ValueError: the weights are not those of the parts, or one is not positive.
    """

    def __init__(self, parts: Mapping[str, Objective], weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        if weights is not None and (weights.keys() != parts.keys() or min(weights.values()) <= 0):
            raise ValueError(
                f"weights {dict(weights)} of an objective: one positive number for each of {sorted(parts)}"
            )
        self.parts = nn.ModuleDict(parts)
        self.weights = weights
        if weights is None:
            self.log_variances = nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in parts})

    @property
    def needs_text(self) -> bool:
        return any(part.needs_text for part in self.parts.values())

    def forward(self, outputs: Tensor, case: Case) -> Tensor:
        """The sum over the parts that learn from the case.

        Raises:
            ValueError: there is none.
        """
        terms = [
            self._weighted(name, part(outputs, case))
            for name, part in self.parts.items()
            if part.learns_from(case)
        ]
        if not terms:
            raise ValueError(f"case {case.case_id} has no label that the objective learns from")
        return torch.stack(terms).sum()

    def _weighted(self, name: str, loss: Tensor) -> Tensor:
        if self.weights is not None:
            return self.weights[name] * loss
        uncertainty = self.log_variances[name]
        return torch.exp(-uncertainty) * loss + uncertainty / 2

    def learns_from(self, patient: Labelled) -> bool:
        return any(part.learns_from(patient) for part in self.parts.values())

    def kind_of(self, patient: Labelled) -> str | None:
        found = [part.kind_of(patient) for part in self.parts.values()]
        return next((kind for kind in found if kind is not None), None)

    def heads(self) -> Mapping[str, Head]:
        return {kind: head for part in self.parts.values() for kind, head in part.heads().items()}
