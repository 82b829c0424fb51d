"""Problems 5.7 and 5.8 in the plane: what Gaussian noise costs a GAN, and what a cycle loss adds.

    python p5_toys.py                  everything, 2 minutes
    python p5_toys.py --seeds 3        of fewer trainings

It writes plots/p5_toys.json, the record, and plots/p5_toys_prior.pdf and plots/p5_toys_maps.pdf.

5.7: GANs (Goodfellow et al. 2014, arXiv:1406.2661) learn eight separated modes, from Gaussian noise
and from noise of eight components with the same variance. A continuous generator of Gaussian noise
has to put samples between the modes: their share is measured. Also, exactly: the norms of Gaussian
draws, and of the points on the way between two.

5.8: two maps between six clusters and their quarter turn, learned unpaired: two independent GANs,
the simpler model, against the pair with a cycle loss (CycleGAN: Zhu et al. 2017, arXiv:1703.10593;
DiscoGAN: Kim et al. 2017, arXiv:1703.05192). The right correspondence is known, and scores them.

The networks of an experiment are stacked along the first dimension of their weights and train side
by side.
"""
import argparse
import contextlib
import errno
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
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    os.environ["MPLBACKEND"] = "agg"  # a notebook hands down its own, which may be missing here
import matplotlib
import numpy as np
import torch
import torchvision
from matplotlib.figure import Figure
from torch.nn import functional as F
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
FAR = 5  # a point farther than this many standard deviations from every mode is between the modes

# 5.7: modes on the unit circle, (8, 2)
MODES = torch.tensor([[math.cos(k * math.tau / 8), math.sin(k * math.tau / 8)] for k in range(8)])
MODE_SD = 0.05
PRIORS = ("Gaussian", "mixture")  # of z; the mixture has as many components, on a circle too
COMPONENT_SD = 0.15
DIMENSIONS = (2, 10, 100)  # of which norms are given; 100 are gan.py's

# 5.8: six clusters without a symmetry, (6, 2), centred
CLUSTERS = torch.tensor([[-1.6, 0.9], [-0.5, 1.5], [1.2, 1.1],
                         [-1.1, -0.6], [0.3, -0.2], [1.5, -1.1]])
CLUSTERS = CLUSTERS - CLUSTERS.mean(0)
CLUSTER_SD = 0.08
TURN = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])  # the right map, a quarter turn: y = x TURN
PAIRS = 3  # clusters whose centres come with their right image, for the variant that is given some

# How GANs are trained: Adam's learning rate and betas, the weight of the R1 penalty, whether the
# learning rate decays, and the weight of the past in the moving average of the generator, which is
# the one that is judged. "prior" and "stable" follow Mescheder et al. 2018 (arXiv:1801.04406): R1,
# no momentum. "plain" is Adam with PyTorch's betas, three times its rate, and nothing else.
RECIPES = {
    "prior": {"lr": 2e-3, "betas": (0.0, 0.9), "r1": 0.01, "decay": True, "average": 0.998},
    "stable": {"lr": 3e-3, "betas": (0.0, 0.9), "r1": 0.1, "decay": True, "average": 0.995},
    "plain": {"lr": 3e-3, "betas": (0.9, 0.999), "r1": 0.0, "decay": False, "average": 0.0},
}
# 5.8: name: (recipe, weights of the cycle loss, of the identity loss, of the loss on given pairs)
VARIANTS = {
    "plain, independent": ("plain", (0, 0, 0)),
    "plain, cycle": ("plain", (0.1, 0, 0)),
    "independent": ("stable", (0, 0, 0)),
    "cycle": ("stable", (0.1, 0, 0)),
    "strong cycle": ("stable", (1, 0, 0)),
    "identity": ("stable", (0.1, 0.1, 0)),
    "pairs": ("stable", (0.1, 0, 1)),
}


