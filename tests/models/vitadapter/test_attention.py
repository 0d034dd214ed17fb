"""Compressed attention layers against explicit softmax attention."""

import pytest
import torch

from models.vitadapter.attention import CrossAttention, SelfAttention, compressed_width
from tests import oracle

E, HEADS = 24, 3


def named(layer):
    return {f"layer.{name}": p for name, p in layer.named_parameters()}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("query_pos", [True, False])
@pytest.mark.parametrize("key_pos", [True, False])
def test_cross_attention_equals_the_oracle(randomise, query_pos, key_pos):
    layer = randomise(CrossAttention(E, HEADS, 0.25)).double()
    x, memory = random(2, 5, E), random(2, 7, E, seed=1)
    positions = {
        "query_pos": random(5, E, seed=2) if query_pos else None,
        "key_pos": random(7, E, seed=3) if key_pos else None,
    }
    given = {name: value for name, value in positions.items() if value is not None}
    expected = [
        oracle.cross_attention(x[b], memory[b], named(layer), "layer", HEADS, **given) for b in range(2)
    ]
    torch.testing.assert_close(layer(x, memory, **positions), torch.stack(expected), rtol=1e-10, atol=1e-10)


def test_self_attention_equals_the_oracle(randomise):
    layer = randomise(SelfAttention(E, HEADS, 0.25)).double()
    x, pos = random(2, 5, E), random(5, E, seed=1)
    expected = [oracle.self_attention(row, pos, named(layer), "layer", HEADS) for row in x]
    torch.testing.assert_close(layer(x, pos), torch.stack(expected), rtol=1e-10, atol=1e-10)


def test_training_and_evaluation_agree(randomise):
    """The adapter's attention has no dropout."""
    for layer, arguments in (
        (CrossAttention(E, HEADS, 0.25), (random(1, 5, E), random(1, 7, E))),
        (SelfAttention(E, HEADS, 0.25), (random(1, 5, E), random(5, E))),
    ):
        randomise(layer).double()
        torch.testing.assert_close(layer.train()(*arguments), layer.eval()(*arguments))


def test_published_shapes():
    shapes = {name: tuple(p.shape) for name, p in CrossAttention(768, 12, 0.25).named_parameters()}
    assert shapes["q_proj.weight"] == (192, 768) and shapes["output_proj.weight"] == (768, 192)
    assert shapes["multihead_attn.k_proj_weight"] == shapes["multihead_attn.v_proj_weight"] == (192, 768)
    assert shapes["multihead_attn.q_proj_weight"] == (192, 192)
    assert "norm_kq.weight" in shapes and not any(
        name.startswith("norm_kq") for name, _ in SelfAttention(768, 12, 0.25).named_parameters()
    )


def test_every_matrix_starts_xavier_uniform():
    torch.manual_seed(0)
    cross, own = CrossAttention(96, 12, 0.25), SelfAttention(96, 12, 0.25)
    for layer in (cross, own):
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.fill_(7.0)
        layer.reset_parameters()
        matrices = {name: p for name, p in layer.named_parameters() if p.dim() == 2}
        assert len(matrices) == 6
        for name, matrix in matrices.items():
            bound = (6 / sum(matrix.shape)) ** 0.5
            assert 0.95 * bound < matrix.abs().max().item() <= bound, name
            assert matrix.std().item() == pytest.approx(bound / 3**0.5, rel=0.06), name
    assert cross.q_proj.bias.abs().max() == 0 and cross.output_proj.bias.abs().max() == 0
    assert (own.q_proj.bias == 7).all() and (own.output_proj.bias == 7).all()  # keep what they have


@pytest.mark.parametrize(("dim", "ratio", "heads"), [(10, 0.25, 3), (24, 0.25, 4), (4, 0.1, 1)])
def test_widths_that_heads_do_not_divide(dim, ratio, heads):
    with pytest.raises(ValueError, match=f"width {dim} x cffn_ratio {ratio}.*num_heads {heads}"):
        compressed_width(dim, ratio, heads)


def test_width():
    assert compressed_width(768, 0.25, 12) == 192
