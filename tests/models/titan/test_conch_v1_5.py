"""CONCH v1.5 has the published shape, pools as published and loads checkpoints strictly."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.titan.conch_v1_5 import AttentionalPooler, build_conch_v1_5, load_conch_v1_5
from utils import constants
from utils.files import read_json

PUBLISHED = constants.CONFIGS_ROOT / "conch_v1_5.json"
DEMO = constants.CONFIGS_ROOT / "demo_conch_v1_5.json"

# Shapes of the published checkpoint; those of a block repeat 24 times.
TOP = {
    "trunk.cls_token": (1, 1, 1024),
    "trunk.pos_embed": (1, (448 // 16) ** 2 + 1, 1024),
    "trunk.patch_embed.proj.weight": (1024, 3, 16, 16),
    "trunk.patch_embed.proj.bias": (1024,),
    "trunk.norm.weight": (1024,),
    "trunk.norm.bias": (1024,),
    "attn_pool_contrast.query": (1, 768),
    "attn_pool_contrast.ln_q.weight": (768,),
    "attn_pool_contrast.ln_q.bias": (768,),
    "attn_pool_contrast.ln_k.weight": (1024,),
    "attn_pool_contrast.ln_k.bias": (1024,),
    "attn_pool_contrast.to_q.weight": (768, 768),
    "attn_pool_contrast.to_kv.weight": (1536, 1024),
    "attn_pool_contrast.to_out.weight": (768, 768),
    "ln_contrast.weight": (768,),
    "ln_contrast.bias": (768,),
}
BLOCK = {
    "norm1.weight": (1024,),
    "norm1.bias": (1024,),
    "attn.qkv.weight": (3072, 1024),
    "attn.qkv.bias": (3072,),
    "attn.proj.weight": (1024, 1024),
    "attn.proj.bias": (1024,),
    "ls1.gamma": (1024,),
    "norm2.weight": (1024,),
    "norm2.bias": (1024,),
    "mlp.fc1.weight": (4096, 1024),
    "mlp.fc1.bias": (4096,),
    "mlp.fc2.weight": (1024, 4096),
    "mlp.fc2.bias": (1024,),
    "ls2.gamma": (1024,),
}


@pytest.fixture
def demo():
    return read_json(DEMO)


@pytest.fixture
def tiny(demo):
    """The same architecture, small enough for loops."""
    shape = {"img_size": 32, "patch_size": 16, "embed_dim": 12, "depth": 2, "num_heads": 2}
    config = demo | {"model_args": demo["model_args"] | shape, "input_size": 32, "resize": 32}
    return config | {"model_pooler": {"embed_dim": 8, "num_heads": 4}}


@pytest.fixture
def checkpoint(tiny, tmp_path, randomise):
    path = tmp_path / "pytorch_model_vision.bin"
    torch.save(randomise(build_conch_v1_5(tiny)).state_dict(), path)
    return path


# ---------------------------------------------------------------------------- oracle
def slow_norm(vector, weight, bias, eps):
    mean = sum(vector) / len(vector)
    variance = sum((value - mean) ** 2 for value in vector) / len(vector)
    scale = 1 / math.sqrt(variance + eps)
    return [(x - mean) * scale * w + b for x, w, b in zip(vector, weight, bias, strict=True)]


def slow_linear(vector, matrix):
    return [sum(w * x for w, x in zip(row, vector, strict=True)) for row in matrix]


def slow_pooler(state, tokens, heads):
    """One image: ``tokens [L][C]`` -> ``[Q][E]``, number by number."""
    width = len(state["query"][0]) // heads
    keys, values = [], []
    for token in tokens:
        normed = slow_norm(token, state["ln_k.weight"], state["ln_k.bias"], 1e-5)
        both = slow_linear(normed, state["to_kv.weight"])
        keys.append(both[: len(both) // 2])
        values.append(both[len(both) // 2 :])
    pooled = []
    for query in state["query"]:
        query = slow_linear(
            slow_norm(query, state["ln_q.weight"], state["ln_q.bias"], 1e-5), state["to_q.weight"]
        )
        result = []
        for head in range(heads):
            part = range(head * width, (head + 1) * width)
            scores = [sum(query[i] * key[i] for i in part) / math.sqrt(width) for key in keys]
            shares = [math.exp(score - max(scores)) for score in scores]
            result += [
                sum(share * value[i] for share, value in zip(shares, values, strict=True)) / sum(shares)
                for i in part
            ]
        pooled.append(slow_linear(result, state["to_out.weight"]))
    return pooled


def as_lists(module):
    return {name: value.tolist() for name, value in module.state_dict().items()}


@settings(max_examples=25, deadline=None)
@given(
    heads=st.integers(1, 4),
    width=st.integers(1, 3),
    context=st.integers(2, 7),
    queries=st.integers(1, 2),
    length=st.integers(1, 6),
    scale=st.sampled_from((1.0, 30.0)),
    seed=st.integers(0, 1000),
)
def test_pooler_equals_the_oracle(heads, width, context, queries, length, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    # A LayerNorm of a single number is only its bias: two at least.
    pooler = AttentionalPooler(heads * width * 2, context, heads, queries).double()
    with torch.no_grad():
        for parameter in pooler.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * scale)
    tokens = torch.randn(2, length, context, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        pooled = pooler(tokens)
    assert pooled.shape == (2, queries, heads * width * 2)
    for image, result in zip(tokens, pooled, strict=True):
        wanted = slow_pooler(as_lists(pooler), image.tolist(), heads)
        np.testing.assert_allclose(result.numpy(), wanted, rtol=1e-9, atol=1e-9 * scale**3)


def test_encoder_pools_all_tokens_after_the_final_norm(tiny, randomise):
    encoder = randomise(build_conch_v1_5(tiny)).double().eval()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    trunk, state = encoder.trunk, as_lists(encoder)
    with torch.no_grad():
        features = encoder(images)
        patches = trunk.patch_embed(images)
        tokens = torch.cat([trunk.cls_token.expand(2, -1, -1), patches], dim=1) + trunk.pos_embed
        for block in trunk.blocks:
            normed = block.norm1(tokens)
            tokens = tokens + block.ls1.gamma * block.attn(normed)
            hidden = torch.nn.functional.gelu(block.mlp.fc1(block.norm2(tokens)))
            tokens = tokens + block.ls2.gamma * block.mlp.fc2(hidden)
    assert tokens.shape == (2, 1 + 4, 12)
    pooler = {
        name.removeprefix("attn_pool_contrast."): value
        for name, value in state.items()
        if name.startswith("attn_pool_contrast.")
    }
    for image, result in zip(tokens.tolist(), features, strict=True):
        normed = [
            slow_norm(token, state["trunk.norm.weight"], state["trunk.norm.bias"], 1e-6) for token in image
        ]
        (pooled,) = slow_pooler(pooler, normed, heads=4)
        wanted = slow_norm(pooled, state["ln_contrast.weight"], state["ln_contrast.bias"], 1e-5)
        np.testing.assert_allclose(result.numpy(), wanted, rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------------------- configs
def test_published_config_has_the_published_parameters():
    with torch.device("meta"):
        encoder = build_conch_v1_5(read_json(PUBLISHED))
    blocks = {f"trunk.blocks.{n}.{name}": shape for n in range(24) for name, shape in BLOCK.items()}
    found = {name: tuple(value.shape) for name, value in encoder.state_dict().items()}
    assert found == TOP | blocks
    assert encoder.num_features == 768 and encoder.attn_pool_contrast.num_heads == 8
    assert {block.attn.num_heads for block in encoder.trunk.blocks} == {16}


def test_published_recipe():
    config = read_json(PUBLISHED)
    recipe = {name: value for name, value in config.items() if not name.startswith("model_")}
    assert recipe == {
        "tile_size": 512,
        "target_mpp": 0.5,
        "resize": 448,
        "interpolation": "bilinear",
        "input_size": 448,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }


def test_layer_scale_starts_at_one(tiny):
    encoder = build_conch_v1_5(tiny)
    gains = [value for name, value in encoder.named_parameters() if name.endswith("gamma")]
    assert len(gains) == 4 and all((value == 1).all() for value in gains)


def test_demo_config_differs_in_sizes_only(demo):
    published = read_json(PUBLISHED)
    for config in (demo, published):
        config["model_args"] = {
            name: value
            for name, value in config["model_args"].items()
            if name not in ("img_size", "embed_dim", "depth", "num_heads")
        }
        for name in ("model_pooler", "input_size", "resize"):
            del config[name]
    assert demo == published


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_pooler": None}, r"\['model_pooler'\] are missing"),
        ({"model_args": None}, r"\['model_args'\] are missing"),
        ({"model_name": "vit_none"}, "no model 'vit_none'"),
        ({"model_args": {"img_size": 224, "num_classes": 5}}, "num_classes must be 0"),
        ({"input_size": 448}, r"tiles are 448 px .* takes 224 px"),
        ({"model_pooler": {"embed_dim": 64, "heads": 8}}, "unknown key 'heads'"),
        ({"model_pooler": {"embed_dim": 64}}, r"missing keys \['num_heads'\]"),
        ({"model_pooler": {"embed_dim": 64, "num_heads": 5}}, "5 heads do not divide the width 64"),
    ],
)
def test_wrong_configs_are_refused(demo, change, message):
    config = {name: value for name, value in (demo | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        build_conch_v1_5(config)


# ---------------------------------------------------------------------------- checkpoints
def test_loads_what_was_saved_and_is_frozen(tiny, checkpoint):
    encoder = load_conch_v1_5(tiny, checkpoint)
    saved = torch.load(checkpoint, weights_only=True)
    assert all(torch.equal(value, saved[name]) for name, value in encoder.state_dict().items())
    assert not encoder.training and not any(value.requires_grad for value in encoder.parameters())
    features = encoder(torch.randn(3, 3, 32, 32))
    assert features.shape == (3, encoder.num_features) == (3, 8)
    assert features.isfinite().all() and not torch.allclose(features[0], features[1])


def test_default_checkpoint_comes_from_constants(tiny, checkpoint, monkeypatch):
    monkeypatch.setattr(constants, "CONCH_V1_5", checkpoint)
    assert load_conch_v1_5(tiny).num_features == 8


def test_absent_checkpoint_says_where_to_get_it(tiny, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"nothing\.bin.*huggingface\.co/MahmoodLab/conchv1_5.*CONCH_V1_5"
    ):
        load_conch_v1_5(tiny, tmp_path / "nothing.bin")


def test_damaged_checkpoint_is_named(tiny, tmp_path):
    (tmp_path / "x.bin").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"x\.bin is no readable checkpoint of the CONCH v1\.5"):
        load_conch_v1_5(tiny, tmp_path / "x.bin")


def test_missing_and_misshapen_parameters_are_refused(tiny, checkpoint):
    state = torch.load(checkpoint, weights_only=True)
    torch.save({k: v for k, v in state.items() if k != "attn_pool_contrast.query"}, checkpoint)
    with pytest.raises(ValueError, match=r"1 parameters missing \['attn_pool_contrast\.query'\]"):
        load_conch_v1_5(tiny, checkpoint)
    torch.save(state | {"ln_contrast.bias": torch.zeros(7)}, checkpoint)
    with pytest.raises(ValueError, match=r"ln_contrast\.bias is \(7,\), should be \(8,\)"):
        load_conch_v1_5(tiny, checkpoint)


def test_unexpected_parameters_are_reported(tiny, checkpoint, caplog):
    state = torch.load(checkpoint, weights_only=True)
    torch.save(state | {"proj_contrast": torch.zeros(3)}, checkpoint)
    load_conch_v1_5(tiny, checkpoint)
    assert "proj_contrast" in caplog.text