# ------------------------------------------------------------------- model: n MLPs side by side
def init_mlps(sizes, seeds):
    """[weights (n, in, out), biases (n, 1, out), ...] of n MLPs, one for each of `seeds`.

    Weights are normal with variance 2 / in, biases 0 (He et al. 2015, arXiv:1502.01852).
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    params = []
    for fan_in, fan_out in zip(sizes, sizes[1:]):
        normal = torch.stack([torch.randn(fan_in, fan_out, generator=generator)
                              for generator in generators])
        params.append(normal * math.sqrt(2 / fan_in))
        params.append(torch.zeros(len(seeds), 1, fan_out))
    return params


def mlp(params, x):
    """Network i applied to the points x[i]: (n, B, in) -> (n, B, out), with leaky ReLUs between."""
    *hidden, (last_weight, last_bias) = zip(params[::2], params[1::2])
    for weight, bias in hidden:
        x = F.leaky_relu(torch.baddbmm(bias, x, weight), 0.2)
    return torch.baddbmm(last_bias, x, last_weight)


# --------------------------------------------------------------------------------------- losses
def discriminator_loss(params, reals, fakes, r1):
    """-log D(x) - log(1 - D(G(z))) + r1/2 |d logit/dx|^2, the mean over a batch, of each GAN: (n,).

    reals and fakes: (n, B, 2). The penalty, at reals, is R1 (Mescheder et al. 2018, section 4).
    """
    reals = reals.clone().requires_grad_()
    on_reals = mlp(params, reals)
    slope, = torch.autograd.grad(on_reals.sum(), reals, create_graph=True)
    entropy = F.softplus(-on_reals) + F.softplus(mlp(params, fakes))
    return entropy.mean((1, 2)) + r1 / 2 * slope.square().sum(2).mean(1)


def generator_loss(params, fakes):
    """-log D(G(z)) of fakes (n, B, 2), a mean over the batch, by n discriminators: (n,).

    The non-saturating loss (Goodfellow et al. 2014, section 3).
    """
    return F.softplus(-mlp(params, fakes)).mean((1, 2))


# ------------------------------------------------------------------------------------- training
def learning_rate(recipe, progress):
    """The recipe's, constant or falling to 0 over the second half; `progress` is in [0, 1)."""
    if not recipe["decay"]:
        return recipe["lr"]
    return recipe["lr"] * min(1, 2 - 2 * progress)


def descend(optimizer, losses):
    """One step of the optimizer's parameters, and of no others, down the sum of losses (n,)."""
    optimizer.zero_grad()
    losses.sum().backward(inputs=optimizer.param_groups[0]["params"])
    optimizer.step()


def train(draw, seeds, *, width, depth, recipe, steps, device, extra_loss=None):
    """Train n = len(seeds) GANs of MLPs with `depth` hidden layers of `width` units.

    draw() gives the generators' inputs and real points, each (n, B, 2). extra_loss(params, fakes,
    reals) adds to the generators' loss (n,). Returns the moving average of the generators'
    parameters, on the CPU. Network i enters GAN loss i alone and Adam works by element, so
    that GANs touch only where extra_loss ties them: in train_maps the two maps of a pair.
    """
    def trainable(params):
        return [p.to(device).requires_grad_() for p in params]

    def make_optimizer(params):
        return torch.optim.Adam(params, lr=recipe["lr"], betas=recipe["betas"], fused=True)

    hidden = depth * [width]
    generators = trainable(init_mlps([2, *hidden, 2], [10 * seed + 2 for seed in seeds]))
    discriminators = trainable(init_mlps([2, *hidden, 1], [10 * seed + 1 for seed in seeds]))
    average = [p.detach().clone() for p in generators]
    optimizer_g = make_optimizer(generators)
    optimizer_d = make_optimizer(discriminators)
    for step in tqdm(range(steps), leave=False, disable=None):
        for optimizer in (optimizer_g, optimizer_d):
            optimizer.param_groups[0]["lr"] = learning_rate(recipe, step / steps)
        inputs, reals = draw()
        reals = reals.to(device)
        fakes = mlp(generators, inputs.to(device))
        # (1) discriminators
        losses = discriminator_loss(discriminators, reals, fakes.detach(), recipe["r1"])
        descend(optimizer_d, losses)
        # (2) generators
        losses = generator_loss(discriminators, fakes)
        if extra_loss is not None:
            losses = losses + extra_loss(generators, fakes, reals)
        descend(optimizer_g, losses)
        for mean, p in zip(average, generators):
            mean.lerp_(p.detach(), 1 - recipe["average"])
    if not all(p.isfinite().all() for p in average):
        raise FloatingPointError("a generator's weights are no longer finite")
    return [p.cpu() for p in average]


