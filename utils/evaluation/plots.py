"""Figures of a run. Functions take data and a path; one style, colours that colour-blind readers can tell apart."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from cycler import cycler
from lifelines import KaplanMeierFitter
from lifelines.statistics import logrank_test
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import roc_auc_score, roc_curve

from utils.evaluation.calibration import Reliability
from utils.files import atomic_path

# Okabe and Ito's palette, the strongest contrasts first.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#8A8A8A"
MARKERS = ("o", "^", "s", "D")
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": cycler(color=COLORS),
    "axes.formatter.limits": (-3, 4),
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "savefig.dpi": 200,
    "figure.constrained_layout.use": True,
}
TITLES = {"lr": "Learning rate"}
LOW_RISK, HIGH_RISK = COLORS[0], COLORS[1]

_caption: ContextVar[str] = ContextVar("caption", default="")


@contextmanager
def caption(text: str) -> Iterator[None]:
    """Every figure drawn in the block says under its panels what it is of: cohort, model, seed."""
    token = _caption.set(text)
    try:
        yield
    finally:
        _caption.reset(token)


@contextmanager
def figure(
    path: str | Path, width: float, height: float, style: dict[Any, Any] | None = None
) -> Iterator[Figure]:
    """A figure (inches) in the style of the repository, written atomically when the block succeeds.

    Drawn without pyplot: nothing is left open, and no display or global state is needed. ``style`` goes before
    :data:`STYLE`.
    """
    with matplotlib.rc_context({**STYLE, **(style or {})}):
        drawing = Figure(figsize=(width, height))
        FigureCanvasAgg(drawing)
        yield drawing
        if text := _caption.get():
            drawing.supxlabel(textwrap.fill(text, int(width * 16)), fontsize=7, color=GREY)
        with atomic_path(path) as temporary:
            drawing.savefig(temporary)


def class_labels(num_classes: int, names: Sequence[str] | None = None) -> list[str]:
    """Names of the classes, numbers where none are given."""
    return list(names) if names is not None else [f"class {c}" for c in range(num_classes)]


# ---------------------------------------------------------------------------- subtype
def roc(
    labels: np.ndarray,
    probabilities: np.ndarray,
    path: str | Path,
    title: str = "",
    class_names: Sequence[str] | None = None,
) -> None:
    """ROC curves of labels ``[n]`` and probabilities ``[n, classes]``, one-versus-rest for three and more.

    Classes without a case, or without a case outside them, have no curve.
    """
    num_classes = probabilities.shape[1]
    names = class_labels(num_classes, class_names)
    classes = [c for c in range(num_classes) if 0 < np.sum(labels == c) < len(labels)]
    if num_classes == 2:
        classes = classes[-1:]
    with figure(path, 3.6, 3.6) as drawing:
        axes = drawing.subplots()
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
        for color, c in zip(_cycle(len(classes)), classes, strict=True):
            false, true, _ = roc_curve(labels == c, probabilities[:, c])
            area = roc_auc_score(labels == c, probabilities[:, c])
            axes.plot(false, true, color=color, label=f"{names[c]}: AUC {area:.3f}", clip_on=False)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title=title)
        axes.set(xlabel="False positive rate", ylabel="True positive rate")
        if classes:
            axes.legend(loc="lower right")


def confusion(
    counts: np.ndarray, path: str | Path, title: str = "", class_names: Sequence[str] | None = None
) -> None:
    """Confusion matrix of counts ``[classes, classes]``, true classes in rows, shaded by row share."""
    num_classes = len(counts)
    # Long diagnoses are wrapped, else they lie over each other.
    names = [textwrap.fill(name, 16) for name in class_labels(num_classes, class_names)]
    rows = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, rows, out=np.zeros(counts.shape), where=rows > 0)
    side = 2.1 + 0.95 * num_classes
    with figure(path, side, side) as drawing:
        axes = drawing.subplots()
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for i, j in np.ndindex(counts.shape):
            color = "white" if share[i, j] > 0.55 else "black"
            label = f"{counts[i, j]}\n{share[i, j]:.0%}"
            axes.text(j, i, label, ha="center", va="center", color=color, fontsize=9)
        ticks = range(num_classes)
        axes.set_xticks(ticks, names)
        axes.set_yticks(ticks, names, rotation=90, va="center")
        axes.set(xlabel="Predicted", ylabel="True", title=title)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)


def reliability(groups: Mapping[str, Reliability], path: str | Path, title: str = "") -> None:
    """Accuracy over confidence of every group, with the number of cases in each interval below."""
    with figure(path, 3.6, 4.2) as drawing:
        axes, below = drawing.subplots(
            2, 1, sharex=True, gridspec_kw={"height_ratios": [4, 1], "hspace": 0.04}
        )
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
        for (name, group), color, marker in zip(groups.items(), _cycle(len(groups)), MARKERS, strict=False):
            filled = group.cases > 0
            axes.plot(
                group.confidence[filled],
                group.accuracy[filled],
                color=color,
                marker=marker,
                markersize=4,
                label=f"{name} (n = {group.cases.sum()})",
                clip_on=False,
            )
            edges = np.linspace(0, 1, len(group.cases) + 1)
            below.stairs(group.cases, edges, color=color)
        axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="Accuracy", title=title)
        below.set(xlabel="Probability of the predicted class", ylabel="Cases")
        axes.legend(loc="upper left")


# ---------------------------------------------------------------------------- numbers
def agreement(
    numbers: np.ndarray, predictions: np.ndarray, path: str | Path, title: str = "", name: str = ""
) -> None:
    """Predicted over true numbers ``[n]``; ``name`` says what they are."""
    both = np.concatenate([numbers, predictions])
    margin = 0.04 * max(np.ptp(both), 1e-9)
    ends = (both.min() - margin, both.max() + margin)
    with figure(path, 3.6, 3.6) as drawing:
        axes = drawing.subplots()
        axes.plot(ends, ends, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.scatter(numbers, predictions, s=14, color=COLORS[0], linewidths=0, alpha=0.8)
        axes.set(xlim=ends, ylim=ends, aspect="equal", title=title)
        axes.set(xlabel=f"{name}, true".lstrip(", "), ylabel=f"{name}, predicted".lstrip(", "))


# ---------------------------------------------------------------------------- survival
def logrank_p(durations: np.ndarray, events: np.ndarray, high: np.ndarray) -> float:
    """Two-sided p of the log-rank test between two groups; NaN where a group is empty or nobody died."""
    if high.all() or not high.any() or not events.any():
        return float("nan")
    result = logrank_test(durations[high], durations[~high], events[high], events[~high])
    return float(result.p_value)


def kaplan_meier(
    durations: np.ndarray, events: np.ndarray, high: np.ndarray, path: str | Path, title: str = ""
) -> float:
    """Kaplan-Meier curves (95 % bands) of patients at high and low risk, with the numbers at risk.

    Args:
        durations: months ``[n]``.
        events: 1 died, 0 censored ``[n]``.
        high: which patients are at high risk ``[n]``, bool.

    Returns:
        The log-rank p written into the figure.
    """
    p = logrank_p(durations, events, high)
    groups = [("Low risk", ~high, LOW_RISK), ("High risk", high, HIGH_RISK)]
    groups = [group for group in groups if group[1].any()]
    with figure(path, 4.4, 3.9) as drawing:
        axes, table = drawing.subplots(
            2, 1, sharex=True, gridspec_kw={"height_ratios": [6, 1], "hspace": 0.02}
        )
        for name, members, color in groups:
            deaths = int(events[members].sum())
            _survival_curve(axes, durations[members], events[members], color)
            axes.plot([], [], color=color, label=f"{name} (n = {members.sum()}, {deaths} died)")
        axes.set(ylim=(0, 1.02), xlim=(0, max(durations.max() * 1.02, 1e-3)), ylabel="Survival probability")
        axes.set_title(title, pad=22)
        axes.set_title(_p_text(p), loc="right", pad=22, fontsize=8, fontweight="normal")
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 3, 6, 10]))
        axes.legend(
            loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=2, columnspacing=1.2, handlelength=1.4
        )
        table.set(ylim=(len(groups) - 0.5, -0.5), xlabel="Months")
        table.set_yticks(range(len(groups)), [group[0] for group in groups])
        table.set_title("Patients at risk", fontsize=8, fontweight="normal")
        table.spines[:].set_visible(False)
        table.tick_params(length=0)
        table.tick_params(axis="y", pad=14)
        for row, (_, members, color) in enumerate(groups):
            table.get_yticklabels()[row].set_color(color)
            for tick in axes.get_xticks():
                if tick <= axes.get_xlim()[1]:
                    at_risk = int(np.sum(durations[members] >= tick))
                    table.text(tick, row, str(at_risk), ha="center", va="center", fontsize=8, color=color)
    return p


def _survival_curve(axes: Axes, durations: np.ndarray, events: np.ndarray, color: str) -> None:
    fitted = KaplanMeierFitter().fit(durations, events)
    curve = fitted.survival_function_.iloc[:, 0]
    low, high = fitted.confidence_interval_.to_numpy().T
    axes.step(curve.index, curve, where="post", color=color, clip_on=False)
    axes.fill_between(curve.index, low, high, step="post", color=color, alpha=0.15, linewidth=0)
    censored = np.unique(durations[events == 0])
    at = fitted.survival_function_at_times(censored)
    axes.plot(censored, at, linestyle="none", marker="|", markersize=5, markeredgewidth=0.8, color=color)


def _p_text(p: float) -> str:
    if np.isnan(p):
        return "log-rank p not evaluable"
    return "log-rank p < 0.001" if p < 0.001 else f"log-rank p = {p:.3f}"


# ---------------------------------------------------------------------------- embeddings
def embedding_map(
    points: np.ndarray, groupings: Mapping[str, Sequence[str]], path: str | Path, explained: np.ndarray
) -> None:
    """Cases in two dimensions, one panel for each way to group them.

    Args:
        points: ``[n, 2]`` principal components.
        groupings: title of a panel and the group of every case.
        path: of the figure.
        explained: share of the variance that each component explains ``[2]``.
    """
    with figure(path, 5.6 * len(groupings), 3.6) as drawing:
        for axes, (title, groups) in zip(
            drawing.subplots(1, len(groupings), squeeze=False)[0], groupings.items(), strict=True
        ):
            names = sorted(set(groups))
            for index, (color, name) in enumerate(zip(_cycle(len(names)), names, strict=True)):
                members = np.array([group == name for group in groups])
                # Once colours repeat, shapes tell groups apart.
                marker = MARKERS[index // len(COLORS) % len(MARKERS)]
                x, y = points[members].T
                axes.scatter(x, y, s=14, color=color, marker=marker, linewidths=0, alpha=0.8)
                axes.scatter([], [], s=14, color=color, marker=marker, label=f"{name} ({members.sum()})")
            axes.set(title=title)
            axes.set(xlabel=f"PC 1 ({explained[0]:.0%})", ylabel=f"PC 2 ({explained[1]:.0%})")
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


# ---------------------------------------------------------------------------- training
def training_curves(history: pd.DataFrame, path: str | Path) -> None:
    """Curves of a training run, one panel for every quantity.

    Args:
        history: a row per epoch with a column ``epoch``. Columns ``train_x``, ``val_x`` and ``x/Task``
            share the panel of ``x``. Epochs without a value (NaN) are skipped.
    """
    panels: dict[str, list[str]] = {}
    for column in history.columns:
        if column != "epoch" and history[column].notna().any():
            panels.setdefault(_quantity(column), []).append(column)
    columns = min(3, max(len(panels), 1))
    rows = -(-max(len(panels), 1) // columns)
    with figure(path, 3.3 * columns, 2.5 * rows) as drawing:
        grid = drawing.subplots(rows, columns, squeeze=False).ravel()
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        for axes, (quantity, names) in zip(grid, panels.items(), strict=False):
            for color, name in zip(_cycle(len(names)), names, strict=True):
                points = history[["epoch", name]].dropna()
                label = name.replace(quantity, "").strip("_/").replace("_/", " ")
                marker = "o" if len(points) <= 40 else ""
                axes.plot(
                    points["epoch"], points[name], color=color, marker=marker, markersize=3, label=label
                )
            axes.set(title=TITLES.get(quantity, quantity.replace("_", " ").capitalize()), xlabel="Epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if len(names) > 1:
                axes.legend()


def forest(differences: pd.DataFrame, path: str | Path, title: str, reference: str) -> None:
    """How methods differ from one of them, a panel for every cohort.

    Args:
        differences: columns method, cohort, difference, ci_low and ci_high, p; rows without an interval are left out.
        path: picture to write.
        title: what differs.
        reference: the method at zero.
    """
    rows = differences[differences["ci_low"].notna()]
    methods, cohorts = list(dict.fromkeys(rows["method"])), list(dict.fromkeys(rows["cohort"]))
    with figure(path, 1.6 + 2.4 * len(cohorts), 1.0 + 0.3 * len(methods)) as drawing:
        panels = drawing.subplots(1, len(cohorts), squeeze=False, sharey=True, sharex=True)[0]
        for axes, cohort in zip(panels, cohorts, strict=True):
            own = rows[rows["cohort"] == cohort]
            places = [methods.index(method) for method in own["method"]]
            colors = [COLORS[1] if p < 0.05 else COLORS[0] for p in own["p"]]
            axes.axvline(0, color=GREY, linewidth=0.8)
            axes.hlines(places, own["ci_low"], own["ci_high"], colors=colors)
            axes.scatter(own["difference"], places, c=colors, s=18, zorder=3)
            axes.set(title=cohort, xlabel=f"Difference from {reference}")
        panels[0].set_yticks(range(len(methods)), methods)
        panels[0].set_ylim(len(methods) - 0.5, -0.5)
        drawing.suptitle(f"{title}: 95 % interval, p < 0.05 after Holm in orange", fontsize=9)


def _quantity(column: str) -> str:
    return re.sub(r"^(train|val|test)_", "", column.split("/")[0])


def _cycle(number: int) -> list[str]:
    return [COLORS[i % len(COLORS)] for i in range(number)]
