"""Problem 4.1: KL, Jensen-Shannon, MMD and Wasserstein-1 between the same pairs of distributions on the line.

    python p4_divergences.py

In each pair p stays and the model q, moved to theta, has to find it: two unit Gaussians, two unit uniforms, and a
mixture of two Gaussians against a single one. For all of them: the exact values, the slope in theta that gradient
descent would follow, and estimates from samples with their spread. Everything is float64; logarithms are natural.
Prints a table, writes plots/p4_divergences.json and plots/p4_divergences_curves.pdf.
"""
import argparse
import contextlib
import json
import math
import shlex
import sys
import time
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
import torchvision
from torch.distributions import Categorical, MixtureSameFamily, Normal, Uniform

HERE = Path(__file__).resolve().parent
BANDWIDTH = 1.0  # s of the kernel k(x, y) = exp(-(x - y)^2 / (2 s^2))
WIDE = 4.0  # a second bandwidth, for the mixture
NEIGHBOURS = 5  # k of the nearest-neighbour estimate of KL
BUMPS, RIDGE, NEWTON_STEPS = 10, 0.1, 20  # of the logistic regression that stands in for a GAN's discriminator
NAMES = {"kl_pq": "KL(p||q)", "kl_qp": "KL(q||p)", "js": "JS", "mmd2": "MMD$^2$", "w1": "W$_1$"}
PAIRS = {  # name: (shape of every bump, centres of p's bumps, thetas to sample at, thetas to draw)
    "gaussians": (Normal, [0.0], [0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 10.0], (0, 8)),
    "uniforms": (Uniform, [0.0], [0.25, 0.5, 0.75, 1.0, 1.5], (0, 2)),
    "mixture": (Normal, [-4.0, 4.0], [0.0, 1.0, 2.0, 4.0, 6.0], (0, 8)),
}
# Between Gaussians the integrands are smooth and vanish at the ends, so the trapezoidal rule is as good as exact; where
# F - G changes sign (the model between the modes of the mixture) W1 errs by about step^2 and its slope by about step.
GRID = torch.linspace(-20, 26, 9201, dtype=torch.float64)


# ------------------------------------------------------------------------------------------------- exact values
def make_pair(name, theta):
    """(p, q) of a pair: p fixed, q with its bump at theta (a float64 tensor of any shape), as torch.distributions."""
    shape, centres, *_ = PAIRS[name]

    def bump(at):  # N(at, 1) or U[at, at + 1]
        return shape(at, at + 1 if shape is Uniform else torch.ones_like(at), validate_args=False)

    centres = theta.new_tensor(centres)
    return MixtureSameFamily(Categorical(torch.ones_like(centres)), bump(centres), validate_args=False), bump(theta)


def mean_kernel(name, shift, bandwidth):
    """E k(X, X' + shift) over independent X, X' from one bump of the pair; `shift` a tensor."""
    s = bandwidth
    if PAIRS[name][0] is Normal:  # X - X' is N(0, 2)
        return s / math.sqrt(s**2 + 2) * torch.exp(-shift.square() / (2 * (s**2 + 2)))

    def twice_integrated(t):  # its second derivative is exp(-t^2 / (2 s^2))
        return s * math.sqrt(math.pi / 2) * t * torch.erf(t / (s * math.sqrt(2))) + s**2 * torch.exp(-(t / s)**2 / 2)

    return twice_integrated(shift + 1) - 2 * twice_integrated(shift) + twice_integrated(shift - 1)  # X - X': a triangle


def exact_mmd2(name, theta, bandwidth=BANDWIDTH):
    """MMD^2 = E k(X, X') + E k(Y, Y') - 2 E k(X, Y) with a Gaussian kernel, in [0, 2) (Gretton et al. 2012), (T,)."""
    centres = theta.new_tensor(PAIRS[name][1])
    within_p = mean_kernel(name, centres[:, None] - centres, bandwidth).mean()
    within_q = mean_kernel(name, torch.zeros_like(theta), bandwidth)
    return within_p + within_q - 2 * mean_kernel(name, theta[:, None] - centres, bandwidth).mean(1)


