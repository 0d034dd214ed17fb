"""Tables over runs: methods in rows, cohorts in columns, beside what was published.

``python -m utils.evaluation.tables RUN...`` takes run folders, or folders that hold some; ``NAME=RUN`` gives a method
another name. For subtype and survival it writes Markdown, CSV and LaTeX, with the mean and standard deviation over
seeds, the patients behind each cell, and paired tests against one method over the same test patients.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from utils.evaluation import bootstrap
from utils.evaluation.comparisons import Comparison, holm, paired_bootstrap
from utils.evaluation.published import METHODS, PUBLISHED
from utils.files import atomic_path, read_json, setup_logging

logger = logging.getLogger(__name__)

METRICS = {
    "balanced_accuracy": "Balanced accuracy (subtype)",
    "concordance_index": "Concordance index (survival)",
}
SPLIT = "test"


@dataclass(frozen=True)
class RunResult:
    """What a run folder holds of one cohort.

    Attributes:
        method: row of the tables.
        cohort: column of the tables.
        folder: of the run.
        values: of every seed or fold, by metric; NaN where not evaluable.
        patients: behind each metric.
        site: cancer site within a pan-cancer run, else empty.
        task: the task token that counts.
    """

    method: str
    cohort: str
    folder: Path
    values: dict[str, list[float]]
    patients: dict[str, float]
    site: str
    task: str

    def cell(self, metric: str) -> tuple[float, float]:
        """Mean and sample standard deviation over runs; NaN for the latter with one run."""
        known = [value for value in self.values.get(metric, []) if not math.isnan(value)]
        if not known:
            return math.nan, math.nan
        return float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else math.nan

    def arrays(self, metric: str) -> tuple[list[str], list[tuple[np.ndarray, ...]]]:
        """Test patients, and what the bootstrap takes of them in every run."""
        where = f"sites/{self.site}/predictions" if self.site else "predictions"
        tables = []
        for path in sorted(self.folder.rglob(f"{where}/{SPLIT}.csv")):
            table = pd.read_csv(path, dtype={"case_id": str})
            tables.append(table[table.task == self.task].set_index("case_id").sort_index())
        columns = {
            "balanced_accuracy": ["label", "prediction"],
            "concordance_index": ["duration", "event", "risk"],
        }[metric]
        kept = [table[columns][table[columns].notna().all(axis=1)] for table in tables]
        if metric == "balanced_accuracy":
            kept = [table[table.label >= 0].astype(int) for table in kept]
        ids = list(kept[0].index) if kept else []
        if any(list(table.index) != ids for table in kept):
            return [], []  # folds test different patients
        return ids, [tuple(table[column].to_numpy() for column in columns) for table in kept]


def read_run(folder: Path, name: str | None = None, heads: bool = False) -> list[RunResult]:
    """The results of a run folder, one for each cancer site.

    Raises:
        ValueError: the folder is no finished run; it is named.
    """
    config, table = folder / "config.json", folder / "results.csv"
    if not config.is_file() or not table.is_file():
        raise ValueError(f"{folder} is no finished run: it needs config.json and results.csv")
    content = read_json(config)
    model, data = content["model"]["mil_name"], content["arguments"]["data"]
    method = name or METHODS.get(model, model)
    if data["sites"] and name is None:
        method = f"{method} pan-cancer"
    rows = pd.read_csv(table, keep_default_na=True)
    rows["site"] = rows["site"].fillna("")
    found = []
    for site in dict.fromkeys(rows["site"]):
        part = rows[(rows.site == site) & (rows.split == SPLIT)]
        task = str(part.task.iloc[0]) if len(part) else ""
        part = part[part.task == task]
        prefix = "head_" if heads else ""
        own = part[part.run != "mean"]
        values = {m: own[own.metric == prefix + m].value.tolist() for m in METRICS}
        patients = {m: float(own[own.metric == prefix + m].n.mean()) for m in METRICS}
        cohort = site or data["onco"] or Path(data["test_json"]).stem
        found.append(
            RunResult(method, cohort, folder, values, patients, "" if site == "overall" else site, task)
        )
    return found


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


def compare(results: Sequence[RunResult], metric: str, reference: str) -> dict[tuple[str, str], Comparison]:
    """Paired bootstrap of every method against the reference, by cohort, p values after Holm.

    Methods are left out, and named in the log, where their test patients are not the same.
    """
    base = {r.cohort: r for r in results if r.method == reference}
    found: dict[tuple[str, str], Comparison] = {}
    function: bootstrap.CountMetric = (
        bootstrap.balanced_accuracy if metric == "balanced_accuracy" else bootstrap.concordance
    )
    for result in results:
        other = base.get(result.cohort)
        if other is None or result.method == reference:
            continue
        (ids, one), (same, two) = result.arrays(metric), other.arrays(metric)
        if not ids or ids != same:
            logger.warning(
                "%s on %s: not the test patients of %s, no test", result.method, result.cohort, reference
            )
            continue
        found[result.method, result.cohort] = paired_bootstrap(function, one, two)
    adjusted = holm([c.p for c in found.values()])
    return {
        key: Comparison(c.difference, c.ci_low, c.ci_high, p)
        for (key, c), p in zip(found.items(), adjusted, strict=True)
    }


def long_table(results: Sequence[RunResult], metric: str, reference: str | None) -> pd.DataFrame:
    """One row for a method on a cohort: mean, std, runs, patients, published, difference and p value."""
    tests = compare(results, metric, reference) if reference else {}
    rows = []
    for result in results:
        mean, std = result.cell(metric)
        test = tests.get((result.method, result.cohort))
        rows.append(
            {
                "method": result.method,
                "cohort": result.cohort,
                "mean": mean,
                "std": std,
                "runs": sum(not math.isnan(v) for v in result.values.get(metric, [])),
                "patients": result.patients.get(metric, math.nan),
                "published": PUBLISHED[metric].get(result.method, {}).get(result.cohort, math.nan),
                "difference": math.nan if test is None else test.difference,
                "p": math.nan if test is None else test.p,
            }
        )
    return pd.DataFrame(rows)


def _marked(
    table: pd.DataFrame, bold: str, underlined: str
) -> tuple[list[str], list[str], dict[tuple[str, str], str]]:
    """Methods, cohorts and formatted cells; the best of a cohort bold, the second underlined."""
    methods, cohorts = list(dict.fromkeys(table.method)), list(dict.fromkeys(table.cohort))
    cells = {}
    for cohort in cohorts:
        rows = table[table.cohort == cohort].set_index("method")
        ranked = sorted(set(rows["mean"].round(3).dropna()), reverse=True)
        for method, row in rows.iterrows():
            if math.isnan(row["mean"]):
                cells[str(method), cohort] = "n/e"
                continue
            text = f"{row['mean']:.3f}" + ("" if math.isnan(row["std"]) else f" ± {row['std']:.3f}")
            rank = ranked.index(round(row["mean"], 3))
            if len(rows) > 1 and rank < 2:
                text = (bold, underlined)[rank] % text
            if not math.isnan(row["p"]) and row["p"] < 0.05:
                text += "*"
            if not math.isnan(row["published"]):
                text += f" ({row['published']:.3f})"
            cells[str(method), cohort] = text
    return methods, cohorts, cells


def to_markdown(table: pd.DataFrame, title: str, reference: str | None) -> str:
    """The table for people, with what is missing named below it."""
    methods, cohorts, cells = _marked(table, "**%s**", "<u>%s</u>")
    lines = [f"## {title}", "", f"| | {' | '.join(cohorts)} |", "| --- |" + " --- |" * len(cohorts)]
    lines += [f"| {m} | {' | '.join(cells.get((m, c), '-') for c in cohorts)} |" for m in methods]
    counts = table.groupby("cohort", sort=False).patients.max()
    lines += [f"| test patients | {' | '.join(f'{counts[c]:.4g}' for c in cohorts)} |", ""]
    lines.append(
        "Mean ± standard deviation over runs; best bold, second underlined; in brackets as published."
    )
    if reference and table.p.notna().any():
        lines.append(
            f"\\* differs from {reference}: paired bootstrap over the same patients, p < 0.05 after Holm."
        )
    if missing := [f"{m} on {c}" for m in methods for c in cohorts if (m, c) not in cells]:
        lines.append(f"Missing runs (-): {', '.join(missing)}.")
    return "\n".join(lines) + "\n"


def to_latex(table: pd.DataFrame, title: str) -> str:
    """The table for a paper (package booktabs)."""
    methods, cohorts, cells = _marked(table, r"\textbf{%s}", r"\underline{%s}")
    lines = [f"% {title}", rf"\begin{{tabular}}{{l{'c' * len(cohorts)}}}", r"\toprule"]
    lines += [f" & {' & '.join(cohorts)} \\\\", r"\midrule"]
    for method in methods:
        row = [cells.get((method, cohort), "--").replace("±", r"$\pm$") for cohort in cohorts]
        name = method.replace("_", r"\_")
        lines.append(f"{name} & {' & '.join(row)} \\\\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; see ``--help``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", nargs="+", metavar="[NAME=]RUN", help="run folders, or folders that hold some"
    )
    parser.add_argument("--heads", action="store_true", help="results of trained heads instead of probes")
    parser.add_argument("--reference", help="method that the others are tested against (default: ModalTune)")
    parser.add_argument("--output", type=Path, help="folder for comparison.md, <metric>.csv and <metric>.tex")
    args = parser.parse_args(argv)
    setup_logging()
    try:
        results = find_runs(args.runs, args.heads)
        known = {result.method for result in results}
        reference = args.reference or ("ModalTune" if "ModalTune" in known else None)
        if reference is not None and reference not in known:
            raise ValueError(f"--reference {reference}: there are {sorted(known)}")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if args.heads:
        reference = None  # predictions are those of the probes
    page = []
    for metric, title in METRICS.items():
        table = long_table(results, metric, reference)
        page.append(to_markdown(table, title, reference))
        if args.output is not None:
            with atomic_path(args.output / f"{metric}.csv") as temporary:
                table.to_csv(temporary, index=False)
            with atomic_path(args.output / f"{metric}.tex") as temporary:
                temporary.write_text(to_latex(table, title), encoding="utf-8")
    sys.stdout.write("\n".join(page))
    if args.output is not None:
        with atomic_path(args.output / "comparison.md") as temporary:
            temporary.write_text("\n".join(page), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
