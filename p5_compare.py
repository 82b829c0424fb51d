"""Problems 5.3, 5.5 and 5.6: a judge that scores the samples of every run of one data set.

    python p5_compare.py                      every runs/*_samples.npz of Fashion-MNIST
    python p5_compare.py --dataset mnist      of MNIST
    python p5_compare.py 'gan_mlp_*'          these runs alone

It writes
    plots/p5_compare.json, p5_*.pdf    record, {"<run>/<measure>": number}, and figures; of MNIST
                                       p5_compare_mnist, of some runs alone p5_compare_part
    runs/judge_<dataset>.pt            the judge, a classifier of the real training images

A sample file belongs to the data set in its run's record; without one, to MNIST if "mnist" is a
word of its name and "fashion" is not, else to Fashion-MNIST. Its first 10 000 images are scored,
all distances but those of copies between the judge's 128 penultimate features:
    frechet         Frechet distance to the test images (frechet_ratio: in units of real images')
    frechet_train   to the training images, by which to choose
    precision, recall, density, coverage     by neighbours, against the test images
    share_<c>, corrected_<c>     how often class c is seen, raw and less the judge's own errors
    tv              total variation distance of the shares from uniform
    diversity       mean distance within a class as a share of the test images'
    sharpness       mean difference of a pixel and the one below, as a share of the test images'
    agreement       share of all images judged to be of the class asked for
    cas             accuracy on real test images of a classifier trained on all samples
    copies          share nearer to a training image, in pixels, than 99 % of the test images are;
                    not of runs *_seed<k>
The row real has means of ten draws of training images (and _sd) for frechet, precision, recall,
density and coverage, the judge's accuracy for cas, and the test images for all else.
"""
import argparse
import contextlib
import errno
import fnmatch
import gzip
import hashlib
import io
import json
import math
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    os.environ["MPLBACKEND"] = "agg"  # a notebook hands down its own, which may be missing here
import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from matplotlib.figure import Figure
from torch import nn
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
COUNT = 10_000  # images of a run that are compared
NEAR, WIDE = 3, 5  # neighbours that set the radii of precision and recall; of density and coverage
CLASSES = {"mnist": tuple("0123456789"),
           "fashion": ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt",
                       "sneaker", "bag", "boot")}
RUNS = {  # what the figures show, if it is there: titles, and the commands that make the samples
    "mnist": {
        "vae_mnist": ("VAE", "python vae.py"),
        "gan_mnist": ("GAN", "python gan.py --dataset mnist"),
        "cgan_mnist_classifier0": ("Conditional GAN", "python gan.py --dataset mnist "
                                                      "--conditional --classifier 0")},
    "fashion": {
        "vae_fashion": ("VAE", "python vae.py --dataset fashion"),
        "gan_fashion": ("GAN", "python gan.py"),
        "cgan_fashion": ("Conditional GAN", "python gan.py --conditional")},
}
CAS = {"mnist": "cgan_mnist_classifier0", "fashion": "cgan_fashion"}  # the default of --cas
COLUMNS = ("frechet", "frechet_ratio", "precision", "recall", "coverage", "tv", "agreement", "cas",
           "copies")  # of the table that is printed


# -------------------------------------------------------------------------------------- judge
class Judge(nn.Module):
    """Images (B, 1, 28, 28) in [0, 1] -> logits of the ten classes (B, 10)."""

    def __init__(self):
        super().__init__()

        def block(channels_in, channels_out, pool):
            return nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
                nn.MaxPool2d(pool), nn.BatchNorm2d(channels_out), nn.ReLU())

        self.features = nn.Sequential(  # -> (B, 128)
            block(1, 32, pool=2), block(32, 64, pool=2), block(64, 128, pool=1),
            block(128, 128, pool=2), nn.Flatten(), nn.Linear(128 * 3 * 3, 128), nn.ReLU())
        self.classify = nn.Sequential(nn.Dropout(0.3), nn.Linear(128, 10))

    def forward(self, x):
        return self.classify(self.features(x))


def augment(images, dataset):
    """uint8 (B, 28, 28) -> (B, 1, 28, 28) in [0, 1], moved together by up to one pixel.

    Clothes, unlike digits, may also be mirrored, each by the toss of a coin.
    """
    down, right = torch.randint(3, (2,)).tolist()
    padded = F.pad(images[:, None].float() / 255, (1, 1, 1, 1))
    x = padded[..., down:down + 28, right:right + 28]
    if dataset == "fashion":
        mirrored = torch.rand(len(x), 1, 1, 1).to(x.device) < 0.5
        x = torch.where(mirrored, x.flip(3), x)
    return x


