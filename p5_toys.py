"""Problems 5.7 and 5.8 in the plane: what Gaussian noise costs a GAN, and what a cycle loss adds to two of them.

    python p5_toys.py

5.7: GANs on eight separated modes, with Gaussian noise and with noise from eight components of the same variance:
the share of samples between the modes; and the norms of Gaussian draws and of points on the way between two. 5.8:
six clusters and their quarter turn, unpaired: two independent GANs against the pair with a cycle loss, scored by the
right correspondence. The networks of an experiment are stacked along the first dimension of their weights and train
side by side. Writes plots/p5_toys.json and plots/p5_toys_<prior, maps>.pdf.
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

# 5.7: modes on the unit circle; the second prior has as many components, on a circle too
MODES = torch.stack([torch.tensor([math.cos(k * math.tau / 8), math.sin(k * math.tau / 8)]) for k in range(8)])
MODE_SD, COMPONENT_SD = 0.05, 0.15
DIMENSIONS, PRIORS = (2, 10, 100), ("Gaussian", "mixture")

# 5.8: six clusters without a symmetry (centred), and the right map, a quarter turn (row vectors: y = x TURN)
CLUSTERS = torch.tensor([[-1.6, 0.9], [-0.5, 1.5], [1.2, 1.1], [-1.1, -0.6], [0.3, -0.2], [1.5, -1.1]])
CLUSTERS = CLUSTERS - CLUSTERS.mean(0)
CLUSTER_SD = 0.08
TURN = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
PAIRS = 3  # clusters whose centres come with their right image, for the variant that is given some

# As in Mescheder et al. 2018 (R1, no momentum) for 5.7 and 5.8; "plain": Adam as PyTorch sets it and nothing else.
RECIPES = {"prior": {"lr": 2e-3, "betas": (0.0, 0.9), "r1": 0.01, "decay": True, "average": 0.998},
           "stable": {"lr": 3e-3, "betas": (0.0, 0.9), "r1": 0.1, "decay": True, "average": 0.995},
           "plain": {"lr": 3e-3, "betas": (0.9, 0.999), "r1": 0.0, "decay": False, "average": 0.0}}
VARIANTS = {  # name: (recipe, weights of the cycle loss, the identity loss, the loss on given pairs)
    "plain, independent": ("plain", 0, 0, 0),
    "plain, cycle": ("plain", 0.1, 0, 0),
    "independent": ("stable", 0, 0, 0),
    "cycle": ("stable", 0.1, 0, 0),
    "strong cycle": ("stable", 1, 0, 0),
    "identity": ("stable", 0.1, 0.1, 0),
    "pairs": ("stable", 0.1, 0, 1),
}


# --------------------------------------------------------------------------------------- many small GANs side by side
def init_mlps(sizes, seeds):
    """[weights (n, in, out), biases (n, 1, out), ...] of n MLPs, one per seed: He normal, zero (He et al. 2015)."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    params = []
    for fan_in, fan_out in zip(sizes, sizes[1:]):
        weights = torch.stack([torch.randn(fan_in, fan_out, generator=generator) for generator in generators])
        params += [weights * math.sqrt(2 / fan_in), torch.zeros(len(seeds), 1, fan_out)]
    return params


def mlp(params, x):
    """Network i applied to the points x[i]: (n, B, in) -> (n, B, out); leaky ReLU between the layers."""
    *hidden, last = zip(params[::2], params[1::2])
    for weight, bias in hidden:
        x = F.leaky_relu(torch.baddbmm(bias, x, weight), 0.2)
    return torch.baddbmm(last[1], x, last[0])


def discriminator_loss(params, reals, fakes, r1):
    """-log D(x) - log(1 - D(G(z))) + r1/2 |d logit/dx|^2 on reals and fakes (n, B, 2), means over B: (n,)."""
    reals = reals.clone().requires_grad_()
    on_reals = mlp(params, reals)
    slope, = torch.autograd.grad(on_reals.sum(), reals, create_graph=True)
    entropy = F.softplus(-on_reals) + F.softplus(mlp(params, fakes))
    return entropy.mean((1, 2)) + r1 / 2 * slope.square().sum(2).mean(1)


