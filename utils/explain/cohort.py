"""All patients of a report together: modalities, pathways, and the page that links to everybody."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from utils.evaluation.report_file import REPORT, read_report
from utils.explain.attribution import TOLERANCE
from utils.explain.pathways import (
    cohort_members,
    cohort_table,
    draw_cohort,
    draw_heat_map,
    draw_members,
    members,
)
from utils.explain.patients import SUMMARY
from utils.explain.report import Picture, Section, Table, write_page
from utils.explain.targets import Target
from utils.files import atomic_path, read_json
from utils.prediction.models import SITES

# Rows of a table that a page shows; the CSV has all.
SHOWN = 15


def write_cohort(
    folder: Path,
    patients: Sequence[str],
    targets: Sequence[Target],
    run: Path,
    job: Path,
    site: str | None = None,
) -> None:
    """Writes the tables, figures and ``index.html`` of a report.

    Args:
        folder: of the report.
        patients: names of the patients' folders below ``patients/``.
        targets: what was explained.
        run: the run folder, for its results.
        job: the folder of its fold and seed, for its figures.
        site: of a pan-cancer run, the cancer site of the patients.
    """
    summaries = {name: read_json(folder / "patients" / name / SUMMARY) for name in patients}
    sections = [_section(folder, target, summaries) for target in targets]
    sections.append(_patients(summaries, targets))
    sections.append(_results(job, site))
    about = [
        " · ".join([f"{len(patients)} patients", str(run), *([] if site is None else [site]), job.name]),
        "Attributions are integrated gradients; they say what moved this model, not what causes disease.",
    ]
    write_page(folder / "index.html", f"Explanations of {run.name}", about, sections)


def _section(folder: Path, target: Target, summaries: dict[str, Any]) -> Section:
    of = {name: summary["targets"][target.name] for name, summary in summaries.items()}
    section = Section(f"What moves the {target.title}")
    if rough := [name for name, content in of.items() if content["gap"] >= TOLERANCE]:
        section.warnings.append(
            f"Completeness gap of {TOLERANCE:.0%} or more for {len(rough)} patients: {', '.join(rough[:10])}"
        )
    columns = ["value", "baseline_value", "steps", "missing", "gap"]
    complete_to = pd.DataFrame({name: {c: content[c] for c in columns} for name, content in of.items()}).T
    complete_to["below_tolerance"] = complete_to["gap"] < TOLERANCE
    _write(complete_to.rename_axis("patient").reset_index(), folder / f"completeness_{target.name}.csv")
    shares = pd.DataFrame({name: content["shares"] for name, content in of.items()}).T
    without = pd.DataFrame({name: content["without"] for name, content in of.items()}).T
    modalities = pd.DataFrame(
        {
            "modality": shares.columns,
            "mean share of the absolute attribution": shares.mean().to_numpy(),
            "mean absolute change when left out": without[shares.columns].abs().mean().to_numpy(),
            "patients": shares.notna().sum().to_numpy(),
        }
    )
    _write(modalities, folder / f"modalities_{target.name}.csv")
    section.tables.append(Table.of(modalities))
    # A patient who lacks a modality has no attributions of its groups, and says nothing about them.
    groups = pd.DataFrame({name: content["groups"] for name, content in of.items()}).T
    complete = groups.dropna()
    if len(dropped := groups.index.difference(complete.index)):
        section.warnings.append(f"{len(dropped)} patients lack an input and are not in the figures below")
    if complete.shape[1] and len(complete):
        _write(
            complete.rename_axis("patient").reset_index(), folder / f"groups_{target.name}_of_patients.csv"
        )
        table = cohort_table(complete, [summaries[name]["label"] for name in complete.index])
        _write(table.reset_index(), folder / f"groups_{target.name}.csv")
        section.tables.append(Table.of(table.reset_index().head(SHOWN)))
        figure = folder / f"groups_{target.name}.png"
        draw_cohort(table, complete, figure, target.title)
        section.pictures.append(Picture(figure, "Inputs besides the slides, with 95 % bootstrap intervals"))
        heat = folder / f"groups_{target.name}_heat_map.png"
        values = pd.Series({name: content["value"] for name, content in of.items()})
        draw_heat_map(complete, values, heat, target.title)
        section.pictures.append(Picture(heat, "Every patient, ordered by the target"))
        entries = [
            pd.read_csv(folder / "patients" / name / f"inputs_{target.name}.csv") for name in complete.index
        ]
        inner = cohort_members(entries)
        if inside := members(inner, list(table.index), "mean_abs"):
            _write(inner, folder / f"members_{target.name}.csv")
            figure = folder / f"members_{target.name}.png"
            draw_members(inside, figure, f"mean absolute attribution to the {target.title}")
            section.pictures.append(Picture(figure, "Inside the most important groups (genes of pathways)"))
    return section


def _patients(summaries: dict[str, Any], targets: Sequence[Target]) -> Section:
    rows = []
    for name, summary in summaries.items():
        link = {"href": f"patients/{name}/index.html", "text": name}
        values = [summary["targets"][target.name]["value"] for target in targets]
        fate = [
            summary["label"],
            "" if summary["duration"] is None else summary["duration"],
            summary["event"],
        ]
        rows.append([link, *values, *fate])
    columns = ["patient", *(target.title for target in targets), "class", "months", "died"]
    return Section("Patients", [Table(columns, rows)])


def _results(job: Path, site: str | None) -> Section:
    """Metrics of the test split with their intervals, and the figures of the run."""
    section = Section("How good the model is")
    table = read_report(job)
    if table is not None:
        table = table[table["split"] == "test"]
        if site is not None:
            table = table[table["site"] == site]
        columns = [c for c in ("task", "metric", "value", "ci_low", "ci_high", "n") if c in table]
        section.tables.append(Table.of(table[columns]))
    figures = (job if site is None else job / SITES / site) / "figures"
    section.pictures = [Picture(path, path.stem.replace("_", " ")) for path in sorted(figures.glob("*.png"))]
    if not section.tables:
        section.warnings.append(f"{job / REPORT} does not exist or is not whole: the run is not finished")
    return section


def _write(table: pd.DataFrame, path: Path) -> None:
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)