def exact(name, theta):
    """{divergence: (T,)} of a pair at every theta (T,), differentiable in theta: closed forms, else quadrature.

    KL in nats, in [0, inf]; JS in nats, in [0, log 2]; W1 in the units of x, in [0, inf).
    """
    if name == "uniforms":
        apart = theta.abs()
        infinite = torch.where(apart > 0, math.inf, 0.0)  # either support has a part that the other does not cover
        return {"kl_pq": infinite, "kl_qp": infinite, "js": apart.clamp(max=1) * math.log(2),
                "mmd2": exact_mmd2(name, theta), "w1": apart}
    x = GRID.to(theta.device)
    p, q = make_pair(name, theta[:, None])
    log_p, log_q = p.log_prob(x), q.log_prob(x)  # (M,), (T, M)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)

    def kl(log_a, log_b):
        return torch.trapezoid(log_a.exp() * (log_a - log_b), x)

    return {"kl_pq": kl(log_p, log_q), "kl_qp": kl(log_q, log_p), "js": (kl(log_p, log_m) + kl(log_q, log_m)) / 2,
            "mmd2": exact_mmd2(name, theta), "w1": torch.trapezoid((p.cdf(x) - q.cdf(x)).abs(), x)}


def slopes(name, theta):
    """{divergence: (T,)} of derivatives in theta, by autograd; NaN where the divergence is infinite."""
    theta = theta.detach().clone().requires_grad_()
    result = {}
    for key, value in exact(name, theta).items():
        finite = value.requires_grad
        result[key] = torch.autograd.grad(value.sum(), theta, retain_graph=True)[0] if finite else value * math.nan
    return result


# ---------------------------------------------------------------------------- estimates from samples x (n,) and y (n,)
def estimate_kl(x, y, k=NEIGHBOURS):
    """KL(p||q) from the distances of each x to its k-th neighbour among the other x and among y (Wang et al. 2009)."""
    within = (x[:, None] - x).abs().topk(k + 1, largest=False).values[:, -1]  # the nearest x is the point itself
    between = (x[:, None] - y).abs().topk(k, largest=False).values[:, -1]
    return (between / within).log().mean() + math.log(len(y) / (len(x) - 1))


def estimate_mmd2(x, y, bandwidth=BANDWIDTH):
    """The unbiased U-statistic of MMD^2, which may be negative (Gretton et al. 2012, lemma 6)."""
    def kernel(a, b):
        return torch.exp(-(a[:, None] - b).square() / (2 * bandwidth**2))

    n, m = len(x), len(y)  # k(x, x) = 1 on the diagonals, which are left out
    return ((kernel(x, x).sum() - n) / (n * (n - 1)) + (kernel(y, y).sum() - m) / (m * (m - 1))
            - 2 * kernel(x, y).mean())


def estimate_w1(x, y):
    """W1 between two samples of one size: on the line the optimal plan pairs them in order."""
    return (x.sort().values - y.sort().values).abs().mean()


def estimate_js(x, y):
    """A lower bound on JS by a discriminator D: log 2 + (E_p log D + E_q log(1 - D)) / 2, the value of the GAN's game.

    D is a logistic regression on x and Gaussian bumps, fitted by Newton's method to the first halves of the samples.
    The expectations are over the second halves, so for the D found the estimate of the bound is unbiased (and can be
    negative). An ideal D makes the bound an equality (Goodfellow et al. 2014).
    """
    half = len(x) // 2
    train = torch.cat((x[:half], y[:half]))
    low, high = train.min(), train.max()
    centres = low + (high - low) * torch.linspace(0, 1, BUMPS, dtype=x.dtype, device=x.device)
    width = (high - low) / (BUMPS - 1)

    def features(points):  # (n, 2 + BUMPS)
        bumps = torch.exp(-((points[:, None] - centres) / width).square() / 2)
        return torch.cat((torch.ones_like(points)[:, None], points[:, None], bumps), dim=1)

    phi, label = features(train), torch.cat((torch.ones_like(x[:half]), torch.zeros_like(y[:half])))
    ridge = RIDGE * torch.eye(phi.shape[1], dtype=x.dtype, device=x.device)
    w = torch.zeros_like(phi[0])
    for _ in range(NEWTON_STEPS):
        D = torch.sigmoid(phi @ w)
        hessian = phi.T @ (phi * (D * (1 - D))[:, None]) + ridge
        w = w + torch.linalg.solve(hessian, phi.T @ (label - D) - ridge @ w)
    log_sigmoid = torch.nn.functional.logsigmoid
    return math.log(2) + (log_sigmoid(features(x[half:]) @ w).mean() + log_sigmoid(-features(y[half:]) @ w).mean()) / 2


