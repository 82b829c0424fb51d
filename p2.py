"""Problem 2: descent on the hyper-parameters lambda and eta (2.1), and weight decay (2.2).

    python p2.py                        both parts, 2.2 on 10 000 images of MNIST
    python p2.py --dataset fashion      the same on Fashion-MNIST

It prints its numbers and writes plots/p2.json and the figures plots/p2_lambda.pdf and p2_eta.pdf
(2.1), p2_decay.pdf and p2_tails.pdf (2.2). Where to look:
    2.1      study_lambda and study_eta
    2.2 (a)  first_epochs: what the weights feel at first, decay or data
    2.2 (b)  check_factor and first_epochs: the factor of an epoch
    2.2 (c)  last_epochs and balance: where the decay stops, and what stops it

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

CURVATURES = (4.0, 1.0, 0.1)  # of the quadratic cost of 2.1; the first is the largest

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
MEASURED = ("data", "along", "noise", "decay", "cost", "slope", "product")
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
    """Largest relative error of value_and_slope's slope against central differences, at (G,)."""
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

    [(lambda, objective) before each step and at the end].
    """
    path = []
    for _ in range(steps + 1):
        cost, slope = value_and_slope(objective, log_lam)
        path.append((log_lam.exp().item(), cost.item()))
        log_lam = log_lam - slope
    return path


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
    bilevel = descend_on_validation(objective, start, outer)
    numbers = {
        "lambda/start": joint[0][0], "lambda/zero": zero, "lambda/steps": len(joint) - 1,
        "lambda/end": joint[-1][0], "lambda/floor": floor, "lambda/outer": outer,
        "lambda/weights": joint[-1][2], "lambda/weights at zero": joint[zero][2],
        "lambda/from": bilevel[0][0], "lambda/found": bilevel[-1][0],
        "lambda/best": grid[costs.argmin()].exp().item(), "lambda/least": costs.min().item(),
        "lambda/cost": bilevel[-1][1], "lambda/error": difference_error(objective, grid[::10]),
    }
    lams, path_costs = zip(*bilevel)
    curves = {"lambda_joint": [lam for lam, _, _ in joint], "lambda_bilevel": lams,
              "lambda_bilevel_cost": path_costs, "lambda_grid": grid.exp().tolist(),
              "lambda_cost": costs.tolist()}
    return numbers, curves


# ------------------------------------------------------------------------------------ 2.1: eta
def quadratic_cost(w):
    """1/2 sum_i h_i w_i^2, (G,), of w (G, 3); h are the CURVATURES."""
    return 0.5 * (w.new_tensor(CURVATURES) * w.square()).sum(1)


def study_quadratic(device, steps):
    """The closed form of 2.1: C_T(eta) = 1/2 sum_i h_i (1 - eta h_i)^2T, from w = 1.

    Beyond eta = 2 / h_max the component of h_max grows by (eta h_max - 1)^2T.
    """
    h_max = CURVATURES[0]
    eta = torch.linspace(0.005, 0.6, 120, dtype=torch.float64, device=device)
    start = eta.new_ones(len(eta), len(CURVATURES))
    costs = quadratic_cost(unroll(quadratic_cost, start, eta[:, None], steps)[-1]).detach()
    shrink = 1 - eta[:, None] * eta.new_tensor(CURVATURES)
    closed = quadratic_cost(shrink**steps)
    numbers = {"quadratic/edge": 2 / h_max,
               "quadratic/error": (costs / closed - 1).abs().max().item()}
    curves = {"quadratic_eta": eta.tolist(), "quadratic_cost": costs.tolist(),
              "quadratic_largest": (0.5 * h_max * shrink[:, 0]**(2 * steps)).tolist()}
    return numbers, curves


def tanh_problem(like, init):
    """Parameters (1, 24) of a 1-8-1 network of tanh units, and its cost on sin(3x).

    The cost is (G,) of w (G, 24), and bounded, as the output is a tanh too. Type and device are
    those of the tensor `like`.
    """
    x = torch.linspace(-1, 1, 20, dtype=like.dtype, device=like.device)
    generator = torch.Generator().manual_seed(init)
    start = torch.randn(1, 24, dtype=like.dtype, generator=generator).to(like.device)

    def cost(w):
        inner, bias, outer = w.chunk(3, dim=1)  # (G, 8) each
        hidden = torch.tanh(inner[:, None] * x[:, None] + bias[:, None])  # (G, 20, 8)
        output = torch.tanh(hidden @ outer[:, :, None]).squeeze(2)  # (G, 20)
        return 0.5 * (output - torch.sin(3 * x)).square().mean(dim=1)

    return start, cost


def last_tanh_cost(eta, steps, init):
    """C_T(eta), (G,), the objective of a descent on eta (G,): one training for each rate."""
    start, cost = tanh_problem(eta, init)
    return cost(unroll(cost, start.repeat(len(eta), 1), eta[:, None], steps)[-1])


def largest_curvature(cost, w):
    """h_max, the largest eigenvalue of the Hessian of `cost`, (G,), at w (G, P)."""
    w = w.detach().requires_grad_()
    gradient, = torch.autograd.grad(cost(w).sum(), w, create_graph=True)
    rows = [torch.autograd.grad(entry.sum(), w, retain_graph=True)[0] for entry in gradient.T]
    return torch.linalg.eigvalsh(torch.stack(rows, dim=1))[:, -1]


def sweep_rates(etas, steps, init):
    """For etas (E,): C_t (steps + 1, E), the derivative of C_T (E,), h_max at the end (E,)."""
    start, cost = tanh_problem(etas, init)
    costs = []
    slopes = []
    curvatures = []
    for chunk in etas.split(100):  # memory holds the graph of 100 trainings
        eta = chunk.detach().requires_grad_()
        iterates = unroll(cost, start.repeat(len(eta), 1), eta[:, None], steps)
        path = torch.stack([cost(w) for w in iterates])
        slope, = torch.autograd.grad(path[-1].sum(), eta)
        costs.append(path.detach())
        slopes.append(slope)
        curvatures.append(largest_curvature(cost, iterates[-1]))
    return torch.cat(costs, dim=1), torch.cat(slopes), torch.cat(curvatures)


def find_edge(etas, curvatures):
    """Index of the smallest rate with eta h_max >= 2 at the end of its training, or the last."""
    beyond = etas * curvatures >= 2
    beyond[-1] = True
    return beyond.nonzero()[0].item()


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
    """2.1 for eta: numbers (of each initialisation, and ranges), curves (of the first one)."""
    etas = torch.linspace(0.02, 16, 800, dtype=torch.float64, device=device)
    numbers, curves = study_quadratic(device, steps)
    summaries = []
    for init in range(seed, seed + inits):
        costs, slopes, curvatures = sweep_rates(etas, steps, init)
        edge = find_edge(etas, curvatures)
        summary = summarise_rates(etas, costs, slopes, edge)
        objective = partial(last_tanh_cost, steps=steps, init=init)
        summary["error"] = difference_error(objective, etas[:edge // 2])
        summaries.append(summary)
        if init == seed:
            curves |= {"eta": etas.tolist(), "eta_cost": costs[-1].tolist(),
                       "eta_slope": slopes.tolist()}
    for name in summaries[0]:
        values = [summary[name] for summary in summaries]
        numbers[f"eta/{name}/min"] = min(values)
        numbers[f"eta/{name}/max"] = max(values)
        for place, value in enumerate(values, start=1):
            numbers[f"eta/{place}/{name}"] = value
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


def cost_of(output, y):
    """C_0 of each network, a mean over the images, (K,), of outputs (K, B, 10)."""
    square = 0.5 * (output - y).square()
    entropy = F.binary_cross_entropy(output, y.expand_as(output), reduction="none")
    half = len(output) // 2
    return torch.cat((square[:half], entropy[half:])).sum(dim=2).mean(dim=1)


def weight_norms(layers):
    """||w|| of each layer of each network, (2, K)."""
    return torch.stack([W.flatten(1).norm(dim=1) for W, _ in layers])


def measure(layers, x, y, penalty):
    """What moves the norm of the weights: {quantity: array}, g being the gradient of C_0 over x.

    Of each layer (2, K): "data" ||g||, "along" <g, w> / ||w||, "decay" penalty ||w||, and "noise"
    eta E||g_B||^2 / (2 ||w||), g_B of a mini-batch. A step changes ||w|| by -eta (along + decay -
    noise), to first order in eta lambda / n = eta penalty.
    Of each network (K,): "cost" C_0, and of the hidden units the means over images and units of
    sigma'(z), "slope", and of |z| sigma'(z), "product".
    """
    signals, output = backpropagate(layers, x, y)
    lengths = weight_norms(layers)
    found = {"data": [], "along": [], "noise": []}
    for (W, _), (inputs, error), length in zip(layers, signals, lengths):
        g = inputs.mT @ error / len(x)
        square = g.square().sum(dim=(1, 2))
        lone = inputs.square().sum(dim=2) * error.square().sum(dim=2)  # ||g||^2 of each image
        batch = square + (lone.mean(dim=1) - square) / BATCH  # E||g_B||^2, up to m / n
        found["data"].append(square.sqrt())
        found["along"].append((g * W).sum(dim=(1, 2)) / length)
        found["noise"].append(RATE * batch / (2 * length))
    hidden, _ = signals[1]
    slope = hidden * (1 - hidden)
    product = hidden.logit(eps=1e-7).abs() * slope
    return {name: torch.stack(values) for name, values in found.items()} | {
        "decay": penalty * lengths, "cost": cost_of(output, y),
        "slope": slope.mean(dim=(1, 2)), "product": product.mean(dim=(1, 2))}


def epochs_of(lam):
    """How many epochs a network is trained, so that eta lambda t / m comes to END."""
    return math.ceil(END * BATCH / (RATE * lam))


def train(network, images, y, args, bar):
    """Train on images (n, 1, 28, 28), one-hot y (n, 10); {quantity: array}, networks last (K).

    "norm" (E + 1, 2, K) and "dark" (E + 1,) before each epoch and at the end; at each step of
    "mark" (S,) what `measure` returns, (S, 2, K) or (S, K).
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
    marks = {0, 1, 3, 10, 30, 100, 300} | set(range(0, epochs * steps + 1, steps))
    history = {name: [] for name in ("norm", "dark", "mark", *MEASURED)}
    for step in range(epochs * steps + 1):
        if step % steps == 0:
            batches = torch.randperm(n, generator=generator).to(x.device).split(BATCH)
            history["norm"].append(weight_norms(layers))
            history["dark"].append(first_weights[:, dark].norm())
        if step in marks:
            for name, value in measure(layers, x, y, lam / n).items():
                history[name].append(value)
            history["mark"].append(torch.tensor(step))
        if step == epochs * steps:
            break
        batch = batches[step % steps]
        sgd_step(layers, x[batch], y[batch], 1 - RATE * lam / n)
        if (step + 1) % steps == 0:
            bar.update()
    result = {name: torch.stack(values) for name, values in history.items()}
    return {name: values.double().cpu().numpy() for name, values in result.items()}


