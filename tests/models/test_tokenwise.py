"""Networks of single tokens in parts."""

import pytest
import torch
from torch import nn

from models import tokenwise as module
from models.tokenwise import tokenwise


@pytest.mark.parametrize("shape", [(3, 11), (33,), (1, 8), (2, 0), (2, 4, 9)])
@pytest.mark.parametrize("tokens", [1, 8, 33, 1000])
def test_parts_change_nothing(shape, tokens, monkeypatch):
    monkeypatch.setattr(module, "TOKENS", tokens)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.LayerNorm(6), nn.Linear(6, 5)).double()
    x = torch.randn(*shape, 4, dtype=torch.float64, requires_grad=True)
    sizes = []
    found = tokenwise(lambda part: sizes.append(part.shape[:-1].numel()) or network(part), x)
    assert max(sizes) <= tokens or len(sizes) == 1
    assert sum(sizes) == x.shape[:-1].numel()
    expected = network(x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(expected)
    inputs = (x, *network.parameters())
    grads = (torch.autograd.grad(y, inputs, upstream) for y in (found, expected))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_all_at_once_under_autocast():
    sizes = []
    with torch.autocast("cpu", torch.bfloat16):
        tokenwise(lambda part: sizes.append(len(part)) or part, torch.randn(3 * module.TOKENS, 2))
    assert sizes == [3 * module.TOKENS]
