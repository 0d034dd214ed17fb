"""Checks everything a run needs before hours are spent on it.

``python -m utils.doctor`` takes the flags of ``train_modaltune.py`` and ``train_modaltune_pancancer.py`` (those of
the training itself change nothing) and prints one table: OK, warning or error, each warning and error with its
remedy. Exit status 1 where there is an error.
"""

from __future__ import annotations

import importlib
import logging
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from tqdm import tqdm

from data_utils.tables.cohorts import cohort_name
from utils.arguments import build_parser, check_arguments, complete_arguments
from utils.configuration.run_config import RunConfig
from utils.diagnosis.report import markdown_table, text_table
from utils.files import atomic_path, check_output, setup_logging
from utils.findings import Finding, error, warning

logger = logging.getLogger(__name__)

# Area of the table (unless a finding names its own) -> function. Imported one by one, so that a missing
# package spoils only what needs it.
CHECKS = {
    "packages": "utils.diagnosis.environment:check_packages",
    "device": "utils.diagnosis.environment:check_device",
    "modalities": "utils.diagnosis.tables:check_modalities",
    "model": "utils.diagnosis.weights:check_model",
    "weights": "utils.diagnosis.weights:check_weights",
    "splits": "utils.diagnosis.splits:check_splits",
    "texts": "utils.diagnosis.tables:check_texts",
    "features": "utils.diagnosis.features:check_features",
}
# With --slides_dir, too.
SLIDES = {"slides": "utils.diagnosis.slides:check_slides"}
# With --all_weights, too.
OTHER_WEIGHTS = {"other weights": "utils.diagnosis.other_weights:check_other_weights"}


@dataclass(frozen=True)
class DoctorOptions:
    """The doctor's own flags."""

    feature_samples: int = 50
    output: Path | None = None
    all_weights: bool = False
    encoder_config: Path | None = None
    conch_config: Path | None = None
    slides_dir: Path | None = None
    debug: bool = False


def parse_args(argv: Sequence[str] | None = None) -> tuple[RunConfig, DoctorOptions]:
    """The flags of ``train_modaltune.py`` and a few of the doctor's own."""
    parser = build_parser(__doc__, output_required=False)
    doctor = parser.add_argument_group("doctor")
    doctor.add_argument("--config", dest="model_config", type=Path, help="the same as --model_config")
    doctor.add_argument(
        "--sites", nargs="+", type=cohort_name, help="pan-cancer: as for train_modaltune_pancancer.py"
    )
    doctor.add_argument(
        "--stratified_cox", action="store_true", help="accepted for convenience, changes nothing here"
    )
    doctor.add_argument(
        "--feature_samples", type=int, default=50, help="feature files whose values are read; headers: all"
    )
    doctor.add_argument("--output", type=Path, help="write the table to this file, too (Markdown)")
    doctor.add_argument(
        "--all_weights",
        action="store_true",
        help="also check the patch and text encoders of utils/constants.py, which extraction needs",
    )
    doctor.add_argument("--encoder_config", type=Path, help="config of the patch encoder, for --all_weights")
    doctor.add_argument("--conch_config", type=Path, help="config of the text tower, for --all_weights")
    doctor.add_argument(
        "--slides_dir", type=Path, help="also open the slides of this folder, as extraction does"
    )
    doctor.add_argument("--debug", action="store_true", help="log everything, with tracebacks")
    args = check_arguments(parser, parser.parse_args(argv))
    if args.feature_samples < 0:
        parser.error("--feature_samples must not be negative")
    own = DoctorOptions(**{entry.name: vars(args).pop(entry.name) for entry in fields(DoctorOptions)})
    try:
        return complete_arguments(parser, args), own
    except (OSError, ValueError) as reason:
        parser.error(str(reason))


def examine(
    config: RunConfig, own: DoctorOptions = DoctorOptions(), checks: Mapping[str, str] = CHECKS
) -> list[Finding]:
    """Runs every check, whatever the others find.

    Args:
        config: of the run.
        own: see :func:`parse_args`.
        checks: area -> ``module:function``.
    """
    try:
        from utils.diagnosis.inputs import Inputs, Unavailable
    except ImportError as reason:
        remedy = "pip install -r requirements.txt"
        return [replace(error(f"nothing can be checked: {reason}", remedy), area="packages")]
    inputs = Inputs(config, own.feature_samples, own.encoder_config, own.conch_config, own.slides_dir)
    findings: list[Finding] = []
    for area, target in tqdm(checks.items(), desc="checks", leave=False, disable=None):
        module, function = target.split(":")
        found: list[Finding] = []
        try:
            for finding in getattr(importlib.import_module(module), function)(inputs):
                found.append(finding)
        except Unavailable as reason:
            found.append(warning(f"not checked: {reason}", "correct that first, then call the doctor again"))
        except Exception as reason:  # the other checks must go on
            logger.debug("check of %s", area, exc_info=True)
            found.append(
                error(
                    f"the check stopped: {type(reason).__name__}: {reason}",
                    "call again with --debug for the traceback",
                )
            )
        findings += [replace(finding, area=finding.area or area) for finding in found]
    return findings


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; see ``--help``."""
    config, own = parse_args(argv)
    setup_logging(logging.DEBUG if own.debug else logging.ERROR)
    if own.output is not None:
        check_output(own.output, (path for _, path in config.paths()))
    checks = CHECKS | (OTHER_WEIGHTS if own.all_weights else {}) | (SLIDES if own.slides_dir else {})
    findings = examine(config, own, checks)
    sys.stdout.write(text_table(findings, shutil.get_terminal_size((120, 24)).columns))
    if own.output is not None:
        with atomic_path(own.output) as temporary:
            temporary.write_text(markdown_table(findings), encoding="utf-8")
    return int(any(finding.level == "error" for finding in findings))


if __name__ == "__main__":
    raise SystemExit(main())
