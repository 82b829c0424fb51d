"""Problem 2: descent on the hyper-parameters lambda and eta (2.1), weight decay against its heuristics (2.2).

    python p2.py [--dataset fashion]    both parts, 2.2 on 10 000 images

2.2 is set in chapter 3 of Nielsen's Neural Networks and Deep Learning (2015): sigmoid units, plain SGD, parameters from
N(0, 1), L2 on the weights alone, C = C_0 + lambda / (2n) ||w||^2. Four counts have four letters: n training examples,
m in a mini-batch, N_w weights, n_in inputs of a unit. Writes plots/p2.json, plots/p2_hyper.pdf, plots/p2_decay.pdf.
"""
import argparse
import contextlib
import errno
import gzip
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
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    os.environ["MPLBACKEND"] = "agg"  # a notebook hands down its own, which may be missing here
import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from matplotlib.figure import Figure
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
EXAMPLES, BATCH, RATE, END = 10000, 10, 0.5, 5  # n, m and eta of 2.2, which trains until eta lambda t / m is END
MAIN = "784-30-3"  # n_in, hidden units, lambda; the other networks differ from it in one of the three, the last in two
TAGS = (MAIN, "784-10-3", "784-100-3", "784-30-1", "784-30-10", "196-100-3")
NETWORKS = {tag: tuple(map(int, tag.split("-"))) for tag in TAGS}
COSTS = ("quadratic", "cross-entropy")


def unroll(cost, w, eta, steps):
    """Differentiable gradient descent on cost(w) (G,): [w_0, ..., w_T], each (G, P); eta (G, 1), or one number."""
    iterates = [w.requires_grad_()]
    for _ in range(steps):
        slope, = torch.autograd.grad(cost(iterates[-1]).sum(), iterates[-1], create_graph=True)
        iterates.append(iterates[-1] - eta * slope)
    return iterates


def value_and_slope(function, at):
    """function(at) and its derivative, both (G,), for at (G,) when entry g of the result depends on at[g] alone."""
    at = at.detach().requires_grad_()
    value = function(at)
    return value.detach(), torch.autograd.grad(value.sum(), at)[0]


def difference_error(function, at, step=1e-5):
    """Largest relative error of that derivative against central differences, over the points at (G,)."""
    central = (function(at + step) - function(at - step)).detach() / (2 * step)
    return ((value_and_slope(function, at)[1] - central) / central).abs().max().item()


def ridge_problem(seed, device):
    """A linear regression in float64: X (20, 15), y (20, 1) to train on, as many to validate; noise of variance 4."""
    generator = torch.Generator().manual_seed(seed)
    X, w, noise = (torch.randn(n, d, dtype=torch.float64, generator=generator) for n, d in ((40, 15), (15, 1), (40, 1)))
    return [part.to(device) for whole in (X, X @ w + 2 * noise) for part in whole.split(20)]


def squares(w, X, y):
    """Half the mean squared residual, (G,), of weights w (G, d) on X (n, d), y (n, 1)."""
    return 0.5 * (w @ X.T - y.T).square().mean(dim=1)


def validation_cost(log_lam, problem, steps=200, eta=0.2):
    """Cost on the validation examples after training from w = 0 with lambda = exp(log_lam), both (G,)."""
    X, X_val, y, y_val = problem
    start, lam = X.new_zeros(len(log_lam), X.shape[1]), log_lam.exp() / (2 * len(X))
    return squares(unroll(lambda w: squares(w, X, y) + lam * w.square().sum(1), start, eta, steps)[-1], X_val, y_val)


def descend_jointly(X, y, lam=2.0, eta=0.2, limit=1e6):
    """Descent on (w, lambda) through the training cost until that is below -limit: rows (lambda, cost, ||w||)."""
    n, w, path = len(X), X.new_zeros(X.shape[1], 1), []
    while not path or path[-1][1] > -limit:
        residual, square = X @ w - y, w.square().sum().item()
        path.append((lam, (residual.square().sum().item() + lam * square) / (2 * n), square**0.5))
        w, lam = w - eta * (X.T @ residual + lam * w) / n, lam - eta * square / (2 * n)
    return path


