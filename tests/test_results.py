"""make results: its order, what it skips and resumes after a stop, its estimate, and the numbers it says moved."""
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "report"))

import results  # noqa: E402

# A stand-in for every script: it notes its command, writes a checkpoint if it trains, stops where the file `stop` says
# so, and writes the record that it finds in after/.
FAKE = '''
import os, pathlib, shutil, sys, time
words = [pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]
with open("log", "a") as log:
    log.write(" ".join(words) + "\\n")
command = " ".join(word for word in words if word != "--resume")
stem, out, how = {steps!r}[command], "plots", pathlib.Path("stop").read_text().split(": ")
if words[0] in ("vae.py", "gan.py") and how != [command, "early"]:
    pathlib.Path("runs", stem + ".pt").touch()
if how[0] == command and how[1] == "hang":
    pathlib.Path("ready").touch()
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        sys.exit(130)
if how[0] == command:
    sys.exit(3)
if words[0] == "p5_compare.py":
    stem, out = "p5_compare_part", sys.argv[-1]
shutil.copy(f"after/{{stem}}.json", f"{{out}}/{{stem}}.json")
'''


def record(path, seconds=100, device="cpu", **numbers):
    """Write a record of these numbers, '/' in place of '__', each (value, format)."""
    entries = {name.replace("__", "/"): {"value": v, "format": spec} for name, (v, spec) in numbers.items()}
    path.write_text(json.dumps({"seconds": seconds, "device": device, "numbers": entries}))


@pytest.fixture
def project(tmp_path):
    """A project of stand-ins: records of 100 seconds in plots/, and in after/ what the commands will write."""
    for folder in ("report", "plots", "after", "runs"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "report/results.py", tmp_path / "report")
    for command, stem in results.STEPS.items():
        (tmp_path / command.split()[0]).write_text(FAKE.format(steps=results.STEPS))
        for folder in ("plots", "after"):
            record(tmp_path / folder / f"{stem}.json", loss=(1.0, ".2f"))
    record(tmp_path / "after/p5_compare_part.json", loss=(1.0, ".2f"))
    (tmp_path / "stop").write_text("nothing")
    return tmp_path


def make(project, *flags, git="no git"):
    """Run report/results.py there, without git; the commands that it ran, and what came of it."""
    log = project / "log"
    log.write_text("")
    done = subprocess.run([sys.executable, "-W", "error", "report/results.py", *flags], cwd=project, text=True,
                          capture_output=True, timeout=60, env=os.environ | {"GIT_DIR": str(project / git)})
    return log.read_text().splitlines(), done


def test_after_a_failure_it_goes_on_where_it_stopped(project):
    commands = list(results.STEPS)
    (project / "runs/gan_fashion.pt").touch()  # of an earlier campaign
    os.utime(project / "runs/gan_fashion.pt", (1, 1))
    (project / "stop").write_text("gan.py: early")
    record(project / "after/p1.json", loss=(2.0, ".2f"))
    ran, done = make(project)
    assert ran == commands[:8] and done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and "python gan.py failed with status 3" in done.stderr
    assert [line for line in done.stdout.splitlines() if "step 8 of 11: python gan.py, about" in line]
    progress = json.loads((project / "runs/results/progress.json").read_text())
    assert list(progress["done"]) == commands[:7] and all(seconds > 0 for seconds in progress["done"].values())

    (project / "stop").write_text("gan.py: late")  # the first attempt left no checkpoint of its own, this one does
    ran, done = make(project)
    assert ran == ["gan.py"] and done.returncode == 1 and done.stdout.count(" is done\n") == 7
    (project / "stop").write_text(f"{commands[9]}: early")
    ran, done = make(project)
    assert ran == ["gan.py --resume", *commands[8:10]] and "python gan.py --resume, about" in done.stdout
    assert json.loads((project / "runs/results/progress.json").read_text())["done"]["gan.py"] is None
    (project / "stop").write_text("nothing")
    ran, done = make(project)
    assert ran == commands[9:] and done.returncode == 0 and not done.stderr
    assert "step 7 of 11: python vae.py --dataset fashion is done" in done.stdout and "make report" in done.stdout
    assert "p1: 1 moved" in done.stdout  # before/ is of the start, not of the second call
    assert not (project / "runs/results/progress.json").exists()
    ran, done = make(project)  # a new campaign: every checkpoint is of the one before
    assert ran == commands and "p1: 0 moved" in done.stdout


def test_fresh_starts_over(project):
    (project / "stop").write_text("vae.py: late")
    assert make(project)[0][-1] == "vae.py"
    ran, _ = make(project, "--fresh")
    assert ran == list(results.STEPS)[:6]


