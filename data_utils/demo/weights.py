"""Random weights through which information flows, for the small checkpoints of the demo.

Official initialisations (layer scale 1e-5, embeddings of 0.02) make encoders whose output hardly depends on
their input. Here matrices keep the variance of their input, and the last normalisation of an encoder is
calibrated, so that outputs vary around zero instead of around a constant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from data_utils.demo.histology import paint_tissue
from utils import constants
from utils.files import read_json

CALIBRATION_TILES = 48
# A dimension that hardly varies carries rounding errors: amplify it no further than this.
MAX_GAIN = 4.0


def demo_config(name: str) -> dict[str, Any]:
    """The config ``demo_{name}.json`` of ``model_configs/``."""
    return read_json(constants.CONFIGS_ROOT / f"demo_{name}.json")


def fill(module: nn.Module, rng: Generator) -> None:
    """Matrices random and keeping the variance of their input, gains 1, biases 0, layer scales 1."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.ndim == 1 and not name.endswith("cls_emb"):
                parameter.fill_(1.0)
            else:
                fan_in = parameter.shape[1:].numel() if name.endswith("weight") else 1
                if name.endswith("text_projection"):
                    fan_in = parameter.shape[0]
                values = rng.standard_normal(tuple(parameter.shape)) / np.sqrt(fan_in)
                parameter.copy_(torch.from_numpy(values))


def fill_trunk(trunk: nn.Module, rng: Generator) -> None:
    """Makes a filled timm vision transformer look at colours and textures more than at positions."""
    with torch.no_grad():
        filters = trunk.patch_embed.proj.weight
        filters.copy_(_texture_filters(tuple(filters.shape), rng))
        trunk.cls_token.zero_()
        trunk.pos_embed.mul_(0.1)


def _texture_filters(shape: tuple[int, ...], rng: Generator) -> Tensor:
    """Random filters ``[n, 3, h, w]`` of several coarsenesses: some see colour, some see texture."""
    filters = np.empty(shape)
    for k in range(shape[0]):
        smoothness = (0.7, 1.5, 3.0, 6.0)[k % 4]
        grain = gaussian_filter(rng.standard_normal(shape[2:]), smoothness, mode="reflect")
        colour = rng.standard_normal(3)[:, None, None]
        filters[k] = colour * (grain / grain.std() + rng.normal())
    return torch.from_numpy(filters / np.sqrt(np.prod(shape[1:])))


def painted_tiles(rng: Generator, side: int, mpp: float) -> np.ndarray:
    """Tiles ``[n, side, side, 3]`` uint8 full of tissue, that span what slides of the demo show."""
    return np.stack(
        [
            paint_tissue(
                mask=np.ones((side // 2, side // 2), dtype=np.float32),
                look=tuple(rng.normal(0, 1, size=2)),
                grade=float(rng.normal()),
                tissue=(*rng.uniform(-1, 1, size=2), 0.0, 0.0),
                mpp=mpp,
                rng=rng,
            )
            for _ in range(CALIBRATION_TILES)
        ]
    )


def calibrate(layer: nn.Module, output: Callable[[], Tensor], centring: float = 1.0) -> None:
    """Sets weight and bias of ``layer`` so that ``output()`` ``[n, D]`` has mean 0 and variance 1.

    Weights are rounded, because the last bits of sums differ between machines.
    """
    with torch.no_grad():
        values = output()
        scale = (1 / values.std(dim=0)).clamp(max=MAX_GAIN)
        layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.ndim - 1)))
        layer.bias.sub_(centring * values.mean(dim=0)).mul_(scale)
        for parameter in (layer.weight, layer.bias):
            parameter.copy_(torch.round(parameter, decimals=4))


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """The state dict as float32."""
    return {name: value.detach().float().contiguous() for name, value in module.state_dict().items()}
