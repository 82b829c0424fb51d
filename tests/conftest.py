"""What the tests share: digits drawn from fonts in place of a download, and the scripts as a person runs them."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import glyphs  # noqa: E402


@pytest.fixture(scope="session")
def glyph_dir(tmp_path_factory):
    """A data folder with 300 training and 70 test glyphs under the names of both data sets; no batch divides them."""
    folder = tmp_path_factory.mktemp("data")
    glyphs.write_dataset(folder, "mnist", 300, 70, seed=1)
    glyphs.write_dataset(folder, "fashion", 300, 70, seed=2)
    return folder


@pytest.fixture
def command():
    """Run a script as a person does: command(script, *flags, cwd=...) -> CompletedProcess with text output."""
    def call(script, *flags, **options):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run([sys.executable, script, *map(str, flags)], capture_output=True, text=True, timeout=240,
                              env=environment, **options)
    return call
