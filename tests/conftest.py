"""What the tests share: digits drawn from fonts in place of a download, ways to run a script."""
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: two workers share two cores
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import glyphs  # noqa: E402

# A shell's job in the background ignores Ctrl-C, and so would the runs that tests stop with it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def glyph_dir(tmp_path_factory):
    """300 training and 70 test glyphs under the names of both data sets; no batch divides them."""
    folder = tmp_path_factory.mktemp("data")
    glyphs.write_dataset(folder, "mnist", 300, 70, seed=1)
    glyphs.write_dataset(folder, "fashion", 300, 70, seed=2)
    return folder


@pytest.fixture
def folders(glyph_dir, tmp_path):
    """The flags that keep a run inside a test's own folder."""
    return ["--data-dir", str(glyph_dir), "--out-dir", str(tmp_path / "plots"),
            "--runs-dir", str(tmp_path / "runs")]


@pytest.fixture
def command():
    """command(script, *flags, cwd=...) runs a script as a person does -> CompletedProcess."""
    def call(script, *flags, **options):
        words = [sys.executable, "-W", "error", str(script), *map(str, flags)]
        return subprocess.run(words, capture_output=True, text=True, timeout=240, **options)
    return call


@pytest.fixture
def fails(capsys):
    """fails(script, flags, status): script.main(flags), as `run` calls it; returns its one line."""
    def call(script, flags, status):
        handler = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as stop:
                script.run(lambda: script.main([str(flag) for flag in flags]))
        finally:
            signal.signal(signal.SIGTERM, handler)
        err = capsys.readouterr().err
        text, found = (stop.value.code, 1) if isinstance(stop.value.code, str) else (
            err, stop.value.code)
        assert found == status
        assert len(text.strip().splitlines()) == 1, text
        return text
    return call


FORKS = """
import json, os, runpy, sys
import torch, torchvision
commands, at_once, prelude = map(json.loads, sys.argv[1:])
exec(prelude)
children = []
for number, words in enumerate(commands):
    child = os.fork()
    if child == 0:
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{name}{number}", os.O_WRONLY | os.O_CREAT), stream)
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
        sys.exit()
    children.append(child)
    if not at_once:
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))
"""


@pytest.fixture
def forks(tmp_path):
    """forks([[script, *flags], ...]) -> a CompletedProcess each: scripts run as __main__, in forks
    of a process that has imported PyTorch once, which takes longer than a small run, and executed
    `prelude`; one after the other, or all at once."""
    if not hasattr(os, "fork"):
        pytest.skip("Windows has no fork")

    def call(commands, at_once=False, prelude="", **surroundings):
        logs = tmp_path / "logs"
        logs.mkdir(exist_ok=True)
        commands = [[str(word) for word in words] for words in commands]
        inputs = map(json.dumps, (commands, at_once, prelude))
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", FORKS, *inputs],
            capture_output=True, text=True, timeout=240, cwd=logs, env=os.environ | surroundings)
        assert done.returncode == 0, done.stderr
        return [subprocess.CompletedProcess(words, status, (logs / f"out{number}").read_text(errors="replace"),
                                            (logs / f"err{number}").read_text(errors="replace"))
                for number, (words, status) in enumerate(zip(commands, json.loads(done.stdout)))]
    return call
