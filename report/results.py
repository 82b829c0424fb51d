"""Make every headline record and figure anew, and say which numbers moved against the committed ones, and by how much.

    python report/results.py            start; or, after a stop, go on: what is finished is skipped
    python report/results.py --fresh    start over

What was committed is kept in runs/results/before/, what is finished in runs/results/progress.json, until all is done;
then the numbers are compared (all that moved: runs/results/moved.json), and the next call starts over.
"""
import argparse
import contextlib
import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLOTS, FOLDER = ROOT / "plots", ROOT / "runs/results"
BEFORE, PROGRESS = FOLDER / "before", FOLDER / "progress.json"
JUDGED = "p5_compare"  # its committed record has many more runs than the command below scores
STEPS = {  # command: the record it writes
    "p1.py": "p1", "p2.py": "p2", "p3_autoencoder.py": "p3_mnist", "p4_divergences.py": "p4_divergences",
    "p5_toys.py": "p5_toys", "vae.py": "vae_mnist", "vae.py --dataset fashion": "vae_fashion", "gan.py": "gan_fashion",
    "gan.py --conditional": "cgan_fashion",
    "p5_compare.py vae_fashion gan_fashion cgan_fashion --out-dir runs/results": JUDGED, "p5_seeds.py": "p5_seeds"}
AGAIN = "python report/results.py (or make results) goes on from there"
SHOWN = 8  # numbers of a record that are printed; all are in moved.json


def read(path):
    """A JSON file, or {} where there is none, or a damaged one."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads(path.read_text())
    return {}


def write(path, content):
    """Write JSON beside `path`, then rename it, so that whoever stops this leaves the old file or the new one."""
    part = path.with_name(f".part-{path.name}")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(path)


def committed(name):
    """The bytes of a record as git has committed it; without git, or where it has none, as it lies in plots/."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(["git", "show", f"HEAD:./plots/{name}"], cwd=ROOT, check=True, capture_output=True).stdout
    return (PLOTS / name).read_bytes()


def campaign(fresh):
    """What is under way, or a start: {"started": {command: time}, "done": {command: seconds, None where in parts}}."""
    progress = {} if fresh else read(PROGRESS)
    if not progress:
        PROGRESS.unlink(missing_ok=True)  # first, or a stop here would leave it with half of before/
        shutil.rmtree(BEFORE, ignore_errors=True)
        BEFORE.mkdir(parents=True)
        for stem in STEPS.values():
            with contextlib.suppress(FileNotFoundError):
                (BEFORE / f"{stem}.json").write_bytes(committed(f"{stem}.json"))
        progress = {"started": {}, "done": {}}
        write(PROGRESS, progress)
    return progress


def expected(done):
    """{command: seconds} of what is not done: the committed record's, times the pace of what is done.

    The pace has one more minute, as fast as the records: else the first command, all but done at once, would set it."""
    recorded = {command: read(BEFORE / f"{stem}.json").get("seconds", 0) for command, stem in STEPS.items()}
    whole = {command: seconds for command, seconds in done.items() if seconds is not None}
    pace = (60 + sum(whole.values())) / (60 + sum(recorded[command] for command in whole))
    return {command: pace * seconds for command, seconds in recorded.items() if command not in done}


def duration(seconds):
    """Seconds as a person says them."""
    return f"{math.ceil(seconds)} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def perform(words):
    """Run one command in the project's folder; a failure ends this script with one line, Ctrl-C when it has ended."""
    with subprocess.Popen([sys.executable, "-u", *words], cwd=ROOT) as child:
        try:
            status = child.wait()
        except KeyboardInterrupt:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(10)  # Ctrl-C reached it too
            child.kill()
            raise
    if status:
        sys.exit(f"results.py: python {' '.join(words)} failed with status {status}; {AGAIN}")


