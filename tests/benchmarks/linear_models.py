"""What linear models make of the same patients: PCA, then the product's logistic and Cox probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA

from utils.evaluation.embeddings import Embeddings
from utils.evaluation.probes import fit_subtype, fit_survival

METRICS = ("balanced_accuracy", "concordance_index")
# Metric -> split (val, test) -> value.
Found = Mapping[str, Mapping[str, float]]
COMPONENTS = (5, 10, 20, 30, 50, 100)


@dataclass(frozen=True, eq=False)
class Known:
    """The patients of a split.

    Attributes:
        values: by modality, one row a patient ``[n, d]``.
        labels: subtype class ``[n]``, -1 where the diagnosis is in none.
        durations: survival time ``[n]``.
        events: 1 where the patient died ``[n]``.
    """

    values: Mapping[str, np.ndarray]
    labels: np.ndarray
    durations: np.ndarray
    events: np.ndarray

    def embeddings(self, vectors: np.ndarray) -> Embeddings:
        """With these vectors ``[n, d]`` as what a model made of the patients."""
        count = len(vectors)
        return Embeddings(
            vectors=vectors[:, None].astype(np.float32),
            case_ids=[str(i) for i in range(count)],
            labels=self.labels,
            durations=self.durations,
            events=self.events,
            sites=[""] * count,
            projects=[""] * count,
            complete=np.ones(count, dtype=bool),
        )


def linear_models(
    splits: Mapping[str, Known],
    names: Sequence[str],
    metrics: Sequence[str] = METRICS,
    components: Sequence[int] = COMPONENTS,
) -> Found:
    """Validation and test metrics of linear models on the modalities named.

    Every modality is standardised and reduced to its principal components on the training patients; their
    number is what validates best, for every metric apart.
    """
    tried = []
    for count in components:
        vectors: dict[str, list[np.ndarray]] = {split: [] for split in splits}
        for name in names:
            x = splits["train"].values[name]
            mean, deviation = x.mean(axis=0), np.where(np.ptp(x, axis=0) > 0, x.std(axis=0), 1.0)
            scaled = {split: (known.values[name] - mean) / deviation for split, known in splits.items()}
            reduction = PCA(min(count, *x.shape), random_state=0).fit(scaled["train"])
            for split, rows in scaled.items():
                vectors[split].append(reduction.transform(rows))
        cases = {s: known.embeddings(np.concatenate(vectors[s], axis=1)) for s, known in splits.items()}
        tried.append({metric: _score(cases, metric) for metric in metrics})
    return best(tried)


def _score(cases: Mapping[str, Embeddings], metric: str) -> dict[str, float]:
    if metric == "balanced_accuracy":
        classes = fit_subtype(cases["train"], 0, 2)
        return {split: classes.score(cases[split]).balanced_accuracy for split in ("val", "test")}
    risks = fit_survival(cases["train"], 0)
    return {split: risks.score(cases[split]).concordance_index for split in ("val", "test")}


def best(tried: Sequence[Found]) -> Found:
    """For every metric what validates best."""
    return {metric: max((found[metric] for found in tried), key=lambda v: v["val"]) for metric in tried[0]}


def best_single(splits: Mapping[str, Known], names: Sequence[str], metrics: Sequence[str] = METRICS) -> Found:
    """Of the one modality that validates best, for every metric apart."""
    return best([linear_models(splits, (name,), metrics) for name in names])
