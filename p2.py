"""Problem 2: descent on the hyper-parameters lambda and eta (2.1), and weight decay (2.2).

    python p2.py        prints its numbers, writes plots/p2.json and the figures plots/p2_*.pdf

2.1 is study_lambda and study_eta. For 2.2, `measure` says what moves the weights' norm (a),
`check_factor` what an epoch of decay makes of it (b), `tail_off` where decay stops (c). The setting
is that of Nielsen (2015, Neural Networks and Deep Learning, chapter 3): sigmoid units, plain SGD,
parameters from N(0, 1), L2 on the weights alone, C = C_0 + lambda / (2n) ||w||^2. There are n
training examples, m in a mini-batch; N_w weights, n_in inputs of a unit.
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
from pathlib import Path

if __name__ == "__main__":
    os.environ["MPLBACKEND"] = "agg"  # a notebook hands down its own, which may be missing here
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from matplotlib import style
from matplotlib.figure import Figure
from tqdm import tqdm

INITS = 3  # initialisations of every network
# Of 2.2: n, m and eta; training ends after t epochs where eta lambda t / m comes to END
EXAMPLES, BATCH, RATE, END = 10_000, 10, 0.5, 5
COSTS = ("quadratic", "cross-entropy")
NETWORKS = {  # name: (hidden units, lambda)
    "784-30-3": (30, 3), "784-10-3": (10, 3), "784-100-3": (100, 3),
    "784-30-1": (30, 1), "784-30-10": (30, 10),
}
MAIN = "784-30-3"  # the others differ from it in one of the two
PIXELS = 28 * 28  # n_in of a hidden unit


# --------------------------------------------------------------------------------- 2.1: lambda
def unroll(cost, w, eta, steps):
    """Gradient descent [w_0, ..., w_T], each (G, P), that can itself be differentiated.

    G independent runs: cost(w) is (G,), w = w_0 (G, P), eta (G, 1) or one number.
    """
    path = [w.requires_grad_()]
    for _ in range(steps):
        gradient, = torch.autograd.grad(cost(path[-1]).sum(), path[-1], create_graph=True)
        path.append(path[-1] - eta * gradient)
    return path


def ridge_problem(device):
    """A linear regression in float64: X, X_val (20, 15), y, y_val (20, 1); noise of variance 4."""
    torch.manual_seed(1)
    kind = {"dtype": torch.float64, "device": device}
    X = torch.randn(40, 15, **kind)
    w = torch.randn(15, 1, **kind)
    y = X @ w + 2 * torch.randn(40, 1, **kind)
    return *X.split(20), *y.split(20)


def squares(w, X, y):
    """Half the mean squared residual, (G,), of weights w (G, d) on X (n, d), y (n, 1)."""
    return 0.5 * (w @ X.T - y.T).square().mean(dim=1)


def validation_cost(log_lam, problem, steps=200):
    """Cost on the validation examples after training from w = 0 with exp(log_lam), both (G,)."""
    X, X_val, y, y_val = problem
    penalty = log_lam.exp() / (2 * len(X))
    start = X.new_zeros(len(log_lam), X.shape[1])

    def training_cost(w):
        return squares(w, X, y) + penalty * w.square().sum(1)

    return squares(unroll(training_cost, start, 0.2, steps)[-1], X_val, y_val)


def descend_jointly(X, y, lam=2.0, eta=0.2):
    """Descent on (w, lambda) through the training cost, until that is below -10^6.

    [lambda at every step]; X (n, d), y (n, 1). The derivative by lambda is ||w||^2 / (2n).
    """
    n = len(X)
    w = X.new_zeros(X.shape[1], 1)
    path = []
    cost = math.inf
    while cost > -1e6:
        residual = X @ w - y
        square = w.square().sum().item()
        cost = (residual.square().sum().item() + lam * square) / (2 * n)
        path.append(lam)
        w = w - eta * (X.T @ residual + lam * w) / n
        lam = lam - eta * square / (2 * n)
    return path


def study_lambda(device, outer=60):
    """2.1 for lambda: numbers for the record, curves for the figure."""
    problem = ridge_problem(device)
    X, _, y, _ = problem
    joint = descend_jointly(X, y)
    log_lam = X.new_tensor([math.log(0.02)])
    bilevel = []  # (lambda, validation cost) before each step of descent on it, at rate 1
    for _ in range(outer + 1):
        log_lam = log_lam.detach().requires_grad_()
        cost = validation_cost(log_lam, problem)
        bilevel.append((log_lam.exp().item(), cost.item()))
        slope, = torch.autograd.grad(cost.sum(), log_lam)
        log_lam = log_lam - slope
    grid = torch.linspace(math.log(0.01), math.log(100), 100, dtype=torch.float64, device=device)
    costs = validation_cost(grid, problem).detach()
    numbers = {
        "lambda/start": joint[0], "lambda/steps": len(joint) - 1,
        "lambda/zero": next(step for step, lam in enumerate(joint) if lam < 0),
        "lambda/floor": -torch.linalg.eigvalsh(X.T @ X)[0].item(),  # below it C has no minimum
        "lambda/outer": outer, "lambda/from": bilevel[0][0], "lambda/found": bilevel[-1][0],
        "lambda/best": grid[costs.argmin()].exp().item(),
    }
    return numbers, {"lambda_joint": joint, "lambda_bilevel": bilevel,
                     "lambda_grid": grid.exp().tolist(), "lambda_cost": costs.tolist()}


# ------------------------------------------------------------------------------------ 2.1: eta
def tanh_problem(like, init):
    """Parameters (1, 24) of a 1-8-1 network of tanh units; its cost on sin(3x), (G,) of (G, 24)."""
    torch.manual_seed(init)
    x = torch.linspace(-1, 1, 20, dtype=like.dtype, device=like.device)
    start = torch.randn(1, 24, dtype=like.dtype, device=like.device)

    def cost(w):
        inner, bias, outer = w.chunk(3, dim=1)  # (G, 8) each
        hidden = torch.tanh(inner[:, None] * x[:, None] + bias[:, None])  # (G, 20, 8)
        output = torch.tanh(hidden @ outer[:, :, None]).squeeze(2)  # (G, 20)
        return 0.5 * (output - torch.sin(3 * x)).square().mean(dim=1)

    return start, cost


def largest_curvature(cost, w):
    """h_max, the largest eigenvalue of the Hessian of `cost`, (G,), at w (G, P)."""
    w = w.detach().requires_grad_()
    gradient, = torch.autograd.grad(cost(w).sum(), w, create_graph=True)
    rows = [torch.autograd.grad(entry.sum(), w, retain_graph=True)[0] for entry in gradient.T]
    return torch.linalg.eigvalsh(torch.stack(rows, dim=1))[:, -1]


def sweep_rates(etas, steps, init):
    """For etas (E,): C_t (steps + 1, E), the derivative of C_T (E,), h_max at the end (E,)."""
    start, cost = tanh_problem(etas, init)
    parts = []
    for chunk in etas.split(100):  # memory holds the graph of 100 trainings
        eta = chunk.detach().requires_grad_()
        iterates = unroll(cost, start.repeat(len(eta), 1), eta[:, None], steps)
        costs = torch.stack([cost(w) for w in iterates])
        slope, = torch.autograd.grad(costs[-1].sum(), eta)
        parts.append((costs.detach(), slope, largest_curvature(cost, iterates[-1])))
    return [torch.cat(part, dim=-1) for part in zip(*parts)]


def describe_rates(etas, costs, slopes, curvatures):
    """Numbers of what sweep_rates returned. The edge is the least rate with eta h_max >= 2."""
    edge = (etas * curvatures >= 2).nonzero()[0].item()
    best = etas[costs[-1].argmin()].item()
    away = ((slopes > 0) != (etas > best)).double()  # a small step of descent leads away from best
    return {
        "edge": etas[edge].item(), "best 1": etas[costs[1].argmin()].item(),
        "best 10": etas[costs[10].argmin()].item(), "best 100": best,
        "away below": away[:edge].mean().item(), "away above": away[edge:].mean().item(),
        "slope above": slopes[edge:].abs().max().item(),
    }


def study_eta(device, steps=100):
    """2.1 for eta: numbers of each initialisation, curves of the first one."""
    etas = torch.linspace(0.02, 16, 800, dtype=torch.float64, device=device)
    sweeps = [sweep_rates(etas, steps, init) for init in range(1, INITS + 1)]
    numbers = {"eta/rates": len(etas), "eta/steps": steps}
    for init, sweep in enumerate(sweeps, start=1):
        for name, value in describe_rates(etas, *sweep).items():
            numbers[f"eta/{init}/{name}"] = value
    _, slopes, _ = sweeps[0]
    return numbers, {"eta": etas.tolist(), "eta_slope": slopes.tolist()}


# --------------------------------------------------------------------- 2.2: network and training
def initialise(hidden, device):
    """[(W (K, below, units), b (K, 1, units)) of each layer] from N(0, 1), K = 2 * INITS.

    The first half of the K networks is trained on the quadratic cost, the second, which starts
    from the same parameters, on the cross-entropy.
    """
    layers = []
    for below, units in ((PIXELS, hidden), (hidden, 10)):
        W = torch.randn(INITS, below, units, device=device)
        b = torch.randn(INITS, 1, units, device=device)
        layers.append((W.repeat(2, 1, 1), b.repeat(2, 1, 1)))
    return layers


def backpropagate(layers, x, y):
    """[(inputs (K, B, below), errors (K, B, units)) of each layer].

    x (B, n_in) in [0, 1], y (B, 10) one-hot. An error is the derivative of C_0 of one image by the
    weighted input of a unit (Nielsen, chapter 2).
    """
    (W1, b1), (W2, b2) = layers
    x = x.expand(len(W1), -1, -1)
    hidden = torch.sigmoid(torch.baddbmm(b1, x, W1))
    output = torch.sigmoid(torch.baddbmm(b2, hidden, W2))
    error = output - y  # of the cross-entropy, in which sigma' cancels
    half = len(W1) // 2
    error[:half] *= output[:half] * (1 - output[:half])  # sigma', of the quadratic cost
    hidden_error = error @ W2.mT * hidden * (1 - hidden)
    return [(x, hidden_error), (hidden, error)]


def sgd_step(layers, x, y, decay):
    """w <- decay * w - eta * (mean gradient of C_0 over the batch), in place.

    Biases do not decay. x (B, n_in), y (B, 10) are the batch, decay is 1 - eta lambda / n.
    """
    for (W, b), (inputs, error) in zip(layers, backpropagate(layers, x, y)):
        W.baddbmm_(inputs.mT, error, beta=decay, alpha=-RATE / len(x))
        b.add_(error.sum(dim=1, keepdim=True), alpha=-RATE / len(x))


def measure(layers, x, y, penalty):
    """What moves the norm of the hidden weights w, {quantity: (K,)}; g is the gradient of C_0.

    "data" ||g||, "along" <g, w> / ||w||, "decay" penalty ||w||, "noise" eta E||g_B||^2 / (2 ||w||)
    with g_B of a mini-batch: a step changes ||w|| by -eta (along + decay - noise), to first order
    in eta lambda / n = eta penalty. "one image": how much of the gradient of one image and one unit
    lies along the unit's weights. "slope", the mean of sigma'(z) of the hidden units.
    """
    (inputs, error), (hidden, _) = backpropagate(layers, x, y)
    W, _ = layers[0]
    length = W.flatten(1).norm(dim=1)
    g = inputs.mT @ error / len(x)
    square = g.square().sum(dim=(1, 2))
    lone = inputs.square().sum(dim=2) * error.square().sum(dim=2)  # ||g||^2 of each image
    batch = square + (lone.mean(dim=1) - square) / BATCH  # E||g_B||^2, up to m / n
    sizes = inputs.norm(dim=2, keepdim=True) * error.abs()  # of each image and unit, (K, B, units)
    parts = (inputs @ W * error).abs() / W.norm(dim=1, keepdim=True)
    return {
        "data": square.sqrt(), "along": (g * W).sum(dim=(1, 2)) / length,
        "decay": penalty * length, "noise": RATE * batch / (2 * length),
        "one image": parts.mean(dim=(1, 2)) / sizes.mean(dim=(1, 2)),
        "slope": (hidden * (1 - hidden)).mean(dim=(1, 2)),
    }


def train(network, x, y):
    """Train on images x (n, 784), one-hot y (n, 10); {quantity: array}, networks last (K).

    "norm" (E + 1, K) of the hidden weights and "dark" (E + 1,) before each epoch and at the end; at
    each step of "mark" (S,) what `measure` returns, (S, K).
    """
    hidden, lam = network
    n = len(x)
    dark = x.amax(dim=0) == 0  # pixels that are 0 everywhere: their weights have no data gradient
    torch.manual_seed(1)
    layers = initialise(hidden, x.device)
    steps = n // BATCH  # of an epoch
    last = math.ceil(END * BATCH / (RATE * lam)) * steps  # where eta lambda t / m comes to END
    marks = {0, 1, 3, 10, 30, 100, 300} | set(range(0, last + 1, steps))
    history = {"norm": [], "dark": [], "mark": []}
    for step in tqdm(range(last + 1), desc=f"{network}", leave=False, disable=None):
        if step % steps == 0:
            batches = torch.randperm(n, device=x.device).split(BATCH)
            history["norm"].append(layers[0][0].flatten(1).norm(dim=1))
            history["dark"].append(layers[0][0][:, dark].norm())
        if step in marks:
            history["mark"].append(torch.tensor(step))
            for name, value in measure(layers, x, y, lam / n).items():
                history.setdefault(name, []).append(value)
        if step < last:
            batch = batches[step % steps]
            sgd_step(layers, x[batch], y[batch], 1 - RATE * lam / n)
    return {name: torch.stack(values).double().cpu().numpy() for name, values in history.items()}


# --------------------------------------------------------------------------- 2.2: measurements
def tail_off(norms, pace):
    """(epoch, norm at its middle) of the first epoch that decays less than pace / 2, else the last.

    norms (E + 1,) before each epoch and at the end; pace = eta lambda / m.
    """
    slow = np.flatnonzero(-np.diff(np.log(norms)) < pace / 2)
    epoch = slow[0] if len(slow) else len(norms) - 2
    return epoch + 0.5, math.sqrt(norms[epoch] * norms[epoch + 1])


def describe(network, run, k, n):
    """Numbers of the hidden weights of network k of `run`, which `train` returned.

    "excess": how far the norm is above the exponential at eta lambda t / m = 1. "tail": the root
    mean square s at the tail-off. Of what decay takes in that epoch the weights get back "gain", by
    the data "pull" and by the noise "noise share", from the gradients at both ends of the epoch.
    """
    hidden, lam = network
    pace = RATE * lam / BATCH
    mark = run["mark"]
    norms = run["norm"][:, k]
    data, along, decay = (run[name][:, k] for name in ("data", "along", "decay"))
    early = mark * pace * BATCH / n <= 1  # eta lambda t / m
    log_norm = np.interp(1 / pace, np.arange(len(norms)), np.log(norms / norms[0]))
    epoch, norm = tail_off(norms, pace)
    s = norm / math.sqrt(PIXELS * hidden)
    shrinks = math.log(norms[math.floor(epoch)] / norms[math.ceil(epoch)])
    tail = {name: np.interp(epoch * (n // BATCH), mark, run[name][:, k])
            for name in ("data", "along", "noise", "decay")}
    return {
        "start": data[0] / decay[0], "epoch 1": (data / decay)[np.searchsorted(mark, n // BATCH)],
        "along": np.abs(along / decay)[early].max(), "cosine": np.abs(along[0] / data[0]),
        "cosine, one image": run["one image"][0, k], "slope": run["slope"][0, k],
        "excess": np.exp(log_norm + 1) - 1, "tail": s,
        "by N_w": s * math.sqrt((PIXELS + 10) * hidden), "by n_in": s * math.sqrt(PIXELS),
        "tail/ratio": tail["data"] / tail["decay"], "tail/gain": 1 - shrinks / pace,
        "tail/pull": -tail["along"] / tail["decay"],
        "tail/noise share": tail["noise"] / tail["decay"],
    }


def summarise(network, run, n):
    """{cost/quantity: mean, cost/quantity/sd} over initialisations, and what chance would give."""
    hidden, _ = network
    numbers = {
        "weights": (PIXELS + 10) * hidden,
        # mean |cosine| of w and a random direction, for all hidden weights and for one unit's
        "cosine of chance": math.sqrt(2 / (math.pi * PIXELS * hidden)),
        "cosine of chance, one image": math.sqrt(2 / (math.pi * PIXELS)),
    }
    for place, cost in enumerate(COSTS):
        networks = range(place * INITS, (place + 1) * INITS)
        found = [describe(network, run, k, n) for k in networks]
        for name in found[0]:
            values = [quantities[name] for quantities in found]
            numbers[f"{cost}/{name}"] = float(np.mean(values))
            numbers[f"{cost}/{name}/sd"] = float(np.std(values, ddof=1))
    return numbers


def check_factor(n, dark):
    """(b) of 2.2: the factor of an epoch without data, exact and in the limit, m = BATCH.

    Here, in Nielsen's setting, and where eta lambda is below n but its square is not below 2 n m.
    "dark": relative error of the norm of weights that feel no data, dark (E + 1,).
    """
    numbers = {}
    for name, examples, product in (("here", n, RATE * NETWORKS[MAIN][1]), ("book", 50_000, 2.5),
                                    ("near", 50_000, 100.0), ("far", 50_000, 1000.0)):
        log_factor = examples / BATCH * math.log1p(-product / examples)
        limit = -product / BATCH
        found = {"n": examples, "product": product, "share": product / examples,
                 "square": product**2 / (2 * examples * BATCH), "exact": math.exp(log_factor),
                 "limit": math.exp(limit), "quotient": math.exp(log_factor - limit)}
        numbers |= {f"factor/{name}/{quantity}": value for quantity, value in found.items()}
    fall = math.log(dark[-1] / dark[0]) / (len(dark) - 1)  # of the logarithm, an epoch
    return numbers | {"dark": abs(fall / math.log(numbers["factor/here/exact"]) - 1)}


# ------------------------------------------------------------------------------------- figures
def draw_descent(path, curves, edge):
    """2.1: lambda through descent on the training cost; validation cost; derivative by eta."""
    figure = Figure(figsize=(6.9, 2))
    joint, validation, derivative = figure.subplots(1, 3)
    joint.plot(curves["lambda_joint"], "k")
    joint.axhline(0, color="0.6", linewidth=0.8)
    joint.set_yscale("symlog", linthresh=1)
    joint.set(xlabel="step of descent on the training cost", ylabel=r"$\lambda$")
    validation.semilogx(curves["lambda_grid"], curves["lambda_cost"], color="0.6")
    lams, costs = zip(*curves["lambda_bilevel"])
    validation.semilogx(lams, costs, "ko", fillstyle="none", markersize=3, label="steps of descent")
    validation.semilogx(lams[-1], costs[-1], "ko", markersize=5, label="the last")
    validation.set(xlabel=r"$\lambda$", ylabel="validation cost")
    validation.legend()
    eta, slope = np.array(curves["eta"]), np.array(curves["eta_slope"])
    look = {"markersize": 3, "markeredgewidth": 0.6, "fillstyle": "none"}
    derivative.loglog(eta[slope > 0], slope[slope > 0], "k+", label="positive", **look)
    derivative.loglog(eta[slope < 0], -slope[slope < 0], "o", color="0.5", label="negative", **look)
    derivative.axvline(edge, color="black", linestyle=":", label=r"edge $2/h_{\max}$")
    derivative.set(xlabel=r"$\eta$", ylabel=r"$|dC_T/d\eta|$", xlim=(0.1, 16), ylim=(1e-7, None))
    derivative.legend(loc="lower left", handlelength=1, borderaxespad=0)
    save_figure(figure, path)


def draw_decay(path, runs):
    """2.2, first initialisation of each cost: norms against exp(-eta lambda t/m), and gradients."""
    figure = Figure(figsize=(6.9, 4.5))
    panels = figure.subplots(2, 2, sharey="row")
    for place, (norms, gradients) in enumerate(panels.T):
        k = place * INITS
        norms.plot([0, END], np.exp([0, -END]), color="0.75", linewidth=4,
                   label=r"$\exp(-\eta\lambda t/m)$")
        for tag, line in (("784-30-1", "k:"), ("784-30-10", "k-"), (MAIN, "k--")):
            _, lam = NETWORKS[tag]
            pace = RATE * lam / BATCH
            norm = runs[tag]["norm"][:, k]
            elapsed = pace * np.arange(len(norm))
            norms.semilogy(elapsed, norm / norm[0], line, label=rf"$\lambda = {lam}$")
            epoch, tail = tail_off(norm, pace)
            circle, = norms.plot(epoch * pace, tail / norm[0], "ko", fillstyle="none")
        circle.set_label("tail-off")
        norms.set(xlabel=r"$\eta\lambda t/m$, $t$ in epochs",
                  title=f"norm of hidden weights, {COSTS[place]}")
        steps = runs[MAIN]["mark"] + 1
        for name, look, label in (("data", {"c": "0.6", "lw": 2.5}, r"data, $||g||$"),
                                  ("decay", {"c": "k"}, r"decay, $(\lambda/n)\,||w||$"),
                                  ("along", {"c": "k", "ls": "--"}, "data along $w$"),
                                  ("noise", {"c": "k", "ls": ":"}, "noise of SGD")):
            gradients.loglog(steps, np.abs(runs[MAIN][name][:, k]), label=label, **look)
        gradients.set(xlabel="step + 1", title=f"gradients, {COSTS[place]}", ylim=(5e-6, 10))
    panels[0, 0].set_ylabel(r"$||w_t||\,/\,||w_0||$")
    panels[1, 0].set_ylabel("size of gradient")
    panels[0, 0].legend(loc="lower left", handlelength=1.5, labelspacing=0.2)
    figure.legend(*gradients.get_legend_handles_labels(), loc="outside lower center", ncol=4)
    save_figure(figure, path)


# --------------------------------------------------------------------------------- command line
def parse_args():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data-dir", type=Path, default=HERE / "data", help="torchvision's root")
    parser.add_argument("--out-dir", type=Path, default=HERE / "plots", help="of the results")
    parser.add_argument("--no-cuda", action="store_true", help="stay on the CPU")
    return parser.parse_args()


def main():
    args = parse_args()
    device = choose_device(args.no_cuda)
    args.out_dir.mkdir(parents=True, exist_ok=True)  # now, not after minutes
    images, labels, _, _ = load_dataset("mnist", args.data_dir)
    torch.manual_seed(1)
    chosen = torch.randperm(len(images))[:EXAMPLES]
    x = images[chosen].to(device).flatten(1).float() / 255
    y = F.one_hot(labels[chosen], 10).to(device).float()
    n = len(x)

    numbers, curves = study_lambda(device)
    eta_numbers, eta_curves = study_eta(device)
    curves |= eta_curves
    runs = {tag: train(network, x, y) for tag, network in NETWORKS.items()}
    numbers |= eta_numbers | {"n": n, "inits": INITS}
    numbers |= check_factor(n, runs[MAIN]["dark"])
    for tag, run in runs.items():
        for name, value in summarise(NETWORKS[tag], run, n).items():
            numbers[f"{tag}/{name}"] = value
    for name, value in numbers.items():
        print(f"{name:44}{value:.4g}")

    draw_descent(args.out_dir / "p2_descent.pdf", curves, numbers["eta/1/edge"])
    draw_decay(args.out_dir / "p2_decay.pdf", runs)
    write_record(args.out_dir / "p2.json", args, device, numbers=numbers, curves=curves,
                 seconds=time.process_time())


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
