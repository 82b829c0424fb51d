"""Problems 3.2 and 3.3: a corruption process and its denoiser; an autoencoder with two hidden neurons.

    python p3_autoencoder.py                       MNIST; --dataset fashion for Fashion-MNIST

3.3 sets 784-2-784 beside PCA, the best that a linear output can do (Bourlard & Kamp 1988). MSE is per pixel in [0, 1].
Writes runs/p3_<dataset>.pt (checkpoint), plots/p3_<dataset>.json (record) and plots/p3_<dataset>_*.pdf (figures).
"""
import argparse
import contextlib
import io
import json
import math
import shlex
import sqlite3
import sys
import tempfile
import time
import zlib
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
import torchvision
from torch import nn
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
PIXELS = 28 * 28
SIGMA, MASKED = 0.15, 0.25  # standard deviation of the Gaussian corruption; probability of masking a coordinate


# ------------------------------------------------------------- helpers, the same text in every script that has them
STYLE = {"backend": "Agg", "font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "image.cmap": "gray",
         "figure.constrained_layout.use": True, "pdf.fonttype": 42, "legend.frameon": False, "lines.linewidth": 1.2}


def load_dataset(name, data_dir):
    """(train images, labels, test images, labels) as uint8 (N, 28, 28) and (N,); OSError names a file not to be had."""
    dataset, tensors = {"mnist": torchvision.datasets.MNIST, "fashion": torchvision.datasets.FashionMNIST}[name], []
    for file in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        path = Path(data_dir, dataset.__name__, "raw", f"{file}-ubyte")
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                path.exists() or dataset(data_dir, download=True)
            tensors.append(torchvision.datasets.mnist.read_sn3_pascalvincent_tensor(path))
            shape = (len(tensors[-1]), 28, 28) if "images" in file else (len(tensors[-2]),)
            assert tensors[-1].shape == shape and 0 not in shape and ("images" in file or tensors[-1].max() < 10)
        except Exception as error:
            fault = "is damaged: delete it" if path.exists() else "is missing and cannot be downloaded: go online"
            raise OSError(f"{path} {fault}, name another --data-dir, or run `make demo` (no download)") from error
    return tensors


def choose_device(no_cuda):
    """The CUDA device where there is one and `no_cuda` is off, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() and not no_cuda else "cpu")


@contextlib.contextmanager
def replacing(path):
    """Yield a path beside `path` to write to; only when the block succeeds is it renamed to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part-{path.name}")
    with contextlib.ExitStack() as at_the_end:
        at_the_end.callback(part.unlink, missing_ok=True)
        yield part
        part.replace(path)


def save_figure(figure, path):
    """Write a figure as PDF without its date, so that the same picture is the same bytes."""
    with replacing(path) as part:
        figure.savefig(part, metadata={"CreationDate": None})
    plt.close(figure)


