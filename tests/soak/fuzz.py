"""Damages valid input files in many ways and looks at what the public commands make of them.

    python -m tests.soak.fuzz clinical --cases 200 --seed 0

Kinds are in :data:`KINDS`. Every case is one of:

- ``right``: the command ends well, and its output is that of the sound file, texts and numbers;
- ``clear``: it stops with an error that names the damaged file;
- ``unclear``: it stops with another error, or quotes the file at length;
- ``silent``: it ends well with other values, although nothing in the file says so;
- ``hang``: it computes longer than :data:`LIMIT` seconds, or waits twenty times as long;
- ``escaped``: it wrote beside its folder;
- ``lost``: a file that was there before is gone.
"""

from __future__ import annotations

import argparse
import io
import logging
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from tests.soak import damage
from tests.soak.runs import Runs, Texts, Tiles
from tests.soak.tables import OwnTable, Rows, Tables
from utils.files import FileError
from utils.training.trainer import BEST_WEIGHTS

LIMIT = 60


class Hang(Exception):
    """A command took too long."""


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        world: makes the sound files.
        path: the one to damage.
        command: reads it; gives what it made of it.
        change: how it is damaged.
    """

    world: Callable[[Path], Any]
    path: Callable[[Any], Path]
    command: Callable[[Any], Rows]
    change: damage.Change = damage.text


def _new(change: damage.Change, path: str) -> Kind:
    """A feature file of a new patient."""
    return Kind(Runs, lambda r: r.features / path, lambda r: r.predict(r.run), change)


KINDS: Mapping[str, Kind] = {
    "clinical": Kind(Tables, lambda t: t.clinical, lambda t: t.make_splits()),
    "slides": Kind(Tables, lambda t: t.slides, lambda t: t.make_splits()),
    "genes": Kind(Tables, lambda t: t.genes, lambda t: t.make_splits()),
    "expression": Kind(Tables, lambda t: t.expression, lambda t: t.make_genes()),
    "pathways": Kind(Tables, lambda t: t.pathways, lambda t: t.make_genes()),
    "split": Kind(Tables, lambda t: t.split(), lambda t: t.make_clinical(), damage.json_file),
    "cohort": Kind(Tables, lambda t: t.cohort, lambda t: t.make_splits(), damage.json_file),
    "tasks": Kind(Tables, lambda t: t.tasks, lambda t: t.read_tasks(), damage.json_file),
    "model config": Kind(Runs, lambda r: r.cohort.model_config, lambda r: r.given(), damage.json_file),
    "texts": Kind(Runs, lambda r: r.cohort.texts, lambda r: r.given(), damage.tensors),
    "folds csv": Kind(Runs, lambda r: r.folds, lambda r: r.given(fold_json=r.folds)),
    "folds json": Kind(
        Runs, lambda r: r.folds_json, lambda r: r.given(fold_json=r.folds_json), damage.json_file
    ),
    "report": Kind(Runs, lambda r: r.report, lambda r: r.again()),
    "checkpoint": Kind(
        Runs, lambda r: r.run / "seed_0" / "best_model_weights.pt", lambda r: r.predict(r.run), damage.tensors
    ),
    "published": Kind(Runs, lambda r: r.published, lambda r: r.evaluate(r.published), damage.tensors),
    "slide encoder": Kind(Runs, lambda r: r.encoder, lambda r: r.encode(r.encoder), damage.tensors),
    "safetensors": Kind(
        Runs, lambda r: r.encoder_st, lambda r: r.encode(r.encoder_st), damage.safetensors_file
    ),
    "probes": Kind(Runs, lambda r: r.run / "seed_0" / "probes.npz", lambda r: r.predict(r.run), damage.npz),
    "run config": Kind(Runs, lambda r: r.run / "config.json", lambda r: r.predict(r.run), damage.json_file),
    "features h5": _new(damage.hdf5, "TCGA-AA-0001.h5"),
    "features pt": _new(damage.tensors, "TCGA-AA-0002.pt"),
    "features npy": _new(damage.npy, "TCGA-AA-0003.npy"),
    "coords npy": _new(damage.npy, "TCGA-AA-0003_coords.npy"),
    "clinical pt": Kind(
        Runs, lambda r: r.table("clinical.pt"), lambda r: r.predict(r.big_run), damage.tensors
    ),
    "vectors": Kind(Runs, lambda r: r.table("vectors.pt"), lambda r: r.predict(r.big_run), damage.tensors),
    "text config": Kind(Texts, lambda t: t.config, lambda t: t.embed(), damage.json_file),
    "tokenizer": Kind(Texts, lambda t: t.tokenizer, lambda t: t.embed()),
    "text tower": Kind(Texts, lambda t: t.weights, lambda t: t.embed(), damage.tensors),
    "own table": Kind(OwnTable, lambda t: t.csv, lambda t: t.make_splits(t.csv)),
    "own workbook": Kind(OwnTable, lambda t: t.xlsx, lambda t: t.make_splits(t.xlsx), damage.hole),
    "bundle": Kind(
        Runs, lambda r: r.bundle / "seed_0" / BEST_WEIGHTS, lambda r: r.predict(r.bundle), damage.tensors
    ),
    "tile config": Kind(Tiles, lambda t: t.config, lambda t: t.extract(), damage.json_file),
    "tile encoder": Kind(Tiles, lambda t: t.weights, lambda t: t.extract(), damage.tensors),
}


# ---------------------------------------------------------------------------- judging
@contextmanager
def limited() -> Iterator[None]:
    """Raises Hang in a block that takes too long."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang

    # Computing without end, or waiting without end; a busy machine is neither.
    clocks = {signal.ITIMER_PROF: (signal.SIGPROF, LIMIT), signal.ITIMER_REAL: (signal.SIGALRM, 20 * LIMIT)}
    before = {number: signal.signal(number, stop) for number, _ in clocks.values()}
    for clock, (_, seconds) in clocks.items():
        signal.setitimer(clock, seconds)
    try:
        yield
    finally:
        for clock, (number, _) in clocks.items():
            signal.setitimer(clock, 0)
            signal.signal(number, before[number])


