"""Run the report's campaign: the commands of report/runs.txt whose record is missing or stale.

    python report/run.py                      all of it, one command after the other
    python report/run.py --jobs 2 4.3         only what has "4.3" in its group, command or name;
                                              two at a time, one thread each
    python report/run.py --check              run nothing, say what state each record is in
    python report/run.py --again --out-dir runs/again headline
                                              ignore what is committed, work into that folder, and
                                              list which numbers moved, by how much

Right after each run whose samples count, p5_compare.py scores them: every line of vae.py and gan.py
stands for these commands too. A record counts if git has it committed (without git: if it is in
plots/) and if its settings, its name and its fingerprint, two steps of training taken again, are
what its command would give today; scores, if they are of the judge that is committed. Stopped, the
same command goes on, on another machine too.
"""
import argparse
import functools
import importlib
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "report")]

import build  # noqa: E402

import vae  # noqa: E402

CAN_RESUME = ("vae.py", "gan.py", "p3_autoencoder.py")
SAMPLED = ("vae.py", "gan.py")
JUDGE = "p5_compare.py"
TABLES = "p5_seeds.py"  # over all scores
TOLERANCE = 1e-4  # of a fingerprint, relative
# Of the first number and of the later ones, in records of another kind of processor: Adam's first
# step is the learning rate times the sign of the gradient, so rounding decides wherever a gradient
# is almost 0. In float32, gan.py's later numbers differ by 0.04 % with the defaults and by 1.7 % at
# the highest rates, its first, which with five steps of D follows four of them, by 0.03 %; vae.py's
# later ones by 0.013 % at its highest rate; those of other scripts by less than TOLERANCE.
TOLERANCE_ELSEWHERE = {"gan.py": (1e-3, 0.05), "vae.py": (TOLERANCE, 1e-3)}


@dataclass
class Line:
    """A command of runs.txt: group, words after `python`, and what the script makes of them."""
    group: str
    script: str
    flags: list
    args: argparse.Namespace
    folder: Path | None = None  # of the record, if not --out-dir: scores stand beside their run's

    @property
    def name(self):
        return getattr(self.args, "run_name", Path(self.script).name.removesuffix(".py"))

    @property
    def command(self):
        return shlex.join(["python", self.script, *self.flags])

    @property
    def record(self):
        """The path of the record, below the project's root."""
        folder = self.folder or (ROOT / self.args.out_dir).relative_to(ROOT)
        return folder / f"{self.name}.json"

    @property
    def needs(self):
        """Names of the runs whose samples this one takes."""
        if self.script != JUDGE:
            return []
        return [name.removeprefix("normal_") for name in self.args.runs
                if not name.startswith("real_")]


def load_script(script):
    """The module of a script such as gan.py or tests/bench.py."""
    return importlib.import_module(Path(script).name.removesuffix(".py"))


def read_lines(path=ROOT / "report/runs.txt"):
    """Every Line of the campaign, in order; ValueError at one that is no command of a script."""
    lines, group = [], ""
    for text in path.read_text().splitlines():
        if text.startswith("["):
            group = text.strip("[]")
        elif text.strip() and not text.startswith("#"):
            python, script, *flags = shlex.split(text)
            if python != "python" or not (ROOT / script).is_file():
                raise ValueError(f"{path}: {text!r} is no command of a script of this project")
            line = Line(group, script, flags, load_script(script).parse_args(flags))
            lines += [line, *scores_of(line)]
    return lines


def scores_of(line):
    """The lines that score the samples of `line`: of a VAE with a fitted prior, both kinds.

    A group that says "losses only" has none of them, one that says "mixture only" one kind.
    """
    if line.script not in SAMPLED or "losses only" in line.group:
        return []
    names = [line.name]
    if getattr(line.args, "prior", None) == "mixture" and "mixture only" not in line.group:
        names.append(f"normal_{line.name}")
    parse_args = load_script(JUDGE).parse_args
    return [Line(line.group, JUDGE, [name], parse_args([name]), line.record.parent)
            for name in names]


# ------------------------------------------------------------------------ what a record is worth
def committed(path):
    """The text of a file below the root as git has it committed, or None; without git, as it is."""
    if not in_git():
        return read_text(ROOT / path)
    shown = subprocess.run(["git", "show", f"HEAD:./{path.as_posix()}"], cwd=ROOT,
                           capture_output=True, text=True)
    return None if shown.returncode else shown.stdout


