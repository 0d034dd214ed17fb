"""Tables of pathways: one 0/1 column each, or a GMT file of MSigDB with one row each."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import pandas as pd

from data_utils.tables.text_table import existing, read_table
from utils.files import FileError, quoted

_REMEDY = (
    "use SurvPath's combine_comps.csv, a GMT file, or a table of your own (first column gene, one 0/1 column per "
    "pathway) and set PATHWAY_TABLE in utils/constants.py or MODALTUNE_PATHWAY_TABLE"
)
_CELLS = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}
_LARGEST_GMT = 1 << 28
_NOT_ONE_GENE = re.compile(r"[\s,;|]")


def read_pathway_table(path: str | Path) -> pd.DataFrame:
    """Gene x pathway table of 0 and 1 (int8); index = gene symbols.

    Raises:
        FileNotFoundError: the file does not exist.
        FileError: a cell is neither 0 nor 1, a gene or pathway stands twice, or the table is empty.
    """
    path = existing(path, "pathway table", _REMEDY)
    if path.name.removesuffix(".gz").endswith(".gmt"):
        return _read_gmt(path)
    table = read_table(path, "pathway table", _REMEDY)
    # Row numbers of R and pandas.
    first = 1 if table.shape[1] > 1 and table.columns[0] == "" and table.columns[1].lower() == "gene" else 0
    genes = table.iloc[:, first]
    table = table.iloc[:, first + 1 :].set_axis(pd.Index(genes, name="gene"), axis=0)
    if table.empty:
        raise FileError(path, "holds no gene or no pathway", "its first column is gene, then one per pathway")
    for kind, labels in (("genes", table.index), ("pathways", table.columns)):
        if labels.has_duplicates:
            twice = labels[labels.duplicated()][:5].tolist()
            raise FileError(path, f"is contradictory: {kind} stand twice: {twice}", "keep one of each")
    cells = table.apply(lambda column: column.str.lower().map(_CELLS))
    bad = np.argwhere(cells.isna().to_numpy())
    if len(bad):
        row, column = bad[0]
        where = quoted(f"gene {table.index[row]} in pathway {table.columns[column]}", 100)
        fault = f"should have 0 or 1 in its cells, {where} is {quoted(str(table.iat[row, column]), 40)!r}"
        raise FileError(path, fault, "correct it, or give the file the ending .gmt if it is one")
    return cells.astype(np.int8)


def _read_gmt(path: Path) -> pd.DataFrame:
    """A pathway a row: name, source, genes; genes in the order of their first appearance."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            content = file.read(_LARGEST_GMT)
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise FileError(path, "is no text in UTF-8", "save it as text in UTF-8") from error
    except (EOFError, gzip.BadGzipFile) as error:
        raise FileError(path, f"is damaged: {error}", "download it again") from error
    groups: dict[str, list[str]] = {}
    sources: list[str] = []
    for number, line in enumerate(lines, start=1):
        name, *rest = (cell.strip() for cell in line.split("\t"))
        if not name and not any(rest):
            continue
        genes = [gene for gene in rest[1:] if gene]
        if not name or not genes or name in groups:
            what = "names a pathway twice" if name in groups else "is no pathway: name, source, genes"
            raise FileError(path, f"in line {number} {what} ({quoted(line, 60)!r})", "correct that line")
        if odd := [gene for gene in genes if _NOT_ONE_GENE.search(gene)]:
            fault = f"in line {number} has {quoted(odd[0], 60)!r} in place of a gene"
            raise FileError(path, fault, "separate genes by tabs")
        groups[name] = genes
        sources.append(rest[0])
    if not groups:
        raise FileError(path, "holds no pathway", _REMEDY)
    genes = list(dict.fromkeys(gene for group in groups.values() for gene in group))
    if 2 * sum(source in set(genes) - {"NA"} for source in sources) > len(sources):
        fault = f"has genes such as {quoted(sources[0], 40)!r} in its second column, which is the source of a pathway"
        raise FileError(path, fault, "put a column between names and genes, such as na")
    table = pd.DataFrame(0, index=pd.Index(genes, name="gene"), columns=list(groups), dtype=np.int8)
    for name, group in groups.items():
        table.loc[group, name] = 1
    return table