def estimates(name, theta, points, repetitions, device):
    """{divergence: (repetitions,)}: every estimate on fresh samples of `points` from p and from q at theta."""
    p, q = make_pair(name, torch.tensor(theta, dtype=torch.float64))
    x, y = (side.sample((repetitions, points)).to(device) for side in (p, q))  # drawn on the CPU: the same everywhere
    ways = {"kl_pq": estimate_kl, "kl_qp": lambda x, y: estimate_kl(y, x), "js": estimate_js, "mmd2": estimate_mmd2,
            "w1": estimate_w1}
    return {key: torch.stack([way(*pair) for pair in zip(x, y)]).cpu() for key, way in ways.items()}


# ------------------------------------------------------------- helpers, the same text in every script that has them
STYLE = {"backend": "Agg", "font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "image.cmap": "gray",
         "figure.constrained_layout.use": True, "pdf.fonttype": 42, "legend.frameon": False, "lines.linewidth": 1.2}


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


def draw_curves(path, measured):
    """Exact values as lines and mean +- sd of the estimates as marks, a panel for each pair; slopes in the last."""
    looks = {"kl_pq": ("C3", "-", "o"), "kl_qp": ("C1", "--", "s"), "js": ("C0", "-.", "^"),
             "mmd2": ("C2", ":", "v"), "w1": ("black", (0, (5, 1, 1, 1, 1, 1)), "D")}
    titles = {"gaussians": "two Gaussians", "uniforms": "two uniforms", "mixture": "mixture, Gaussian"}
    figure, axes = plt.subplots(1, 4, figsize=(6.5, 2.3))
    for name, panel in zip(PAIRS, axes):
        theta = torch.linspace(*PAIRS[name][3], 201, dtype=torch.float64)
        curves = exact(name, theta)
        if name == "gaussians":
            for key, slope in slopes(name, theta).items():
                axes[3].plot(theta[1:], slope[1:], color=looks[key][0], linestyle=looks[key][1])
        for key, (color, line, marker) in looks.items():
            if curves[key].isfinite().sum() > 1:
                panel.plot(theta, curves[key], color=color, linestyle=line)
            marks = [(at, mean, sd) for (pair, at, which), (mean, sd) in measured.items()
                     if (pair, which) == (name, key) and 0 < at <= theta.max()]
            at, mean, sd = zip(*marks)
            panel.errorbar(at, mean, sd, color=color, linestyle="", marker=marker, markersize=2.5, elinewidth=0.8,
                           markerfacecolor="white", markeredgewidth=0.7)
        panel.set(title=titles[name], xlabel=r"position $\theta$ of $q$", yscale="log", ylim=(0.01, 60),
                  xticks=range(0, int(theta.max()) + 1, 2 if theta.max() > 2 else 1))
    axes[1].text(0.5, 0.98, "exact KL: $\\infty$", ha="center", va="top", transform=axes[1].transAxes)
    axes[0].set_ylabel("divergence (KL, JS in nats)")
    for panel in axes[1:3]:
        panel.tick_params(labelleft=False)
    axes[3].set(title="slope, Gaussians", ylabel=r"d/d$\theta$", xlabel=r"position $\theta$ of $q$", yscale="log",
                ylim=(1e-4, 20), xticks=range(0, 9, 2))
    handles = [plt.Line2D([], [], color=color, linestyle=line, marker=marker, markersize=2.5, markerfacecolor="white")
               for color, line, marker in looks.values()]
    figure.legend(handles, NAMES.values(), loc="outside lower center", ncols=5, handlelength=3.5)
    save_figure(figure, path)


