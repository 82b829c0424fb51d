"""report/run.py: which lines it runs, after a stop and on another machine; what it says moved."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "report"))

import run  # noqa: E402

# A stand-in for every script: it notes its words, hangs or fails where the file `plan` says so,
# and writes samples and a record.
SCRIPT = '''
import argparse, json, os, pathlib, sys, time
VALUE = 1.0
HERE = pathlib.Path(__file__).parent
def parse_args(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="*")
    parser.add_argument("--n", type=int, default=0)
    parser.add_argument("--dataset", default="fashion")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--out-dir", type=pathlib.Path, default=HERE / "plots")
    parser.add_argument("--runs-dir", type=pathlib.Path, default=HERE / "runs")
    args = parser.parse_args(argv)
    args.run_name = pathlib.Path(__file__).name[:-3] + (f"_n{args.n}" if args.n else "")
    if args.runs:
        args.run_name = f"{args.runs[0]}_scores"
        beside = [path.parent for path in args.out_dir.rglob(f"{args.runs[0]}.json")]
        args.place = beside[0] if beside else args.out_dir
    args.train_judge = False
    return args
def settings_of(args):
    return {"n": args.n}
class torch:  # importing the real one takes seconds
    device = str
def machine(device):
    return {"processor": "this kind"}
def choose_precision(wanted, device):
    return "float32" if wanted == "auto" else wanted
def fingerprint(args):
    return [VALUE, args.n]
if __name__ == "__main__":
    args = parse_args()
    with open("log", "a") as log:
        log.write(args.run_name + (" --resume" if args.resume else "") + "\\n")
    plan = json.loads(pathlib.Path("plan").read_text()).get(args.run_name, "")
    if plan == "hang":
        pathlib.Path("ready").touch()
        time.sleep(60)
    if plan == "fail":
        sys.exit(f"{args.run_name} cannot")
    args.runs_dir.mkdir(exist_ok=True, parents=True)
    (args.runs_dir / f"{args.run_name}_samples.npz").touch()
    threads = int(os.environ.get("OMP_NUM_THREADS", 0))
    record = {"settings": settings_of(args), "seconds": 1.0, "fingerprint": fingerprint(args),
              "machines": [machine(None)],
              "numbers": {"loss": VALUE + args.n, "same": 1.0, "threads": threads}}
    judge = HERE / "plots/judge_fashion.json"
    record["judge"] = json.loads(judge.read_text())["judge"] if judge.exists() else None
    if args.runs:
        assert (args.runs_dir / f"{args.runs[0]}_samples.npz").exists()
        record["dataset"] = "fashion"
    place = args.place if args.runs else args.out_dir
    place.mkdir(exist_ok=True, parents=True)
    (place / f"{args.run_name}.json").write_text(json.dumps(record))
'''
LINES = """# a comment
[headline 1]
python p1.py

