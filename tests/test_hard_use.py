"""What people, laptops, cluster queues and Colab do to runs: commands typed again, stopped, started
twice; full and read-only disks, no memory, another machine."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import glyphs
import kill_runs
import matplotlib
import pytest
import torch

import gan
import p3_autoencoder
import vae

ROOT = Path(__file__).resolve().parent.parent
QUICK = {vae: ["--epochs", "2", "--prior", "mixture", "--latent-dim", "3"],
         gan: ["--arch", "mlp", "--dataset", "mnist", "--epochs", "2", "--conditional"],
         p3_autoencoder: ["--epochs", "2"]}
training = pytest.mark.parametrize("script", QUICK, ids=lambda script: script.__name__)


def name_of(script):
    return script.parse_args(QUICK[script]).run_name


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Less of what takes long and writes nothing."""
    kill_runs.shorten(monkeypatch.setattr)


def main(script, *flags):
    script.main([*QUICK[script], *map(str, flags)])


def checkpoint(script, tmp_path):
    return tmp_path / f"runs/{name_of(script)}.pt"


def stop_after_epoch_1(script, folders, monkeypatch):
    """A run that Ctrl-C ends once epoch 1 is saved."""
    save = script.save_state

    def save_and_stop(path, state):
        save(path, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(script, "save_state", save_and_stop)
        main(script, *folders)


# ------------------------------------------------------------------ a command that is typed again
@training
def test_an_unfinished_run_is_not_wiped_and_goes_on_bit_for_bit(
        folders, glyph_dir, tmp_path, monkeypatch, capsys, fails, script):
    whole = tmp_path / "whole"
    main(script, "--data-dir", glyph_dir, "--out-dir", whole / "plots", "--runs-dir", whole / "runs")
    stop_after_epoch_1(script, folders, monkeypatch)
    before = kill_runs.contents(tmp_path)
    line = fails(script, [*QUICK[script], *folders], 1)
    assert "1 epochs are done" in line and "--resume" in line and "--fresh" in line
    assert kill_runs.same(kill_runs.contents(tmp_path), before)
    capsys.readouterr()
    main(script, *folders, "--resume")
    assert "1 epochs were already done" in capsys.readouterr().out
    found = [kill_runs.contents(folder) for folder in (whole, tmp_path)]
    found[1] = {name: content for name, content in found[1].items() if not name.startswith("whole")}
    for contents in found:  # the record's command names folders
        contents.pop(f"plots/{name_of(script)}.json")
    assert kill_runs.same(*found)
    records = [json.loads((folder / f"plots/{name_of(script)}.json").read_text())
               for folder in (whole, tmp_path)]
    for key in ("settings", "numbers", "curves", "fingerprint", "machines", "parameters", "data"):
        assert records[0][key] == records[1][key], key


@training
def test_resume_starts_what_was_not_begun_and_draws_a_finished_run_anew(
        folders, tmp_path, monkeypatch, capsys, script):
    main(script, *folders, "--resume")
    before = kill_runs.contents(tmp_path)
    for path in (tmp_path / "plots").iterdir():
        path.unlink()
    for path in (tmp_path / "runs").glob("*.npz"):
        path.unlink()
    monkeypatch.setattr(script, "train", None)  # nothing is trained
    monkeypatch.setattr(script, "machine", None)  # and the record is of the machine that trained
    state = torch.load(checkpoint(script, tmp_path), weights_only=True)
    main(script, *folders, "--resume")
    after = kill_runs.contents(tmp_path)
    assert kill_runs.same(before, after)
    record = json.loads((tmp_path / f"plots/{name_of(script)}.json").read_text())
    assert record["seconds"] == state["seconds"] and record["machines"] == state["machines"]


@training
def test_a_finished_run_typed_again_and_stopped_is_still_there(
        folders, tmp_path, monkeypatch, capsys, script):
    main(script, *folders)
    finished = checkpoint(script, tmp_path).read_bytes()
    stop_after_epoch_1(script, folders, monkeypatch)
    assert checkpoint(script, tmp_path).read_bytes() == finished
    capsys.readouterr()
    main(script, *folders)  # to its end: trained anew, and the record says what moved
    assert f"{name_of(script)}: " in capsys.readouterr().out.split("epoch 2")[1]
    main(script, *folders, "--fresh")
    stop_after_epoch_1(script, [*folders, "--fresh"], monkeypatch)
    assert torch.load(checkpoint(script, tmp_path), weights_only=True)["epoch"] == 1


def test_a_replaced_record_says_how_its_headline_moved(folders, tmp_path, capsys):
    main(vae, *folders)
    path = tmp_path / f"plots/{name_of(vae)}.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"numbers": {"test_loss": 77.5}}))
    capsys.readouterr()
    main(vae, *folders, "--resume")
    loss = record["numbers"]["test_loss"]
    assert f"{name_of(vae)}: test_loss 77.5 -> {loss:.6g}\n" in capsys.readouterr().out


@training
def test_other_data_than_at_the_start_are_refused(folders, tmp_path, fails, script):
    main(script, *folders)
    before = kill_runs.contents(tmp_path)
    glyphs.write_dataset(tmp_path / "other", "mnist", 300, 70, seed=9)
    for again in ([], ["--resume"]):
        line = fails(script, [*QUICK[script], *folders, "--data-dir", tmp_path / "other", *again], 1)
        assert "other images" in line and str(tmp_path / "other") in line and "--fresh" in line
    after = {name: content for name, content in kill_runs.contents(tmp_path).items()
             if not name.startswith("other")}
    assert kill_runs.same(before, after)


@pytest.mark.parametrize("script", [vae, gan], ids=lambda script: script.__name__)
def test_a_run_goes_on_elsewhere_in_the_precision_it_began_with(
        folders, tmp_path, monkeypatch, capsys, script):
    monkeypatch.setattr(script, "choose_precision", lambda *_: "bfloat16")
    stop_after_epoch_1(script, folders, monkeypatch)
    monkeypatch.setattr(script, "choose_precision", lambda *_: "float32")
    seen, train = [], script.train

    def watched(*arguments, **options):
        seen.append(options["precision"])
        return train(*arguments, **options)

    monkeypatch.setattr(script, "train", watched)
    capsys.readouterr()
    main(script, *folders, "--resume")
    assert "goes on in bfloat16, as it began" in capsys.readouterr().out and seen == ["bfloat16"]
    record = json.loads((tmp_path / f"plots/{name_of(script)}.json").read_text())
    assert record["precision"] == "bfloat16" and record["settings"]["precision"] == "auto"


def test_auto_is_float32_where_pytorch_cannot_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)  # as in PyTorch 2.9
    assert vae.choose_precision("auto", torch.device("cpu")) == "float32"
    assert vae.choose_precision("bfloat16", torch.device("cpu")) == "bfloat16"


