"""p5_seeds.py: means, spreads and paired intervals against scipy, from records of known content."""
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import gan
import p5_seeds
import vae

RNG = np.random.default_rng(0)
MEASURED = ("frechet", "frechet_ratio", "frechet_train", "precision", "recall", "tv")
MEASURED += tuple(f"share_{c}" for c in range(10))
ASKED = tuple(f"agreement_{c}" for c in range(10))
FIVE = ("gan_fashion", "cgan_fashion", "vae_fashion", "normal_vae_fashion")  # families that have more seeds
ROWS = {(family, seed): dict(zip(MEASURED, RNG.uniform(0.1, 0.9, 16).tolist()))
        for family in p5_seeds.FAMILIES for seed in ((1, 2, 3, 4) if family in FIVE else (1, 2, 3))}
for key in ROWS:
    if "cgan" in key[0]:
        ROWS[key] |= dict(zip(("agreement", *ASKED), RNG.uniform(0.1, 0.9, 11).tolist()))


def run_of(family, seed):
    """The name of a run, as its command makes it: seed 1 is not in it."""
    return p5_seeds.FAMILIES[family] + {1: ""}.get(seed, f"_seed{seed}")


def judge_of(family):
    """The file under plots/ that holds what a judge said of a family."""
    return "sweep/p5_compare_part.json" if family in p5_seeds.SCHEMES else "p5_compare.json"


@pytest.fixture
def home(tmp_path):
    """A folder with the judges' records, the records of the runs and their samples."""
    (tmp_path / "plots/sweep").mkdir(parents=True)
    (tmp_path / "runs").mkdir()
    judged = {file: {f"{run_of(family, seed)}/{name}": value
                     for (family, seed), row in ROWS.items() if judge_of(family) == file
                     for name, value in row.items()} for file in ("sweep/p5_compare_part.json", "p5_compare.json")}
    judged["p5_compare.json"] |= {
        "vae_fashion_handout_epochs20/frechet": 0.5, "other/recall": 0.5, "judge/accuracy": 0.9,
        "gan_fashion_epochs1_beta1-0.5/recall": 0.5,  # a name that begins as that of a family does
        **{f"real/agreement_{c}": 0.95 for c in range(10)}}
    for file, numbers in judged.items():
        (tmp_path / "plots" / file).write_text(json.dumps({"numbers": numbers}))
    for family, seed in ROWS:
        run = run_of(family, seed)
        if run.startswith("normal_"):
            continue  # samples of a run that has a record under its own name
        numbers = dict.fromkeys(("d_real", "d_fake", "g_updates", "d_updates"), seed / 10)
        if run.startswith("vae"):
            numbers = {"test_loss": 200 + seed}
        path = tmp_path / ("plots" if run == family else "plots/sweep") / f"{run}.json"
        path.write_text(json.dumps({"numbers": numbers}))
    for run in p5_seeds.SWINGS:
        record = {"numbers": {}, "curves": {"d_real": [0.5, 0.9], "d_fake": [0.5, 0.1]}}
        (tmp_path / f"plots/sweep/{run}.json").write_text(json.dumps(record))
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
    record = json.loads((home / "plots/p5_seeds.json").read_text())
    numbers = record["numbers"]
    assert {type(value) for value in numbers.values()} == {int, float} and record["settings"] == {}
    assert record["fingerprint"] == p5_seeds.fingerprint(p5_seeds.parse_args([])) and len(record["machines"]) == 1
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
    for family in ("vae_fashion", "normal_vae_fashion"):  # samples of the same nets
        assert numbers[f"{family}/test_loss/mean"] == pytest.approx(202.5)
    assert numbers["normal_lever_vae_whole/test_loss/change"] == 0
    assert {path.name for path in (home / "plots").glob("*.pdf")} == {f"p5_seeds_{kind}.pdf" for kind in
                                                                      ("schemes", "pairs", "pictures")}


def test_the_families_of_the_tables_are_known():
    known = p5_seeds.FAMILIES.keys()
    assert len(set(p5_seeds.FAMILIES.values())) == len(known)
    assert p5_seeds.SCHEMES.keys() | p5_seeds.BASE_OF.keys() | set(p5_seeds.BASE_OF.values()) <= known
    assert p5_seeds.TRAINED_AS.keys() | set(p5_seeds.TRAINED_AS.values()) <= known
    for family, other in p5_seeds.TRAINED_AS.items():
        assert p5_seeds.FAMILIES[family] == f"normal_{p5_seeds.FAMILIES[other]}"


def test_a_family_is_the_runs_of_one_command():
    """Two settings have two names, and the name of seed 2 is that of seed 1 and a suffix."""
    lines = (Path(p5_seeds.__file__).parent / "report/runs.txt").read_text().splitlines()
    commands = [line.split()[1:] for line in lines if line.startswith(("python vae.py", "python gan.py"))]
    scripts = {"vae.py": vae, "gan.py": gan}
    names = {scripts[script].parse_args(flags).run_name for script, *flags in commands}
    for family, run in p5_seeds.FAMILIES.items():
        if family not in p5_seeds.TRAINED_AS:
            assert {run, f"{run}_seed2", f"{run}_seed3"} <= names, family
    assert {*p5_seeds.PICTURES, *p5_seeds.SWINGS, p5_seeds.YARDSTICK} <= names


