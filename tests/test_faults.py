"""Faults that a person, a disk or a network can cause end alike in the scripts that train: one line
that names the cause, nothing lost, nothing half-written."""
import builtins
import gzip
import http.server
import os
import shutil
import subprocess
import sys
import threading

import pytest
import torch
import torchvision

import gan
import vae

QUICK = {vae: ["--epochs", "1", "--no-cuda"],
         gan: ["--arch", "mlp", "--dataset", "mnist", "--epochs", "1", "--no-cuda"]}
both = pytest.mark.parametrize("script", QUICK, ids=lambda script: script.__name__)


def name_of(script):
    return script.parse_args(QUICK[script]).run_name


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    """10 000 samples show nothing that 200 do not."""
    draw_noise, sample = gan.draw_noise, vae.sample

    def few(count, *others):
        return draw_noise(min(count, 200), *others)

    def few_decoded(model, count, *rest):
        return sample(model, min(count, 200), *rest)

    monkeypatch.setattr(gan, "PATHS", 10)
    monkeypatch.setattr(gan, "draw_noise", few)
    monkeypatch.setattr(vae, "sample", few_decoded)


# -------------------------------------------------------------------------------- checkpoints
class Hostile:
    """Unpickled without care, this writes a file."""
    def __reduce__(self):
        return (open, ("hostile_ran", "w"))


@both
@pytest.mark.parametrize("content", ["garbage", "hostile", "of something else", "empty", "cut",
                                     "of an older version", "of other nets", "of no nets"])
def test_a_bad_checkpoint_ends_in_one_line_and_runs_nothing(
        folders, tmp_path, monkeypatch, fails, script, content):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "runs" / f"{name_of(script)}.pt"
    flags = [*folders, *QUICK[script]]
    settings = script.settings_of(script.parse_args(flags))
    older = {"settings": settings, "epoch": 3, "model": {}, "optimizer": {}}  # knew no data set
    if content in ("of other nets", "of no nets"):
        script.main(flags)
        saved = torch.load(path, weights_only=True) | {"finished": False, "epoch": 1}
        nets = "model" if script is vae else "generator"
        saved[nets] = {} if content == "of no nets" else {"weight": torch.zeros(3)}
        (tmp_path / f"plots/{name_of(script)}.json").unlink()
    else:
        path.parent.mkdir()
        saved = {"hostile": Hostile(), "of something else": {"epoch": 3},
                 "of an older version": older}.get(content)
    torch.save(saved, path)
    if content in ("garbage", "empty", "cut"):
        spoiled = {"garbage": b"\x80garbage" * 99, "empty": b"", "cut": path.read_bytes()[:-99]}
        path.write_bytes(spoiled[content])
    before = path.read_bytes()
    line = fails(script, ["--resume", *flags], 1)
    assert f"{name_of(script)}.pt is damaged" in line and "--fresh" in line
    assert path.read_bytes() == before and not (tmp_path / "hostile_ran").exists()
    if content == "cut":  # also without --resume, since it may be an unfinished run
        assert fails(script, flags, 1) == line
        script.main(["--fresh", *flags])
        assert torch.load(path, weights_only=True)["finished"]


@both
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate"
                                                               " memory: you tried 9 bytes")])
def test_a_checkpoint_too_large_for_the_memory_is_not_called_damaged(
        folders, tmp_path, monkeypatch, fails, script, error):
    def load(*_, **__):
        raise error

    script.main([*QUICK[script], *folders])
    monkeypatch.setattr(torch, "load", load)
    line = fails(script, ["--resume", *QUICK[script], *folders], 1)
    assert "out of memory" in line and "damaged" not in line and "--fresh" not in line


@both
def test_a_run_name_stands_for_one_setting(folders, fails, script):
    named = [*folders, *QUICK[script], "--run-name", "mine"]
    script.main(named)
    for flags in ([], ["--resume"]):
        line = fails(script, [*named, *flags, "--epochs", "2"], 1)
        assert "mine.pt was made with --epochs 1" in line and "--run-name" in line
    script.main([*named, "--fresh", "--epochs", "2"])