def write_record(path, args, device, numbers, **fields):
    """Write a run's record as JSON; `numbers` maps a name to (value, the format the report prints it in)."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    record = {"command": args.command, "settings": settings_of(args), "seed": args.seed, "device": name, **fields,
              "versions": {m.__name__: m.__version__ for m in (torch, torchvision, np, matplotlib)},
              "numbers": {key: {"value": value, "format": spec} for key, (value, spec) in numbers.items()}}
    with replacing(path) as part:
        part.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")


def settings_of(args):
    """The flags that decide what a run computes: not where its files lie, nor how it is watched."""
    return {name: value for name, value in vars(args).items() if name not in
            ("data_dir", "out_dir", "runs_dir", "resume", "log_interval", "no_cuda", "command")}


def run(main):
    """Call main(); a fault that a person can mend ends in one line instead of a traceback."""
    try:
        main()
    except (OSError, FloatingPointError, MemoryError, RuntimeError) as error:
        full = isinstance(error, MemoryError) or isinstance(error, RuntimeError) and "alloc" in str(error).lower()
        if isinstance(error, RuntimeError) and not full:
            raise
        advice = "; make room, or name another folder" * bool(getattr(error, "errno", None))
        sys.exit(f"{Path(sys.argv[0]).name}: {'out of memory: give smaller sizes' if full else error}{advice}")
    except KeyboardInterrupt:
        print("\nstopped; to continue a training run, give the same command with --resume", file=sys.stderr)
        sys.exit(130)


@contextlib.contextmanager
def claim(path, out_dir):
    """Lock `path`, and another name in `out_dir`, so that no two runs of one name mix; OSError: another has one."""
    with contextlib.ExitStack() as locks:
        for lock in (path, out_dir / f".out{path.name}"):  # two names, since the folder may be the same
            lock.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=lock.parent).close()  # one not to be written is found now, not after training
            try:  # SQLite locks alike on every system
                locks.enter_context(contextlib.closing(sqlite3.connect(lock, timeout=0))).execute("BEGIN EXCLUSIVE")
            except sqlite3.Error as error:
                raise OSError(f"{lock}: {error}: let the other run end, or name other --runs-dir, --out-dir") from error
        yield


# ------------------------------------------------------------------------------------- 3.2: corruption and denoising
def parabola(count):
    """`count` points (x, x^2) with x uniform on [-1, 1]: (count, 2)."""
    return (2 * torch.rand(count, 1) - 1) ** torch.tensor([1, 2])


def corrupt_gaussian(x):
    """Draw from C(x^ | x) = N(x^; x, SIGMA^2 I), the density exp(-||x^ - x||^2 / (2 SIGMA^2)) / (2 pi SIGMA^2)."""
    return x + SIGMA * torch.randn_like(x)


def corrupt_masking(x):
    """Draw from C(x^ | x) = prod_j [(1 - MASKED) delta(x^_j - x_j) + MASKED delta(x^_j)]: coordinates set to 0."""
    return x * (torch.rand_like(x) >= MASKED)


def posterior_mean(corrupted, nodes=4001):
    """E[x | x^] under Gaussian corruption of the parabola, by quadrature over x in [-1, 1]: (B, 2) -> (B, 2)."""
    curve = torch.linspace(-1, 1, nodes, dtype=torch.float64)[:, None] ** torch.tensor([1, 2])  # equally likely points
    return torch.cat([torch.softmax(-torch.cdist(part, curve).square() / (2 * SIGMA**2), dim=1) @ curve
                      for part in corrupted.double().split(250)])  # which stay in a CPU's cache


def train_denoiser(seed, steps=6_000):
    """Least-squares regression of x - x^ on x^; the optimum is E[x | x^] - x^ (Alain & Bengio 2014, theorem 1)."""
    torch.manual_seed(seed)
    denoiser = nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=5e-3, fused=True)
    for _ in range(steps):
        optimizer.param_groups[0]["lr"] *= 0.9993  # ends at 7e-5
        clean = parabola(512)
        corrupted = corrupt_gaussian(clean)
        loss = nn.functional.mse_loss(denoiser(corrupted), clean - corrupted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return denoiser


def corruption_numbers(denoiser):
    """Mean squared distance to the clean point from corrupted, denoised and optimally denoised points."""
    corrupted = corrupt_gaussian(clean := parabola(100_000))
    learned, exact = denoiser(corrupted), posterior_mean(corrupted).float() - corrupted
    numbers = {"denoiser_relative_error": (((learned - exact).norm() / exact.norm()).item(), ".3f"),
               "sigma": (SIGMA, ".2f"), "masked": (MASKED, ".2f"), "points": (len(clean), "d")}
    for name, move in (("corrupted", 0), ("denoised", learned), ("optimal", exact)):
        numbers[f"{name}_distance"] = ((corrupted + move - clean).square().sum(1).mean().item(), ".4f")
    return numbers


def draw_corruption(stem, denoiser):
    """The data set, corrupted both ways, on the same axes; and the denoiser's displacements over the exact ones."""
    clean = parabola(600)
    titles = "original", f"Gaussian noise, $\\sigma$ = {SIGMA}", f"masking, $p$ = {MASKED}"
    figure, axes = plt.subplots(1, 3, figsize=(6.5, 1.95), sharex=True, sharey=True)
    for panel, title, points in zip(axes, titles, (clean, corrupt_gaussian(clean), corrupt_masking(clean))):
        panel.scatter(*points.T.numpy(), s=3, color="C0", linewidth=0)
        panel.set(title=title, xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
    save_figure(figure, Path(f"{stem}_corruption.pdf"))
    grid = torch.cartesian_prod(torch.linspace(-1.4, 1.4, 15), torch.linspace(-0.4, 1.4, 10))
    exact = posterior_mean(grid).float() - grid
    near = exact.norm(dim=1) < 3 * SIGMA  # farther out corrupted points are too rare to learn from
    figure, axes = plt.subplots(figsize=(4.2, 2.5))
    axes.plot(curve := np.linspace(-1, 1, 200), curve**2, color="C0", linewidth=3, label="data $y = x^2$")
    for moves, color, width, label in ((exact, "0.65", 0.012, r"exact: $\sigma^2 \nabla \log p_\sigma(\hat x)$"),
                                       (denoiser(grid), "black", 0.003, "learned")):
        axes.quiver(*torch.cat((grid, moves), dim=1)[near].T.numpy(), angles="xy", scale_units="xy", scale=1,
                    color=color, width=width, label=label)
    axes.set(xlabel=r"$\hat x_1$", ylabel=r"$\hat x_2$", aspect="equal")
    figure.legend(loc="outside upper center", ncols=3)
    save_figure(figure, Path(f"{stem}_denoiser.pdf"))


# ----------------------------------------------------------------------------------- 3.3: one hidden layer, two neurons
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


def pca_network(images):
    """PCA of `images` (N, 784) as weights of the linear network, and the share of variance its two axes explain."""
    mean = images.mean(0, dtype=torch.float64)
    variances, axes = torch.linalg.eigh(images.T.double().cov(correction=0))
    model, axes = Autoencoder("linear").to(images.device).requires_grad_(False), axes[:, [-1, -2]]
    for parameter, value in zip(model.parameters(), (axes.T, -axes.T @ mean, axes, mean)):
        parameter.copy_(value)
    return model, (variances[-2:].sum() / variances.sum()).item()


@torch.no_grad()
def mean_squared_error(model, images):
    """Mean over images (N, 784) and pixels."""
    return (model(images) - images).square().mean(dtype=torch.float64).item()


def nearest_neighbours(model, train_images, train_labels, test_images, k=15):
    """Labels (N,) that the majority of the k nearest training codes gives to test images; coordinates whitened."""
    train_codes, test_codes = model.encoder(train_images), model.encoder(test_images)
    whiten = torch.linalg.inv(torch.linalg.cholesky(train_codes.T.cov())).T
    nearest = [torch.cdist(part @ whiten, train_codes @ whiten).topk(min(k, len(train_codes)), largest=False).indices
               for part in test_codes.split(500)]
    return train_labels.long()[torch.cat(nearest)].mode(dim=1).values


def plane_numbers(name, model, x_train, train_labels, x_test, test_labels):
    """Errors of a plane on both sets, and k-NN accuracy overall, per class, and with whom a class is confused most."""
    votes, labels = nearest_neighbours(model, x_train, train_labels, x_test), test_labels.long()
    numbers = {f"{name}_train_mse": (mean_squared_error(model, x_train), ".5f"),
               f"{name}_test_mse": (mean_squared_error(model, x_test), ".5f"),
               f"{name}_knn_accuracy": ((votes == labels).double().mean().item(), ".3f")}
    for label in labels.unique().tolist():
        numbers[f"{name}_knn_accuracy_{label}"] = ((votes[labels == label] == label).double().mean().item(), ".2f")
        rivals = votes[(labels == label) & (votes != label)].bincount(minlength=10)
        numbers[f"{name}_confused_{label}"] = (rivals.argmax().item(), "d")
    return numbers


def compare_planes(model, pca, images):
    """Principal angles [degrees] of the planes, canonical correlations of the codes, a basis rotated near to PCA's."""
    basis, codes = torch.linalg.qr(model.decoder.weight.double()).Q, [net.encoder(images) for net in (model, pca)]
    u, cosines, vt = torch.linalg.svd(basis.T @ pca.decoder.weight.double())
    whitened = [torch.linalg.qr((code - code.mean(0)).double()).Q for code in codes]
    numbers = {"angle": torch.rad2deg(torch.arccos(cosines.clamp(max=1))),
               "canonical": torch.linalg.svdvals(whitened[0].T @ whitened[1])}
    numbers = {f"{key}_{i}": value.item() for key, pair in numbers.items() for i, value in enumerate(pair, 1)}
    return numbers, (basis @ u @ vt).float()


def draw_embedding(path, planes, labels):
    """Every test image in each plane, coloured by class; each class is named at its centroid."""
    figure, axes = plt.subplots(1, len(planes), figsize=(6.5, 2.8))
    for panel, (title, codes) in zip(axes, planes.items()):
        points = panel.scatter(*codes.T.numpy(), c=labels.numpy(), cmap="tab10", vmin=0, vmax=9, s=1.5, linewidth=0,
                               rasterized=True)
        for label in labels.unique().tolist():
            panel.text(*codes[labels == label].mean(0).tolist(), str(label), ha="center", va="center", size=6,
                       bbox={"boxstyle": "circle,pad=0.1", "facecolor": "white", "linewidth": 0.5})
        unit = "component" if title == "PCA" else "hidden neuron"
        panel.set(title=title, xlabel=f"{unit} 1", ylabel=f"{unit} 2")
    handles, names = points.legend_elements(num=labels.unique().tolist(), fmt="{x:.0f}")
    figure.legend(handles, names, title="label", loc="outside lower center", ncols=10)
    save_figure(figure, path)


def draw_rows(path, rows, width):
    """Rows {name: images (n, 784) in [0, 1]} under each other, on one fixed grey scale."""
    images = torch.stack(list(rows.values()))
    tiles = torchvision.utils.make_grid(images.view(-1, 1, 28, 28), images.shape[1], pad_value=0.5)[0]
    figure, axes = plt.subplots(figsize=(width, 0.8 * width * len(rows) / images.shape[1]))
    axes.imshow(tiles.cpu().numpy(), vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], frame_on=False)
    axes.set_yticks([16 + 30 * row for row in range(len(rows))], [name.replace(" ", "\n") for name in rows])
    save_figure(figure, path)


