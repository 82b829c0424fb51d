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
    """A folder in the project's place: glyphs as Fashion-MNIST, their judge, files of known content."""
    home = tmp_path_factory.mktemp("p5")
    glyphs.write_dataset(home / "data", "fashion", 1200, 400, seed=5)
    flags = ["--data-dir", home / "data", "--out-dir", home / "plots"]
    assert call("--train-judge", "--no-cuda", *flags) == 0
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(p5_compare, "HERE", home)
        yield home


def judge_of(home):
    return p5_compare.load_judge(home / "plots/judge_fashion.pt", torch.device("cpu"))


@pytest.fixture(scope="module")
def scored(home):
    """{run: record} of all files in one call, and of real images."""
    runs = [path.name.removesuffix("_samples.npz") for path in (home / "runs").iterdir()]
    assert call(*runs, "real_fashion", "--no-cuda") == 0
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


def by_definition(real, fake):
    """Precision and recall as the paper defines them, of points in double precision."""
    def distances(x, y):
        return np.linalg.norm(x[:, None] - y, axis=2)

    ball_of_real, ball_of_fake = (np.sort(distances(x, x))[:, 3] for x in (real, fake))
    between = distances(real, fake)
    return {"precision": (between <= ball_of_real[:, None]).any(0).mean(),
            "recall": (between <= ball_of_fake).any(1).mean()}


@pytest.mark.parametrize("kind", ["near", "narrow", "far", "collapsed", "all the same"])
def test_precision_and_recall_are_those_of_the_definition(kind):
    torch.manual_seed(1)
    real = torch.randn(60, 4)
    fake = {"near": torch.randn(45, 4) * 1.2 + 0.3, "narrow": torch.randn(45, 4) * 0.3, "far": torch.randn(45, 4) + 9,
            "collapsed": real[:1].repeat(45, 1) + 0.01 * torch.randn(45, 4),
            "all the same": real[:1].repeat(45, 1)}[kind]
    found = p5_compare.precision_recall(fake, real, p5_compare.radii(real))
    assert found == pytest.approx(by_definition(real.double().numpy(), fake.double().numpy()))


def test_nearest_is_that_of_a_loop():
    training, images = torch.randint(256, (2, 30, 28, 28), generator=torch.Generator().manual_seed(0)).byte()
    for place in range(20):  # 0 to 19 pixels of another grey
        images[place] = training[place]
        images[place].view(-1)[:place] ^= 128
    pairs = np.array([[np.linalg.norm((a - b).ravel()) for b in training.numpy() / 255] for a in images.numpy() / 255])
    assert p5_compare.nearest(images, training).numpy() == pytest.approx(pairs.min(1), abs=0.02)


def test_shares_and_their_wilson_intervals():
    counts = [0, 400, 600, 800, 1000, 1000, 1200, 1400, 1600, 2000]
    numbers = p5_compare.abundance(torch.arange(10).repeat_interleave(torch.tensor(counts)))
    shares = np.array(counts) / 10_000
    assert numbers["tv"] == pytest.approx(np.abs(shares - 0.1).sum() / 2) and numbers["smallest_share"] == 0
    for c, share in enumerate(shares):
        assert numbers[f"share_{c}"] == share
        for end in ("low", "high"):  # Wilson's ends solve |share - end| = 1.96 sd(end)
            bound = numbers[f"share_{c}_{end}"]
            assert abs(share - bound) == pytest.approx(1.96 * (bound * (1 - bound) / 10_000) ** 0.5, abs=1e-9)


def test_seeing_runs_on_any_device():
    """On the meta device, which has shapes and no numbers, a tensor left on the CPU is an error."""
    images = torch.empty(70, 28, 28, dtype=torch.uint8, device="meta")
    seen = p5_compare.see(p5_compare.Judge().to("meta").eval(), images)
    assert seen.features.shape == (70, 128) and seen.classes.device.type == "meta"
    assert p5_compare.inside(seen.features, seen.features, p5_compare.radii(seen.features)).shape == (70,)
    assert p5_compare.nearest(images, images).shape == (70,)


