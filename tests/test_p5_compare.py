"""p5_compare.py: measures against independent ones; commands on sample files of known content."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import glyphs
import numpy as np
import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance

import p5_compare

ROOT = Path(__file__).resolve().parent.parent
SKEWED = [10, 30, 50, 70, 90, 110, 130, 150, 170, 190]  # images of each class in the file skewed


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Glyphs named MNIST with a judge of theirs, and sample files of known content."""
    home = tmp_path_factory.mktemp("p5")
    data, runs = home / "data", home / "runs"
    glyphs.write_dataset(data, "mnist", 1200, 400, seed=5)
    runs.mkdir()
    images, labels = glyphs.draw(4000, torch.Generator().manual_seed(6))
    of_class = [images[labels == c] for c in range(10)]
    asked = np.repeat(np.arange(10), 100)
    shown = np.where(asked == 3, 5, asked)  # whoever asks for a 3 gets a 5
    training = p5_compare.load_dataset("mnist", data)[0].numpy()
    noise = np.random.default_rng(0).integers(0, 256, (60, 28, 28), "uint8")
    files = {
        "skewed_mnist": {"images": np.concatenate(
            [of_class[c][:count] for c, count in enumerate(SKEWED)])},
        "mistaken_mnist": {"labels": asked, "images": np.stack(
            [of_class[c][i % 100] for i, c in enumerate(shown)])},
        "copied-mnist": {"images": training[:200]},
        "noise_mnist": {"images": noise},
        "sevens_mnist": {"images": of_class[7][:40]},
        "same_mnist": {"images": training[:1].repeat(60, 0)},
    }
    for name, arrays in files.items():
        np.savez(runs / f"{name}_samples.npz", **arrays)
    (runs / ".part-mnist_samples.npz").write_bytes(b"a file that another script is writing")
    p5_compare.main(flags_of(home, "--train-judge"))
    return home


def shorten(patch):
    """A detective learns for 40 steps in place of 400."""
    train = p5_compare.train_detective

    def shorter(net, images, real, *, steps, batch_size):
        return train(net, images, real, steps=min(steps, 40), batch_size=batch_size)

    patch.setattr(p5_compare, "train_detective", shorter)


@pytest.fixture(autouse=True)
def short_lessons(monkeypatch):
    shorten(monkeypatch)


def flags_of(home, *more):
    flags = ["--dataset", "mnist", "--data-dir", home / "data", "--out-dir", home / "plots",
             "--judge-dir", home / "plots", "--runs-dir", home / "runs", *more]
    return [str(flag) for flag in flags]


@pytest.fixture(scope="module")
def scored(home):
    """{run: record} after the command has run once, without names, and once for real images."""
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        p5_compare.main(flags_of(home))
        p5_compare.main(flags_of(home, "real_mnist"))
    return {path.name.removesuffix("_scores.json"): json.loads(path.read_text())
            for path in (home / "plots").glob("*_scores.json")}


# -------------------------------------------------------------------------------- the measures
@pytest.mark.parametrize(("count", "dimensions"), [(500, 16), (40, 64)])  # the second of covariances without full rank
def test_frechet_distance_is_that_of_torchmetrics(count, dimensions):
    torch.manual_seed(0)
    x = torch.randn(count, dimensions).double() @ torch.randn(dimensions, dimensions).double()
    y = torch.randn(count + 7, dimensions).double().relu() + 0.3
    identity = torch.nn.Identity()
    identity.num_features = dimensions
    metric = FrechetInceptionDistance(feature=identity).set_dtype(torch.float64)
    metric.update(x, real=True)
    metric.update(y, real=False)
    assert p5_compare.frechet_distance(x, y) == pytest.approx(metric.compute().item(), rel=1e-5)


def test_frechet_distance_of_gaussians_in_closed_form():
    torch.manual_seed(0)
    x = torch.randn(300, 5).double()
    scale, shift = torch.tensor([0.5, 1.0, 2.0, 3.0, 0.0]), torch.tensor([1.0, 0.0, -2.0, 0.0, 0.5])
    x = torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(x.T)), (x - x.mean(0)).T, upper=False).T
    assert torch.allclose(torch.cov(x.T), torch.eye(5).double())
    expected = (shift.square().sum() + (1 - scale).square().sum()).item()  # diagonal covariances 1 and scale^2
    assert p5_compare.frechet_distance(x, x * scale + shift) == pytest.approx(expected, rel=1e-9)
    assert p5_compare.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def brute_force(real, fake):
    """Precision, recall, density and coverage by the definitions of the two papers, point by point."""
    def distance(a, b):
        return sum((p - q) ** 2 for p, q in zip(a.tolist(), b.tolist())) ** 0.5

    def ball(points, i, k):
        return sorted(distance(points[i], points[j]) for j in range(len(points)) if j != i)[k - 1]

    n, m = range(len(real)), range(len(fake))
    real3, real5 = [ball(real, i, 3) for i in n], [ball(real, i, 5) for i in n]
    fake3 = [ball(fake, j, 3) for j in m]
    between = [[distance(real[i], fake[j]) for j in m] for i in n]
    return {"precision": sum(any(between[i][j] <= real3[i] for i in n) for j in m) / len(m),
            "recall": sum(any(between[i][j] <= fake3[j] for j in m) for i in n) / len(n),
            "density": sum(between[i][j] <= real5[i] for i in n for j in m) / (5 * len(m)),
            "coverage": sum(any(between[i][j] <= real5[i] for j in m) for i in n) / len(n)}


