"""The flags of the training entry points. Those of the published scripts keep their names and meaning."""

from __future__ import annotations

import argparse
from pathlib import Path

from data_utils.features.source import CACHES
from data_utils.tables.cohorts import cohort_name
from models.aggregators import MISSING_MODALITIES
from models.encoders import slide_encoders
from models.modalities import all_modalities
from utils import constants
from utils.configuration.protocol import PROTOCOLS
from utils.training.objectives import OBJECTIVES
from utils.training.objectives.survival import ALPHA
from utils.training.recipes import MODEL_SELECT, ORIGINALS, OURS, RECIPES
from utils.training.sampling import SITE_SAMPLING

# In place of the file of a modality: the cohort that is evaluated has none of it.
NONE = Path("none")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _switch(text: str) -> bool:
    """A published flag that takes 0 or 1."""
    known = {"0": False, "false": False, "1": True, "true": True}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"{text!r} is neither 0 nor 1")
    return known[text.lower()]


def _published_seeds(text: str) -> int:
    """``--multi_seed 1`` of the published scripts switches three seeds on."""
    number = int(text)
    return 3 if number == 1 else number


def _table(text: str) -> Path | None:
    """The file of a modality; the published scripts write ``None`` where there is none."""
    return None if text == "None" else Path(text)


def _config_file(text: str) -> Path:
    """A model config by path, or by its name in model_configs as the published scripts give it."""
    shipped = constants.CONFIGS_ROOT / f"{text.removesuffix('.json')}.json"
    return shipped if not Path(text).is_file() and "/" not in text and shipped.is_file() else Path(text)


def _weights(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in text.split(","))