@functools.cache
def in_git():
    """Whether the project is in a repository that has a commit, and git is there to ask."""
    try:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True)
    except FileNotFoundError:
        return False
    return asked.returncode == 0


def read_text(path):
    """The text of a file, or None where there is none."""
    return path.read_text() if path.exists() else None


def state_of(line, text):
    """"done", "to be run" or "stale: ..." of a line, by the `text` of its record or None."""
    if text is None:
        return "to be run: it has no record"
    script = load_script(line.script)
    try:
        record = json.loads(text)
        before, numbers = dict(record["settings"]), dict(record["numbers"])
    except (ValueError, LookupError, TypeError):
        return "stale: its record is damaged"
    today = getattr(script, "settings_of", vae.settings_of)(line.args)
    if hasattr(script, "fingerprint") and "fingerprint" not in record:
        return "to be run: its record has no fingerprint"
    changed = [f"{name} is {before.get(name)!r}, today {today.get(name)!r}"
               for name in sorted({*today, *before}) if before.get(name) != today.get(name)]
    if changed:
        return f"stale: {', '.join(changed)}"
    if not all(isinstance(value, (int, float)) for value in numbers.values()):
        return "stale: its numbers are no plain numbers"
    if not hasattr(script, "fingerprint"):
        return "done"
    scored = line.script in (JUDGE, TABLES) and not getattr(line.args, "train_judge", False)
    if scored and "judge" not in record:
        return "to be run: its record names no judge"
    if scored and record["judge"] != judge_of(record):
        return "stale: it is of another judge than the one that is committed"
    fresh, stored = fresh_fingerprint(line), record["fingerprint"]
    if not same_fingerprint(fresh, stored, *tolerances_of(line, record)):
        return f"stale: its code computes {fresh}, when the record was made {stored}"
    return "done"


def tolerances_of(line, record):
    """Relative tolerances of a fingerprint's first number and of the later ones."""
    tight = TOLERANCE, TOLERANCE
    return tight if made_here(line, record) else TOLERANCE_ELSEWHERE.get(line.script, tight)


def made_here(line, record):
    """Whether a record is of this kind of processor, which rounds as it does.

    One name, such as "AMD EPYC", may stand for several sets of instructions. What --precision auto
    chose tells those apart that matter most.
    """
    if record["machines"][-1]["processor"] != processor_here():
        return False
    if "precision" not in record:
        return True
    cpu = vae.torch.device("cpu")
    return record["precision"] == vae.choose_precision(line.args.precision, cpu)


def same_fingerprint(fresh, stored, first, later):
    """Whether two fingerprints agree: their first numbers to `first`, the others to `later`."""
    tolerances = [first] + [later] * (len(stored) - 1)
    return len(fresh) == len(stored) and all(
        math.isclose(*pair, rel_tol=tolerance, abs_tol=1e-12)
        for *pair, tolerance in zip(fresh, stored, tolerances))


@functools.cache
def processor_here():
    """The name of this machine's processor, as records have it."""
    return vae.machine(vae.torch.device("cpu"))["processor"]


def judge_of(record):
    """The SHA-256 of the committed judge of a record's data set."""
    dataset = record.get("dataset") or record["settings"].get("dataset") or "fashion"
    text = committed(Path(f"plots/judge_{dataset}.json"))
    return json.loads(text)["judge"] if text else None


FINGERPRINTS = {}  # those taken already; all scores have the same


def fresh_fingerprint(line):
    """The fingerprint of a line, taken today."""
    settings = vars(line.args) | {"runs": None, "run_name": None, "command": None, "flags": None}
    key = line.script, line.name if line.script != JUDGE else repr(sorted(settings.items()))
    if key not in FINGERPRINTS:
        FINGERPRINTS[key] = load_script(line.script).fingerprint(line.args)
    return FINGERPRINTS[key]


# ------------------------------------------------------------------------------------ running
def estimate(lines, recorded, spent, jobs):
    """Text: how long `lines` will take, by recorded seconds at the pace of what ended here.

    spent: {name: seconds} of what this call has run. The pace has one more minute at the speed of
    the records, or the first short command alone would set it.
    """
    ended = [name for name in spent if name in recorded]
    pace = (60 + sum(spent[name] for name in ended)) / (60 + sum(recorded[name] for name in ended))
    known = [line for line in lines if line.name in recorded]
    seconds = pace * sum(recorded[line.name] for line in known) / jobs
    text = f"about {duration(seconds)}"
    if len(known) < len(lines):
        text += f" and {len(lines) - len(known)} of unknown length"
    return text


