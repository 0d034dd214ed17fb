"""Pathway networks and MLP-Mixer: the gene encoder of ModalTune (``gene_mixer_group``).

The published code runs one small network per pathway in a Python loop (331 of them). The same
mathematics runs grouped here: the first layers are one weighted embedding bag over the membership
list, the second layers one batched matrix product. :func:`pack_pathway_networks` and
:func:`unpack_pathway_networks` translate between the two parameter layouts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.vitadapter.interaction import init_linear

INITIALISATIONS = ("published", "linear", "lecun")


class PathwayNetworks(nn.Module):
    """``Linear(n_genes, H) -> ELU -> AlphaDropout -> Linear(H, H) -> ELU -> AlphaDropout`` per pathway.

    Args:
        pathways: for each of the ``P`` pathways, positions of its genes in a case's gene vector.
        hidden_dim: ``H``.
        dropout: of the alpha dropouts.
        init: ``published`` for ModalTune's truncated normal (0.02), ``linear`` for that of ``nn.Linear``,
            ``lecun`` for variance ``1 / fan_in``, which self-normalising networks need: with weights of 0.02 the
            activations are some 0.1, beside the -1.76 that alpha dropout puts in place of what it drops.

    Raises:
        ValueError: a pathway is empty, or ``init`` is something else.
    """

    def __init__(
        self,
        pathways: Sequence[Sequence[int]],
        hidden_dim: int,
        dropout: float,
        init: str = "published",
    ) -> None:
        super().__init__()
        if init not in INITIALISATIONS:
            raise ValueError(f"gene encoder: init is {init!r}, should be one of {', '.join(INITIALISATIONS)}")
        sizes = [len(genes) for genes in pathways]
        if not sizes or min(sizes) == 0:
            raise ValueError("every pathway needs at least one gene; drop empty pathways first")
        flat = [gene for genes in pathways for gene in genes]
        members = torch.tensor(flat)
        starts = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        self.register_buffer("members", members, persistent=False)
        self.register_buffer("starts", starts, persistent=False)
        self.register_buffer("rows", torch.arange(len(members)), persistent=False)
        self.num_genes = max(flat) + 1
        self.dropout = dropout
        # Explanations pass one value for every member of every pathway instead of one for every gene.
        self.takes_members = False
        self.weight1 = nn.Parameter(torch.empty(len(members), hidden_dim))
        self.bias1 = nn.Parameter(torch.empty(len(sizes), hidden_dim))
        self.weight2 = nn.Parameter(torch.empty(len(sizes), hidden_dim, hidden_dim))  # [P, in, out]
        self.bias2 = nn.Parameter(torch.empty(len(sizes), hidden_dim))
        if init == "published":
            self._init_published()
        elif init == "linear":
            self._init_linear(sizes)
        else:
            self._init_lecun(sizes)

    def _init_published(self) -> None:
        """Truncated normal (0.02) weights and zero biases."""
        for weight in (self.weight1, self.weight2):
            nn.init.trunc_normal_(weight, std=0.02)
        for bias in (self.bias1, self.bias2):
            nn.init.zeros_(bias)

    @torch.no_grad()
    def _init_lecun(self, sizes: Sequence[int]) -> None:
        """Normal weights of variance ``1 / fan_in`` and zero biases."""
        for rows, fan_in in zip(self.weight1.split(list(sizes)), sizes, strict=True):
            nn.init.normal_(rows, std=fan_in**-0.5)
        nn.init.normal_(self.weight2, std=self.weight2.shape[1] ** -0.5)
        for bias in (self.bias1, self.bias2):
            nn.init.zeros_(bias)

    @torch.no_grad()
    def _init_linear(self, sizes: Sequence[int]) -> None:
        """Uniform within ``1 / sqrt(fan_in)``, weights and biases, as every ``nn.Linear`` starts."""
        for rows, bias, fan_in in zip(self.weight1.split(list(sizes)), self.bias1, sizes, strict=True):
            for parameter in (rows, bias):
                nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5)
        for parameter in (self.weight2, self.bias2):
            bound = self.weight2.shape[1] ** -0.5
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, genes: Tensor, copies: int) -> Tensor:
        """``[n_genes] -> [copies, P, H]``; copies differ by their dropout masks only."""
        least = len(self.members) if self.takes_members else self.num_genes
        if genes.dim() != 1 or len(genes) < least:
            raise ValueError(f"expected a vector of >= {least} genes, got shape {tuple(genes.shape)}")
        values = genes if self.takes_members else genes[self.members]
        # Row i of weight1 belongs to member i: a bag of rows, weighted by expression, is one Linear.
        hidden = F.embedding_bag(
            self.rows,
            self.weight1,
            self.starts,
            mode="sum",
            per_sample_weights=values.to(self.weight1.dtype),
        )
        hidden = F.elu(hidden + self.bias1).unsqueeze(1)  # [P, 1, H]
        hidden = F.alpha_dropout(hidden.repeat(1, copies, 1), self.dropout, self.training)
        hidden = F.elu(torch.baddbmm(self.bias2.unsqueeze(1), hidden, self.weight2))
        return F.alpha_dropout(hidden, self.dropout, self.training).transpose(0, 1)

    def whole(self, genes: Tensor) -> Tensor:
        """The genes ``[num_genes]`` of what :meth:`forward` takes; of members the mean over those of a gene."""
        if not self.takes_members:
            return genes[: self.num_genes]
        count = torch.bincount(self.members, minlength=self.num_genes).clamp(min=1)
        total = genes.new_zeros(self.num_genes).index_add(0, self.members, genes)
        return total / count


class PreNormResidual(nn.Module):
    """``x + fn(norm(x))``."""

    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fn(self.norm(x))


def _mixer_block(num_tokens: int, dim: int, dropout: float) -> nn.Sequential:
    """Token mixing over the pathways, then channel mixing; both halve the width inside."""
    tokens = nn.Sequential(
        nn.Conv1d(num_tokens, num_tokens // 2, 1),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Conv1d(num_tokens // 2, num_tokens, 1),
        nn.Dropout(dropout),
    )
    channels = nn.Sequential(
        nn.Linear(dim, dim // 2),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(dim // 2, dim),
        nn.Dropout(dropout),
    )
    return nn.Sequential(PreNormResidual(dim, tokens), PreNormResidual(dim, channels))


class GeneMixer(nn.Module):
    """Pathway networks, MLP-Mixer and pathway compression.

    Args:
        pathways: see :class:`PathwayNetworks`.
        out_dim: width of the slide encoder, ``E``.
        hidden_dim: width of the pathway vectors.
        depth: mixer blocks.
        num_tokens: gene tokens after compression, ``G``.
        dropout: everywhere.
        init: of the pathway networks, see :class:`PathwayNetworks`.
        norm: a LayerNorm on the tokens, so that they enter the adapter at unit scale as those of the other
            modalities do; the published tokens are 100 times shorter.
        linear: adds a linear map of all genes to every token. On small cohorts the networks soon tell patients
            apart along little more than one direction, that of the subtype (docs/modality_balance.md).
        linear_dropout: of the genes in front of that map.
    """

    casts_weights_together = True  # models.weight_copies

    def __init__(
        self,
        pathways: Sequence[Sequence[int]],
        out_dim: int,
        hidden_dim: int = 256,
        depth: int = 3,
        num_tokens: int = 64,
        dropout: float = 0.25,
        init: str = "published",
        norm: bool = False,
        linear: bool = False,
        linear_dropout: float = 0.5,
    ) -> None:
        super().__init__()
        count = len(pathways)
        if count < 2:
            raise ValueError(f"the gene mixer needs at least two pathways, got {count}")
        self.num_tokens = num_tokens
        self.gene_networks = PathwayNetworks(pathways, hidden_dim, dropout, init)
        self.mlp_mixer = nn.Sequential(
            *(_mixer_block(count, hidden_dim, dropout) for _ in range(depth)),
            nn.LayerNorm(hidden_dim),
            nn.Linear(hidden_dim, out_dim),
        )
        self.pathway_compression = nn.Linear(count, num_tokens)
        self.norm = nn.LayerNorm(out_dim) if norm else nn.Identity()
        # The 1x1 convolutions keep PyTorch's initialisation, as in the published runs.
        self.apply(init_linear)
        self.linear: nn.Linear | None = None
        if linear:  # last, so that all other parameters start alike with and without it
            self.linear = nn.Linear(self.gene_networks.num_genes, out_dim)
            nn.init.normal_(self.linear.weight, std=self.linear.in_features**-0.5)
            nn.init.zeros_(self.linear.bias)
            self.linear_dropout = linear_dropout

    def forward(self, genes: Tensor, copies: int = 1) -> Tensor:
        """``[n_genes] -> [copies, G, E]``."""
        x = self.mlp_mixer(self.gene_networks(genes, copies))  # [copies, P, E]
        tokens = self.norm(self.pathway_compression(x.transpose(1, 2)).transpose(1, 2))
        if self.linear is None:
            return tokens
        seen = self.gene_networks.whole(genes).expand(copies, 1, -1)  # each copy with its own mask
        return tokens + self.linear(F.dropout(seen, self.linear_dropout, self.training))


_PUBLISHED_NETWORK = re.compile(r"^gene_networks\.(\d+)\.([01])\.0\.(weight|bias)$")


def pathway_sizes(state: Mapping[str, Tensor]) -> list[int]:
    """Genes of every pathway, by the first layers ``gene_networks.N.0.0.weight [H, genes]`` of a published state."""
    found = [match for name in state if (match := _PUBLISHED_NETWORK.match(name))]
    first = sorted(int(match[1]) for match in found if match[2] == "0" and match[3] == "weight")
    return [state[f"gene_networks.{i}.0.0.weight"].shape[1] for i in first]


def pack_pathway_networks(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translates ``gene_networks.N.{0,1}.0.{weight,bias}`` of published checkpoints to ours.

    Raises:
        ValueError: a pathway lacks a parameter, or one has another shape than those of the other pathways.
    """
    packed = {name: value for name, value in state.items() if not _PUBLISHED_NETWORK.match(name)}
    found = [match for name in state if (match := _PUBLISHED_NETWORK.match(name))]
    if found:
        count = 1 + max(int(match[1]) for match in found)
        if len(found) != 4 * count:
            wanted = (
                f"gene_networks.{i}.{j}.0.{k}" for i in range(count) for j in "01" for k in ("weight", "bias")
            )
            raise ValueError(f"pathway networks are incomplete: {[n for n in wanted if n not in state][:5]}")
        _check_networks(state, count)
        first = [state[f"gene_networks.{i}.0.0.weight"].T for i in range(count)]
        second = [state[f"gene_networks.{i}.1.0.weight"].T for i in range(count)]
        packed["gene_networks.weight1"] = torch.cat(first)
        packed["gene_networks.weight2"] = torch.stack(second)
        packed["gene_networks.bias1"] = torch.stack(
            [state[f"gene_networks.{i}.0.0.bias"] for i in range(count)]
        )
        packed["gene_networks.bias2"] = torch.stack(
            [state[f"gene_networks.{i}.1.0.bias"] for i in range(count)]
        )
    return packed