def study_lambda(seed, device, outer=60):
    """2.1 for lambda: numbers for the record, curves for the figure."""
    problem = ridge_problem(seed, device)
    joint, objective = descend_jointly(problem[0], problem[2]), partial(validation_cost, problem=problem)
    zero = next(step for step, (lam, _, _) in enumerate(joint) if lam < 0)
    floor = -torch.linalg.eigvalsh(problem[0].T @ problem[0])[0].item()  # below it the cost has no minimum in w
    grid = torch.linspace(math.log(0.01), math.log(100), 100, dtype=torch.float64, device=device)
    costs, _ = value_and_slope(objective, grid)
    log_lam, bilevel = grid.new_full((1,), math.log(0.02)), []
    for _ in range(outer + 1):
        cost, slope = value_and_slope(objective, log_lam)
        bilevel.append(log_lam.exp().item())
        log_lam = log_lam - slope
    numbers = {"lambda/start": joint[0][0], "lambda/zero": zero, "lambda/steps": len(joint) - 1,
               "lambda/end": joint[-1][0], "lambda/floor": floor, "lambda/outer": outer,
               "lambda/weights": joint[-1][2], "lambda/weights at zero": joint[zero][2],
               "lambda/from": bilevel[0], "lambda/found": bilevel[-1],
               "lambda/best": grid[costs.argmin()].exp().item(), "lambda/least": costs.min().item(),
               "lambda/cost": cost.item(), "lambda/error": difference_error(objective, grid[::10])}
    return numbers, {"lambda_joint": [row[0] for row in joint], "lambda_bilevel": bilevel}


def tanh_costs(eta, steps, init):
    """C_t(eta), t = 0 ... steps, (steps + 1, G), of 1-8-1 tanh networks on sin(3x); bounded at every rate eta (G,)."""
    x = torch.linspace(-1, 1, 20, dtype=eta.dtype, device=eta.device)
    w = torch.randn(1, 24, dtype=eta.dtype, generator=torch.Generator().manual_seed(init)).to(eta.device)

    def cost(w):
        inner, bias, outer = w.chunk(3, dim=1)  # (G, 8) each
        hidden = torch.tanh(inner[:, None] * x[:, None] + bias[:, None])  # (G, 20, 8)
        return 0.5 * (torch.tanh(hidden @ outer[:, :, None]).squeeze(2) - torch.sin(3 * x)).square().mean(dim=1)
    return torch.stack([cost(w) for w in unroll(cost, w.repeat(len(eta), 1), eta[:, None], steps)])