@pytest.mark.parametrize("kind", ["near", "narrow", "far", "collapsed", "all the same"])
def test_precision_recall_density_coverage_are_those_of_a_double_loop(kind):
    torch.manual_seed(1)
    real = torch.randn(60, 4)
    fake = {"near": torch.randn(45, 4) * 1.2 + 0.3, "narrow": torch.randn(45, 4) * 0.3, "far": torch.randn(45, 4) + 9,
            "collapsed": real[:1].repeat(45, 1) + 0.01 * torch.randn(45, 4),
            "all the same": real[:1].repeat(45, 1)}[kind]
    near, wide = p5_compare.radii(real)
    found = p5_compare.neighbourhoods(fake, SimpleNamespace(features=real, near=near, wide=wide))
    expected = brute_force(real, fake)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    if kind == "far":
        assert found["precision"] == found["recall"] == found["coverage"] == 0
    if kind == "collapsed":
        assert found["precision"] == 1 and found["recall"] < 0.1


def test_nearest_training_image_is_that_of_a_loop():
    images, training = (torch.randint(0, 256, (n, 28, 28), dtype=torch.uint8) for n in (7, 30))
    training[4] = images[2]
    distance, index = p5_compare.nearest_training(images, training)
    all_pairs = np.array([[np.linalg.norm((a - b).ravel()) for b in training.numpy() / 255]
                          for a in images.numpy() / 255])
    assert index.tolist() == all_pairs.argmin(1).tolist() and index[2] == 4
    assert distance.numpy() == pytest.approx(all_pairs.min(1), abs=2e-2)
    assert np.delete(distance.numpy(), 2) == pytest.approx(np.delete(all_pairs.min(1), 2), rel=1e-5)


def planted_judge():
    """True shares p, counts (10, 10) of a judge that errs, and 100 000 judged classes in the shares it sees."""
    rng = np.random.default_rng(0)
    counts = np.diag(rng.integers(600, 900, 10))
    for i in range(10):
        counts[i] += rng.multinomial(1000 - counts[i, i], np.full(10, 0.1))
    p = np.array([0.02, 0.04, 0.06, 0.08, 0.1, 0.1, 0.12, 0.14, 0.16, 0.18])
    seen = p @ (counts / 1000) * 100_000  # whole numbers
    assert np.allclose(seen, seen.round())
    return p, counts, torch.arange(10).repeat_interleave(torch.tensor(seen.round().astype(int)))


def test_the_correction_recovers_the_shares_exactly():
    p, counts, classes = planted_judge()
    numbers = p5_compare.abundance(classes, counts, seed=1)
    assert [numbers[f"corrected_{c}"] for c in range(10)] == pytest.approx(p, abs=1e-12)
    assert numbers["tv_corrected"] == pytest.approx(0.2, abs=1e-12)
    raw = np.bincount(classes, minlength=10) / len(classes)
    assert [numbers[f"share_{c}"] for c in range(10)] == pytest.approx(raw)
    assert numbers["tv"] == pytest.approx(np.abs(raw - 0.1).sum() / 2) and numbers["tv"] < 0.19
    for c in range(10):
        assert numbers[f"corrected_{c}_low"] < p[c] < numbers[f"corrected_{c}_high"]
        for end in ("low", "high"):  # Wilson's ends solve |q - end| = 1.96 sd(end)
            bound = numbers[f"share_{c}_{end}"]
            assert abs(raw[c] - bound) == pytest.approx(1.96 * (bound * (1 - bound) / len(classes)) ** 0.5)


def test_corrected_intervals_hold_the_truth_about_as_often_as_they_say():
    p, counts, classes = planted_judge()
    rng, held = np.random.default_rng(1), 0
    for seed in range(20):
        drawn = torch.from_numpy(rng.choice(classes.numpy(), 2000))
        test = np.stack([rng.multinomial(500, row / row.sum()) for row in counts])
        numbers = p5_compare.abundance(drawn, test, seed)
        held += sum(numbers[f"corrected_{c}_low"] <= p[c] <= numbers[f"corrected_{c}_high"] for c in range(10))
    assert 0.89 < held / 200 < 0.995


