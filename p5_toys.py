"""Problems 5.7 and 5.8 in the plane: what Gaussian noise costs a GAN, and what a cycle loss adds.

    python p5_toys.py

It writes plots/p5_toys.json, the record, and plots/p5_toys_prior.pdf and plots/p5_toys_maps.pdf.

5.7: GANs (Goodfellow et al. 2014, arXiv:1406.2661) learn eight separated modes, from Gaussian noise
and from a mixture with the same covariance. The supports of both are connected, so a continuous
generator puts samples between the modes; how many depends on the mass between the preimages.

5.8: two maps between six clusters and their quarter turn, learned unpaired: two independent GANs,
the simpler model, against the pair with a cycle loss (CycleGAN: Zhu et al. 2017, arXiv:1703.10593;
DiscoGAN: Kim et al. 2017, arXiv:1703.05192). The right correspondence is known, and scores them.

The networks of an experiment are stacked along the first dimension of their weights.
"""
import argparse
import hashlib
import io
import json
import math
import os
import shlex
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    os.environ["MPLBACKEND"] = "agg"  # a notebook hands down its own, which may be missing here
import torch
from matplotlib import style
from matplotlib.figure import Figure
from torch.nn import functional as F
from tqdm import tqdm

FAR = 5  # a point farther than this many standard deviations from every mode is between the modes

# 5.7: modes on the unit circle, (8, 2)
MODES = torch.tensor([[math.cos(k * math.tau / 8), math.sin(k * math.tau / 8)] for k in range(8)])
MODE_SD = 0.05
PRIORS = ("Gaussian", "mixture")  # of z; the mixture has as many components, on a circle too
COMPONENT_SD = 0.15

# 5.8: six clusters without a symmetry, (6, 2), centred
CLUSTERS = torch.tensor([[-1.6, 0.9], [-0.5, 1.5], [1.2, 1.1],
                         [-1.1, -0.6], [0.3, -0.2], [1.5, -1.1]])
CLUSTERS = CLUSTERS - CLUSTERS.mean(0)
CLUSTER_SD = 0.08
TURN = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])  # the right map, a quarter turn: y = x TURN
PAIRS = 3  # clusters whose centres come with their right image, for the variant that is given some

# How GANs are trained: Adam's learning rate and betas, the weight of the R1 penalty, whether the
# learning rate falls, and the weight of the past in the moving average of the generator, which is
# the one that is judged. "prior" and "stable" follow Mescheder et al. 2018 (arXiv:1801.04406): R1,
# no momentum. Plain is Adam and nothing else: PyTorch's rate or three times it, with PyTorch's
# beta1 or that of the papers. One more recipe, or variant, is one more line here.
PLAIN = {"lr": 1e-3, "betas": (0.9, 0.999), "r1": 0.0, "decay": False, "average": 0.0}
RECIPES = {
    "Adam 1e-3 0.9": PLAIN,
    "Adam 1e-3 0.5": PLAIN | {"betas": (0.5, 0.999)},
    "Adam 3e-3 0.9": PLAIN | {"lr": 3e-3},
    "Adam 3e-3 0.5": PLAIN | {"lr": 3e-3, "betas": (0.5, 0.999)},
    "stable": {"lr": 3e-3, "betas": (0.0, 0.9), "r1": 0.1, "decay": True, "average": 0.995},
    "prior": {"lr": 2e-3, "betas": (0.0, 0.9), "r1": 0.01, "decay": True, "average": 0.998},
}
# 5.8: {recipe: {variant: weights of the cycle loss, the identity loss, the loss on given pairs}}
VARIANTS = {recipe: {f"{recipe}, independent": (0, 0, 0), f"{recipe}, cycle": (0.1, 0, 0)}
            for recipe in RECIPES if recipe.startswith("Adam")}
