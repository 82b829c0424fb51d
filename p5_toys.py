"""Problems 5.7 and 5.8 in the plane: what Gaussian noise costs a GAN, and what a cycle loss adds.

    python p5_toys.py        prints its numbers, writes plots/p5_toys.json and p5_toys_*.pdf

5.7: GANs (Goodfellow et al. 2014, arXiv:1406.2661) learn eight separated modes, from Gaussian noise
and from a mixture with the same covariance. The supports of both are connected, so a continuous
generator puts samples between the modes; how many depends on the mass between the preimages.

5.8: two maps between six clusters and their quarter turn, learned unpaired: two independent GANs,
the simpler model, against the pair with a cycle loss (CycleGAN: Zhu et al. 2017, arXiv:1703.10593;
DiscoGAN: Kim et al. 2017, arXiv:1703.05192). The right correspondence is known, and scores them.
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

SEEDS = 10  # trainings of everything
FAR = 5  # a point farther than this many standard deviations from every mode is between the modes

# 5.7: modes on the unit circle, (8, 2)
MODES = torch.tensor([[math.cos(k * math.tau / 8), math.sin(k * math.tau / 8)] for k in range(8)])
MODE_SD = 0.05
PRIORS = ("Gaussian", "mixture")  # of z; the mixture has as many components, on a circle too
COMPONENT_SD = 0.15
PRIOR_STEPS = 3500

# 5.8: six clusters without a symmetry, (6, 2), centred
CLUSTERS = torch.tensor([[-1.6, 0.9], [-0.5, 1.5], [1.2, 1.1],
                         [-1.1, -0.6], [0.3, -0.2], [1.5, -1.1]])
CLUSTERS = CLUSTERS - CLUSTERS.mean(0)
CLUSTER_SD = 0.08
TURN = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])  # the right map, a quarter turn: y = x TURN
CYCLE = {"independent": 0.0, "cycle": 0.1}  # {variant: weight of the cycle loss}
MAP_STEPS = 2500
VERDICTS = ("right", "wrong", "inconsistent", "collapsed")  # on a trained pair, see verdict_on

# How GANs are trained: Adam's learning rate and betas, the weight of the R1 penalty, whether the
# learning rate falls, and the weight of the past in the moving average of the generator, which is
# the one that is judged. PRIOR_RECIPE and "stable" follow Mescheder et al. 2018
# (arXiv:1801.04406): R1, no momentum. Plain is Adam and nothing else: PyTorch's rate or three times
# it, with PyTorch's beta1 or that of the papers.
PRIOR_RECIPE = {"lr": 2e-3, "betas": (0.0, 0.9), "r1": 0.01, "decay": True, "average": 0.998}
PLAIN = {"lr": 1e-3, "betas": (0.9, 0.999), "r1": 0.0, "decay": False, "average": 0.0}
MAP_RECIPES = {
    "Adam 1e-3 0.9": PLAIN,
    "Adam 1e-3 0.5": PLAIN | {"betas": (0.5, 0.999)},
    "Adam 3e-3 0.9": PLAIN | {"lr": 3e-3},
    "Adam 3e-3 0.5": PLAIN | {"lr": 3e-3, "betas": (0.5, 0.999)},
    "stable": {"lr": 3e-3, "betas": (0.0, 0.9), "r1": 0.1, "decay": True, "average": 0.995},
}


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
    """z (2 n, B, 2) for `shape` = (n, B): of N(0, I), then of the mixture, of covariance I too."""
    gaussian = torch.randn(*shape, 2, device=device)
    radius = math.sqrt(2 * (1 - COMPONENT_SD**2))  # a circle's coordinates have variance radius^2/2
    mixture = draw_around(radius * MODES, COMPONENT_SD, shape, device)
    return torch.cat((gaussian, mixture))


def compare_priors(device):
    """Train on both priors: samples (2, SEEDS, 10 000, 2), and which are far from all modes."""
    seeds = [1000 + i for i in range(SEEDS)]

    def draw():
        reals = draw_around(MODES, MODE_SD, (SEEDS, 128), device)
        return draw_priors((SEEDS, 128), device), reals.repeat(len(PRIORS), 1, 1)  # for both alike

    params = train(draw, len(PRIORS) * seeds, 64, 3, PRIOR_RECIPE, PRIOR_STEPS, device)
    samples = mlp(params, draw_priors((SEEDS, 10_000), device)).detach()
    far = torch.cdist(samples, MODES.to(device)).amin(2) > FAR * MODE_SD
    return samples.unflatten(0, (len(PRIORS), SEEDS)), far.unflatten(0, (len(PRIORS), SEEDS))


# --------------------------------------------------------------------------------- 5.8: two maps
def swap(halves):
    """The halves along the first dimension trade places: F's with G's, or X's with Y's."""
    first, second = halves.chunk(2)
    return torch.cat((second, first))


def both_domains(x, count):
    """Points x (B, 2) of X, `count` times, then as often their right images: (2 count, B, 2)."""
    return torch.stack((x, x @ TURN.to(x.device))).repeat_interleave(count, 0)


def train_maps(recipe, device):
    """Parameters of F: X -> Y and G: Y -> X for each weight in CYCLE and each seed.

    The networks are stacked as all F, then all G, so that their inputs are (x, y), their fakes
    (F(x), G(y)), their reals (y, x).
    """
    seeds_f = [1000 + i for i in range(SEEDS)]
    seeds_g = [seed + 500 for seed in seeds_f]
    seeds = len(CYCLE) * seeds_f + len(CYCLE) * seeds_g
    weights = torch.tensor(list(CYCLE.values()), device=device)
    weights = weights.repeat_interleave(SEEDS).repeat(2)  # (networks,)

    def draw():
        drawn = draw_around(CLUSTERS, CLUSTER_SD, (2, SEEDS, 64), device)
        x, others = drawn.repeat(1, len(CYCLE), 1, 1)  # with and without see the same points
        inputs = torch.cat((x, others @ TURN.to(device)))  # unpaired: y are images of other points
        return inputs, swap(inputs)

    def cycle_loss(params, fakes, reals):
        """In the 1-norm, between F(G(y)) and y, G(F(x)) and x."""
        error = mlp(params, swap(fakes)) - reals
        return weights * error.abs().sum(2).mean(1)

    return train(draw, seeds, 32, 2, recipe, MAP_STEPS, device, cycle_loss)


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


def compare_maps(device):
    """Points x (1200, 2); {(recipe, variant of CYCLE): (verdicts, F(x) of the first seed)}."""
    torch.manual_seed(1)
    x = draw_around(CLUSTERS, CLUSTER_SD, (1200,), device)
    results = {}
    for recipe, settings in MAP_RECIPES.items():
        scores, images = judge_maps(train_maps(settings, device), x)
        for i, variant in enumerate(CYCLE):
            own = range(i * SEEDS, (i + 1) * SEEDS)
            verdicts = [verdict_on({key: score[:, pair] for key, score in scores.items()})
                        for pair in own]
            results[recipe, variant] = verdicts, images[own[0]]
    return x, results


# ------------------------------------------------------------------------------------- results
def prior_numbers(far):
    """The record's numbers of 5.7: shares of the samples that are between the modes."""
    numbers = {"seeds": SEEDS}
    for prior, share in zip(PRIORS, far.float().mean(2)):  # (SEEDS,)
        numbers |= {f"{prior}/share/mean": share.mean().item(),
                    f"{prior}/share/max": share.max().item()}
    return numbers


