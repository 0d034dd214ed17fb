"""From the table of a user's own cohort and a folder of features to cases, slides and splits."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from data_utils.cases.splitting import Dropped, split_cases, split_sites
from data_utils.features.folder import FeatureFolder
from data_utils.features.slide_names import slide_in_table, slide_of
from data_utils.features.usable import find_features
from data_utils.tables.cohort_table import TableLayout, read_own_cohort
from data_utils.tables.cohorts import Cohort, read_cohort
from data_utils.tables.flat_files import read_texts
from data_utils.tables.values import odd_times
from utils import constants
from utils.files import FileError, content_of, write_json

logger = logging.getLogger(__name__)

# What a split column may call the splits.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "tune": "val",
    "test": "test",
    "testing": "test",
}
# More values than this are no classes but texts.
MAX_CLASSES = 20
# Between the patient and the rest of a slide's name.
_AFTER_PATIENT = re.compile(r"[^0-9A-Za-z]|$")


@dataclass(frozen=True)
class OwnCohortFlags:
    """What the flags say of a cohort's table; they win over its cohort file."""

    columns: Mapping[str, str]
    time_unit: str | None = None
    dead: Sequence[str] | None = None
    alive: Sequence[str] | None = None
    further: tuple[str, ...] = ()
    slide_pattern: str | None = None
    split: str | None = None
    hospital: str | None = None
    site: str | None = None

    def layout(self, stored: object, where: str) -> TableLayout:
        """The columns of the flags over those of the cohort file."""
        columns = dict(self.columns)
        for role, column in (("split", self.split), ("hospital", self.hospital)):
            if column is not None:
                columns[role] = column
        content = dict(stored) if isinstance(stored, dict) else {"columns": {}}
        if stored is not None and not isinstance(stored, dict):
            TableLayout.from_plain(stored, where)  # says what is wrong with it
        content["columns"] = {**content.get("columns", {}), **columns}
        lists = {"dead": self.dead, "alive": self.alive}
        if self.further:
            content["further"] = list(dict.fromkeys([*content.get("further", ()), *self.further]))
        content |= {name: list(values) for name, values in lists.items() if values is not None}
        single = {"time_unit": self.time_unit, "slide_pattern": self.slide_pattern}
        content |= {name: value for name, value in single.items() if value is not None}
        return TableLayout.from_plain(content, where)


