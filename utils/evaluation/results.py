"""The result table of a run: one evaluator interface, aggregation over seeds and folds, files.

Every evaluation ends in a long table with the columns :data:`COLUMNS`: one row for a metric of a task
token on a split; evaluations of several cancer sites add a column ``site``. Several runs (seeds, folds) are
aggregated and written as ``results.csv`` (every run, then the rows of run ``mean``) and ``results.md`` (what a
person reads).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from utils.evaluation.embeddings import Embeddings
from utils.evaluation.heads import Head
from utils.evaluation.zero_shot import Candidates
from utils.files import atomic_path

COLUMNS = ("seed", "task", "split", "metric", "value", "ci_low", "ci_high", "n", "events", "reason")
MEAN = "mean"
_MAIN = {
    "balanced_accuracy": "Balanced accuracy",
    "accuracy": "Accuracy",
    "auc": "AUC",
    "concordance_index": "Concordance index",
    "r2": "R²",
    "spearman": "Rank correlation (Spearman)",
}
# What results.md shows in tables of its own, behind those that people look for.
_DETAILS = {
    "recall": "Recall, mean of classes",
    "precision": "Precision, mean of classes",
    "f1": "F1, mean of classes",
    "ece": "Expected calibration error (less is better)",
    "brier": "Brier score of the classes (less is better)",
    "concordance_ipcw": "Concordance index, censoring-weighted",
    "dynamic_auc": "Time-dependent AUC",
    "integrated_brier": "Integrated Brier score of survival (less is better)",
}
_SOURCES = {"": "", "zero_shot_": ", zero-shot", "head_": ", trained head"}
METRIC_NAMES = {
    **{
        prefix + metric: name + source
        for prefix, source in _SOURCES.items()
        for metric, name in (_MAIN | _DETAILS).items()
    },
    "pooled_concordance_index": "Concordance index, pooled Cox model",
    "site_balanced_accuracy": "Balanced accuracy of the cancer site",
    "site_accuracy": "Accuracy of the cancer site",
}
# Numbers below a table: of which metric the patients or events are counted.
_COUNTS = (
    ("Patients with a class", "balanced_accuracy", "n"),
    ("Patients with survival", "concordance_index", "n"),
    ("Deaths", "concordance_index", "events"),
    ("Patients with the number", "r2", "n"),
)
# What is written of all cancer sites together.
OVERALL = "overall"
NOT_EVALUABLE = "n/e"
READING = (
    "Several runs (seeds or folds): mean ± sample standard deviation over them. One run: in brackets the 95 % "
    "bootstrap interval over patients."
)


class Evaluator(Protocol):
    """Embeddings and labels in, metrics, figures and files out."""

    @property
    def key(self) -> str:
        """The validation metric that selects the model; higher is better."""
        ...

    @property
    def headline(self) -> Sequence[str]:
        """The validation metrics that :meth:`score` gives, in its order."""
        ...

    def validate(
        self, train: Embeddings, val: Embeddings, heads: Mapping[str, Head] | None = None
    ) -> dict[str, float]:
        """Metrics of an epoch, ``{metric/task: value}``, from probes fitted on ``train`` and of trained ``heads``."""
        ...

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """What the trainer compares between epochs: greater is better, never NaN."""
        ...

    def report(
        self,
        splits: Mapping[str, Embeddings],
        output_dir: Path,
        seed: int,
        candidates: Mapping[str, Candidates] | None = None,
        heads: Mapping[str, Head] | None = None,
    ) -> pd.DataFrame:
        """Writes predictions and figures of a finished run; returns its table (:data:`COLUMNS`).

        ``candidates`` of the cohorts, where given, are evaluated zero-shot beside the probes, and so are
        trained ``heads`` (by what they predict: ``subtype``, ``survival``).
        """
        ...


# ---------------------------------------------------------------------------- aggregation
def aggregate(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Mean and spread over runs of every metric.

    Args:
        frames: one table per seed or fold, with the columns :data:`COLUMNS`.

    Returns:
        Columns site, task, split, metric, value (mean), std, ci_low, ci_high, runs, n, events, reason.
        ``std`` is the sample standard deviation (ddof = 1: a handful of seeds stands for all seeds),
        NaN for one run. The bootstrap interval is that of a single run and NaN for several: their intervals
        do not add up to one. Runs in which a metric is not evaluable are left out; ``runs`` counts the others
        and ``reason`` says what is missing.
        ``n`` and ``events`` are means where folds differ.

    Raises:
        ValueError: there is no table, or one lacks a column.
    """
    if not frames:
        raise ValueError("no results to aggregate")
    for frame in frames:
        missing = [column for column in COLUMNS if column not in frame]
        if missing:
            raise ValueError(f"a result table lacks the columns {missing}")
    rows = pd.concat(list(frames), ignore_index=True)
    rows["reason"] = rows["reason"].fillna("")  # empty cells of a table that was read again
    rows["site"] = rows["site"].fillna("") if "site" in rows else ""
    keys = ["site", "task", "split", "metric"]
    groups: dict[tuple[str, ...], list[Mapping[Any, Any]]] = {}
    for row in rows.to_dict("records"):
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return pd.DataFrame(
        [
            {**dict(zip(keys, values, strict=True)), **_summary(group, len(frames))}
            for values, group in groups.items()
        ]
    )


