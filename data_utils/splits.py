"""Split files: who is in training, validation and test, and where the features are."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold, train_test_split

from utils import constants
from utils.files import read_json

logger = logging.getLogger(__name__)

_PLACEHOLDER = "PATHTODATABASE/"
_REQUIRED = (
    "case_id",
    "case_submitter_id",
    "slide_submitter_id",
    "project_id",
    "primary_class",
    "durations",
    "vital_status",
    "features_path",
)
VALIDATION_SHARE = 0.15


@dataclass(frozen=True)
class Patient:
    """One patient of a split file.

    Attributes:
        case_id: GDC identifier.
        submitter_id: TCGA barcode of the patient.
        project_id: TCGA project.
        slides: feature files, in the order of the split file.
        label: subtype class, -1 for none.
        duration: survival time in months.
        event: 1 dead, 0 censored.
        site: cohort of the patient, where the rows name it (pan-cancer splits), else empty.
    """

    case_id: str
    submitter_id: str
    project_id: str
    slides: tuple[Path, ...]
    label: int
    duration: float
    event: int
    site: str = ""


def resolve_features_path(path: str) -> Path:
    """Where a ``features_path`` of a split file lies on this machine.

    Absolute paths stay. The placeholder of the published files is replaced by
    ``constants.DATABASE_ROOT``; everything else is relative to ``constants.FEATURES_ROOT``.
    """
    if path.startswith(_PLACEHOLDER):
        return constants.DATABASE_ROOT / path.removeprefix(_PLACEHOLDER)
    return constants.FEATURES_ROOT / path


def read_split(path: str | Path) -> list[Patient]:
    """The patients of a split file, in its order; rows of one patient (its slides) are joined.

    A file without rows is legal: tiny cohorts leave a split empty.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file has another layout, a field is missing, a slide stands twice, or rows of
            one patient contradict each other.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"split file {path} does not exist; write it with data_utils.make_dataset")
    content = read_json(path)
    rows = content.get("data") if isinstance(content, Mapping) else None
    if not isinstance(rows, list):
        raise ValueError(f'{path} should hold {{"data": [one object per slide, ...]}}')
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(
                f"{path}: row {number} is {row!r}, should be an object with the fields of a slide"
            )
        missing = [name for name in _REQUIRED if row.get(name) is None]
        if missing:
            raise ValueError(f"{path}: row {number} ({row.get('slide_submitter_id')}) lacks {missing}")
        grouped.setdefault(str(row["case_id"]), []).append(row)
    return [_join(path, case_id, slides) for case_id, slides in grouped.items()]


def _join(path: Path, case_id: str, rows: Sequence[Mapping[str, Any]]) -> Patient:
    first = rows[0]
    for name in ("case_submitter_id", "project_id", "primary_class", "durations", "vital_status"):
        values = {row[name] for row in rows}
        if len(values) > 1:
            raise ValueError(f"{path}: the slides of case {case_id} disagree on {name}: {sorted(values)}")
    slides = tuple(resolve_features_path(str(row["features_path"])) for row in rows)
    if len(set(slides)) < len(slides):
        raise ValueError(f"{path}: a slide of case {case_id} stands twice")
    return Patient(
        case_id=case_id,
        submitter_id=str(first["case_submitter_id"]),
        project_id=str(first["project_id"]),
        slides=slides,
        label=int(first["primary_class"]),
        duration=float(first["durations"]),
        event=int(first["vital_status"]),
        site=str(first.get("site") or ""),
    )


def check_disjoint(splits: Mapping[str, Sequence[Patient]]) -> None:
    """Raises ValueError where a patient is in more than one split."""
    owner: dict[str, str] = {}
    for name, patients in splits.items():
        for patient in patients:
            other = owner.setdefault(patient.case_id, name)
            if other != name:
                raise ValueError(f"case {patient.case_id} is in the splits {other} and {name}")


def make_folds(
    patients: Sequence[Patient], eligible: Iterable[str], num_folds: int, seed: int
) -> list[dict[str, list[Patient]]]:
    """Stratified k-fold: every eligible patient of known class is tested once.

    Args:
        patients: all patients.
        eligible: case ids that may be validated and tested on; others always train.
        num_folds: number of folds.
        seed: of the shuffling.

    Returns:
        Per fold ``{"train", "val", "test"}``; validation is 15 % of what is left of the eligible ones,
        stratified where there are enough of them.

    Raises:
        ValueError: a class has fewer patients than there are folds.
    """
    eligible = set(eligible)
    scored = [p for p in patients if p.label >= 0 and p.case_id in eligible]
    others = [p for p in patients if p.label < 0 or p.case_id not in eligible]
    labels = np.array([p.label for p in scored])
    classes, counts = np.unique(labels, return_counts=True)
    if not len(scored) or counts.min() < num_folds:
        found = dict(zip(classes.tolist(), counts.tolist(), strict=True))
        raise ValueError(f"{num_folds} folds need as many patients with RNA per class, there are {found}")
    folds = []
    splitter = StratifiedKFold(num_folds, shuffle=True, random_state=seed)
    for rest, test in splitter.split(labels, labels):
        train, val = train_test_split(
            rest, test_size=VALIDATION_SHARE, stratify=_strata(labels[rest]), random_state=seed
        )
        fold = {"train": train, "val": val, "test": test}
        split = {name: [scored[i] for i in np.sort(index)] for name, index in fold.items()}
        split["train"] += others
        folds.append(split)
    return folds


def _strata(labels: np.ndarray) -> np.ndarray | None:
    """The labels, or None where they are too few to stratify the validation patients."""
    _, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2 or math.ceil(VALIDATION_SHARE * len(labels)) < len(counts):
        logger.warning("too few patients to stratify validation by class: %s", counts.tolist())
        return None
    return labels


def read_folds(path: str | Path, patients: Sequence[Patient]) -> list[dict[str, list[Patient]]]:
    """Folds from a JSON list of ``{"train": [...], "val": [...], "test": [...]}`` of case ids or barcodes.

    Raises:
        ValueError: another layout, a patient unknown, or a patient twice in one fold.
    """
    by_id = {p.case_id: p for p in patients} | {p.submitter_id: p for p in patients}
    folds = []
    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise ValueError(f"{path} should hold a list of folds, each an object with {constants.SPLITS}")
    for number, fold in enumerate(content):
        if not isinstance(fold, Mapping) or set(fold) != set(constants.SPLITS):
            found = sorted(fold) if isinstance(fold, Mapping) else repr(fold)
            raise ValueError(f"{path}: fold {number} has {found}, should have {constants.SPLITS}")
        unknown = [case for ids in fold.values() for case in ids if case not in by_id]
        if unknown:
            raise ValueError(
                f"{path}: fold {number} names {len(unknown)} patients that are in no split file, such as "
                f"{unknown[:5]}; the split files hold such as {list(by_id)[:3]}"
            )
        split = {name: [by_id[case] for case in ids] for name, ids in fold.items()}
        check_disjoint(split)
        for name, members in split.items():
            if len({p.case_id for p in members}) < len(members):
                raise ValueError(f"{path}: fold {number} names a patient twice in {name}")
        folds.append(split)
    return folds
