"""The documentation site builds without a warning, and what it shows works."""

import importlib.util
import re
import subprocess
import sys

import pytest

from utils import constants

DOCS = constants.REPO_ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))


@pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="docs/requirements.txt is not installed"
)
def test_the_site_builds_without_a_warning(tmp_path):
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    done = subprocess.run(command, cwd=constants.REPO_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    commands = (tmp_path / "site" / "commands" / "index.html").read_text(encoding="utf-8")
    for flag in ("--objective", "--gene_scaling", "--slides_dir", "--reference"):
        assert flag in commands, flag
    assert "register_modality" in (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")


def test_the_readme_is_short_and_its_links_lead_somewhere():
    text = (constants.REPO_ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    links = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for link in links:
        assert link.startswith("https://") or (constants.REPO_ROOT / link).is_file(), link
    for name in re.findall(r"`([A-Z]+\.(?:md|cff))`", text):
        assert (constants.REPO_ROOT / name).is_file(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_every_page_is_in_the_navigation(page):
    navigation = (constants.REPO_ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("nav:")[1]
    assert page.name in navigation


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_modules_and_scripts_that_pages_name_exist(page):
    text = page.read_text(encoding="utf-8")
    for module in re.findall(r"python -m ([\w.]+)", text):
        if module.split(".")[0] in ("data_utils", "models", "utils", "tests"):
            path = constants.REPO_ROOT.joinpath(*module.split("."))
            assert path.with_suffix(".py").is_file() or path.is_dir() or "tests" in module, module
    for script in re.findall(r"scripts/\w+\.sh", text):
        assert (constants.REPO_ROOT / script).is_file(), script
