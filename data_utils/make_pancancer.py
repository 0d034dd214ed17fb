"""Joins finished cohorts into one pan-cancer cohort: ``python -m data_utils.make_pancancer``.

Reads the split files and tables of every site and writes their unions under the name ``PANCANCER``: split
files (rows gain the field ``site``), gene table (a column ``site`` and raw values: the trainer standardises
per site), label sentences, candidate sentences and clinical features (coded anew over all sites, so that
a code means the same everywhere). Nobody changes sides: a patient keeps the split it has in its site.
``counts_<name>.csv`` beside the split files shows patients per site, class and split.
"""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from data_utils import make_clinical
from data_utils.tables.cohorts import cohort_name, load_cohort
from data_utils.tables.gdc import read_split_cases, split_paths
from data_utils.tables.genes import SITE_COLUMN, read_gene_table
from data_utils.tables.sentence_table import tasks_file
from data_utils.tables.tasks import TaskSet, read_tasks
from utils import constants
from utils.files import FileError, atomic_path, read_json, setup_logging, write_json
from utils.tensor_files import read_tensors, write_tensors

logger = logging.getLogger(__name__)

# Logarithms and z-scores of expression differ by less, logarithms and what they are of by more.
_OTHER_SCALE = 10


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of the entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--sites",
        nargs="+",
        type=cohort_name,
        default=list(constants.PANCANCER_SITES),
        help="cohorts to join",
    )
    parser.add_argument(
        "--name", type=cohort_name, default=constants.PANCANCER, help="name of the union, in file names"
    )
    parser.add_argument("--features_encoder", default="gigapath", help="which split files to read")
    parser.add_argument(
        "--genes",
        choices=("equal", "union", "intersection"),
        default="equal",
        help="sites whose gene tables differ: stop, keep all genes (0 where a site lacks one), or the common ones",
    )
    parser.add_argument(
        "--protocol",
        choices=("published", "strict"),
        default="published",
        help="clinical codes are fitted on all cases (published) or on the training split (strict)",
    )
    args = parser.parse_args(argv)
    if len(set(args.sites)) < len(args.sites):
        parser.error(f"--sites names a cohort twice: {args.sites}")
    if args.name in args.sites:
        parser.error(f"--name {args.name} is one of the sites; their files would be overwritten")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    args = parse_args(argv)
    setup_logging()
    rows = join_splits({site: split_paths(site, args.features_encoder) for site in args.sites})
    genes = join_genes({site: read_gene_table(constants.gene_table(site)) for site in args.sites}, args.genes)
    texts = join_tables({site: constants.text_table(site) for site in args.sites})
    candidates = join_tables({site: constants.candidate_table(site) for site in args.sites})
    tasks = common_tasks({site: constants.text_table(site) for site in args.sites})

    paths = split_paths(args.name, args.features_encoder)
    for split, path in paths.items():
        write_json(path, {"data": rows[split]})
    with atomic_path(constants.gene_table(args.name)) as temporary:
        genes.to_csv(temporary, float_format="%.6g")
    for path, table in (
        (constants.text_table(args.name), texts),
        (constants.candidate_table(args.name), candidates),
    ):
        write_tensors(path, table)
    if tasks is not None:
        write_json(tasks_file(constants.text_table(args.name)), tasks.plain())
    make_clinical.main(
        ["--onco", args.name, "--features_encoder", args.features_encoder, "--protocol", args.protocol]
    )
    counts = count_patients(paths)
    counts_path = paths["train"].parent / f"counts_{args.name.lower()}.csv"
    with atomic_path(counts_path) as temporary:
        counts.to_csv(temporary, index=False)
    logger.info("patients and deaths:\n%s", counts.to_string(index=False))
    logger.info("%s = %s -> %s", args.name, " + ".join(args.sites), counts_path.parent)


# ---------------------------------------------------------------------------- splits
def join_splits(paths: Mapping[str, Mapping[str, Path]]) -> dict[str, list[dict[str, Any]]]:
    """Rows of all sites per split, each with its ``site``.

    Args:
        paths: ``{site: {split: split file}}``.

    Raises:
        FileNotFoundError: a site lacks a split file.
        ValueError: a patient belongs to two sites or splits, or a project to a site that does not list it.
    """
    joined: dict[str, list[dict[str, Any]]] = {split: [] for split in constants.SPLITS}
    owner: dict[str, str] = {}
    for site, files in paths.items():
        cases = read_split_cases(files)  # also refuses patients in two splits of the site
        strangers = sorted(set(cases["project_id"]) - set(load_cohort(site).projects))
        if strangers:
            fault = f": the splits of {site} hold patients of {strangers}"
            remedy = f"{constants.cohort_file(site)} does not list them: correct one of the two"
            raise FileError(files["train"].parent, fault, remedy)
        ids = [*cases["case_id"], *cases["case_submitter_id"]]
        shared = sorted(case for case in ids if case in owner)
        if shared:
            fault = f": patients of {site} that {owner[shared[0]]} has too: {shared[:10]}"
            raise FileError(files["train"].parent, fault, "leave every patient in one site")
        owner |= dict.fromkeys(ids, site)
        for split, file in files.items():
            joined[split] += [{**row, "site": site} for row in read_json(file)["data"]]
    return joined


