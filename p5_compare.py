"""Problems 5.3, 5.5 and 5.6: one ruler for the Fashion-MNIST samples of every model.

    python p5_compare.py gan_fashion       a run's name: scores runs/gan_fashion_samples.npz
    python p5_compare.py a.npz b.npz       anyone's: `images` uint8 (N, 28, 28), `labels` (N,)
    python p5_compare.py real_fashion      real images, a run like any other
    python p5_compare.py --planted         real images with faults planted into them
    python p5_compare.py --train-judge     the judge itself

The ruler is the judge, a classifier: plots/judge_fashion.pt. Scores can be compared where they name
the same judge, by its SHA-256, and the same real images: the test images or, of a run with
--train-images N, training images that it has not seen. The first 10 000 samples are scored, see
score(). Into plots/, or plots/sweep/ where the run's record is there, go
    <run>_scores.json    the numbers
    <run>_first.npz      the first hundred samples
    <run>_sheet.pdf      of them the first eight of each class that was asked for, framed where the
                         judge sees another; without labels, of each class that the judge sees
    <run>_strip.pdf      of them the first sixteen
"""
import argparse
import hashlib
import io
import json
import math
import os
import re
import shlex
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    os.environ["MPLBACKEND"] = "agg"  # a notebook hands down its own, which may be missing here
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import nn
from tqdm import tqdm

COUNT = 10_000  # images of a run that are scored
LEAST = 30  # images that can be scored at all
NEIGHBOUR = 3  # the one whose distance is the radius of precision and recall
COPY_DISTANCE = "copy distance"  # in the judge's file, beside its weights
REAL = "real_fashion"  # a run that no script makes
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
           "boot")
SHOWN = ("frechet_ratio", "pixel_ratio", "precision", "recall", "tv", "agreement", "copies")


# --------------------------------------------------------------------------------------- judge
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


def augment(images):
    """uint8 (B, 28, 28) -> (B, 1, 28, 28) in [0, 1], moved by up to one pixel, half mirrored."""
    down, right = torch.randint(3, (2,)).tolist()
    padded = F.pad(images[:, None].float() / 255, (1, 1, 1, 1))
    x = padded[..., down:down + 28, right:right + 28]
    mirrored = torch.rand(len(x), 1, 1, 1).to(x.device) < 0.5
    return torch.where(mirrored, x.flip(3), x)