VARIANTS["stable"] = {"independent": (0, 0, 0), "cycle": (0.1, 0, 0), "strong cycle": (1, 0, 0),
                      "identity": (0.1, 0.1, 0), "pairs": (0.1, 0, 1)}
VERDICTS = ("right", "wrong", "inconsistent", "collapsed")  # on a trained pair, see verdict_on


# ------------------------------------------------------------------- model: n MLPs side by side
def init_mlps(sizes, seeds, device):
    """[weights (n, in, out), biases (n, 1, out), ...] of n MLPs, one for each of `seeds`.

    Weights are normal with variance 2 / in, biases 0 (He et al. 2015, arXiv:1502.01852).
    """
    networks = []
    for seed in seeds:
        torch.manual_seed(seed)
        networks.append([torch.randn(shape, device=device) for shape in zip(sizes, sizes[1:])])
    params = []
    for normals in map(torch.stack, zip(*networks)):  # (n, in, out), of one layer
        params.append(normals * math.sqrt(2 / normals.shape[1]))
        params.append(torch.zeros_like(normals[:, :1]))
    return [p.requires_grad_() for p in params]


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
    reals = reals.clone().requires_grad_(r1 > 0)
    on_reals = mlp(params, reals)
    loss = (F.softplus(-on_reals) + F.softplus(mlp(params, fakes))).mean((1, 2))
    if r1 > 0:
        slope, = torch.autograd.grad(on_reals.sum(), reals, create_graph=True)
        loss = loss + r1 / 2 * slope.square().sum(2).mean(1)
    return loss


def generator_loss(params, fakes):
    """-log D(G(z)), the mean over fakes (n, B, 2): (n,) (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-mlp(params, fakes)).mean((1, 2))


# ------------------------------------------------------------------------------------- training
def descend(optimizer, losses, rate):
    """One step of the optimizer's parameters, and of no others, down the sum of losses (n,)."""
    optimizer.param_groups[0]["lr"] = rate
    optimizer.zero_grad()
    losses.sum().backward(inputs=optimizer.param_groups[0]["params"])
    optimizer.step()


def train(draw, seeds, width, depth, recipe, steps, device, extra_loss=None):
    """Train n = len(seeds) GANs of MLPs with `depth` hidden layers of `width` units.

    draw() gives the generators' inputs and real points, each (n, B, 2). extra_loss(params, fakes,
    reals) adds to the generators' loss (n,). Returns the moving average of the generators'
    parameters. Network i enters GAN loss i alone and Adam works by element, so that GANs touch
    only where extra_loss ties them: in train_maps the two maps of a pair.
    """
    recipe = RECIPES[recipe]
    hidden = depth * [width]
    generators = init_mlps([2, *hidden, 2], [10 * seed + 2 for seed in seeds], device)
    discriminators = init_mlps([2, *hidden, 1], [10 * seed + 1 for seed in seeds], device)
    average = [p.detach().clone() for p in generators]
    optimizer_g = torch.optim.Adam(generators, betas=recipe["betas"], fused=True)
    optimizer_d = torch.optim.Adam(discriminators, betas=recipe["betas"], fused=True)
    torch.manual_seed(1)  # the same points for all
    for step in tqdm(range(steps), leave=False, disable=None):
        rate = recipe["lr"]
        if recipe["decay"]:  # to 0 over the second half
            rate *= min(1, 2 - 2 * step / steps)
        inputs, reals = draw()
        fakes = mlp(generators, inputs)
        # (1) discriminators
        losses = discriminator_loss(discriminators, reals, fakes.detach(), recipe["r1"])
        descend(optimizer_d, losses, rate)
        # (2) generators
        losses = generator_loss(discriminators, fakes)
        if extra_loss is not None:
            losses = losses + extra_loss(generators, fakes, reals)
        descend(optimizer_g, losses, rate)
        for mean, p in zip(average, generators):
            mean.lerp_(p.detach(), 1 - recipe["average"])
    if not math.isfinite(sum(p.sum().item() for p in average)):
        raise FloatingPointError("a generator's weights are no longer finite")
    return average


