"""Official weights from the Hugging Face hub: fetches them, lists what is here, verifies it.

    python -m utils.weights list
    python -m utils.weights fetch gigapath_flash conch
    python -m utils.weights verify

Files go where ``utils/constants.py`` says, and nothing else in this repository ever needs the network: a file that was
copied there by hand serves as well. The access token is that of ``HF_TOKEN`` or of ``hf auth login``. Beside each file
``<file>.source.json`` keeps its repository, commit, size and SHA-256.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import HfFileMetadata, http_get
from huggingface_hub.utils import build_hf_headers

from models.conch.hub import HUB as CONCH_HUB
from models.conch.hub import TOKENIZER_SOURCE
from models.encoders import HubFile, slide_encoders
from utils import constants
from utils.files import read_json, setup_logging, write_json

logger = logging.getLogger(__name__)

# Large files go by their SHA-256, small ones by Git's SHA-1.
_CHECKSUM = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class WeightsError(Exception):
    """Weights cannot be fetched; the message says why and what to do."""


@dataclass(frozen=True)
class WeightSet:
    """What one name of the command stands for.

    Attributes:
        hub: files to fetch.
        by_hand: place -> page, of files that are not on the hub.
    """

    hub: tuple[HubFile, ...]
    by_hand: dict[Path, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """Where a file came from: the content of ``<file>.source.json``."""

    repo: str
    name: str
    commit: str
    bytes: int
    sha256: str


def weight_sets() -> dict[str, WeightSet]:
    """Weights by name: those of every slide encoder that declares where to get them, and CONCH's text tower."""
    sets = {name: WeightSet(encoder.hub) for name, encoder in slide_encoders().items() if encoder.hub}
    return sets | {"conch": WeightSet(CONCH_HUB, {constants.CONCH_TOKENIZER: TOKENIZER_SOURCE})}


def source_file(place: Path) -> Path:
    """Where the origin of a weight file is written."""
    return place.with_name(f"{place.name}.source.json")


def read_source(place: Path) -> Source | None:
    """The origin of a weight file; ``None`` where nothing is written about it.

    Raises:
        WeightsError: what is written is unreadable.
    """
    path = source_file(place)
    try:
        return Source(**read_json(path))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{path} is unreadable ({error}); delete it and fetch again") from error


def digests(path: Path) -> tuple[str, str]:
    """SHA-256 and Git's SHA-1 of a file: the two that the hub knows files by."""
    sha256 = hashlib.sha256()
    git = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            sha256.update(block)
            git.update(block)
    return sha256.hexdigest(), git.hexdigest()


# ---------------------------------------------------------------------------- fetch
def fetch(file: HubFile, revision: str | None = None, overwrite: bool = False) -> Source:
    """Makes sure that a file of the hub lies at its place; an interrupted download continues.

    Args:
        file: what to fetch.
        revision: commit, branch or tag instead of the one that ``file`` names.
        overwrite: replace another file that lies there.

    Raises:
        WeightsError: there is no access, another file is there, or what arrived is damaged.
    """
    place, wanted = file.place(), revision or file.revision
    url = hf_hub_url(file.repo, file.name, revision=wanted)
    with _explained(file, wanted):
        found = get_hf_file_metadata(url)
    checksum = found.etag or ""
    if not (found.commit_hash and found.size is not None and _CHECKSUM.fullmatch(checksum)):
        raise WeightsError(
            f"{url}: the answer states no commit, size and checksum; is HF_ENDPOINT set to a hub?"
        )
    if place.exists() and not overwrite:
        return _take_what_is_there(file, place, found)
    place.parent.mkdir(parents=True, exist_ok=True)
    # Its name holds the checksum, so that parts of two versions never meet.
    part = place.with_name(f".{place.name}.{checksum[:16]}.part")
    done = part.stat().st_size if part.exists() else 0
    if done > found.size:
        part.unlink()
        done = 0
    if (free := shutil.disk_usage(place.parent).free) < found.size - done:
        raise WeightsError(
            f"{place}: {(found.size - done) / 2**20:,.0f} MiB are to come, {free / 2**20:,.0f} are free on its disk"
        )
    logger.info(
        "%s of %s at %s: %.0f MiB%s -> %s",
        file.name,
        file.repo,
        found.commit_hash[:12],
        found.size / 2**20,
        f", {done / 2**20:.0f} of them are here" if done else "",
        place,
    )
    headers = build_hf_headers()
    if (
        urlsplit(found.location).netloc != urlsplit(url).netloc
    ):  # the token is for the hub, not for its storage
        headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
    with _explained(file, wanted), part.open("ab") as target:
        http_get(found.location, target, resume_size=done, headers=headers, expected_size=found.size)
    sha256, git = digests(part)
    if checksum not in (sha256, git):
        part.unlink()
        raise WeightsError(
            f"{file.name} of {file.repo} arrived damaged: its checksum is {sha256}, the hub says {checksum}. What "
            "arrived is deleted; fetch again"
        )
    part.replace(place)
    return _write_source(file, place, found, sha256)