def train_judge(judge, images, labels, epochs=12, batch_size=256):
    """Train on images uint8 (N, 28, 28) and labels (N,)."""
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.05)
    orders = [torch.randperm(len(images)).to(images.device) for _ in range(epochs)]
    batches = [batch for order in orders for batch in order.split(batch_size)]  # of all epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=len(batches))
    for batch in tqdm(batches, desc="training the judge", unit="batch", disable=None):
        loss = F.cross_entropy(judge(augment(images[batch])), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def identity(tensors):
    """SHA-256 over name, type, shape and bytes of {name: tensor}, in their order."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_judge(path, device):
    """The Judge in `path`, its copy distance and its identity; OSError where it is no judge."""
    judge = Judge().to(device, memory_format=torch.channels_last)  # CPUs convolve it faster
    try:
        tensors = torch.load(path, map_location=device, weights_only=True)
        sha256 = identity(tensors)
        copy_distance = tensors.pop(COPY_DISTANCE).item()
        judge.load_state_dict(tensors)
    except FileNotFoundError as error:
        raise OSError(f"{path} is missing: the judge that comes with the project should lie there, "
                      "or where --judge says") from error
    except OSError:  # it cannot be read, which is no damage
        raise
    except Exception as error:  # torch.load raises whatever the damage leads to
        raise OSError(f"{path} is damaged or no judge: take the project's own") from error
    return judge.eval(), copy_distance, sha256


# ------------------------------------------------------------------- images that are to be scored
@dataclass
class Images:
    """Images, and what the judge sees in them."""
    pixels: torch.Tensor  # uint8 (N, 28, 28)
    labels: torch.Tensor | None  # (N,), of real images, or what was asked for
    features: torch.Tensor  # (N, 128)
    classes: torch.Tensor  # (N,)


@torch.no_grad()
def see(judge, pixels, labels=None):
    """The Images of uint8 (N, 28, 28)."""
    features = torch.cat([judge.features(batch[:, None].float() / 255)
                          for batch in pixels.split(500)])
    return Images(pixels, labels, features, judge.classify(features).argmax(1))


class Ruler:
    """The judge and the real images that samples are compared with.

    unit and pixel_unit: Frechet distance of a sixth of the training images to the test images, in
    features and in pixels, a mean over twelve. sixths: their features.
    """

    def __init__(self, args, device):
        path = Path(args.judge or HERE / "plots" / "judge_fashion.pt")
        self.judge, self.copy_distance, self.sha256 = load_judge(path, device)
        self.training, self.labels, test, test_labels = (
            tensor.to(device) for tensor in load_dataset("fashion", args.data_dir))
        print(f"by the judge {self.sha256[:12]} of Fashion-MNIST ({path})", flush=True)
        self.test = see(self.judge, test, test_labels)
        generator = torch.Generator().manual_seed(args.seed)
        size = len(self.training) // 6
        parts = []
        for _ in range(2):
            order = torch.randperm(len(self.training), generator=generator)
            parts += order[:6 * size].split(size)
        features = see(self.judge, self.training).features
        self.sixths = [features[part] for part in parts]
        self.unit = float(np.mean([frechet_distance(sixth, self.test.features)
                                   for sixth in self.sixths]))
        self.pixel_unit = float(np.mean([frechet_distance(half(self.training[part]), half(test))
                                         for part in parts]))

    def choose_real(self, trained_on):
        """Compare with what a run has not seen that was trained on the first so many images."""
        self.seen = self.training[:trained_on]
        left = self.training[trained_on:trained_on + COUNT]
        self.real, self.real_name = self.test, "test images"
        if len(left) >= LEAST:
            self.real = see(self.judge, left, self.labels[trained_on:trained_on + COUNT])
            self.real_name = f"training images from {trained_on} on, which it has not seen"
        self.near = radii(self.real.features)


# ------------------------------------------------------------------------------------ measures
def score(samples, ruler):
    """{measure: number} of samples (Images). To add a measure, add its line here.

    A ratio is over the same distance of real images. No label and no net has a part in that of
    pixels, but only means and covariances. tv is the total variation distance of the shares of the
    classes from uniform.
    """
    real = ruler.real
    numbers = {"images": len(samples.pixels)}
    numbers["frechet"] = frechet_distance(samples.features, real.features)
    numbers["frechet_ratio"] = numbers["frechet"] / ruler.unit
    numbers["pixel_frechet"] = frechet_distance(half(samples.pixels), half(real.pixels))
    numbers["pixel_ratio"] = numbers["pixel_frechet"] / ruler.pixel_unit
    numbers["sharpness"] = steepness(samples.pixels) / steepness(real.pixels)
    numbers["copies"] = copies(samples.pixels, ruler.seen, ruler.copy_distance)
    numbers |= precision_recall(samples.features, real.features, ruler.near)
    numbers |= abundance(samples.classes, confusion(real))
    numbers |= diversity(samples, real)
    numbers |= agreement(samples)
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}


def score_real(ruler):
    """Scores of the test images, beside which a run's are read.

    Their distance to themselves is 0, so distances, precision and recall are those of training
    images, as many.
    """
    sixths = [precision_recall(features, ruler.real.features, ruler.near)
              for features in ruler.sixths[:6]]
    means = {name: float(np.mean([sixth[name] for sixth in sixths])) for name in sixths[0]}
    return score(ruler.real, ruler) | means | {
        "frechet": ruler.unit, "pixel_frechet": ruler.pixel_unit,
        "frechet_ratio": 1.0, "pixel_ratio": 1.0}


def precision_recall(x, real, near):
    """{measure: share} of features x (M, D) and `real` (N, D), the radii() of which are `near`.

    Of x inside a ball of the real, and the other way round (Kynkaanniemi et al. 2019,
    arXiv:1904.06991).
    """
    precise = 0
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for batch, radius in zip(x.split(250), radii(x).split(250)):
        squared = squared_distances(batch, real)  # (250, N)
        precise += (squared <= near).any(1).sum().item()
        recalled |= (squared <= radius[:, None]).any(0)
    return {"precision": precise / len(x), "recall": recalled.double().mean().item()}


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
    """Squared distances (N,) of points x (N, D) to their NEIGHBOUR-th nearest other point."""
    return torch.cat([
        squared_distances(batch, x).topk(NEIGHBOUR + 1, largest=False).values[:, NEIGHBOUR]
        for batch in x.split(250)])  # the nearest is the point itself


def confusion(images):
    """Counts (10, 10) of labels, the row, that are judged to be of a class, the column."""
    pairs = 10 * images.labels.long() + images.classes
    return np.bincount(pairs.cpu(), minlength=100).reshape(10, 10)


def abundance(classes, counts):
    """{measure: value} of how often judged classes (N,) occur, with Wilson's 95 % intervals.

    The judge takes class i for class j at a rate C_ij, known from the confusion() of real images,
    so that of true shares p it sees p C. Solving for p corrects them, as far as it errs on samples
    as on real images; what noise makes negative is set to 0 and the rest rescaled.
    """
    share = np.bincount(classes.cpu(), minlength=10) / len(classes)
    z2 = 1.96**2 / len(classes)
    half = np.sqrt(z2 * share * (1 - share) + z2**2 / 4)
    low, high = (share + z2 / 2 - half) / (1 + z2), (share + z2 / 2 + half) / (1 + z2)
    rates = counts / counts.sum(1).clip(1)[:, None]  # a class may be absent
    corrected = (share @ np.linalg.pinv(rates)).clip(0)
    corrected /= corrected.sum()
    numbers = {"tv": abs(share - 0.1).sum() / 2, "smallest_share": share.min()}
    for c in range(10):
        numbers |= {f"share_{c}": share[c], f"share_{c}_low": low[c], f"share_{c}_high": high[c],
                    f"corrected_{c}": corrected[c]}
    return numbers


def diversity(samples, real):
    """Mean distance of two images of a class over that of real ones, of each class and of all."""
    spread = [[torch.pdist(images.features[images.classes == c][:1000]).mean().item()
               for c in range(10)] for images in (samples, real)]
    ratios = np.divide(*spread)  # NaN for a class of fewer than two
    return {"diversity": np.nanmean(ratios)} | {f"diversity_{c}": ratios[c] for c in range(10)}


def agreement(samples):
    """Share judged to be of the class that was asked for, of all and of each class."""
    if samples.labels is None:
        return {}
    counts = confusion(samples)
    numbers = {f"agreement_{c}": counts[c, c] / counts[c].sum()
               for c in range(10) if counts[c].any()}
    return numbers | {"agreement": np.trace(counts) / counts.sum()}


def half(pixels):
    """uint8 (N, 28, 28) at half the resolution: (N, 196) in [0, 1], means of 2 x 2 pixels."""
    return F.avg_pool2d(pixels[:, None].float() / 255, 2).flatten(1)


def steepness(pixels):
    """Mean absolute difference of a pixel and the one below in uint8 (N, 28, 28)."""
    return pixels.float().diff(dim=1).abs().mean().item()


def nearest(x, y):
    """Euclidean distance (N,) of each of x (N, D) to the nearest of y (M, D)."""
    squares = y.square().sum(1)
    # |x - y|^2 = |x|^2 + |y|^2 - 2 x y, of which |x|^2 matters to no minimum
    least = [torch.addmm(squares, batch, y.T, alpha=-2).amin(1) for batch in x.split(100)]
    return (torch.cat(least) + x.square().sum(1)).clamp(min=0).sqrt()


def whole(pixels):
    """uint8 (N, 28, 28) -> (N, 784) in [0, 1]."""
    return pixels.flatten(1).float() / 255


def copies(pixels, training, copy_distance):
    """Share of uint8 (N, 28, 28) nearer to a training image than 99 % of test images are.

    Distances at half resolution are at most half as large: what is far there is no copy.
    """
    near = 2 * nearest(half(pixels), half(training)) < copy_distance + 1e-3  # of rounding
    distance = nearest(whole(pixels[near]), whole(training))
    return (distance < copy_distance).sum().item() / len(pixels)


def along_paths(paths, ruler):
    """{kind_inside: a value for each step} of gan.py's paths uint8 (2, pairs, steps, 28, 28).

    Of line and arc between two z: the share of images inside a real one's ball, as in precision.
    """
    curves = {}
    for kind, pixels in zip(("line", "arc"), paths):
        features = see(ruler.judge, pixels.flatten(0, 1)).features
        inside = torch.cat([(squared_distances(x, ruler.real.features) <= ruler.near).any(1)
                            for x in features.split(250)])
        curves[f"{kind}_inside"] = inside.view(pixels.shape[:2]).double().mean(0).tolist()
    return curves


# ----------------------------------------------------------------- faults planted in real images
def planted(images, labels, seed):
    """{fault: (images uint8 (COUNT, 28, 28), labels)} of training images (N, 28, 28), (N,).

    What a measure should see. All are training images, so that copies are found everywhere but
    where every image is changed. Class 6 is the shirt.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
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

    few = torch.randperm(count, generator=generator)[:max(1, count // 100)].repeat(100)[:count]
    faults["100 copies each"] = base[few], of_base[few]
    faults["one image"] = base[:1].repeat(count, 1, 1), of_base[:1].repeat(count)
    partner = torch.randperm(count, generator=generator)
    mixed = (base.float() + base[partner].float()) / 2
    faults["two images mixed"] = mixed.round().byte(), of_base
    exchanged = of_base.clone()
    exchanged[of_base == 0] = 6
    exchanged[of_base == 6] = 0
    faults["two labels exchanged"] = base, exchanged

    for fault, share in (("13 % broken", 0.13), ("50 % broken", 0.5)):
        broken = base.clone()  # the lower half is another garment's
        halves = base[partner[:round(share * count)], 14:]
        broken[:len(halves), 14:] = halves
        faults[fault] = broken, of_base
    return faults


# -------------------------------------------------------------------------------- sample files
def locate(run, runs_dir):
    """Name of the results, source and path of samples, given as a run's name or as a path."""
    path = Path(run)
    if path.suffix != ".npz":
        return run, run, runs_dir / f"{run}_samples.npz"
    name = path.stem.removesuffix("_samples")
    of_run = path.resolve() == (runs_dir / f"{name}_samples.npz").resolve()
    return name, name if of_run else str(path.resolve()), path


def read_samples(path):
    """Images uint8 (N, 28, 28), labels (N,) or None, paths or None, and images trained on.

    OSError says what is wrong with the file.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes())) as file:
            images, labels, paths = file["images"], file.get("labels"), file.get("paths")
            trained_on = int(file.get("train_images", 60_000))
    except FileNotFoundError as error:
        raise OSError(f"{path} is not there: vae.py and gan.py make samples") from error
    except OSError:  # it cannot be read, which is no damage
        raise
    except Exception as error:  # NumPy and zipfile raise whatever the damage leads to
        raise OSError(f"{path} is damaged or no .npz file with `images` ({error!r})") from error
    if (images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (28, 28)
            or len(images) < LEAST or images.max() <= 1):
        raise OSError(f"{path}: `images` is {in_words(images)}; wanted is uint8 (N, 28, 28) from "
                      f"0 to 255, with N at least {LEAST}")
    if labels is not None and (labels.dtype.kind not in "iu" or labels.shape != (len(images),)
                               or labels.min() < 0 or labels.max() > 9):
        raise OSError(f"{path}: `labels` is {in_words(labels)}; wanted are whole numbers "
                      f"({len(images)},) from 0 to 9")
    if trained_on < 1:
        raise OSError(f"{path}: `train_images` is {trained_on}; wanted is a number from 1")
    if paths is not None and (paths.dtype != np.uint8 or paths.shape[3:] != (28, 28)):
        paths = None  # somebody else's, and something else
    return images, labels, paths, trained_on


def in_words(array):
    """Type, shape and range of an array."""
    if array.size == 0 or array.dtype.kind not in "fiu":
        return f"{array.dtype} {array.shape}"
    return f"{array.dtype} {array.shape} from {array.min():g} to {array.max():g}"


# ------------------------------------------------------------------------------------- figures
def draw_pictures(stem, pixels, asked, classes):
    """Sheet and strip of a run's first hundred samples, uint8 (N, 28, 28).

    Asked for are classes (N,), judged `classes` (N,).
    """
    rows = [(asked == c).nonzero()[:8, 0] for c in range(10)]
    order = torch.cat([F.pad(row, (0, 8 - len(row)), value=-1) for row in rows])  # -1: no more
    sheet = torch.where(order[:, None, None] >= 0, pixels[order], 128).byte()
    framed = (order >= 0) & (classes != asked)[order]
    draw_tiles(f"{stem}_sheet.pdf", sheet, 8, CLASSES, framed)
    draw_tiles(f"{stem}_strip.pdf", pixels[:16], 16)


def draw_tiles(path, pixels, columns, names=(), framed=()):
    """Images uint8 (N, 28, 28), each 9 mm wide, in rows of `columns`, beside the rows' names.

    The grey scale is fixed, and the place of each image. Two sheets side by side take 7.1 inches.
    framed (N,): whether it has a white frame.
    """
    rows = math.ceil(len(pixels) / columns)
    pixel = 9.05 / 25.4 / 28  # inches
    left = 0.53 if names else 0.0  # inches for the names
    width, height = (29 * columns + 1) * pixel, (29 * rows + 1) * pixel
    figure = Figure(figsize=(left + width, height), layout="none")
    axes = figure.add_axes((left / (left + width), 0, width / (left + width), 1))
    tiles = torchvision.utils.make_grid(pixels[:, None].cpu(), columns, padding=1, pad_value=128)
    axes.imshow(tiles[0].numpy(), vmin=0, vmax=255, interpolation="nearest")
    axes.set(frame_on=False, xticks=[])
    axes.set_yticks(range(14, 14 + 29 * len(names), 29), names, fontsize=7)
    axes.tick_params(length=0, pad=2)
    for place in np.flatnonzero(framed):
        corner = (29 * (place % columns), 29 * (place // columns))
        axes.add_patch(Rectangle(corner, 29, 29, fill=False, edgecolor="w", linewidth=1.2))
    save_figure(figure, path)


# ------------------------------------------------------------------------------ what commands do
def make_judge(args, device):
    """--train-judge: write the judge's file and record."""
    path = args.out_dir / "judge_fashion.pt"
    if path.exists():
        raise OSError(f"{path} is there, and scores name it: give another --out-dir")
    images, labels, test_images, test_labels = (
        tensor.to(device) for tensor in load_dataset("fashion", args.data_dir))
    torch.manual_seed(args.seed)
    judge = Judge().to(device, memory_format=torch.channels_last)
    train_judge(judge, images, labels)
    tensors = {name: tensor if "running_" in name or "num_batches" in name else tensor.half()
               for name, tensor in judge.state_dict().items()}
    distances = nearest(whole(test_images), whole(images))
    tensors[COPY_DISTANCE] = distances.quantile(0.01).double().cpu()
    content = io.BytesIO()
    torch.save(tensors, content)
    write_file(path, content.getvalue())
    judge, copy_distance, sha256 = load_judge(path, device)
    accuracy = (see(judge, test_images).classes == test_labels).double().mean().item()
    write_record(path.with_suffix(".json"), args, device, judge=sha256, curves={},
                 numbers={"accuracy": accuracy, "copy_distance": copy_distance},
                 seconds=time.process_time())
    print(f"{path}: accuracy {accuracy:.4f}, SHA-256 {sha256}")


def show(name, numbers):
    """Print the most important numbers of a run."""
    shown = (f"{measure} {numbers[measure]:.4g}" for measure in SHOWN if measure in numbers)
    print(f"{name}:", *shown, flush=True)


def score_planted(ruler, args, device):
    """--planted: every measure of real images with faults, {"<fault>/<measure>": number}."""
    ruler.choose_real(len(ruler.training))
    numbers = {}
    for fault, (pixels, labels) in planted(ruler.training, ruler.labels, args.seed).items():
        samples = see(ruler.judge, pixels.to(device), labels.to(device))
        scores = score(samples, ruler)
        show(fault, scores)
        numbers |= {f"{fault}/{name}": value for name, value in scores.items()}
    write_record(args.out_dir / "p5_planted_fashion.json", args, device, dataset="fashion",
                 judge=ruler.sha256, real=ruler.real_name, numbers=numbers, curves={},
                 seconds=time.process_time())


def prepare(run, args):
    """Name, source, samples and path of the scores of `run`; OSError where it cannot be scored."""
    name, source, samples_path = locate(run, args.runs_dir)
    words = re.split("[_-]", name)
    if "mnist" in words and "fashion" not in words:  # vae_mnist
        raise OSError(f"{run} is of MNIST by its name: samples of Fashion-MNIST alone are scored")
    samples = None if run == REAL else read_samples(samples_path)
    trained = name.removeprefix("normal_")  # samples of N(0, I) beside those of a fitted prior
    swept = args.out_dir / "sweep"
    folder = swept if (swept / f"{trained}.json").exists() else args.out_dir
    path = folder / f"{name}_scores.json"
    try:
        scored = json.loads(path.read_text())["settings"]["runs"]
    except (OSError, ValueError, LookupError, TypeError):  # there are none, or they are damaged
        scored = [source]
    if scored != [source]:
        raise OSError(f"{path} holds the scores of {scored}, and would lose them to {source}: "
                      "rename that file, or give another --out-dir")
    return name, source, samples, path


def score_run(name, source, found, path, ruler, args, device):
    """Score what prepare() found, write record, first samples and pictures."""
    curves = {}
    if found is None:
        ruler.choose_real(len(ruler.training))
        samples, numbers = ruler.real, score_real(ruler)
    else:
        *arrays, trained_on = found
        pixels, labels, paths = (
            None if array is None else torch.from_numpy(array).to(device) for array in arrays)
        ruler.choose_real(trained_on)
        labels = None if labels is None else labels[:COUNT]
        samples = see(ruler.judge, pixels[:COUNT], labels)
        numbers = score(samples, ruler)
        if paths is not None:
            curves = along_paths(paths, ruler)
    first = {"images": samples.pixels[:100].cpu()}
    asked = samples.classes
    if samples.labels is not None:
        asked = samples.labels
        first["labels"] = asked[:100].byte().cpu()
    content = io.BytesIO()
    np.savez(content, **first)
    write_file(path.with_name(f"{name}_first.npz"), content.getvalue())
    draw_pictures(path.with_name(name), samples.pixels[:100], asked[:100], samples.classes[:100])
    run_args = argparse.Namespace(**vars(args) | {"runs": [source]})
    write_record(path, run_args, device, dataset="fashion", judge=ruler.sha256,
                 real=ruler.real_name, numbers=numbers, curves=curves, seconds=time.process_time())
    show(f"{path}, against {ruler.real_name}", numbers)
    if len(samples.pixels) < COUNT:
        print(f"{name} has {len(samples.pixels)} images: with less than {COUNT} the Frechet "
              "distances come out too large, and recall too small")


def score_runs(args, device):
    """Score runs, one after the other; those that cannot be have a line each, and status 1."""
    prepared, wrong = {}, []
    for run in args.runs:
        try:
            name, *rest = prepare(run, args)
            if name in prepared:
                raise OSError(f"{run} is a second {name}, whose scores would be lost: rename it")
            prepared[name] = rest
        except OSError as error:
            wrong.append(error)
    if prepared:
        ruler = Ruler(args, device)
    for name, rest in prepared.items():
        score_run(name, *rest, ruler, args, device)
    for error in wrong:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
    if wrong:
        sys.exit(1)


# -------------------------------------------------------------------------------- command line
def parse_args():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("runs", nargs="*", metavar="RUN",
                        help="names of runs or paths of sample files")
    parser.add_argument("--planted", action="store_true", help="instead, real images with faults")
    parser.add_argument("--train-judge", action="store_true", help="instead, make the judge")
    parser.add_argument("--judge", help="its file; default: plots/judge_fashion.pt beside this")
    parser.add_argument("--seed", type=int, default=1, help="of all chance")
    parser.add_argument("--data-dir", type=Path, default=HERE / "data", help="torchvision's root")
    parser.add_argument("--out-dir", type=Path, default=HERE / "plots", help="of the results")
    parser.add_argument("--runs-dir", type=Path, default=HERE / "runs", help="of the samples")
    parser.add_argument("--no-cuda", action="store_true", help="stay on the CPU")
    args = parser.parse_args()
    if (len(args.runs) > 0) + args.planted + args.train_judge != 1:
        parser.error("give the names of runs, or --planted, or --train-judge")
    return args


def main():
    args = parse_args()
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32 on every device
    device = choose_device(args.no_cuda)
    if args.train_judge:
        make_judge(args, device)
    elif args.planted:
        score_planted(Ruler(args, device), args, device)
    else:
        score_runs(args, device)


# ---------------------------------------------- files and runs: the same text in every script
HERE = Path(__file__).resolve().parent
NO_SETTINGS = ("data_dir", "out_dir", "runs_dir", "resume", "draw", "log_interval", "no_cuda",
               "run_name")  # flags that do not change what a run computes
STYLE = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False,
         "image.cmap": "gray", "figure.constrained_layout.use": True, "pdf.fonttype": 42,
         "legend.frameon": False, "lines.linewidth": 1.2}


def load_dataset(name, data_dir):
    """Training images, labels, test images, labels: uint8 (N, 28, 28), int64 (N,).

    OSError where they are missing and cannot be downloaded, or are damaged.
    """
    dataset = {"mnist": torchvision.datasets.MNIST,
               "fashion": torchvision.datasets.FashionMNIST}[name]
    raw = data_dir / dataset.__name__ / "raw"
    files = [raw / packed.removesuffix(".gz") for packed, _ in dataset.resources]
    if not all(file.exists() for file in files):
        download(dataset, data_dir, files)
    try:
        train, test = dataset(data_dir, train=True), dataset(data_dir, train=False)
    except (AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise OSError(f"{raw} is damaged ({error!r}): delete it, and this command downloads it "
                      "again, or give another --data-dir") from error
    return train.data, train.targets, test.data, test.targets


def download(dataset, data_dir, files):
    """Fetch a data set into a folder of its own, then move it: two scripts may do so at once."""
    print(f"downloading {dataset.__name__} from {dataset.mirrors[0]}", flush=True)
    socket.setdefaulttimeout(30)  # seconds without an answer
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=data_dir) as folder:
            dataset(folder, download=True)
            files[0].parent.mkdir(parents=True, exist_ok=True)
            for file in files:
                Path(folder, dataset.__name__, "raw", file.name).replace(file)
    except Exception as error:  # a network fails in many ways
        raise OSError(f"{dataset.__name__} is not in {data_dir} and cannot be downloaded "
                      f"({error!r}): mend that, or give another --data-dir") from error


def settings_of(args):
    """{name: value} of the flags that decide what a run computes."""
    return {name: value for name, value in vars(args).items() if name not in NO_SETTINGS}


def choose_device(no_cuda):
    """The GPU where there is one; OSError where PyTorch cannot use it."""
    device = torch.device("cuda" if torch.cuda.is_available() and not no_cuda else "cpu")
    try:
        torch.ones(1, device=device).sum().item()
    except RuntimeError as error:  # a GPU that is full, or too old for this PyTorch
        cause = str(error).splitlines()[0]
        raise OSError(f"the GPU cannot be used ({cause}): give --no-cuda") from error
    return device


def write_file(path, content):
    """Write bytes beside `path`, then rename them: a file is whole or not there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part-{path.name}")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def save_figure(figure, path):
    """Write a figure as PDF, without its date: the same picture is the same bytes."""
    content = io.BytesIO()
    figure.savefig(content, format="pdf", metadata={"CreationDate": None})
    write_file(path, content.getvalue())


def write_record(path, args, device, **results):
    """Write command, settings, code, machine and results of a run as JSON."""
    typed = [word for word in sys.argv[1:] if word != "--resume"]
    cuda = device.type == "cuda"
    processor = torch.cuda.get_device_name() if cuda else torch.backends.cpu.get_cpu_capability()
    record = {"command": shlex.join(["python", Path(__file__).name, *typed]),
              "settings": settings_of(args), "code": code_identity(), "processor": processor,
              "threads": torch.get_num_threads(), "torch": torch.__version__, **results}
    write_file(path, (json.dumps(record, indent=1) + "\n").encode())


def code_identity(script=__file__):
    """A hash of a script above its files and runs, without lines that are comments or empty."""
    source = Path(script).read_text(encoding="utf-8")
    problem, _, _ = source.partition("files and runs: the same text")
    kept = [line for line in problem.splitlines() if line.strip() and line.strip()[0] != "#"]
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:12]


def run(main, stopped=""):
    """Call main() with this script's figure style; what a person can mend ends in one line."""
    script = Path(__file__).name
    try:
        with style.context(["default", STYLE]):  # whatever a person has configured
            main()
    except KeyboardInterrupt:
        sys.exit(f"\n{script}: stopped{stopped}")
    except (OSError, FloatingPointError) as error:
        sys.exit(f"{script}: {error}")
    except torch.OutOfMemoryError as error:
        sys.exit(f"{script}: {error}; give smaller sizes, or --no-cuda")


if __name__ == "__main__":
    run(main)
