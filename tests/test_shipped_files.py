"""What a user copies from the repository works: README commands, configs, cohorts, scripts."""

import ast
import os
import re
import shlex
import subprocess
import sys

import pytest
import torch

from data_utils.tables.cohorts import read_cohort
from models.aggregators import DataSpec, available_aggregators, build_aggregator
from models.encoders import encoder_of, slide_encoders
from tests.structures import structures
from utils import constants
from utils.files import read_json

README = (constants.REPO_ROOT / "README.md").read_text(encoding="utf-8")
SCRIPTS = sorted((constants.REPO_ROOT / "scripts").glob("*.sh"))


def readme_commands():
    """Commands of the README and of every page of the documentation."""
    pages = [
        README,
        *(page.read_text(encoding="utf-8") for page in sorted((constants.REPO_ROOT / "docs").glob("*.md"))),
    ]
    blocks = re.findall(r"```bash\n(.*?)```", "\n".join(pages), flags=re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def test_readme_shows_the_two_commands_and_the_four_scripts():
    called = " ".join(readme_commands())
    for name in (
        "run_demo",
        "run_tests",
        "submit_extract_patches",
        "submit_get_dataset",
        "submit_modaltune",
        "deploy_OOD_modaltune",
    ):
        assert f"bash scripts/{name}.sh" in called


@pytest.mark.parametrize("command", [c for c in readme_commands() if "--help" in c])
def test_readme_help_commands_run(command, warm_python):
    """The first of all starts as on a user's machine, the others at once."""
    words = shlex.split(command)
    assert words[0] == "python"
    python = sys.executable if words[1] == "train_modaltune.py" else warm_python.bin / "python"
    done = subprocess.run(
        [python, *words[1:]], cwd=constants.REPO_ROOT, capture_output=True, text=True, check=True
    )
    assert "usage:" in done.stdout


@pytest.mark.parametrize("command", [c for c in readme_commands() if "utils.doctor --onco" in c])
def test_readme_doctor_commands_run_to_their_table(command, tmp_path, warm_python):
    """Without data all they can find are errors, but every flag must exist and the table must come."""
    words = [str(tmp_path / word) if word in ("DIR", "doctor.md") else word for word in shlex.split(command)]
    assert words[:3] == ["python", "-m", "utils.doctor"]
    done = subprocess.run(
        [warm_python.bin / "python", *words[1:]],
        cwd=constants.REPO_ROOT,
        env={**os.environ, "MODALTUNE_DATA_ROOT": str(tmp_path), "MODALTUNE_SPLITS_ROOT": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "-> " in done.stdout and "the check stopped" not in done.stdout, (
        done.stderr
    )


@pytest.mark.parametrize("command", [c for c in readme_commands() if "scripts/" in c])
def test_readme_scripts_exist_and_know_the_variables(command):
    *variables, bash, script = shlex.split(command)
    text = (constants.REPO_ROOT / script).read_text(encoding="utf-8")
    assert bash in ("bash", "sbatch")
    text += (constants.REPO_ROOT / "scripts" / "settings.sh").read_text(encoding="utf-8")
    for name in (variable.split("=")[0] for variable in variables):
        assert f'{name}="${{' in text or f'"${{{name}:=' in text


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.name)
def test_scripts_parse_and_stop_at_the_first_error(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "set -euo pipefail" in script.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "path", sorted(constants.CONFIGS_ROOT.glob("*modaltune*.json")), ids=lambda p: p.stem
)
def test_model_configs_build(path):
    configs = ("config", "demo_config", "balanced_config", "demo_balanced_config")
    owners = {e.name for e in slide_encoders().values() if path in [getattr(e, kind) for kind in configs]}
    names = [n for n in available_aggregators() if n.endswith("_adapter") and encoder_of(n).name in owners]
    assert names
    for name in names:
        with torch.device("meta"):
            model = build_aggregator(name, read_json(path), DataSpec(structures(((0, 1), (1, 2)), (2, 5)), 3))
        assert model.output_dim == 256


@pytest.mark.parametrize("path", sorted(constants.COHORTS_ROOT.glob("*.json")), ids=lambda p: p.stem)
def test_cohorts_parse(path):
    assert read_cohort(path).name.lower() == path.stem


def test_progress_bars_are_for_terminals():
    """``disable=None``: none in the log of a job."""
    calls = [
        (path.name, ast.unparse(node))
        for folder in ("data_utils", "models", "utils")
        for path in (constants.REPO_ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "tqdm"
    ]
    assert len(calls) > 10
    assert not [call for call in calls if "disable=None" not in call[1]]


def test_no_module_is_too_long():
    roots = ("data_utils", "models", "utils")
    files = [f for root in roots for f in (constants.REPO_ROOT / root).rglob("*.py")]
    long = {f.name: n for f in files if (n := len(f.read_text(encoding="utf-8").splitlines())) > 400}
    assert len(files) > 30 and not long