def _take_what_is_there(file: HubFile, place: Path, found: HfFileMetadata) -> Source:
    source = read_source(place)
    size = place.stat().st_size
    if source is not None and source.commit == found.commit_hash and source.bytes == size == found.size:
        logger.info("%s is there already", place)
        return source
    if size == found.size:
        sha256, git = digests(place)
        if found.etag in (sha256, git):
            logger.info(
                "%s is that of %s at %s; noted beside it", place, file.repo, str(found.commit_hash)[:12]
            )
            return _write_source(file, place, found, sha256)
    raise WeightsError(
        f"{place} is not {file.name} of {file.repo} at {found.commit_hash}: move it away, or pass --overwrite to "
        "replace it"
    )


def _write_source(file: HubFile, place: Path, found: HfFileMetadata, sha256: str) -> Source:
    source = Source(file.repo, file.name, str(found.commit_hash), int(found.size or 0), sha256)
    write_json(source_file(place), asdict(source))
    return source


@contextmanager
def _explained(file: HubFile, revision: str) -> Iterator[None]:
    """Errors of the hub and of the network become messages that say what to do."""
    what, page = f"{file.name} of {file.repo}", f"https://huggingface.co/{file.repo}"
    try:
        yield
    except GatedRepoError as error:
        raise WeightsError(
            f"{file.repo} is gated, and you have no access to it yet. 1. Open {page}, log in, accept its terms and "
            "wait until access is granted. 2. Make a token with read access on https://huggingface.co/settings/tokens. "
            "3. Set HF_TOKEN to it, or run: hf auth login. Then fetch again"
        ) from error
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"the hub shows no {file.repo}. If {page} exists in a browser, the token is wrong or has no access: set "
            "HF_TOKEN to one with read access, or run: hf auth login"
        ) from error
    except RevisionNotFoundError as error:
        raise WeightsError(
            f"{file.repo} has no revision {revision}; pass --revision main for the newest, and compare results"
        ) from error
    except EntryNotFoundError as error:
        raise WeightsError(
            f"{file.repo} at {revision} has no file {file.name}; look at {page}/tree/{revision}, or pass --revision"
        ) from error
    except OfflineModeIsEnabled as error:
        raise WeightsError(
            f"{what}: HF_HUB_OFFLINE is set. Unset it, or copy the file to {file.place()} yourself"
        ) from error
    # What a broken connection raises depends on the HTTP library, and that on the version of huggingface_hub.
    except Exception as error:
        # In one line, and without the signatures of addresses in the storage.
        reason = re.sub(r"\?[^\s']+", "?...", " ".join(str(error).split()))
        raise WeightsError(
            f"{what} could not be fetched ({type(error).__name__}: {reason}). What arrived is kept: fetch again, and "
            f"it continues. Without network, copy the file to {file.place()} yourself"
        ) from error


