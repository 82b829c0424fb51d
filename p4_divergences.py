"""Problem 4.1: KL, Jensen-Shannon, MMD and Wasserstein-1 between the same pairs of distributions.

    python p4_divergences.py        writes plots/p4_divergences.json and two figures beside it:
                                    exact values (_curves.pdf), estimates (_estimates.pdf)

In each pair on the line p stays, and the model q sits at a position theta that training would have
to find. "mmd2" is MMD^2, which has an unbiased estimate; "mmd", its root and a metric, has none.
Everything is float64; logarithms are natural. The papers: Gretton et al. (2012) for MMD, Wang et
al. (2009) for the estimate of KL, Goodfellow et al. (2014) for that of JS.
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
import torch.nn.functional as F
from matplotlib import style
from matplotlib.figure import Figure
from torch.distributions import Categorical, MixtureSameFamily, Normal, Uniform

PAIRS = {  # one more pair of Gaussians is one more entry: p is an equal mixture, q is at theta
    "gaussians": {"title": "two Gaussians", "centres": [0.0], "drawn": 8,
                  "sampled": [0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 10.0]},
    "uniforms": {"title": "two uniforms", "centres": [0.0], "drawn": 2,
                 "sampled": [0.25, 0.5, 0.75, 1.0, 1.5]},
    "mixture": {"title": "mixture, Gaussian", "centres": [-4.0, 4.0], "drawn": 8,
                "sampled": [0.0, 1.0, 2.0, 4.0, 6.0]},
}
BANDWIDTH = 1.0  # s of the kernel k(x, y) = exp(-(x - y)^2 / (2 s^2))
WIDE = 4.0  # a second bandwidth, for the mixture
NEIGHBOURS = 5  # k of the nearest-neighbour estimate of KL
POINTS = 500  # in every sample
REPETITIONS = 200  # estimates, each from fresh samples
SIZES = (60, 120, 240, 480, 960)  # for the rates, between Gaussians at these theta
RATES = {"equal": 0.0, "apart": 1.0}


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
    """{divergence: (T,)} of a pair at every theta (T,).

    KL in nats, in [0, inf]; JS in nats, in [0, log 2]; MMD^2 in [0, 2) and MMD, its root; W1 in
    the units of x, in [0, inf). Of uniforms in closed form. Of Gaussians the trapezoidal rule is
    as good as exact; but where F_p - F_q changes sign W1 errs by about step^2.
    """
    mmd2 = exact_mmd2(name, theta)
    mmd = mmd2.clamp(min=0).sqrt()  # at p = q rounding may leave -1e-17
    if name == "uniforms":
        distance = theta.abs()
        kl = torch.zeros_like(distance).masked_fill(distance > 0, math.inf)
        return {"kl_pq": kl, "kl_qp": kl, "js": distance.clamp(max=1) * math.log(2),
                "mmd2": mmd2, "mmd": mmd, "w1": distance}
    if min(PAIRS[name]["centres"]) < -8 or max(*PAIRS[name]["centres"], theta.max()) > 14:
        raise ValueError(f"{name}: the grid of x is too short for these positions")
    x = torch.linspace(-20, 26, 9201, dtype=theta.dtype, device=theta.device)
    p, q = make_pair(name, theta[:, None])
    log_p = p.log_prob(x)  # (M,)
    log_q = q.log_prob(x)  # (T, M)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)  # m = (p + q) / 2

    def kl(log_a, log_b):
        return torch.trapezoid(log_a.exp() * (log_a - log_b), x)

    return {"kl_pq": kl(log_p, log_q), "kl_qp": kl(log_q, log_p),
            "js": (kl(log_p, log_m) + kl(log_q, log_m)) / 2, "mmd2": mmd2, "mmd": mmd,
            "w1": torch.trapezoid((p.cdf(x) - q.cdf(x)).abs(), x)}


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


# ---------------------------------------------------------------------- estimates from samples
def estimate_kl(x, y, k=NEIGHBOURS):
    """KL(p||q) from x (n,) of p and y (m,) of q, in nats (Wang et al. 2009).

    By the distances of each x to its k-th neighbour among the other x and among y.
    """
    within = (x[:, None] - x).abs().topk(k + 1, largest=False).values[:, -1]  # one is x itself
    between = (x[:, None] - y).abs().topk(k, largest=False).values[:, -1]
    return (between / within).log().mean() + math.log(len(y) / (len(x) - 1))


def estimate_js(x, y):
    """A lower bound on JS in nats, from x (n,) of p and y (n,) of q, by a discriminator D.

    log 2 + (E_p log D + E_q log(1 - D)) / 2, from the value of the GAN's game, is JS for the ideal
    D (Goodfellow et al. 2014, section 4.1). D is fitted to the first halves of the samples, and
    the expectations are over the second halves: for the D found they are unbiased.
    """
    half = len(x) // 2
    train = torch.cat((x[:half], y[:half]))
    label = torch.cat((torch.ones_like(x[:half]), torch.zeros_like(y[:half])))
    low, high = train.aminmax()
    w = fit_logistic(features(train, low, high), label)
    log_D = F.logsigmoid(features(x[half:], low, high) @ w)
    log_not_D = F.logsigmoid(-features(y[half:], low, high) @ w)
    return math.log(2) + (log_D.mean() + log_not_D.mean()) / 2


def features(x, low, high, bumps=10):
    """1, x and Gaussian bumps from `low` to `high` of points x (n,), (n, 2 + bumps)."""
    centres = low + (high - low) * torch.linspace(0, 1, bumps, dtype=x.dtype, device=x.device)
    width = (high - low) / (bumps - 1)
    near = torch.exp(-((x[:, None] - centres) / width).square() / 2)
    return torch.cat((torch.ones_like(x)[:, None], x[:, None], near), dim=1)


def fit_logistic(phi, label, steps=20):
    """Weights (d,) of ridge logistic regression of label (n,) on phi (n, d), by Newton's method."""
    ridge = 0.1 * torch.eye(phi.shape[1], dtype=phi.dtype, device=phi.device)
    w = torch.zeros_like(phi[0])
    for _ in range(steps):
        D = torch.sigmoid(phi @ w)
        hessian = phi.T @ (phi * (D * (1 - D))[:, None]) + ridge
        w = w + torch.linalg.solve(hessian, phi.T @ (label - D) - ridge @ w)
    return w


