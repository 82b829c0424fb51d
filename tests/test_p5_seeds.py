"""p5_seeds.py: groups, means and intervals against scipy, from records of known content."""
import json
import sys

import numpy as np
import pytest
from scipy import stats

import p5_seeds

RUNS = {  # name without the seed: seeds
    "gan_fashion": (1, 2, 3, 4), "cgan_fashion": (1, 2, 3), "gan_fashion_updates40": (1, 2, 3),
    "gan_fashion_updates40_g-steps2": (2,), "vae_fashion": (1, 2), "vae_fashion_beta1": (1, 2),
    "vae_mnist": (1, 2),  # which is not scored
}


def write(folder, name, **record):
    (folder / f"{name}.json").write_text(json.dumps({"code": "c", "settings": {}} | record))


def call(folder):
    """The command, as one types it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["p5_seeds.py", "--out-dir", str(folder)])
        p5_seeds.run(p5_seeds.main)


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    """The numbers that the command writes twice, as it may be, and those of the records, {run: numbers}."""
    plots, rng, held = tmp_path_factory.mktemp("plots"), np.random.default_rng(0), {}
    (plots / "sweep").mkdir()
    for name, seeds in RUNS.items():
        folder = plots / "sweep" if "updates" in name else plots
        for seed in seeds:
            run = name if seed == 1 else f"{name}_seed{seed}"
            numbers = {"test_loss": rng.uniform(200, 300)}
            write(folder, run, command=f"python {name.lstrip('c')[:3]}.py", settings={"seed": seed}, numbers=numbers,
                  curves={"d_loss": [1.2, 1.3], "g_loss": [0.9, 0.8]})
            held[run] = numbers
            scored = [run, f"normal_{run}"] if run.startswith("vae") else [run]
            for samples in scored if "mnist" not in run else []:
                found = {measure: rng.uniform(0.1, 0.9) for measure in p5_seeds.SCORES}
                held[samples] = numbers | found
                found |= {f"share_{c}{end}": 0.1 for c in range(10) for end in ("", "_low", "_high")}
                write(folder, f"{samples}_scores", command="python p5_compare.py", numbers=found, judge="a",
                      curves={"line_inside": [0.9, 0.5, 0.8], "arc_inside": [0.9, 0.7, 0.8]})
    (plots / "old.json").write_text('{"numbers": {"frechet": 1}}')  # of the old form
    call(plots)
    first = json.loads((plots / "p5_seeds.json").read_text())["numbers"]
    call(plots)
    assert first == json.loads((plots / "p5_seeds.json").read_text())["numbers"]
    for kind in ("training", "shares", "paths"):
        assert (plots / f"p5_seeds_{kind}.pdf").stat().st_size > 2000
    return first, held


def column(held, name, measure, seeds):
    return np.array([held[name if seed == 1 else f"{name}_seed{seed}"][measure] for seed in seeds])


def test_a_group_is_the_runs_of_one_name_but_for_the_seed(summary):
    numbers, _ = summary
    counts = {name.removesuffix("/count"): n for name, n in numbers.items() if name.endswith("/count")}
    normal = {"normal_vae_fashion": 2, "normal_vae_fashion_beta1": 2}
    assert counts == {name: len(seeds) for name, seeds in RUNS.items()} | normal


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
    assert numbers["cgan_fashion/line_inside/ends"] == pytest.approx(0.85)
    assert numbers["gan_fashion/arc_inside/middle"] == 0.7


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


def test_a_group_is_compared_with_the_longest_beginning_of_its_name(summary):
    numbers, held = summary
    changes = {tuple(name.split("/")[0::3]) for name in numbers if "/change/" in name}
    assert changes == {("cgan_fashion", "gan_fashion"), ("gan_fashion_updates40", "gan_fashion"),
                       ("gan_fashion_updates40_g-steps2", "gan_fashion_updates40"),
                       ("normal_vae_fashion", "vae_fashion"), ("vae_fashion_beta1", "vae_fashion"),
                       ("normal_vae_fashion_beta1", "normal_vae_fashion"),
                       ("normal_vae_fashion_beta1", "vae_fashion_beta1")}
    alone = "gan_fashion_updates40_g-steps2/recall"  # a pair of seeds has a change and no interval
    others = (held[f"{run}_seed2"]["recall"] for run in ("gan_fashion_updates40_g-steps2", "gan_fashion_updates40"))
    assert numbers[f"{alone}/change/gan_fashion_updates40"] == pytest.approx(np.subtract(*others))
    assert f"{alone}/change_low/gan_fashion_updates40" not in numbers and f"{alone}/sd" not in numbers


def test_the_quantiles_are_students():
    assert pytest.approx(stats.t.ppf(0.975, range(1, 10)), abs=5e-4) == p5_seeds.STUDENT


@pytest.mark.parametrize(("judges", "said"), [("", "no records of vae.py"), ("ab", "scores by 2 judges")])
def test_what_cannot_be_summarised_ends_in_one_line(tmp_path, judges, said):
    for judge in judges:
        write(tmp_path, f"{judge}_scores", command="python p5_compare.py", judge=judge)
    with pytest.raises(SystemExit, match=said):
        call(tmp_path)
    assert not list(tmp_path.glob("p5_seeds*"))
