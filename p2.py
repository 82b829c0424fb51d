"""Problem 2: descent on the hyper-parameters lambda and eta (2.1), weight decay against its heuristics (2.2).

    python p2.py [--dataset fashion]    both parts, 2.2 on 10 000 images

2.2 is set in chapter 3 of Nielsen's Neural Networks and Deep Learning (2015): sigmoid units, plain SGD, parameters from
N(0, 1), L2 on the weights alone, C = C_0 + lambda / (2n) ||w||^2. Four counts have four letters: n training examples,
m in a mini-batch, N_w weights, n_in inputs of a unit. Writes plots/p2.json, plots/p2_hyper.pdf, plots/p2_decay.pdf.
"""
import argparse
import contextlib
import io
import json
import math
import shlex
import sys
import time
from functools import partial
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
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
    numbers = {"lambda/start": (joint[0][0], ".0f"), "lambda/zero": (zero, "d"), "lambda/steps": (len(joint) - 1, "d"),
               "lambda/end": (joint[-1][0], ".0f"), "lambda/floor": (floor, ".2f"), "lambda/outer": (outer, "d"),
               "lambda/weights": (joint[-1][2], ".0f"), "lambda/weights at zero": (joint[zero][2], ".1f"),
               "lambda/from": (bilevel[0], ".2f"), "lambda/found": (bilevel[-1], ".2f"),
               "lambda/best": (grid[costs.argmin()].exp().item(), ".2f"), "lambda/least": (costs.min().item(), ".3f"),
               "lambda/cost": (cost.item(), ".3f"), "lambda/error": (difference_error(objective, grid[::10]), ".0e")}
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
    specs = {"edge": ".2g", "best 1": ".2g", "best 10": ".2g", "best 100": ".2g", "away below": ".1%",
             "away above": ".0%", "slope below": ".2g", "slope above": ".0e", "error": ".0e"}
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
    numbers = {f"eta/{key}/{end.__name__}": (end(column), spec)
               for (key, spec), column in zip(specs.items(), zip(*rows)) for end in (min, max)}
    return numbers | {"eta/rates": (len(etas), "d"), "eta/steps": (steps, "d")}, curves


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
    numbers = {"weights": (counts.sum(), "d"), "root N_w": (counts.sum()**-0.5, ".4f")}
    later, early = np.searchsorted(run["mark"], n // BATCH), run["mark"] * pace * BATCH / n <= 1
    for cost, nets in zip(COSTS, (slice(half), slice(half, None))):
        norm, (size, along, pull) = run["norm"][..., nets], run["gauge"][..., nets].swapaxes(0, 1)  # (E + 1 or S, 2, I)
        log = [np.interp(1 / pace, np.arange(len(row)), np.log(row / row[0])) for row in norm[:, 0].T]
        ratio = size[:, 0] / pull[:, 0]
        found = {"needed": (lam * ratio[0], ".0f"), "start": (ratio[0], ".1f"), "epoch 1": (ratio[later], ".2f"),
                 "along": (np.abs(along[early, 0] / pull[early, 0]).max(axis=0), ".0%"),
                 "excess": (np.exp(np.add(log, 1)) - 1, ".1%"), "end out": (norm[-1, 1] / counts[1]**0.5, ".2f"),
                 "penalty": (lam / (2 * n) * (norm[-1]**2).sum(axis=0), ".2f"), "cost": (run["cost"][0, nets], ".2f")}
        for key, curve, count in (("", norm[:, 0], counts[0]), (" all", np.linalg.norm(norm, axis=1), counts.sum())):
            epochs, rms = np.array([tail_off(row, pace) for row in curve.T]).T / [[1], [count**0.5]]
            found |= {"end" + key: (curve[-1] / count**0.5, ".3f"), "time" + key: (epochs * pace, ".1f"),
                      "tail" + key: (rms, ".3f"), "by N_w" + key: (rms * counts.sum()**0.5, ".0f"),
                      "by n_in" + key: (rms * inputs**0.5, ".1f")}
        for key, (values, spec) in found.items():
            numbers |= {f"{cost}/{key}": (np.mean(values), spec), f"{cost}/{key}/sd": (np.std(values, ddof=1), spec)}
    return numbers


def compare(runs, n):
    """Numbers from all networks: {tag/...}, and exponents of the RMS weight at the tail-off in width and in lambda."""
    numbers = {f"{tag}/{key}": value for tag in runs for key, value in summarise(NETWORKS[tag], runs[tag], n).items()}
    for cost in COSTS:
        for name, column, ends in (("width", 1, ("784-10-3", "784-100-3")), ("lambda", 2, ("784-30-1", "784-30-10"))):
            sizes, rms = zip(*((NETWORKS[tag][column], numbers[f"{tag}/{cost}/tail"][0]) for tag in (MAIN, *ends)))
            numbers[f"{name} exponent/{cost}"] = np.polyfit(np.log(sizes), np.log(rms), 1)[0], ".2f"
    shares = RATE * NETWORKS[MAIN][2] / n, 0.01, 0.1, 0.5  # eta lambda / n, of the main network and larger
    numbers |= {f"second order/{i}": (-math.log1p(-u) / u - 1, ".2g") for i, u in enumerate(shares)}
    if (d := runs[MAIN]["dark"])[0]:
        numbers["dark"] = abs(math.log(d[-1] / d[0]) / math.log1p(-shares[0]) / (len(d) - 1) / (n // BATCH) - 1), ".0e"
    numbers |= {"check/exact": ((1 - 5e-5)**5000, ".6f"), "check/limit": (math.exp(-0.25), ".6f"), "n": (n, "d")}
    return {key: (int(value) if spec == "d" else float(value), spec) for key, (value, spec) in numbers.items()}


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


def draw_hyper(path, curves):
    """2.1: lambda through descent on either cost; C_T(eta); its derivative, by sign."""
    figure, panels = plt.subplots(1, 3, figsize=(6.5, 2.0))
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
    figure, panels = plt.subplots(1, 3, figsize=(6.5, 2.1))
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
            panels[2].loglog(*(numbers[f"{tag}/{key}"][0] for key in ("weights", f"{cost}/tail")), marker, color=color,
                             markersize=4, fillstyle="full" if first else "none", label=tag if first else None)
    panels[0].set(xlabel=r"$\eta\lambda t/m$, $t$ in epochs", ylabel=r"$||w_t||\,/\,||w_0||$", title="hidden weights")
    panels[1].set(xlabel="step + 1", ylabel="norm of gradient", title="gradients, hidden weights", ylim=(1e-6, None))
    panels[2].loglog([6e3, 9e4], np.array([6e3, 9e4])**-0.5, color="0.4", label=r"$1/\sqrt{N_w}$")
    panels[2].loglog([6e3, 9e4], [784**-0.5] * 2, color="0.4", linestyle="--", label=r"$1/\sqrt{784}$")
    panels[2].set(xlabel="$N_w$", ylabel="RMS weight", title="where decay tails off", xlim=(5e3, 2e6))
    for axes, place in zip(panels, ("lower left", "lower left", "right")):
        axes.legend(fontsize=6, handlelength=1.5, labelspacing=0.2, loc=place)
    save_figure(figure, path)


def parse_args(argv=None):
    """The command line (default: sys.argv), checked; a wrong one ends with status 2 and one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: {message} (--help lists every flag)\n")
    parser.add_argument("--dataset", choices=("mnist", "fashion"), default="mnist")
    parser.add_argument("--inits", type=int, default=3, choices=range(2, 21), help="initialisations of every network")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-cuda", action="store_true", help="stay on the CPU")
    parser.add_argument("--data-dir", type=Path, default=HERE / "data", help="torchvision's root")
    parser.add_argument("--out-dir", type=Path, default=HERE / "plots", help="for the figures and the record")
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(argv)
    if not 0 <= args.seed <= 2**31:
        parser.error(f"--seed {args.seed} is not between 0 and {2**31}")
    args.command = shlex.join(["python", Path(__file__).name, *argv])
    return args


def main(argv=None):
    args = parse_args(argv)
    device, start = choose_device(args.no_cuda), time.perf_counter()
    plt.rcParams.update(STYLE)
    images, labels = load_dataset(args.dataset, args.data_dir)[:2]
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(args.seed))[:EXAMPLES]
    images, y = images[chosen, None].to(device).float() / 255, F.one_hot(labels[chosen].long(), 10).to(device).float()
    with tqdm(total=sum(math.ceil(END * BATCH / (RATE * lam)) for *_, lam in NETWORKS.values()), disable=None) as bar:
        runs = {tag: train(network, images, y, args, bar) for tag, network in NETWORKS.items()}
    (numbers, curves), (more, eta_curves) = study_lambda(args.seed, device), study_eta(args.seed, args.inits, device)
    numbers |= more | compare(runs, len(images))
    print("\n".join(f"{name:44}{value:{spec}}" for name, (value, spec) in numbers.items()))
    draw_hyper(args.out_dir / "p2_hyper.pdf", curves | eta_curves)
    draw_decay(args.out_dir / "p2_decay.pdf", runs, numbers)
    write_record(args.out_dir / "p2.json", args, device, numbers, seconds=time.perf_counter() - start,
                 curves=curves | eta_curves)


if __name__ == "__main__":
    run(main)