def test_shares_stay_shares_where_classes_are_absent():
    counts = np.diag([50] * 9 + [0])  # no test image of class 9
    numbers = p5_compare.abundance(torch.zeros(30, dtype=torch.long), counts, seed=0)
    assert numbers["share_0"] == 1 and numbers["tv"] == pytest.approx(0.9) == numbers["tv_corrected"]
    assert all(0 <= value <= 1 + 1e-12 for value in numbers.values())


# ------------------------------------------------------------------------------- more measures
def test_equal_points_have_distance_0_and_others_that_of_cdist():
    torch.manual_seed(0)
    x = torch.randn(50, 128) * 100
    squared = p5_compare.squared_distances(x, x)
    assert (squared.diagonal() == 0).all()
    exact = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(squared, exact.square(), rtol=1e-9, atol=0)


def test_the_unit_is_the_distance_of_a_sixth_and_its_error_that_of_drawing_anew():
    """Over many data sets the unit's standard deviation is about what one data set says."""
    torch.manual_seed(0)
    found = [p5_compare.real_unit(torch.randn(1200, 4), torch.randn(200, 4), seed)
             for seed in range(40)]
    units, errors = np.array(found).T
    assert 0.5 < errors.mean() / units.std(ddof=1) < 2
    x = torch.randn(6, 4).repeat_interleave(100, 0) + torch.randn(600, 4)
    y = torch.randn(100, 4)
    unit, _ = p5_compare.real_unit(x, y, seed=1)
    sixths = [p5_compare.frechet_distance(x[torch.randperm(600)[:100]], y) for _ in range(40)]
    assert abs(unit - np.mean(sixths)) < 4 * np.std(sixths) / 12**0.5


def test_the_two_sample_test_knows_equal_from_different(monkeypatch):
    monkeypatch.undo()  # its lessons are short enough
    images, _ = glyphs.draw(1200, torch.Generator().manual_seed(3))
    images = torch.from_numpy(images)
    same = np.mean(p5_compare.two_sample_test(images[:600], images[600:], seed=1, steps=100))
    assert 0.4 < same < 0.6
    grain = images[:600].clone()
    grain[torch.rand(grain.shape) < 0.05] = 255
    assert np.mean(p5_compare.two_sample_test(grain, images[600:], seed=1, steps=100)) > 0.9


def test_planted_faults_are_what_they_are_called():
    images, labels = glyphs.draw(900, torch.Generator().manual_seed(4))
    images, labels = torch.from_numpy(images), torch.from_numpy(labels)
    faults = p5_compare.planted(images, labels, seed=1)
    base, of_base = faults["training images"]
    sixes = (of_base == 6).sum().item()
    assert len(base) == 900 and sixes > 50
    assert not (faults["no class 6"][1] == 6).any()
    assert (faults["a third of class 6"][1] == 6).sum() == round(sixes / 3)
    for name in ("no class 6", "a third of class 6"):  # what is shown has the label it is given
        changed, of_changed = faults[name]
        known = {image.numpy().tobytes(): int(c) for image, c in zip(images, labels)}
        assert [known[image.numpy().tobytes()] for image in changed] == of_changed.tolist()
    assert len(faults["one image"][0].unique(dim=0)) == 1
    assert len(faults["100 copies each"][0].unique(dim=0)) == 9
    assert p5_compare.steepness(faults["blur"][0]) < 0.8 * p5_compare.steepness(base)
    changed = (faults["grain"][0] != base).float().mean().item()
    assert 0.02 < changed < 0.05  # black grains are not seen on black
    mixed, exchanged = faults["two images mixed"][0], faults["two labels exchanged"][1]
    assert mixed.float().mean().item() == pytest.approx(base.float().mean().item(), rel=0.01)
    assert (exchanged == 6).sum() == (of_base == 0).sum() and (exchanged == 0).sum() == sixes


# -------------------------------------------------------------------------------- the commands
def test_the_judge_is_a_file_with_an_identity(home):
    path = home / "plots/judge_mnist.pt"
    record = json.loads(path.with_suffix(".json").read_text())
    judge, copy_distance, sha256 = p5_compare.load_judge(path, torch.device("cpu"))
    assert record["judge"] == sha256 and len(sha256) == 64
    assert path.stat().st_size == record["numbers"]["bytes"] < 1_000_000
    _, _, test, test_labels = p5_compare.load_dataset("mnist", home / "data")
    _, classes = p5_compare.judged(judge, test)
    accuracy = (classes == test_labels).float().mean().item()
    assert record["numbers"]["accuracy"] == pytest.approx(accuracy) and accuracy > 0.93
    assert np.trace(record["curves"]["confusion"]) == round(accuracy * 400)
    training = p5_compare.load_dataset("mnist", home / "data")[0]
    nearest, _ = p5_compare.nearest_training(test, training)
    assert (nearest < copy_distance).float().mean().item() == pytest.approx(0.01, abs=0.003)