def kernel(x, y):
    """Gaussian kernel between points x (n,) and y (m,), (n, m)."""
    return torch.exp(-(x[:, None] - y).square() / (2 * BANDWIDTH**2))


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


DIVERGENCES = {  # name, estimate from x and y, colour, line; one more also needs a value in `exact`
    "kl_pq": ("KL(p||q)", estimate_kl, "C3", "-"),
    "kl_qp": ("KL(q||p)", lambda x, y: estimate_kl(y, x), "C1", "--"),
    "js": ("JS", estimate_js, "C0", "-."),
    "mmd2": ("MMD$^2$", estimate_mmd2, "C2", ":"),
    "mmd": ("MMD", estimate_mmd, "C4", (0, (2, 1))),
    "w1": ("W$_1$", estimate_w1, "black", (0, (5, 1, 1, 1, 1, 1))),
}


def estimates(name, theta, points, device):
    """{divergence: (REPETITIONS,)}: each from `points` fresh samples of p and of q at theta."""
    p, q = make_pair(name, torch.tensor(theta, dtype=torch.float64, device=device))
    xs = p.sample((REPETITIONS, points))
    ys = q.sample((REPETITIONS, points))
    return {key: torch.stack([estimate(x, y) for x, y in zip(xs, ys)])
            for key, (_, estimate, _, _) in DIVERGENCES.items()}


# ------------------------------------------------------------------------------------- results
def exact_numbers():
    """Numbers for the record that need no sample: values, minima."""
    numbers = {"bandwidth": BANDWIDTH, "wide": WIDE, "neighbours": NEIGHBOURS,
               "points": POINTS, "repetitions": REPETITIONS}
    for name, pair in PAIRS.items():
        theta = torch.tensor(pair["sampled"], dtype=torch.float64)
        for key, values in exact(name, theta).items():
            for position, value in zip(pair["sampled"], values.tolist()):
                if math.isfinite(value):
                    numbers[f"{name}/{position:g}/exact/{key}"] = value
    theta = torch.linspace(0, 8, 161, dtype=torch.float64)
    mixture = exact("mixture", theta) | {"mmd2, wide": exact_mmd2("mixture", theta, WIDE)}
    for key, values in mixture.items():
        numbers[f"mixture/minimum/{key}"] = theta[values.argmin()].item()
    return numbers