# --------------------------------------------------------------------------- 5.7: Gaussian noise
def draw_around(centres, sd, shape, device):
    """Points (*shape, 2) of an equal mixture of Gaussians around the centres (k, 2), of one sd."""
    component = torch.randint(len(centres), shape, device=device)
    return centres.to(device)[component] + sd * torch.randn(*shape, 2, device=device)


def draw_priors(shape, device):
    """z (2 n, B, 2) for `shape` = (n, B): of N(0, I), then of the mixture.

    The mixture has eight components on a circle and covariance I too.
    """
    gaussian = torch.randn(*shape, 2, device=device)
    radius = math.sqrt(2 * (1 - COMPONENT_SD**2))  # a circle's coordinates have variance radius^2/2
    mixture = draw_around(radius * MODES, COMPONENT_SD, shape, device)
    return torch.cat((gaussian, mixture))


def stretch(params, z):
    """Largest singular values (n, B) of the Jacobians of generators at z (n, B, 2)."""
    z = z.clone().requires_grad_()
    images = mlp(params, z)
    gradients = [torch.autograd.grad(images[..., coordinate].sum(), z, retain_graph=True)[0]
                 for coordinate in range(2)]
    return torch.linalg.matrix_norm(torch.stack(gradients, 2), 2)


def judge_samples(params, z):
    """Scores (n,) of generators at z (n, B, 2), their samples (n, B, 2), and which are far (n, B).

    share: of the samples that are between the modes; stretch: the largest local Lipschitz constant.
    """
    samples = mlp(params, z).detach()
    far = torch.cdist(samples, MODES.to(z.device)).amin(2) > FAR * MODE_SD
    scores = {"share": far.float().mean(1), "stretch": stretch(params, z).amax(1)}
    return scores, samples, far


def compare_priors(args, device):
    """Train and judge both priors over all seeds, stacked in the order of PRIORS: judge_samples."""
    seeds = [1000 + i for i in range(args.seeds)]

    def draw():
        reals = draw_around(MODES, MODE_SD, (args.seeds, 128), device)
        z = draw_priors((args.seeds, 128), device)
        return z, reals.repeat(len(PRIORS), 1, 1)  # both priors see the same points

    params = train(draw, len(PRIORS) * seeds, 64, 3, "prior", args.prior_steps, device)
    return judge_samples(params, draw_priors((args.seeds, 10_000), device))


# --------------------------------------------------------------------------------- 5.8: two maps
def swap(halves):
    """The halves along the first dimension trade places: F's with G's, or X's with Y's."""
    first, second = halves.chunk(2)
    return torch.cat((second, first))


def both_domains(x, count):
    """Points x (B, 2) of X, `count` times, then as often their right images: (2 count, B, 2)."""
    return torch.stack((x, x @ TURN.to(x.device))).repeat_interleave(count, 0)


def distance(points, targets):
    """Mean distance in the 1-norm of points (n, B, 2) from their targets: (n,)."""
    return (points - targets).abs().sum(2).mean(1)