def _check_networks(state: Mapping[str, Tensor], count: int) -> None:
    """Raises ValueError where a pathway has parameters of another width than most."""
    width = Counter(state[f"gene_networks.{i}.{j}.0.bias"].numel() for i in range(count) for j in "01")
    hidden = width.most_common(1)[0][0]
    for i in range(count):
        genes = state[f"gene_networks.{i}.0.0.weight"].shape[-1:]
        for end, shape in {
            "0.0.weight": (hidden, *genes),
            "0.0.bias": (hidden,),
            "1.0.weight": (hidden, hidden),
            "1.0.bias": (hidden,),
        }.items():
            if (found := tuple(state[f"gene_networks.{i}.{end}"].shape)) != shape:
                raise ValueError(
                    f"gene_networks.{i}.{end} has the shape {found}, by the other pathways it is {shape}"
                )


def unpack_pathway_networks(state: Mapping[str, Tensor], sizes: Sequence[int]) -> dict[str, Tensor]:
    """The inverse of :func:`pack_pathway_networks`; ``sizes`` are the genes per pathway."""
    names = ("weight1", "bias1", "weight2", "bias2")
    unpacked = {k: v for k, v in state.items() if k not in {f"gene_networks.{n}" for n in names}}
    for i, rows in enumerate(state["gene_networks.weight1"].split(list(sizes))):
        unpacked[f"gene_networks.{i}.0.0.weight"] = rows.T.contiguous()
        unpacked[f"gene_networks.{i}.0.0.bias"] = state["gene_networks.bias1"][i].clone()
        unpacked[f"gene_networks.{i}.1.0.weight"] = state["gene_networks.weight2"][i].T.contiguous()
        unpacked[f"gene_networks.{i}.1.0.bias"] = state["gene_networks.bias2"][i].clone()
    return unpacked
