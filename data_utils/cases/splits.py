"""Split files: who is in training, validation and test, and where the features are."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_utils.cases.labels import read_labels, read_values
from data_utils.features.folder import FeatureFolder
from data_utils.features.store import HDF5_SUFFIXES
from data_utils.tables.tasks import Target
from utils import constants
from utils.barcodes import folded, is_normal_tissue, is_tcga, patient_of, spelled_twice
from utils.files import FileError, quoted, read_json

logger = logging.getLogger(__name__)

# A row, and its class, months and event.
LabelledRow = tuple[Mapping[str, Any], tuple[int, float, int]]

_PLACEHOLDER = "PATHTODATABASE/"
_REMEDY = "write it with data_utils.make_dataset"
_LABELS = ("primary_class", "durations", "vital_status")
_IDENTIFIERS = ("case_id", "case_submitter_id", "slide_submitter_id", "project_id")
_REQUIRED = (*_IDENTIFIERS, *_LABELS)


@dataclass(frozen=True)
class Patient:
    """One patient of a split file.

    Attributes:
        case_id: GDC identifier.
        submitter_id: TCGA barcode of the patient.
        project_id: TCGA project.
        slides: feature files, in the order of the split file.
        label: subtype class, -1 for none.
        duration: survival time in months; NaN where it is not known.
        event: 1 dead, 0 censored.
        site: cohort of the patient, where the rows name it (pan-cancer splits), else empty.
        slide_ids: ``slide_submitter_id`` of the slides.
        diagnosis: ``primary_diagnosis`` of the rows, where they have it.
        normal_slides: slides of normal tissue, which are not read because the patient has others.
        values: what else the tasks are evaluated by, by column; NaN where it is not known, -1 for none of the classes.
    """

    case_id: str
    submitter_id: str
    project_id: str
    slides: tuple[Path, ...]
    label: int
    duration: float
    event: int
    site: str = ""
    slide_ids: tuple[str, ...] = ()
    diagnosis: str = ""
    normal_slides: tuple[str, ...] = ()
    values: Mapping[str, float] = field(default_factory=dict, hash=False)


def resolve_features_path(path: str) -> Path:
    """Where a ``features_path`` of a split file lies on this machine.

    Absolute paths stay. The placeholder of the published files is replaced by
    ``constants.DATABASE_ROOT``; everything else is relative to ``constants.FEATURES_ROOT``.
    """
    if path.startswith(_PLACEHOLDER):
        return constants.DATABASE_ROOT / path.removeprefix(_PLACEHOLDER)
    return constants.FEATURES_ROOT / path


def read_split(
    path: str | Path,
    folder: FeatureFolder | None = None,
    patches: bool = True,
    columns: Mapping[str, Target] | None = None,
) -> list[Patient]:
    """The patients of a split file, in its order; rows of one patient (its slides) are joined.

    A file without rows is legal: tiny cohorts leave a split empty.

    Args:
        path: ours, or as published.
        folder: where the feature files lie, whatever ``features_path`` says (it may then be left out). Slides
            that are not there keep the path they should have, and are named in the log.
        patches: False for a model that reads none: ``features_path`` may then be left out, and patients have no
            feature files.
        columns: what else is read of a patient, see :attr:`data_utils.tables.tasks.TaskSet.columns`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file has another layout, a field is missing, a label is impossible, a slide stands twice,
            identifiers differ only in case, or rows of one patient contradict each other.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"split file {path} does not exist; write it with data_utils.make_dataset")
    content = read_json(path)
    rows = content.get("data") if isinstance(content, Mapping) else None
    if not isinstance(rows, list):
        raise FileError(path, 'should hold {"data": [one object per slide, ...]}', _REMEDY)
    grouped: dict[str, list[LabelledRow]] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            fault = f": row {number} is {row!r}, should be an object with the fields of a slide"
            raise FileError(path, fault, _REMEDY)
        needed = (*_REQUIRED, "features_path") if patches and not folder else _REQUIRED
        # A label may be null; a label without a key is a misspelt one.
        missing = [
            name for name in needed if (row.get(name) is None and name not in _LABELS) or name not in row
        ]
        if missing:
            raise FileError(
                path, f": row {number} ({row.get('slide_submitter_id')}) lacks {missing}", _REMEDY
            )
        _check_names(path, number, row)
        case_id = str(row["case_id"]).strip()
        labels = read_labels(row, path, f"row {number}, case {quoted(case_id, 50)}")
        grouped.setdefault(case_id, []).append((row, labels))
    _check_spelling(path, "case_id", grouped)
    patients = [_join(path, case_id, slides, folder, patches) for case_id, slides in grouped.items()]
    if columns:
        rows_of = {case_id: [row for row, _ in slides] for case_id, slides in grouped.items()}
        values = read_values(path, rows_of, columns)
        patients = [replace(patient, values=values[patient.case_id]) for patient in patients]
    _check_spelling(path, "case_submitter_id", [p.submitter_id for p in patients])
    if folder and (absent := [s.name for p in patients for s in p.slides if not s.is_file()]):
        logger.warning("%s: %d slides are not in %s: %s", path, len(absent), folder.root, absent[:10])
    return patients


