"""Cohort definitions: everything specific to a cohort is data in ``dataset/cohorts/{onco}.json``.

A definition holds

- ``name``: the short name used in paths and flags, such as ``BRCA``;
- ``site``: the words after "Cancer location:" in the label sentences;
- ``projects``: the TCGA projects it is made of (default: its name alone);
- ``classes``: for each subtype class the cleaned diagnoses that belong to it. Every other diagnosis
  is class -1: such a case trains the text objective and is never scored. A cohort without classes has none;
- ``class_names`` (optional): what tables and figures call the classes (default: the first diagnosis of each);
- ``synonyms`` (optional): ``{diagnosis: diagnosis that replaces it}``, lower case, without ", nos";
- ``diagnosis_prefix`` (optional): a word put before every diagnosis, one for the cohort or
  ``{project: word}``. Synonyms are written without it, classes with it;
- ``table`` (optional): which column of the user's own table is what (data_utils.tables.cohort_table).

Classes follow the published cohorts. The published work names none for STAD; its file uses the Lauren
groups (intestinal with the WHO types tubular and papillary; diffuse with signet ring cell).
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils import constants
from utils.files import FileError, read_json

_REQUIRED = ("name", "site")
_REMEDY = "correct it; dataset/cohorts/brca.json is an example"
_OPTIONAL = ("projects", "classes", "class_names", "synonyms", "diagnosis_prefix", "table")


@dataclass(frozen=True)
class Cohort:
    """A validated cohort definition; see the module for the meaning of the fields.

    Attributes:
        diagnosis_prefix: ``{project: prefix}`` for every project, "" where there is none.
        class_names: one for each class.
        table: as it stands in the file, see :mod:`data_utils.tables.cohort_table`.
    """

    name: str
    projects: tuple[str, ...]
    site: str
    classes: tuple[tuple[str, ...], ...]
    synonyms: Mapping[str, str] = field(default_factory=dict)
    diagnosis_prefix: Mapping[str, str] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    table: Mapping[str, Any] | None = None

    def clean_diagnosis(self, raw: str | None, project: str) -> str | None:
        """Diagnosis as the label sentences and the classes spell it; None stays None.

        Lower case, without ", NOS", synonyms replaced, the prefix of the project in front.
        """
        if raw is None:
            return None
        diagnosis = _tidy(raw)
        diagnosis = self.synonyms.get(diagnosis, diagnosis)
        prefix = self.diagnosis_prefix.get(project, "")
        if prefix and not diagnosis.startswith(f"{prefix} "):
            diagnosis = f"{prefix} {diagnosis}"
        return diagnosis

    def class_of(self, diagnosis: str | None) -> int:
        """Subtype class of a cleaned diagnosis, -1 where it belongs to none."""
        for index, members in enumerate(self.classes):
            if diagnosis in members:
                return index
        return -1


def cohort_name(text: str) -> str:
    """The name of a cohort on a command line, in capitals; files and folders are called after it.

    Raises:
        argparse.ArgumentTypeError: it could not be that of a file.
    """
    if fault := _name_fault(text):
        raise argparse.ArgumentTypeError(fault)
    return text.upper()


def _name_fault(name: str) -> str | None:
    if re.fullmatch(r"\w[\w.+-]*", name):
        return None
    return f"{name!r} is no name of a cohort: letters, digits and _ . + - make one"


def load_cohort(onco: str) -> Cohort:
    """Cohort ``onco`` from ``constants.COHORTS_ROOT``.

    Raises:
        FileNotFoundError: there is no such definition; the message lists those that exist.
        ValueError: the name could not be that of a file, or the definition is wrong.
    """
    if fault := _name_fault(onco):
        raise ValueError(fault)
    path = constants.cohort_file(onco)
    if not path.is_file():
        known = sorted(file.stem.upper() for file in path.parent.glob("*.json"))
        raise FileNotFoundError(
            f"no definition of cohort {onco.upper()}: {path} does not exist (known cohorts: {known}); "
            "copy one of them and edit it"
        )
    return read_cohort(path)


def read_cohort(path: str | Path) -> Cohort:
    """Reads and validates one definition.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: no JSON, a key is unknown or missing, a value has the wrong type, or an entry could
            never match a diagnosis; the message names the file and the entry.
    """
    path = Path(path)
    value = read_json(path)
    if not isinstance(value, dict):
        raise FileError(path, f"must hold one JSON object, not a {type(value).__name__}", _REMEDY)
    unknown = sorted(set(value) - {*_REQUIRED, *_OPTIONAL})
    missing = [key for key in _REQUIRED if key not in value]
    if unknown or missing:
        fault = f": unknown keys {unknown}, missing keys {missing}"
        raise FileError(path, fault, f"a cohort has {list(_REQUIRED)} and may have {list(_OPTIONAL)}")
    for key in ("name", "site"):
        if not _is_text(value[key]):
            raise FileError(path, f": '{key}' must be a text, not {value[key]!r}", _REMEDY)
    if not _is_text_list(value.setdefault("projects", [value["name"].upper()])):
        raise FileError(path, f": 'projects' must be a list of texts, not {value['projects']!r}", _REMEDY)
    projects = tuple(value["projects"])
    prefixes = _prefixes(path, value.get("diagnosis_prefix", ""), projects)
    classes = _classes(path, value["classes"], prefixes) if value.get("classes") is not None else ()
    return Cohort(
        name=value["name"].upper(),
        projects=projects,
        site=value["site"],
        classes=classes,
        synonyms=_synonyms(path, value.get("synonyms", {})),
        diagnosis_prefix=prefixes,
        class_names=_class_names(path, value.get("class_names"), classes),
        table=value.get("table"),
    )


def class_names_of(name: str | None, num_classes: int) -> tuple[str, ...] | None:
    """Class names of the cohort ``name``; None without a cohort, or where it has another number of classes."""
    names = load_cohort(name).class_names if name else ()
    return names if len(names) == num_classes else None


def _class_names(path: Path, value: Any, classes: Sequence[Sequence[str]]) -> tuple[str, ...]:
    if value is None:
        return tuple(members[0] for members in classes)
    if not isinstance(value, list) or not all(map(_is_text, value)) or len(set(value)) < len(value):
        raise FileError(path, f": 'class_names' must be a list of different texts, not {value!r}", _REMEDY)
    if len(value) != len(classes):
        raise FileError(path, f": {len(value)} class_names for {len(classes)} classes", _REMEDY)
    return tuple(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_text_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_text(item) for item in value)


def _is_clean(diagnosis: str) -> bool:
    return diagnosis == _tidy(diagnosis)


def _tidy(diagnosis: str) -> str:
    """Lower case, with single blanks, and without "not otherwise specified"."""
    return re.sub(r" ?, ?nos\b", "", " ".join(diagnosis.lower().split()))


def _prefixes(path: Path, value: Any, projects: Sequence[str]) -> dict[str, str]:
    if isinstance(value, str):
        value = dict.fromkeys(projects, value)
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise FileError(
            path, f": 'diagnosis_prefix' must be a text or {{project: text}}, not {value!r}", _REMEDY
        )
    strangers = sorted(set(value) - set(projects))
    if strangers:
        raise FileError(
            path,
            f": 'diagnosis_prefix' names {strangers}, which are not among {list(projects)}",
            _REMEDY,
        )
    return {project: value.get(project, "").strip().lower() for project in projects}


def _classes(path: Path, value: Any, prefixes: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    if not isinstance(value, list) or len(value) < 2 or not all(_is_text_list(item) for item in value):
        raise FileError(
            path,
            f": 'classes' must be a list of at least two lists of diagnoses, not {value!r}",
            _REMEDY,
        )
    seen: set[str] = set()
    for diagnosis in (item for members in value for item in members):
        if not _is_clean(diagnosis):
            raise FileError(
                path, f": class entry {diagnosis!r} must be lower case and without ', nos'", _REMEDY
            )
        if diagnosis in seen:
            raise FileError(path, f": diagnosis {diagnosis!r} stands twice in 'classes'", _REMEDY)
        if not any(not prefix or diagnosis.startswith(f"{prefix} ") for prefix in prefixes.values()):
            fault = f": class entry {diagnosis!r} can never match, it starts with none of the prefixes"
            raise FileError(path, f"{fault} {sorted(set(prefixes.values()))}", _REMEDY)
        seen.add(diagnosis)
    return tuple(tuple(members) for members in value)


def _synonyms(path: Path, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(_is_text(item) for item in value.values()):
        raise FileError(path, f": 'synonyms' must be {{diagnosis: diagnosis}}, not {value!r}", _REMEDY)
    for diagnosis in [*value, *value.values()]:
        if not _is_clean(diagnosis):
            raise FileError(path, f": synonym {diagnosis!r} must be lower case and without ', nos'", _REMEDY)
    return dict(value)