def study_eta(seed, inits, device, steps=100):
    """2.1 for eta: numbers (ranges over initialisations), curves (of the first); beyond the edge a step ascends."""
    etas, rows, curves = torch.linspace(0.02, 16, 800, dtype=torch.float64, device=device), [], {}
    names = ("edge", "best 1", "best 10", "best 100", "away below", "away above", "slope below",
             "slope above", "error")
    for init in range(seed, seed + inits):
        def final(eta, init=init):
            return tanh_costs(eta, steps, init)[-1]
        slopes = torch.cat([value_and_slope(final, part)[1] for part in etas.split(100)])  # memory holds 100 paths
        path = torch.cat([tanh_costs(part, steps, init).detach() for part in etas.split(100)], dim=1)
        edge = (path[1:] > path[:-1]).any(dim=0).nonzero()[0].item()
        best = [etas[path[horizon].argmin()].item() for horizon in (1, 10, steps)]
        away = ((slopes > 0) != (etas > best[-1])).double()  # a small step of descent leads away from the best rate
        rows.append((etas[edge].item(), *best, away[:edge].mean().item(), away[edge:].mean().item(),
                     *(part.abs().max().item() for part in slopes.tensor_split([edge])),
                     difference_error(final, etas[:edge // 2])))
        curves = curves or {"eta": etas.tolist(), "eta_cost": path[-1].tolist(), "eta_slope": slopes.tolist()}
    numbers = {f"eta/{key}/{end.__name__}": end(column)
               for key, column in zip(names, zip(*rows)) for end in (min, max)}
    return numbers | {"eta/rates": len(etas), "eta/steps": steps}, curves


def backpropagate(layers, x, y):
    """([(inputs, errors) of each layer], outputs (K, B, 10)) for x (B, n_in) in [0, 1] and one-hot y (B, 10)."""
    (W1, b1), (W2, b2) = layers
    x, half = x.expand(len(W1), -1, -1), len(W1) // 2
    hidden = torch.sigmoid(torch.baddbmm(b1, x, W1))  # (K, B, h)
    output = torch.sigmoid(torch.baddbmm(b2, hidden, W2))
    error = output - y
    error[:half] *= output[:half] * (1 - output[:half])  # sigma', of the quadratic cost alone
    return [(x, error @ W2.mT * hidden * (1 - hidden)), (hidden, error)], output


def sgd_step(layers, x, y, decay):
    """w <- decay * w - eta * (mean gradient of C_0 over the batch), in place; biases do not decay."""
    for (W, b), (inputs, error) in zip(layers, backpropagate(layers, x, y)[0]):
        W.baddbmm_(inputs.mT, error, beta=decay, alpha=-RATE / len(x))
        b.add_(error.sum(dim=1, keepdim=True), alpha=-RATE / len(x))


def gauge(layers, x, y, pull):
    """(3, 2, K), for each layer: ||g|| of the data gradient over all of x, <g, w> / ||w||, and pull ||w||."""
    rows = []
    for (W, _), (inputs, error) in zip(layers, backpropagate(layers, x, y)[0]):
        g, size = inputs.mT @ error / len(x), W.flatten(1).norm(dim=1)
        rows.append(torch.stack((g.flatten(1).norm(dim=1), (g * W).flatten(1).sum(dim=1) / size, pull * size)))
    return torch.stack(rows, dim=1)


def train(network, images, y, args, bar):
    """Train on images (n, 1, 28, 28), one-hot y (n, 10): {quantity: array, a row an epoch or a mark (a step)}."""
    inputs, hidden, lam = network
    n, x = len(images), F.avg_pool2d(images, 28 // math.isqrt(inputs)).flatten(1)
    generator = torch.Generator().manual_seed(args.seed)
    layers = [[torch.randn(args.inits, rows, units, generator=generator).repeat(2, 1, 1).to(x.device)  # one half a cost
               for rows in (below, 1)] for below, units in ((inputs, hidden), (hidden, 10))]
    epochs, steps = math.ceil(END * BATCH / (RATE * lam)), n // BATCH
    dark = x.amax(dim=0) == 0  # pixels that are 0 in every image: their weights have no data gradient
    result = {"norm": [], "dark": [], "mark": [], "gauge": []}
    for step in range(epochs * steps + 1):
        if step % steps == 0:
            batches = torch.randperm(n, generator=generator).to(x.device).split(BATCH)
            result["norm"].append(torch.stack([W.flatten(1).norm(dim=1) for W, _ in layers]))
            result["dark"].append(layers[0][0][:, dark].norm())
            bar.update(step > 0)
        if step in (0, 1, 3, 10, 30, 100, 300, steps) or step % (steps * math.ceil(epochs / 10)) == 0:
            result["mark"].append(torch.tensor(step))
            result["gauge"].append(gauge(layers, x, y, lam / n))
        if step < epochs * steps:
            sgd_step(layers, x[batches[step % steps]], y[batches[step % steps]], 1 - RATE * lam / n)
    output = backpropagate(layers, x, y)[1]
    square, entropy = 0.5 * (output - y).square(), F.binary_cross_entropy(output, y.expand_as(output), reduction="none")
    result["cost"] = [torch.cat((square[:args.inits], entropy[args.inits:])).sum(dim=2).mean(dim=1)]
    return {key: torch.stack(values).double().cpu().numpy() for key, values in result.items()}


def tail_off(norms, pace):
    """(epoch, norm at its middle) of the first epoch, else the last, to decay less than pace / 2; norms (E + 1,)."""
    slow = [*np.flatnonzero(-np.diff(np.log(norms)) < pace / 2), len(norms) - 2][0]
    return slow + 0.5, math.sqrt(norms[slow] * norms[slow + 1])


def summarise(network, run, n):
    """Numbers for the record from one network's run: {cost/key: mean} and {cost/key/sd} over the initialisations."""
    inputs, hidden, lam = network
    counts, pace, half = np.array([inputs * hidden, hidden * 10]), RATE * lam / BATCH, run["norm"].shape[2] // 2
    numbers = {"weights": int(counts.sum()), "root N_w": float(counts.sum()**-0.5)}
    later, early = np.searchsorted(run["mark"], n // BATCH), run["mark"] * pace * BATCH / n <= 1
    for cost, nets in zip(COSTS, (slice(half), slice(half, None))):
        norm, (size, along, pull) = run["norm"][..., nets], run["gauge"][..., nets].swapaxes(0, 1)  # (E + 1 or S, 2, I)
        log = [np.interp(1 / pace, np.arange(len(row)), np.log(row / row[0])) for row in norm[:, 0].T]
        ratio = size[:, 0] / pull[:, 0]
        found = {"needed": lam * ratio[0], "start": ratio[0], "epoch 1": ratio[later],
                 "along": np.abs(along[early, 0] / pull[early, 0]).max(axis=0),
                 "excess": np.exp(np.add(log, 1)) - 1, "end out": norm[-1, 1] / counts[1]**0.5,
                 "penalty": lam / (2 * n) * (norm[-1]**2).sum(axis=0), "cost": run["cost"][0, nets]}
        for key, curve, count in (("", norm[:, 0], counts[0]), (" all", np.linalg.norm(norm, axis=1), counts.sum())):
            epochs, rms = np.array([tail_off(row, pace) for row in curve.T]).T / [[1], [count**0.5]]
            found |= {"end" + key: curve[-1] / count**0.5, "time" + key: epochs * pace, "tail" + key: rms,
                      "by N_w" + key: rms * counts.sum()**0.5, "by n_in" + key: rms * inputs**0.5}
        for key, values in found.items():
            numbers[f"{cost}/{key}"] = float(np.mean(values))
            numbers[f"{cost}/{key}/sd"] = float(np.std(values, ddof=1))
    return numbers


def compare(runs, n):
    """Numbers from all networks: {tag/...}, and exponents of the RMS weight at the tail-off in width and in lambda."""
    numbers = {f"{tag}/{key}": value for tag in runs for key, value in summarise(NETWORKS[tag], runs[tag], n).items()}
    for cost in COSTS:
        for name, column, ends in (("width", 1, ("784-10-3", "784-100-3")), ("lambda", 2, ("784-30-1", "784-30-10"))):
            sizes, rms = zip(*((NETWORKS[tag][column], numbers[f"{tag}/{cost}/tail"]) for tag in (MAIN, *ends)))
            numbers[f"{name} exponent/{cost}"] = float(np.polyfit(np.log(sizes), np.log(rms), 1)[0])
    shares = RATE * NETWORKS[MAIN][2] / n, 0.01, 0.1, 0.5  # eta lambda / n, of the main network and larger
    numbers |= {f"second order/{i}": -math.log1p(-u) / u - 1 for i, u in enumerate(shares)}
    if (d := runs[MAIN]["dark"])[0]:
        numbers["dark"] = abs(math.log(d[-1] / d[0]) / math.log1p(-shares[0]) / (len(d) - 1) / (n // BATCH) - 1)
    return numbers | {"check/exact": (1 - 5e-5)**5000, "check/limit": math.exp(-0.25), "n": n}


def draw_hyper(path, curves):
    """2.1: lambda through descent on either cost; C_T(eta); its derivative, by sign."""
    figure = Figure(figsize=(6.5, 2.0))
    panels = figure.subplots(1, 3)
    panels[0].plot(curves["lambda_joint"], color="black", label="training cost")
    panels[0].plot(curves["lambda_bilevel"], color="C3", linestyle="--", label="validation cost")
    panels[0].set_yscale("symlog", linthresh=0.1)
    panels[0].set(xlabel="step of descent", ylabel=r"$\lambda$", title=r"descent on $\lambda$")
    eta, slope = np.array(curves["eta"]), np.array(curves["eta_slope"])
    panels[1].semilogx(eta, curves["eta_cost"], color="black", linewidth=0.7)
    panels[1].set(xlabel=r"$\eta$", ylabel="$C_T$", title="cost after 100 steps")
    for sign, marker, color, label in ((1, "x", "black", "positive"), (-1, "o", "C3", "negative")):
        panels[2].loglog(eta[sign * slope > 0], np.abs(slope[sign * slope > 0]), marker, color=color, markersize=2,
                         markeredgewidth=0.5, fillstyle="none", label=label)
    panels[2].set(xlabel=r"$\eta$", ylabel=r"$|dC_T/d\eta|$", title="its derivative", ylim=(1e-7, None))
    panels[0].legend(loc=(0.38, 0.52))
    panels[2].legend(loc="lower left", handletextpad=0.1)
    save_figure(figure, path)


def draw_decay(path, runs, numbers):
    """2.2: norms against exp(-eta lambda t / m); gradients in the main network; weights where decay tails off."""
    figure = Figure(figsize=(6.5, 2.1))
    panels = figure.subplots(1, 3)
    panels[0].plot([0, 5], np.exp([0, -5]), color="0.7", linewidth=3, label=r"$\exp(-\eta\lambda t/m)$")
    for cost, color, first in zip(COSTS, ("black", "C3"), (0, runs[MAIN]["norm"].shape[2] // 2)):
        for tag, line in (("784-30-1", ":"), (MAIN, "--"), ("784-30-10", "-")):
            norm, lam = runs[tag]["norm"][:, 0, first], NETWORKS[tag][2]
            panels[0].semilogy(RATE * lam / BATCH * np.arange(len(norm)), norm / norm[0], line, color=color,
                               linewidth=0.7 if first else 1.7, label=rf"$\lambda = {lam}$" if first else None)
        for row, line, label in ((0, "-", "data"), (2, "--", "decay"), (1, ":", "data, along $w$")):
            panels[1].loglog(runs[MAIN]["mark"] + 1, np.abs(runs[MAIN]["gauge"][:, row, 0, first]), line, color=color,
                             linewidth=0.7 if first else 1.7, label=label if first else None)
        for tag, marker in zip(NETWORKS, "osDv^*"):
            panels[2].loglog(*(numbers[f"{tag}/{key}"] for key in ("weights", f"{cost}/tail")), marker, color=color,
                             markersize=4, fillstyle="full" if first else "none", label=tag if first else None)
    panels[0].set(xlabel=r"$\eta\lambda t/m$, $t$ in epochs", ylabel=r"$||w_t||\,/\,||w_0||$", title="hidden weights")
    panels[1].set(xlabel="step + 1", ylabel="norm of gradient", title="gradients, hidden weights", ylim=(1e-6, None))
    panels[2].loglog([6e3, 9e4], np.array([6e3, 9e4])**-0.5, color="0.4", label=r"$1/\sqrt{N_w}$")
    panels[2].loglog([6e3, 9e4], [784**-0.5] * 2, color="0.4", linestyle="--", label=r"$1/\sqrt{784}$")
    panels[2].set(xlabel="$N_w$", ylabel="RMS weight", title="where decay tails off", xlim=(5e3, 2e6))
    for axes, place in zip(panels, ("lower left", "lower left", "right")):
        axes.legend(fontsize=6, handlelength=1.5, labelspacing=0.2, loc=place)
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
    others = ("data_dir", "out_dir", "runs_dir", "judge_dir", "resume", "fresh", "log_interval",
              "no_cuda", "run_name", "command", "flags")
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.error = lambda text: parser.exit(2, f"{parser.prog}: {text} (--help lists every flag)\n")
    parser.add_argument("--dataset", choices=("mnist", "fashion"), default="mnist")
    parser.add_argument("--inits", type=number(int, 2, 20), default=3,
                        help="initialisations of every network")
    parser.add_argument("--seed", type=number(int, 0, 2**31), default=1, help="of all chance")
    parser.add_argument("--no-cuda", action="store_true", help="stay on the CPU")
    parser.add_argument("--data-dir", type=folder, default=HERE / "data", help="torchvision's root")
    parser.add_argument("--out-dir", type=folder, default=HERE / "plots", help="for the figures and the record")
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(argv)
    prefix = "p2" if args.dataset == "mnist" else f"p2_{args.dataset}"
    return named(args, prefix, ("dataset",), parser, argv)


def fingerprint(args):
    """Validation cost at one lambda, C_T at one eta, and costs after an epoch on 64 drawn images."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    half = torch.full((1,), 0.5, dtype=torch.float64)
    numbers = [validation_cost(half, ridge_problem(args.seed, half.device)).item(),
               tanh_costs(half, 10, args.seed)[-1].item()]
    drawn = torch.Generator().manual_seed(0)
    images = torch.rand(64, 1, 28, 28, generator=drawn)
    y = F.one_hot(torch.randint(10, (64,), generator=drawn), 10).float()
    result = train((784, 10, 100), images, y, args, tqdm(disable=True))
    torch.set_num_threads(threads)
    return numbers + result["cost"][0].tolist()


def main(argv=None):
    args = parse_args(argv)
    with own_settings():
        prepare_folders(args.out_dir)
        device, start = choose_device(args.no_cuda), time.perf_counter()
        steps = fingerprint(args)
        images, labels = load_dataset(args.dataset, args.data_dir)[:2]
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(args.seed))
        chosen = order[:EXAMPLES]
        images = images[chosen, None].to(device).float() / 255
        y = F.one_hot(labels[chosen].long(), 10).to(device).float()
        epochs = sum(math.ceil(END * BATCH / (RATE * lam)) for *_, lam in NETWORKS.values())
        with tqdm(total=epochs, unit="epoch", disable=None) as bar:
            runs = {tag: train(network, images, y, args, bar) for tag, network in NETWORKS.items()}
        lambda_numbers, lambda_curves = study_lambda(args.seed, device)
        eta_numbers, eta_curves = study_eta(args.seed, args.inits, device)
        numbers = lambda_numbers | eta_numbers | compare(runs, len(images))
        curves = lambda_curves | eta_curves
        print("\n".join(f"{name:44}{value:.4g}" for name, value in numbers.items()))
        stem = f"{args.out_dir / args.run_name}"
        draw_hyper(Path(f"{stem}_hyper.pdf"), curves)
        draw_decay(Path(f"{stem}_decay.pdf"), runs, numbers)
        write_record(Path(f"{stem}.json"), args, [machine(device)], numbers,
                     ("lambda/found", "784-30-3/quadratic/tail"), fingerprint=steps,
                     seconds=time.perf_counter() - start, curves=curves)
    print(f"record and figures: {stem}*")


if __name__ == "__main__":
    run(main)
