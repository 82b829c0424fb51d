"""Problem 1.2: the gradient of least squares from autograd, checked against its closed form.

    python p1.py        prints a table, writes plots/p1.json

Sums in another order round differently, so what is asked for is a small relative error of norms in
float64; float32 and `==` stand beside it to show why. Finite differences are the third witness:
they use the loss alone. The hand-out's housing table is a download that fails at times, so the
data are drawn, some of them like it; `check` takes any.
"""
import argparse
import hashlib
import json
import os
import shlex
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    os.environ["MPLBACKEND"] = "agg"  # a notebook hands down its own, which may be missing here
import numpy as np
import torch
from matplotlib import style

CASES = {  # name: (rows, columns, rank)
    "tall": (1000, 8, 8), "wide": (20, 100, 20), "rank-deficient": (200, 10, 4),
    "one row": (1, 8, 1), "housing-like": (20640, 8, 8),
}
SCALES = [10.0**power for power in range(-3, 7)]  # factors on X
HOUSING_COLUMNS = (4.0, 30.0, 5.0, 1.0, 1400.0, 3.0, 36.0, -120.0)  # orders of magnitude
# Largest relative errors that pass: 10^4 to 10^6 times the rounding unit, which sums over up to
# 20640 rows and the difference of two large vectors enlarge. A forgotten factor 2 gives 1.
TOLERANCE = {"float64": 1e-12, "float32": 1e-3, "finite differences": 1e-10}


# ------------------------------------------------------------------ the loss and its gradients
def squared_error(X, y, w):
    """||Xw - y||^2, a scalar, for X (n, d), y (n, 1), w (d, 1)."""
    return (X @ w - y).square().sum()


def closed_form_gradient(X, y, w):
    """2 X^T X w - 2 X^T y, (d, 1): section 1.1 of the report."""
    return 2 * X.T @ (X @ w) - 2 * X.T @ y


def autograd_gradient(X, y, w):
    """The same gradient by reverse-mode differentiation of the loss, (d, 1)."""
    w = w.detach().clone().requires_grad_()
    squared_error(X, y, w).backward()
    return w.grad


def finite_difference_gradient(X, y, w):
    """Central differences of the loss, (d, 1): but for rounding exact, as it is quadratic."""
    size = (X @ w - y).norm() / X.norm()  # moves Xw by about the residual
    steps = size * torch.eye(len(w)).to(w)[:, :, None]
    rises = [squared_error(X, y, w + step) - squared_error(X, y, w - step) for step in steps]
    return torch.stack(rises)[:, None] / (2 * size)


# ----------------------------------------------------------------------------------- the check
def relative_error(value, reference):
    """||value - reference|| / ||reference||, computed in float64."""
    value, reference = value.double(), reference.double()
    return ((value - reference).norm() / reference.norm()).item()


def check(X, y, w_init):
    """{witness: relative error} at w_init (d, 1), and how `==` fares; all in float64."""
    closed = closed_form_gradient(X, y, w_init)
    autograd = autograd_gradient(X, y, w_init)
    differences = finite_difference_gradient(X, y, w_init)
    factored = 2 * X.T @ (X @ w_init - y)  # no large vectors cancel; autograd evaluates this form
    closed32 = closed_form_gradient(X.float(), y.float(), w_init.float())
    autograd32 = autograd_gradient(X.float(), y.float(), w_init.float())
    return {
        "float64": relative_error(autograd, closed),
        "finite differences": relative_error(differences, closed),
        "finite differences, factored": relative_error(differences, factored),
        "float32": relative_error(autograd32, closed32),
        "equal": (autograd32 == closed32).double().mean().item(),  # share of entries
        "difference": (autograd32 - closed32).abs().max().item(),
        "gradient": closed.abs().max().item(),
    }


def make_problem(case, scale, device="cpu"):
    """X (n, d) times `scale`, y = X w_true + noise (n, 1) and w_init (d, 1), in float64."""
    torch.manual_seed(1)
    kind = {"dtype": torch.float64, "device": device}
    rows, columns, rank = CASES[case]
    if case == "housing-like":
        X = torch.tensor(HOUSING_COLUMNS, **kind) * (1 + 0.5 * torch.randn(rows, columns, **kind))
    else:
        X = torch.randn(rows, rank, **kind) @ torch.randn(rank, columns, **kind)
    X = scale * X
    w_true, w_init = torch.randn(2, columns, 1, **kind)
    return X, X @ w_true + torch.randn(rows, 1, **kind), w_init


# ------------------------------------------------------------------------------------- results
def summarise(results):
    """Numbers of {case/quantity: [at each scale]}: the worst, but of "equal" the mean."""
    numbers = {"cases": len(CASES) * len(SCALES)}
    for name, values in results.items():
        numbers[name] = float(np.mean(values) if name.endswith("equal") else np.max(values))
        numbers[f"{name}, scale 1"] = values[SCALES.index(1)]
    for witness in (*TOLERANCE, "finite differences, factored"):
        errors = [results[f"{case}/{witness}"] for case in CASES]
        numbers[f"worst/{witness}"] = float(np.max(errors))  # a NaN stays
    return numbers | {f"tolerance/{witness}": limit for witness, limit in TOLERANCE.items()}


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
    results = {}
    for case in CASES:
        for scale in SCALES:
            for name, value in check(*make_problem(case, scale, device)).items():
                results.setdefault(f"{case}/{name}", []).append(value)
    numbers = summarise(results)
    print("relative errors, the largest over all scales, and the share of `==` in float32")
    for case in CASES:
        cells = [f"{name} {numbers[f'{case}/{name}']:.1e}" for name in TOLERANCE]
        print(f"{case:16}", *cells, f"equal {numbers[f'{case}/equal']:.0%}", sep="    ")
    print(f"largest relative error in float64: {numbers['worst/float64']:.1e}")
    failed = [name for name, limit in TOLERANCE.items() if not numbers[f"worst/{name}"] <= limit]
    if failed:
        sys.exit(f"p1.py: too large a relative error: {', '.join(failed)}")
    write_record(args.out_dir / "p1.json", args, device, numbers=numbers, curves={},
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
