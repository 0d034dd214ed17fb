"""What finished runs hold for a table: values of every seed or fold, and predictions of the test patients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from data_utils.tables.text_table import MISSING_NUMBERS, read_own_table
from utils.evaluation.published import METHODS
from utils.evaluation.results import MEAN
from utils.evaluation.rows import HEAD
from utils.files import FileError, content_of, read_json

METRICS = {
    "balanced_accuracy": "Balanced accuracy (subtype)",
    "auc": "Area under the ROC curve (subtype)",
    "concordance_index": "Concordance index (survival)",
}
SPLIT = "test"
_REMEDY = "copy it again from where it came, or start the command of the run again"


@dataclass(frozen=True)
class Values:
    """A metric of a run on the test patients.

    Attributes:
        task: the task token that it is of.
        prefix: ``head_`` where a trained head predicted, empty for a probe.
        values: of every seed or fold; NaN where not evaluable.
        patients: behind it.
    """

    task: str
    prefix: str
    values: list[float]
    patients: float


@dataclass(frozen=True)
class RunResult:
    """What a run folder holds of one cohort.

    Attributes:
        method: row of the tables.
        cohort: column of the tables.
        folder: of the run.
        metrics: what was measured, by metric.
        site: cancer site within a pan-cancer run, else empty.
    """

    method: str
    cohort: str
    folder: Path
    metrics: dict[str, Values]
    site: str

    def cell(self, metric: str) -> tuple[float, float]:
        """Mean and sample standard deviation over runs; NaN for the latter with one run."""
        known = self.known(metric)
        if not known:
            return math.nan, math.nan
        return float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else math.nan

    def known(self, metric: str) -> list[float]:
        """The values of the runs in which the metric could be evaluated."""
        found = self.metrics.get(metric)
        return [] if found is None else [value for value in found.values if not math.isnan(value)]

    def by_probe(self, metric: str) -> bool:
        """Whether the metric is that of a probe."""
        return metric in self.metrics and not self.metrics[metric].prefix

    def arrays(self, metric: str) -> tuple[list[str], list[tuple[np.ndarray, ...]]]:
        """Test patients, and what the tests take of them in every run: labels and predictions, or survival and risk."""
        measured = self.metrics.get(metric)
        if measured is None:
            return [], []
        where = f"sites/{self.site}/predictions" if self.site else "predictions"
        kept: list[pd.DataFrame] = []
        for path in sorted(self.folder.rglob(f"{where}/{SPLIT}.csv")):
            table = read_own_table(path, "table of predictions", _REMEDY)
            _check_columns(path, table, ("task", "case_id"))
            table = table[table.task == measured.task].set_index("case_id").sort_index()
            # One for each class, in the order of the classes; those of other tasks are empty.
            shares = [c for c in map(str, table) if c.startswith(f"{measured.prefix}probability ")]
            shares = [c for c in shares if (table[c] != "").any()] or shares
            columns = {
                "balanced_accuracy": ["label", f"{measured.prefix}prediction"],
                "auc": ["label", *shares],
                "concordance_index": ["duration", "event", f"{measured.prefix}risk"],
            }[metric]
            known = _numbers(path, table, columns)[columns].dropna()
            kept.append(known if metric == "concordance_index" else known[known.label >= 0])
        ids = list(kept[0].index) if kept else []
        if any(list(table.index) != ids for table in kept):
            return [], []  # folds test different patients
        if metric == "concordance_index":
            return ids, [tuple(table[column].to_numpy() for column in table) for table in kept]
        labels = [table.label.to_numpy().astype(int) for table in kept]
        predicted: list[np.ndarray] = [table.drop(columns="label").to_numpy() for table in kept]
        if metric == "balanced_accuracy":
            predicted = [classes[:, 0].astype(int) for classes in predicted]
        return ids, list(zip(labels, predicted, strict=True))


def read_run(folder: Path, name: str | None = None, heads: bool = False) -> list[RunResult]:
    """The results of a run folder, one for each cancer site.

    Args:
        folder: of the run.
        name: of its method.
        heads: trained heads instead of probes, where the run has any.

    Raises:
        ValueError: the folder is no finished run; it is named.
    """
    config, table = folder / "config.json", folder / "results.csv"
    if not config.is_file() or not table.is_file():
        raise ValueError(f"{folder} is no finished run: it needs config.json and results.csv")
    with content_of(config, "copy it again from where it came"):
        content = read_json(config)
        model, data = content["model"]["mil_name"], content["arguments"]["data"]
        method = name or METHODS.get(model, model)
        if data["sites"] and name is None:
            method = f"{method} pan-cancer"
    rows = _read_rows(table)
    found = []
    for site in dict.fromkeys(rows["site"]):
        part = rows[(rows.site == site) & (rows.split == SPLIT) & (rows.run != MEAN)]
        cohort = site or data["onco"] or Path(data["test_json"]).stem
        metrics = {m: values for m in METRICS if (values := _values(part, m, heads)) is not None}
        found.append(RunResult(method, cohort, folder, metrics, "" if site == "overall" else site))
    return found


def _read_rows(path: Path) -> pd.DataFrame:
    """``results.csv``, whose last rows are the means over all runs.

    Raises:
        FileError: it is cut off, lacks a column, or a value is no number.
    """
    rows = read_own_table(path, "table of results", _REMEDY)
    _check_columns(path, rows, ("run", "site", "task", "split", "metric"))
    rows = _numbers(path, rows, ("value", "n"))
    key = ["site", "task", "split", "metric"]
    runs, means = rows[rows.run != MEAN], rows[rows.run == MEAN]
    if lacking := set(runs[key].itertuples(index=False)) - set(means[key].itertuples(index=False)):
        fault = f"is cut off: it has no mean of {len(lacking)} metrics, such as {next(iter(lacking)).metric}"
        raise FileError(path, fault, _REMEDY)
    return rows


def _check_columns(path: Path, table: pd.DataFrame, names: Sequence[str]) -> None:
    if lacking := [name for name in names if name not in table]:
        raise FileError(path, f"lacks the columns {lacking}", _REMEDY)


def _numbers(path: Path, table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The table with numbers in the columns named; NaN where a cell is empty."""
    _check_columns(path, table, names)
    table = table.copy()
    for name in names:
        values = pd.to_numeric(table[name], errors="coerce").astype(float)
        if (wrong := (values.isna() & ~table[name].isin(MISSING_NUMBERS)).to_numpy()).any():
            fault = f"has no number in the column {name}: {table[name].to_numpy()[wrong][0]!r}"
            raise FileError(path, fault, _REMEDY)
        table[name] = values
    return table