def train_judge(judge, images, labels, args, *, batch_size=256, steps=None, title=None):
    """Train on images uint8 (N, 28, 28) and labels (N,); the losses, one for each batch.

    `steps` ends it after so many batches; the learning rate still goes as if all came. `title` is
    the progress bar's, None hides it.
    """
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.05)
    orders = [torch.randperm(len(images)) for _ in range(args.epochs)]
    batches = [batch for order in orders for batch in order.split(batch_size)]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=len(batches))
    hidden = None if title else True  # None: shown where a person looks on
    losses = []
    for batch in tqdm(batches[:steps], desc=title, unit="batch", disable=hidden):
        x = augment(images[batch], args.dataset)
        loss = F.cross_entropy(judge(x), labels[batch].long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    return torch.stack(losses).tolist()


def get_judge(path, images, labels, args):
    """A Judge trained on images uint8 (N, 28, 28) and labels (N,), or read from `path`.

    It is read where that file was made of these very images and labels by the same settings.
    """
    key = judge_key(images, labels, args)
    weights = load_judge(path, key, images.device)
    torch.manual_seed(args.seed)
    judge = Judge().to(images.device, memory_format=torch.channels_last)  # CPUs convolve it faster
    if weights is None:
        train_judge(judge, images, labels, args, title=path.name)
        saved = io.BytesIO()
        torch.save({"key": key, "model": judge.state_dict()}, saved)
        with replacing(path) as part:
            part.write_bytes(saved.getvalue())  # torch.save itself hides a full disk
    else:
        judge.load_state_dict(weights)
    return judge.eval()


def judge_key(images, labels, args):
    """What a judge's weights follow from: the data, by its SHA-256, and the settings."""
    content = hashlib.sha256(images.cpu().numpy().tobytes())
    content.update(labels.cpu().numpy().tobytes())
    return {"sha256": content.hexdigest(), "epochs": args.epochs, "seed": args.seed,
            "dataset": args.dataset}


def load_judge(path, key, device):
    """The weights in `path`; None where nothing is, or what is damaged or of another key."""
    try:
        saved = torch.load(path, map_location=device, weights_only=True)
        if saved["key"] != key:
            return None
        Judge().load_state_dict(saved["model"])  # a judge of other layers cannot be used
        return saved["model"]
    except FileNotFoundError:
        return None
    except OSError:  # it cannot be read, which is no reason to replace it
        raise
    except Exception:  # torch.load raises whatever the damage leads to
        return None


@torch.no_grad()
def judged(judge, images):
    """Features (N, 128) and classes (N,) that the judge gives to images uint8 (N, 28, 28)."""
    features = torch.cat([judge.features(batch[:, None].float() / 255)
                          for batch in images.split(1000)])
    return features, judge.classify(features).argmax(1)


def confusion(labels, classes):
    """Counts (10, 10) of labels (N,), the row, that are judged to be of a class, the column."""
    pairs = 10 * labels.long() + classes
    return np.bincount(pairs.cpu(), minlength=100).reshape(10, 10)


# ----------------------------------------------------------------------------------- measures
def frechet_distance(x, y):
    """Frechet distance of Gaussians fitted to x and y (N, D) (Heusel et al. 2017, 1706.08500).

    |m - n|^2 + tr(S + T - 2 (S T)^(1/2)), of means m, n and covariances S, T.
    """
    x, y = x.double(), y.double()
    S, T = torch.cov(x.T), torch.cov(y.T)
    values, vectors = torch.linalg.eigh(S)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T  # S^(1/2)
    # S^(1/2) T S^(1/2) is symmetric and has the eigenvalues of S T
    cross = torch.linalg.eigvalsh(root @ T @ root).clamp(min=0).sqrt().sum()
    means = (x.mean(0) - y.mean(0)).square().sum()
    return (means + S.trace() + T.trace() - 2 * cross).item()


def radii(x):
    """Distances of points x (N, D) to their NEAR-th and WIDE-th nearest other points, each (N,)."""
    nearest = torch.cat([torch.cdist(batch, x).topk(WIDE + 1, largest=False).values
                         for batch in x.split(1000)])
    return nearest[:, NEAR], nearest[:, WIDE]  # column 0 is the point itself


def quality(x, reference):
    """{measure: value} of features x (M, D) against the `reference`'s (N, D).

    Frechet distances; precision and recall (Kynkaanniemi et al. 2019, arXiv:1904.06991); density
    and coverage (Naeem et al. 2020, arXiv:2002.09797).
    """
    distance = torch.cdist(x, reference.features)  # (M, N): 400 MB
    near, _ = radii(x)
    inside_near = distance <= reference.near  # of a real image's ball
    inside_own = distance <= near[:, None]  # of a sample's ball
    inside_wide = distance <= reference.wide
    return {"frechet": frechet_distance(x, reference.features),
            "frechet_train": frechet_distance(x, reference.train_features),
            "precision": inside_near.any(1).float().mean().item(),
            "recall": inside_own.any(0).float().mean().item(),
            "density": inside_wide.sum().item() / WIDE / len(x),
            "coverage": inside_wide.any(0).float().mean().item()}


def wilson(share, count):
    """Ends of Wilson's 95 % intervals of shares (10,) that were seen in `count` draws."""
    z2 = 1.96**2 / count
    half = np.sqrt(z2 * share * (1 - share) + z2**2 / 4)
    return (share + z2 / 2 - half) / (1 + z2), (share + z2 / 2 + half) / (1 + z2)


def correct(share, rates):
    """The true shares p (..., 10), which a judge that errs sees as q = `share` (..., 10).

    `rates` (..., 10, 10) says how often it takes the row's class for the column's, C, so that
    C^T p = q. p sums to 1 by itself; where noise makes it negative it is set to 0 and the rest
    rescaled.
    """
    p = (share[..., None, :] @ np.linalg.pinv(rates))[..., 0, :].clip(0)
    return p / p.sum(-1, keepdims=True)


def abundance(classes, counts, seed):
    """{measure: value} of how often judged classes (N,) occur, with 95 % intervals.

    Samples are taken to be misjudged as often as test images, whose confusion() is `counts`.
    Intervals: Wilson's for shares as seen; for corrected ones percentiles of 1000 multinomial
    draws of both shares and counts. tv is the total variation distance from uniform.
    """
    rng = np.random.default_rng(seed)
    count, totals = len(classes), counts.sum(1)
    at_least_1 = totals.clip(1)[:, None]  # a class may be absent from the test images
    share, rates = np.bincount(classes.cpu(), minlength=10) / count, counts / at_least_1
    drawn_share = rng.multinomial(count, share, 1000) / count
    drawn_rates = rng.multinomial(totals, rates, (1000, 10)) / at_least_1
    low, high = wilson(share, count)
    corrected = correct(share, rates)
    drawn = correct(drawn_share, drawn_rates)
    corrected_low, corrected_high = np.percentile(drawn, (2.5, 97.5), axis=0)

    numbers = {"tv": abs(share - 0.1).sum() / 2, "tv_corrected": abs(corrected - 0.1).sum() / 2}
    for name, end, values in (
            ("share", "", share), ("share", "_low", low), ("share", "_high", high),
            ("corrected", "", corrected), ("corrected", "_low", corrected_low),
            ("corrected", "_high", corrected_high)):
        for c in range(10):
            numbers[f"{name}_{c}{end}"] = values[c]
    return numbers


def spread(features, classes):
    """Mean distances (10,) of two of the first 1000 features (N, D) in a class; NaN of one."""
    return np.array([torch.pdist(features[classes == c][:1000]).mean().item() for c in range(10)])


def steepness(images):
    """Mean absolute difference of a pixel and the one below in images uint8 (N, 28, 28)."""
    return images.float().diff(dim=1).abs().mean().item()


def nearest_training(images, training):
    """Distance and index (N,) of the nearest of `training` to `images`, both uint8.

    The distance is the Euclidean one of pixels in [0, 1].
    """
    images, training = (x.flatten(1).float() / 255 for x in (images, training))
    squares = training.square().sum(1)
    distances, indices = [], []
    for x in images.split(500):
        # |x - t|^2 = |x|^2 + |t|^2 - 2 x t, of which |x|^2 matters to no minimum
        square, index = torch.addmm(squares, x, training.T, alpha=-2).min(1)
        distances.append((square + x.square().sum(1)).clamp(min=0).sqrt())
        indices.append(index)
    return torch.cat(distances), torch.cat(indices)


# ------------------------------------------------------------------------------- scoring a run
@dataclass
class Reference:
    """The real images of a data set as the judge sees them: what every run is measured by."""
    training: torch.Tensor  # uint8 (M, 28, 28)
    train_features: torch.Tensor  # (M, 128)
    test: torch.Tensor  # uint8 (N, 28, 28); all that follows is of these
    test_labels: torch.Tensor  # (N,)
    features: torch.Tensor  # (N, 128)
    near: torch.Tensor  # (N,), their radii()
    wide: torch.Tensor  # (N,)
    counts: np.ndarray  # their confusion() (10, 10)
    spread: np.ndarray  # their spread() (10,)
    steepness: float
    nearest: tuple  # nearest_training() of the first COUNT
    close: float  # a sample nearer than this to a training image counts as a copy


@dataclass
class Score:
    """What the judge says of a run."""
    numbers: dict  # {measure: float}, all finite
    counts: np.ndarray | None  # confusion() of classes asked for; None where none were
    sheet: torch.Tensor  # uint8 (60, 28, 28), see make_sheet
    pairs: torch.Tensor  # uint8 (60, 28, 28), see pair_up


def make_reference(judge, training, test, test_labels):
    """The Reference of training and test images uint8 (N, 28, 28), and test labels (N,)."""
    features, classes = judged(judge, test)
    near, wide = radii(features)
    distance, index = nearest_training(test[:COUNT], training)
    return Reference(
        training=training, train_features=judged(judge, training)[0], test=test,
        test_labels=test_labels, features=features, near=near, wide=wide,
        counts=confusion(test_labels, classes), spread=spread(features, classes),
        steepness=steepness(test), nearest=(distance, index),
        close=distance.quantile(0.01).item())


def score(images, labels, judge, reference, *, seed, nearest=None):
    """The Score of one run: images uint8 (N, 28, 28), labels (N,) asked for or None.

    `nearest` is nearest_training() of its first COUNT images, None where copies are not asked for.
    """
    if labels is None:
        images = images[:COUNT]
    features, classes = judged(judge, images)
    counts = None if labels is None else confusion(labels, classes)
    images, features, classes = images[:COUNT], features[:COUNT], classes[:COUNT]

    numbers = quality(features, reference) | abundance(classes, reference.counts, seed)
    diversity = spread(features, classes) / reference.spread
    numbers["diversity"] = np.nanmean(diversity)
    numbers["sharpness"] = steepness(images) / reference.steepness
    for c in range(10):
        numbers[f"diversity_{c}"] = diversity[c]
    if counts is not None:
        for c in range(10):
            if counts[c].any():
                numbers[f"agreement_{c}"] = counts[c, c] / counts[c].sum()
        numbers["agreement"] = np.trace(counts) / len(labels)

    sheet = make_sheet(images, classes)
    pairs = torch.full_like(sheet, 128)
    if nearest is not None:
        numbers["copies"] = (nearest[0] < reference.close).float().mean().item()
        pairs = pair_up(images, *nearest, reference.training)
    finite = {name: float(value) for name, value in numbers.items() if math.isfinite(value)}
    return Score(finite, counts, sheet, pairs)


def score_real(judge, reference, *, seed):
    """The Score of the test images; distances and neighbours are those of training images."""
    real = score(reference.test, reference.test_labels, judge, reference, seed=seed,
                 nearest=reference.nearest)
    torch.manual_seed(seed)
    size = len(reference.test[:COUNT])
    draws = []
    for _ in range(10):
        drawn = torch.randperm(len(reference.training))[:size]
        draws.append(quality(reference.train_features[drawn], reference))
    for name in ("frechet", "precision", "recall", "density", "coverage"):
        values = [draw[name] for draw in draws]
        real.numbers[name] = float(np.mean(values))
        real.numbers[f"{name}_sd"] = float(np.std(values, ddof=1))
    real.numbers["copies"] = 0.01  # by the definition of Reference.close
    real.numbers["cas"] = real.numbers["agreement"]
    return real


def score_run(name, images, labels, judge, reference, args):
    """The Score of a run by its name: with copies if it is of seed 1, with cas if --cas says so."""
    nearest = None
    if "_seed" not in name:
        nearest = nearest_training(images[:COUNT], reference.training)
    result = score(images, labels, judge, reference, seed=args.seed, nearest=nearest)
    if labels is not None and fnmatch.fnmatch(name, args.cas or CAS[args.dataset]):
        pupil = get_judge(args.runs_dir / f"judge_{name}.pt", images, labels, args)
        counts = confusion(reference.test_labels, judged(pupil, reference.test)[1])
        result.numbers["cas"] = float(np.trace(counts) / counts.sum())
    return result


def make_sheet(images, classes):
    """uint8 (60, 28, 28): the first six images of each judged class, grey where there are less."""
    rows = []
    for c in range(10):
        six = images[classes == c][:6]
        rows.append(F.pad(six, (0, 0, 0, 0, 0, 6 - len(six)), value=128))
    return torch.cat(rows)


def pair_up(images, distance, index, training):
    """uint8 (60, 28, 28): five rows of six images, each over the row of their neighbours.

    They are the 30 of `images` (N, 28, 28) nearest to a training image: to that of `index` (N,).
    """
    chosen = distance.argsort()[:30]
    samples = images[chosen].view(5, 6 * 28 * 28)
    neighbours = training[index[chosen]].view(5, 6 * 28 * 28)
    return torch.stack((samples, neighbours), 1).view(60, 28, 28)


def fingerprint(args):
    """Two steps of a judge's training, and measures of drawn features and classes, by one thread.

    A record whose code computes something else today is found by them.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    drawn = torch.Generator().manual_seed(0)
    images = torch.randint(256, (64, 28, 28), generator=drawn).byte()
    labels = torch.randint(10, (64,), generator=drawn)
    torch.manual_seed(args.seed)
    losses = train_judge(Judge(), images, labels, args, batch_size=32, steps=2)
    x, y = torch.randn(2, 200, 16, generator=drawn)
    near, wide = radii(x)
    shares = abundance(labels, 10 * np.eye(10, dtype=int) + 1, args.seed)
    distance, _ = nearest_training(images[:32], images[32:])
    torch.set_num_threads(threads)
    return [*losses, frechet_distance(x, y + 1), near.mean().item(), wide.mean().item(),
            distance.mean().item(), float(shares["corrected_0"]), float(shares["corrected_0_high"])]


# ---------------------------------------------------------------------------- samples of runs
def dataset_of(run, out_dir):
    """The data set of a run: by its record under `out_dir`, else by its name."""
    trained = run.removeprefix("normal_")  # samples of N(0, I) beside those of a fitted prior
    records = {path.name: path for path in out_dir.rglob("*.json")}
    for name in (f"{run}.json", f"{trained}.json"):
        if name in records:
            with contextlib.suppress(ValueError, LookupError, TypeError):  # no record of a run
                return json.loads(records[name].read_text())["settings"]["dataset"]
    words = re.split("[_-]", run)
    return "mnist" if "mnist" in words and "fashion" not in words else "fashion"


def choose_runs(args):
    """Names of the runs to score, those of RUNS first; prints the command of one that is missing.

    OSError where there is nothing of a name or pattern that was asked for.
    """
    ending = "_samples.npz"
    names = sorted(path.name.removesuffix(ending)
                   for path in args.runs_dir.glob(f"[!.]*{ending}"))  # .part-*: being written
    available = [name for name in names if dataset_of(name, args.out_dir) == args.dataset]
    commands = {name: command for name, (_, command) in RUNS[args.dataset].items()}
    patterns = args.runs or ["*"]
    absent = [pattern for pattern in patterns if not fnmatch.filter(available, pattern)]
    if absent:
        raise OSError(f"no samples of {args.dataset} named {' '.join(absent)} in {args.runs_dir}; "
                      f"to make some: {', '.join(commands.values())}")
    chosen = []
    for pattern in patterns:
        for name in fnmatch.filter((*commands, *available), pattern):
            if name in chosen:
                continue
            if name in available:
                chosen.append(name)
            else:
                print(f"{args.runs_dir / name}{ending} is missing; this makes it: {commands[name]}")
    return chosen


def read_samples(path):
    """Images uint8 (N, 28, 28) and labels uint8 (N,) or None of a sample file, as tensors."""
    content = io.BytesIO(path.read_bytes())  # a file that cannot be read is not called damaged
    try:
        with np.load(content) as arrays:
            images, labels = arrays["images"], arrays.get("labels")
        fit = images.dtype == np.uint8 and images.shape[1:] == (28, 28) and len(images) >= 30
        if labels is not None:
            fit = fit and labels.shape == images.shape[:1] and np.isin(labels, range(10)).all()
            labels = torch.tensor(np.uint8(labels))
    except MemoryError:
        raise
    except Exception:  # NumPy and zipfile raise whatever the damage leads to
        fit = False
    if not fit:
        raise OSError(f"{path} is damaged or no sample file: it should hold images, uint8 (N, 28, "
                      "28), N >= 30, and if conditional labels (N,) from 0 to 9; make it again or "
                      "delete it")
    return torch.tensor(images), labels


# ------------------------------------------------------------------------------------ figures
def draw_figures(scores, args):
    """The figures of the runs in RUNS, or of the first four if some alone were asked for."""
    titles = {name: title for name, (title, _) in RUNS[args.dataset].items()}
    runs = [name for name in scores if name != "real"]
    known = [name for name in runs if name in titles]
    shown = runs[:4] if args.runs or not known else known
    shown = {titles.get(name, name): scores[name] for name in ("real", *shown)}
    names = CLASSES[args.dataset]
    sheets = {title: result.sheet for title, result in shown.items()}
    pairs = {title: result.pairs for title, result in shown.items()}
    figures = {"shares": draw_shares(shown, names), "confusion": draw_confusion(shown, names),
               "sheet": draw_tiles(sheets, names),
               "neighbours": draw_tiles(pairs, ["image", "nearest"] * 5)}
    ending = args.run_name.removeprefix("p5_compare")
    for kind, figure in figures.items():
        save_figure(figure, args.out_dir / f"p5_{kind}{ending}.pdf")


def draw_shares(scores, names):
    """Shares of the ten classes with their intervals, raw and corrected, against uniform."""
    figure = Figure(figsize=(6.5, 2.9))
    panels = figure.subplots(2, 1, sharex=True, sharey=True)
    for axes, kind, label in zip(panels, ("share", "corrected"), ("judged", "corrected")):
        axes.axhline(10, color="0.6", linewidth=0.8, label="uniform")
        for place, (title, result) in enumerate(scores.items()):
            percent, low, high = (
                100 * np.array([result.numbers[f"{kind}_{c}{end}"] for c in range(10)])
                for end in ("", "_low", "_high"))
            errors = np.abs((percent - low, high - percent))
            shift = 0.15 * (place - (len(scores) - 1) / 2)
            axes.errorbar(np.arange(10) + shift, percent, errors, fmt="os^Dv"[place],
                          color=f"C{place}", markersize=3.5, linewidth=0.8, label=title)
        axes.set(ylabel=f"{label} share [%]", xticks=range(10), xticklabels=names)
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(scores) + 1)
    return figure


def draw_tiles(grids, names):
    """{title: images uint8 (60, 28, 28)} side by side, 6 to a row, `names` beside the rows."""
    figure = Figure(figsize=(6.5, 0.3 + 9.7 / len(grids)))
    panels = figure.subplots(1, len(grids), squeeze=False)[0]
    for axes, (title, images) in zip(panels, grids.items()):
        tiles = torchvision.utils.make_grid(images[:, None].cpu(), nrow=6, pad_value=128)[0]
        axes.imshow(tiles.numpy(), vmin=0, vmax=255)
        axes.set(title=title, xticks=[], yticks=range(16, 316, 30),
                 yticklabels=names if axes is panels[0] else [])
    return figure


def draw_confusion(scores, names):
    """Of each class asked for (of real images: true class), the share judged to be of each.

    Of the first two runs that have one.
    """
    tables = [(title, result.counts) for title, result in scores.items()
              if result.counts is not None][:2]
    figure = Figure(figsize=(3.25 * len(tables), 3.2))
    panels = figure.subplots(1, len(tables), squeeze=False)[0]
    for axes, (title, counts) in zip(panels, tables):
        percent = 100 * counts / counts.sum(1, keepdims=True).clip(1)
        percent = percent.round().astype(int)
        axes.imshow(percent, cmap="gray_r", vmin=0, vmax=100)
        for (i, j), value in np.ndenumerate(percent):
            if value > 0:
                axes.text(j, i, value, ha="center", va="center", size=6,
                          color="w" if value > 50 else "k")
        axes.set(title=f"{title} [% of row]", xlabel="judged",
                 ylabel="true" if title == "real" else "asked for")
        axes.set_xticks(range(10), names, rotation=90)
        axes.set_yticks(range(10), names)
    return figure


# ------------------------------------------------------- files: the same text in every script
STYLE = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False,
         "image.cmap": "gray", "figure.constrained_layout.use": True, "pdf.fonttype": 42,
         "legend.frameon": False, "lines.linewidth": 1.2}


def load_dataset(name, data_dir):
    """[train images, labels, test images, labels], each uint8, (N, 28, 28) or (N,).

    Downloaded where they are missing; OSError names the file that is not to be had, and why.
    """
    dataset = {"mnist": torchvision.datasets.MNIST,
               "fashion": torchvision.datasets.FashionMNIST}[name]
    raw = Path(data_dir, dataset.__name__, "raw")
    paths = [raw / file for file in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte",
                                     "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")]
    for path in paths:
        if not path.exists() and not Path(f"{path}.gz").exists():
            download(dataset, Path(data_dir), path)
    tensors = [read_idx(path) for path in paths]
    for images, labels in (tensors[:2], tensors[2:]):
        fit = images.shape[1:] == (28, 28) and labels.shape == images.shape[:1]
        if not fit or len(images) == 0 or labels.max() > 9:
            raise OSError(f"{paths[0]} and the files beside it do not fit each other: delete them, "
                          "name another --data-dir, or run `make demo` (no download)")
    return tensors


def download(dataset, data_dir, missing):
    """Download a data set into a folder of this process alone, then move its files in place."""
    if data_dir.is_symlink() and not data_dir.exists():
        raise OSError(f"{data_dir} is a link to {data_dir.readlink()}, which is not there: "
                      "name another --data-dir, or run `make demo` (no download)")
    was_there = data_dir.exists()
    prepare_folders(data_dir)
    try:
        with tempfile.TemporaryDirectory(prefix=f".part-{os.getpid()}-", dir=data_dir) as folder:
            with contextlib.redirect_stdout(io.StringIO()):
                dataset(folder, download=True)
            missing.parent.mkdir(parents=True, exist_ok=True)
            for path in Path(folder, dataset.__name__, "raw").iterdir():
                path.replace(missing.parent / path.name)
    except Exception as error:
        if not was_there:
            with contextlib.suppress(OSError):  # another process may be writing into it
                data_dir.rmdir()
        cause = " ".join(str(error).split()) or type(error).__name__
        raise OSError(f"{missing} is missing and cannot be downloaded ({cause}): check network and "
                      "disk, name another --data-dir, or run `make demo` (no download)") from error


def read_idx(path):
    """The uint8 tensor in an IDX file, unpacked from the .gz beside it if absent or cut off."""
    def read(file):
        try:
            return torchvision.datasets.mnist.read_sn3_pascalvincent_tensor(file)
        except (OSError, MemoryError):  # it cannot be read, which is no reason to delete it
            raise
        except Exception:  # the reader asserts what it expects
            return None

    tensor = read(path) if path.exists() else None
    packed = Path(f"{path}.gz")
    if tensor is None and packed.exists():
        prepare_folders(path.parent)
        with contextlib.suppress(EOFError, zlib.error, gzip.BadGzipFile), replacing(path) as part:
            part.write_bytes(gzip.decompress(packed.read_bytes()))
            tensor = read(part)
            if tensor is None:
                raise EOFError(f"{packed} holds no images or labels")
    if tensor is None:
        raise OSError(f"{path} is damaged: delete it and any .gz of it, name another --data-dir, "
                      "or run `make demo` (no download)")
    return tensor


def choose_device(no_cuda):
    """The CUDA device where there is one and `no_cuda` is off, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() and not no_cuda else "cpu")


