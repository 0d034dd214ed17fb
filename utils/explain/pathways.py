"""What the numbers of a modality, and the groups they belong to (pathways), do: per patient and over a cohort."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator
from scipy.stats import false_discovery_control, mannwhitneyu

from models.modalities import Entries
from utils.evaluation.plots import COLORS, GREY, figure
from utils.explain.report import Bars

# So many bars a figure has.
SHOWN = 20
RESAMPLES = 1000
# The groups whose numbers are drawn, and how many of each.
GROUPS_SHOWN, NUMBERS_SHOWN = 6, 10


def entry_table(inputs: Mapping[str, np.ndarray], entries: Mapping[str, Entries]) -> pd.DataFrame:
    """One row for every number of every modality: ``modality, group, name, attribution``."""
    parts = [
        pd.DataFrame(
            {
                "modality": name,
                "group": list(entries[name].groups) or "",
                "name": list(entries[name].names),
                "attribution": values,
            }
        )
        for name, values in inputs.items()
    ]
    columns = ["modality", "group", "name", "attribution"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def group_sums(table: pd.DataFrame) -> pd.Series:
    """Attribution of every group, and of every number of modalities without groups."""
    label = table["group"].where(table["group"] != "", table["name"])
    return table["attribution"].groupby(label, sort=False).sum()


def cohort_table(groups: pd.DataFrame, classes: Sequence[int] | None = None, seed: int = 0) -> pd.DataFrame:
    """How important every group is over the patients.

    Args:
        groups: attributions ``[patients, groups]``.
        classes: of the patients; -1 where unknown. With two classes of at least three patients, groups are compared.
        seed: of the bootstrap.

    Returns:
        By group, the most important first: mean absolute attribution with its 95 % bootstrap interval over patients,
        mean attribution and, of two classes, their difference with the p of Mann and Whitney's test, corrected by
        Benjamini and Hochberg over the groups.
    """
    size = groups.abs().to_numpy()
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(size), size=(RESAMPLES, len(size)))
    means = np.stack([size[rows].mean(axis=0) for rows in drawn])
    table = pd.DataFrame(
        {
            "mean_abs": size.mean(axis=0),
            "ci_low": np.quantile(means, 0.025, axis=0),
            "ci_high": np.quantile(means, 0.975, axis=0),
            "mean": groups.mean().to_numpy(),
        },
        index=groups.columns,
    )
    labels = np.asarray([-1] * len(groups) if classes is None else list(classes))
    present = [c for c in np.unique(labels[labels >= 0]) if (labels == c).sum() >= 3]
    if len(present) == 2:
        one, other = (groups[labels == c] for c in present)
        table[f"class_{present[1]}_minus_{present[0]}"] = (other.mean() - one.mean()).to_numpy()
        p = np.asarray(mannwhitneyu(one.to_numpy(), other.to_numpy()).pvalue)
        table["q_benjamini_hochberg"] = false_discovery_control(p)
    return table.rename_axis("group").sort_values("mean_abs", ascending=False)


def members(table: pd.DataFrame, groups: Sequence[str], by: str) -> dict[str, pd.Series]:
    """What lies inside the first groups (genes in pathways): values by name, the greatest first.

    Args:
        table: ``group, name`` and the column ``by``, one row for every number.
        groups: names, the most important first; those that are no group of the table are passed over.
        by: column of the values.
    """
    inside = dict(list(table.groupby("group", sort=False)))
    found = {}
    for group in [group for group in groups if group in inside][:GROUPS_SHOWN]:
        values = inside[group].set_index("name")[by]
        found[group] = values.iloc[np.argsort(-values.abs().to_numpy(), kind="stable")]
    return found


def cohort_members(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Mean and mean absolute attribution over patients of every number inside a group.

    Args:
        tables: of each patient, as :func:`entry_table` gives them.
    """
    table = pd.concat(tables, ignore_index=True).fillna({"group": ""})
    grouped = table[table["group"] != ""].groupby(["modality", "group", "name"], sort=False)["attribution"]
    means = grouped.agg(mean_abs=lambda values: values.abs().mean(), mean="mean", patients="size")
    return means.reset_index()


# ---------------------------------------------------------------------------- figures
def patient_bars(sums: pd.Series) -> Bars:
    """The groups with the greatest attributions of one patient, from the highest to the lowest."""
    order = np.argsort(-sums.abs().to_numpy(), kind="stable")[:SHOWN]
    shown = sums.iloc[order].rename(lambda name: str(name)[:48]).sort_values(ascending=False, kind="stable")
    return Bars({"attribution": shown}, "Inputs besides the slides, the greatest")