def test_seeds_are_those_of_the_family_alone():
    run = p5_seeds.FAMILIES["lever_cgan_no_labels"]
    judged = dict.fromkeys([f"{run}/tv", f"{run}/recall", f"{run}_seed3/tv", f"{run}_seed12/tv", f"{run}_seedx/tv",
                            f"{run}_beta1-0.5_seed4/tv", f"c{run}_seed5/tv"], 0.5)
    assert p5_seeds.seeds_of("lever_cgan_no_labels", judged) == [1, 3, 12]


def test_what_is_missing_is_named(home, fails, capsys):
    for name, family in (("sweep/p5_compare_part", "sweep_d_5"), ("p5_compare", "vae_fashion"),
                         ("p5_compare", "lever_vae_one_layer")):
        path = home / f"plots/{name}.json"
        whole = json.loads(path.read_text())
        start = f"{p5_seeds.FAMILIES[family]}_seed"
        less = {name: value for name, value in whole["numbers"].items() if not name.startswith(start)}
        path.write_text(json.dumps({"numbers": less}))
        line = fails(p5_seeds, flags(home), 1)
        assert family in line and start in line and "report/run.py" in line
        path.unlink()
        line = fails(p5_seeds, flags(home), 1)
        assert f"{path} is missing" in line and "report/run.py" in line
        path.write_text(json.dumps(whole))
    assert not list((home / "plots").glob("p5_seeds*"))
    absent = next((home / "runs").iterdir())
    absent.unlink()
    p5_seeds.main([str(flag) for flag in flags(home)])  # the numbers need no samples, one figure does
    assert absent.name in capsys.readouterr().out
    assert not (home / "plots/p5_seeds_pictures.pdf").exists() and (home / "plots/p5_seeds_pairs.pdf").exists()


RECORDS = ["p5_compare.json", "sweep/p5_compare_part.json", "sweep/gan_mlp_fashion_updates5000_beta1-0.5_seed2.json",
           "sweep/gan_mlp_fashion_beta1-0.json"]


@pytest.mark.parametrize("file", RECORDS)
@pytest.mark.parametrize(("content", "found"), [
    (b"", "is damaged or no record"), (b'{"numbers": ', "is damaged or no record"), (b"[1]", "is damaged or no record"),
    (b'{"numbers": 1}', "is damaged or no record"), (b"\xff\xfe", "is damaged or no record"),
    (b'{"numbers": {"frechet": {"value": 1, "format": ".3f"}}}', "holds numbers of an older form")])
def test_a_bad_record_is_named(home, fails, file, content, found):
    path = home / "plots" / file
    path.write_bytes(content)
    line = fails(p5_seeds, flags(home), 1)
    assert f"{path} {found}" in line and "report/run.py" in line


def test_a_record_that_lacks_something_is_named(home, fails):
    path = home / "plots/p5_compare.json"
    numbers = json.loads(path.read_text())["numbers"]
    del numbers["cgan_fashion_seed2/share_3"]
    path.write_text(json.dumps({"numbers": numbers}))
    line = fails(p5_seeds, flags(home), 1)
    assert str(path) in line and "share_3" in line and "cgan_fashion" in line
    path = home / "plots/sweep/gan_mlp_fashion_beta1-0.json"
    path.write_text('{"numbers": {}}')
    numbers["cgan_fashion_seed2/share_3"] = 0.1
    (home / "plots/p5_compare.json").write_text(json.dumps({"numbers": numbers}))
    assert f"{path} lacks the curve d_fake" in fails(p5_seeds, flags(home), 1)


@pytest.mark.parametrize("content", [b"PK\x03\x04garbage", b"", "no images", "too few", "floats"])
def test_bad_samples_are_named(home, fails, content):
    path = home / "runs/gan_mlp_fashion_samples.npz"
    images = np.zeros((40, 28, 28), np.uint8)
    if content == "no images":
        np.savez(path, samples=images)
    elif content == "too few":
        np.savez(path, images=images[:20])
    elif content == "floats":
        np.savez(path, images=images / 1.0)
    else:
        path.write_bytes(content)
    assert f"{path} is damaged" in fails(p5_seeds, flags(home), 1)


@pytest.mark.parametrize("file", [*(f"plots/{name}" for name in RECORDS), "runs/gan_mlp_fashion_samples.npz"])
def test_a_file_that_cannot_be_read_is_named_with_its_cause(home, fails, file):
    """A folder in its place, which the administrator cannot read either."""
    path = home / file
    path.unlink()
    path.mkdir()
    line = fails(p5_seeds, flags(home), 1)
    assert str(path) in line and "directory" in line.lower() and "damaged" not in line and "delete" not in line


def test_two_at_once_end_well(home, forks):
    words = [p5_seeds.__file__, *flags(home)]
    for done in forks([words, words], at_once=True):
        assert done.returncode == 0, done.stderr
    assert {path.name for path in (home / "plots").glob("*p5_seeds*")} == {
        "p5_seeds.json", "p5_seeds_schemes.pdf", "p5_seeds_pairs.pdf", "p5_seeds_pictures.pdf"}
