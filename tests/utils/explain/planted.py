"""Patients that say where their signal lies, without end, and a small model that has learned from them.

What is to be predicted is the sum of a number of the slide, which moves the planted patches along a direction, and the
activities of the planted pathways, each of which moves its genes together. The genes of every other pathway move
together as much: what merely stands out of the noise is not yet planted. All these numbers are independent, so that a
model that predicts well needs every planted pathway and no other. (Where pathways follow one hidden number, as in the
demo, a model may take any of them and is right.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from data_utils.cases.case import Case
from models.aggregators import DataSpec, build_aggregator
from tests.small_cohort import small_longnet
from tests.structures import structures
from utils.explain.targets import Linear, LinearTarget

WIDTH, PATCHES, SHIFT = 32, 40, 5.0
PATHWAYS, MEMBERS = 30, 4
PLANTED = PATHWAYS // 3
GROUPS = [range(k * MEMBERS, (k + 1) * MEMBERS) for k in range(PATHWAYS)]
STRUCTURES = structures(GROUPS)
OUTPUT = 16
# The balanced gene encoder: with the published one the genes are next to ignored (docs/modality_balance.md).
CONFIG = {
    "slide_encoder": small_longnet(
        in_dim=WIDTH, embed_dim=48, depth=1, ffn_dim=48, dropout=0.0, drop_path_rate=0.0
    ),
    "interaction_indexes": [[0, 0]],
    "num_heads": 3,
    "output_dim": OUTPUT,
    "gene_encoder": {
        "hidden_dim": 8,
        "depth": 1,
        "num_tokens": 4,
        "dropout": 0.0,
        "init": "lecun",
        "norm": True,
        "linear": True,
        "linear_dropout": 0.0,
    },
}


@dataclass(frozen=True)
class PlantedPatient:
    """A case, which of its patches are planted ``[PATCHES]``, what its slide says, and what is to be predicted."""

    case: Case
    patches: np.ndarray
    slide: float
    score: float


def patients(seed: int) -> Iterator[PlantedPatient]:
    """Patients without end."""
    direction = np.random.default_rng(99).normal(size=WIDTH)  # the same for all
    direction *= SHIFT / np.linalg.norm(direction)
    generator = np.random.default_rng(seed)
    cells = np.stack([np.arange(PATCHES) % 8, np.arange(PATCHES) // 8], axis=1)
    number = 0
    while True:
        slide, activity = float(_numbers(generator, 1)[0]), _numbers(generator, PATHWAYS)
        planted = generator.permutation(PATCHES) < PATCHES // 2
        features = generator.normal(size=(PATCHES, WIDTH))
        features[planted] += slide * direction
        genes = np.repeat(activity, MEMBERS) + generator.normal(size=PATHWAYS * MEMBERS)
        case = Case(
            case_id=f"case-{number}",
            submitter_id=f"TCGA-AA-{number:04d}",
            project_id="TCGA-TEST",
            features=torch.from_numpy(features).float(),
            coords=torch.from_numpy(256 * cells),
            patch_size_lv0=256,
            inputs={"genes": torch.from_numpy(genes / np.sqrt(2)).float()},
        )
        yield PlantedPatient(case, planted, slide, slide + float(activity[:PLANTED].sum()) / PLANTED**0.5)
        number += 1


def _numbers(generator: np.random.Generator, count: int) -> np.ndarray:
    """Numbers away from zero, of either sign."""
    return generator.choice([-1, 1], count) * generator.uniform(0.75, 1.25, count)


def untrained(seed: int) -> nn.Module:
    """The model before it has learned anything."""
    torch.manual_seed(seed)
    return build_aggregator("longnetvit_gene_adapter", CONFIG, DataSpec(STRUCTURES, 1)).eval()


def trained(steps: int, seed: int = 0, shuffled: bool = False) -> tuple[nn.Module, LinearTarget]:
    """A model that has seen ``steps`` patients, and its prediction; ``shuffled``: each with the number of another."""
    model, head = untrained(seed).train(), nn.Linear(OUTPUT, 1)
    parameters = [p for p in (*model.parameters(), *head.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    stream, others = patients(100 + seed), patients(200 + seed)
    for _ in range(steps):
        patient = next(stream)
        wanted = (next(others) if shuffled else patient).score
        loss = (head(model(patient.case)[0]) - wanted).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    weight, bias = head.weight.detach().double().numpy()[0], head.bias.detach().double().numpy()[0]
    return model.eval(), LinearTarget("score", "score", 0, Linear.plain(weight, bias))
