"""p5_seeds.py: groups, means and intervals against scipy, from records of known content."""
import json
import shutil
import sys

import numpy as np
import pytest
from scipy import stats

import p5_seeds

RNG = np.random.default_rng(0)
RUNS = {  # name without the seed: script, settings, seeds
    "gan_fashion": ("gan.py", {"conditional": False, "updates": 0}, (1, 2, 3, 4)),
    "cgan_fashion": ("gan.py", {"conditional": True, "updates": 0}, (1, 2, 3)),
    "gan_fashion_updates40": ("gan.py", {"conditional": False, "updates": 40}, (1, 2, 3)),
    "gan_fashion_updates40_g-steps2": ("gan.py", {"conditional": False, "updates": 40, "g_steps": 2}, (2,)),
    "vae_fashion": ("vae.py", {"beta": 0.02}, (1, 2)),
    "vae_fashion_beta1": ("vae.py", {"beta": 1.0}, (1, 2)),
    "vae_mnist": ("vae.py", {"beta": 1.0}, (1, 2)),  # which is not scored
}
FILES = {"p5_seeds.json", *(f"p5_seeds_{kind}.pdf" for kind in ("training", "shares", "paths", "weights"))}


def write(folder, name, record):
    (folder / f"{name}.json").write_text(json.dumps(record))


def scores():
    names = [*p5_seeds.SCORES, *(f"{kind}_{c}" for kind in ("share", "corrected") for c in range(10))]
    return {name: RNG.uniform(0.1, 0.9) for name in names}


def write_scores(folder, run):
    record = {"code": "c", "settings": {"runs": [run]}, "command": f"python p5_compare.py {run}", "judge": "a",
              "numbers": scores(), "curves": {"line_inside": [0.9, 0.5, 0.8], "arc_inside": [0.9, 0.7, 0.8]}}
    write(folder, f"{run}_scores", record)
    return record["numbers"]


@pytest.fixture(scope="module")
def plots(tmp_path_factory):
    """A folder of records and scores, and what they hold: {run: {measure: number}}."""
    plots = tmp_path_factory.mktemp("plots")
    (plots / "sweep").mkdir()
    held = {}
    for name, (script, settings, seeds) in RUNS.items():
        folder = plots / "sweep" if "updates" in name else plots
        for seed in seeds:
            run = name if seed == 1 else f"{name}_seed{seed}"
            numbers = {"test_loss": RNG.uniform(200, 300)} if script == "vae.py" else {}
            write(folder, run, {"code": "c", "command": f"python {script}", "numbers": numbers,
                                "settings": settings | {"dataset": name.split("_")[1], "seed": seed},
                                "curves": {"d_loss": [1.2, 1.3], "g_loss": [0.9, 0.8]}})
            held[run] = numbers | ({} if "mnist" in name else write_scores(folder, run))
            if script == "vae.py" and "mnist" not in name:
                held[f"normal_{run}"] = numbers | write_scores(folder, f"normal_{run}")
    held["real_fashion"] = write_scores(plots, "real_fashion")
    write(plots, "old", {"settings": {}, "numbers": {"frechet": 1}})  # a record of the old form
    return plots, held


