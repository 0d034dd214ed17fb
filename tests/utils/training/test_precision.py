"""Which type a run computes in."""

import pytest
import torch

from utils.training.precision import Precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def product(precision):
    with precision.running(torch.nn.Identity()):
        return torch.ones(2, 2) @ torch.ones(2, 2)


def test_full_precision_leaves_everything_alone():
    precision = Precision(CPU, use_amp=False)
    assert product(precision).dtype == torch.float32 and not precision.scaler.is_enabled()
    assert str(precision) == "float32"


def test_cpu_runs_in_bfloat16_without_scaling():
    precision = Precision(CPU, use_amp=True)
    assert product(precision).dtype == torch.bfloat16 and not precision.scaler.is_enabled()
    assert str(precision) == "bfloat16"
    assert precision.scaler.scale(torch.ones(1)) == 1
    precision.scaler.load_state_dict(precision.scaler.state_dict())


@pytest.mark.parametrize("use_amp", [False, True])
def test_weights_of_a_model_are_cast_together(use_amp):
    layer = torch.nn.Linear(2, 2)
    layer.casts_weights_together = True
    with Precision(CPU, use_amp).running(layer):
        assert layer.weight.dtype == (torch.bfloat16 if use_amp else torch.float32)
    assert layer.weight.dtype == torch.float32


@pytest.fixture
def tf32_restored():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_tensorfloat_is_for_gpus_and_off_unless_asked_for(tf32_restored, caplog, tf32):
    torch.set_float32_matmul_precision("highest")
    Precision(CPU, use_amp=False, tf32=tf32)
    assert torch.get_float32_matmul_precision() == "highest" and ("--tf32" in caplog.text) == tf32
    Precision(CUDA, use_amp=False, tf32=tf32)
    assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")
    assert torch.backends.cudnn.allow_tf32 is tf32


@pytest.mark.parametrize(("supported", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
@pytest.mark.parametrize("use_amp", [True, False])
@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_gpus_without_bfloat16_use_float16(monkeypatch, supported, dtype, use_amp):
    asked = []

    def is_supported(including_emulation=True):
        asked.append(including_emulation)
        return supported

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    wanted = []
    monkeypatch.setattr(
        torch.amp, "GradScaler", lambda device, enabled: wanted.append((device, enabled)) or "scaler"
    )
    precision = Precision(CUDA, use_amp)
    assert precision.dtype == (dtype if use_amp else torch.float32)
    assert wanted == [("cuda", use_amp and dtype == torch.float16)] and asked == [False]
