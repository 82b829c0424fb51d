"""Problems 5.3, 5.5 and 5.6: one ruler for the Fashion-MNIST samples of every model.

    python p5_compare.py gan_fashion      a run's name: scores runs/gan_fashion_samples.npz
    python p5_compare.py a.npz b.npz      anyone's: `images` uint8 (N, 28, 28), `labels` (N,)
    python p5_compare.py real_fashion     real images
    python p5_compare.py --planted        real images with faults planted into them
    python p5_compare.py --train-judge    the judge itself

The ruler is the judge, a classifier: plots/judge_fashion.pt. Scores can be compared where they name
the same judge, by its SHA-256, and the same real images: the test images or, of a run with
--train-images N, training images that it has not seen. The first 10 000 samples are scored, see
score(); of fewer the Frechet distances come out too large. Into plots/, or
plots/sweep/ where the run's record is there, go
    <run>_scores.json    the numbers
    <run>_first.npz      the first hundred samples
    <run>_sheet.pdf      of them the first eight of each class: that was asked for or, without
                         labels, that the judge sees
    <run>_strip.pdf      of them the first sixteen
"""
import argparse
import hashlib
import io
import json
import math
import os
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
from torch import nn
from tqdm import tqdm

COUNT = 10_000  # images of a run that are scored
LEAST = 30  # images that can be scored at all
NEIGHBOUR = 3  # the one whose distance is the radius of precision and recall
COPY_DISTANCE = "copy distance"  # in the judge's file, beside its weights
REAL = "real_fashion"  # a run that no script makes
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
           "boot")


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


def identity(tensors):
    """SHA-256 over name, type, shape and bytes of {name: tensor}, in their order."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_judge(path, device):
    """The Judge in `path`, its copy distance and its identity; OSError where it is no judge."""
    if not path.exists():
        raise OSError(f"{path} is missing: it comes with the project")
    judge = Judge().to(device, memory_format=torch.channels_last)  # CPUs convolve it faster
    try:
        tensors = torch.load(path, map_location=device, weights_only=True)
        sha256 = identity(tensors)
        copy_distance = tensors.pop(COPY_DISTANCE).item()
        judge.load_state_dict(tensors)
    except Exception as error:  # torch.load raises whatever the damage leads to
        raise OSError(f"{path} is not the judge that comes with the project ({error!r})") from error
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
    features and in pixels, a mean over the twelve `sixths`.
    """

    def __init__(self, args, device):
        path = HERE / "plots" / "judge_fashion.pt"
        self.judge, self.copy_distance, self.sha256 = load_judge(path, device)
        self.training, self.labels, test, test_labels = (
            tensor.to(device) for tensor in load_dataset("fashion", args.data_dir))
        print(f"by the judge {self.sha256[:12]} of Fashion-MNIST ({path})", flush=True)
        self.test = see(self.judge, test, test_labels)
        self.features = see(self.judge, self.training).features
        generator = torch.Generator().manual_seed(1)
        orders = [torch.randperm(len(self.training), generator=generator) for _ in range(2)]
        self.sixths = [sixth for order in orders for sixth in order.chunk(6)]
        self.unit = np.mean([frechet_distance(self.features[sixth], self.test.features)
                             for sixth in self.sixths])
        self.pixel_unit = np.mean([frechet_distance(half(self.training[sixth]), half(test))
                                   for sixth in self.sixths])

    def choose_real(self, trained_on):
        """Compare with what a run has not seen that was trained on the first so many images."""
        self.seen = self.training[:trained_on]
        left = self.training[trained_on:trained_on + COUNT]
        self.real, self.real_name = self.test, "test images"
        if len(left) >= LEAST:
            self.real = see(self.judge, left)
            self.real_name = f"training images from {trained_on} on, which it has not seen"
        self.near = radii(self.real.features)


