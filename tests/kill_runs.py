"""Kill training runs at random moments, resume them, and compare what they leave, bit for bit.

    python tests/kill_runs.py                  100 kills by SIGKILL, shared out between the scripts
    python tests/kill_runs.py --kills 1000 --seed 7

Every other kill waits for a random moment and then for a half-written file (.part-*), the others
for the moment only. Every command says --resume, as a queue may. A killed run is started again and
may be killed again once or twice before it ends; no kill may take an epoch away that was saved
before. Runs are forks of this process, which has imported PyTorch once (not on Windows), and train
on drawn digits. What differs from an uninterrupted run, wall-clock times aside, is printed, and the
exit status is 1.
"""
import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # no thread to lose in a fork
if __name__ == "__main__":
    os.environ["MPLBACKEND"] = "agg"
sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

import glyphs  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

import gan  # noqa: E402
import p3_autoencoder  # noqa: E402
import vae  # noqa: E402

FOLDERS = ["--data-dir", "../data", "--out-dir", "plots", "--runs-dir", "runs", "--no-cuda"]
CASES = {  # name: (script, flags)
    "vae": (vae, ["--epochs", "4", "--batch-size", "50", "--latent-dim", "3",
                  "--prior", "mixture"]),
    "gan": (gan, ["--dataset", "mnist", "--arch", "mlp", "--epochs", "3", "--conditional",
                  "--ema", "0.9"]),
    "gan, convolutional": (gan, ["--dataset", "mnist", "--epochs", "2", "--batch-size", "100",
                                 "--conditional"]),
    "p3_autoencoder": (p3_autoencoder, ["--epochs", "4"]),
}


def shorten(replace=setattr):
    """Less of what takes long: 200 samples, and of p3_autoencoder.py the part that is resumed."""
    draw_noise, sample = gan.draw_noise, vae.sample

    def few_samples(model, count, args, prior=None):
        return sample(model, min(count, 200), args, prior)

    replace(gan, "draw_noise", lambda count, *others: draw_noise(min(count, 200), *others))
    replace(vae, "sample", few_samples)
    replace(gan, "PATHS", 10)
    replace(p3_autoencoder, "report_corruption", lambda *_: {})  # 3.2 has no state to lose


def epoch_of(folder):
    """The last epoch that is saved there, -1 where no state is."""
    epochs = [torch.load(path, weights_only=True)["epoch"]
              for path in (folder / "runs").glob("[!.]*.pt")]
    return max(epochs, default=-1)


def half_written(folder):
    """{half-written file: when it was written to}."""
    found = {}
    for path in folder.rglob(".part-*"):
        with contextlib.suppress(FileNotFoundError):  # it may be renamed at any moment
            found[path] = path.stat().st_mtime_ns
    return found


def start(case, folder):
    """Fork a run of `case` in `folder`; returns its process id."""
    script, flags = CASES[case]
    flags = [*flags, "--resume"]
    child = os.fork()
    if child:
        return child
    os.chdir(folder)
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = [script.__file__]
    status = 1
    try:
        script.run(lambda: script.main([*flags, *FOLDERS]))
        status = 0
    finally:
        sys.stdout.flush()
        os._exit(status)


def ended(child):
    """Whether the process is over; its exit status must then be 0."""
    done, status = os.waitpid(child, os.WNOHANG)
    if done and status:
        raise ChildProcessError("a run that nobody killed failed")
    return bool(done)


def complete(case, folder):
    """A run of `case` in `folder` to its end; what it leaves, as contents()."""
    child = start(case, folder)
    while not ended(child):
        time.sleep(0.01)
    return contents(folder)


def kill(child, folder, delay, at_a_write):
    """SIGKILL after `delay` seconds, or at the next half-written file then; False if it ended."""
    moment, old = time.perf_counter() + delay, half_written(folder)
    while (time.perf_counter() < moment
           or (at_a_write and half_written(folder).items() <= old.items())):
        if ended(child):
            return False
        time.sleep(0.0002)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def contents(folder):
    """{file: what it holds}, without times of day and durations: what two runs must agree in."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name == "log":
            continue
        content = path.read_bytes()
        if path.suffix == ".json":
            content = repr({**json.loads(content), "seconds": 0})
        elif path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                content = {name: archive.read(name) for name in archive.namelist()}
        elif path.suffix == ".pt":
            content = {**torch.load(path, weights_only=True), "seconds": 0}
        found[str(path.relative_to(folder))] = content
    return found


def same(one, two):
    """Equality of nested containers, numbers and tensors, bit for bit."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    return np.array_equal(one, two)


def new_folder(home, name):
    """A new folder for a run."""
    shutil.rmtree(home / name, ignore_errors=True)
    (home / name / "runs").mkdir(parents=True)
    return home / name


def torment(case, home, kills, seen):
    """Kill runs of `case` `kills` times; the files that differ from an uninterrupted run's."""
    begun = time.perf_counter()
    expected = complete(case, new_folder(home, case))
    length = time.perf_counter() - begun
    lost, done = [], 0
    while done < kills:
        folder = new_folder(home, "killed")
        for _ in range(min(random.randint(1, 3), kills - done)):
            epoch, old = epoch_of(folder), half_written(folder)
            child = start(case, folder)
            if not kill(child, folder, random.uniform(0, length), at_a_write=done % 2 == 0):
                break
            done += 1
            new = [path.suffix for path, _ in half_written(folder).items() - old.items()]
            seen.update(new or ["nothing"])
            if epoch_of(folder) < epoch:
                lost.append(f"{case}: epoch {epoch}")
        found = complete(case, folder)
        for name in sorted(expected.keys() | found.keys()):
            if name not in found or name not in expected or not same(expected[name], found[name]):
                lost.append(f"{case}: {name}")
    return lost


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    args = parser.parse_args(argv)
    if args.kills < 1:
        parser.error(f"--kills {args.kills} is less than 1")
    random.seed(args.seed)
    seen, lost = Counter(), []
    shorten()
    with tempfile.TemporaryDirectory() as home:
        glyphs.write_dataset(Path(home, "data"), "mnist", 300, 70, seed=1)
        for place, case in enumerate(CASES):
            kills = args.kills // len(CASES) + (place < args.kills % len(CASES))
            lost += torment(case, Path(home), kills, seen)
            differ = sum(line.startswith(f"{case}:") for line in lost)
            print(f"{case}: killed {kills} times, {differ} files lost or changed", flush=True)
    counts = ", ".join(f"{kind} {count}" for kind, count in seen.most_common())
    print(f"half-written when killed: {counts}")
    if lost:
        sys.exit("\n".join(lost))


if __name__ == "__main__":
    main()