# ------------------------------------------------------------------ stopped, and started twice
def started(script, folder, glyph_dir, epochs):
    """A real process of `script` that has saved an epoch, and its checkpoint."""
    flags = [*QUICK[script], "--epochs", epochs, "--data-dir", glyph_dir,
             "--out-dir", folder / "plots", "--runs-dir", folder / "runs"]
    child = subprocess.Popen([sys.executable, script.__file__, *map(str, flags)], text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not list(folder.glob("runs/[!.]*.pt")):
        assert child.poll() is None, child.communicate()
        time.sleep(0.01)
    return child


def test_a_scheduler_and_a_person_stop_a_run(glyph_dir, tmp_path):
    for name, number, status in (("a", signal.SIGTERM, 143), ("b", signal.SIGINT, 130)):
        child = started(vae, tmp_path / name, glyph_dir, 100_000)
        child.send_signal(number)
        error = child.communicate(timeout=60)[1]
        assert child.returncode == status and "Traceback" not in error
        path, = (tmp_path / name / "runs").glob("[!.]*.pt")
        state = torch.load(path, weights_only=True)
        grids = len(list((tmp_path / name).rglob("samples_*.png")))
        assert state["epoch"] >= 1 and grids - 1 <= state["epoch"] <= grids
        assert not list((tmp_path / name).rglob(".part-*"))


MEET = """
import multiprocessing
barriers = {}
def wait_once(*arguments, **options):
    torch.optim.Adam = adam
    barriers[sys.argv[0], sys.argv[-1]].wait(60)
    return adam(*arguments, **options)
for words in commands:
    size = commands.count(words)
    barriers[words[0], words[-1]] = multiprocessing.Barrier(size)
adam, torch.optim.Adam = torch.optim.Adam, wait_once
"""  # equal commands have both found nothing to go on with before one of them trains


def test_two_of_the_same_command_at_once_end_well(glyph_dir, tmp_path, forks):
    """They leave what one alone leaves."""
    def words(script, folder):
        home = tmp_path / script.__name__ / folder
        flags = [*QUICK[script], "--epochs", 3, "--data-dir", glyph_dir]
        if script is gan:
            flags.remove("--conditional")  # which takes 60 000 samples
        return [script.__file__, *flags, "--out-dir", home / "plots", "--runs-dir", home / "runs"]

    commands = [words(script, folder) for script in (vae, gan)
                for folder in ("alone", "both", "both")]
    for done in forks(commands, at_once=True, prelude=MEET):
        assert done.returncode == 0, done.stderr
    for script in ("vae", "gan"):
        alone, both = (kill_runs.contents(tmp_path / script / folder)
                       for folder in ("alone", "both"))
        for contents in (alone, both):  # the command in the record names folders
            for path in [path for path in contents if path.endswith(".json")]:
                del contents[path]
        assert kill_runs.same(alone, both)


def test_output_that_is_closed_or_lacks_a_letter(glyph_dir, tmp_path, forks):
    folder = tmp_path / "Łódź"
    folder.mkdir()
    for script in ("vae.py", "p1.py"):
        shutil.copy(ROOT / script, folder)
    done = forks([[folder / "vae.py", "--epochs", 1, "--data-dir", glyph_dir], [folder / "p1.py"]],
                 PYTHONIOENCODING="cp1252")
    assert [(run.returncode, run.stderr) for run in done] == [(0, "")] * 2
    pipe = subprocess.run(
        f"{sys.executable} {ROOT / 'vae.py'} --epochs 9 --data-dir {glyph_dir} --out-dir p "
        "--runs-dir r | head -1", shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert "broken pipe" in pipe.stderr and "make room" not in pipe.stderr
    assert pipe.stderr.count("\n") == 1, pipe.stderr


# -------------------------------------------------------------------------- other people's settings
@training
def test_a_notebook_finds_its_settings_as_they_were(folders, tmp_path, script):
    main(script, *folders)
    record = tmp_path / f"plots/{name_of(script)}.json"
    plain = json.loads(record.read_text())["numbers"]
    torch.set_default_dtype(torch.float64)
    try:
        with matplotlib.rc_context({"font.size": 31, "image.cmap": "viridis"}):
            theirs = dict(matplotlib.rcParams)
            figures = {path: path.read_bytes() for path in (tmp_path / "plots").glob("*.pdf")}
            main(script, *folders, "--fresh")
            assert dict(matplotlib.rcParams) == theirs
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert json.loads(record.read_text())["numbers"] == plain
    assert all(path.read_bytes() == content for path, content in figures.items())


def test_bare_surroundings(folders, tmp_path):
    """No HOME, no display, a terminal without UTF-8, two threads: the same results."""
    surroundings = {"PATH": os.environ["PATH"], "HOME": "/nowhere", "LC_ALL": "C", "PYTHONUTF8": "0",
                    "PYTHONCOERCECLOCALE": "0", "OMP_NUM_THREADS": "2"}
    folders[3] = str(tmp_path / "plöts")
    done = subprocess.run([sys.executable, "-W", "error", ROOT / "vae.py", "--epochs", "1", *folders],
                          text=True, capture_output=True, timeout=240, env=surroundings, cwd="/")
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    record = json.loads((tmp_path / "plöts/vae_mnist_epochs1.json").read_text())
    assert record["machines"][0]["threads"] == 2
    vae.main(["--epochs", "1", *folders, "--run-name", "here"])
    here = json.loads((tmp_path / "plöts/here.json").read_text())
    assert record["numbers"]["test_loss"] == pytest.approx(here["numbers"]["test_loss"], rel=1e-4)


# ------------------------------------------------------------------------------------ disks
@pytest.fixture
def disk(tmp_path):
    """disk(options) mounts a disk of its own, or changes it, and returns its folder."""
    home = tmp_path / "disk"
    home.mkdir()

    def mount(options):
        again = os.path.ismount(home)
        options = f"remount,{options}" if again else options
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", home]
        done = shutil.which("mount") and subprocess.run(words, capture_output=True)
        if not again and (not done or done.returncode):
            pytest.skip("only root on Linux may mount a disk for this")
        assert done.returncode == 0, done.stderr
        return home

    yield mount
    if os.path.ismount(home):
        subprocess.run(["umount", "-l", home], check=True)


@training
def test_a_full_disk_loses_nothing(glyph_dir, disk, fails, script):
    """Full at a half, at most and at nearly all that a run writes; with room it ends as ever."""
    home = disk("size=900m")
    flags = [*QUICK[script], "--data-dir", glyph_dir, "--out-dir", home / "plots",
             "--runs-dir", home / "runs", "--resume"]
    script.main(list(map(str, flags)))
    files = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    size = sum(map(len, files.values()))
    for path in files:
        path.unlink()
    path, epoch = home / f"runs/{name_of(script)}.pt", 0
    for share in (0.5, 0.8, 0.95):
        disk(f"size={int(share * size)}")
        line = fails(script, flags, 1)
        assert "No space left" in line and "make room" in line and not list(home.rglob(".part-*"))
        before, state = epoch, vae.load_state(path)
        epoch = state["epoch"] if state else 0
        assert epoch >= before  # what was trained stays
    disk("size=900m")
    script.main(list(map(str, flags)))
    again = {path for path in home.rglob("*") if path.is_file()}
    assert again == files.keys()
    assert all(path.read_bytes() == files[path] for path in again if path.suffix in (".pdf", ".png"))


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
    flags = ["--epochs", "1", "--latent-dim", "256", "--prior", "mixture",
             "--components", "300"]  # which train and cannot be fitted

    def little_memory():
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30,) * 2)
    done = subprocess.run([sys.executable, ROOT / "vae.py", *folders, *flags], capture_output=True,
                          text=True, timeout=240, preexec_fn=little_memory)
    assert done.returncode == 1 and done.stderr.startswith("vae.py: out of memory"), done.stderr
    assert done.stderr.count("\n") == 1 and len(list((tmp_path / "runs").glob("*.pt"))) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forks")
def test_kills_lose_nothing(command):
    """The short version of tests/kill_runs.py."""
    done = command(ROOT / "tests/kill_runs.py", "--kills", "4", "--seed", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("killed 1 times, 0 files lost or changed") == 4