def work(progress):
    """Run what is not done, in the order of STEPS."""
    for number, (command, stem) in enumerate(STEPS.items(), start=1):
        if command in progress["done"]:
            print(f"step {number} of {len(STEPS)}: python {command} is done", flush=True)
            continue
        checkpoint, words = ROOT / f"runs/{stem}.pt", command.split()
        resume = checkpoint.exists() and checkpoint.stat().st_mtime >= progress["started"].get(command, math.inf)
        words += ["--resume"] * resume
        left = expected(progress["done"])
        print(f"step {number} of {len(STEPS)}: python {' '.join(words)}, about {duration(left[command])}; "
              f"from here to the end about {duration(sum(left.values()))}", flush=True)
        progress["started"].setdefault(command, time.time())
        write(PROGRESS, progress)
        start = time.perf_counter()
        perform(words)
        progress["done"][command] = None if resume else time.perf_counter() - start
        write(PROGRESS, progress)


def compare(stem):
    """Of a record "same" (count), "moved" {name: [before, now, change]}, names "only before", "only now", "devices"."""
    path = FOLDER / f"{stem}_part.json" if stem == JUDGED else PLOTS / f"{stem}.json"
    records = read(BEFORE / f"{stem}.json"), read(path)
    before, now = (record.get("numbers", {}) for record in records)
    if stem == JUDGED:
        rows = {name.split("/")[0] for name in now}
        before = {name: entry for name, entry in before.items() if name.split("/")[0] in rows}
    both, moved = sorted(before.keys() & now.keys()), {}
    for name in both:
        texts = [format(entry["value"], entry["format"]) for entry in (before[name], now[name])]
        if texts[0] != texts[1]:
            old, change = before[name]["value"], now[name]["value"] - before[name]["value"]
            size = abs(change / old) if old else math.inf
            moved[name] = size, [*texts, f"{100 * change / abs(old):+.3g} %" if old else f"{change:+.3g}"]
    return {"same": len(both) - len(moved),
            "moved": {name: moved[name][1] for name in sorted(moved, key=lambda name: -moved[name][0])},
            "only before": sorted(before.keys() - now.keys()), "only now": sorted(now.keys() - before.keys()),
            "devices": [", ".join(it[key] for key in ("device", "precision") if key in it) or "no record"
                        for it in (record.get("settings", {}) | record for record in records)]}


def tell(stem, found):
    """Print what compare() found of one record."""
    devices = "; before on {}, now on {}".format(*found["devices"]) if len(set(found["devices"])) > 1 else ""
    print(f"{stem}: {len(found['moved'])} moved, {found['same']} are the same as printed"
          + "; this is another judge, trained anew" * (stem == JUDGED) + devices)
    lines = [f"{name}  {before} -> {now}  ({change})" for name, (before, now, change) in found["moved"].items()]
    for what, names in (("moved", lines), ("only before", found["only before"]), ("only now", found["only now"])):
        for name in names[:SHOWN]:
            print(f"    {what}: {name}")
        if len(names) > SHOWN:
            print(f"    {what}: {len(names) - SHOWN} more")


def conclude():
    """Compare all new records with those before, print and write what moved, and close the campaign."""
    found = {stem: compare(stem) for stem in STEPS.values()}
    write(FOLDER / "moved.json", found)
    print("\nAgainst what was committed, of each record first what moved most:")
    for stem, it in found.items():
        tell(stem, it)
    moved, before, now = (sum(len(it[what]) for it in found.values()) for what in ("moved", "only before", "only now"))
    same = sum(it["same"] for it in found.values())
    print(f"\nIn all {moved} numbers moved, {same} are the same as printed, {before} are only before, {now} only now; "
          f"every one that moved is in {FOLDER / 'moved.json'}\n"
          "That is no failure: another CPU, number of threads or PyTorch rounds differently, and training magnifies it."
          "\n`make report` puts the new records into the PDF; what the judge says there stays that of `make sweeps`.")
    PROGRESS.unlink()


def parse_args(argv=None):
    """The command line (default: sys.argv); a wrong one ends with status 2 and one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: {message} (--help lists every flag)\n")
    parser.add_argument("--fresh", action="store_true", help="start over, whatever is finished")
    return parser.parse_args(argv)


def main(argv=None):
    progress = campaign(parse_args(argv).fresh)
    print("Expected times are the training's in the committed records, at the pace of what is done so far.", flush=True)
    work(progress)
    conclude()


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(f"results.py: {error}")
    except KeyboardInterrupt:
        print(f"\nstopped; {AGAIN}", file=sys.stderr)
        sys.exit(130)