# --------------------------------------------------------------------------- 5.7: Gaussian noise
def draw_around(centres, sd, shape, generator):
    """Points (*shape, 2) of an equal mixture of Gaussians around the centres (k, 2), of one sd."""
    component = torch.randint(len(centres), shape, generator=generator)
    return centres[component] + sd * torch.randn(*shape, 2, generator=generator)


def draw_priors(shape, generator):
    """z (2 n, B, 2), for `shape` = (n, B): of N(0, I), then of the mixture.

    The mixture has eight components on a circle and variance 1 in each coordinate too.
    """
    gaussian = torch.randn(*shape, 2, generator=generator)
    radius = math.sqrt(2 * (1 - COMPONENT_SD**2))  # a circle's coordinates have variance radius^2/2
    mixture = draw_around(radius * MODES, COMPONENT_SD, shape, generator)
    return torch.cat((gaussian, mixture))


def stretch(params, z):
    """The local Lipschitz constants (n, B) of generators at z (n, B, 2).

    That is the largest singular value of their Jacobian.
    """
    z = z.clone().requires_grad_()
    gradients = []
    for coordinate in range(2):
        total = mlp(params, z)[..., coordinate].sum()
        gradients.append(torch.autograd.grad(total, z)[0])
    return torch.linalg.matrix_norm(torch.stack(gradients, 2), 2)


def judge_samples(params, z):
    """Scores (n,) of generators at z (n, B, 2), their samples (n, B, 2), and which are far (n, B).

    share: of the samples that are between the modes; modes: those that got more than 1 % of the
    samples; stretch: the largest local Lipschitz constant.
    """
    samples = mlp(params, z)
    to_nearest, nearest = torch.cdist(samples, MODES).min(2)
    far = to_nearest > FAR * MODE_SD
    hits = F.one_hot(nearest, len(MODES)) * ~far[..., None]  # (n, B, modes)
    modes = (hits.float().mean(1) > 0.01).sum(1)
    scores = {"share": far.float().mean(1), "modes": modes.float(),
              "stretch": stretch(params, z).amax(1)}
    return scores, samples, far


def compare_priors(args, device):
    """Train and judge both priors over all seeds.

    {score: (2, seeds)}, a line for each prior; samples (2 seeds, 10 000, 2); which are far.
    """
    generator = torch.Generator().manual_seed(args.seed)

    def draw():
        reals = draw_around(MODES, MODE_SD, (args.seeds, 128), generator)
        z = draw_priors((args.seeds, 128), generator)
        return z, reals.repeat(2, 1, 1)  # both priors see the same points

    seeds = [1000 * args.seed + i for i in range(args.seeds)]
    params = train(draw, 2 * seeds, width=64, depth=3, recipe=RECIPES["prior"],
                   steps=args.prior_steps, device=device)
    z = draw_priors((args.seeds, 10_000), generator)
    scores, samples, far = judge_samples(params, z)
    return {name: score.view(2, -1) for name, score in scores.items()}, samples, far


