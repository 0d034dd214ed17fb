"""Parts of the computation, alone: attention, gene encoder, Cox probe."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.genomic_utils.gene_mixer import PathwayNetworks
from models.prov_gigapath.dilated_attention import dilated_attention
from models.prov_gigapath.longnet import PUBLISHED_RATIOS, PUBLISHED_SEGMENTS
from tests.benchmarks.measuring import Row, row
from tests.benchmarks.training_step import NUM_GENES, published_size_pathways
from tests.utils.evaluation_data import make_embeddings
from utils.probes import fit_survival

HIDDEN = 256


# ---------------------------------------------------------------------------- attention
def straightforward_dilated_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every branch pads the sequence, gathers by index, and scatters into a dense tensor of its own."""
    batch, length, heads, width = q.shape
    outs, lses = [], []
    for segment, ratio in zip(PUBLISHED_SEGMENTS, PUBLISHED_RATIOS, strict=True):
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


def attention_alone(ours: bool, tokens: int, dtype: str, repeats: int) -> Row:
    """Forward and backward of one layer's dilated attention, three copies."""
    torch.manual_seed(0)
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    q, k, v = (torch.randn(3, tokens, 16, 48).to(kind).requires_grad_() for _ in range(3))

    def work() -> None:
        if ours:
            out = dilated_attention(q, k, v, PUBLISHED_SEGMENTS, PUBLISHED_RATIOS)
        else:
            out = straightforward_dilated_attention(q, k, v)
        torch.autograd.grad(out.float().square().sum(), (q, k, v))

    return row(work, repeats)


# ---------------------------------------------------------------------------- genes
class LoopOfNetworks(nn.Module):
    """The pathway networks as the published code has them: one small network each, one after the other."""

    def __init__(self, pathways: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        self.members = [list(genes) for genes in pathways]
        self.networks = nn.ModuleList(
            nn.Sequential(
                *(nn.Linear(len(genes), HIDDEN), nn.ELU(), nn.AlphaDropout(0.25)),
                *(nn.Linear(HIDDEN, HIDDEN), nn.ELU(), nn.AlphaDropout(0.25)),
            )
            for genes in pathways
        )

    def forward(self, genes: Tensor, copies: int) -> Tensor:
        """As :class:`PathwayNetworks`."""
        pairs = [*zip(self.networks, self.members, strict=True)]
        passes = [torch.stack([net(genes[members]) for net, members in pairs]) for _ in range(copies)]
        return torch.stack(passes)


def pathway_networks(ours: bool, repeats: int) -> Row:
    """Forward and backward of 331 pathway networks, three copies with dropout."""
    torch.manual_seed(0)
    pathways = published_size_pathways()
    model = PathwayNetworks(pathways, HIDDEN, 0.25) if ours else LoopOfNetworks(pathways)
    genes = torch.randn(NUM_GENES)

    def work() -> None:
        model(genes, 3).square().sum().backward()
        model.zero_grad()

    return row(work, repeats)


# ---------------------------------------------------------------------------- evaluation
def cox_probe(repeats: int) -> Row:
    """Cox on 256 dimensions of 700 patients."""
    cases = make_embeddings(n=700, width=256)
    return row(lambda: fit_survival(cases, 0), repeats)


PARTS: dict[str, Callable[[int], Row]] = {
    **{
        f"dilated/{tokens}/{dtype}/{name}": (
            lambda repeats, ours=ours, tokens=tokens, dtype=dtype: attention_alone(
                ours, tokens, dtype, repeats
            )
        )
        for tokens in (1025, 4097)
        for dtype in ("fp32", "bf16")
        for name, ours in (("ours", True), ("straightforward", False))
    },
    "genes/ours": lambda repeats: pathway_networks(True, repeats),
    "genes/loop": lambda repeats: pathway_networks(False, repeats),
    "cox/700x256": cox_probe,
}
