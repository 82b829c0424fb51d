"""report/run.py: which lines it runs, in what order, after a stop and on another machine."""
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

# Stands in for every script: it notes its words, hangs or fails where `plan` says so, and writes
# samples and a record.
SCRIPT = '''
import hashlib, json, os, pathlib, sys, time
HERE = pathlib.Path(__file__).parent
def code_identity(script=__file__):
    return hashlib.sha256(pathlib.Path(script).read_bytes()).hexdigest()
def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--resume"]
    script = pathlib.Path(__file__).name
    name = "_".join([script[:-3], *words]).replace("--", "").replace("/", "")
    with open("log", "a") as log:
        log.write(" ".join([script[:-3], *sys.argv[1:]]) + "\\n")
    kept = pathlib.Path("runs", f"{name}.pt")
    plan = json.loads(pathlib.Path("plan").read_text()).get(name)
    if plan == "hang":
        write(kept, "unfinished")
        time.sleep(60)
    if plan == "die":
        os.kill(os.getpid(), 9)
    if plan == "refuse" and "--resume" not in sys.argv:
        sys.exit(f"some output\\n{name} cannot")
    write(pathlib.Path("runs", f"{name}_samples.npz"), "")
    write(pathlib.Path("runs", f"normal_{name}_samples.npz"), "")
    settings = {"dataset": "mnist" if "mnist" in words else "fashion", "components": script == "vae.py"}
    record = {"command": " ".join(["python", script, *words]), "settings": settings, "numbers": {
        "threads": int(os.environ["OMP_NUM_THREADS"])}, "code": code_identity(), "seconds": 1.0}
    if plan != "nothing":
        write(HERE / ("plots/sweep" if "s" in words else "plots") / f"{name}.json", json.dumps(record))
'''
LINES = """# a comment
[last]
python p5_seeds.py
[one: 1.2]
python p1.py
[two]
python vae.py
python gan.py --seed 2
python gan.py mnist s
[ruler]
python p5_compare.py --planted
"""
RUN = ["p5_compare --planted", "p1", "vae", "p5_compare vae", "p5_compare normal_vae", "gan --seed 2",
       "p5_compare gan_seed_2", "gan mnist s", "p5_seeds"]


@pytest.fixture
def project(tmp_path):
    """A project of stand-ins that has no record yet."""
    folder = tmp_path / "a project"
    (folder / "report").mkdir(parents=True)
    for name in ("run.py", "build.py"):
        shutil.copy(ROOT / "report" / name, folder / "report")
    for name in ("p1", "vae", "gan", "p5_compare", "p5_seeds"):
        (folder / f"{name}.py").write_text(SCRIPT)
    (folder / "report/runs.txt").write_text(LINES)
    (folder / "plan").write_text("{}")
    return folder


def campaign(folder, *flags):
    """Run report/run.py there: the words of the commands that it ran, sorted, and what it said."""
    (folder / "log").write_text("")
    done = subprocess.run([sys.executable, "-W", "error", "report/run.py", *flags], cwd=folder,
                          capture_output=True, text=True, timeout=60)
    return sorted((folder / "log").read_text().splitlines()), done


def edit(folder, script):
    with (folder / script).open("a") as source:
        source.write("# other code\n")


