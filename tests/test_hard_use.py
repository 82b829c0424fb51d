"""What laptops, cluster queues and Colab do to runs: full and read-only disks, no memory, other data, a second run."""
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import glyphs
import pytest
import torch

import gan
import p3_autoencoder
import p5_compare
import vae

ROOT = Path(__file__).resolve().parent.parent
QUICK = {vae: ["--epochs", "2"], gan: ["--arch", "mlp", "--dataset", "mnist", "--epochs", "2"],
         p3_autoencoder: ["--epochs", "2"]}
NAME = {vae: "vae_mnist", gan: "gan_mlp_mnist", p3_autoencoder: "p3_mnist"}
training = pytest.mark.parametrize("script", QUICK, ids=lambda script: script.__name__)


@pytest.fixture(autouse=True)
def hardly_a_denoiser(monkeypatch):
    """The denoiser's half minute writes nothing."""
    monkeypatch.setattr(p3_autoencoder.train_denoiser, "__defaults__", (50,))
    monkeypatch.setattr(p3_autoencoder.posterior_mean, "__defaults__", (21,))


def listing(folder):
    """{file: content} of what a run leaves, its lock aside."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")}


@training
def test_a_second_run_of_the_same_name_is_told_and_overwrites_nothing(folders, tmp_path, fails, script):
    vae.main(["--epochs", "1", *folders, "--run-name", NAME[script]])  # some files to overwrite
    before = listing(tmp_path)
    with script.claim(tmp_path / f"runs/.lock-{NAME[script]}", tmp_path):  # as the first run does
        for resume in ([], ["--resume"]):
            line = fails(script, [*QUICK[script], *folders, *resume], 1)
            assert "let the other run end" in line and NAME[script] in line
    assert listing(tmp_path) == before


@training
def test_two_runs_of_one_name_cannot_share_an_out_dir(folders, tmp_path, fails, script):
    with script.claim(tmp_path / f"elsewhere/.lock-{NAME[script]}", tmp_path / "plots"):
        assert "let the other run end" in fails(script, [*QUICK[script], *folders], 1)
    assert listing(tmp_path) == {}


def test_a_loop_of_links_is_told_in_one_line(folders, tmp_path, fails):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    fails(vae, [*QUICK[vae], *folders, "--out-dir", str(tmp_path / "loop/plots")], 1)


def test_a_second_judge_of_the_same_data_set_is_told(folders, tmp_path, fails):
    with p5_compare.claim(tmp_path / "runs/.lock-p5_compare_mnist", tmp_path):
        assert "let the other run end" in fails(p5_compare, ["--dataset", "mnist", *folders], 1)
    assert "no samples of mnist" in fails(p5_compare, ["--dataset", "mnist", *folders], 1)  # the lock is free again


def test_a_lock_dies_with_its_process(tmp_path):
    script = "import sys, vae\nwith vae.claim(*map(vae.Path, sys.argv[1:])):\n    print('held', flush=True) or input()"
    holder = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "lock"), str(tmp_path)], cwd=ROOT,
                              text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OSError, match="let the other run end"), vae.claim(tmp_path / "lock", tmp_path):
            pass
        holder.kill()
        holder.wait()
        with vae.claim(tmp_path / "lock", tmp_path):
            pass


@training
def test_other_images_than_at_the_start_are_refused(folders, tmp_path, fails, script):
    script.main([*QUICK[script], *folders])
    before = listing(tmp_path)
    glyphs.write_dataset(tmp_path / "other", "mnist", 300, 70, seed=9)
    line = fails(script, [*QUICK[script], *folders, "--data-dir", tmp_path / "other", "--resume"], 1)
    assert "--data-dir of checksum" in line and "--runs-dir" in line
    assert {path: content for path, content in listing(tmp_path).items() if "other" not in path.parts} == before


@pytest.fixture
def disk(tmp_path):
    """A disk of its own that can be filled: disk(size) mounts it, or changes it, and returns its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        again = os.path.ismount(folder)
        words = ["mount", "-t", "tmpfs", "-o", "remount," * again + options, "tmpfs", folder]
        done = shutil.which("mount") and subprocess.run(words, capture_output=True)
        if not again and (not done or done.returncode):
            pytest.skip("only root on Linux may mount a disk for this")
        assert done.returncode == 0, done.stderr
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", folder], check=True)