# --------------------------------------------------------------------------- 2.2: measurements
def of_cost(run, cost):
    """What `train` returned, of the networks of one of COSTS alone."""
    half = run["norm"].shape[-1] // 2
    networks = slice(half) if cost == "quadratic" else slice(half, None)
    return {name: run[name][..., networks] for name in ("norm", *MEASURED)}


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
    cosine = np.abs(nets["along"][0, 0] / nets["data"][0, 0])  # of g and w, before training
    logs = []  # of ||w|| / ||w_0|| at eta lambda t / m = 1
    for norms in nets["norm"][:, 0].T:
        logs.append(np.interp(1 / pace, np.arange(len(norms)), np.log(norms / norms[0])))
    return {"needed": lam * ratio[0], "start": ratio[0], "epoch 1": ratio[after_epoch],
            "along": along.max(axis=0), "cosine": cosine, "slope": nets["slope"][0],
            "product": nets["product"][0], "excess": np.exp(np.add(logs, 1)) - 1}


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
             "penalty": lam / (2 * n) * (norm[-1]**2).sum(axis=0), "cost": nets["cost"][-1]}
    for suffix, curves, count in (("", norm[:, 0], hidden_weights),
                                  (" all", np.linalg.norm(norm, axis=1), weights)):
        tails = np.array([tail_off(norms, pace) for norms in curves.T])
        rms = tails[:, 1] / count**0.5
        found |= {"end" + suffix: curves[-1] / count**0.5, "time" + suffix: tails[:, 0] * pace,
                  "tail" + suffix: rms, "by N_w" + suffix: rms * weights**0.5,
                  "by n_in" + suffix: rms * inputs**0.5}
    return found


