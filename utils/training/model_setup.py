"""Which model a run has: what the flags say, or the weights that are evaluated."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from typing import Any

from torch import nn

from data_utils.cases.cohort_data import CohortData, Splits
from data_utils.tables.clinical import ClinicalCodes
from data_utils.tables.genes import PathwayGroups
from models.aggregators import DataSpec, build_aggregator, modalities_of
from utils import constants
from utils.files import read_json
from utils.training.checkpoint import TrainedWeights

logger = logging.getLogger(__name__)


def model_config(args: argparse.Namespace, trained: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the parameters of the model: what the weights say, else what the flags say.

    ``mil_name``, ``model_config``, ``missing_modalities`` and, of weights, ``shapes`` (see :func:`input_shapes`).
    """
    config = {
        "mil_name": args.mil_name,
        "model_config": read_json(args.model_config),
        "missing_modalities": args.missing_modalities,
    }
    stored = {name: trained[name] for name in (*config, "shapes") if name in trained}
    trained_on, wanted = (constants.encoder_of(c["mil_name"]) for c in (config | stored, config))
    if trained_on != wanted:  # split files and weights of the encoder were chosen by the flag
        raise ValueError(
            f"--eval_weights are of {stored['mil_name']}, on the slide encoder {trained_on}; pass that --mil_name, "
            f"{args.mil_name} stands for the files of {wanted}"
        )
    if any(stored[name] != config[name] for name in stored.keys() & config.keys()):
        logger.info("the model is that of the trained weights (%s), not of the flags", stored["mil_name"])
    if trained and trained["num_tasks"] != args.num_tasks:
        raise ValueError(f"the weights have {trained['num_tasks']} tasks, --num_tasks says {args.num_tasks}")
    if trained and trained["protocol"] != args.protocol:
        logger.warning(
            "the weights were trained with --protocol %s, this evaluation uses %s",
            trained["protocol"],
            args.protocol,
        )
    config |= stored
    learned = stored.get("missing_modalities") == "learned"
    if args.eval_only and args.missing_modalities == "learned" and not learned:
        raise ValueError(
            "--missing_modalities learned: the weights have no learned tokens for missing modalities; train with "
            "that flag, or evaluate without it"
        )
    for source in (constants.MODALITIES[name] for name in modalities_of(config["mil_name"])):
        if getattr(args, source.flag) is None and not learned:
            raise ValueError(f"{config['mil_name']} needs --{source.flag}, which was not given")
        if getattr(args, source.flag) is None:
            logger.warning("no --%s: learned tokens stand for the %s of all", source.flag, source.noun)
    return config


def about_missing(args: argparse.Namespace, config: Mapping[str, Any]) -> str:
    """What happens to patients who lack a modality, and which ones nobody has, for the result tables."""
    sources = [constants.MODALITIES[name] for name in modalities_of(config["mil_name"])]
    absent = [source.noun for source in sources if getattr(args, source.flag) is None]
    return config["missing_modalities"] + (f", nobody has {' or '.join(absent)}" if absent else "")


def input_shapes(mil_name: str, data: CohortData) -> dict[str, list[int | None]]:
    """Shapes of the inputs of the model that the tables of the training cohort decide."""
    return {name: list(shape) for name, shape in data.shapes.items() if name in modalities_of(mil_name)}


def clinical_codes(
    weights: TrainedWeights | None, patients: Splits, config: Mapping[str, Any], data: CohortData
) -> ClinicalCodes | None:
    """The codes of a training on ``patients``, or those of trained weights.

    Of weights that are evaluated, the same text is the same number as in their training; None where they
    hold none, and where the model reads no clinical values.
    """
    if "clinical" not in modalities_of(config["mil_name"]):
        return None
    if weights is None:
        return data.fit_codes(patients)
    stored = weights.run.get("clinical_codes")
    return None if stored is None else ClinicalCodes.from_dict(stored, weights.path)


def model_spec(config: Mapping[str, Any], pathways: PathwayGroups, num_tasks: int) -> DataSpec:
    """What the model of a run has to know of the data; ``config`` as :func:`model_config` gives it."""
    shapes = {name: tuple(shape) for name, shape in config["shapes"].items()}
    return DataSpec(pathways.indices, num_tasks, shapes, config["missing_modalities"])


def build_model(args: argparse.Namespace, config: dict[str, Any], data: CohortData) -> nn.Module:
    """The model with the weights of the slide encoder, as the flags say."""
    spec = model_spec(config, data.pathways, args.num_tasks)
    model = build_aggregator(config["mil_name"], config["model_config"], spec)
    if args.random_backbone:
        logger.warning("the slide encoder has random weights (--random_backbone)")
    else:
        model.backbone.load_pretrained(args.backbone_weights)
    model.activation_checkpointing = args.activation_checkpointing
    return model
