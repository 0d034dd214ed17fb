"""Parts of the computation, alone: attention, gene encoder, Cox probe."""

from __future__ import annotations

from collections.abc import Callable

import torch

from models.genomic_utils.gene_mixer import PathwayNetworks
from models.prov_gigapath.dilated_attention import dilated_attention
from models.prov_gigapath.longnet import PUBLISHED_RATIOS, PUBLISHED_SEGMENTS
from tests.benchmarks import straightforward
from tests.benchmarks.measuring import Row, row
from tests.benchmarks.training_step import NUM_GENES, published_size_pathways
from tests.utils.evaluation.evaluation_data import make_embeddings
from utils.evaluation.probes import fit_survival


# ---------------------------------------------------------------------------- attention
def attention_alone(ours: bool, tokens: int, dtype: str, repeats: int) -> Row:
    """Forward and backward of one layer's dilated attention, three copies."""
    torch.manual_seed(0)
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    qkv = torch.randn(3, tokens, 3, 16, 48).to(kind).requires_grad_()
    attend = dilated_attention if ours else straightforward.dilated_attention

    def work() -> None:
        out = attend(qkv, PUBLISHED_SEGMENTS, PUBLISHED_RATIOS)
        torch.autograd.grad(out.float().square().sum(), qkv)

    return row(work, repeats)


# ---------------------------------------------------------------------------- genes
def pathway_networks(ours: bool, repeats: int) -> Row:
    """Forward and backward of 331 pathway networks, three copies with dropout."""
    torch.manual_seed(0)
    pathways = published_size_pathways()
    model = PathwayNetworks(pathways, 256, 0.25)
    if not ours:
        model = straightforward.LoopOfNetworks(pathways, model)
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
