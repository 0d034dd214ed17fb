"""Tasks are data: what each task token learns from, and how it is evaluated.

A task file holds ``{"tasks": [task, ...]}``. A task has

- ``name``: of the token in tables and figures;
- ``sentence``: a template over the fields of a split row, ``"Grade: {grade}"``, or a list of such parts, which are
  joined by single spaces; a part that lacks a field is an empty string. Besides the columns of the split files there
  are ``site`` (words of the cohort), ``stage, t, n, m`` (words of the AJCC category), ``fate`` ("died", "was
  censored") and ``interval`` ("before 12 months");
- ``needs`` (optional): fields without which the patient has no such sentence and does not train the token (default:
  all fields of a template, at least one field of a list);
- ``evaluate``: ``"class"`` and ``"survival"`` of the cohort, or ``{"kind": "classes", "column": "grade", "values":
  ["1", "2", "3"], "names": [...]}``, or ``{"kind": "number", "column": "ki67"}``; at most one of each kind;
- ``trained`` (optional): false for a sentence that is written, but no token learns from.

``dataset/tasks.json`` holds the published tasks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.files import FileError, read_json

MAX_TASKS = 8
COHORT_CLASS, SURVIVAL, CLASSES, NUMBER = "class", "survival", "classes", "number"
_FIELD = re.compile(r"\{([^{}]+)\}")
_KEYS = {"name", "sentence", "needs", "evaluate", "trained"}


@dataclass(frozen=True)
class Target:
    """What a token is evaluated by.

    Attributes:
        kind: ``class`` or ``survival`` of the cohort, ``classes`` or ``number`` of a column.
        column: of the split files; empty for what every split file holds.
        values: of ``classes``, the text of each class in the column.
        names: of ``classes``, what tables and figures call them.
    """

    kind: str
    column: str = ""
    values: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def read(self, cell: Any) -> float:
        """The class or number of a cell; NaN where it is missing or in no class.

        Raises:
            ValueError: a number is none.
        """
        text = "" if cell is None else str(cell).strip()
        if not text or text.lower() == "nan":
            return float("nan")
        if self.kind == CLASSES:
            return float(self.values.index(text)) if text in self.values else float("nan")
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if number != number or abs(number) == float("inf"):
            raise ValueError(f"{self.column} is {text[:60]!r}, which is no number")
        return number


@dataclass(frozen=True)
class Task:
    """One entry of a task file; see the module."""

    name: str
    parts: tuple[str, ...]
    needs: tuple[str, ...] | None
    targets: tuple[Target, ...]
    trained: bool = True

    @property
    def fields(self) -> tuple[str, ...]:
        """All fields of the sentence, in its order."""
        return tuple(dict.fromkeys(name for part in self.parts for name in _FIELD.findall(part)))

    def sentence(self, fields: Mapping[str, str]) -> str | None:
        """The sentence of a patient from what is known; None where the patient has none."""
        if self.needs is None:
            own = [name for name in self.fields if name != "site"]
            if own and not any(name in fields for name in own):
                return None
        elif any(name not in fields for name in self.needs):
            return None
        return " ".join(self._part(part, fields) for part in self.parts)

    @staticmethod
    def _part(part: str, fields: Mapping[str, str]) -> str:
        if any(name not in fields for name in _FIELD.findall(part)):
            return ""
        return _FIELD.sub(lambda match: fields[match[1]], part)

    def target(self, *kinds: str) -> Target | None:
        """How the token is evaluated, of the kinds given."""
        return next((target for target in self.targets if target.kind in kinds), None)


@dataclass(frozen=True)
class TaskSet:
    """The tasks of a run.

    Attributes:
        entries: every sentence, in the order of the text rows.
    """

    entries: tuple[Task, ...]

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of the text rows."""
        return tuple(task.name.lower() for task in self.entries)

    @property
    def tokens(self) -> tuple[Task, ...]:
        """The tasks that have a token."""
        return tuple(task for task in self.entries if task.trained)

    @property
    def text_rows(self) -> tuple[int, ...]:
        """The row that each token learns from."""
        return tuple(row for row, task in enumerate(self.entries) if task.trained)

    @property
    def columns(self) -> dict[str, Target]:
        """What is read from the split files beyond what they always hold."""
        return {t.column: t for task in self.tokens for t in task.targets if t.column}


