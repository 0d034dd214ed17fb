"""The derivative of attention against autograd through the formula, with and without absent keys of value 0."""

import math
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from models.prov_gigapath import attention, attention_kernels
from models.prov_gigapath.attention_kernels import KERNELS, Kernel

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


def inputs(dtype=torch.float64, rows=33, keys=40, width=16, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 3, rows, width), (2, 3, keys, width), (2, 3, keys, width), (2, 3, rows, width))
    return [(scale * torch.randn(s, generator=generator, dtype=torch.float64)).to(dtype) for s in shapes]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-10), (torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)],
)
@pytest.mark.parametrize("kernel", ["fused", "textbook"])
@pytest.mark.parametrize("padding", [0, 5])
def test_gradients(device, dtype, tolerance, kernel, padding, monkeypatch):
    if kernel == "textbook":
        monkeypatch.setattr(attention, "kernel_name", lambda *key: "textbook")
    q, k, v, grad = inputs(dtype)
    exact = [x.double().requires_grad_() for x in (q, k, v)]
    padded = [exact[0], *(torch.nn.functional.pad(x, (0, 0, 0, padding)) for x in exact[1:])]
    expected = torch.nn.functional.scaled_dot_product_attention(*padded)
    expected.backward(grad.double())

    q, k, v, grad = (x.to(device) for x in (q, k, v, grad))
    out, lse = attention.attend(q, k, v)
    if padding:
        total = torch.logaddexp(lse, torch.full_like(lse, math.log(padding)))
        out, lse = out * (lse - total).exp().unsqueeze(-1).to(out.dtype), total
    ours = [out, *attention.attend_backward(grad, q, k, v, out, lse)]
    for value, reference in zip(ours, [expected, *(x.grad for x in exact)], strict=True):
        assert value.dtype == dtype
        error = (value.cpu().double() - reference).norm() / reference.norm()
        assert error < tolerance


def test_scores_beyond_float16():
    """Unscaled scores of 1e6 overflow float16; what attention makes of them does not."""
    q, k, v, grad = inputs(torch.float16, width=64, scale=100.0)
    exact = [x.double() for x in (q, k, v)]
    assert (exact[0] @ exact[1].transpose(-2, -1)).abs().max() > torch.finfo(torch.float16).max
    with torch.autocast("cpu", torch.bfloat16):
        out, lse = attention_kernels.textbook(q, k, v)
    expected_out, expected_lse = attention_kernels.textbook(*exact)
    assert lse.dtype == torch.float32
    torch.testing.assert_close(lse.double(), expected_lse, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.double(), expected_out, rtol=1e-2, atol=1e-2)
    assert all(x.isfinite().all() for x in attention_kernels.textbook_backward(grad / 1e4, q, k, v, out, lse))


CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sound_kernel_agrees(dtype, caplog):
    assert attention.agrees_with_textbook("cpu", KERNELS["cpu"], CPU, dtype, 48)
    assert not caplog.text


# ---------------------------------------------------------------------------- the choice
@pytest.fixture
def gpu(monkeypatch):
    """Pretends a GPU of a compute capability, whose kernels are those of the CPU, and installed packages."""

    def pretend(capability, packages=()):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(attention_kernels, "_installed", lambda name: name in packages)
        return torch.device("cuda", 0)

    attention.kernel_name.cache_clear()
    monkeypatch.setattr(
        attention, "agrees_with_textbook", lambda name, kernel, *key: name not in pretend.broken
    )
    pretend.broken = set()
    yield pretend
    attention.kernel_name.cache_clear()