def balance(run, nets, network, n):
    """(c) of 2.2: what stops the decay of the hidden weights, at their tail-off; {quantity: (I,)}.

    "gain" is what the weights get back in that epoch, as a share of what decay takes; "pull" and
    "noise share" are the parts of the mean gradient and of its noise, from the gradients at the
    start and the end of the epoch. "ratio" is ||g|| / decay, "penalty" (lambda / 2n) ||w||^2 of the
    hidden weights.
    """
    pace = RATE * network[2] / BATCH
    found = []
    for place, norms in enumerate(nets["norm"][:, 0].T):
        epoch, norm = tail_off(norms, pace)
        shrinks = math.log(norms[math.floor(epoch)] / norms[math.ceil(epoch)])
        at = {name: np.interp(epoch * (n // BATCH), run["mark"], nets[name][:, 0, place])
              for name in ("data", "along", "noise", "decay")}
        at |= {name: np.interp(epoch * (n // BATCH), run["mark"], nets[name][:, place])
               for name in ("cost", "slope")}
        at |= {"ratio": at["data"] / at["decay"], "cosine": -at["along"] / at["data"],
               "gain": 1 - shrinks / pace, "pull": -at["along"] / at["decay"],
               "noise share": at["noise"] / at["decay"], "penalty": at["decay"] * norm / 2}
        found.append(at)
    return {f"tail/{name}": np.array([at[name] for at in found]) for name in found[0]}


def summarise(network, run, n):
    """Numbers of one network: {cost/quantity: mean, cost/quantity/sd} over initialisations."""
    inputs, hidden, lam = network
    weights = inputs * hidden + hidden * 10
    numbers = {"weights": weights, "root N_w": float(np.power(weights, -0.5))}
    for cost in COSTS:
        nets = of_cost(run, cost)
        found = first_epochs(run, nets, lam, n) | last_epochs(nets, network, n)
        found |= balance(run, nets, network, n)
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

    numbers |= check_factor(n)
    dark = runs[MAIN]["dark"]
    if dark[0]:  # pixels that are black in every image, whose weights only decay
        epochs = len(dark) - 1
        rate = math.log(dark[-1] / dark[0]) / math.log1p(-RATE * NETWORKS[MAIN][2] / n)
        numbers["dark"] = abs(rate / epochs / (n // BATCH) - 1)
    return numbers | {"n": n}


def saturation(images):
    """(a) of 2.2: means of sigma'(z) and |z| sigma'(z) for z from N(0, s^2), s^2 = 1 + ||x||^2.

    To leading order in 1/s they are the integrals of the two functions, 1 and 2 log 2, times the
    density of z at 0; a mean over images (n, 1, 28, 28).
    """
    s = (1 + images.flatten(1).double().square().sum(dim=1)).sqrt()
    density = (1 / (math.sqrt(2 * math.pi) * s)).mean().item()
    return {"saturation/slope": density, "saturation/product": 2 * math.log(2) * density,
            "saturation/norm": (s.square() - 1).mean().sqrt().item()}


def check_factor(n):
    """(b) of 2.2: the factor of an epoch without data, exact and in the limit, m = BATCH.

    Of this script's network, of Nielsen's (n = 50 000, eta lambda = 2.5), and where eta lambda is
    below n but its square is not below 2 n m.
    """
    numbers = {}
    for name, examples, product in (("here", n, RATE * NETWORKS[MAIN][2]), ("book", 50_000, 2.5),
                                    ("near", 50_000, 100.0), ("far", 50_000, 1000.0)):
        steps = examples / BATCH
        log_factor = steps * math.log1p(-product / examples)
        limit = -product / BATCH
        found = {"n": examples, "product": product, "share": product / examples,
                 "square": product**2 / (2 * examples * BATCH), "exact": math.exp(log_factor),
                 "limit": math.exp(limit), "quotient": math.exp(log_factor - limit)}
        numbers |= {f"factor/{name}/{quantity}": value for quantity, value in found.items()}
    return numbers


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
    return [validation.item(), unrolled.item(), *run["cost"][-1].tolist()]


# ------------------------------------------------------------------------------------- figures
def draw_lambda(path, curves):
    """2.1: lambda through descent on the training cost; the validation cost over lambda."""
    figure = Figure(figsize=(6.9, 1.9))
    joint, validation = figure.subplots(1, 2)
    joint.plot(curves["lambda_joint"], color="black")
    joint.axhline(0, color="0.6", linewidth=0.8)
    joint.set_yscale("symlog", linthresh=1)
    joint.set(xlabel="step of descent", ylabel=r"$\lambda$", title="descent on the training cost")

    validation.semilogx(curves["lambda_grid"], curves["lambda_cost"], color="0.6",
                        label="validation cost")
    lams = curves["lambda_bilevel"]
    costs = curves["lambda_bilevel_cost"]
    validation.semilogx(lams, costs, "o", color="black", fillstyle="none", markersize=3,
                        label="steps of descent")
    validation.semilogx(lams[-1], costs[-1], "o", color="black", markersize=5, label="the last")
    validation.set(xlabel=r"$\lambda$", ylabel="validation cost",
                   title="descent on the validation cost")
    validation.legend()
    save_figure(figure, path)


def draw_eta(path, curves, edge):
    """2.1: C_T(eta) of a quadratic and of a network, and its derivative; edges 2 / h_max marked."""
    figure = Figure(figsize=(6.9, 2.3))
    quadratic, final, derivative = figure.subplots(1, 3)
    eta = np.array(curves["quadratic_eta"])
    quadratic.semilogy(eta, curves["quadratic_largest"], color="0.75", linewidth=4,
                       label=r"part of $h_{\max}$")
    quadratic.semilogy(eta, curves["quadratic_cost"], color="black", label="$C_T$")
    quadratic.set(xlabel=r"$\eta$", ylabel="$C_T$", title="quadratic cost", ylim=(1e-6, 1e6))

    eta = np.array(curves["eta"])
    final.semilogx(eta, curves["eta_cost"], color="black", linewidth=0.7)
    final.set(xlabel=r"$\eta$", ylabel="$C_T$", title="network", xlim=(0.1, 16),
              ylim=(0, None))

    slope = np.array(curves["eta_slope"])
    for chosen, marker, color, label in ((slope > 0, "+", "black", "positive"),
                                         (slope < 0, "o", "0.5", "negative")):
        derivative.loglog(eta[chosen], np.abs(slope[chosen]), marker, color=color, markersize=3,
                          markeredgewidth=0.6, fillstyle="none", label=label)
    derivative.set(xlabel=r"$\eta$", ylabel=r"$|dC_T/d\eta|$", title="network, derivative",
                   xlim=(0.1, 16), ylim=(1e-7, None))
    for axes, place in ((quadratic, 2 / CURVATURES[0]), (final, edge), (derivative, edge)):
        axes.axvline(place, color="black", linestyle=":", linewidth=1, label=r"edge $2/h_{\max}$")
    quadratic.legend(loc="upper left")
    signs = derivative.get_lines()[:2]
    derivative.legend(handles=signs, loc="lower left", handlelength=1, borderaxespad=0)
    save_figure(figure, path)


def draw_decay(path, runs, n):
    """2.2: norms against exp(-eta lambda t/m), and gradients; a column for each cost."""
    figure = Figure(figsize=(6.9, 4.5))
    norms, gradients = figure.subplots(2, 2, sharey="row")
    for column, cost in enumerate(COSTS):
        draw_norms(norms[column], runs, cost)
        draw_gradients(gradients[column], runs[MAIN], cost, n)
    norms[0].set_ylabel(r"$||w_t||\,/\,||w_0||$")
    gradients[0].set_ylabel("size of gradient")
    norms[0].legend(loc="lower left", handlelength=1.5, labelspacing=0.2)
    figure.legend(*gradients[0].get_legend_handles_labels(), loc="outside lower center", ncol=5)
    save_figure(figure, path)


def draw_norms(axes, runs, cost):
    """Norm of the hidden weights over eta lambda t / m, first initialisation; tail-off marked."""
    axes.plot([0, END], np.exp([0, -END]), color="0.75", linewidth=4,
              label=r"$\exp(-\eta\lambda t/m)$")
    for tag, line in (("784-30-1", ":"), (MAIN, "--"), ("784-30-10", "-")):
        _, _, lam = NETWORKS[tag]
        pace = RATE * lam / BATCH
        norm = of_cost(runs[tag], cost)["norm"][:, 0, 0]
        elapsed = pace * np.arange(len(norm))
        axes.semilogy(elapsed, norm / norm[0], line, color="black", label=rf"$\lambda = {lam}$")
        epoch, tail = tail_off(norm, pace)
        last = "tail-off" if tag == "784-30-10" else None
        axes.plot(epoch * pace, tail / norm[0], "o", color="black", fillstyle="none",
                  linestyle="none", label=last)
    axes.set(xlabel=r"$\eta\lambda t/m$, $t$ in epochs", title=f"norm of hidden weights, {cost}")


def draw_gradients(axes, run, cost, n):
    """What moves the norm of the hidden weights over the steps, first initialisation."""
    nets = of_cost(run, cost)
    for name, look, label in (
            ("data", {"color": "0.6", "linewidth": 2.5}, r"data, $||g||$"),
            ("decay", {"color": "black"}, r"decay, $(\lambda/n)\,||w||$"),
            ("along", {"color": "black", "linestyle": "--"}, "data along $w$"),
            ("noise", {"color": "black", "linestyle": ":"}, "noise of SGD")):
        axes.loglog(run["mark"] + 1, np.abs(nets[name][:, 0, 0]), label=label, **look)
    epoch, _ = tail_off(nets["norm"][:, 0, 0], RATE * NETWORKS[MAIN][2] / BATCH)
    axes.axvline(epoch * (n // BATCH), color="0.5", linewidth=0.6, linestyle="-.", label="tail-off")
    axes.set(xlabel="step + 1", title=f"gradients, {cost}", ylim=(5e-6, 10))


def draw_tails(path, numbers):
    """2.2: RMS of the hidden weights where decay tails off, over N_w, beside the scales."""
    figure = Figure(figsize=(6.9, 2.2))
    panels = figure.subplots(1, 2, sharey=True)
    ends = np.array([6e3, 1e5])
    for axes, cost in zip(panels, COSTS):
        for tag, marker in zip(NETWORKS, "osDv^*"):
            inputs, hidden, lam = NETWORKS[tag]
            axes.loglog(numbers[f"{tag}/weights"], numbers[f"{tag}/{cost}/tail"], marker,
                        color="black", fillstyle="none", markersize=5,
                        label=rf"{inputs}-{hidden}, $\lambda = {lam}$")
        axes.loglog(ends, ends**-0.5, color="0.4", label=r"$1/\sqrt{N_w}$")
        for inputs, line in ((196, "-."), (784, "--")):
            axes.loglog(ends, [inputs**-0.5] * 2, color="0.4", linestyle=line,
                        label=rf"$1/\sqrt{{{inputs}}} = 1/{math.isqrt(inputs)}$")
        axes.set(xlabel="number of weights $N_w$", title=cost)
    panels[0].set_ylabel("RMS hidden weight")
    figure.legend(*panels[1].get_legend_handles_labels(), loc="outside center right")
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
        numbers = lambda_numbers | eta_numbers | compare(runs, len(images)) | saturation(images)
        curves = lambda_curves | eta_curves
        for name, value in numbers.items():
            print(f"{name:44}{value:.4g}")

        stem = f"{args.out_dir / args.run_name}"
        draw_lambda(Path(f"{stem}_lambda.pdf"), curves)
        draw_eta(Path(f"{stem}_eta.pdf"), curves, numbers["eta/1/edge"])
        draw_decay(Path(f"{stem}_decay.pdf"), runs, len(images))
        draw_tails(Path(f"{stem}_tails.pdf"), numbers)
        write_record(Path(f"{stem}.json"), args, [machine(device)], numbers,
                     headline=("lambda/found", "784-30-3/quadratic/tail"), fingerprint=steps,
                     seconds=time.perf_counter() - start, curves=curves)
    print(f"record and figures: {stem}*")


if __name__ == "__main__":
    run(main)
