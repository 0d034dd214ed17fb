"""The tile encoder has the published shape and loads checkpoints strictly."""

import pytest
import torch

from models.prov_gigapath.tile_encoder import build_tile_encoder, load_tile_encoder
from utils import constants
from utils.files import read_json

DEMO = constants.CONFIGS_ROOT / "demo_gigapath_tile_encoder.json"
PUBLISHED = constants.CONFIGS_ROOT / "gigapath_tile_encoder.json"

# Shapes of the published checkpoint; those of a block repeat 40 times.
TOP = {
    "cls_token": (1, 1, 1536),
    "pos_embed": (1, 197, 1536),
    "patch_embed.proj.weight": (1536, 3, 16, 16),
    "patch_embed.proj.bias": (1536,),
    "norm.weight": (1536,),
    "norm.bias": (1536,),
}
BLOCK = {
    "norm1.weight": (1536,),
    "norm1.bias": (1536,),
    "attn.qkv.weight": (4608, 1536),
    "attn.qkv.bias": (4608,),
    "attn.proj.weight": (1536, 1536),
    "attn.proj.bias": (1536,),
    "ls1.gamma": (1536,),
    "norm2.weight": (1536,),
    "norm2.bias": (1536,),
    "mlp.fc1.weight": (8192, 1536),
    "mlp.fc1.bias": (8192,),
    "mlp.fc2.weight": (1536, 4096),
    "mlp.fc2.bias": (1536,),
    "ls2.gamma": (1536,),
}


@pytest.fixture
def demo():
    return read_json(DEMO)


@pytest.fixture
def checkpoint(demo, tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "pytorch_model.bin"
    torch.save(build_tile_encoder(demo).state_dict(), path)
    return path


def test_published_config_has_the_published_parameters():
    with torch.device("meta"):
        encoder = build_tile_encoder(read_json(PUBLISHED))
    wanted = TOP | {f"blocks.{n}.{name}": shape for n in range(40) for name, shape in BLOCK.items()}
    assert {name: tuple(value.shape) for name, value in encoder.state_dict().items()} == wanted
    assert sum(value.numel() for value in encoder.parameters()) == 1_134_953_984


def test_demo_config_differs_in_width_and_depth_only(demo):
    published = read_json(PUBLISHED)
    shrunk = {"embed_dim", "depth", "num_heads", "mlp_ratio"}  # SwiGLU needs an even hidden width
    for config in (demo, published):
        config["model_args"] = {k: v for k, v in config["model_args"].items() if k not in shrunk}
    assert demo == published


def test_loads_what_was_saved_and_is_frozen(demo, checkpoint):
    encoder = load_tile_encoder(demo, checkpoint)
    saved = torch.load(checkpoint, weights_only=True)
    assert all(torch.equal(value, saved[name]) for name, value in encoder.state_dict().items())
    assert not encoder.training and not any(value.requires_grad for value in encoder.parameters())
    features = encoder(torch.randn(2, 3, 224, 224))
    assert features.shape == (2, encoder.num_features) == (2, 64)
    assert features.isfinite().all() and not torch.allclose(features[0], features[1])


def test_default_checkpoint_comes_from_constants(demo, checkpoint, monkeypatch):
    monkeypatch.setattr(constants, "GIGAPATH_TILE_ENCODER", checkpoint)
    assert load_tile_encoder(demo).num_features == 64


def test_absent_checkpoint_says_where_to_get_it(demo, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.bin.*huggingface.*GIGAPATH_TILE_ENCODER"):
        load_tile_encoder(demo, tmp_path / "nothing.bin")


def test_missing_and_misshapen_parameters_are_refused(demo, checkpoint):
    state = torch.load(checkpoint, weights_only=True)
    torch.save({k: v for k, v in state.items() if k != "norm.bias"}, checkpoint)
    with pytest.raises(ValueError, match=r"1 parameters missing \['norm\.bias'\]"):
        load_tile_encoder(demo, checkpoint)
    torch.save(state | {"norm.bias": torch.zeros(7)}, checkpoint)
    with pytest.raises(ValueError, match=r"norm\.bias is \(7,\), should be \(64,\)"):
        load_tile_encoder(demo, checkpoint)


def test_unexpected_parameters_are_reported(demo, checkpoint, caplog):
    state = torch.load(checkpoint, weights_only=True)
    torch.save(state | {"head.weight": torch.zeros(3)}, checkpoint)
    load_tile_encoder(demo, checkpoint)
    assert "head.weight" in caplog.text


def test_wrong_configs_are_refused(demo):
    with pytest.raises(ValueError, match="no model 'vit_none'"):
        build_tile_encoder(demo | {"model_name": "vit_none"})
    with pytest.raises(ValueError, match="num_classes must be 0"):
        build_tile_encoder(demo | {"model_args": {"embed_dim": 64}})
    with pytest.raises(ValueError, match="model_args"):
        build_tile_encoder({"model_name": "vit_giant_patch14_dinov2"})
