"""Tables over runs: methods in rows, cohorts in columns, beside what was published.

``python -m utils.evaluation.tables RUN...`` takes run folders, or folders that hold some; ``NAME=RUN`` gives a method
another name. For subtype and survival it writes Markdown, CSV and LaTeX, with the mean and standard deviation over
seeds, the patients behind each cell, paired tests against one method over the same test patients, and a forest plot
of the differences.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from utils.evaluation import bootstrap, plots
from utils.evaluation.comparisons import Arrays, Comparison, delong, holm, paired_bootstrap
from utils.evaluation.published import PUBLISHED
from utils.evaluation.run_results import METRICS, RunResult, find_runs
from utils.files import FileError, atomic_path, check_writable, content_of, setup_logging

logger = logging.getLogger(__name__)

PAGE = "comparison.md"
_RUNS = "Runs: "
# What a row says of a comparison.
_TESTED = ("difference", "ci_low", "ci_high", "p")


def compare(results: Sequence[RunResult], metric: str, reference: str) -> dict[tuple[str, str], Comparison]:
    """Every method against the reference over the same patients, by cohort, p values after Holm.

    Areas under ROC curves by DeLong's test, everything else by a paired bootstrap.

    Methods are left out, and named in the log, where their test patients are not the same.
    """
    base = {r.cohort: r for r in results if r.method == reference}
    found: dict[tuple[str, str], Comparison] = {}
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
        found[result.method, result.cohort] = _tested(metric, one, two)
    adjusted = holm([c.p for c in found.values()])
    return {
        key: Comparison(c.difference, c.ci_low, c.ci_high, p)
        for (key, c), p in zip(found.items(), adjusted, strict=True)
    }


def _tested(metric: str, one: Sequence[Arrays], two: Sequence[Arrays]) -> Comparison:
    if metric == "auc":
        (labels, _), *_ = one
        return delong(labels, [shares for _, shares in one], [shares for _, shares in two])
    function = bootstrap.balanced_accuracy if metric == "balanced_accuracy" else bootstrap.concordance
    return paired_bootstrap(function, one, two)


def long_table(results: Sequence[RunResult], metric: str, reference: str | None) -> pd.DataFrame:
    """One row for a method on a cohort: mean, std, runs, patients, published, difference with its interval, p value."""
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
                "runs": len(result.known(metric)),
                "patients": result.metrics[metric].patients if metric in result.metrics else math.nan,
                "source": "probe" if result.by_probe(metric) else "head",
                "published": PUBLISHED.get(metric, {}).get(result.method, {}).get(result.cohort, math.nan),
                **{name: math.nan if test is None else getattr(test, name) for name in _TESTED},
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
        # As they are written, so that what reads alike ranks alike.
        ranked = sorted({f"{value:.3f}" for value in rows["mean"].dropna()}, reverse=True)
        for method, row in rows.iterrows():
            if math.isnan(row["mean"]):
                cells[str(method), cohort] = "n/e"
                continue
            text = f"{row['mean']:.3f}" + ("" if math.isnan(row["std"]) else f" ± {row['std']:.3f}")
            rank = ranked.index(f"{row['mean']:.3f}")
            if len(rows) > 1 and rank < 2:
                text = (bold, underlined)[rank] % text
            if not math.isnan(row["p"]) and row["p"] < 0.05:
                text += "*"
            if not math.isnan(row["published"]):
                text += f" ({row['published']:.3f})"
            cells[str(method), cohort] = text
    return methods, cohorts, cells


def _test_of(title: str) -> str:
    return "DeLong's test" if title == METRICS["auc"] else "paired bootstrap"


def to_markdown(table: pd.DataFrame, title: str, reference: str | None, heads: bool = False) -> str:
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
            f"\\* differs from {reference} over the same patients, p < 0.05 after Holm: {_test_of(title)}."
        )
    if heads and (probes := list(dict.fromkeys(table[table.source == "probe"].method))):
        lines.append(f"Trained heads; by probes, for want of a head: {', '.join(probes)}.")
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


def _sources(results: Sequence[RunResult]) -> str:
    """The last line of the page, which says what it is of."""
    folders = dict.fromkeys(str(result.folder.resolve()) for result in results)
    return f"{_RUNS}{', '.join(sorted(folders))}\n"


def _check_folder(output: Path, results: Sequence[RunResult]) -> None:
    """Whether tables can be written to a folder that is no run and holds none of other runs.

    Raises:
        FileError: it holds a run, or the tables of others.
        OSError: it cannot be written.
    """
    check_writable(output)
    if (output / "config.json").exists():
        raise FileError(output, "is the folder of a run", "name another --output")
    page = output / PAGE
    if page.is_file():
        with content_of(page, "remove it, or name another --output"):
            *_, last = ["", *page.read_text(encoding="utf-8").splitlines()]
        if last != _sources(results).strip():
            known = last.removeprefix(_RUNS) if last.startswith(_RUNS) else "other runs"
            raise FileError(page, f"is of {known}", "remove it, or name another --output")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; see ``--help``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", nargs="+", metavar="[NAME=]RUN", help="run folders, or folders that hold some"
    )
    parser.add_argument(
        "--heads", action="store_true", help="results of trained heads where a run has any, else of probes"
    )
    parser.add_argument("--reference", help="method that the others are tested against (default: ModalTune)")
    parser.add_argument(
        "--output",
        type=Path,
        help="folder for comparison.md, <metric>.csv, <metric>.tex and <metric>_forest.png",
    )
    args = parser.parse_args(argv)
    setup_logging()
    try:
        results = find_runs(args.runs, args.heads)
        known = {result.method for result in results}
        reference = args.reference or ("ModalTune" if "ModalTune" in known else None)
        if reference is not None and reference not in known:
            raise ValueError(f"--reference {reference}: there are {sorted(known)}")
        if args.output is not None:
            _check_folder(args.output, results)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    page = []
    for metric, title in METRICS.items():
        table = long_table(results, metric, reference)
        page.append(to_markdown(table, title, reference, args.heads))
        if args.output is not None:
            with atomic_path(args.output / f"{metric}.csv") as temporary:
                table.to_csv(temporary, index=False)
            with atomic_path(args.output / f"{metric}.tex") as temporary:
                temporary.write_text(to_latex(table, title), encoding="utf-8")
            if reference is not None and table.ci_low.notna().any():
                plots.forest(table, args.output / f"{metric}_forest.png", title, reference)
    sys.stdout.write("\n".join(page))
    if args.output is not None:
        with atomic_path(args.output / PAGE) as temporary:
            temporary.write_text("\n".join([*page, _sources(results)]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
