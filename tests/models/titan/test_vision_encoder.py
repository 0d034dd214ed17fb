"""TITAN's modules: the published names and sizes, and every part against the oracle."""

import pytest
import torch

from models.aggregators import DataSpec, build_aggregator
from models.encoders import slide_encoder
from models.titan.vision_encoder import AttentionalPooler, Block, SelfAttention, TitanVisionEncoder
from tests import oracle
from tests.models.titan.test_alibi_attention import LargestTensor
from tests.structures import of_sizes, structures
from utils.files import read_json
from utils.training.checkpoint import to_published

E = 768
POOLER = {
    "query": None,
    "attn.in_proj_weight": (3 * E, E),
    "attn.in_proj_bias": (3 * E,),
    "attn.out_proj.weight": (E, E),
    "attn.out_proj.bias": (E,),
    "ln_q.weight": (E,),
    "ln_q.bias": (E,),
    "ln_k.weight": (E,),
    "ln_k.bias": (E,),
}
BLOCK = {
    "norm1.weight": (E,),
    "norm1.bias": (E,),
    "attn.qkv.weight": (3 * E, E),
    "attn.qkv.bias": (3 * E,),
    "attn.proj.weight": (E, E),
    "attn.proj.bias": (E,),
    "norm2.weight": (E,),
    "norm2.bias": (E,),
    "mlp.fc1.weight": (4 * E, E),
    "mlp.fc1.bias": (4 * E,),
    "mlp.fc2.weight": (E, 4 * E),
    "mlp.fc2.bias": (E,),
}
PUBLISHED = {
    "cls_token": (1, 1, E),
    "proj": (E, E),
    "patch_embed.0.weight": (E, E),
    "patch_embed.0.bias": (E,),
    "norm.weight": (E,),
    "norm.bias": (E,),
    **{f"blocks.modules_list.{i}.{name}": shape for i in range(6) for name, shape in BLOCK.items()},
    **{f"attn_pool.{name}": shape or (128, E) for name, shape in POOLER.items()},
    **{f"attn_pool_contrastive.{name}": shape or (1, E) for name, shape in POOLER.items()},
}
# 331 pathways with as many members altogether as the published table.
SIZES = [9731 // 331 + (i < 9731 % 331) for i in range(331)]


def names_and_shapes(module):
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def small(**changes):
    config = {"in_dim": 5, "embed_dim": 12, "depth": 2, "num_heads": 3, "mlp_ratio": 2.0}
    return TitanVisionEncoder(**{**config, "pooler_heads": 2, "pooler_queries": 4, **changes}).double()


# ---------------------------------------------------------------------------- published layout
def test_names_and_shapes_are_the_published_ones():
    with torch.device("meta"):
        assert names_and_shapes(TitanVisionEncoder()) == PUBLISHED


@pytest.mark.parametrize(
    ("name", "trainable", "joined"),
    [("titan_gene_adapter", 33_921_178, 3), ("titan_gene_clinical_adapter", 34_419_610, 4)],
)
def test_the_published_model(name, trainable, joined):
    pathways = tuple(tuple(range(size)) for size in SIZES)
    config = read_json(slide_encoder("titan").config)
    with torch.device("meta"):
        model = build_aggregator(name, config, DataSpec(structures(pathways), 3))
    counts = [sum(p.numel() for p in model.parameters() if p.requires_grad is kind) for kind in (True, False)]
    assert counts == [trainable, 48_539_904]
    published = {k: tuple(v.shape) for k, v in to_published(model.state_dict(), of_sizes(SIZES)).items()}
    assert PUBLISHED.items() <= published.items()
    assert published["final_norm.weight"] == (joined * E,)
    assert published["final_project.weight"] == (256, joined * E)
    assert published["gene_pe"] == (65 + (joined == 4), E)
    assert len(published) - len(PUBLISHED) - 4 * (331 - 1) == (230 if joined == 4 else 224)
    assert len(model.stages) == 3 and [list(stage) for stage in model.stages] == [[0, 1], [2, 3], [4, 5]]


# ---------------------------------------------------------------------------- parts
def test_a_block_equals_the_oracle(randomise):
    encoder = randomise(small())
    cells = torch.tensor([[0, 0], [1, 1], [1, 4], [3, 0], [0, 2]])  # CLS, then patches
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    reference = oracle.Titan(encoder.state_dict(), {"num_heads": 3})
    reference.cells = cells[1:].tolist()
    for number, block in enumerate(encoder.blocks.modules_list):
        expected = torch.stack([reference.block(copy, number) for copy in x])
        torch.testing.assert_close(block(x, cells, encoder.slopes), expected)


def test_the_pooler_equals_the_oracle(randomise):
    encoder = randomise(small())
    x = torch.randn(2, 7, 12, dtype=torch.float64)
    reference = oracle.Titan(encoder.state_dict(), {"pooler_heads": 2})
    expected = torch.stack([reference.pool(copy) for copy in x])
    pooled = encoder.attn_pool_contrastive(encoder.norm(x))
    torch.testing.assert_close(pooled, expected.unsqueeze(1))
    assert encoder.attn_pool(x).shape == (2, 4, 12)


@pytest.mark.parametrize("enabled", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_the_pooler_does_not_copy_weights_for_every_token(enabled, grad):
    pooler = AttentionalPooler(48, 1, 4).requires_grad_(False)
    x = torch.randn(3, 400, 48, requires_grad=grad)
    with torch.autocast("cpu", torch.bfloat16, enabled=enabled), LargestTensor() as largest:
        pooler(x)
    assert largest.bytes <= 2 * x.numel() * 4  # keys and values in one


def test_random_weights_let_information_through():
    torch.manual_seed(0)
    encoder = small(depth=6)
    cells = torch.arange(12).view(6, 2)
    x = encoder.patch_embed(torch.randn(3, 6, 5, dtype=torch.float64))
    for block in encoder.blocks.modules_list:
        x = block(x, cells, encoder.slopes)
    assert torch.isfinite(x).all() and (x[0] - x[1]).abs().mean() > 0.1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SelfAttention(10, 3), "embed_dim 10 is not divisible by num_heads 3"),
        (lambda: Block(10, 4, 4.0), "num_heads 4"),
        (lambda: AttentionalPooler(10, 1, 3), "embed_dim 10 is not divisible by pooler_heads 3"),
    ],
)
def test_heads_must_divide_the_width(build, message):
    with pytest.raises(ValueError, match=message):
        build()
