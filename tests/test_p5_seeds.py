"""p5_seeds.py: means, spreads and intervals against scipy, from records of known content."""
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import gan
import p5_seeds
import vae

RNG = np.random.default_rng(0)
MEASURED = ("frechet", "precision", "recall", "tv", "smallest_share")
MEASURED += tuple(f"{kind}_{c}{end}" for kind in ("share", "corrected") for c in range(10)
                  for end in ("", "_low", "_high"))
ASKED = tuple(f"agreement_{c}" for c in range(10))
FOUR = ("gan_fashion", "cgan_fashion", "vae_fashion", "normal_vae_fashion")  # of four seeds
REAL = {"frechet": 0.25, "frechet_se": 0.02, "agreement": 0.95, "c2st": 0.5}
UNIT = REAL["frechet"]


def drawn(names):
    return {name: float(RNG.uniform(0.1, 0.9)) for name in names}


SCORES = {(family, seed): drawn(MEASURED) for family in p5_seeds.FAMILIES
          for seed in ((1, 2, 3, 4) if family in FOUR else (1, 2, 3))}
for key in SCORES:
    SCORES[key]["c2st"] = 0.75
    if "cgan" in key[0]:
        SCORES[key] |= drawn(("agreement", *ASKED))


LOSSES = {"d_loss": [1.2, 1.3], "g_loss": [0.9, 0.8]}


def run_of(family, seed):
    """The name of a run, as its command makes it: seed 1 is not in it."""
    return p5_seeds.FAMILIES[family] + {1: ""}.get(seed, f"_seed{seed}")


def column(family, measure):
    return np.array([scores[measure] for (name, _), scores in SCORES.items() if name == family])


def path_of(plots, run):
    """Runs that head the report have their files in plots/, the others in plots/sweep."""
    return plots if run in (*FOUR, "real_fashion") else plots / "sweep"


def write_scores(plots, run, numbers, judge="a"):
    record = {"judge": judge, "numbers": numbers, "curves": {
        "line_inside": [0.9, 0.5, 0.8], "arc_inside": [0.9, 0.7, 0.8]}}
    (path_of(plots, run) / f"{run}_scores.json").write_text(json.dumps(record))


@pytest.fixture
def plots(tmp_path):
    """A folder with the judge's record, and of every run its record and its scores."""
    plots = tmp_path / "plots"
    (plots / "sweep").mkdir(parents=True)
    (plots / "judge_fashion.json").write_text('{"judge": "a", "numbers": {}}')
    for (family, seed), scores in SCORES.items():
        run = run_of(family, seed)
        write_scores(plots, run, scores)
        if run.startswith("normal_"):
            continue  # samples of a run that has a record under its own name
        numbers = dict.fromkeys(("d_real", "d_fake", "g_updates", "d_updates"), seed / 10)
        if run.startswith("vae"):
            numbers = {"test_loss": 200 + seed, "mixture_test_loss": 190, "test_reconstruction": 180}
        (path_of(plots, run) / f"{run}.json").write_text(json.dumps({"numbers": numbers, "curves": LOSSES}))
    write_scores(plots, "real_fashion", drawn(MEASURED) | dict.fromkeys(ASKED, 0.95) | REAL)
    write_scores(plots, "gan_fashion_epochs1_beta1-0.5", {"recall": 0.5})  # begins as a family does
    return plots


def test_the_interval_is_that_of_a_paired_t_test():
    for count in range(2, 11):
        values, others = np.random.default_rng(count).normal(size=(2, count))
        expected = stats.ttest_rel(values, others).confidence_interval()
        mean, low, high = p5_seeds.paired(values, others)
        assert mean == pytest.approx((values - others).mean())
        assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-3)


