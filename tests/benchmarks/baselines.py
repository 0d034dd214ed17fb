"""A training step of every baseline on one case, at the published size."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from data_utils.cases.case import Case
from models.aggregators import DataSpec, aggregator, available_aggregators, build_aggregator
from models.aggregators.registry import DISTILL
from models.encoders import encoder_of
from tests.benchmarks.measuring import Row, row
from tests.benchmarks.training_step import NUM_GENES, PATCH_SIZE, published_size_pathways
from tests.structures import structures
from utils import constants
from utils.files import read_json

# Of a case: networks over single patches, and those that run a slide encoder.
PATCHES, ENCODED_PATCHES = 10_000, 1024
NUM_CLASSES = 2
# Genes of MCAT's functional groups that are among the pathway genes.
GROUP_SIZES = (53, 173, 216, 252, 387, 200)


def names() -> list[str]:
    """Every model that is not ModalTune: those that learn from labels alone."""
    return [name for name in available_aggregators() if DISTILL not in aggregator(name).objectives]


def config_of(name: str, folder: Path) -> dict:
    """The shipped config of a baseline; MCAT's table of groups, which is a user's file, is drawn."""
    own = constants.CONFIGS_ROOT / f"baseline_{name}.json"
    config = read_json(own if own.is_file() else encoder_of(name).config)
    if "signatures" in config:
        generator = np.random.default_rng(0)
        groups = [generator.choice(NUM_GENES, size, replace=False) for size in GROUP_SIZES]
        with (folder / "signatures.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(f"group {k}" for k in range(len(groups)))
            for line in range(max(GROUP_SIZES)):
                writer.writerow(f"G{group[line]}" if line < len(group) else "" for group in groups)
        config["signatures"] = str(folder / "signatures.csv")
    return config


def patches_of(name: str) -> int:
    """Patches of the case that a model is measured on."""
    chosen = aggregator(name)
    if not chosen.patches:
        return 0
    return PATCHES if chosen.encoder is None else ENCODED_PATCHES


def measure(name: str, repeats: int) -> Row:
    """Forward and backward of the cross-entropy of a head; of a frozen encoder, the head alone learns."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(name, Path(folder))
        model = build_aggregator(name, config, DataSpec(structures(published_size_pathways()), 1)).train()
    head = torch.nn.Linear(model.output_dim, NUM_CLASSES)
    count, encoder = patches_of(name), encoder_of(name)
    side = int(count**0.5) + 1
    cells = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1)
    size = PATCH_SIZE.get(encoder.name, 256)
    width = config.get("feature_dim") or config.get("slide_encoder", {}).get("in_dim", 0)
    inputs = {"genes": torch.randn(NUM_GENES), "clinical": torch.rand(5)}
    corners = cells.reshape(-1, 2)[:count] * size
    case = Case("benchmark", "", "", torch.randn(count, width), corners, size, inputs=inputs)

    def work() -> None:
        torch.nn.functional.cross_entropy(head(model(case)), torch.tensor([0])).backward()
        for part in (model, head):
            part.zero_grad()

    return row(work, repeats)


def parts() -> dict[str, Callable[[int], Row]]:
    """A row for every baseline, by name and number of patches."""
    return {f"baseline/{name}/{patches_of(name)}": partial(measure, name) for name in names()}