def test_a_switch_is_said_as_it_is_typed(folders, fails):
    named = [*folders, *QUICK[gan], "--run-name", "mine"]
    gan.main(named)
    assert "made with no --conditional: give" in fails(gan, [*named, "--conditional"], 1)
    gan.main([*named, "--conditional", "--fresh"])
    assert "made with --conditional: give" in fails(gan, named, 1)


@both
def test_a_later_epoch_is_never_replaced(tmp_path, script):
    path = tmp_path / "run.pt"
    for epoch, kept in ((2, 2), (1, 2), (3, 3), (2, 3)):
        script.save_state(path, {"epoch": epoch, "by": epoch})
        assert script.load_state(path) == {"epoch": kept, "by": kept}
    script.save_state(path, {"epoch": 3, "by": "another process"})
    assert script.load_state(path)["by"] == "another process"
    path.write_bytes(b"garbage")
    script.save_state(path, {"epoch": 1})
    assert script.load_state(path)["epoch"] == 1


@both
@pytest.mark.parametrize("known", [True, False], ids=["memory", "a closed archive"])
def test_memory_that_ends_while_saving(folders, tmp_path, monkeypatch, fails, script, known):
    """PyTorch closes its archive on the way out, which fails for the same cause."""
    def save(state, file):
        file.write(b"half")
        try:
            raise MemoryError
        except MemoryError:
            if known:
                raise
            raise RuntimeError("unexpected pos 4 vs 0")  # noqa: B904

    monkeypatch.setattr(torch, "save", save)
    line = fails(script, [*QUICK[script], *folders], 1)
    assert "out of memory" in line and "--resume" in line
    assert not [name for name in files_in(tmp_path) if name.endswith(".pt") or ".part-" in name]


# ------------------------------------------------------------------------------------ folders
@both
@pytest.mark.parametrize("flag", ["--out-dir", "--runs-dir"])
def test_a_folder_that_cannot_be_written(folders, tmp_path, fails, script, flag):
    (tmp_path / "file").write_text("")
    line = fails(script, [*folders, *QUICK[script], flag, tmp_path / "file/folder"], 1)
    assert "file/folder" in line and "another folder" in line
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    line = fails(script, [*folders, *QUICK[script], flag, tmp_path / "loop/folder"], 1)
    assert "loop" in line and "another folder" in line


def test_a_tilde_is_the_home_folder(folders, tmp_path, monkeypatch):
    """Also behind an equals sign, where no shell has seen it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    for script in QUICK:
        args = script.parse_args(["--runs-dir=~/x", "--out-dir=~/y", "--data-dir=~"])
        assert args.runs_dir == tmp_path / "home/x" and args.out_dir == tmp_path / "home/y"
        assert args.data_dir == tmp_path / "home"


def test_a_file_is_written_beside_its_name_and_renamed(tmp_path):
    path = tmp_path / "new/run_beta0.05.json"
    with vae.replacing(path) as part:
        assert part == tmp_path / f"new/.part-{os.getpid()}-run_beta0.05.json"
        part.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    with pytest.raises(KeyboardInterrupt), vae.replacing(path) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "whole" and files_in(tmp_path) == ["new/run_beta0.05.json"]


@pytest.fixture
def dead():
    """The id of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@both
