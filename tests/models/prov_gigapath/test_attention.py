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


CPU = torch.device("cpu")


@pytest.fixture
def untried():
    """No kernel has been tried yet."""
    attention._agrees_with_textbook.cache_clear()
    yield
    attention._agrees_with_textbook.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sound_kernel_is_used(dtype, untried, caplog):
    assert attention._agrees_with_textbook("cpu", CPU, dtype, 48)
    assert not caplog.text


@pytest.mark.parametrize("fault", ["raises", "wrong output", "wrong gradient"])
def test_an_unsound_kernel_is_replaced_by_the_formula(fault, untried, monkeypatch, caplog):
    forward, backward = attention._forward, attention._backward

    def broken_forward(kernel, *tensors):
        if kernel == "flash" and fault == "raises":
            raise RuntimeError("no such kernel")
        out, lse = forward("cpu" if kernel == "flash" else kernel, *tensors)
        return (out, lse + 0.5) if kernel == "flash" and fault == "wrong output" else (out, lse)

    def broken_backward(kernel, *tensors):
        grads = backward("cpu" if kernel == "flash" else kernel, *tensors)
        return (*grads[:2], 2 * grads[2]) if kernel == "flash" and fault == "wrong gradient" else grads

    monkeypatch.setattr(attention, "_forward", broken_forward)
    monkeypatch.setattr(attention, "_backward", broken_backward)
    assert not attention._agrees_with_textbook("flash", CPU, torch.bfloat16, 16)
    assert not attention._agrees_with_textbook("flash", CPU, torch.bfloat16, 16)
    assert caplog.text.count("flash attention kernel") == 1  # tried and said once