@dataclass(frozen=True)
class Definition:
    """A cohort, its table and which column is what.

    Attributes:
        new_file: where the cohort file goes that does not exist yet; None where one was read.
    """

    cohort: Cohort
    layout: TableLayout
    table: pd.DataFrame
    path: Path
    new_file: Path | None

    def join(self, features_dir: Path) -> tuple[pd.DataFrame, list[tuple[str, str, Path]], Dropped]:
        """Cases that have a slide with features, those slides (slide, patient, file), and what was left out."""
        table, column = self.table, self.layout.columns.get("slide")
        if column is not None:
            table = table.assign(**{column: table[column].map(lambda cell: cell and slide_in_table(cell))})
        own = read_own_cohort(table, self.layout, self.cohort, self.path)
        if own.slides is None:
            owner, strays = _slides_by_name(features_dir, own.cases["case_id"], self.layout.slide_pattern)
        else:
            owner, strays = dict(own.slides), []
        features, faults, others = find_features(features_dir, owner)
        matched, dropped = [], [(slide, "", "no patient of the table") for slide in strays]
        for slide, patient in sorted(owner.items()):
            if slide in features:
                matched.append((slide, patient, features[slide]))
            else:
                dropped.append((slide, patient, faults.get(slide, "no feature file")))
        nobody = sorted({slide_of(file.name) for file in others} - set(strays))
        dropped += [(slide, "", "no patient of the table") for slide in nobody]
        named, with_slide = set(owner.values()), {patient for _, patient, _ in matched}
        for patient in own.cases["case_id"]:
            if patient not in named:
                dropped.append(("", patient, "no slide"))
        dropped += [("", patient, note) for patient, note in own.notes.items() if patient in with_slide]
        if slides := [slide for slide, patient, _ in dropped if not patient]:
            logger.warning("%d feature files are of nobody in %s: %s", len(slides), self.path, slides[:5])
        if not matched:
            with_slides = "" if own.slides is None else f" with slides such as {list(own.slides)[:3]}"
            such = f"patients such as {own.cases['case_id'].head(3).tolist()}{with_slides}"
            files = [*slides, *faults.values()][:3]
            raise FileError(
                self.path,
                f": none of its patients has a slide; {such}, feature files {files}",
                f"they are of {features_dir}: name the column of slides (slide=COLUMN), or pass --slide_pattern",
            )
        cases = own.cases[own.cases["case_id"].isin(list(with_slide))].reset_index(drop=True)
        if (months := cases["durations"].dropna().astype(float)).size:
            logger.info(
                "survival of %d patients is known, %d died; %.1f to %.1f months, median %.1f",
                *(len(months), cases["vital_status"].sum(), months.min(), months.max(), months.median()),
            )
            if odd := odd_times(months.tolist()):
                logger.warning("%s: %s; are the times really %s?", self.path, odd, self.layout.time_unit)
        return cases, matched, dropped

    def write_if_new(self) -> None:
        """Writes the cohort file of a cohort that has none."""
        if self.new_file is None:
            return
        cohort = self.cohort
        content = {
            "name": cohort.name,
            "site": cohort.site,
            "classes": [list(members) for members in cohort.classes],
            "class_names": list(cohort.class_names),
            "table": self.layout.to_plain(),
        }
        if cohort.projects != (cohort.name,):
            content["projects"] = list(cohort.projects)
        if not cohort.classes:
            del content["classes"], content["class_names"]
        write_json(self.new_file, content)
        logger.info(
            "wrote the cohort file %s; edit it and call again to change classes or names", self.new_file
        )


def read_definition(
    onco: str, cohort_json: Path | None, table_path: Path, flags: OwnCohortFlags
) -> Definition:
    """The cohort and its table, read and checked as far as columns go.

    A cohort without a file gets one from the flags: the distinct values of its class column are its classes.

    Raises:
        FileNotFoundError: the table, or the file that ``cohort_json`` names, does not exist.
        ValueError: the cohort file, the table or the flags are wrong.
    """
    table = read_texts(table_path)
    file = cohort_json or constants.cohort_file(onco)
    if file.is_file() or cohort_json is not None:
        cohort = read_cohort(file)
        with content_of(file, "correct its 'table'"):
            layout = flags.layout(cohort.table, str(file))
        layout.check(table, table_path)
        if "class" in layout.columns and not cohort.classes:
            fault = f": the class column {layout.columns['class']!r} needs 'classes'"
            raise FileError(file, fault, "name them")
        if flags.site is not None and flags.site != cohort.site:
            raise ValueError(f"--site {flags.site!r}: {file} says {cohort.site!r}; edit it there")
        return Definition(cohort, layout, table, table_path, None)
    layout = flags.layout(None, f"cohort {onco} (no file {file})")
    layout.check(table, table_path)
    if flags.site is None:
        raise ValueError(
            f"there is no cohort file {file}; pass --site, the words after 'Cancer location:', and it is written"
        )
    values = sorted(set(table[layout.columns["class"]].dropna())) if "class" in layout.columns else []
    projects = (
        {text or onco for text in table[layout.columns["project"]]} if "project" in layout.columns else {onco}
    )
    cohort = Cohort(onco, tuple(sorted(projects)), flags.site, ())
    by_class: dict[str, str] = {}
    for value in values:
        by_class.setdefault(str(cohort.clean_diagnosis(value, onco)), value)
    if values and not 2 <= len(by_class) <= MAX_CLASSES:
        such = f"{layout.columns['class']} holds {len(by_class)} different values, such as {values[:5]}"
        raise FileError(
            table_path, f": {such}", f"classes are made of 2 to {MAX_CLASSES}: name them in {file}"
        )
    cohort = replace(
        cohort, classes=tuple((member,) for member in by_class), class_names=tuple(by_class.values())
    )
    return Definition(cohort, layout, table, table_path, file)


