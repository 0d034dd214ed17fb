"""Seconds and peak memory of ModalTune on one case, at the published size.

``python -m tests.benchmarks.training_step --encoder titan`` prints a table. Every row runs in a process of its own,
so that its peak memory is its own; a fixed matrix product beside it tells how fast the machine was at
that moment.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from statistics import median

import numpy as np
import torch

from data_utils.case import Case
from models.aggregators import DataSpec, build_aggregator
from utils import constants
from utils.files import read_json

NUM_PATHWAYS, NUM_GENES, NUM_MEMBERS = 331, 4999, 9745
MODELS = {"gigapath": "longnetvit_gene_adapter", "titan": "titan_gene_adapter"}
PATCH_SIZE = {"gigapath": 256, "titan": 1024}


def published_size_pathways() -> tuple[tuple[int, ...], ...]:
    """331 random pathways with as many memberships as the published table, sizes as uneven."""
    generator = np.random.default_rng(0)
    sizes = np.exp(generator.normal(2.2, 1.3, NUM_PATHWAYS)).clip(1, 199)
    sizes = np.maximum(1, (sizes * NUM_MEMBERS / sizes.sum()).astype(int))
    return tuple(tuple(generator.choice(NUM_GENES, size, replace=False).tolist()) for size in sizes)


def yardstick() -> float:
    """GFLOP/s of the product 4096 x 768 x 3072 in float32."""
    a, b = torch.randn(4096, 768), torch.randn(768, 3072)
    a @ b
    start = time.perf_counter()
    for _ in range(5):
        a @ b
    return 5 * 2 * 4096 * 768 * 3072 / (time.perf_counter() - start) / 1e9


def measure(
    encoder: str, patches: int, dtype: str, step: str, checkpointing: str, repeats: int
) -> dict[str, float]:
    """Runs one row in this process."""
    torch.manual_seed(0)
    config = read_json(constants.SLIDE_ENCODERS[encoder].config)
    model = build_aggregator(MODELS[encoder], config, DataSpec(published_size_pathways()))
    model.activation_checkpointing = checkpointing
    model.train(step == "train")
    side = int(patches**0.5) + 1
    cells = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1)
    case = Case(
        "benchmark",
        "",
        "",
        torch.randn(patches, config["slide_encoder"]["in_dim"]),
        cells.reshape(-1, 2)[:patches] * PATCH_SIZE[encoder],
        PATCH_SIZE[encoder],
        genes=torch.randn(NUM_GENES),
    )
    seconds = []
    speed = yardstick()
    for _ in range(repeats):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            if step == "train":
                model(case).float().square().sum().backward()
                model.zero_grad()
            else:
                with torch.inference_mode():
                    model(case)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": median(seconds), "peak_gib": peak, "gflops": speed}


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table, or one row as JSON with ``--row``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", choices=sorted(MODELS), default="gigapath")
    parser.add_argument("--patches", type=int, nargs="+", default=[1024, 4096, 10_000])
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--steps", nargs="+", default=["train", "eval"])
    parser.add_argument("--checkpointing", default="auto")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--row", action="store_true", help="measure the first row in this process")
    args = parser.parse_args(argv)
    if args.row:
        first = (args.patches[0], args.dtypes[0], args.steps[0])
        row = measure(args.encoder, *first, args.checkpointing, args.repeats)
        sys.stdout.write(json.dumps(row) + "\n")
        return
    line = "{:>8} {:>6} {:>6} {:>9} {:>9} {:>8}" + (" {:>9}\n" if args.encoder == "titan" else "\n")
    sys.stdout.write(line.format("patches", "step", "dtype", "seconds", "peak GiB", "GFLOP/s", "dense GiB"))
    for patches in args.patches:
        for step in args.steps:
            for dtype in args.dtypes:
                command = [sys.executable, "-m", "tests.benchmarks.training_step", "--row"]
                command += ["--patches", str(patches), "--dtypes", dtype, "--steps", step]
                command += [
                    "--encoder",
                    args.encoder,
                    "--checkpointing",
                    args.checkpointing,
                    "--repeats",
                    str(args.repeats),
                ]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    sys.stdout.write(line.format(patches, step, dtype, "failed", "-", "-", "-"))
                    sys.stderr.write(done.stderr)
                    continue
                row = json.loads(done.stdout.splitlines()[-1])
                values = [f"{row['seconds']:.2f}", f"{row['peak_gib']:.2f}", f"{row['gflops']:.0f}"]
                # The published code keeps the biases of its 12 heads, in float32 here.
                values.append(f"{12 * (patches + 1) ** 2 * 4 / 2**30:.2f}")
                sys.stdout.write(line.format(patches, step, dtype, *values))
                sys.stdout.flush()


if __name__ == "__main__":
    main()