# ------------------------------------------------------------------------------------ measures
def score(samples, ruler):
    """{measure: number} of samples (Images).

    To add a measure, add its line here; name it in show() if it is to be printed, and in
    p5_seeds.py's SCORES if it is to be averaged over seeds. Each *_ratio is over the distance of
    real images. The distance in pixels needs no net and no labels; it compares means and
    covariances alone. sharpness is the contrast of neighbouring pixels over that of real images.
    copies is the share nearer to a training image than 99 % of test images are. tv is the total
    variation distance of the class shares from uniform; agreement, the share judged to be of the
    class that was asked for.
    """
    real = ruler.real
    numbers = {"images": len(samples.pixels)}
    numbers["frechet"] = frechet_distance(samples.features, real.features)
    numbers["frechet_ratio"] = numbers["frechet"] / ruler.unit
    numbers["pixel_frechet"] = frechet_distance(half(samples.pixels), half(real.pixels))
    numbers["pixel_ratio"] = numbers["pixel_frechet"] / ruler.pixel_unit
    numbers["sharpness"] = steepness(samples.pixels) / steepness(real.pixels)
    numbers["copies"] = share(nearest(samples.pixels, ruler.seen) < ruler.copy_distance)
    numbers |= precision_recall(samples.features, real.features, ruler.near)
    numbers |= abundance(samples.classes)
    numbers["diversity"] = diversity(samples, real)
    if samples.labels is not None:
        numbers["agreement"] = share(samples.classes == samples.labels)
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}


def score_real(ruler):
    """Scores of the test images, beside which a run's are read.

    Their distance to themselves is 0, so distances, precision and recall are those of training
    images, as many.
    """
    numbers = score(ruler.real, ruler) | {"frechet": ruler.unit, "pixel_frechet": ruler.pixel_unit,
                                          "frechet_ratio": 1.0, "pixel_ratio": 1.0}
    found = [precision_recall(ruler.features[sixth], ruler.real.features, ruler.near)
             for sixth in ruler.sixths[:6]]
    return numbers | {name: np.mean([sixth[name] for sixth in found]) for name in found[0]}


def share(flags):
    """The share of flags (N,) that are true."""
    return flags.double().mean().item()


def precision_recall(x, real, near):
    """{measure: share} of features x (M, D) and `real` (N, D), the radii() of which are `near`.

    Of x inside a ball of the real, and the other way round (Kynkaanniemi et al. 2019,
    arXiv:1904.06991).
    """
    return {"precision": share(inside(x, real, near)), "recall": share(inside(real, x, radii(x)))}


def squared_distances(x, y):
    """Squared distances (M, N), float64, of points x (M, D) and y (N, D); of equal points 0."""
    x, y = x.double(), y.double()
    sizes = x.square().sum(1)[:, None] + y.square().sum(1)
    squared = sizes - 2 * x @ y.T
    return squared.where(squared > 1e-10 * sizes, 0.0)  # less is the rounding of a 0


def inside(x, centres, limits):
    """Whether (M,) each of x (M, D) is as near to one of centres (N, D) as its radii() allow."""
    return torch.cat([(squared_distances(batch, centres) <= limits).any(1)
                      for batch in x.split(250)])


def radii(x):
    """Squared distances (N,) of points x (N, D) to their NEIGHBOUR-th nearest other point."""
    return torch.cat([
        squared_distances(batch, x).topk(NEIGHBOUR + 1, largest=False).values[:, NEIGHBOUR]
        for batch in x.split(250)])  # the nearest is the point itself


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


def abundance(classes):
    """{measure: value} of how often judged classes (N,) occur, with Wilson's 95 % intervals."""
    found = np.bincount(classes.cpu(), minlength=10) / len(classes)
    z2 = 1.96**2 / len(classes)
    middle = found + z2 / 2
    width = np.sqrt(z2 * found * (1 - found) + z2**2 / 4)
    low, high = (middle - width) / (1 + z2), (middle + width) / (1 + z2)
    numbers = {"tv": abs(found - 0.1).sum() / 2, "smallest_share": found.min()}
    for c in range(10):
        numbers |= {f"share_{c}": found[c], f"share_{c}_low": low[c], f"share_{c}_high": high[c]}
    return numbers


def diversity(samples, real):
    """Mean distance of two images of a class over that of real ones, a mean over the classes.

    Of the first 1000 of each class; a class of fewer than two does not count.
    """
    ratios = []
    for c in range(10):
        of_class = [images.features[images.classes == c][:1000] for images in (samples, real)]
        if min(len(features) for features in of_class) >= 2:
            ours, theirs = (torch.pdist(features).mean().item() for features in of_class)
            ratios.append(ours / theirs)
    return np.mean(ratios)


