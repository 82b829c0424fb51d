"""Run the report's campaign: the lines of report/runs.txt that plots/ holds no record of.

    python report/run.py          all of them, two at a time, one thread each
    python report/run.py 5.3      only lines with "5.3" in their group or command
    python report/run.py --list   only say which lines would be run

A line is done if a record has its command and the code that its script has today, and if the
samples of vae.py and gan.py on Fashion-MNIST are scored. Stopped, the same command goes on, on
another machine too. What a command prints is in runs/log/.
"""
import argparse
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "report")]

import build  # noqa: E402

import vae  # noqa: E402

LOGS = ROOT / "runs/log"
TABLES = "python p5_seeds.py"
SAMPLED = ("python vae.py", "python gan.py")
PHASE = {"p5_compare.py": 0, "p5_seeds.py": 2, "tests/bench.py": 2}  # others 1, two at a time
TRAINERS = ("vae.py", "gan.py", "p3_autoencoder.py")  # they can resume


def phase_of(command):
    return PHASE.get(command.split()[1], 1)


def read_plan(pattern):
    """The commands with `pattern` in them or in the heading of their group, in the order to run."""
    plan, group = [], ""
    for line in (ROOT / "report/runs.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            group = line
        elif line.startswith("python ") and (pattern in group or pattern in line):
            plan.append(line)
    return sorted(plan, key=phase_of)


def read_records():
    """{(command, code): (path, record)} of plots/; of a record and its copy, the shorter name."""
    found = build.read_records(build.PLOTS)
    return {(str(found[path].get("command")), str(found[path].get("code"))): (path, found[path])
            for path in sorted(found, key=lambda path: len(path.name), reverse=True)}


def made_today(command, records):
    """(path, record) of a command if its script's code of today made it, else None."""
    return records.get((command, vae.code_identity(ROOT / command.split()[1])))


def next_step(line, records):
    """What is to be run of a line: itself, or the score of its samples; None where it is done."""
    if not made_today(line, records):
        return line
    path, record = made_today(line, records)
    if line == TABLES:
        return line if is_older(path, *LOGS.glob("*p5_compare*")) else None
    settings = record.get("settings", {})
    if not line.startswith(SAMPLED) or settings.get("dataset") != "fashion":
        return None  # the ruler is for Fashion-MNIST
    fitted = [f"normal_{path.stem}"] if settings.get("components") else []
    for run in [path.stem, *fitted]:
        score, samples = f"python p5_compare.py {run}", ROOT / f"runs/{run}_samples.npz"
        scored = made_today(score, records)
        if not scored or is_older(scored[0], samples):
            return score if samples.exists() else line
    return None


def is_older(path, *others):
    """Whether one of the `others` that exist was written after `path`."""
    return any(other.stat().st_mtime > path.stat().st_mtime for other in others if other.exists())


def start(command):
    """(process, its log) of a command; a training that the code of today began goes on."""
    _, script, *flags = command.split()
    begun = f"{command}, code {vae.code_identity(ROOT / script)}\n"
    log = LOGS / f"{re.sub('[^A-Za-z0-9.-]+', '_', command)}.txt"
    if script in TRAINERS and log.exists() and log.read_text(errors="replace").startswith(begun):
        flags.append("--resume")
    LOGS.mkdir(parents=True, exist_ok=True)
    log.write_text(begun)
    with log.open("a") as output:
        return subprocess.Popen([sys.executable, "-u", script, *flags], cwd=ROOT, stdout=output,
                                stderr=output, env=os.environ | {"OMP_NUM_THREADS": "1"}), log


def why_failed(status, log):
    """A line on a command that ended with `status` and is not done."""
    if status <= 0:
        return f"killed by signal {-status}" if status else "it left no record or samples"
    said = log.read_text(errors="replace").partition("\n")[2]
    log.write_text(said)  # without saying whose code began it: it may have refused to
    return said.strip().rpartition("\n")[2]


def run_all(todo):
    """Run the lines `todo`, and score what is to be scored; how many failed."""
    waiting, running, failed = list(todo), {}, 0
    try:
        while waiting or running:
            busy = [line for line, *_ in running.values()]
            phases = {phase_of(line) for line in [*busy, *waiting[:1]]}
            if waiting and (not busy or len(busy) == 1 and phases == {1}):
                line = waiting.pop(0)
                step = next_step(line, read_records())
                if step and not (failed and line == TABLES):
                    print(f"{len(todo) - len(waiting)} of {len(todo)}: {step}", flush=True)
                    child, log = start(step)
                    running[child] = line, step, log
            time.sleep(0.1)
            for child in [child for child in running if child.poll() is not None]:
                line, step, log = running.pop(child)
                if child.returncode == 0 and next_step(line, read_records()) != step:
                    waiting.insert(0, line)  # its samples are to be scored
                else:
                    failed += 1
                    print(f"FAILED: {step}: {why_failed(child.returncode, log)}", flush=True)
    finally:
        for child in running:
            child.terminate()
        for child in running:
            child.wait()
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("pattern", nargs="?", default="", metavar="PATTERN")
    parser.add_argument("--list", action="store_true", help="only say which lines would be run")
    args = parser.parse_args()
    plan, records = read_plan(args.pattern), read_records()
    if not plan:
        sys.exit(f"run.py: no line of report/runs.txt has {args.pattern!r} in it")
    todo = [line for line in plan if next_step(line, records)]
    if todo and TABLES in plan:
        todo = [line for line in todo if line != TABLES] + [TABLES]
    print(f"{len(todo)} of {len(plan)} lines are to be run")
    if args.list:
        print(*todo, sep="\n")
    elif run_all(todo):
        sys.exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nrun.py: stopped; the same command goes on")
    except OSError as error:
        sys.exit(f"run.py: {error}")