def train_maps(recipe, weights, args, device):
    """Parameters of F: X -> Y and G: Y -> X for each of the `weights` and each seed.

    `weights` are those of the (cycle, identity, pairs) losses. The networks are stacked as all F,
    then all G, so that their inputs are (x, y), their fakes (F(x), G(y)), their reals (y, x).
    """
    seeds_f = [1000 + i for i in range(args.seeds)]
    seeds_g = [seed + 500 for seed in seeds_f]
    seeds = len(weights) * seeds_f + len(weights) * seeds_g
    of_networks = torch.tensor(weights, dtype=torch.float32, device=device)
    of_networks = of_networks.repeat_interleave(args.seeds, 0).repeat(2, 1)
    cycle, identity, pairs = of_networks.T  # (networks,) each
    has_cycle, has_identity, has_pairs = map(any, zip(*weights))
    paired = both_domains(CLUSTERS[:PAIRS].to(device), len(weights) * args.seeds)

    def draw():
        drawn = draw_around(CLUSTERS, CLUSTER_SD, (2, args.seeds, 64), device)
        x, others = drawn.repeat(1, len(weights), 1, 1)  # all variants see the same points
        inputs = torch.cat((x, others @ TURN.to(device)))  # unpaired: y are images of other points
        return inputs, swap(inputs)

    def extra_loss(params, fakes, reals):
        loss = 0
        if has_cycle:  # F(G(y)) is y, G(F(x)) is x
            loss = loss + cycle * distance(mlp(params, swap(fakes)), reals)
        if has_identity:  # F(y) is y, G(x) is x
            loss = loss + identity * distance(mlp(params, reals), reals)
        if has_pairs:
            loss = loss + pairs * distance(mlp(params, paired), swap(paired))
        return loss

    return train(draw, seeds, 32, 2, recipe, args.map_steps, device, extra_loss)


@torch.no_grad()
def judge_maps(params, x):
    """Scores at x (B, 2) of n maps F and n maps G, each (2, n), F's first; F(x) (n, B, 2).

    distinct: clusters that are the most frequent target of some cluster; on: share of images within
    FAR sd of a cluster; round_trip: mean |G(F(x)) - x|; agreement: share of images within FAR sd of
    the right cluster.
    """
    count = len(params[0]) // 2
    clusters = CLUSTERS.to(x.device)
    labels = torch.cdist(x, clusters).argmin(1)
    points = both_domains(x, count)
    images = mlp(params, points)
    to_nearest, nearest = torch.cdist(images, swap(both_domains(clusters, count))).min(2)
    on = to_nearest <= FAR * CLUSTER_SD
    # how often points of a cluster end nearest to which target, (2n, cluster, target)
    one_hot = torch.eye(len(CLUSTERS), device=x.device)
    votes = one_hot[labels].T @ one_hot[nearest]
    distinct = one_hot[votes.argmax(2)].amax(1).sum(1)
    returned = swap(mlp(params, swap(images)))  # (G(F(x)), F(G(y)))
    scores = {"distinct": distinct, "on": on.float().mean(1),
              "round_trip": (returned - points).norm(dim=2).mean(1),
              "agreement": (on & (nearest == labels)).float().mean(1)}
    return {name: score.view(2, count) for name, score in scores.items()}, images[:count]


def verdict_on(scores):
    """What a pair of maps is, by {score: (2,)} of F and G.

    collapsed: clusters share a target; wrong: one-to-one and back within a cluster's sd, as the
    cycle loss asks, but not the right map; inconsistent: none of the other three.
    """
    if (scores["distinct"] < len(CLUSTERS)).any():
        return "collapsed"
    if (scores["on"] < 0.9).any() or (scores["round_trip"] > CLUSTER_SD).any():
        return "inconsistent"
    return "right" if (scores["agreement"] >= 0.9).all() else "wrong"


def compare_maps(args, device):
    """Points x (1200, 2), and {variant: (scores (2, seeds), verdicts, F(x) (seeds, 1200, 2))}."""
    torch.manual_seed(1)
    x = draw_around(CLUSTERS, CLUSTER_SD, (1200,), device)
    results = {}
    for recipe, variants in VARIANTS.items():
        params = train_maps(recipe, list(variants.values()), args, device)
        all_scores, all_images = judge_maps(params, x)
        for i, name in enumerate(variants):
            own = slice(i * args.seeds, (i + 1) * args.seeds)
            scores = {key: score[:, own] for key, score in all_scores.items()}
            verdicts = [verdict_on({key: score[:, seed] for key, score in scores.items()})
                        for seed in range(args.seeds)]
            results[name] = scores, verdicts, all_images[own]
    return x, results