def count_patients(paths: Mapping[str, Path]) -> pd.DataFrame:
    """Patients and deaths per site, class and split, one column per split."""
    cases = read_split_cases(paths)
    keys = ["site", "primary_class"]
    patients = cases.groupby([*keys, "split"]).size().unstack("split", fill_value=0)
    deaths = cases.groupby([*keys, "split"])["vital_status"].sum().unstack("split", fill_value=0)
    order = [split for split in constants.SPLITS if split in patients]
    table = patients[order].join(deaths[order].add_suffix("_deaths"))
    return table.astype(int).reset_index()


# ---------------------------------------------------------------------------- tables
def common_tasks(tables: Mapping[str, Path]) -> TaskSet | None:
    """The tasks that the sentences of all sites were written for; None where no file beside the tables says it.

    Raises:
        FileError: those of two sites differ.
    """
    files = {site: tasks_file(table) for site, table in tables.items()}
    known = {site: read_tasks(file) for site, file in files.items() if file.is_file()}
    if not known:
        return None
    first, common = next(iter(known.items()))
    for site, tasks in known.items():
        if tasks.sentences_differ(common):
            fault = f"holds the sentences of other tasks than {tables[first]}: {tasks.difference(common)}"
            raise FileError(tables[site], fault, "write both with the same make_textemb_conch --tasks FILE")
    return common


def join_genes(tables: Mapping[str, pd.DataFrame], genes: str) -> pd.DataFrame:
    """One table, cases x (site, genes); genes in the order of the first site that has them.

    Args:
        tables: case x gene table of every site.
        genes: what to do where the sites' genes differ, see ``--genes``.

    Raises:
        ValueError: a case is in two tables, or the genes differ and ``genes`` is ``equal``.
    """
    times = Counter(case for table in tables.values() for case in table.index)
    repeated = sorted(case for case, count in times.items() if count > 1)
    if repeated:
        where = next(site for site, table in tables.items() if repeated[0] in table.index)
        fault = f"holds cases of other sites, too: {repeated[:10]}"
        raise FileError(constants.gene_table(where), fault, "leave every patient in one site")
    union = list(dict.fromkeys(gene for table in tables.values() for gene in table.columns))
    common = [gene for gene in union if all(gene in table.columns for table in tables.values())]
    if len(common) < len(union):
        lacking = {site: [g for g in union if g not in table.columns] for site, table in tables.items()}
        difference = "; ".join(
            f"{site} lacks {len(names)}: {', '.join(names[:5])}" for site, names in lacking.items() if names
        )
        if genes == "equal":
            raise FileError(
                constants.gene_table(next(iter(tables))),
                f"and those of the other sites differ ({difference})",
                "make them from the same pan-cancer matrix, or pass --genes union or --genes intersection",
            )
        logger.warning("%s of the genes, %d of %d: %s", genes, len(common), len(union), difference)
    if not common:
        first = constants.gene_table(next(iter(tables)))
        raise FileError(
            first, "and those of the other sites have no gene in common", "make them from one matrix"
        )
    _compare_scales(tables)
    chosen = common if genes == "intersection" else union
    values = np.concatenate([table.reindex(columns=chosen).to_numpy() for table in tables.values()])
    cases = [case for table in tables.values() for case in table.index]
    joined = pd.DataFrame(values, index=pd.Index(cases, name="case_id"), columns=chosen)
    joined.insert(0, SITE_COLUMN, [site for site, table in tables.items() for _ in range(len(table))])
    return joined


def _compare_scales(tables: Mapping[str, pd.DataFrame]) -> None:
    """Counts or TPM beside logarithms: under --gene_scaling union the sites would differ by that alone."""
    largest = {site: float(np.nanquantile(np.abs(table.to_numpy()), 0.99)) for site, table in tables.items()}
    high, low = max(largest, key=largest.__getitem__), min(largest, key=largest.__getitem__)
    if largest[high] > _OTHER_SCALE * largest[low]:
        logger.warning(
            "the genes of %s reach %.3g, those of %s %.3g: the tables are on different scales; make both from one "
            "matrix, or take log2(x + 1) of the first",
            high,
            largest[high],
            low,
            largest[low],
        )


def join_tables(paths: Mapping[str, Path]) -> dict[str, Tensor]:
    """The union of ``{key: value}`` files of all sites.

    Raises:
        FileNotFoundError: a site lacks its file.
        ValueError: a key occurs in two files.
    """
    joined: dict[str, Tensor] = {}
    for site, path in paths.items():
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist; run scripts/submit_get_dataset.sh for {site} first"
            )
        table = read_tensors(path, "table of tensors")
        shared = sorted(table.keys() & joined.keys())
        if shared:
            raise FileError(
                path, f"repeats entries of another site: {shared[:10]}", "write it again for its site"
            )
        joined |= table
    return joined


if __name__ == "__main__":
    main()
