"""p5_compare.py: measures against independent ones; commands on sample files of known content."""
import json
import sys
from pathlib import Path

import glyphs
import numpy as np
import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance

import p5_compare

ROOT = Path(__file__).resolve().parent.parent
SKEWED = [10, 30, 50, 70, 90, 110, 130, 150, 170, 190]  # images of each class in the file skewed
UINT8 = np.random.default_rng(0).integers(0, 256, (40, 28, 28), np.uint8)


def call(*flags):
    """The command, as one types it: its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["p5_compare.py", *map(str, flags)])
        try:
            p5_compare.run(p5_compare.main)
        except SystemExit as stop:
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
                return 1
            return stop.code
    return 0


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Glyphs in Fashion-MNIST's place with a judge of theirs, and sample files of known content."""
    home = tmp_path_factory.mktemp("p5")
    glyphs.write_dataset(home / "data", "fashion", 1200, 400, seed=5)
    assert call("--train-judge", "--no-cuda", "--data-dir", home / "data", "--out-dir", home) == 0
    images, labels = glyphs.draw(4000, torch.Generator().manual_seed(6))
    of_class = [images[labels == c] for c in range(10)]
    asked = np.repeat(np.arange(10), 100)
    shown = np.where(asked == 3, 5, asked)  # whoever asks for a 3 gets a 5
    training = p5_compare.load_dataset("fashion", home / "data")[0].numpy()
    order = np.random.default_rng(0).permutation(1000)
    mistaken = np.stack([of_class[c][i % 100] for i, c in enumerate(shown)])
    files = {
        "skewed": {"images": np.concatenate([of_class[c][:n] for c, n in enumerate(SKEWED)])},
        "mistaken": {"labels": asked[order], "images": mistaken[order]},
        "copied": {"images": training[:200]}, "noise": {"images": UINT8},
        "sevens": {"images": of_class[7][:40]}, "same": {"images": training[:1].repeat(60, 0)},
        "screened": {"images": images[:500], "train_images": 700},
        "named": {"images": images[:50], "paths": np.array(["a.png"])},
        "walks": {"images": images[:50], "paths": images[:60].reshape(2, 10, 3, 28, 28)},
    }
    (home / "runs").mkdir()
    for name, arrays in files.items():
        np.savez(home / f"runs/{name}_samples.npz", **arrays)
    return home


def flags_of(home, out_dir):
    return ["--no-cuda", "--data-dir", home / "data", "--judge", home / "judge_fashion.pt",
            "--runs-dir", home / "runs", "--out-dir", out_dir]


@pytest.fixture(scope="module")
def scored(home):
    """{run: record} of all files in one call, and of real images."""
    runs = [path.name.removesuffix("_samples.npz") for path in (home / "runs").iterdir()]
    assert call(*runs, "real_fashion", *flags_of(home, home / "plots")) == 0
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
    """Precision and recall by the definition of the paper, point by point."""
    def distance(a, b):
        return sum((p - q) ** 2 for p, q in zip(a.tolist(), b.tolist())) ** 0.5

    def ball(points, i):
        return sorted(distance(points[i], points[j]) for j in range(len(points)) if j != i)[2]

    n, m = range(len(real)), range(len(fake))
    of_real, of_fake = [ball(real, i) for i in n], [ball(fake, j) for j in m]
    between = [[distance(real[i], fake[j]) for j in m] for i in n]
    return {"precision": sum(any(between[i][j] <= of_real[i] for i in n) for j in m) / len(m),
            "recall": sum(any(between[i][j] <= of_fake[j] for j in m) for i in n) / len(n)}


@pytest.mark.parametrize("kind", ["near", "narrow", "far", "collapsed", "all the same"])
def test_precision_and_recall_are_those_of_a_double_loop(kind):
    torch.manual_seed(1)
    real = torch.randn(60, 4)
    fake = {"near": torch.randn(45, 4) * 1.2 + 0.3, "narrow": torch.randn(45, 4) * 0.3, "far": torch.randn(45, 4) + 9,
            "collapsed": real[:1].repeat(45, 1) + 0.01 * torch.randn(45, 4),
            "all the same": real[:1].repeat(45, 1)}[kind]
    found = p5_compare.precision_recall(fake, real, p5_compare.radii(real))
    assert found == pytest.approx(brute_force(real, fake), abs=1e-6)