def shell(dimension):
    """For z ~ N(0, I) in d dimensions: mean and sd of |z| / sqrt(d), and P(|z|^2 < d/2).

    Exactly: |z| has the chi distribution.
    """
    half = torch.tensor(dimension / 2, dtype=torch.float64)
    mean = ((half + 0.5).lgamma() - half.lgamma()).exp() / half.sqrt()
    sd = (1 - mean**2).sqrt()
    inside = torch.special.gammainc(half, half / 2)
    return mean.item(), sd.item(), inside.item()


# --------------------------------------------------------------------------------- 5.8: two maps
@dataclass
class Maps:
    """What the trained pairs of maps of one variant do."""
    scores: dict  # {score: (2, seeds)}, of F and of G, see judge_maps
    verdicts: list  # of each pair, see verdicts_on
    images: torch.Tensor  # F(x), (seeds, 1200, 2)


def swap(halves):
    """The halves along the first dimension trade places: F's with G's, or X's with Y's."""
    first, second = halves.chunk(2)
    return torch.cat((second, first))


def both_domains(x, count):
    """Points x (B, 2) of X, `count` times, then as often their right images: (2 count, B, 2)."""
    return torch.stack((x, x @ TURN)).repeat_interleave(count, 0)


def variants_of(recipe):
    """Names of the variants that a recipe trains."""
    return [name for name, (used, _) in VARIANTS.items() if used == recipe]


def distance(points, targets):
    """Mean distance in the 1-norm of points (n, B, 2) from their targets: (n,)."""
    return (points - targets).abs().sum(2).mean(1)


def train_maps(recipe, weights, args, device):
    """Parameters of F: X -> Y and G: Y -> X for each of the `weights` and each seed.

    `weights` are those of the (cycle, identity, pairs) losses. The networks are stacked as all F,
    then all G, so that their inputs are (x, y), their fakes (F(x), G(y)), their reals (y, x).
    """
    generator = torch.Generator().manual_seed(args.seed)
    seeds_f = [1000 * args.seed + i for i in range(args.seeds)]
    seeds_g = [seed + 500 for seed in seeds_f]
    seeds = len(weights) * seeds_f + len(weights) * seeds_g
    of_networks = torch.tensor(weights).repeat_interleave(args.seeds, 0).repeat(2, 1).to(device)
    cycle, identity, pairs = of_networks.T  # (networks,) each
    paired = both_domains(CLUSTERS[:PAIRS], len(weights) * args.seeds).to(device)

    def draw():
        drawn = draw_around(CLUSTERS, CLUSTER_SD, (2, args.seeds, 64), generator)
        x, others = drawn.repeat(1, len(weights), 1, 1)  # all variants see the same points
        inputs = torch.cat((x, others @ TURN))  # unpaired: y are the images of other points
        return inputs, swap(inputs)

    def extra_loss(params, fakes, reals):
        loss = 0
        if cycle.any():  # F(G(y)) is y, G(F(x)) is x
            loss = loss + cycle * distance(mlp(params, swap(fakes)), reals)
        if identity.any():  # F(y) is y, G(x) is x
            loss = loss + identity * distance(mlp(params, reals), reals)
        if pairs.any():
            loss = loss + pairs * distance(mlp(params, paired), swap(paired))
        return loss

    return train(draw, seeds, width=32, depth=2, recipe=RECIPES[recipe], steps=args.map_steps,
                 device=device, extra_loss=extra_loss)