def _summary(group: Sequence[Mapping[Any, Any]], runs: int) -> dict[str, Any]:
    """Of the rows of one metric, in plain numbers: pandas takes a second for the tables of a cohort."""
    usable = [row for row in group if not math.isnan(row["value"])]
    values = np.array([row["value"] for row in usable])
    reason = "; ".join(dict.fromkeys(row["reason"] for row in group if math.isnan(row["value"])))
    if reason and usable:
        reason = f"{runs - len(usable)} of {runs} runs: {reason}"
    return {
        "value": values.mean() if usable else math.nan,
        "std": values.std(ddof=1) if len(usable) > 1 else math.nan,
        "ci_low": usable[0]["ci_low"] if len(usable) == 1 else math.nan,
        "ci_high": usable[0]["ci_high"] if len(usable) == 1 else math.nan,
        "runs": len(usable),
        "n": _mean(row["n"] for row in group),
        "events": _mean(row["events"] for row in group),
        "reason": reason,
    }


def _mean(counts: Iterable[float]) -> float:
    """Of the counts that are known, NaN where none is."""
    known = np.array([count for count in counts if not math.isnan(count)])
    return known.mean() if len(known) else math.nan


# ---------------------------------------------------------------------------- files
def write_results(
    frames: Sequence[pd.DataFrame],
    output_dir: str | Path,
    header: Mapping[str, Any],
    names: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Writes ``results.csv`` and ``results.md``.

    Args:
        frames: one table per run.
        output_dir: where the two files go.
        header: what the numbers belong to (protocol, model, seeds, epochs, cohort, versions); one line
            of ``results.md`` each.
        names: name of every run; by default ``seed <s>``, numbered where a seed occurs twice.

    Returns:
        The aggregated table, see :func:`aggregate`.
    """
    table = aggregate(frames)
    names = list(names) if names is not None else _run_names(frames)
    if len(names) != len(frames):
        raise ValueError(f"{len(names)} names for {len(frames)} runs")
    runs = [frame.assign(run=name) for frame, name in zip(frames, names, strict=True)]
    long = pd.concat([*runs, table.assign(run=MEAN)], ignore_index=True)
    columns = ["run", "site", "task", "split", "metric", "value", "std", "ci_low", "ci_high", "n", "events"]
    columns.append("reason")
    output_dir = Path(output_dir)
    with atomic_path(output_dir / "results.csv") as temporary:
        long[columns].to_csv(temporary, index=False)
    with atomic_path(output_dir / "results.md") as temporary:
        temporary.write_text(render_markdown(table, header), encoding="utf-8")
    return table


def _run_names(frames: Sequence[pd.DataFrame]) -> list[str]:
    names = [f"seed {frame['seed'].iloc[0]}" if len(frame) else "empty" for frame in frames]
    if len(set(names)) == len(names):
        return names
    return [f"run {i + 1} ({name})" for i, name in enumerate(names)]


def render_markdown(table: pd.DataFrame, header: Mapping[str, Any]) -> str:
    """``results.md`` of an aggregated table: one table per task token, then what the numbers belong to."""
    lines = ["# Results", "", READING, ""]
    notes: dict[str, int] = {}
    details = table["metric"].isin([prefix + metric for prefix in _SOURCES for metric in _DETAILS])
    lines += _tables(table[~details], "Task token", notes)
    if details.any():
        lines += _tables(table[details], "More of task token", notes)
    lines += [f"[{number}] {reason}" for reason, number in notes.items()]
    if header:
        lines += ["", "## Made from", ""]
        lines += [f"- **{name}**: {value}" for name, value in header.items()]
    return "\n".join(lines).rstrip() + "\n"


def _tables(table: pd.DataFrame, title: str, notes: dict[str, int]) -> list[str]:
    """A section for every task token; of several cancer sites one for every split, too."""
    lines, sites = [], list(dict.fromkeys(table["site"]))
    for task in dict.fromkeys(table["task"]):
        rows, name = table[table["task"] == task], f"{title} {task}"
        if sites == [""]:
            lines += _section(name, rows, "split", notes)
            continue
        for split in dict.fromkeys(rows["split"]):
            lines += _section(f"{name}, {split} patients", rows[rows["split"] == split], "site", notes)
    return lines


def _section(title: str, rows: pd.DataFrame, across: str, notes: dict[str, int]) -> list[str]:
    """A table of metrics by splits or by sites, whichever the column ``across`` holds."""
    heads = list(dict.fromkeys(rows[across]))
    cells = {(row["metric"], row[across]): row for _, row in rows.iterrows()}
    lines = [f"## {title}", "", f"| | {' | '.join(heads)} |", "| --- |" + " --- |" * len(heads)]
    for metric in dict.fromkeys(rows["metric"]):
        line = [METRIC_NAMES.get(metric, metric)]
        line += [_cell(cells.get((metric, head)), notes) for head in heads]
        lines.append(f"| {' | '.join(line)} |")
    for name, metric, column in _COUNTS:
        if any((metric, head) in cells for head in heads):
            lines.append(f"| {name} | {' | '.join(_counts(cells, heads, metric, column))} |")
    return [*lines, ""]


def _cell(row: pd.Series | None, notes: dict[str, int]) -> str:
    if row is None:
        return ""
    mark = f" [{notes.setdefault(row['reason'], len(notes) + 1)}]" if row["reason"] else ""
    if math.isnan(row["value"]):
        return NOT_EVALUABLE + mark
    spread = "" if math.isnan(row["std"]) else f" ± {row['std']:.3f}"
    interval = "" if math.isnan(row["ci_low"]) else f" [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
    return f"{row['value']:.3f}{spread}{interval}{mark}"


def _counts(
    cells: Mapping[tuple[str, str], pd.Series], heads: Sequence[str], metric: str, column: str
) -> list[str]:
    """Number of patients (or deaths) behind a metric in every column."""
    rows = [cells.get((metric, head)) for head in heads]
    return ["" if row is None or math.isnan(row[column]) else f"{row[column]:.4g}" for row in rows]
