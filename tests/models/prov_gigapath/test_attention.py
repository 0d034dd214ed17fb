"""The derivative of attention against autograd through the formula, with and without absent keys of value 0."""

import math

import pytest
import torch

from models.prov_gigapath import attention

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
@pytest.mark.parametrize("kernel", ["fused", "textbook"])
@pytest.mark.parametrize("padding", [0, 5])
def test_gradients(device, dtype, tolerance, kernel, padding, monkeypatch):
    if kernel == "textbook":
        monkeypatch.setattr(attention, "_kernel", lambda q: "textbook")
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 33, 3, 16), (2, 40, 3, 16), (2, 40, 3, 16), (2, 33, 3, 16))
    q, k, v, grad = (torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes)
    exact = [x.double().requires_grad_() for x in (q, k, v)]
    padded = [exact[0], *(torch.nn.functional.pad(x, (0, 0, 0, 0, 0, padding)) for x in exact[1:])]
    expected = attention._textbook_attention(*(x.transpose(1, 2) for x in padded))[0].transpose(1, 2)
    expected.backward(grad.double())

    q, k, v, grad = (x.to(device) for x in (q, k, v, grad))
    out, lse = attention.attend(q, k, v)
    if padding:
        total = torch.logaddexp(lse, torch.full_like(lse, math.log(padding)))
        out, lse = out * (lse - total).exp().unsqueeze(-1).to(out.dtype), total
    ours = [out, *attention.attend_backward(grad, q, k, v, out, lse)]
    for value, reference in zip(ours, [expected, *(x.grad for x in exact)], strict=True):
        error = (value.cpu().double() - reference).norm() / reference.norm()
        assert error < tolerance
