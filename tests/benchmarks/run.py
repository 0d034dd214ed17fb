"""``python -m tests.benchmarks.run``: seconds and peak memory of every stage, one table.

Every row runs in a process of its own, so that its peak memory is its own. The last column but one is the
speed of a fixed float32 matrix product at that moment: compare seconds times that speed, not seconds.
``--only gigapath/1024 dataset`` selects rows whose names contain one of the words. Rows on GPUs appear where
there is one.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import torch
from tqdm import tqdm

from tests.benchmarks.measuring import Row
from tests.benchmarks.training_step import MODELS, Step, measure

SIZES = (1024, 4096, 10_000, 25_000)
# Sizes at which the straightforward way fits into 24 GB.
COMPARED = (1024,)
COLUMNS = ("row", "seconds", "peak GiB", "GFLOP/s", "note")


def steps() -> list[Step]:
    """Steps of the whole model."""
    devices = ("cpu", *(["cuda"] if torch.cuda.is_available() else []))
    found = [Step(*row) for row in product(MODELS, SIZES, ("train", "eval"), ("fp32", "bf16"), devices)]
    compared = [s for s in found if s.patches in COMPARED and s.precision == "fp32" and s.device == "cpu"]
    return found + [replace(step, way="straightforward") for step in compared]


def parts() -> dict[str, Callable[[int], Row]]:
    """All other rows. Imported here, so that what they import is not in the memory of whole models."""
    from tests.benchmarks import baselines, parts, reading

    return {**parts.PARTS, **reading.PARTS, **baselines.parts()}


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table, or one row as JSON with ``--row``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[""], help="rows whose names contain one of these words")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--activation_checkpointing", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--compile", action="store_true", help="as the flag of the trainings")
    parser.add_argument("--list", action="store_true", help="print the names of the rows and stop")
    parser.add_argument("--row", help="measure this row in this process and print it as JSON")
    args = parser.parse_args(argv)
    whole = {step.name: step for step in steps()}
    if args.row:
        if args.row in whole:
            result = measure(whole[args.row], args.activation_checkpointing, args.compile, args.repeats)
        else:
            result = parts()[args.row](args.repeats)
        sys.stdout.write(json.dumps(result) + "\n")
        return
    chosen = [name for name in (*whole, *parts()) if any(word in name for word in args.only)]
    if not chosen:
        parser.error(f"no row contains any of {args.only}; see --list")
    if args.list:
        sys.stdout.write("\n".join(chosen) + "\n")
        return
    versions = f"Python {platform.python_version()}, PyTorch {torch.__version__}"
    sys.stdout.write(f"{versions}, {platform.machine()}, {torch.get_num_threads()} threads\n\n")
    sys.stdout.write(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}\n")
    for name in tqdm(chosen, disable=None):
        sys.stdout.write(_measured(name, args) + "\n")
        sys.stdout.flush()


def _measured(name: str, args: argparse.Namespace) -> str:
    """The line of a row, measured in a new process."""
    command = [sys.executable, "-m", "tests.benchmarks.run", "--row", name, "--repeats", str(args.repeats)]
    command += ["--activation_checkpointing", args.activation_checkpointing]
    command += ["--compile"] if args.compile else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:  # out of memory, say: the other rows still count
        sys.stderr.write(done.stderr)
        return f"| {name} | failed (exit status {done.returncode}) | - | - | - |"
    row = json.loads(done.stdout.splitlines()[-1])
    second = f"{row['seconds']:.3g}" if row["seconds"] < 100 else f"{row['seconds']:.0f}"
    return f"| {name} | {second} | {row['peak_gib']:.2f} | {row['gflops']:.0f} | {row.get('note', '')} |"


if __name__ == "__main__":
    main()