def _check_names(path: Path, number: int, row: Mapping[str, Any]) -> None:
    """Raises FileError where an identifier or the file of a row is no text, or an empty one."""
    for name in (*_IDENTIFIERS, "features_path"):
        value = row.get(name)
        whole = isinstance(value, int) and not isinstance(value, bool) and name != "features_path"
        if name == "features_path" and value is None:
            continue
        if not whole and not (isinstance(value, str) and value.strip()):
            fault = f": row {number} has {quoted(repr(value), 60)} for {name}"
            raise FileError(path, fault, "write a text that is not empty")


def _check_spelling(path: Path, what: str, ids: Iterable[str]) -> None:
    """Raises ValueError where two identifiers differ in case or dashes only: one of them is a slip."""
    if pair := spelled_twice(ids):
        fault = f": {what} {pair[0]!r} and {pair[1]!r} differ in case or dashes only"
        raise FileError(path, fault, "write them alike or apart")


def _join(
    path: Path, case_id: str, labelled: Sequence[LabelledRow], folder: FeatureFolder | None, patches: bool
) -> Patient:
    rows, labels = [row for row, _ in labelled], [found for _, found in labelled]
    first = rows[0]
    found = {name: {str(row[name]).strip() for row in rows} for name in ("case_submitter_id", "project_id")}
    found |= {name: {str(of_row[k]) for of_row in labels} for k, name in enumerate(_LABELS)}
    for name, values in found.items():
        if len(values) > 1:
            fault = f": the slides of case {case_id} disagree on {name}: {sorted(values)}"
            raise FileError(path, fault, "correct the rows")
    label, duration, event = labels[0]
    # Normal tissue is never stacked with the tumour.
    normal = [row for row in rows if is_normal_tissue(_slide_id(row))]
    rows = [row for row in rows if row not in normal] or rows
    slides = tuple(_locate(row, folder) for row in rows) if patches else ()
    if len(set(slides)) < len(slides):
        raise FileError(path, f": a slide of case {case_id} stands twice", "remove one of the rows")
    return Patient(
        case_id=case_id,
        submitter_id=str(first["case_submitter_id"]).strip(),
        project_id=str(first["project_id"]).strip(),
        slides=slides,
        label=label,
        duration=duration,
        event=event,
        site=str(first.get("site") or ""),
        slide_ids=tuple(map(_slide_id, rows)),
        diagnosis=str(first.get("primary_diagnosis") or "").strip().lower(),
        normal_slides=tuple(map(_slide_id, normal)) if len(normal) < len(labels) else (),
    )


def _slide_id(row: Mapping[str, Any]) -> str:
    return str(row["slide_submitter_id"]).strip()


def _locate(row: Mapping[str, Any], folder: FeatureFolder | None) -> Path:
    stated, slide = row.get("features_path"), str(row["slide_submitter_id"])
    if folder is None:
        return resolve_features_path(str(stated))
    found = folder.find(stated, slide)
    return found or folder.root / (Path(stated).name if stated else f"{slide}{HDF5_SUFFIXES[0]}")


def identifiers(patient: Patient) -> Iterator[tuple[str, str]]:
    """What must be in one split only, with its kind; the patient of a TCGA barcode counts, of a slide as well.

    A feature file is the file that a path leads to, by whatever links.
    """
    codes = [patient.submitter_id, *filter(is_tcga, patient.slide_ids)]
    yield ("case", patient.case_id)
    yield from (("barcode", code) for code in dict.fromkeys(map(patient_of, codes)))
    yield from (("slide", slide) for slide in patient.slide_ids)
    yield from (("feature file", os.path.realpath(path)) for path in patient.slides)


def misplaced_slides(patients: Iterable[Patient]) -> list[str]:
    """Slides whose TCGA barcode names another patient than the one they are listed for, in words."""
    return [
        f"{slide} of case {p.case_id} ({p.submitter_id})"
        for p in patients
        for slide in p.slide_ids
        if is_tcga(slide)
        and is_tcga(p.submitter_id)
        and patient_of(slide).upper() != patient_of(p.submitter_id).upper()
    ]


def check_disjoint(splits: Mapping[str, Sequence[Patient]]) -> None:
    """Raises ValueError where a patient is in more than one split, or a slide belongs to two patients.

    Patients are compared by case and barcode, slides by their names and files, names without case and kinds of dashes.
    """
    owner: dict[tuple[str, str], tuple[str, str]] = {}
    for name, patients in splits.items():
        for patient in patients:
            for kind, key in identifiers(patient):
                # Two files may differ in case only, two patients or slides may not.
                plain = key if kind == "feature file" else folded(key)
                split, case = owner.setdefault((kind, plain), (name, patient.case_id))
                if split != name:
                    raise ValueError(
                        f"{kind} {key} is in the splits {split} and {name} (cases {case} and {patient.case_id}): "
                        "leave every patient in one split"
                    )
                if case != patient.case_id and kind in ("slide", "feature file"):
                    raise ValueError(
                        f"{kind} {key} belongs to the cases {case} and {patient.case_id} of the split {name}; a slide "
                        "is of one patient"
                    )
    for name, patients in splits.items():
        if odd := misplaced_slides(patients):
            raise ValueError(
                f"the split {name} lists {len(odd)} slides for another patient than their barcode says, such as "
                f"{odd[0]}: correct the rows"
            )