def _slides_by_name(
    features_dir: Path, patients: Iterable[str], pattern: str | None
) -> tuple[dict[str, str], list[str]]:
    """``{slide: patient}`` of the feature files, and slides of nobody.

    By the pattern, or the longest patient id that the name of the slide begins with, followed by its end or a
    character that is neither letter nor digit.
    """
    known, names = set(patients), defaultdict(list)
    try:
        files = FeatureFolder(features_dir).files
    except (NotADirectoryError, ValueError) as error:
        raise FileNotFoundError(
            f"{error}; extract the features first, or point --features_dir to them"
        ) from error
    for file in files:
        slide, patient = slide_of(file.name).strip(), ""
        if pattern is not None:
            match = re.match(pattern, slide)
            patient = match[1] if match and match[1] in known else ""
        else:
            for end in sorted((m.start() for m in _AFTER_PATIENT.finditer(slide)), reverse=True):
                if slide[:end] in known:
                    patient = slide[:end]
                    break
        names[patient].append(slide)
    strays = sorted(set(names.pop("", [])))
    return {slide: patient for patient, slides in names.items() for slide in slides}, strays


def split_own_cohort(
    cases: pd.DataFrame, flags: OwnCohortFlags, needs_genes: bool, path: Path, dropped: Dropped
) -> dict[str, str]:
    """``{case_id: split}``: as a column says, hospitals apart, or at random and stratified.

    Without classes, patients are stratified by event; a cohort that has neither is split as it is.

    Args:
        cases: with ``split`` where a column gives it.
        flags: ``split`` or ``hospital`` name the column.
        needs_genes: patients without expression are in the training split only.
        path: of the table, for messages.
        dropped: gets those whom the split column leaves out.

    Raises:
        ValueError: a value of the split column is no split, or the hospital of a patient is not known.
    """
    if flags.split is not None:
        unknown = cases[cases["split"].notna() & ~cases["split"].str.lower().isin(list(SPLIT_NAMES))]
        if len(unknown):
            first = unknown.iloc[0]
            fault = f": {flags.split} is {first['split']!r} for patient {first['case_id']}"
            raise FileError(path, fault, "it should be train, val or test")
        dropped += [("", p, f"{flags.split} is empty") for p in cases.loc[cases["split"].isna(), "case_id"]]
        given = cases[cases["split"].notna()]
        split_of = dict(zip(given["case_id"], given["split"].str.lower().map(SPLIT_NAMES), strict=True))
        if lacking := [name for name in constants.SPLITS if name not in split_of.values()]:
            fault = f": {flags.split} puts nobody with a slide into {' and '.join(lacking)}"
            raise FileError(path, fault, "all three are needed; leave out --split, and they are drawn")
        return split_of
    strata = cases[["case_id", "gene_availability", "primary_class"]].copy()
    if (strata["primary_class"] < 0).all():
        logger.info("nobody has a class: the splits are stratified by event")
        strata["primary_class"] = [-1 if event is None else int(event) for event in cases["vital_status"]]
        if (strata["primary_class"] < 0).all():
            strata["primary_class"] = 0
    if flags.hospital is not None:
        if (absent := cases["hospital"].isna()).any():
            such = cases.loc[absent, "case_id"].head(3).tolist()
            fault = f": {flags.hospital} is missing for {absent.sum()} patients such as {such}"
            raise FileError(path, fault, "fill them in, or leave out --site_column")
        if needs_genes:
            strata.loc[strata["gene_availability"] == 0, "primary_class"] = -1
        return split_sites(strata, cases["hospital"])
    return split_cases(strata, without_genes=not needs_genes)