@pytest.mark.parametrize(
    ("capability", "dtype", "width", "packages", "expected"),
    [
        ((9, 0), torch.bfloat16, 48, (), "flash"),
        ((8, 0), torch.float16, 48, (), "flash"),
        ((9, 0), torch.float32, 48, (), "efficient"),
        ((7, 5), torch.float16, 48, (), "efficient"),
        ((7, 5), torch.float16, 48, ("flash_attn.flash_attn_interface",), "efficient"),
        ((7, 5), torch.bfloat16, 48, (), "textbook"),
        ((9, 0), torch.float64, 48, (), "textbook"),
        ((9, 0), torch.bfloat16, 12, (), "textbook"),
        ((9, 0), torch.bfloat16, 48, ("flash_attn.cute",), "flash 4"),
        ((8, 0), torch.bfloat16, 48, ("flash_attn.cute", "flash_attn_interface"), "flash"),
        ((9, 0), torch.bfloat16, 48, ("flash_attn_interface",), "flash 3"),
    ],
)
def test_which_kernel(gpu, monkeypatch, capability, dtype, width, packages, expected):
    switched = []
    monkeypatch.setattr(attention.torch_attention, "activate_flash_attention_impl", switched.append)
    assert attention.kernel_name(gpu(capability, packages), dtype, width) == expected
    assert switched == ([KERNELS[expected].switch] if KERNELS[expected].switch else [])


def test_a_wrong_kernel_is_replaced_by_the_next(gpu, monkeypatch):
    calls = []
    for name in ("activate", "restore"):
        monkeypatch.setattr(
            attention.torch_attention,
            f"{name}_flash_attention_impl",
            lambda *which, name=name: calls.append(name),
        )
    device = gpu((9, 0), ("flash_attn.cute", "flash_attn.flash_attn_interface"))
    gpu.broken |= {"flash 4", "flash"}
    assert attention.kernel_name(device, torch.bfloat16, 48) == "package flash-attn"
    assert calls == ["activate", "restore"]


def test_a_switch_that_fails_is_said(gpu, monkeypatch, caplog):
    def fail(which):
        raise ImportError("no module named cutlass")

    monkeypatch.setattr(attention.torch_attention, "activate_flash_attention_impl", fail)
    assert attention.kernel_name(gpu((9, 0), ("flash_attn.cute",)), torch.bfloat16, 48) == "flash"
    assert "no module named cutlass" in caplog.text


@pytest.mark.parametrize("fault", ["raises", "wrong output", "wrong gradient"])
def test_an_unsound_kernel_is_found(fault, caplog):
    def forward(q, k, v):
        if fault == "raises":
            raise RuntimeError("no such kernel")
        out, lse = KERNELS["cpu"].forward(q, k, v)
        return (out, lse + 0.5) if fault == "wrong output" else (out, lse)

    def backward(*tensors):
        grads = KERNELS["cpu"].backward(*tensors)
        return (*grads[:2], 2 * grads[2]) if fault == "wrong gradient" else grads

    kernel = Kernel(forward, backward, lambda *key: True)
    assert not attention.agrees_with_textbook("odd", kernel, CPU, torch.bfloat16, 16)
    assert caplog.text.count("attention kernel 'odd'") == 1


def test_the_package_gives_its_two_halves(monkeypatch):
    """Called with batch, rows, heads, width; ``grad`` first, gradients written in place."""

    def _flash_attn_forward(q, k, v, dropout_p, softmax_scale, causal, left, right, softcap, slopes, softmax):
        assert (dropout_p, causal, left, right, softcap, slopes, softmax) == (
            0.0,
            False,
            -1,
            -1,
            0.0,
            None,
            False,
        )
        assert softmax_scale == q.shape[-1] ** -0.5
        out, lse = KERNELS["cpu"].forward(*(x.transpose(1, 2) for x in (q, k, v)))
        return out.transpose(1, 2), lse, None, None

    def _flash_attn_backward(dout, q, k, v, out, lse, dq, dk, dv, *options):
        assert options == (0.0, q.shape[-1] ** -0.5, False, -1, -1, 0.0, None, False)
        tensors = (x.transpose(1, 2) for x in (dout, q, k, v, out))
        for target, value in zip((dq, dk, dv), KERNELS["cpu"].backward(*tensors, lse), strict=True):
            target.copy_(value.transpose(1, 2))

    interface = SimpleNamespace(
        _flash_attn_forward=_flash_attn_forward, _flash_attn_backward=_flash_attn_backward
    )
    monkeypatch.setitem(sys.modules, "flash_attn", ModuleType("flash_attn"))
    monkeypatch.setitem(sys.modules, "flash_attn.flash_attn_interface", interface)
    kernel = KERNELS["package flash-attn"]
    assert attention.agrees_with_textbook("package flash-attn", kernel, CPU, torch.bfloat16, 48)