def descend(optimizer, losses):
    """One step of the optimizer's parameters, and of no others, down the sum of losses (n,)."""
    params = optimizer.param_groups[0]["params"]
    optimizer.zero_grad()
    losses.sum().backward(inputs=params)
    optimizer.step()


def train(draw, seeds, width, depth, recipe, steps, device, extra=None):
    """Train len(seeds) GANs of `depth` hidden layers; the (averaged) parameters of their generators, on the CPU.

    draw() gives inputs and real points, (n, B, 2) each; extra(generators, fakes, reals), of shape (n,), adds to the
    generators' loss. Network i enters loss i alone and Adam works by element, so the GANs do not touch.
    """
    hidden = [2] + depth * [width]
    nets = [init_mlps([*hidden, out], [10 * seed + out for seed in seeds]) for out in (2, 1)]
    generators, discriminators = ([p.to(device).requires_grad_() for p in params] for params in nets)
    average = [p.detach().clone() for p in generators]
    optimizers = [torch.optim.Adam(params, recipe["lr"], recipe["betas"], fused=True)
                  for params in (generators, discriminators)]
    for step in tqdm(range(steps), leave=False, disable=None):
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = recipe["lr"] * (min(1, 2 - 2 * step / steps) if recipe["decay"] else 1)
        inputs, reals = (points.to(device) for points in draw())
        fakes = mlp(generators, inputs)
        descend(optimizers[1], discriminator_loss(discriminators, reals, fakes.detach(), recipe["r1"]))
        losses = F.softplus(-mlp(discriminators, fakes)).mean((1, 2))  # non-saturating (Goodfellow et al. 2014)
        descend(optimizers[0], losses + extra(generators, fakes, reals) if extra else losses)
        torch._foreach_lerp_(average, [p.detach() for p in generators], 1 - recipe["average"])
    if not all(p.isfinite().all() for p in average):
        raise FloatingPointError("a generator's weights are no longer finite")
    return [p.cpu() for p in average]


# ------------------------------------------------------------------------------------------------- 5.7: Gaussian noise
def draw_around(centres, sd, shape, generator):
    """Points (*shape, 2) of an equal mixture of Gaussians around the centres (k, 2), with one sd."""
    component = torch.randint(len(centres), shape, generator=generator)
    return centres[component] + sd * torch.randn(*shape, 2, generator=generator)


def stretch(params, z):
    """The largest singular value of the generators' Jacobian at z (n, B, 2), that is the local Lipschitz constant."""
    z = z.clone().requires_grad_()
    rows = [torch.autograd.grad(mlp(params, z)[..., i].sum(), z)[0] for i in range(2)]
    return torch.linalg.matrix_norm(torch.stack(rows, 2), 2)


def draw_priors(shape, generator):
    """z (2 n, B, 2), shape = (n, B): N(0, I), then eight components on a circle, variance 1 in each coordinate too."""
    radius = math.sqrt(2 * (1 - COMPONENT_SD**2))  # a circle's coordinates have variance radius^2 / 2
    return torch.cat((torch.randn(*shape, 2, generator=generator),
                      draw_around(radius * MODES, COMPONENT_SD, shape, generator)))


def compare_priors(args, device):
    """Train both priors over all seeds: {share, modes, stretch: (2, seeds)}, samples (2 seeds, B, 2), which are far."""
    generator = torch.Generator().manual_seed(args.seed)
    def draw():
        reals = draw_around(MODES, MODE_SD, (args.seeds, 128), generator)
        return draw_priors((args.seeds, 128), generator), reals.repeat(2, 1, 1)
    seeds = [1000 * args.seed + i for i in range(args.seeds)]
    params = train(draw, 2 * seeds, 64, 3, RECIPES["prior"], args.prior_steps, device)
    z = draw_priors((args.seeds, 10_000), generator)
    samples = mlp(params, z)
    distance, nearest = torch.cdist(samples, MODES).min(2)
    far = distance > FAR * MODE_SD
    hit = (F.one_hot(nearest, len(MODES)) * ~far[..., None]).float().mean(1) > 0.01  # (2 seeds, modes)
    scores = {"share": far.float().mean(1), "modes": hit.sum(1).float(), "stretch": stretch(params, z).amax(1)}
    return {name: score.view(2, -1) for name, score in scores.items()}, samples, far


