"""Cross-validation: folds drawn here, or read from a JSON list or from SurvPath's split CSVs."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedKFold, train_test_split

from data_utils.cases.splits import Patient, check_disjoint
from data_utils.tables.text_table import read_table
from utils import constants
from utils.barcodes import misnamed
from utils.files import FileError, content_of, quoted, read_json

logger = logging.getLogger(__name__)

VALIDATION_SHARE = 0.15
_SPLIT_CSV = re.compile(r"splits_(\d+)\.csv")

# What pandas writes where a column is shorter than the others.
_REMEDY = "pass another --fold_json"
_EMPTY = ("", "nan", "NaN", "NA")

Fold = dict[str, list[Patient]]


def make_folds(patients: Sequence[Patient], eligible: Iterable[str], num_folds: int, seed: int) -> list[Fold]:
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
    stratum = _strata_of(patients)
    scored = [p for p in patients if stratum[p.case_id] >= 0 and p.case_id in eligible]
    others = [p for p in patients if stratum[p.case_id] < 0 or p.case_id not in eligible]
    labels = np.array([stratum[p.case_id] for p in scored])
    classes, counts = np.unique(labels, return_counts=True)
    if not len(scored) or counts.min() < num_folds:
        found = dict(zip(classes.tolist(), counts.tolist(), strict=True))
        raise ValueError(f"{num_folds} folds need as many patients with RNA per class, there are {found}")
    folds = []
    splitter = StratifiedKFold(num_folds, shuffle=True, random_state=seed)
    for rest, test in splitter.split(labels, labels):
        train, val = _draw_validation([scored[i] for i in rest], eligible, seed)
        folds.append({"train": train + others, "val": val, "test": [scored[i] for i in test]})
    return folds


def _strata_of(patients: Sequence[Patient]) -> dict[str, int]:
    """What patients are stratified by: the class, the event in a cohort without classes; -1 for who has neither."""
    if any(p.label >= 0 for p in patients):
        return {p.case_id: p.label for p in patients}
    if any(not math.isnan(p.duration) for p in patients):
        return {p.case_id: -1 if math.isnan(p.duration) else p.event for p in patients}
    return {p.case_id: 0 for p in patients}


def _draw_validation(
    patients: Sequence[Patient], eligible: Collection[str], seed: int
) -> tuple[list[Patient], list[Patient]]:
    """Training and validation patients; those that may not be validated on train."""
    stratum = _strata_of(patients)
    drawn = [i for i, p in enumerate(patients) if stratum[p.case_id] >= 0 and p.case_id in eligible]
    if len(drawn) < 2:
        raise ValueError(f"{len(drawn)} patients with RNA and a class are too few to draw validation from")
    labels = np.array([stratum[patients[i].case_id] for i in drawn])
    _, val = train_test_split(drawn, test_size=VALIDATION_SHARE, stratify=_strata(labels), random_state=seed)
    chosen = set(val)
    return (
        [p for i, p in enumerate(patients) if i not in chosen],
        [patients[i] for i in sorted(chosen)],
    )


def _strata(labels: np.ndarray) -> np.ndarray | None:
    """The labels, or None where they are too few to stratify the validation patients."""
    _, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2 or math.ceil(VALIDATION_SHARE * len(labels)) < len(counts):
        logger.warning("too few patients to stratify validation by class: %s", counts.tolist())
        return None
    return labels


def read_folds(
    path: str | Path,
    patients: Sequence[Patient],
    eligible: Iterable[str],
    seed: int,
    draw_validation: bool = True,
) -> list[Fold]:
    """The folds of ``--fold_json``.

    Args:
        path: a JSON list of ``{"train": [...], "val": [...], "test": [...]}`` whose lists hold names, or rows of
            split files as the published code has them; or, as SurvPath has them, a CSV
            with the columns ``train`` and ``val`` (and possibly ``test``), or a folder of ``splits_<k>.csv``.
            All hold case ids or barcodes.
        patients: of the split files.
        eligible: case ids that validation may be drawn from.
        seed: of that draw.
        draw_validation: False trains on the whole training column of a CSV and validates on nobody, as SurvPath does.

    Without a ``test`` column, the ``val`` column of a CSV is the test set, as its authors report it; choosing
    the epoch on it would leak, so validation is then drawn from the training column as in :func:`make_folds`.
    Patients of a CSV that are in no split file are left out and counted in the log.

    Raises:
        FileNotFoundError: there is no such file, or no CSV in the folder.
        ValueError: another layout, a patient unknown (in a CSV: more than half of them), or a patient twice
            in one fold.
    """
    path, eligible = Path(path), set(eligible)
    if path.suffix != ".csv" and not path.is_dir():
        if not draw_validation:
            raise FileError(
                path, "is no CSV", "--survpath_protocol reads SurvPath's splits_<k>.csv or their folder"
            )
        return _read_json_folds(path, patients)
    folds = []
    for file in split_csvs(path):
        fold = _members(file, "", _read_csv_fold(file), patients, may_lack=True)
        if not draw_validation:
            if "test" in fold:
                raise FileError(file, "has a test column", "--survpath_protocol is for train and val alone")
            fold |= {"test": fold["val"], "val": []}
        elif "test" not in fold:
            fold["test"] = fold["val"]
            fold["train"], fold["val"] = _draw_validation(fold["train"], eligible, seed)
            logger.info(
                "%s has no test column: its val column (%d patients) is the test set, and %d patients of its "
                "train column validate",
                file,
                len(fold["test"]),
                len(fold["val"]),
            )
        folds.append(fold)
    return folds


def count_folds(path: str | Path) -> int:
    """How many folds ``--fold_json`` holds; errors as :func:`read_folds`."""
    path = Path(path)
    if path.suffix == ".csv" or path.is_dir():
        return len(split_csvs(path))
    return len(_json_folds(path))


def split_csvs(path: Path) -> list[Path]:
    """The file itself, or ``splits_<k>.csv`` of a folder in the order of ``k``."""
    if not path.is_dir():
        return [path]
    numbers: dict[int, Path] = {}
    for file in sorted(path.iterdir()):
        if (match := _SPLIT_CSV.fullmatch(file.name)) and numbers.setdefault(int(match[1]), file) != file:
            first = numbers[int(match[1])]
            raise FileError(first, f"and {file.name} are the same fold", "remove one of them")
    if not numbers:
        raise FileNotFoundError(f"--fold_json {path}: the folder holds no splits_0.csv, splits_1.csv, ...")
    return [numbers[k] for k in sorted(numbers)]


def _read_csv_fold(path: Path) -> dict[str, list[str]]:
    table = read_table(path, "CSV table of a fold", "pass another --fold_json")
    names = [name for name in constants.SPLITS if name in table]
    if not {"train", "val"} <= set(names):
        fault = f"should have the columns train and val (and may have test); it has {list(table.columns)[:6]}"
        raise FileError(path, fault, _REMEDY)
    fold = {name: [case for case in table[name] if case not in _EMPTY] for name in names}
    if empty := [name for name, cases in fold.items() if not cases]:
        raise FileError(path, f": nobody is in {' and '.join(empty)}", "every column needs patients")
    return fold


def _json_folds(path: Path) -> list[object]:
    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise FileError(path, f"should hold a list of folds, each an object with {constants.SPLITS}", _REMEDY)
    return content


def _read_json_folds(path: Path, patients: Sequence[Patient]) -> list[Fold]:
    folds = []
    for number, fold in enumerate(_json_folds(path)):
        if not isinstance(fold, Mapping) or set(fold) != set(constants.SPLITS):
            found = sorted(fold) if isinstance(fold, Mapping) else repr(fold)
            raise FileError(path, f": fold {number} has {found}, should have {constants.SPLITS}", _REMEDY)
        named = {name: _names(path, number, fold[name]) for name in constants.SPLITS}
        folds.append(_members(path, f"fold {number} ", named, patients, may_lack=False))
    return folds


def _names(path: Path, number: int, entries: object) -> list[str]:
    """Case ids or barcodes of a part of a fold: names as they are, or rows of split files, one for every slide."""
    names: list[str] = []
    if not isinstance(entries, list):
        raise FileError(path, f": fold {number} holds {str(entries)[:80]} where a list belongs", _REMEDY)
    for entry in entries:
        row = isinstance(entry, Mapping)
        found = entry.get("case_id", entry.get("submitter_id")) if isinstance(entry, Mapping) else entry
        if not isinstance(found, str):
            fault = f": fold {number} has the entry {str(entry)[:80]}"
            raise FileError(path, fault, "it should be a case id, a barcode, or a row with case_id")
        if not row or found not in names:
            names.append(found)
    return names


def _members(
    path: Path, where: str, fold: Mapping[str, Sequence[str]], patients: Sequence[Patient], may_lack: bool
) -> Fold:
    """Names become patients; nobody may be twice in a fold."""
    by_id = {p.case_id: p for p in patients} | {p.submitter_id: p for p in patients}
    named = [case for ids in fold.values() for case in ids]
    unknown = [case for case in named if case not in by_id]
    if unknown and (not may_lack or 2 * len(unknown) > len(named)):
        such = [quoted(name, 30) for name in unknown[:3]]
        fault = f": {where}names {len(unknown)} patients that are in no split file, such as {such}"
        raise FileError(path, fault, f"the split files hold such as {list(by_id)[:3]}")
    chosen = {by_id[case].case_id for case in named if case in by_id}
    others = (name for p in patients if p.case_id not in chosen for name in (p.case_id, p.submitter_id))
    if fault := misnamed(unknown, others):
        raise FileError(path, f": {where}{fault}", "write patients as the split files do")
    split = {name: [by_id[case] for case in ids if case in by_id] for name, ids in fold.items()}
    with content_of(path, "leave every patient in one part"):
        check_disjoint(split)
    for name, members in split.items():
        if len({p.case_id for p in members}) < len(members):
            raise FileError(path, f": {where}names a patient twice in {name}", _REMEDY)
    unused = len(patients) - sum(map(len, split.values()))
    if unknown or unused:
        logger.info(
            "%s: %s%d of its patients are in no split file, %d of the split files are not in it; both are left out",
            path,
            where,
            len(unknown),
            unused,
        )
    return split