@contextlib.contextmanager
def own_settings():
    """Figures in this script's style and float32, whatever is configured; undone afterwards."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    defaults = {key: value for key, value in matplotlib.rcParamsDefault.items()
                if "backend" not in key}  # figures here are no windows
    try:
        with matplotlib.rc_context(defaults | STYLE):
            yield
    finally:
        torch.set_default_dtype(dtype)


def prepare_folders(*folders):
    """Make folders, see that they can be written, delete half-written files of dead processes."""
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        for part in folder.glob(".part-*"):
            with contextlib.suppress(OSError, ValueError):  # another process was faster
                if is_running(int(part.name.split("-")[1])):
                    continue
                if part.is_dir():
                    shutil.rmtree(part)
                else:
                    part.unlink()


def is_running(process_id):
    """Whether there is such a process. Windows cannot be asked, but deletes no open file."""
    if os.name != "posix":
        return False
    try:
        os.kill(process_id, 0)  # sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


@contextlib.contextmanager
def replacing(path):
    """Yield a name beside `path`, this process's own; renamed to `path` if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def save_figure(figure, path):
    """Write a figure as PDF without its date, so that the same picture is the same bytes."""
    content = io.BytesIO()  # matplotlib would hide a full disk behind a fault of its own
    figure.savefig(content, format="pdf", metadata={"CreationDate": None})
    with replacing(path) as part:
        part.write_bytes(content.getvalue())