def call(folder):
    """The command, as one types it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["p5_seeds.py", "--out-dir", str(folder)])
        p5_seeds.run(p5_seeds.main)


@pytest.fixture(scope="module")
def summary(plots):
    """The numbers that the command writes, and what the records hold; twice, as it may be."""
    folder, held = plots
    call(folder)
    first = (folder / "p5_seeds.json").read_text()
    call(folder)
    numbers = json.loads((folder / "p5_seeds.json").read_text())["numbers"]
    assert numbers == json.loads(first)["numbers"]
    assert {path.name for path in folder.iterdir()} >= FILES and not list(folder.glob(".part-*"))
    return numbers, held


def column(held, name, measure, seeds):
    return np.array([held[name if seed == 1 else f"{name}_seed{seed}"][measure] for seed in seeds])


def test_groups_are_the_runs_of_equal_settings_named_after_the_first(summary):
    numbers, _ = summary
    counts = {name.removesuffix("/count"): n for name, n in numbers.items() if name.endswith("/count")}
    assert counts == {"gan_fashion": 4, "cgan_fashion": 3, "gan_fashion_updates40": 3,
                      "gan_fashion_updates40_g-steps2_seed2": 1, "vae_fashion": 2, "normal_vae_fashion": 2,
                      "vae_fashion_beta1": 2, "normal_vae_fashion_beta1": 2, "vae_mnist": 2}


def test_means_and_intervals_are_those_of_scipy(summary):
    numbers, held = summary
    recalls = column(held, "gan_fashion", "recall", (1, 2, 3, 4))
    assert numbers["gan_fashion/recall/mean"] == pytest.approx(recalls.mean())
    assert numbers["gan_fashion/recall/sd"] == pytest.approx(recalls.std(ddof=1))
    ratios = column(held, "gan_fashion", "frechet_ratio", (1, 2, 3, 4))
    assert numbers["gan_fashion/frechet_ratio/geomean"] == pytest.approx(stats.gmean(ratios))
    ends = stats.ttest_1samp(np.log(ratios), 0).confidence_interval()
    found = [numbers[f"gan_fashion/frechet_ratio/{end}"] for end in ("low", "high")]
    assert found == pytest.approx(np.exp(ends), rel=1e-3)
    assert numbers["vae_mnist/test_loss/mean"] == pytest.approx(column(held, "vae_mnist", "test_loss", (1, 2)).mean())
    assert "vae_mnist/recall/mean" not in numbers
    for run in ("gan_fashion", "cgan_fashion"):
        assert numbers[f"{run}/line_inside/ends"] == pytest.approx(0.85)
        assert numbers[f"{run}/arc_inside/middle"] == 0.7


@pytest.mark.parametrize("measure", ["recall", "frechet_ratio"])
def test_changes_are_those_of_a_paired_t_test(summary, measure):
    """On the three seeds that both groups have; of ratios by the logarithm."""
    numbers, held = summary
    pair = [column(held, name, measure, (1, 2, 3)) for name in ("cgan_fashion", "gan_fashion")]
    if measure == "frechet_ratio":
        pair = np.log(pair)
    ends = stats.ttest_rel(*pair).confidence_interval()
    expected = [np.mean(pair[0] - pair[1]), ends.low, ends.high]
    if measure == "frechet_ratio":
        expected = np.exp(expected)
    found = [numbers[f"cgan_fashion/{measure}/{what}/gan_fashion"] for what in ("change", "change_low", "change_high")]
    assert found == pytest.approx(expected, rel=1e-3)


def test_a_group_is_compared_with_those_of_most_of_its_words(summary):
    numbers, held = summary
    bases = {}
    for name in numbers:
        group, *rest = name.split("/")
        if rest[1:2] == ["change"]:
            bases.setdefault(group, set()).add(rest[2])
    assert bases == {"cgan_fashion": {"gan_fashion"}, "gan_fashion_updates40": {"gan_fashion"},
                     "gan_fashion_updates40_g-steps2_seed2": {"gan_fashion_updates40"},
                     "normal_vae_fashion": {"vae_fashion"}, "vae_fashion_beta1": {"vae_fashion"},
                     "normal_vae_fashion_beta1": {"normal_vae_fashion", "vae_fashion_beta1"}}
    alone = "gan_fashion_updates40_g-steps2_seed2/recall"  # a pair of seeds has a change and no interval
    others = (held[run]["recall"] for run in ("gan_fashion_updates40_g-steps2_seed2", "gan_fashion_updates40_seed2"))
    assert numbers[f"{alone}/change/gan_fashion_updates40"] == pytest.approx(np.subtract(*others))
    assert f"{alone}/change_low/gan_fashion_updates40" not in numbers and f"{alone}/sd" not in numbers


def test_the_quantiles_are_students():
    degrees = range(1, 10)
    assert pytest.approx(stats.t.ppf(0.975, degrees), abs=5e-4) == p5_seeds.STUDENT


@pytest.mark.parametrize(("change", "said"), [
    ("old records alone", "no records of vae.py or gan.py in today's form"), ("empty", "in today's form"),
    ("another judge", "scores by 2 judges"), ("damaged", "vae_mnist.json is damaged")])
def test_what_cannot_be_summarised_ends_in_one_line(plots, tmp_path, change, said):
    folder = tmp_path / "copy"
    shutil.copytree(plots[0], folder)
    path = folder / "vae_fashion_scores.json"
    if change == "another judge":
        path.write_text(path.read_text().replace('"judge": "a"', '"judge": "b"'))
    elif change == "damaged":
        (folder / "vae_mnist.json").write_text('{"settings": ')
    else:
        for path in folder.rglob("*.json"):
            if change == "empty" or path.name != "old.json":
                path.unlink()
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(SystemExit) as stop:
        call(folder)
    assert said in stop.value.code and "\n" not in stop.value.code
    assert before == {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
