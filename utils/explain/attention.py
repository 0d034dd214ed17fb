"""Where the Modal Adapter looks: attention of tokens to patches and of patches to tokens, and its rollout.

Training runs fused kernels, which never write attention weights down. Here a case is run once more, and every layer
computes its weights again from what it is given. Nothing is as large as patches x patches: the frozen blocks between
the layers are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data_utils.cases.case import Case
from models.aggregators.modaltune import ModalTune

INJECTOR, EXTRACTOR, PROMPT = "injector", "extractor", "prompt_selfattention"


@dataclass(frozen=True, eq=False)
class Read:
    """One attention layer at work.

    Attributes:
        name: such as ``stage_1_injector``, ``stage_3_extractor_2`` or ``stage_2_prompt_selfattention``.
        kind: an injector (patches read from modality tokens), an extractor (tokens from patches) or the
            self-attention of the tokens.
        weights: ``[H, M, N]`` of every head, from who reads to what is read; rows add up to 1.
        taken: how much of what the layer returns is what was read, see :func:`rollout`.
    """

    name: str
    kind: str
    weights: Tensor
    taken: float


@dataclass(frozen=True, eq=False)
class Attention:
    """Attention of a case, by groups of tokens and in the order of its patches.

    Patches that share a token of the slide encoder share its attention evenly. Patches that the encoder drops get
    no attention (0) and read nothing (NaN).

    Attributes:
        groups: the task token and the modalities, in the order of their tokens.
        extractors: by layer ``[H, G, L]``: the mean over the tokens of a group; adds up to 1 over the patches.
        injectors: by layer ``[H, G, L]``: the sum over the tokens of a group; adds up to 1 over the groups.
        rollout: ``[G, L]``: how much of a group's tokens after the last stage comes from every patch.
        origin: ``[G, G]``: how much comes from the tokens before the first stage; with ``rollout``, rows add up to 1.
        taken: by layer, see :class:`Read`.
    """

    groups: tuple[str, ...]
    extractors: Mapping[str, np.ndarray]
    injectors: Mapping[str, np.ndarray]
    rollout: np.ndarray
    origin: np.ndarray
    taken: Mapping[str, float]

    def columns(self) -> dict[str, np.ndarray]:
        """``[L]`` by name, such as ``stage_1_extractor_1.task``: the mean over heads, and ``rollout.task``."""
        layers = {name: heads.mean(axis=0) for name, heads in {**self.injectors, **self.extractors}.items()}
        layers["rollout"] = self.rollout
        return {
            f"{name}.{group}": values
            for name, rows in layers.items()
            for group, values in zip(self.groups, rows, strict=True)
        }


def attention_of(model: ModalTune, case: Case, task: int) -> Attention:
    """The attention of a task's copy of a case; one pass forwards.

    Args:
        model: in evaluation mode.
        case: on the model's device.
        task: index of the task token.
    """
    if model.training:
        raise ValueError("a model in training mode draws dropout masks and cannot be explained; call eval()")
    with torch.no_grad():
        groups = token_groups(model, model.modality_tokens(case, [task])[1])
        pooled = torch.zeros(len(groups), len(model.gene_pe)).to(case.features)
        for row, span in zip(pooled, groups.values(), strict=True):
            row[span] = 1 / (span.stop - span.start)
        owner = model.backbone.token_of_patch(case).to(case.features.device)
        found: dict[str, dict[str, np.ndarray]] = {INJECTOR: {}, EXTRACTOR: {}}
        means: list[Read] = []

        def see(read: Read) -> None:
            # Heads are kept by group and layers as their mean, so that little of a layer stays in memory.
            means.append(replace(read, weights=read.weights.mean(dim=0, keepdim=True)))
            if read.kind == EXTRACTOR:
                found[EXTRACTOR][read.name] = _given(pooled @ read.weights, owner)
            elif read.kind == INJECTOR:
                found[INJECTOR][read.name] = _read_by(pooled.sign() @ read.weights.transpose(1, 2), owner)

        with watched(model, see):
            model(case, [task])
        patches, tokens = rollout(means, pooled)
    return Attention(
        groups=tuple(groups),
        extractors=found[EXTRACTOR],
        injectors=found[INJECTOR],
        rollout=_given(patches, owner),
        origin=(tokens @ pooled.sign().to(tokens).T).cpu().numpy(),
        taken={read.name: read.taken for read in means},
    )


def token_groups(model: ModalTune, spans: Mapping[str, slice]) -> dict[str, slice]:
    """Which tokens belong to the task and to each modality; a learned token before the genes is its own group."""
    groups: dict[str, slice] = {}
    for name, span in spans.items():
        first = span.start
        if name == model.behind and model.config.prompt_agg == "cls":
            first += 1
            groups[f"{name}_cls"] = slice(span.start, first)
        groups[name] = slice(first, span.stop)
    return groups


def _given(values: Tensor, token_of_patch: Tensor) -> np.ndarray:
    """``[..., N]`` by token -> ``[..., L]`` by patch, with the same sum."""
    patches_of = torch.bincount(token_of_patch[token_of_patch >= 0], minlength=values.shape[-1])
    shared = (values / patches_of)[..., token_of_patch]
    return shared.masked_fill(token_of_patch < 0, 0).cpu().numpy()


def _read_by(values: Tensor, token_of_patch: Tensor) -> np.ndarray:
    """``[..., N]`` by token -> ``[..., L]``: every patch has what its token has."""
    return values[..., token_of_patch].masked_fill(token_of_patch < 0, torch.nan).cpu().numpy()


# ---------------------------------------------------------------------------- layers
@contextmanager
def watched(model: ModalTune, see: Callable[[Read], None]) -> Iterator[None]:
    """Within the block ``see`` is given every attention layer of the adapter that runs, in order.

    The first copy of a batch is looked at. Outputs are those of the fused kernels.
    """
    handles = [
        layer.register_forward_hook(_hook(name, kind, taken, see), with_kwargs=True)
        for name, kind, layer, taken in _layers(model)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(name: str, kind: str, taken: float, see: Callable[[Read], None]) -> Callable[..., None]:
    @torch.no_grad()
    def hook(layer: Any, given: tuple[Tensor, ...], named: dict[str, Tensor], _: Tensor) -> None:
        see(Read(name, kind, layer.weights(*given, **named)[0], taken))

    return hook


def _layers(model: ModalTune) -> Iterator[tuple[str, str, nn.Module, float]]:
    stages: Iterable[Any] = model.interactions
    for number, stage in enumerate(stages, start=1):
        name = f"stage_{number}"
        if number > 1 and model.config.use_prompt_sa:
            yield f"{name}_{PROMPT}", PROMPT, model.prompt_selfattention[str(number - 1)], 1 / 2
        gamma = stage.injector.gamma.detach().abs().mean().item()
        kept = (1 + stage.injector.gamma.detach()).abs().mean().item()
        yield f"{name}_{INJECTOR}", INJECTOR, stage.injector.attn, gamma / (kept + gamma)
        for k, extractor in enumerate(stage.extractors, start=1):
            yield f"{name}_{EXTRACTOR}_{k}", EXTRACTOR, extractor.attn, 1 / 3


def rollout(reads: Sequence[Read], start: Tensor) -> tuple[Tensor, Tensor]:
    """Where what tokens hold after the last layer comes from (after Abnar and Zuidema, 2020).

    Every layer mixes ``(1 - taken)`` of what its reader was with ``taken`` of what it read, by the mean of the heads.
    ``taken`` follows the sums of the layers: self-attention adds to its input once (1/2), an extractor to twice its
    input (1/3), an injector ``gamma * attention`` to ``(1 + gamma) * patches`` (mean absolute values over the
    channels). Feed-forward networks and the frozen blocks count as identities. Rows of tokens are followed backwards
    through the layers, so that the product of the matrices is never formed.

    Args:
        reads: in the order in which they ran; the last one is an extractor.
        start: ``[G, M]``, rows that add up to 1: which tokens to follow.

    Returns:
        Shares of the patch tokens ``[G, N]`` and of the modality tokens ``[G, M]`` before the first layer, float64.
    """
    tokens = start.double()
    patches = tokens.new_zeros(len(tokens), reads[-1].weights.shape[-1])
    for read in reversed(reads):
        mean, taken = read.weights.mean(dim=0).double(), read.taken
        if read.kind == INJECTOR:
            tokens = tokens + taken * patches @ mean
            patches = (1 - taken) * patches
        elif read.kind == EXTRACTOR:
            patches = patches + taken * tokens @ mean
            tokens = (1 - taken) * tokens
        else:
            tokens = (1 - taken) * tokens + taken * tokens @ mean
    return patches, tokens
