"""Generated embeddings for the tests of the evaluation."""

from __future__ import annotations

import numpy as np

from utils.evaluation.embeddings import Embeddings


def make_embeddings(
    n=60, tasks=1, width=8, classes=2, seed=0, signal=3.0, prefix="case", **changes
) -> Embeddings:
    """Embeddings whose first dimension carries the class and whose second carries the log hazard."""
    rng = np.random.default_rng(seed)
    # Outcomes come first, so that they do not depend on the shape of the embeddings.
    labels = np.arange(n) % classes
    hazard = 1.5 * rng.normal(size=n)
    death, end = rng.exponential(30 * np.exp(-hazard)), rng.uniform(5, 90, size=n)
    vectors = rng.normal(size=(n, tasks, width))
    vectors[:, :, 0] += signal * labels[:, None]
    vectors[:, :, 1] = signal * hazard[:, None] + 0.3 * rng.normal(size=(n, tasks))
    fields = {
        "vectors": vectors,
        "case_ids": [f"{prefix}-{i}" for i in range(n)],
        "labels": labels,
        "durations": np.minimum(death, end),
        "events": (death <= end).astype(int),
        "sites": ["TCGA-TEST"] * n,
    }
    return Embeddings(**{**fields, **changes})


def slow_concordance(durations, events, risk) -> float:
    """Harrell's concordance index by looking at every pair."""
    right = pairs = 0.0
    for i in range(len(durations)):
        for j in range(i + 1, len(durations)):
            first, second = (i, j) if (durations[i], -events[i]) <= (durations[j], -events[j]) else (j, i)
            same_time = durations[i] == durations[j]
            if not events[first] or (same_time and events[second]):
                continue
            pairs += 1
            right += 1.0 if risk[first] > risk[second] else 0.5 if risk[first] == risk[second] else 0.0
    return right / pairs if pairs else float("nan")


def slow_balanced_accuracy(labels, predictions) -> float:
    """Mean recall by counting."""
    recalls = []
    for c in sorted(set(labels)):
        hits = sum(1 for y, p in zip(labels, predictions, strict=True) if y == c and p == c)
        recalls.append(hits / sum(1 for y in labels if y == c))
    return sum(recalls) / len(recalls)


def slow_auc(positive, score) -> float:
    """Share of pairs (inside, outside the class) in the right order."""
    inside = [s for y, s in zip(positive, score, strict=True) if y]
    outside = [s for y, s in zip(positive, score, strict=True) if not y]
    won = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a in inside for b in outside)
    return won / (len(inside) * len(outside))
