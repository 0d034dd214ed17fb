"""MCAT against loops over groups, heads and patches."""

import pytest
import torch
import torch.nn.functional as F

from models.aggregators.mcat import MCAT
from tests.models.aggregators.conftest import KEEP, gradients_reach_everything, randomise
from tests.oracle import attention, layer_norm, linear

D, GENES, DIM = 10, 12, 8
GROUPS = [[0, 1, 5], [3], [2, 5, 7, 11]]


def slow_groups(genes, groups, state, keep):
    """One small network for every group, its rows of the packed weights cut out by hand."""
    start, vectors = 0, []
    for i, members in enumerate(groups):
        weight = state["gene_networks.weight1"][start : start + len(members)]
        start += len(members)
        h = state["gene_networks.bias1"][i].clone()
        for row, gene in zip(weight, members, strict=True):
            h = h + row * genes[gene]
        h = F.elu(h) * keep
        h = F.elu(h @ state["gene_networks.weight2"][i] + state["gene_networks.bias2"][i]) * keep
        vectors.append(h)
    return torch.stack(vectors)


def split_projection(x, memory, state, name):
    """Query, key and value of packed projections."""
    parts = zip(
        (x, memory, memory),
        state[f"{name}.in_proj_weight"].chunk(3),
        state[f"{name}.in_proj_bias"].chunk(3),
        strict=True,
    )
    return [tokens @ weight.T + bias for tokens, weight, bias in parts]


def slow_pooling(tokens, state, name, heads, keep):
    for index in range(2):
        layer = f"{name}.transformer.layers.{index}"
        mixed = attention(*split_projection(tokens, tokens, state, f"{layer}.self_attn"), heads)
        mixed = linear(mixed, state, f"{layer}.self_attn.out_proj") * keep
        tokens = layer_norm(tokens + mixed, state, f"{layer}.norm1")
        hidden = torch.relu(linear(tokens, state, f"{layer}.linear1")) * keep
        tokens = layer_norm(
            tokens + linear(hidden, state, f"{layer}.linear2") * keep, state, f"{layer}.norm2"
        )
    a = torch.tanh(linear(tokens, state, f"{name}.attention.attention_a.0")) * keep
    b = torch.sigmoid(linear(tokens, state, f"{name}.attention.attention_b.0")) * keep
    weights = linear(a * b, state, f"{name}.attention.attention_c").exp()
    pooled = (weights * tokens).sum(0) / weights.sum()
    return torch.relu(linear(pooled, state, f"{name}.rho.0")) * keep


def slow(features, genes, groups, state, heads, keep):
    patches = torch.relu(linear(features, state, "patch.0")) * keep
    vectors = slow_groups(genes, groups, state, keep)
    q, k, v = split_projection(vectors, patches, state, "coattention")
    attended = []
    for query in q:
        scores = torch.stack([(query * key).sum() / q.shape[1] ** 0.5 for key in k]).exp()
        attended.append(sum(s * value for s, value in zip(scores / scores.sum(), v, strict=True)))
    image = linear(torch.stack(attended), state, "coattention.out_proj")
    joined = torch.cat(
        [slow_pooling(t, state, n, heads, keep) for t, n in ((image, "image"), (vectors, "genes"))]
    )
    return torch.relu(linear(torch.relu(linear(joined, state, "fusion.0")), state, "fusion.2"))


@pytest.mark.parametrize("patches", [1, 2, 19])
@pytest.mark.parametrize("training", [False, True])
def test_equals_the_slow_version(double, scaled_dropout, patches, training):
    model = randomise(MCAT(D, GROUPS, DIM, heads=2)).train(training)
    for layer in (*model.image.transformer.layers, *model.genes.transformer.layers):
        layer.self_attn.dropout = 0.0  # drawn inside the attention of the library
    features, genes = torch.randn(patches, D), torch.randn(GENES)
    expected = slow(features, genes, GROUPS, model.state_dict(), 2, KEEP if training else 1.0)
    torch.testing.assert_close(model(features, genes), expected, rtol=1e-10, atol=1e-10)


def test_an_empty_group_is_an_error():
    with pytest.raises(ValueError, match="at least one gene"):
        MCAT(D, [[0, 1], []])


def test_layers_of_one_transformer_start_alike():
    model = MCAT(D, GROUPS, DIM, heads=2)
    first, second = (dict(layer.named_parameters()) for layer in model.image.transformer.layers)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = dict(model.genes.transformer.layers[0].named_parameters())
    assert not torch.equal(first["linear1.weight"], other["linear1.weight"])


def test_sizes_and_rates_are_the_published_ones():
    model = MCAT(1536, GROUPS)
    layer = model.image.transformer.layers[0]
    assert layer.self_attn.num_heads == 8
    assert layer.linear1.out_features == 512
    assert layer.self_attn.dropout == layer.dropout.p == 0.25
    assert model.coattention.num_heads == 1
    assert model.coattention.dropout == 0.0
    assert model.output_dim == 256
    assert not model.coattention.in_proj_bias.any()


def test_gene_networks_start_as_linear_layers_do():
    torch.manual_seed(0)
    networks = MCAT(D, [range(100), range(400)]).gene_networks
    small, large = networks.weight1.split([100, 400])
    for part, fan_in in ((small, 100), (large, 400), (networks.weight2, 256), (networks.bias1[1], 400)):
        assert part.abs().max().item() <= fan_in**-0.5
        assert part.std().item() == pytest.approx((3 * fan_in) ** -0.5, rel=0.15)


def test_every_parameter_learns(double):
    model = MCAT(D, GROUPS, DIM, heads=2).eval()
    silent = gradients_reach_everything(model, torch.randn(5, D), torch.randn(GENES))
    assert {name.split(".")[-1] for name in silent} <= {"bias"}
    assert all("attention_c" in name for name in silent)
