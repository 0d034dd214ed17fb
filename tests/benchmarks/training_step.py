"""ModalTune on one case, at the published size: 331 pathways, three tasks."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from data_utils.case import Case
from models.aggregators import DataSpec, build_aggregator
from models.compilation import compile_parts
from tests.benchmarks.measuring import row
from utils import constants
from utils.files import read_json

NUM_PATHWAYS, NUM_GENES, NUM_MEMBERS = 331, 4999, 9745
MODELS = {"gigapath": "longnetvit_gene_adapter", "titan": "titan_gene_adapter"}
PATCH_SIZE = {"gigapath": 256, "titan": 1024}


def published_size_pathways() -> tuple[tuple[int, ...], ...]:
    """331 random pathways with as many memberships as the published table, sizes as uneven."""
    generator = np.random.default_rng(0)
    sizes = np.exp(generator.normal(2.2, 1.3, NUM_PATHWAYS)).clip(1, 199)
    sizes = np.maximum(1, (sizes * NUM_MEMBERS / sizes.sum()).astype(int))
    return tuple(tuple(generator.choice(NUM_GENES, size, replace=False).tolist()) for size in sizes)


def whole_model(
    encoder: str,
    patches: int,
    step: str,
    dtype: str,
    device: str,
    checkpointing: str,
    compiled: bool,
    repeats: int,
) -> dict[str, float | str]:
    """Forward and backward (``train``) or forward (``eval``) of all tasks of a case of ``patches`` patches.

    On GPUs ``note`` gives the TFLOP/s of matrix products and attentions (of GigaPath; the FLOP counter does
    not see inside TITAN's kernel); divided by the peak of the GPU that is the model FLOP utilisation.
    """
    torch.manual_seed(0)
    config = read_json(constants.SLIDE_ENCODERS[encoder].config)
    model = build_aggregator(MODELS[encoder], config, DataSpec(published_size_pathways()))
    model.activation_checkpointing = checkpointing
    model.train(step == "train").to(device)
    if compiled:
        compile_parts(model, device)
    side = int(patches**0.5) + 1
    cells = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1)
    features = torch.randn(patches, config["slide_encoder"]["in_dim"])
    corners = cells.reshape(-1, 2)[:patches] * PATCH_SIZE[encoder]
    case = Case("benchmark", "", "", features, corners, PATCH_SIZE[encoder], genes=torch.randn(NUM_GENES))
    case = case.to(torch.device(device))

    def work() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bf16"):
            if step == "train":
                model(case).float().square().sum().backward()
                model.zero_grad()
            else:
                with torch.inference_mode():
                    model(case)

    # On CPUs a case takes long and the first run is like the others, unless it compiles.
    result = row(work, repeats, device, warm_up=device == "cuda" or compiled)
    if device == "cuda":
        with FlopCounterMode(display=False) as counter:
            work()
        result["note"] = f"{counter.get_total_flops() / float(result['seconds']) / 1e12:.0f} TFLOP/s"
    return result