def test_times_real_takes_in_the_seeds_and_the_unit():
    values = np.array([4.0, 5.0, 4.4])
    of_seeds = stats.ttest_1samp(np.log(values), 0).confidence_interval()
    assert p5_seeds.times_real(values, 0) == pytest.approx(np.exp(of_seeds), rel=1e-3)
    low, high = p5_seeds.times_real(np.full(3, 2.0), 0.05)
    assert (low, high) == pytest.approx((2 * np.exp(-0.098), 2 * np.exp(0.098)))
    both = np.log(p5_seeds.times_real(values, 0.05))
    half = np.hypot(np.diff(of_seeds)[0] / 2, 0.098)
    assert np.diff(both)[0] / 2 == pytest.approx(half, rel=1e-3)


def test_the_command_summarises_what_is_known(plots, command):
    done = command(p5_seeds.__file__, "--out-dir", plots)
    assert done.returncode == 0, done.stderr
    record = json.loads((plots / "p5_seeds.json").read_text())
    numbers = record["numbers"]
    assert {type(value) for value in numbers.values()} == {int, float}
    assert record["settings"] == {} and len(record["machines"]) == 1
    assert record["fingerprint"] == p5_seeds.fingerprint(p5_seeds.parse_args([]))
    recalls, base = column("scheme_g_5", "recall"), column("scheme_base", "recall")
    assert numbers["scheme_g_5/recall/mean"] == pytest.approx(recalls.mean())
    assert numbers["scheme_g_5/recall/sd"] == pytest.approx(recalls.std(ddof=1))
    assert numbers["scheme_g_5/recall/change"] == pytest.approx((recalls - base).mean())
    assert numbers["scheme_g_5/count"] == 3 and numbers["cgan_fashion/count"] == 4
    for family in ("vae_fashion", "gan_fashion"):
        ratios = column(family, "frechet") / UNIT
        assert numbers[f"{family}/frechet_ratio/mean"] == pytest.approx(ratios.mean())
        ends = p5_seeds.times_real(ratios, 0.02 / 0.25)
        assert [numbers[f"{family}/frechet_ratio/{end}"] for end in ("low", "high")] == ends
    # without labels and with: four seeds; a part of the recipe taken away: three; by factors
    with_labels, without = (np.log(column(family, "frechet"))
                            for family in ("cgan_fashion", "gan_fashion"))
    low, high = stats.ttest_rel(with_labels, without).confidence_interval()
    assert numbers["cgan_fashion/frechet_ratio/change_low"] == pytest.approx(np.exp(low), rel=1e-3)
    assert numbers["cgan_fashion/frechet_ratio/change_high"] == pytest.approx(
        np.exp(high), rel=1e-3)
    logs = (np.log(column(label, "frechet")) for label in ("short_classifier", "short_labels"))
    assert numbers["short_classifier/frechet_ratio/change"] == pytest.approx(
        np.exp(np.subtract(*logs).mean()))
    gaps = [0.95 - min(scores[name] for name in ASKED)
            for (family, _), scores in SCORES.items() if family == "cgan_fashion"]
    assert numbers["cgan_fashion/agreement_gap/mean"] == pytest.approx(np.mean(gaps))
    assert "scheme_base/agreement_gap/mean" not in numbers
    assert numbers["scheme_d_5/d_real/mean"] == pytest.approx(0.2)
    for family in ("vae_fashion", "normal_vae_fashion"):  # samples of the same nets
        assert numbers[f"{family}/test_loss/mean"] == pytest.approx(202.5)
    assert numbers["normal_short_vae/test_loss/change"] == 0
    assert numbers["real/unit_error"] == pytest.approx(0.08)
    assert numbers["GAN/line_inside/ends"] == pytest.approx(0.85)
    assert numbers["Conditional GAN/arc_inside/middle"] == 0.7
    assert {path.name for path in plots.glob("*.pdf")} == {
        f"p5_seeds_{kind}.pdf" for kind in ("training", "weights", "paths", "shares")}


