"""p5_compare.py: every measure against an independent one, and the command on sample files of known content."""
import argparse
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import glyphs
import numpy as np
import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance

import gan
import p5_compare
import vae

ROOT = Path(__file__).resolve().parent.parent
SKEWED = [10, 30, 50, 70, 90, 110, 130, 150, 170, 190]  # images of each class in the file vae_mnist, 1000 in all
FIGURES = ("shares", "sheet", "neighbours", "confusion")
CGAN = "cgan_mnist_classifier0"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Glyphs named MNIST, and sample files of known content: more glyphs, training glyphs, noise."""
    home = tmp_path_factory.mktemp("p5")
    data, runs = home / "data", home / "runs"
    glyphs.write_dataset(data, "mnist", 1500, 400, seed=5)
    runs.mkdir()
    images, labels = glyphs.draw(4000, torch.Generator().manual_seed(6))
    pool = [images[labels == c] for c in range(10)]
    np.savez(runs / "vae_mnist_samples.npz", images=np.concatenate([pool[c][:n] for c, n in enumerate(SKEWED)]))
    asked = np.repeat(np.arange(10), 100)
    shown = np.where(asked == 3, 5, asked)  # whoever asks for a 3 gets a 5
    np.savez(runs / f"{CGAN}_samples.npz", images=np.stack([pool[c][i % 100] for i, c in enumerate(shown)]),
             labels=asked)
    training = p5_compare.load_dataset("mnist", data)[0].numpy()
    np.savez(runs / "copied-mnist_samples.npz", images=training[:200])
    np.savez(runs / "noise_mnist_samples.npz", images=np.random.default_rng(0).integers(0, 256, (60, 28, 28), "uint8"))
    np.savez(runs / "some_mnist_seed1_samples.npz", images=pool[7][:40])
    np.savez(runs / "of_another_data_set_samples.npz", images=training[:50])
    (runs / ".part-mnist_samples.npz").write_bytes(b"a file that another script is writing")
    return home


def flags_of(home, *more):
    return ["--dataset", "mnist", "--data-dir", home / "data", "--out-dir", home / "plots", "--runs-dir", home / "runs",
            "--epochs", "12", *more]


@pytest.fixture(scope="module")
def scored(folders):
    """(numbers, record, folder) after the command has run once."""
    p5_compare.main([str(flag) for flag in flags_of(folders)])
    record = json.loads((folders / "plots/p5_compare_mnist.json").read_text())
    return record["numbers"], record, folders


# ------------------------------------------------------------------------------------------------------ the measures
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


@pytest.mark.parametrize("kind", ["near", "narrow", "far", "collapsed"])
def test_precision_recall_density_coverage_are_those_of_a_double_loop(kind):
    torch.manual_seed(1)
    real = torch.randn(60, 4)
    fake = {"near": torch.randn(45, 4) * 1.2 + 0.3, "narrow": torch.randn(45, 4) * 0.3, "far": torch.randn(45, 4) + 9,
            "collapsed": real[:1].repeat(45, 1) + 0.01 * torch.randn(45, 4)}[kind]
    near, wide = p5_compare.radii(real)
    found = p5_compare.quality(fake, SimpleNamespace(features=real, near=near, wide=wide, train_features=real))
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


# ------------------------------------------------------------------------------------------------------- the command
def test_real_images_score_as_real_ones(scored):
    numbers, _, _ = scored
    assert numbers["judge/accuracy"] == numbers["real/agreement"] == numbers["real/cas"] > 0.93
    assert numbers["real/frechet_ratio"] == 1 and numbers["real/diversity"] == 1
    for name in ("precision", "recall", "density", "coverage", "frechet"):
        assert 0 < numbers[f"real/{name}_sd"] < 0.5 * numbers[f"real/{name}"]
    assert min(numbers[f"real/{name}"] for name in ("precision", "recall", "density", "coverage")) > 0.7
    assert numbers["vae_mnist/precision"] > 0.7 and numbers["noise_mnist/precision"] < 0.1
    assert numbers["noise_mnist/frechet"] > 10 * numbers["vae_mnist/frechet"] > 0
    assert numbers["some_mnist_seed1/recall"] < 0.3 < numbers["vae_mnist/recall"]  # only sevens


def test_shares_of_a_file_with_known_classes(scored):
    numbers, _, _ = scored
    for c, count in enumerate(SKEWED):
        assert numbers[f"vae_mnist/share_{c}"] == pytest.approx(count / 1000, abs=0.025)
        assert numbers[f"vae_mnist/corrected_{c}"] == pytest.approx(count / 1000, abs=0.025)
        assert numbers[f"vae_mnist/share_{c}_low"] < numbers[f"vae_mnist/share_{c}"]
    assert numbers["vae_mnist/tv"] == pytest.approx(0.25, abs=0.03)
    assert numbers["vae_mnist/tv_corrected"] == pytest.approx(0.25, abs=0.03)
    assert numbers["some_mnist_seed1/share_7"] > 0.9 and numbers["some_mnist_seed1/tv"] == pytest.approx(0.9, abs=0.1)


def test_agreement_of_a_file_with_known_mistakes(scored):
    numbers, record, _ = scored
    confusion = np.array(record["curves"][f"{CGAN}/confusion"])
    assert confusion.shape == (10, 10) and (confusion.sum(1) == 100).all() and confusion[3, 5] > 85
    assert numbers[f"{CGAN}/agreement_3"] < 0.1 and numbers[f"{CGAN}/agreement_5"] > 0.85
    assert numbers[f"{CGAN}/agreement"] == pytest.approx(0.9, abs=0.06)
    assert numbers[f"{CGAN}/share_5"] == pytest.approx(0.2, abs=0.03)
    assert 0.3 < numbers[f"{CGAN}/cas"] < numbers["real/cas"]  # trained on 1000 images, a tenth of them mislabelled
    assert "vae_mnist/agreement" not in numbers and "vae_mnist/cas" not in numbers


def test_copies_are_found(scored):
    numbers, _, _ = scored
    assert numbers["copied-mnist/copies"] == 1 and numbers["noise_mnist/copies"] == 0
    assert numbers["vae_mnist/copies"] < 0.1 and "some_mnist_seed1/copies" not in numbers


def test_the_record_and_the_figures(scored):
    numbers, record, home = scored
    assert {run.split("/")[0] for run in numbers} == {"judge", "real", "vae_mnist", CGAN, "copied-mnist", "noise_mnist",
                                                      "some_mnist_seed1"}
    assert all(type(value) is float for value in numbers.values())
    assert record["settings"] == {"runs": [], "dataset": "mnist", "epochs": 12, "seed": 1, "cas": None}
    args = p5_compare.parse_args([str(flag) for flag in flags_of(home)])
    assert record["fingerprint"] == p5_compare.fingerprint(args) and len(record["machines"]) == 1
    assert {path.name for path in (home / "plots").iterdir()} == {"p5_compare_mnist.json", *(
        f"p5_{name}_mnist.pdf" for name in FIGURES)}
    assert not list(home.rglob(f".part-{os.getpid()}-*"))
    for c in range(10):
        assert {f"{run}/{name}" for run in ("real", "vae_mnist", CGAN) for name in
                (f"share_{c}", f"share_{c}_low", f"share_{c}_high", f"corrected_{c}")} <= set(numbers)


def test_two_at_once_repeat_the_first(scored, forks, tmp_path):
    """As a person runs it, with the judge kept: the table, the missing run, the same numbers, every figure."""
    _, record, home = scored
    judge = (home / "runs/judge_mnist.pt").stat().st_mtime_ns
    words = [ROOT / "p5_compare.py", *flags_of(home, "--out-dir", tmp_path / "plots")]
    for done in forks([words, words], at_once=True):
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert "gan_mnist_samples.npz is missing" in lines[0] and "python gan.py --dataset mnist" in lines[0]
        assert lines[1].split() == list(p5_compare.COLUMNS)
        assert [line.split()[0] for line in lines[2:8]] == ["real", "vae_mnist", CGAN, "copied-mnist", "noise_mnist",
                                                            "some_mnist_seed1"]
    assert (home / "runs/judge_mnist.pt").stat().st_mtime_ns == judge
    again = json.loads((tmp_path / "plots/p5_compare_mnist.json").read_text())["numbers"]
    assert again == pytest.approx(record["numbers"], rel=1e-3, abs=1e-4)
    files = {f"p5_{name}_mnist.pdf" for name in FIGURES}
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"p5_compare_mnist.json", *files}
    assert all((tmp_path / "plots" / name).stat().st_size > 5000 for name in files)


def test_named_runs_leave_the_full_record_alone(scored, tmp_path, capsys):
    _, _, home = scored
    flags = [str(flag) for flag in flags_of(home, "--out-dir", tmp_path, "*vae*", "some_*")]
    p5_compare.main(flags)
    record = json.loads((tmp_path / "p5_compare_mnist_part.json").read_text())
    assert {name.split("/")[0] for name in record["numbers"]} == {"judge", "real", "vae_mnist", "some_mnist_seed1"}
    assert {path.name for path in tmp_path.iterdir()} == {"p5_compare_mnist_part.json", *(
        f"p5_{name}_mnist_part.pdf" for name in FIGURES)}
    capsys.readouterr()
    p5_compare.main(flags)
    assert "vae_mnist/frechet_ratio " in capsys.readouterr().out  # how the record that was there moved


@pytest.mark.parametrize(("flags", "name"), [
    ([], "p5_compare"), (["--dataset", "mnist"], "p5_compare_mnist"), (["--epochs", "3"], "p5_compare_epochs3"),
    (["--dataset", "mnist", "--seed", "2", "--epochs", "3"], "p5_compare_mnist_epochs3_seed2"),
    (["gan_*"], "p5_compare_part"), (["--cas", "cgan_*"], "p5_compare_part"),
    (["gan_mlp_fashion*", "cgan_mlp_fashion", "--seed", "3"], "p5_compare_part_seed3")])
def test_a_name_for_every_setting(flags, name):
    assert p5_compare.parse_args(flags).run_name == name


def test_other_settings_leave_the_default_record_and_figures_alone(scored, tmp_path):
    _, _, home = scored
    (tmp_path / "plots").mkdir()
    save(tmp_path / "vae_mnist_samples.npz", images=IMAGES)
    p5_compare.main([str(flag) for flag in flags_of(home, "--out-dir", tmp_path / "plots", "--runs-dir", tmp_path,
                                                    "--epochs", "1")])
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"p5_compare_mnist_epochs1.json", *(
        f"p5_{name}_mnist_epochs1.pdf" for name in FIGURES)}


def weights(judge):
    return torch.cat([tensor.flatten() for tensor in judge.parameters()]).detach()


@pytest.fixture
def small_judge(glyph_dir, tmp_path):
    """get(**changes) -> the weights of the judge of 300 glyphs that is kept in judge.pt."""
    images, labels, *_ = p5_compare.load_dataset("mnist", glyph_dir)
    usual = {"images": images, "labels": labels, "epochs": 1, "seed": 1, "dataset": "mnist"}

    def get(**changes):
        settings = usual | changes
        args = argparse.Namespace(**{name: settings[name] for name in ("epochs", "seed", "dataset")})
        return weights(p5_compare.get_judge(tmp_path / "judge.pt", settings["images"], settings["labels"], args))
    get.images, get.labels = images, labels
    return get


def moved_pixels(images):
    """The same images but for two pixels, of the same sum."""
    images = images.clone()
    images[0, 14, 14:16] = torch.tensor([10, 20], dtype=torch.uint8)
    other = images.clone()
    other[0, 14, 14:16] = torch.tensor([20, 10], dtype=torch.uint8)
    return images, other


@pytest.mark.parametrize("change", ["seed", "epochs", "data set", "images", "moved pixels", "permuted labels"])
def test_a_judge_is_made_anew_where_it_does_not_fit(small_judge, change):
    images, other = moved_pixels(small_judge.images)
    changed = {"seed": {"seed": 2}, "epochs": {"epochs": 2}, "data set": {"dataset": "fashion"},
               "images": {"images": images // 2}, "moved pixels": {"images": other},
               "permuted labels": {"labels": small_judge.labels.flip(0)}}[change]
    first = small_judge(images=images)
    assert torch.equal(small_judge(images=images), first)
    anew = small_judge(**{"images": images} | changed)
    assert not torch.equal(anew, first)
    assert torch.equal(small_judge(**{"images": images} | changed), anew)
    assert torch.equal(small_judge(images=images), first)  # mended again


@pytest.mark.parametrize("damage", ["cut", "empty", "of another kind", "of other layers", "absent"])
def test_a_judge_is_made_anew_where_its_file_is_damaged(small_judge, tmp_path, damage):
    first, path = small_judge(), tmp_path / "judge.pt"
    saved = torch.load(path, weights_only=True)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-999])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "of another kind":
        torch.save([1], path)
    elif damage == "of other layers":
        torch.save({"key": saved["key"], "model": {"weight": torch.zeros(3)}}, path)
    else:
        path.unlink()
    assert torch.equal(small_judge(), first)
    assert torch.load(path, weights_only=True)["key"] == saved["key"]


def test_a_judge_read_from_its_file_is_not_trained(small_judge, monkeypatch):
    first = small_judge()
    monkeypatch.setattr(p5_compare, "train_judge", None)
    assert torch.equal(small_judge(), first)


def test_cas_follows_the_labels_that_are_there(glyph_dir, tmp_path):
    """Labels in the wrong order, then mended: the classifier of the wrong ones must not be used."""
    images, labels, *_ = p5_compare.load_dataset("mnist", glyph_dir)
    found = []
    for asked in (labels.flip(0), labels):
        save(tmp_path / f"runs/{CGAN}_samples.npz", images=images, labels=asked)
        p5_compare.main([str(flag) for flag in flags_of(tmp_path, "--data-dir", glyph_dir)])
        record = json.loads((tmp_path / "plots/p5_compare_mnist.json").read_text())
        found.append(record["numbers"][f"{CGAN}/cas"])
    assert found[1] == record["numbers"]["real/cas"] > found[0] + 0.2  # taught by the same images as the judge


@pytest.mark.parametrize(("flags", "differs"), [
    ([], False), (["gan_*"], False), (["--seed", "2"], True), (["--epochs", "3"], True),
    (["--dataset", "mnist"], True)])
def test_the_fingerprint_is_of_the_settings_and_repeats(flags, differs):
    usual, other = (p5_compare.fingerprint(p5_compare.parse_args(words)) for words in ([], flags))
    assert (usual != other) == differs
    assert all(type(value) is float and np.isfinite(value) for value in other)


def test_a_score_is_plain_numbers(folders):
    """One run, without a table or a figure: images all the same, of which most measures are extreme."""
    images, labels, test, test_labels = p5_compare.load_dataset("mnist", folders / "data")
    torch.manual_seed(0)
    judge = p5_compare.Judge().eval()
    reference = p5_compare.make_reference(judge, images, test, test_labels)
    score = p5_compare.score(images[:1].repeat(40, 1, 1), None, judge, reference, seed=1)
    assert all(type(value) is float and np.isfinite(value) for value in score.numbers.values())
    assert score.counts is None and (score.pairs == 128).all() and "copies" not in score.numbers
    assert score.numbers["diversity"] == 0 and score.numbers["tv"] == pytest.approx(0.9)
    assert sum(f"diversity_{c}" in score.numbers for c in range(10)) == 1


@pytest.mark.parametrize(("run", "dataset"), [
    ("vae_mnist", "mnist"), ("vae_fashion", "fashion"), ("cgan-mnist-seed2", "mnist"), ("mlp_lr_4_1", "fashion"),
    ("fashion_mnist", "fashion"), ("mnistlike", "fashion"), ("recorded", "mnist"), ("recorded_mnist", "fashion"),
    ("broken_mnist", "mnist"), ("vae_mnist_beta0.7", "mnist"), ("vae_fashion_beta0.7", "fashion"),
    ("recorded_beta0.7", "mnist"), ("normal_recorded_beta0.7", "mnist"), ("recorded_beta0", "fashion"),
    ("recorded[1]", "mnist")])
def test_the_data_set_of_a_run(tmp_path, run, dataset):
    (tmp_path / "sweep").mkdir()
    for name, recorded in (("sweep/recorded", "mnist"), ("recorded_mnist", "fashion"),
                           ("sweep/recorded_beta0.7", "mnist"), ("recorded[1]", "mnist")):
        (tmp_path / f"{name}.json").write_text(json.dumps({"settings": {"dataset": recorded}}))
    (tmp_path / "broken_mnist.json").write_text("[1")
    assert p5_compare.dataset_of(run, tmp_path) == dataset


def save(path, **arrays):
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **arrays)


IMAGES, LABELS = np.zeros((40, 28, 28), np.uint8), np.arange(40) % 10
BAD = {"garbage": b"PK\x03\x04garbage" * 9, "empty": b"", "no images": {"samples": IMAGES},
       "floats": {"images": IMAGES / 1.0}, "flat": {"images": IMAGES.reshape(40, 784)},
       "larger": {"images": np.zeros((40, 32, 32), np.uint8)}, "few": {"images": IMAGES[:5]},
       "short labels": {"images": IMAGES, "labels": LABELS[:-1]}, "class 10": {"images": IMAGES, "labels": LABELS + 1},
       "names": {"images": IMAGES, "labels": LABELS.astype(str)}, "object": {"images": np.array([None] * 40)}}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_a_bad_sample_file_ends_in_one_line_before_any_training(tmp_path, glyph_dir, fails, content):
    path = tmp_path / "runs/vae_mnist_samples.npz"
    save(path, **content) if isinstance(content, dict) else save(path)
    if isinstance(content, bytes):
        path.write_bytes(content)
    (tmp_path / "plots").mkdir()
    for other in ("gan_mnist", CGAN):
        save(tmp_path / f"runs/{other}_samples.npz", images=IMAGES)
    line = fails(p5_compare, flags_of(tmp_path, "--data-dir", glyph_dir), 1)
    assert str(path) in line and "uint8 (N, 28, 28)" in line and "labels" in line
    assert not list(tmp_path.glob("runs/*.pt"))


@pytest.mark.parametrize("file", ["runs/vae_mnist_samples.npz", "runs/judge_mnist.pt", "plots/vae_mnist.json"])
def test_a_file_that_cannot_be_read_is_named_with_its_cause(tmp_path, glyph_dir, fails, file):
    """A link to itself, which the administrator cannot read either."""
    (tmp_path / "plots").mkdir()
    save(tmp_path / "runs/vae_mnist_samples.npz", images=IMAGES)
    path = tmp_path / file
    path.unlink(missing_ok=True)
    path.symlink_to(path)
    line = fails(p5_compare, [*flags_of(tmp_path, "--data-dir", glyph_dir), "--epochs", "1"], 1)
    assert str(path) in line and "symbolic links" in line and "damaged" not in line and "delete" not in line
    assert path.is_symlink()


@pytest.mark.parametrize(("flags", "commands"), [
    ([], ["python vae.py --dataset fashion,", "python gan.py,", "python gan.py --conditional"]),
    (["vae_fashion"], ["named vae_fashion", "python vae.py --dataset fashion,"]),
    ([""], ["named  in", "python gan.py,"]),
    (["--dataset", "mnist"], ["python vae.py,", "gan.py --dataset mnist,",
                              "gan.py --dataset mnist --conditional --classifier 0"])])
def test_without_samples_it_names_the_commands(tmp_path, fails, flags, commands):
    line = fails(p5_compare, [*flags, "--out-dir", tmp_path / "plots", "--runs-dir", tmp_path / "runs"], 1)
    assert all(words in line for words in commands)


def test_a_copy_in_an_empty_folder_says_what_it_needs(tmp_path, command):
    shutil.copy(ROOT / "p5_compare.py", tmp_path)
    done = command(tmp_path / "p5_compare.py")
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "python gan.py --conditional" in done.stderr and str(tmp_path / "runs") in done.stderr


@pytest.mark.parametrize("dataset", ["mnist", "fashion"])
def test_the_commands_it_names_make_the_runs_it_names(dataset):
    scripts = {"vae.py": vae, "gan.py": gan}
    for name, (_, command) in p5_compare.RUNS[dataset].items():
        _, script, *flags = command.split()
        assert scripts[script].parse_args(flags).run_name == name
    assert p5_compare.CAS[dataset] in p5_compare.RUNS[dataset]
