"""Files appear whole or not at all."""

import io
import logging
import pickle
import sys
from importlib.machinery import ModuleSpec

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.files import FileError, atomic_path, check_output, content_of, read_json, setup_logging, write_json
from utils.tensor_files import read_tensors


def test_a_file_appears_when_the_block_succeeds(tmp_path):
    path = tmp_path / "new" / "folder" / "a.b.csv"
    with atomic_path(path) as temporary:
        assert temporary.suffix == ".csv" and temporary.parent == path.parent
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_older_file(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("older")
    with pytest.raises(error), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "older" and list(tmp_path.iterdir()) == [path]


def test_what_a_command_reads_is_not_written_over(tmp_path):
    table, link = tmp_path / "a.csv", tmp_path / "b.csv"
    table.write_text("1")
    link.symlink_to(table)
    check_output(tmp_path / "new.csv", (table, None, "a.csv", tmp_path))
    for output in (table, link, tmp_path / "x" / ".." / "a.csv"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(FileError, match="is read by this command and would be lost; name another file"):
            check_output(output, (None, table))


def test_what_cannot_be_written_is_named(tmp_path):
    """A folder of that name, or a file where a folder should be; told by the writer, and before long work."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("older")
    for path in (tmp_path / "folder", tmp_path / "file" / "a.csv", tmp_path / "file" / "b" / "a.csv"):
        words = rf"^\[Errno \d+\] {path} cannot be written .*; name another"
        with pytest.raises(OSError, match=words), atomic_path(path) as temporary:
            temporary.write_text("whole")
        with pytest.raises((FileError, OSError), match=r"name a file to write|nothing can be written"):
            check_output(path, ())
    assert (tmp_path / "file").read_text() == "older" and not list((tmp_path / "folder").iterdir())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt"):
        pass
    assert not list(tmp_path.iterdir())


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=40, deadline=None)
@given(VALUES)
def test_json_round_trip(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "a.json"
    write_json(path, value)
    assert read_json(path) == value


def test_json_that_is_none_names_file_and_place(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1,\n "b": }')
    with pytest.raises(ValueError, match=r"a\.json is not valid JSON .*line 2"):
        read_json(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json")


def test_an_object_that_is_no_json_leaves_the_older_file(tmp_path):
    write_json(tmp_path / "a.json", [1])
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert read_json(tmp_path / "a.json") == [1]


def test_tensors_are_read_onto_the_cpu(tmp_path):
    torch.save({"a": torch.arange(3), "b": [1, None, "x"]}, tmp_path / "a.pt")
    content = read_tensors(tmp_path / "a.pt", "table")
    assert content["a"].tolist() == [0, 1, 2] and content["b"] == [1, None, "x"]
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "b.pt", "table")


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('code was executed')",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "save", [lambda path: torch.save(Code(), path), lambda path: path.write_bytes(pickle.dumps(Code()))]
)
def test_code_is_refused(tmp_path, save):
    save(tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt is no readable table"):
        read_tensors(tmp_path / "a.pt", "table")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=40))
def test_any_other_bytes_are_refused_by_name(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "noise.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"noise\.pt is no readable table"):
        read_tensors(path, "table")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_truncated_checkpoints_are_refused_by_name(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "cut.pt"
    torch.save({"a": torch.arange(50)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(ValueError, match=r"cut\.pt is no readable table"):
        read_tensors(path, "table")


def test_logging_is_set_up_twice_without_harm(caplog):
    setup_logging()
    setup_logging()
    assert not caplog.text


@pytest.mark.parametrize(
    ("spec", "name"),
    [(ModuleSpec("utils.explain.__main__", None), "utils.explain"), (None, "train_modaltune")],
)
def test_lines_of_a_command_carry_its_name(monkeypatch, spec, name):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    monkeypatch.setattr(sys, "argv", ["some/folder/train_modaltune.py"])
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    setup_logging()
    (handler,) = logging.getLogger().handlers
    handler.setStream(written := io.StringIO())
    handler.handle(logging.LogRecord("__main__", logging.INFO, "", 0, "done", (), None))
    handler.handle(logging.LogRecord("utils.files", logging.INFO, "", 0, "done", (), None))
    assert [line.split(" ", 1)[1] for line in written.getvalue().splitlines()] == [
        f"I {name}: done",
        "I utils.files: done",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1, "a": 2}', r"keys stand twice: \['a'\]"),
        (b'[{"b": {"c": 1, "c": 1}}]', r"keys stand twice: \['c'\]"),
        ('["\u00e9"]'.encode("latin-1"), "is no text in UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" + b"9" * 5_000 + b"]", "is not valid JSON"),
        (b'{"a": "' + b"x" * 100_000 + b'"}', "a holds a text of 100,000 characters"),
        (b'{"a": ["' + b"x" * 100_000 + b'"]}', "a holds a text of 100,000 characters"),
        (b'{"' + b"x" * 100_000 + b'": 1}', "holds a text of 100,000 characters"),
    ],
)
def test_odd_json_names_the_file(tmp_path, content, message):
    path = tmp_path / "odd.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"odd\.json.*{message}") as stopped:
        read_json(path)
    assert len(str(stopped.value)) < 400


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyError("depth"), "cannot be used: it lacks 'depth'; mend it"),
        (TypeError("no number"), "cannot be used: no number; mend it"),
        (AssertionError("heads"), "cannot be used: heads; mend it"),
        (ValueError("x" * 1000), "cannot be used: x{100,200}"),
    ],
)
def test_what_the_content_of_a_file_ends_in_names_the_file(error, message):
    with pytest.raises(FileError, match=rf"^a\.json {message}") as stopped, content_of("a.json", "mend it"):
        raise error
    assert len(str(stopped.value)) < 300


def test_an_error_crosses_processes():
    error = pickle.loads(pickle.dumps(FileError("b.pt", "is empty", "copy it")))
    assert str(error) == "b.pt is empty; copy it" and error.remedy == "copy it"


@pytest.mark.parametrize("error", [FileError("b.pt", "is empty", "copy it"), FileNotFoundError("b.pt")])
def test_an_error_that_names_its_file_keeps_it(error):
    with pytest.raises(type(error)) as stopped, content_of("a.json", "mend it"):
        raise error
    assert stopped.value is error


def test_json_with_a_byte_order_mark(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(tmp_path / "a.json") == [1]
