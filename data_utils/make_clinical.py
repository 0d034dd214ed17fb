"""Writes the clinical features of a cohort: ``python -m data_utils.make_clinical --onco BRCA``.

Three files: raw values ``<output>.csv``, which train_modaltune.py encodes with the codes of the run or of the
trained model; the same as numbers in the published layout ``<output>.pt``, {case_id: tensor [5]}; and the
table of codes behind these numbers, ``<output>_codes.json``. See data_utils.tables.clinical for what they mean.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from data_utils.tables.ajcc import AJCC_COLUMNS
from data_utils.tables.clinical import AGE, ClinicalCodes, codes_path
from data_utils.tables.cohorts import cohort_name
from data_utils.tables.gdc import read_split_cases, split_paths
from utils import constants
from utils.configuration.protocol import PROTOCOLS
from utils.files import FileError, atomic_path, check_output, read_json, setup_logging, write_json
from utils.tensor_files import write_tensors

logger = logging.getLogger(__name__)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--onco", required=True, type=cohort_name, help="cohort, such as BRCA")
    parser.add_argument("--features_encoder", default="gigapath", help="which split files to read")
    parser.add_argument("--splits_dir", type=Path, help="folder of the split files (default: constants)")
    parser.add_argument("--output", type=Path, help="{case_id: [5]} (default: constants)")
    parser.add_argument("--codes", type=Path, help="codes of another cohort (<output>_codes.json) to apply")
    parser.add_argument(
        "--protocol",
        choices=("published", "strict"),
        default="published",
        help="ages and codes from all cases (published) or from the training split (strict)",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    setup_logging()
    output = args.output or constants.clinical_tensors(args.onco)
    if output.suffix == ".csv":
        raise ValueError(f"--output {output} is the file of tensors; the raw values go to a .csv beside it")
    splits = split_paths(args.onco, args.features_encoder, args.splits_dir)
    for made in (output, output.with_suffix(".csv")):
        check_output(made, (*splits.values(), args.codes))
    cases = read_split_cases(splits)
    if args.codes is not None:
        content = read_json(args.codes)
        codes = ClinicalCodes.from_dict(content, args.codes)
        origin = {key: content[key] for key in ("protocol", "cases") if key in content}
    else:
        learned_from = cases[cases["split"] == "train"] if PROTOCOLS[args.protocol].training_only else cases
        origin = {"protocol": args.protocol, "cases": len(learned_from)}
        codes = ClinicalCodes.fit(learned_from, args.protocol)
    features = codes.transform(cases)
    if not torch.isfinite(features).all():
        folder = split_paths(args.onco, args.features_encoder, args.splits_dir)["train"].parent
        raise FileError(
            folder, ": clinical features of its cases are not finite", "correct the ages in the splits"
        )
    with atomic_path(output.with_suffix(".csv")) as temporary:
        cases[["case_id", AGE, *AJCC_COLUMNS]].to_csv(temporary, index=False)
    write_tensors(output, {case: row.clone() for case, row in zip(cases["case_id"], features, strict=True)})
    write_json(codes_path(output), {**origin, **codes.to_dict()})
    logger.info("%d cases (%s) -> %s", len(cases), args.codes or f"{args.protocol} protocol", output)


if __name__ == "__main__":
    main()
