"""The training loop: one case a step, probes on frozen embeddings after every epoch."""

from __future__ import annotations

import itertools
import logging
import math
import operator
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from data_utils.cases.case import Case
from data_utils.cases.datasets import CaseDataset
from utils.configuration.run_config import TrainingConfig
from utils.devices import copied_to_host
from utils.evaluation.embeddings import Embeddings
from utils.evaluation.results import Evaluator
from utils.training import checkpoint
from utils.training.distributed import Group
from utils.training.fingerprint import differences
from utils.training.modality_report import Exchanged, GradientShares, ModalityReport, modality_report
from utils.training.objectives import Objective
from utils.training.optimizers import build_optimizer
from utils.training.patience import Patience, validation_loss
from utils.training.precision import Precision
from utils.training.progress import Progress, random_state, set_random_state
from utils.training.readers import case_loader, dead_readers_explained
from utils.training.recipes import COMMON, Recipe
from utils.training.sampling import case_order
from utils.training.schedule import build_schedule
from utils.training.signals import Interrupted, StopSignals
from utils.training.tracking import Tracker

logger = logging.getLogger(__name__)

BEST_WEIGHTS = "best_model_weights.pt"
LAST_CHECKPOINT = "last_checkpoint.pt"
EPOCH_WEIGHTS = "weights_epoch_{}.pt"