def test_copies_are_those_of_a_loop():
    """Images at distances from a training image on both sides of the bound, also at half resolution."""
    torch.manual_seed(0)
    training, images = torch.randint(256, (2, 30, 28, 28)).byte()
    for place in range(20):  # 0 to 19 pixels of another grey, side by side or far apart
        images[place] = training[place]
        images[place].view(-1)[torch.randperm(784)[:place] if place % 2 else slice(0, place)] ^= 128
    all_pairs = np.array([[np.linalg.norm((a - b).ravel()) for b in training.numpy() / 255]
                          for a in images.numpy() / 255])
    for bound in (0.1, 1.0, 1.9, 30.0):
        share = (all_pairs.min(1) < bound).mean()
        assert p5_compare.copies(images, training, bound) == pytest.approx(share)


def test_the_correction_recovers_the_shares_exactly():
    rng = np.random.default_rng(0)
    counts = np.diag(rng.integers(600, 900, 10))  # of a judge that errs
    for i in range(10):
        counts[i] += rng.multinomial(1000 - counts[i, i], np.full(10, 0.1))
    p = np.array([0.02, 0.04, 0.06, 0.08, 0.1, 0.1, 0.12, 0.14, 0.16, 0.18])
    seen = (p @ counts * 100).round().astype(int)  # of 100 000 images, whole numbers
    numbers = p5_compare.abundance(torch.arange(10).repeat_interleave(torch.tensor(seen)), counts)
    assert [numbers[f"corrected_{c}"] for c in range(10)] == pytest.approx(p, abs=1e-12)
    raw = seen / 100_000
    assert numbers["tv"] == pytest.approx(np.abs(raw - 0.1).sum() / 2) and numbers["tv"] < 0.19
    assert numbers["smallest_share"] == raw.min()
    for c in range(10):
        assert numbers[f"share_{c}"] == pytest.approx(raw[c])
        for end in ("low", "high"):  # Wilson's ends solve |q - end| = 1.96 sd(end)
            bound = numbers[f"share_{c}_{end}"]
            assert abs(raw[c] - bound) == pytest.approx(1.96 * (bound * (1 - bound) / 100_000) ** 0.5)


def test_shares_stay_shares_where_classes_are_absent():
    counts = np.diag([50] * 9 + [0])  # no real image of class 9
    numbers = p5_compare.abundance(torch.zeros(30, dtype=torch.long), counts)
    assert numbers["share_0"] == 1 == numbers["corrected_0"] and numbers["tv"] == pytest.approx(0.9)
    assert all(0 <= value <= 1 + 1e-12 for value in numbers.values())


def test_training_and_seeing_run_on_any_device():
    """On the meta device, which has shapes and no numbers, a tensor left on the CPU is an error."""
    judge = p5_compare.Judge().to("meta")
    images = torch.empty(70, 28, 28, dtype=torch.uint8, device="meta")
    p5_compare.train_judge(judge, images, torch.empty(70, dtype=torch.long, device="meta"), epochs=1, batch_size=32)
    seen = p5_compare.see(judge.eval(), images)
    assert seen.features.shape == (70, 128) and seen.classes.device.type == "meta"
    assert p5_compare.radii(seen.features).shape == (70,)
    assert p5_compare.nearest(p5_compare.half(images), p5_compare.half(images)).shape == (70,)


# ------------------------------------------------------------------------------ planted faults
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
    for name, share in (("13 % broken", 0.13), ("50 % broken", 0.5)):
        broken = faults[name][0]
        assert (broken[:, :14] == base[:, :14]).all()
        whole = (broken[:, 14:] == base[:, 14:]).flatten(1).all(1).double().mean().item()
        assert whole == pytest.approx(1 - share, abs=0.01)
    exchanged = faults["two labels exchanged"][1]
    assert (exchanged == 6).sum() == (of_base == 0).sum() and (exchanged == 0).sum() == sixes