# ---------------------------------------------------------------------------- list and verify
def state_of(file: HubFile) -> str:
    """What lies at the place of a file, without reading it."""
    place = file.place()
    if not place.is_file():
        return "missing"
    source = read_source(place)
    if source is None:
        return "here, origin unknown"
    pinned = (
        "" if file.revision in ("main", source.commit) else f", not the {file.revision[:12]} of this version"
    )
    return f"here, {source.commit[:12]}{pinned}"


def verify(file: HubFile) -> str:
    """``ok``, ``missing``, or what is wrong with a file; reads it whole."""
    place = file.place()
    if not place.is_file():
        return "missing"
    source = read_source(place)
    if source is None:
        return f"origin unknown, so there is nothing to compare with; fetch compares it with {file.repo}"
    if (size := place.stat().st_size) != source.bytes:
        return f"DAMAGED: {size:,} bytes, {source.bytes:,} were fetched; delete it and fetch again"
    if (sha256 := digests(place)[0]) != source.sha256:
        return f"DAMAGED: SHA-256 is {sha256}, fetched was {source.sha256}; delete it and fetch again"
    return "ok"


def _table(names: Sequence[str], look: Callable[[HubFile], str]) -> list[tuple[str, str, str]]:
    """Name, place and state of every file of the sets ``names``."""
    rows = []
    for name in names:
        chosen = weight_sets()[name]
        for file in chosen.hub:
            try:
                state = look(file)
            except WeightsError as error:
                state = str(error)
            rows.append((name, str(file.place()), state))
        for place, page in chosen.by_hand.items():
            rows.append(
                (name, str(place), "here, by hand" if place.is_file() else f"missing; by hand from {page}")
            )
    return rows


def _print(rows: Sequence[tuple[str, str, str]]) -> None:
    for row in rows:
        sys.stdout.write(f"{row[0]:<16} {row[1]}  {row[2]}\n")


def _fetch_all(names: Sequence[str], revision: str | None, overwrite: bool) -> int:
    failed = 0
    for name in names:
        chosen = weight_sets()[name]
        for file in chosen.hub:
            try:
                source = fetch(file, revision, overwrite)
                logger.info("%s: SHA-256 %s", file.place(), source.sha256)
            except WeightsError as error:
                logger.error("%s", error)
                failed += 1
        for place, page in chosen.by_hand.items():
            if not place.is_file():
                logger.error("%s is not on the hub: download %s and put it at %s", place.name, page, place)
                failed += 1
    return int(failed > 0)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of the entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="Exit status: 0 all is well, 1 something is missing or damaged, 2 wrong usage.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    known = sorted(weight_sets())
    add = commands.add_parser("fetch", help="download what is missing").add_argument
    add("names", nargs="+", choices=known, help="whose weights")
    add("--revision", help="commit, branch or tag instead of the one that this version was written for")
    add("--overwrite", action="store_true", help="replace other files that lie there")
    commands.add_parser("list", help="which weights there are, and which are here")
    add = commands.add_parser(
        "verify", help="compare files with the checksums they were fetched with"
    ).add_argument
    add("names", nargs="*", metavar="name", help=f"{', '.join(known)}; none: all of which a file is here")
    args = parser.parse_args(argv)
    if unknown := sorted(set(getattr(args, "names", ())) - set(known)):
        parser.error(f"unknown weights {unknown}; there are {known}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    setup_logging()
    args = parse_args(argv)
    sets = weight_sets()
    if args.command == "fetch":
        return _fetch_all(args.names, args.revision, args.overwrite)
    if args.command == "list":
        _print(_table(sorted(sets), state_of))
        return 0
    names = args.names or [name for name in sorted(sets) if any(f.place().is_file() for f in sets[name].hub)]
    rows = _table(names, verify)
    _print(rows or [("", "no weights are here", "python -m utils.weights fetch ...")])
    return int(any(state not in ("ok", "here, by hand") for *_, state in rows))


if __name__ == "__main__":
    raise SystemExit(main())
