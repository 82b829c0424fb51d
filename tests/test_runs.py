"""What the scripts that train promise: a run is never lost, a file never half-written, and what a
person can mend ends in one line that names it."""
import gzip
import http.server
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import glyphs
import pytest
import torch
import torchvision

import gan
import p3_autoencoder
import vae

ROOT = Path(__file__).resolve().parent.parent
QUICK = {vae: ["--epochs", "3", "--components", "5", "--latent-dim", "3"],
         gan: ["--arch", "mlp", "--dataset", "mnist", "--epochs", "3", "--conditional"],
         p3_autoencoder: ["--epochs", "3"]}
training = pytest.mark.parametrize("script", QUICK, ids=lambda script: script.__name__)
FILES = [name.removesuffix(".gz") for name, _ in torchvision.datasets.MNIST.resources]
# Less of what takes long and holds no state: run before a script, in its own process as well.
SHORTER = """
import gan, p3_autoencoder, vae
vae.SAMPLES = gan.SAMPLES = 100
gan.PATHS = 10
p3_autoencoder.report_corruption = lambda *_: {}  # 3.2 has no state to lose
"""


@pytest.fixture(autouse=True)
def shorter(monkeypatch):
    for script, name, value in ((vae, "SAMPLES", 100), (gan, "SAMPLES", 100), (gan, "PATHS", 10),
                                (p3_autoencoder, "report_corruption", lambda *_: {})):
        monkeypatch.setattr(script, name, value)


def flags_in(folder, glyph_dir):
    return ["--data-dir", glyph_dir, "--out-dir", folder / "plots", "--runs-dir", folder / "runs"]


def plain(value):
    """Nested lists and dictionaries with bytes in place of tensors: == compares every bit."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.numpy().tobytes()
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return value


def contents(folder):
    """{name: bytes} of the files of a run; of its checkpoint and record what must not change."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".pt":
            state = torch.load(path, weights_only=True)
            state.pop("seconds", None)
            found[name] = plain(state)
        elif path.suffix == ".json":
            record = json.loads(path.read_text())
            assert "--resume" not in record["command"]
            found[name] = record["numbers"], record["curves"]
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


# ------------------------------------------------------------------------------------ resuming
class KilledError(BaseException):
    """Ends a run where nothing can catch it."""


def killer(write_file, place):
    """write_file that writes `place` files and is killed at the next, as at any moment before."""
    written = itertools.count()

    def write(path, content):
        if next(written) == place:
            raise KilledError
        write_file(path, content)
    return write


@training
def test_a_run_stopped_anywhere_goes_on_to_the_same_bits(
        script, call, fails, glyph_dir, tmp_path, monkeypatch):
    """At a checkpoint, just before the next, in the figures at the end, at the very last save."""
    write_file, whole, stopped = script.write_file, tmp_path / "whole", tmp_path / "stopped"
    names = []

    def note(path, content):
        names.append(Path(path).name)
        write_file(path, content)

    monkeypatch.setattr(script, "write_file", note)
    call(script, *QUICK[script], *flags_in(whole, glyph_dir))
    checkpoints = [place for place, name in enumerate(names) if name == names[-1]]
    last_figure = max(place for place, name in enumerate(names) if name.endswith(".pdf"))
    flags = [*QUICK[script], *flags_in(stopped, glyph_dir)]
    for place in (checkpoints[1], checkpoints[2] - 1, last_figure, len(names) - 1):
        shutil.rmtree(stopped, ignore_errors=True)
        monkeypatch.setattr(script, "write_file", killer(write_file, place))
        with pytest.raises(KilledError):
            call(script, *flags)
        monkeypatch.setattr(script, "write_file", write_file)
        assert "is an unfinished run: go on with --resume" in fails(script, *flags)
        call(script, *flags, "--resume")
        assert contents(stopped) == contents(whole), names[place]