def add_estimates(numbers, device):
    """Add to exact_numbers() mean and sd of every estimate, and its mean's ratio to the truth."""
    for name, pair in PAIRS.items():
        for theta in pair["sampled"]:
            found = estimates(name, theta, POINTS, device)
            stem = f"{name}/{theta:g}"
            for key, values in found.items():
                mean = values.mean().item()
                numbers[f"{stem}/mean/{key}"] = mean
                numbers[f"{stem}/sd/{key}"] = values.std().item()
                truth = numbers.get(f"{stem}/exact/{key}", math.inf)
                if 1e-6 < truth < math.inf:
                    numbers[f"{stem}/ratio/{key}"] = mean / truth
                print(f"{stem:14}{key:6}exact {truth:7.3f}, estimate {mean:7.3f}")


def rate_numbers(device):
    """Root mean squared errors between Gaussians by number of points; a of error ~ points^a."""
    numbers = {}
    log_points = torch.tensor(SIZES, dtype=torch.float64).log()
    centred = log_points - log_points.mean()
    for name, theta in RATES.items():
        truth = exact("gaussians", torch.tensor([theta], dtype=torch.float64, device=device))
        found = [estimates("gaussians", theta, points, device) for points in SIZES]
        for key in DIVERGENCES:
            errors = torch.stack([(values[key] - truth[key]).square().mean().sqrt().cpu()
                                  for values in found])
            exponent = centred @ errors.log() / centred.square().sum()
            numbers[f"rates/{name}/{key}/exponent"] = exponent.item()
            for points, error in zip(SIZES, errors.tolist()):
                numbers[f"rates/{name}/{key}/{points}"] = error
            print(f"{name:6}{key:6}errors fall as n^{exponent:.2f}")
    return numbers


# ------------------------------------------------------------------------------------- figures
def draw_curves(path):
    """Exact values over theta, a panel for each pair."""
    figure = Figure(figsize=(6.9, 2.3))
    all_axes = figure.subplots(1, len(PAIRS), sharey=True)
    for axes, (name, pair) in zip(all_axes, PAIRS.items()):
        theta = torch.linspace(0, pair["drawn"], 201, dtype=torch.float64)[1:]
        for key, values in exact(name, theta).items():
            label, _, color, line = DIVERGENCES[key]
            axes.plot(theta, values, color=color, linestyle=line, label=label)
        axes.set(title=pair["title"], xlabel=r"position $\theta$ of $q$")
    all_axes[0].set(ylabel="divergence (KL and JS in nats)", yscale="log", ylim=(0.01, 60))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center",
                  ncols=len(DIVERGENCES))
    save_figure(figure, path)


def draw_estimates(path, numbers):
    """Exact values (line) and estimates (mean +- sd): rows of pairs, columns of divergences."""
    figure = Figure(figsize=(6.9, 1.2 * len(PAIRS)))
    grid = figure.subplots(len(PAIRS), len(DIVERGENCES), sharex="row")
    for row, (name, pair) in zip(grid, PAIRS.items()):
        theta = torch.linspace(0, pair["drawn"], 201, dtype=torch.float64)
        curves = exact(name, theta)
        sampled = [position for position in pair["sampled"] if position <= pair["drawn"]]
        for axes, (key, (label, *_)) in zip(row, DIVERGENCES.items()):
            means = [numbers[f"{name}/{position:g}/mean/{key}"] for position in sampled]
            sds = [numbers[f"{name}/{position:g}/sd/{key}"] for position in sampled]
            axes.plot(theta, curves[key], color="0.6")
            axes.errorbar(sampled, means, sds, fmt="ok", markersize=2.5, elinewidth=0.8)
            axes.set_title(label if name == "gaussians" else "")
            if curves[key][-1].isinf():
                axes.set_title("exact: $\\infty$", y=0.85, loc="left", fontsize=6)
        row[0].set_ylabel(pair["title"])
    figure.supxlabel(r"position $\theta$ of $q$", fontsize=8)
    figure.supylabel("divergence (KL and JS in nats)", fontsize=8)
    save_figure(figure, path)


# --------------------------------------------------------------------------------- command line
def parse_args():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out-dir", type=Path, default=HERE / "plots", help="of the results")
    parser.add_argument("--no-cuda", action="store_true", help="stay on the CPU")
    return parser.parse_args()


def main():
    args = parse_args()
    args.out_dir.mkdir(parents=True, exist_ok=True)  # now, not after a minute
    device = choose_device(args.no_cuda)
    torch.manual_seed(1)
    numbers = exact_numbers()
    add_estimates(numbers, device)
    numbers |= rate_numbers(device)
    draw_curves(args.out_dir / "p4_divergences_curves.pdf")
    draw_estimates(args.out_dir / "p4_divergences_estimates.pdf", numbers)
    write_record(args.out_dir / "p4_divergences.json", args, device, numbers=numbers, curves={},
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
