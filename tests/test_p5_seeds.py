"""p5_seeds.py: means, spreads and paired intervals against scipy, from records of known content."""
import json

import numpy as np
import pytest
from scipy import stats

import p5_seeds

RNG = np.random.default_rng(0)
MEASURED = ("frechet", "frechet_ratio", "frechet_train", "precision", "recall", "tv")
MEASURED += tuple(f"share_{c}" for c in range(10))
ASKED = tuple(f"agreement_{c}" for c in range(10))
FIVE = ("gan_fashion", "cgan_fashion", "vae_fashion", "normal_vae_fashion")  # families that have more seeds
ROWS = {(family, seed): dict(zip(MEASURED, RNG.uniform(0.1, 0.9, 16).tolist()))
        for family in p5_seeds.BASES for seed in ((1, 2, 3, 4) if family in FIVE else (1, 2, 3))}
for key in ROWS:
    if "cgan" in key[0]:
        ROWS[key] |= dict(zip(("agreement", *ASKED), RNG.uniform(0.1, 0.9, 11).tolist()))


def run_of(family, seed):
    """The name of a run: of the default settings seed 1 has none in its name."""
    return family if family in FIVE and seed == 1 else f"{family}_seed{seed}"


def judge_of(family):
    """The file under plots/ that holds what a judge said of a family."""
    return next((file for file, own in p5_seeds.JUDGED.items() if family in own), "p5_compare.json")


@pytest.fixture
def home(tmp_path):
    """A folder with the judges' records, the records of the runs and their samples."""
    (tmp_path / "plots/sweep").mkdir(parents=True)
    (tmp_path / "runs").mkdir()
    judged = {file: {f"{run_of(family, seed)}/{name}": {"value": value, "format": ".3f"}
                     for (family, seed), row in ROWS.items() if judge_of(family) == file
                     for name, value in row.items()} for file in (*p5_seeds.JUDGED, "p5_compare.json")}
    judged["p5_compare.json"] |= {name: {"value": value, "format": ".3f"} for name, value in {
        "vae_fashion_handout/frechet": 0.5, "other_seed1/recall": 0.5, "judge/accuracy": 0.9,
        **{f"real/agreement_{c}": 0.95 for c in range(10)}}.items()}
    for file, numbers in judged.items():
        (tmp_path / "plots" / file).write_text(json.dumps({"numbers": numbers}))
    for family, seed in ROWS:
        names = ("d_real", "d_fake", "g_updates", "d_updates")
        numbers = {name: {"value": seed / 10, "format": ".2f"} for name in names}
        folder = "plots" if run_of(family, seed) == family else "plots/sweep"
        (tmp_path / folder / f"{run_of(family, seed)}.json").write_text(json.dumps({"numbers": numbers}))
    curves = {"d_real": [0.5, 0.9], "d_fake": [0.5, 0.1]}
    for run in p5_seeds.SWINGS:
        (tmp_path / f"plots/sweep/{run}.json").write_text(json.dumps({"curves": curves}))
    for run in p5_seeds.PICTURES:
        np.savez(tmp_path / f"runs/{run}_samples.npz", images=np.zeros((40, 28, 28), np.uint8))
    return tmp_path


def flags(home):
    return ["--out-dir", home / "plots", "--runs-dir", home / "runs"]


def test_the_interval_is_that_of_a_paired_t_test():
    for count in range(2, 11):
        values, others = np.random.default_rng(count).normal(size=(2, count))
        expected = stats.ttest_rel(values, others).confidence_interval()
        mean, low, high = p5_seeds.paired(values, others)
        assert mean == pytest.approx((values - others).mean())
        assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-3)