@training
def test_a_full_disk_loses_nothing(glyph_dir, tmp_path, disk, fails, script):
    """Full at a half, at most and at nearly all that a run writes; with room again, it ends as if it never had been."""
    home = disk("size=900m")
    flags = [*QUICK[script], "--data-dir", glyph_dir, "--out-dir", home / "plots", "--runs-dir", home / "runs"]
    script.main([str(flag) for flag in flags])
    whole, checkpoint, epoch = listing(home), home / f"runs/{NAME[script]}.pt", -1
    for path in whole:
        path.unlink()
    for share in (0.5, 0.8, 0.95):
        disk(f"size={int(share * sum(map(len, whole.values())))}")
        resume = ["--resume"] * checkpoint.exists()
        line = fails(script, [*flags, *resume], 1)
        assert "No space left" in line and "make room" in line and not list(home.rglob(".part-*"))
        before, epoch = epoch, torch.load(checkpoint, weights_only=True)["epoch"] if checkpoint.exists() else -1
        assert epoch >= before  # what was trained stays
    disk("size=900m")
    script.main([str(flag) for flag in flags] + ["--resume"] * checkpoint.exists())
    again = listing(home)
    assert again.keys() == whole.keys()
    assert all(again[path] == content for path, content in whole.items() if path.suffix in (".pdf", ".png"))


@pytest.mark.parametrize("folder", ["plots", "runs"])
@training
def test_a_read_only_disk_is_named_before_training(folders, disk, fails, script, folder):
    home = disk("size=1m")
    (home / "here").mkdir()
    disk("ro")
    flag = {"plots": "--out-dir", "runs": "--runs-dir"}[folder]
    line = fails(script, [*QUICK[script], *folders, flag, home / "here"], 1)
    assert str(home / "here") in line and "another folder" in line


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps to RLIMIT_AS")
def test_too_little_memory_ends_in_one_line_and_keeps_what_was_trained(folders, tmp_path):
    flags = ["--epochs", "1", "--latent-dim", "4000", "--prior", "mixture"]  # trains, but cannot fit the prior

    def little_memory():
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30,) * 2)
    done = subprocess.run([sys.executable, ROOT / "vae.py", *folders, *flags], capture_output=True, text=True,
                          timeout=240, preexec_fn=little_memory)
    assert done.returncode == 1 and done.stderr.startswith("vae.py: out of memory"), done.stderr
    assert done.stderr.count("\n") == 1 and (tmp_path / "runs/vae_mnist.pt").exists()


def test_bare_surroundings(folders, tmp_path):
    """No HOME, no display, a terminal without UTF-8, two threads for one, warnings as errors: the same results."""
    surroundings = {"PATH": os.environ["PATH"], "HOME": "/nowhere", "LC_ALL": "C", "PYTHONUTF8": "0",
                    "PYTHONCOERCECLOCALE": "0", "OMP_NUM_THREADS": "2"}
    folders[3:5] = str(tmp_path / "plöts"), folders[4]
    done = subprocess.run([sys.executable, "-W", "error", ROOT / "vae.py", "--epochs", "1", *folders], text=True,
                          capture_output=True, timeout=240, env=surroundings, cwd="/")
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    record = json.loads((tmp_path / "plöts/vae_mnist.json").read_text())
    assert record["device"] == "cpu, 2 threads"
    vae.main(["--epochs", "1", *folders, "--run-name", "here"])
    here = json.loads((tmp_path / "plöts/here.json").read_text())
    assert record["numbers"]["test_loss"]["value"] == pytest.approx(here["numbers"]["test_loss"]["value"], rel=1e-4)


SCRIPTS = ["gan", "p1", "p2", "p3_autoencoder", "p4_divergences", "p5_compare", "p5_seeds", "p5_toys", "vae"]


class FlagsError(Exception):
    """Carries the flags of a parser out of parse_args."""


def bad_values(script, monkeypatch):
    """For every flag of a script, command lines that are wrong usage."""
    def stop(parser, *_):
        raise FlagsError(parser._actions)

    with monkeypatch.context() as patch, pytest.raises(FlagsError) as caught:
        patch.setattr("argparse.ArgumentParser.parse_args", stop)
        script.parse_args([])
    for action in caught.value.args[0]:
        if flag := action.option_strings[-1] if action.option_strings and action.dest != "help" else None:
            yield from ([f"{flag}=yes"],) if action.nargs == 0 else ([flag],)  # a switch takes no value, all else one
            if action.choices:
                yield from ([flag, value] for value in ("", "nothing of the kind", "-1"))
            if action.type in (int, float):
                yield from ([flag, value] for value in ("", "x", "-1", "1,5", "9" * 40, "nan", "inf", "-inf", "0x10"))
            if action.type is int:
                yield from ([flag, value] for value in ("1.5", "1e3"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_bad_value_of_every_flag_is_wrong_usage_in_one_line(name, monkeypatch, capsys):
    script = importlib.import_module(name)
    lines = list(bad_values(script, monkeypatch))
    assert lines or name == "p1"
    for flags in lines:
        with pytest.raises(SystemExit) as stop:
            script.main(flags)
        out, err = capsys.readouterr()
        assert (stop.value.code, out, err.count("\n")) == (2, "", 1), flags


@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forks")
def test_kills_lose_nothing(command):
    """The short version of tests/kill_runs.py."""
    done = command(ROOT / "tests/kill_runs.py", "--kills", "5", "--seed", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("killed 1 times, 0 files lost or changed") == 5
