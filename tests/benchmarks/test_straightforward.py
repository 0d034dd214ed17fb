"""What the benchmarks compare with computes the same."""

import pytest
import torch

from data_utils.cases.case import Case
from models.aggregators import DataSpec, build_aggregator
from tests.benchmarks.straightforward import Straightforward
from tests.benchmarks.training_step import MODELS, PATCH_SIZE
from tests.small_cohort import IN_DIM, MODEL_CONFIG, PATHWAYS, small_longnet
from tests.small_runs import TITAN_CONFIG
from tests.structures import structures

# Heads that the dilated ratios divide, as the published ones do.
LONGNET = small_longnet(num_heads=4, segment_lengths=[4, 16])
CONFIGS = {
    **{name: {**MODEL_CONFIG, "slide_encoder": LONGNET} for name in ("gigapath", "gigapath_flash")},
    "titan": TITAN_CONFIG,
}


@pytest.mark.parametrize("encoder", MODELS)
def test_same_outputs_and_gradients(encoder, randomise):
    config = CONFIGS[encoder]
    pathways = tuple(PATHWAYS.values())
    ours = randomise(build_aggregator(MODELS[encoder], config, DataSpec(structures(pathways)))).eval()
    other = build_aggregator(MODELS[encoder], config, DataSpec(structures(pathways)))
    other.load_state_dict(ours.state_dict())
    other = Straightforward(other, pathways).eval()
    size = PATCH_SIZE[encoder]
    cells = torch.cartesian_prod(torch.arange(5), torch.arange(4))
    genes = torch.randn(1 + max(gene for group in PATHWAYS.values() for gene in group))
    case = Case("case", "", "", torch.randn(20, IN_DIM), cells * size, size, inputs={"genes": genes})
    expected, found = ours(case), other(case)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    upstream = torch.randn_like(expected)
    expected.backward(upstream)
    found.backward(upstream)
    parameters = dict(other.model.named_parameters())
    compared = [(n, p.grad, parameters[n].grad) for n, p in ours.named_parameters() if n in parameters]
    compared = [(name, one, two) for name, one, two in compared if one is not None]
    assert len(compared) > 50
    for name, one, two in compared:
        torch.testing.assert_close(
            two, one, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
