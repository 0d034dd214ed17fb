import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.utils.evaluation.evaluation_data import make_embeddings
from utils.evaluation.embeddings import Embeddings, name_cases, same_split, with_complete_parts


@settings(max_examples=20, deadline=None)
@given(n=st.integers(0, 9), tasks=st.integers(1, 3), width=st.integers(1, 5), seed=st.integers(0, 99))
def test_a_file_gives_back_what_was_saved(tmp_path_factory, n, tasks, width, seed):
    path = tmp_path_factory.mktemp("embeddings") / "data" / "train.npz"
    saved = make_embeddings(n, tasks, max(width, 2), seed=seed)
    saved.save(path)
    loaded = Embeddings.load(path)
    assert loaded.case_ids == saved.case_ids
    assert loaded.sites == saved.sites
    for name in ("vectors", "labels", "durations", "events"):
        assert np.array_equal(getattr(loaded, name), getattr(saved, name))
        assert getattr(loaded, name).dtype == getattr(saved, name).dtype
    assert [p.name for p in path.parent.iterdir()] == ["train.npz"]


def test_parts():
    cases = make_embeddings(5, tasks=2)
    assert cases.vectors.dtype == np.float32
    assert np.array_equal(cases.task(1), cases.vectors[:, 1])
    chosen = cases.select(cases.labels == 1)
    assert chosen.case_ids == ["case-1", "case-3"]
    assert np.array_equal(chosen.durations, cases.durations[[1, 3]])
    assert len(chosen) == 2
    with pytest.raises(IndexError, match="hold 2"):
        cases.task(2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_embeddings_that_are_not_finite_name_their_cases(value):
    vectors = make_embeddings(5).vectors.copy()
    vectors[3, 0, 2] = value
    with pytest.raises(ValueError, match=r"not finite.*case-3$"):
        make_embeddings(5, vectors=vectors)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"case_ids": ["a", "b", "a", "c", "b"]}, "more than once: a, b"),
        ({"case_ids": ["a"]}, "1 case ids but labels"),
        ({"labels": [0, 1]}, r"labels of shape \(2,\)"),
        ({"durations": [1.0] * 6}, r"durations of shape \(6,\)"),
        ({"events": [[0], [1], [0], [1], [0]]}, r"events of shape \(5, 1\)"),
        ({"sites": []}, r"sites of shape \(0,\)"),
        ({"vectors": np.zeros((4, 1, 3))}, r"vectors of shape \(4, 1, 3\)"),
        ({"vectors": np.zeros((5, 3))}, "cases, tasks, width"),
        ({"labels": [0, 1, -2, 0, 1]}, "below -1: cases case-2"),
        ({"labels": [0, 1, 0.5, 0, 1]}, "whole numbers"),
        ({"labels": [0, 1, np.nan, 0, 1]}, "whole numbers"),
        ({"durations": [1, 2, 3, np.inf, 4]}, "infinite survival times: cases case-3"),
        ({"durations": [1, 2, 3, -1, 4]}, "negative survival times: cases case-3"),
        ({"events": [0, 1, 2, 0, 1]}, "events other than 0 and 1: cases case-2"),
    ],
)
def test_impossible_content_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_embeddings(5, **changes)


def test_unknown_survival_and_class_are_allowed():
    cases = make_embeddings(3, durations=[1, np.nan, 0], labels=[-1, 0, 1])
    assert np.isnan(cases.durations[1])


def test_complete_cases_are_split_off_where_some_are_not():
    splits = {
        "train": make_embeddings(4, complete=[True, False, True, False]),
        "val": make_embeddings(3),
        "test": make_embeddings(2, complete=[False, False]),
    }
    parts = with_complete_parts(splits)
    assert list(parts) == ["train", "train_complete", "val", "test"]
    assert parts["train_complete"].case_ids == ["case-0", "case-2"] and parts["train"] is splits["train"]
    assert same_split("train", "train_complete") and same_split("train_complete", "train")
    assert not same_split("train_complete", "test_complete") and not same_split("train", "test")


def test_unreadable_files_name_the_file(tmp_path):
    path = tmp_path / "train.npz"
    with pytest.raises(FileNotFoundError, match=r"train\.npz"):
        Embeddings.load(path)
    make_embeddings(30).save(path)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"junk" * 50):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"train\.npz is not a readable"):
            Embeddings.load(path)
    with path.open("wb") as handle:
        np.savez(handle, vectors=np.zeros((1, 1, 1)))
    with pytest.raises(ValueError, match=r"train\.npz.*case_ids"):
        Embeddings.load(path)
    with path.open("wb") as handle:
        np.save(handle, np.zeros(3))
    with pytest.raises(ValueError, match=r"train\.npz is not a readable"):
        Embeddings.load(path)


def test_long_lists_of_cases_are_cut():
    assert name_cases("abcdefg") == "a, b, c, d, e and 2 more"
    assert name_cases(["a"]) == "a"
