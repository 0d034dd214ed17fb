"""Text embeddings of a cohort, with a small random text tower."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from data_utils import make_textemb_conch
from data_utils.tables.cohorts import load_cohort
from data_utils.tables.gdc import split_paths
from data_utils.tables.label_sentences import candidate_sentences
from data_utils.tables.tasks import published
from models.conch.text_tower import build_text_tower, encode_tokens, read_text_config
from models.conch.tokenizer import ConchTokenizer
from tests.models.conch.test_text_tower import write_tokenizer

CONFIG = {"context_length": 160, "vocab_size": 300, "width": 16, "heads": 2, "layers": 1, "output_dim": 512}


def split_row(case: str, months: float, slide: int = 1) -> dict[str, object]:
    return {
        "case_id": case,
        "case_submitter_id": case.upper(),
        "slide_submitter_id": f"{case}-DX{slide}",
        "project_id": "TCGA-BRCA",
        "primary_diagnosis": "lobular carcinoma",
        "primary_class": 1,
        "durations": months,
        "vital_status": 1,
        "ajcc_pathologic_stage": None,
    }


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    splits = {
        "train": [split_row("a", 10), split_row("a", 10, 2), split_row("b", 20), split_row("c", 30)],
        "val": [split_row("d", 100)],
        "test": [split_row("e", 10)],
    }
    for split, path in split_paths("BRCA", folder=tmp_path).items():
        path.write_text(json.dumps({"data": splits[split]}))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    torch.manual_seed(0)
    tower = build_text_tower(read_text_config(tmp_path / "config.json"))
    torch.save({f"text.{name}": value for name, value in tower.state_dict().items()}, tmp_path / "conch.pt")
    write_tokenizer(tmp_path / "tokenizer.json")
    return [
        "--onco=brca",
        "--device=cpu",
        "--batch_size=2",
        f"--splits_dir={tmp_path}",
        f"--output={tmp_path / 'text.pt'}",
        f"--conch_config={tmp_path / 'config.json'}",
        f"--conch_checkpoint={tmp_path / 'conch.pt'}",
        f"--conch_tokenizer={tmp_path / 'tokenizer.json'}",
    ]


def test_embeddings_belong_to_their_sentences(
    tmp_path: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    towers, sizes = [], []
    load = make_textemb_conch.load_text_tower

    def count(tower: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
        sizes.append(len(tokens))
        return encode_tokens(tower, tokens)

    monkeypatch.setattr(
        make_textemb_conch, "load_text_tower", lambda *args: towers.append(load(*args)) or towers[0]
    )
    monkeypatch.setattr(make_textemb_conch, "encode_tokens", count)
    make_textemb_conch.main(flags)

    table = torch.load(tmp_path / "text.pt", weights_only=True)
    readable = pd.read_csv(tmp_path / "sentences_brca.csv").set_index("case_id")
    assert list(table) == readable.index.tolist() == list("abcde")
    tokenizer = ConchTokenizer(tmp_path / "tokenizer.json", CONFIG["context_length"], CONFIG["vocab_size"])
    for case, embedding in table.items():
        assert embedding.shape == (4, 512)
        assert embedding.dtype == torch.float32
        sentences = readable.loc[case, list(published().rows)].tolist()
        torch.testing.assert_close(
            embedding, encode_tokens(towers[0], tokenizer(sentences)), atol=1e-6, rtol=1e-5
        )
    # 5 cases share one diagnosis and one stage sentence; of their fates a and e agree, and c and d: a time on an
    # edge belongs to the upper interval.
    different = set(readable[list(published().rows)].to_numpy().ravel())
    assert len(different) == 8
    assert max(sizes) == 2

    edges = json.loads((tmp_path / "survival_edges_brca.json").read_text())["edges_months"]
    candidates = candidate_sentences(load_cohort("BRCA"), edges)
    embedded = torch.load(tmp_path / "candidates_brca.pt", weights_only=True)["BRCA"]
    assert list(embedded) == list(candidates) == ["class_0", "class_1", "died", "censored"]
    for name, group in candidates.items():
        torch.testing.assert_close(
            embedded[name], encode_tokens(towers[0], tokenizer(group)), atol=1e-6, rtol=1e-5
        )
    assert sum(sizes) == len(different | {s for group in candidates.values() for s in group})  # each once


def test_protocols_differ_in_their_edges(tmp_path: Path, flags: list[str]) -> None:
    make_textemb_conch.main(flags)
    edges = json.loads((tmp_path / "survival_edges_brca.json").read_text())
    assert edges == {"protocol": "published", "cases": 5, "edges_months": [10, 10, 20, 30, 100]}
    make_textemb_conch.main([*flags, "--protocol=strict"])
    edges = json.loads((tmp_path / "survival_edges_brca.json").read_text())
    assert edges == {"protocol": "strict", "cases": 3, "edges_months": [10, 15, 20, 25, 30]}
    fates = pd.read_csv(tmp_path / "sentences_brca.csv").set_index("case_id")["survival"]
    assert fates["d"].endswith("The patient died between 25 and 30 months")


def test_failure_leaves_no_file(tmp_path: Path, flags: list[str]) -> None:
    (tmp_path / "conch.pt").unlink()
    with pytest.raises(FileNotFoundError, match="CONCH_CHECKPOINT"):
        make_textemb_conch.main(flags)
    assert not (tmp_path / "text.pt").exists()
    assert not (tmp_path / "sentences_brca.csv").exists()


def test_vectors_of_any_text_model(tmp_path: Path, flags: list[str]) -> None:
    (tmp_path / "conch.pt").unlink()
    make_textemb_conch.main([*flags, f"--list_sentences={tmp_path / 'list.json'}"])
    assert not (tmp_path / "text.pt").exists()
    sentences = json.loads((tmp_path / "list.json").read_text())
    vectors = {sentence: torch.randn(7) for sentence in sentences}
    torch.save(vectors, tmp_path / "vectors.pt")
    make_textemb_conch.main([*flags, f"--text_vectors={tmp_path / 'vectors.pt'}"])
    table = torch.load(tmp_path / "text.pt", weights_only=True)
    written = pd.read_csv(tmp_path / "sentences_brca.csv", keep_default_na=False).set_index("case_id")
    for case, rows in table.items():
        for row, name in zip(rows, ("general", "diagnosis", "stage", "survival"), strict=True):
            vector = vectors[written.loc[case, name]]
            torch.testing.assert_close(row, vector / vector.norm())
    del vectors[sentences[0]]
    torch.save(vectors, tmp_path / "vectors.pt")
    with pytest.raises(ValueError, match=f"lacks 1 of {len(sentences)} sentences.*list_sentences"):
        make_textemb_conch.main([*flags, f"--text_vectors={tmp_path / 'vectors.pt'}"])


def test_a_column_of_the_name_of_made_words_is_refused(tmp_path: Path, flags: list[str]) -> None:
    """``{stage}`` are the words of the AJCC stage; a table's own column would silently not be said."""
    task = {"name": "Stage", "sentence": "Stage: {stage}", "evaluate": ["class"]}
    (tmp_path / "tasks.json").write_text(json.dumps({"tasks": [task]}))
    words = [*flags, f"--tasks={tmp_path / 'tasks.json'}", f"--list_sentences={tmp_path / 'list.json'}"]
    make_textemb_conch.main(words)
    for path in split_paths("BRCA", folder=tmp_path).values():
        rows = json.loads(path.read_text())["data"]
        path.write_text(json.dumps({"data": [{**row, "stage": "early"} for row in rows]}))
    with pytest.raises(ValueError, match=r"uses \['stage'\], which the split files hold"):
        make_textemb_conch.main(words)


def test_another_text_model_by_path(
    tmp_path: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conch.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"--open_clip .* is no folder"):
        make_textemb_conch.main([*flags, f"--open_clip={tmp_path / 'model'}"])

    def tokenize(sentences: list[str]) -> torch.Tensor:
        return torch.tensor([[len(sentence)] for sentence in sentences])

    def load(folder: Path) -> tuple[object, torch.nn.Module]:
        assert folder == tmp_path / "model"
        return tokenize, torch.nn.Identity()

    monkeypatch.setattr(make_textemb_conch, "load_open_clip", load)
    monkeypatch.setattr(make_textemb_conch, "encode_text", lambda model, ids: ids.float() * torch.ones(1, 5))
    make_textemb_conch.main([*flags, f"--open_clip={tmp_path / 'model'}"])
    written = pd.read_csv(tmp_path / "sentences_brca.csv", keep_default_na=False).set_index("case_id")
    table = torch.load(tmp_path / "text.pt", weights_only=True)
    for case, rows in table.items():
        lengths = [len(written.loc[case, name]) for name in ("general", "diagnosis", "stage", "survival")]
        assert rows.shape == (4, 5) and rows[:, 0].tolist() == lengths
