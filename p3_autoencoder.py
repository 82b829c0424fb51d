"""Problems 3.2 and 3.3: a corruption process and its denoiser; an autoencoder with two neurons.

    python p3_autoencoder.py                        MNIST
    python p3_autoencoder.py --dataset fashion      Fashion-MNIST
    python p3_autoencoder.py --resume               go on where a run was stopped

A run is named after its flags (p3_fashion_epochs10_seed2). After every epoch of 3.3 it saves a
checkpoint under runs/; at its end record and figures of both problems in plots/.

3.2 trains a denoiser whose optimum is known: with Gaussian noise the step to the posterior mean is
the variance times the score (Tweedie's formula: Robbins 1956, Miyasawa 1961, Efron 2011). 3.3
trains 784-2-784 with a sigmoid output, the answer, and with a linear one, for which PCA is the best
there is (Bourlard & Kamp 1988).
"""
import argparse
import hashlib
import io
import json
import math
import os
import pickle
import shlex
import socket
import sys
import tempfile
import time
import zlib
from pathlib import Path

if __name__ == "__main__":
    os.environ["MPLBACKEND"] = "agg"  # a notebook hands down its own, which may be missing here
import torch
import torch.nn.functional as F
import torchvision
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from torch import nn

SIGMA = 0.15  # standard deviation of the Gaussian corruption
DENOISER_STEPS = 6000
PIXELS = 28 * 28
NEIGHBOURS = 15  # training codes that vote on the class of a test image


# ---------------------------------- 3.2: corruption, denoising (on the CPU: too small for a GPU)
def parabola(x):
    """Points (x, x^2), (N, 2), of x (N, 1); the data set has x uniform on [-1, 1]."""
    return x ** torch.tensor([1, 2])


def corrupt(x):
    """Draw x_hat from C(x_hat | x) = N(x_hat; x, SIGMA^2 I) for points x (N, 2)."""
    return x + SIGMA * torch.randn_like(x)