NUMBERS = {  # flag: (type, default, least, most, what it is)
    "--epochs": (int, 30, 1, 100_000, "passes over the training images"),
    "--batch-size": (int, 128, 1, 60_000, "images in a mini-batch"),
    "--lr": (float, 1e-2, 1e-12, 1e12, "learning rate of Adam at first; it falls by half a cosine, epoch by epoch"),
    "--seed": (int, 1, 0, 2**31, "seed of every random number"),
}


def parse_args(argv=None):
    """The command line (default: sys.argv), checked; a wrong one ends with status 2 and one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: {message} (--help lists every flag)\n")
    parser.add_argument("--dataset", choices=("mnist", "fashion"), default="mnist")
    for flag, (kind, default, least, most, text) in NUMBERS.items():
        parser.add_argument(flag, type=kind, default=default, help=f"{text}, {least} to {most}")
    parser.add_argument("--no-cuda", action="store_true", help="stay on the CPU")
    parser.add_argument("--resume", action="store_true", help="continue the run of this name where it stopped")
    for flag, folder in (("--data-dir", "data"), ("--out-dir", "plots"), ("--runs-dir", "runs")):
        parser.add_argument(flag, type=Path, default=HERE / folder, help=f"default: {folder}, beside this script")
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(argv)
    for flag, (_, _, least, most, _) in NUMBERS.items():
        if not least <= (value := getattr(args, flag[2:].replace("-", "_"))) <= most:
            parser.error(f"{flag} {value} is not between {least} and {most}")
    args.run_name = f"p3_{args.dataset}"
    args.command = shlex.join(["python", Path(__file__).name, *(word for word in argv if word != "--resume")])
    return args


def load_checkpoint(path, settings, device, parts):
    """Load what `path` holds into `parts` and return the state; OSError: it is absent, damaged, of other settings."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        there = ", ".join(f"--{name.replace('_', '-')} {state['settings'][name]}"
                          for name, value in settings.items() if state["settings"][name] != value)
        for part, saved in zip(parts, state["parts"][:0 if there else None]):
            part.load_state_dict(saved)
    except Exception as error:
        fault = "is damaged or not of this script: delete it and" if path.exists() else "holds nothing to resume:"
        raise OSError(f"{path} {fault} start the run without --resume") from error
    if there:
        raise OSError(f"{path} was made with {there}: resume with that, or start anew in another --runs-dir")
    print(f"{path.stem}: {state['epoch']} epochs were already done")
    return state


