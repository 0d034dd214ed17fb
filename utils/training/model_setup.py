"""Which model a run has: what the flags say, or the weights that are evaluated."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data_utils.cases.cohort_data import CohortData, Fitted, Splits
from data_utils.cases.datasets import ModalityOptions, PatchOptions
from data_utils.features.source import FeatureSource
from data_utils.tables.survival_bins import SurvivalBins
from data_utils.tables.tasks import TaskSet, parse_tasks, published, read_tasks
from data_utils.tables.tensor_table import ModalityTable
from models.aggregators import DataSpec, aggregator, build_aggregator, modalities_of
from models.aggregators.registry import DISTILL
from models.encoders import encoder_of
from models.modalities import Modality, modality, read_tables
from models.modalities.genes import ALL
from utils.configuration.protocol import PROTOCOLS
from utils.configuration.run_config import DataConfig, RunConfig
from utils.files import content_of, read_json
from utils.training.checkpoint import TrainedWeights
from utils.training.objectives import Objective, ObjectiveConfig, build_objective
from utils.training.objectives.distillation import TEXT_DIM
from utils.training.recipes import recipe_of
from utils.training.trainer import set_seed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelSetup:
    """What decides the parameters of a model.

    Attributes:
        mil_name: which aggregator.
        model_config: content of its config file.
        num_tasks: task tokens.
        missing_modalities: ``drop`` or ``learned``.
        tasks: content of the task file.
    """

    mil_name: str
    model_config: Mapping[str, Any]
    num_tasks: int
    missing_modalities: str
    tasks: Mapping[str, Any] = field(default_factory=lambda: published().plain())

    def plain(self) -> dict[str, Any]:
        """Plain values, for JSON and checkpoints."""
        return dict(vars(self))

    @property
    def modalities(self) -> dict[str, Modality]:
        """What the model reads of a case besides its slides, by name."""
        return {name: modality(name) for name in modalities_of(self.mil_name)}

    @property
    def reads_patches(self) -> bool:
        """Whether the model needs the feature files of its patients."""
        return aggregator(self.mil_name).patches

    @property
    def tokens(self) -> TaskSet:
        """The tasks, those of them as tokens that the model has."""
        return parse_tasks(self.tasks, "tasks of the weights").first(self.num_tasks)

    def options(self, dropout: float = 0.0) -> ModalityOptions:
        """Which patients the model can run on."""
        always = frozenset(name for name, entry in self.modalities.items() if not entry.may_be_absent)
        nouns = {name: entry.noun for name, entry in self.modalities.items()}
        return ModalityOptions(nouns, self.missing_modalities, dropout, always)

    def build(self, structures: Mapping[str, Any]) -> nn.Module:
        """The model with random weights, for data of the structures given (by modality)."""
        spec = DataSpec(structures, self.num_tasks, self.missing_modalities)
        return build_aggregator(self.mil_name, self.model_config, spec)


def model_setup(config: RunConfig, trained: Mapping[str, Any]) -> ModelSetup:
    """What the weights say, else what the flags say.

    Args:
        config: of the run.
        trained: what the weights that are evaluated say of their training; empty in a training and for
            published weights.

    Raises:
        ValueError: the flags contradict the weights, or the file of a modality is missing.
    """
    tasks, num_tasks = tasks_of(config, trained), config.model.num_tasks
    if num_tasks is None:
        num_tasks = trained.get("num_tasks", len(tasks.tokens))
    flags = ModelSetup(
        config.model.mil_name,
        read_model_config(config.model.model_config, config.model.mil_name),
        num_tasks,
        config.data.missing_modalities,
        tasks.plain(),
    )
    setup = ModelSetup(**{name: trained.get(name, value) for name, value in flags.plain().items()})
    trained_on, wanted = (encoder_of(s.mil_name).name for s in (setup, flags))
    if trained_on != wanted:  # split files and weights of the encoder were chosen by the flag
        raise ValueError(
            f"--eval_weights are of {setup.mil_name}, on the slide encoder {trained_on}; pass that --mil_name, "
            f"{flags.mil_name} stands for the files of {wanted}"
        )
    if setup.num_tasks != flags.num_tasks:
        raise ValueError(f"the weights have {setup.num_tasks} tasks, --num_tasks says {flags.num_tasks}")
    if setup != flags:
        logger.info("the model is that of the trained weights (%s), not of the flags", setup.mil_name)
    if trained and trained["protocol"] != config.data.protocol:
        logger.warning(
            "the weights were trained with --protocol %s, this evaluation uses %s",
            trained["protocol"],
            config.data.protocol,
        )
    _compare_scaling(trained, config)
    learned = trained.get("missing_modalities") == "learned"
    if config.output.eval_only and flags.missing_modalities == "learned" and not learned:
        raise ValueError(
            "--missing_modalities learned: the weights have no learned tokens for missing modalities; train with "
            "that flag, or evaluate without it"
        )
    for entry in _without_file(setup, config.data):
        if not learned or not entry.may_be_absent:
            raise ValueError(f"{setup.mil_name} needs --{entry.flag}, which was not given")
        logger.warning("no --%s: learned tokens stand for the %s of all", entry.flag, entry.noun)
    return setup


def read_model_config(path: Path, mil_name: str) -> Any:
    """The content of a model config; one of the published code is completed.

    Published configs name the adapter alone: their keys replace those of our config of the slide encoder, whose dropout
    is ``dropout`` there.
    """
    content = read_json(path)
    whole = {"slide_encoder", "interaction_indexes", "gene_encoder"}
    if not isinstance(content, dict) or not mil_name.endswith("_adapter") or whole & content.keys():
        return content
    shipped = encoder_of(mil_name).config
    merged = {**read_json(shipped), **content}
    if "dropout" in content and "dropout" in merged["slide_encoder"]:
        merged["slide_encoder"] = {**merged["slide_encoder"], "dropout": merged.pop("dropout")}
    logger.info("%s is a published config of the adapter: what it does not name is of %s", path, shipped)
    return merged


def tasks_of(config: RunConfig, trained: Mapping[str, Any]) -> TaskSet:
    """The tasks of the weights, else those of the flags; weights from before there were task files have the published
    ones.

    Raises:
        ValueError: the flags name others than the weights were trained on.
    """
    path = config.data.tasks
    given = None if path is None else read_tasks(path)
    if not trained:  # a training, or published weights, which say nothing
        return given or published()
    own = parse_tasks(trained["tasks"], "tasks of the weights") if "tasks" in trained else published()
    if given is not None and (difference := own.difference(given)):
        raise ValueError(
            f"the weights were trained on other tasks than --tasks {path} names: {difference}. Leave --tasks out: the "
            "weights hold theirs"
        )
    return own


def _without_file(setup: ModelSetup, data: DataConfig) -> list[Modality]:
    return [entry for name, entry in setup.modalities.items() if data.files.get(name) is None]


def about_missing(setup: ModelSetup, data: DataConfig) -> str:
    """What happens to patients who lack a modality, and which ones nobody has, for the result tables."""
    absent = [entry.noun for entry in _without_file(setup, data)]
    return setup.missing_modalities + (f", nobody has {' or '.join(absent)}" if absent else "")


def read_modalities(
    setup: ModelSetup, data: DataConfig, trained: Mapping[str, Any]
) -> dict[str, ModalityTable]:
    """The tables of the modalities of the model, as far as the cohort has them."""
    return read_tables(setup.modalities, data.files, data.options, trained.get("structures", {}))


def fitted_inputs(weights: TrainedWeights | None, patients: Splits, data: CohortData) -> Fitted:
    """What a training on ``patients`` learns of each modality, or what trained weights hold.

    Of weights that are evaluated, the same clinical text is the same number as in their training; genes are
    standardised over the cohort that is evaluated (see :attr:`models.modalities.Modality.per_cohort`).
    """
    if weights is None:
        return data.fit(patients, data.tables)
    stored = weights.run.get("fitted", {})
    anew = [name for name in data.tables if modality(name).per_cohort]
    return {name: stored.get(name) for name in data.tables} | data.fit(patients, anew)


def _stored_objective(weights: TrainedWeights) -> ObjectiveConfig:
    stored = weights.run.get("objective")
    return ObjectiveConfig() if stored is None else ObjectiveConfig.from_dict(stored)


def objective_setup(
    config: RunConfig,
    setup: ModelSetup,
    weights: TrainedWeights | None,
    patients: Splits,
    text_dim: int | None = None,
) -> ObjectiveConfig:
    """The objective of a training on ``patients`` and texts of a width, or that of trained weights.

    Survival intervals come from all patients (published) or the training split (strict).

    Raises:
        ValueError: a pan-cancer run has no common subtype classes to learn.
    """
    if weights is not None:
        return _stored_objective(weights)
    training, data, tokens = config.training, config.data, setup.tokens
    plain = ObjectiveConfig(
        training.objective,
        data.num_classes[0],
        None,
        training.nll_alpha,
        training.task_weights,
        setup.model_config.get("text_targets", {}),
        TEXT_DIM if text_dim is None else text_dim,
        tokens.text_rows,
        {"subtype": tokens.token_saying("primary_diagnosis"), "survival": tokens.token_saying("fate")},
    )
    if data.sites and plain.parts != (DISTILL,):
        raise ValueError(f"--objective {plain.name}: the sites of a pan-cancer run have no common classes")
    if "survival" not in plain.parts:
        return plain
    training_only = PROTOCOLS[data.protocol].training_only
    known = patients["train"] if training_only else [p for split in patients.values() for p in split]
    where = data.onco or str(data.train_json)
    durations, events = [p.duration for p in known], [p.event for p in known]
    return replace(plain, bins=SurvivalBins.fit(durations, events, where, open_ended=training_only))


def _compare_scaling(trained: Mapping[str, Any], config: RunConfig) -> None:
    """Warns where a pan-cancer evaluation standardises genes otherwise than the training did."""
    scalers = trained.get("fitted", {}).get("genes") if config.data.sites else None
    if not scalers:
        return
    then, now = "union" if set(scalers) == {ALL} else "site", config.data.options["genes"]["gene_scaling"]
    if then != now:
        logger.warning("the weights were trained with --gene_scaling %s, this evaluation uses %s", then, now)


def patch_options(
    config: RunConfig, model: nn.Module, seed: int, source: FeatureSource | None = None
) -> PatchOptions:
    """How the patches of a case are prepared for a model."""
    backbone = getattr(model, "backbone", None)
    return PatchOptions(
        threshold=config.data.threshold,
        train_threshold=recipe_of(config.training.recipe, config.model.mil_name).train_patches,
        cumulative_stacking=PROTOCOLS[config.data.protocol].slide_stacking == "cumulative",
        extent=getattr(backbone, "grid_extent", None),
        patch_size=config.data.patch_size_lv0,
        check_slide=getattr(backbone, "check_slide", None),
        seed=seed,
        source=source or FeatureSource(),
    )


def build_model(config: RunConfig, setup: ModelSetup, structures: Mapping[str, Any]) -> nn.Module:
    """The model of a run, with the weights of the slide encoder where it has one."""
    model = setup.build(structures)
    if hasattr(model, "backbone"):
        if config.model.random_backbone:
            logger.warning("the slide encoder has random weights (--random_backbone)")
        else:
            model.backbone.load_pretrained(_needed(config.model.backbone_weights))
    if hasattr(model, "activation_checkpointing"):
        model.activation_checkpointing = config.compute.activation_checkpointing
    return model


def trained_model(
    config: RunConfig, setup: ModelSetup, weights: TrainedWeights, structures: Mapping[str, Any], seed: int
) -> tuple[nn.Module, Objective]:
    """A model and its objective as a run left them, without a run around them.

    ``seed`` is that of the run: with ``--random_backbone`` it decides the slide encoder.
    """
    remedy = "copy it again, or pass other weights"
    # What the weights say of the model is tried before other files are read, whose faults are their own.
    with torch.device("meta"), content_of(weights.path, remedy):
        setup.build(structures)
    set_seed(seed)
    model = build_model(config, setup, structures)
    with content_of(weights.path, remedy):
        objective = build_objective(_stored_objective(weights), model, setup.num_tasks)
    weights.load_into(model, objective, structures)
    return model, objective


def _needed(path: Path | None) -> Path:
    if path is None:
        raise ValueError("--backbone_weights was not given; pass the official file of the slide encoder")
    return path
