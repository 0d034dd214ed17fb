"""Parts of the pipeline, alone: attention, gene encoder, dataset, Cox probe, tiles of a slide."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_utils.datasets import CaseDataset, GeneVectors, PatchOptions
from data_utils.demo.histology import write_slide
from data_utils.demo.patients import Slide
from data_utils.feature_store import FeatureMeta, write_features
from data_utils.splits import Patient
from data_utils.tile_loading import BatchList, TileRecipe, plan_slide, tile_loader
from models.genomic_utils.gene_mixer import PathwayNetworks
from models.prov_gigapath.dilated_attention import dilated_attention
from models.prov_gigapath.longnet import PUBLISHED_RATIOS, PUBLISHED_SEGMENTS
from tests.benchmarks.measuring import row
from tests.benchmarks.training_step import NUM_GENES, published_size_pathways
from tests.utils.evaluation_data import make_embeddings
from utils import constants
from utils.files import read_json
from utils.probes import fit_survival

Row = dict[str, float | str]
HIDDEN, PATCHES, SUBSET = 256, 25_000, 4_096


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


# ---------------------------------------------------------------------------- data
def _dataset(folder: Path, patches: int, threshold: int | None) -> CaseDataset:
    """One patient with a slide of ``patches`` patches of 1,536 numbers, float16 on disk."""
    generator = np.random.default_rng(0)
    path = folder / "slide.h5"
    features = generator.standard_normal((patches, 1536), dtype=np.float32)
    coords = np.stack([np.arange(patches) % 200, np.arange(patches) // 200], axis=1) * 256
    write_features(path, features, coords, FeatureMeta(256, 256, 0.5, 0.5, "benchmark"))
    patient = Patient("case-0", "TCGA-0000", "TCGA-TEST", (path,), 0, 1.0, 1)
    genes = GeneVectors(pd.DataFrame(generator.standard_normal((1, NUM_GENES)), index=["case-0"]))
    return CaseDataset(
        [patient], genes, None, None, PatchOptions(threshold=threshold, resample=True), "train"
    )


def dataset_item(patches: int, threshold: int | None, repeats: int) -> Row:
    """One item; :data:`SUBSET` of its patches where ``threshold`` says so."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = _dataset(Path(folder), patches, threshold)
        result = row(lambda: dataset[0], repeats)
    count = min(patches, threshold or patches)
    speed = count / float(result["seconds"])
    return {**result, "note": f"{speed:,.0f} patches/s, {speed * 1536 * 2 / 1e6:.0f} MB/s of float16"}


def dataset_item_without_image(repeats: int) -> Row:
    """What an item costs beside its image: the patches come from memory."""
    patches = (np.zeros((1, 1536), dtype=np.float32), np.zeros((1, 2), dtype=np.int64), 256)
    with tempfile.TemporaryDirectory() as folder:
        dataset = _dataset(Path(folder), 1, None)
        with mock.patch.object(dataset, "_read_patches", return_value=patches):
            return row(lambda: dataset[0], repeats)


# ---------------------------------------------------------------------------- evaluation
def cox_probe(repeats: int) -> Row:
    """Cox on 256 dimensions of 700 patients."""
    cases = make_embeddings(n=700, width=256)
    return row(lambda: fit_survival(cases, 0), repeats)


# ---------------------------------------------------------------------------- extraction
def slide_tiles(workers: int, repeats: int) -> Row:
    """Planning, reading and decoding all tiles of a painted slide by the recipe of GigaPath's tile encoder."""
    recipe = TileRecipe.from_config(
        "gigapath", read_json(constants.CONFIGS_ROOT / "gigapath_tile_encoder.json")
    )
    slide = Slide("TCGA-00-0000-01Z-00-DX1", "0", ".", 0, (0.5, 0.5), 0.5, 0.5, True, False, (0.5, 0.5))
    counts: list[int] = []

    def fail(path: Path, reason: str) -> None:
        raise RuntimeError(f"{path}: {reason}")

    def read(path: Path) -> None:
        batches = BatchList([path], lambda p: plan_slide(p, recipe, 0.1), 32, fail)
        counts.append(sum(len(batch.corners) for batch in tile_loader(batches, recipe, workers, False)))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.svs"
        write_slide(slide, path)
        result = row(lambda: read(path), repeats)
    return {**result, "note": f"{counts[-1] / float(result['seconds']):.0f} tiles/s, {counts[-1]} tiles"}


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
    "dataset/no-image": lambda repeats: dataset_item_without_image(50 * repeats),
    f"dataset/{PATCHES}/all": lambda repeats: dataset_item(PATCHES, None, repeats),
    f"dataset/{PATCHES}/subset-{SUBSET}": lambda repeats: dataset_item(PATCHES, SUBSET, repeats),
    "cox/700x256": cox_probe,
    "tiles/0-workers": lambda repeats: slide_tiles(0, repeats),
    "tiles/2-workers": lambda repeats: slide_tiles(2, repeats),
}
