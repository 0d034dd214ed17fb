"""Evaluation of one cohort: subtype and survival probes for every task token.

(The name is the published layout's; pytest collects ``tests/`` only.)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from data_utils.tables.cohorts import class_names_of
from utils import constants
from utils.evaluation import plots
from utils.evaluation.calibration import reliability
from utils.evaluation.embeddings import Embeddings, name_cases, same_split
from utils.evaluation.heads import Head
from utils.evaluation.probes import (
    SubtypeProbe,
    SubtypeResult,
    SurvivalProbe,
    SurvivalResult,
    fit_subtype,
    fit_survival,
)
from utils.evaluation.results import COLUMNS
from utils.evaluation.rows import HEAD, Result, head_results, metric_rows, zero_shot_rows
from utils.evaluation.stored_probes import PROBES, store
from utils.evaluation.zero_shot import Candidates
from utils.files import atomic_path
from utils.run_config import RunConfig

logger = logging.getLogger(__name__)

FIGURE_SPLIT = "test"


@dataclass(frozen=True)
class _Scores:
    """Both probes of one task token and the heads on it, scored on one split."""

    subtype: SubtypeResult
    survival: SurvivalResult
    heads: Sequence[Result] = ()


class CohortEvaluator:
    """Evaluates the embeddings of one cohort (see :class:`utils.evaluation.results.Evaluator`).

    Args:
        num_classes: subtype classes.
        task_names: names of the task tokens in the order of the embeddings. The first one is the
            headline and selects the model.
        class_names: names of the classes for figures.
    """

    def __init__(
        self, num_classes: int, task_names: Sequence[str], class_names: Sequence[str] | None = None
    ) -> None:
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}: a subtype needs at least two classes")
        if not task_names:
            raise ValueError("no task names")
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(f"{len(class_names)} class names for {num_classes} classes")
        self.num_classes = num_classes
        self.task_names = tuple(task_names)
        self.class_names = tuple(class_names) if class_names is not None else None
        self._subtype_selects = True
        self._said: set[str] = set()

    @classmethod
    def of(cls, config: RunConfig) -> CohortEvaluator:
        """The evaluator of a run; with ``--onco``, figures name the classes of the cohort."""
        (num_classes,) = config.data.num_classes
        names = class_names_of(config.data.onco, num_classes)
        return cls(num_classes, constants.TASKS[: config.model.num_tasks], names)

    # ------------------------------------------------------------------------ model selection
    @property
    def key(self) -> str:
        """Validation metric that selects the model.

        Balanced accuracy of the first task token; its concordance index from the first validation on
        that has no subtype to evaluate.
        """
        metric = "balanced_accuracy" if self._subtype_selects else "concordance_index"
        return f"val_{metric}/{self.task_names[0]}"

    def validate(self, train: Embeddings, val: Embeddings) -> dict[str, float]:
        """Metrics of an epoch from probes fitted on ``train``, NaN where not evaluable (logged once)."""
        self._check({"train": train, "val": val})
        metrics: dict[str, float] = {}
        for task, name in enumerate(self.task_names):
            subtype = fit_subtype(train, task, self.num_classes).score(val)
            survival = fit_survival(train, task).score(val)
            metrics[f"val_balanced_accuracy/{name}"] = subtype.balanced_accuracy
            metrics[f"val_accuracy/{name}"] = subtype.accuracy
            metrics[f"val_concordance_index/{name}"] = survival.concordance_index
            for kind, reason in (("subtype", subtype.reason), ("survival", survival.reason)):
                self._say_once(f"validation: {kind} of token {name} not evaluable: {reason}", reason)
            if task == 0:
                self._choose_key(subtype, survival)
        return metrics

    def score(self, metrics: Mapping[str, float]) -> tuple[float, float]:
        """Balanced accuracy, then concordance index of the first task token; greater is better.

        The second decides between epochs of equal balanced accuracy, which are frequent with few
        validation patients, and alone where the subtype is not evaluable. What is NaN counts as
        minus infinity.
        """
        names = (
            f"val_{metric}/{self.task_names[0]}" for metric in ("balanced_accuracy", "concordance_index")
        )
        values = (metrics.get(name, math.nan) for name in names)
        balanced_accuracy, concordance_index = (-math.inf if math.isnan(v) else float(v) for v in values)
        return balanced_accuracy, concordance_index

    def _choose_key(self, subtype: SubtypeResult, survival: SurvivalResult) -> None:
        # Which classes a split holds does not change between epochs, so neither does the key.
        self._subtype_selects = not subtype.reason or bool(survival.reason)
        if not self._subtype_selects:
            self._say_once(f"the concordance index selects the model ({self.key}): {subtype.reason}", "key")

    def _say_once(self, message: str, reason: str) -> None:
        if reason and message not in self._said:
            self._said.add(message)
            logger.warning(message)

    # ------------------------------------------------------------------------ final report
    def report(
        self,
        splits: Mapping[str, Embeddings],
        output_dir: str | Path,
        seed: int,
        candidates: Mapping[str, Candidates] | None = None,
        heads: Mapping[str, Head] | None = None,
    ) -> pd.DataFrame:
        """Scores every split with probes fitted on ``train``, and without probes.

        Args:
            splits: embeddings under ``train`` (needed), ``val`` and ``test``.
            output_dir: gets ``probes.npz``, ``predictions/<split>.csv`` and, for the test split,
                ``figures/``.
            seed: seed of the run; seeds the bootstrap.
            candidates: those of the cohort under its name; nothing is evaluated zero-shot without.
            heads: trained heads by what they predict, evaluated beside the probes.

        Returns:
            One row for a metric of a task token on a split (:data:`utils.evaluation.results.COLUMNS`).
        """
        if "train" not in splits:
            raise ValueError(f"probes are fitted on the split 'train', given are {sorted(splits)}")
        self._check(splits)
        zero_shot = self._candidates(candidates)
        output_dir = Path(output_dir)
        rows: list[dict] = []
        predictions: dict[str, list[pd.DataFrame]] = {split: [] for split in splits}
        fitted = {}
        for task, name in enumerate(self.task_names):
            subtype = fit_subtype(splits["train"], task, self.num_classes)
            survival = fit_survival(splits["train"], task)
            fitted[name] = subtype, survival
            for split, cases in splits.items():
                own = head_results(heads or {}, task, cases)
                scores = _Scores(subtype.score(cases), survival.score(cases), own)
                found = metric_rows([scores.subtype, scores.survival], splits["train"], seed)
                if zero_shot is not None:
                    found += zero_shot_rows(
                        [zero_shot.subtype(cases, task), zero_shot.survival(cases, task)], seed
                    )
                found += metric_rows(own, splits["train"], seed, HEAD)
                rows += [{"seed": seed, "task": name, "split": split, **row} for row in found]
                predictions[split].append(self._predictions(cases, task, subtype, survival, heads or {}))
                if split == FIGURE_SPLIT:
                    self._draw(scores, survival, output_dir / "figures", name)
        names = plots.class_labels(self.num_classes, self.class_names)
        store(splits["train"], fitted, names).save(output_dir / PROBES)
        for split, tables in predictions.items():
            with atomic_path(output_dir / "predictions" / f"{split}.csv") as temporary:
                pd.concat(tables, ignore_index=True).to_csv(temporary, index=False)
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def _candidates(self, candidates: Mapping[str, Candidates] | None) -> Candidates | None:
        if not candidates:
            return None
        if len(candidates) > 1:
            raise ValueError(f"candidate sentences of {sorted(candidates)} for the evaluation of one cohort")
        (found,) = candidates.values()
        if found.classes and len(found.classes) != self.num_classes:
            raise ValueError(
                f"candidate sentences of {len(found.classes)} classes ({', '.join(candidates)}), --num_classes "
                f"says {self.num_classes}"
            )
        return found

    def _predictions(
        self,
        cases: Embeddings,
        task: int,
        subtype: SubtypeProbe,
        survival: SurvivalProbe,
        heads: Mapping[str, Head],
    ) -> pd.DataFrame:
        """One row per case, also where class or survival are unknown; empty where there is nothing to predict with."""
        table = pd.DataFrame(
            {
                "task": self.task_names[task],
                "case_id": cases.case_ids,
                "site": cases.sites,
                "label": cases.labels,
                "duration": cases.durations,
                "event": cases.events,
            }
        )
        if self.class_names is not None:
            table["label_name"] = table["label"].map(dict(enumerate(self.class_names)))
        vectors = cases.task(task)
        self._add_classes(table, "", *subtype.predict(vectors))
        table["risk"] = survival.risk(vectors)
        for kind, head in heads.items():
            if head.task != task:
                continue
            if kind == "subtype":
                probabilities = head.probabilities(cases)
                self._add_classes(table, HEAD, probabilities.argmax(axis=1), probabilities)
            else:
                table[f"{HEAD}risk"] = head.risk(cases)
        return table

    def _add_classes(
        self, table: pd.DataFrame, prefix: str, predictions: np.ndarray, probabilities: np.ndarray
    ) -> None:
        predicted = pd.Series(predictions, dtype="Int64")
        if self.class_names is not None:
            table[f"{prefix}prediction_name"] = predicted.map(dict(enumerate(self.class_names)))
        table[f"{prefix}prediction"] = predicted.mask(predicted < 0)
        for c in range(self.num_classes):
            table[f"{prefix}probability_{c}"] = probabilities[:, c]

    def _draw(self, scores: _Scores, survival: SurvivalProbe, folder: Path, name: str) -> None:
        subtype, scored = scores.subtype, scores.survival
        stem, title = name.lower(), f"{name} · {FIGURE_SPLIT}"
        if subtype.confusion is not None:
            plots.roc(
                subtype.labels, subtype.probabilities, folder / f"{stem}_roc.png", title, self.class_names
            )
            plots.confusion(subtype.confusion, folder / f"{stem}_confusion.png", title, self.class_names)
            groups = {"probe": subtype}
            for head in scores.heads:
                if isinstance(head, SubtypeResult) and not head.reason:
                    groups["trained head"] = head
            diagram = {name: reliability(r.labels, r.probabilities) for name, r in groups.items()}
            plots.reliability(diagram, folder / f"{stem}_reliability.png", title)
        if survival.model is not None and len(scored.case_ids):
            high = scored.risk > survival.median_risk
            path = folder / f"{stem}_kaplan_meier.png"
            p = plots.kaplan_meier(scored.durations, scored.events, high, path, title)
            logger.info("%s: log-rank p of risk groups split at the median training risk: %.3g", title, p)

    # ------------------------------------------------------------------------ checks
    def _check(self, splits: Mapping[str, Embeddings]) -> None:
        for split, cases in splits.items():
            tasks = cases.vectors.shape[1]
            if tasks != len(self.task_names):
                raise ValueError(
                    f"the {split} embeddings have {tasks} task tokens, the evaluator {len(self.task_names)}: "
                    f"{', '.join(self.task_names)}"
                )
        for one, other in combinations(splits, 2):
            shared = sorted(set(splits[one].case_ids) & set(splits[other].case_ids))
            if shared and not same_split(one, other):
                raise ValueError(
                    f"cases in both {one} and {other}: {name_cases(shared)}; correct the split files"
                )
