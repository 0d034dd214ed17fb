"""Command line of the training entry points: flags become a :class:`RunConfig`.

Flags of the published scripts keep their names.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial

from data_utils.cases.folds import count_folds
from data_utils.tables.cohorts import load_cohort
from data_utils.tables.tasks import read_tasks
from models.aggregators import Aggregator, aggregator, available_aggregators
from models.aggregators.registry import DISTILL
from models.encoders import encoder_of
from models.modalities import all_modalities
from utils import constants
from utils.configuration.protocol import PROTOCOLS
from utils.configuration.run_config import (
    ComputeConfig,
    DataConfig,
    ModelConfig,
    OutputConfig,
    RunConfig,
    TrainingConfig,
)
from utils.flags import NONE, build_parser
from utils.training.objectives import OBJECTIVES
from utils.training.recipes import FLAGS, GRIDS, Recipe, recipe_of

# Flags that count something.
_COUNTS = (
    "gc",
    "num_epochs",
    "eval_interval",
    "save_interval",
    "multi_seed",
    "num_folds",
    "threshold",
    "patch_size_lv0",
)


def complete_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> RunConfig:
    """Fills in what ``--mil_name`` and ``--onco`` imply; a usage message says what is missing."""
    encoder = encoder_of(args.mil_name)
    chosen = aggregator(args.mil_name) if args.mil_name in available_aggregators() else None
    if chosen is not None:
        _complete_objective(parser, args, chosen)
    recipe = _complete_recipe(parser, args)
    if args.threshold is None and not recipe.all_patches:
        args.threshold = encoder.threshold
    _complete_tasks(parser, args)
    own_config = constants.CONFIGS_ROOT / f"baseline_{args.mil_name}.json"
    for name, value in (
        ("model_config", own_config if own_config.is_file() else encoder.config),
        ("objective", DISTILL),
        ("backbone_weights", encoder.weights()),
        ("gene_scaling", PROTOCOLS[args.protocol].gene_scaling),
    ):
        if getattr(args, name) is None:
            setattr(args, name, value)
    wanted = {
        f"{split}_json": partial(constants.split_file, split=split, encoder=encoder.name)
        for split in constants.SPLITS
    }
    known = all_modalities()
    if chosen is not None:  # an unknown model is refused when it is built
        wanted |= {known[name].flag: known[name].locate for name in chosen.modalities}
    if not args.eval_only and DISTILL in OBJECTIVES[args.objective]:
        wanted["text_location"] = constants.text_table
    for name, locate in wanted.items():
        if getattr(args, name) is None:
            if args.onco is not None:
                setattr(args, name, locate(args.onco))
            elif not args.eval_only or name.endswith("_json"):
                parser.error(f"--{name} is missing; give it, or --onco")
    for entry in known.values():
        if getattr(args, entry.flag) == NONE:
            setattr(args, entry.flag, None)
    if args.num_folds is None:
        try:
            args.num_folds = 1 if args.fold_json is None else count_folds(args.fold_json)
        except (OSError, ValueError) as error:
            parser.error(str(error))
    if args.candidate_location is None and args.onco is not None:
        table = constants.candidate_table(args.onco)
        args.candidate_location = table if table.is_file() else None
    _complete_classes(parser, args)
    return _run_config(args)


def _complete_recipe(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Recipe:
    """The numbers of the recipe, where no flag gives them."""
    try:
        recipe = recipe_of(args.recipe, args.mil_name)
    except ValueError as error:
        parser.error(str(error))
    if args.survpath_protocol:
        if args.model_select == "best":
            parser.error("--survpath_protocol validates nothing: leave --model_select best out")
        args.model_select = "last"
    for name in FLAGS:
        if getattr(args, name) is None:
            if (value := getattr(recipe, name)) is None:
                parser.error(
                    f"--recipe {args.recipe}: {recipe.source} searches --{name} from {GRIDS[name]}; choose one"
                )
            setattr(args, name, value)
    return recipe


def _complete_objective(
    parser: argparse.ArgumentParser, args: argparse.Namespace, chosen: Aggregator
) -> None:
    """What the model can be trained under, and how many task tokens it has."""
    if args.objective is None:
        args.objective = chosen.objectives[0]
    elif args.objective not in chosen.objectives:
        parser.error(
            f"--objective {args.objective}: {chosen.name} can be trained under {', '.join(chosen.objectives)}"
        )
    if args.num_tasks is None and DISTILL not in chosen.objectives:
        args.num_tasks = 1


def _complete_tasks(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """The task file and how many of its tasks there are; of weights that are evaluated, they say both."""
    if args.tasks is None and not args.eval_only:
        args.tasks = constants.TASK_FILE
    if args.tasks is None:
        return
    try:
        known = read_tasks(args.tasks)
        args.num_tasks = len(known.tokens) if args.num_tasks is None else args.num_tasks
        known.first(args.num_tasks)
    except (OSError, ValueError) as error:
        parser.error(f"--tasks {args.tasks}: {error}")


def _complete_classes(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """``num_classes`` becomes one number for every site."""
    sites = getattr(args, "sites", None)
    cohorts = sites or ([args.onco] if args.onco else [])
    if args.num_classes is None:
        # A cohort without classes is evaluated as if it had two that nobody is of.
        args.num_classes = [max(len(load_cohort(cohort).classes), 2) for cohort in cohorts] or [2]
    wanted = len(sites) if sites else 1
    if len(args.num_classes) != wanted or min(args.num_classes) < 2:
        parser.error(f"--num_classes {args.num_classes}: should be {wanted} numbers of at least 2")


def _run_config(args: argparse.Namespace) -> RunConfig:
    """The flags by group; a flag that is in no group is a mistake of ours."""
    values, known = dict(vars(args)), all_modalities()
    files = {name: values.pop(entry.flag) for name, entry in known.items()}
    scratch = argparse.ArgumentParser().add_argument_group()
    options = {
        name: {flag.dest: values.pop(flag.dest) for flag in entry.add_flags(scratch)}
        for name, entry in known.items()
    }
    values |= {"files": files, "options": {name: own for name, own in options.items() if own}}
    for name in ("sites", "num_classes", "task_weights"):
        values[name] = tuple(values.get(name) or ())
    parts = []
    for group in (DataConfig, ModelConfig, TrainingConfig, ComputeConfig, OutputConfig):
        names = [entry.name for entry in fields(group) if entry.name in values]
        parts.append(group(**{name: values.pop(name) for name in names}))
    if values:
        raise TypeError(f"flags that belong to no group of utils.configuration.run_config: {sorted(values)}")
    return RunConfig(*parts)


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> argparse.Namespace:
    """Stops with a usage message where flags contradict each other."""
    if vars(args).pop("labelset", None) is not None:
        parser.error(
            "--labelset is not supported: the classes of a cohort stand in dataset/cohorts/<cohort>.json, edit them "
            "there"
        )
    if not 0 <= args.beta1 < 1:
        parser.error("--beta1 must be at least 0 and below 1")
    if args.eval_only and args.eval_weights is None:
        parser.error("--eval_only needs --eval_weights")
    if args.eval_only and (args.fold_json is not None or (args.num_folds or 1) > 1):
        parser.error("--eval_only evaluates one set of splits; call it once per fold")
    if args.survpath_protocol and args.fold_json is None:
        parser.error("--survpath_protocol needs --fold_json, SurvPath's splits_<k>.csv or their folder")
    for name in _COUNTS:
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1")
    if args.nll_alpha is not None and not 0 <= args.nll_alpha <= 1:
        parser.error("--nll_alpha must be between 0 and 1")
    if args.keep_checkpoints < 0:
        parser.error("--keep_checkpoints must not be negative")
    if args.modality_report_every < 0:
        parser.error("--modality_report_every must not be negative")
    if args.task_weights and min(args.task_weights) <= 0:
        parser.error("--task_weights must be positive")
    if not 0 <= args.modality_dropout < 1:
        parser.error("--modality_dropout must be a probability below 1")
    if args.modality_dropout and args.missing_modalities != "learned":
        parser.error(
            "--modality_dropout needs --missing_modalities learned, whose tokens stand for what it hides"
        )
    for entry in all_modalities().values():
        if getattr(args, entry.flag) == NONE and not args.eval_only:
            parser.error(f"--{entry.flag} none is for --eval_only; a training learns from the table")
    for name in ("seed", "max_skipped", "checkpoint_minutes"):
        if not getattr(args, name) >= 0:
            parser.error(f"--{name} must not be negative")
    return args


def parse_args(
    description: str,
    argv: Sequence[str] | None = None,
    extend: Callable[[argparse.ArgumentParser], object] | None = None,
) -> RunConfig:
    """Parses and checks the flags; ``extend`` adds those of an entry point."""
    parser = build_parser(description)
    if extend is not None:
        extend(parser)
    args = check_arguments(parser, parser.parse_args(argv))
    return complete_arguments(parser, args)
