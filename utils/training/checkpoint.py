"""Weights on disk: ours, and those of the published code.

``best_model_weights.pt`` holds the trainable parameters, the frozen text projector and everything a
later evaluation needs to prepare its input alike. Official weights of the frozen encoder are read
from their own files every time.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.modalities import Modality, all_modalities, modality
from models.pretrained import compare_states
from models.state_files import check_finite, is_safetensors, names, read_state, unwrapped
from utils.files import FileError, content_of
from utils.tensor_files import read_tensors, write_tensors

logger = logging.getLogger(__name__)

# Published names that are equal to ours.
_ADAPTER = (
    "gene_pe",
    "gene_cls",
    "interactions.",
    "prompt_selfattention.",
    "task_weight.",
    "final_norm.",
    "final_project.",
    # Of ours only; published names of the encoders of modalities are declared by these.
    "modality_encoders.",
    "absent_tokens.",
)
_BACKBONE = "backbone.vit."

_REMEDY = "copy it again, or pass another one with --eval_weights"
# What our weights hold: the types, and whether it must be there.
_WEIGHTS = {
    "model": ((dict,), True),
    "objective": ((dict,), False),
    "run": ((dict,), True),
}
_RUN = {
    "mil_name": ((str,), True),
    "model_config": ((dict,), True),
    "num_tasks": ((int,), True),
    "tasks": ((dict,), False),
    "protocol": ((str,), True),
    "missing_modalities": ((str,), False),
    "seed": ((int,), False),
    "epoch": ((int,), False),
    "train_cases": ((list,), False),
    "structures": ((dict,), False),
    "fitted": ((dict,), False),
    "objective": ((dict, type(None)), False),
}


def _published_modalities() -> dict[str, Modality]:
    """The modalities that the published code has, too, by the prefix of their parameters there."""
    return {m.published_prefix: m for m in all_modalities().values() if m.published_prefix is not None}


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the parameters of a published ModalTune checkpoint to ours.

    Parameters of the frozen encoder, which published checkpoints contain too, get the prefix of the
    backbone.
    """
    ours, modalities = {}, _published_modalities()
    for prefix, entry in modalities.items():
        encoder = entry.from_published(_below(state, prefix)) if _below(state, prefix) else {}
        ours |= {f"modality_encoders.{entry.name}.{name}": value for name, value in encoder.items()}
    for name, value in state.items():
        if name.startswith(tuple(modalities)) or name == "pos_embed":  # positions are computed
            continue
        ours[name if name.startswith(_ADAPTER) else _BACKBONE + name] = value
    return ours


