"""Gene-only networks and linear models on the genes of real patients: does a network at least reach the line?

    python -m tests.benchmarks.gene_models --tables FOLDER --work FOLDER --cohorts brca blca coadread --seeds 3

The tables are those of :mod:`tests.benchmarks.real_cohorts`. Networks are trained by train_modaltune.py on the CPU,
with heads for subtype and survival at once unless --objective says otherwise, and judged by these on the test patients
after the last epoch. A step of Gene Mixer at its published size takes as long on a CPU as fifty of the others, so that
it is of the demo's size unless --published_size is given. Linear models are PCA with logistic regression and Cox; what
validates best of several numbers of components. A training that is done is not done again: remove --work when the code
has changed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import train_modaltune
from tests.benchmarks.linear_models import METRICS, linear_models
from tests.benchmarks.real_cohorts import Cohort, add_other_genes_flag, write_cohort
from tests.small_runs import quick_evaluation

MODELS = ("mlp", "snn", "gene_mixer")
SMALL = {"gene_mixer": {"dim": 96, "hidden_dim": 32, "depth": 3, "num_tokens": 8}}


def train(cohort: Cohort, model: str, output: Path, args: argparse.Namespace) -> str:
    """The cell of a network: mean and deviation of its heads over the seeds."""
    output.mkdir(parents=True, exist_ok=True)
    config = output.with_suffix(".json")
    config.write_text(json.dumps({} if args.published_size else SMALL.get(model, {})))
    flags: dict[str, Any] = {
        **{name: path for name, path in cohort.files.items() if name != "text_location"},
        "mil_name": model,
        "model_config": config,
        "objective": args.objective,
        "output_path": output,
        "num_seeds": args.seeds,
        "eval_interval": 1000,
        "model_select": "last",
        "device": "cpu",
    }
    if args.recipe == "original":
        flags["recipe"] = args.recipe
    else:
        flags["num_epochs"] = args.epochs
    with quick_evaluation():  # intervals and figures are not looked at
        train_modaltune.main([word for flag, value in flags.items() for word in (f"--{flag}", str(value))])
    table = pd.read_csv(output / "results.csv")
    rows = table[(table.run == "mean") & (table.split == "test")].set_index("metric")
    cells = []
    for metric in METRICS:
        if (head := f"head_{metric}") in rows.index:
            found = rows.loc[head]
            cells.append(f"{found.value:.3f}" + (f" ± {found['std']:.3f}" if args.seeds > 1 else ""))
        else:
            cells.append("")
    return " / ".join(cells)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; see ``--help``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="gets generated files and run folders")
    parser.add_argument("--cohorts", nargs="+", default=["brca"])
    add_other_genes_flag(parser)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--objective", default="multitask", choices=("multitask", "subtype", "survival"))
    parser.add_argument(
        "--recipe", default="ours", choices=("ours", "original"), help="original: its own epochs"
    )
    parser.add_argument("--published_size", action="store_true", help="of Gene Mixer")
    args = parser.parse_args(argv)
    heads = ["cohort", *args.models, "linear models"]
    for line in ("| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"):
        sys.stdout.write(line + "\n")
    for name in args.cohorts:
        root = args.work / name
        cohort = write_cohort(args.tables, name, root, args.other_genes)
        found = linear_models(cohort.splits, cohort.modalities)
        cells = [train(cohort, model, root / f"{model}_{args.objective}", args) for model in args.models]
        cells.append(" / ".join(f"{found[metric]['test']:.3f}" for metric in METRICS))
        sys.stdout.write(f"| {' | '.join([name, *cells])} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