def set_seed(seed: int) -> None:
    """Seeds every generator a run draws from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 libraries draw from the global generator
    torch.manual_seed(seed)


class Trainer:
    """Trains a model on an objective and keeps the weights that validate best.

    Several processes (see :class:`Group`) take turns in the order of the epoch and step along the sum of
    their gradients: ``n`` processes that accumulate over ``gc`` cases step as one process does that
    accumulates over ``n * gc``. Only the first one writes files.

    Args:
        model: maps a case to outputs ``[T, O]``.
        objective: maps outputs and a case to a loss; saved with the weights.
        evaluator: scores embeddings; decides which epoch is best.
        output_dir: where checkpoints go.
        options: the numbers of the training.
        device: where to run.
        precision: see :class:`Precision`.
        run: description of the run that is stored with the weights, plain values only.
        fingerprint: what the run is made from, plain values only; a checkpoint of another is refused.
        group: the processes of the run.
        workers: processes that read cases.
        better: whether a validation score (first argument) replaces the best one so far; both are tuples.
        recipe: optimiser, schedule and order of the cases; its numbers count in ``options`` alone.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        evaluator: Evaluator,
        output_dir: Path,
        options: TrainingConfig,
        device: torch.device,
        precision: Precision,
        run: dict[str, Any],
        fingerprint: Mapping[str, Any] | None = None,
        group: Group | None = None,
        workers: int = 0,
        better: Callable[[Sequence[float], Sequence[float]], bool] = operator.gt,
        recipe: Recipe = COMMON,
    ) -> None:
        self.model, self.objective = model.to(device), objective.to(device)
        self.evaluator, self.output_dir, self.options = evaluator, output_dir, options
        self.device, self.precision, self.run = device, precision, run
        self.group, self.workers, self.better, self.recipe = group or Group(), workers, better, recipe
        self.fingerprint = {"processes": self.group.size, **(fingerprint or {})}
        self.parameters = [p for part in (model, objective) for p in part.parameters() if p.requires_grad]
        # On GPUs one kernel instead of a dozen.
        self.optimizer = build_optimizer(model, [objective], options, device.type == "cuda", recipe)
        self.best: dict[str, Any] = {"epoch": -1, "score": None}
        self.patience = Patience(recipe.patience)
        self._schedule("constant", 0)  # until the training begins
        self.progress = Progress()
        self.signals = StopSignals()
        self._tracker: Tracker | None = None
        self._shares: GradientShares | None = None
        self._random: dict[str, Any] | None = None
        self._saved = time.monotonic()

    @dead_readers_explained()
    def fit(
        self, train: CaseDataset, train_plain: CaseDataset, val: CaseDataset | None, tracker: Tracker
    ) -> None:
        """Trains to the end and puts the best weights into the model.

        Args:
            train: training cases with texts.
            train_plain: the same cases as the evaluation sees them, to fit probes on.
            val: validation cases; without any, the last epoch is kept.
            tracker: takes the metrics of every epoch.

        Raises:
            Interrupted: a signal asked for it; everything is saved.
            FloatingPointError: too many cases of an epoch gave no finite loss or gradient.
        """
        options, first = self.options, self.progress.epoch
        self._tracker, self._saved = tracker, time.monotonic()
        for module in (self.model, self.objective):
            self.group.equalise(module)
        self._schedule(self.recipe.schedule, first)
        with self.signals:
            for epoch in itertools.takewhile(self.patience.lasts, range(first, options.num_epochs)):
                # Seeded by the epoch; processes differ, so that they draw different dropout masks.
                set_seed(options.seed * 1_000_003 + epoch + self.group.rank * 7_919_000_017)
                due = options.modality_report_every and (epoch + 1) % options.modality_report_every == 0
                self._shares = GradientShares(self.model) if due else None
                metrics = {"lr": self.schedule.lr, "loss": self._train_epoch(train, epoch)}
                metrics["skipped"] = self.group.sum(len(self.progress.skipped))[0]
                self.schedule.step()
                last = epoch + 1 == options.num_epochs
                if val is None and last:
                    self._keep(epoch, ())
                elif val is not None and ((epoch + 1) % options.eval_interval == 0 or last):
                    metrics |= self._validate(train_plain, val, epoch)
                if options.keep_checkpoints and (epoch + 1) % options.keep_checkpoints == 0:
                    self._save_weights(EPOCH_WEIGHTS.format(epoch), epoch)
                tracker.log(epoch, metrics)
                self._say(epoch, metrics)
                self.progress = Progress(epoch + 1)
                stop = self._stop_requested()
                if (epoch + 1) % options.save_interval == 0 or last or stop:
                    self._save_last()
                if stop:
                    self._leave()
        tracker.plot()
        path = self.output_dir / BEST_WEIGHTS
        best = checkpoint.load(path)
        checkpoint.load_trainable(self.model, best["model"], path)
        self.objective.load_state_dict(best["objective"])

    def _schedule(self, kind: str, first: int) -> None:
        options = self.options
        self.schedule = build_schedule(
            kind, self.optimizer, options.lr, options.num_epochs, options.gc, first
        )

    @dead_readers_explained()
    def embed(self, dataset: CaseDataset | Exchanged) -> Embeddings:
        """Outputs of every case in evaluation mode, in the order of the dataset.

        Several processes share the work; each gets all embeddings.

        Raises:
            Interrupted: a signal asked for it during a training; everything is saved.
        """
        self.model.eval()
        group, copies = self.group, []
        cases = iter(self._loader(dataset, group.share(range(len(dataset)))))
        with torch.inference_mode():
            for _ in self._progress_bar(range(group.rounds(len(dataset))), f"embed {dataset.name}"):
                case = next(cases, None)
                if case is not None:
                    with self.precision.running(self.model):
                        copies.append(
                            (copied_to_host(self.model(case.to(self.device)).float()), case.without_patches())
                        )
                if self._stop_requested():
                    self._save_last()
                    self._leave()
        rows = [(copy().numpy(), case) for copy, case in copies]
        vectors, cases = zip(*group.interleave(rows), strict=True)
        return Embeddings.of(vectors, cases)

    # ------------------------------------------------------------------------ one epoch
    def _train_epoch(self, dataset: CaseDataset, epoch: int) -> float:
        """Trains on what is left of the epoch; returns the mean loss over its cases."""
        self.model.train()
        dataset.set_epoch(epoch)
        group, gc, progress = self.group, self.options.gc, self.progress
        kinds = [self.objective.kind_of(p) for p in dataset.patients] if self.recipe.weighted else []
        order = case_order(dataset.sites, kinds, self.options.seed, epoch, self.options.site_sampling)
        rounds = group.rounds(len(order))
        cases = iter(self._loader(dataset, group.share(order)[progress.done :]))
        if self._random is not None:  # after the loader, which draws a number when it starts
            set_random_state(self._random, self.device)
            self._random = None
        bar = self._progress_bar(range(progress.done, rounds), f"epoch {epoch}")
        for current in bar:
            case = next(cases, None)
            self.schedule.before_case(epoch, progress.done, rounds)
            if case is not None:  # processes may run out of cases one round before the others
                bar.set_postfix(loss=f"{self._accumulate(case, epoch):.4f}")
            progress.done = current + 1
            if progress.done % gc == 0 or (progress.done == rounds and not self.recipe.carry):
                self._step()
            self._after_round(epoch)
        skipped, loss = group.sum(len(progress.skipped), progress.loss_sum)
        if skipped == len(order):
            self._too_many_skipped(epoch)
        return loss / (len(order) - skipped)

    def _accumulate(self, case: Case, epoch: int) -> float:
        """Adds the gradient of a case, unless it is not finite; returns the loss."""
        case = case.to(self.device)
        with self.precision.running(self.model):
            loss = self.objective(self.model(case), case)
        scaler = self.precision.scaler
        before = [None if p.grad is None else p.grad.clone() for p in self.parameters]
        scaler.scale(loss / (self.options.gc * self.group.size)).backward()
        # The only time a step waits for a GPU.
        value, largest = torch.stack([loss.detach().double(), self._largest_gradient().double()]).tolist()
        # With a scaler, infinite gradients are how it finds its scale: it leaves such steps out itself.
        gradient_counts = not scaler.is_enabled()
        if math.isfinite(value) and (math.isfinite(largest) or not gradient_counts):
            self.progress.loss_sum += value
            return value
        for parameter, gradient in zip(self.parameters, before, strict=True):
            parameter.grad = gradient
        wrong = "gradient" if math.isfinite(value) else "loss"
        found = "not finite" if wrong == "gradient" else str(value)
        self._skip(f"the {wrong} of case {case.case_id} is {found} in epoch {epoch}")
        return value

    def _largest_gradient(self) -> torch.Tensor:
        """Largest entry of the gradients: a sum of squares could overflow."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        return nn.utils.get_total_norm(gradients, torch.inf)

    def _skip(self, reason: str) -> None:
        logger.warning("%s: skipped", reason)
        self.progress.skipped.append(reason)

    def _step(self) -> None:
        if self.group.sum_gradients(self.parameters):  # else all cases of the step were skipped
            if self._shares is not None:
                self._shares.add()
            self.precision.scaler.step(self.optimizer)
            self.precision.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _after_round(self, epoch: int) -> None:
        """What the processes decide together after every round: give up, stop, save."""
        minutes = (time.monotonic() - self._saved) / 60
        due = self.group.is_main and minutes >= self.options.checkpoint_minutes
        skipped, stop, save = self.group.sum(len(self.progress.skipped), self.signals.requested, due)
        if skipped > self.options.max_skipped:
            self._too_many_skipped(epoch)
        if stop or save:
            self._save_last()
        if stop:
            self._leave()

    def _too_many_skipped(self, epoch: int) -> None:
        reasons = list(itertools.chain(*self.group.gather(self.progress.skipped)))
        raise FloatingPointError(
            f"{len(reasons)} cases skipped in epoch {epoch} (--max_skipped {self.options.max_skipped}): "
            f"{'; '.join(reasons)}. Check the features and genes of these cases, or lower --lr"
        )

    def _loader(self, dataset: CaseDataset, order: Sequence[int]) -> DataLoader:
        return case_loader(dataset, order, self.workers, self.device.type == "cuda")

    def _progress_bar(self, rounds: range, description: str) -> tqdm:
        return tqdm(rounds, desc=description, leave=False, disable=None if self.group.is_main else True)

    def _validate(self, train: CaseDataset, val: CaseDataset, epoch: int) -> dict[str, float]:
        parts = self.embed(train), self.embed(val)
        heads = self.objective.heads()
        metrics = self.group.on_main(lambda: self.evaluator.validate(*parts, heads))
        score = self.evaluator.score(metrics)
        if self.best["score"] is None or self.better(score, tuple(self.best["score"])):
            self._keep(epoch, score)
        if self.recipe.patience is not None:
            metrics["val_loss"] = validation_loss(self.objective, parts[1], self.device)
            self.patience.see(metrics["val_loss"])
        if self._shares is not None:
            report = self.report_modalities(val, parts[1])
            found = self.group.on_main(lambda: report.metrics(parts[0], self.evaluator, heads))
            metrics |= self._shares.metrics() | found
        return metrics

    def report_modalities(self, dataset: CaseDataset, plain: Embeddings) -> ModalityReport:
        """What each modality does to the outputs of the cases, which are ``plain`` as they are."""
        return modality_report(self.embed, dataset, plain, hasattr(self.model, "backbone"))

    def _keep(self, epoch: int, score: Sequence[float]) -> None:
        """The weights as they are now are those to evaluate."""
        self.best = {"epoch": epoch, "score": list(score)}
        self._save_weights(BEST_WEIGHTS, epoch)

    def _save_weights(self, name: str, epoch: int) -> None:
        """Writes what an evaluation needs."""
        content = {
            "model": checkpoint.trainable_state(self.model),
            "objective": {k: v.cpu() for k, v in self.objective.state_dict().items()},
            "run": {**self.run, "epoch": epoch},
        }
        self.group.on_main(lambda: checkpoint.save(self.output_dir / name, content))

    def _say(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """The line of an epoch in the log."""
        key, last = self.evaluator.key, self.options.num_epochs - 1
        found = f", {key} {metrics[key]:.3f} (best in epoch {self.best['epoch']})" if key in metrics else ""
        logger.info("epoch %d, the last is %d: loss %.4f%s", epoch, last, metrics["loss"], found)

    # ------------------------------------------------------------------------ interruption
    def _stop_requested(self) -> bool:
        """Whether a signal asked any process of the run to stop."""
        return self.group.sum(self.signals.requested)[0] > 0

    def _leave(self) -> None:
        logger.warning("interrupted by a signal; %s is saved, start again to continue", self.output_dir)
        raise Interrupted

    def _save_last(self) -> None:
        """Writes everything needed to go on from here."""
        inside = self.progress.done > 0  # an epoch begins with a seed and without gradients
        own = {
            **asdict(self.progress),
            "random": random_state(self.device) if inside else None,
            "gradients": [None if p.grad is None else p.grad.cpu() for p in self.parameters],
        }
        content = {
            "fingerprint": self.fingerprint,
            "model": checkpoint.trainable_state(self.model),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.precision.scaler.state_dict(),
            "best": self.best,
            "patience": self.patience.state(),
            "metrics": self._tracker.rows,
            "processes": self.group.gather(own),
        }
        self.group.on_main(lambda: checkpoint.save(self.output_dir / LAST_CHECKPOINT, content))
        self._saved = time.monotonic()

    def resume(self) -> dict[int, dict[str, float]] | None:
        """Loads the last checkpoint, if there is one.

        Returns:
            The metrics of the epochs that are done, None where there is no checkpoint.

        Raises:
            ValueError: the checkpoint is damaged, or of a run with other arguments, model or data.
        """
        path = self.output_dir / LAST_CHECKPOINT
        if not self.group.on_main(path.is_file):
            return None
        with checkpoint.continuing(path):
            return self._restore(path, checkpoint.load(path))

    def _restore(self, path: Path, state: dict[str, Any]) -> dict[int, dict[str, float]]:
        if changed := differences(state["fingerprint"], self.fingerprint):
            raise ValueError(
                f"{path} belongs to a run that differs (before, now): {changed}. Choose another --output_path, "
                "or start this one anew with --resume never"
            )
        checkpoint.load_trainable(self.model, state["model"], path)
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.precision.scaler.load_state_dict(state["scaler"])
        self.best = state["best"]
        self.patience.restore(state["patience"])
        own = state["processes"][self.group.rank]
        self._random = own.pop("random")
        for parameter, gradient in zip(self.parameters, own.pop("gradients"), strict=True):
            parameter.grad = None if gradient is None else gradient.to(self.device)
        self.progress = Progress(**own)
        logger.info(
            "continuing %s in epoch %d after %d cases",
            self.output_dir,
            self.progress.epoch,
            self.progress.done * self.group.size,
        )
        return state["metrics"]