def map_numbers(results):
    """The record's numbers of 5.8: how many seeds got which verdict; "plain" sums over Adam's."""
    numbers = {}
    for (recipe, variant), (verdicts, _) in results.items():
        for verdict in VERDICTS:
            count = verdicts.count(verdict)
            numbers[f"{recipe}, {variant}/{verdict}"] = count
            if recipe.startswith("Adam"):
                plain = f"plain, {variant}/{verdict}"
                numbers[plain] = numbers.get(plain, 0) + count
    return numbers


# -------------------------------------------------------------------------------------- figures
def draw_prior_figure(path, samples, far):
    """Samples of the first seed under both priors; the shares of all seeds."""
    figure = Figure(figsize=(5.2, 1.8))
    *panels, shares_axes = figure.subplots(1, len(PRIORS) + 1)
    for axes, prior, points, between in zip(panels, PRIORS, samples[:, 0].cpu(), far[:, 0].cpu()):
        points, between = points[:2000], between[:2000]
        axes.scatter(*points[~between].T, s=2, color="0.6", linewidths=0)
        axes.scatter(*points[between].T, s=4, color="C3", marker="x", linewidths=0.5)
        axes.set(title=f"{prior} $z$", xlim=(-1.35, 1.35), ylim=(-1.35, 1.35), aspect="equal",
                 xlabel="$x_1$", ylabel="$x_2$")
    shares = far.float().mean(2).cpu().clamp_min(1e-4)  # 0 is not on a logarithmic scale
    shares_axes.semilogy(PRIORS, shares, color="0.5", marker="o", markersize=3, linewidth=0.7)
    shares_axes.set(xlim=(-0.4, 1.4), xlabel="$z$", ylabel="share between modes", title="all seeds")
    save_figure(figure, path)


