"""Ends a training whose validation loss has stopped falling."""

from __future__ import annotations

import math

import torch

from data_utils.cases.case import Case
from utils.evaluation.embeddings import Embeddings
from utils.training.objectives import Objective


class Patience:
    """Counts validations without a smaller loss.

    Args:
        limit: after as many in a row the training ends; None: never.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit, self.best, self.waited = limit, math.inf, 0

    def see(self, loss: float) -> None:
        """Takes the loss of a validation; NaN is no smaller one."""
        if loss < self.best:
            self.best, self.waited = loss, 0
        else:
            self.waited += 1

    def lasts(self, _: object = None) -> bool:
        """Whether another epoch is worth it."""
        return self.limit is None or self.waited < self.limit

    def state(self) -> dict[str, float]:
        """Plain values, for a checkpoint."""
        return {"best": self.best, "waited": self.waited}

    def restore(self, state: dict[str, float]) -> None:
        """Inverse of :meth:`state`."""
        self.best, self.waited = float(state["best"]), int(state["waited"])


def validation_loss(objective: Objective, cases: Embeddings, device: torch.device) -> float:
    """Mean loss of the cases that the objective learns from, by their outputs; NaN without any.

    For objectives that need no sentences: an embedding holds the labels of its case, not its texts.
    """
    losses = []
    nothing = torch.empty(0, device=device)
    with torch.inference_mode():
        for i, case_id in enumerate(cases.case_ids):
            case = Case(
                case_id,
                "",
                "",
                nothing,
                nothing,
                label=int(cases.labels[i]),
                duration=float(cases.durations[i]),
                event=int(cases.events[i]),
            )
            if objective.learns_from(case):
                losses.append(objective(torch.from_numpy(cases.vectors[i]).to(device), case).item())
    return sum(losses) / len(losses) if losses else math.nan
