"""Faults that clusters, disks and people produce: one test per row of docs/reliability.md.

Every test injects the fault into a whole training, checks what the user is told, and that what was there
before is intact: the run goes on, and ends with the numbers of a run that never met the fault.
"""

import dataclasses
import logging
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import pandas as pd
import pytest
import torch

import train_modaltune
from tests.forked import finish, run_ranks, start
from tests.small_cohort import make_small_cohort
from tests.soak import kill_resume
from utils import checkpoint as weights_command
from utils import constants
from utils.training import checkpoint
from utils.training.run_lock import run_lock
from utils.training.trainer import LAST_CHECKPOINT, Trainer

pytestmark = [pytest.mark.usefixtures("quick_runs"), pytest.mark.filterwarnings("ignore:.*fork.*")]

DOCUMENT = constants.REPO_ROOT / "docs" / "reliability.md"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return make_small_cohort(tmp_path_factory.mktemp("original"), train=6, val=3, test=3)


@pytest.fixture
def cohort(original):
    """The files of the cohort, repaired after every test."""
    kept = {path: path.read_bytes() for path in original.root.rglob("*") if path.is_file()}
    yield original
    for path, content in kept.items():
        path.write_bytes(content)


def flags(cohort, output, **changes):
    return cohort.flags(output, num_tasks=1, **changes)


@pytest.fixture(scope="module")
def whole(original, tmp_path_factory, quick_runs):
    """A run that met no fault."""
    output = tmp_path_factory.mktemp("whole") / "run"
    train_modaltune.main(flags(original, output))
    return output


def half_run(cohort, output, **changes):
    """A run of two epochs that was interrupted in its second."""

    def stop():
        accumulate = Trainer._accumulate

        def count(self, case, epoch):
            if epoch == 1:
                os.kill(os.getpid(), signal.SIGUSR1)
            return accumulate(self, case, epoch)

        Trainer._accumulate = count
        train_modaltune.main(flags(cohort, output, **changes))

    assert finish(start(stop)) == 75
    return output / "seed_0" / LAST_CHECKPOINT


def goes_on(cohort, output, whole, **changes):
    train_modaltune.main(flags(cohort, output, **changes))
    kill_resume.assert_same_run(whole, output)


def slide(cohort, case=1):
    return cohort.root / "features" / f"slide-{case}-0.h5"


# ---------------------------------------------------------------------------- killed
def test_killed_at_random_moments(tmp_path):
    """Ten kills by SIGKILL and SIGTERM; 200 with tests/soak/kill_resume.py."""
    ends = kill_resume.soak(tmp_path, kills=10, seed=0)
    assert ends["killed"] == 10 and ends["finished"] == ends["runs"]


def test_time_limit_and_preemption(cohort, whole, tmp_path):
    state = checkpoint.load(half_run(cohort, tmp_path))
    assert [(p["epoch"], p["done"]) for p in state["processes"]] == [(1, 1)]
    goes_on(cohort, tmp_path, whole)


def test_killed_reader(cohort, whole, tmp_path):
    """The kernel kills a process that reads features, for want of memory."""
    path = half_run(cohort, tmp_path)
    before = path.read_bytes()

    def train():
        read = train_modaltune.run.__globals__["CaseDataset"].__getitem__

        def killed(self, index):
            if torch.utils.data.get_worker_info() is not None:
                os.kill(os.getpid(), signal.SIGKILL)
            return read(self, index)

        train_modaltune.run.__globals__["CaseDataset"].__getitem__ = killed
        train_modaltune.main(flags(cohort, tmp_path, workers=1))

    message = stderr_of(train, 1)
    assert "a process that reads features died" in message and "lower --workers" in message
    assert path.read_bytes() == before
    goes_on(cohort, tmp_path, whole)


def stderr_of(function, status):
    """Runs a function in a process of its own; returns what it wrote to standard error."""
    with tempfile.TemporaryFile() as file:

        def redirected():
            os.dup2(file.fileno(), sys.stderr.fileno())
            sys.stderr = os.fdopen(os.dup(file.fileno()), "w")
            function()

        assert finish(start(redirected)) == status
        file.seek(0)
        return file.read().decode()


# ---------------------------------------------------------------------------- damaged and missing files
def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def not_finite(path):
    with h5py.File(path, "r+") as file:
        file["features"][2, 3] = float("nan")


