"""Predictions as a table: one row a patient, means and spreads over the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from utils.evaluation.stored_probes import StoredProbes
from utils.evaluation.zero_shot import Candidates
from utils.prediction.embed import Embedded
from utils.prediction.models import TrainedModel, check_same_tasks
from utils.prediction.patients import Requested

ZERO_SHOT = "zero_shot_class"


@dataclass(frozen=True)
class Asked:
    """What to write.

    Attributes:
        task: name of the task token whose classes and risk are written; None: the first that predicts them. What tasks
            are evaluated by besides, classes and numbers of their own, is written of all.
        months: at which survival probabilities are given.
        cohort: whose candidate sentences give the zero-shot class; None: the only ones there are.
    """

    task: str | None
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
        ValueError: the models predict different tasks or classes, or have no such task token.
    """
    probes = check_same_tasks(models)
    columns = Columns.of(probes, asked.task)
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
            parts = [_row(m, e, name, columns, asked) for m, e in zip(models, embedded, strict=True)]
            row |= _combined(parts, columns)
        row["note"], row["error"] = requested.notes.get(name, ""), errors.get(name, "")
        rows.append(row)
    rows += [{"patient": name, "error": reason} for name, reason in requested.errors.items()]
    table = pd.DataFrame(rows)
    last = [column for column in ("missing", "note", "error") if column in table]
    table = table[[column for column in table if column not in last] + last]
    return table.sort_values("error", key=lambda reasons: reasons != "", kind="stable").reset_index(drop=True)


@dataclass(frozen=True)
class Columns:
    """Which task tokens fill the columns.

    Attributes:
        classes: token and class names by what its columns begin with: nothing for the classes of the cohort, the name
            of the task for classes of its own.
        risk: whose Cox model is asked; None where none is evaluated by survival.
        numbers: tokens that are evaluated by a number.
        distance: whose embeddings say how far a patient is from the training patients.
    """

    classes: Mapping[str, tuple[str, tuple[str, ...]]]
    risk: str | None
    numbers: tuple[str, ...]
    distance: str

    @classmethod
    def of(cls, probes: StoredProbes, task: str | None = None) -> Columns:
        """Classes and risk of the cohort from one token, if given, else from the first that predicts each.

        Raises:
            ValueError: there is no such token.
        """
        if task is not None and task not in probes.tasks:
            raise ValueError(f"--task {task}: the models have the task tokens {', '.join(probes.tasks)}")
        asked = list(probes.tasks) if task is None else [task]
        own = probes.own_classes
        of_class = [name for name in asked if probes.predicts(name, "subtype") and name not in own]
        of_risk = [name for name in asked if probes.predicts(name, "survival")]
        classes = {f"{name} ": (name, names) for name, names in own.items()}
        if of_class:
            classes = {"": (of_class[0], probes.class_names), **classes}
        numbers = tuple(name for name in probes.tasks if probes.predicts(name, "number"))
        return cls(classes, next(iter(of_risk), None), numbers, [*of_class, *of_risk, *asked][0])

    @property
    def tokens(self) -> set[str]:
        """Every token that is read."""
        return {
            self.distance,
            *(name for name, _ in self.classes.values()),
            *filter(None, [self.risk]),
            *self.numbers,
        }


def _row(model: TrainedModel, found: Embedded, name: str, columns: Columns, asked: Asked) -> dict[str, Any]:
    """What one model says of a patient."""
    probes = model.probes.tasks
    vectors = {
        task: found.vectors[name][[k]].astype(np.float64) for k, task in enumerate(probes)
    }  # [1, O] each
    row: dict[str, Any] = {}
    for prefix, (task, classes) in columns.classes.items():
        shares = probes[task].probabilities(vectors[task], len(classes))[0]
        row |= dict(zip((f"{prefix}probability {c}" for c in classes), shares, strict=True))
    if (token := columns.risk) is not None:
        risk = probes[token].risk(vectors[token])
        row |= {"risk": risk[0], "risk_percentile": probes[token].percentile(risk)[0]}
        alive = probes[token].survival(risk, asked.months)[0]
        row |= {f"survival_{month:g}_months": value for month, value in zip(asked.months, alive, strict=True)}
    for task in columns.numbers:
        row[f"{task} value"] = probes[task].number(vectors[task])[0]
    row["distance"] = probes[columns.distance].distance(vectors[columns.distance])[0]
    candidates = _candidates(found.candidates, asked.cohort)
    for prefix, (task, classes) in columns.classes.items():
        own = candidates.of_task(task) if candidates is not None and prefix else candidates
        if own is not None and own.classes:
            best = int(own.similarity(vectors[task])[0].argmax())
            known = len(own.classes) == len(classes)
            row[f"{prefix}{ZERO_SHOT}"] = classes[best] if known else f"class {best}"
    return row


def _candidates(known: Mapping[str, Candidates], cohort: str | None) -> Candidates | None:
    if cohort is None and len(known) == 1:
        return next(iter(known.values()))
    return known.get(cohort) if cohort is not None else None


def _combined(rows: Sequence[Mapping[str, Any]], columns: Columns) -> dict[str, Any]:
    """Means over the models, and spreads where there are several; zero-shot classes by majority."""
    combined: dict[str, Any] = {}
    for prefix, (_, classes) in columns.classes.items():
        shares = np.array([[row[f"{prefix}probability {c}"] for c in classes] for row in rows])
        best = "" if np.isnan(shares).any() else classes[int(shares.mean(axis=0).argmax())]
        combined[f"{prefix}class"] = best
    for column in rows[0]:
        values = [row[column] for row in rows]
        if column.endswith(ZERO_SHOT):
            combined[column] = pd.Series(values).mode()[0]
            continue
        combined[column] = float(np.mean(values))
        if len(rows) > 1 and column != "distance":
            combined[f"{column}_sd"] = float(np.std(values, ddof=1))
    distance = combined["distance"]
    combined["outside_training"] = "" if np.isnan(distance) else bool(distance > 1)
    return combined