def fit(models, data, args, device):
    """Train both networks on data, (training images, test images), to the last epoch: the state, with curves."""
    checkpoint = args.runs_dir / f"{args.run_name}.pt"
    optimizer = torch.optim.Adam(models.parameters(), lr=args.lr, fused=True)
    settings = settings_of(args) | {"data_dir": f"of checksum {sum(zlib.crc32(x.cpu().numpy()) for x in data):x}"}
    state = (load_checkpoint(checkpoint, settings, device, (models, optimizer)) if args.resume else
             {"settings": settings, "epoch": 0, "seconds": 0.0, "curves": {}})
    with tqdm(total=args.epochs, initial=state["epoch"], unit="epoch", disable=None) as bar:
        while True:
            torch.save(state | {"parts": [part.state_dict() for part in (models, optimizer)]}, buffer := io.BytesIO())
            with replacing(checkpoint) as part:
                part.write_bytes(buffer.getvalue())  # torch.save itself would hide a full disk behind a RuntimeError
            if state["epoch"] == args.epochs:
                return state
            start, epoch = time.perf_counter() - state["seconds"], state["epoch"] + 1
            torch.manual_seed(1_000_003 * args.seed + epoch)  # an epoch depends on nothing before but weights and Adam
            optimizer.param_groups[0]["lr"] = args.lr * (0.5 + 0.5 * math.cos(math.pi * (epoch - 1) / args.epochs))
            for x in data[0][torch.randperm(len(data[0])).to(device)].split(args.batch_size):
                loss = sum(nn.functional.mse_loss(model(x), x) for model in models.values())  # they share no weight
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            errors = {f"{name}_{split}_mse": mean_squared_error(model, images) for name, model in models.items()
                      for split, images in zip(("train", "test"), data)}
            if not all(error < 1 for error in errors.values()):  # pixels and a black image differ by less
                raise FloatingPointError(f"epoch {epoch} diverged (--lr {args.lr:g}), {epoch - 1} is kept: lower --lr")
            state["curves"] = {name: state["curves"].get(name, []) + [value] for name, value in errors.items()}
            state |= {"epoch": epoch, "seconds": time.perf_counter() - start}
            bar.update()
            bar.write("  ".join([f"epoch {epoch}", *(f"{k} {v:.5f}" for k, v in errors.items())]), file=sys.stdout)