def test_a_single_seed_has_a_change_and_no_interval(plots, fails):
    for path in plots.rglob("gan_fashion_updates4000_ema0_seed*_scores.json"):
        path.unlink()
    for path in plots.rglob("gan_fashion_updates4000_r1-0*_scores.json"):
        path.unlink()
    p5_seeds.main(["--out-dir", str(plots)])
    numbers = json.loads((plots / "p5_seeds.json").read_text())["numbers"]
    alone, base = (SCORES[label, 1]["frechet"] for label in ("scheme_no_ema", "scheme_base"))
    assert numbers["scheme_no_ema/frechet_ratio/change"] == pytest.approx(alone / base)
    assert numbers["scheme_no_ema/count"] == 1
    ends = {name for name in numbers if name.startswith("scheme_no_ema/frechet_ratio/")}
    assert {name.rpartition("/")[2] for name in ends} == {"mean", "change"}
    assert not [name for name in numbers if name.startswith("scheme_no_r1")]


def test_what_nobody_has_run_is_left_out(plots):
    for run in ("gan_mlp_fashion", "cgan_mlp_fashion", "vae_fashion_epochs15_warmup7"):
        for path in plots.rglob(f"*{run}*"):
            path.unlink()
    p5_seeds.main(["--out-dir", str(plots)])
    numbers = json.loads((plots / "p5_seeds.json").read_text())["numbers"]
    families = {name.split("/")[0] for name in numbers}
    assert not families & {"handed_out", "handed_out_conditional", "short_vae", "normal_short_vae"}
    assert {"gan_fashion", "vae_beta_1"} <= families


def test_the_families_of_the_tables_are_known():
    known = p5_seeds.FAMILIES.keys()
    assert len(set(p5_seeds.FAMILIES.values())) == len(known)
    assert {*p5_seeds.SCHEMES, *p5_seeds.BASE_OF} <= known
    assert {*p5_seeds.BASE_OF.values(), *p5_seeds.WEIGHTS.values(), *p5_seeds.NEEDED} <= known
    assert {label for labels in p5_seeds.LENGTHS.values() for label in labels} <= known
    assert p5_seeds.LENGTHS.keys() <= set(p5_seeds.LOSSES.values())
    assert p5_seeds.TRAINED_AS.keys() | set(p5_seeds.TRAINED_AS.values()) <= known
    for family, other in p5_seeds.TRAINED_AS.items():
        assert p5_seeds.FAMILIES[family] == f"normal_{p5_seeds.FAMILIES[other]}"


def test_a_family_is_the_runs_of_one_command():
    """Two settings have two names, and the name of seed 2 is that of seed 1 and a suffix."""
    lines = (Path(p5_seeds.__file__).parent / "report/runs.txt").read_text().splitlines()
    commands = [line.split()[1:] for line in lines
                if line.startswith(("python vae.py", "python gan.py"))]
    scripts = {"vae.py": vae, "gan.py": gan}
    names = {scripts[script].parse_args(flags).run_name for script, *flags in commands}
    for family, run in p5_seeds.FAMILIES.items():
        if family not in p5_seeds.TRAINED_AS:
            assert run in names, family
            if family in (*p5_seeds.SCHEMES, *p5_seeds.NEEDED, "short_vae"):
                assert {f"{run}_seed2", f"{run}_seed3"} <= names, family
    shown = set(p5_seeds.SHOWN) - {"real_fashion"}
    assert shown <= names


def test_seeds_are_those_of_the_family_alone(plots):
    run = p5_seeds.FAMILIES["scheme_base"]
    for name in (f"{run}_seed7", f"{run}_seed12", f"{run}_seedx", f"{run}_beta1-0.5_seed4",
                 f"c{run}_seed5"):
        write_scores(plots, name, {"tv": 0.5})
    assert p5_seeds.seeds_of("scheme_base", plots) == [1, 2, 3, 7]