def train_denoiser():
    """Train 2-64-64-2 on least squares: corrupted point x_hat (N, 2) -> x - x_hat (N, 2)."""
    denoiser = nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(),
                             nn.Linear(64, 2))
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=5e-3, fused=True)
    for _ in range(DENOISER_STEPS):
        optimizer.param_groups[0]["lr"] *= 0.9993  # ends at 7e-5
        clean = parabola(2 * torch.rand(512, 1) - 1)
        corrupted = corrupt(clean)
        loss = F.mse_loss(denoiser(corrupted), clean - corrupted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return denoiser


def optimal_step(corrupted):
    """E[x | x_hat] - x_hat for points x_hat (N, 2) after Gaussian corruption, (N, 2).

    It is SIGMA^2 times the gradient of the log density of x_hat (Tweedie's formula); here by
    quadrature, a mean over points x of the parabola weighted by C(x_hat | x).
    """
    curve = parabola(torch.linspace(-1, 1, 4001, dtype=torch.float64)[:, None])
    means = []
    for batch in corrupted.double().split(250):  # whose distances stay in a CPU's cache
        exponent = -torch.cdist(batch, curve).square() / (2 * SIGMA**2)
        means.append(exponent.softmax(1) @ curve)
    return torch.cat(means).to(corrupted) - corrupted


@torch.no_grad()
def test_denoiser(denoiser):
    """On 100 000 fresh points: ||learned - optimal|| / ||optimal|| over all steps, and the mean
    squared distances to the clean points before a step and after either.
    """
    clean = parabola(2 * torch.rand(100_000, 1) - 1)
    corrupted = corrupt(clean)
    learned, optimal = denoiser(corrupted), optimal_step(corrupted)
    error = (learned - optimal).norm() / optimal.norm()
    numbers = {"points": len(clean), "denoiser_relative_error": error.item()}
    for name, step in (("corrupted", 0), ("denoised", learned), ("optimal", optimal)):
        squared_distance = (corrupted + step - clean).square().sum(1)
        numbers[f"{name}_distance"] = squared_distance.mean().item()
    return numbers


# ------------------------------------------------------------- 3.3: model and loss, training, test
class Autoencoder(nn.Module):
    """784-2-784: two linear hidden neurons, and a linear or a sigmoid output."""

    def __init__(self, output="linear"):
        super().__init__()
        self.encoder = nn.Linear(PIXELS, 2)
        self.decoder = nn.Linear(2, PIXELS)
        self.output = nn.Sigmoid() if output == "sigmoid" else nn.Identity()

    def forward(self, x):
        """x (B, 784) in [0, 1] -> reconstruction (B, 784)."""
        return self.output(self.decoder(self.encoder(x)))


def train(models, images, optimizer, args, epoch):
    """One epoch over `images` (N, 784) of networks that share no weight, on mean squared error."""
    torch.manual_seed(1_000_003 * args.seed + epoch)  # so that a resumed run draws the same
    cosine = math.cos(math.pi * (epoch - 1) / args.epochs)
    optimizer.param_groups[0]["lr"] = args.lr * (0.5 + 0.5 * cosine)
    order = torch.randperm(len(images)).to(images.device)
    for x in images[order].split(args.batch_size):
        loss = sum(F.mse_loss(model(x), x) for model in models.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def test(models, train_images, test_images):
    """{linear_train_mse, linear_test_mse, ...}: squared errors, means over images and pixels."""
    errors = {}
    for name, model in models.items():
        for part, images in (("train", train_images), ("test", test_images)):
            squared_error = (model(images) - images).square()
            errors[f"{name}_{part}_mse"] = squared_error.mean(dtype=torch.float64).item()
    return errors


# -------------------------------------------------------------------------- 3.3: PCA, neighbours
@torch.no_grad()
def pca_network(images):
    """PCA of `images` (N, 784) as a linear network, and the share of variance it explains."""
    mean = images.mean(0, dtype=torch.float64)
    variances, axes = torch.linalg.eigh(images.T.double().cov(correction=0))  # ascending
    axes = axes[:, [-1, -2]]  # (784, 2), the larger variance first
    model = Autoencoder().to(images.device)
    model.encoder.weight.copy_(axes.T)
    model.encoder.bias.copy_(-axes.T @ mean)
    model.decoder.weight.copy_(axes)
    model.decoder.bias.copy_(mean)
    return model, (variances[-2:].sum() / variances.sum()).item()


def neighbour_labels(train_codes, train_labels, test_codes):
    """Labels (N, k) of the k = NEIGHBOURS training codes (M, 2) nearest to test codes (N, 2).

    Whitened by the covariance in training: an invertible linear map changes no neighbour.
    """
    whiten = torch.linalg.inv(torch.linalg.cholesky(train_codes.T.cov())).T
    nearest = []
    for codes in test_codes.split(500):  # all distances at once are too many
        distance = torch.cdist(codes @ whiten, train_codes @ whiten)
        nearest.append(distance.topk(NEIGHBOURS, largest=False).indices)
    return train_labels[torch.cat(nearest)]


def neighbour_numbers(neighbours, labels):
    """{knn_accuracy: share of images whose neighbours' labels (N, k) vote for their own (N,)}.

    And {neighbours_3_5: ...}: the share of class 5 in the neighbours of images of class 3.
    """
    right = neighbours.mode(dim=1).values == labels
    numbers = {"knn_accuracy": right.double().mean().item()}
    shares = F.one_hot(neighbours, 10).double().mean(1)  # (N, 10)
    for label in labels.unique().tolist():
        for other, share in enumerate(shares[labels == label].mean(0).tolist()):
            numbers[f"neighbours_{label}_{other}"] = share
    return numbers


# ------------------------------------------------------------------------- results and figures
def report_corruption(stem, seed):
    """3.2: train the denoiser, draw both figures; its numbers."""
    torch.manual_seed(seed)
    denoiser = train_denoiser()
    numbers = {"sigma": SIGMA, "drawn_points": 600} | test_denoiser(denoiser)
    clean = parabola(2 * torch.rand(numbers["drawn_points"], 1) - 1)
    draw_points(f"{stem}_corruption.pdf", {
        "original points $x$": (clean, None),
        rf"corrupted, $\sigma$ = {SIGMA}": (corrupt(clean), None)})

    grid = torch.cartesian_prod(torch.linspace(-1.4, 1.4, 15), torch.linspace(-0.4, 1.4, 10))
    grid = grid[optimal_step(grid).norm(dim=1) < 3 * SIGMA]  # farther out points are too rare
    exact, learned = optimal_step(grid), denoiser(grid).detach()
    draw_points(f"{stem}_denoiser.pdf", {
        r"exact: $\sigma^2 \nabla \log p_\sigma(\hat x)$": (grid, exact),
        "learned": (grid, learned),
        r"5 $\times$ (learned $-$ exact)": (grid, 5 * (learned - exact))})
    return numbers


def draw_points(path, panels):
    """3.2: {title: (points (N, 2), arrows (N, 2) from them or None)} over the parabola."""
    figure = Figure(figsize=(6.9, 2.1))
    all_axes = figure.subplots(1, len(panels), sharex=True, sharey=True)
    curve = parabola(torch.linspace(-1, 1, 200)[:, None])
    for axes, (title, (points, arrows)) in zip(all_axes, panels.items()):
        axes.plot(*curve.T, color="0.7", linewidth=1, zorder=0)
        if arrows is None:
            axes.scatter(*points.T, s=3, linewidth=0)
        else:
            axes.quiver(*points.T, *arrows.T, width=0.006, angles="xy", scale_units="xy", scale=1)
        axes.set(title=title, xlabel="first coordinate", aspect="equal")
    all_axes[0].set_ylabel("second coordinate")
    save_figure(figure, path)


@torch.no_grad()
def report_planes(stem, models, train_set, test_set):
    """3.3: draw the plane of the sigmoid output; numbers of both networks and of PCA.

    A set is images (N, 784) and labels (N,).
    """
    train_images, train_labels = train_set
    test_images, test_labels = test_set
    pca, explained = pca_network(train_images)
    networks = {"pca": pca, **models}
    numbers = test(networks, train_images, test_images)
    numbers |= {"neighbours": NEIGHBOURS, "pca_variance_explained": 100 * explained}
    codes = {name: model.encoder(test_images) for name, model in networks.items()}
    for name, model in networks.items():
        neighbours = neighbour_labels(model.encoder(train_images), train_labels, codes[name])
        for key, value in neighbour_numbers(neighbours, test_labels).items():
            numbers[f"{name}_{key}"] = value
    draw_plane(f"{stem}_embedding.pdf", codes["sigmoid"].cpu(), test_labels.cpu())
    draw_classes(f"{stem}_classes.pdf", codes["sigmoid"].cpu(), test_labels.cpu())
    return numbers


def numeral_places(codes, labels):
    """Median code (2,) of each class, pushed aside where two numerals would hide each other."""
    spots = torch.stack([codes[labels == label].median(0).values for label in labels.unique()])
    least = 0.05 * (codes.max(0).values - codes.min(0).values)
    for _ in range(100):
        away = (spots[:, None] - spots) / least  # (classes, classes, 2)
        near = away.norm(dim=2, keepdim=True) < 1
        spots = spots + 0.1 * least * (away * near).sum(1)
    return spots


def draw_plane(path, codes, labels):
    """Codes (N, 2) as dots coloured by `labels` (N,), numerals about the classes' medians."""
    figure = Figure(figsize=(6.9, 4))
    axes = figure.subplots()
    axes.scatter(*codes.T, c=labels, cmap="tab10", vmin=0, vmax=9, s=2, alpha=0.6, linewidth=0,
                 rasterized=True)
    for label, spot in zip(labels.unique().tolist(), numeral_places(codes, labels)):
        rims = [Stroke(linewidth=5.6, foreground=f"C{label}"),
                Stroke(linewidth=3.2, foreground="white"), Normal()]
        axes.text(*spot, str(label), path_effects=rims, size=12, weight="bold", ha="center",
                  va="center")
    axes.set(xlabel="hidden neuron 1", ylabel="hidden neuron 2")
    save_figure(figure, path)


def draw_classes(path, codes, labels):
    """A panel for each class, its codes dark over the grey cloud of all codes (N, 2)."""
    figure = Figure(figsize=(6.9, 2.9))
    for label, axes in enumerate(figure.subplots(2, 5, sharex=True, sharey=True).flat):
        axes.scatter(*codes.T, s=1, color="0.8", linewidth=0, rasterized=True)
        axes.scatter(*codes[labels == label].T, s=1, color="black", linewidth=0, rasterized=True)
        axes.set(title=f"class {label}")
    figure.supxlabel("hidden neuron 1", size=8)
    figure.supylabel("hidden neuron 2", size=8)
    save_figure(figure, path)


# ----------------------------------------------------------------------- command line and main
def parse_args():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--dataset", choices=("mnist", "fashion"), default="mnist")
    parser.add_argument("--epochs", type=int, default=30, help="passes over the training images")
    parser.add_argument("--batch-size", type=int, default=128, help="images in a mini-batch")
    parser.add_argument("--lr", type=float, default=1e-2, help="of Adam; falls by half a cosine")
    parser.add_argument("--seed", type=int, default=1, help="of all chance")
    add_file_flags(parser)
    args = parser.parse_args()
    if min(args.epochs, args.batch_size) < 1:
        parser.error("epochs and batch size are at least 1")
    parser.set_defaults(dataset=args.dataset)  # which the name begins with
    args.run_name = name_run(f"p3_{args.dataset}", args, parser)
    return args


def main():
    args = parse_args()
    device = choose_device(args.no_cuda)
    train_images, train_labels, test_images, test_labels = load_dataset(args.dataset, args.data_dir)
    checkpoint = args.runs_dir / f"{args.run_name}.pt"
    state = open_run(checkpoint, args, zlib.crc32(train_images.numpy()))
    earlier = state["seconds"]  # of the processes before this one
    train_images = train_images.to(device).view(-1, PIXELS) / 255
    test_images = test_images.to(device).view(-1, PIXELS) / 255
    torch.manual_seed(args.seed)
    models = nn.ModuleDict({output: Autoencoder(output) for output in ("linear", "sigmoid")})
    models.to(device)
    optimizer = torch.optim.Adam(models.parameters(), lr=args.lr, fused=True)
    if state["epoch"] > 0:
        models.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])

    for epoch in range(state["epoch"] + 1, args.epochs + 1):
        train(models, train_images, optimizer, args, epoch)
        errors = test(models, train_images, test_images)
        if not all(error < 1 for error in errors.values()):  # black images have less; NaN fails
            raise FloatingPointError(f"epoch {epoch} diverged: give a smaller --lr")
        for name, error in errors.items():
            state["curves"].setdefault(name, []).append(error)
            print(f"{name} {error:.5f}", end="  ")
        print(f"after epoch {epoch}", flush=True)
        state |= {"epoch": epoch, "model": models.state_dict(), "optimizer": optimizer.state_dict(),
                  "seconds": earlier + time.process_time()}
        save_state(checkpoint, args, state)

    stem = args.out_dir / args.run_name
    numbers = report_corruption(stem, args.seed)
    numbers |= report_planes(stem, models, (train_images, train_labels.to(device)),
                             (test_images, test_labels.to(device)))
    state |= {"finished": True, "seconds": earlier + time.process_time()}
    write_record(f"{stem}.json", args, device, numbers=numbers, curves=state["curves"],
                 seconds=state["seconds"])
    save_state(checkpoint, args, state)
    print(f"{stem}*: test error per pixel {numbers['sigmoid_test_mse']:.5f} (sigmoid output)")


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


