"""Runs the demo as people do, and reads its tables."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

from utils import constants

CONFIG = constants.CONFIGS_ROOT / "demo_modaltune_gigapath_config.json"


def run_demo(root: Path, **variables: str) -> str:
    """Runs ``scripts/run_demo.sh`` in the environment of the tests; returns what it printed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MODALTUNE_")}
    env |= {"MODALTUNE_SKIP_SETUP": "1", "DEMO_ROOT": str(root), **variables}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    done = subprocess.run(
        ["bash", "scripts/run_demo.sh"],
        cwd=constants.REPO_ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout


def metric_of(folder: Path, metric: str, site: str = "") -> float:
    table = pd.read_csv(folder / "results.csv").fillna({"site": ""})
    for name, value in {
        "run": "mean",
        "task": "General",
        "split": "test",
        "metric": metric,
        "site": site,
    }.items():
        table = table[table[name] == value]
    return float(table.value.item())
