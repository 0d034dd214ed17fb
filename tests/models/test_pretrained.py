"""Official checkpoints: absent, damaged, incomplete, or with more than needed."""

import logging

import pytest
import torch
from torch import nn

from models.pretrained import load_strict, read_checkpoint
from utils import constants

WORDS = {"what": "the encoder", "source": "https://example.org/model", "constant": "GIGAPATH_SLIDE_ENCODER"}


def model():
    return nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))


def test_an_absent_file_says_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        read_checkpoint(tmp_path / "w.pth", **WORDS)
    for part in (str(tmp_path / "w.pth"), "the encoder", "https://example.org/model"):
        assert part in str(caught.value)
    assert "MODALTUNE_GIGAPATH_SLIDE_ENCODER" in str(caught.value)
    assert hasattr(constants, WORDS["constant"])


def test_a_file_is_read(tmp_path):
    torch.save({"model": {"a": torch.ones(2)}}, tmp_path / "w.pth")
    assert read_checkpoint(tmp_path / "w.pth", **WORDS)["a"].sum() == 2


class Code:
    def __reduce__(self):
        return exec, ("raise SystemExit('code was executed')",)


@pytest.mark.parametrize("kind", ["code", "junk", "folder"])
def test_damage_and_code_are_named(tmp_path, kind):
    path = tmp_path / "w.pth"
    if kind == "code":
        torch.save({"model": Code()}, path)
    elif kind == "junk":
        path.write_text("version https://git-lfs.github.com/spec/v1")
    else:
        path.mkdir()
    with pytest.raises(FileNotFoundError if kind == "folder" else ValueError, match=r"the encoder"):
        read_checkpoint(path, **WORDS)


def test_everything_is_loaded_and_counted(caplog):
    source, target = model(), model()
    with caplog.at_level(logging.INFO):
        load_strict(target, source.state_dict(), "the encoder", "w.pth")
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))
    assert "the encoder: loaded 4 tensors from w.pth" in caplog.text
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_unexpected_entries_are_reported_and_ignored(caplog):
    state = {**model().state_dict(), "head.weight": torch.zeros(1), "head.bias": torch.zeros(1)}
    target = model()
    with caplog.at_level(logging.WARNING):
        load_strict(target, state, "the encoder", "w.pth")
    assert "2 unexpected entries ignored" in caplog.text and "head.bias" in caplog.text
    assert torch.equal(target[0].weight, state["0.weight"])


@pytest.mark.parametrize("fault", ["missing", "misshapen"])
def test_either_fault_alone_is_refused(fault):
    state = dict(model().state_dict())
    if fault == "missing":
        del state["0.bias"]
    else:
        state["0.bias"] = torch.zeros(2)
    with pytest.raises(ValueError, match=r"w\.pth does not fit the encoder.*0\.bias"):
        load_strict(model(), state, "the encoder", "w.pth")


def test_missing_and_misshapen_parameters_are_refused():
    target = model()
    before = target[0].bias.clone()
    state = {**model().state_dict(), "0.weight": torch.zeros(3, 5)}
    del state["1.bias"]
    with pytest.raises(ValueError) as caught:
        load_strict(target, state, "the encoder", "w.pth")
    for part in ("w.pth does not fit the encoder", "1 parameters missing ['1.bias']"):
        assert part in str(caught.value)
    assert "0.weight is (3, 5), should be (3, 2)" in str(caught.value)
    assert torch.equal(target[0].bias, before)
