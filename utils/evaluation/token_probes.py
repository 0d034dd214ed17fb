"""The probes of a task token: one for each way in which its task is evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_utils.tables.tasks import CLASSES, COHORT_CLASS, NUMBER, SURVIVAL, Target, Task
from utils.evaluation.embeddings import Embeddings
from utils.evaluation.number_probe import NumberProbe, NumberResult, fit_number
from utils.evaluation.probes import (
    SubtypeProbe,
    SubtypeResult,
    SurvivalProbe,
    SurvivalResult,
    fit_subtype,
    fit_survival,
)

# As the published tasks are evaluated.
BY_CLASS_AND_SURVIVAL = (Target(COHORT_CLASS), Target(SURVIVAL))
# What the validation measures of each kind; the first of a token decides between epochs.
VALIDATED = {
    "subtype": ("balanced_accuracy", "accuracy"),
    "survival": ("concordance_index",),
    "number": ("r2", "spearman"),
}


def tokens_of(tasks: Sequence[Task | str]) -> tuple[Task, ...]:
    """Tasks, or names of tasks that are evaluated by class and survival."""
    return tuple(
        task if isinstance(task, Task) else Task(task, (), None, BY_CLASS_AND_SURVIVAL) for task in tasks
    )


def kinds_of(token: Task) -> list[str]:
    """How a token is evaluated, always in this order: ``subtype``, ``survival``, ``number``."""
    of_kind = {"subtype": (COHORT_CLASS, CLASSES), "survival": (SURVIVAL,), "number": (NUMBER,)}
    return [kind for kind, targets in of_kind.items() if token.target(*targets) is not None]


def class_names_of_token(token: Task, cohort_classes: Sequence[str]) -> tuple[str, ...]:
    """Names of the classes that a token is evaluated by: its own, or those of the cohort."""
    own = token.target(CLASSES)
    return tuple(cohort_classes) if own is None else own.names


@dataclass(frozen=True, eq=False)
class Score:
    """The probes of a token, scored on one split; None where the token is not evaluated so."""

    subtype: SubtypeResult | None
    survival: SurvivalResult | None
    number: NumberResult | None

    def __iter__(self) -> Iterator[tuple[str, SubtypeResult | SurvivalResult | NumberResult]]:
        """Kind and result of what there is."""
        for kind in VALIDATED:
            if (result := getattr(self, kind)) is not None:
                yield kind, result


@dataclass(frozen=True, eq=False)
class TokenProbes:
    """Fitted probes; None where the token is not evaluated so.

    Attributes:
        class_names: of the classes of the subtype probe.
    """

    token: Task
    class_names: tuple[str, ...]
    subtype: SubtypeProbe | None
    survival: SurvivalProbe | None
    number: NumberProbe | None

    @classmethod
    def fit(cls, train: Embeddings, index: int, token: Task, cohort_classes: Sequence[str]) -> TokenProbes:
        """Fits the probes of the token at ``index`` on training cases."""
        kinds, names = kinds_of(token), class_names_of_token(token, cohort_classes)
        number = token.target(NUMBER)
        return cls(
            token,
            names,
            fit_subtype(_labelled(train, token), index, len(names), names) if "subtype" in kinds else None,
            fit_survival(train, index) if "survival" in kinds else None,
            None if number is None else fit_number(train, index, number.column),
        )

    @property
    def fitted(self) -> list[SubtypeProbe | SurvivalProbe | NumberProbe]:
        """What there is."""
        return [probe for probe in (self.subtype, self.survival, self.number) if probe is not None]

    def score(self, cases: Embeddings) -> Score:
        """Scores every probe on the cases that have what it predicts."""
        return Score(
            None if self.subtype is None else self.subtype.score(_labelled(cases, self.token)),
            None if self.survival is None else self.survival.score(cases),
            None if self.number is None else self.number.score(cases),
        )

    def labels(self, cases: Embeddings) -> np.ndarray:
        """The true classes ``[n]``, -1 where they are not known."""
        return _labelled(cases, self.token).labels


def _labelled(cases: Embeddings, token: Task) -> Embeddings:
    own = token.target(CLASSES)
    return cases if own is None else cases.labelled_by(own.column)
