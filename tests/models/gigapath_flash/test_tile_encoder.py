"""GigaPath-Flash's tile encoder: published shape, every number against a slow version, its file read strictly."""

import pytest
import torch
from torch.nn import functional as F

from data_utils.extract_features import load_patch_encoder
from models.encoders import slide_encoder
from models.gigapath_flash.tile_encoder import read_tile_state
from models.prov_gigapath.tile_encoder import build_tile_encoder
from tests.oracle import attention, layer_norm, linear
from utils.files import read_json

FLASH = slide_encoder("gigapath_flash")

TOP = {
    "cls_token": (1, 1, 384),
    "pos_embed": (1, 197, 384),
    "patch_embed.proj.weight": (384, 3, 16, 16),
    "patch_embed.proj.bias": (384,),
    "norm.weight": (384,),
    "norm.bias": (384,),
}
BLOCK = {
    "norm1.weight": (384,),
    "norm1.bias": (384,),
    "attn.qkv.weight": (1152, 384),
    "attn.qkv.bias": (1152,),
    "attn.proj.weight": (384, 384),
    "attn.proj.bias": (384,),
    "ls1.gamma": (384,),
    "norm2.weight": (384,),
    "norm2.bias": (384,),
    "mlp.fc1.weight": (2048, 384),
    "mlp.fc1.bias": (2048,),
    "mlp.fc2.weight": (384, 1024),
    "mlp.fc2.bias": (384,),
    "ls2.gamma": (384,),
}


def oracle(images, state, depth, num_heads):
    """Class-token features ``[n, D]`` of images ``[n, 3, s, s]``, one image, patch and block at a time."""
    outs = []
    for image in images:
        rows = [state["cls_token"][0, 0]]
        kernel, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
        side = kernel.shape[-1]
        for top in range(0, image.shape[1], side):
            for left in range(0, image.shape[2], side):
                window = image[:, top : top + side, left : left + side]
                rows.append((kernel * window).sum((1, 2, 3)) + bias)
        x = torch.stack(rows) + state["pos_embed"][0]
        for block in range(depth):
            name = f"blocks.{block}"
            qkv = linear(layer_norm(x, state, f"{name}.norm1", 1e-6), state, f"{name}.attn.qkv")
            read = linear(attention(*qkv.chunk(3, dim=1), num_heads), state, f"{name}.attn.proj")
            x = x + state[f"{name}.ls1.gamma"] * read
            gate, value = linear(layer_norm(x, state, f"{name}.norm2", 1e-6), state, f"{name}.mlp.fc1").chunk(
                2, 1
            )
            hidden = gate / (1 + torch.exp(-gate)) * value
            x = x + state[f"{name}.ls2.gamma"] * linear(hidden, state, f"{name}.mlp.fc2")
        outs.append(layer_norm(x, state, "norm", 1e-6)[0])
    return torch.stack(outs)


@pytest.fixture
def tiny():
    config = read_json(FLASH.tile_config)
    config["model_args"] |= {
        "img_size": 32,
        "embed_dim": 24,
        "depth": 3,
        "num_heads": 3,
        "mlp_ratio": 44 / 24,
    }
    return config | {"input_size": 32}


def test_published_config_has_the_published_parameters():
    with torch.device("meta"):
        encoder = build_tile_encoder(read_json(FLASH.tile_config))
    wanted = TOP | {f"blocks.{n}.{name}": shape for n in range(12) for name, shape in BLOCK.items()}
    assert {name: tuple(value.shape) for name, value in encoder.state_dict().items()} == wanted
    assert sum(value.numel() for value in encoder.parameters()) == 21_681_024
    assert encoder.blocks[0].attn.num_heads == 6 and encoder.num_features == 384


def test_tiles_are_cut_as_for_gigapath():
    ours, theirs = (read_json(slide_encoder(name).tile_config) for name in ("gigapath_flash", "gigapath"))
    for key in ("tile_size", "target_mpp", "input_size", "mean", "std"):
        assert ours[key] == theirs[key]
    assert ours.keys() == theirs.keys()


def test_demo_config_differs_in_width_and_depth_only():
    demo, published = (read_json(path) for path in (FLASH.demo_tile_config, FLASH.tile_config))
    shrunk = {"embed_dim", "depth", "num_heads", "mlp_ratio"}
    for config in (demo, published):
        config["model_args"] = {k: v for k, v in config["model_args"].items() if k not in shrunk}
    assert demo == published


@pytest.mark.parametrize("seed", [0, 1])
def test_equals_oracle(tiny, randomise, seed):
    encoder = randomise(build_tile_encoder(tiny), seed).double().eval()
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, 3, 32, 32, generator=generator, dtype=torch.float64)
    features = encoder(images)
    assert features.shape == (2, 24) and features.std() > 0.1
    expected = oracle(images, encoder.state_dict(), 3, 3)
    torch.testing.assert_close(features, expected, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(features[0], features[1])


def test_the_gate_goes_through_silu(tiny, randomise):
    """Swapping the halves of fc1 must change the output: only the first is the gate."""
    mlp = randomise(build_tile_encoder(tiny)).double().eval().blocks[0].mlp
    x = torch.randn(5, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    first, second = mlp.fc1(x).chunk(2, dim=-1)
    torch.testing.assert_close(mlp(x), mlp.fc2(F.silu(first) * second))
    assert not torch.allclose(mlp(x), mlp.fc2(first * F.silu(second)))


# ---------------------------------------------------------------------------- its file
@pytest.mark.parametrize("wrapped", [False, True])
def test_both_layouts_of_the_file_load(tiny, tmp_path, randomise, wrapped):
    saved = randomise(build_tile_encoder(tiny)).state_dict()
    torch.save({"model": saved, "epoch": 3} if wrapped else saved, tmp_path / "pytorch_model.bin")
    encoder = load_patch_encoder(FLASH, tiny, tmp_path / "pytorch_model.bin")
    assert all(torch.equal(value, saved[name]) for name, value in encoder.state_dict().items())
    assert not encoder.training and not any(value.requires_grad for value in encoder.parameters())


def test_missing_parameters_are_refused(tiny, tmp_path):
    state = build_tile_encoder(tiny).state_dict()
    torch.save({k: v for k, v in state.items() if k != "norm.bias"}, tmp_path / "x.bin")
    with pytest.raises(
        ValueError, match=r"x\.bin does not fit the patch encoder of gigapath_flash.*norm\.bias"
    ):
        load_patch_encoder(FLASH, tiny, tmp_path / "x.bin")


def test_the_file_of_prov_gigapath_is_refused(tiny, tmp_path):
    wide = tiny | {"model_args": tiny["model_args"] | {"embed_dim": 48}}
    torch.save(build_tile_encoder(wide).state_dict(), tmp_path / "x.bin")
    with pytest.raises(ValueError, match=r"cls_token is \(1, 1, 48\), should be \(1, 1, 24\)"):
        load_patch_encoder(FLASH, tiny, tmp_path / "x.bin")


@pytest.mark.parametrize("content", [{"model": None}, [1, 2], torch.zeros(3)])
def test_other_files_are_named(tmp_path, content):
    torch.save(content, tmp_path / "x.bin")
    with pytest.raises(ValueError, match=r"x\.bin holds .*the GigaPath-Flash tile encoder"):
        read_tile_state(tmp_path / "x.bin")


def test_an_absent_file_says_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        read_tile_state(tmp_path / "x.bin")
    for part in (
        "x.bin",
        "prov-gigapath-flash",
        "fetch gigapath_flash",
        "MODALTUNE_GIGAPATH_FLASH_TILE_ENCODER",
    ):
        assert part in str(caught.value)
