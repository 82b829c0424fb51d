"""Problem 2: descent on the hyper-parameters lambda and eta (2.1), and weight decay (2.2).

    python p2.py                        both parts, 2.2 on 10 000 images of MNIST
    python p2.py --dataset fashion      the same on Fashion-MNIST

It prints its numbers and writes plots/p2.json, plots/p2_hyper.pdf and plots/p2_decay.pdf.

2.2 is set in chapter 3 of Nielsen's Neural Networks and Deep Learning (2015): sigmoid units, plain
SGD, parameters from N(0, 1), L2 on the weights alone, C = C_0 + lambda / (2n) ||w||^2. Four counts
have four letters: n training examples, m in a mini-batch, N_w weights, n_in inputs of a unit.
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

# Settings of 2.2
EXAMPLES = 10_000  # n
BATCH = 10  # m
RATE = 0.5  # eta
END = 5  # training ends at eta lambda t / m = END, after t epochs
COSTS = ("quadratic", "cross-entropy")
NETWORKS = {  # name: (n_in, hidden units, lambda)
    "784-30-3": (784, 30, 3),
    "784-10-3": (784, 10, 3),
    "784-100-3": (784, 100, 3),
    "784-30-1": (784, 30, 1),
    "784-30-10": (784, 30, 10),
    "196-100-3": (196, 100, 3),
}
MAIN = "784-30-3"  # the others differ from it in one of the three, the last one in two


# ------------------------------------------------------------ 2.1: derivatives through training
def unroll(cost, w, eta, steps):
    """Gradient descent [w_0, ..., w_T], each (G, P), that can itself be differentiated.

    G independent runs: cost(w) is (G,), w = w_0 (G, P), eta (G, 1) or one number.
    """
    iterates = [w.requires_grad_()]
    for _ in range(steps):
        w = iterates[-1]
        gradient, = torch.autograd.grad(cost(w).sum(), w, create_graph=True)
        iterates.append(w - eta * gradient)
    return iterates


def value_and_slope(function, at):
    """function(at) and its derivative, both (G,), where entry g depends on at[g] (G,) alone."""
    at = at.detach().requires_grad_()
    value = function(at)
    slope, = torch.autograd.grad(value.sum(), at)
    return value.detach(), slope


def difference_error(function, at, step=1e-5):
    """Largest relative error of that derivative against central differences, over at (G,)."""
    difference = (function(at + step) - function(at - step)).detach() / (2 * step)
    _, slope = value_and_slope(function, at)
    return ((slope - difference) / difference).abs().max().item()


# --------------------------------------------------------------------------------- 2.1: lambda
def ridge_problem(seed, device):
    """A linear regression in float64: X, X_val (20, 15), y, y_val (20, 1); noise of variance 4."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(40, 15, dtype=torch.float64, generator=generator)
    w = torch.randn(15, 1, dtype=torch.float64, generator=generator)
    noise = torch.randn(40, 1, dtype=torch.float64, generator=generator)
    y = X @ w + 2 * noise
    X_train, X_val = X.to(device).split(20)
    y_train, y_val = y.to(device).split(20)
    return X_train, X_val, y_train, y_val


def squares(w, X, y):
    """Half the mean squared residual, (G,), of weights w (G, d) on X (n, d), y (n, 1)."""
    return 0.5 * (w @ X.T - y.T).square().mean(dim=1)


def validation_cost(log_lam, problem, steps=200, eta=0.2):
    """Cost on the validation examples after training from w = 0 with exp(log_lam), both (G,)."""
    X, X_val, y, y_val = problem
    penalty = log_lam.exp() / (2 * len(X))
    start = X.new_zeros(len(log_lam), X.shape[1])

    def training_cost(w):
        return squares(w, X, y) + penalty * w.square().sum(1)

    w = unroll(training_cost, start, eta, steps)[-1]
    return squares(w, X_val, y_val)