def judge_maps(params, x):
    """Scores at x (B, 2) of n maps F and n maps G, each (2, n), F's first; F(x) (n, B, 2).

    distinct: clusters that are the most frequent target of some cluster; on: share of images within
    FAR sd of a cluster; round_trip: mean |G(F(x)) - x|; agreement: share of images within FAR sd of
    the right cluster.
    """
    count = len(params[0]) // 2
    labels = torch.cdist(x, CLUSTERS).argmin(1)
    points = both_domains(x, count)
    targets = swap(both_domains(CLUSTERS, count))
    images = mlp(params, points)
    to_nearest, nearest = torch.cdist(images, targets).min(2)
    on = to_nearest <= FAR * CLUSTER_SD
    # how often points of a cluster end nearest to which target, (2n, cluster, target)
    votes = F.one_hot(labels).T.float() @ F.one_hot(nearest, len(CLUSTERS)).float()
    distinct = F.one_hot(votes.argmax(2)).amax(1).sum(1)
    returned = swap(mlp(params, swap(images)))  # (G(F(x)), F(G(y)))
    agreement = on & (nearest == labels)
    scores = {"distinct": distinct.float(), "on": on.float().mean(1),
              "round_trip": (returned - points).norm(dim=2).mean(1),
              "agreement": agreement.float().mean(1)}
    return {name: score.view(2, count) for name, score in scores.items()}, images[:count]


def verdicts_on(scores):
    """What each pair of maps is, by scores of both: right, wrong or neither.

    Wrong: one-to-one and back within a cluster's sd, as the cycle loss asks, but not the right map.
    """
    one_to_one = (scores["distinct"] == len(CLUSTERS)) & (scores["on"] >= 0.9)
    consistent = (one_to_one & (scores["round_trip"] <= CLUSTER_SD)).all(0)
    agrees = (scores["agreement"] >= 0.9).all(0)
    verdicts = []
    for is_consistent, is_right in zip(consistent.tolist(), agrees.tolist()):
        if not is_consistent:
            verdicts.append("neither")
        elif is_right:
            verdicts.append("right")
        else:
            verdicts.append("wrong")
    return verdicts


def compare_maps(args, device):
    """Points x (1200, 2), and {variant: Maps}; the variants of a recipe train side by side."""
    generator = torch.Generator().manual_seed(args.seed)
    x = draw_around(CLUSTERS, CLUSTER_SD, (1200,), generator)
    results = {}
    for recipe in ("plain", "stable"):
        names = variants_of(recipe)
        weights = [VARIANTS[name][1] for name in names]
        params = train_maps(recipe, weights, args, device)
        all_scores, all_images = judge_maps(params, x)
        for i, name in enumerate(names):
            of_variant = slice(i * args.seeds, (i + 1) * args.seeds)
            scores = {key: score[:, of_variant] for key, score in all_scores.items()}
            results[name] = Maps(scores, verdicts_on(scores), all_images[of_variant])
    return x, results


# ---------------------------------------------------------------------- numbers of the record
def statistics(name, scores):
    """{name/score/statistic: value} over the seeds, of {score: (seeds,)}."""
    numbers = {}
    for key, score in scores.items():
        values = {"mean": score.mean(), "std": score.std(), "min": score.min(), "max": score.max()}
        for statistic, value in values.items():
            numbers[f"{name}/{key}/{statistic}"] = value.item()
    return numbers


def make_numbers(prior_scores, x, results):
    """The record's numbers, from what compare_priors and compare_maps return."""
    difference = prior_scores["share"][0] - prior_scores["share"][1]
    numbers = {"ideal/share": math.exp(-FAR**2 / 2),  # of the data itself
               "paired/positive": (difference > 0).sum().item(),
               "chance/round_trip": torch.cdist(x, x).mean().item()}
    for dimension in DIMENSIONS:
        mean, sd, inside = shell(dimension)
        numbers[f"norm/{dimension}/mean"] = mean
        numbers[f"norm/{dimension}/sd"] = sd
        numbers[f"norm/{dimension}/midpoint"] = mean / math.sqrt(2)
        numbers[f"norm/{dimension}/inside"] = inside
    for name, maps in results.items():
        for verdict in ("right", "wrong", "neither"):
            numbers[f"{name}/{verdict}"] = maps.verdicts.count(verdict)
    for i, prior in enumerate(PRIORS):
        numbers |= statistics(prior, {key: score[i] for key, score in prior_scores.items()})
    numbers |= statistics("paired", {"share": difference})
    for name, maps in results.items():
        of_pairs = {key: score.mean(0) for key, score in maps.scores.items()}
        numbers |= statistics(name, of_pairs)
    return numbers