def half(pixels):
    """uint8 (N, 28, 28) at half the resolution: (N, 196) in [0, 1], means of 2 x 2 pixels."""
    return F.avg_pool2d(pixels[:, None].float() / 255, 2).flatten(1)


def steepness(pixels):
    """Mean absolute difference of a pixel and the one below in uint8 (N, 28, 28)."""
    return pixels.float().diff(dim=1).abs().mean().item()


def nearest(pixels, training):
    """Distance (N,) of images uint8 (N, 28, 28) to the nearest of `training`, pixels in [0, 1]."""
    x, y = (images.flatten(1).float() / 255 for images in (pixels, training))
    squares = y.square().sum(1)
    # |x - y|^2 = |x|^2 + |y|^2 - 2 x y, of which |x|^2 matters to no minimum
    least = [torch.addmm(squares, batch, y.T, alpha=-2).amin(1) for batch in x.split(100)]
    return (torch.cat(least) + x.square().sum(1)).clamp(min=0).sqrt()


def along_paths(paths, ruler):
    """{kind_inside: a value for each step} of gan.py's paths uint8 (2, pairs, steps, 28, 28).

    Of line and arc between two z: the share of images inside a real one's ball, as in precision.
    """
    curves = {}
    for kind, pixels in zip(("line", "arc"), paths):
        features = see(ruler.judge, pixels.flatten(0, 1)).features
        near = inside(features, ruler.real.features, ruler.near).view(pixels.shape[:2])
        curves[f"{kind}_inside"] = near.double().mean(0).tolist()
    return curves


# ----------------------------------------------------------------- faults planted in real images
def planted(images, labels):
    """{fault: (images uint8 (COUNT, 28, 28), labels)} of training images (N, 28, 28), (N,).

    What a measure should see. All are training images, so that copies are found everywhere but
    where every image is changed. Class 6 is the shirt.
    """
    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(len(images), generator=generator)
    images, labels = images.cpu(), labels.cpu()
    base, of_base = images[order[:COUNT]], labels[order[:COUNT]]
    count = len(base)
    faults = {"training images": (base, of_base)}

    blurred = F.avg_pool2d(base[:, None].float(), 3, stride=1, padding=1, count_include_pad=False)
    faults["blur"] = blurred[:, 0].round().byte(), of_base
    chance = torch.rand(base.shape, generator=generator)
    salt_or_pepper = torch.where(chance > 0.025, 255, 0).byte()
    faults["grain"] = base.where(chance > 0.05, salt_or_pepper), of_base

    sixes = (of_base == 6).nonzero()[:, 0]
    others = order[labels[order] != 6][-len(sixes):]
    without, of_without = base.clone(), of_base.clone()
    without[sixes], of_without[sixes] = images[others], labels[others]
    faults["no class 6"] = without, of_without

    few = torch.randperm(count, generator=generator)[:count // 100].repeat(100)
    faults["100 copies each"] = base[few], of_base[few]
    faults["one image"] = base[:1].repeat(count, 1, 1), of_base[:1].repeat(count)
    partner = torch.randperm(count, generator=generator)
    for fault, part in (("13 % broken", 0.13), ("50 % broken", 0.5)):
        broken = base.clone()  # the lower half is another garment's
        halves = base[partner[:round(part * count)], 14:]
        broken[:len(halves), 14:] = halves
        faults[fault] = broken, of_base
    return faults


# -------------------------------------------------------------------------------- sample files
def read_samples(path):
    """Images uint8 (N, 28, 28), labels (N,) or None, paths or None, and images trained on.

    OSError says what is wrong with the file.
    """
    if not path.exists():
        raise OSError(f"{path} is missing: train that run here, or give a file that ends in .npz")
    content = io.BytesIO(path.read_bytes())
    try:
        with np.load(content) as file:
            images, labels, paths = file["images"], file.get("labels"), file.get("paths")
            trained_on = int(file.get("train_images", 60_000))
    except Exception as error:  # NumPy and zipfile raise whatever the damage leads to
        raise OSError(f"{path} is damaged or no .npz file with `images`") from error
    if images.dtype != np.uint8 or images.shape[1:] != (28, 28) or len(images) < LEAST:
        raise OSError(f"{path}: `images` is {images.dtype} {images.shape}; wanted is uint8 (N, 28, "
                      f"28) from 0 to 255, with N at least {LEAST}")
    if images.max() <= 1 or trained_on < 1:
        raise OSError(f"{path}: `images` end at {images.max()}, `train_images` is {trained_on}; "
                      "wanted are pixels from 0 to 255, and at least 1")
    if labels is not None and (labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]
                               or labels.min() < 0 or labels.max() > 9):
        raise OSError(f"{path}: `labels` is {labels.dtype} {labels.shape}; wanted are whole "
                      f"numbers ({len(images)},) from 0 to 9")
    if paths is not None and (paths.dtype != np.uint8 or paths.shape[3:] != (28, 28)):
        paths = None  # somebody else's, and something else
    return images, labels, paths, trained_on


