"""Kills trainings at random moments, continues them, and compares them with one that was never killed.

    python -m tests.soak.kill_resume --kills 200

Every training is the whole entry point on a generated cohort, of ModalTune and of a baseline by turns, with
dropout, gradient accumulation and a checkpoint after every case or every few. It is killed up to three times, by
SIGKILL or SIGTERM, at moments drawn from the processor time of the undisturbed run, then runs to its end. Weights,
optimiser, metrics, embeddings and report must equal the undisturbed run's bit for bit, and no half-written file may
be left.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch

import train_modaltune
from tests.forked import finish, start
from tests.small_cohort import IN_DIM, SmallCohort, make_small_cohort
from tests.small_runs import quick_evaluation
from utils import constants
from utils.evaluation.embeddings import Embeddings
from utils.files import setup_logging
from utils.training import checkpoint
from utils.training.signals import EXIT_INTERRUPTED
from utils.training.trainer import BEST_WEIGHTS, LAST_CHECKPOINT

logger = logging.getLogger(__name__)

MOST_KILLS_OF_A_RUN = 3
# What is trained: --mil_name and how its flags differ. A baseline has dropout and heads of its own.
BASELINE = {"feature_dim": IN_DIM, "hidden_dim": 8, "attention_dim": 8, "fusion": {"dim": 8}}
MODELS: dict[str, dict] = {
    "longnetvit_gene_adapter": {"num_tasks": 1},
    "abmil_cat": {"mil_name": "abmil_cat", "text_location": None},
}
# After every case, or after some.
CHECKPOINT_MINUTES = (0.0, 0.002)


def train(
    cohort: SmallCohort,
    output: Path,
    workers: int = 0,
    minutes: float = 0.0,
    model: str = "longnetvit_gene_adapter",
) -> None:
    """One training, for a process of its own: probes with few resamples and no figures."""
    output.mkdir(parents=True, exist_ok=True)
    with output.with_suffix(".log").open("ab") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
    logging.disable()
    torch.set_num_threads(1)
    own = dict(MODELS[model])
    if model == "abmil_cat":
        own["model_config"] = cohort.root / "abmil_cat.json"
        own["model_config"].write_text(json.dumps(BASELINE))
    flags = cohort.flags(
        output, num_epochs=3, gc=3, checkpoint_minutes=minutes, workers=workers, threshold=6, **own
    )
    with quick_evaluation():
        train_modaltune.main(flags)


def assert_same(one: object, other: object, place: str) -> None:
    """Raises an AssertionError that names the place where two nested values differ in a single bit."""
    assert type(one) is type(other), place
    if isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_same(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), place
        for k, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{place}[{k}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), place
    else:
        assert one == other or (one != one and other != other), f"{place}: {one} {other}"


def assert_same_run(one: Path, other: Path, fingerprint: bool = True) -> None:
    """Raises an AssertionError where two run folders differ in any number.

    ``fingerprint=False`` allows that they were started with different names.
    """
    for name in ("metrics.csv", "report.csv"):
        assert (one / "seed_0" / name).read_text() == (other / "seed_0" / name).read_text(), name
    for name in (BEST_WEIGHTS, LAST_CHECKPOINT):
        a, b = (checkpoint.load(folder / "seed_0" / name) for folder in (one, other))
        if not fingerprint:
            a, b = ({k: v for k, v in content.items() if k != "fingerprint"} for content in (a, b))
        assert_same(a, b, name)
    for split in constants.SPLITS:
        paths = [folder / "seed_0" / "data" / f"{split}_embeddings.npz" for folder in (one, other)]
        a, b = map(Embeddings.load, paths)
        assert a.case_ids == b.case_ids and np.array_equal(a.vectors, b.vectors), split
    files = [{path.relative_to(folder) for path in folder.rglob("*")} for folder in (one, other)]
    assert files[0] == files[1], files[0] ^ files[1]


def _seconds_of_children() -> float:
    """Processor time of finished child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _work(process: BaseProcess, seconds: float) -> None:
    """Waits until a process has used so much processor time (whatever else the machine does) or has ended."""
    stat = Path(f"/proc/{process.pid}/stat")
    while process.is_alive():
        user, system = stat.read_text().rpartition(") ")[2].split()[11:13]
        if (int(user) + int(system)) / os.sysconf("SC_CLK_TCK") >= seconds:
            return
        time.sleep(0.003)


def soak(folder: Path, kills: int, seed: int, workers: Sequence[int] = (0,)) -> Counter[str]:
    """Kills trainings ``kills`` times in all; returns how often they ended in which way.

    Raises:
        AssertionError: a continued run differs from the undisturbed one, or ended in an unexpected way.
    """
    generator = random.Random(seed)
    cohort = make_small_cohort(folder / "cohort", train=7, val=3, test=3)
    duration = {}
    for model in MODELS:
        before = _seconds_of_children()
        assert finish(start(train, cohort, folder / model, 0, 0.0, model)) == 0
        duration[model] = _seconds_of_children() - before
    ends: Counter[str] = Counter()
    while ends["killed"] < kills:
        output, model = folder / f"run_{ends['runs']}", list(MODELS)[ends["runs"] % len(MODELS)]
        for attempt in range(MOST_KILLS_OF_A_RUN + 1):
            minutes = generator.choice(CHECKPOINT_MINUTES)
            process = start(train, cohort, output, generator.choice(workers), minutes, model)
            if attempt < MOST_KILLS_OF_A_RUN and ends["killed"] < kills:
                _work(process, generator.uniform(0, 0.95 * duration[model]))
            number = generator.choice([signal.SIGKILL, signal.SIGTERM])
            if attempt == MOST_KILLS_OF_A_RUN or ends["killed"] == kills:
                status = finish(process)
            elif process.is_alive():
                os.kill(process.pid, number)
                ends["killed"] += 1
                status = finish(process)
            else:
                status = finish(process)
            # SIGTERM before or after the training itself has its usual effect, or comes after the end.
            allowed = {-signal.SIGKILL, -signal.SIGTERM, EXIT_INTERRUPTED, 0}
            assert status in allowed, output.with_suffix(".log").read_text()[-3000:]
            ends[{0: "finished", EXIT_INTERRUPTED: "saved and left"}.get(status, f"signal {-status}")] += 1
            if (output / "results.csv").exists() and status == 0:
                break
        assert_same_run(folder / model, output)
        ends["runs"] += 1
        logger.info("%d runs, %d kills: all equal", ends["runs"], ends["killed"])
    return ends


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 0, 0, 1], help="drawn for every start")
    args = parser.parse_args(argv)
    setup_logging()
    with tempfile.TemporaryDirectory() as folder:
        ends = soak(Path(folder), args.kills, args.seed, args.workers)
    logger.info("every continued run equals the undisturbed one; ends: %s", dict(ends))


if __name__ == "__main__":
    sys.exit(main())