@training
def test_a_killed_process_loses_no_saved_epoch(script, glyph_dir, tmp_path, call):
    """SIGKILL at a random moment of a real process, then --resume."""
    call(script, *QUICK[script], *flags_in(tmp_path / "whole", glyph_dir))
    code = f"{SHORTER}\nimport {script.__name__} as script\nscript.main()"
    flags = [*QUICK[script], *flags_in(tmp_path / "killed", glyph_dir), "--resume"]
    words = [sys.executable, "-c", code, *map(str, flags)]
    chance = random.Random(script.__name__)
    child = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if child.stdout.readline():  # an epoch is done
        time.sleep(chance.uniform(0, 0.2))
    child.kill()
    child.communicate()
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for part in (tmp_path / "killed").rglob(".part-*"):
        part.unlink()  # of a write that was cut off; the next one would replace it
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@training
def test_a_finished_run_trained_again_saves_from_its_first_epoch(
        script, call, folders, tmp_path, monkeypatch):
    call(script, *QUICK[script], *folders)
    checkpoint, = (tmp_path / "runs").glob("*.pt")
    save_state = script.save_state

    def save_and_stop(path, args, state):
        save_state(path, args, state)
        raise KilledError

    monkeypatch.setattr(script, "save_state", save_and_stop)
    with pytest.raises(KilledError):
        call(script, *QUICK[script], *folders)
    state = torch.load(checkpoint, weights_only=True)
    assert state["epoch"] == 1 and not state["finished"]


@training
def test_a_checkpoint_of_other_settings_or_images_or_damaged_is_refused(
        script, call, fails, folders, tmp_path):
    flags = [*QUICK[script], *folders, "--resume"]
    call(script, *flags)
    checkpoint, = (tmp_path / "runs").glob("*.pt")
    before = checkpoint.read_bytes()
    glyphs.write_dataset(tmp_path / "other", "mnist", 300, 70, seed=9)
    assert "is of other settings or images" in fails(script, *flags, "--data-dir", tmp_path / "other")
    state = torch.load(checkpoint, weights_only=True)
    state["settings"]["batch_size"] = 17
    torch.save(state, checkpoint)
    assert "is of other settings or images" in fails(script, *flags)
    for content in (b"", b"garbage" * 99, before[:-99]):
        checkpoint.write_bytes(content)
        assert "is damaged: delete it" in fails(script, *flags)
        assert checkpoint.read_bytes() == content


def test_a_flag_changes_the_name_unless_it_changes_no_result(monkeypatch):
    def name(script, *flags):
        monkeypatch.setattr(sys, "argv", ["script", *flags])
        return script.parse_args().run_name

    assert name(vae) == name(vae, "--recipe", "handout", "--no-cuda", "--log-interval", "3")
    assert name(vae, "--lr", "1e-5", "--seed", "2") == "vae_mnist_lr1e-05_seed2"
    assert name(vae, "--dataset", "fashion", "--beta", "0.020") == "vae_fashion"
    assert name(vae, "--beta", "2.0") == "vae_mnist_beta2"
    assert name(gan, "--arch", "mlp", "--conditional", "--beta1", "0.5") == \
        "cgan_mlp_fashion_beta1-0.5"
    assert name(gan, "--lr-g", "0.0020000001") != name(gan)
    assert name(p3_autoencoder, "--dataset", "fashion", "--epochs", "10") == "p3_fashion_epochs10"


