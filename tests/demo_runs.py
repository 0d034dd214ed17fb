"""Runs the demo as people do, and reads its tables."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from tests.warm_python import WarmPython
from utils import constants

CONFIG = constants.CONFIGS_ROOT / "demo_modaltune_gigapath_config.json"


def environment(warm: WarmPython) -> dict[str, str]:
    """The variables of the tests for a command of the documents."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MODALTUNE_")}
    return env | {"MODALTUNE_SKIP_SETUP": "1", "PATH": f"{warm.bin}:{env['PATH']}"}


def run_demo(warm: WarmPython, root: Path, **variables: str) -> str:
    """Runs ``scripts/run_demo.sh`` in the environment of the tests; returns what it printed."""
    env = environment(warm) | {"DEMO_ROOT": str(root), **variables}
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


def run_commands(
    warm: WarmPython, text: str, folder: Path, demo: Path, places: Mapping[str, Path]
) -> subprocess.CompletedProcess[str]:
    """Runs commands of the documents on the files of a demo, as from ``folder``; ``places`` stand for its paths."""
    for name, path in places.items():
        text = text.replace(name, f"{path}/" if name.endswith("/") else str(path))
    for name in ("predictions.csv", "first.csv", "brca_model"):
        text = re.sub(rf"(?<![/\w]){re.escape(name)}", str(folder / name), text)
    text = text.replace("bash scripts/predict", f"OUTPUT={folder / 'predictions.csv'} bash scripts/predict")
    text = text.replace(
        "python -m utils.prediction", f"python -m utils.prediction --output {folder / 'predictions.csv'}"
    )
    env = environment(warm) | {"DEVICE": "cpu", "MODALTUNE_WEIGHTS_ROOT": str(demo / "weights")}
    return subprocess.run(
        ["bash", "-euc", text], cwd=constants.REPO_ROOT, env=env, capture_output=True, text=True, check=False
    )


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