def main(argv=None):
    args = parse_args(argv)
    device, stem = choose_device(args.no_cuda), args.out_dir / args.run_name
    plt.rcParams.update(STYLE)
    with claim(args.runs_dir / f".lock-{args.run_name}", args.out_dir):
        train_images, train_labels, test_images, test_labels = load_dataset(args.dataset, args.data_dir)
        x_train, x_test = (x.to(device).view(-1, PIXELS).float().div_(255) for x in (train_images, test_images))
        torch.manual_seed(args.seed)
        models = nn.ModuleDict({output: Autoencoder(output) for output in ("linear", "sigmoid")}).to(device)
        state = fit(models, (x_train, x_test), args, device)
        denoiser = train_denoiser(args.seed).requires_grad_(False)
        numbers = corruption_numbers(denoiser)
        draw_corruption(stem, denoiser)
        pca, explained = pca_network(x_train)
        codes, rows, bases = {}, {"test image": x_test[:8]}, {}
        for title, model in (("PCA", pca), ("linear output", models["linear"]), ("sigmoid output", models["sigmoid"])):
            name, model = title.split()[0].lower(), model.requires_grad_(False)
            numbers |= plane_numbers(name, model, x_train, train_labels.to(device), x_test, test_labels.to(device))
            comparison, basis = compare_planes(model, pca, x_test)
            numbers |= {f"{name}_{key}": (value, ".2f") for key, value in comparison.items()}
            codes[title], rows[title], bases[title] = model.encoder(x_test).cpu(), model(x_test[:8]), basis.T
        trained, best = numbers["linear_train_mse"][0], numbers["pca_train_mse"][0]
        numbers["linear_excess_percent"] = (100 * (trained / best - 1), ".0e")
        clamped = (models["linear"](x_test).clamp(0, 1) - x_test).square().mean().item()
        numbers |= {"linear_clamped_test_mse": (clamped, ".5f"), "pca_variance_explained": (100 * explained, ".1f")}
        draw_embedding(Path(f"{stem}_embedding.pdf"), codes, test_labels)
        draw_rows(Path(f"{stem}_reconstructions.pdf"), rows, width=4.2)
        draw_rows(Path(f"{stem}_planes.pdf"), {name: 0.5 + 3 * basis for name, basis in bases.items()}, width=2.1)
        write_record(Path(f"{stem}.json"), args, device, numbers, seconds=state["seconds"], curves=state["curves"])
        print("  ".join(f"{name} {value:{spec}}" for name, (value, spec) in numbers.items() if name[-1].isalpha()))


if __name__ == "__main__":
    run(main)