def _layouts(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a published checkpoint says of the structure of its modalities, by modality."""
    found = {
        m.name: m.published_layout(_below(state, prefix)) for prefix, m in _published_modalities().items()
    }
    return {name: layout for name, layout in found.items() if layout}


def check_layouts(content: Mapping[str, Any], structures: Mapping[str, Any], path: str | Path) -> None:
    """Whether a published checkpoint was trained with data of these structures, as far as it tells.

    Raises:
        ValueError: it was trained with others; the message says which and what to do.
    """
    for name, layout in content.get("layouts", {}).items():
        if name in structures and (wrong := modality(name).misfit(layout, structures[name])):
            fault, remedy = wrong
            raise FileError(path, f"was trained with other data: {fault}", remedy)


def to_published(state: Mapping[str, Tensor], structures: Mapping[str, Any]) -> dict[str, Tensor]:
    """The inverse of :func:`from_published`; ``structures`` are those of the modalities (see DataSpec)."""
    published, done = {}, []
    for prefix, entry in _published_modalities().items():
        own = f"modality_encoders.{entry.name}."
        if encoder := _below(state, own):
            names = entry.to_published(encoder, structures.get(entry.name))
            published |= {prefix + name: value for name, value in names.items()}
            done.append(own)
    rest = {name: value for name, value in state.items() if not name.startswith(tuple(done))}
    return published | {name.removeprefix(_BACKBONE): value for name, value in rest.items()}


def trainable_names(model: nn.Module) -> list[str]:
    """Names of the parameters that training changes, and of the persistent buffers of their modules."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return [name for name in model.state_dict() if name not in frozen]


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of :func:`trainable_names`, on the CPU."""
    state = model.state_dict()
    return {name: state[name].detach().cpu() for name in trainable_names(model)}


def check_trainable(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Whether ``state`` holds every trainable parameter; ``model`` may be on the meta device.

    Raises:
        ValueError: parameters are missing, unknown or of another shape.
    """
    own = model.state_dict()
    found = compare_states({name: own[name] for name in own.keys() & state.keys()}, state)
    missing = sorted(set(trainable_names(model)) - state.keys())
    if missing or found.unexpected or found.misshapen:
        what = replace(found, missing=tuple(missing)).described()
        remedy = "do --mil_name, --model_config and the pathway table equal those of the training run?"
        raise FileError(path, f"does not fit the model: {what}", remedy)


def load_trainable(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Loads :func:`trainable_state`; every trainable parameter must be there.

    Raises:
        ValueError: as :func:`check_trainable`.
    """
    check_trainable(model, state, path)
    model.load_state_dict(state, strict=False)


def save(path: str | Path, content: Mapping[str, Any]) -> None:
    """Writes a checkpoint atomically.

    Raises:
        OSError: there is no room; what the file held before is intact.
    """
    write_tensors(path, dict(content))


def load(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint without executing code from it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, is no dict, or holds more than tensors and plain values.
    """
    content = read_tensors(_existing(path), "checkpoint")
    if not isinstance(content, dict):
        raise FileError(path, f"holds a {type(content).__name__}, a checkpoint is a dict", _REMEDY)
    return content


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist; pass another one with --eval_weights")
    return path


@contextmanager
def continuing(path: Path) -> Iterator[None]:
    """Whatever a damaged entry of a last checkpoint ends in becomes a FileError that names the file."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, RuntimeError) as error:
        fault = f"cannot be continued from: {type(error).__name__}: {error}"
        raise FileError(path, fault, "remove it, or start anew with --resume never") from error


def load_weights(path: str | Path) -> dict[str, Any]:
    """Reads ``best_model_weights.pt`` of ours or of the published code.

    Those of the published code may be wrapped or prefixed, and stored as safetensors (see
    :mod:`models.state_files`).

    Returns:
        ``{"model": state}`` and, for ours, ``objective`` (the text projector) and ``run`` (config,
        pathways, ...); for those of the published code ``layouts`` (see :func:`check_layouts`).

    Raises:
        FileNotFoundError: there is no such file.
        FileError: the file is damaged, of another kind, lacks something, or holds values that are not finite.
    """
    path = _existing(path)
    if is_safetensors(path):
        content: dict[str, Any] = {**read_state(path, "checkpoint")}
    else:
        content = load(path)
    if "model" in content and "run" in content:
        check_schema(content, path)
        return content
    state = unwrapped(content, path, "a ModalTune checkpoint")
    if "final_project.weight" in state:
        logger.info("%s is a checkpoint of the published code", path)
        check_finite(state, path, "the model")
        ours = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
        with content_of(path, _REMEDY):
            return {"model": from_published(ours), "layouts": _layouts(ours)}
    raise FileError(path, f"is no ModalTune checkpoint; its first entries are {names(state)}", _REMEDY)


def check_schema(content: Mapping[str, Any], path: str | Path) -> None:
    """Whether our weights hold what an evaluation reads, each of its type, with finite numbers.

    Raises:
        FileError: something is missing or of another type; the entry is named.
    """
    wrong = list(_misfits(content, _WEIGHTS, ""))
    run = content.get("run")
    if isinstance(run, Mapping) and run:  # those that were converted from the published code say nothing
        wrong += _misfits(run, _RUN, "run.")
    if wrong:
        raise FileError(path, f"is no whole checkpoint: {'; '.join(wrong[:3])}", _REMEDY)
    for part in ("model", "objective"):
        state = content.get(part, {})
        if odd := [name for name, value in state.items() if not isinstance(value, Tensor)]:
            fault = f"is no whole checkpoint: {part} holds entries that are no tensors: {names(odd)}"
            raise FileError(path, fault, _REMEDY)
        check_finite(state, path, part)
    for name, entry in all_modalities().items():
        structure, fitted = (content["run"].get(part, {}).get(name) for part in ("structures", "fitted"))
        try:
            entry.check_stored(structure, fitted)
        except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
            fault = f"is no whole checkpoint: what it says of the {entry.noun} cannot be used ({error!r})"
            raise FileError(path, fault, _REMEDY) from error


def _misfits(
    content: Mapping[str, Any], wanted: Mapping[str, tuple[tuple[type, ...], bool]], place: str
) -> Iterator[str]:
    for name, (kinds, needed) in wanted.items():
        if name not in content:
            if needed:
                yield f"{place}{name} is missing"
        elif not isinstance(content[name], kinds) or (isinstance(content[name], bool) and bool not in kinds):
            yield f"{place}{name} is a {type(content[name]).__name__}, not a {kinds[0].__name__}"


@dataclass(frozen=True)
class TrainedWeights:
    """Weights that are evaluated, read once: their file, and what :func:`load_weights` found in it."""

    path: Path
    content: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> TrainedWeights:
        """Reads a file.

        Raises:
            FileNotFoundError, ValueError: as :func:`load_weights`.
        """
        return cls(path, load_weights(path))

    @property
    def run(self) -> dict[str, Any]:
        """What they say of their training; those of the published code say nothing."""
        return self.content.get("run", {})

    @property
    def have_projector(self) -> bool:
        """Whether the text projector is among them; it is not in those of the published code."""
        return "objective" in self.content

    def load_into(self, model: nn.Module, objective: nn.Module, structures: Mapping[str, Any]) -> None:
        """Loads the trainable parameters and, where there is one, the text projector.

        Raises:
            ValueError: as :func:`check_layouts` and :func:`check_trainable`.
        """
        check_layouts(self.content, structures, self.path)
        load_trainable(model, self.content["model"], self.path)
        if self.have_projector:
            with content_of(self.path, _REMEDY):
                objective.load_state_dict(self.content["objective"])


def clean(source: Path, target: Path) -> list[str]:
    """Writes the tensors and plain values of any PyTorch file into a file that loads without code.

    Reading ``source`` runs whatever code it brings along: only for files from people you trust.

    Returns:
        Places of what could not be kept.
    """
    dropped: list[str] = []
    content = _plain(torch.load(source, map_location="cpu", weights_only=False), "", dropped)
    save(target, content if isinstance(content, dict) else {"content": content})
    return dropped


def _plain(value: Any, place: str, dropped: list[str]) -> Any:
    """Tensors and plain values of a nested value; other objects become their name."""
    if isinstance(value, nn.Module):
        value = value.state_dict()
    elif isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{place}.{k}" if place else str(k), dropped) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, f"{place}[{k}]", dropped) for k, v in enumerate(value)]
    if isinstance(value, Tensor):
        return value.detach()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    dropped.append(f"{place} ({type(value).__name__})")
    return f"<{type(value).__name__}>"
