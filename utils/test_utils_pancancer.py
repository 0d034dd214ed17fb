"""Evaluation of a pan-cancer model: every site by its own probes, all sites by common ones.

For every task token and cancer site: the evaluation of a single cohort (:class:`CohortEvaluator`, probes
fitted on the site's training patients); one Cox model of all sites, scored per site and on everybody; and
how well the cancer site itself can be told. What a site does not allow (no deaths, one class, no test
patients) is reported there with its reason and leaves the other sites alone.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

from data_utils.tables.cohorts import class_names_of
from data_utils.tables.tasks import SURVIVAL, Task, TaskSet
from utils.configuration.run_config import RunConfig
from utils.evaluation import bootstrap, plots
from utils.evaluation.embeddings import Embeddings, name_cases
from utils.evaluation.heads import Head
from utils.evaluation.probes import SurvivalResult, fit_subtype, fit_survival
from utils.evaluation.results import OVERALL
from utils.evaluation.rows import ZERO_SHOT, interval_columns
from utils.evaluation.zero_shot import Candidates
from utils.test_utils_modaltune import FIGURE_SPLIT, CohortEvaluator

logger = logging.getLogger(__name__)

# Metrics whose mean over the sites is reported.
_MEASURED = ("balanced_accuracy", "accuracy", "auc", "concordance_index", "r2", "spearman")
_AVERAGED = (
    *_MEASURED,
    *(ZERO_SHOT + metric for metric in ("balanced_accuracy", "accuracy", "concordance_index")),
    *("recall", "precision", "f1", "ece", "brier", "concordance_ipcw", "dynamic_auc", "integrated_brier"),
)


@dataclass(frozen=True)
class Site:
    """A cancer site: its cohort name, its number of classes, and their names for figures."""

    name: str
    num_classes: int
    class_names: Sequence[str] | None = None


class PanCancerEvaluator:
    """Evaluates the embeddings of several cancer sites (see :class:`utils.evaluation.results.Evaluator`).

    Args:
        sites: in the order of the table.
        tasks: the task tokens, see :class:`CohortEvaluator`; the first one selects the model.
        stratified: the common Cox model has a baseline hazard per TCGA project.
    """

    def __init__(self, sites: Sequence[Site], tasks: Sequence[Task | str], stratified: bool = False) -> None:
        if len({site.name for site in sites}) < max(len(sites), 1):
            raise ValueError(f"a pan-cancer evaluation needs different sites, got {[s.name for s in sites]}")
        self.stratified = stratified
        self.class_names = {s.name: plots.class_labels(s.num_classes, s.class_names) for s in sites}
        self.evaluators = {
            site.name: CohortEvaluator(site.num_classes, tasks, site.class_names) for site in sites
        }
        first = next(iter(self.evaluators.values()))
        self.tokens, self.task_names, self.headline = first.tokens, first.task_names, first.headline

    @classmethod
    def of(cls, config: RunConfig, tasks: TaskSet) -> PanCancerEvaluator:
        """The evaluator of a run on tasks; figures name the classes of the cohorts."""
        sites = []
        for name, num_classes in config.data.classes_by_site.items():
            sites.append(Site(name, num_classes, class_names_of(name, num_classes)))
        return cls(sites, tasks.tokens, config.output.stratified_cox)

    # ------------------------------------------------------------------------ model selection
    @property
    def key(self) -> str:
        """Validation metric that selects the model: mean over the sites of the first measure of the first token,
        which is the balanced accuracy of a token that is evaluated by class.
        """
        return self.headline[0]

    def validate(
        self, train: Embeddings, val: Embeddings, heads: Mapping[str, Head] | None = None
    ) -> dict[str, float]:
        """Means over the evaluable sites, and the headline token of every site; there are no heads of several sites."""
        self._check({"train": train, "val": val})
        found = {
            site: evaluator.validate(_of_site(train, site), _of_site(val, site))
            for site, evaluator in self.evaluators.items()
        }
        names = list(dict.fromkeys(name for metrics in found.values() for name in metrics))
        means = {name: _mean([metrics[name] for metrics in found.values()])[0] for name in names}
        for headline in self.headline:
            metric = headline.partition("/")[0].removeprefix("val_")
            means |= {f"val_site_{metric}/{site}": found[site][headline] for site in found}
        return means

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """Means of the first measures of the first task token, see :meth:`CohortEvaluator.score`."""
        return next(iter(self.evaluators.values())).score(metrics)

    # ------------------------------------------------------------------------ final report
    def report(
        self,
        splits: Mapping[str, Embeddings],
        output_dir: str | Path,
        seed: int,
        candidates: Mapping[str, Candidates] | None = None,
        heads: Mapping[str, Head] | None = None,
    ) -> pd.DataFrame:
        """Scores every split and site; see :meth:`CohortEvaluator.report`.

        Returns:
            The rows of every site under its name in the column ``site``, and those of all sites together
            under ``overall``. Predictions and figures of a site lie in ``sites/<site>/``.
        """
        if heads:
            raise ValueError(
                "trained heads of several sites cannot be evaluated: they have no common classes"
            )
        self._check(splits)
        output_dir = Path(output_dir)
        frames = []
        for site, evaluator in self.evaluators.items():
            of_site = {split: _of_site(cases, site) for split, cases in splits.items()}
            own = {site: candidates[site]} if candidates and site in candidates else None
            frame = evaluator.report(of_site, output_dir / "sites" / site, seed, own)
            frames.append(frame.assign(site=site))
        rows = _means(pd.concat(frames, ignore_index=True), list(self.evaluators))
        for task, token in enumerate(self.tokens):
            found = self._pooled_survival(splits, task, seed) if token.target(SURVIVAL) else []
            found += self._site_prediction(splits, task, seed)
            rows += [{"seed": seed, "task": token.name, **row} for row in found]
        self._draw(splits, output_dir / "figures")
        return pd.concat([*frames, pd.DataFrame(rows)], ignore_index=True)

    def _pooled_survival(self, splits: Mapping[str, Embeddings], task: int, seed: int) -> list[dict]:
        """One Cox model for all sites, scored on each and on all."""
        train = splits["train"]
        probe = fit_survival(train, task, train.projects if self.stratified else None)
        rows = []
        for split, cases in splits.items():
            parts = {site: _of_site(cases, site) for site in self.evaluators}
            for site, part in {**parts, OVERALL: cases}.items():
                result = probe.score(part)
                row = {"split": split, "site": site, "metric": "pooled_concordance_index"}
                rows.append(row | _survival_row(result, seed))
        return rows

    def _site_prediction(self, splits: Mapping[str, Embeddings], task: int, seed: int) -> list[dict]:
        """How well logistic regression tells the cancer site."""
        number = {site: index for index, site in enumerate(self.evaluators)}
        labelled = {
            split: replace(cases, labels=np.array([number[site] for site in cases.sites], dtype=int))
            for split, cases in splits.items()
        }
        probe = fit_subtype(labelled["train"], task, len(number))
        rows = []
        for split, cases in labelled.items():
            result = probe.score(cases)
            for metric in ("balanced_accuracy", "accuracy"):
                function, arrays = getattr(bootstrap, metric), (result.labels, result.predictions)
                value = getattr(result, metric)
                content = {"split": split, "site": OVERALL, "metric": f"site_{metric}", "value": value}
                rows.append(content | _interval(function, arrays, value, seed, result.reason, len(cases)))
        return rows

    def _draw(self, splits: Mapping[str, Embeddings], folder: Path) -> None:
        """First two principal components (of the training patients) of every task token."""
        if FIGURE_SPLIT not in splits or len(splits["train"]) < 2 or not len(splits[FIGURE_SPLIT]):
            return
        cases = splits[FIGURE_SPLIT]
        subtypes = [
            f"{site}: {self.class_names[site][label]}" if label >= 0 else f"{site}: other"
            for site, label in zip(cases.sites, cases.labels, strict=True)
        ]
        for task, name in enumerate(self.task_names):
            components = PCA(2, svd_solver="full").fit(splits["train"].task(task))
            plots.embedding_map(
                components.transform(cases.task(task)),
                {"Cancer site": cases.sites, "Subtype": subtypes},
                folder / f"{name.lower().replace(' ', '_')}_map.png",
                components.explained_variance_ratio_,
            )

    # ------------------------------------------------------------------------ checks
    def _check(self, splits: Mapping[str, Embeddings]) -> None:
        if "train" not in splits:
            raise ValueError(f"probes are fitted on the split 'train', given are {sorted(splits)}")
        for split, cases in splits.items():
            strange = np.array([site not in self.evaluators for site in cases.sites], dtype=bool)
            if strange.any():
                found = sorted({cases.sites[i] for i in np.flatnonzero(strange)})
                raise ValueError(
                    f"{split}: {strange.sum()} patients of the sites {found}, evaluated are "
                    f"{list(self.evaluators)} (--sites): {name_cases(cases.select_ids(strange))}"
                )


def _of_site(cases: Embeddings, site: str) -> Embeddings:
    return cases.select(np.array([name == site for name in cases.sites], dtype=bool))


def _mean(values: Sequence[float]) -> tuple[float, int]:
    """Mean of the numbers that are not NaN, and how many they are."""
    known = [value for value in values if not math.isnan(value)]
    return (float(np.mean(known)) if known else math.nan), len(known)


def _means(rows: pd.DataFrame, sites: Sequence[str]) -> list[dict]:
    """Means over the sites, one row per task token, split and metric; sites without a value are named."""
    means = []
    for (task, split, metric), group in rows.groupby(["task", "split", "metric"], sort=False):
        if metric not in _AVERAGED:
            continue
        value, known = _mean(group["value"].tolist())
        absent = [site for site in sites if site not in set(group.loc[group["value"].notna(), "site"])]
        means.append(
            {
                "seed": group["seed"].iloc[0],
                "task": task,
                "split": split,
                "metric": metric,
                "site": OVERALL,
                "value": value,
                "ci_low": math.nan,
                "ci_high": math.nan,
                "n": group["n"].sum(),
                "events": group["events"].sum(min_count=1),
                "reason": f"mean of {known} sites, not evaluable: {', '.join(absent)}" if absent else "",
            }
        )
    return means


def _survival_row(result: SurvivalResult, seed: int) -> dict:
    arrays = (result.durations, result.events, result.risk)
    value = result.concordance_index
    row = {"value": value, "events": int(result.events.sum())}
    return row | _interval(bootstrap.concordance, arrays, value, seed, result.reason, len(result.case_ids))


def _interval(
    metric: bootstrap.CountMetric, arrays: tuple, value: float, seed: int, reason: str, cases: int
) -> dict:
    reason = reason if math.isnan(value) else ""
    return {**interval_columns(metric, arrays, value, seed), "n": cases, "reason": reason}