def duration(seconds):
    """Seconds as a person says them."""
    if seconds < 100:
        return f"{math.ceil(seconds)} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def samples_missing(line, lines, runs_dir):
    """Lines whose samples `line` takes and that are not in `runs_dir`."""
    files = {name.removeprefix("normal_"): runs_dir / f"{name}_samples.npz"
             for name in getattr(line.args, "runs", []) if line.needs}
    return [other for other in lines if other.name in line.needs
            and not files[other.name].exists()]


def with_what_the_judge_needs(todo, lines, runs_dir):
    """`todo`, and before each line of the judge those of `lines` whose samples it lacks."""
    result = []
    for line in todo:
        result += [other for other in samples_missing(line, lines, runs_dir)
                   if other not in result and other not in todo]
        result.append(line)
    return result


def can_start(line, running):
    """Whether nothing that `line` needs is among the lines that are `running`."""
    if line.script == TABLES:
        return not running
    judges = [other.name for other in running if getattr(other.args, "train_judge", False)]
    if line.script == JUDGE and judges:
        return False
    return not any(other.name in line.needs for other in running)


def start(line, out_dir, runs_dir, threads):
    """Start a line's command; its output goes to <runs_dir>/log/<name>.txt."""
    words = [sys.executable, "-u", line.script, *line.flags]
    if out_dir:
        words += ["--out-dir", str(out_dir)]
        if hasattr(line.args, "runs_dir"):
            words += ["--runs-dir", str(runs_dir)]
    if line.script in CAN_RESUME:
        words.append("--resume")
    log = log_of(line, runs_dir)
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    with log.open("w") as output:
        return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=output, stderr=output)


def log_of(line, runs_dir):
    """Where the output of a line's command goes."""
    return runs_dir / "log" / f"{line.name}.txt"


def run_all(todo, recorded, out_dir, runs_dir, jobs):
    """Run the lines `todo`, `jobs` at a time, each where the run before it was stopped.

    recorded: {name: seconds}. Returns the lines that failed; what follows them runs all the same.
    """
    waiting, running, spent, failed = list(todo), {}, {}, []
    threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else None
    try:
        while waiting or running:
            while len(running) < jobs:
                busy = [line for line, _ in running.values()]
                free = [line for line in waiting if can_start(line, busy)]
                if not free:
                    break
                left = estimate(waiting, recorded, spent, jobs)
                line = free[0]
                waiting.remove(line)
                print(f"{len(todo) - len(waiting)} of {len(todo)}: {line.command}   (from here to "
                      f"the end {left})", flush=True)
                running[start(line, out_dir, runs_dir, threads)] = line, time.perf_counter()
            time.sleep(0.05)
            for child in [child for child in running if child.poll() is not None]:
                line, begun = running.pop(child)
                spent[line.name] = time.perf_counter() - begun
                if child.returncode:
                    failed.append(line)
                    said = log_of(line, runs_dir).read_text(errors="replace").split("\n")
                    print(f"FAILED, status {child.returncode}: {line.command}: "
                          f"{[text for text in said if text.strip()][-1:]}", flush=True)
    finally:
        for child in running:  # they keep what they have saved
            child.terminate()
        for child in running:
            child.wait()
    return failed


# -------------------------------------------------------------------------------- what has moved
def moved(before, now, digits):
    """{name: (text before, text now, change)} of the numbers that print differently.

    `digits` maps a number's name to those the report prints it to; others have four of them.
    """
    found = {}
    for name in sorted(before.keys() & now.keys()):
        texts = [build.printed(numbers[name], digits.get(name, ".4g")) for numbers in (before, now)]
        if texts[0] == texts[1]:
            continue
        change = now[name] - before[name]
        if before[name]:
            found[name] = (*texts, f"{100 * change / abs(before[name]):+.3g} %")
        else:
            found[name] = (*texts, f"{change:+.3g}")
    return found