def test_an_identity_is_of_names_types_shapes_and_bytes_alone(tmp_path):
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([1])}
    first = p5_compare.identity(tensors)
    for number in range(2):
        torch.save(tensors, tmp_path / f"{number}.pt")
        assert p5_compare.identity(torch.load(tmp_path / f"{number}.pt")) == first
    others = [{"b": tensors["b"], "a": tensors["a"]}, {"c": tensors["a"], "b": tensors["b"]},
              {"a": tensors["a"].half(), "b": tensors["b"]},
              {"a": tensors["a"].view(3, 2), "b": tensors["b"]},
              {"a": tensors["a"] + 1, "b": tensors["b"]}]
    assert len({first, *map(p5_compare.identity, others)}) == 6


def test_a_frozen_judge_is_not_replaced(home, fails):
    before = (home / "plots/judge_mnist.pt").read_bytes()
    line = fails(p5_compare, flags_of(home, "--train-judge"), 1)
    assert "scores name it" in line and "--fresh" in line
    assert (home / "plots/judge_mnist.pt").read_bytes() == before


def test_real_images_score_as_real_ones(scored):
    real = scored["real_mnist"]["numbers"]
    assert 0 < real["frechet_se"] < real["frechet"] and real["diversity"] == real["sharpness"] == 1
    assert min(real[name] for name in ("precision", "recall", "density", "coverage")) > 0.7
    assert 0.4 < real["c2st"] < 0.6 and real["agreement"] > 0.93
    assert real["copies"] == pytest.approx(0.01, abs=0.003)
    skewed, noise = scored["skewed_mnist"]["numbers"], scored["noise_mnist"]["numbers"]
    assert skewed["precision"] > 0.7 and noise["precision"] < 0.1 and noise["c2st"] > 0.95
    assert noise["frechet"] > 10 * skewed["frechet"] > 0
    assert scored["sevens_mnist"]["numbers"]["recall"] < 0.3 < skewed["recall"]


def test_shares_of_a_file_with_known_classes(scored):
    numbers = scored["skewed_mnist"]["numbers"]
    for c, count in enumerate(SKEWED):
        assert numbers[f"share_{c}"] == pytest.approx(count / 1000, abs=0.025)
        assert numbers[f"corrected_{c}"] == pytest.approx(count / 1000, abs=0.025)
        assert numbers[f"share_{c}_low"] < numbers[f"share_{c}"] < numbers[f"share_{c}_high"]
    assert numbers["tv"] == pytest.approx(0.25, abs=0.03)
    assert numbers["tv_corrected"] == pytest.approx(0.25, abs=0.03)
    assert numbers["smallest_share"] == min(numbers[f"share_{c}"] for c in range(10))
    sevens = scored["sevens_mnist"]["numbers"]
    assert sevens["share_7"] > 0.9 and sevens["tv"] == pytest.approx(0.9, abs=0.1)


def test_agreement_of_a_file_with_known_mistakes(scored):
    numbers = scored["mistaken_mnist"]["numbers"]
    confusion = np.array(scored["mistaken_mnist"]["curves"]["confusion"])
    assert confusion.shape == (10, 10) and (confusion.sum(1) == 100).all()
    assert confusion[3, 5] > 85
    assert numbers["agreement_3"] < 0.1 and numbers["agreement_5"] > 0.85
    assert numbers["agreement"] == pytest.approx(0.9, abs=0.06)
    assert numbers["share_5"] == pytest.approx(0.2, abs=0.03)
    assert "agreement" not in scored["skewed_mnist"]["numbers"]


def test_copies_are_found(scored):
    assert scored["copied-mnist"]["numbers"]["copies"] == 1
    assert scored["noise_mnist"]["numbers"]["copies"] == 0
    assert scored["skewed_mnist"]["numbers"]["copies"] < 0.1


def test_images_that_are_all_the_same_have_finite_scores(scored):
    numbers = scored["same_mnist"]["numbers"]
    assert all(np.isfinite(value) for value in numbers.values())
    assert numbers["diversity"] == 0 and numbers["tv"] == pytest.approx(0.9)
    assert numbers["recall"] < 0.05 and numbers["frechet"] > 0


def test_a_score_says_what_it_is_of(scored, home):
    judge = json.loads((home / "plots/judge_mnist.json").read_text())["judge"]
    assert set(scored) == {"skewed_mnist", "mistaken_mnist", "copied-mnist", "noise_mnist",
                           "sevens_mnist", "same_mnist", "real_mnist"}
    for run, record in scored.items():
        assert record["judge"] == judge and len(record["samples"]) == 64
        assert record["dataset"] == "mnist" and record["settings"]["runs"] == [run]
        args = p5_compare.parse_args(record["command"].split()[2:])
        assert args.run_name == f"{run}_scores"
        assert p5_compare.settings_of(args) == record["settings"]
        assert record["fingerprint"] == p5_compare.fingerprint(args)
        assert all(type(value) is float for value in record["numbers"].values())
        for kind in ("sheet", "neighbours"):
            assert (home / f"plots/{run}_{kind}.pdf").stat().st_size > 5000
    assert len({record["samples"] for record in scored.values()}) == len(scored)
    assert not list(home.rglob(f".part-{os.getpid()}-*"))


