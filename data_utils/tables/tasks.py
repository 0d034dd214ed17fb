"""Tasks are data: what each task token learns from, and how it is evaluated.

A task file holds ``{"tasks": [task, ...]}``. A task has

- ``name``: of the token in tables, figures and file names;
- ``sentence``: a template over the fields of a split row, ``"Grade: {grade}"``, or a list of such parts, which are
  joined by single spaces; a part that lacks a field is an empty string. Besides the columns of the split files there
  are ``site`` (words of the cohort), ``stage, t, n, m`` (words of the AJCC category), ``fate`` ("died", "was
  censored") and ``interval`` ("before 12 months");
- ``needs`` (optional): fields without which the patient has no such sentence and does not train the token (default:
  all fields of a template, at least one field of a list);
- ``evaluate``: ``"class"`` and ``"survival"`` of the cohort, or ``{"kind": "classes", "column": "grade", "values":
  ["1", "2", "3"], "names": [...]}``, or ``{"kind": "number", "column": "ki67"}``; at most one of each kind;
- ``trained`` (optional): false for a sentence that is written, but no token learns from.

``dataset/tasks.json`` holds the published tasks. Weights hold the content of their file, so that evaluation and
prediction need no file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from data_utils.tables.flat_files import value_text
from utils import constants
from utils.files import FileError, content_of, read_json

MAX_TASKS = 8
# Beside a table of embedded sentences: the tasks that they were written for.
SENTENCE_TASKS = ".tasks.json"
# ``task:<name>:<class>``: the candidate sentence of a class that a task is evaluated by.
OWN_CLASS = "task:"
# Fields of a sentence that are no columns of the split files but made from some.
MADE_FIELDS = ("site", "stage", "t", "n", "m", "fate", "interval")
COHORT_CLASS, SURVIVAL, CLASSES, NUMBER = "class", "survival", "classes", "number"
_FIELD = re.compile(r"\{([^{}]+)\}")
_KEYS = {"name", "sentence", "needs", "evaluate", "trained"}
# Names become parts of file names.
_NAME = re.compile(r"[^\s/\\:]([^/\\:]*[^\s/\\:])?")


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
        """The class or number of a cell; NaN where it is missing, -1 where it is none of the classes.

        Raises:
            ValueError: a number is none.
        """
        text = (value_text(cell) or "").strip()
        if not text or text.lower() == "nan":
            return float("nan")
        if self.kind == CLASSES:
            return float(self.values.index(text)) if text in self.values else -1.0
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if number != number or abs(number) == float("inf"):
            raise ValueError(f"{self.column} is {text[:60]!r}, which is no number")
        return number

    def plain(self) -> Any:
        """The entry of a task file."""
        if self.kind in (COHORT_CLASS, SURVIVAL):
            return self.kind
        content: dict[str, Any] = {"kind": self.kind, "column": self.column}
        if self.kind == CLASSES:
            content |= {"values": list(self.values), "names": list(self.names)}
        return content


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
        return self.told(fields)

    def told(self, fields: Mapping[str, str]) -> str:
        """The sentence as far as the fields go."""
        return " ".join(self._part(part, fields) for part in self.parts)

    def tells(self, field: str) -> bool:
        """Whether a part of the sentence says a field and nothing that needs another one."""
        parts = [set(_FIELD.findall(part)) for part in self.parts]
        return any(field in own and own <= {field, "site", "interval"} for own in parts)

    @staticmethod
    def _part(part: str, fields: Mapping[str, str]) -> str:
        if any(name not in fields for name in _FIELD.findall(part)):
            return ""
        return _FIELD.sub(lambda match: fields[match[1]], part)

    def target(self, *kinds: str) -> Target | None:
        """How the token is evaluated, of the kinds given."""
        return next((target for target in self.targets if target.kind in kinds), None)

    def plain(self) -> dict[str, Any]:
        """The entry of a task file."""
        content: dict[str, Any] = {"name": self.name, "sentence": list(self.parts)}
        if self.needs is not None:
            content["needs"] = list(self.needs)
        return content | {"evaluate": [t.plain() for t in self.targets], "trained": self.trained}


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
    def names(self) -> tuple[str, ...]:
        """Names of the tokens."""
        return tuple(task.name for task in self.tokens)

    @property
    def columns(self) -> dict[str, Target]:
        """What is read from the split files beyond what they always hold."""
        return {t.column: t for task in self.tokens for t in task.targets if t.column}

    @property
    def fields(self) -> tuple[str, ...]:
        """Columns that sentences and evaluations use, but for those that every split file holds."""
        used = dict.fromkeys(name for task in self.entries for name in task.fields if name not in MADE_FIELDS)
        return tuple({**used, **dict.fromkeys(self.columns)})

    def first(self, count: int) -> TaskSet:
        """The same with the first ``count`` tokens only; the sentences of all stay.

        Raises:
            ValueError: there are fewer.
        """
        if not 1 <= count <= len(self.tokens):
            raise ValueError(
                f"num_tasks is {count}; the task file has {len(self.tokens)} tasks ({', '.join(self.names)})"
            )
        kept = self.text_rows[:count]
        return TaskSet(
            tuple(
                task if row in kept else replace(task, targets=(), trained=False)
                for row, task in enumerate(self.entries)
            )
        )

    def shortest(self, field: str) -> Task | None:
        """The task that says a field and the least besides; None where no sentence says it by itself."""
        saying = [task for task in self.tokens if task.tells(field)]
        return min(saying, key=lambda task: len(task.fields), default=None)

    def token_saying(self, field: str) -> int:
        """Index of the token of :meth:`shortest`; 0 where there is none."""
        found = self.shortest(field)
        return 0 if found is None else self.tokens.index(found)

    def plain(self) -> dict[str, Any]:
        """The content of a task file."""
        return {"tasks": [task.plain() for task in self.entries]}

    def difference(self, other: TaskSet) -> str:
        """What tells two task files apart, for messages; empty where nothing does."""
        if self.rows != other.rows or self.names != other.names:
            return f"{', '.join(self.names)} against {', '.join(other.names)}"
        pairs = zip(self.entries, other.entries, strict=True)
        changed = [one.name for one, two in pairs if one != two]
        return f"another sentence or evaluation of {', '.join(changed)}" if changed else ""

    def sentences_differ(self, other: TaskSet) -> bool:
        """Whether embedded sentences of the one cannot serve the other."""
        return [(t.name, t.parts, t.needs) for t in self.entries] != [
            (t.name, t.parts, t.needs) for t in other.entries
        ]


@cache
def published() -> TaskSet:
    """The published tasks, of ``dataset/tasks.json``."""
    return read_tasks(constants.TASK_FILE)


def read_tasks(path: str | Path) -> TaskSet:
    """Reads and checks a task file.

    Raises:
        FileNotFoundError: the file does not exist.
        FileError: it is no task file; the message names the task and the key.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"task file {path} does not exist; see {constants.TASK_FILE} for an example")
    return parse_tasks(read_json(path), path)


def parse_tasks(value: Any, path: str | Path) -> TaskSet:
    """The tasks of the content of a task file.

    Args:
        value: the content.
        path: where it comes from, for messages.

    Raises:
        FileError: see :func:`read_tasks`.
    """
    path, remedy = Path(path), "see dataset/tasks.json for an example"
    if not isinstance(value, dict) or not isinstance(value.get("tasks"), list):
        raise FileError(path, 'should hold {"tasks": [...]}', remedy)
    with content_of(path, remedy):
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
    if not _NAME.fullmatch(value["name"]):
        raise FileError(path, f"{where}: a name has no slash or colon, nor spaces around it", "rename it")
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
    if not isinstance(names, list) or not all(map(_is_text, names)) or len(set(names)) != len(values):
        fault = f"{where}: 'names' should hold a text of its own for each of the {len(values)} classes"
        raise FileError(path, fault, remedy)
    return Target(CLASSES, value["column"], tuple(map(str, values)), tuple(names))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