@pytest.mark.skipif(os.name != "posix", reason="Windows cannot be asked for a process")
def test_half_written_files_of_dead_processes_are_swept(
        glyph_dir, folders, tmp_path, dead, script):
    name = name_of(script)
    places = [tmp_path / folder for folder in ("plots", "runs", f"runs/{name}")]
    living = []
    for place in places:
        place.mkdir(exist_ok=True)
        (place / f".part-{dead}-file.json").write_text("half")
        (place / f".part-{9**40}-file.json").write_text("half")  # of no process there can be
        (place / f".part-{dead}-folder").mkdir()
        (place / f".part-{dead}-folder/file").write_text("half")
        for other in (f".part-{os.getppid()}-file.json", ".part-file"):
            living.append(place / other)
            living[-1].write_text("half")
    script.main([*QUICK[script], *folders])
    assert sorted(tmp_path.rglob(".part-*")) == sorted(living)


# --------------------------------------------------------------------------------------- data
FILES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte",
         "t10k-labels-idx1-ubyte"]


@pytest.fixture
def raw(glyph_dir, tmp_path):
    """A data folder of this test's own, by its innermost folder."""
    raw = tmp_path / "data/MNIST/raw"
    raw.mkdir(parents=True)
    for name in FILES:
        (raw / name).write_bytes((glyph_dir / "MNIST/raw" / name).read_bytes())
    return raw


@pytest.fixture
def here(tmp_path):
    """Flags as `folders`, with the data of `raw`."""
    return ["--data-dir", tmp_path / "data", "--out-dir", tmp_path / "p", "--runs-dir",
            tmp_path / "r"]


@pytest.fixture
def no_network(monkeypatch):
    """Where PyTorch would download from, nobody listens."""
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])


@both
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "other"])
def test_missing_and_damaged_data(raw, here, tmp_path, no_network, fails, script, file, damage):
    content = (raw / file).read_bytes()
    other = (raw / FILES[(FILES.index(file) + 1) % 4]).read_bytes()
    (raw / file).unlink()
    if damage != "missing":
        spoiled = {"empty": b"", "truncated": content[:-5], "other": other}
        (raw / file).write_bytes(spoiled[damage])
    before = files_in(tmp_path)
    line = fails(script, [*QUICK[script], *here], 1)
    assert "--data-dir" in line and "make demo" in line and str(raw) in line
    assert file in line or damage == "other"  # of two that do not fit, either may be named
    assert ("refused" in line) == (damage == "missing") and files_in(tmp_path) == before


@both
@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"),
                                   OSError(5, "Input/output error"), MemoryError()],
                         ids=lambda error: type(error).__name__)
def test_an_intact_file_that_cannot_be_read_is_not_called_damaged(
        raw, here, tmp_path, monkeypatch, fails, script, error):
    path = raw / FILES[2]
    (raw / f"{FILES[2]}.gz").write_bytes(gzip.compress(b"of another day"))
    true_open = builtins.open

    def refusing(file, *rest, **more):
        if str(file) == str(path):
            error.filename = str(path)
            raise error
        return true_open(file, *rest, **more)

    monkeypatch.setattr(builtins, "open", refusing)
    before = files_in(tmp_path)
    line = fails(script, [*QUICK[script], *here], 1)
    if isinstance(error, MemoryError):
        assert "out of memory" in line
    else:
        assert str(path) in line and error.strerror in line
    assert "damaged" not in line and "delete" not in line and files_in(tmp_path) == before


@both
def test_an_unpacking_that_was_cut_off_mends_itself(raw, here, tmp_path, dead, script):
    whole = (raw / FILES[0]).read_bytes()
    (raw / f"{FILES[0]}.gz").write_bytes(gzip.compress(whole))
    (raw / FILES[0]).write_bytes(whole[:-1000])
    (raw / f".part-{dead}-{FILES[0]}").write_bytes(whole[:1000])
    labels = raw / f"{FILES[1]}.gz"
    labels.write_bytes(gzip.compress((raw / FILES[1]).read_bytes()))
    (raw / FILES[1]).unlink()
    script.main([str(word) for word in (*QUICK[script], *here)])
    assert (raw / FILES[0]).read_bytes() == whole and (raw / FILES[1]).exists()
    if os.name == "posix":
        assert not list(tmp_path.rglob(".part-*"))


