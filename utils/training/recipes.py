"""How a model is trained: our one protocol for all, or the recipe of its original code (``--recipe``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from utils.configuration.run_config import TrainingConfig

OURS, ORIGINAL = "ours", "original"
RECIPES = (OURS, ORIGINAL)
MODEL_SELECT = ("best", "last")
# What a recipe sets and a flag overrides.
FLAGS = ("lr", "weight_decay", "num_epochs", "gc", "nll_alpha", "model_select")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to train. The first six are defaults of the flags of the same names.

    Attributes:
        lr: peak learning rate; None where the original searches a grid.
        weight_decay: None where the original searches a grid.
        num_epochs: at most, with ``patience``.
        gc: cases whose gradients are added up to a step.
        nll_alpha: of the survival objective.
        model_select: which epoch is evaluated: the one that validates ``best``, or the ``last``.
        source: whose recipe it is.
        optimizer: ``adamw``; ``adam`` (decay in the gradient), ``radam`` (decoupled decay), or ``lookahead`` around
            the latter.
        schedule: of the learning rate, see :mod:`utils.training.schedule`.
        decay_vectors: whether biases and other one-dimensional parameters are decayed.
        carry: whether the cases that an epoch leaves over join the first step of the next epoch; else they make a
            step of their own.
        weighted: whether training cases are drawn so that every pair of survival interval and censoring is as likely,
            where survival is learned.
        all_patches: whether evaluations take every patch, and so does training without ``train_patches``.
        train_patches: training draws as many patches of a case.
        patience: validations without a smaller validation loss after which the training ends.
    """

    lr: float | None
    weight_decay: float | None
    num_epochs: int
    gc: int = 1
    nll_alpha: float = 0.5
    model_select: str = "best"
    source: str
    optimizer: str
    schedule: str = "constant"
    decay_vectors: bool = True
    carry: bool = False
    weighted: bool = False
    all_patches: bool = True
    train_patches: int | None = None
    patience: int | None = None

    def plain(self, training: TrainingConfig) -> dict[str, Any]:
        """Plain values, for ``config.json``, with the numbers of the flags."""
        return {**asdict(self), **{name: getattr(training, name) for name in FLAGS}}

    def check_steps(self, cases: int, gc: int) -> None:
        """Whether an epoch of so many cases makes a step at all.

        Raises:
            ValueError: it makes none.
        """
        if self.carry and cases < gc:
            raise ValueError(
                f"{cases} training cases make no step of {gc} cases, and the recipe of {self.source} takes no smaller "
                "one; pass a smaller --gc"
            )


# One for every model, as for ModalTune.
COMMON = Recipe(
    lr=1e-4,
    weight_decay=5e-4,
    num_epochs=30,
    source="ModalTune",
    optimizer="adamw",
    schedule="epochs",
    all_patches=False,
)

_MCAT = Recipe(
    lr=2e-4,
    weight_decay=1e-5,
    num_epochs=20,
    gc=32,
    nll_alpha=0.0,
    model_select="last",
    source="MCAT",
    optimizer="adam",
    carry=True,
    weighted=True,
)
# Its two searched numbers have no default.
_SURVPATH = Recipe(
    lr=None,
    weight_decay=None,
    num_epochs=2,
    model_select="last",
    source="SurvPath",
    optimizer="radam",
    schedule="cases",
    weighted=True,
    train_patches=4096,
)
_SURVPATH_GENES = Recipe(
    lr=5e-4,
    weight_decay=1e-4,
    num_epochs=5,
    model_select="last",
    source="SurvPath",
    optimizer="radam",
    schedule="cases",
    weighted=True,
)
_TRANSMIL = Recipe(
    lr=2e-4,
    weight_decay=1e-5,
    num_epochs=200,
    gc=2,
    source="TransMIL",
    optimizer="lookahead",
    decay_vectors=False,
    patience=10,
)
_GIGAPATH = Recipe(
    lr=2.5e-4,  # 0.002 * 32 cases / 256
    weight_decay=0.05,
    num_epochs=5,
    gc=32,
    model_select="last",
    source="Prov-GigaPath (PANDA)",
    optimizer="adamw",
    schedule="steps",
    decay_vectors=False,
    carry=True,
)
# By --mil_name. ABMIL and its late fusion are MCAT's (512/256). Late fusion of the others, Gene Mixer and the clinical
# MLP were never published with a recipe of their own.
ORIGINALS = {
    "abmil": _MCAT,
    "abmil_cat": _MCAT,
    "mcat": _MCAT,
    "survpath": _SURVPATH,
    "snn": _SURVPATH_GENES,
    "mlp": _SURVPATH_GENES,
    "transmil": _TRANSMIL,
    "longnetvit_tuned": _GIGAPATH,
}
# What the original searches, for a message.
GRIDS = {"lr": "5e-5 to 1e-3", "weight_decay": "1e-5 to 1e-2"}


def always(score: Sequence[float], best: Sequence[float]) -> bool:
    """For ``--model_select last``: every epoch replaces the ones before."""
    return True


def recipe_of(name: str, mil_name: str) -> Recipe:
    """The recipe that ``--recipe`` names for a model.

    Raises:
        ValueError: the model has no original.
    """
    if name == OURS:
        return COMMON
    if mil_name not in ORIGINALS:
        raise ValueError(
            f"--recipe {name}: {mil_name} has no recipe of its own; there is one for {', '.join(ORIGINALS)}"
        )
    return ORIGINALS[mil_name]