# ------------------------------------------------------------------------------------- figures
def draw_pictures(stem, pixels, classes):
    """Sheet, a row for each of `classes` (N,), and strip of samples uint8 (N, 28, 28)."""
    sheet = torch.full((10, 8, 28, 28), 128, dtype=torch.uint8)  # grey: no more of this class
    for c in range(10):
        row = pixels[classes == c][:8]
        sheet[c, :len(row)] = row
    draw_tiles(f"{stem}_sheet.pdf", sheet.flatten(0, 1), 8, CLASSES)
    draw_tiles(f"{stem}_strip.pdf", pixels[:16], 16)


def draw_tiles(path, pixels, columns, names=()):
    """Images uint8 (N, 28, 28) in rows of `columns`, in one grey scale, beside the rows' names."""
    left = 0.53 if names else 0.0  # inches for the names, and 0.37 for an image
    width, height = left + 0.37 * columns, 0.37 * math.ceil(len(pixels) / columns)
    figure = Figure(figsize=(width, height), layout="none")
    axes = figure.add_axes((left / width, 0, 1 - left / width, 1))
    tiles = torchvision.utils.make_grid(pixels[:, None], columns, padding=1, pad_value=128)
    axes.imshow(tiles[0].numpy(), vmin=0, vmax=255, interpolation="nearest")
    axes.set(frame_on=False, xticks=[])
    axes.set_yticks(range(14, 14 + 29 * len(names), 29), names, fontsize=7)
    axes.tick_params(length=0, pad=2)
    save_figure(figure, path)


