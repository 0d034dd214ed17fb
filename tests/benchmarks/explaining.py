"""What an explanation costs beside passes of the same model over the same case, at the published size::

    python -m tests.benchmarks.explaining --patches 1024

CPU seconds of this process, so that other work on the machine counts little. The cost of 20 steps follows from those of
one and of three: every step costs the same.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from models.aggregators import DataSpec, build_aggregator
from models.encoders import slide_encoder
from tests.benchmarks.training_step import MODELS, published_size_case, published_size_pathways
from tests.structures import structures
from utils.explain.attribution import PATCHES, explain_case
from utils.explain.targets import Linear, LinearTarget
from utils.files import read_json

STEPS = 20
# Larger cases are measured once, without a first run.
WARM_UP_PATCHES = 256


def cpu_seconds(work: Callable[[], object], warm_up: bool = True) -> float:
    """Of one call; of small cases the second, so that nothing is allocated for the first time."""
    if warm_up:
        work()
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(encoder: str, patches: int) -> dict[str, float]:
    """CPU seconds of a pass forwards and backwards of one task and of all, and of an explanation of 20 steps."""
    torch.manual_seed(0)
    config = read_json(slide_encoder(encoder).config)
    found = structures(published_size_pathways())
    model = build_aggregator(MODELS[encoder], config, DataSpec(found)).eval()
    case = published_size_case(encoder, patches, config["slide_encoder"]["in_dim"])
    weights = np.random.default_rng(0).normal(size=config["output_dim"])
    target = LinearTarget("risk", "risk", 0, Linear.plain(weights, np.zeros(())))
    baselines = {
        PATCHES: torch.zeros(case.features.shape[1]),
        "genes": torch.zeros(len(case.inputs["genes"])),
    }

    def training_pass(tasks: Sequence[int] | None) -> None:
        model(case, tasks).square().sum().backward()
        model.zero_grad()

    def explanation(steps: int) -> None:
        explain_case(model, case, target, baselines, found, steps, max_steps=steps)

    warm_up = patches <= WARM_UP_PATCHES
    one, three = (cpu_seconds(lambda n=n: explanation(n), warm_up) for n in (1, 3))
    each = (three - one) / 2
    return {
        "pass of one task": cpu_seconds(lambda: training_pass([0]), warm_up),
        "pass of all tasks": cpu_seconds(lambda: training_pass(None), warm_up),
        "step of an explanation": each,
        f"explanation of {STEPS} steps": one + (STEPS - 1) * each,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; see ``--help``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", choices=MODELS, default="gigapath")
    parser.add_argument("--patches", type=int, default=1024)
    args = parser.parse_args(argv)
    found = measure(args.encoder, args.patches)
    whole = found[f"explanation of {STEPS} steps"]
    for name, value in found.items():
        sys.stdout.write(f"{name}: {value:.2f} s of CPU, the explanation costs {whole / value:.1f} of them\n")


if __name__ == "__main__":
    main()