def machine(device):
    """Where a result is made: processor, threads, versions, this script's commit ("+": changed)."""
    if device.type == "cuda":
        processor = torch.cuda.get_device_name(device)
    else:
        cpuinfo = Path("/proc/cpuinfo")
        lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
        models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        processor = models[0] if models else platform.processor() or platform.machine()
    commit = "unknown"
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=HERE, check=True,
                              capture_output=True, text=True)
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", __file__], cwd=HERE)
        commit = head.stdout.strip() + ("+" if changed.returncode else "")
    versions = {module.__name__: str(module.__version__)
                for module in (torch, torchvision, np, matplotlib)}
    return {"processor": processor, "threads": torch.get_num_threads(), "commit": commit,
            "versions": versions}


def settings_of(args):
    """The flags that decide what a run computes: not where its files lie, nor how it is watched."""
    others = ("data_dir", "out_dir", "runs_dir", "resume", "fresh", "log_interval", "no_cuda",
              "run_name", "command")
    return {name: value for name, value in vars(args).items() if name not in others}


def write_record(path, args, machines, numbers, headline=(), **fields):
    """Write a run's record as JSON; of one that was there, print how the `headline` moved.

    `numbers` maps names to plain numbers; the report decides how many of their digits it prints.
    """
    record = {"command": args.command, "settings": settings_of(args), "machines": machines,
              **fields, "numbers": numbers}
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        before = json.loads(path.read_text())["numbers"]
        for name in headline:
            print(f"{path.stem}: {name} {before[name]:.6g} -> {numbers[name]:.6g}")
    with replacing(path) as part:
        part.write_text(text)