def test_each_planted_fault_is_seen_by_the_measure_that_should(home):
    assert call("--planted", *flags_of(home, home / "planted")) == 0
    record = json.loads((home / "planted/p5_planted_fashion.json").read_text())
    numbers = record["numbers"]
    for fault in ("blur", "light grain", "grain", "no class 6", "100 copies each", "one image", "two images mixed",
                  "50 % broken"):
        for measure in ("frechet_ratio", "pixel_ratio"):  # the second without a label or a net
            assert numbers[f"{fault}/{measure}"] > 1.1 * numbers[f"training images/{measure}"]
    assert numbers["13 % broken/pixel_ratio"] > numbers["training images/pixel_ratio"]
    assert numbers["50 % broken/precision"] < numbers["13 % broken/precision"] < numbers["training images/precision"]
    assert numbers["no class 6/smallest_share"] < 0.02 < numbers["a third of class 6/share_6"]
    assert numbers["blur/sharpness"] < 0.9 < 1.1 < numbers["grain/sharpness"]
    assert numbers["100 copies each/recall"] < 0.5 * numbers["training images/recall"]
    assert numbers["two labels exchanged/agreement"] < numbers["training images/agreement"] - 0.1
    assert numbers["training images/copies"] == 1 and numbers["blur/copies"] < 0.5


# -------------------------------------------------------------------------------- the commands
def test_the_judge_is_a_file_with_an_identity_and_is_not_replaced(home, capsys):
    path = home / "judge_fashion.pt"
    record = json.loads(path.with_suffix(".json").read_text())
    judge, copy_distance, sha256 = p5_compare.load_judge(path, torch.device("cpu"))
    assert record["judge"] == sha256 and len(sha256) == 64
    training, _, test, test_labels = p5_compare.load_dataset("fashion", home / "data")
    accuracy = (p5_compare.see(judge, test).classes == test_labels).double().mean().item()
    assert record["numbers"]["accuracy"] == pytest.approx(accuracy) and accuracy > 0.93
    assert p5_compare.copies(test, training, copy_distance) == pytest.approx(0.01, abs=0.003)
    before = path.read_bytes()
    assert call("--train-judge", "--no-cuda", "--data-dir", home / "data", "--out-dir", home) == 1
    assert "scores name it" in capsys.readouterr().err and path.read_bytes() == before


def test_the_committed_judge_is_the_one_that_scores_name():
    *_, sha256 = p5_compare.load_judge(ROOT / "plots/judge_fashion.pt", torch.device("cpu"))
    assert sha256 == "fa211bebfff37ff3964742a4e17fd511bab123aee2826455d9307f73c3c91df7"


def test_real_images_score_as_real_ones_and_others_do_not(scored):
    real, noise, skewed = (scored[run]["numbers"] for run in ("real_fashion", "noise", "skewed"))
    assert real["frechet_ratio"] == real["pixel_ratio"] == real["diversity"] == real["sharpness"] == 1
    assert min(real["precision"], real["recall"]) > 0.7 and real["agreement"] > 0.93
    assert real["copies"] == pytest.approx(0.01, abs=0.003)
    for numbers in (noise, skewed):
        assert numbers["frechet_ratio"] == pytest.approx(numbers["frechet"] / real["frechet"])
        assert numbers["pixel_ratio"] == pytest.approx(numbers["pixel_frechet"] / real["pixel_frechet"])
    assert noise["precision"] < 0.1 and noise["frechet"] > 10 * skewed["frechet"] and noise["pixel_ratio"] > 10
    assert scored["sevens"]["numbers"]["recall"] < 0.3 < skewed["recall"]
    assert scored["copied"]["numbers"]["copies"] == 1 and noise["copies"] == 0


def test_files_of_known_classes_and_mistakes(scored):
    numbers = scored["skewed"]["numbers"]
    for c, count in enumerate(SKEWED):
        assert numbers[f"corrected_{c}"] == pytest.approx(count / 1000, abs=0.025)
    assert numbers["tv"] == pytest.approx(0.25, abs=0.03) and "agreement" not in numbers
    numbers = scored["mistaken"]["numbers"]
    assert numbers["agreement_3"] < 0.1 and numbers["agreement_5"] > 0.85
    assert numbers["agreement"] == pytest.approx(0.9, abs=0.06)
    numbers = scored["same"]["numbers"]  # all the same, and yet finite
    assert numbers["diversity"] == 0 and numbers["tv"] == pytest.approx(0.9) and numbers["frechet"] > 0


