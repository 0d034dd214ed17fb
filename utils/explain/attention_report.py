"""The attention of a patient as tables, maps and a section of the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_utils.cases.datasets import SlidePatches
from utils.explain.attention import Attention
from utils.explain.maps import patch_table
from utils.explain.report import Section, Table
from utils.files import atomic_path

TABLE, HEADS = "attention.csv", "attention_heads.npz"


def write_attention(attention: Attention, slides: Sequence[SlidePatches], folder: Path, heads: bool) -> None:
    """Writes the attention of every patch, mean over heads, as CSV, and where asked of every head as NPZ."""
    with atomic_path(folder / TABLE) as temporary:
        patch_table(slides, attention.columns()).to_csv(temporary, index=False, float_format="%.7g")
    if heads:
        layers: dict[str, Any] = {**attention.injectors, **attention.extractors}
        with atomic_path(folder / HEADS) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, groups=np.array(attention.groups), **layers)


def rollout_columns(attention: Attention) -> dict[str, np.ndarray]:
    """The rollout ``[L]`` by name, such as ``attention_task``, for the table of patches and QuPath."""
    return {f"attention_{group}": row for group, row in zip(attention.groups, attention.rollout, strict=True)}


def panels(attention: Attention) -> dict[tuple[str, str], np.ndarray]:
    """What is drawn, by stage and group ``[L]``: multiples of what every patch would have if all had the same.

    The mean over the heads and extractors of each stage, and the rollout.
    """
    stages: dict[str, list[np.ndarray]] = {}
    for name, heads in attention.extractors.items():
        stages.setdefault("stage " + name.split("_")[1], []).append(heads.mean(axis=0))
    layers = {stage: np.mean(rows, axis=0) for stage, rows in stages.items()} | {"rollout": attention.rollout}
    return {
        (layer, group): row / row.mean()
        for layer, rows in layers.items()
        for group, row in zip(attention.groups, rows, strict=True)
    }


def attention_section(attention: Attention) -> Section:
    """What the page says besides maps."""
    section = Section("Where the tokens look")
    section.notes.append(
        "Attention says what a token read from, not what moved the prediction. The rollout follows it through all "
        "stages; what the frozen slide encoder mixes between patches is not part of it."
    )
    rows = [
        [name, *(f"{_half(row):.0%}" for row in heads.mean(axis=0))]
        for name, heads in [*attention.extractors.items(), ("rollout", attention.rollout[None])]
    ]
    section.tables.append(
        Table(["share of the patches that hold half of the attention of", *attention.groups], rows)
    )
    rows = [
        [name, *(f"{share:.1%}" for share in np.nanmean(heads, axis=(0, 2))), f"{attention.taken[name]:.2%}"]
        for name, heads in attention.injectors.items()
    ]
    columns = ["what patches read, mean", *attention.groups, "share of the patch token that is read"]
    section.tables.append(Table(columns, rows))
    rows = [
        [group, f"{seen.sum():.1%}", *(f"{share:.1%}" for share in own)]
        for group, seen, own in zip(attention.groups, attention.rollout, attention.origin, strict=True)
    ]
    section.tables.append(Table(["rollout: comes from", "patches", *attention.groups], rows))
    return section


def _half(attention: np.ndarray) -> float:
    """The smallest share of the patches that together have half of the attention."""
    largest = np.sort(attention)[::-1].cumsum()
    return (np.searchsorted(largest, largest[-1] / 2) + 1) / len(largest)
