"""Damages valid input files in many ways and looks at what the public commands make of them.

    python -m tests.soak.fuzz clinical --cases 200 --seed 0

Kinds are in :data:`KINDS`. Every case is one of:

- ``right``: the command ends well, and every patient in its output has the values of the sound file;
- ``clear``: it stops with an error that names the damaged file;
- ``unclear``: it stops with another error;
- ``silent``: it ends well with other values, although nothing in the file says so;
- ``hang``: it takes longer than :data:`LIMIT` seconds.

A changed digit is no damage that anybody could see, so none of the changes makes a number of a number.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd

from data_utils import make_clinical, make_dataset, make_gene_dataset
from data_utils.features.store import FeatureMeta, write_features
from data_utils.tables.gdc import split_paths
from utils.constants import SPLITS

LIMIT = 60
CASES = 16
Rows = dict[str, Any]


class Hang(Exception):
    """A command took too long."""


# ---------------------------------------------------------------------------- sound files and commands
class Inputs:
    """Sound files of a small cohort in a folder, and the commands that read them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(0)
        self.cases = [f"TCGA-AA-{n:04d}" for n in range(CASES)]
        self.clinical, self.slides = folder / "clinical.tsv", folder / "slide.tsv"
        rows = [self._clinical_row(n, case) for n, case in enumerate(self.cases)]
        pd.DataFrame(rows).to_csv(self.clinical, sep="\t", index=False)
        names = [f"{case}-01Z-00-DX1" for case in self.cases]
        slides = pd.DataFrame({"case_submitter_id": self.cases, "slide_submitter_id": names})
        slides.to_csv(self.slides, sep="\t", index=False)
        for name in names:
            patches = np.ones((2, 4), np.float32), np.zeros((2, 2), np.int64)
            write_features(folder / "features" / f"{name}.h5", *patches, FeatureMeta(encoder="gigapath"))
        self.expression, self.pathways = folder / "matrix.tsv", folder / "pathways.csv"
        genes = [f"GENE{n}" for n in range(8)]
        samples = [f"{case}-01" for case in self.cases]
        values = rng.normal(size=(8, CASES)).round(3)
        pd.DataFrame(values, pd.Index(genes, name="sample"), samples).to_csv(self.expression, sep="\t")
        member = pd.DataFrame({"P": [1, 0] * 4, "Q": [1] * 8}, pd.Index(genes, name="gene"))
        member.to_csv(self.pathways)
        self.genes = folder / "genes.csv"
        self.make_genes()
        self.make_splits()

    @staticmethod
    def _clinical_row(number: int, case: str) -> dict[str, str]:
        dead = number % 3 == 0
        return {
            "case_id": f"id-{number:02d}",
            "case_submitter_id": case,
            "project_id": "TCGA-BRCA",
            "age_at_index": str(40 + number),
            "vital_status": "Dead" if dead else "Alive",
            "days_to_death": str(300 + number) if dead else "'--",
            "days_to_last_follow_up": "'--" if dead else str(900 + number),
            "ajcc_pathologic_stage": "Stage IIA",
            "ajcc_pathologic_t": "T2",
            "ajcc_pathologic_n": "N0",
            "ajcc_pathologic_m": "M0",
            "primary_diagnosis": ("Lobular carcinoma, NOS", "Infiltrating duct carcinoma, NOS")[number % 2],
            "year_of_diagnosis": "2010",
        }

    def make_splits(self) -> Rows:
        """The patients of the split files, whichever split they are in."""
        flags = [
            f"--clinical={self.clinical}",
            f"--slides={self.slides}",
            f"--genomics_csv_path={self.genes}",
        ]
        flags += [f"--features_dir={self.folder / 'features'}", f"--splits_dir={self.folder / 'splits'}"]
        make_dataset.main(["--onco=brca", *flags])
        rows = {}
        for path in split_paths("BRCA", folder=self.folder / "splits").values():
            rows |= {row["case_submitter_id"]: row for row in json.loads(path.read_text())["data"]}
        return {
            case: {k: v for k, v in row.items() if k != "gene_availability"} for case, row in rows.items()
        }

    def make_genes(self) -> Rows:
        """The genes of every patient."""
        flags = [f"--expression={self.expression}", f"--pathways={self.pathways}", f"--output={self.genes}"]
        make_gene_dataset.main(["--onco=brca", f"--pancan_expression={self.expression}", *flags])
        table = pd.read_csv(self.genes, index_col=0)
        return {case: dict(row) for case, row in table.to_dict("index").items()}

    def make_clinical(self) -> Rows:
        """The raw clinical values of every patient."""
        output = self.folder / "clinical.pt"
        make_clinical.main(["--onco=brca", f"--splits_dir={self.folder / 'splits'}", f"--output={output}"])
        table = pd.read_csv(output.with_suffix(".csv"), index_col=0, dtype=str, keep_default_na=False)
        return {case: dict(row) for case, row in table.to_dict("index").items()}

    def split(self) -> Path:
        """The split file of the training patients."""
        return split_paths("BRCA", folder=self.folder / "splits")[SPLITS[0]]