def test_the_command_summarises_what_is_known(home, command):
    done = command(p5_seeds.__file__, *flags(home))
    assert done.returncode == 0, done.stderr
    numbers = p5_seeds.read_numbers(home / "plots/p5_seeds.json")
    recalls = [ROWS["sweep_g_5", seed]["recall"] for seed in (1, 2, 3)]
    assert numbers["sweep_g_5/recall/mean"] == pytest.approx(np.mean(recalls))
    assert numbers["sweep_g_5/recall/sd"] == pytest.approx(np.std(recalls, ddof=1))
    assert numbers["sweep_g_5/count"] == 3 and numbers["cgan_fashion/count"] == 4
    assert numbers["sweep_g_5/smallest_share/mean"] == pytest.approx(
        np.mean([min(ROWS["sweep_g_5", seed][f"share_{c}"] for c in range(10)) for seed in (1, 2, 3)]))
    base = [ROWS["sweep_base", seed]["recall"] for seed in (1, 2, 3)]
    assert numbers["sweep_g_5/recall/change"] == pytest.approx(np.mean(recalls) - np.mean(base))
    # without labels and with: four seeds; a part of the recipe taken away: three; by factors
    with_labels, without, no_ema, whole = (
        np.log([row["frechet_ratio"] for (name, _), row in ROWS.items() if name == family])
        for family in ("cgan_fashion", "gan_fashion", "lever_cgan_no_ema", "lever_cgan_whole"))
    low, high = stats.ttest_rel(with_labels, without).confidence_interval()
    assert numbers["cgan_fashion/frechet_ratio/change_low"] == pytest.approx(np.exp(low), rel=1e-3)
    assert numbers["cgan_fashion/frechet_ratio/change_high"] == pytest.approx(np.exp(high), rel=1e-3)
    assert numbers["lever_cgan_no_ema/frechet_ratio/change"] == pytest.approx(np.exp((no_ema - whole).mean()))
    no_labels, no_classifier = (np.log([ROWS[f"lever_cgan_no_{part}", seed]["frechet_ratio"] for seed in (1, 2, 3)])
                                for part in ("labels", "classifier"))  # without labels there is no classifier either
    assert numbers["lever_cgan_no_labels/frechet_ratio/change"] == pytest.approx(
        np.exp((no_labels - no_classifier).mean()))
    for family in ("vae_fashion", "gan_fashion"):
        yard = [ROWS[family, seed]["frechet"] / 0.5 for seed in (1, 2, 3, 4)]
        assert numbers[f"{family}/yardstick/mean"] == pytest.approx(np.mean(yard))
    assert "sweep_base/yardstick/mean" not in numbers  # whose judge did not see the unit
    gaps = [0.95 - min(ROWS["cgan_fashion", seed][name] for name in ASKED) for seed in (1, 2, 3, 4)]
    assert numbers["cgan_fashion/agreement_gap/mean"] == pytest.approx(np.mean(gaps))
    assert "sweep_base/agreement_gap/mean" not in numbers
    assert numbers["sweep_d_5/d_real/mean"] == pytest.approx(0.2)
    assert {path.name for path in (home / "plots").glob("*.pdf")} == {f"p5_seeds_{kind}.pdf" for kind in
                                                                      ("schemes", "pairs", "pictures")}


def test_what_is_missing_is_named(home, fails, capsys):
    for folder, family in (("sweep/p5_compare_part", "sweep_d_5"), ("p5_compare", "vae_fashion"),
                           ("p5_compare", "lever_vae_one_layer")):
        path = home / f"plots/{folder}.json"
        whole = json.loads(path.read_text())
        less = {name: entry for name, entry in whole["numbers"].items() if f"{family}_seed" not in name}
        path.write_text(json.dumps({"numbers": less}))
        line = fails(p5_seeds, flags(home), 1)
        assert family in line and "make sweeps" in line
        path.unlink()
        line = fails(p5_seeds, flags(home), 1)
        assert path.name in line and "make sweeps" in line
        path.write_text(json.dumps(whole))
    assert not list((home / "plots").glob("p5_seeds*"))
    absent = next((home / "runs").iterdir())
    absent.unlink()
    p5_seeds.main([str(flag) for flag in flags(home)])  # the numbers need no samples, one figure does
    assert absent.name in capsys.readouterr().out
    assert not (home / "plots/p5_seeds_pictures.pdf").exists() and (home / "plots/p5_seeds_pairs.pdf").exists()