def test_scores_are_made_once_and_again_where_the_samples_changed(scored, home, tmp_path, capsys):
    shutil.copytree(home, tmp_path / "copy")
    copy = tmp_path / "copy"
    flags = flags_of(copy, "noise_mnist")
    capsys.readouterr()
    p5_compare.main(flags)
    assert "noise_mnist_scores.json is done" in capsys.readouterr().out
    noise = np.random.default_rng(1).integers(0, 256, (60, 28, 28), "uint8")
    np.savez(copy / "runs/noise_mnist_samples.npz", images=noise)
    p5_compare.main(flags)
    assert "frechet " in capsys.readouterr().out  # how the numbers moved
    record = json.loads((copy / "plots/noise_mnist_scores.json").read_text())
    assert record["samples"] != scored["noise_mnist"]["samples"]


def test_two_threads_score_as_one(scored, home, tmp_path, capsys):
    """Distances within 0.1 %, shares within 0.001."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    p5_compare.main(flags_of(home, "skewed_mnist", "--out-dir", tmp_path))
    torch.set_num_threads(threads)
    names, values = (line.split() for line in capsys.readouterr().out.splitlines()[-2:])
    again = json.loads((tmp_path / "skewed_mnist_scores.json").read_text())["numbers"]
    assert names == list(p5_compare.COLUMNS) and values[0] == "skewed_mnist"
    times_real = again["frechet"] / scored["real_mnist"]["numbers"]["frechet"]
    assert float(values[2]) == pytest.approx(times_real, abs=1e-4)
    first = scored["skewed_mnist"]["numbers"]
    assert again["frechet"] == pytest.approx(first["frechet"], rel=1e-3)
    for c in range(10):
        assert again[f"share_{c}"] == pytest.approx(first[f"share_{c}"], abs=1e-3)
    assert {path.name for path in tmp_path.iterdir()} == {
        "skewed_mnist_scores.json", "skewed_mnist_sheet.pdf", "skewed_mnist_neighbours.pdf",
        "skewed_mnist_strip.pdf"}


def test_what_lies_along_paths(monkeypatch, tmp_path):
    """By a judge that reads features and class off the first pixels."""
    monkeypatch.setattr(p5_compare, "judged", lambda judge, images: (
        images[:, 0, :2].float(), images[:, 0, 2].long()))
    paths = np.zeros((2, 2, 3, 28, 28), np.uint8)  # (line and arc, pair, step)
    paths[..., 0, :2] = 10
    paths[0, 0, 1, 0, 1] = 13  # the middle of the first line is 3 away from the real image
    paths[0, :, :, 0, 2] = [[4, 7, 5], [4, 5, 5]]  # and of a class of neither end
    np.savez(tmp_path / "a.npz", images=0, paths=paths)
    reference = SimpleNamespace(features=torch.tensor([[10.0, 10.0]]), near=torch.tensor([8.0]))
    found = p5_compare.along_paths(tmp_path / "a.npz", None, reference)
    assert found == {"line_inside": [1, 0.5, 1], "line_third": [0, 0.5, 0],
                     "arc_inside": [1, 1, 1], "arc_third": [0, 0, 0]}
    others = {"none": {}, "file names": {"paths": ["a.png", "b.png"]},
              "objects": {"paths": np.array([None])}, "real numbers": {"paths": paths / 255}}
    for name, arrays in others.items():
        np.savez(tmp_path / "b.npz", images=0, **arrays)
        assert p5_compare.along_paths(tmp_path / "b.npz", None, reference) == {}, name


SHORT = """import sys; sys.path.insert(0, sys.argv.pop(1))
import p5_compare; p5_compare.two_sample_test = lambda *_, **__: [0.5, 0.6]
p5_compare.run(p5_compare.main)"""


def test_two_at_once_end_well(home, tmp_path):
    words = [sys.executable, "-W", "error", "-c", SHORT, str(ROOT),
             *flags_of(home, "noise_mnist", "--out-dir", tmp_path)]
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [child.communicate(timeout=240)[0] for child in both]
    assert [child.returncode for child in both] == [0, 0]
    scored = ["noise_mnist has 60 images" in text for text in printed]
    assert any(scored)  # the other may have come so late that it found the scores done
    assert all(done or "is done" in text for done, text in zip(scored, printed))
    assert {path.name for path in tmp_path.iterdir()} == {
        "noise_mnist_scores.json", "noise_mnist_sheet.pdf", "noise_mnist_neighbours.pdf",
        "noise_mnist_strip.pdf"}


def test_scores_stand_beside_the_record_of_their_run(home, tmp_path):
    (tmp_path / "sweep").mkdir()
    record = {"settings": {"dataset": "mnist"}}
    (tmp_path / "sweep/noise_mnist.json").write_text(json.dumps(record))
    p5_compare.main(flags_of(home, "noise_mnist", "--out-dir", str(tmp_path)))
    assert (tmp_path / "sweep/noise_mnist_scores.json").exists()


@pytest.mark.parametrize("run", ["real_fashion", "gan_fashion"])
def test_a_run_is_scored_by_its_own_data_set_alone(home, tmp_path, fails, run):
    """The judge of digits would overwrite the scores, and with real_fashion the unit of all."""
    (tmp_path / "gan_fashion.json").write_text(json.dumps({"settings": {"dataset": "fashion"}}))
    scores = tmp_path / f"{run}_scores.json"
    scores.write_text("as it was")
    assert "--dataset fashion" in fails(p5_compare, flags_of(home, run, "--out-dir", tmp_path), 1)
    assert scores.read_text() == "as it was"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"judge": "mine"}'])
def test_a_unit_that_cannot_be_read_is_no_unit(tmp_path, text):
    (tmp_path / "real_mnist_scores.json").write_text(text)
    ruler = SimpleNamespace(args=SimpleNamespace(judge_dir=tmp_path), dataset="mnist",
                            judge=(None, None, "mine"))
    assert p5_compare.with_unit({"frechet": 3.0}, ruler) == {"frechet": 3.0}


def test_the_name_of_a_file_becomes_that_of_a_run():
    for file, name in {"runs/gan_mnist_samples.npz": "gan_mnist", "my samples.npz": "my-samples",
                       "../(copy) of 1.5_samples.npz": "copy-of-1.5"}.items():
        assert p5_compare.name_of(file) == name


def test_without_the_judge_another_is_trained_and_said_to_be_another(home, tmp_path, capsys):
    flags = flags_of(home, "noise_mnist", "--out-dir", tmp_path, "--judge-dir", tmp_path,
                     "--runs-dir", tmp_path / "runs", "--epochs", "1")
    shutil.copytree(home / "runs", tmp_path / "runs")
    p5_compare.main(flags)
    said = capsys.readouterr().out
    assert "judge_mnist.pt is missing" in said and "cannot be laid beside" in said
    record = json.loads((tmp_path / "noise_mnist_scores_epochs1.json").read_text())
    known = json.loads((home / "plots/judge_mnist.json").read_text())["judge"]
    assert record["judge"] != known
    kept, = (tmp_path / "runs").glob("judge_mnist-*.pt")
    before = kept.stat().st_mtime_ns
    p5_compare.main([*flags, "--fresh"])  # which is of the scores; the judge is of the same data
    assert kept.stat().st_mtime_ns == before
    p5_compare.main([*flags, "--seed", "2"])
    assert len(list((tmp_path / "runs").glob("judge_mnist-*.pt"))) == 2


def test_cas_follows_the_labels_that_are_there(home, tmp_path, monkeypatch):
    """Labels in the wrong order, then mended; no classifier of the first is used again."""
    monkeypatch.setattr(p5_compare, "PUPILS", 2)
    monkeypatch.setattr(p5_compare, "PUPIL_EPOCHS", 6)
    images, labels = glyphs.draw(700, torch.Generator().manual_seed(7))
    found = []
    for asked in (labels[::-1], labels):
        save(tmp_path / "runs/learned_mnist_samples.npz", images=images, labels=asked)
        p5_compare.main(flags_of(home, "learned_mnist", "--cas", "--runs-dir", tmp_path / "runs",
                                 "--out-dir", tmp_path))
        record = json.loads((tmp_path / "learned_mnist_cas.json").read_text())
        assert record["numbers"]["cas"] == pytest.approx(np.mean(record["curves"]["cas"]))
        assert len(record["curves"]["cas"]) == 2
        found.append(record["numbers"]["cas"])
    assert found[1] > found[0] + 0.1


def test_planted_faults_are_scored(home, monkeypatch):
    monkeypatch.setattr(p5_compare, "two_sample_test", lambda *_, **__: [0.5, 0.5])  # seen above
    p5_compare.main(flags_of(home, "--planted"))
    numbers = json.loads((home / "plots/p5_planted_mnist.json").read_text())["numbers"]
    base = numbers["training images/frechet"]
    for fault in ("blur", "grain", "no class 6", "one image", "two images mixed"):
        assert numbers[f"{fault}/frechet"] > 2 * base
    assert numbers["no class 6/smallest_share"] < 0.02 < numbers["a third of class 6/share_6"]
    assert numbers["a third of class 6/share_6"] == pytest.approx(0.1 / 3, abs=0.02)
    assert numbers["blur/sharpness"] < 0.9 < numbers["grain/sharpness"]
    assert numbers["100 copies each/recall"] < 0.5 * numbers["training images/recall"]
    assert numbers["two labels exchanged/agreement"] < numbers["training images/agreement"] - 0.1


@pytest.mark.parametrize(("flags", "name"), [
    ([], "p5_compare"), (["gan_fashion"], "gan_fashion_scores"), (["a/b/my_samples.npz"],
                                                                  "my_scores"),
    (["my.npz"], "my_scores"), (["cgan_mnist", "--cas"], "cgan_mnist_cas"),
    (["--train-judge"], "judge_fashion"), (["--planted", "--dataset", "mnist"],
                                           "p5_planted_mnist"),
    (["gan_fashion", "--seed", "2", "--epochs", "3"], "gan_fashion_scores_epochs3_seed2")])
def test_a_name_for_every_command(flags, name):
    assert p5_compare.parse_args(flags).run_name == name


@pytest.mark.parametrize("damage", ["cut", "empty", "of another kind", "of other layers"])
def test_a_damaged_judge_is_named(home, tmp_path, fails, damage):
    path = tmp_path / "judge_mnist.pt"
    whole = (home / "plots/judge_mnist.pt").read_bytes()
    if damage == "of another kind":
        torch.save([1], path)
    elif damage == "of other layers":
        torch.save({"weight": torch.zeros(3)}, path)
    else:
        path.write_bytes(whole[:-999] if damage == "cut" else b"")
    line = fails(p5_compare, flags_of(home, "noise_mnist", "--out-dir", tmp_path, "--judge-dir",
                                      tmp_path), 1)
    assert str(path) in line and "damaged" in line
    assert not list(tmp_path.glob("*_scores.json"))


@pytest.mark.parametrize(("flags", "others", "differs"), [
    ([], [], False), ([], ["gan_fashion"], False), ([], ["--seed", "2"], True),
    (["--train-judge"], ["--train-judge"], False),
    (["--train-judge"], ["--train-judge", "--epochs", "3"], True),
    (["--train-judge"], ["--train-judge", "--dataset", "mnist"], True),
    (["--train-judge"], ["--cas", "cgan_fashion"], True)])
def test_the_fingerprint_is_of_the_settings_and_repeats(flags, others, differs):
    usual, other = (p5_compare.fingerprint(p5_compare.parse_args(words))
                    for words in (flags, others))
    assert (usual != other) == differs
    assert all(type(value) is float and np.isfinite(value) for value in other)


@pytest.mark.parametrize(("run", "dataset"), [
    ("vae_mnist", "mnist"), ("vae_fashion", "fashion"), ("cgan-mnist-seed2", "mnist"),
    ("mlp_lr_4_1", "fashion"), ("fashion_mnist", "fashion"), ("mnistlike", "fashion"),
    ("recorded", "mnist"), ("recorded_mnist", "fashion"), ("broken_mnist", "mnist"),
    ("vae_mnist_beta0.7", "mnist"), ("vae_fashion_beta0.7", "fashion"),
    ("recorded_beta0.7", "mnist"), ("normal_recorded_beta0.7", "mnist"),
    ("recorded_beta0", "fashion"), ("recorded[1]", "mnist"), ("real_mnist", "mnist")])
def test_the_data_set_of_a_run(tmp_path, run, dataset):
    (tmp_path / "sweep").mkdir()
    for name, recorded in (("sweep/recorded", "mnist"), ("recorded_mnist", "fashion"),
                           ("sweep/recorded_beta0.7", "mnist"), ("recorded[1]", "mnist")):
        settings = {"settings": {"dataset": recorded}}
        (tmp_path / f"{name}.json").write_text(json.dumps(settings))
    (tmp_path / "broken_mnist.json").write_text("[1")
    assert p5_compare.dataset_of(run, tmp_path) == dataset


# ------------------------------------------------------------------------------- sample files
def save(path, **arrays):
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **arrays)


IMAGES = np.random.default_rng(0).integers(0, 256, (40, 28, 28), "uint8")
LABELS = np.arange(40) % 10
READ = {
    "floats to 1": IMAGES / 255, "floats from -1": IMAGES / 127.5 - 1, "floats to 255": IMAGES / 1,
    "float32": (IMAGES / 255).astype("float32"), "int64": IMAGES.astype("int64"),
    "flat": IMAGES.reshape(40, 784), "a channel": IMAGES[:, None], "a channel last":
    IMAGES[..., None], "flat floats": (IMAGES / 127.5 - 1).reshape(40, 784),
}


@pytest.mark.parametrize("images", READ.values(), ids=READ)
@pytest.mark.parametrize("labels", [LABELS, LABELS.astype("float32"), LABELS.astype("uint8")])
def test_whatever_holds_grey_images_is_read(tmp_path, images, labels):
    save(tmp_path / "my.npz", images=images, labels=labels)
    found, classes = p5_compare.read_samples(tmp_path / "my.npz")
    assert found.dtype == torch.uint8 and (found.numpy() == IMAGES).all()
    assert classes.dtype == torch.uint8 and classes.tolist() == LABELS.tolist()


def test_black_and_white_of_any_type_is_read(tmp_path):
    bits = IMAGES > 127
    for kind in ("uint8", "int8", "int64", "float32"):
        save(tmp_path / "my.npz", images=bits.astype(kind))
        found, _ = p5_compare.read_samples(tmp_path / "my.npz")
        assert (found.numpy() == 255 * bits).all()


NAN = IMAGES / 255
NAN[3, 4, 5] = np.nan
BAD = {
    "garbage": (b"PK\x03\x04garbage" * 9, "damaged"), "empty": (b"", "damaged"),
    "cut": ("cut", "damaged"), "no images": ({"samples": IMAGES}, "no array named images"),
    "larger": ({"images": np.zeros((40, 32, 32), np.uint8)}, "28 x 28"),
    "colours last": ({"images": np.zeros((40, 28, 28, 3), np.uint8)}, "three colours"),
    "colours first": ({"images": np.zeros((40, 3, 28, 28), np.uint8)}, "three colours"),
    "14 x 56": ({"images": np.zeros((40, 14, 56), np.uint8)}, "28 x 28"),
    "a number": ({"images": np.uint8(3)}, "28 x 28"),
    "few": ({"images": IMAGES[:5]}, "too few"), "NaN": ({"images": NAN}, "NaN"),
    "far": ({"images": IMAGES / 10 - 30}, "pixels from"),
    "text": ({"images": np.full((40, 784), "a")}, "no numbers"),
    "short labels": ({"images": IMAGES, "labels": LABELS[:-1]}, "do not fit"),
    "class 10": ({"images": IMAGES, "labels": LABELS + 1}, "from 0 to 9"),
    "halves": ({"images": IMAGES, "labels": LABELS + 0.5}, "from 0 to 9"),
    "names": ({"images": IMAGES, "labels": LABELS.astype(str)}, "from 0 to 9"),
    "objects": ({"images": np.array([None] * 40)}, "damaged"),
}


@pytest.mark.parametrize(("content", "said"), BAD.values(), ids=BAD)
def test_a_bad_sample_file_ends_in_one_line_before_any_training(tmp_path, home, fails, content,
                                                                said):
    path = tmp_path / "my_samples.npz"
    if isinstance(content, dict):
        save(path, **content)
    elif content == "cut":
        save(path, images=IMAGES)
        path.write_bytes(path.read_bytes()[:-99])
    else:
        path.write_bytes(content)
    line = fails(p5_compare, flags_of(home, path, "--out-dir", tmp_path), 1)
    assert str(path) in line and said in line
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("file", ["runs/a_mnist_samples.npz", "plots/judge_mnist.pt"])
def test_a_file_that_cannot_be_read_is_named_with_its_cause(tmp_path, home, fails, file):
    """A link to itself, which the administrator cannot read either."""
    save(tmp_path / "runs/a_mnist_samples.npz", images=IMAGES)
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(path)
    line = fails(p5_compare, flags_of(home, "a_mnist", "--runs-dir", tmp_path / "runs",
                                      "--out-dir", tmp_path / "plots", "--judge-dir",
                                      tmp_path / "plots"), 1)
    assert str(path) in line and "symbolic links" in line
    assert "damaged" not in line and "delete" not in line and path.is_symlink()


def test_a_record_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "a_mnist.json"
    path.symlink_to(path)
    with pytest.raises(OSError, match="symbolic links.*a_mnist.json"):
        p5_compare.dataset_of("a_mnist", tmp_path)


@pytest.mark.parametrize("runs", [[], ["vae_fashion"], ["no/such_samples.npz"]])
def test_without_samples_it_names_the_commands(tmp_path, fails, runs):
    flags = [*runs, "--out-dir", tmp_path / "plots", "--runs-dir", tmp_path / "runs"]
    line = fails(p5_compare, flags, 1)
    assert "python gan.py --conditional" in line


def test_a_copy_in_an_empty_folder_says_what_it_needs(tmp_path, command):
    shutil.copy(ROOT / "p5_compare.py", tmp_path)
    done = command(tmp_path / "p5_compare.py")
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "python gan.py --conditional" in done.stderr and str(tmp_path / "runs") in done.stderr


def test_a_sheet_has_the_first_images_of_each_class_and_grey_where_there_are_less():
    classes = torch.tensor([1, 0, 1, 1, 9])
    images = torch.arange(1, 6, dtype=torch.uint8)[:, None, None].expand(5, 28, 28)
    order = p5_compare.first_of_each_class(classes, columns=2)
    assert order.tolist() == [1, -1, 0, 2, *[-1] * 14, 4, -1]
    sheet = p5_compare.make_sheet(images, order)
    assert sheet.dtype == torch.uint8 and sheet.shape == (20, 28, 28)
    assert sheet[:, 5, 5].tolist() == [2, 128, 1, 3, *[128] * 14, 5, 128]
