"""Subtype classification: a linear head and cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_utils.cases.case import Case
from utils.evaluation.heads import Head
from utils.training.objectives.base import Labelled, Objective, task_output


class SubtypeObjective(Objective):
    """Cross-entropy of a linear head on one task token.

    Args:
        output_dim: ``O``.
        num_classes: subtype classes.
        task: which task token the head reads.
    """

    def __init__(self, output_dim: int, num_classes: int, task: int = 0) -> None:
        super().__init__()
        self.task = task
        self.classifier = nn.Linear(output_dim, num_classes)

    def forward(self, outputs: Tensor, case: Case) -> Tensor:
        """The loss of a case of known class."""
        logits = self.classifier(task_output(outputs, self.task)).to(
            torch.promote_types(outputs.dtype, torch.float32)
        )
        if not 0 <= case.label < len(logits):
            raise ValueError(
                f"case {case.case_id} has class {case.label}; the head has {len(logits)} classes"
            )
        return F.cross_entropy(logits[None], torch.tensor([case.label], device=logits.device))

    def learns_from(self, patient: Labelled) -> bool:
        return patient.label >= 0

    def heads(self) -> Mapping[str, Head]:
        return {"subtype": Head.of(self.classifier, self.task)}
