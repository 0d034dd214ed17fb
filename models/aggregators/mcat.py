"""MCAT (Chen et al., ICCV 2021): functional gene groups attend to patches, two pooled branches are fused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data_utils.tables.text_table import read_table
from models.aggregators.registry import DataSpec, register
from models.aggregators.single_vector import LABEL_OBJECTIVES, SingleVector, built, needed
from models.genomic_utils.gene_mixer import PathwayNetworks
from models.layers.gated_attention import GatedAttention


class TokenPooling(nn.Module):
    """Two post-norm transformer layers, gated attention pooling and ``Linear -> ReLU``.

    The layers start from the same weights, as in the original: its encoder copies one layer.
    """

    def __init__(self, dim: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(dim, heads, feed_forward, dropout)
        self.transformer = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.attention = GatedAttention(dim, dim, dropout)
        self.rho = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, tokens: Tensor) -> Tensor:
        """``[n, D] -> [D]``."""
        return self.rho(self.attention(self.transformer(tokens)))


class MCAT(nn.Module):
    """Genomic-guided co-attention over all patches.

    Args:
        feature_dim: width of the patch features.
        groups: for each functional group, positions of its genes in the gene vector.
        dim: of patches, groups and the result.
        heads: of the transformers; the co-attention has one.
        dropout: of every part but the co-attention and the fusion, which have none.

    Raises:
        ValueError: a group is empty.
    """

    def __init__(
        self,
        feature_dim: int,
        groups: Sequence[Sequence[int]],
        dim: int = 256,
        heads: int = 8,
        dropout: float = 0.25,
    ) -> None:
        super().__init__()
        self.feature_dim, self.output_dim = feature_dim, dim
        self.patch = nn.Sequential(nn.Linear(feature_dim, dim), nn.ReLU(), nn.Dropout(dropout))
        self.gene_networks = PathwayNetworks(groups, dim, dropout, init="linear")
        self.coattention = nn.MultiheadAttention(dim, 1)
        self.image = TokenPooling(dim, heads, 2 * dim, dropout)
        self.genes = TokenPooling(dim, heads, 2 * dim, dropout)
        self.fusion = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())

    def forward(self, features: Tensor, genes: Tensor) -> Tensor:
        """``[L, D], [n_genes] -> [O]``."""
        groups = self.gene_networks(genes, 1)[0]  # [groups, dim]
        patches = self.patch(features)
        image, _ = self.coattention(groups, patches, patches, need_weights=False)
        return self.fusion(torch.cat([self.image(image), self.genes(groups)]))


def read_groups(path: str | Path, genes: Sequence[str]) -> list[list[int]]:
    """Positions in the gene vector of the members of every group.

    Args:
        path: signature table: one column for each group, gene symbols below its name.
        genes: symbols of the gene vector.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a group keeps no gene; the message names it.
    """
    path, place = Path(path), {gene: index for index, gene in enumerate(genes)}
    remedy = (
        "MCAT needs one (a column for each functional group with its gene symbols): name it under signatures in the "
        "model config"
    )
    table = read_table(path, "signature table", remedy)
    groups = [[place[gene] for gene in sorted(set(table[name])) if gene in place] for name in table]
    if empty := [name for name, group in zip(table, groups, strict=True) if not group]:
        raise ValueError(
            f"{path}: no gene of the groups {empty} is in the gene table; leave these columns out"
        )
    return groups


@register("mcat", modalities=["genes"], objectives=LABEL_OBJECTIVES)
def _build(config: Mapping[str, Any], spec: DataSpec) -> SingleVector:
    """``--mil_name mcat``; ``signatures`` of the config names the table of functional groups."""
    if "signatures" not in config:
        raise ValueError("model config of mcat: signatures is missing, the table of functional gene groups")
    rest = {name: value for name, value in config.items() if name != "signatures"}
    groups = read_groups(config["signatures"], needed(spec.structures, "genes")["genes"])
    return SingleVector(built(MCAT, rest, "mcat", groups=groups), ["patches", "genes"], spec.num_tasks)