# ------------------------------------------------------------------------------------- results
def statistics(name, scores):
    """{name/score/statistic: value} over the seeds, of {score: (seeds,)}."""
    kinds = {"mean": torch.mean, "std": torch.std, "max": torch.max}
    return {f"{name}/{key}/{kind}": function(score).item()
            for key, score in scores.items() for kind, function in kinds.items()}


def prior_numbers(scores):
    """The record's numbers of 5.7, from the scores of compare_priors."""
    by_prior = {key: score.view(len(PRIORS), -1) for key, score in scores.items()}
    gaussian, mixture = by_prior["share"]
    numbers = {"ideal/share": math.exp(-FAR**2 / 2),  # of the data itself
               "paired/positive": (gaussian > mixture).sum().item()}
    for i, prior in enumerate(PRIORS):
        numbers |= statistics(prior, {key: score[i] for key, score in by_prior.items()})
    for dimension in (2, 100):  # of the draws of N(0, I), how many have a norm below sqrt(d/2)
        half = torch.tensor(dimension / 2, dtype=torch.float64)
        numbers[f"norm/{dimension}/inside"] = torch.special.gammainc(half, half / 2).item()
    return numbers


def map_numbers(results):
    """The record's numbers of 5.8: of every variant, and of the plain recipes together.

    covered: the share of seeds in which neither map lets clusters share a target.
    """
    results = dict(results)
    for loss in ("independent", "cycle"):
        plain = [results[name] for name in results if name.endswith(f", {loss}")]
        scores = {key: torch.cat([own[key] for own, _, _ in plain], 1) for key in plain[0][0]}
        results[f"plain, {loss}"] = scores, sum((verdicts for _, verdicts, _ in plain), []), None
    numbers = {}
    for name, (scores, verdicts, _) in results.items():
        for verdict in VERDICTS:
            numbers[f"{name}/{verdict}"] = verdicts.count(verdict)
        numbers[f"{name}/neither"] = len(verdicts) - sum(map(verdicts.count, ("right", "wrong")))
        numbers[f"{name}/covered"] = 1 - verdicts.count("collapsed") / len(verdicts)
        numbers |= statistics(name, {key: score.mean(0) for key, score in scores.items()})
    return numbers


# -------------------------------------------------------------------------------------- figures
def draw_prior_figure(path, scores, samples, far):
    """Samples of the first seed under both priors; the shares of all seeds."""
    figure = Figure(figsize=(5.2, 1.8))
    *panels, shares_axes = figure.subplots(1, len(PRIORS) + 1)
    shares = scores["share"].view(len(PRIORS), -1).cpu()
    for i, (axes, prior) in enumerate(zip(panels, PRIORS)):
        first = i * shares.shape[1]
        points = samples[first, :2000].cpu()
        between = far[first, :2000].cpu()
        axes.scatter(*points[~between].T, s=2, color="0.6", linewidths=0)
        axes.scatter(*points[between].T, s=4, color="C3", marker="x", linewidths=0.5)
        axes.set(title=f"{prior} $z$", xlim=(-1.35, 1.35), ylim=(-1.35, 1.35), aspect="equal",
                 xlabel="$x_1$", ylabel="$x_2$")
    shares = shares.clamp_min(1e-4)  # 0 is not on a logarithmic scale
    shares_axes.semilogy(PRIORS, shares, color="0.5", marker="o", markersize=3, linewidth=0.7)
    shares_axes.set(xlim=(-0.4, 1.4), xlabel="$z$", ylabel="share between modes", title="all seeds")
    save_figure(figure, path)


