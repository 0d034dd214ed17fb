"""Late fusion against its formula."""

import torch
import torch.nn.functional as F

from models.aggregators.abmil import ABMIL
from models.layers.fusion import LateFusion
from tests.oracle import linear


def test_image_first_then_genes_then_two_layers():
    torch.manual_seed(0)
    model = LateFusion(ABMIL(6, 10, 4, 7), 5, dim=8).double().eval()
    features, genes = torch.randn(3, 6).double(), torch.randn(5).double()
    state = model.state_dict()
    h = genes
    for block in range(2):
        h = F.elu(linear(h, state, f"fc_omic.{block}.0"))
    joined = torch.cat([model.image(features), h])
    expected = torch.relu(linear(torch.relu(linear(joined, state, "mm.0")), state, "mm.2"))
    torch.testing.assert_close(model(features, genes), expected, rtol=1e-12, atol=1e-12)
    assert model.output_dim == 8 == len(expected)


def test_without_dropout_behind_the_fusion():
    torch.manual_seed(0)
    model = LateFusion(ABMIL(6, dropout=0.0), 5, dropout=0.0).train()
    features, genes = torch.randn(3, 6), torch.randn(5)
    assert torch.equal(model(features, genes), model(features, genes))