[headline 2]
python vae.py
python gan.py
python gan.py --n 2 --out-dir plots/sweep
[tables]
python p5_seeds.py
"""


def git(folder, *words):
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=folder,
                   check=True, capture_output=True)


@pytest.fixture
def project(tmp_path):
    """A project of stand-ins in a repository that has no record yet."""
    folder = tmp_path / "project"
    (folder / "report").mkdir(parents=True)
    for name in ("run.py", "build.py"):
        shutil.copy(ROOT / "report" / name, folder / "report")
    for name in ("p1", "vae", "gan", "p5_compare", "p5_seeds"):
        (folder / f"{name}.py").write_text(SCRIPT)
    (folder / "report/runs.txt").write_text(LINES)
    (folder / "report/p.tex").write_text(r"\num[.0f]{gan_n2/loss}")
    (folder / "plan").write_text("{}")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "x")
    return folder


def campaign(folder, *flags):
    """Run report/run.py there: the words of the commands that it ran, and what came of it."""
    (folder / "log").write_text("")
    done = subprocess.run([sys.executable, "-W", "error", "report/run.py", *flags], cwd=folder,
                          capture_output=True, text=True, timeout=60)
    return (folder / "log").read_text().split("\n")[:-1], done


def commit(folder):
    git(folder, "add", "plots")
    git(folder, "commit", "--quiet", "--message", "records")


ALL = ["p1", "vae --resume", "vae_scores", "gan --resume", "gan_scores", "gan_n2 --resume",
       "gan_n2_scores", "p5_seeds"]


def test_what_git_has_is_done_and_nothing_else(project):
    assert campaign(project)[0] == ALL
    ran, done = campaign(project)  # nothing was committed
    assert ran == ALL and done.returncode == 0 and "commit plots/" in done.stdout
    commit(project)
    shutil.rmtree(project / "runs")  # which does not travel
    ran, done = campaign(project)
    assert ran == [] and "8 of 8 records are what their commands give today" in done.stdout
    shutil.rmtree(project / ".git")  # a copy without git has its working tree
    assert campaign(project)[0] == []


def test_a_pattern_chooses_by_group_command_and_name(project):
    assert campaign(project, "headline 1")[0] == ["p1"]
    assert campaign(project, "plots/sweep")[0] == ["gan_n2 --resume"]
    assert campaign(project, "gan_n2")[0] == ["gan_n2 --resume", "gan_n2_scores"]
    ran, done = campaign(project, "no such line")
    assert ran == [] and done.returncode == 1 and done.stderr.count("\n") == 1


def test_a_group_of_which_only_losses_count_is_not_scored(project):
    plan = project / "report/runs.txt"
    plan.write_text(plan.read_text().replace("[headline 2]", "[losses only]"))
    assert campaign(project)[0] == [name for name in ALL if not name.endswith("_scores")]


def test_a_record_of_other_code_or_settings_is_made_again(project):
    campaign(project)
    commit(project)
    for edit, found in (({"settings": {"n": 5}}, "n is 5, today 2"),
                        ({"fingerprint": [1.001, 2]}, "its code computes"),
                        ({"fingerprint": [1.0]}, "its code computes"),
                        ({"numbers": {"loss": {"value": 1, "format": ""}}}, "its numbers are no"),
                        ({"numbers": None}, "its record is damaged")):
        path = project / "plots/sweep/gan_n2.json"
        good = path.read_text()
        path.write_text(json.dumps(json.loads(good) | edit))
        commit(project)
        ran, done = campaign(project, "--check")
        assert ran == [] and done.returncode == 1 and f"gan_n2: stale: {found}" in done.stdout
        assert campaign(project)[0] == ["gan_n2 --resume", "gan_n2_scores", "p5_seeds"]
        path.write_text(good)
        commit(project)


THIS_NAME, OTHER_NAME = {"processor": "this kind"}, {"processor": "another"}


@pytest.mark.parametrize(("run", "machine", "precision", "fingerprint", "done"), [
    ("sweep/gan_n2", THIS_NAME, "float32", [1.00001, 2], True),
    ("sweep/gan_n2", THIS_NAME, "float32", [1, 2.01], False),
    ("sweep/gan_n2", THIS_NAME, "bfloat16", [1, 2.01], True),
    ("sweep/gan_n2", THIS_NAME, "bfloat16", [1.01, 2], False),
    ("sweep/gan_n2", OTHER_NAME, "float32", [1, 2.01], True),
    ("sweep/gan_n2", OTHER_NAME, "float32", [1, 2.2], False),
    ("sweep/gan_n2", OTHER_NAME, "float32", [1.01, 2], False),
    ("sweep/gan_n2", OTHER_NAME, "float32", [1, 2, 3], False),
    ("vae", OTHER_NAME, "float32", [1.00001, 0], True),
    ("vae", OTHER_NAME, "float32", [1, 0.01], False)])
def test_another_kind_of_processor_rounds_a_step_of_the_gan_differently(
        project, run, machine, precision, fingerprint, done):
    campaign(project)
    path = project / f"plots/{run}.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"fingerprint": fingerprint, "machines": [machine],
                                         "precision": precision}))
    commit(project)
    made_again = [f"{path.stem} --resume", f"{path.stem}_scores", "p5_seeds"]
    assert campaign(project)[0] == ([] if done else made_again)


def test_a_record_without_fingerprint_is_to_be_run_and_no_fault(project):
    campaign(project)
    record = json.loads((project / "plots/vae.json").read_text())
    del record["fingerprint"]
    (project / "plots/vae.json").write_text(json.dumps(record))
    commit(project)
    ran, done = campaign(project, "--check")
    assert ran == [] and done.returncode == 0 and "vae: to be run: its record has no" in done.stdout
    assert campaign(project)[0] == ["vae --resume", "vae_scores", "p5_seeds"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_it_goes_on_elsewhere_from_what_was_committed(project, tmp_path, how):
    (project / "plan").write_text('{"gan": "hang"}')
    child = subprocess.Popen([sys.executable, "report/run.py"], cwd=project, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    while not (project / "ready").exists():
        assert child.poll() is None
        time.sleep(0.01)
    if how == signal.SIGTERM:
        child.terminate()
    else:
        os.killpg(child.pid, how)
    error = child.communicate(timeout=30)[1]
    assert child.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}.get(how, -how)
    assert how != signal.SIGINT or error.strip().count("\n") == 0, error
    commit(project)
    elsewhere = tmp_path / "elsewhere"
    git(tmp_path, "clone", "--quiet", str(project), str(elsewhere))
    (elsewhere / "plan").write_text("{}")
    assert campaign(elsewhere)[0] == ALL[3:]


def test_scores_that_do_not_count_are_made_again_from_samples_that_are_made_again(project):
    (project / "plots").mkdir()
    judge = project / "plots/judge_fashion.json"
    judge.write_text('{"judge": "a"}')
    commit(project)
    campaign(project)
    commit(project)
    assert campaign(project)[0] == []
    path = project / "plots/sweep/gan_n2_scores.json"
    good = path.read_text()
    path.write_text(good.replace('"a"', '"b"'))
    commit(project)
    ran, done = campaign(project, "--check")
    assert done.returncode == 1 and "gan_n2_scores: stale: it is of another judge" in done.stdout
    assert campaign(project)[0] == ["gan_n2_scores", "p5_seeds"]  # its samples are there
    shutil.rmtree(project / "runs")
    assert campaign(project)[0] == ["gan_n2 --resume", "gan_n2_scores", "p5_seeds"]
    judge.write_text('{"judge": "c"}')
    commit(project)
    assert [name for name in campaign(project)[0] if "--resume" not in name] == [
        "vae_scores", "gan_scores", "gan_n2_scores", "p5_seeds"]


def test_what_fails_is_named_and_the_others_run(project):
    (project / "plan").write_text('{"vae": "fail"}')
    ran, done = campaign(project)
    assert ran == ALL and done.returncode == 1
    assert "FAILED, status 1: python vae.py" in done.stdout and "vae cannot" in done.stdout
    assert done.stderr == "failed: python vae.py\nfailed: python p5_compare.py vae\n"


def test_two_at_a_time_have_a_share_of_the_cores_and_wait_for_what_they_need(project):
    (project / "plan").write_text('{"gan_n2": "hang"}')
    child = subprocess.Popen([sys.executable, "report/run.py", "--jobs", "2"], cwd=project,
                             stdout=subprocess.DEVNULL)
    scores = project / "plots/gan_scores.json"
    while not (project / "ready").exists() or not scores.exists():
        assert child.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    ran = (project / "log").read_text()
    assert "gan_n2_scores" not in ran and "p5_seeds" not in ran
    child.terminate()
    assert child.wait(30) == 143
    threads = json.loads((project / "plots/gan.json").read_text())["numbers"]["threads"]
    assert threads == max(1, os.cpu_count() // 2)


def test_again_works_elsewhere_and_lists_what_moved(project, tmp_path):
    campaign(project)
    commit(project)
    before = (project / "plots/gan.json").read_text()
    for name, value in (("gan", "1.25"), ("vae", "1.00001")):
        path = project / f"{name}.py"
        path.write_text(SCRIPT.replace("VALUE = 1.0", f"VALUE = {value}"))
    ran, done = campaign(project, "--again", "--out-dir", str(tmp_path / "new"), "headline")
    assert ran == ALL[:7] and done.returncode == 0
    assert (project / "plots/gan.json").read_text() == before
    moved = json.loads((tmp_path / "new/moved.json").read_text())
    assert moved == {"p1": {}, "vae": {}, "gan": {"loss": ["1", "1.25", "+25 %"]}, "gan_n2": {},
                     **{f"{run}_scores": {} for run in ("vae", "gan", "gan_n2")}}
    again = json.loads((tmp_path / "new/again.json").read_text())
    assert again.keys() == moved.keys() and again["gan"]["numbers"]["loss"] == 1.25
    assert again["gan"]["machines"] == [{"processor": "this kind"}]
    assert "gan: 1 numbers moved" in done.stdout and "loss  1 -> 1.25  (+25 %)" in done.stdout
    ran, _ = campaign(project, "--again", "--out-dir", str(tmp_path / "new"), "headline")
    assert ran == []  # it goes on where it was stopped


def test_scores_of_a_run_that_is_made_anew_are_made_anew(project):
    campaign(project)
    commit(project)
    (project / "vae.py").write_text(SCRIPT.replace("VALUE = 1.0", "VALUE = 2.0"))
    ran, done = campaign(project)
    assert ran == ["vae --resume", "vae_scores", "p5_seeds"] and done.returncode == 0


def test_numbers_move_when_they_print_differently():
    before = {"a": 1.0, "b": -4.0, "c": 0, "d": 0.12, "gone": 1}
    now = {"a": 1.00001, "b": -5.0, "c": 3, "d": 0.124, "new": 1}
    found = run.moved(before, now, {"d": ".0p"})
    assert found == {"b": ("-4", "-5", "-25 %"), "c": ("0", "3", "+3")}


def test_the_estimate():
    lines = [run.Line("", "a.py", [], run.argparse.Namespace(run_name=name)) for name in "abc"]
    recorded = {"a": 40, "b": 100, "c": 300}
    assert run.estimate(lines, recorded, {}, 1) == "about 7 min"
    assert run.estimate(lines, recorded, {}, 2) == "about 4 min"
    assert run.estimate(lines[1:], recorded, {"a": 140.0}, 1) == "about 13 min"  # twice as slow
    del recorded["c"]
    assert run.estimate(lines[1:], recorded, {}, 1) == "about 2 min and 1 of unknown length"
    assert [run.duration(s) for s in (0.3, 99, 1500, 7200)] == ["1 s", "99 s", "25 min", "2.0 h"]


def test_a_wrong_flag_ends_in_one_line(capsys):
    for flags in (["--freh"], ["--again"], ["--jobs", "0"], ["--out-dir", "x"]):
        with pytest.raises(SystemExit) as stop:
            run.main(flags)
        assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1
