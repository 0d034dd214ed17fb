"""Imports run one way: the contracts of pyproject.toml hold, and nothing stands outside of them."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from utils.constants import REPO_ROOT

ROOTS = ("data_utils", "models", "utils")
LINT = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache", "--config", str(REPO_ROOT / "pyproject.toml")],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": "", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def modules() -> list[Path]:
    return [path for root in ROOTS for path in sorted((REPO_ROOT / root).rglob("*.py"))]


def test_the_contracts_hold():
    done = lint(REPO_ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


# Imports against the direction: where one stands, and its line.
AGAINST = [
    ("utils/files.py", "import data_utils.tables.genes"),
    ("utils/files.py", "import utils.tensor_files"),
    ("data_utils/tables/genes.py", "import data_utils.cases.case"),
    ("data_utils/slides/wsi.py", "import data_utils.cases.case"),
    ("data_utils/cases/case.py", "import utils.files"),
    ("data_utils/features/store.py", "def later():\n    import models.frozen"),
    ("models/frozen.py", "import data_utils.features.store"),
    ("models/frozen.py", "import data_utils.cases.datasets"),
    ("models/frozen.py", "import utils.training.schedule"),
    ("utils/evaluation/probes.py", "import utils.training.schedule"),
    ("utils/training/schedule.py", "import utils.diagnosis.report"),
    ("utils/training/schedule.py", "import utils.arguments"),
]


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """What the linter says of all of them."""
    root = tmp_path_factory.mktemp("against")
    for path in modules():
        copy = root / path.relative_to(REPO_ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    for module, line in AGAINST:
        with (root / module).open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")
    done = lint(root)
    assert done.returncode == 1 and "BROKEN" in done.stdout, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("module", "line"), AGAINST)
def test_an_import_against_the_direction_is_found(module, line, broken):
    importer = module.removesuffix(".py").replace("/", ".")
    assert re.search(rf"^ *- *{re.escape(importer)} -> {line.split()[-1]} \(l\.", broken, re.MULTILINE), (
        broken
    )


def test_nothing_stands_outside_of_the_contracts():
    """Every folder and every module of ``utils`` has its layer; so do folders of ``data_utils``."""
    settings = tomllib.loads((REPO_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    [layers] = [c for c in settings["tool"]["importlinter"]["contracts"] if c["id"] == "layers"]
    named = set(re.findall(r"[\w.]+", " ".join(layers["layers"])))
    parts = {path.relative_to(REPO_ROOT).with_suffix("").parts for path in modules()}
    placed = {".".join(p[:2]) for p in parts if p[0] == "utils" or (p[0] == "data_utils" and len(p) > 2)}
    assert len(placed) >= 12
    assert placed - {"utils.__init__"} <= named


def test_no_import_is_hidden_behind_type_checking():
    """A type checker needs an import as much as the program does: the arrow is there."""
    hiding = [
        str(path)
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Name) and node.id == "TYPE_CHECKING")
        or (isinstance(node, ast.Attribute) and node.attr == "TYPE_CHECKING")
    ]
    assert not hiding
