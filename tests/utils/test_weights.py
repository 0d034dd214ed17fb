"""Official weights from a hub that runs on this machine: fetched whole or in pieces, listed, verified."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import numpy as np
import pytest

from models.encoders import HubFile
from utils import constants, weights
from utils.weights import WeightsError, WeightSet, fetch, main, read_source, source_file, verify

REPO, COMMIT, NEWER = "lab/model", "1" * 40, "2" * 40
LARGE = np.random.default_rng(0).bytes(300_000)
FILES = {"large.bin": LARGE, "small.json": b'{"vocabulary": 7}'}


class Hub:
    """What the two servers know and saw: the hub itself, and the storage that it sends large files to."""

    def __init__(self):
        self.revisions = {"main": COMMIT, COMMIT: COMMIT, NEWER: NEWER}
        self.files = {COMMIT: dict(FILES), NEWER: {**FILES, "large.bin": LARGE[::-1]}}
        self.repos = {REPO}
        self.token = "right"
        self.cut = []  # bytes after which the next downloads break off
        self.seen = []  # (server, method, range, token) of every request

    def serve(self, handler):
        server = ThreadingHTTPServer(("127.0.0.1", 0), type(handler.__name__, (handler,), {"hub": self}))
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server, f"http://127.0.0.1:{server.server_port}"


class Quiet(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *args):
        pass

    def note(self, server):
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        self.hub.seen.append((server, self.command, self.headers.get("Range"), token))
        return token

    def refuse(self, status, code):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, content):
        first = int(re.match(r"bytes=(\d+)-", self.headers.get("Range") or "bytes=0-")[1])
        part = content[first:]
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(part)))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            if self.hub.cut:
                part = part[: self.hub.cut.pop(0)]
                self.close_connection = True
            self.wfile.write(part)


class HubPages(Quiet):
    def do_HEAD(self):
        token = self.note("hub")
        match = re.fullmatch(r"/(\w+/\w+)/resolve/([\w.]+)/([\w.]+)", self.path)
        repo, revision, name = match.groups()
        if repo not in self.hub.repos:
            return self.refuse(401, "RepoNotFound")
        if token != self.hub.token:
            return self.refuse(403 if token else 401, "GatedRepo")
        if (commit := self.hub.revisions.get(revision)) is None:
            return self.refuse(404, "RevisionNotFound")
        if (content := self.hub.files[commit].get(name)) is None:
            return self.refuse(404, "EntryNotFound")
        if self.command == "GET":
            return self.send(content)
        large = name.endswith(".bin")
        self.send_response(302 if large else 200)
        self.send_header("X-Repo-Commit", commit)
        if large:
            self.send_header("Location", f"{self.hub.storage}/{commit}/{name}?signature=x")
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("X-Linked-Etag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", "0")
        else:
            blob = b"blob %d\0" % len(content)
            self.send_header("ETag", f'"{hashlib.sha1(blob + content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        return None

    do_GET = do_HEAD


class Storage(Quiet):
    def do_GET(self):
        self.note("storage")
        _, commit, name = self.path.split("?")[0].split("/")
        if self.hub.cut == ["away"]:
            return self.refuse(500, "Internal")
        return self.send(self.hub.delivered.get(name, self.hub.files[commit][name]))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    hub = Hub()
    hub.delivered = {}
    pages, hub.url = hub.serve(HubPages)
    storage, hub.storage = hub.serve(Storage)
    monkeypatch.setattr(weights, "hf_hub_url", partial(huggingface_hub.hf_hub_url, endpoint=hub.url))
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(huggingface_hub.file_download.time, "sleep", lambda seconds: None)
    # What arrives is written in pieces of this size: 10 MB otherwise.
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    monkeypatch.setenv("HF_TOKEN", "right")
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    yield hub
    for server in (pages, storage):
        server.shutdown()
        server.server_close()


@pytest.fixture
def large(tmp_path):
    return HubFile(REPO, "large.bin", lambda: tmp_path / "weights" / "mine.bin", COMMIT)


@pytest.fixture
def small(tmp_path):
    return HubFile(REPO, "small.json", lambda: tmp_path / "weights" / "small.json")


def downloads(hub):
    return [
        (span, token) for server, method, span, token in hub.seen if (server, method) == ("storage", "GET")
    ]


# ---------------------------------------------------------------------------- fetch
def test_a_file_arrives_with_its_origin(hub, large):
    source = fetch(large)
    assert large.place().read_bytes() == LARGE
    assert (source.repo, source.name, source.commit, source.bytes) == (REPO, "large.bin", COMMIT, len(LARGE))
    assert source.sha256 == hashlib.sha256(LARGE).hexdigest()
    assert read_source(large.place()) == source
    assert sorted(path.name for path in large.place().parent.iterdir()) == [
        "mine.bin",
        "mine.bin.source.json",
    ]


def test_the_token_is_for_the_hub_only(hub, large):
    fetch(large)
    assert [token for server, *_, token in hub.seen if server == "hub"] == ["right"]
    assert downloads(hub) == [(None, "")]


def test_small_files_go_by_gits_checksum_and_come_from_the_hub_itself(hub, small):
    assert fetch(small).commit == COMMIT and small.place().read_bytes() == FILES["small.json"]
    hub.revisions["main"], hub.files[NEWER]["small.json"] = NEWER, b'{"vocabulary": 8}'  # the branch moves on
    with pytest.raises(WeightsError, match=r"small\.json is not small\.json of lab/model"):
        fetch(small)


def test_an_interrupted_download_continues_in_the_next_run(hub, large):
    hub.cut = [100_000, "away"]
    with pytest.raises(
        WeightsError, match=r"large\.bin of lab/model could not be fetched.*is kept: fetch again"
    ) as caught:
        fetch(large)
    assert "signature" not in str(caught.value) and "\n" not in str(caught.value)
    assert not large.place().exists()
    part = next(large.place().parent.glob(".mine.bin.*.part"))
    assert part.read_bytes() == LARGE[: part.stat().st_size] and 0 < part.stat().st_size < len(LARGE)
    kept, hub.cut, before = part.stat().st_size, [], len(downloads(hub))
    fetch(large)
    assert large.place().read_bytes() == LARGE and not part.exists()
    (span, _), *others = downloads(hub)[before:]
    assert span.startswith(f"bytes={kept}-") and not others


def test_a_connection_that_breaks_is_taken_up_again(hub, large):
    hub.cut = [50_000, 120_000]
    fetch(large)
    assert large.place().read_bytes() == LARGE and len(downloads(hub)) == 3


def test_parts_of_two_versions_never_meet(hub, large):
    hub.cut = [100_000, "away"]
    with pytest.raises(WeightsError, match="could not be fetched"):
        fetch(large)
    hub.cut = []
    assert fetch(large, revision=NEWER).commit == NEWER
    assert large.place().read_bytes() == LARGE[::-1]


def test_what_arrives_damaged_is_deleted(hub, large):
    hub.delivered["large.bin"] = LARGE[:-1] + bytes([LARGE[-1] ^ 1])
    with pytest.raises(WeightsError, match=r"arrived damaged: its checksum is \w{64}, the hub says \w{64}"):
        fetch(large)
    assert not list(large.place().parent.iterdir())
    hub.delivered.clear()
    fetch(large)
    assert large.place().read_bytes() == LARGE


def test_a_second_fetch_downloads_nothing(hub, large):
    first = fetch(large)
    count = len(downloads(hub))
    assert fetch(large) == first and len(downloads(hub)) == count


def test_a_copy_made_by_hand_is_recognised(hub, large):
    large.place().parent.mkdir()
    large.place().write_bytes(LARGE)
    assert fetch(large).commit == COMMIT and not downloads(hub)
    assert verify(large) == "ok"


def test_another_file_is_kept_unless_told(hub, large):
    large.place().parent.mkdir()
    for other in (b"mine", LARGE[::-1]):
        large.place().write_bytes(other)
        with pytest.raises(
            WeightsError, match=r"mine\.bin is not large\.bin of lab/model at 1{40}.*--overwrite"
        ):
            fetch(large)
        assert large.place().read_bytes() == other
    fetch(large, overwrite=True)
    assert large.place().read_bytes() == LARGE


def test_no_room_is_said_before_anything_is_written(hub, large, monkeypatch):
    monkeypatch.setattr(weights.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(WeightsError, match=r"mine\.bin: 0 MiB are to come, 0 are free on its disk"):
        fetch(large)
    assert not list(large.place().parent.iterdir())


# ---------------------------------------------------------------------------- no access
@pytest.mark.parametrize("token", [None, "wrong"])
def test_gated_access_is_explained(hub, large, monkeypatch, token):
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(WeightsError, match=r"lab/model is gated.*accept its terms.*HF_TOKEN.*hf auth login"):
        fetch(large)
    assert not large.place().exists() and not downloads(hub)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repo": "lab/other"}, "the hub shows no lab/other.*the token is wrong or has no access"),
        ({"revision": "9" * 40}, "lab/model has no revision 9{40}; pass --revision main"),
        ({"name": "nothing.bin"}, r"lab/model at 1{40} has no file nothing\.bin"),
    ],
)
def test_what_the_hub_does_not_have_is_named(hub, large, changes, message):
    with pytest.raises(WeightsError, match=message):
        fetch(HubFile(**{**vars(large), **changes}))


def test_without_network_the_place_is_named(hub, large, monkeypatch):
    monkeypatch.setattr(
        weights, "hf_hub_url", partial(huggingface_hub.hf_hub_url, endpoint="http://127.0.0.1:9")
    )
    with pytest.raises(WeightsError, match=rf"could not be fetched \(\w+.*copy the file to {large.place()}"):
        fetch(large)


def test_a_server_that_is_no_hub_is_refused(hub, large, monkeypatch):
    monkeypatch.setattr(weights, "get_hf_file_metadata", lambda url: huggingface_hub.HfFileMetadata(
        commit_hash=COMMIT, etag="W-7", location=url, size=3, xet_file_data=None
    ))  # fmt: skip
    with pytest.raises(WeightsError, match="states no commit, size and checksum"):
        fetch(large)


# ---------------------------------------------------------------------------- list and verify
def test_verify_tells_what_happened_to_a_file(hub, large):
    assert verify(large) == "missing"
    fetch(large)
    assert verify(large) == "ok" and not source_file(large.place()).read_text().count("null")
    content = bytearray(LARGE)
    content[1234] ^= 1
    large.place().write_bytes(content)
    assert re.match(r"DAMAGED: SHA-256 is \w{64}, fetched was \w{64}; delete it", verify(large))
    large.place().write_bytes(LARGE[:-1])
    assert verify(large).startswith("DAMAGED: 299,999 bytes, 300,000 were fetched")
    source_file(large.place()).unlink()
    assert verify(large).startswith("origin unknown")


@pytest.fixture
def known(hub, large, small, tmp_path, monkeypatch):
    """One set of two files and one that is taken by hand."""
    by_hand = {tmp_path / "weights" / "tokens.json": "https://example.org/tokens.json"}
    monkeypatch.setattr(weights, "weight_sets", lambda: {"mine": WeightSet((large, small), by_hand)})
    return next(iter(by_hand))


def test_the_commands(known, large, small, capsys, caplog):
    assert main(["list"]) == 0
    assert re.search(
        r"mine +\S+mine\.bin  missing\n.*\n.*missing; by hand from https", capsys.readouterr().out
    )
    assert main(["verify"]) == 0 and "no weights are here" in capsys.readouterr().out
    assert main(["verify", "mine"]) == 1
    assert main(["fetch", "mine"]) == 1  # all but the file that is not on the hub
    assert (
        f"tokens.json is not on the hub: download https://example.org/tokens.json and put it at {known}"
        in caplog.text
    )
    assert large.place().is_file() and small.place().is_file()
    known.write_text("{}")
    assert main(["fetch", "mine"]) == 0 and main(["verify"]) == 0 and main(["list"]) == 0
    printed = capsys.readouterr().out
    assert "ok" in printed and "here, 111111111111\n" in printed and "here, by hand" in printed
    large.place().write_bytes(b"")
    assert main(["verify"]) == 1 and "DAMAGED" in capsys.readouterr().out


def test_another_commit_than_the_pinned_one_is_shown(known, capsys):
    assert main(["fetch", "mine", "--revision", NEWER]) == 1
    assert main(["list"]) == 0
    assert "here, 222222222222, not the 111111111111 of this version" in capsys.readouterr().out


def test_an_unreadable_note_is_named(known, large, capsys):
    fetch(large)
    source_file(large.place()).write_text('{"repo": 1}')
    assert main(["list"]) == 0 and main(["verify"]) == 1
    assert capsys.readouterr().out.count("mine.bin.source.json is unreadable") == 2


def test_unknown_names_are_refused(capsys):
    for command in ("fetch", "verify"):
        with pytest.raises(SystemExit) as left:
            main([command, "giga"])
        assert left.value.code == 2
    assert "gigapath_flash" in capsys.readouterr().err


def test_every_published_encoder_can_be_fetched():
    assert {"gigapath", "gigapath_flash", "titan", "conch"} <= weights.weight_sets().keys()
    places = [file.place() for chosen in weights.weight_sets().values() for file in chosen.hub]
    assert len(places) == len(set(places)) >= 7
    for chosen in weights.weight_sets().values():
        for file in chosen.hub:
            assert file.place().is_relative_to(constants.WEIGHTS_ROOT)
            assert file.revision == "main" or re.fullmatch(r"[0-9a-f]{40}", file.revision)


def test_the_command_line_as_people_run_it(hub, tmp_path):
    """In a process of its own, so that the variables of the hub's library count."""
    (file,) = weights.weight_sets()["conch"].hub
    hub.repos.add(file.repo)
    hub.revisions[file.revision] = COMMIT
    hub.files[COMMIT][file.name] = LARGE
    home, tokens = tmp_path / "home", tmp_path / "conch" / constants.CONCH_TOKENIZER.name
    own = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "MODALTUNE_"))}
    own |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "MODALTUNE_WEIGHTS_ROOT": str(tmp_path)}

    def call(*words, **variables):
        command = [sys.executable, "-m", "utils.weights", *words]
        return subprocess.run(
            command, cwd=constants.REPO_ROOT, env=own | variables, capture_output=True, text=True, check=False
        )

    done = call("fetch", "conch", HF_HUB_OFFLINE="1")
    assert done.returncode == 1 and "HF_HUB_OFFLINE is set" in done.stderr and not hub.seen
    home.mkdir()
    (home / "token").write_text("right")  # what hf auth login leaves
    tokens.parent.mkdir()
    tokens.write_text("{}")
    done = call("fetch", "conch")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "conch" / "conch.pt").read_bytes() == LARGE
    done = call("verify", "conch", HF_HUB_OFFLINE="1")
    assert done.returncode == 0 and re.search(r"conch +\S+conch\.pt  ok\n", done.stdout), done.stdout