def add_file_flags(parser):
    """The flags that change where results lie, and not what they are."""
    parser.add_argument("--data-dir", type=Path, default=HERE / "data", help="torchvision's root")
    parser.add_argument("--out-dir", type=Path, default=HERE / "plots", help="of the results")
    parser.add_argument("--runs-dir", type=Path, default=HERE / "runs", help="of what is large")
    parser.add_argument("--resume", action="store_true", help="go on where this run was stopped")
    parser.add_argument("--no-cuda", action="store_true", help="stay on the CPU")


def settings_of(args):
    """{name: value} of the flags that decide what a run computes."""
    return {name: value for name, value in vars(args).items() if name not in NO_SETTINGS}


def name_run(name, args, parser):
    """`name` and every setting that is not its default: vae_fashion_beta0.5_seed2."""
    for flag, value in settings_of(args).items():
        if value != parser.get_default(flag):
            dash = "-" if flag[-1].isdigit() else ""  # beta1-0.5
            name += f"_{flag.replace('_', '-')}{dash}{str(value).removesuffix('.0')}"
    return name


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


def save_state(path, args, state):
    """Save numbers and tensors by name with the run's settings."""
    content = io.BytesIO()
    torch.save(state | {"settings": settings_of(args)}, content)
    write_file(path, content.getvalue())


def load_state(path):
    """What save_state wrote, on the CPU; OSError where it is missing or damaged."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise OSError(f"{path} is missing: run this command without --draw first") from error
    except (EOFError, LookupError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise OSError(f"{path} is damaged: delete it to start over") from error


def open_run(path, args, data):
    """The state to start from: of the checkpoint `path` with --resume, else empty.

    OSError where a folder cannot be written, a run is unfinished, or settings or data are others.
    """
    for folder in (args.out_dir, args.runs_dir):  # one that cannot be written is told before hours
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    new = {"data": data, "epoch": 0, "finished": False, "curves": {}, "seconds": 0.0}
    if not path.exists():
        return new
    saved = load_state(path)
    if not args.resume and not saved["finished"]:
        raise OSError(f"{path} is an unfinished run: go on with --resume, or delete it")
    if not args.resume:
        return new
    if saved["settings"] != settings_of(args) or saved["data"] != data:
        raise OSError(f"{path} is of other settings or images: delete it to start over")
    return saved


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
    run(main, stopped="; --resume goes on after the last whole epoch")
