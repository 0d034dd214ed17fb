"""Processes that share a cohort by slide."""

import shutil
from functools import partial

import pandas as pd
import pytest
import torch

from data_utils.slides import sharing
from data_utils.slides.command_line import in_shard
from data_utils.slides.report import write_report
from data_utils.slides.sharing import gpu_devices, parts_of, report_name, run_parts, slurm_shard
from tests.data_utils.slides.test_extraction import command, files, library, report  # noqa: F401
from tests.forked import FORK

NAMES = [f"slide {number}" for number in range(40)]


@pytest.fixture
def forking(monkeypatch):
    """Processes that start at once: no GPU is touched here."""
    monkeypatch.setattr(sharing, "_PROCESSES", FORK)


def work(folder, device, part):
    """What an extraction leaves behind: a report of its part."""
    if device == "broken":
        return 3
    names = [name for name in NAMES if in_shard(name, part)]
    status = ["failed" if name.endswith("7") else "done" for name in names]
    write_report(pd.DataFrame({"slide": names, "status": status, "by": device}), folder / report_name(part))
    return 0


@pytest.mark.parametrize("shard", [(1, 1), (2, 3)])
@pytest.mark.parametrize("devices", [["0"], ["0", "1", "5"]])
def test_parts_are_joined(tmp_path, forking, shard, devices):
    wanted = [name for name in NAMES if in_shard(name, shard)]
    failed = run_parts(partial(work, tmp_path), devices, shard, tmp_path)
    (path,) = tmp_path.iterdir()
    table = pd.read_csv(path)
    assert path.name == report_name(shard) and sorted(table.slide) == sorted(wanted)
    assert failed == sum(name.endswith("7") for name in wanted)
    assert set(table.by.astype(str)) == set(devices)


def test_a_process_that_ends_is_named(tmp_path, forking):
    with pytest.raises(RuntimeError, match=r"broken \(3\); see the log"):
        run_parts(partial(work, tmp_path), ["0", "broken"], (1, 1), tmp_path)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_parts_of_a_shard_are_the_shard(count):
    for index in (1, 2, 3):
        parts = parts_of((index, 3), count)
        for name in NAMES:
            assert sum(in_shard(name, part) for part in parts) == in_shard(name, (index, 3))


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert gpu_devices("all") == ["0", "1", "2"] and gpu_devices("2,0") == ["2", "0"]
    for wrong in ("3", "0,0", "", "one", "-1"):
        with pytest.raises(ValueError, match="neither all nor different numbers below 3"):
            gpu_devices(wrong)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="no GPU"):
        gpu_devices("all")


def test_tasks_of_slurm():
    assert slurm_shard({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4"}) == (3, 4)
    with pytest.raises(ValueError, match="SLURM_STEP_NUM_TASKS"):
        slurm_shard({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"})  # a batch script of four tasks without srun


def test_the_command_shares_its_slides(command, tmp_path, monkeypatch, forking):  # noqa: F811
    monkeypatch.setattr("data_utils.slides.command_line.gpu_devices", lambda text: ["cpu", "cpu"])
    (tmp_path / "slides" / "x.svs").write_bytes(b"")
    assert command("--gpus", "all") == 1
    assert files(tmp_path / "out") == ["a", "b", "c"]
    table = report(tmp_path / "out" / "extraction_report.csv")
    assert table.status.to_dict() == {"a.svs": "done", "b.svs": "done", "c.svs": "done", "x.svs": "failed"}
    assert not list((tmp_path / "out").glob("extraction_report_*"))
    assert command("--gpus", "all", "--allow_failures", 1) == 0
    assert command("--gpus", "all", "--limit", 1) == 2
    shutil.rmtree(tmp_path / "slides")
    assert command("--gpus", "all") == 2
