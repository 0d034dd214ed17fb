"""Two jobs on one run folder."""

import errno
import fcntl
import os
import signal
import socket
import time

import pytest

from tests.forked import finish, start
from utils.training.run_lock import LOCK_FILE, run_lock

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*")


def hold(folder, seconds=60.0):
    with run_lock(folder):
        (folder / "held").touch()
        time.sleep(seconds)


@pytest.fixture
def holder(tmp_path):
    process = start(hold, tmp_path)
    while not (tmp_path / "held").exists():
        time.sleep(0.005)
    yield process
    process.kill()
    process.join()


def test_the_second_is_refused_and_told_who_holds_it(tmp_path, holder):
    words = rf"{tmp_path} is in use by another job \(host {socket.gethostname()}, process {holder.pid}\)"
    for _ in range(2):
        with pytest.raises(RuntimeError, match=words), run_lock(tmp_path):
            pass
    with run_lock(tmp_path / "another"):
        pass


def test_it_ends_with_its_process(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    assert finish(holder) == -signal.SIGKILL
    with run_lock(tmp_path):
        assert str(os.getpid()) in (tmp_path / LOCK_FILE).read_text()


def test_children_do_not_keep_it(tmp_path):
    """A process that reads cases may outlive the trainer for seconds."""
    trainer = os.fork()
    if trainer == 0:
        with run_lock(tmp_path):
            reader = os.fork()
            if reader == 0:
                time.sleep(60)
            (tmp_path / "reader").write_text(str(reader))
            os._exit(0)
    os.waitpid(trainer, 0)
    reader = int((tmp_path / "reader").read_text())
    try:
        with run_lock(tmp_path):
            os.kill(reader, 0)  # it is still there
    finally:
        os.kill(reader, signal.SIGKILL)


def test_after_the_block_the_next_may_come(tmp_path):
    with run_lock(tmp_path):
        pass
    assert finish(start(hold, tmp_path, 0.0)) == 0


def test_half_written_files_of_killed_jobs_are_removed(tmp_path):
    names = (".last_checkpoint.4711.tmp.pt", "seed_0/.metrics.12.tmp.csv", "seed_0/metrics.csv", "tmp.csv")
    (tmp_path / "seed_0").mkdir()
    for name in names:
        (tmp_path / name).write_text("half")
    with run_lock(tmp_path):
        left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {LOCK_FILE, "seed_0/metrics.csv", "tmp.csv"}


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, caplog, code):
    def refuse(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with run_lock(tmp_path):
        assert "knows no locks" in caplog.text


def test_other_errors_are_raised(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(fcntl, "lockf", fail)
    with pytest.raises(OSError, match="broken disk"), run_lock(tmp_path):
        pass
