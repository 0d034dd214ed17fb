"""Whole-slide images -> CONCH v1.5 patch features for TITAN (tiles of 512 px at 0.5 micrometres per pixel).

Example: python -m data_utils.TCGA_extract_feats_TITAN --onco BRCA --previews
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from data_utils.cases.case import Case
from data_utils.features.slide_names import stem_of
from data_utils.features.store import read_features
from data_utils.slides.command_line import ExtractionConfig, extraction_parser, in_shard, run_extraction
from data_utils.slides.extraction import autocast_dtype
from models.frozen import freeze
from models.slide_backbone import SlideBackbone, build_backbone
from models.titan.conch_v1_5 import load_conch_v1_5
from utils import constants
from utils.barcodes import patient_of
from utils.devices import pick_device
from utils.files import FileError, read_json, setup_logging
from utils.tensor_files import write_tensors

logger = logging.getLogger(__name__)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = extraction_parser(
        __doc__,
        encoder="titan",
        config=constants.CONFIGS_ROOT / "conch_v1_5.json",
        checkpoint=constants.CONCH_V1_5,
    )
    parser.add_argument(
        "--slide_embeddings",
        action="store_true",
        help="embed slides with TITAN itself when their features are done: {slide: vector} in "
        "slide_embeddings/titan.pt beside the features",
    )
    parser.add_argument(
        "--slide_config",
        type=Path,
        default=constants.CONFIGS_ROOT / "modaltune_titan_config.json",
        help="model config whose slide_encoder makes slide embeddings (default: %(default)s)",
    )
    parser.add_argument(
        "--slide_checkpoint",
        type=Path,
        default=constants.TITAN_SLIDE_ENCODER,
        help="weights of TITAN for slide embeddings (default: %(default)s)",
    )
    parser.add_argument(
        "--patch_size_lv0",
        type=int,
        help="for slide embeddings of feature files of other tools that state no patch_size_level0: the "
        "level-0 distance between neighbouring patches",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Extracts one cohort; see ``--help`` for the exit status."""
    setup_logging()
    args = parse_args(argv)
    backbone = None
    if args.slide_embeddings:  # before hours of extraction, not after
        try:
            backbone = load_slide_encoder(args.slide_config, args.slide_checkpoint)
        except (FileNotFoundError, ValueError) as error:
            logger.error("%s", error)
            return 2
    status = run_extraction(ExtractionConfig.of(vars(args)), load_conch_v1_5)
    if backbone is None or status == 2:
        return status
    folder = args.output_dir or constants.feature_dir(args.onco, args.encoder)
    device = pick_device(args.device)
    embed = partial(
        embed_slide,
        backbone.to(device),
        device=device,
        dtype=autocast_dtype(args.precision, device),
        patch_size=args.patch_size_lv0,
    )
    failed = write_slide_embeddings(embed, folder, args.shard)
    return max(status, int(failed > args.allow_failures))


def load_slide_encoder(config_path: Path, checkpoint: Path) -> SlideBackbone:
    """TITAN's slide encoder of a model config, frozen and in evaluation mode.

    Raises:
        FileNotFoundError: a file does not exist; the message says where to get the weights.
        ValueError: the config has no slide encoder, or the weights do not fit it.
    """
    config = read_json(config_path)
    if "slide_encoder" not in config:
        raise FileError(config_path, ": entry 'slide_encoder' is missing", "pass a config of TITAN")
    backbone = build_backbone("titan", config["slide_encoder"])
    backbone.load_pretrained(checkpoint)
    return freeze(backbone).eval()


def embed_slide(
    backbone: SlideBackbone,
    path: Path,
    device: torch.device,
    dtype: torch.dtype | None = None,
    patch_size: int | None = None,
) -> Tensor:
    """The encoder's own embedding of one slide, ``[E]`` float32 on the CPU; nothing of the adapter takes part.

    Args:
        backbone: slide encoder on ``device``.
        path: feature file of the slide.
        device: where the encoder is.
        dtype: of mixed precision; ``None`` is float32.
        patch_size: ``patch_size_level0`` where the file states none.

    Raises:
        ValueError: the file cannot be used (:class:`FeatureFileError`), or does not fit the encoder.
    """
    slide = read_features(path)
    size = slide.patch_size_level0 or patch_size
    if backbone.check_slide is not None:
        backbone.check_slide(torch.from_numpy(slide.coords), size, f"feature file {path}")
    case = Case(
        case_id=path.stem,
        submitter_id=patient_of(path.stem),
        project_id="",
        features=torch.from_numpy(slide.features),
        coords=torch.from_numpy(slide.coords),
        patch_size_lv0=size,
    ).to(device)
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype is not None):
        cls, patches, context = backbone.embed(case, 1)
        tokens = torch.cat([cls, patches], dim=1)  # [1, 1 + L, E]
        for block in backbone.blocks:
            tokens = backbone.run(block, tokens, context)
        image = backbone.pool(tokens[:, :1], tokens[:, 1:], context)
    return image.flatten().float().cpu()


def write_slide_embeddings(embed: Callable[[Path], Tensor], folder: Path, shard: tuple[int, int]) -> int:
    """Embeds the finished slides of a shard into ``folder/slide_embeddings/titan.pt``, ``{slide: [E]}``.

    All of them anew, so that the table never holds vectors of features that were replaced since.

    Args:
        embed: feature file -> embedding ``[E]``.
        folder: of feature files ``<slide>.h5``.
        shard: as ``--shard``; with several, every one writes a file of its own.

    Returns:
        How many slides could not be embedded; the log says why.
    """
    files = [path for path in sorted(folder.glob("[!.]*.h5")) if in_shard(stem_of(path.name), shard)]
    embeddings: dict[str, Tensor] = {}
    with logging_redirect_tqdm():
        for path in tqdm(files, desc="slide embeddings", unit="slide", disable=None):
            try:
                embeddings[path.stem] = embed(path)
            except ValueError as error:
                logger.error("%s has no slide embedding: %s", path.stem, error)
    name = "titan.pt" if shard[1] == 1 else f"titan_{shard[0]}_of_{shard[1]}.pt"
    target = folder / "slide_embeddings" / name
    write_tensors(target, embeddings)
    logger.info("%d of %d slides embedded -> %s", len(embeddings), len(files), target)
    return len(files) - len(embeddings)


if __name__ == "__main__":
    raise SystemExit(main())
