"""Weights behind wrappers and prefixes, from either kind of file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from models.state_files import check_finite, read_state, unwrapped
from utils.files import FileError

STATE = {"text.weight": torch.arange(6.0).view(2, 3), "visual.bias": torch.ones(2)}
LAYERS: list[Callable[[dict[str, Any]], dict[str, Any]]] = [
    *(lambda c, w=w: {w: c, "epoch": 3} for w in ("state_dict", "model_state_dict", "model", "module")),
    *(
        lambda c, p=p: {f"{p}{k}": v for k, v in c.items()} if _is_state(c) else {"state_dict": c}
        for p in ("module.", "_orig_mod.", "model.")
    ),
]


def _is_state(content: dict[str, Any]) -> bool:
    return all(isinstance(value, Tensor) for value in content.values())


@settings(max_examples=60, deadline=None)
@given(layers=st.lists(st.sampled_from(LAYERS), max_size=5))
def test_wrappers_come_off_as_often_as_there_are_any(
    layers: list[Callable[[dict[str, Any]], dict[str, Any]]],
) -> None:
    content: dict[str, Any] = dict(STATE)
    for layer in layers:
        content = layer(content)
    found = unwrapped(content, "w.pt", "the model")
    assert found.keys() == STATE.keys() and all(found[name] is STATE[name] for name in STATE)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors", "w.bin"])
@pytest.mark.parametrize("safe", [True, False])
def test_the_kind_of_file_is_known_by_its_content(tmp_path: Path, name: str, safe: bool) -> None:
    content = {f"module.{key}": value for key, value in STATE.items()}
    (save_file if safe else torch.save)(content, tmp_path / name)
    assert read_state(tmp_path / name, "the model", "text.")["weight"].equal(STATE["text.weight"])
    with pytest.raises(
        FileError, match=rf"{name} has no entry for the model: none starts with 'audio\.'.*text"
    ):
        read_state(tmp_path / name, "the model", "audio.")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "holds a list"),
        ({"model": {}}, "holds no tensor.*'model'"),
        ({"x" * 5_000: 1}, "holds no tensor"),
        ({"module.a": torch.ones(1), "a": torch.ones(1)}, "names parameters with and without 'module.'"),
    ],
)
def test_other_content_is_named(content: Any, message: str) -> None:
    with pytest.raises(FileError, match=f"w.pt {message}") as stopped:
        unwrapped(content, "w.pt", "the model")
    assert len(str(stopped.value)) < 400


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(value: float) -> None:
    check_finite(STATE | {"count": torch.ones(1, dtype=torch.int64)}, "w.pt", "the model")
    with pytest.raises(
        FileError, match=r"w\.pt has NaN or infinite values in 1 parameters of the model: \['b'\]"
    ):
        check_finite(STATE | {"b": torch.tensor([1.0, value])}, "w.pt", "the model")


def test_a_cut_safetensors_file(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w")
    (tmp_path / "w").write_bytes((tmp_path / "w").read_bytes()[:-4])
    with pytest.raises(FileError, match="w is no readable model"):
        read_state(tmp_path / "w", "model")
