"""Whether everything that meets on a GPU is there: PyTorch's fake tensors know devices without having one.

Forwards only: PyTorch's backward pass asks the driver for the GPU. Values are unknown, so that what depends on them
(checks of coordinates, TITAN's background, drop path, self-checks of kernels) is replaced.
"""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import models.titan.backbone as titan
from models.prov_gigapath import attention, dilated_attention
from models.prov_gigapath.backbone import GigaPathBackbone
from models.prov_gigapath.dropout import DropPath
from tests.benchmarks.training_step import MODELS
from tests.gpu.accept import _case, _model

GPU = torch.device("cuda")
pytestmark = pytest.mark.filterwarnings("ignore:CUDA is not available", "ignore:Accessing the data pointer")


@pytest.fixture(params=MODELS)
def on_gpu(request, monkeypatch):
    """A function that runs a model in training mode on a case, both moved to a GPU that is not there."""
    monkeypatch.setattr(GigaPathBackbone, "_warn_outside_grid", lambda *_: None)
    monkeypatch.setattr(titan, "check_patch_size", lambda *_: None)
    monkeypatch.setattr(titan, "scatter_to_grid", lambda f, coords, size: (f, (coords // size).to(f.device)))
    monkeypatch.setattr(attention, "agrees_with_textbook", lambda *_: True)
    monkeypatch.setattr(dilated_attention, "_fused_agrees", lambda *_: False)
    model, case = _model(request.param, small=True).train(), _case(request.param, 20, small=True)
    model.activation_checkpointing = "off"  # auto asks for the memory of the GPU
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        for module in model.modules():
            if isinstance(module, DropPath):
                module.drop_prob = 0
            for own in (module._parameters, module._buffers):
                for name, tensor in own.items():
                    if tensor is not None:
                        there = fake.from_tensor(tensor).to(GPU)
                        own[name] = (
                            nn.Parameter(there, tensor.requires_grad) if name in module._parameters else there
                        )

    def run(behind: bool = False):
        with fake:
            if behind:
                injector = model.interactions[0].injector
                injector.gamma = nn.Parameter(torch.zeros(injector.gamma.shape))
            return model(case.to(GPU))

    return run


def test_a_model_on_a_gpu_is_given_tensors_on_it(on_gpu):
    out = on_gpu()
    assert out.device.type == "cuda" and out.shape[0] == 3
    with pytest.raises(RuntimeError, match="same device"):
        on_gpu(behind=True)
