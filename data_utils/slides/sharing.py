"""Several processes that share the slides of a cohort: one a GPU (``--gpus``), or the tasks of a SLURM step."""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from data_utils.slides.report import write_report
from data_utils.tables.checked_table import checked_text
from utils.files import FileError, setup_logging

logger = logging.getLogger(__name__)

# A GPU must not have been touched by a process that is forked.
_PROCESSES = multiprocessing.get_context("spawn")
REPORT = "extraction_report.csv"

# Job ``i`` of ``n``, from 1.
Shard = tuple[int, int]


def report_name(shard: Shard) -> str:
    """The file name of the report of a shard."""
    return REPORT if shard[1] == 1 else f"extraction_report_{shard[0]}_of_{shard[1]}.csv"


def slurm_shard(environment: Mapping[str, str] = os.environ) -> Shard:
    """The part of this task among those that one ``srun`` started.

    Raises:
        ValueError: this process is no such task.
    """
    try:
        return int(environment["SLURM_PROCID"]) + 1, int(environment["SLURM_STEP_NUM_TASKS"])
    except KeyError as missing:
        raise ValueError(f"slurm is for tasks that srun starts; {missing} is not set") from missing


def gpu_devices(text: str) -> list[str]:
    """Devices of ``--gpus``: ``all``, or numbers such as ``0,1``.

    Raises:
        ValueError: there is no GPU, or the text names none.
    """
    there = torch.cuda.device_count()
    if not there:
        raise ValueError("--gpus: PyTorch sees no GPU here; leave the flag out to run on the CPU")
    if text == "all":
        return [str(number) for number in range(there)]
    numbers = text.split(",")
    if len(set(numbers)) < len(numbers) or not all(n.isdecimal() and int(n) < there for n in numbers):
        raise ValueError(f"--gpus {text!r} is neither all nor different numbers below {there} such as 0,1")
    return numbers


def parts_of(shard: Shard, count: int) -> list[Shard]:
    """A shard, divided further."""
    index, total = shard
    return [(index + total * part, total * count) for part in range(count)]


def run_parts(run: Callable[[str, Shard], int], devices: list[str], shard: Shard, out_dir: Path) -> int:
    """Runs one process a device on its part of a shard, then joins their reports.

    Args:
        run: device and part -> exit status; can be pickled.
        devices: of the processes.
        shard: what they share.
        out_dir: folder of the reports.

    Returns:
        How many slides failed.

    Raises:
        RuntimeError: a process ended without its report.
    """
    parts = parts_of(shard, len(devices))
    processes = [
        _PROCESSES.Process(target=_run_part, args=(run, device, part))
        for device, part in zip(devices, parts, strict=True)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    ended = [
        f"{device} ({process.exitcode})"
        for device, process in zip(devices, processes, strict=True)
        if process.exitcode
    ]
    if ended:
        raise RuntimeError(
            f"processes ended before their slides were done, by GPU (exit status): {', '.join(ended)}; see the log "
            "above, then start again: what is finished is skipped"
        )
    if len(parts) > 1:
        tables = [_read_report(out_dir / report_name(part)) for part in parts]
        joined = pd.concat(tables)
        write_report(joined, out_dir / report_name(shard))
        for part in parts:
            (out_dir / report_name(part)).unlink()
    else:
        joined = _read_report(out_dir / report_name(shard))
    counts: Mapping[Any, int] = joined["status"].value_counts()
    summary = ", ".join(f"{number} {status}" for status, number in counts.items())
    logger.info("all %d processes: %s; see %s", len(parts), summary, out_dir / report_name(shard))
    return int(counts.get("failed", 0))


def _read_report(path: Path) -> pd.DataFrame:
    text = checked_text(path.read_bytes())
    if text is None:
        raise FileError(path, "is cut off or was changed", "start again: what is finished is skipped")
    return pd.read_csv(io.StringIO(text), keep_default_na=False)


def _run_part(run: Callable[[str, Shard], int], device: str, part: Shard) -> None:
    setup_logging()
    sys.exit(run(device, part))
