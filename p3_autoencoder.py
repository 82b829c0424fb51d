"""Problems 3.2 and 3.3: a corruption process and its denoiser; an autoencoder with two neurons.

    python p3_autoencoder.py                        MNIST
    python p3_autoencoder.py --dataset fashion      Fashion-MNIST
    python p3_autoencoder.py --resume               go on where a run was stopped

A run is named after its command: p3_mnist, p3_fashion_epochs10_seed2. It writes
    runs/<run>.pt              checkpoint, saved after every epoch
    plots/<run>.json, _*.pdf   record and figures of both problems

3.2 corrupts points of a parabola and trains a denoiser. Its optimum is known, the step to the
posterior mean, which is computed by quadrature; for Gaussian noise this step is the variance times
the score (Tweedie's formula: Robbins 1956; Miyasawa 1961; Efron 2011). 3.3 trains 784-2-784 with a
sigmoid output, the answer to the question, and with a linear one. Both stand beside PCA, the best
that a linear output can do (Bourlard & Kamp 1988). Errors in 3.3 are squared, means over images
and pixels in [0, 1].
"""
import argparse
import contextlib
import errno
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
PIXELS = 28 * 28

# 3.2: points of a parabola
DRAWN_POINTS = 600  # in the figure
SIGMA = 0.15  # standard deviation of the Gaussian corruption
MASKED = 0.25  # rho: probability that masking sets a coordinate to 0
DENOISER_STEPS = 6000
QUADRATURE_POINTS = 4001  # on the parabola, for the posterior mean

# 3.3: the number of neighbours in the plane; networks by name, and as the figures call them
NEIGHBOURS = 15
TITLES = {"pca": "PCA", "linear": "linear output", "sigmoid": "sigmoid output"}


# ----------------------------------------------------------------- 3.2: corruption, denoising
def on_parabola(x):
    """x (N, 1) -> points (x, x^2), (N, 2)."""
    return x ** torch.tensor([1, 2])


def parabola(count):
    """The data set: `count` points (x, x^2) with x uniform on [-1, 1], (count, 2)."""
    return on_parabola(2 * torch.rand(count, 1) - 1)


def corrupt_gaussian(x):
    """Draw x_hat (N, 2) from C(x_hat | x) = N(x_hat; x, SIGMA^2 I) for points x (N, 2).

    Its density is exp(-||x_hat - x||^2 / (2 SIGMA^2)) / (2 pi SIGMA^2).
    """
    return x + SIGMA * torch.randn_like(x)


def corrupt_masking(x):
    """Draw x_hat (N, 2) from C(x_hat | x), which sets each coordinate of x (N, 2) to 0 or keeps it.

    C(x_hat | x) = prod_j [(1 - MASKED) delta(x_hat_j - x_j) + MASKED delta(x_hat_j)].
    """
    keep = torch.rand_like(x) >= MASKED
    return x * keep


