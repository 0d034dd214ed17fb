"""What tests of whole runs share: small models, weights as others save them, evaluations that take no time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from models.aggregators import DataSpec, build_aggregator
from models.aggregators.modaltune import ModalTune
from tests.small_cohort import IN_DIM, MODEL_CONFIG, PATHWAYS, SmallCohort, make_small_cohort
from tests.structures import structures
from utils import constants
from utils.evaluation import bootstrap, plots
from utils.training import checkpoint
from utils.training.trainer import set_seed

GENES = "longnetvit_gene_adapter"
SLIDE_ENCODER = "slide_encoder.pth"
TITAN_ENCODER = {
    "in_dim": IN_DIM,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
    "pooler_heads": 2,
    "pooler_queries": 2,
}
TITAN_CONFIG = {**MODEL_CONFIG, "slide_encoder": TITAN_ENCODER, "token_agg": "cat"}


@contextmanager
def quick_evaluation(resamples: int = 5) -> Iterator[None]:
    """Few bootstrap resamples and no figures; all of them have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "RESAMPLES", resamples)
        for name in ("roc", "confusion", "reliability", "kaplan_meier", "training_curves"):
            patch.setattr(plots, name, lambda *args, **options: 0.5)
        yield


def small_model(mil_name: str = GENES, vectors: Any = None, missing: str = "drop") -> ModalTune:
    """The model of ``MODEL_CONFIG`` as a training with seed 0 begins with it; ``vectors``: their shape."""
    set_seed(0)
    return build_aggregator(
        mil_name, MODEL_CONFIG, DataSpec(structures(list(PATHWAYS.values()), vectors), 3, missing)
    )


def sound_cohort(root: Path, train: int, val: int, test: int) -> SmallCohort:
    """A cohort without faults, with weights of its slide encoder."""
    cohort = make_small_cohort(root, train, val, test)
    torch.save({"model": small_model().backbone.vit.state_dict()}, root / SLIDE_ENCODER)
    return cohort


def copied(cohort: SmallCohort, root: Path) -> tuple[SmallCohort, dict[str, Any]]:
    """A cohort of :func:`sound_cohort` that a test may spoil, and the flags of a run on it."""
    shutil.copytree(cohort.root, root)
    copy = SmallCohort(root)
    for split in constants.SPLITS:
        path = copy.split(split)
        path.write_text(path.read_text().replace(str(cohort.root), str(root)))
    return copy, {"random_backbone": None, "backbone_weights": root / SLIDE_ENCODER}


def save_as_published(weights: Path, path: Path, mil_name: str = GENES) -> Path:
    """Writes the weights of a run to ``path`` as the published code would have, slide encoder included."""
    model = small_model(mil_name)
    checkpoint.load_trainable(model, checkpoint.load_weights(weights)["model"], weights)
    checkpoint.save(path, checkpoint.to_published(model.state_dict(), structures(list(PATHWAYS.values()))))
    return path
