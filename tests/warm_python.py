"""Commands of Python that start at once, for tests of shell scripts and documented commands.

Importing torch and its like takes seconds of every process. Here one process has imported the packages, forks for
every command, and runs it as ``python`` would: the words, folder, variables and open files are those of the caller.
Nothing of this repository is imported before the fork, so that it reads the variables anew. How a process without any
of this starts is the matter of tests/test_shipped_files.py.

    with WarmPython(folder) as warm:
        subprocess.run(["bash", "scripts/run_demo.sh"], env={**os.environ, "PATH": f"{warm.bin}:{os.environ['PATH']}"})
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import socket
import subprocess
import sys
from pathlib import Path

PACKAGES = (
    "captum.attr",
    "h5py",
    "jinja2",
    "lifelines",
    "matplotlib.backends.backend_agg",
    "open_clip",
    "openslide",
    "pandas",
    "safetensors.torch",
    "scipy.stats",
    "sklearn.linear_model",
    "sklearn.model_selection",
    "sksurv.metrics",
    "tifffile",
    "timm",
    "torch._dynamo",
    "torchvision.transforms",
)

# What `python` is for a script: it hands its call over and ends as the command did. Only modules that start fast.
CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
link = socket.socket(socket.AF_UNIX)
link.connect({address!r})
call = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(link, [len(call).to_bytes(8, "big")], [0, 1, 2])
link.sendall(call)
answers = link.makefile()
child = int(answers.readline())
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, frame: os.kill(child, number))
link.sendall(b".")
status = int(answers.readline() or 1)
if status < 0:
    if -status not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


class WarmPython:
    """The process, and a folder ``bin`` whose ``python`` and ``python3`` ask it."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        address = str(folder / "socket")
        for name in ("python", "python3"):
            (self.bin / name).write_text(CLIENT.format(python=sys.executable, address=address))
            (self.bin / name).chmod(0o755)
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(address)
        self.listening.listen(64)
        number = self.listening.fileno()
        command = [sys.executable, "-m", "tests.warm_python", str(number)]
        root = Path(__file__).parents[1]
        self.process = subprocess.Popen(command, pass_fds=[number], stdin=subprocess.PIPE, cwd=root)

    def __enter__(self) -> WarmPython:
        return self

    def __exit__(self, *about: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.listening.close()


def serve(listening: socket.socket) -> list[str]:
    """Answers calls until its parent is gone. Returns once in a new process for every call: its command line."""
    for name in PACKAGES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    while listening in select.select([listening, sys.stdin], [], [])[0]:
        link, _ = listening.accept()
        with contextlib.suppress(ChildProcessError):  # there is none
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if os.fork() == 0:
            listening.close()
            return _answer(link)
        link.close()
    sys.exit()


def _answer(link: socket.socket) -> list[str]:
    """Returns the command line in a process that is as the caller's, and tells the caller how that one ends."""
    head, files, _, _ = socket.recv_fds(link, 8, 3)
    with link.makefile("rb") as stream:
        words, folder, variables = json.loads(stream.read(int.from_bytes(head, "big")))
    if (child := os.fork()) == 0:
        link.recv(1)  # the caller knows whom to pass signals on to
        link.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(variables)
        sys.path[:1] = [folder, *(path for path in variables.get("PYTHONPATH", "").split(":") if path)]
        del sys.modules["tests"]
        return words
    for file in files:
        os.close(file)
    link.sendall(f"{child}\n".encode())
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(BrokenPipeError):
        link.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def execute(words: list[str]) -> None:
    """What the interpreter does with a command line."""
    kind, *rest = words
    if kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv, sys.path[0] = words, str(Path(kind).resolve().parent)
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    # Outside of all functions, so that a command ends as in a process of its own: handlers, traceback, status.
    execute(serve(socket.socket(fileno=int(sys.argv[1]))))
