"""One way to name a device."""

import pytest
import torch

from utils.devices import check_architecture, copied_to_host, pick_device


@pytest.mark.parametrize("gpus", [0, 2])
def test_devices(monkeypatch, gpus):
    current = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_90"])
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", lambda on: current.append(on))
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto") == torch.device("cuda:0" if gpus else "cpu")
    if gpus:
        assert pick_device("cuda") == torch.device("cuda", 0)
        assert pick_device("1") == pick_device("cuda:1") == torch.device("cuda", 1)
        assert current[-2:] == [torch.device("cuda", 1), False]
    for name in ("cuda", "1") if not gpus else ("2",):
        with pytest.raises(ValueError, match=f"this machine has {gpus} GPUs that PyTorch can use"):
            pick_device(name)


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "-1", ""])
def test_unknown_devices(name):
    with pytest.raises(ValueError, match="should be auto, cpu, cuda, or the index"):
        pick_device(name)


@pytest.mark.parametrize(
    ("capability", "built", "fits"),
    [
        ((8, 0), ("sm_75", "sm_80", "sm_90"), True),
        ((8, 9), ("sm_75", "sm_80", "sm_90"), True),  # later devices of the same generation
        ((7, 0), ("sm_75", "sm_80", "sm_90"), False),
        ((7, 0), ("sm_75", "compute_80"), False),
        ((10, 3), ("sm_90", "compute_90"), True),  # translated by the driver
        ((12, 0), ("sm_90a", "sm_100"), False),
        ((12, 0), ("sm_90", "sm_120"), True),
        ((8, 0), (), False),
    ],
)
def test_gpus_that_this_pytorch_holds_no_code_for(capability, built, fits):
    if fits:
        check_architecture("GPU", capability, built, "auto")
        return
    with pytest.raises(ValueError, match=rf"GPU has .* {capability[0]}\.{capability[1]}.*--device cpu"):
        check_architecture("GPU", capability, built, "auto")


def test_a_copy_to_the_host_is_the_tensor_itself_on_cpus():
    tensor = torch.randn(3)
    assert copied_to_host(tensor)() is tensor