# ------------------------------------------------------------------------------ what commands do
def train_judge(args, device, epochs=12, batch_size=256):
    """--train-judge: write the judge's file; `agreement` of real_fashion is its accuracy."""
    path = args.out_dir / "judge_fashion.pt"
    if path.exists():
        raise OSError(f"{path} is there, and scores name it: give another --out-dir")
    images, labels, test_images, _ = (
        tensor.to(device) for tensor in load_dataset("fashion", args.data_dir))
    torch.manual_seed(1)
    judge = Judge().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.05)
    orders = [torch.randperm(len(images)).to(device) for _ in range(epochs)]
    batches = [batch for order in orders for batch in order.split(batch_size)]  # of all epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=len(batches))
    for batch in tqdm(batches, desc="training the judge", unit="batch", disable=None):
        down, right = torch.randint(3, (2,)).tolist()  # moved by up to a pixel, half mirrored
        padded = F.pad(images[batch, None].float() / 255, (1, 1, 1, 1))
        x = padded[..., down:down + 28, right:right + 28]
        mirrored = torch.rand(len(x), 1, 1, 1).to(device) < 0.5
        loss = F.cross_entropy(judge(torch.where(mirrored, x.flip(3), x)), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    tensors = {name: tensor if "running_" in name or "num_batches" in name else tensor.half()
               for name, tensor in judge.state_dict().items()}
    tensors[COPY_DISTANCE] = nearest(test_images, images).quantile(0.01).double().cpu()
    content = io.BytesIO()
    torch.save(tensors, content)
    write_file(path, content.getvalue())


def show(name, numbers):
    """Print the most important numbers of a run."""
    measures = ("frechet_ratio", "pixel_ratio", "precision", "recall", "tv", "agreement")
    shown = [f"{measure} {numbers[measure]:.4g}" for measure in measures if measure in numbers]
    shares = [f"{class_name} {numbers[f'share_{c}']:.3f}" for c, class_name in enumerate(CLASSES)]
    print(f"{name}:", *shown)
    print("  shares:", *shares, flush=True)


def score_planted(ruler, args, device):
    """--planted: every measure of real images with faults, {"<fault>/<measure>": number}."""
    ruler.choose_real(len(ruler.training))
    numbers = {}
    for fault, (pixels, labels) in planted(ruler.training, ruler.labels).items():
        samples = see(ruler.judge, pixels.to(device), labels.to(device))
        scores = score(samples, ruler)
        show(fault, scores)
        numbers |= {f"{fault}/{name}": value for name, value in scores.items()}
    write_record(args.out_dir / "p5_planted_fashion.json", args, device, dataset="fashion",
                 judge=ruler.sha256, real=ruler.real_name, numbers=numbers, curves={},
                 seconds=time.process_time())


def prepare(run, args):
    """Name, source, samples and path of the scores of `run`; OSError where it cannot be scored."""
    at = Path(run) if run.endswith(".npz") else args.runs_dir / f"{run}_samples.npz"
    name = at.stem.removesuffix("_samples")
    own = at.resolve() == (args.runs_dir / f"{name}_samples.npz").resolve()
    source = name if own else str(at.resolve())
    samples = None if run == REAL else read_samples(at)
    trained = name.removeprefix("normal_")  # samples of N(0, I) beside those of a fitted prior
    swept = args.out_dir / "sweep"
    folder = swept if (swept / f"{trained}.json").exists() else args.out_dir
    path = folder / f"{name}_scores.json"
    try:
        scored = json.loads(path.read_text())["settings"]["runs"] if path.exists() else [source]
    except (ValueError, LookupError, TypeError) as error:
        raise OSError(f"{path} is damaged or no record: delete it") from error
    if scored != [source]:
        raise OSError(f"{path} holds other scores, which would be lost to those of {source}: "
                      "rename it, or give another --out-dir")
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
            None if array is None else torch.from_numpy(array[:COUNT]).to(device)
            for array in arrays)
        ruler.choose_real(trained_on)
        samples = see(ruler.judge, pixels, labels)
        numbers = score(samples, ruler)
        if paths is not None:
            curves = along_paths(paths, ruler)
    first = {"images": samples.pixels[:100].cpu()}
    classes = samples.classes[:100].cpu()
    if samples.labels is not None:
        classes = samples.labels[:100].cpu()
        first["labels"] = classes.byte()
    content = io.BytesIO()
    np.savez(content, **first)
    write_file(path.with_name(f"{name}_first.npz"), content.getvalue())
    draw_pictures(path.with_name(name), first["images"], classes)
    run_args = argparse.Namespace(**vars(args) | {"runs": [source]})
    write_record(path, run_args, device, dataset="fashion", judge=ruler.sha256,
                 real=ruler.real_name, numbers=numbers, curves=curves, seconds=time.process_time())
    show(f"{path}, against {ruler.real_name}", numbers)
    if len(samples.pixels) < COUNT:
        print(f"  {len(samples.pixels)} images: with fewer than {COUNT} distances are too large")


def score_runs(args, device):
    """Score runs, one after the other; those that cannot be have a line each, and status 1."""
    ruler, failed = None, False
    for run in args.runs:
        try:
            found = prepare(run, args)
            if ruler is None:
                ruler = Ruler(args, device)
            score_run(*found, ruler, args, device)
        except OSError as error:
            print(f"{Path(__file__).name}: {error}", file=sys.stderr)
            failed = True
    if failed:
        sys.exit(1)


# -------------------------------------------------------------------------------- command line
def parse_args():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("runs", nargs="*", metavar="RUN",
                        help="names of runs or paths of sample files")
    parser.add_argument("--planted", action="store_true", help="instead, real images with faults")
    parser.add_argument("--train-judge", action="store_true", help="instead, make the judge")
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
        train_judge(args, device)
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