def judge(path: Path, command: Callable[[], Rows], sound: Rows) -> tuple[str, str]:
    """The class of a case, and what the command said."""
    printed = io.StringIO()
    try:
        with limited(), redirect_stderr(printed):
            found = command()
    except Hang:
        return "hang", ""
    except (Exception, SystemExit) as error:
        # Wrong flags end with a usage message, status 2.
        message = printed.getvalue() if isinstance(error, SystemExit) else str(error)
        expected = isinstance(error, (FileError, OSError)) or getattr(error, "code", None) == 2
        # The coordinates beside a plain array are named by its name.
        named = path.stem.removesuffix("_coords") in message
        clear = expected and named and "x" * 201 not in message
        return "clear" if clear else "unclear", repr(error)[:300]
    other = [case for case, row in found.items() if case in sound and not _same(row, sound[case])]
    return ("silent" if other else "right"), f"other values of {other[:3]}" if other else ""


def _same(row: Mapping[str, Any], sound: Mapping[str, Any]) -> bool:
    """Whether what two rows both have is the same; a value that is missing is not another one."""
    shared = row.keys() & sound.keys()
    missing = (None, "")
    return all(row[n] == sound[n] or row[n] in missing or sound[n] in missing for n in shared)


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def fuzz(
    kind: str, cases: int, seed: int, world: Any, seconds: float = 1e9
) -> tuple[Counter[str], list[str]]:
    """How many cases are of which class, and a line for every one that should not be.

    Stops early after so many seconds.
    """
    rng, counts, faults = random.Random(f"{kind} {seed}"), Counter[str](), []
    path, begun = KINDS[kind].path(world), time.monotonic()

    def command() -> Rows:
        return KINDS[kind].command(world)

    sound, content = command(), path.read_bytes()
    inside, beside = _files(world.folder), set(world.folder.parent.iterdir())
    for _ in range(cases):
        what, changed = KINDS[kind].change(content, rng)
        path.write_bytes(changed)
        found, said = judge(path, command, sound)
        if gone := inside - _files(world.folder):
            found, said = "lost", f"{sorted(gone)[:3]}"
        if more := set(world.folder.parent.iterdir()) - beside:
            found, said = "escaped", f"{sorted(more)[:3]}"
        counts[found] += 1
        if found not in ("right", "clear"):
            faults.append(f"{kind}, {what}: {found} {said}")
        path.write_bytes(content)
        if time.monotonic() - begun > seconds:
            break
    return counts, faults


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 1 where a case is silent, hangs, escapes or loses something."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("kinds", nargs="+", choices=[*KINDS, "all"])
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seconds", type=float, default=1e9, help="for each kind; then it stops at what it has"
    )
    args = parser.parse_args(argv)
    logging.disable(logging.CRITICAL)
    total: Counter[str] = Counter()
    worlds: dict[Callable[[Path], Any], Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS if "all" in args.kinds else args.kinds:
            make, begun = KINDS[kind].world, time.process_time()
            if make not in worlds:
                (root := Path(folder) / make.__name__).mkdir()
                worlds[make] = make(root)
            counts, faults = fuzz(kind, args.cases, args.seed, worlds[make], args.seconds)
            total += counts
            sys.stdout.write(f"{kind:<14} {dict(counts)} {time.process_time() - begun:.1f} s\n")
            sys.stdout.write("".join(f"    {fault}\n" for fault in faults))
            sys.stdout.flush()
    return int(any(total[name] for name in ("silent", "hang", "escaped", "lost")))


if __name__ == "__main__":
    raise SystemExit(main())
