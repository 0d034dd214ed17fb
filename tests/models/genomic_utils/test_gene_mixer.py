"""Grouped pathway networks against a loop of small networks, and the layout of published checkpoints."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.genomic_utils.gene_mixer import (
    GeneMixer,
    PathwayNetworks,
    pack_pathway_networks,
    unpack_pathway_networks,
)
from tests import oracle

HIDDEN = 6


class Loop(nn.Module):
    """One small network per pathway, as the published code writes them."""

    def __init__(self, pathways, hidden=HIDDEN, dropout=0.25):
        super().__init__()
        self.pathways = pathways
        self.gene_networks = nn.ModuleList(
            nn.Sequential(
                nn.Sequential(nn.Linear(len(genes), hidden), nn.ELU(), nn.AlphaDropout(dropout)),
                nn.Sequential(nn.Linear(hidden, hidden), nn.ELU(), nn.AlphaDropout(dropout)),
            )
            for genes in pathways
        )

    def forward(self, genes):
        return torch.stack(
            [net(genes[list(p)]) for net, p in zip(self.gene_networks, self.pathways, strict=True)]
        )


def grouped_from(loop, **options):
    grouped = PathwayNetworks(loop.pathways, HIDDEN, options.get("dropout", 0.25)).double()
    state = pack_pathway_networks(loop.state_dict())
    grouped.load_state_dict({name.removeprefix("gene_networks."): v for name, v in state.items()})
    return grouped


PATHWAYS = st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=9, unique=True), min_size=1, max_size=7)


@settings(max_examples=30, deadline=None)
@given(PATHWAYS, st.integers(1, 3), st.integers(0, 100))
def test_equals_a_loop_of_networks_with_gradients(pathways, copies, seed):
    torch.manual_seed(seed)
    loop = Loop(pathways).double().eval()
    grouped = grouped_from(loop).eval()
    genes = torch.randn(13, dtype=torch.float64)
    probe = torch.randn(copies, len(pathways), HIDDEN, dtype=torch.float64)

    ours, expected = grouped(genes, copies), loop(genes).expand(copies, -1, -1)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    (ours * probe).sum().backward()
    (expected * probe).sum().backward()
    gradients = pack_pathway_networks({name: p.grad for name, p in loop.named_parameters()})
    for name, parameter in grouped.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[f"gene_networks.{name}"], rtol=1e-11, atol=1e-12)


def test_bfloat16_autocast_stays_near(pathways):
    torch.manual_seed(0)
    grouped = grouped_from(Loop(pathways).double()).float().eval()
    genes = torch.randn(10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = grouped(genes, 2)
    torch.testing.assert_close(low.float(), grouped(genes, 2), rtol=3e-2, atol=3e-2)


# ---------------------------------------------------------------------------- dropout
def test_alpha_dropout_only_in_training(pathways):
    torch.manual_seed(0)
    grouped = PathwayNetworks(pathways, 200, 0.25)
    with torch.no_grad():
        for parameter in grouped.parameters():
            nn.init.normal_(parameter, std=0.2)
    genes = torch.randn(10)
    grouped.eval()
    assert torch.equal(grouped(genes, 2)[0], grouped(genes, 2)[1])
    grouped.train()
    first, second = grouped(genes, 2)
    assert not torch.equal(first, second)
    # Alpha dropout replaces a dropped value by a constant (-1.758) and scales all, to keep mean and spread.
    values, counts = torch.unique(grouped(genes, 20).detach(), return_counts=True)
    assert float(counts.max() / counts.sum()) == pytest.approx(0.25, abs=0.02)
    reference = nn.functional.alpha_dropout(torch.ones(1000), 0.25, training=True).min()
    assert float(values[counts.argmax()]) == pytest.approx(float(reference), rel=1e-5)


def test_every_layer_drops(pathways):
    """With the second layer an identity, masks of the first one remain visible."""
    torch.manual_seed(0)
    grouped = PathwayNetworks(pathways, 50, 0.5).train()
    with torch.no_grad():
        grouped.weight2.copy_(torch.eye(50).expand(len(pathways), -1, -1))
    out = grouped(torch.randn(10), 200).detach()  # [copies, P, H]
    # Two independent coins per entry: neither layer dropped one quarter of the entries.
    constants, counts = torch.unique(out, return_counts=True)
    common = counts > out.numel() // 20
    assert common.sum() == 2  # dropped by the second layer, and by the first only
    shares = (counts[common] / out.numel()).tolist()
    assert sorted(shares) == pytest.approx([0.25, 0.5], abs=0.02)
    # Copies draw their own masks in the first layer too: what it drops in one copy lives in another.
    first = constants[counts == counts[common].min()]
    alive = ~torch.isin(out, constants[common])
    assert ((out == first).any(dim=0) & alive.any(dim=0)).all()


# ---------------------------------------------------------------------------- the whole mixer
@pytest.mark.parametrize("count", [4, 3])
def test_mixer_equals_the_oracle(pathways, randomise, count):
    pathways = pathways[:count]
    mixer = randomise(GeneMixer(pathways, 10, HIDDEN, depth=2, num_tokens=3)).double().eval()
    genes = torch.randn(10, dtype=torch.float64)
    state = unpack_pathway_networks(mixer.state_dict(), [len(p) for p in pathways])
    expected = oracle.gene_tokens(genes, pathways, {f"gene_encoder.{k}": v for k, v in state.items()}, 2)
    torch.testing.assert_close(mixer(genes, 2), expected.expand(2, 3, 10), rtol=1e-10, atol=1e-10)


def test_initialisation_is_the_published_one():
    torch.manual_seed(0)
    mixer = GeneMixer([range(40)] * 60, 64, hidden_dim=64)
    networks = mixer.gene_networks
    for weight in (
        networks.weight1,
        networks.weight2,
        mixer.mlp_mixer[-1].weight,
        mixer.mlp_mixer[0][1].fn[0].weight,
    ):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    for bias in (
        networks.bias1,
        networks.bias2,
        mixer.pathway_compression.bias,
        mixer.mlp_mixer[0][1].fn[3].bias,
    ):
        assert bias.abs().max() == 0
    convolution = mixer.mlp_mixer[0][0].fn[0]  # keeps PyTorch's default, uniform up to 1 / sqrt(60)
    assert convolution.weight.abs().max().item() == pytest.approx(60**-0.5, rel=0.02)
    assert convolution.bias.abs().max() > 0


# ---------------------------------------------------------------------------- published layout
def test_published_layout_there_and_back(pathways):
    state = {**Loop(pathways).state_dict(), "mlp_mixer.0.weight": torch.ones(2)}
    packed = pack_pathway_networks(state)
    assert {k: tuple(v.shape) for k, v in packed.items()} == {
        "gene_networks.weight1": (13, HIDDEN),
        "gene_networks.bias1": (4, HIDDEN),
        "gene_networks.weight2": (4, HIDDEN, HIDDEN),
        "gene_networks.bias2": (4, HIDDEN),
        "mlp_mixer.0.weight": (2,),
    }
    back = unpack_pathway_networks(packed, [len(p) for p in pathways])
    assert set(back) == set(state) and all(torch.equal(back[k], state[k]) for k in state)
    assert all(v.is_contiguous() for v in back.values())


def test_more_than_ten_pathways_keep_their_order():
    """Names sort as text: 10 before 2."""
    pathways = [(i % 5, 5 + i) for i in range(12)]
    torch.manual_seed(0)
    loop = Loop(pathways).double().eval()
    shuffled = dict(sorted(loop.state_dict().items()))
    packed = pack_pathway_networks(shuffled)
    assert torch.equal(packed["gene_networks.bias1"][2], loop.gene_networks[2][0][0].bias)
    genes = torch.randn(20, dtype=torch.float64)
    torch.testing.assert_close(grouped_from(loop).eval()(genes, 1)[0], loop(genes))


def test_a_state_without_pathway_networks_is_left_alone():
    assert pack_pathway_networks({"a": torch.ones(1)}) == {"a": torch.ones(1)}


@pytest.mark.parametrize("name", ["gene_networks.0.0.0.weight", "gene_networks.2.1.0.bias"])
def test_an_incomplete_published_layout_is_named(pathways, name):
    state = Loop(pathways).state_dict()
    del state[name]
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        pack_pathway_networks(state)


@pytest.mark.parametrize("name", ["0.0.0.weight", "1.0.0.bias", "2.1.0.weight", "3.1.0.bias"])
def test_a_pathway_of_another_shape_is_named(pathways, name):
    state = Loop(pathways).state_dict()
    state[f"gene_networks.{name}"] = state[f"gene_networks.{name}"].flatten()[:-1]
    with pytest.raises(
        ValueError, match=f"gene_networks.{name} has the shape .*, by the other pathways it is"
    ):
        pack_pathway_networks(state)


# ---------------------------------------------------------------------------- errors
@pytest.mark.parametrize("pathways", [[], [[0], []]])
def test_empty_pathways_are_refused(pathways):
    with pytest.raises(ValueError, match="at least one gene"):
        PathwayNetworks(pathways, 4, 0.1)


def test_one_pathway_is_too_few_to_mix():
    with pytest.raises(ValueError, match="at least two pathways, got 1"):
        GeneMixer([[0]], 8)


@pytest.mark.parametrize("shape", [(9,), (1, 10), (0,)])
def test_a_gene_vector_that_does_not_fit(pathways, shape):
    with pytest.raises(ValueError, match="vector of >= 10 genes, got shape"):
        PathwayNetworks(pathways, 4, 0.1)(torch.zeros(shape), 1)


# ---------------------------------------------------------------------------- keys that are not published
def test_lecun_keeps_the_variance_and_norm_the_length():
    torch.manual_seed(0)
    pathways = [range(5 * k, 5 * k + 20) for k in range(30)]
    genes = torch.randn(200)
    plain = PathwayNetworks(pathways, 64, 0.0)(genes, 1)
    lecun = PathwayNetworks(pathways, 64, 0.0, "lecun")
    assert plain.std() < 0.03 and 0.3 < lecun(genes, 1).std() < 1.2
    assert lecun.weight2.std().item() == pytest.approx(1 / 8, rel=0.05) and not lecun.bias1.any()
    options = {"hidden_dim": 16, "depth": 1, "num_tokens": 4, "dropout": 0.0}
    tokens = {norm: GeneMixer(pathways, 96, **options, norm=norm)(genes) for norm in (False, True)}
    lengths = {norm: value.norm(dim=-1).mean().item() for norm, value in tokens.items()}
    assert lengths[True] == pytest.approx(96**0.5, rel=0.1) and lengths[False] < 2
    with pytest.raises(ValueError, match="init is 'he', should be one of published, linear, lecun"):
        GeneMixer(pathways, 8, init="he")


def test_keys_at_their_defaults_change_nothing():
    pathways = [range(5), range(3, 9)]
    models = []
    for keys in ({}, {"init": "published", "norm": False}):
        torch.manual_seed(4)
        models.append(GeneMixer(pathways, 8, hidden_dim=6, depth=1, num_tokens=4, **keys))
    one, other = (model.state_dict() for model in models)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_linear_map_is_added_to_every_token_and_moves_no_other_parameter():
    pathways, genes = [[0, 1, 2], [2, 3], [1, 4]], torch.randn(6, dtype=torch.float64)
    encoders = {}
    for linear in (False, True):
        torch.manual_seed(0)
        encoders[linear] = GeneMixer(pathways, 8, hidden_dim=4, num_tokens=3, norm=True, linear=linear)
        encoders[linear].double().eval()
    plain, added = encoders[False], encoders[True]
    weight = added.linear.weight
    assert weight.shape == (8, 5)  # gene 5 is in no pathway
    for name, value in plain.state_dict().items():
        assert torch.equal(value, added.state_dict()[name])
    expected = plain(genes, 2) + (weight @ genes[:5] + added.linear.bias)
    torch.testing.assert_close(added(genes, 2), expected)
    added.train()
    added.gene_networks.dropout = 0.0
    for module in added.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    steps = (added(genes, 2) - plain(genes, 2)).detach()
    torch.testing.assert_close(steps[:, :1].expand_as(steps), steps)  # all tokens of a copy get the same
    assert not torch.allclose(steps[0], steps[1])  # copies have masks of their own
    masked = [
        weight @ (genes[:5] * torch.tensor(mask) * 2) for mask in itertools.product([0.0, 1.0], repeat=5)
    ]
    for copy in steps[:, 0]:
        assert min((copy - added.linear.bias - value).abs().max().item() for value in masked) < 1e-9