def print_numbers(numbers, names):
    """A line for each of `names`: the means over the seeds and the verdicts."""
    for name in names:
        texts = []
        for key, value in numbers.items():
            if key.startswith(f"{name}/") and not key.endswith(("/std", "/min", "/max")):
                texts.append(f"{key.split('/')[1]} {value:.3g}")
        print(f"{name:20}" + ", ".join(texts))


# -------------------------------------------------------------------------------------- figures
def draw_samples(axes, samples, far):
    """Samples (B, 2), with crosses at those that are far (B,)."""
    axes.scatter(*samples[~far].T, s=2, color="0.6", linewidths=0)
    axes.scatter(*samples[far].T, s=4, color="C3", marker="x", linewidths=0.5)
    axes.set(xlim=(-1.35, 1.35), ylim=(-1.35, 1.35), aspect="equal", xlabel="$x_1$")


def draw_norms(axes):
    """Norms of draws, and on straight paths between two draws, over sqrt(d); a band of 2 sd."""
    position = np.linspace(0, 1, 101)
    draws = np.ones_like(position)
    paths = np.hypot(position, 1 - position)  # (1 - t) z + t z' is N(0, I) times this
    for dimension, style in zip(DIMENSIONS, (":", "--", "-")):
        mean, _, _ = shell(dimension)
        axes.plot(position, paths * mean, style, color="C3")
        axes.plot(position, draws * mean, style, color="black", label=f"d = {dimension}")
    mean, sd, _ = shell(DIMENSIONS[-1])
    for factor, color in ((paths, "C3"), (draws, "black")):
        low = factor * (mean - 2 * sd)
        high = factor * (mean + 2 * sd)
        axes.fill_between(position, low, high, color=color, alpha=0.2, linewidth=0)
    axes.set(xlabel="position $t$ on the path", title=r"norm$\,/\sqrt{d}$", ylim=(0.55, 1.75),
             yticks=(0.75, 1, 1.25))
    axes.legend(loc="upper center", ncols=3, fontsize=6, handlelength=1.5, columnspacing=0.6,
                borderpad=0)


def draw_prior_figure(path, scores, samples, far):
    """Samples of the seed of median share under both priors, the shares of all seeds, and norms."""
    figure = Figure(figsize=(6.5, 1.75))
    panels = figure.subplots(1, 4, width_ratios=(1, 1, 0.8, 1.2))
    seeds = scores["share"].shape[1]
    middle = scores["share"][0].argsort()[seeds // 2].item()
    for i, prior in enumerate(PRIORS):
        network = i * seeds + middle
        draw_samples(panels[i], samples[network, :2000], far[network, :2000])
        panels[i].set_title(f"{prior} $z$")
    panels[0].set_ylabel("$x_2$")
    shares = scores["share"].clamp_min(1e-4)  # 0 is not on a logarithmic scale
    panels[2].semilogy([0, 1], shares, color="0.5", marker="o", markersize=3, linewidth=0.7)
    panels[2].set(xticks=[0, 1], xlim=(-0.4, 1.4), title="share between")
    panels[2].set_xticklabels(PRIORS)
    draw_norms(panels[3])
    save_figure(figure, path)


def draw_clusters(axes, points, labels):
    """Points (B, 2) in the colours of their labels (B,), the clusters they come from, numbered."""
    for k in range(len(CLUSTERS)):
        cluster = points[labels == k]
        axes.scatter(*cluster.T, s=2, color=f"C{k}", linewidths=0)
        axes.annotate(str(k + 1), cluster.mean(0).tolist(), xytext=(3, 2),
                      textcoords="offset points")


def draw_maps_figure(path, x, results):
    """x, its right image, and F(x) of the first seed of some variants that has some verdict."""
    panels = {"$x$": x, "right map\nof $x$": x @ TURN}
    for name, verdict, title in (
            ("plain, independent", "neither", "plain,\nindependent"),
            ("independent", "neither", "independent:\nnot consistent"),
            ("cycle", "wrong", "cycle: con-\nsistent, wrong"),
            ("pairs", "right", "pairs:\nright")):
        maps = results[name]
        if verdict in maps.verdicts:
            panels[title] = maps.images[maps.verdicts.index(verdict)]
    labels = torch.cdist(x, CLUSTERS).argmin(1)
    targets = CLUSTERS @ TURN
    figure = Figure(figsize=(6.5, 1.7))
    all_axes = figure.subplots(1, len(panels), sharex=True, sharey=True)
    for axes, (title, points) in zip(all_axes, panels.items()):
        if points is not x:
            axes.scatter(*targets.T, s=130, facecolors="none", edgecolors="0.7", linewidths=0.7)
        draw_clusters(axes, points, labels)
        axes.set(aspect="equal", xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), xticks=(-2, 0, 2),
                 yticks=(-2, 0, 2))
        axes.set_title(title, fontsize=8)
    figure.supxlabel("first coordinate", fontsize=8)
    all_axes[0].set_ylabel("second coordinate")
    save_figure(figure, path)


