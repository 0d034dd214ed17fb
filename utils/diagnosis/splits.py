"""Split files: leakage, duplicates, classes, events."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from data_utils.cases.cohort_data import check_columns
from data_utils.cases.doubts import doubts
from data_utils.cases.folds import read_folds
from data_utils.cases.splits import Patient, identifiers, misplaced_slides
from data_utils.tables.cohorts import class_names_of
from data_utils.tables.gdc import CONTRADICTIONS
from data_utils.tables.text_table import read_table
from utils import constants
from utils.barcodes import folded
from utils.diagnosis.inputs import Inputs
from utils.evaluation.plots import class_labels
from utils.findings import Finding, error, listing, ok, warning

_WRITE = "write it with python -m data_utils.make_dataset, or pass --train_json, --val_json, --test_json"
_CONTRADICTIONS_REMEDY = "write it again with python -m data_utils.make_dataset"
# With fewer deaths a concordance index is mostly chance.
FEW_EVENTS = 5


def check_splits(inputs: Inputs) -> Iterator[Finding]:
    """Every split file by itself, then all together."""
    try:
        if (folder := inputs.features_folder) is not None:
            yield ok(f"feature files are looked up in {folder.root}")
    except (OSError, ValueError) as reason:
        yield error(str(reason), "pass the folder that holds the feature files themselves")
    try:
        splits = inputs.splits
    except ValueError as reason:
        yield error(
            str(reason), "leave it out of --sites, or join its cohort (python -m data_utils.make_pancancer)"
        )
        return
    for fault in inputs.unreadable_splits.values():
        yield error(str(fault), _WRITE)
    # Where nobody runs, the check of a modality has said so; the splits may be sound all the same.
    all_run = not any(inputs.runs(p) for patients in splits.values() for p in patients)
    for name, patients in splits.items():
        used = [p for p in patients if all_run or inputs.runs(p)]
        yield from _check_one(inputs, name, patients, used)
    yield from _check_tasks(inputs, splits)
    yield from _check_contradictions(inputs, splits)
    yield from doubts(splits)
    yield from _check_leakage(splits)
    yield from _check_folds(inputs, splits)


def _check_one(inputs: Inputs, name: str, patients: list[Patient], used: list[Patient]) -> Iterator[Finding]:
    path = inputs.config.data.split_files[name]
    if not used:
        needed = name == "train" or (name == "val" and not inputs.config.output.eval_only)
        what = f"{path}: no patient to run on (of {len(patients)} in the file)"
        remedy = "split the patients again so that this part gets some who have what the model reads"
        yield error(what, remedy) if needed else warning(f"{what}; nothing is evaluated on it", remedy)
        return
    events = sum(p.event for p in used)
    counts = ", ".join(f"{count} of {name}" for name, count in _counts(inputs, used).items())
    yield ok(f"{name}: {len(used)} of {len(patients)} patients run ({counts}), {events} deaths")
    for site, names in _class_names(inputs).items():
        labels = {p.label for p in used if p.site == site or not site}
        yield from _check_classes(f"{path}{site and ', site '}{site}", labels, names, name == "train")
    if events < FEW_EVENTS and not all(math.isnan(p.duration) for p in used):
        yield warning(
            f"{path}: {events} deaths among {len(used)} patients; "
            + (
                "a Cox model cannot be fitted well"
                if name == "train"
                else "the concordance index says little"
            ),
            "check vital_status (1 = dead), take more patients, or read the survival results with care",
        )
    if unknown := [p.submitter_id for p in used if math.isnan(p.duration)]:
        yield ok(
            f"{name}: {len(unknown)} patients have no survival time and are left out of the survival evaluation: "
            f"{listing(unknown)}"
        )


def _counts(inputs: Inputs, patients: list[Patient]) -> dict[str, int]:
    """How many patients are of each class, by its name; of each site in a pan-cancer run."""
    names = _class_names(inputs)
    counts = Counter((p.site if inputs.config.data.sites else "", p.label) for p in patients)
    return {_called(names.get(site, []), label, site): counts[site, label] for site, label in sorted(counts)}


def _called(names: Sequence[str], label: int, site: str = "") -> str:
    """Name of a class; its number where it has none."""
    name = names[label] if 0 <= label < len(names) else f"class {label}"
    return f"{site} {name}".strip()


def _class_names(inputs: Inputs) -> dict[str, Sequence[str]]:
    """Class names by cancer site; the site is empty where there is but one."""
    data, counts = inputs.config.data, inputs.config.data.classes_by_site
    return {site: class_labels(n, class_names_of(site or data.onco, n)) for site, n in counts.items()}


def _check_tasks(inputs: Inputs, splits: dict[str, list[Patient]]) -> Iterator[Finding]:
    """What the task file evaluates by, of how many patients it is known."""
    tasks, data = inputs.tokens, inputs.config.data
    training = not inputs.config.output.eval_only
    try:
        check_columns(splits, tasks, data.train_json, training)
    except ValueError as reason:
        yield error(str(reason), "see docs/own_cohort.md, Tasks")
        return
    for name, patients in splits.items():
        for column in tasks.columns:
            known = sum(p.values[column] >= 0 or p.values[column] < -1 for p in patients)
            yield ok(f"{name}: {column} of {known} of {len(patients)} patients is known")


def _check_contradictions(inputs: Inputs, splits: dict[str, list[Patient]]) -> Iterator[Finding]:
    """What make_dataset noted beside the split files: rows of a case that say different things."""
    everyone = {p.submitter_id for patients in splits.values() for p in patients}
    for folder in sorted({path.parent for path in inputs.config.data.split_files.values()}):
        for path in sorted(folder.glob(f"{CONTRADICTIONS}_*.csv")):
            try:
                table = read_table(path, "list of contradictions", _CONTRADICTIONS_REMEDY)
                told = table[table["case_submitter_id"].isin(everyone)]
                cases = [
                    f"{case} ({', '.join(rows['field'])})" for case, rows in told.groupby("case_submitter_id")
                ]
            except (OSError, ValueError, KeyError) as reason:
                yield warning(f"{path} cannot be read: {reason}", _CONTRADICTIONS_REMEDY)
                continue
            if cases:
                yield warning(
                    f"the rows of {len(cases)} cases contradict each other in the clinical table: {listing(cases)}",
                    f"see in {path} what was taken; where another value is right, correct the clinical table and "
                    "write the splits again",
                )


def _check_classes(
    where: str, labels: set[int], names: Sequence[str], is_training: bool
) -> Iterator[Finding]:
    num_classes = len(names)
    too_large = sorted(c for c in labels if c >= num_classes)
    if too_large:
        yield error(
            f"{where}: classes {too_large}, but --num_classes is {num_classes}",
            "pass --num_classes, one more than the largest primary_class",
        )
    absent = [c for c in range(num_classes) if c not in labels]
    if absent:
        yield warning(
            f"{where}: nobody of {', '.join(names[c] for c in absent)}; "
            + ("no probe can learn it" if is_training else "its balanced accuracy leaves them out"),
            "split stratified by class (data_utils.make_dataset does), or pass the right --num_classes",
        )


def _check_leakage(splits: dict[str, list[Patient]]) -> Iterator[Finding]:
    clean = True
    for kind in ("case", "barcode", "slide", "feature file"):
        owners: dict[str, set[str]] = defaultdict(set)
        cases: dict[str, set[str]] = defaultdict(set)
        spelling: dict[str, str] = {}
        for name, patients in splits.items():
            for patient in patients:
                for key in (key for own, key in identifiers(patient) if own == kind):
                    # As the run compares them, see check_disjoint.
                    plain = spelling.setdefault(key if kind == "feature file" else folded(key), key)
                    owners[plain].add(name)
                    cases[plain].add(patient.case_id)
        leaks = [f"{key} ({' and '.join(sorted(names))})" for key, names in owners.items() if len(names) > 1]
        if leaks:
            clean = False
            yield error(
                f"leakage: {len(leaks)} patients are in several splits by {kind}: {listing(leaks)}",
                "leave every patient in one split; make_dataset splits by patient",
            )
            return  # the other kinds would say the same again
        shared = [f"{key} ({' and '.join(sorted(ids))})" for key, ids in cases.items() if len(ids) > 1]
        if shared and kind in ("slide", "feature file"):
            clean = False
            yield error(
                f"{kind}s that belong to several cases: {listing(shared)}",
                "a slide is of one patient: correct these rows",
            )
    if odd := misplaced_slides(p for patients in splits.values() for p in patients):
        clean = False
        yield error(
            f"slides listed for another patient than their barcode says: {listing(odd)}", "correct the rows"
        )
    if clean and len(splits) == len(constants.SPLITS):
        yield ok("no patient and no feature file in more than one split")


def _check_folds(inputs: Inputs, splits: dict[str, list[Patient]]) -> Iterator[Finding]:
    path, draw_validation = inputs.config.data.fold_json, not inputs.config.data.survpath_protocol
    if path is None:
        return
    everyone = [p for members in splits.values() for p in members]
    eligible = [p.case_id for p in everyone if inputs.runs(p)]
    try:
        folds = read_folds(path, everyone, eligible, inputs.config.training.seed, draw_validation)
    except (OSError, ValueError) as reason:
        yield error(str(reason), "correct the fold file, or pass the split files of the same cohort")
        return
    if inputs.config.data.num_folds > len(folds):
        yield error(f"{path} holds {len(folds)} folds", f"pass --num_folds {len(folds)} or fewer")
    sizes = "; ".join("/".join(str(len(fold[name])) for name in constants.SPLITS) for fold in folds[:5])
    yield ok(f"{path}: {len(folds)} folds, patients in train/val/test: {sizes}")
