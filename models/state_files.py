"""Weights as people hand them in: bare, wrapped by a trainer, behind the prefixes of DDP and ``torch.compile``."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from utils.files import FileError, quoted
from utils.tensor_files import read_tensors

logger = logging.getLogger(__name__)

_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "network", "net")
# Of DDP and torch.compile: no module of a model has such a name. That of Lightning may be one.
_PREFIXES = ("module.", "_orig_mod.")
_SHARED_PREFIX = "model."
_REMEDY = "is it the right file? Copy it again, or pass another one"


def read_state(path: str | Path, what: str, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a weights file by name, without wrappers and the prefixes that all of them share.

    Args:
        path: written by ``torch.save`` or safetensors, whatever its name.
        what: what it should be, for messages.
        prefix: of the names wanted; it is cut off, and the others are passed over.

    Raises:
        FileNotFoundError: the file does not exist.
        FileError: the file is damaged, or holds no tensors with these names.
    """
    path = Path(path)
    content = _read_safetensors(path, what, prefix) if is_safetensors(path) else read_tensors(path, what)
    return select(unwrapped(content, path, what), prefix, path, what)


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as those of safetensors do: the length of a header, then a JSON object."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def unwrapped(content: Any, path: str | Path, what: str) -> dict[str, Tensor]:
    """The state dict in what a file holds; wrappers and prefixes are taken off as often as there are any.

    Raises:
        FileError: there is none.
    """
    while isinstance(content, Mapping):
        inner = next((n for n in _WRAPPERS if isinstance(content.get(n), Mapping) and content[n]), None)
        if inner is not None:
            content = content[inner]
            continue
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        prefix = next((p for p in _PREFIXES if any(n.startswith(p) for n in tensors)), None)
        if prefix is None and tensors and all(n.startswith(_SHARED_PREFIX) for n in tensors):
            prefix = _SHARED_PREFIX
        if prefix is None:
            break
        content = {name.removeprefix(prefix): value for name, value in tensors.items()}
        if len(content) < len(tensors):
            raise FileError(path, f"names parameters with and without {prefix!r}", _REMEDY)
    if not isinstance(content, Mapping):
        fault = f"holds a {type(content).__name__}, {what} is stored as a dict of tensors"
        raise FileError(path, fault, _REMEDY)
    if not tensors:
        raise FileError(path, f"holds no tensor of {what}; its first entries are {names(content)}", _REMEDY)
    if others := [str(name) for name in content if str(name) not in tensors]:
        logger.info("%s: entries that are no tensors are passed over: %s", path, names(others))
    return tensors


def select(state: Mapping[str, Tensor], prefix: str, path: str | Path, what: str) -> dict[str, Tensor]:
    """The tensors below a prefix, without it.

    Raises:
        FileError: there is none.
    """
    found = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if not found:
        fault = f"has no entry for {what}: none starts with {prefix!r}, they are such as {names(state)}"
        raise FileError(path, fault, _REMEDY)
    return found


def check_finite(state: Mapping[str, Tensor], path: str | Path, what: str) -> None:
    """Raises FileError where a tensor holds NaN or infinity; its name is in the message."""
    broken = [n for n, v in state.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if broken:
        fault = f"has NaN or infinite values in {len(broken)} parameters of {what}: {names(broken)}"
        raise FileError(path, fault, "copy or download the file again")


def was_written(state: Mapping[str, Tensor]) -> bool:
    """Whether any matrix of pretrained weights holds something besides zeros."""
    matrices = [value for value in state.values() if value.ndim > 1]
    return not matrices or any(bool(value.any()) for value in matrices)


def names(entries: Iterable[Any]) -> list[str]:
    """The first few names, each cut where it is long."""
    return [quoted(str(name), 50) for name, _ in zip(entries, range(3), strict=False)]


def _read_safetensors(path: Path, what: str, prefix: str) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            keys = list(file.keys())
            # Towers that nobody asks for stay on the disk, unless the names have to be looked into.
            wanted = [key for key in keys if key.startswith(prefix)] or keys
            return {key: file.get_tensor(key) for key in wanted}
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise FileError(path, f"is no readable {what}: {error}", _REMEDY) from error