KINDS: Mapping[str, Callable[[Inputs], tuple[Path, Callable[[], Rows]]]] = {
    "clinical": lambda i: (i.clinical, i.make_splits),
    "slides": lambda i: (i.slides, i.make_splits),
    "genes": lambda i: (i.genes, i.make_splits),
    "expression": lambda i: (i.expression, i.make_genes),
    "pathways": lambda i: (i.pathways, i.make_genes),
    "split": lambda i: (i.split(), i.make_clinical),
}


# ---------------------------------------------------------------------------- damage
def damaged(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """What was done, and the content after it."""
    at = rng.randrange(len(content))
    changes: dict[str, Callable[[], bytes]] = {
        "cut": lambda: content[:at],
        "NUL": lambda: content[:at] + b"\0" + content[at:],
        "not UTF-8": lambda: content[:at] + b"\xe9" + content[at:],
        "UTF-16": lambda: content.decode().encode("utf-16"),
        "UTF-16 without mark": lambda: content.decode().encode("utf-16-le"),
        "mark": lambda: b"\xef\xbb\xbf" + content,
        "gzip": lambda: gzip.compress(content),
        "gzip cut": lambda: gzip.compress(content)[: -1 - at % 20],
        "CRLF": lambda: content.replace(b"\n", b"\r\n"),
        "empty": lambda: b"",
        "binary": lambda: rng.randbytes(1 + at),
        "brackets": lambda: b"[" * 100_000,
        "separator gone": lambda: _without(content, rng, b"\t", b","),
        "quote": lambda: content[:at] + b'"' + content[at:],
        "long": lambda: content[:at] + b"x" * 100_000 + content[at:],
        "twice": lambda: content + content,
    }
    name = rng.choice(sorted(changes))
    return name, changes[name]()


def _without(content: bytes, rng: random.Random, *separators: bytes) -> bytes:
    places = [n for n in range(len(content)) if content[n : n + 1] in separators]
    at = rng.choice(places)
    return content[:at] + content[at + 1 :]


# ---------------------------------------------------------------------------- judging
@contextmanager
def limited() -> Iterator[None]:
    """Raises Hang in a block that takes too long."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def judge(path: Path, command: Callable[[], Rows], sound: Rows) -> tuple[str, str]:
    """The class of a case, and what the command said."""
    try:
        with limited():
            found = command()
    except Hang:
        return "hang", ""
    except (Exception, SystemExit) as error:
        expected = isinstance(error, (ValueError, OSError)) and not isinstance(error, UnicodeError)
        return "clear" if expected and path.name in str(error) else "unclear", repr(error)[:300]
    # An inserted text is a value like any other where a value may be any text; a number is not.
    other = [case for case, row in found.items() if case in sound and not _same(row, sound[case])]
    return ("silent" if other else "right"), f"other values of {other[:3]}" if other else ""


def _same(row: Mapping[str, Any], sound: Mapping[str, Any]) -> bool:
    """Whether what two rows both have is the same, but for texts with an inserted part."""
    names = row.keys() & sound.keys()
    if row.get("primary_diagnosis") != sound.get("primary_diagnosis"):
        names -= {"primary_class"}  # it follows from the text
    for name in names:
        a, b = row[name], sound[name]
        if a != b and not (isinstance(a, str) and isinstance(b, str)) and not (a is None or b is None):
            return False
    return True


def fuzz(kind: str, cases: int, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """How many cases are of which class, and a line for every one that should not be."""
    rng, counts, faults = random.Random(f"{kind} {seed}"), Counter[str](), []
    inputs = Inputs(folder)
    path, command = KINDS[kind](inputs)
    sound, content = command(), path.read_bytes()
    for _ in range(cases):
        what, changed = damaged(content, rng)
        path.write_bytes(changed)
        found, said = judge(path, command, sound)
        counts[found] += 1
        if found not in ("right", "clear"):
            faults.append(f"{kind}, {what}: {found} {said}")
        path.write_bytes(content)
    return counts, faults


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns 1 where a case is silent or hangs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("kind", choices=[*KINDS, "all"])
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    logging.disable(logging.CRITICAL)
    total: Counter[str] = Counter()
    for kind in KINDS if args.kind == "all" else [args.kind]:
        with tempfile.TemporaryDirectory() as folder:
            counts, faults = fuzz(kind, args.cases, args.seed, Path(folder))
        total += counts
        sys.stdout.write(f"{kind:<12} {dict(counts)}\n" + "".join(f"    {fault}\n" for fault in faults))
    return int(bool(total["silent"] or total["hang"]))


if __name__ == "__main__":
    raise SystemExit(main())