def declares_a_trillion(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("features", (10**12, 10), "f4", chunks=(64, 10))
        file.create_dataset("coords", (10**12, 2), "i8", chunks=(64, 2))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, "damaged or no HDF5 file"),
        (not_finite, "NaN or infinite"),
        (declares_a_trillion, r"declares 1,000,000,000,000 patches"),
        (Path.unlink, "feature files of the train split are missing.*of case case-1.*FEATURES_ROOT"),
    ],
)
def test_feature_files(cohort, tmp_path, spoil, message, request):
    """Corrupt, not finite, of a hostile size, missing: named before or when they are read."""
    spoil(slide(cohort))
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        train_modaltune.main(flags(cohort, tmp_path / "run"))
    assert slide(cohort).name in str(error.value)
    assert not (tmp_path / "run" / "results.csv").exists()


def test_truncated_checkpoint(cohort, whole, tmp_path):
    path = half_run(cohort, tmp_path)
    cut(path)
    with pytest.raises(ValueError, match=rf"{path} is no readable checkpoint"):
        train_modaltune.main(flags(cohort, tmp_path))
    path.unlink()  # as the document says: without it, the training starts anew
    goes_on(cohort, tmp_path, whole)


@pytest.mark.parametrize("spoil", [cut, lambda path: path.write_text('{"data": [{"case_id": 1}]}')])
def test_damaged_split(cohort, whole, tmp_path, spoil):
    path = half_run(cohort, tmp_path)
    before, kept = path.read_bytes(), cohort.split("val").read_bytes()
    spoil(cohort.split("val"))
    with pytest.raises(ValueError, match=r"val\.json"):
        train_modaltune.main(flags(cohort, tmp_path))
    assert path.read_bytes() == before
    cohort.split("val").write_bytes(kept)
    goes_on(cohort, tmp_path, whole)


def test_case_without_sentences(cohort, tmp_path):
    texts = torch.load(cohort.texts, weights_only=True)
    del texts["case-2"]
    torch.save(texts, cohort.texts)
    with pytest.raises(ValueError, match=r"1 patients of the train split have no label sentences.*case-2"):
        train_modaltune.main(flags(cohort, tmp_path))


@pytest.mark.parametrize(
    "content",
    [
        b"case_id,G0\n" + b"A" * 10**7,
        b"case_id,G0\nA,1\nB,1,2,3,4\n",
        b"\x00" * 10**6,
        b"\x89PNG\r\n\x1a\n\xff",
    ],
    ids=["one huge field", "ragged", "zeros", "binary"],
)
def test_hostile_tables(cohort, tmp_path, content):
    cohort.genes.write_bytes(content)
    with pytest.raises(ValueError, match=r"genes\.csv"):
        train_modaltune.main(flags(cohort, tmp_path))


def test_changed_data(cohort, whole, tmp_path):
    path = half_run(cohort, tmp_path)
    before, kept = path.read_bytes(), cohort.clinical.read_bytes()
    genes = cohort.genes.read_bytes()
    cohort.genes.write_bytes(genes.replace(b"0.", b"1.", 1))
    with pytest.raises(ValueError, match=r"data\.files\.genes'.*--output_path"):
        train_modaltune.main(flags(cohort, tmp_path))
    assert path.read_bytes() == before and kept == cohort.clinical.read_bytes()
    cohort.genes.write_bytes(genes)
    goes_on(cohort, tmp_path, whole)


# ---------------------------------------------------------------------------- disks and rights
def test_file_size_limit(cohort, whole, tmp_path):
    """Stands for a full disk or an exhausted quota where no small disk can be mounted: the same way of failing."""
    path = half_run(cohort, tmp_path)
    before = path.read_bytes()

    def train():
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, -1))
        train_modaltune.main(flags(cohort, tmp_path))

    message = stderr_of(train, 1)
    assert re.search(rf"OSError: .*no room to write {tmp_path}.*What it held before is intact", message)
    assert path.read_bytes() == before and not list(tmp_path.rglob("*.tmp*"))
    goes_on(cohort, tmp_path, whole)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk(cohort, whole, small_disk):
    output = small_disk / "run"
    path = half_run(cohort, output)
    before = path.read_bytes()
    rest = shutil.disk_usage(small_disk).free - len(before) // 2
    (small_disk / "of_somebody_else").write_bytes(bytes(rest))
    with pytest.raises(OSError, match=r"no room to write .*No space left on device.*held before is intact"):
        train_modaltune.main(flags(cohort, output))
    assert path.read_bytes() == before and not list(output.rglob("*.tmp*"))
    (small_disk / "of_somebody_else").unlink()
    goes_on(cohort, output, whole)


def as_nobody(function):
    """For root, to whom no permission applies, the function runs as another user."""

    def changed():
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        function()

    return changed


