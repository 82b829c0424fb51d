"""Problems 5.3, 5.5 and 5.6: one ruler for the samples of every model of a data set.

    python p5_compare.py                          every run of runs/ whose samples have no scores
    python p5_compare.py gan_fashion my.npz       these: a run's name, or anyone's sample file
    python p5_compare.py real_fashion             real images, a run like any other
    python p5_compare.py --planted                real images with faults planted into them
    python p5_compare.py --cas cgan_fashion       what classifiers learn from samples with labels
    python p5_compare.py --train-judge            the judge itself (--dataset mnist: that of MNIST)

The ruler is the judge, a classifier of the training images, kept as plots/judge_<dataset>.pt.
Scores name it by a SHA-256 and can be compared where they name the same one. A run is scored from
its samples alone; beside its record come
    <run>_scores.json          numbers and the judge's confusion counts
    <run>_sheet.pdf            the first ten images of every class that was asked for, framed where
                               the judge sees another; without labels, that the judge sees
    <run>_strip.pdf            the first sixteen images
    <run>_neighbours.pdf       the images nearest to a training image, over that image
and of the other commands judge_<dataset>.json, p5_planted_<dataset>.json and <run>_cas.json.

The first 10 000 images of a file are scored. Features are the judge's 128 before its last layer.
    frechet                  Frechet distance to the test images in features
    precision, density       share of samples inside the ball of a test image; balls per sample
    recall, coverage         share of test images inside a sample's ball; whose ball has a sample
    c2st                     accuracy of nets that learn to tell samples from test images, on images
                             they have not seen; 0.5 is perfect. No label has a part in it
    share_<c>, corrected_<c>     how often class c is seen, raw and less the judge's own errors
    tv, smallest_share       total variation distance of the shares from uniform; the least share
    diversity                mean distance of two images of a class as a share of the test images',
                             a mean over the classes that are there
    sharpness                mean absolute difference of a pixel and the one below, as a share of
                             the test images'; noise raises it, too
    agreement                share of all images of the file judged to be of the class asked for
    copies                   share nearer to a training image, in pixels, than 99 % of test images
"""
import argparse
import contextlib
import errno
import functools
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
from matplotlib.patches import Rectangle
from torch import nn
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
COUNT = 10_000  # images of a run that are compared
NEAR, WIDE = 3, 5  # neighbours that set the radii of precision and recall; of density and coverage
PUPILS = 5  # classifiers that learn from a run's samples, with --cas, each for PUPIL_EPOCHS
PUPIL_EPOCHS = 4
COPY_DISTANCE = "copy distance"  # in a judge's file, beside its weights
CLASSES = {"mnist": tuple("0123456789"),
           "fashion": ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt",
                       "sneaker", "bag", "boot")}
COLUMNS = ("frechet", "times_real", "precision", "recall", "coverage", "c2st", "tv", "agreement",
           "copies")


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


