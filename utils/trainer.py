"""The training loop: one case a step, probes on frozen embeddings after every epoch."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from data_utils.case import Case
from data_utils.datasets import CaseDataset
from utils import checkpoint
from utils.embeddings import Embeddings
from utils.precision import Precision
from utils.results import Evaluator
from utils.sampling import epoch_order
from utils.schedule import WarmupCosine
from utils.tracking import Tracker

logger = logging.getLogger(__name__)

BEST_WEIGHTS = "best_model_weights.pt"
LAST_CHECKPOINT = "last_checkpoint.pt"


@dataclass(frozen=True)
class TrainingOptions:
    """Numbers of a training run; see the flags of the same names."""

    num_epochs: int = 30
    lr: float = 1e-4
    weight_decay: float = 5e-4
    gc: int = 1
    seed: int = 0
    eval_interval: int = 1
    save_interval: int = 1
    workers: int = 0
    site_sampling: str = "natural"


def set_seed(seed: int) -> None:
    """Seeds every generator a run draws from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 libraries draw from the global generator
    torch.manual_seed(seed)


class Trainer:
    """Trains a model on an objective and keeps the weights that validate best.

    Args:
        model: maps a case to outputs ``[T, O]``.
        objective: maps outputs and a case's texts to a loss; saved with the weights.
        evaluator: scores embeddings; decides which epoch is best.
        output_dir: where checkpoints go.
        options: see :class:`TrainingOptions`.
        device: where to run.
        precision: see :class:`Precision`.
        run: description of the run that is stored with the weights, plain values only.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: nn.Module,
        evaluator: Evaluator,
        output_dir: Path,
        options: TrainingOptions,
        device: torch.device,
        precision: Precision,
        run: dict[str, Any],
    ) -> None:
        self.model, self.objective = model.to(device), objective.to(device)
        self.evaluator, self.output_dir, self.options = evaluator, output_dir, options
        self.device, self.precision, self.run = device, precision, run
        parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=options.lr, weight_decay=options.weight_decay)
        self.best: dict[str, Any] = {"epoch": -1, "score": None}

    def fit(
        self,
        train: CaseDataset,
        train_plain: CaseDataset,
        val: CaseDataset,
        tracker: Tracker,
        first: int = 0,
    ) -> None:
        """Trains to the end and puts the best weights into the model.

        Args:
            train: training cases with texts.
            train_plain: the same cases as the evaluation sees them, to fit probes on.
            val: validation cases.
            tracker: takes the metrics of every epoch.
            first: epoch to start with; see :meth:`resume`.
        """
        options = self.options
        schedule = WarmupCosine(self.optimizer, options.lr, options.num_epochs, first)
        for epoch in range(first, options.num_epochs):
            # Seeded by the epoch, so that a run that continues draws what it would have drawn.
            set_seed(options.seed * 1_000_003 + epoch)
            metrics = {"lr": schedule.lr, "loss": self._train_epoch(train, epoch)}
            schedule.step()
            if (epoch + 1) % options.eval_interval == 0 or epoch + 1 == options.num_epochs:
                metrics |= self._validate(train_plain, val, epoch)
            tracker.log(epoch, metrics)
            if (epoch + 1) % options.save_interval == 0 or epoch + 1 == options.num_epochs:
                self._save_last(epoch)
        tracker.plot()
        path = self.output_dir / BEST_WEIGHTS
        checkpoint.load_trainable(self.model, checkpoint.load_weights(path)["model"], path)

    def embed(self, dataset: CaseDataset) -> Embeddings:
        """Outputs of every case in evaluation mode."""
        self.model.eval()
        vectors, cases = [], []
        with torch.inference_mode():
            for case in tqdm(self._loader(dataset), desc=f"embed {dataset.name}", leave=False):
                with self.precision.autocast():
                    vectors.append(self.model(case.to(self.device)).float().cpu().numpy())
                cases.append(case)
        return Embeddings(
            vectors=np.stack(vectors),
            case_ids=[case.case_id for case in cases],
            labels=np.array([case.label for case in cases]),
            durations=np.array([case.duration for case in cases]),
            events=np.array([case.event for case in cases]),
            sites=[case.site or case.project_id for case in cases],
            projects=[case.project_id for case in cases],
            complete=np.array([case.complete for case in cases]),
        )

    # ------------------------------------------------------------------------ one epoch
    def _train_epoch(self, dataset: CaseDataset, epoch: int) -> float:
        self.model.train()
        dataset.set_epoch(epoch)
        order = epoch_order(dataset.sites, self.options.seed, epoch, self.options.site_sampling)
        total, pending = 0.0, 0
        progress = tqdm(self._loader(dataset, order), desc=f"epoch {epoch}", leave=False)
        for case in progress:
            case = case.to(self.device)
            with self.precision.autocast():
                loss = self.objective(self.model(case), case.text)
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the loss of case {case.case_id} is {loss.item()} in epoch {epoch}; check its features and "
                    "genes, or lower --lr"
                )
            self.precision.scaler.scale(loss / self.options.gc).backward()
            total, pending = total + loss.item(), pending + 1
            if pending == self.options.gc:
                self._step()
                pending = 0
            progress.set_postfix(loss=f"{loss.item():.4f}")
        if pending:
            self._step()
        return total / len(dataset)

    def _step(self) -> None:
        self.precision.scaler.step(self.optimizer)
        self.precision.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _loader(self, dataset: CaseDataset, order: Sequence[int] | None = None) -> Iterator[Case]:
        # Workers start anew every epoch, so that they see the dataset's epoch.
        return DataLoader(
            dataset,
            batch_size=None,
            sampler=order,
            num_workers=self.options.workers,
            pin_memory=self.device.type == "cuda",
        )

    def _validate(self, train: CaseDataset, val: CaseDataset, epoch: int) -> dict[str, float]:
        metrics = self.evaluator.validate(self.embed(train), self.embed(val))
        score = self.evaluator.score(metrics)
        if self.best["score"] is None or score > tuple(self.best["score"]):
            self.best = {"epoch": epoch, "score": list(score)}
            checkpoint.save(
                self.output_dir / BEST_WEIGHTS,
                {
                    "model": checkpoint.trainable_state(self.model),
                    "objective": {k: v.cpu() for k, v in self.objective.state_dict().items()},
                    "run": {**self.run, "epoch": epoch},
                },
            )
        logger.info("epoch %d: score %s, best %s in epoch %d", epoch, score, *reversed(self.best.values()))
        return metrics

    # ------------------------------------------------------------------------ interruption
    def _save_last(self, epoch: int) -> None:
        checkpoint.save(
            self.output_dir / LAST_CHECKPOINT,
            {
                "epoch": epoch,
                "model": checkpoint.trainable_state(self.model),
                "objective": self.objective.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.precision.scaler.state_dict(),
                "best": self.best,
            },
        )

    def resume(self) -> int:
        """Loads the last checkpoint if there is one; returns the epoch to go on with."""
        path = self.output_dir / LAST_CHECKPOINT
        if not path.is_file():
            return 0
        state = checkpoint.load(path)
        checkpoint.load_trainable(self.model, state["model"], path)
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.precision.scaler.load_state_dict(state["scaler"])
        self.best = state["best"]
        logger.info("continuing %s after epoch %d", self.output_dir, state["epoch"])
        return state["epoch"] + 1