def train_denoiser(seed):
    """Train a network 2-64-64-2: corrupted point x_hat (N, 2) -> displacement x - x_hat (N, 2).

    The optimum of least squares is E[x | x_hat] - x_hat, which is SIGMA^2 times the gradient of
    the log density of corrupted points (Tweedie's formula).
    """
    torch.manual_seed(seed)
    denoiser = nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(),
                             nn.Linear(64, 2))
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=5e-3, fused=True)
    for _ in range(DENOISER_STEPS):
        optimizer.param_groups[0]["lr"] *= 0.9993  # ends at 7e-5
        clean = parabola(512)
        corrupted = corrupt_gaussian(clean)
        loss = F.mse_loss(denoiser(corrupted), clean - corrupted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return denoiser


def posterior_mean(corrupted):
    """E[x | x_hat] of points x_hat (N, 2), Gaussian corruption of the parabola: (N, 2), float64.

    By quadrature: a mean over points x of the parabola, weighted by C(x_hat | x).
    """
    x = torch.linspace(-1, 1, QUADRATURE_POINTS, dtype=torch.float64)
    curve = on_parabola(x[:, None])
    means = []
    for batch in corrupted.double().split(250):  # whose distances stay in a CPU's cache
        squared_distance = torch.cdist(batch, curve).square()
        weight = torch.softmax(-squared_distance / (2 * SIGMA**2), dim=1)
        means.append(weight @ curve)
    return torch.cat(means)


@torch.no_grad()
def test_denoiser(denoiser):
    """The denoiser on 100 000 fresh points, beside the optimum.

    denoiser_relative_error: ||learned - optimal|| / ||optimal|| over all displacements.
    <points>_distance: mean squared distance to the clean points, of the corrupted points, of these
    moved by the denoiser (denoised), and of their posterior means (optimal).
    """
    clean = parabola(100_000)
    corrupted = corrupt_gaussian(clean)
    learned = denoiser(corrupted)
    optimal = posterior_mean(corrupted).float() - corrupted
    error = (learned - optimal).norm() / optimal.norm()

    def mean_squared_distance(points):
        return (points - clean).square().sum(1).mean().item()

    return {"denoiser_relative_error": error.item(), "sigma": SIGMA, "masked": MASKED,
            "points": len(clean), "drawn_points": DRAWN_POINTS,
            "corrupted_distance": mean_squared_distance(corrupted),
            "denoised_distance": mean_squared_distance(corrupted + learned),
            "optimal_distance": mean_squared_distance(corrupted + optimal)}


# --------------------------------------------------------------------------------- 3.3: model
class Autoencoder(nn.Module):
    """784-2-784: two linear hidden neurons, and a linear or a sigmoid output."""

    def __init__(self, output="linear"):
        super().__init__()
        self.encoder = nn.Linear(PIXELS, 2)
        self.decoder = nn.Linear(2, PIXELS)
        self.output = nn.Sigmoid() if output == "sigmoid" else nn.Identity()

    def forward(self, x):
        """x (B, 784) in [0, 1] -> reconstruction (B, 784)."""
        code = self.encoder(x)  # (B, 2)
        return self.output(self.decoder(code))


def build_models(seed, device):
    """{output: network} of a linear and a sigmoid output, and nothing trained."""
    torch.manual_seed(seed)
    models = nn.ModuleDict()
    for output in ("linear", "sigmoid"):
        models[output] = Autoencoder(output)
    return models.to(device)


# ------------------------------------------------------------------------ 3.3: loss, training
def loss_function(models, x):
    """Squared error per pixel of x (B, 784), summed over the networks, which share no weight."""
    return sum(F.mse_loss(model(x), x) for model in models.values())


def learning_rate(args, epoch):
    """--lr in the first epoch, from which it falls by half a cosine."""
    cosine = math.cos(math.pi * (epoch - 1) / args.epochs)
    return args.lr * (0.5 + 0.5 * cosine)


def train(models, images, optimizer, args, epoch):
    """One epoch of both networks over `images` (N, 784) in [0, 1]."""
    torch.manual_seed(1_000_003 * args.seed + epoch)  # so that a resumed run draws the same
    optimizer.param_groups[0]["lr"] = learning_rate(args, epoch)
    order = torch.randperm(len(images)).to(images.device)
    for x in images[order].split(args.batch_size):
        loss = loss_function(models, x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def mean_squared_error(model, images):
    """Of the reconstructions of images (N, 784), a mean over images and pixels."""
    return (model(images) - images).square().mean(dtype=torch.float64).item()


def test(models, train_images, test_images):
    """{linear_train_mse, linear_test_mse, ...} of both networks on both sets, each (N, 784)."""
    errors = {}
    for name, model in models.items():
        errors[f"{name}_train_mse"] = mean_squared_error(model, train_images)
        errors[f"{name}_test_mse"] = mean_squared_error(model, test_images)
    return errors


# --------------------------------------------------------------- 3.3: PCA, neighbours, angles
@torch.no_grad()
def pca_network(images):
    """PCA of `images` (N, 784) as a linear network, and the share of variance it explains."""
    mean = images.mean(0, dtype=torch.float64)
    covariance = images.T.double().cov(correction=0)
    variances, axes = torch.linalg.eigh(covariance)  # ascending
    axes = axes[:, [-1, -2]]  # (784, 2), the larger variance first
    explained = variances[-2:].sum() / variances.sum()
    model = Autoencoder("linear").to(images.device)
    model.encoder.weight.copy_(axes.T)
    model.encoder.bias.copy_(-axes.T @ mean)
    model.decoder.weight.copy_(axes)
    model.decoder.bias.copy_(mean)
    return model, explained.item()


def neighbour_labels(model, train_set, test_images):
    """Labels (N, k) of the k = NEIGHBOURS training codes nearest to each test image (N, 784).

    train_set: images (M, 784), labels (M,). Codes are whitened by their covariance in training,
    so that an invertible linear map of the codes changes no neighbour.
    """
    train_images, train_labels = train_set
    train_codes = model.encoder(train_images)
    test_codes = model.encoder(test_images)
    whiten = torch.linalg.inv(torch.linalg.cholesky(train_codes.T.cov())).T
    k = min(NEIGHBOURS, len(train_codes))
    nearest = []
    for codes in test_codes.split(500):  # all distances at once are too many
        distance = torch.cdist(codes @ whiten, train_codes @ whiten)
        nearest.append(distance.topk(k, largest=False).indices)
    return train_labels.long()[torch.cat(nearest)]


def plane_numbers(model, train_set, test_set):
    """Errors on both sets (images (N, 784), labels (N,)), and k-NN accuracy in the plane.

    Each test image gets the most frequent label of its neighbours; accuracy overall and by class,
    and neighbour_shares of each class.
    """
    test_images, test_labels = test_set
    labels = test_labels.long()
    neighbours = neighbour_labels(model, train_set, test_images)
    right = (neighbours.mode(dim=1).values == labels).double()
    numbers = {"train_mse": mean_squared_error(model, train_set[0]),
               "test_mse": mean_squared_error(model, test_images),
               "knn_accuracy": right.mean().item()}
    for label in labels.unique().tolist():
        numbers[f"knn_accuracy_{label}"] = right[labels == label].mean().item()
        shares = neighbour_shares(neighbours[labels == label], label)
        numbers |= {f"neighbours_{label}_{key}": value for key, value in shares.items()}
    return numbers


def neighbour_shares(neighbours, own):
    """Which labels the neighbours (n, k) of the n test images of class `own` have, as shares.

    The share of the own class; the two other classes that are most frequent, with theirs; the
    difference of these two and its standard error over the n images. A difference of less than
    two standard errors is a near-tie: other test images might turn it round.
    """
    shares = F.one_hot(neighbours, 10).double().mean(1)  # (n, 10), of each image
    mean = shares.mean(0)
    others = mean.clone()
    others[own] = -1  # last
    first, second = others.topk(2).indices.tolist()
    gap = shares[:, first] - shares[:, second]
    return {"own_share": mean[own].item(),
            "first": first, "first_share": mean[first].item(),
            "second": second, "second_share": mean[second].item(),
            "gap": gap.mean().item(),
            "gap_error": gap.std(correction=0).item() / math.sqrt(len(gap))}


def whitened_codes(model, images):
    """Codes (N, 2) of images (N, 784) in float64, centred and with orthonormal columns."""
    codes = model.encoder(images)
    return torch.linalg.qr((codes - codes.mean(0)).double()).Q


def compare_planes(model, pca, images):
    """(numbers, basis): how a network's plane and codes differ from PCA's.

    angle_1, angle_2: principal angles in degrees between the planes that the decoders' weights
    span; with a sigmoid output that is a plane of logits, not of pixels. canonical_1, canonical_2:
    canonical correlations of both codes of `images` (N, 784), 1 where each is an affine map of the
    other. basis (784, 2): orthonormal, of the network's plane, turned as near to PCA's as it goes.
    """
    basis = torch.linalg.qr(model.decoder.weight.double()).Q
    u, cosines, vt = torch.linalg.svd(basis.T @ pca.decoder.weight.double())
    angles = torch.rad2deg(torch.arccos(cosines.clamp(max=1)))
    products = whitened_codes(model, images).T @ whitened_codes(pca, images)
    correlations = torch.linalg.svdvals(products)
    numbers = {"angle_1": angles[0].item(), "angle_2": angles[1].item(),
               "canonical_1": correlations[0].item(), "canonical_2": correlations[1].item()}
    nearest = basis @ u @ vt  # orthogonal Procrustes
    return numbers, nearest.float()


# ------------------------------------------------------------------------- a run and its results
def fingerprint(args):
    """Errors of both networks after each of two steps on 64 drawn images, one thread: 4 numbers.

    The steps are the first of the first epoch and the first of the last. `make check` takes them
    again, and finds a record whose code computes something else today.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    images = torch.rand(64, PIXELS, generator=torch.Generator().manual_seed(0))
    models = build_models(args.seed, torch.device("cpu"))
    optimizer = torch.optim.Adam(models.parameters(), lr=args.lr, fused=True)
    settings = argparse.Namespace(**vars(args) | {"batch_size": 64})
    errors = []
    for epoch in (1, args.epochs):
        train(models, images, optimizer, settings, epoch)
        errors += [mean_squared_error(model, images) for model in models.values()]
    torch.set_num_threads(threads)
    return errors


def fit(models, train_images, test_images, state, args):
    """Train from the epoch of `state` to the last, saving the state after each."""
    optimizer = torch.optim.Adam(models.parameters(), lr=args.lr, fused=True)
    checkpoint = args.runs_dir / f"{args.run_name}.pt"
    if state["epoch"]:
        restore({"model": models, "optimizer": optimizer}, state, checkpoint)
    bar = tqdm(total=args.epochs, initial=state["epoch"], unit="epoch", disable=None)
    for epoch in range(state["epoch"] + 1, args.epochs + 1):
        start = time.perf_counter()
        train(models, train_images, optimizer, args, epoch)
        errors = test(models, train_images, test_images)
        # All-black reconstructions have an error below 1; a NaN fails this test, too.
        if not all(error < 1 for error in errors.values()):
            raise FloatingPointError(f"epoch {epoch} diverged, what was before it is kept: use a "
                                     "smaller --lr (with the same --run-name also --fresh)")
        for name, value in errors.items():
            state["curves"].setdefault(name, []).append(value)
        state["seconds"] += time.perf_counter() - start
        state |= {"epoch": epoch, "finished": epoch == args.epochs, "model": models.state_dict(),
                  "optimizer": optimizer.state_dict()}
        save_state(checkpoint, state)
        bar.update()
        text = "  ".join(f"{name} {value:.5f}" for name, value in errors.items())
        bar.write(f"epoch {epoch}  {text}", file=sys.stdout)
    bar.close()


def report(models, train_set, test_set, state, args):
    """Numbers, figures and record of both problems; a set is images (N, 784), labels (N,)."""
    stem = f"{args.out_dir / args.run_name}"
    numbers = report_corruption(stem, args.seed)
    numbers |= report_planes(stem, models, train_set, test_set)
    parameters = {}
    for name, model in models.items():
        parameters[name] = sum(p.numel() for p in model.parameters())
    headline = ("sigmoid_test_mse", "sigmoid_knn_accuracy")
    write_record(Path(f"{stem}.json"), args, state["machines"], numbers, headline,
                 data=state["data"], fingerprint=state["fingerprint"], parameters=parameters,
                 seconds=state["seconds"], curves=state["curves"])
    print(f"test error per pixel: {numbers['sigmoid_test_mse']:.5f} with a sigmoid output, "
          f"{numbers['linear_test_mse']:.5f} with a linear one, {numbers['pca_test_mse']:.5f} "
          f"of PCA; record and figures: {stem}*")


def report_corruption(stem, seed):
    """3.2: train the denoiser, draw both figures; its numbers."""
    # One stream of random numbers, seeded in train_denoiser: the order of these calls counts.
    denoiser = train_denoiser(seed)
    numbers = test_denoiser(denoiser)
    draw_corruption(Path(f"{stem}_corruption.pdf"))
    draw_denoiser(Path(f"{stem}_denoiser.pdf"), denoiser)
    return numbers


@torch.no_grad()
def report_planes(stem, models, train_set, test_set):
    """3.3: set the trained networks beside PCA, draw the five figures; the numbers of each."""
    train_images, _ = train_set
    test_images, test_labels = test_set
    pca, explained = pca_network(train_images)
    numbers = {"neighbours": NEIGHBOURS}
    codes = {}
    reconstructions = {"test image": test_images[:8]}
    bases = {}
    for name, model in {"pca": pca, **models}.items():
        title = TITLES[name]
        comparison, basis = compare_planes(model, pca, test_images)
        measured = plane_numbers(model, train_set, test_set) | comparison
        numbers |= {f"{name}_{key}": value for key, value in measured.items()}
        codes[title] = model.encoder(test_images).cpu()
        reconstructions[title] = model(test_images[:8])
        bases[title] = 0.5 + 3 * basis.T  # grey where a pixel has no weight

    excess = numbers["linear_train_mse"] / numbers["pca_train_mse"] - 1
    clamped = models["linear"](test_images).clamp(0, 1)  # as a sigmoid's output is
    numbers["linear_excess_percent"] = 100 * excess
    numbers["linear_clamped_test_mse"] = (clamped - test_images).square().mean().item()
    numbers["pca_variance_explained"] = 100 * explained

    labels = test_labels.cpu()
    sigmoid_codes = codes.pop(TITLES["sigmoid"])  # the answer; the others are variants
    draw_embedding(Path(f"{stem}_embedding.pdf"), sigmoid_codes, labels)
    draw_classes(Path(f"{stem}_classes.pdf"), sigmoid_codes, labels)
    draw_variants(Path(f"{stem}_variants.pdf"), codes, labels)
    draw_rows(Path(f"{stem}_reconstructions.pdf"), reconstructions, width=4.2)
    draw_rows(Path(f"{stem}_planes.pdf"), bases, width=2.1)
    return numbers


# ------------------------------------------------------------------------------------ figures
def draw_corruption(path):
    """3.2: the data set, and the same points corrupted in both ways, on the same axes."""
    clean = parabola(DRAWN_POINTS)
    panels = {f"the {DRAWN_POINTS} points": clean,
              f"Gaussian noise, $\\sigma$ = {SIGMA}": corrupt_gaussian(clean),
              f"masking, $\\rho$ = {MASKED}": corrupt_masking(clean)}
    figure = Figure(figsize=(6.9, 1.9))
    all_axes = figure.subplots(1, 3, sharex=True, sharey=True)
    curve = np.linspace(-1, 1, 200)
    for axes, (title, points) in zip(all_axes, panels.items()):
        name = "x" if points is clean else r"\hat{x}"
        axes.plot(curve, curve**2, color="0.75", linewidth=0.8, zorder=0)
        axes.scatter(*points.T.numpy(), s=3, color="C0", linewidth=0)
        axes.set(title=title, xlabel=f"first coordinate ${name}_1$",
                 ylabel=f"second coordinate ${name}_2$", aspect="equal")
    save_figure(figure, path)


@torch.no_grad()
def draw_denoiser(path, denoiser):
    """3.2: the exact displacements and the denoiser's, on a grid of corrupted points."""
    grid = torch.cartesian_prod(torch.linspace(-1.4, 1.4, 15), torch.linspace(-0.4, 1.4, 10))
    exact = posterior_mean(grid).float() - grid
    learned = denoiser(grid)
    near = exact.norm(dim=1) < 3 * SIGMA  # farther out points are too rare to learn from
    tails = grid[near].T.numpy()

    figure = Figure(figsize=(6.9, 1.9))
    all_axes = figure.subplots(1, 3, sharey=True)
    curve = np.linspace(-1, 1, 200)
    panels = {r"exact: $\sigma^2 \nabla \log p_\sigma(\hat x)$": exact, "learned": learned,
              r"5 $\times$ (learned $-$ exact)": 5 * (learned - exact)}
    for axes, (title, arrows) in zip(all_axes, panels.items()):
        axes.plot(curve, curve**2, color="0.7", linewidth=1, zorder=0)
        axes.quiver(*tails, *arrows[near].T.numpy(), color="black", width=0.006, angles="xy",
                    scale_units="xy", scale=1)
        axes.set(title=title, xlabel=r"first coordinate $\hat{x}_1$", aspect="equal")
    all_axes[0].set_ylabel(r"second coordinate $\hat{x}_2$")
    save_figure(figure, path)


def draw_embedding(path, codes, labels):
    """3.3: codes (N, 2) of the hidden layer in one large panel, coloured by `labels` (N,)."""
    figure = Figure(figsize=(6.9, 4.0))
    axes = figure.subplots()
    draw_plane(axes, codes, labels, size=2.5)
    axes.set(xlabel="hidden neuron 1 (activation)", ylabel="hidden neuron 2 (activation)")
    save_figure(figure, path)


def draw_variants(path, codes, labels):
    """3.3: the codes of PCA and of the linear output, {title: (N, 2)}, side by side."""
    figure = Figure(figsize=(6.9, 2.7))
    for axes, (title, points) in zip(figure.subplots(1, len(codes)), codes.items()):
        draw_plane(axes, points, labels, size=1)
        unit = "component" if title == "PCA" else "hidden neuron"
        axes.set(title=title, xlabel=f"{unit} 1", ylabel=f"{unit} 2")
    save_figure(figure, path)


def draw_plane(axes, codes, labels, size):
    """Codes (N, 2) as dots of `size`, coloured by `labels` (N,); each class marked by its number.

    The numbers stand in two columns beside the cloud, sorted by height, each with a line to its
    class mean, so that they do not overlap and can be told apart in grey.
    """
    axes.scatter(*codes.T.numpy(), c=labels.numpy(), cmap="tab10", vmin=0, vmax=9, s=size,
                 linewidth=0, rasterized=True)
    means = {label: codes[labels == label].mean(0).tolist() for label in labels.unique().tolist()}
    from_left = sorted(means, key=lambda label: means[label][0])
    half = len(from_left) // 2
    for x, column in ((0.04, from_left[:half]), (0.96, from_left[half:])):
        column.sort(key=lambda label: means[label][1])
        for height, label in zip(np.linspace(0.1, 0.9, len(column)), column):
            axes.annotate(
                str(label), means[label], (x, height), textcoords="axes fraction",
                ha="center", va="center", weight="bold",
                bbox={"boxstyle": "circle", "facecolor": "white", "edgecolor": f"C{label}"},
                arrowprops={"arrowstyle": "-", "linewidth": 0.6, "shrinkB": 0})
            axes.plot(*means[label], "o", color=f"C{label}", markeredgecolor="black",
                      markersize=4, markeredgewidth=0.8)
    axes.margins(x=0.2)


def draw_classes(path, codes, labels):
    """3.3: a panel for each class, its codes dark over the grey cloud of all codes (N, 2)."""
    figure = Figure(figsize=(6.9, 2.9))
    all_axes = figure.subplots(2, 5, sharex=True, sharey=True)
    for label, axes in enumerate(all_axes.flat):
        axes.scatter(*codes.T.numpy(), s=1, color="0.8", linewidth=0, rasterized=True)
        axes.scatter(*codes[labels == label].T.numpy(), s=1, color="black", linewidth=0,
                     rasterized=True)
        axes.set(title=f"label {label}")
    figure.supxlabel("hidden neuron 1 (activation)", size=8)
    figure.supylabel("hidden neuron 2 (activation)", size=8)
    save_figure(figure, path)


def draw_rows(path, rows, width):
    """3.3: {name: images (n, 784)} under each other, on one grey scale from 0 to 1."""
    images = torch.stack(list(rows.values())).cpu()  # (rows, n, 784)
    columns = images.shape[1]
    tiles = torchvision.utils.make_grid(images.view(-1, 1, 28, 28), columns, pad_value=0.5)[0]
    figure = Figure(figsize=(width, 0.8 * width * len(rows) / columns))
    axes = figure.subplots()
    axes.imshow(tiles.numpy(), vmin=0, vmax=1, interpolation="nearest")
    names = [name.replace(" ", "\n") for name in rows]
    axes.set(xticks=[], frame_on=False)
    axes.set_yticks(range(16, 16 + 30 * len(names), 30), names)
    save_figure(figure, path)


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


def checksum(tensors):
    """A short name for the content of uint8 tensors: the head of their SHA-256, in order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.numpy())
    return f"sha256 {digest.hexdigest()[:16]}"


def load_state(path, device="cpu"):
    """What save_state wrote to `path`, or None where nothing is; OSError: it is damaged."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        return None
    except (OSError, MemoryError):
        raise
    except Exception as error:
        if "alloc" in str(error).lower():  # memory
            raise
        raise OSError(f"{path} is damaged or no checkpoint: training it with --fresh makes it anew"
                      ) from error


def restore(members, state, path):
    """Load what `state` holds into {name: module or optimizer}; OSError where it does not fit."""
    try:
        for name, member in members.items():
            member.load_state_dict(state[name])
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise OSError(f"{path} is damaged or of another version: --fresh starts over") from error


def save_state(path, state):
    """Save a run's state, unless a later epoch of this run is there.

    So of a run that was started twice the later one stays, and a finished run that is trained once
    more stays until the new one is as far.
    """
    with contextlib.suppress(OSError, LookupError, TypeError):  # nothing there, or nothing of use
        if load_state(path, "meta")["epoch"] > state["epoch"]:  # without its tensors
            return
    with replacing(path) as part, part.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # it closes an archive whose writing had failed: say why
            raise error.__context__ or error from None


def open_run(args, data, device):
    """The state to start this command's run from, or to go on from.

    OSError where a plain command would wipe an unfinished run, or where the file holds a run of
    other settings or of other data than the checksum `data`.
    """
    path = args.runs_dir / f"{args.run_name}.pt"
    new = {"settings": settings_of(args), "data": data, "epoch": 0, "finished": False,
           "seconds": 0.0, "machines": [], "curves": {}}
    if args.fresh:
        path.unlink(missing_ok=True)
    state = load_state(path, device)
    if state is None:
        return new | {"machines": [machine(device)]}
    if not isinstance(state, dict) or not new.keys() <= state.keys():
        raise OSError(f"{path} is damaged or of another version: --fresh starts over")
    changed = [as_typed(name, state["settings"].get(name))
               for name, value in new["settings"].items() if state["settings"].get(name) != value]
    if changed:
        raise OSError(f"{path} was made with {', '.join(changed)}: give that, or another "
                      "--run-name, or start over with --fresh")
    if state["data"] != data:
        raise OSError(f"{path} was trained on other images than --data-dir {args.data_dir} holds: "
                      "name those, or another --runs-dir and --out-dir, or start over with --fresh")
    if state["finished"] and not args.resume:
        return new | {"machines": [machine(device)]}
    if not args.resume:
        raise OSError(f"{args.run_name} is unfinished, {state['epoch']} epochs are done: --resume "
                      "goes on, --fresh starts over")
    print(f"{args.run_name}: {state['epoch']} epochs were already done")
    if not state["finished"]:
        here = machine(device)
        if here not in state["machines"]:
            state["machines"].append(here)
    return state


def as_typed(name, value):
    """A setting as a person types its flag; a switch that is off as "no --flag"."""
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return flag if value else f"no {flag}"
    return f"{flag} {value}"


def add_file_flags(parser):
    """The flags that say where files lie and what becomes of a run that is already there."""
    group = parser.add_argument_group("files")
    group.add_argument("--data-dir", type=folder, default=HERE / "data", help="torchvision's root")
    group.add_argument("--out-dir", type=folder, default=HERE / "plots",
                       help="for record and figures")
    group.add_argument("--runs-dir", type=folder, default=HERE / "runs",
                       help="for checkpoint, samples and grids")
    group.add_argument("--run-name", help="default: from the flags that are not their defaults")
    already = group.add_mutually_exclusive_group()
    already.add_argument("--resume", action="store_true",
                         help="go on with the run of this name, or start it; of a finished one, "
                              "make samples, figures and record anew")
    already.add_argument("--fresh", action="store_true", help="start over, whatever is there")


# ------------------------------------------------------------------------------- command line
def parse_args(argv=None):
    """The command line (default: sys.argv), checked; a wrong one ends with status 2, one line."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.error = lambda text: parser.exit(2, f"{parser.prog}: {text} (--help lists every flag)\n")
    parser.add_argument("--dataset", choices=("mnist", "fashion"), default="mnist")
    parser.add_argument("--epochs", type=number(int, 1, 100_000), default=30,
                        help="passes over the images")
    parser.add_argument("--batch-size", type=number(int, 1, 60_000), default=128,
                        help="images in a mini-batch")
    parser.add_argument("--lr", type=number(float, 1e-9, 1e3), default=1e-2,
                        help="of Adam at first; it falls by half a cosine, epoch by epoch")
    parser.add_argument("--seed", type=number(int, 0, 2**31), default=1, help="of all chance")
    parser.add_argument("--no-cuda", action="store_true", help="stay on the CPU")
    add_file_flags(parser)
    args = parser.parse_args(argv)
    return named(args, f"p3_{args.dataset}", ("dataset",), parser, argv)


def flatten(images, device):
    """uint8 (N, 28, 28) -> float32 (N, 784) in [0, 1] on `device`."""
    return images.to(device).view(-1, PIXELS).float().div_(255)


def main(argv=None):
    args = parse_args(argv)
    with own_settings():
        prepare_folders(args.out_dir, args.runs_dir)
        device = choose_device(args.no_cuda)
        data = load_dataset(args.dataset, args.data_dir)
        train_images = flatten(data[0], device)
        train_labels = data[1].to(device)
        test_images = flatten(data[2], device)
        test_labels = data[3].to(device)
        state = open_run(args, checksum(data), device)
        if state["epoch"] == 0:
            state["fingerprint"] = fingerprint(args)

        models = build_models(args.seed, device)
        fit(models, train_images, test_images, state, args)
        report(models, (train_images, train_labels), (test_images, test_labels), state, args)


if __name__ == "__main__":
    run(main)