def train_judge(judge, images, labels, *, dataset, epochs, batch_size=256, steps=None, title=None):
    """Train on images uint8 (N, 28, 28) and labels (N,); the losses, one for each batch.

    `steps` ends it after so many batches of the whole schedule, for fingerprint(). `title` is the
    progress bar's, None hides it.
    """
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.05)
    orders = [torch.randperm(len(images)) for _ in range(epochs)]
    batches = [batch for order in orders for batch in order.split(batch_size)]  # of all epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=len(batches))
    hidden = None if title else True  # None: tqdm shows it on a terminal only
    losses = []
    for batch in tqdm(batches[:steps], desc=title, unit="batch", disable=hidden):
        x = augment(images[batch], dataset)
        loss = F.cross_entropy(judge(x), labels[batch].long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    return torch.stack(losses).tolist()


def make_judge(images, labels, *, dataset, epochs, seed, title=None):
    """A trained Judge of images uint8 (N, 28, 28) and labels (N,), in evaluation mode."""
    torch.manual_seed(seed)
    judge = Judge().to(images.device, memory_format=torch.channels_last)  # CPUs convolve it faster
    train_judge(judge, images, labels, dataset=dataset, epochs=epochs, title=title)
    return judge.eval()


def frozen(judge, copy_distance):
    """{name: tensor} of a judge's file, 0.8 MB, of which its identity is taken.

    Weights in half precision, BatchNorm's running statistics as they are, and the distance below
    which a sample is a copy.
    """
    tensors = {name: tensor if "running_" in name or "num_batches" in name else tensor.half()
               for name, tensor in judge.state_dict().items()}
    return tensors | {COPY_DISTANCE: torch.tensor(copy_distance, dtype=torch.float64)}


def identity(tensors):
    """SHA-256 over name, type, shape and bytes of {name: tensor}, in their order."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_judge(path, device):
    """The Judge in `path`, its copy distance and its identity; None where there is no file.

    OSError where the file is damaged or of other layers.
    """
    try:
        content = io.BytesIO(path.read_bytes())  # a file that cannot be read is not called damaged
    except FileNotFoundError:
        return None
    judge = Judge().to(device, memory_format=torch.channels_last)
    try:
        tensors = torch.load(content, map_location=device, weights_only=True)
        weights = {name: tensor for name, tensor in tensors.items() if name != COPY_DISTANCE}
        judge.load_state_dict(weights)
        copy_distance = tensors[COPY_DISTANCE].item()
    except MemoryError:
        raise
    except Exception as error:  # torch.load raises whatever the damage leads to
        raise OSError(f"{path} is damaged or no judge: take the project's own, or delete it and "
                      "one is trained") from error
    return judge.eval(), copy_distance, identity(tensors)


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


# ----------------------------------------------------------------------- distances in features
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


def squared_distances(x, y):
    """Squared distances (M, N), float64, of points x (M, D) and y (N, D); of equal points 0.

    |x|^2 + |y|^2 - 2 x y is fast and leaves rounding where 0 should be, which would decide who is
    near whom in images that are all the same; what is no more than that is set to 0.
    """
    x, y = x.double(), y.double()
    sizes = x.square().sum(1)[:, None] + y.square().sum(1)
    squared = sizes - 2 * x @ y.T
    return squared.where(squared > 1e-10 * sizes, 0.0)


def radii(x):
    """Squared distances of points x (N, D) to their NEAR-th and WIDE-th nearest others, (N,)."""
    nearest = torch.cat([squared_distances(batch, x).topk(WIDE + 1, largest=False).values
                         for batch in x.split(1000)])
    return nearest[:, NEAR], nearest[:, WIDE]  # column 0 is the point itself


def neighbourhoods(x, reference):
    """{measure: value} of features x (M, D) against those of the `reference`, a Reference.

    Precision and recall (Kynkaanniemi et al. 2019, arXiv:1904.06991), density and coverage (Naeem
    et al. 2020, arXiv:2002.09797).
    """
    near, _ = radii(x)
    inside_real = 0  # samples inside a real image's ball
    inside_wide = 0  # pairs of a sample and a wider ball of a real image that it is inside of
    recalled = torch.zeros(len(reference.features), dtype=torch.bool, device=x.device)
    covered = torch.zeros_like(recalled)
    for batch, radius in zip(x.split(1000), near.split(1000)):
        squared = squared_distances(batch, reference.features)  # (1000, N)
        inside_real += (squared <= reference.near).any(1).sum().item()
        recalled |= (squared <= radius[:, None]).any(0)
        in_wide = squared <= reference.wide
        inside_wide += in_wide.sum().item()
        covered |= in_wide.any(0)
    return {"precision": inside_real / len(x), "recall": recalled.float().mean().item(),
            "density": inside_wide / WIDE / len(x), "coverage": covered.float().mean().item()}


def along_paths(path, judge, reference):
    """{kind_measure: a value for each step} of the paths between two z that a sample file holds.

    Of line and arc; inside: the share of images inside a real image's ball, as in precision; third:
    the share judged to be of another class than both ends of their path.
    """
    paths = None
    with np.load(path) as arrays, contextlib.suppress(ValueError):  # an array of objects
        paths = arrays.get("paths")  # uint8 (2, pairs, steps, 28, 28), as gan.py writes them
    if paths is None or paths.dtype != np.uint8 or paths.ndim != 5:  # none, or someone's own
        return {}
    shape = paths.shape[1:3]
    curves = {}
    for kind, images in zip(("line", "arc"), torch.from_numpy(paths).to(reference.features.device)):
        features, classes = judged(judge, images.flatten(0, 1))
        inside = torch.cat([(squared_distances(x, reference.features) <= reference.near).any(1)
                            for x in features.split(1000)]).view(shape)
        classes = classes.view(shape)
        third = (classes != classes[:, :1]) & (classes != classes[:, -1:])
        curves[f"{kind}_inside"] = inside.float().mean(0).tolist()
        curves[f"{kind}_third"] = third.float().mean(0).tolist()
    return curves


def real_unit(features, test_features, seed, reshuffles=2, groups=10):
    """Frechet distance of real images to real images, and its standard error.

    `features` of training images (M, D) are cut into disjoint sixths, `reshuffles` times; the mean
    distance of a sixth to the test images is the unit of "times real images". The judge has learned
    from the training images and not from the test images, which is part of that distance.

    Its error is the jackknife's, over groups of the training and of the test images: with theta_k
    the mean distance without group k of g, the variance is (g - 1) / g sum_k (theta_k - mean)^2;
    the two sets are independent, so theirs add. It is that of one reshuffle, a little too large.
    """
    generator = torch.Generator().manual_seed(seed)
    size = len(features) // 6

    def shuffled():
        return features[torch.randperm(len(features), generator=generator)[:6 * size]].split(size)

    distances = [frechet_distance(sixth, test_features)
                 for _ in range(reshuffles) for sixth in shuffled()]
    sixths = shuffled()
    variance = 0.0
    for which in ("training", "test"):
        without_group = []
        for group in range(groups):
            kept_of_sixth = torch.arange(size) % groups != group
            kept_of_test = torch.arange(len(test_features)) % groups != group
            if which == "training":
                pairs = [(sixth[kept_of_sixth], test_features) for sixth in sixths]
            else:
                pairs = [(sixth, test_features[kept_of_test]) for sixth in sixths]
            without_group.append(np.mean([frechet_distance(x, y) for x, y in pairs]))
        variance += (groups - 1) * np.var(without_group)
    return float(np.mean(distances)), float(variance**0.5)


# ------------------------------------------------------------------- a measure without labels
class Detective(nn.Module):
    """Images (B, 1, 28, 28) in [0, 1] -> logit of being real (B, 1)."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.Flatten(), nn.Linear(32 * 7 * 7, 1))

    def forward(self, x):
        return self.layers(x)


def two_sample_test(images, real, *, seed, steps=400, batch_size=64):
    """Accuracies (4,) of nets that learn to tell `images` from `real`, both uint8 (N, 28, 28).

    A classifier two-sample test (Lopez-Paz & Oquab 2017, arXiv:1610.06545): each net learns from
    one half of both for `steps` steps and is asked about the other half. Half of the answers are
    right by chance; more tells that the distributions differ. The four share images, so that their
    spread is no standard error.
    """
    torch.manual_seed(seed)
    count = min(len(images), len(real))
    accuracies = []
    for _ in range(2):
        halves_of_images = images[torch.randperm(len(images))[:count]].tensor_split(2)
        halves_of_real = real[torch.randperm(len(real))[:count]].tensor_split(2)
        for train, held_out in ((0, 1), (1, 0)):
            net = Detective().to(images.device)
            train_detective(net, halves_of_images[train], halves_of_real[train], steps=steps,
                            batch_size=batch_size)
            images_called_real = share_called_real(net, halves_of_images[held_out])
            real_called_real = share_called_real(net, halves_of_real[held_out])
            accuracies.append((1 - images_called_real + real_called_real) / 2)
    return accuracies


@torch.no_grad()
def share_called_real(net, images):
    """The share of images uint8 (N, 28, 28) that a Detective takes for real."""
    return (net(images[:, None].float() / 255) > 0).float().mean().item()


def train_detective(net, images, real, *, steps, batch_size):
    """Train on as many `images`, target 0, as `real` ones, target 1; the losses (steps,)."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    target = torch.cat((torch.zeros(batch_size, 1), torch.ones(batch_size, 1))).to(images.device)
    losses = []
    for _ in range(steps):
        chosen = torch.randint(len(images), (2, batch_size))
        x = torch.cat((images[chosen[0]], real[chosen[1]]))[:, None].float() / 255
        loss = F.binary_cross_entropy_with_logits(net(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses).tolist()


# -------------------------------------------------------------------------- shares of the classes
def wilson(share, count):
    """Ends of Wilson's 95 % intervals of shares (10,) that were seen in `count` draws."""
    z2 = 1.96**2 / count
    half = np.sqrt(z2 * share * (1 - share) + z2**2 / 4)
    return (share + z2 / 2 - half) / (1 + z2), (share + z2 / 2 + half) / (1 + z2)


def correct(share, rates):
    """The true shares p (..., 10) behind shares q = `share` (..., 10) that an erring judge sees.

    The judge takes class i for class j at the rate C_ij = `rates` (..., 10, 10), known from test
    images, so that it sees q_j = sum_i p_i C_ij. Solving that for p undoes its errors, as far as it
    errs on samples as it does on test images. Where noise makes p negative it is set to 0, and the
    rest rescaled.
    """
    p = (share[..., None, :] @ np.linalg.pinv(rates))[..., 0, :].clip(0)
    return p / p.sum(-1, keepdims=True)


def abundance(classes, counts, seed):
    """{measure: value} of how often judged classes (N,) occur, with 95 % intervals.

    `counts` is the confusion() of the test images, by which shares are corrected. tv is the total
    variation distance from uniform, sum_c |share_c - 1/10| / 2. Intervals of shares as seen are
    Wilson's, of corrected ones percentiles of a parametric bootstrap; that of a class which is
    never seen and corrected to 0 may be [0, 0], which is no certainty.
    """
    rng = np.random.default_rng(seed)
    count = len(classes)
    totals = counts.sum(1)
    at_least_1 = totals.clip(1)[:, None]  # a class may be absent from the test images
    share = np.bincount(classes.cpu(), minlength=10) / count
    rates = counts / at_least_1
    # Bootstrap: the judged classes drawn again, and each row of the confusion
    drawn_share = rng.multinomial(count, share, 1000) / count  # (1000, 10)
    drawn_rates = rng.multinomial(totals, rates, (1000, 10)) / at_least_1  # (1000, 10, 10)
    low, high = wilson(share, count)
    corrected = correct(share, rates)
    drawn = correct(drawn_share, drawn_rates)
    corrected_low, corrected_high = np.percentile(drawn, (2.5, 97.5), axis=0)

    numbers = {"tv": abs(share - 0.1).sum() / 2, "tv_corrected": abs(corrected - 0.1).sum() / 2,
               "smallest_share": share.min()}
    for name, end, values in (
            ("share", "", share), ("share", "_low", low), ("share", "_high", high),
            ("corrected", "", corrected), ("corrected", "_low", corrected_low),
            ("corrected", "_high", corrected_high)):
        for c in range(10):
            numbers[f"{name}_{c}{end}"] = values[c]
    return numbers


# ------------------------------------------------------------------------ diversity and pixels
def spread(features, classes):
    """Mean distance (10,) of two images of a class, over its first 1000 features (N, D).

    NaN for a class of fewer than two.
    """
    return np.array([torch.pdist(features[classes == c][:1000]).mean().item() for c in range(10)])


def steepness(images):
    """Mean absolute difference of a pixel and the one below in images uint8 (N, 28, 28)."""
    return images.float().diff(dim=1).abs().mean().item()


def nearest_training(images, training):
    """Distance and index (N,) of the nearest of `training` (M, 28, 28) to `images` (N, 28, 28).

    Both are uint8. The distance is the Euclidean one of pixels in [0, 1].
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


# ------------------------------------------------------------------------------ scoring a run
@dataclass
class Reference:
    """The real images of a data set as the judge sees them: what every run is measured by."""
    training: torch.Tensor  # uint8 (M, 28, 28)
    test: torch.Tensor  # uint8 (N, 28, 28); all that follows is of these
    test_labels: torch.Tensor  # (N,)
    features: torch.Tensor  # (N, 128)
    near: torch.Tensor  # (N,), their radii()
    wide: torch.Tensor  # (N,)
    counts: np.ndarray  # their confusion() (10, 10)
    spread: np.ndarray  # their spread() (10,)
    steepness: float
    copy_distance: float  # a sample nearer than this to a training image counts as a copy


@dataclass
class Score:
    """What the judge says of a run."""
    numbers: dict  # {measure: float}, all finite
    counts: np.ndarray | None  # confusion() of classes asked for; None where none were
    sheet: torch.Tensor  # uint8 (100, 28, 28), see make_sheet
    framed: torch.Tensor  # bool (100,): which of them the judge sees as another class
    pairs: torch.Tensor  # uint8 (60, 28, 28), see pair_up


def make_reference(judge, copy_distance, training, test, test_labels):
    """The Reference of training and test images uint8 (N, 28, 28), and test labels (N,)."""
    features, classes = judged(judge, test)
    near, wide = radii(features)
    return Reference(
        training=training, test=test, test_labels=test_labels, features=features, near=near,
        wide=wide, counts=confusion(test_labels, classes), spread=spread(features, classes),
        steepness=steepness(test), copy_distance=copy_distance)


def score(images, labels, judge, reference, *, seed):
    """The Score of one run: images uint8 (N, 28, 28), labels (N,) asked for or None."""
    counts = None
    if labels is not None:
        _, classes = judged(judge, images)
        counts = confusion(labels, classes)
    images = images[:COUNT]
    features, classes = judged(judge, images)

    numbers = {"images": len(images), "frechet": frechet_distance(features, reference.features)}
    numbers |= neighbourhoods(features, reference)
    accuracies = two_sample_test(images, reference.test, seed=seed)
    numbers["c2st"] = np.mean(accuracies)
    numbers["c2st_sd"] = np.std(accuracies, ddof=1)
    numbers |= abundance(classes, reference.counts, seed)
    diversity = spread(features, classes) / reference.spread
    numbers["diversity"] = np.nanmean(diversity)
    numbers["sharpness"] = steepness(images) / reference.steepness
    for c in range(10):
        numbers[f"diversity_{c}"] = diversity[c]
    if counts is not None:
        numbers["agreement"] = np.trace(counts) / counts.sum()
        for c in range(10):
            if counts[c].any():
                numbers[f"agreement_{c}"] = counts[c, c] / counts[c].sum()
    distance, index = nearest_training(images, reference.training)
    numbers["copies"] = (distance < reference.copy_distance).float().mean().item()

    finite = {name: float(value) for name, value in numbers.items() if math.isfinite(value)}
    asked = classes if labels is None else labels[:COUNT]
    order = first_of_each_class(asked)
    framed = (order >= 0) & (classes != asked)[order]
    return Score(finite, counts, sheet=make_sheet(images, order), framed=framed,
                 pairs=pair_up(images, distance, index, reference.training))


def score_real(judge, reference, *, seed):
    """The Score of real images, beside which a run's is read.

    Shares, agreement, diversity, sharpness and copies are those of the test images. Against
    themselves these have distance 0, so the Frechet distance, the four measures by neighbours (a
    mean of six parts) and the two-sample test (one part) are those of training images.
    """
    real = score(reference.test, reference.test_labels, judge, reference, seed=seed)
    features, _ = judged(judge, reference.training)
    real.numbers["frechet"], real.numbers["frechet_se"] = real_unit(
        features, reference.features, seed)
    torch.manual_seed(seed)
    size = len(features) // 6
    sixths = torch.randperm(len(features))[:6 * size].split(size)
    draws = [neighbourhoods(features[sixth], reference) for sixth in sixths]
    for name in draws[0]:
        real.numbers[name] = float(np.mean([draw[name] for draw in draws]))
    accuracies = two_sample_test(reference.training[sixths[0]], reference.test, seed=seed)
    real.numbers["c2st"] = float(np.mean(accuracies))
    real.numbers["c2st_sd"] = float(np.std(accuracies, ddof=1))
    return real


def classification_accuracy(images, labels, ruler, args, title):
    """Accuracies (PUPILS,) on the test images of classifiers trained on images and labels.

    The classification accuracy score (Ravuri & Vinyals 2019, arXiv:1905.10887): classifiers of the
    judge's kind learn from all of a run's images uint8 (N, 28, 28) and labels (N,) asked for. Only
    scores of equally many images can be compared.
    """
    accuracies = []
    for seed in range(args.seed, args.seed + PUPILS):
        pupil = make_judge(images, labels, dataset=ruler.dataset, epochs=PUPIL_EPOCHS, seed=seed,
                           title=f"{title}, seed {seed}")
        _, classes = judged(pupil, ruler.test)
        accuracies.append((classes == ruler.test_labels).float().mean().item())
    return accuracies


# ----------------------------------------------------------------- faults planted in real images
def planted(images, labels, seed):
    """{fault: (images uint8 (COUNT, 28, 28), labels)} of training images (N, 28, 28), (N,).

    What a measure should see, to be compared with what it sees. All begin with training images, so
    that copies of those are found everywhere but where every image is changed. Class 6 is the shirt
    of Fashion-MNIST.
    """
    generator = torch.Generator().manual_seed(seed)

    def shuffled(count):
        return torch.randperm(count, generator=generator)

    order = shuffled(len(images))
    spare = order[COUNT:2 * COUNT] if len(images) >= 2 * COUNT else order
    images, labels = images.cpu(), labels.cpu()
    base, of_base = images[order[:COUNT]], labels[order[:COUNT]]
    count = len(base)
    faults = {"training images": (base, of_base)}

    blurred = F.avg_pool2d(base[:, None].float(), 3, stride=1, padding=1, count_include_pad=False)
    faults["blur"] = blurred[:, 0].round().byte(), of_base
    chance = torch.rand(base.shape, generator=generator)
    for fault, share in (("light grain", 0.01), ("grain", 0.05)):  # salt and pepper
        salt_or_pepper = torch.where(chance > share / 2, 255, 0).byte()
        faults[fault] = base.where(chance > share, salt_or_pepper), of_base

    others = spare[labels[spare] != 6]
    for fault, kept in (("no class 6", 0.0), ("a third of class 6", 1 / 3)):
        sixes = (of_base == 6).nonzero()[:, 0]
        replaced = sixes[round(kept * len(sixes)):]
        chosen = others[:len(replaced)]
        changed, changed_labels = base.clone(), of_base.clone()
        changed[replaced[:len(chosen)]] = images[chosen]
        changed_labels[replaced[:len(chosen)]] = labels[chosen]
        faults[fault] = changed, changed_labels

    few = shuffled(count)[:max(1, count // 100)].repeat(100)[:count]
    faults["100 copies each"] = base[few], of_base[few]
    faults["one image"] = base[:1].repeat(count, 1, 1), of_base[:1].repeat(count)
    partner = shuffled(count)
    mixed = (base.float() + base[partner].float()) / 2
    faults["two images mixed"] = mixed.round().byte(), of_base
    exchanged = of_base.clone()
    exchanged[of_base == 0] = 6
    exchanged[of_base == 6] = 0
    faults["two labels exchanged"] = base, exchanged
    return faults


def fingerprint(args):
    """Numbers that tell whether today's code still computes what a record's did.

    Two steps of a judge's training, or, of scores, two of a detective's and most measures of drawn
    images and points; by one thread. `make check` takes them again.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    drawn = torch.Generator().manual_seed(0)
    images = torch.randint(256, (64, 28, 28), generator=drawn).byte()
    labels = torch.randint(10, (64,), generator=drawn)
    torch.manual_seed(args.seed)
    if args.train_judge or args.cas:
        epochs = PUPIL_EPOCHS if args.cas else args.epochs
        numbers = train_judge(Judge(), images, labels, dataset=args.dataset or "fashion",
                              epochs=epochs, batch_size=32, steps=2)
    else:
        numbers = train_detective(Detective(), images[:32], images[32:], steps=2, batch_size=32)
        x, y = torch.randn(2, 200, 16, generator=drawn)
        near, wide = radii(x)
        shares = abundance(labels, 10 * np.eye(10, dtype=int) + 1, args.seed)
        distance, _ = nearest_training(images[:32], images[32:])
        drawn_reference = argparse.Namespace(features=x, near=near, wide=wide)
        numbers += [frechet_distance(x, y + 1), *neighbourhoods(y, drawn_reference).values(),
                    *real_unit(x, y, args.seed), distance.mean().item(), steepness(images),
                    spread(x, labels.repeat(4)[:200])[0].item(), float(shares["corrected_0"]),
                    float(shares["corrected_0_high"])]
    torch.set_num_threads(threads)
    return numbers


# ---------------------------------------------------------------------------- samples of runs
ENDING = "_samples.npz"
REAL = ("real_mnist", "real_fashion")  # runs that no script makes: the training images


def record_of(run, out_dir):
    """The path of a run's record, in `out_dir` or a folder in it, or None."""
    trained = run.removeprefix("normal_")  # samples of N(0, I) beside those of a fitted prior
    for name in (f"{run}.json", f"{trained}.json"):
        for path in sorted(out_dir.rglob("*.json")):
            if path.name == name:  # which may have brackets, that rglob would read as a pattern
                return path
    return None


def dataset_of(run, out_dir):
    """The data set of a run: by its record under `out_dir`, else by its name."""
    record = record_of(run, out_dir)
    if record is not None:
        with contextlib.suppress(ValueError, LookupError, TypeError):  # no record of a run
            return json.loads(record.read_text())["settings"]["dataset"]
    words = re.split("[_-]", run)
    return "mnist" if "mnist" in words and "fashion" not in words else "fashion"


def choose_dataset(run, args):
    """The data set to score a run by; OSError where --dataset is not that of its record."""
    name = name_of(run)
    known = dataset_of(name, args.out_dir)
    fixed = run in REAL or record_of(name, args.out_dir) is not None
    if fixed and args.dataset not in (None, known):
        raise OSError(f"{run} is of --dataset {known} and is scored by that alone")
    return args.dataset or known


def name_of(run):
    """The name of a run that may be given as the path of its sample file.

    What a run's name cannot have, such as a space, becomes "-".
    """
    name = Path(run).name.removesuffix(".npz").removesuffix("_samples")
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")


def find_samples(run, runs_dir):
    """The sample file of a run's name or of a path; OSError says how to make one of ours."""
    path = folder(run) if run.endswith(".npz") else runs_dir / f"{run}{ENDING}"
    if not path.exists() and not path.is_symlink():
        raise OSError(f"{path} is not there: `python vae.py --dataset fashion`, `python gan.py` "
                      "and `python gan.py --conditional` make samples")
    return path


def read_samples(path):
    """Images uint8 (N, 28, 28) and labels uint8 (N,) or None of a sample file, as tensors.

    Whatever holds 28 x 28 grey images is read: uint8 or floats in [0, 1], [-1, 1] or [0, 255], as
    (N, 28, 28), (N, 784), (N, 1, 28, 28) or (N, 28, 28, 1). OSError says what is wrong else.
    """
    content = io.BytesIO(path.read_bytes())  # a file that cannot be read is not called damaged
    try:
        with np.load(content) as arrays:
            images, labels = arrays["images"], arrays.get("labels")
    except MemoryError:
        raise
    except KeyError as error:
        raise OSError(f"{path} holds no array named images") from error
    except Exception as error:  # NumPy and zipfile raise whatever the damage leads to
        raise OSError(f"{path} is damaged or no .npz file: make it again") from error
    try:
        images = as_bytes(as_grey(images))
        if labels is not None:
            labels = as_classes(labels, len(images))
    except ValueError as error:
        raise OSError(f"{path}: {error}") from error
    return images, labels


def as_grey(images):
    """An array of images as (N, 28, 28); ValueError where it is something else."""
    shape = images.shape
    size = int(np.prod(shape[1:]))
    if len(shape) == 4 and 3 in (shape[1], shape[3]):
        raise ValueError(f"images {shape} have three colours; grey ones are scored")
    if len(shape) < 2 or size != 28 * 28 or not {*shape[1:]} <= {1, 28, 784}:
        raise ValueError(f"images {shape} are not N images of 28 x 28 pixels")
    if len(images) < 30:
        raise ValueError(f"{len(images)} images are too few; at least 30, and {COUNT} for numbers "
                         "that can be compared")
    return images.reshape(-1, 28, 28)


def as_bytes(images):
    """Images (N, 28, 28) of any numbers as a uint8 tensor; ValueError where no range fits."""
    if images.dtype == np.uint8 and images.max() > 1:
        return torch.tensor(images)
    if images.dtype.kind not in "fiu":
        raise ValueError(f"images of type {images.dtype} are no numbers")
    if not np.isfinite(images).all():
        raise ValueError("images hold NaN or infinite pixels")
    least, most = images.min(), images.max()
    images = images.astype(float)
    if least >= 0 and most <= 1:
        images = 255 * images
    elif least >= -1 and most <= 1:
        images = 127.5 * images + 127.5
    elif not (least >= 0 and most <= 255):
        raise ValueError(f"pixels from {least:g} to {most:g} are neither in [0, 1], [-1, 1] nor "
                         "[0, 255]")
    return torch.tensor(images.round().astype(np.uint8))


def as_classes(labels, count):
    """An array of `count` labels as a uint8 tensor; ValueError where they are no classes."""
    if labels.shape != (count,):
        raise ValueError(f"labels {labels.shape} do not fit {count} images")
    if labels.dtype.kind not in "fiu" or not np.isin(labels, range(10)).all():
        raise ValueError("labels are not whole numbers from 0 to 9")
    return torch.tensor(labels.astype(np.uint8))


def sample_identity(images, labels):
    """identity() of a run's samples."""
    tensors = {"images": images}
    if labels is not None:
        tensors["labels"] = labels
    return identity(tensors)


# ------------------------------------------------------------------------------------ figures
def first_of_each_class(classes, columns=10):
    """Places (10 * columns,) of the first images of each class, row by row; else -1."""
    rows = []
    for c in range(10):
        first = (classes == c).nonzero()[:columns, 0]
        rows.append(F.pad(first, (0, columns - len(first)), value=-1))
    return torch.cat(rows)


def make_sheet(images, order):
    """uint8 (len(order), 28, 28): the images (N, 28, 28) in that order, grey where it is -1."""
    return torch.where(order[:, None, None] >= 0, images[order], 128).byte()


def pair_up(images, distance, index, training):
    """uint8 (60, 28, 28): three rows of ten images, each over the row of their neighbours.

    They are the 30 of `images` (N, 28, 28) nearest to a training image: to that of `index` (N,).
    """
    chosen = distance.argsort()[:30]
    samples = images[chosen].view(3, 10 * 28 * 28)
    neighbours = training[index[chosen]].view(3, 10 * 28 * 28)
    return torch.stack((samples, neighbours), 1).view(60, 28, 28)


def draw_tiles(path, images, names, columns=10, width=3.4, framed=()):
    """Images uint8 (N, 28, 28) on a fixed grey scale, in rows of `columns`, with their `names`.

    The figure is `width` inches wide, of which names take 0.65; so figures of equal width have
    their tiles at the same places, and a part of one can be cut out. `framed` (N,) says which
    images get a white frame.
    """
    rows = len(images) // columns
    edge = 0.04  # inches left free on each side
    left = edge + (0.65 if names else 0)
    inner = width - left - edge
    height = inner * (30 * rows + 2) / (30 * columns + 2)
    figure_height = height + 2 * edge
    figure = Figure(figsize=(width, figure_height), layout="none")
    axes = figure.add_axes((left / width, edge / figure_height,
                            inner / width, height / figure_height))
    tiles = torchvision.utils.make_grid(images[:, None].cpu(), nrow=columns, pad_value=128)[0]
    axes.imshow(tiles.numpy(), vmin=0, vmax=255, interpolation="nearest")
    axes.set(frame_on=False, xticks=[])
    axes.set_yticks(range(16, 16 + 30 * rows, 30), names)
    axes.tick_params(length=0)
    for place, is_framed in enumerate(framed):
        if is_framed:
            corner = (30 * (place % columns) + 0.5, 30 * (place // columns) + 0.5)
            axes.add_patch(Rectangle(corner, 30, 30, fill=False, edgecolor="w", linewidth=1.2))
    save_figure(figure, path)


# --------------------------------------------------------------------- what the commands do
def print_table(results):
    """A line for each of {run: numbers}, `-` where it lacks a measure."""
    width = max(24, *(len(name) for name in results))
    print(" " * width, *(f"{measure:>10}" for measure in COLUMNS))
    for name, numbers in results.items():
        cells = [f"{numbers[measure]:10.4f}" if measure in numbers else f"{'-':>10}"
                 for measure in COLUMNS]
        print(f"{name:{width}}", *cells)


class Ruler:
    """A data set, its judge and its Reference, each made when it is first asked for."""

    def __init__(self, dataset, args):
        self.dataset = dataset
        self.args = args
        self.device = choose_device(args.no_cuda)
        data = load_dataset(dataset, args.data_dir)
        self.training, self.labels, self.test, self.test_labels = (
            tensor.to(self.device) for tensor in data)

    @functools.cached_property
    def judge(self):
        """What load_judge gives: of the committed file, or of one that is trained in its place."""
        path = self.args.judge_dir / f"judge_{self.dataset}.pt"
        found = load_judge(path, self.device)
        if found is not None:
            return found
        content = {"images": self.training, "labels": self.labels,
                   "epochs": torch.tensor([self.args.epochs, self.args.seed])}
        instead = self.args.runs_dir / f"judge_{self.dataset}-{identity(content)[:12]}.pt"
        print(f"{path} is missing, the judge that comes with the project; scores by another, "
              f"{instead}, cannot be laid beside the report's")
        found = load_judge(instead, self.device)
        if found is None:
            self.train(instead)
            found = load_judge(instead, self.device)
        return found

    @functools.cached_property
    def reference(self):
        """The Reference of the test images."""
        judge, copy_distance, _ = self.judge
        return make_reference(judge, copy_distance, self.training, self.test, self.test_labels)

    def train(self, path):
        """Train a judge of the training images and write its file."""
        judge = make_judge(self.training, self.labels, dataset=self.dataset,
                           epochs=self.args.epochs, seed=self.args.seed, title=path.stem)
        distance, _ = nearest_training(self.test[:COUNT], self.training)
        copy_distance = distance.quantile(0.01).item()
        saved = io.BytesIO()  # torch.save itself hides a full disk
        torch.save(frozen(judge, copy_distance), saved)
        with replacing(path) as part:
            part.write_bytes(saved.getvalue())


def freeze_judge(args):
    """--train-judge: write the judge's file and record."""
    start = time.perf_counter()
    path = args.out_dir / f"{args.run_name}.pt"
    if path.exists() and not args.fresh:
        raise OSError(f"{path} is there, and scores name it: --fresh replaces it by another ruler")
    taken = fingerprint(args)
    ruler = Ruler(args.dataset, args)
    ruler.train(path)
    judge, copy_distance, sha256 = load_judge(path, ruler.device)
    _, classes = judged(judge, ruler.test)
    counts = confusion(ruler.test_labels, classes)
    numbers = {"accuracy": float(np.trace(counts) / counts.sum()),
               "copy_distance": copy_distance, "bytes": path.stat().st_size}
    write_record(path.with_suffix(".json"), args, [machine(ruler.device)], numbers, ["accuracy"],
                 fingerprint=taken, judge=sha256, seconds=time.perf_counter() - start,
                 parameters={"judge": sum(p.numel() for p in judge.parameters())},
                 curves={"confusion": counts.tolist()})
    print(f"{path}: accuracy {numbers['accuracy']:.4f}, SHA-256 {sha256}")


def score_planted(args):
    """--planted: every measure of real images with faults, {"<fault>/<measure>": number}."""
    start = time.perf_counter()
    taken = fingerprint(args)
    ruler = Ruler(args.dataset, args)
    judge, _, sha256 = ruler.judge
    results = {}
    for fault, (images, labels) in planted(ruler.training, ruler.labels, args.seed).items():
        images, labels = images.to(ruler.device), labels.to(ruler.device)
        results[fault] = score(images, labels, judge, ruler.reference, seed=args.seed).numbers
    print_table(results)
    numbers = {f"{fault}/{measure}": value for fault, scores in results.items()
               for measure, value in scores.items()}
    write_record(args.out_dir / f"{args.run_name}.json", args, [machine(ruler.device)], numbers,
                 fingerprint=taken, judge=sha256, seconds=time.perf_counter() - start, curves={})


def with_unit(numbers, ruler):
    """`numbers` and times_real, where the same judge has scored the real images."""
    path = ruler.args.judge_dir / f"real_{ruler.dataset}_scores.json"
    _, _, sha256 = ruler.judge
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):  # none, or damaged
        real = json.loads(path.read_text())
        if real["judge"] == sha256:
            return numbers | {"times_real": numbers["frechet"] / real["numbers"]["frechet"]}
    return numbers


def is_done(path, args, **fields):
    """Whether the record in `path` is of these settings, judge and samples, and of this code."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        record = json.loads(path.read_text())
        same_code = np.allclose(record.pop("fingerprint"), fields.pop("fingerprint"), rtol=1e-4)
        wanted = {"settings": settings_of(args), **fields}
        return same_code and all(record[name] == value for name, value in wanted.items())
    return False


def score_run(args, rulers):
    """Score the one run of `args`, with --cas by what classifiers learn; its numbers, its Ruler.

    `rulers` keeps the Ruler of each data set for the next run.
    """
    run = args.runs[0]
    name = name_of(run)
    real = run in REAL
    dataset = choose_dataset(run, args)
    if not real:
        images, labels = read_samples(find_samples(run, args.runs_dir))
    if dataset not in rulers:
        rulers[dataset] = Ruler(dataset, args)
    ruler = rulers[dataset]
    if real:
        images, labels = ruler.training, ruler.labels
    if args.cas and labels is None:
        raise OSError(f"{run} has no labels, from which classifiers would learn")

    start = time.perf_counter()
    judge, _, sha256 = ruler.judge
    fields = {"dataset": dataset, "judge": sha256, "samples": sample_identity(images, labels),
              "fingerprint": fingerprint(args)}
    record = record_of(name, args.out_dir)
    path = (record.parent if record else args.out_dir) / f"{args.run_name}.json"
    if is_done(path, args, **fields) and not args.fresh:
        print(f"{path} is done")
        return json.loads(path.read_text())["numbers"], ruler
    if len(images) < COUNT and not real:
        print(f"{run} has {len(images)} images: with less than {COUNT} the Frechet distance comes "
              "out too large, and recall too small")
    images = images.to(ruler.device)
    labels = None if labels is None else labels.to(ruler.device)
    curves = {}
    if args.cas:
        accuracies = classification_accuracy(images, labels, ruler, args, name)
        numbers = {"cas": float(np.mean(accuracies)), "cas_sd": float(np.std(accuracies, ddof=1))}
        curves["cas"] = accuracies
    else:
        if real:
            result = score_real(judge, ruler.reference, seed=args.seed)
        else:
            result = score(images, labels, judge, ruler.reference, seed=args.seed)
        numbers = result.numbers
        if result.counts is not None:
            curves["confusion"] = result.counts.tolist()
        if not real:
            curves |= along_paths(find_samples(run, args.runs_dir), judge, ruler.reference)
        draw_tiles(path.with_name(f"{name}_sheet.pdf"), result.sheet, CLASSES[dataset],
                   framed=result.framed)
        draw_tiles(path.with_name(f"{name}_neighbours.pdf"), result.pairs,
                   ["image", "nearest"] * 3)
        strip = images[:16]
        draw_tiles(path.with_name(f"{name}_strip.pdf"), strip, [], len(strip), width=4.0)
    headline = ["cas"] if args.cas else ["frechet"]
    write_record(path, args, [machine(ruler.device)], numbers, headline, **fields,
                 seconds=time.perf_counter() - start, curves=curves)
    return numbers, ruler


def runs_of(args):
    """The runs to score: those named, or all whose samples are in --runs-dir."""
    if args.runs:
        return args.runs
    names = sorted(path.name.removesuffix(ENDING)
                   for path in args.runs_dir.glob(f"[!.]*{ENDING}"))  # .part-*: being written
    chosen = [name for name in names
              if args.dataset in (None, dataset_of(name, args.out_dir))]
    if not chosen:
        raise OSError(f"no samples in {args.runs_dir}; to make some: `python vae.py --dataset "
                      "fashion`, `python gan.py`, `python gan.py --conditional`")
    return chosen


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
        match = images.shape[1:] == (28, 28) and labels.shape == images.shape[:1]
        if not match or len(images) == 0 or labels.max() > 9:
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
    others = ("data_dir", "out_dir", "runs_dir", "judge_dir", "resume", "fresh", "draw",
              "log_interval", "no_cuda", "run_name", "command", "flags")
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
                     "and '-', the first and the last no '.' or '-': give another --run-name")
    typed = [word for word in argv if word not in ("--resume", "--fresh")]
    args.command = shlex.join(["python", Path(__file__).name, *typed])
    return args


def run(main):
    """Call main(); a fault that a person can mend ends in one line and with status 1.

    Ctrl-C ends it with status 130 and SIGTERM with 143, after what was saved last.
    """
    script = Path(sys.argv[0]).name
    again = "vae.py, gan.py and p3_autoencoder.py go on with --resume"
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a notebook's stream has none
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
                       help="names of runs or paths of sample files; default: runs without scores")
    group.add_argument("--dataset", choices=CLASSES,
                       help="default: by the run's record or name, else fashion")
    task = group.add_mutually_exclusive_group()
    task.add_argument("--cas", action="store_true",
                      help="instead, the accuracy of classifiers trained on the samples")
    task.add_argument("--planted", action="store_true",
                      help="instead, score real images with planted faults")
    task.add_argument("--train-judge", action="store_true", help="instead, make the judge")
    group = parser.add_argument_group("training of classifiers")
    group.add_argument("--epochs", type=number(int, 1, 1000), default=12,
                       help="passes over the images")
    group.add_argument("--seed", type=number(int, 0, 2**31), default=1, help="of all chance")
    group.add_argument("--no-cuda", action="store_true", help="stay on the CPU")
    group = parser.add_argument_group("files")
    group.add_argument("--judge-dir", type=folder, default=HERE / "plots",
                       help="where judge_<dataset>.pt is")
    group.add_argument("--data-dir", type=folder, default=HERE / "data", help="torchvision's root")
    group.add_argument("--out-dir", type=folder, default=HERE / "plots",
                       help="for records and figures")
    group.add_argument("--runs-dir", type=folder, default=HERE / "runs", help="where samples are")
    group.add_argument("--fresh", action="store_true", help="make anew what is there")
    args = parser.parse_args(argv)
    args.flags = [word for word in argv if word not in args.runs]
    if args.runs and (args.planted or args.train_judge):
        parser.error("--planted and --train-judge take no runs")
    if args.cas and not args.runs:
        parser.error("--cas needs the runs whose samples are learned from")
    if args.dataset is None and (args.planted or args.train_judge):
        args.dataset = "fashion"
    chosen = ("runs", "dataset", "cas", "planted", "train_judge", "flags")
    return named(args, prefix_of(args), chosen, parser, argv)


def prefix_of(args):
    """The stem of a record's name; several runs have one each, that of their own command."""
    if args.train_judge:
        return f"judge_{args.dataset}"
    if args.planted:
        return f"p5_planted_{args.dataset}"
    if len(args.runs) == 1:
        return f"{name_of(args.runs[0])}_{'cas' if args.cas else 'scores'}"
    return "p5_compare"


def main(argv=None):
    args = parse_args(argv)
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32 on every device
    with own_settings():
        prepare_folders(args.out_dir, args.runs_dir)
        if args.train_judge:
            freeze_judge(args)
        elif args.planted:
            score_planted(args)
        else:
            rulers, results = {}, {}
            for run in runs_of(args):
                numbers, ruler = score_run(parse_args([run, *args.flags]), rulers)
                results[run] = numbers if args.cas else with_unit(numbers, ruler)
            if not args.cas:
                print_table(results)


if __name__ == "__main__":
    run(main)
