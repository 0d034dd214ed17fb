"""What MkDocs does beyond Markdown: the page of commands is written from the parsers whenever the site is built."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PLACE = "<!-- the commands -->"
WIDTH = "100"


def commands() -> list[str]:
    """Every module that can be run, dotted, those of a training first."""
    folders = ("data_utils", "models", "utils", "utils/evaluation", "utils/prediction", "utils/explain")
    files = [
        *ROOT.glob("train_*.py"),
        *(file for name in folders for file in sorted(ROOT.glob(f"{name}/*.py"))),
    ]
    runnable = [file for file in files if '__name__ == "__main__"' in file.read_text(encoding="utf-8")]
    return [
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__") for file in runnable
    ]


def help_of(module: str, *words: str) -> str:
    """What ``--help`` of a command prints."""
    sys.path.insert(0, str(ROOT))
    printed = io.StringIO()
    columns, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), WIDTH
    program, sys.argv[0] = sys.argv[0], f"{module}.py" if module.startswith("train_") else f"-m {module}"
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            found = importlib.import_module(module)
            if not hasattr(found, "main"):  # a package that is run
                found = importlib.import_module(f"{module}.__main__")
            found.main([*words, "--help"])
    finally:
        sys.path.remove(str(ROOT))
        sys.argv[0] = program
        del os.environ["COLUMNS"]
        if columns is not None:
            os.environ["COLUMNS"] = columns
    if not printed.getvalue().startswith("usage:"):
        raise RuntimeError(f"{module} prints no usage with --help, so the page of commands cannot be written")
    # The defaults hold paths of this machine.
    return printed.getvalue().replace(f"{ROOT}/", "").rstrip()


def command_page() -> str:
    """The body of docs/commands.md."""
    parts = []
    for module in commands():
        title = f"python {module}.py" if module.startswith("train_") else f"python -m {module}"
        text = help_of(module)
        parts.append(f"## `{title}`\n\n```text\n{text}\n```\n")
        usage = text.split("\n\n")[0]
        if found := re.search(r"\{([\w,]+)\} \.\.\.$", usage):  # subcommands end the usage
            for word in found[1].split(","):
                parts.append(f"### `{title} {word}`\n\n```text\n{help_of(module, word)}\n```\n")
    return "\n".join(parts)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """MkDocs asks this before it renders a page."""
    return markdown.replace(PLACE, command_page()) if PLACE in markdown else markdown
