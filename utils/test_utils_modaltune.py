"""Evaluation of one cohort: subtype and survival probes for every task token.

(The name is the published layout's; pytest collects ``tests/`` only.)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import pandas as pd

from data_utils.tables.cohorts import class_names_of
from data_utils.tables.tasks import CLASSES, Task, TaskSet
from models.aggregators.registry import DISTILL
from utils.configuration.run_config import RunConfig
from utils.evaluation import plots
from utils.evaluation.embeddings import Embeddings, name_cases, same_split
from utils.evaluation.heads import Head
from utils.evaluation.predictions import draw, prediction_table
from utils.evaluation.probes import SurvivalResult
from utils.evaluation.results import COLUMNS
from utils.evaluation.rows import (
    HEAD,
    Result,
    head_results,
    metric_rows,
    zero_shot_results,
    zero_shot_rows,
)
from utils.evaluation.stored_probes import PROBES, store
from utils.evaluation.token_probes import VALIDATED, TokenProbes, kinds_of, tokens_of
from utils.evaluation.zero_shot import Candidates
from utils.files import atomic_path

logger = logging.getLogger(__name__)

FIGURE_SPLIT = "test"


class CohortEvaluator:
    """Evaluates the embeddings of one cohort (see :class:`utils.evaluation.results.Evaluator`).

    Args:
        num_classes: subtype classes.
        tasks: the task tokens in the order of the embeddings; a name stands for one that is evaluated by class and
            survival. The first one is the headline and selects the model.
        class_names: names of the classes of the cohort.
        by_heads: trained heads select the model, where it has any, instead of probes.
    """

    def __init__(
        self,
        num_classes: int,
        tasks: Sequence[Task | str],
        class_names: Sequence[str] | None = None,
        by_heads: bool = False,
    ) -> None:
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}: a subtype needs at least two classes")
        if not tasks:
            raise ValueError("no task names")
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(f"{len(class_names)} class names for {num_classes} classes")
        self.num_classes, self.by_heads = num_classes, by_heads
        self.tokens = tokens_of(tasks)
        self.class_names = tuple(plots.class_labels(num_classes, class_names))
        # The first measure of each kind of the headline; which of them selects the model.
        self.headline = [
            f"val_{VALIDATED[kind][0]}/{self.tokens[0].name}" for kind in kinds_of(self.tokens[0])
        ]
        self._selecting = 0
        self._said: set[str] = set()

    @classmethod
    def of(cls, config: RunConfig, tasks: TaskSet) -> CohortEvaluator:
        """The evaluator of a run on tasks; with ``--onco``, figures name the classes of the cohort.

        A model that learns from labels alone is selected by its heads, others by the probes of the first token.
        """
        (num_classes,) = config.data.num_classes
        by_heads = DISTILL not in config.training.objective.split("+")
        return cls(num_classes, tasks.tokens, class_names_of(config.data.onco, num_classes), by_heads)

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the task tokens."""
        return tuple(token.name for token in self.tokens)

    # ------------------------------------------------------------------------ model selection
    @property
    def key(self) -> str:
        """Validation metric that selects the model.

        Of the first task token (or of the heads) the balanced accuracy, else the concordance index, else R2: whatever
        it is evaluated by and the first validation can evaluate.
        """
        return self.headline[self._selecting]

    def validate(
        self, train: Embeddings, val: Embeddings, heads: Mapping[str, Head] | None = None
    ) -> dict[str, float]:
        """Metrics of an epoch from probes fitted on ``train`` and of heads, NaN where not evaluable (logged once)."""
        self._check({"train": train, "val": val})
        metrics: dict[str, float] = {}
        by_probes: dict[str, str] = {}  # metrics that could select the model, and why they are not evaluable
        by_heads: dict[str, str] = {}
        for task, token in enumerate(self.tokens):
            for kind, result in TokenProbes.fit(train, task, token, self.class_names).score(val):
                metrics |= {f"val_{name}/{token.name}": getattr(result, name) for name in VALIDATED[kind]}
                self._say_once(
                    f"validation: {kind} of token {token.name} not evaluable: {result.reason}", result.reason
                )
                if task == 0:
                    by_probes[f"val_{VALIDATED[kind][0]}/{token.name}"] = result.reason
            for result in head_results(heads or {}, task, val):
                kind = "survival" if isinstance(result, SurvivalResult) else "subtype"
                name = f"val_{HEAD}{VALIDATED[kind][0]}/{token.name}"
                metrics[name] = getattr(result, VALIDATED[kind][0])
                by_heads[name] = result.reason
        self._choose_key(dict(sorted(by_heads.items())) if self.by_heads and by_heads else by_probes)
        return metrics

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """Balanced accuracy, then concordance index of the first task token, then R2, as far as it is evaluated by
        them; greater is better.

        The second decides between epochs of equal balanced accuracy, which are frequent with few
        validation patients, and alone where the subtype is not evaluable. What is NaN counts as
        minus infinity.
        """
        values = (metrics.get(name, math.nan) for name in self.headline)
        return tuple(-math.inf if math.isnan(v) else float(v) for v in values)

    def _choose_key(self, selecting: Mapping[str, str]) -> None:
        # Which classes a split holds does not change between epochs, so neither does the key.
        self.headline, reasons = list(selecting), list(selecting.values())
        self._selecting = next((k for k, reason in enumerate(reasons) if not reason), 0)
        if self._selecting:
            metric = self.key.partition("/")[0].removeprefix("val_").replace("_", " ")
            self._say_once(f"the {metric} selects the model ({self.key}): {reasons[0]}", "key")

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
        fitted: dict[str, TokenProbes] = {}
        for task, token in enumerate(self.tokens):
            probes = fitted[token.name] = TokenProbes.fit(splits["train"], task, token, self.class_names)
            for split, cases in splits.items():
                own = head_results(heads or {}, task, cases)
                results: list[Result] = [result for _, result in probes.score(cases)]
                found = metric_rows(results, splits["train"], seed)
                if zero_shot is not None:
                    found += zero_shot_rows(zero_shot_results(zero_shot, cases, task, token), seed)
                found += metric_rows(own, splits["train"], seed, HEAD)
                rows += [{"seed": seed, "task": token.name, "split": split, **row} for row in found]
                table = prediction_table(cases, task, probes, self.class_names, heads or {})
                predictions[split].append(table)
                if split == FIGURE_SPLIT:
                    draw(probes, [*results, *own], output_dir / "figures", f"{token.name} · {split}")
        own_classes = {name: p.class_names for name, p in fitted.items() if p.token.target(CLASSES)}
        arrays = store(
            splits["train"], {name: p.fitted for name, p in fitted.items()}, self.class_names, own_classes
        )
        arrays.save(output_dir / PROBES)
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
