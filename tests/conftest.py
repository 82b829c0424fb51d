"""What the tests share: digits drawn from fonts in place of a download, and the scripts as a person runs them."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: two workers share two cores
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
def folders(glyph_dir, tmp_path):
    """The flags that keep a run inside a test's own folder."""
    return ["--data-dir", str(glyph_dir), "--out-dir", str(tmp_path / "plots"), "--runs-dir", str(tmp_path / "runs")]


@pytest.fixture
def command():
    """Run a script as a person does: command(script, *flags, cwd=...) -> CompletedProcess with text output."""
    def call(script, *flags, **options):
        return subprocess.run([sys.executable, "-W", "error", str(script), *map(str, flags)], capture_output=True,
                              text=True, timeout=240, **options)
    return call


@pytest.fixture
def fails(capsys):
    """fails(main, flags, status) runs main(flags) as `run` does, expects that status, and returns its one line."""
    def call(script, flags, status):
        with pytest.raises(SystemExit) as stop:
            script.run(lambda: script.main([str(flag) for flag in flags]))
        text = stop.value.code if isinstance(stop.value.code, str) else capsys.readouterr().err
        assert (1 if isinstance(stop.value.code, str) else stop.value.code) == status
        assert len(text.strip().splitlines()) == 1, text
        return text
    return call
