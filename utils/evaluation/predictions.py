"""What the probes of a task token say of every case: a table, and figures of the cases that are scored."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from utils.evaluation import plots
from utils.evaluation.calibration import reliability
from utils.evaluation.embeddings import Embeddings
from utils.evaluation.heads import Head
from utils.evaluation.number_probe import NumberResult
from utils.evaluation.probes import SubtypeResult, SurvivalResult
from utils.evaluation.rows import HEAD, Result
from utils.evaluation.token_probes import TokenProbes

logger = logging.getLogger(__name__)


def prediction_table(
    cases: Embeddings,
    task: int,
    probes: TokenProbes,
    cohort_classes: Sequence[str],
    heads: Mapping[str, Head],
) -> pd.DataFrame:
    """One row per case, also where nothing is known of it; empty cells where there is nothing to predict with.

    Args:
        cases: who.
        task: index of the task token.
        probes: of the token.
        cohort_classes: names of the classes that heads predict.
        heads: trained heads by what they predict; those on other tokens are left out.
    """
    labels = probes.labels(cases)
    table = pd.DataFrame(
        {
            "task": probes.token.name,
            "case_id": cases.case_ids,
            "site": cases.sites,
            "label": labels,
            "duration": cases.durations,
            "event": cases.events,
            "label_name": _named(labels, probes.class_names),
        }
    )
    vectors = cases.task(task)
    if probes.subtype is not None:
        _add_classes(table, "", *probes.subtype.predict(vectors), probes.class_names)
    if probes.survival is not None:
        table["risk"] = probes.survival.risk(vectors)
    if probes.number is not None:
        table["value"] = cases.value(probes.number.column)
        table["predicted_value"] = probes.number.predict(vectors)
    for kind, head in heads.items():
        if head.task != task:
            continue
        if kind == "subtype":
            probabilities = head.probabilities(cases)
            _add_classes(table, HEAD, probabilities.argmax(axis=1), probabilities, cohort_classes)
        else:
            table[f"{HEAD}risk"] = head.risk(cases)
    return table


def _named(labels: np.ndarray, names: Sequence[str]) -> pd.Series:
    return pd.Series(labels, dtype="Int64").map(dict(enumerate(names)))


def _add_classes(
    table: pd.DataFrame,
    prefix: str,
    predictions: np.ndarray,
    probabilities: np.ndarray,
    names: Sequence[str],
) -> None:
    predicted = pd.Series(predictions, dtype="Int64")
    table[f"{prefix}prediction_name"] = _named(predictions, names)
    table[f"{prefix}prediction"] = predicted.mask(predicted < 0)
    for c, name in enumerate(names):
        table[f"{prefix}probability {name}"] = probabilities[:, c]


def draw(probes: TokenProbes, results: Sequence[Result], folder: Path, title: str) -> None:
    """Figures of a token: curves, confusion and reliability of classes, survival by risk, agreement of numbers.

    Args:
        probes: of the token.
        results: of its probes and of trained heads on one split.
        folder: gets ``<token>_<figure>.png``.
        title: of the figures.
    """
    stem = folder / probes.token.name.lower().replace(" ", "_")
    subtypes = [result for result in results if isinstance(result, SubtypeResult)]
    # The probes come before the heads.
    if probes.subtype is not None and (subtype := subtypes[0]).confusion is not None:
        names = probes.class_names
        plots.roc(subtype.labels, subtype.probabilities, Path(f"{stem}_roc.png"), title, names)
        plots.confusion(subtype.confusion, Path(f"{stem}_confusion.png"), title, names)
        groups = {"probe": subtype}
        if len(subtypes) > 1 and not subtypes[1].reason:
            groups["trained head"] = subtypes[1]
        diagram = {name: reliability(r.labels, r.probabilities) for name, r in groups.items()}
        plots.reliability(diagram, Path(f"{stem}_reliability.png"), title)
    if probes.survival is not None and probes.survival.model is not None:
        scored = next(result for result in results if isinstance(result, SurvivalResult))
        if len(scored.case_ids):
            high = scored.risk > probes.survival.median_risk
            p = plots.kaplan_meier(
                scored.durations, scored.events, high, Path(f"{stem}_kaplan_meier.png"), title
            )
            logger.info("%s: log-rank p of risk groups split at the median training risk: %.3g", title, p)
    for result in results:
        if isinstance(result, NumberResult) and not result.reason and probes.number is not None:
            path = Path(f"{stem}_agreement.png")
            plots.agreement(result.numbers, result.predictions, path, title, probes.number.column)
