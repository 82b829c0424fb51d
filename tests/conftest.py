"""What the tests share: digits drawn from fonts in place of a download, ways to run a script."""
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
import torch  # noqa: E402

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
    return ["--data-dir", glyph_dir, "--out-dir", tmp_path / "plots", "--runs-dir", tmp_path / "runs"]


@pytest.fixture
def call(monkeypatch):
    """call(script, *flags): the main() of an imported script, as if these flags were typed."""
    def main(script, *flags):
        monkeypatch.setattr(sys, "argv", [script.__file__, *map(str, flags)])
        return script.main()
    return main


@pytest.fixture
def fails(call):
    """fails(script, *flags): the one line that a script ends in, with status 1."""
    def line(script, *flags):
        with pytest.raises(SystemExit) as stop:
            script.run(lambda: call(script, *flags))
        text = stop.value.code
        assert isinstance(text, str) and text.startswith(f"{Path(script.__file__).name}: "), text
        assert len(text.splitlines()) == 1, text
        return text
    return line


@pytest.fixture
def command():
    """command(script, *flags, cwd=...) runs a script as a person does -> CompletedProcess."""
    def run(script, *flags, **options):
        words = [sys.executable, "-W", "error", str(script), *map(str, flags)]
        return subprocess.run(words, capture_output=True, text=True, timeout=240, **options)
    return run


@pytest.fixture
def meta(monkeypatch):
    """The meta device, on which a tensor that was left on the CPU raises as it does beside CUDA.

    Its tensors hold no numbers: what takes one out gets a 1.
    """
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: 1.0)
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: [1.0] * len(tensor))
    return torch.device("meta")