def descend_jointly(X, y, lam=2.0, eta=0.2, limit=1e6):
    """Descent on (w, lambda) through the training cost C, until that is below -limit.

    [(lambda, C, ||w||) of every step]; X (n, d), y (n, 1). dC/dlambda = ||w||^2 / (2n).
    """
    n = len(X)
    w = X.new_zeros(X.shape[1], 1)
    path = []
    cost = math.inf
    while cost > -limit:
        residual = X @ w - y
        square = w.square().sum().item()
        cost = (residual.square().sum().item() + lam * square) / (2 * n)
        path.append((lam, cost, square**0.5))
        w = w - eta * (X.T @ residual + lam * w) / n
        lam = lam - eta * square / (2 * n)
    return path


def descend_on_validation(objective, log_lam, steps):
    """Descent on log(lambda), at rate 1, through objective(log_lam), which is (1,) as log_lam is.

    [lambda before each step and at the end], and the objective at the end.
    """
    path = []
    for _ in range(steps + 1):
        cost, slope = value_and_slope(objective, log_lam)
        path.append(log_lam.exp().item())
        log_lam = log_lam - slope
    return path, cost.item()


def study_lambda(seed, device, outer=60):
    """2.1 for lambda: numbers for the record, curves for the figure."""
    problem = ridge_problem(seed, device)
    X, _, y, _ = problem
    joint = descend_jointly(X, y)
    zero = next(step for step, (lam, _, _) in enumerate(joint) if lam < 0)
    floor = -torch.linalg.eigvalsh(X.T @ X)[0].item()  # below it the cost has no minimum in w

    objective = partial(validation_cost, problem=problem)
    grid = torch.linspace(math.log(0.01), math.log(100), 100, dtype=torch.float64, device=device)
    costs, _ = value_and_slope(objective, grid)
    start = X.new_tensor([math.log(0.02)])
    bilevel, cost = descend_on_validation(objective, start, outer)
    numbers = {
        "lambda/start": joint[0][0], "lambda/zero": zero, "lambda/steps": len(joint) - 1,
        "lambda/end": joint[-1][0], "lambda/floor": floor, "lambda/outer": outer,
        "lambda/weights": joint[-1][2], "lambda/weights at zero": joint[zero][2],
        "lambda/from": bilevel[0], "lambda/found": bilevel[-1],
        "lambda/best": grid[costs.argmin()].exp().item(), "lambda/least": costs.min().item(),
        "lambda/cost": cost, "lambda/error": difference_error(objective, grid[::10]),
    }
    return numbers, {"lambda_joint": [lam for lam, _, _ in joint], "lambda_bilevel": bilevel}


# ------------------------------------------------------------------------------------ 2.1: eta
def tanh_costs(eta, steps, init):
    """C_t(eta), t = 0 ... steps, (steps + 1, G), of 1-8-1 networks of tanh units on sin(3x).

    A run for each rate eta (G,), all from initialisation `init`. As the output is a tanh too, the
    cost is bounded at every rate.
    """
    x = torch.linspace(-1, 1, 20, dtype=eta.dtype, device=eta.device)
    generator = torch.Generator().manual_seed(init)
    start = torch.randn(1, 24, dtype=eta.dtype, generator=generator).to(eta.device)

    def cost(w):
        inner, bias, outer = w.chunk(3, dim=1)  # (G, 8) each
        hidden = torch.tanh(inner[:, None] * x[:, None] + bias[:, None])  # (G, 20, 8)
        output = torch.tanh(hidden @ outer[:, :, None]).squeeze(2)  # (G, 20)
        return 0.5 * (output - torch.sin(3 * x)).square().mean(dim=1)

    iterates = unroll(cost, start.repeat(len(eta), 1), eta[:, None], steps)
    return torch.stack([cost(w) for w in iterates])


def last_tanh_cost(eta, steps, init):
    """C_T(eta), (G,), the objective of a descent on eta (G,)."""
    return tanh_costs(eta, steps, init)[-1]


def sweep_rates(etas, steps, init):
    """C_t at every rate (steps + 1, E), and the derivative of C_T (E,), for etas (E,)."""
    costs = []
    slopes = []
    for chunk in etas.split(100):  # memory holds the graph of 100 trainings
        eta = chunk.detach().requires_grad_()
        path = tanh_costs(eta, steps, init)
        slope, = torch.autograd.grad(path[-1].sum(), eta)
        costs.append(path.detach())
        slopes.append(slope)
    return torch.cat(costs, dim=1), torch.cat(slopes)