# --------------------------------------------------------------------------------------- files
@training
@pytest.mark.parametrize("flag", ["--out-dir", "--runs-dir"])
def test_a_folder_that_cannot_be_written(script, fails, folders, tmp_path, flag, monkeypatch):
    """It is named before training, which may take hours."""
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(script, "train", None)
    assert "file/folder" in fails(script, *QUICK[script], *folders, flag, tmp_path / "file/folder")


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "new/run_beta0.05.json"
    vae.write_file(path, b"whole")

    def fill_the_disk(part, content):
        with part.open("wb") as file:
            file.write(content[:2])
        raise OSError(28, "No space left on device", str(part))

    monkeypatch.setattr(Path, "write_bytes", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        vae.write_file(path, b"other")
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.read_text() == "whole"


ALONE = {"p1.py": [], "p2.py": [], "p3_autoencoder.py": ["--epochs", "1"],
         "p4_divergences.py": [], "vae.py": ["--epochs", "1"],
         "gan.py": ["--arch", "mlp", "--epochs", "1"], "p5_toys.py": []}
SMALLER = {"DENOISER_STEPS = 6000": "DENOISER_STEPS = 50", "SAMPLES = 10_000": "SAMPLES = 100",
           "PATHS = 500": "PATHS = 10", "INITS = 3": "INITS = 2", "POINTS = 500": "POINTS = 20",
           "REPETITIONS = 200": "REPETITIONS = 2", "SEEDS = 10 ": "SEEDS = 2 ",
           "_STEPS = 3500": "_STEPS = 1", "_STEPS = 2500": "_STEPS = 1",
           "(60, 120, 240, 480, 960)": "(60, 120)"}


@pytest.mark.parametrize("script", ALONE)
def test_a_copy_runs_in_an_empty_folder(script, command, glyph_dir, tmp_path):
    """Data, figures and runs lie beside the script, wherever it is called from."""
    home = tmp_path / "a folder önly for this"
    home.mkdir()
    source = (ROOT / script).read_text(encoding="utf-8")
    for whole, small in SMALLER.items():
        source = source.replace(whole, small)
    (home / script).write_text(source, encoding="utf-8")
    (home / "data").symlink_to(glyph_dir)
    backend = {"MPLBACKEND": "module://none.such"}  # a notebook hands down its own
    done = command(home / script, *ALONE[script], cwd=tmp_path, env=os.environ | backend)
    assert done.returncode == 0, done.stderr
    assert list((home / "plots").glob("*.json"))
    assert [path.name for path in tmp_path.iterdir()] == [home.name]


def test_ctrl_c_ends_in_one_line(glyph_dir, tmp_path):
    flags = flags_in(tmp_path, glyph_dir)
    child = subprocess.Popen([sys.executable, ROOT / "vae.py", "--epochs", "9999", *flags], text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.readline()  # an epoch is done
    child.send_signal(signal.SIGINT)
    _, error = child.communicate(timeout=60)
    assert child.returncode == 1
    assert error.strip() == "vae.py: stopped; --resume goes on after the last whole epoch"


# ---------------------------------------------------------------------------------------- data
@pytest.fixture
def raw(glyph_dir, tmp_path):
    """A data folder of this test's own, by its innermost folder."""
    raw = tmp_path / "data/MNIST/raw"
    shutil.copytree(glyph_dir / "MNIST/raw", raw)
    return raw


@pytest.fixture
def here(tmp_path):
    """Flags as `folders`, with the data of `raw`."""
    return [*QUICK[vae], *flags_in(tmp_path, tmp_path / "data")]


@pytest.fixture
def mirror(monkeypatch):
    """mirror(answer): a server in place of torchvision's; answer(handler) answers every GET."""
    servers = []

    def serve(answer):
        handler = type("Handler", (http.server.BaseHTTPRequestHandler,),
                       {"do_GET": answer, "log_message": lambda *_: None})
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{servers[-1].server_port}/"
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [url])
        return url

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("file", FILES)
def test_damaged_data_are_named_and_left_alone(raw, here, tmp_path, fails, file):
    whole = (raw / file).read_bytes()
    other = (raw / FILES[(FILES.index(file) + 1) % 4]).read_bytes()
    for content in (b"", whole[:3], whole[:-5], b"garbage" * 99, other):
        (raw / file).write_bytes(content)
        line = fails(vae, *here)
        assert f"{raw} is damaged" in line and "delete it" in line and "--data-dir" in line
        assert (raw / file).read_bytes() == content and not (tmp_path / "plots").exists()


def test_data_that_cannot_be_read_are_not_called_damaged(raw, here, fails, monkeypatch):
    true_open = open

    def refusing(file, *rest, **more):
        if str(file) == str(raw / FILES[2]):
            raise PermissionError(13, "Permission denied", str(file))
        return true_open(file, *rest, **more)

    monkeypatch.setattr("builtins.open", refusing)
    line = fails(vae, *here)
    assert f"Permission denied: '{raw / FILES[2]}'" in line and "damaged" not in line


@pytest.mark.filterwarnings(  # urllib leaves the socket of a refusal to the garbage collector
    "ignore:unclosed <socket:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_missing_data_without_a_network_name_the_cause(here, tmp_path, mirror, fails, monkeypatch):
    data = tmp_path / "data"
    mirror(lambda handler: handler.send_error(403))
    line = fails(vae, *here)
    assert "MNIST is not in" in line and "403" in line and "--data-dir" in line
    assert not list(data.iterdir())  # nothing half-written
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    assert "Connection refused" in fails(vae, *here)
    data.rmdir()
    data.write_text("")
    line = fails(vae, *here)
    assert str(data) in line and ("File exists" in line or "Not a directory" in line)


def test_a_mirror_that_never_answers_is_named_and_not_waited_for(
        tmp_path, monkeypatch, capsys):
    set_timeout = socket.setdefaulttimeout
    monkeypatch.setattr(socket, "setdefaulttimeout", lambda seconds: set_timeout(0.2))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [url])
        with pytest.raises(OSError, match="timed out"):
            vae.load_dataset("mnist", tmp_path / "data")
    set_timeout(None)
    assert f"downloading MNIST from {url}" in capsys.readouterr().out


FROM_MIRROR = """
import hashlib, pathlib, runpy, sys, torchvision
url, folder = sys.argv[1:3]
MNIST = torchvision.datasets.MNIST
MNIST.mirrors = [url]
MNIST.resources = [(name, hashlib.md5(pathlib.Path(folder, name).read_bytes()).hexdigest())
                   for name, _ in MNIST.resources]
sys.argv = sys.argv[3:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_two_first_runs_at_once(raw, tmp_path, mirror):
    """Both find no data; whoever downloads, both end well, and with the same data."""
    for name in FILES:
        (raw / f"{name}.gz").write_bytes(gzip.compress((raw / name).read_bytes()))
    both_started = threading.Barrier(2, timeout=60)

    def answer(handler):
        content = (raw / handler.path[1:]).read_bytes()
        if handler.path[1:].startswith(FILES[0]):
            both_started.wait()  # each has found that nothing is there
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    words = [sys.executable, "-c", FROM_MIRROR, mirror(answer), raw]
    data = tmp_path / "new/data"
    runs = [subprocess.Popen([*words, script.__file__, *QUICK[script], *flags_in(tmp_path, data)],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for script in (vae, p3_autoencoder)]
    for run in runs:
        said, _ = run.communicate(timeout=120)
        assert run.returncode == 0, said
    assert sorted(path.name for path in data.rglob("*") if path.is_file()) == sorted(FILES)
    for name in FILES:
        assert (data / "MNIST/raw" / name).read_bytes() == (raw / name).read_bytes()


# --------------------------------------------------------------------------------------- a GPU
@training
@pytest.mark.parametrize("words", ["CUDA error: out of memory", "CUDA error: no kernel image is "
                                   "available for execution on the device"])
def test_a_gpu_that_cannot_be_used_ends_in_one_line(script, words, folders, fails, monkeypatch):
    def refuse():
        raise RuntimeError(f"{words}\nCUDA kernel errors might be reported later")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "_lazy_init", refuse)
    line = fails(script, *QUICK[script], *folders)
    assert words in line and "--no-cuda" in line


def test_a_gpu_that_fills_up_ends_in_one_line_and_our_mistakes_in_a_traceback(fails, monkeypatch):
    def main():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(vae, "main", main)
    assert "Tried to allocate 9 GiB" in (line := fails(vae)) and "--no-cuda" in line

    def mistake():
        raise RuntimeError("Expected all tensors to be on the same device: alloc, cuda:0 and cpu!")

    with pytest.raises(RuntimeError, match="same device"):
        vae.run(mistake)
