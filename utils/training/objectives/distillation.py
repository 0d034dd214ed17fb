"""Text distillation: outputs learn from label sentences (after PromptKD, Li et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_utils.cases.case import Case
from utils.training.objectives.base import Labelled, Objective

TEXT_DIM = 512
LOSS_SCALE = 10.0
# General, Diagnosis and Survival; the sentence of the stage is not trained on.
PUBLISHED_ROWS = (0, 1, 3)


class TextProjector(nn.Sequential):
    """Frozen random map from text embeddings to the output space: ``[..., 512] -> [..., O]``.

    It is never trained, so a checkpoint without it would be worthless: it is saved with every run.
    """

    def __init__(self, output_dim: int, text_dim: int = TEXT_DIM) -> None:
        super().__init__(
            nn.Linear(text_dim, output_dim),
            nn.LayerNorm(output_dim),
            nn.ReLU(),
            nn.Linear(output_dim, output_dim),
        )
        self.requires_grad_(False)


class TextDistillation(Objective):
    """``10 tau^2 KL(softmax(text / tau) || softmax(output / tau))``, summed over tasks and width.

    Args:
        output_dim: ``O``.
        num_tasks: ``T``.
        temperature: ``tau``.
        centred: targets are projections less their mean over the training patients (:meth:`fit_centre`). The
            sentences of a cohort share most of their words, so that published targets nearly coincide: what tells
            patients apart is a small part of them.
        text_dim: width of the text embeddings.
        text_rows: the sentence that each task of the task file learns from; of these tasks the first ``T`` are there.
    """

    needs_text = True

    def __init__(
        self,
        output_dim: int,
        num_tasks: int = 3,
        temperature: float = 1.0,
        centred: bool = False,
        text_dim: int = TEXT_DIM,
        text_rows: Sequence[int] = PUBLISHED_ROWS,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"model config, text_targets: temperature is {temperature}, should be positive")
        if not 1 <= num_tasks <= len(text_rows):
            raise ValueError(f"num_tasks is {num_tasks}; texts exist for 1 to {len(text_rows)} tasks")
        self.temperature, self.centred = temperature, centred
        self.projector = TextProjector(output_dim, text_dim)
        self.register_buffer("text_rows", torch.tensor(text_rows[:num_tasks]), persistent=False)
        if centred:
            self.register_buffer("centre", torch.zeros(num_tasks, output_dim))

    @torch.no_grad()
    def fit_centre(self, texts: Tensor) -> None:
        """Takes the mean projection over the sentences ``[n, rows, 512]`` of the training patients as the centre."""
        if self.centred:
            self.centre.copy_(self.projector(texts[:, self.text_rows]).nanmean(dim=0).nan_to_num(0.0))

    def project(self, text: Tensor) -> Tensor:
        """Normalised projections ``[..., O]`` of sentences ``[..., 512]`` that belong to no task.

        Where targets are centred, these are, too, on the mean over the tasks.
        """
        projected = self.projector(text)
        return F.normalize(projected - self.centre.mean(dim=0) if self.centred else projected, dim=-1)

    def targets(self, text: Tensor) -> Tensor:
        """What the tasks learn, ``[T, O]``, from the sentences ``[rows, 512]`` of a case."""
        projected = self.projector(text[self.text_rows])
        return F.normalize(projected - self.centre if self.centred else projected, dim=-1)

    def learns_from(self, patient: Labelled) -> bool:
        """Always: every patient has sentences."""
        return True

    def forward(self, outputs: Tensor, case: Case) -> Tensor:
        """The loss of one case with sentences from its outputs ``[T, O]``."""
        if case.text is None:
            raise ValueError(f"case {case.case_id} has no text embedding to learn from")
        return self.divergence(outputs, case.text)

    def divergence(self, outputs: Tensor, text: Tensor) -> Tensor:
        """How far outputs ``[T, O]`` are from sentences ``[rows, 512]``."""
        if len(outputs) != len(self.text_rows):
            raise ValueError(f"{len(outputs)} task outputs for {len(self.text_rows)} texts")
        # Softmax over small differences: always in single precision or better.
        precision = torch.promote_types(outputs.dtype, torch.float32)
        with torch.autocast(outputs.device.type, enabled=False), torch.no_grad():
            teacher = self.targets(text.to(self.projector[0].weight.dtype)).to(precision)
        student = F.normalize(outputs.to(precision), dim=-1)
        # A sentence that the case does not have is a row of NaN; its token does not learn from this case. (Rows are
        # blanked out, not selected, so that a GPU need not be asked how many there are.)
        absent = text[self.text_rows].isnan().all(dim=-1, keepdim=True)
        absent = (
            absent & ~absent.all()
        )  # a case without any sentence is a fault: its loss is NaN, and it is named
        divergence = F.kl_div(
            F.log_softmax(student / self.temperature, dim=-1).masked_fill(absent, 0.0),
            F.log_softmax(teacher / self.temperature, dim=-1).masked_fill(absent, 0.0),
            reduction="sum",
            log_target=True,
        )
        return LOSS_SCALE * self.temperature**2 * divergence
