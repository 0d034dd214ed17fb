"""ModalTune computed the straightforward way, to be timed beside ours on the same machine.

Same mathematics and parameters, but with what costs the published code time and memory: one pass per task, a
dense position table, dilated attention that computes its padding and scatters every branch into a dense tensor, a
dense ALiBi bias, a loop over the pathway networks, residual branches that are computed and then dropped, PyTorch's own
dropout and linear layers. Attention runs in the fused CPU kernel, where the published code needs flash-attn.
"""

from __future__ import annotations

from functools import lru_cache
from unittest import mock

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from data_utils.cases.case import Case
from models.aggregators.modaltune import ModalTune
from models.frozen import FrozenLinear
from models.genomic_utils.gene_mixer import PathwayNetworks, unpack_pathway_networks
from models.prov_gigapath import dropout
from models.prov_gigapath.longnet import LongNetViT
from models.titan.vision_encoder import SelfAttention


class Straightforward(nn.Module):
    """A model of ours, changed in place; its interface."""

    def __init__(self, model: ModalTune, pathways: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        self.model = model
        model.activation_checkpointing = "off"
        mixer = model.modality_encoders["genes"].network
        mixer.gene_networks = LoopOfNetworks(pathways, mixer.gene_networks)
        for module in model.modules():
            if type(module) in _REPLACED:
                module.__class__ = _REPLACED[type(module)]
        if isinstance(vit := model.backbone.vit, LongNetViT):
            table = _dense_positions(vit)
            vit.positions = lambda coords: table[_cell_numbers(vit, coords)]
            for layer in vit.encoder.layers:
                layer.ffn.forward = lambda x, ffn=layer.ffn: ffn.fc2(ffn._activate(ffn.fc1(x)))

    def forward(self, case: Case) -> Tensor:
        """``[num_tasks, O]``, one task after the other."""
        longnet = "models.prov_gigapath.longnet"
        with (
            mock.patch(f"{longnet}.dilated_attention", dilated_attention),
            mock.patch(f"{longnet}.joined_linear", separate_linear),
        ):
            return torch.cat([self.model(case, [task]) for task in range(self.model.num_tasks)])


def _dense_positions(vit: LongNetViT) -> Tensor:
    """The code of every cell, ``[G * G + 1, E]``; row 0 belongs to CLS."""
    table = torch.zeros(vit.grid_size**2 + 1, vit.embed_dim)
    y, x = table[1:].view(vit.grid_size, vit.grid_size, vit.embed_dim).chunk(2, dim=-1)
    y[:], x[:] = vit.axis_positions, vit.axis_positions[:, None]
    return table


def _cell_numbers(vit: LongNetViT, coords: Tensor) -> Tensor:
    cells = vit.grid_cells(coords)
    return cells[:, 0] * vit.grid_size + cells[:, 1] + 1


class ComputedDropPath(dropout.DropPath):
    """Computes the branch for all and multiplies."""

    def forward(self, x: Tensor, branch: nn.Module) -> Tensor:
        return x + DropPath(self.drop_prob).train(self.training)(branch(x))


class DenseSelfAttention(SelfAttention):
    """TITAN's attention with all biases in memory."""

    def forward(self, x: Tensor, cells: Tensor, slopes: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, _dense_bias(cells, slopes).to(q.dtype))
        return self.proj(out.transpose(1, 2).flatten(2))


@lru_cache(maxsize=1)
def _dense_bias(cells: Tensor, slopes: Tensor) -> Tensor:
    """``[1, H, N, N]``, computed by the first block of a task."""
    distances = torch.cdist(cells.float(), cells.float())
    distances[0] = distances[:, 0] = 0
    return -slopes.view(1, -1, 1, 1) * distances


_REPLACED = {
    FrozenLinear: nn.Linear,
    dropout.Dropout: nn.Dropout,
    dropout.DropPath: ComputedDropPath,
    SelfAttention: DenseSelfAttention,
}


def separate_linear(x: Tensor, layers: tuple[nn.Linear, ...]) -> Tensor:
    """One product for every layer."""
    return torch.cat([layer(x) for layer in layers], dim=-1)


def dilated_attention(
    qkv: Tensor, segments: tuple[int, ...], ratios: tuple[int, ...], whole_gradient: bool = False
) -> Tensor:
    """Every branch pads the sequence, gathers by index, and scatters into a dense tensor of its own."""
    q, k, v = qkv.unbind(2)
    batch, length, heads, width = q.shape
    outs, lses = [], []
    for segment, ratio in zip(segments, ratios, strict=True):
        w = min(segment, length)
        padded = [F.pad(x, (0, 0, 0, 0, 0, -length % w)).reshape(-1, w, heads, width) for x in (q, k, v)]
        padded = [F.pad(x, (0, 0, 0, 0, 0, -w % ratio)) for x in padded]
        offsets = torch.arange(heads) // (heads // ratio)
        index = (torch.arange(0, padded[0].shape[1], ratio)[:, None] + offsets)[None, :, :, None]
        inputs = [x.gather(1, index.expand(len(x), -1, -1, width)).transpose(1, 2) for x in padded]
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*inputs)
        dense = torch.zeros_like(padded[0])
        dense = dense.scatter(1, index.expand(len(dense), -1, -1, width), out.transpose(1, 2))
        dense_lse = torch.full((*dense.shape[:3], 1), -1e8)
        seen = index.expand(len(dense), -1, -1, 1)
        dense_lse = dense_lse.scatter(1, seen, lse.detach().float().transpose(1, 2).unsqueeze(-1))
        outs.append(dense[:, :w].reshape(batch, -1, heads, width)[:, :length])
        lses.append(dense_lse[:, :w].reshape(batch, -1, heads, 1)[:, :length])
    weights = torch.stack(lses).softmax(dim=0).to(q.dtype)
    return sum(out * weight for out, weight in zip(outs, weights, strict=True))


class LoopOfNetworks(nn.Module):
    """The pathway networks as the published code has them: one small network each, one after the other."""

    def __init__(self, pathways: tuple[tuple[int, ...], ...], grouped: PathwayNetworks) -> None:
        super().__init__()
        self.members = [list(genes) for genes in pathways]
        width, dropout = grouped.bias1.shape[1], grouped.dropout
        self.networks = nn.ModuleList(
            nn.Sequential(
                nn.Sequential(nn.Linear(len(genes), width), nn.ELU(), nn.AlphaDropout(dropout)),
                nn.Sequential(nn.Linear(width, width), nn.ELU(), nn.AlphaDropout(dropout)),
            )
            for genes in pathways
        )
        state = {f"gene_networks.{name}": value for name, value in grouped.state_dict().items()}
        state = unpack_pathway_networks(state, [len(genes) for genes in pathways])
        self.networks.load_state_dict(
            {name.removeprefix("gene_networks."): value for name, value in state.items()}
        )

    def forward(self, genes: Tensor, copies: int) -> Tensor:
        """``[n_genes] -> [copies, P, H]``, as :class:`PathwayNetworks`."""
        pairs = [*zip(self.networks, self.members, strict=True)]
        passes = [torch.stack([net(genes[members]) for net, members in pairs]) for _ in range(copies)]
        return torch.stack(passes)