def member_bars(inside: Mapping[str, pd.Series], caption: str) -> Bars:
    """The numbers (genes) inside each group (pathway), as :func:`members` gives them."""
    panels = {}
    for group, values in inside.items():
        rest = f" ({NUMBERS_SHOWN} of {len(values)})" if len(values) > NUMBERS_SHOWN else ""
        panels[f"{group[:40]}{rest}"] = values.head(NUMBERS_SHOWN).rename(lambda name: str(name)[:18])
    return Bars(panels, caption)


def draw_cohort(table: pd.DataFrame, groups: pd.DataFrame, path: Path, title: str) -> None:
    """Mean absolute attributions with intervals, beside the attributions of every patient."""
    names = list(table.index[:SHOWN])[::-1]
    shown, rng = table.loc[names], np.random.default_rng(0)
    with figure(path, 9.0, 1.2 + 0.24 * len(names)) as drawing:
        bars, swarm = drawing.subplots(1, 2, sharey=True)
        where = np.arange(len(names))
        bars.barh(where, shown["mean_abs"], color=COLORS[0])
        bars.hlines(where, shown["ci_low"], shown["ci_high"], color="black", linewidth=1.2)
        bars.set_yticks(where, [str(name)[:48] for name in names])
        bars.set(title=title, xlabel="mean absolute attribution")
        for place, name in zip(where, names, strict=True):
            values = groups[name].to_numpy()
            jitter = rng.uniform(-0.28, 0.28, len(values))
            swarm.scatter(values, place + jitter, s=8, color=COLORS[1], alpha=0.6, linewidths=0)
        swarm.axvline(0, color=GREY, linewidth=0.8)
        swarm.set(title="of every patient", xlabel="attribution")


def draw_heat_map(groups: pd.DataFrame, order: pd.Series, path: Path, title: str) -> None:
    """Patients in columns, from the lowest to the highest value of the target, the most important groups in rows."""
    names = groups.abs().mean().sort_values(ascending=False).index[:SHOWN]
    values = groups.loc[order.sort_values().index, names].to_numpy().T
    limit = float(np.quantile(np.abs(values), 0.98)) or 1.0
    with figure(path, 8.0, 1.2 + 0.24 * len(names)) as drawing:
        axes = drawing.subplots()
        image = axes.imshow(
            values, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest"
        )
        axes.set_yticks(range(len(names)), [str(name)[:48] for name in names])
        axes.set_xticks([])
        axes.set(title=title, xlabel="patients, by increasing value of the target")
        drawing.colorbar(image, ax=axes, label="attribution")


def draw_members(inside: Mapping[str, pd.Series], path: Path, label: str) -> None:
    """Bars of the numbers (genes) inside each group (pathway), on one axis.

    Args:
        inside: as :func:`members` gives them.
        path: of the PNG.
        label: of the values.
    """
    columns = min(3, len(inside))
    rows = -(-len(inside) // columns)
    width, height = 3.0 * columns, 2.1 * rows + 0.3
    margins = {"left": 1.1 / width, "right": 1 - 0.3 / width, "bottom": 0.6 / height, "top": 1 - 0.3 / height}
    with figure(path, width, height) as drawing:
        drawing.set_layout_engine("none")  # finding margins for so many labels takes longer than drawing them
        grid = drawing.subplots(
            rows,
            columns,
            squeeze=False,
            sharex=True,
            gridspec_kw={**margins, "wspace": 0.6, "hspace": 0.35},
        ).ravel()
        for axes, (group, values) in zip(grid, inside.items(), strict=False):
            shown = values.head(NUMBERS_SHOWN)[::-1]
            colours = [COLORS[4] if value >= 0 else COLORS[0] for value in shown]
            axes.barh(range(len(shown)), shown.to_numpy(), color=colours)
            axes.set_ylim(len(shown) - NUMBERS_SHOWN - 0.5, len(shown) - 0.5)  # bars alike in every group
            axes.set_yticks(range(len(shown)), [str(name)[:18] for name in shown.index], fontsize=7)
            axes.axvline(0, color=GREY, linewidth=0.8)
            rest = f" ({len(shown)} of {len(values)})" if len(shown) < len(values) else ""
            axes.set_title(f"{group[:26]}{rest}", fontsize=7.5)
            axes.xaxis.set_tick_params(labelbottom=True, labelsize=7)
            axes.xaxis.set_major_locator(MaxNLocator(4))
        for axes in grid[len(inside) :]:
            axes.set_visible(False)
        drawing.supxlabel(label, fontsize=9, y=0.1 / height)
