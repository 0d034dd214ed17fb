"""The table of a user's own cohort: which column is what, and what its rows say of every patient.

A cohort file names the columns under ``table``, in the user's own words::

    "table": {
      "columns": {"patient": "Pat-ID", "slide": "Slide", "class": "Subtype", "time": "OS", "event": "Status",
                  "age": "Age", "sex": "Sex", "stage": "Stage", "t": "pT", "n": "pN", "m": "pM",
                  "project": "Study", "hospital": "Hospital"},
      "time_unit": "days", "dead": ["dead"], "alive": ["alive"],
      "further": ["grade", "ki67"], "slide_pattern": "(H-[0-9]+)_.*"
    }

Only ``patient`` is needed. What is wrong is named with file and patient, before anything is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_utils.tables.ajcc import AJCC_COLUMNS
from data_utils.tables.cohorts import Cohort
from data_utils.tables.values import DAYS_PER_MONTH, MAX_AGE, MAX_MONTHS
from utils.barcodes import folded, owners_of_slides, patient_of, spelled_twice
from utils.files import FileError, quoted

UNITS = {"days": 1 / DAYS_PER_MONTH, "months": 1.0, "years": 12.0}
DEAD = ("1", "dead", "deceased", "died", "death", "true", "yes")
ALIVE = ("0", "alive", "living", "censored", "false", "no")
# Names of event columns whose 1 is rather a patient who lives.
_OTHER_EVENT = re.compile(r"cens|alive|living|survived|survivor|lost", re.IGNORECASE)
# What a column can be, and the field of a split row that it fills.
_FIELDS = {
    "age": "age_at_index",
    **dict(zip(("stage", "t", "n", "m"), AJCC_COLUMNS, strict=True)),
    "sex": "sex",
    "hospital": "hospital",
}
ROLES = ("patient", "slide", "class", "time", "event", "project", "split", *_FIELDS)
_KEYS = ("columns", "time_unit", "dead", "alive", "further", "slide_pattern")
# Fields of split rows that a further column must not hide.
SPLIT_FIELDS = {
    "case_id",
    "case_submitter_id",
    "slide_submitter_id",
    "project_id",
    "primary_diagnosis",
    "primary_class",
    "durations",
    "vital_status",
    "gene_availability",
    "features_path",
    "site",
    "year_of_diagnosis",
    *_FIELDS.values(),
}


def check_further(columns: Iterable[str], where: str) -> None:
    """Raises ValueError where a column to keep would hide a field of the split files."""
    if taken := sorted(set(columns) & SPLIT_FIELDS):
        raise ValueError(
            f"{where}: further columns {taken} would hide fields of the split files; rename them"
        )


@dataclass(frozen=True)
class TableLayout:
    """Which column of a cohort's table is what; see the module.

    Raises:
        ValueError: a role is unknown or lacks what belongs to it.
    """

    columns: Mapping[str, str]
    time_unit: str | None = None
    dead: tuple[str, ...] = DEAD
    alive: tuple[str, ...] = ALIVE
    further: tuple[str, ...] = ()
    slide_pattern: str | None = None
    where: str = field(default="the cohort", compare=False)

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.columns) - set(ROLES)):
            raise ValueError(f"{self.where}: unknown columns {unknown}; a table has {list(ROLES)}")
        if "patient" not in self.columns:
            raise ValueError(f"{self.where}: which column holds the patients? Name it (patient=COLUMN)")
        if ("time" in self.columns) != ("event" in self.columns):
            raise ValueError(
                f"{self.where}: survival needs both columns, time and event; name both or neither"
            )
        if "time" in self.columns and self.time_unit not in UNITS:
            said = "is missing" if self.time_unit is None else f"is {self.time_unit!r}"
            raise ValueError(
                f"{self.where}: the unit of {self.columns['time']!r} {said}; time_unit is {', '.join(UNITS)}"
            )
        if both := sorted(set(map(_plain, self.dead)) & set(map(_plain, self.alive))):
            raise ValueError(f"{self.where}: {both} mean dead as well as alive")
        check_further(self.further, self.where)
        if self.slide_pattern is not None:
            try:
                groups = re.compile(self.slide_pattern).groups
            except re.error as error:
                raise ValueError(f"{self.where}: slide_pattern {self.slide_pattern!r}: {error}") from error
            if groups != 1:
                raise ValueError(
                    f"{self.where}: slide_pattern {self.slide_pattern!r} needs one group (...), the patient"
                )

    @classmethod
    def from_plain(cls, value: Any, where: str) -> TableLayout:
        """The entry ``table`` of a cohort file.

        Raises:
            ValueError: it has another form; the message begins with ``where``.
        """
        if not isinstance(value, dict) or not isinstance(value.get("columns"), dict):
            raise ValueError(f'{where}: "table" should be {{"columns": {{"patient": "COLUMN", ...}}, ...}}')
        if unknown := sorted(set(value) - set(_KEYS)):
            raise ValueError(f"{where}: unknown keys {unknown} in 'table'; there are {list(_KEYS)}")
        for name, column in value["columns"].items():
            if not isinstance(column, str) or not column.strip():
                raise ValueError(f"{where}: the column of {name!r} must be a text, not {column!r}")
        lists = {}
        for name in ("dead", "alive", "further"):
            entry = value.get(name)
            if entry is None:
                continue
            if not isinstance(entry, list) or not all(isinstance(item, (str, int, float)) for item in entry):
                raise ValueError(f"{where}: {name!r} must be a list of values, not {entry!r}")
            lists[name] = tuple(str(item) for item in entry)
        # Saying what means dead must not leave "1" or "yes" with their usual meaning.
        if "dead" in lists:
            lists.setdefault("alive", tuple(v for v in ALIVE if v not in map(_plain, lists["dead"])))
        elif "alive" in lists:
            lists["dead"] = tuple(v for v in DEAD if v not in map(_plain, lists["alive"]))
        return cls(
            columns={name: column.strip() for name, column in value["columns"].items()},
            time_unit=value.get("time_unit"),
            slide_pattern=value.get("slide_pattern"),
            where=where,
            **lists,
        )

    def to_plain(self) -> dict[str, Any]:
        """Inverse of :meth:`from_plain`."""
        content: dict[str, Any] = {"columns": dict(self.columns)}
        if "time" in self.columns:
            content |= {"time_unit": self.time_unit, "dead": list(self.dead), "alive": list(self.alive)}
        if self.further:
            content["further"] = list(self.further)
        if self.slide_pattern:
            content["slide_pattern"] = self.slide_pattern
        return content

    def check(self, table: pd.DataFrame, path: Path) -> None:
        """Raises ValueError where the table lacks a column; the message lists what there is."""
        wanted = [*self.columns.values(), *self.further]
        if missing := [column for column in dict.fromkeys(wanted) if column not in table]:
            raise FileError(
                path, f"has no columns {missing}; it has {list(table.columns)}", "name others with --columns"
            )


@dataclass(frozen=True)
class OwnCohort:
    """What the table of a cohort says.

    Attributes:
        cases: one row a patient with the fields of a split row (``case_id`` and ``case_submitter_id`` are the
            patient), and ``split`` where a column gives it.
        slides: ``{slide: patient}`` of a table with slides, else None.
        notes: ``{patient: reason}``, what of a patient is not used although the patient is.
    """

    cases: pd.DataFrame
    slides: Mapping[str, str] | None
    notes: Mapping[str, str]


def read_own_cohort(table: pd.DataFrame, layout: TableLayout, cohort: Cohort, path: Path) -> OwnCohort:
    """Checks the rows of a table and joins those of a patient.

    Args:
        table: of texts, see :func:`data_utils.tables.flat_files.read_texts`.
        layout: which column is what.
        cohort: names the classes.
        path: of the table, for messages.

    Raises:
        ValueError: a row has no patient, rows of one patient contradict each other, a slide belongs to two
            patients, or a value is impossible; file, patient and value are named.
    """
    layout.check(table, path)
    columns = layout.columns
    if (nobody := table[columns["patient"]].isna()).any():
        row = table[nobody].iloc[0].dropna().to_dict()
        fault = f": {nobody.sum()} rows have no {columns['patient']}, the first is {row}"
        raise FileError(path, fault, "fill them in, or remove the rows")
    patients = table[columns["patient"]].map(patient_of)
    _check_spelling(patients, path)
    slides = _slides(table, patients, columns["slide"], path) if "slide" in columns else None
    if slides is None and patients.duplicated().any():
        twice = sorted(set(patients[patients.duplicated()]))
        remedy = "name the column of their slides (slide=COLUMN), or keep one row a patient"
        raise FileError(path, f": patients stand in several rows, such as {twice[:5]}", remedy)
    of_patient = [name for role, name in columns.items() if role not in ("patient", "slide")]
    raw = table[list(dict.fromkeys([*of_patient, *layout.further]))].groupby(patients.to_numpy(), sort=True)
    contradictions = raw.nunique() > 1
    if contradictions.to_numpy().any():
        patient = contradictions.index[contradictions.any(axis=1)][0]
        column = contradictions.columns[contradictions.loc[patient]][0]
        values = sorted(set(table.loc[patients == patient, column].dropna()))
        fault = f": the rows of patient {patient} disagree on {column}: {values}"
        raise FileError(path, fault, "correct the rows")
    _check_values(table, layout, cohort, path)
    joined = raw.first()
    joined = joined.reindex(sorted(set(patients))).astype(object)
    joined = joined.mask(joined.isna(), None)
    return _clean(joined, layout, cohort, path, slides)


def _clean(
    raw: pd.DataFrame, layout: TableLayout, cohort: Cohort, path: Path, slides: Mapping[str, str] | None
) -> OwnCohort:
    empty = _nothing(raw.index)
    of = {role: raw[name] for role, name in layout.columns.items() if name in raw}
    cases = pd.DataFrame({"case_id": raw.index, "case_submitter_id": raw.index}, index=raw.index)
    cases["project_id"] = of.get("project", empty).fillna(cohort.name)
    cases["primary_diagnosis"] = [
        cohort.clean_diagnosis(text, project)
        for text, project in zip(of.get("class", empty), cases["project_id"], strict=True)
    ]
    cases["primary_class"] = [cohort.class_of(diagnosis) for diagnosis in cases["primary_diagnosis"]]
    cases["durations"], cases["vital_status"], notes = _survival(of, layout, raw.index, path)
    for role, name in _FIELDS.items():
        cases[name] = of.get(role, empty)
    if "age" in of:
        ages = _numbers(of["age"], layout.columns["age"], path, 0, MAX_AGE, "an age is years")
        cases["age_at_index"] = [
            None if pd.isna(age) else int(age) if age.is_integer() else age for age in ages
        ]
    for name in layout.further:
        cases[name] = raw[name]
    if "split" in of:
        cases["split"] = of["split"]
    return OwnCohort(cases.reset_index(drop=True), slides, notes)


def _survival(
    of: Mapping[str, pd.Series], layout: TableLayout, patients: pd.Index, path: Path
) -> tuple[pd.Series, pd.Series, dict[str, str]]:
    """Months and events, both missing where one of them is; and who lacks one of them only."""
    if "time" not in of:
        nothing = _nothing(patients)
        return nothing, nothing, {}
    column = layout.columns["event"]
    meaning = {_plain(value): 1 for value in layout.dead} | {_plain(value): 0 for value in layout.alive}
    events = of["event"].map(lambda text: None if text is None else meaning.get(_plain(text), -1))
    if (neither := events == -1).any():
        values = sorted(set(of["event"][neither]))
        such = events.index[neither][:3].tolist()
        found = [quoted(v, 30) for v in values[:3]]
        fault = f": {column} is {found} for {neither.sum()} patients such as {such}, neither dead nor alive"
        meant = f"dead is {list(layout.dead)}, alive {list(layout.alive)}"
        raise FileError(path, fault, f"say what they mean (dead, alive): {meant}")
    codes = sorted({"1", "true", "yes"} & set(of["event"].dropna().map(_plain)))
    if codes and _OTHER_EVENT.search(column) and (layout.dead, layout.alive) == (DEAD, ALIVE):
        fault = f": {column} sounds as if {codes[0]} meant censored, and it would be read as dead"
        raise FileError(path, fault, "say what its values mean (dead, alive)")
    factor = UNITS[str(layout.time_unit)]
    name = layout.columns["time"]
    rule = f"a time is {layout.time_unit} from 0 to {MAX_MONTHS:,} months"
    months = _numbers(of["time"], name, path, 0, MAX_MONTHS / factor, rule) * factor
    known = months.notna() & events.notna()
    notes = {
        str(p): f"kept without survival: no {column if pd.isna(events[p]) else name}"
        for p in months.index[(months.notna() | events.notna()) & ~known]
    }
    return _or_none(months.where(known)), _or_none(events.where(known)), notes


def _nothing(index: pd.Index) -> pd.Series:
    # A Series of the scalar None would hold NaN.
    return pd.Series(np.full(len(index), None, dtype=object), index=index)


def _or_none(values: pd.Series) -> pd.Series:
    values = values.astype(object)
    return values.mask(values.isna(), None)


def _numbers(texts: pd.Series, column: str, path: Path, low: float, high: float, rule: str) -> pd.Series:
    numbers = pd.to_numeric(texts, errors="coerce").astype(float)
    wrong = texts.notna() & ~((numbers >= low) & (numbers <= high))
    if wrong.any():
        patient = texts.index[wrong][0]
        example = f"{quoted(repr(texts[patient]), 60)} of patient {patient}"
        raise FileError(
            path, f": {column} of {wrong.sum()} patients is impossible, the first is {example}", rule
        )
    return numbers


def _slides(table: pd.DataFrame, patients: pd.Series, column: str, path: Path) -> dict[str, str]:
    pairs = zip(table[column], patients, strict=True)
    return owners_of_slides(((slide, patient) for slide, patient in pairs if slide is not None), path)


def _check_values(table: pd.DataFrame, layout: TableLayout, cohort: Cohort, path: Path) -> None:
    """Two spellings of a hospital, project or class would be two of them."""
    for role in ("hospital", "project", "class"):
        if role not in layout.columns:
            continue
        texts = sorted(set(table[layout.columns[role]].dropna()))
        if role == "class":  # upper and lower case are the same there
            texts = sorted({str(cohort.clean_diagnosis(text, cohort.name)): text for text in texts}.values())
        if pair := spelled_twice(texts, _spoken):
            fault = f": {layout.columns[role]} is {pair[0]!r} and {pair[1]!r}, which differ in spelling only"
            raise FileError(path, fault, "write them alike")


def _spoken(value: str) -> str:
    """What of a value can be meant: without case, kinds of dashes and blanks, and the decimal point of 1.0."""
    return _plain(" ".join(folded(value).replace("_", " ").split()))


def _check_spelling(patients: pd.Series, path: Path) -> None:
    if pair := spelled_twice(patients):
        fault = f": the patients {pair[0]!r} and {pair[1]!r} differ in upper and lower case or dashes only"
        raise FileError(path, fault, "write them alike")


def _plain(value: str) -> str:
    """Lower case; ``1.0`` is ``1``."""
    text = value.strip().lower()
    return text.removesuffix(".0") if text.removesuffix(".0").isdigit() else text
