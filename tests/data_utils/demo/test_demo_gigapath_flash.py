"""The demo's checkpoints for GigaPath-Flash: official form, reproducible, and what the patches are reaches CLS."""

from __future__ import annotations

import pytest
import torch

from data_utils.demo import checkpoints
from models.encoders import slide_encoder
from models.slide_backbone import build_backbone
from utils import constants
from utils.files import read_json
from utils.tensor_files import write_tensors

FLASH = slide_encoder("gigapath_flash")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("data_utils.demo.weights.CALIBRATION_TILES", 4)


@pytest.mark.parametrize(
    "make",
    [checkpoints.tile_encoder_state, lambda seed, name: checkpoints.slide_encoder_state(seed, name)["model"]],
)
def test_weights_depend_on_the_seed_alone(make):
    states = []
    for seed, other in ((3, 0), (3, 1), (4, 1)):
        torch.manual_seed(other)
        states.append(make(seed, "gigapath_flash"))
    one, again, different = states
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], different[name]) for name in one)
    assert all(value.isfinite().all() for value in one.values())


def test_it_is_not_gigapath_by_another_name():
    one, other = (
        checkpoints.slide_encoder_state(3, name)["model"] for name in ("gigapath_flash", "gigapath")
    )
    name = "encoder.layers.0.self_attn.q_proj.weight"
    assert one[name].shape == other[name].shape and not torch.equal(one[name], other[name])


def test_the_slide_encoder_loads_in_the_official_form(tmp_path):
    write_tensors(tmp_path / "slide_encoder.pth", checkpoints.slide_encoder_state(3, "gigapath_flash"))
    backbone = build_backbone("gigapath_flash", read_json(FLASH.demo_config)["slide_encoder"])
    backbone.load_pretrained(tmp_path / "slide_encoder.pth")
    tokens = torch.randn(2, 40, backbone.embed_dim, generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = 0  # the same CLS in two different slides
    with torch.no_grad():
        for block in backbone.eval().blocks:
            tokens = backbone.run(block, tokens, None)
    cls = torch.nn.functional.normalize(tokens[:, 0], dim=1)
    assert torch.isfinite(tokens).all() and float(cls[0] @ cls[1]) < 0.95


def test_weights_set_elsewhere_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    """The demo would write its own file and then read that other one."""
    monkeypatch.setattr(constants, "GIGAPATH_FLASH_SLIDE_ENCODER", tmp_path / "official.pth")
    with pytest.raises(
        ValueError, match=r"weights of gigapath_flash are set to .*official\.pth, outside .*unset"
    ):
        checkpoints.write_checkpoints(tmp_path / "weights", seed=3)
    assert not (tmp_path / "weights").exists()