def test_a_damaged_gz_is_damaged_data(raw, here, no_network, fails):
    content = gzip.compress((raw / FILES[0]).read_bytes())
    (raw / FILES[0]).unlink()
    for spoiled in (content[:-1000], b"<html>sign in</html>", content[:99] + b"?" + content[100:]):
        (raw / f"{FILES[0]}.gz").write_bytes(spoiled)
        assert f"{raw / FILES[0]} is damaged" in fails(vae, [*QUICK[vae], *here], 1)
        assert sorted(path.name for path in raw.iterdir()) == sorted([*FILES[1:], f"{FILES[0]}.gz"])


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """mirror(answer) is a server in place of torchvision's; answer(handler) answers every GET."""
    servers = []

    def serve(answer):
        handler = type("Handler", (http.server.BaseHTTPRequestHandler,),
                       {"do_GET": answer, "log_message": lambda *_: None})
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{servers[-1].server_port}/"
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [url])
        return url
    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def refuse(handler):
    handler.send_error(403)


def intercept(handler):
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(b"<html>please sign in</html>")


@both
@pytest.mark.filterwarnings(  # urllib leaves the socket of a refusal to the garbage collector
    "ignore:unclosed <socket:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_failed_download_names_its_cause_and_leaves_nothing(
        here, tmp_path, mirror, monkeypatch, fails, script):
    flags = [*QUICK[script], *here]
    data = tmp_path / "data"
    mirror(refuse)
    line = fails(script, flags, 1)
    assert "403" in line and "missing" in line and "make demo" in line and "damaged" not in line
    assert not data.exists()
    data.mkdir()
    (data / "mine").write_text("")
    fails(script, flags, 1)
    assert files_in(data) == ["mine"] and len(list(data.iterdir())) == 1

    shutil.rmtree(data)
    data.symlink_to(tmp_path / "nowhere")
    line = fails(script, flags, 1)
    assert f"{data} is a link to {tmp_path / 'nowhere'}" in line
    assert not (tmp_path / "nowhere").exists()

    data.unlink()
    data.write_text("")
    line = fails(script, flags, 1)
    assert str(data) in line and ("File exists" in line or "Not a directory" in line)

    def full(folder, download):
        raise OSError(28, "No space left on device", str(folder))

    data.unlink()
    monkeypatch.setattr(torchvision.datasets.MNIST, "__init__",
                        lambda self, folder, download: full(folder, download))
    assert "No space left on device" in fails(script, flags, 1)
    assert not data.exists()


def test_an_intercepted_download_says_so(here, tmp_path, mirror, monkeypatch, capsys):
    """torchvision draws a bar of its own, so this is more than a line."""
    mirror(intercept)
    with pytest.raises(OSError, match="cannot be downloaded .*corrupted"):
        vae.load_dataset("mnist", tmp_path / "data")
    assert not (tmp_path / "data").exists()


TINY_MIRROR = """
import hashlib, pathlib, torchvision
torchvision.datasets.MNIST.mirrors = [{url!r}]
torchvision.datasets.MNIST.resources = [
    (name, hashlib.md5(pathlib.Path({folder!r}, name).read_bytes()).hexdigest())
    for name, _ in torchvision.datasets.MNIST.resources]
"""


def test_two_first_runs_at_once(raw, tmp_path, mirror, forks):
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

    prelude = TINY_MIRROR.format(url=mirror(answer), folder=str(raw))
    data = tmp_path / "new/data"
    commands = [[script.__file__, *QUICK[script], "--data-dir", data, "--out-dir", tmp_path / "p",
                 "--runs-dir", tmp_path / "r"] for script in QUICK]
    for done in forks(commands, at_once=True, prelude=prelude):
        assert done.returncode == 0, done.stderr
    for name in FILES:
        assert (data / "MNIST/raw" / name).read_bytes() == (raw / name).read_bytes()
    assert [path.name for path in data.iterdir()] == ["MNIST"]
