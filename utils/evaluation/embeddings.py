"""The embeddings of a set of cases, with what is known of each: what every evaluation starts from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from data_utils.cases.case import Case
from utils.files import ARCHIVE_ERRORS, FileError, atomic_path, content_of

# In files, before the name of a column that tasks are evaluated by.
_VALUE = "value/"
_PER_CASE = ("labels", "durations", "events", "sites", "projects", "complete")


# Appended to the name of a split: its cases with every modality of the model.
COMPLETE = "_complete"


def with_complete_parts(splits: Mapping[str, Embeddings]) -> dict[str, Embeddings]:
    """The splits and, after each in which some cases lack a modality and others do not, the latter alone."""
    parts = {}
    for split, cases in splits.items():
        parts[split] = cases
        if cases.complete.any() and not cases.complete.all():
            parts[split + COMPLETE] = cases.select(cases.complete)
    return parts


def same_split(one: str, other: str) -> bool:
    """Whether one of two names stands for the complete cases of the other."""
    return one.removesuffix(COMPLETE) == other.removesuffix(COMPLETE)


def name_cases(case_ids: Iterable[str], limit: int = 5) -> str:
    """The first few case ids, for a message."""
    case_ids = list(case_ids)
    rest = len(case_ids) - limit
    return ", ".join(case_ids[:limit]) + (f" and {rest} more" if rest > 0 else "")


def _integers(name: str, values: ArrayLike) -> np.ndarray:
    array = np.asarray(values)
    if array.size and not np.array_equal(array, array.astype(np.float64).round()):
        raise ValueError(f"{name} must be whole numbers")
    return array.astype(np.int64)


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings and labels of a set of cases.

    Attributes:
        vectors: one vector for every case and task token ``[n, T, O]``, float32, finite.
        case_ids: identifier of every case, each once.
        labels: subtype class ``[n]``, -1 where the diagnosis is in none.
        durations: survival time in months ``[n]``; NaN where it is unknown.
        events: 1 the patient died, 0 censored ``[n]``.
        sites: cancer site of every case: its cohort in pan-cancer splits, else its project.
        projects: TCGA project of every case (such as ``TCGA-LUAD``); its site if not given.
        complete: whether the case has all modalities of the model ``[n]``; True if not given.
        values: what else the tasks are evaluated by ``[n]``, by column: numbers or classes, NaN where they are not
            known, -1 for none of the classes.

    Raises:
        ValueError: lengths differ, a case occurs twice, a vector or a label is impossible; the
            message names the cases.
    """

    vectors: np.ndarray
    case_ids: list[str]
    labels: np.ndarray
    durations: np.ndarray
    events: np.ndarray
    sites: list[str]
    projects: list[str] = None  # type: ignore[assignment] # both are there after __post_init__
    complete: np.ndarray = None  # type: ignore[assignment]
    values: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, vectors: Sequence[np.ndarray], cases: Sequence[Case]) -> Embeddings:
        """The outputs ``[T, O]`` of cases, with what the cases say."""
        return cls(
            vectors=np.stack(vectors),
            case_ids=[case.case_id for case in cases],
            labels=np.array([case.label for case in cases]),
            durations=np.array([case.duration for case in cases]),
            events=np.array([case.event for case in cases]),
            sites=[case.site or case.project_id for case in cases],
            projects=[case.project_id for case in cases],
            complete=np.array([case.complete for case in cases]),
            values={name: np.array([case.values[name] for case in cases]) for name in cases[0].values},
        )

    def __post_init__(self) -> None:
        content = {
            "vectors": np.asarray(self.vectors, dtype=np.float32),
            "case_ids": [str(case_id) for case_id in self.case_ids],
            "labels": _integers("labels", self.labels),
            "durations": np.asarray(self.durations, dtype=np.float64),
            "events": _integers("events", self.events),
            "sites": [str(site) for site in self.sites],
            "projects": [str(p) for p in (self.sites if self.projects is None else self.projects)],
            "complete": np.ones(len(self.case_ids), dtype=bool)
            if self.complete is None
            else np.asarray(self.complete, dtype=bool),
            "values": {name: np.asarray(own, dtype=np.float64) for name, own in self.values.items()},
        }
        for name, value in content.items():
            object.__setattr__(self, name, value)
        self._check_shapes()
        self._check_values()

    def _check_shapes(self) -> None:
        if self.vectors.ndim != 3:
            raise ValueError(f"embeddings must be [cases, tasks, width], their shape is {self.vectors.shape}")
        n = len(self.case_ids)
        shapes = {name: np.shape(getattr(self, name)) for name in _PER_CASE}
        wrong = {name: shape for name, shape in shapes.items() if shape != (n,)}
        wrong |= {name: own.shape for name, own in self.values.items() if own.shape != (n,)}
        if len(self.vectors) != n:
            wrong["vectors"] = self.vectors.shape
        for name, shape in wrong.items():
            raise ValueError(f"{n} case ids but {name} of shape {shape}: one entry per case is needed")

    def _check_values(self) -> None:
        repeated = [case_id for case_id, times in Counter(self.case_ids).items() if times > 1]
        if repeated:
            raise ValueError(
                f"case ids that occur more than once: {name_cases(repeated)}. The slides of a patient "
                "belong into one case"
            )
        not_finite = ~np.isfinite(self.vectors).all(axis=(1, 2))
        faults = {
            "embeddings that are not finite (the run diverged, or an input was NaN)": not_finite,
            "classes below -1": self.labels < -1,
            "infinite survival times": np.isinf(self.durations),
            "negative survival times": self.durations < 0,
            "events other than 0 and 1": ~np.isin(self.events, (0, 1)),
        }
        for fault, where in faults.items():
            if where.any():
                raise ValueError(f"{fault}: cases {name_cases(self.select_ids(where))}")

    def __len__(self) -> int:
        return len(self.case_ids)

    def task(self, index: int) -> np.ndarray:
        """The embeddings of one task token ``[n, O]``."""
        if not 0 <= index < self.vectors.shape[1]:
            raise IndexError(f"no task token {index}: the embeddings hold {self.vectors.shape[1]}")
        return self.vectors[:, index]

    def select_ids(self, where: np.ndarray) -> list[str]:
        """Ids of the cases where the mask ``[n]`` holds."""
        return [self.case_ids[i] for i in np.flatnonzero(where)]

    def select(self, where: np.ndarray) -> Embeddings:
        """The cases where the mask ``[n]`` holds."""
        keep = np.flatnonzero(where)
        return Embeddings(
            vectors=self.vectors[keep],
            case_ids=[self.case_ids[i] for i in keep],
            labels=self.labels[keep],
            durations=self.durations[keep],
            events=self.events[keep],
            sites=[self.sites[i] for i in keep],
            projects=[self.projects[i] for i in keep],
            complete=self.complete[keep],
            values={name: own[keep] for name, own in self.values.items()},
        )

    def labelled_by(self, column: str) -> Embeddings:
        """The same with the classes of a column as labels."""
        return replace(self, labels=np.nan_to_num(self.value(column), nan=-1))

    def value(self, column: str) -> np.ndarray:
        """What is known by a column ``[n]``; NaN for all in embeddings that were saved without it."""
        return self.values.get(column, np.full(len(self), np.nan))

    def save(self, path: str | Path) -> None:
        """Writes the embeddings as ``.npz``, atomically."""
        with atomic_path(path) as temporary, temporary.open("wb") as handle:
            np.savez(
                handle,
                vectors=self.vectors,
                case_ids=np.asarray(self.case_ids, dtype=str),
                labels=self.labels,
                durations=self.durations,
                events=self.events,
                sites=np.asarray(self.sites, dtype=str),
                projects=np.asarray(self.projects, dtype=str),
                complete=self.complete,
                allow_pickle=False,
                **{_VALUE + name: own for name, own in self.values.items()},
            )

    @classmethod
    def load(cls, path: str | Path) -> Embeddings:
        """Reads what :meth:`save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged or no embeddings file; the message names it.
        """
        names = ("vectors", "case_ids", *_PER_CASE)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                content = {name: arrays[name] for name in names}
                found = [name for name in arrays.files if name.startswith(_VALUE)]
                content["values"] = {name.removeprefix(_VALUE): arrays[name] for name in found}
        except (KeyError, TypeError, *ARCHIVE_ERRORS) as error:
            fault = f"is not a readable embeddings file ({error})"
            raise FileError(path, fault, "remove it and evaluate again") from error
        with content_of(path, "remove it and evaluate again"):
            return cls(**content)
