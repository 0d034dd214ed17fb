"""Does every modality get through? The published and the balanced config on planted cohorts and on real RNA.

Planted cohorts (see tests.benchmarks.planted_modalities) hold the signal in one modality, two, an interaction, or all::

    python -m tests.benchmarks.modalities --work FOLDER --draws 5 --test

Real RNA stands beside random patch features, on published splits, so that every number above chance comes from the
genes (what the folder holds says tests.benchmarks.real_cohorts)::

    python -m tests.benchmarks.modalities --tables FOLDER --work FOLDER --cohorts brca --seeds 3 --test

Without --test the numbers are of the validation patients: settings are compared on these. A setting is a name and
what it changes in the balanced config, or in the flags of the training::

    python -m tests.benchmarks.modalities --work FOLDER --try decay flags.weight_decay=0.05 \\
        --try "without norm" gene_encoder.norm=false flags.lr=1e-3

Everything is trained by train_modaltune.py, on the CPU. A training that is done is not done again: remove --work
when the code has changed.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import train_modaltune
from models.encoders import slide_encoder
from tests.benchmarks.linear_models import METRICS, best_single, linear_models
from tests.benchmarks.planted_modalities import MODALITIES, ROWS, plant, write_planted
from tests.benchmarks.real_cohorts import Cohort, add_other_genes_flag, write_cohort
from tests.small_runs import quick_evaluation
from utils.files import read_json


@dataclass(frozen=True)
class Setting:
    """What is trained: a demo config of GigaPath, cut to one block, with keys and flags of its own."""

    name: str
    published: bool = False
    keys: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, words: Sequence[str]) -> Setting:
        """From ``NAME KEY=VALUE ...``; values are JSON where they can be."""
        keys = {}
        for word in words[1:]:
            key, _, value = word.partition("=")
            try:
                keys[key] = json.loads(value)
            except json.JSONDecodeError:
                keys[key] = value
        return cls(words[0], keys=keys)

    def config(self) -> dict[str, Any]:
        """The model config."""
        encoder = slide_encoder("gigapath")
        content = read_json(encoder.demo_config if self.published else encoder.demo_balanced_config)
        content["slide_encoder"] |= {"depth": 1, "segment_lengths": [64], "dilated_ratios": [1]}
        content |= {"interaction_indexes": [[0, 0]], "use_extra_extractor": False}
        for key, value in self.keys.items():
            if not key.startswith("flags."):
                *sections, name = key.split(".")
                inner = content
                for section in sections:
                    inner = inner.setdefault(section, {})
                inner[name] = deepcopy(value)
        return content

    @property
    def flags(self) -> dict[str, Any]:
        """Flags of the training that it changes."""
        return {k.removeprefix("flags."): v for k, v in self.keys.items() if k.startswith("flags.")}


def planted_cohort(row: str, root: Path, draw: int = 0) -> Cohort:
    """A row of the planted table, drawn and written to disk; nothing decides how long its patients live."""
    planted = plant(row, seed=draw)
    return Cohort(
        row, write_planted(planted, root, seed=draw), planted.splits(), MODALITIES, METRICS[:1], draw
    )


# ---------------------------------------------------------------------------- trainings
# Metric -> (mean, deviation over the seeds or standard error over the draws).
Values = dict[str, tuple[float, float]]


def train(cohort: Cohort, setting: Setting, output: Path, args: argparse.Namespace) -> Values:
    """Mean and deviation over the seeds of the metrics of the General token."""
    output.mkdir(parents=True, exist_ok=True)
    config = output.with_suffix(".json")
    config.write_text(json.dumps(setting.config()))
    flags: dict[str, Any] = {**cohort.files, "model_config": config, "output_path": output, "device": "cpu"}
    flags |= {"num_epochs": args.epochs, "num_seeds": args.seeds, "lr": args.lr, "gc": args.gc}
    flags["seed"] = cohort.draw
    flags |= {"eval_interval": 2, "cache_features": "ram"} | setting.flags
    if "clinical_location" in cohort.files:
        flags["mil_name"] = "longnetvit_gene_clinical_adapter"
    words = [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
    with quick_evaluation():  # intervals and figures are not looked at
        train_modaltune.main([*words, "--random_backbone"])
    table = pd.read_csv(output / "results.csv")
    split = "test" if args.test else "val"
    rows = table[(table.run == "mean") & (table.split == split) & (table.task == "General")]
    rows = rows.set_index("metric")
    spread = rows["std"] if args.seeds > 1 else rows["std"] * np.nan
    return {metric: (float(rows.value[metric]), float(spread[metric])) for metric in cohort.metrics}


def over_draws(draws: Sequence[Values]) -> Values:
    """Mean and standard error over drawn cohorts; a single one as it is."""
    if len(draws) == 1:
        return draws[0]
    found = {}
    for metric in draws[0]:
        means = np.array([values[metric][0] for values in draws])
        found[metric] = (float(means.mean()), float(means.std(ddof=1) / np.sqrt(len(means))))
    return found


def cell(values: Values) -> str:
    """Of the table; a deviation that is not there is not shown."""
    parts = (
        f"{mean:.3f}" + ("" if np.isnan(spread) else f" ± {spread:.3f}") for mean, spread in values.values()
    )
    return " / ".join(parts)


def measure(
    draws: Sequence[tuple[Cohort, Path]], settings: Sequence[Setting], args: argparse.Namespace
) -> str:
    """The line of a cohort, which may have been drawn several times."""
    split = "test" if args.test else "val"
    columns: list[list[Values]] = [
        [train(cohort, setting, root / re.sub(r"\W+", "_", setting.name), args) for cohort, root in draws]
        for setting in settings
    ]
    for fit in (best_single, linear_models):
        found = [fit(cohort.splits, cohort.modalities, cohort.metrics) for cohort, _ in draws]
        columns.append(
            [
                {m: (f[m][split], np.nan) for m in cohort.metrics}
                for f, (cohort, _) in zip(found, draws, strict=True)
            ]
        )
    # Of the same patients, so that its error is smaller than those of the two.
    pairs = zip(columns[-3], columns[-2], strict=True)
    ahead = [{m: (ours[m][0] - single[m][0], np.nan) for m in single} for ours, single in pairs]
    line = [draws[0][0].name, *(cell(over_draws(column)) for column in (*columns, ahead))]
    return f"| {' | '.join(line)} |"


def cohorts(args: argparse.Namespace) -> Iterator[list[tuple[Cohort, Path]]]:
    """Those asked for, with all their draws, and where files and trainings of each go."""
    for name in args.cohorts if args.tables else args.rows:
        root = args.work / re.sub(r"\W+", "_", name)
        if args.tables:
            yield [(write_cohort(args.tables, name, root, args.other_genes), root)]
        else:
            folders = [root / f"draw_{draw}" for draw in range(args.draws)]
            yield [(planted_cohort(name, folder, draw), folder) for draw, folder in enumerate(folders)]


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; see ``--help``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tables", type=Path, help="folder of real tables; without it, planted cohorts")
    parser.add_argument("--work", type=Path, required=True, help="gets generated files and run folders")
    parser.add_argument("--cohorts", nargs="+", default=["brca"])
    add_other_genes_flag(parser)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="planted cohorts")
    parser.add_argument(
        "--draws", type=int, default=1, help="planted cohorts a row, each with a seed of its own"
    )
    parser.add_argument("--seeds", type=int, default=1, help="of every cohort")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--gc", type=int, default=4)
    parser.add_argument(
        "--try", dest="settings", nargs="+", action="append", metavar="WORD", help="see above"
    )
    parser.add_argument("--test", action="store_true", help="test patients instead of validation patients")
    args = parser.parse_args(argv)
    if args.tables and args.draws > 1:
        parser.error("--draws is of planted cohorts; real ones are not drawn")
    settings = [Setting.parse(words) for words in args.settings or []]
    settings = settings or [Setting("published", published=True), Setting("balanced")]
    heads = ["cohort", *(s.name for s in settings), "best single modality, linear", "all modalities, linear"]
    heads.append(f"{settings[-1].name} less best single")
    for line in ("| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"):
        sys.stdout.write(line + "\n")
    for draws in cohorts(args):
        sys.stdout.write(measure(draws, settings, args) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