def test_a_score_says_by_what_and_against_what_it_is(scored, home):
    judge = json.loads((home / "judge_fashion.json").read_text())["judge"]
    for run, record in scored.items():
        assert record["judge"] == judge and record["dataset"] == "fashion"
        assert record["settings"]["runs"] == [run]
        assert record["real"] == ("training images from 700 on, which it has not seen" if run == "screened" else "test images")
        for kind in ("sheet", "strip"):
            assert (home / f"plots/{run}_{kind}.pdf").stat().st_size > 2000
        with np.load(home / f"plots/{run}_first.npz") as first:
            assert first["images"].dtype == np.uint8 and len(first["images"]) <= 100
            assert ("labels" in first) == (run in ("mistaken", "real_fashion"))
    assert not list(home.rglob(".part-*"))


def test_what_lies_along_paths(scored):
    """Ways through images of the same kind as the test images: nearly all lie near one."""
    curves = scored["walks"]["curves"]
    assert curves.keys() == {"line_inside", "arc_inside"} and len(curves["arc_inside"]) == 3
    assert np.mean(curves["line_inside"] + curves["arc_inside"]) > 0.7
    assert scored["skewed"]["curves"] == scored["named"]["curves"] == {}  # the second has names of files


def test_scores_stand_beside_the_record_of_their_run(home, tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/noise.json").write_text("{}")
    assert call("noise", *flags_of(home, tmp_path)) == 0
    assert (tmp_path / "sweep/noise_scores.json").exists() and (tmp_path / "sweep/noise_sheet.pdf").exists()


def test_a_sheet_has_the_first_of_each_class_frames_and_gaps(monkeypatch):
    drawn = {}
    monkeypatch.setattr(p5_compare, "draw_tiles", lambda path, *content: drawn.update({path: content}))
    asked = torch.tensor([1, 0, 1, 1, 9])
    pixels = torch.arange(1, 6, dtype=torch.uint8)[:, None, None].expand(5, 28, 28)
    p5_compare.draw_pictures("a", pixels, asked, torch.tensor([1, 0, 4, 1, 9]))
    sheet, columns, names, framed = drawn["a_sheet.pdf"]
    assert sheet[:, 5, 5].tolist() == [2, *[128] * 7, 1, 3, 4, *[128] * 61, 5, *[128] * 7]
    assert columns == 8 and len(names) == 10 and framed.nonzero().tolist() == [[9]]


# ------------------------------------------------------------------------ what is no sample file
NAN = np.full((40, 28, 28), np.nan)
BAD = {
    "garbage": (b"PK\x03\x04garbage" * 9, "damaged"), "empty": (b"", "damaged"), "cut": ("cut", "damaged"),
    "an array": ("npy", "damaged"), "objects": ({"images": np.array([None] * 40)}, "damaged"),
    "no images": ({"samples": UINT8}, "no .npz file with `images`"), "a number": ({"images": np.uint8(3)}, "uint8 ()"),
    "floats": ({"images": UINT8 / 255}, "float64 (40, 28, 28) from 0 to 1;"),
    "NaN": ({"images": NAN}, "from nan to nan"), "int64": ({"images": UINT8.astype(int)}, "int64"),
    "flat": ({"images": UINT8.reshape(40, 784)}, "(40, 784)"), "colours": ({"images": UINT8[..., None]}, "28, 1)"),
    "32 pixels": ({"images": np.zeros((40, 32, 32), np.uint8)}, "32"), "few": ({"images": UINT8[:5]}, "at least 30"),
    "none": ({"images": UINT8[:0]}, "(0, 28, 28)"), "text": ({"images": np.full((40, 28, 28), "a")}, "<U1"),
    "rounded floats": ({"images": UINT8 // 255}, "from 0 to 1;"),
    "short labels": ({"images": UINT8, "labels": np.arange(39) % 10}, "`labels` is"),
    "class 10": ({"images": UINT8, "labels": np.arange(40)}, "from 0 to 39"),
    "float labels": ({"images": UINT8, "labels": np.zeros(40)}, "`labels` is float64"),
    "no count": ({"images": UINT8, "train_images": 0}, "`train_images` is 0"),
    "object paths": ({"images": UINT8, "paths": np.array([None])}, "damaged"),
}


@pytest.mark.parametrize(("content", "said"), BAD.values(), ids=BAD)
def test_a_bad_sample_file_ends_in_one_line(tmp_path, home, capsys, content, said):
    path = tmp_path / "my_samples.npz"
    if isinstance(content, dict):
        np.savez(path, **content)
    elif content == "npy":
        with path.open("wb") as file:
            np.save(file, UINT8)
    else:
        np.savez(path, images=UINT8)
        path.write_bytes(path.read_bytes()[:-99] if content == "cut" else content)
    assert call(path, *flags_of(home, tmp_path / "plots")) == 1
    line = capsys.readouterr().err
    assert str(path) in line and said in line and line.count("\n") == 1
    assert not (tmp_path / "plots").exists()


def test_one_bad_file_of_three_does_not_end_the_call(tmp_path, home, capsys):
    np.savez(tmp_path / "bad.npz", images=UINT8 / 255)
    assert call("noise", tmp_path / "bad.npz", "sevens", "vae_mnist", "gone", *flags_of(home, tmp_path)) == 1
    said = capsys.readouterr()
    assert {path.name for path in tmp_path.glob("*_scores.json")} == {"noise_scores.json", "sevens_scores.json"}
    bad, mnist, gone = said.err.splitlines()
    assert "bad.npz" in bad and "Fashion-MNIST alone" in mnist and "gone_samples.npz is not there" in gone
    judge = json.loads((home / "judge_fashion.json").read_text())["judge"]
    assert f"judge {judge[:12]} of Fashion-MNIST" in said.out and "against test images" in said.out


def test_files_of_one_name_do_not_take_each_others_scores(tmp_path, home, capsys):
    """In one call, in two, and where a person's file has the name of a run."""
    for folder, images in (("alice", UINT8), ("bob", 255 - UINT8)):
        (tmp_path / folder).mkdir()
        np.savez(tmp_path / folder / "noise.npz", images=images)
    alice, bob, flags = tmp_path / "alice/noise.npz", tmp_path / "bob/noise.npz", flags_of(home, tmp_path)
    assert call(alice, bob, *flags) == 1
    assert call(bob, *flags) == 1 and call("noise", *flags) == 1
    assert json.loads((tmp_path / "noise_scores.json").read_text())["settings"]["runs"] == [str(alice)]
    assert len(capsys.readouterr().err.splitlines()) == 3
    assert call(alice, *flags) == 0
    (tmp_path / "noise_scores.json").unlink()
    assert call("noise", *flags) == 0 and call(home / "runs/noise_samples.npz", *flags) == 0


@pytest.mark.parametrize(("damage", "said"), [
    ("gone", "should lie there"), ("cut", "damaged"), ("empty", "damaged"), ("a list", "damaged"),
    ("other layers", "damaged"), ("a folder", "directory")])
def test_a_judge_that_is_none_is_named_in_one_line(home, tmp_path, capsys, damage, said):
    path = tmp_path / "judge.pt"
    whole = (home / "judge_fashion.pt").read_bytes()
    if damage == "a list":
        torch.save([1], path)
    elif damage == "other layers":
        torch.save({"weight": torch.zeros(3), p5_compare.COPY_DISTANCE: torch.tensor(1.0)}, path)
    elif damage == "a folder":
        path.mkdir()
    elif damage != "gone":
        path.write_bytes(whole[:-999] if damage == "cut" else b"")
    assert call("noise", *flags_of(home, tmp_path), "--judge", path) == 1
    line = capsys.readouterr().err
    assert str(path) in line and said in line.lower() and line.count("\n") == 1
    assert not list(tmp_path.glob("*_scores.json"))