def read_tasks(path: str | Path) -> TaskSet:
    """Reads and checks a task file.

    Raises:
        FileNotFoundError: the file does not exist.
        FileError: it is no task file; the message names the task and the key.
    """
    path, value = Path(path), read_json(path)
    remedy = "see dataset/tasks.json for an example"
    if not isinstance(value, dict) or not isinstance(value.get("tasks"), list):
        raise FileError(path, 'should hold {"tasks": [...]}', remedy)
    entries = tuple(_task(path, number, item, remedy) for number, item in enumerate(value["tasks"]))
    names = [task.name.lower() for task in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise FileError(path, f"names tasks twice: {twice}", "name them apart")
    tokens = sum(task.trained for task in entries)
    if not 1 <= tokens <= MAX_TASKS:
        raise FileError(path, f"has {tokens} tasks", f"a model has 1 to {MAX_TASKS}")
    targets = [t for task in entries for t in task.targets if t.column]
    for target in targets:
        if any(other.column == target.column and other != target for other in targets):
            raise FileError(path, f"evaluates the column {target.column!r} in two ways", "make them alike")
    return TaskSet(entries)


def _task(path: Path, number: int, value: Any, remedy: str) -> Task:
    where = f"has a wrong task {number + 1}"
    if not isinstance(value, dict) or not _is_text(value.get("name")):
        raise FileError(path, f"{where}: it needs a name and a sentence", remedy)
    where = f"has a wrong task {value['name']!r}"
    if unknown := sorted(set(value) - _KEYS):
        raise FileError(path, f"{where}: unknown keys {unknown}", f"there are {sorted(_KEYS)}")
    sentence, trained = value.get("sentence"), value.get("trained", True)
    parts = (sentence,) if isinstance(sentence, str) else tuple(sentence or ())
    if not parts or not all(map(_is_text, parts)):
        raise FileError(path, f"{where}: 'sentence' should be a text or a list of texts", remedy)
    if odd := [part for part in parts if set(_FIELD.sub("", part)) & set("{}")]:
        raise FileError(path, f"{where}: braces without a field in {odd[0]!r}", "write {column}")
    fields = _FIELD.findall(" ".join(parts))
    needs = value.get("needs", list(dict.fromkeys(fields)) if isinstance(sentence, str) else None)
    if needs is not None and not (isinstance(needs, list) and all(name in fields for name in needs)):
        raise FileError(path, f"{where}: 'needs' {needs!r} should list fields of the sentence", remedy)
    if not isinstance(trained, bool):
        raise FileError(path, f"{where}: 'trained' should be true or false", remedy)
    evaluate = value.get("evaluate", [] if not trained else None)
    if not isinstance(evaluate, list) or (trained and not evaluate):
        raise FileError(path, f"{where}: 'evaluate' should list how the token is evaluated", remedy)
    targets = tuple(_target(path, where, item, remedy) for item in evaluate)
    kinds = [CLASSES if target.kind == COHORT_CLASS else target.kind for target in targets]
    if len(set(kinds)) < len(kinds):
        raise FileError(path, f"{where}: it is evaluated twice by {kinds[0]}", "make two tasks of it")
    return Task(value["name"], parts, None if needs is None else tuple(needs), targets, trained)


def _target(path: Path, where: str, value: Any, remedy: str) -> Target:
    if value in (COHORT_CLASS, SURVIVAL):
        return Target(str(value))
    if (
        not isinstance(value, dict)
        or value.get("kind") not in (CLASSES, NUMBER)
        or not _is_text(value.get("column"))
    ):
        raise FileError(
            path,
            f"{where}: 'evaluate' holds {value!r}",
            f'write "class", "survival" or {{"kind": "classes" or "number", "column": ...}}; {remedy}',
        )
    if value["kind"] == NUMBER:
        return Target(NUMBER, value["column"])
    values = value.get("values")
    if not isinstance(values, list) or len(values) < 2 or len(set(map(str, values))) < len(values):
        raise FileError(path, f"{where}: 'values' should list two or more different classes", remedy)
    names = value.get("names", [str(item) for item in values])
    if not isinstance(names, list) or not all(map(_is_text, names)) or len(names) != len(values):
        raise FileError(
            path, f"{where}: 'names' should hold a text for each of the {len(values)} classes", remedy
        )
    return Target(CLASSES, value["column"], tuple(map(str, values)), tuple(names))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def select(tasks: TaskSet, count: int) -> Sequence[Task]:
    """The first ``count`` tokens."""
    return tasks.tokens[:count]