@pytest.mark.parametrize("how", [signal.SIGINT, getattr(signal, "SIGKILL", signal.SIGTERM)])
def test_it_goes_on_after_a_signal(project, how):
    (project / "stop").write_text("vae.py: hang")
    child = subprocess.Popen([sys.executable, "-W", "error", "report/results.py"], cwd=project, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    while not (project / "ready").exists():
        assert child.poll() is None
        time.sleep(0.01)
    os.killpg(child.pid, how)
    error = child.communicate(timeout=30)[1]
    if how == signal.SIGINT:
        assert child.returncode == 130 and len(error.strip().splitlines()) == 1, error
    (project / "stop").write_text("nothing")
    ran, done = make(project)
    assert ran == ["vae.py --resume", *list(results.STEPS)[6:]] and done.returncode == 0


def test_exactly_the_numbers_that_moved_are_named(project):
    record(project / "plots/p1.json", same=(1.0, ".2f"), hidden=(1.0, ".2f"), up=(2.0, ".1f"), down=(-4.0, ".1f"),
           zero=(0, "d"), gone=(5, "d"))
    record(project / "after/p1.json", device="cpu, 9 threads", same=(1.0, ".2f"), hidden=(1.004, ".2f"),
           up=(2.1, ".1f"), down=(-5.0, ".1f"), zero=(3, "d"), new=(6, "d"))
    record(project / "plots/p5_compare.json", real__a=(1.0, ".1f"), gan__a=(2.0, ".1f"), lever_x__a=(3.0, ".1f"))
    record(project / "after/p5_compare_part.json", real__a=(1.0, ".1f"), gan__a=(3.0, ".1f"), gan__b=(1.0, ".1f"))
    record(project / "plots/p2.json", **{f"n{k}": (1.0, ".1f") for k in range(1, 11)})
    record(project / "after/p2.json", **{f"n{k}": (1.0 + k, ".1f") for k in range(1, 11)})
    _, done = make(project)
    assert done.returncode == 0
    moved = json.loads((project / "runs/results/moved.json").read_text())
    assert {stem for stem, it in moved.items() if it["moved"]} == {"p1", "p2", "p5_compare"}
    assert moved["p1"] == {
        "same": 2, "only before": ["gone"], "only now": ["new"], "devices": ["cpu", "cpu, 9 threads"],
        "moved": {"zero": ["0", "3", "+3"], "down": ["-4.0", "-5.0", "-25 %"], "up": ["2.0", "2.1", "+5 %"]}}
    assert list(moved["p1"]["moved"]) == ["zero", "down", "up"]  # what moved most comes first
    assert moved["p5_compare"]["moved"] == {"gan/a": ["2.0", "3.0", "+50 %"]} and moved["p5_compare"]["same"] == 1
    assert moved["p5_compare"]["only before"] == [] and moved["p5_compare"]["only now"] == ["gan/b"]
    assert list(moved["p2"]["moved"])[0] == "n10" and len(moved["p2"]["moved"]) == 10
    printed = done.stdout.split("Against what was committed")[1]
    assert "p1: 3 moved, 2 are the same as printed; before on cpu, now on cpu, 9 threads" in printed
    assert "down  -4.0 -> -5.0  (-25 %)" in printed and "only before: gone" in printed and "only now: new" in printed
    assert re.findall(r"moved: (n\d+) ", printed) == [f"n{k}" for k in range(10, 2, -1)] and "moved: 2 more" in printed
    assert "p5_compare: 1 moved, 1 are the same as printed; this is another judge" in printed
    assert "In all 14 numbers moved, 11 are the same as printed, 1 are only before, 2 only now" in printed


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_before_is_what_git_has_committed(project):
    for words in (["init", "--quiet"], ["add", "plots/p1.json"],
                  ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "x"]):
        subprocess.run(["git", *words], cwd=project, check=True)
    for stem in ("p1", "p2"):
        record(project / f"plots/{stem}.json", loss=(3.0, ".2f"))
    _, done = make(project, git=".git")
    assert "p1: 0 moved" in done.stdout and "p2: 1 moved" in done.stdout  # HEAD has no p2


def test_the_estimate(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "BEFORE", tmp_path)
    monkeypatch.setattr(results, "STEPS", {"a.py": "a", "b.py": "b", "c.py": "c", "d.py": "d"})
    for stem, seconds in (("a", 40), ("b", 100), ("c", 300)):
        record(tmp_path / f"{stem}.json", seconds)
    assert results.expected({}) == {"a.py": 40, "b.py": 100, "c.py": 300, "d.py": 0}
    assert results.expected({"a.py": 140.0}) == {"b.py": 200, "c.py": 600, "d.py": 0}  # (60 + 140) / (60 + 40)
    assert results.expected({"a.py": 140.0, "b.py": None}) == {"c.py": 600, "d.py": 0}  # None: resumed, seconds unknown
    assert results.duration(0.3) == "1 s" and results.duration(99) == "99 s" and results.duration(1500) == "25 min"


def test_a_wrong_flag_ends_in_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        results.main(["--frech"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and len(error.splitlines()) == 1 and "--frech" in error


@pytest.mark.parametrize("command", results.STEPS)
def test_a_step_is_a_command_of_the_project_and_its_record_is_there(command):
    script, *flags = command.split()
    args = importlib.import_module(script.removesuffix(".py")).parse_args(flags)
    stem = results.STEPS[command]
    assert getattr(args, "run_name", script.removesuffix(".py")) == stem
    assert json.loads((ROOT / f"plots/{stem}.json").read_text())["seconds"] > 0
    if stem == results.JUDGED:
        assert ROOT / args.out_dir == results.FOLDER
        assert set(args.runs) <= set(results.STEPS.values())  # it scores what the steps before it made