# ------------------------------------------------------- files: the same text in every script
STYLE = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False,
         "image.cmap": "gray", "figure.constrained_layout.use": True, "pdf.fonttype": 42,
         "legend.frameon": False, "lines.linewidth": 1.2}


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
    parser.add_argument("--prior-steps", type=number(int, 1, 10**6), default=3500, help="of 5.7")
    parser.add_argument("--map-steps", type=number(int, 1, 10**6), default=2500, help="of 5.8")
    parser.add_argument("--seeds", type=number(int, 2, 99), default=10,
                        help="trainings of everything, side by side")
    parser.add_argument("--seed", type=number(int, 0, 2**31), default=1, help="of all chance")
    parser.add_argument("--no-cuda", action="store_true", help="stay on the CPU")
    parser.add_argument("--out-dir", type=folder, default=HERE / "plots",
                        help="for the figures and the record")
    return named(parser.parse_args(argv), "p5_toys", (), parser, argv)


def fingerprint(args):
    """What two steps of both experiments leave: stretch of the generators, squares of the maps.

    By one thread in float32; a record whose code computes something else today is found by them.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    short = argparse.Namespace(**vars(args) | {"prior_steps": 2, "map_steps": 2})
    scores, _, _ = compare_priors(short, cpu)
    numbers = [scores["stretch"].mean().item()]
    for recipe in ("plain", "stable"):
        weights = [VARIANTS[name][1] for name in variants_of(recipe)]
        params = train_maps(recipe, weights, short, cpu)
        numbers.append(sum(p.double().square().sum().item() for p in params))
    torch.set_num_threads(threads)
    return numbers


def main(argv=None):
    args = parse_args(argv)
    with own_settings():
        prepare_folders(args.out_dir)
        device = choose_device(args.no_cuda)
        start = time.perf_counter()
        two_steps = fingerprint(args)
        prior_scores, samples, far = compare_priors(args, device)
        x, results = compare_maps(args, device)
        numbers = make_numbers(prior_scores, x, results)
        print_numbers(numbers, (*PRIORS, *results))

        stem = args.out_dir / args.run_name
        draw_prior_figure(Path(f"{stem}_prior.pdf"), prior_scores, samples, far)
        draw_maps_figure(Path(f"{stem}_maps.pdf"), x, results)
        write_record(
            Path(f"{stem}.json"), args, [machine(device)], numbers,
            headline=("Gaussian/share/mean", "mixture/share/mean"), fingerprint=two_steps,
            seconds=time.perf_counter() - start, curves={})
    print(f"record and figures: {stem}*")


if __name__ == "__main__":
    run(main)
