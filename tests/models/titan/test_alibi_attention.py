"""2-D ALiBi attention against the dense formula, and that nothing quadratic is ever in memory."""

import importlib.util
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from models.compilation import RECOMPILE_LIMIT
from models.titan import alibi_attention as module
from models.titan.alibi_attention import alibi_attention, alibi_slopes
from tests import oracle

PLAIN = (module._plain, module._plain_backward)


@pytest.fixture(params=["fused", "plain"])
def kernels(request, monkeypatch):
    """The CPU's kernels, then the formula that other devices use."""
    if request.param == "plain":
        monkeypatch.setattr(module, "_kernels", lambda device: PLAIN)


def random_input(length, copies=2, heads=3, width=8, extent=40, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(copies, length, 3, heads, width, generator=generator, dtype=torch.float64).to(dtype)
    return qkv.requires_grad_(), torch.randint(0, extent, (length, 2), generator=generator)


def dense(qkv, cells):
    """The oracle on ``[T, N, 3, H, D]``."""
    heads = qkv.shape[3]
    rows = [oracle.alibi_attention(*copy.flatten(2).unbind(1), cells[1:], heads) for copy in qkv]
    return torch.stack(rows).unflatten(-1, (heads, -1))


def relative_errors(qkv, cells):
    """Of the output and of the gradient, as norms, against the oracle in float64."""
    exact = qkv.detach().double().requires_grad_()
    out, expected = alibi_attention(qkv, cells, alibi_slopes(qkv.shape[3])), dense(exact, cells)
    assert out.dtype == qkv.dtype and out.shape == expected.shape
    probe = torch.randn(expected.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    (out * probe.to(out.dtype)).sum().backward()
    (expected * probe).sum().backward()
    pairs = ((out, expected), (qkv.grad, exact.grad))
    return [((ours.double() - theirs).norm() / theirs.norm()).item() for ours, theirs in pairs]


# ---------------------------------------------------------------------------- slopes
def test_published_slopes():
    expected = [2**-k for k in range(1, 9)] + [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]
    torch.testing.assert_close(alibi_slopes(12), torch.tensor(expected))


@pytest.mark.parametrize("heads", [1, 2, 3, 5, 6, 7, 8, 16, 24])
def test_slopes_of_other_numbers_of_heads(heads):
    torch.testing.assert_close(alibi_slopes(heads), torch.tensor(oracle.titan_slopes(heads)))
    assert len(set(alibi_slopes(heads).tolist())) == heads


# ---------------------------------------------------------------------------- against the oracle
# bfloat16 rounds its input to 8 bits and the output once more; so does the dense formula.
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)]
)
@pytest.mark.parametrize("length", [1, 2, 65, 600])
def test_equals_the_dense_formula(kernels, dtype, tolerance, length, monkeypatch):
    monkeypatch.setattr(module, "BIAS_BYTES", 2**19)
    qkv, cells = random_input(length, dtype=dtype)
    assert max(relative_errors(qkv, cells)) < tolerance


def test_a_long_sequence_equals_the_dense_formula(monkeypatch):
    monkeypatch.setattr(module, "BIAS_BYTES", 2**22)
    qkv, cells = random_input(1500, copies=1, heads=3, width=64, dtype=torch.float32)
    assert max(relative_errors(qkv, cells)) < 1e-5