def _values(rows: pd.DataFrame, metric: str, heads: bool) -> Values | None:
    """A metric of the first task token that has it."""
    for prefix in (HEAD, "") if heads else ("",):
        own = rows[rows.metric == prefix + metric]
        if len(own):
            task = str(own.task.iloc[0])
            own = own[own.task == task]
            return Values(task, prefix, own.value.tolist(), float(own.n.mean()))
    return None


def find_runs(words: Sequence[str], heads: bool) -> list[RunResult]:
    """The runs that words ``[NAME=]FOLDER`` stand for; a folder without results stands for those below it.

    Raises:
        ValueError: there is none, or two stand for one cell.
    """
    results: list[RunResult] = []
    for word in words:
        name, _, path = word.rpartition("=")
        root = Path(path)
        folders = (
            [root]
            if (root / "results.csv").is_file()
            else sorted(p.parent for p in root.rglob("results.csv"))
        )
        if not folders:
            raise ValueError(f"{root}: no results.csv here or below; has the run finished?")
        for folder in folders:
            results += read_run(folder, name or None, heads)
    cells: dict[tuple[str, str], Path] = {}
    for result in results:
        key = (result.method, result.cohort)
        if key in cells:
            raise ValueError(
                f"{cells[key]} and {result.folder} are both {' on '.join(key)}; name them apart: NAME=FOLDER"
            )
        cells[key] = result.folder
    return results