@pytest.fixture
def public(original):
    """A copy of the cohort and a run folder that every user may enter."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        (root / "runs").mkdir()
        cohort = make_small_cohort(root / "cohort", train=6, val=3, test=3)
        yield cohort, root / "runs"
        (root / "runs").chmod(0o755)


def test_unreadable_feature_file(public):
    cohort, runs = public
    runs.chmod(0o777)
    slide(cohort).chmod(0)
    message = stderr_of(as_nobody(lambda: train_modaltune.main(flags(cohort, runs / "run"))), 1)
    assert "slide-1-0.h5" in message and "Permission denied" in message


def test_read_only_run_folder(public):
    cohort, runs = public
    runs.chmod(0o555)
    message = stderr_of(as_nobody(lambda: train_modaltune.main(flags(cohort, runs / "run"))), 1)
    assert f"Permission denied: '{runs / 'run'}'" in message and not (runs / "run").exists()


# ---------------------------------------------------------------------------- people
def test_duplicate_job(cohort, whole, tmp_path):
    path = half_run(cohort, tmp_path)
    before = path.read_bytes()
    with run_lock(tmp_path):
        message = stderr_of(lambda: train_modaltune.main(flags(cohort, tmp_path)), 1)
    assert f"{tmp_path} is in use by another job (host " in message and f"process {os.getpid()}" in message
    assert path.read_bytes() == before
    goes_on(cohort, tmp_path, whole)


def test_duplicate_job_of_several_processes(cohort, tmp_path):
    """The first process is refused; the others do not wait for it."""
    with run_lock(tmp_path):
        assert run_ranks(2, lambda: train_modaltune.main(flags(cohort, tmp_path))) == [1, 1]


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_checkpoint(cohort, whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = checkpoint.load(whole / "seed_0" / "best_model_weights.pt")
    torch.save({**content, "author": Code()}, "theirs.pt")
    evaluation = {"eval_only": True, "eval_weights": "theirs.pt"}
    with pytest.raises(
        ValueError, match=r"run code from the file.*utils\.checkpoint clean theirs\.pt.*--trust"
    ):
        train_modaltune.main(flags(cohort, tmp_path / "eval", **evaluation))
    with pytest.raises(SystemExit, match="2"):
        weights_command.main(["clean", "theirs.pt", "ours.pt"])
    assert not Path("executed").exists()
    weights_command.main(["clean", "theirs.pt", "ours.pt", "--trust_checkpoint"])
    assert Path("executed").exists()  # trusted means trusted
    evaluation["eval_weights"] = "ours.pt"
    train_modaltune.main(flags(cohort, tmp_path / "eval", **evaluation))
    reports = [pd.read_csv(folder / "seed_0" / "report.csv") for folder in (whole, tmp_path / "eval")]
    pd.testing.assert_frame_equal(*reports)


# ---------------------------------------------------------------------------- numbers
def test_loss_that_is_not_finite(cohort, tmp_path, monkeypatch, caplog):
    accumulate = Trainer._accumulate

    def spoil(self, case, epoch):
        if case.case_id == "case-4" and epoch == 0:
            case = dataclasses.replace(case, text=torch.full((4, 512), float("nan")))
        return accumulate(self, case, epoch)

    monkeypatch.setattr(Trainer, "_accumulate", spoil)
    with caplog.at_level(logging.WARNING):
        train_modaltune.main(flags(cohort, tmp_path / "run"))
    assert pd.read_csv(tmp_path / "run" / "seed_0" / "metrics.csv").skipped.tolist() == [1, 0]
    assert "the loss of case case-4 is nan in epoch 0: skipped" in caplog.text
    with pytest.raises(FloatingPointError, match=r"1 cases skipped.*--max_skipped 0.*case-4"):
        train_modaltune.main(flags(cohort, tmp_path / "strict", max_skipped=0))


# ---------------------------------------------------------------------------- the document
def test_every_row_of_the_document_is_a_test():
    faults = DOCUMENT.read_text(encoding="utf-8").partition("| fault |")[2].partition("\n\n")[0]
    rows = [line for line in faults.splitlines() if line.startswith("| ")][1:]
    named = {name for row in rows for name in re.findall(r"`([\w/]+\.py)::(test_\w+)`", row)}
    assert len(rows) >= 15 and all("::test_" in row for row in rows)
    for file, test in named:
        text = (constants.REPO_ROOT / "tests" / file).read_text(encoding="utf-8")
        assert f"def {test}(" in text, f"{file} has no {test}"
    own = Path(__file__).read_text(encoding="utf-8")
    missing = set(re.findall(r"def (test_\w+)\(", own)) - {test for _, test in named}
    assert missing == {"test_every_row_of_the_document_is_a_test"}