# ------------------------------------------------------------------------------ planted faults
def test_each_planted_fault_is_seen_by_the_measure_that_should(home):
    assert call("--planted", "--no-cuda", "--out-dir", home / "planted") == 0
    numbers = json.loads((home / "planted/p5_planted_fashion.json").read_text())["numbers"]
    for fault in ("blur", "grain", "no class 6", "100 copies each", "one image", "50 % broken"):
        for measure in ("frechet_ratio", "pixel_ratio"):  # the second without a label or a net
            assert numbers[f"{fault}/{measure}"] > 1.1 * numbers[f"training images/{measure}"]
    assert numbers["13 % broken/pixel_ratio"] > numbers["training images/pixel_ratio"]
    assert numbers["50 % broken/precision"] < numbers["13 % broken/precision"] < numbers["training images/precision"]
    assert numbers["no class 6/smallest_share"] < 0.02 < numbers["training images/smallest_share"]
    assert numbers["blur/sharpness"] < 0.9 < 1.1 < numbers["grain/sharpness"]
    assert numbers["100 copies each/recall"] < 0.5 * numbers["training images/recall"]
    assert numbers["no class 6/agreement"] > numbers["training images/agreement"] - 0.02  # labels go with images
    assert numbers["training images/copies"] == 1 and numbers["blur/copies"] < 0.5


# -------------------------------------------------------------------------------- the commands
def test_the_judge_tells_classes_and_is_not_replaced(home, capsys):
    judge, copy_distance, _ = judge_of(home)
    training, _, test, test_labels = p5_compare.load_dataset("fashion", home / "data")
    assert (p5_compare.see(judge, test).classes == test_labels).double().mean() > 0.93
    copies = p5_compare.nearest(test, training) < copy_distance
    assert copies.double().mean().item() == pytest.approx(0.01, abs=0.003)
    before = (home / "plots/judge_fashion.pt").read_bytes()
    assert call("--train-judge", "--no-cuda") == 1
    assert "scores name it" in capsys.readouterr().err and (home / "plots/judge_fashion.pt").read_bytes() == before


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
    assert [numbers[f"share_{c}"] for c in range(10)] == pytest.approx(np.array(SKEWED) / 1000, abs=0.03)
    assert numbers["tv"] == pytest.approx(0.25, abs=0.03) and "agreement" not in numbers
    assert scored["mistaken"]["numbers"]["agreement"] == pytest.approx(0.9, abs=0.06)
    numbers = scored["same"]["numbers"]  # all the same, and yet finite
    assert numbers["diversity"] == 0 and numbers["tv"] == pytest.approx(0.9) and numbers["frechet"] > 0


def test_a_score_says_by_what_and_against_what_it_is(scored, home):
    *_, sha256 = judge_of(home)
    for run, record in scored.items():
        assert record["judge"] == sha256 and record["dataset"] == "fashion"
        assert record["settings"]["runs"] == [run]
        unseen = "training images from 700 on, which it has not seen"
        assert record["real"] == (unseen if run == "screened" else "test images")
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
    assert call("noise", "--no-cuda", "--out-dir", tmp_path) == 0
    assert (tmp_path / "sweep/noise_scores.json").exists() and (tmp_path / "sweep/noise_sheet.pdf").exists()


def test_a_sheet_has_the_first_of_each_class_and_gaps(monkeypatch):
    drawn = {}
    monkeypatch.setattr(p5_compare, "draw_tiles", lambda path, *content: drawn.update({path: content}))
    pixels = torch.arange(1, 6, dtype=torch.uint8)[:, None, None].expand(5, 28, 28)
    p5_compare.draw_pictures("a", pixels, torch.tensor([1, 0, 1, 1, 9]))
    sheet, columns, names = drawn["a_sheet.pdf"]
    assert sheet[:, 5, 5].tolist() == [2, *[128] * 7, 1, 3, 4, *[128] * 61, 5, *[128] * 7]
    assert columns == 8 and len(names) == 10


