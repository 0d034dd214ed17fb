"""Reading official checkpoints: one place for where they come from and how strictly they load."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from models.frozen import freeze
from models.state_files import check_finite, names, read_state, was_written
from utils.files import FileError

logger = logging.getLogger(__name__)


def read_checkpoint(
    path: str | Path, what: str, source: str, constant: str, prefix: str = ""
) -> dict[str, Tensor]:
    """The tensors of an official checkpoint, without executing code from it (see :mod:`models.state_files`).

    Args:
        path: the file.
        what: name of the model, for messages.
        source: where a user gets the file.
        constant: the entry of ``utils/constants.py`` that points to the file.
        prefix: of the names wanted; it is cut off.

    Raises:
        FileNotFoundError: the file does not exist.
        FileError: the file is damaged or holds no such tensors.
    """
    return read_state(_existing(path, what, source, constant), f"checkpoint of {what}", prefix)


def _existing(path: str | Path, what: str, source: str, constant: str) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"weights of {what} not found at {path}. Get them from {source} and set {constant} in "
            f"utils/constants.py or the environment variable MODALTUNE_{constant}."
        )
    return path


@dataclass(frozen=True)
class StateDifference:
    """How the tensors of a checkpoint differ from the parameters of a module.

    Attributes:
        missing: parameters the checkpoint lacks.
        unexpected: entries the module has no parameter for.
        misshapen: entries of another shape, each with both shapes.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the checkpoint can be loaded; what is unexpected does no harm."""
        return not self.missing and not self.misshapen

    def described(self) -> str:
        """What does not fit, with a name of each kind."""
        kinds = {"missing": self.missing, "of another shape": self.misshapen, "unknown": self.unexpected}
        return ", ".join(
            f"{len(found)} parameters {kind} {list(found[:2])}" for kind, found in kinds.items() if found
        )


def compare_states(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> StateDifference:
    """Compares names and shapes; values are not looked at, so ``own`` may be on the meta device."""
    return StateDifference(
        missing=tuple(sorted(own.keys() - state.keys())),
        unexpected=tuple(sorted(state.keys() - own.keys())),
        misshapen=tuple(
            f"{name} is {tuple(state[name].shape)}, should be {tuple(value.shape)}"
            for name, value in own.items()
            if name in state and state[name].shape != value.shape
        ),
    )


def official_state(module: nn.Module) -> dict[str, Tensor]:
    """The state of a module without what adaptation added (:mod:`models.lora`), which no official file holds."""
    return {n: v for n, v in module.state_dict().items() if not n.rpartition(".")[2].startswith("lora_")}


def load_strict(module: nn.Module, state: Mapping[str, Tensor], what: str, path: str | Path) -> None:
    """Loads ``state`` into ``module``; nothing may be missing, what is unexpected is reported.

    Raises:
        ValueError: parameters are missing or have another shape, or values are not finite.
    """
    own = official_state(module)
    found = compare_states(own, state)
    if not found.fits:
        fault = f"does not fit {what}: {found.described()}"
        raise FileError(
            path, fault, f"it holds such as {names(state)}. Is it the right checkpoint for this config?"
        )
    check_finite({name: state[name] for name in own}, path, what)
    if not was_written({name: state[name] for name in own}):
        fault = f"holds zeros only in the parameters of {what}: they were never written"
        raise FileError(path, fault, "copy or download the file again")
    if found.unexpected:
        logger.warning(
            "%s: %d unexpected entries ignored, such as %s", path, len(found.unexpected), found.unexpected[:5]
        )
    module.load_state_dict({name: state[name] for name in own}, strict=False)
    logger.info("%s: loaded %d tensors from %s", what, len(own), path)


def load_frozen(
    build: Callable[[], nn.Module], state: Mapping[str, Tensor], what: str, path: str | Path
) -> nn.Module:
    """What ``build`` makes with the parameters ``state``, frozen, in evaluation mode, float32 on the CPU.

    Raises:
        ValueError: as :func:`load_strict`, or the config that ``build`` reads is wrong.
    """
    # Drawing random weights that are replaced at once takes longer than reading the file.
    with torch.device("meta"):
        network = build()
    network.to_empty(device="cpu")
    load_strict(network, state, what, path)
    return freeze(network).eval()
