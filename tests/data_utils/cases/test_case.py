"""A Case moves as one."""

from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch
from torch import Tensor

from data_utils.cases.case import Case

TENSORS = {"features", "coords", "slide_of_patch", "text"}


def test_moves_every_tensor_and_nothing_else(make_case):
    case = make_case()
    moved = case.to("meta")
    for field in fields(Case):
        before, after = getattr(case, field.name), getattr(moved, field.name)
        if field.name in TENSORS - {"coords"}:
            assert after.device.type == "meta" and after.shape == before.shape and after.dtype == before.dtype
            assert before.device.type == "cpu"
        elif field.name == "coords":
            assert after is before  # models check coordinates on the CPU
        elif field.name == "inputs":
            assert set(after) == set(before) == {"genes", "clinical", "vectors"}
            assert all(value.device.type == "meta" for value in after.values())
            assert all(after[name].shape == value.shape for name, value in before.items())
        else:
            assert after == before


def test_half_precision_features_travel_as_they_are(make_case):
    half = replace(make_case(), features=torch.tensor([[0.1, 60000.0]], dtype=torch.float16))
    moved = half.to("cpu")
    assert moved.features.dtype == torch.float32 and torch.equal(moved.features, half.features.float())


def test_absent_modalities_stay_absent(make_case):
    moved = make_case(genes=None, clinical=None, vectors=None, text=None).to("meta")
    assert moved.inputs == {} and moved.text is None
    assert moved.features.device.type == "meta"


def test_pins_every_tensor(make_case, monkeypatch):
    """Page-locked memory needs a GPU, so the call itself is watched."""
    pinned = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: pinned.append(tensor.shape) or tensor + 0)
    case = make_case()
    result = case.pin_memory()
    shapes = [getattr(case, name).shape for name in TENSORS] + [value.shape for value in case.inputs.values()]
    assert sorted(pinned) == sorted(shapes)
    assert torch.equal(result.features, case.features) and result.features is not case.features


def test_cannot_be_changed(make_case):
    with pytest.raises(FrozenInstanceError):
        make_case().label = 3