def find_edge(costs):
    """Index of the smallest rate at which a step of training raises the cost; costs (T + 1, E)."""
    rises = (costs[1:] > costs[:-1]).any(dim=0)
    return rises.nonzero()[0].item()


def summarise_rates(etas, costs, slopes, edge):
    """Best rates after 1, 10 and all steps, and what the slope says below and above the edge."""
    best = etas[costs[-1].argmin()].item()
    away = ((slopes > 0) != (etas > best)).double()  # a small step of descent leads away from best
    return {
        "edge": etas[edge].item(),
        "best 1": etas[costs[1].argmin()].item(),
        "best 10": etas[costs[10].argmin()].item(),
        "best 100": best,
        "away below": away[:edge].mean().item(),
        "away above": away[edge:].mean().item(),
        "slope below": slopes[:edge].abs().max().item(),
        "slope above": slopes[edge:].abs().max().item(),
    }


def study_eta(seed, inits, device, steps=100):
    """2.1 for eta: numbers (ranges over the initialisations), curves (of the first one)."""
    etas = torch.linspace(0.02, 16, 800, dtype=torch.float64, device=device)
    summaries = []
    for init in range(seed, seed + inits):
        costs, slopes = sweep_rates(etas, steps, init)
        edge = find_edge(costs)
        summary = summarise_rates(etas, costs, slopes, edge)
        objective = partial(last_tanh_cost, steps=steps, init=init)
        summary["error"] = difference_error(objective, etas[:edge // 2])
        summaries.append(summary)
        if init == seed:
            curves = {"eta": etas.tolist(), "eta_cost": costs[-1].tolist(),
                      "eta_slope": slopes.tolist()}
    numbers = {}
    for name in summaries[0]:
        values = [summary[name] for summary in summaries]
        numbers[f"eta/{name}/min"] = min(values)
        numbers[f"eta/{name}/max"] = max(values)
    return numbers | {"eta/rates": len(etas), "eta/steps": steps}, curves


# --------------------------------------------------------------------- 2.2: network and training
def initialise(network, inits, generator):
    """[(W (K, below, units), b (K, 1, units)) of each layer] from N(0, 1), K = 2 * inits.

    The first half of the K networks is trained on the quadratic cost, the second, which starts
    from the same parameters, on the cross-entropy.
    """
    inputs, hidden, _ = network
    layers = []
    for below, units in ((inputs, hidden), (hidden, 10)):
        W = torch.randn(inits, below, units, generator=generator)
        b = torch.randn(inits, 1, units, generator=generator)
        layers.append((W.repeat(2, 1, 1), b.repeat(2, 1, 1)))
    return layers


def backpropagate(layers, x, y):
    """[(inputs (K, B, below), errors (K, B, units)) of each layer], outputs (K, B, 10).

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
    return [(x, hidden_error), (hidden, error)], output


def sgd_step(layers, x, y, decay):
    """w <- decay * w - eta * (mean gradient of C_0 over the batch), in place.

    Biases do not decay. x (B, n_in), y (B, 10) are the batch, decay is 1 - eta lambda / n.
    """
    signals, _ = backpropagate(layers, x, y)
    for (W, b), (inputs, error) in zip(layers, signals):
        W.baddbmm_(inputs.mT, error, beta=decay, alpha=-RATE / len(x))
        b.add_(error.sum(dim=1, keepdim=True), alpha=-RATE / len(x))


def final_cost(layers, x, y):
    """C_0 of each network, a mean over the images, (K,)."""
    _, output = backpropagate(layers, x, y)
    square = 0.5 * (output - y).square()
    entropy = F.binary_cross_entropy(output, y.expand_as(output), reduction="none")
    half = len(output) // 2
    return torch.cat((square[:half], entropy[half:])).sum(dim=2).mean(dim=1)


def weight_norms(layers):
    """||w|| of each layer of each network, (2, K)."""
    return torch.stack([W.flatten(1).norm(dim=1) for W, _ in layers])


def gradient_norms(layers, x, y, penalty):
    """Of each layer ||g||, <g, w> / ||w|| and penalty * ||w||, each (2, K).

    g is the gradient of C_0 over all of x; penalty = lambda / n.
    """
    signals, _ = backpropagate(layers, x, y)
    data = []
    along = []
    for (W, _), (inputs, error) in zip(layers, signals):
        g = inputs.mT @ error / len(x)
        data.append(g.flatten(1).norm(dim=1))
        along.append((g * W).flatten(1).sum(dim=1) / W.flatten(1).norm(dim=1))
    return torch.stack(data), torch.stack(along), penalty * weight_norms(layers)


def epochs_of(lam):
    """How many epochs a network is trained, so that eta lambda t / m comes to END."""
    return math.ceil(END * BATCH / (RATE * lam))


def train(network, images, y, args, bar):
    """Train on images (n, 1, 28, 28), one-hot y (n, 10); {quantity: array}, networks last (K).

    "norm" (E + 1, 2, K) and "dark" (E + 1,) before each epoch and at the end; at each step of
    "mark" (S,) the gradients "data", "along" and "decay" (S, 2, K); "cost" (K,) at the end.
    """
    inputs, _, lam = network
    n = len(images)
    x = F.avg_pool2d(images, 28 // math.isqrt(inputs)).flatten(1)
    dark = x.amax(dim=0) == 0  # pixels that are 0 everywhere: their weights have no data gradient
    generator = torch.Generator().manual_seed(args.seed)
    layers = [(W.to(x.device), b.to(x.device))
              for W, b in initialise(network, args.inits, generator)]
    first_weights = layers[0][0]  # (K, n_in, hidden), changed in place
    epochs = epochs_of(lam)
    steps = n // BATCH
    marks = {0, 1, 3, 10, 30, 100, 300, steps}
    marks |= set(range(0, epochs * steps + 1, steps * math.ceil(epochs / 10)))
    history = {name: [] for name in ("norm", "dark", "mark", "data", "along", "decay")}
    for step in range(epochs * steps + 1):
        if step % steps == 0:
            batches = torch.randperm(n, generator=generator).to(x.device).split(BATCH)
            history["norm"].append(weight_norms(layers))
            history["dark"].append(first_weights[:, dark].norm())
        if step in marks:
            gradients = gradient_norms(layers, x, y, lam / n)
            for name, values in zip(("data", "along", "decay"), gradients):
                history[name].append(values)
            history["mark"].append(torch.tensor(step))
        if step == epochs * steps:
            break
        batch = batches[step % steps]
        sgd_step(layers, x[batch], y[batch], 1 - RATE * lam / n)
        if (step + 1) % steps == 0:
            bar.update()
    result = {name: torch.stack(values) for name, values in history.items()}
    result["cost"] = final_cost(layers, x, y)
    return {name: values.double().cpu().numpy() for name, values in result.items()}


# --------------------------------------------------------------------------- 2.2: measurements
def of_cost(run, cost):
    """What `train` returned, of the networks of one of COSTS alone."""
    half = len(run["cost"]) // 2
    networks = slice(half) if cost == "quadratic" else slice(half, None)
    return {name: run[name][..., networks] for name in ("norm", "data", "along", "decay", "cost")}


def tail_off(norms, pace):
    """(epoch, norm at its middle) of the first epoch that decays less than pace / 2, else the last.

    norms (E + 1,) before each epoch and at the end; pace = eta lambda / m.
    """
    slow = np.flatnonzero(-np.diff(np.log(norms)) < pace / 2)
    epoch = slow[0] if len(slow) else len(norms) - 2
    return epoch + 0.5, math.sqrt(norms[epoch] * norms[epoch + 1])


def first_epochs(run, nets, lam, n):
    """(a) and (b) of 2.2: what dominates the hidden weights, and how they follow exp(-pace t).

    {quantity: (I,)} over the initialisations of one cost; nets = of_cost(run, cost).
    """
    pace = RATE * lam / BATCH
    ratio = nets["data"][:, 0] / nets["decay"][:, 0]  # of the norms of the two gradients
    after_epoch = np.searchsorted(run["mark"], n // BATCH)
    early = run["mark"] * pace * BATCH / n <= 1  # eta lambda t / m
    along = np.abs(nets["along"][early, 0] / nets["decay"][early, 0])
    logs = []  # of ||w|| / ||w_0|| at eta lambda t / m = 1
    for norms in nets["norm"][:, 0].T:
        logs.append(np.interp(1 / pace, np.arange(len(norms)), np.log(norms / norms[0])))
    return {"needed": lam * ratio[0], "start": ratio[0], "epoch 1": ratio[after_epoch],
            "along": along.max(axis=0), "excess": np.exp(np.add(logs, 1)) - 1}


def last_epochs(nets, network, n):
    """(c) of 2.2: where decay tails off, of the hidden layer and of all weights; {quantity: (I,)}.

    Weights are given as their root mean square.
    """
    inputs, hidden, lam = network
    hidden_weights = inputs * hidden
    output_weights = hidden * 10
    weights = hidden_weights + output_weights
    pace = RATE * lam / BATCH
    norm = nets["norm"]  # (E + 1, 2, I)
    found = {"end out": norm[-1, 1] / output_weights**0.5,
             "penalty": lam / (2 * n) * (norm[-1]**2).sum(axis=0), "cost": nets["cost"]}
    for suffix, curves, count in (("", norm[:, 0], hidden_weights),
                                  (" all", np.linalg.norm(norm, axis=1), weights)):
        tails = np.array([tail_off(norms, pace) for norms in curves.T])
        rms = tails[:, 1] / count**0.5
        found |= {"end" + suffix: curves[-1] / count**0.5, "time" + suffix: tails[:, 0] * pace,
                  "tail" + suffix: rms, "by N_w" + suffix: rms * weights**0.5,
                  "by n_in" + suffix: rms * inputs**0.5}
    return found


def summarise(network, run, n):
    """Numbers of one network: {cost/quantity: mean, cost/quantity/sd} over initialisations."""
    inputs, hidden, lam = network
    weights = inputs * hidden + hidden * 10
    numbers = {"weights": weights, "root N_w": float(np.power(weights, -0.5))}
    for cost in COSTS:
        nets = of_cost(run, cost)
        found = first_epochs(run, nets, lam, n) | last_epochs(nets, network, n)
        for name, values in found.items():
            numbers[f"{cost}/{name}"] = float(np.mean(values))
            numbers[f"{cost}/{name}/sd"] = float(np.std(values, ddof=1))
    return numbers


def exponent(sizes, values):
    """a of the power law value = constant * size^a, by least squares on the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def compare(runs, n):
    """Numbers of all networks, {network/...}, and of the arguments that 2.2 asks for."""
    numbers = {}
    for tag, run in runs.items():
        for name, value in summarise(NETWORKS[tag], run, n).items():
            numbers[f"{tag}/{name}"] = value
    for cost in COSTS:  # the RMS weight at the tail-off as a power of the width and of lambda
        rms = {tag: numbers[f"{tag}/{cost}/tail"] for tag in runs}
        by_width = (rms["784-30-3"], rms["784-10-3"], rms["784-100-3"])
        by_lambda = (rms["784-30-3"], rms["784-30-1"], rms["784-30-10"])
        numbers[f"width exponent/{cost}"] = exponent((30, 10, 100), by_width)
        numbers[f"lambda exponent/{cost}"] = exponent((3, 1, 10), by_lambda)

    share = RATE * NETWORKS[MAIN][2] / n  # eta lambda / n: what a step takes
    for place, u in enumerate((share, 0.01, 0.1, 0.5)):
        numbers[f"second order/{place}"] = -math.log1p(-u) / u - 1
    dark = runs[MAIN]["dark"]
    if dark[0]:  # pixels that are black in every image, whose weights only decay
        epochs = len(dark) - 1
        rate = math.log(dark[-1] / dark[0]) / math.log1p(-share)
        numbers["dark"] = abs(rate / epochs / (n // BATCH) - 1)
    return numbers | {"check/exact": (1 - 5e-5)**5000, "check/limit": math.exp(-0.25), "n": n}


def fingerprint(args):
    """Validation cost at one lambda, C_T at one eta, and costs after an epoch on drawn images."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    half = torch.full((1,), 0.5, dtype=torch.float64)
    validation = validation_cost(half, ridge_problem(args.seed, half.device))
    unrolled = last_tanh_cost(half, 10, args.seed)
    drawn = torch.Generator().manual_seed(0)
    images = torch.rand(64, 1, 28, 28, generator=drawn)
    y = F.one_hot(torch.randint(10, (64,), generator=drawn), 10).float()
    run = train((784, 10, 100), images, y, args, tqdm(disable=True))
    torch.set_num_threads(threads)
    return [validation.item(), unrolled.item(), *run["cost"].tolist()]


# ------------------------------------------------------------------------------------- figures
LOOKS = {  # of the two costs
    "quadratic": {"color": "black", "linewidth": 1.7, "fillstyle": "none"},
    "cross-entropy": {"color": "C3", "linewidth": 0.7, "fillstyle": "full"},
}


def draw_hyper(path, curves):
    """2.1: lambda through descent on either cost; C_T(eta); its derivative, by sign."""
    figure = Figure(figsize=(6.5, 2.0))
    descent, final, derivative = figure.subplots(1, 3)
    descent.plot(curves["lambda_joint"], color="black", label="training cost")
    descent.plot(curves["lambda_bilevel"], color="C3", linestyle="--", label="validation cost")
    descent.set_yscale("symlog", linthresh=0.1)
    descent.set(xlabel="step of descent", ylabel=r"$\lambda$", title=r"descent on $\lambda$")
    descent.legend(loc=(0.38, 0.52))

    eta = np.array(curves["eta"])
    final.semilogx(eta, curves["eta_cost"], color="black", linewidth=0.7)
    final.set(xlabel=r"$\eta$", ylabel="$C_T$", title="cost after 100 steps")

    slope = np.array(curves["eta_slope"])
    for chosen, marker, color, label in ((slope > 0, "x", "black", "positive"),
                                         (slope < 0, "o", "C3", "negative")):
        derivative.loglog(eta[chosen], np.abs(slope[chosen]), marker, color=color, markersize=2,
                          markeredgewidth=0.5, fillstyle="none", label=label)
    derivative.set(xlabel=r"$\eta$", ylabel=r"$|dC_T/d\eta|$", title="its derivative",
                   ylim=(1e-7, None))
    derivative.legend(loc="lower left", handletextpad=0.1)
    save_figure(figure, path)


def draw_decay(path, runs, numbers):
    """2.2: norms against exp(-eta lambda t/m); gradients; weights where decay tails off."""
    figure = Figure(figsize=(6.5, 2.1))
    norms, gradients, tails = figure.subplots(1, 3)
    draw_norms(norms, runs)
    draw_gradients(gradients, runs[MAIN])
    draw_tails(tails, numbers)
    for axes, place in ((norms, "lower left"), (gradients, "lower left"), (tails, "right")):
        axes.legend(fontsize=6, handlelength=1.5, labelspacing=0.2, loc=place)
    save_figure(figure, path)


def label_once(cost, label):
    """The label for the legend, which names every line once, as that of the cross-entropy."""
    return label if cost == "cross-entropy" else None


def draw_norms(axes, runs):
    """Norm of the hidden weights over eta lambda t / m, of the first initialisation."""
    axes.plot([0, 5], np.exp([0, -5]), color="0.7", linewidth=3,
              label=r"$\exp(-\eta\lambda t/m)$")
    for cost, look in LOOKS.items():
        for tag, line in (("784-30-1", ":"), (MAIN, "--"), ("784-30-10", "-")):
            _, _, lam = NETWORKS[tag]
            norm = of_cost(runs[tag], cost)["norm"][:, 0, 0]
            elapsed = RATE * lam / BATCH * np.arange(len(norm))
            axes.semilogy(elapsed, norm / norm[0], line, **look,
                          label=label_once(cost, rf"$\lambda = {lam}$"))
    axes.set(xlabel=r"$\eta\lambda t/m$, $t$ in epochs", ylabel=r"$||w_t||\,/\,||w_0||$",
             title="hidden weights")


def draw_gradients(axes, run):
    """Norms of the two gradients of the hidden weights over the steps, first initialisation."""
    for cost, look in LOOKS.items():
        nets = of_cost(run, cost)
        for name, line, label in (("data", "-", "data"), ("decay", "--", "decay"),
                                  ("along", ":", "data, along $w$")):
            size = np.abs(nets[name][:, 0, 0])
            axes.loglog(run["mark"] + 1, size, line, **look, label=label_once(cost, label))
    axes.set(xlabel="step + 1", ylabel="norm of gradient", title="gradients, hidden weights",
             ylim=(1e-6, None))


def draw_tails(axes, numbers):
    """RMS of the hidden weights where decay tails off, over N_w, beside the two scales."""
    for cost, look in LOOKS.items():
        for tag, marker in zip(NETWORKS, "osDv^*"):
            weights = numbers[f"{tag}/weights"]
            rms = numbers[f"{tag}/{cost}/tail"]
            axes.loglog(weights, rms, marker, color=look["color"], fillstyle=look["fillstyle"],
                        markersize=4, label=label_once(cost, tag))
    ends = np.array([6e3, 9e4])
    axes.loglog(ends, ends**-0.5, color="0.4", label=r"$1/\sqrt{N_w}$")
    axes.loglog(ends, [784**-0.5, 784**-0.5], color="0.4", linestyle="--",
                label=r"$1/\sqrt{784}$")
    axes.set(xlabel="$N_w$", ylabel="RMS weight", title="where decay tails off", xlim=(5e3, 2e6))


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
    parser.add_argument("--dataset", choices=("mnist", "fashion"), default="mnist")
    parser.add_argument("--inits", type=number(int, 2, 20), default=3,
                        help="initialisations of every network")
    parser.add_argument("--seed", type=number(int, 0, 2**31), default=1, help="of all chance")
    parser.add_argument("--no-cuda", action="store_true", help="stay on the CPU")
    parser.add_argument("--data-dir", type=folder, default=HERE / "data", help="torchvision's root")
    parser.add_argument("--out-dir", type=folder, default=HERE / "plots",
                        help="for the figures and the record")
    args = parser.parse_args(argv)
    prefix = "p2" if args.dataset == "mnist" else f"p2_{args.dataset}"
    return named(args, prefix, ("dataset",), parser, argv)


def choose_examples(args, device):
    """EXAMPLES of the training images, (n, 1, 28, 28) in [0, 1], and one-hot labels (n, 10)."""
    images, labels, _, _ = load_dataset(args.dataset, args.data_dir)
    generator = torch.Generator().manual_seed(args.seed)
    chosen = torch.randperm(len(images), generator=generator)[:EXAMPLES]
    x = images[chosen, None].to(device).float() / 255
    y = F.one_hot(labels[chosen].long(), 10).to(device).float()
    return x, y


def main(argv=None):
    args = parse_args(argv)
    with own_settings():
        prepare_folders(args.out_dir)
        device = choose_device(args.no_cuda)
        start = time.perf_counter()
        steps = fingerprint(args)
        images, y = choose_examples(args, device)
        epochs = sum(epochs_of(lam) for _, _, lam in NETWORKS.values())
        with tqdm(total=epochs, unit="epoch", disable=None) as bar:
            runs = {tag: train(network, images, y, args, bar) for tag, network in NETWORKS.items()}
        lambda_numbers, lambda_curves = study_lambda(args.seed, device)
        eta_numbers, eta_curves = study_eta(args.seed, args.inits, device)
        numbers = lambda_numbers | eta_numbers | compare(runs, len(images))
        curves = lambda_curves | eta_curves
        for name, value in numbers.items():
            print(f"{name:44}{value:.4g}")

        stem = f"{args.out_dir / args.run_name}"
        draw_hyper(Path(f"{stem}_hyper.pdf"), curves)
        draw_decay(Path(f"{stem}_decay.pdf"), runs, numbers)
        write_record(Path(f"{stem}.json"), args, [machine(device)], numbers,
                     headline=("lambda/found", "784-30-3/quadratic/tail"), fingerprint=steps,
                     seconds=time.perf_counter() - start, curves=curves)
    print(f"record and figures: {stem}*")


if __name__ == "__main__":
    run(main)
