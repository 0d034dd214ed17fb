"""Pathways as a table or as GMT."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_utils.tables.pathway_table import read_pathway_table
from utils.files import FileError

GMT = "P\thttp://x\tTP53\tBRCA1\nQ\t\tBRCA1\tNA\t\n"
WANTED = pd.DataFrame(
    [[1, 0], [1, 1], [0, 1]], pd.Index(["TP53", "BRCA1", "NA"], name="gene"), ["P", "Q"], dtype=np.int8
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.gmt", GMT.encode()),
        ("p.gmt.gz", gzip.compress(GMT.encode(), mtime=0)),
        ("p.gmt", b"\xef\xbb\xbf" + GMT.replace("\n", "\r\n").encode()),
        ("p.csv", b"gene,P,Q\nTP53,1,0\nBRCA1,1,1\nNA,0,1\n"),
        ("p.csv", b"gene,P,Q\nTP53,TRUE,FALSE\nBRCA1,true,1.0\nNA,0.0,1\n"),
        ("p.csv", b"gene;P;Q\nTP53 ;1;0\nBRCA1;1;1\nNA;0;1\n"),
        ("p.csv", b",gene,P,Q\n0,TP53,1,0\n1,BRCA1,1,1\n2,NA,0,1\n"),
        ("p.csv", b'"gene","P","Q"\n"1","TP53",1,0\n"2","BRCA1",1,1\n"3","NA",0,1\n'),
    ],
)
def test_ways_to_write_pathways(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    pd.testing.assert_frame_equal(read_pathway_table(tmp_path / name), WANTED)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("P\n", "in line 1 is no pathway"),
        ("P\thttp://x\n", "in line 1 is no pathway"),
        (GMT + "P\tx\tTP53\n", "in line 3 names a pathway twice"),
        ("\n", "holds no pathway"),
        ("P\tx\tTP53 BRCA1\n", "in line 1 has 'TP53 BRCA1' in place of a gene"),
        ("P\tx\tTP53,BRCA1\n", "in line 1 has 'TP53,BRCA1' in place of a gene"),
        ("P\tTP53\tBRCA1\nQ\tBRCA1\tTP53\n", "has genes such as 'TP53' in its second column"),
    ],
)
def test_bad_gmt(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "p.gmt").write_text(content)
    with pytest.raises(FileError, match=rf"p\.gmt {message}"):
        read_pathway_table(tmp_path / "p.gmt")


def test_gmt_under_another_name(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(GMT)
    with pytest.raises(FileError, match=r"p\.csv "):
        read_pathway_table(tmp_path / "p.csv")