def shell(dimension):
    """For z ~ N(0, I) in d dimensions: mean and sd of |z| / sqrt(d), and P(|z|^2 < d/2), exactly (chi distribution)."""
    half = torch.tensor(dimension / 2, dtype=torch.float64)
    mean = ((half + 0.5).lgamma() - half.lgamma()).exp() / half.sqrt()
    return mean.item(), (1 - mean**2).sqrt().item(), torch.special.gammainc(half, half / 2).item()


# ------------------------------------------------------------------------------------------------------- 5.8: two maps
def swap(halves):
    """(first half, second half) -> (second, first) along the first dimension; F's rows and G's rows trade places."""
    return torch.cat(halves.chunk(2)[::-1])


def both_domains(x, count):
    """Points x (B, 2) of X, `count` times, then as often their right images: (2 count, B, 2)."""
    return torch.stack((x, x @ TURN)).repeat_interleave(count, 0)


def train_maps(recipe, weights, args, device):
    """F: X -> Y and G: Y -> X, for each row (cycle, identity, pairs) of `weights` and each seed: (all F, all G).

    They are stacked in this order, so the inputs are (x, y), the fakes (F(x), G(y)), the reals (y, x).
    """
    generator = torch.Generator().manual_seed(args.seed)
    seeds = [1000 * args.seed + 500 * half + i for half in range(2) for _ in weights for i in range(args.seeds)]
    paired = both_domains(CLUSTERS[:PAIRS], len(seeds) // 2).to(device)
    def draw():
        x, other = draw_around(CLUSTERS, CLUSTER_SD, (2, args.seeds, 64), generator).repeat(1, len(weights), 1, 1)
        inputs = torch.cat((x, other @ TURN))
        return inputs, swap(inputs)
    def extra(params, fakes, reals):
        terms = ((swap(fakes), reals), (reals, reals), (paired, swap(paired)))  # cycle, identity, pairs
        return sum(weight * (mlp(params, source) - target).abs().sum(2).mean(1)
                   for weight, (source, target) in zip(columns, terms) if weight.any())
    columns = torch.tensor(weights).repeat_interleave(args.seeds, 0).repeat(2, 1).T.to(device)  # (3, networks)
    return train(draw, seeds, 32, 2, RECIPES[recipe], args.map_steps, device, extra)


def judge_maps(params, x):
    """Scores at x (B, 2) of stacked (all F, all G), each (2, n) with a row for each direction, and F(x) (n, B, 2).

    distinct: clusters that are the most frequent target of some cluster; on: share of images within FAR sd of a
    cluster; round_trip: mean |G(F(x)) - x|; agreement: share of images within FAR sd of the right cluster.
    """
    count, labels = len(params[0]) // 2, torch.cdist(x, CLUSTERS).argmin(1)
    points, centres = both_domains(x, count), both_domains(CLUSTERS, count)
    images = mlp(params, points)
    distance, nearest = torch.cdist(images, swap(centres)).min(2)
    on = distance <= FAR * CLUSTER_SD
    votes = F.one_hot(labels).T.float() @ F.one_hot(nearest, len(CLUSTERS)).float()  # (2n, cluster, target)
    back = swap(mlp(params, swap(images)))  # (G(F(x)), F(G(y)))
    scores = {"distinct": F.one_hot(votes.argmax(2)).amax(1).sum(1).float(), "on": on.float().mean(1),
              "round_trip": (back - points).norm(dim=2).mean(1),
              "agreement": (on & (nearest == labels)).float().mean(1)}
    return {name: score.view(2, count) for name, score in scores.items()}, images[:count]


def verdicts(scores):
    """For each pair, in both directions: right, wrong (one-to-one, back within a cluster's sd) or neither."""
    one_to_one = (scores["distinct"] == len(CLUSTERS)) & (scores["on"] >= 0.9)
    consistent = (one_to_one & (scores["round_trip"] <= CLUSTER_SD)).all(0)
    right = consistent & (scores["agreement"] >= 0.9).all(0)
    results = []
    for is_right, is_consistent in zip(right.tolist(), consistent.tolist()):
        if is_right:
            results.append("right")
        else:
            results.append("wrong" if is_consistent else "neither")
    return results


def compare_maps(args, device):
    """x (1200, 2), and {variant: (scores (2, seeds), verdicts, F(x) (seeds, 1200, 2))}; one training a recipe."""
    results, x = {}, draw_around(CLUSTERS, CLUSTER_SD, (1200,), torch.Generator().manual_seed(args.seed))
    for recipe in ("plain", "stable"):
        names = [name for name in VARIANTS if VARIANTS[name][0] == recipe]
        scores, images = judge_maps(train_maps(recipe, [VARIANTS[name][1:] for name in names], args, device), x)
        for i, name in enumerate(names):
            own = {key: score.view(2, len(names), -1)[:, i] for key, score in scores.items()}
            results[name] = own, verdicts(own), images.view(len(names), -1, *x.shape)[i]
    return x, results


# --------------------------------------------------------------------------------------------- figures and the record
def draw_prior_figure(path, table, samples, far):
    """Samples of the seed of median share under both priors, all shares, and norms on paths between two draws."""
    figure = Figure(figsize=(6.5, 1.75))
    panels = figure.subplots(1, 4, width_ratios=(1, 1, 0.8, 1.2))
    middle = table["share"][0].argsort()[len(table["share"][0]) // 2].item()
    for axes, row, prior in zip(panels, (middle, middle + len(samples) // 2), PRIORS):
        points, flags = samples[row, :2000], far[row, :2000]
        axes.scatter(*points[~flags].T, s=2, color="0.6", linewidths=0)
        axes.scatter(*points[flags].T, s=4, color="C3", marker="x", linewidths=0.5)
        axes.set(xlim=(-1.35, 1.35), ylim=(-1.35, 1.35), aspect="equal", title=f"{prior} $z$", xlabel="$x_1$")
    panels[0].set_ylabel("$x_2$")
    panels[2].semilogy([0, 1], table["share"].clamp_min(1e-4), color="0.5", marker="o", markersize=3, linewidth=0.7)
    panels[2].set(xticks=[0, 1], xlim=(-0.4, 1.4), title="share between")
    panels[2].set_xticklabels(PRIORS)
    position = np.linspace(0, 1, 101)
    shrunk = np.hypot(position, 1 - position)  # (1 - t) z + t z' is N(0, I) times this
    for d, style in zip(DIMENSIONS, (":", "--", "-")):
        mean, sd, _ = shell(d)
        for factor, color, label in ((shrunk, "C3", None), (np.ones_like(shrunk), "black", f"d = {d}")):
            panels[3].plot(position, factor * mean, style, color=color, label=label)
            if d == DIMENSIONS[-1]:
                band = factor * (mean - 2 * sd), factor * (mean + 2 * sd)
                panels[3].fill_between(position, *band, color=color, alpha=0.2, linewidth=0)
    panels[3].set(xlabel="position $t$ on the path", title=r"norm$\,/\sqrt{d}$", ylim=(0.55, 1.55))
    panels[3].legend(loc="upper center", ncols=3, fontsize=6, handlelength=1.5, columnspacing=0.6, borderpad=0)
    save_figure(figure, path)


def draw_maps_figure(path, x, results):
    """X, its right image, and F(x) for the first seed of some variants with some verdict, where there is one."""
    shown = (("plain, independent", "neither"), ("independent", "neither"), ("cycle", "wrong"), ("pairs", "right"))
    shown = [(name, verdict) for name, verdict in shown if verdict in results[name][1]]
    images = {name.replace(", ", ",\n") if "," in name else f"{name}:\n{verdict}":
              results[name][2][results[name][1].index(verdict)] for name, verdict in shown}
    labels = torch.cdist(x, CLUSTERS).argmin(1)
    figure = Figure(figsize=(6.5, 1.7))
    row = figure.subplots(1, 2 + len(images), sharex=True, sharey=True)
    for axes, (title, points) in zip(row, {"$x$": x, "right map\nof $x$": x @ TURN, **images}.items()):
        if axes is not row[0]:
            axes.scatter(*(CLUSTERS @ TURN).T, s=130, facecolors="none", edgecolors="0.7", linewidths=0.7)
        for k in range(len(CLUSTERS)):
            axes.scatter(*points[labels == k].T, s=2, color=f"C{k}", linewidths=0)
            axes.annotate(str(k + 1), points[labels == k].mean(0).tolist(), xytext=(3, 2), textcoords="offset points")
        axes.set(aspect="equal", xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), xticks=(-2, 0, 2), yticks=(-2, 0, 2))
        axes.set_title(title, fontsize=8)
    figure.supxlabel("first coordinate", fontsize=8)
    row[0].set_ylabel("second coordinate")
    save_figure(figure, path)


def make_numbers(table, x, results):
    """The record's numbers: scores over seeds (mean, std, min, max), norms over sqrt(d), a round trip by chance."""
    difference = table["share"][0] - table["share"][1]
    numbers = {"ideal/share": math.exp(-FAR**2 / 2),
               "paired/positive": (difference > 0).sum().item(),
               "chance/round_trip": torch.cdist(x, x).mean().item()}
    for d in DIMENSIONS:
        mean, sd, inside = shell(d)
        numbers |= {f"norm/{d}/mean": mean, f"norm/{d}/sd": sd,
                    f"norm/{d}/midpoint": mean / math.sqrt(2), f"norm/{d}/inside": inside}
    scores = {prior: {key: score[row] for key, score in table.items()} for row, prior in enumerate(PRIORS)}
    scores["paired"] = {"share": difference}
    for name, (own, found, _) in results.items():
        scores[name] = {key: score.mean(0) for key, score in own.items()}  # of both directions
        numbers |= {f"{name}/{verdict}": found.count(verdict) for verdict in ("right", "wrong", "neither")}
    return numbers | {f"{name}/{key}/{statistic}": getattr(score, statistic)().item()
                      for name, own in scores.items() for key, score in own.items()
                      for statistic in ("mean", "std", "min", "max")}


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
    parser.add_argument("--prior-steps", type=number(int, 1, 10**6), default=3500, help="of 5.7")
    parser.add_argument("--map-steps", type=number(int, 1, 10**6), default=2500, help="of 5.8")
    parser.add_argument("--seeds", type=number(int, 2, 99), default=10,
                        help="trainings of everything, side by side")
    parser.add_argument("--seed", type=number(int, 0, 2**31), default=1, help="of all chance")
    parser.add_argument("--no-cuda", action="store_true", help="stay on the CPU")
    parser.add_argument("--out-dir", type=folder, default=HERE / "plots", help="for the figures and the record")
    argv = sys.argv[1:] if argv is None else argv
    return named(parser.parse_args(argv), "p5_toys", (), parser, argv)


def fingerprint(args):
    """Weights that two steps of either experiment leave, summed, and the share far from the modes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    short = argparse.Namespace(**vars(args) | {"prior_steps": 2, "map_steps": 2})
    table, _, _ = compare_priors(short, torch.device("cpu"))
    numbers = [table["stretch"].mean().item()]
    for recipe in ("plain", "stable"):
        weights = [VARIANTS[name][1:] for name in VARIANTS if VARIANTS[name][0] == recipe]
        params = train_maps(recipe, weights, short, torch.device("cpu"))
        numbers.append(sum(p.double().square().sum().item() for p in params))
    torch.set_num_threads(threads)
    return numbers


def main(argv=None):
    args = parse_args(argv)
    with own_settings():
        prepare_folders(args.out_dir)
        device = choose_device(args.no_cuda)
        start = time.perf_counter()
        steps = fingerprint(args)
        table, samples, far = compare_priors(args, device)
        x, results = compare_maps(args, device)
        numbers = make_numbers(table, x, results)
        for name in (*PRIORS, *results):
            shown = [key for key in numbers if key.startswith(f"{name}/")
                     and not key.endswith(("min", "max", "std"))]
            print(f"{name:20}" + ", ".join(f"{key.split('/')[1]} {numbers[key]:.3g}" for key in shown))
        stem = f"{args.out_dir / args.run_name}"
        draw_prior_figure(Path(f"{stem}_prior.pdf"), table, samples, far)
        draw_maps_figure(Path(f"{stem}_maps.pdf"), x, results)
        write_record(Path(f"{stem}.json"), args, [machine(device)], numbers,
                     ("Gaussian/share/mean", "mixture/share/mean"), fingerprint=steps,
                     seconds=time.perf_counter() - start, curves={})
    print(f"record and figures: {stem}*")


if __name__ == "__main__":
    run(main)