def build_parser(description: str, output_required: bool = True) -> argparse.ArgumentParser:
    """The parser of ``train_modaltune.py``; the doctor writes no run folder."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    data = parser.add_argument_group("data", "files not given are those of --onco (see utils/constants.py)")
    data.add_argument("--onco", type=cohort_name, help="cohort, such as BRCA")
    data.add_argument("--train_json", type=Path, help="split file of the training patients")
    data.add_argument("--val_json", type=Path, help="split file of the validation patients")
    data.add_argument("--test_json", type=Path, help="split file of the test patients")
    data.add_argument(
        "--features_dir",
        type=Path,
        help="folder of feature files, found by name whatever the split files say (.h5, .hdf5, .pt, .npy)",
    )
    for entry in all_modalities().values():
        data.add_argument(f"--{entry.flag}", type=_table, help=entry.help)
        entry.add_flags(data)
    data.add_argument(
        "--tasks",
        type=Path,
        help="task file: what each task token learns from and is evaluated by; if not given, dataset/tasks.json (the "
        "published tasks), in an evaluation those of the weights",
    )
    data.add_argument(
        "--text_location",
        type=Path,
        help="label sentences {case_id: [rows of the task file, width]}; for training",
    )
    data.add_argument(
        "--missing_modalities",
        choices=MISSING_MODALITIES,
        default="drop",
        help="patients who lack a modality of the model: drop leaves them out as the published code, learned "
        "trains and evaluates them with a learned token in its place",
    )
    data.add_argument(
        "--candidate_location",
        type=Path,
        help="embedded candidate sentences; where there are none, nothing is evaluated zero-shot",
    )
    thresholds = ", ".join(f"{e.threshold} for {name}" for name, e in slide_encoders().items())
    data.add_argument(
        "--threshold", type=int, help=f"sub-sample cases with more patches; if not given, {thresholds}"
    )
    data.add_argument(
        "--patch_size_lv0",
        type=int,
        help="level-0 distance between neighbouring patches, for feature files that do not state it (512 px "
        "at 0.5 mpp: 1024 on a 40x slide, 512 on a 20x slide)",
    )
    data.add_argument(
        "--protocol",
        choices=tuple(PROTOCOLS),
        default="published",
        help="published: standardise genes over the whole cohort, stack slides as the published code, keep the "
        "latest of equally good epochs; strict: fit on the training split only, stack slides without overlap "
        "(the whole table: utils/configuration/protocol.py)",
    )
    data.add_argument(
        "--num_folds",
        type=int,
        help="k-fold cross-validation over all patients; if not given, 1, or all folds of --fold_json",
    )
    data.add_argument(
        "--fold_json",
        type=Path,
        help="folds to run instead of stratified ones: JSON list of {train, val, test}, or SurvPath's "
        "splits_<k>.csv: one of them, or their folder",
    )
    data.add_argument(
        "--survpath_protocol",
        action="store_true",
        help="with SurvPath's --fold_json: its protocol as it reports. The train column trains, the last epoch is "
        "scored on the val column, nothing is selected; if not given, validation is drawn from the train column",
    )

    model = parser.add_argument_group("model")
    model.add_argument("--mil_name", default="longnetvit_gene_adapter", help="which model")
    model.add_argument(
        "--model_config",
        type=_config_file,
        help="JSON file, or its name in model_configs; if not given, the published one of the slide encoder, or "
        "baseline_<mil_name>.json",
    )
    model.add_argument(
        "--num_classes",
        type=_numbers,
        help="subtype classes, of every site in pan-cancer runs (2,2,2,3); default: those of the cohorts, else 2",
    )
    model.add_argument(
        "--num_tasks",
        type=int,
        help="task tokens, the first of the task file; if not given, all, or 1 for models without task tokens",
    )
    model.add_argument(
        "--backbone_weights",
        type=Path,
        help="slide encoder; if not given, that of utils/constants.py for --mil_name",
    )
    model.add_argument("--random_backbone", action="store_true", help="random slide encoder (for tests only)")

    training = parser.add_argument_group("training")
    training.add_argument(
        "--recipe",
        choices=RECIPES,
        default=OURS,
        help="ours: one protocol for all models; original: that of the code a baseline comes from, for "
        f"{', '.join(ORIGINALS)} (docs/compare.md). Flags of numbers win over both",
    )
    training.add_argument("--num_epochs", type=int, help="if not given, that of --recipe: 30 for ours")
    training.add_argument("--lr", type=float, help="peak learning rate; if not given, 1e-4 for ours")
    training.add_argument("--beta1", type=float, default=0.9, help="of AdamW")
    training.add_argument("--weight_decay", type=float, help="if not given, 5e-4 for ours")
    training.add_argument(
        "--gc", type=int, help="cases whose gradients are added up to a step; if not given, 1 for ours"
    )
    training.add_argument(
        "--model_select",
        choices=MODEL_SELECT,
        help="which epoch is evaluated: the one that validates best (ours), or the last one",
    )
    training.add_argument("--seed", type=int, default=0)
    training.add_argument(
        "--num_seeds", dest="multi_seed", type=int, default=1, help="number of seeds (seed, seed + 1, ...)"
    )
    training.add_argument(
        "--multi_seed",
        type=_published_seeds,
        nargs="?",
        const=3,
        default=argparse.SUPPRESS,
        help="as published: three seeds where the flag has no number or is 1; a larger number is as --num_seeds",
    )
    training.add_argument(
        "--objective",
        choices=OBJECTIVES,
        help="what the model learns from: label sentences (distill), subtype classes, survival times, or several "
        "at once (multitask is the last two); if not given, distill for ModalTune and multitask for baselines",
    )
    training.add_argument(
        "--task_weights",
        type=_weights,
        help="factors of the parts of an objective in the order distill,subtype,survival; if not given, they are "
        "learned",
    )
    training.add_argument(
        "--nll_alpha",
        type=float,
        help="of the survival objective: 1 ignores censored patients, 0 counts them in full; if not given, "
        f"{ALPHA:g} for ours",
    )
    training.add_argument(
        "--site_sampling",
        choices=SITE_SAMPLING,
        default="natural",
        help="pan-cancer training: visit every case once an epoch, or draw every cancer site equally often",
    )
    training.add_argument(
        "--modality_dropout",
        type=float,
        default=0.0,
        help="probability of hiding each modality of a training patient; needs --missing_modalities learned",
    )
    training.add_argument("--eval_interval", type=int, default=1, help="validate every N epochs")
    training.add_argument(
        "--save_interval", type=int, default=1, help="write a resumable checkpoint every N epochs"
    )
    training.add_argument(
        "--keep_checkpoints",
        type=int,
        default=0,
        metavar="N",
        help="keep the weights of every N-th epoch, too (weights_epoch_<n>.pt, for --eval_weights); 0 keeps the best",
    )
    training.add_argument(
        "--modality_report_every",
        type=int,
        default=0,
        metavar="N",
        help="measure every N epochs, where the epoch is validated, what each modality contributes (into metrics.csv "
        "and figures/training_curves.png); 0 only at the end",
    )
    training.add_argument(
        "--checkpoint_minutes",
        type=float,
        default=10.0,
        help="minutes between resumable checkpoints within an epoch",
    )
    training.add_argument(
        "--resume",
        choices=("auto", "never"),
        default="auto",
        help="auto: continue an interrupted training from its last checkpoint; never: start it anew",
    )
    training.add_argument(
        "--max_skipped",
        type=int,
        default=10,
        help="cases of an epoch that may be skipped because their loss or gradient is not finite",
    )

    compute = parser.add_argument_group("compute")
    compute.add_argument("--device", default="auto", help="auto, cpu, cuda, or the index of a GPU")
    compute.add_argument("--workers", type=int, default=0, help="processes that read features")
    compute.add_argument(
        "--cache_features",
        choices=CACHES,
        default="none",
        help="ram: read every feature file once and keep it in memory",
    )
    compute.add_argument(
        "--use_amp", action="store_true", help="mixed precision: bfloat16, or float16 on older GPUs"
    )
    compute.add_argument(
        "--tf32",
        action="store_true",
        help="TensorFloat-32 for what is computed in float32 on NVIDIA GPUs since Ampere: faster, 10 bits of precision",
    )
    compute.add_argument(
        "--activation_checkpointing",
        choices=("auto", "on", "off"),
        default="auto",
        help="compute stages again in the backward pass; auto: where a case would not fit otherwise",
    )
    compute.add_argument(
        "--compile",
        action="store_true",
        help="fuse element-wise work with torch.compile, meant for GPUs (needs Triton and a C compiler; on CPUs "
        "a C++ compiler, and it takes as long as without)",
    )

    output = parser.add_argument_group("output")
    output.add_argument(
        "--output_path", type=Path, required=output_required, default=Path(), help="run folder"
    )
    output.add_argument(
        "--eval_only",
        type=_switch,
        nargs="?",
        const=True,
        default=False,
        metavar="0|1",
        help="evaluate --eval_weights, do not train",
    )
    output.add_argument(
        "--eval_weights", type=Path, help="run folder, or a best_model_weights.pt of ours or as published"
    )
    output.add_argument("--eval_name", help="name of an evaluation; its results go to a folder of that name")
    output.add_argument("--save_embeddings", action=argparse.BooleanOptionalAction, default=True)
    output.add_argument("--labelset", help=argparse.SUPPRESS)
    output.add_argument("--wandb_mode", choices=("disabled", "offline", "online"), default="disabled")
    return parser