def draw_maps_figure(path, x, results):
    """x, its right image, F(x) of the first seed for two recipes; the verdicts on all seeds."""
    panels = {"$x$": x, "right map of $x$": x @ TURN.to(x.device)}
    for recipe in ("Adam 1e-3 0.9", "stable"):
        for variant in CYCLE:
            _, panels[f"{recipe},\n{variant}"] = results[recipe, variant]
    labels = torch.cdist(x, CLUSTERS.to(x.device)).argmin(1).cpu()
    figure = Figure(figsize=(6.5, 2.7))
    left, right = figure.subfigures(1, 2, width_ratios=(1.5, 1))
    grid = left.subplots(2, 3, sharex=True, sharey=True).T.flat  # column by column
    for axes, (title, points) in zip(grid, panels.items()):
        if points is not x:
            axes.scatter(*(CLUSTERS @ TURN).T, s=60, facecolors="none", edgecolors="0.7")
        for k in range(len(CLUSTERS)):
            cluster = points[labels == k].cpu()
            axes.scatter(*cluster.T, s=2, color=f"C{k}", linewidths=0)
            axes.annotate(str(k + 1), cluster.mean(0).tolist(), xytext=(3, 2),
                          textcoords="offset points", fontsize=6)
        axes.set(title=title, aspect="equal", xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), xticks=(-2, 0, 2))
    left.supxlabel("first coordinate", fontsize=8)
    left.supylabel("second coordinate", fontsize=8)
    draw_verdicts(right.subplots(), results)
    save_figure(figure, path)


def draw_verdicts(axes, results):
    """A bar for each variant: how many of its seeds got which verdict."""
    names = [f"{recipe}, {variant}" for recipe, variant in results]
    start = torch.zeros(len(results))
    for verdict, grey in zip(VERDICTS, ("black", "0.45", "0.75", "white")):
        counts = torch.tensor([verdicts.count(verdict) for verdicts, _ in results.values()])
        axes.barh(names, counts, left=start, color=grey, edgecolor="black", label=verdict)
        start += counts
    axes.tick_params(axis="y", labelsize=6)
    axes.invert_yaxis()
    axes.set_xlabel("seeds")
    axes.figure.legend(loc="outside upper center", ncols=2, fontsize=6)


# --------------------------------------------------------------------------------- command line
def parse_args():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out-dir", type=Path, default=HERE / "plots", help="of the results")
    parser.add_argument("--no-cuda", action="store_true", help="stay on the CPU")
    return parser.parse_args()


def main():
    args = parse_args()
    device = choose_device(args.no_cuda)
    args.out_dir.mkdir(parents=True, exist_ok=True)  # now, not after minutes
    samples, far = compare_priors(device)
    x, results = compare_maps(device)
    numbers = prior_numbers(far) | map_numbers(results)
    for name, value in numbers.items():
        print(f"{name:40}{value:.3g}")
    draw_prior_figure(args.out_dir / "p5_toys_prior.pdf", samples, far)
    draw_maps_figure(args.out_dir / "p5_toys_maps.pdf", x, results)
    write_record(args.out_dir / "p5_toys.json", args, device, numbers=numbers, curves={},
                 seconds=time.process_time())


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
