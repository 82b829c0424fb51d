"""Problem 4.1: KL, Jensen-Shannon, MMD and Wasserstein-1 between the same pairs of distributions.

    python p4_divergences.py

It prints a table and writes plots/p4_divergences.json and plots/p4_divergences_curves.pdf.

In each pair on the line p stays and the model q, moved to theta, has to find it: two unit
Gaussians, two unit uniforms, and a mixture of two Gaussians against a single one. For all of them:
the exact values, the slope in theta that gradient descent would follow, and estimates from samples
with their spread. For two Gaussians also how fast the estimates' errors fall with the number of
points, where p = q and where not. "mmd2" is MMD^2, which has an unbiased estimate and is drawn;
"mmd" is its root, the metric, which has none. Everything is float64; logarithms are natural. The
papers: Gretton et al. (2012) for MMD, Wang et al. (2009) for the estimate of KL, Goodfellow et al.
(2014) for that of JS.
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
import torch.nn.functional as F
import torchvision
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch.distributions import Categorical, MixtureSameFamily, Normal, Uniform

HERE = Path(__file__).resolve().parent

NAMES = {"kl_pq": "KL(p||q)", "kl_qp": "KL(q||p)", "js": "JS", "mmd2": "MMD$^2$", "mmd": "MMD",
         "w1": "W$_1$"}
PAIRS = {  # where p's bumps are; the thetas of q that are sampled; the range of theta in the figure
    "gaussians": {"centres": [0.0], "drawn": (0, 8),
                  "sampled": [0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 10.0]},
    "uniforms": {"centres": [0.0], "drawn": (0, 2), "sampled": [0.25, 0.5, 0.75, 1.0, 1.5]},
    "mixture": {"centres": [-4.0, 4.0], "drawn": (0, 8), "sampled": [0.0, 1.0, 2.0, 4.0, 6.0]},
}
BANDWIDTH = 1.0  # s of the kernel k(x, y) = exp(-(x - y)^2 / (2 s^2))
WIDE = 4.0  # a second bandwidth, for the mixture
NEIGHBOURS = 5  # k of the nearest-neighbour estimate of KL
# How errors fall with the number of points: between Gaussians, at these theta
SIZES = (60, 120, 240, 480, 960)
RATES = {"equal": 0.0, "apart": 1.0}
# Of the logistic regression that stands in for a GAN's discriminator
BUMPS = 10
RIDGE = 0.1
NEWTON_STEPS = 20
# Between Gaussians the integrands are smooth and vanish at the ends, so the trapezoidal rule is as
# good as exact; where F - G changes sign (the model between the modes of the mixture) W1 errs by
# about step^2 and its slope by about step.
GRID = torch.linspace(-20, 26, 9201, dtype=torch.float64)


# ----------------------------------------------------------------------------------- the pairs
def make_bump(name, position):
    """What every distribution of a pair is made of: U[position, position + 1] or N(position, 1)."""
    if name == "uniforms":
        return Uniform(position, position + 1, validate_args=False)
    return Normal(position, torch.ones_like(position), validate_args=False)


def make_pair(name, theta):
    """(p, q) of a pair: p fixed, q with its bump at theta, a float64 tensor of any shape."""
    centres = theta.new_tensor(PAIRS[name]["centres"])
    equal_shares = Categorical(torch.ones_like(centres))
    p = MixtureSameFamily(equal_shares, make_bump(name, centres), validate_args=False)
    return p, make_bump(name, theta)


# -------------------------------------------------------------------------------- exact values
def exact(name, theta):
    """{divergence: (T,)} of a pair at every theta (T,), differentiable in theta.

    KL in nats, in [0, inf]; JS in nats, in [0, log 2]; MMD^2 in [0, 2) and MMD, its root; W1 in
    the units of x, in [0, inf). By closed forms, else by quadrature.
    """
    if name == "uniforms":
        return exact_of_uniforms(theta)
    x = GRID.to(theta.device)
    p, q = make_pair(name, theta[:, None])
    log_p = p.log_prob(x)  # (M,)
    log_q = q.log_prob(x)  # (T, M)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)  # m = (p + q) / 2
    mmd2 = exact_mmd2(name, theta)
    return {
        "kl_pq": integrate_kl(log_p, log_q, x),
        "kl_qp": integrate_kl(log_q, log_p, x),
        "js": (integrate_kl(log_p, log_m, x) + integrate_kl(log_q, log_m, x)) / 2,
        "mmd2": mmd2,
        "mmd": mmd2.clamp(min=0).sqrt(),  # at p = q rounding may leave -1e-17
        "w1": torch.trapezoid((p.cdf(x) - q.cdf(x)).abs(), x),
    }


def integrate_kl(log_a, log_b, x):
    """KL(a||b) in nats from two log densities on the grid x (M,), by the trapezoidal rule."""
    return torch.trapezoid(log_a.exp() * (log_a - log_b), x)


def exact_of_uniforms(theta):
    """{divergence: (T,)} between U[0, 1] and U[theta, theta + 1], in closed form."""
    distance = theta.abs()
    infinite = torch.where(distance > 0, math.inf, 0.0)  # neither support covers the other
    mmd2 = exact_mmd2("uniforms", theta)
    return {"kl_pq": infinite, "kl_qp": infinite, "js": distance.clamp(max=1) * math.log(2),
            "mmd2": mmd2, "mmd": mmd2.clamp(min=0).sqrt(), "w1": distance}


def exact_mmd2(name, theta, bandwidth=BANDWIDTH):
    """MMD^2 = E k(X, X') + E k(Y, Y') - 2 E k(X, Y), in [0, 2), for X ~ p and Y ~ q, (T,)."""
    centres = theta.new_tensor(PAIRS[name]["centres"])
    within_p = mean_kernel(name, centres[:, None] - centres, bandwidth).mean()
    within_q = mean_kernel(name, torch.zeros_like(theta), bandwidth)
    between = mean_kernel(name, theta[:, None] - centres, bandwidth).mean(1)
    return within_p + within_q - 2 * between


def mean_kernel(name, shift, bandwidth):
    """E k(X, X' + shift) for independent X, X' from one bump of the pair; shift of any shape.

    X - X' is N(0, 2), or of uniforms a triangle on [-1, 1]. An integral over that is a second
    difference of the kernel integrated twice.
    """
    s = bandwidth
    if name != "uniforms":
        return s / math.sqrt(s**2 + 2) * torch.exp(-shift.square() / (2 * (s**2 + 2)))

    def integrated_twice(t):  # its second derivative is exp(-t^2 / (2 s^2))
        rising = s * math.sqrt(math.pi / 2) * t * torch.erf(t / (s * math.sqrt(2)))
        return rising + s**2 * torch.exp(-(t / s)**2 / 2)

    return integrated_twice(shift + 1) - 2 * integrated_twice(shift) + integrated_twice(shift - 1)


def slopes(name, theta):
    """{divergence: (T,)} of derivatives in theta, by autograd; NaN for the KL of uniforms.

    At a kink, where there is none, autograd takes 0: W1, MMD and, of uniforms, JS at p = q; JS of
    uniforms at 1.
    """
    theta = theta.detach().clone().requires_grad_()
    result = {}
    for key, value in exact(name, theta).items():
        if value.requires_grad:
            result[key], = torch.autograd.grad(value.sum(), theta, retain_graph=True)
        else:
            result[key] = value * math.nan
    return result


# ---------------------------------------------------------------------- estimates from samples
def estimate_kl(x, y, k=NEIGHBOURS):
    """KL(p||q) from x (n,) of p and y (m,) of q, in nats (Wang et al. 2009).

    By the distances of each x to its k-th neighbour among the other x and among y.
    """
    distances = (x[:, None] - x).abs()
    within = distances.topk(k + 1, largest=False).values[:, -1]  # the nearest is the point itself
    between = (x[:, None] - y).abs().topk(k, largest=False).values[:, -1]
    return (between / within).log().mean() + math.log(len(y) / (len(x) - 1))


def kernel(x, y, bandwidth=BANDWIDTH):
    """Gaussian kernel between points x (n,) and y (m,), (n, m)."""
    return torch.exp(-(x[:, None] - y).square() / (2 * bandwidth**2))


def estimate_mmd2(x, y):
    """The unbiased U-statistic of MMD^2, which may be negative (Gretton et al. 2012, lemma 6)."""
    n, m = len(x), len(y)
    within_x = (kernel(x, x).sum() - n) / (n * (n - 1))  # without the diagonal, of k(x, x) = 1
    within_y = (kernel(y, y).sum() - m) / (m * (m - 1))
    return within_x + within_y - 2 * kernel(x, y).mean()


def estimate_mmd(x, y):
    """MMD between the two samples themselves: not negative, and above 0 also where p = q."""
    mmd2 = kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean()
    return mmd2.clamp(min=0).sqrt()


def estimate_w1(x, y):
    """W1 between two samples of one size: on the line the optimal plan pairs them in order."""
    return (x.sort().values - y.sort().values).abs().mean()


def estimate_js(x, y):
    """A lower bound on JS in nats, from x (n,) of p and y (n,) of q, by a discriminator D.

    log 2 + (E_p log D + E_q log(1 - D)) / 2, from the value of the GAN's game, is JS for the ideal
    D (Goodfellow et al. 2014, section 4.1). D is fitted to the first halves of the samples and
    the expectations are over the second halves, so for the D found the estimate of the bound is
    unbiased (and can be negative).
    """
    half = len(x) // 2
    train = torch.cat((x[:half], y[:half]))
    label = torch.cat((torch.ones_like(x[:half]), torch.zeros_like(y[:half])))
    low = train.min()
    high = train.max()
    w = fit_logistic(features(train, low, high), label)
    log_D = F.logsigmoid(features(x[half:], low, high) @ w)
    log_not_D = F.logsigmoid(-features(y[half:], low, high) @ w)
    return math.log(2) + (log_D.mean() + log_not_D.mean()) / 2


def features(x, low, high):
    """1, x and Gaussian bumps from `low` to `high` of points x (n,), (n, 2 + BUMPS)."""
    centres = low + (high - low) * torch.linspace(0, 1, BUMPS, dtype=x.dtype, device=x.device)
    width = (high - low) / (BUMPS - 1)
    bumps = torch.exp(-((x[:, None] - centres) / width).square() / 2)
    return torch.cat((torch.ones_like(x)[:, None], x[:, None], bumps), dim=1)


def fit_logistic(phi, label):
    """Weights (d,) of ridge logistic regression of label (n,) on phi (n, d), by Newton's method."""
    ridge = RIDGE * torch.eye(phi.shape[1], dtype=phi.dtype, device=phi.device)
    w = torch.zeros_like(phi[0])
    for _ in range(NEWTON_STEPS):
        D = torch.sigmoid(phi @ w)
        hessian = phi.T @ (phi * (D * (1 - D))[:, None]) + ridge
        w = w + torch.linalg.solve(hessian, phi.T @ (label - D) - ridge @ w)
    return w


def estimates(name, theta, points, repetitions, device):
    """{divergence: (repetitions,)}: each from `points` fresh samples of p and of q at theta."""
    p, q = make_pair(name, torch.tensor(theta, dtype=torch.float64))
    xs = p.sample((repetitions, points)).to(device)  # drawn on the CPU: the same everywhere
    ys = q.sample((repetitions, points)).to(device)
    found = {key: [] for key in NAMES}
    for x, y in zip(xs, ys):
        found["kl_pq"].append(estimate_kl(x, y))
        found["kl_qp"].append(estimate_kl(y, x))
        found["js"].append(estimate_js(x, y))
        found["mmd2"].append(estimate_mmd2(x, y))
        found["mmd"].append(estimate_mmd(x, y))
        found["w1"].append(estimate_w1(x, y))
    return {key: torch.stack(values).cpu() for key, values in found.items()}


def errors_by_size(theta, repetitions, device):
    """{divergence: (len(SIZES),)} root mean squared errors of estimates between two Gaussians."""
    truth = exact("gaussians", torch.tensor([theta], dtype=torch.float64))
    errors = {key: [] for key in NAMES}
    for points in SIZES:
        found = estimates("gaussians", theta, points, repetitions, device)
        for key, values in found.items():
            errors[key].append((values - truth[key]).square().mean().sqrt())
    return {key: torch.stack(values) for key, values in errors.items()}


def exponent(errors):
    """a of errors (len(SIZES),) ~ points^a, by a straight line through their logarithms."""
    log_points = torch.tensor(SIZES, dtype=torch.float64).log()
    centred = log_points - log_points.mean()
    return ((centred @ errors.log()) / centred.square().sum()).item()


# --------------------------------------------------------------------------- what is reported
def measure(args, device):
    """The estimates, {(pair, theta): {divergence: (repetitions,)}}; a table is printed."""
    measured = {}
    print(f"{'pair':12}{'theta':>6}{'divergence':>12}{'exact':>9}{'slope':>10}{'estimate':>10}"
          f"{'sd':>8}")
    for name, pair in PAIRS.items():
        for theta in pair["sampled"]:
            found = estimates(name, theta, args.points, args.repetitions, device)
            measured[name, theta] = found
            position = torch.tensor([theta], dtype=torch.float64)
            truth = exact(name, position)
            slope = slopes(name, position)
            for key, values in found.items():
                print(f"{name:12}{theta:6g}{NAMES[key].replace('$', ''):>12}"
                      f"{truth[key].item():9.3f}{slope[key].item():10.2e}"
                      f"{values.mean().item():10.3f}{values.std().item():8.3f}")
    return measured


def estimated_numbers(measured):
    """Numbers for the record: mean and sd of each estimate, and how those of MMD^2 deviate."""
    numbers = {}
    deviations = []  # of the mean estimates of MMD^2, in standard errors
    for (name, theta), found in measured.items():
        for key, values in found.items():
            numbers[f"{name}/{theta:g}/mean/{key}"] = values.mean().item()
            numbers[f"{name}/{theta:g}/sd/{key}"] = values.std().item()
        values = found["mmd2"]
        truth = exact_mmd2(name, torch.tensor([theta], dtype=torch.float64)).item()
        error = values.std().item() / math.sqrt(len(values))
        deviations.append((values.mean().item() - truth) / error)
    equal = measured["gaussians", 0.0]
    numbers["mmd2/negative"] = (equal["mmd2"] < 0).double().mean().item()
    numbers["mmd2/settings"] = len(deviations)
    numbers["mmd2/largest deviation"] = max(map(abs, deviations))
    return numbers


def rate_numbers(repetitions, device):
    """Numbers for the record: errors of the estimates by number of points, and their exponents."""
    numbers = {}
    for name, theta in RATES.items():
        for key, errors in errors_by_size(theta, repetitions, device).items():
            numbers[f"rates/{name}/{key}/exponent"] = exponent(errors)
            for points, error in zip(SIZES, errors.tolist()):
                numbers[f"rates/{name}/{key}/{points}"] = error
            print(f"{name:12}{key:>8}: error of {SIZES[0]} points {errors[0]:.5f}, of {SIZES[-1]} "
                  f"{errors[-1]:.5f}, falls as n^{exponent(errors):.2f}")
    return numbers


def exact_numbers():
    """Numbers for the record that need no sample: values, slopes, minima, error of quadrature."""
    numbers = {}
    for name, pair in PAIRS.items():
        theta = torch.tensor(pair["sampled"], dtype=torch.float64)
        for kind, function in (("exact", exact), ("slope", slopes)):
            for key, values in function(name, theta).items():
                for position, value in zip(pair["sampled"], values.tolist()):
                    if math.isfinite(value):
                        numbers[f"{name}/{position:g}/{kind}/{key}"] = value

    theta = torch.linspace(0, 8, 161, dtype=torch.float64)
    mixture = exact("mixture", theta)
    mixture["mmd2, wide"] = exact_mmd2("mixture", theta, WIDE)
    for key, values in mixture.items():
        numbers[f"mixture/minimum/{key}"] = theta[values.argmin()].item()

    numbers |= {"bandwidth": BANDWIDTH, "wide": WIDE, "neighbours": NEIGHBOURS}
    found = exact("gaussians", theta)
    closed = {"kl_pq": theta.square() / 2, "kl_qp": theta.square() / 2, "w1": theta}
    errors = [(found[key] - closed[key]).abs().max().item() for key in closed]
    numbers["quadrature/error"] = max(errors)
    return numbers


def fingerprint(args):
    """Exact values of every pair, and every estimate from 20 points (not of --points of them)."""
    torch.manual_seed(args.seed)
    numbers = []
    for name, pair in PAIRS.items():
        theta = pair["sampled"][1]
        values = exact(name, torch.tensor([theta], dtype=torch.float64)).values()
        numbers += [value.item() for value in values if value.isfinite()]
        found = estimates(name, theta, points=20, repetitions=2, device=torch.device("cpu"))
        numbers += [values.mean().item() for values in found.values()]
    return numbers


# ------------------------------------------------------------------------------------- figures
LOOKS = {  # divergence: (color, line, marker)
    "kl_pq": ("C3", "-", "o"), "kl_qp": ("C1", "--", "s"), "js": ("C0", "-.", "^"),
    "mmd2": ("C2", ":", "v"), "w1": ("black", (0, (5, 1, 1, 1, 1, 1)), "D"),
}


def draw_curves(path, measured):
    """Exact values as lines and estimates as marks, a panel for each pair; slopes in the last."""
    figure = Figure(figsize=(6.9, 2.7))
    gaussians, uniforms, mixture, slope = figure.subplots(1, 4)
    draw_pair(gaussians, "gaussians", measured)
    draw_pair(uniforms, "uniforms", measured)
    draw_pair(mixture, "mixture", measured)
    draw_slopes(slope)
    gaussians.set(title="two Gaussians", ylabel="divergence (KL and JS in nats)")
    uniforms.set(title="two uniforms")
    uniforms.text(0.5, 0.98, "exact KL: $\\infty$", ha="center", va="top",
                  transform=uniforms.transAxes)
    mixture.set(title="mixture, Gaussian")
    for axes in (uniforms, mixture):
        axes.tick_params(labelleft=False)
    handles = [Line2D([], [], color=color, linestyle=line, marker=marker, markersize=2.5,
                      markerfacecolor="white") for color, line, marker in LOOKS.values()]
    names = [NAMES[key] for key in LOOKS]
    figure.legend(handles, names, loc="outside lower center", ncols=5, handlelength=3.5)
    save_figure(figure, path)


def draw_pair(axes, name, measured):
    """Exact values of a pair over theta, and mean +- sd of the estimates at each theta sampled."""
    low, high = PAIRS[name]["drawn"]
    theta = torch.linspace(low, high, 201, dtype=torch.float64)
    curves = exact(name, theta)
    sampled = [position for position in PAIRS[name]["sampled"] if 0 < position <= high]
    for key, (color, line, marker) in LOOKS.items():
        if curves[key].isfinite().sum() > 1:
            axes.plot(theta, curves[key], color=color, linestyle=line)
        means = [measured[name, position][key].mean().item() for position in sampled]
        sds = [measured[name, position][key].std().item() for position in sampled]
        axes.errorbar(sampled, means, sds, color=color, linestyle="", marker=marker,
                      markersize=2.5, elinewidth=0.8, markerfacecolor="white", markeredgewidth=0.7)
    step = 1 if high < 4 else 2
    axes.set(xlabel=r"position $\theta$ of $q$", xticks=range(low, high + 1, step), yscale="log",
             ylim=(0.01, 60))


def draw_slopes(axes):
    """Slopes of the divergences between two Gaussians over theta."""
    low, high = PAIRS["gaussians"]["drawn"]
    theta = torch.linspace(low, high, 201, dtype=torch.float64)
    slope = slopes("gaussians", theta)
    for key, (color, line, _) in LOOKS.items():
        axes.plot(theta[1:], slope[key][1:], color=color, linestyle=line)  # 0 at 0: no logarithm
    axes.set(title="slope, Gaussians", xlabel=r"position $\theta$ of $q$", ylabel=r"d/d$\theta$",
             xticks=range(0, 9, 2), yscale="log", ylim=(1e-4, 20))


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
    parser.add_argument("--points", type=number(int, 20, 10**4), default=500,
                        help="of every sample")
    parser.add_argument("--repetitions", type=number(int, 2, 10**5), default=200,
                        help="samples for the spread of each estimate")
    parser.add_argument("--seed", type=number(int, 0, 2**31), default=1, help="of all chance")
    parser.add_argument("--no-cuda", action="store_true", help="stay on the CPU")
    parser.add_argument("--out-dir", type=folder, default=HERE / "plots",
                        help="for the figure and the record")
    return named(parser.parse_args(argv), "p4_divergences", (), parser, argv)


def main(argv=None):
    args = parse_args(argv)
    with own_settings():
        prepare_folders(args.out_dir)
        device = choose_device(args.no_cuda)
        start = time.perf_counter()
        torch.manual_seed(args.seed)
        measured = measure(args, device)
        numbers = exact_numbers() | estimated_numbers(measured)
        numbers |= rate_numbers(args.repetitions, device)

        stem = f"{args.out_dir / args.run_name}"
        draw_curves(Path(f"{stem}_curves.pdf"), measured)
        write_record(Path(f"{stem}.json"), args, [machine(device)], numbers,
                     headline=("mmd2/largest deviation",), fingerprint=fingerprint(args),
                     seconds=time.perf_counter() - start, curves={})
    print(f"record and figure: {stem}*")


if __name__ == "__main__":
    run(main)