def draw_maps_figure(path, x, results):
    """x, its right image, F(x) of the first seed of some variants; the verdicts on all seeds."""
    panels = {"$x$": x, "right map of $x$": x @ TURN.to(x.device)}
    first, *_ = VARIANTS  # of the recipes
    for name in (*VARIANTS[first], "independent", "cycle", "strong cycle", "pairs"):
        _, _, images = results[name]
        panels[name.replace(", ", ",\n")] = images[0]
    labels = torch.cdist(x, CLUSTERS.to(x.device)).argmin(1).cpu()
    figure = Figure(figsize=(6.5, 2.7))
    left, right = figure.subfigures(1, 2, width_ratios=(1.5, 1))
    grid = left.subplots(2, 4, sharex=True, sharey=True).flat
    for axes, (title, points) in zip(grid, panels.items()):
        if points is not x:
            axes.scatter(*(CLUSTERS @ TURN).T, s=60, facecolors="none", edgecolors="0.7")
        for k in range(len(CLUSTERS)):
            cluster = points[labels == k].cpu()
            axes.scatter(*cluster.T, s=2, color=f"C{k}", linewidths=0)
            axes.annotate(str(k + 1), cluster.mean(0).tolist(), xytext=(3, 2),
                          textcoords="offset points", fontsize=6)
        axes.set(aspect="equal", xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), xticks=(-2, 0, 2))
        axes.set_title(title, fontsize=7)
    left.supxlabel("first coordinate", fontsize=8)
    left.supylabel("second coordinate", fontsize=8)
    draw_verdicts(right.subplots(), results)
    save_figure(figure, path)


def draw_verdicts(axes, results):
    """A bar for each variant: how many of its seeds got which verdict."""
    start = torch.zeros(len(results))
    for verdict, grey in zip(VERDICTS, ("black", "0.45", "0.75", "white")):
        counts = torch.tensor([verdicts.count(verdict) for _, verdicts, _ in results.values()])
        axes.barh(list(results), counts, left=start, color=grey, edgecolor="black", label=verdict)
        start += counts
    axes.tick_params(axis="y", labelsize=6)
    axes.invert_yaxis()
    axes.set_xlabel("seeds")
    axes.figure.legend(loc="outside upper center", ncols=2, fontsize=6)


# --------------------------------------------------------------------------------- command line
def parse_args():
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--seeds", type=int, default=10, help="trainings of everything")
    parser.add_argument("--prior-steps", type=int, default=3500, help="of each training of 5.7")
    parser.add_argument("--map-steps", type=int, default=2500, help="of each training of 5.8")
    parser.add_argument("--out-dir", type=Path, default=HERE / "plots", help="of the results")
    parser.add_argument("--no-cuda", action="store_true", help="stay on the CPU")
    args = parser.parse_args()
    if args.seeds < 2 or min(args.prior_steps, args.map_steps) < 1:
        parser.error("a spread needs 2 seeds, and a training 1 step, at least")
    args.run_name = name_run("p5_toys", args, parser)
    return args


def main():
    args = parse_args()
    device = choose_device(args.no_cuda)
    scores, samples, far = compare_priors(args, device)
    x, results = compare_maps(args, device)
    numbers = prior_numbers(scores) | map_numbers(results)
    for name, value in numbers.items():
        if not name.endswith(("/std", "/max")):
            print(f"{name:40}{value:.3g}")
    stem = args.out_dir / args.run_name
    draw_prior_figure(f"{stem}_prior.pdf", scores, samples, far)
    draw_maps_figure(f"{stem}_maps.pdf", x, results)
    write_record(f"{stem}.json", args, device, numbers=numbers, curves={},
                 seconds=time.process_time())
    print(f"record and figures: {stem}*")


# ---------------------------------------------- files and runs: the same text in every script
HERE = Path(__file__).resolve().parent
NO_SETTINGS = ("data_dir", "out_dir", "runs_dir", "resume", "draw", "log_interval", "no_cuda",
               "run_name")  # flags that do not change what a run computes
STYLE = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False,
         "image.cmap": "gray", "figure.constrained_layout.use": True, "pdf.fonttype": 42,
         "legend.frameon": False, "lines.linewidth": 1.2}


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