@settings(max_examples=15, deadline=None)
@given(
    length=st.integers(1, 70),
    copies=st.integers(1, 3),
    heads=st.integers(1, 7),
    budget=st.integers(1, 40_000),
    extent=st.integers(1, 50),
    seed=st.integers(0, 1000),
)
def test_any_shape_and_any_strip(length, copies, heads, budget, extent, seed):
    qkv, cells = random_input(length, copies, heads, 3, extent, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BIAS_BYTES", budget)
        assert max(relative_errors(qkv, cells)) < 1e-10


def test_gradients_by_finite_differences(kernels):
    qkv, cells = random_input(4, copies=1, width=2)
    assert torch.autograd.gradcheck(lambda x: alibi_attention(x, cells, alibi_slopes(3)), qkv)


def test_a_second_derivative_is_refused():
    qkv, cells = random_input(5)
    out = alibi_attention(qkv, cells, alibi_slopes(3))
    (first,) = torch.autograd.grad(out.square().sum(), qkv, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


# ---------------------------------------------------------------------------- positions
def test_the_cell_of_cls_does_not_matter():
    qkv, cells = random_input(30)
    moved = cells.clone()
    moved[0] = 1000
    slopes = alibi_slopes(3)
    assert torch.equal(alibi_attention(qkv, cells, slopes), alibi_attention(qkv, moved, slopes))


def test_only_distances_matter():
    qkv, cells = random_input(30)
    slopes = alibi_slopes(3)
    turned = torch.stack([-cells[:, 1], cells[:, 0]], dim=1) + torch.tensor([100, -7])
    expected = alibi_attention(qkv, cells, slopes)
    torch.testing.assert_close(alibi_attention(qkv, turned, slopes), expected)
    assert not torch.allclose(alibi_attention(qkv, 2 * cells, slopes), expected)


def test_copies_do_not_mix():
    qkv, cells = random_input(20, copies=3)
    together = alibi_attention(qkv, cells, alibi_slopes(3))
    for copy in range(3):
        alone = alibi_attention(qkv[copy : copy + 1], cells, alibi_slopes(3))
        torch.testing.assert_close(together[copy], alone[0])


def test_autocast_does_not_touch_positions(kernels):
    qkv, cells = random_input(200, extent=2000, dtype=torch.float32)
    plain = alibi_attention(qkv, cells, alibi_slopes(3))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = alibi_attention(qkv, cells, alibi_slopes(3))
        mixed.sum().backward()
    assert torch.equal(plain, mixed) and qkv.grad.dtype == torch.float32
    grad, qkv.grad = qkv.grad, None
    plain.sum().backward()
    assert torch.equal(grad, qkv.grad)


# ---------------------------------------------------------------------------- memory
class LargestTensor(TorchDispatchMode):
    """Remembers the bytes of the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return result


def test_nothing_quadratic_in_memory(kernels, monkeypatch):
    budget = 2**18
    monkeypatch.setattr(module, "BIAS_BYTES", budget)
    length, heads, copies = 800, 3, 2
    qkv, cells = random_input(length, copies, heads, 8, dtype=torch.float32)
    kept = []
    with (
        LargestTensor() as largest,
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t),
    ):
        out = alibi_attention(qkv, cells, alibi_slopes(heads))
        out.sum().backward()
    # Where scores are explicit they are as large as the biases, once per copy.
    assert largest.bytes <= max(copies * budget, qkv.numel() * 4)
    assert largest.bytes < length * length * 4 / 4
    assert sum(tensor.numel() for tensor in kept) < 1.5 * qkv.numel()


# ---------------------------------------------------------------------------- GPU kernel
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_score_function_of_the_gpu_kernel():
    qkv, cells = random_input(90, width=16, dtype=torch.float32)
    q, k, v = qkv.detach().permute(2, 0, 3, 1, 4)
    x, y = cells.float().T
    out = module._flex(q, k, v, x, y, alibi_slopes(3)).transpose(1, 2)
    torch.testing.assert_close(out, alibi_attention(qkv.detach(), cells, alibi_slopes(3)))


@pytest.mark.parametrize(
    ("device", "dtype", "width", "triton", "disabled", "fits"),
    [
        ("cuda", torch.bfloat16, 64, True, False, True),
        ("cuda", torch.float32, 16, True, False, True),
        ("cpu", torch.float32, 64, True, False, False),
        ("cuda", torch.float64, 64, True, False, False),
        ("cuda", torch.bfloat16, 8, True, False, False),
        ("cuda", torch.bfloat16, 64, False, False, False),
        ("cuda", torch.bfloat16, 64, True, True, False),
    ],
)
def test_when_the_gpu_kernel_is_used(device, dtype, width, triton, disabled, fits, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if triton else None)
    qkv = SimpleNamespace(device=torch.device(device), dtype=dtype, shape=(1, 5, 3, 2, width))
    with torch._dynamo.config.patch(disable=disabled):
        assert module._flex_fits(qkv) is fits


def test_versions_of_the_gpu_kernel_do_not_meet_the_limit():
    module._compiled_flex.cache_clear()
    with torch._dynamo.config.patch(cache_size_limit=8):
        module._compiled_flex()
        assert torch._dynamo.config.cache_size_limit == RECOMPILE_LIMIT
    module._compiled_flex.cache_clear()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("disabled", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_on_the_gpu(dtype, tolerance, disabled):
    for length in (300, 513):
        qkv, cells = random_input(length, width=64, dtype=dtype)
        exact = qkv.detach().double().requires_grad_()
        expected = dense(exact, cells)
        expected.square().sum().backward()
        gpu = qkv.detach().cuda().requires_grad_()
        with torch._dynamo.config.patch(disable=disabled):
            out = alibi_attention(gpu, cells.cuda(), alibi_slopes(3).cuda())
            out.square().sum().backward()
        for ours, theirs in ((out, expected), (gpu.grad, exact.grad)):
            assert (ours.cpu().double() - theirs).norm() / theirs.norm() < tolerance
