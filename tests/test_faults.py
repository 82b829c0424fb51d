"""Faults that a person, a disk or a scheduler can cause end alike in both training scripts: one line, nothing lost."""
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision

import gan
import vae

QUICK = {vae: [], gan: ["--arch", "mlp", "--dataset", "mnist"]}
NAME = {vae: "vae_mnist", gan: "gan_mlp_mnist"}
both = pytest.mark.parametrize("script", QUICK, ids=lambda script: script.__name__)


class Hostile:
    """Unpickled without care, this writes a file."""
    def __reduce__(self):
        return (open, ("hostile_ran", "w"))


@both
@pytest.mark.parametrize("content", ["garbage", "hostile", "of something else", "empty", "cut", "of an older version"])
def test_a_bad_checkpoint_ends_in_one_line_and_runs_nothing(folders, tmp_path, monkeypatch, fails, script, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    path = tmp_path / "runs" / f"{NAME[script]}.pt"
    settings = script.settings_of(script.parse_args([*folders, *QUICK[script]]))
    older = {"settings": settings, "epoch": 3, "model": {}, "optimizer": {}, "gan": [{}] * 5}  # knew no data set
    saved = {"hostile": Hostile(), "of something else": {"epoch": 3}, "of an older version": older}
    torch.save(saved.get(content), path)
    if content in ("garbage", "empty", "cut"):
        path.write_bytes({"garbage": b"\x80garbage" * 99, "empty": b"", "cut": path.read_bytes()[:-99]}[content])
    line = fails(script, ["--resume", *folders, *QUICK[script]], 1)
    assert f"{NAME[script]}.pt is damaged" in line and "without --resume" in line
    assert not (tmp_path / "hostile_ran").exists()


@both
def test_resuming_what_was_never_started(folders, tmp_path, fails, script):
    line = fails(script, ["--resume", *folders, *QUICK[script]], 1)
    assert f"{NAME[script]}.pt" in line and "without --resume" in line
    assert "holds nothing to resume" in line
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        f".lock-{NAME[script]}", f".out.lock-{NAME[script]}"}


@both
def test_a_run_is_not_resumed_in_another_precision(folders, fails, script):
    """On a CPU of another kind the same command would go on with other products; it must say so."""
    flags = ["--epochs", "1", "--no-cuda", *folders, *QUICK[script]]
    script.main([*flags, "--precision", "bfloat16"])
    assert "--precision bfloat16" in fails(script, [*flags, "--precision", "float32", "--resume"], 1)


FILES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]


@both
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "other"])
def test_missing_and_damaged_data(glyph_dir, tmp_path, monkeypatch, fails, script, file, damage):
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])  # nobody listens there
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    for name in FILES:
        (raw / name).write_bytes((glyph_dir / "MNIST/raw" / name).read_bytes())
    content = (raw / file).read_bytes()
    if damage == "missing":
        (raw / file).unlink()
    else:
        other = (raw / FILES[(FILES.index(file) + 1) % 4]).read_bytes()
        (raw / file).write_bytes({"empty": b"", "truncated": content[:-5], "other": other}[damage])
    line = fails(script, [*QUICK[script], "--data-dir", tmp_path, "--out-dir", tmp_path / "p", "--runs-dir",
                          tmp_path / "r"], 1)
    assert "--data-dir" in line and "make demo" in line and str(raw) in line
    assert file in line or damage == "other"  # of two that do not fit each other, either may be named


@both
@pytest.mark.parametrize("flag", ["--out-dir", "--runs-dir"])
def test_a_folder_that_cannot_be_written(folders, tmp_path, fails, script, flag):
    (tmp_path / "file").write_text("")
    line = fails(script, [*folders, *QUICK[script], flag, tmp_path / "file/folder"], 1)
    assert "file/folder" in line and "another folder" in line


DIES_WHILE_SAVING = """
import importlib, os, pathlib, signal, sys
write, calls = pathlib.Path.write_bytes, []
def write_half(path, content):
    calls.append(path)
    if len(calls) == 3:  # the state before training and after epoch 1 are on the disk
        write(path, content[:len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    return write(path, content)
pathlib.Path.write_bytes = write_half
importlib.import_module(sys.argv[1]).main(sys.argv[2:])
"""


@both
def test_killed_in_the_middle_of_saving(folders, tmp_path, script):
    flags, checkpoint = ["--epochs", "3", *folders, *QUICK[script]], tmp_path / "runs" / f"{NAME[script]}.pt"
    done = subprocess.run([sys.executable, "-c", DIES_WHILE_SAVING, script.__name__, *flags],
                          cwd=Path(vae.__file__).parent, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 1
    script.main([*flags, "--resume"])
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 3
    assert not list(tmp_path.rglob(".part-*"))
