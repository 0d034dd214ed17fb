"""Predictions as a table: one row a patient, means and spreads over the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from utils.evaluation.zero_shot import Candidates
from utils.prediction.embed import Embedded
from utils.prediction.models import TrainedModel, check_same_classes
from utils.prediction.patients import Requested


@dataclass(frozen=True)
class Asked:
    """What to write.

    Attributes:
        task: name of the task token that is read.
        months: at which survival probabilities are given.
        cohort: whose candidate sentences give the zero-shot class; None: the only ones there are.
    """

    task: str
    months: Sequence[float]
    cohort: str | None = None


def prediction_table(
    requested: Requested, models: Sequence[TrainedModel], embedded: Sequence[Embedded], asked: Asked
) -> pd.DataFrame:
    """One row for every patient that was asked for, those with an error last.

    Args:
        requested: who, and what is wrong with whom.
        models: the ensemble.
        embedded: by every model.
        asked: see :class:`Asked`.

    Returns:
        See docs/prediction.md for the columns. Spreads (``_sd``) are sample standard deviations over the models, and
        are left out for one model.

    Raises:
        ValueError: the models predict different classes, or one has no such task token.
    """
    names = check_same_classes(models)
    tokens = {tuple(model.probes.tasks) for model in models}
    if any(asked.task not in tasks for tasks in tokens):
        raise ValueError(f"--task {asked.task}: the models have the tokens {sorted(tokens)}")
    errors = {**requested.errors}
    for found in embedded:
        errors |= found.errors
    rows = []
    for patient in requested.patients:
        name = patient.case_id
        row: dict[str, Any] = {"patient": name, "slides": ";".join(patient.slide_ids)}
        if name not in errors:
            row["patches"] = embedded[0].patches[name]
            row["missing"] = "; ".join(embedded[0].missing[name])
            row |= _combined(
                [_row(m, e, name, names, asked) for m, e in zip(models, embedded, strict=True)], names
            )
        row["note"], row["error"] = requested.notes.get(name, ""), errors.get(name, "")
        rows.append(row)
    rows += [{"patient": name, "error": reason} for name, reason in requested.errors.items()]
    table = pd.DataFrame(rows)
    last = [column for column in ("missing", "note", "error") if column in table]
    table = table[[column for column in table if column not in last] + last]
    return table.sort_values("error", key=lambda reasons: reasons != "", kind="stable").reset_index(drop=True)


def _row(
    model: TrainedModel, found: Embedded, name: str, classes: Sequence[str], asked: Asked
) -> dict[str, Any]:
    """What one model says of a patient."""
    probes = model.probes.tasks[asked.task]
    vector = found.vectors[name][[list(model.probes.tasks).index(asked.task)]].astype(np.float64)  # [1, O]
    risk = probes.risk(vector)
    row: dict[str, Any] = dict(
        zip((f"probability {c}" for c in classes), probes.probabilities(vector, len(classes))[0], strict=True)
    )
    row |= {"risk": risk[0], "risk_percentile": probes.percentile(risk)[0]}
    alive = probes.survival(risk, asked.months)[0]
    row |= {f"survival_{month:g}_months": value for month, value in zip(asked.months, alive, strict=True)}
    row["distance"] = probes.distance(vector)[0]
    candidates = _candidates(found.candidates, asked.cohort)
    if candidates is not None and candidates.classes:
        best = int(candidates.similarity(vector)[0].argmax())
        row["zero_shot_class"] = classes[best] if len(candidates.classes) == len(classes) else f"class {best}"
    return row


def _candidates(known: Mapping[str, Candidates], cohort: str | None) -> Candidates | None:
    if cohort is None and len(known) == 1:
        return next(iter(known.values()))
    return known.get(cohort) if cohort is not None else None


def _combined(rows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> dict[str, Any]:
    """Means over the models, and spreads where there are several; the zero-shot class by majority."""
    combined: dict[str, Any] = {}
    shares = np.array([[row[f"probability {c}"] for c in classes] for row in rows])
    combined["class"] = "" if np.isnan(shares).any() else classes[int(shares.mean(axis=0).argmax())]
    for column in rows[0]:
        values = [row[column] for row in rows]
        if column == "zero_shot_class":
            combined[column] = pd.Series(values).mode()[0]
            continue
        combined[column] = float(np.mean(values))
        if len(rows) > 1 and column != "distance":
            combined[f"{column}_sd"] = float(np.std(values, ddof=1))
    distance = combined["distance"]
    combined["outside_training"] = "" if np.isnan(distance) else bool(distance > 1)
    return combined