def number(kind, least, most):
    """An argparse type: a number of `kind`, int or float, from `least` to `most`."""
    def convert(text):
        value = kind(text)
        if not least <= value <= most:  # a NaN fails too
            raise argparse.ArgumentTypeError(f"{text} is not between {least} and {most}")
        return value
    convert.__name__ = kind.__name__  # argparse says "invalid int value"
    return convert


def folder(text):
    """An argparse type: a path, in which ~ is the home folder also where no shell has seen it."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # there is no such user
        raise argparse.ArgumentTypeError(f"{text}: {error}") from error


def named(args, prefix, chosen, parser, argv):
    """`args` with .command, as one types it again, and .run_name.

    The name is `prefix`, which stands for the flags `chosen`, and every other setting that is not
    its default, the seed last: gan_fashion_lr-g0.0002_beta1-0.5_seed3.
    """
    defaults = vars(parser.parse_args([]))
    words = [prefix]
    for name, value in sorted(settings_of(args).items(), key=lambda setting: setting[0] == "seed"):
        if name not in chosen and value != defaults[name]:
            flag = name.replace("_", "-") + ("-" if name[-1].isdigit() else "")
            text = repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
            words.append(flag + text)
    args.run_name = getattr(args, "run_name", None) or "_".join(words)
    if not re.fullmatch(r"\w([\w.-]{0,117}\w)?", args.run_name):
        parser.error(f"the run's name {args.run_name!r} is not 1 to 119 letters, digits, '_', '.' "
                     "and '-': give another --run-name")
    typed = [word for word in argv if word not in ("--resume", "--fresh")]
    args.command = shlex.join(["python", Path(__file__).name, *typed])
    return args


def run(main):
    """Call main(); a fault that a person can mend ends in one line and with status 1.

    Ctrl-C ends it with status 130 and SIGTERM with 143, after what was saved last.
    """
    script = Path(sys.argv[0]).name
    again = "a training run goes on with --resume"
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a log in cp1252 lacks some letters
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(f"\n{script}: stopped; {again}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python itself flushes once more at the end
        sys.exit(f"{script}: its output was closed (broken pipe); {again}")
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error).lower():
            raise
        sys.exit(f"{script}: out of memory: give smaller sizes; {again}")
    except (OSError, FloatingPointError) as error:
        advice = ""
        if getattr(error, "errno", None) == errno.ENOSPC:
            advice = "; make room, or name another folder"
        elif getattr(error, "errno", None):
            advice = "; name another folder"
        sys.exit(f"{script}: {error}{advice}")


# ------------------------------------------------------------------------------- command line
def parse_args(argv=None):
    """The command line (default: sys.argv), checked; a wrong one ends with status 2, one line."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.error = lambda text: parser.exit(2, f"{parser.prog}: {text} (--help lists every flag)\n")
    group = parser.add_argument_group("what is judged")
    group.add_argument("runs", nargs="*", metavar="RUN",
                       help="score only these; may be patterns such as 'gan_mlp_*'")
    group.add_argument("--dataset", choices=CLASSES, default="fashion")
    group.add_argument("--cas", metavar="PATTERN",
                       help="the conditional runs that get a cas; default: "
                            f"{CAS['fashion']}, of MNIST {CAS['mnist']}")
    group = parser.add_argument_group("training of a judge")
    group.add_argument("--epochs", type=number(int, 1, 1000), default=12,
                       help="passes over its images")
    group.add_argument("--seed", type=number(int, 0, 2**31), default=1, help="of all chance")
    group.add_argument("--no-cuda", action="store_true", help="stay on the CPU")
    group = parser.add_argument_group("files")
    group.add_argument("--data-dir", type=folder, default=HERE / "data", help="torchvision's root")
    group.add_argument("--out-dir", type=folder, default=HERE / "plots",
                       help="for record and figures")
    group.add_argument("--runs-dir", type=folder, default=HERE / "runs",
                       help="where samples and judges are")
    args = parser.parse_args(argv)
    prefix = "p5_compare"
    if args.dataset == "mnist":
        prefix += "_mnist"
    if args.runs or args.cas:
        prefix += "_part"
    return named(args, prefix, ("dataset", "runs", "cas"), parser, argv)


