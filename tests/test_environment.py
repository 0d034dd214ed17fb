"""Where tests and scripts run: the environment of packages, and what of the user's shell they see."""

import os
import shutil
import subprocess
import sys

import pytest

from utils.constants import REPO_ROOT


def test_tests_forget_the_paths_of_the_shell(tmp_path):
    code = "import tests; from utils import constants; print(constants.DATA_ROOT, constants.SPLITS_ROOT)"
    nowhere = {
        "MODALTUNE_DATA_ROOT": str(tmp_path / "other"),
        "MODALTUNE_SPLITS_ROOT": str(tmp_path / "other"),
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPO_ROOT,
        env={**os.environ, **nowhere},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(REPO_ROOT / "data"), str(REPO_ROOT / "dataset" / "json_splits")]


@pytest.fixture
def set_up(tmp_path):
    """Runs setup_env.sh of a small repository with a stand-in for uv; returns what that installed."""
    repository, programs = tmp_path / "repository", tmp_path / "bin"
    for folder in (repository / "scripts", repository / "docs", programs):
        folder.mkdir(parents=True)
    shutil.copy(REPO_ROOT / "scripts" / "setup_env.sh", repository / "scripts")
    (repository / "requirements.txt").write_text("torch\n")
    (repository / "docs" / "requirements.txt").write_text("mkdocs\n")
    uv = f"""#!/usr/bin/env bash
echo "$*" >>"{tmp_path}/calls"
if [[ "$1" == venv ]]; then mkdir -p "${{@: -1}}/bin" && ln -sf "{sys.executable}" "${{@: -1}}/bin/python"; fi
"""
    (programs / "uv").write_text(uv)
    (programs / "uv").chmod(0o755)

    def run(requirements: str) -> list[str]:
        (tmp_path / "calls").write_text("")
        environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "MODALTUNE_PYTHON": sys.executable,
            "MODALTUNE_REQUIREMENTS": requirements,
        }
        code = "source scripts/setup_env.sh\ncommand -v python"
        done = subprocess.run(
            ["bash", "-c", code], cwd=repository, env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == str(repository / ".venv" / "bin" / "python")
        calls = (tmp_path / "calls").read_text().splitlines()
        words = [call.split() for call in calls if call.startswith("pip install")]
        return [
            word.removeprefix(f"{repository}/") for call in words for word in call if word.endswith(".txt")
        ]

    run.repository = repository
    return run


def test_packages_are_installed_once_for_every_set_of_requirements(set_up):
    both = "requirements.txt docs/requirements.txt"
    assert set_up("requirements.txt") == ["requirements.txt"]
    assert set_up("requirements.txt") == []
    assert set_up(both) == both.split()
    assert set_up(both) == set_up("requirements.txt") == []
    (set_up.repository / "docs" / "requirements.txt").write_text("mkdocs>=1.6\n")
    assert set_up("requirements.txt") == []
    assert set_up(both) == both.split()


def test_a_missing_file_of_requirements_ends_the_script(set_up):
    with pytest.raises(subprocess.CalledProcessError):
        set_up("requirements.txt other.txt")


def test_every_script_of_the_tests_installs_what_it_checks():
    text = (REPO_ROOT / "scripts" / "run_tests.sh").read_text(encoding="utf-8")
    ci = (REPO_ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "docs/requirements.txt" in text and "cat requirements.txt docs/requirements.txt | sha256sum" in ci
    for check in ("ruff check .", "ruff format --check .", "mypy", "lint-imports"):
        assert f"\n{check}" in text