@pytest.mark.parametrize("family", p5_seeds.NEEDED)
def test_scores_that_are_missing_are_named(plots, fails, family):
    for seed in (1, 2, 3, 4):
        for path in plots.rglob(f"{run_of(family, seed)}_scores.json"):
            path.unlink()
    line = fails(p5_seeds, ["--out-dir", plots], 1)
    assert family in line and p5_seeds.FAMILIES[family] in line and "report/run.py" in line
    assert not list(plots.glob("p5_seeds*"))


@pytest.mark.parametrize("run", ["gan_fashion_seed2", "real_fashion",
                                 "vae_fashion_handout_epochs20"])
def test_scores_of_another_judge_are_not_mixed_in(plots, fails, run):
    write_scores(plots, run, drawn(MEASURED) | REAL, judge="b")
    line = fails(p5_seeds, ["--out-dir", plots], 1)
    assert f"{run}_scores.json is of another judge" in line and "report/run.py" in line


def test_seeds_with_other_measures_are_met_in_one_line(plots, fails):
    write_scores(plots, "gan_fashion_seed2", {"frechet": 0.5})
    line = fails(p5_seeds, ["--out-dir", plots], 1)
    assert "gan_fashion_seed2_scores.json differs from seed 1's in precision" in line
    assert not list(plots.glob("p5_seeds*"))


def test_a_judge_without_identity_is_met_in_one_line(plots, fails):
    path = plots / "judge_fashion.json"
    path.write_text(json.dumps({"numbers": {}}))
    assert f"{path} names no judge" in fails(p5_seeds, ["--out-dir", plots], 1)
    assert not list(plots.glob("p5_seeds*"))


RECORDS = ["judge_fashion.json", "gan_fashion_scores.json",
           "sweep/gan_fashion_updates4000_seed2.json"]


@pytest.mark.parametrize("file", RECORDS)
@pytest.mark.parametrize(("content", "found"), [
    (b"", "is damaged or no record"), (b'{"numbers": ', "is damaged or no record"),
    (b"[1]", "is damaged or no record"), (b'{"numbers": 1}', "is damaged or no record"),
    (b"\xff\xfe", "is damaged or no record"),
    (b'{"numbers": {"frechet": {"value": 1, "format": ".3f"}}}', "holds numbers of an older form")])
def test_a_bad_record_is_named(plots, fails, file, content, found):
    (plots / file).write_bytes(content)
    line = fails(p5_seeds, ["--out-dir", plots], 1)
    assert f"{plots / file} {found}" in line and "report/run.py" in line


def test_a_record_that_lacks_something_is_named(plots, fails):
    scores = dict(SCORES["cgan_fashion", 2])
    del scores["frechet"]
    write_scores(plots, "cgan_fashion_seed2", scores)
    line = fails(p5_seeds, ["--out-dir", plots], 1)
    assert "cgan_fashion" in line and "frechet" in line and "report/run.py" in line
    write_scores(plots, "cgan_fashion_seed2", SCORES["cgan_fashion", 2])
    path = plots / "gan_fashion_scores.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"curves": {}}))
    assert f"{path} lacks the curve line_inside" in fails(p5_seeds, ["--out-dir", plots], 1)


@pytest.mark.parametrize("file", RECORDS)
def test_a_file_that_cannot_be_read_is_named_with_its_cause(plots, fails, file):
    """A folder in its place, which the administrator cannot read either."""
    path = plots / file
    path.unlink()
    path.mkdir()
    line = fails(p5_seeds, ["--out-dir", plots], 1)
    assert str(path) in line and "directory" in line.lower()
    assert "damaged" not in line and "delete" not in line


def test_two_at_once_end_well(plots, forks):
    words = [p5_seeds.__file__, "--out-dir", plots]
    for done in forks([words, words], at_once=True):
        assert done.returncode == 0, done.stderr
    assert {path.name for path in plots.glob("*p5_seeds*")} == {"p5_seeds.json", *(
        f"p5_seeds_{kind}.pdf" for kind in ("training", "weights", "paths", "shares"))}