def print_table(scores):
    """A line for each run, `-` where it lacks a measure."""
    width = max(24, *(len(name) for name in scores))
    print(" " * width, *(f"{measure:>13}" for measure in COLUMNS))
    for name, result in scores.items():
        cells = [f"{result.numbers[measure]:13.4f}" if measure in result.numbers else f"{'-':>13}"
                 for measure in COLUMNS]
        print(f"{name:{width}}", *cells)


def main(argv=None):
    args = parse_args(argv)
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32 on every device
    with own_settings():
        start = time.perf_counter()
        prepare_folders(args.out_dir, args.runs_dir)
        device = choose_device(args.no_cuda)
        samples = {name: read_samples(args.runs_dir / f"{name}_samples.npz")
                   for name in choose_runs(args)}
        data = load_dataset(args.dataset, args.data_dir)
        training, labels, test, test_labels = (tensor.to(device) for tensor in data)
        taken = fingerprint(args)

        judge = get_judge(args.runs_dir / f"judge_{args.dataset}.pt", training, labels, args)
        reference = make_reference(judge, training, test, test_labels)
        scores = {"real": score_real(judge, reference, seed=args.seed)}
        for name, (images, asked) in samples.items():
            images = images.to(device)
            asked = None if asked is None else asked.to(device)
            scores[name] = score_run(name, images, asked, judge, reference, args)
        unit = scores["real"].numbers["frechet"]
        for result in scores.values():
            result.numbers["frechet_ratio"] = result.numbers["frechet"] / unit

        print_table(scores)
        draw_figures(scores, args)
        numbers = {"judge/accuracy": scores["real"].numbers["agreement"]}
        curves = {}
        for name, result in scores.items():
            numbers |= {f"{name}/{measure}": value for measure, value in result.numbers.items()}
            if result.counts is not None:
                curves[f"{name}/confusion"] = result.counts.tolist()
        headline = [f"{name}/frechet_ratio" for name in RUNS[args.dataset] if name in scores]
        write_record(args.out_dir / f"{args.run_name}.json", args, [machine(device)], numbers,
                     ["judge/accuracy", *headline], fingerprint=taken,
                     seconds=time.perf_counter() - start, curves=curves)


if __name__ == "__main__":
    run(main)
