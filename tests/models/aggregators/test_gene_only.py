"""The gene-only and clinical models against loops."""

import pytest
import torch
import torch.nn.functional as F

from models.aggregators.clinical_mlp import ClinicalMLP
from models.aggregators.gene_mixer import GeneMixerModel
from models.aggregators.mlp import GeneMLP
from models.aggregators.snn import GeneSNN
from models.genomic_utils.gene_mixer import unpack_pathway_networks
from tests.models.aggregators.conftest import KEEP, gradients_reach_everything, randomise
from tests.oracle import gene_tokens, layer_norm, linear

GENES = 14
PATHWAYS = [[0, 3, 13], [5], [1, 2, 3, 4], [7, 8]]


def slow_mlp(genes, state, keep):
    h = torch.relu(linear(genes, state, "net.0")) * keep
    return torch.relu(linear(h, state, "net.3")) * keep


def slow_snn(genes, state, keep):
    for block in range(2):
        x = linear(genes, state, f"fc_omic.{block}.0")
        genes = torch.where(x > 0, x, x.exp() - 1) * keep
    return genes


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("model", "slow"), [(GeneMLP, slow_mlp), (GeneSNN, slow_snn)])
def test_equals_the_slow_version(double, scaled_dropout, model, slow, training):
    model = randomise(model(GENES)).train(training)
    genes = torch.randn(GENES)
    expected = slow(genes, model.state_dict(), KEEP if training else 1.0)
    torch.testing.assert_close(model(genes), expected, rtol=1e-12, atol=1e-12)
    assert expected.shape == (256,) == (model.output_dim,)


def test_gene_mixer_is_the_mean_of_the_tokens_of_modaltune(double):
    model = randomise(GeneMixerModel(PATHWAYS, 24, hidden_dim=6, num_tokens=5)).eval()
    genes = torch.randn(GENES)
    state = model.state_dict()
    encoder = {k.removeprefix("gene_encoder."): v for k, v in state.items() if k.startswith("gene_encoder.")}
    published = unpack_pathway_networks(encoder, [len(p) for p in PATHWAYS])
    tokens = gene_tokens(genes, PATHWAYS, {f"gene_encoder.{k}": v for k, v in published.items()}, depth=3)
    expected = layer_norm(tokens.mean(0), state, "final_norm")
    torch.testing.assert_close(model(genes), expected, rtol=1e-11, atol=1e-11)


def test_clinical_mlp_equals_the_slow_version(double):
    model = randomise(ClinicalMLP(5, 8))
    x = torch.randn(5)
    state = model.state_dict()
    h = linear(torch.relu(linear(x, state, "net.0")), state, "net.2")
    torch.testing.assert_close(model(x), layer_norm(h, state, "net.3"), rtol=1e-12, atol=1e-12)


def test_self_normalising_initialisation():
    torch.manual_seed(0)
    model = GeneSNN(4000)
    first = model.fc_omic[0][0]
    assert first.weight.std().item() == pytest.approx(4000**-0.5, rel=0.01)
    assert not first.bias.any()
    head = torch.nn.Linear(256, 4)
    model.init_head(head)
    assert head.weight.std().item() == pytest.approx(1 / 16, rel=0.1)
    assert not head.bias.any()
    # What goes through a layer that starts so keeps its variance.
    assert F.linear(torch.randn(200, 4000), first.weight).var().item() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(
    "build",
    [
        lambda: GeneMLP(GENES),
        lambda: GeneSNN(GENES),
        lambda: GeneMixerModel(PATHWAYS, 24, hidden_dim=6),
        lambda: ClinicalMLP(GENES),
    ],
)
def test_every_parameter_learns(build):
    torch.manual_seed(1)
    assert gradients_reach_everything(build().eval(), torch.randn(GENES)) == []