def list_moved(lines, out_dir):
    """Print, and write to <out_dir>/moved.json, what moved from committed records to new ones.

    <out_dir>/again.json gets {run: machines and numbers} of the new ones. The report's own second
    opinion, report/again.json, is such a file.
    """
    sources = "".join(path.read_text() for path in (ROOT / "report").glob("*.tex"))
    uses = build.uses(sources)
    result, again, same = {}, {}, 0
    for line in lines:
        before, now = committed(line.record), read_text(out_dir / f"{line.name}.json")
        if before is None or now is None:
            print(f"{line.name}: nothing to compare")
            continue
        before, now = json.loads(before), json.loads(now)
        again[line.name] = {key: now[key] for key in ("machines", "precision", "dataset", "numbers")
                            if key in now}
        before, now = before["numbers"], now["numbers"]
        digits = {name: choice for choice, pattern in uses for name in before
                  if re.fullmatch(pattern, f"{line.name}/{name}")}
        result[line.name] = moved(before, now, digits)
        same += len(before.keys() & now.keys()) - len(result[line.name])
        print(f"{line.name}: {len(result[line.name])} numbers moved")
        for name, (old, new, size) in list(result[line.name].items())[:8]:
            print(f"    {name}  {old} -> {new}  ({size})")
    (out_dir / "moved.json").write_text(json.dumps(result, indent=1) + "\n")
    (out_dir / "again.json").write_text(json.dumps(again, indent=1) + "\n")
    count = sum(map(len, result.values()))
    print(f"in all {count} numbers moved and {same} print as before; all that moved: "
          f"{out_dir / 'moved.json'}\nAnother CPU, number of threads or version rounds "
          "differently, and training magnifies it.")


# ------------------------------------------------------------------------------- command line
def parse_args(argv=None):
    """The command line (default: sys.argv); a wrong one ends with status 2 and one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.error = lambda text: parser.exit(2, f"{parser.prog}: {text} (--help lists every flag)\n")
    parser.add_argument("pattern", nargs="?", default="", metavar="PATTERN",
                        help="only lines with this text in their group, command or run's name")
    parser.add_argument("--jobs", type=int, default=1, choices=range(1, 65), metavar="N",
                        help="commands at a time")
    parser.add_argument("--check", action="store_true", help="run nothing, say what would be run")
    parser.add_argument("--again", action="store_true", help="ignore what is committed")
    parser.add_argument("--out-dir", type=Path, help="with --again: the folder to work into")
    args = parser.parse_args(argv)
    if args.again != (args.out_dir is not None):
        parser.error("--again and --out-dir go together")
    return args


def select(lines, pattern):
    """The lines with `pattern` in their group, command or name; ValueError if there are none."""
    chosen = [line for line in lines if pattern in f"[{line.group}] {line.command} {line.name}"]
    if not chosen:
        raise ValueError(f"no line of report/runs.txt has {pattern!r} in it")
    return chosen


def main(argv=None):
    args = parse_args(argv)
    lines = read_lines()
    chosen = select(lines, args.pattern)
    out_dir, runs_dir = args.out_dir, ROOT / "runs"
    if args.again:
        out_dir = out_dir.expanduser().resolve()
        runs_dir = out_dir / "runs"
    texts = {line.name: read_text(out_dir / f"{line.name}.json") if args.again
             else committed(line.record) for line in chosen}
    states = {}
    for line in chosen:
        states[line.name] = state_of(line, texts[line.name])
        if any(states.get(name, "done") != "done" for name in line.needs):
            states[line.name] = "to be run: its samples are made anew"
        if args.check or states[line.name].startswith("stale"):
            print(f"{line.name}: {states[line.name]}", flush=True)
    todo = [line for line in chosen if states[line.name] != "done"]
    print(f"{len(chosen) - len(todo)} of {len(chosen)} records are what their commands give today")
    if args.check:
        return int(any(state.startswith("stale") for state in states.values()))

    todo = with_what_the_judge_needs(todo, lines, runs_dir)
    if any(line.script == JUDGE for line in todo):  # then the tables over scores are no longer so
        todo += [line for line in chosen if line.script == TABLES and line not in todo]
    records = {line.name: committed(line.record) for line in todo}
    recorded = {name: json.loads(text)["seconds"] for name, text in records.items() if text}
    failed = run_all(todo, recorded, out_dir, runs_dir, args.jobs)
    if args.again:
        list_moved(chosen, out_dir)
    elif todo:
        print("commit plots/, or these runs will be made again")
    for line in failed:
        print(f"failed: {line.command}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except (OSError, ValueError) as error:
        sys.exit(f"run.py: {error}")
    except KeyboardInterrupt:
        print("\nrun.py: stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)
