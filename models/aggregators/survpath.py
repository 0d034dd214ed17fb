"""SurvPath (Jaume et al., CVPR 2024): pathway tokens and patches attend to each other, patches not to patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.aggregators.registry import DataSpec, register
from models.aggregators.single_vector import LABEL_OBJECTIVES, SingleVector, built, needed
from models.genomic_utils.gene_mixer import PathwayNetworks


class SurvPath(nn.Module):
    """Pathway tokens attend to everything, patches to pathways; both are averaged.

    The attention has no output projection and no skip, as in the original. Patches are not padded: the
    original fills training cases up to 4,096 patches with zeros, which take part in everything.

    Args:
        feature_dim: width of the patch features.
        pathways: for each of the ``P`` pathways, positions of its genes in the gene vector.
        dim: of the tokens; the attention has half of it.
        output_dim: of the result.
        dropout: of the pathway networks.
    """

    def __init__(
        self,
        feature_dim: int,
        pathways: Sequence[Sequence[int]],
        dim: int = 256,
        output_dim: int = 64,
        dropout: float = 0.25,
    ) -> None:
        super().__init__()
        self.feature_dim, self.output_dim = feature_dim, output_dim
        inner = dim // 2
        self.gene_networks = PathwayNetworks(pathways, dim, dropout, init="linear")
        self.patch = nn.Linear(feature_dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(inner),
            nn.Linear(inner, inner),
            nn.GELU(),
            nn.Dropout(0.1),
            nn.Linear(inner, inner),
            nn.LayerNorm(inner),
        )
        self.hidden = nn.Sequential(nn.Linear(2 * inner, output_dim), nn.ReLU())

    def forward(self, features: Tensor, genes: Tensor) -> Tensor:
        """``[L, D], [n_genes] -> [O]``."""
        pathways = self.gene_networks(genes, 1)[0]
        count = len(pathways)
        tokens = torch.cat([pathways, self.patch(features)])
        q, k, v = self.to_qkv(self.norm(tokens)).chunk(3, dim=-1)
        of_pathways = _attention(q[:count], k, v)
        of_patches = _attention(q[count:], k[:count], v[:count])
        parts = (self.feed_forward(part).mean(dim=0) for part in (of_pathways, of_patches))
        return self.hidden(torch.cat(list(parts)))


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One head over ``[n, d]``; fused kernels want the dimensions of batch and heads."""
    q, k, v = (t[None, None] for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v)[0, 0]


@register("survpath", modalities=["genes"], objectives=LABEL_OBJECTIVES)
def _build(config: Mapping[str, Any], spec: DataSpec) -> SingleVector:
    """``--mil_name survpath``: patches and pathways."""
    pathways = needed(spec.structures, "genes")["indices"]
    network = built(SurvPath, config, "survpath", pathways=pathways)
    return SingleVector(network, ["patches", "genes"], spec.num_tasks)
