"""The records in plots/ are those of report/runs.txt, and what their commands would give today."""
import argparse
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from committed import committed_plots

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "report"))

import run  # noqa: E402

import gan  # noqa: E402
import p5_compare  # noqa: E402
import vae  # noqa: E402

LINES = run.read_lines()
PLOTS = committed_plots()
RECORDS = {path.relative_to(PLOTS.parent) for path in PLOTS.rglob("*.json")}
BENCH = {path for path in RECORDS if path.parent.name == "bench"}  # rows of plots/bench.json
MADE = [line for line in LINES if line.record in RECORDS]
WHOLE = [line for line in MADE if "fingerprint" in json.loads((PLOTS.parent / line.record).read_text())]
PLANTED = next(line for line in LINES if line.name == "vae_mnist")


def test_every_record_has_a_line_of_the_campaign():
    assert (RECORDS - BENCH).issubset(line.record for line in LINES)
    assert len({line.name for line in LINES}) == len(LINES)
    groups = " ".join(line.group for line in LINES)
    assert all(question in groups for question in ("1.2", "2.1", "2.2", "3.2", "3.3", "4.1", "4.2",
                                                   "4.3", "5.2", "5.3", "5.4", "5.5", "5.7", "5.8"))


def test_samples_of_the_standard_normal_are_scored_where_a_group_does_not_leave_them_out():
    normal = {line.name for line in LINES if line.name.startswith("normal_")}
    assert "normal_vae_fashion_scores" in normal
    assert not any("mixture only" in line.group for line in LINES if line.name in normal)
    only = {line.name for line in LINES if "mixture only" in line.group}
    assert "vae_fashion_epochs15_latent-dim8_warmup7_scores" in only


@pytest.mark.parametrize("line", MADE, ids=lambda line: line.name)
def test_a_record_says_where_it_comes_from(line):
    record = json.loads((PLOTS.parent / line.record).read_text())
    assert record["command"] == line.command == getattr(line.args, "command", line.command)
    assert not re.search(r"(^| )/|\.\./|~", record["command"])  # no path of one machine
    assert {"settings", "machines", "seconds", "curves", "numbers"} <= record.keys()
    for machine in record["machines"]:
        assert machine.keys() == {"processor", "threads", "commit", "versions"}
        assert {"torch", "torchvision", "numpy", "matplotlib"} <= machine["versions"].keys()
    assert all(isinstance(value, (int, float)) for value in record["numbers"].values())


# Two steps of every setting take a minute; `make check` takes them, here those of each script.
SOME = {line.script: line for line in reversed(WHOLE)}.values()


@pytest.mark.parametrize("line", SOME, ids=lambda line: line.name)
def test_a_record_is_what_its_command_would_give_today(line):
    state = run.state_of(line, (PLOTS.parent / line.record).read_text())
    assert state == "done" or state.startswith("to be run"), state


def test_settings_of_every_record_are_those_of_today():
    for line in WHOLE:
        script = run.load_script(line.script)
        record = json.loads((PLOTS.parent / line.record).read_text())
        today = getattr(script, "settings_of", run.vae.settings_of)(line.args)
        assert record["settings"] == json.loads(json.dumps(today)), line.name


@pytest.mark.parametrize(("key", "value", "found"), [
    ("settings", {"epochs": 11}, "epochs is 11, today 10"), ("settings", {"beta": 2.0}, "beta is"),
    ("numbers", {"test_loss": "about 105"}, "no plain numbers"),
    ("fingerprint", [1.0, 2.0], "its code computes")])
def test_a_planted_stale_record_is_found(key, value, found):
    record = json.loads((PLOTS.parent / PLANTED.record).read_text())
    record[key] = record[key] | value if isinstance(value, dict) else value
    state = run.state_of(PLANTED, json.dumps(record))
    assert state.startswith("stale") and found in state


KEPT = sorted(PLOTS.glob("*_weights.pt"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.name)
def test_the_kept_weights_draw_what_was_scored(path):
    """Class shares, and agreement where there are labels, of 2000 samples: up to their chance."""
    assert path.stat().st_size < 4 * 2**20
    name = path.name.removesuffix("_weights.pt")
    scores = json.loads(path.with_name(f"{name}_scores.json").read_text())
    line = next(line for line in LINES if line.name == name)
    args = argparse.Namespace(**{**vars(line.args), "out_dir": PLOTS})
    torch.manual_seed(5)
    labels = torch.arange(2000) % 10
    if line.script == "gan.py":
        generator = gan.kept_generator(args, torch.device("cpu"))
        images = gan.as_bytes(gan.evaluate(generator, gan.draw_noise(2000, "cpu")[0], labels))
    else:
        model, prior = vae.kept_model(args)
        args.seed = 5
        images = (255 * vae.sample(model, 2000, args, prior)).byte().view(-1, 28, 28)
    judge, *_ = p5_compare.load_judge(PLOTS / f"judge_{args.dataset}.pt", torch.device("cpu"))
    _, classes = p5_compare.judged(judge, images)
    found = {f"share_{c}": (classes == c).float().mean().item() for c in range(10)}
    if "agreement" in scores["numbers"]:
        found["agreement"] = (classes == labels).float().mean().item()
    for measure, value in found.items():
        expected = scores["numbers"][measure]
        assert abs(value - expected) < 5 * (expected * (1 - expected) / 2000)**0.5 + 0.002, measure


def test_what_is_exact_is_computed_anew_and_equals_the_records():
    """Closed forms, quadrature and descent in float64; what is drawn may differ on other CPUs."""
    import p1
    import p2
    import p4_divergences
    import p5_toys
    cpu = torch.device("cpu")
    fresh = {"p1": {"cases": len(p1.CASES) * len(p1.SCALES), "failed": 0},
             "p2": p2.study_lambda(1, cpu)[0], "p4_divergences": p4_divergences.exact_numbers(),
             "p5_toys": {f"norm/{d}/inside": p5_toys.shell(d)[2] for d in p5_toys.DIMENSIONS}}
    rounding = {"lambda/error", "quadrature/error"}  # nothing else
    for name, numbers in fresh.items():
        record = json.loads((PLOTS / f"{name}.json").read_text())["numbers"]
        for key in numbers.keys() - rounding:
            assert record[key] == pytest.approx(numbers[key], rel=1e-6, abs=1e-9), (name, key)


def test_every_figure_of_the_report_was_written_by_a_run():
    sources = "".join(path.read_text() for path in (ROOT / "report").glob("*.tex"))
    for name in re.findall(r"\\includegraphics\{(.*?)\}", sources):
        figure = next(PLOTS.rglob(name), None)
        assert figure is not None, name
        stems = [path.name.removesuffix(".json").removesuffix("_scores")
                 for path in figure.parent.glob("*.json")]
        assert any(name.startswith(stem) for stem in stems), name
