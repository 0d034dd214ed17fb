"""One way to name a device."""

import pytest
import torch

from utils.devices import pick_device


@pytest.mark.parametrize("gpus", [0, 2])
def test_devices(monkeypatch, gpus):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto") == torch.device("cuda:0" if gpus else "cpu")
    if gpus:
        assert pick_device("cuda") == torch.device("cuda", 0)
        assert pick_device("1") == pick_device("cuda:1") == torch.device("cuda", 1)
    for name in ("cuda", "1") if not gpus else ("2",):
        with pytest.raises(ValueError, match=f"this machine has {gpus} GPUs that PyTorch can use"):
            pick_device(name)


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "-1", ""])
def test_unknown_devices(name):
    with pytest.raises(ValueError, match="should be auto, cpu, cuda, or the index"):
        pick_device(name)