def test_what_has_a_record_of_todays_code_is_done_and_nothing_else(project, tmp_path):
    (project / "plots/folder.json").mkdir(parents=True)
    for name, text in (("._vae.json", "\0\5"), ("copy.json", "{"), ("list.json", "[]"), (
            "old.json", '{"command": "python p1.py", "numbers": {}, "seconds": 5}')):
        (project / "plots" / name).write_text(text)
    ran, done = campaign(project)
    assert ran == sorted(RUN) and done.returncode == 0, done.stderr
    assert "6 of 6 lines" in done.stdout and "6 of 6: python p5_seeds.py" in done.stdout
    assert json.loads((project / "plots/vae.json").read_text())["numbers"] == {"threads": 1}
    shutil.copy(project / "plots/vae.json", project / "plots/vae_copy.json")
    assert campaign(project)[0] == []
    elsewhere = tmp_path / "elsewhere"  # samples and logs do not travel, nor do times
    shutil.copytree(project, elsewhere, ignore=shutil.ignore_patterns("runs"), copy_function=shutil.copyfile)
    assert campaign(elsewhere)[0] == []
    edit(project, "gan.py")
    assert campaign(project)[0] == sorted(RUN[5:])
    edit(project, "p5_compare.py")
    assert campaign(project, "two")[0] == ["p5_compare gan_seed_2", "p5_compare normal_vae", "p5_compare vae"]
    assert campaign(project)[0] == ["p5_compare --planted", "p5_seeds"]
    edit(elsewhere, "p5_compare.py")  # where there are no samples to score
    assert campaign(elsewhere)[0] == sorted({*RUN} - {"p1", "gan mnist s"})


def test_a_pattern_chooses_by_group_or_command_and_list_runs_nothing(project):
    ran, done = campaign(project, "--list", "two")
    assert ran == [] and done.stdout.splitlines()[1:] == [
        "python vae.py", "python gan.py --seed 2", "python gan.py mnist s"]
    assert campaign(project, "1.2")[0] == ["p1"] and campaign(project, "seed 2")[0] == sorted(RUN[5:7])
    ran, done = campaign(project, "no such line")
    assert ran == [] and done.returncode == 1 and done.stderr.count("\n") == 1


def wait_for(path, child):
    while not path.exists():
        assert child.poll() is None
        time.sleep(0.01)


def test_two_run_at_a_time_the_ruler_before_them_and_the_tables_after(project):
    (project / "plan").write_text('{"vae": "hang"}')
    child = subprocess.Popen([sys.executable, "report/run.py"], cwd=project, stdout=subprocess.DEVNULL)
    wait_for(project / "plots/sweep/gan_mnist_s.json", child)
    time.sleep(0.5)
    child.terminate()
    assert child.wait(30) == 143
    ran = (project / "log").read_text().splitlines()
    assert ran[0] == RUN[0] and set(ran) == {"p1", "vae", RUN[0], *RUN[5:8]}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_a_training_goes_on_unless_its_code_has_changed(project, how):
    for code in ("one", "other"):
        (project / "plan").write_text('{"gan_seed_2": "hang"}')
        shutil.rmtree(project / "runs", ignore_errors=True)
        child = subprocess.Popen([sys.executable, "report/run.py", "seed 2"], cwd=project, text=True,
                                 start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wait_for(project / "runs/gan_seed_2.pt", child)
        os.killpg(child.pid, how)
        error = child.communicate(timeout=30)[1]
        assert child.returncode and (how != signal.SIGINT or error.count("\n") == 2), error
        (project / "plan").write_text("{}")
        if code == "other":
            edit(project, "gan.py")
        resumed = ["--resume"] if code == "one" else []
        ran, done = campaign(project, "seed 2")
        assert ran == [" ".join(["gan --seed 2", *resumed]), "p5_compare gan_seed_2"], done.stdout
        shutil.rmtree(project / "plots")


def test_what_fails_is_named_with_its_last_line_and_the_others_run(project):
    (project / "plan").write_text('{"vae": "refuse", "p1": "nothing"}')
    for _ in range(2):  # a training that refused once is not resumed the next time
        ran, done = campaign(project)
        assert {"p1", "vae"} <= set(ran) and "p5_seeds" not in ran and done.returncode == 1
        assert "FAILED: python vae.py: vae cannot\n" in done.stdout
        assert "FAILED: python p1.py: it left no record" in done.stdout
    (project / "plan").write_text('{"vae": "die"}')
    assert "FAILED: python vae.py: killed by signal 9" in campaign(project)[1].stdout
    (project / "plan").write_text("{}")
    assert campaign(project)[0] == ["p5_compare normal_vae", "p5_compare vae", "p5_seeds", "vae --resume"]
