"""Commands that a warm Python runs, against the same in a process of their own."""

import os
import signal
import subprocess
import sys

import pytest

from utils import constants

COMMANDS = [
    ["-c", "import sys; print(sys.argv); sys.exit(sys.stdin.read())", "a", "b c"],
    ["-c", "import os; print(os.getcwd(), os.environ['MODALTUNE_DATA_ROOT'], flush=True); os._exit(3)"],
    ["-c", "import atexit; atexit.register(print, 'last'); raise SystemExit(4)"],
    ["-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"],
    ["-m", "my_module", "word"],
    ["my_script.py", "word"],
]
MODULE = "import sys, utils.constants as c; print(__name__, sys.argv[1:], c.DATA_ROOT, sys.path[0])"


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[1][:20])
def test_a_command_ends_as_in_a_process_of_its_own(words, warm_python, tmp_path):
    (tmp_path / "my_module.py").write_text(MODULE)
    (tmp_path / "my_script.py").write_text(MODULE)
    found = []
    for python in (sys.executable, "python"):
        path = f"{warm_python.bin}:{os.environ['PATH']}"
        variables = {"PATH": path, "MODALTUNE_DATA_ROOT": "/data", "PYTHONPATH": str(constants.REPO_ROOT)}
        done = subprocess.run(
            [python, *words],
            env=os.environ | variables,
            cwd=tmp_path,
            input="input",
            capture_output=True,
            text=True,
        )
        found.append((done.returncode, done.stdout, done.stderr))
    assert found[0] == found[1]
    assert found[0][1] or found[0][0] < 0


def test_a_failure_shows_its_traceback(warm_python):
    done = subprocess.run(
        [warm_python.bin / "python", "-c", "import utils.constants; 1 / 0"],
        cwd=constants.REPO_ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"


def test_a_signal_reaches_the_command(warm_python):
    code = "import signal, sys, time; signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75)); "
    code += "print('ready', flush=True); time.sleep(60)"
    process = subprocess.Popen([warm_python.bin / "python", "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 75
