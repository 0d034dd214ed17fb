"""What the baselines share: a network that makes one vector of a case, whatever the number of tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from data_utils.cases.case import Case
from models.configuration import construct
from models.modalities import modality

# Baselines have no task tokens; labels teach them, not sentences.
LABEL_OBJECTIVES = ("multitask", "subtype", "survival")
PATCHES = "patches"


class SingleVector(nn.Module):
    """Feeds a network with what it takes of a case; the task tokens are copies of its vector.

    Args:
        network: ``(inputs...) -> [O]`` with an ``output_dim``.
        inputs: what it takes, in order: ``PATCHES`` for the patch features (of the network's ``feature_dim``), else
            names of modalities.
        num_tasks: ``T``.
    """

    def __init__(self, network: nn.Module, inputs: Sequence[str], num_tasks: int) -> None:
        super().__init__()
        self.network, self.inputs, self.num_tasks = network, tuple(inputs), num_tasks
        self.output_dim = int(network.output_dim)
        self.feature_dim = network.feature_dim if PATCHES in self.inputs else None

    def init_head(self, head: nn.Linear) -> None:
        """Initialises a head as the original does, where that differs from PyTorch's way."""
        if hasattr(self.network, "init_head"):
            self.network.init_head(head)

    def forward(self, case: Case, tasks: Sequence[int] | None = None) -> Tensor:
        """``[len(tasks), O]``, for all tasks unless told otherwise."""
        count = self.num_tasks if tasks is None else len(tasks)
        return self.network(*(self._input(name, case) for name in self.inputs)).expand(count, -1)

    def _input(self, name: str, case: Case) -> Tensor:
        if name != PATCHES:
            return modality(name).input_of(case)
        if (width := case.features.shape[-1]) != self.feature_dim:
            raise ValueError(
                f"case {case.case_id}: patch features are {width} wide, the model config says feature_dim "
                f"{self.feature_dim}; pass a --model_config with feature_dim {width}, or other features"
            )
        return case.features


def number_of_genes(structures: Any) -> int:
    """Length of the gene vector of the training cohort."""
    return len(needed(structures, "genes")["genes"])


def needed(structures: Any, name: str) -> Any:
    """The structure of a modality.

    Raises:
        ValueError: its file was not given.
    """
    if name not in structures:
        entry = modality(name)
        raise ValueError(f"this model needs {entry.noun} (--{entry.flag}), which were not given")
    return structures[name]


def built(
    network: Callable[..., nn.Module], config: Mapping[str, Any], where: str, **given: Any
) -> nn.Module:
    """The network of a config; ``given`` are arguments that do not stand there (see :func:`construct`).

    Raises:
        ValueError: an argument of the config is unknown, missing or impossible.
    """
    return construct(network, config, f"model config of {where}", **given)