def exact_numbers():
    """Numbers for the record that need no sample: values, slopes, minima, and how good the quadrature is."""
    numbers = {}
    for name, (_, _, thetas, _) in PAIRS.items():
        theta = torch.tensor(thetas, dtype=torch.float64)
        for kind, values in (("exact", exact(name, theta)), ("slope", slopes(name, theta))):
            for key, row in values.items():
                numbers |= {f"{name}/{at:g}/{kind}/{key}": (value, "#.3g")
                            for at, value in zip(thetas, row.tolist()) if math.isfinite(value)}
    theta = torch.linspace(*PAIRS["mixture"][3], 161, dtype=torch.float64)
    for key, values in {**exact("mixture", theta), "mmd2, wide": exact_mmd2("mixture", theta, WIDE)}.items():
        numbers[f"mixture/minimum/{key}"] = (theta[values.argmin()].item(), ".1f")
    numbers |= {"bandwidth": (BANDWIDTH, "g"), "wide": (WIDE, "g"), "neighbours": (NEIGHBOURS, "d")}
    values = exact("gaussians", theta)
    errors = [(values[key] - truth).abs().max().item() for key, truth in
              (("kl_pq", theta.square() / 2), ("kl_qp", theta.square() / 2), ("w1", theta))]
    numbers["quadrature/error"] = (max(errors), ".0e")
    return numbers


def parse_args(argv=None):
    """The command line (default: sys.argv), checked; a wrong one ends with status 2 and one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: {message} (--help lists every flag)\n")
    parser.add_argument("--points", type=int, default=500, help="size of every sample")
    parser.add_argument("--repetitions", type=int, default=200, help="samples for the spread of each estimate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-cuda", action="store_true", help="stay on the CPU")
    parser.add_argument("--out-dir", type=Path, default=HERE / "plots", help="for the figure and the record")
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(argv)
    for flag, low, high in (("points", 20, 10**4), ("repetitions", 2, 10**5), ("seed", 0, 2**31)):
        if not low <= getattr(args, flag) <= high:
            parser.error(f"--{flag} {getattr(args, flag)} is not between {low} and {high}")
    args.command = shlex.join(["python", Path(__file__).name, *argv])
    return args


def main(argv=None):
    args = parse_args(argv)
    device = choose_device(args.no_cuda)
    plt.rcParams.update(STYLE)
    torch.manual_seed(args.seed)
    start = time.perf_counter()
    numbers, measured, unbiased = exact_numbers(), {}, []

    print(f"{'pair':12}{'theta':>6}{'divergence':>12}{'exact':>9}{'slope':>10}{'estimate':>10}{'sd':>8}")
    for name, (_, _, thetas, _) in PAIRS.items():
        for at in thetas:
            theta = torch.tensor([at], dtype=torch.float64)
            truth, slope = exact(name, theta), slopes(name, theta)
            for key, values in estimates(name, at, args.points, args.repetitions, device).items():
                mean, sd = measured[name, at, key] = values.mean().item(), values.std().item()
                spec = ".3f" if sd > 0.002 else ".4f"
                numbers |= {f"{name}/{at:g}/mean/{key}": (mean, spec), f"{name}/{at:g}/sd/{key}": (sd, spec)}
                print(f"{name:12}{at:6g}{NAMES[key].replace('$', ''):>12}{truth[key].item():9.3f}"
                      f"{slope[key].item():10.2e}{mean:10.3f}{sd:8.3f}")
                if key == "mmd2":
                    unbiased.append((mean - truth[key].item()) / (sd / math.sqrt(args.repetitions)))
                    if (name, at) == ("gaussians", 0.0):
                        numbers["mmd2/negative"] = ((values < 0).double().mean().item(), ".0%")
    numbers["mmd2/settings"] = (len(unbiased), "d")
    numbers["mmd2/largest deviation"] = (max(map(abs, unbiased)), ".1f")  # in standard errors of the mean
    draw_curves(args.out_dir / "p4_divergences_curves.pdf", measured)
    write_record(args.out_dir / "p4_divergences.json", args, device, numbers, seconds=time.perf_counter() - start,
                 curves={})
    print(f"record and figure: {args.out_dir / 'p4_divergences'}*")


if __name__ == "__main__":
    run(main)
