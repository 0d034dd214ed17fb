"""ModalTune on one case, at the published size: 331 pathways, three tasks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from data_utils.cases.case import Case
from models.aggregators import DataSpec, build_aggregator
from models.compilation import compile_parts
from models.encoders import slide_encoder
from tests.benchmarks import flops
from tests.benchmarks.measuring import Row, row
from tests.benchmarks.straightforward import Straightforward
from tests.structures import structures
from utils.files import read_json

NUM_PATHWAYS, NUM_GENES, NUM_MEMBERS = 331, 4999, 9745
NUM_TASKS = 3
MODELS = {
    "gigapath": "longnetvit_gene_adapter",
    "gigapath_flash": "gigapath_flash_gene_adapter",
    "titan": "titan_gene_adapter",
}
PATCH_SIZE = {"gigapath": 256, "gigapath_flash": 256, "titan": 1024}
# Larger cases are measured once, without a first run.
_WARM_UP_PATCHES = 1024


def published_size_pathways() -> tuple[tuple[int, ...], ...]:
    """331 random pathways with as many memberships as the published table, sizes as uneven."""
    generator = np.random.default_rng(0)
    sizes = np.exp(generator.normal(2.2, 1.3, NUM_PATHWAYS)).clip(1, 199)
    sizes = np.maximum(1, (sizes * NUM_MEMBERS / sizes.sum()).astype(int))
    return tuple(tuple(generator.choice(NUM_GENES, size, replace=False).tolist()) for size in sizes)


def published_size_case(encoder: str, patches: int, width: int) -> Case:
    """A random case with a square of patches."""
    side = int(patches**0.5) + 1
    cells = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1)
    size = PATCH_SIZE[encoder]
    corners = cells.reshape(-1, 2)[:patches] * size
    inputs = {"genes": torch.randn(NUM_GENES)}
    return Case("benchmark", "", "", torch.randn(patches, width), corners, size, inputs=inputs)


@dataclass(frozen=True)
class Step:
    """One row: a step of ModalTune on one case.

    Attributes:
        encoder: slide encoder.
        patches: of the case.
        kind: ``train`` (forward and backward of all tasks) or ``eval`` (forward).
        precision: ``fp32`` or ``bf16`` (autocast).
        device: ``cpu`` or ``cuda``.
        way: ``ours`` or ``straightforward``.
    """

    encoder: str
    patches: int
    kind: str
    precision: str
    device: str
    way: str = "ours"

    @property
    def name(self) -> str:
        parts = (self.encoder, self.patches, self.kind, self.precision, self.device)
        return "/".join(map(str, parts)) + ("/straightforward" if self.way == "straightforward" else "")


def measure(step: Step, checkpointing: str, compiled: bool, repeats: int) -> Row:
    """Seconds and memory of a step with the flags ``--activation_checkpointing`` and ``--compile``.

    On GPUs ``note`` gives tokens/s of all tasks and the TFLOP/s of the encoder's products and attentions (see
    :mod:`tests.benchmarks.flops`); divided by the peak of the GPU that is the model FLOP utilisation.
    """
    torch.manual_seed(0)
    config = read_json(slide_encoder(step.encoder).config)
    pathways = published_size_pathways()
    model = build_aggregator(MODELS[step.encoder], config, DataSpec(structures(pathways)))
    model.activation_checkpointing = checkpointing
    if compiled:
        compile_parts(model, step.device)
    if step.way == "straightforward":
        model = Straightforward(model, pathways)
    model.train(step.kind == "train").to(step.device)
    case = published_size_case(step.encoder, step.patches, config["slide_encoder"]["in_dim"])
    case = case.to(torch.device(step.device))

    def work() -> None:
        with torch.autocast(step.device, torch.bfloat16, enabled=step.precision == "bf16"):
            if step.kind == "train":
                model(case).float().square().sum().backward()
                model.zero_grad()
            else:
                with torch.inference_mode():
                    model(case)

    # The first run on a CPU takes a few percent more than the others; of large cases it is the only one.
    warm_up = step.device == "cuda" or compiled or step.patches <= _WARM_UP_PATCHES
    result = row(work, repeats if step.patches <= _WARM_UP_PATCHES else 1, step.device, warm_up)
    if step.device == "cuda":
        seconds, training = float(result["seconds"]), step.kind == "train"
        done = flops.step(step.encoder, config["slide_encoder"], step.patches, NUM_TASKS, training)
        tokens = NUM_TASKS * step.patches / seconds
        result["note"] = f"{tokens:,.0f} tokens/s, {done / seconds / 1e12:.0f} TFLOP/s"
    return result