# ------------------------------------------------------------------------ what is no sample file
BAD = {
    "garbage": (b"PK\x03\x04garbage" * 9, "no .npz file"), "cut": ("cut", "no .npz file"),
    "an array": ("npy", "no .npz file"), "objects": ({"images": np.array([None] * 40)}, "no .npz file"),
    "no images": ({"samples": UINT8}, "no .npz file with `images`"), "a number": ({"images": np.uint8(3)}, "uint8 ()"),
    "floats": ({"images": UINT8 / 255}, "float64 (40, 28, 28);"), "int64": ({"images": UINT8.astype(int)}, "int64"),
    "flat": ({"images": UINT8.reshape(40, 784)}, "(40, 784)"), "few": ({"images": UINT8[:5]}, "at least 30"),
    "text": ({"images": np.full((40, 28, 28), "a")}, "<U1"),
    "rounded floats": ({"images": UINT8 // 255}, "from 0 to 255"),
    "short labels": ({"images": UINT8, "labels": np.arange(39) % 10}, "`labels` is"),
    "class 10": ({"images": UINT8, "labels": np.arange(40)}, "from 0 to 9"),
    "float labels": ({"images": UINT8, "labels": np.zeros(40)}, "`labels` is float64"),
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
    assert call(path, "--no-cuda", "--out-dir", tmp_path / "plots") == 1
    line = capsys.readouterr().err
    assert str(path) in line and said in line and line.count("\n") == 1
    assert not (tmp_path / "plots").exists()


def test_one_bad_file_of_four_does_not_end_the_call(tmp_path, home, capsys):
    np.savez(tmp_path / "bad.npz", images=UINT8 / 255)
    assert call("noise", tmp_path / "bad.npz", "sevens", "gone", "--no-cuda", "--out-dir", tmp_path) == 1
    said = capsys.readouterr()
    assert {path.name for path in tmp_path.glob("*_scores.json")} == {"noise_scores.json", "sevens_scores.json"}
    bad, gone = said.err.splitlines()
    assert "bad.npz" in bad and "gone_samples.npz is missing" in gone
    *_, sha256 = judge_of(home)
    assert f"judge {sha256[:12]} of Fashion-MNIST" in said.out and "against test images" in said.out


def test_files_of_one_name_do_not_take_each_others_scores(tmp_path, home, capsys):
    """In one call, in two, and where a person's file has the name of a run."""
    for folder, images in (("alice", UINT8), ("bob", 255 - UINT8)):
        (tmp_path / folder).mkdir()
        np.savez(tmp_path / folder / "noise.npz", images=images)
    alice, bob, flags = tmp_path / "alice/noise.npz", tmp_path / "bob/noise.npz", ("--no-cuda", "--out-dir", tmp_path)
    assert call(alice, bob, *flags) == 1
    assert call(bob, *flags) == 1 and call("noise", *flags) == 1
    assert json.loads((tmp_path / "noise_scores.json").read_text())["settings"]["runs"] == [str(alice)]
    assert len(capsys.readouterr().err.splitlines()) == 3
    assert call(alice, *flags) == 0
    (tmp_path / "noise_scores.json").unlink()
    assert call("noise", *flags) == 0 and call(home / "runs/noise_samples.npz", *flags) == 0


@pytest.mark.parametrize("damage", ["gone", "cut", "a list"])
def test_a_judge_that_is_none_is_named_in_one_line(home, tmp_path, monkeypatch, capsys, damage):
    whole = (home / "plots/judge_fashion.pt").read_bytes()
    monkeypatch.setattr(p5_compare, "HERE", tmp_path)
    (tmp_path / "plots").mkdir()
    path = tmp_path / "plots/judge_fashion.pt"
    if damage == "a list":
        torch.save([1], path)
    elif damage == "cut":
        path.write_bytes(whole[:-999])
    assert call("noise", "--no-cuda", "--runs-dir", home / "runs", "--out-dir", tmp_path) == 1
    line = capsys.readouterr().err
    said = "is missing" if damage == "gone" else "is not the judge"
    assert f"{path} {said}" in line and line.count("\n") == 1
    assert not list(tmp_path.glob("*_scores.json"))
