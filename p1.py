"""Problem 1.2: the gradient of least squares from autograd, checked against its closed form.

    python p1.py

For the loss ||Xw - y||^2 the closed form (derived in the report, section 1.1) is 2 X^T X w - 2 X^T y. Two floating
point routes to it round differently, so equality is asked for in the relative normwise sense, in float64; float32
and `==` stand beside it to show why. Central finite differences are the third witness: they use the loss alone.
Prints a table, writes plots/p1.json and plots/p1_error.pdf, and exits with status 1 when a case fails.
"""
import argparse
import contextlib
import json
import shlex
import sys
import time
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
import torchvision

HERE = Path(__file__).resolve().parent
SCALES = [10.0**power for power in range(-3, 7)]  # factors on X
CASES = {  # name: (rows, columns, rank, bias column)
    "tall": (1000, 8, 8, False),
    "tall, bias": (1000, 8, 8, True),
    "wide": (20, 100, 20, False),
    "wide, bias": (20, 100, 20, True),
    "rank-deficient": (200, 10, 4, False),
    "one row": (1, 8, 1, False),
    "one row, bias": (1, 8, 1, True),
    "housing-like": (20640, 8, 8, False),
}
# Orders of magnitude of the columns of the California housing table, so that the gradient is as large as there.
HOUSING_COLUMNS = torch.tensor([4.0, 30.0, 5.0, 1.0, 1400.0, 3.0, 36.0, -120.0], dtype=torch.float64)
# Relative normwise errors that pass. Each is 10^4 to 10^6 times the rounding unit: sums over up to 20640 rows, and the
# difference of the two terms, enlarge it; a forgotten factor 2 gives an error of 1.
TOLERANCE = {"float64": 1e-12, "float32": 1e-3, "finite differences": 1e-10}


def squared_error(X, y, w):
    """||Xw - y||^2, a scalar, for X (n, d), y (n, 1), w (d, 1)."""
    return (X @ w - y).square().sum()


def closed_form_gradient(X, y, w):
    """(a) 2 X^T X w - 2 X^T y, (d, 1)."""
    return 2 * X.T @ (X @ w) - 2 * X.T @ y


def autograd_gradient(X, y, w):
    """(b) The same gradient by reverse-mode differentiation of the loss, (d, 1)."""
    w = w.detach().clone().requires_grad_()
    squared_error(X, y, w).backward()
    return w.grad


def finite_difference_gradient(X, y, w):
    """Central differences of the loss, (d, 1).

    They are exact for a quadratic at any step, so only rounding speaks: the step moves Xw by about the residual.
    """
    size = (X @ w - y).norm() / X.norm()
    steps = size * torch.eye(len(w), dtype=w.dtype, device=w.device).unsqueeze(2)  # (d, d, 1)
    slopes = [(squared_error(X, y, w + step) - squared_error(X, y, w - step)) / (2 * size) for step in steps]
    return torch.stack(slopes)[:, None]


def relative_error(value, reference):
    """||value - reference|| / ||reference||, computed in float64."""
    value, reference = value.double(), reference.double()
    return ((value - reference).norm() / reference.norm()).item()


def make_problem(case, scale, seed):
    """Data of a case in float64: X (n, d) times `scale`, y = X w_true + noise (n, 1), w_init (d, 1)."""
    rows, columns, rank, bias = CASES[case]
    torch.manual_seed(seed)
    if case == "housing-like":
        X = HOUSING_COLUMNS * (1 + 0.5 * torch.randn(rows, columns, dtype=torch.float64))
    else:
        X = torch.randn(rows, rank, dtype=torch.float64) @ torch.randn(rank, columns, dtype=torch.float64)
    X = scale * X
    if bias:
        X = torch.cat((X, torch.ones(rows, 1, dtype=torch.float64)), dim=1)
    w_true, w_init = torch.randn(2, X.shape[1], 1, dtype=torch.float64)
    y = X @ w_true + torch.randn(rows, 1, dtype=torch.float64)
    return X, y, w_init


def check(case, scale, seed, device):
    """(c) Compare the gradients at w_init; {witness: relative error}, and how `==` fares in float32."""
    X, y, w_init = (tensor.to(device) for tensor in make_problem(case, scale, seed))
    closed = closed_form_gradient(X, y, w_init)
    single = [tensor.float() for tensor in (X, y, w_init)]
    factored = 2 * X.T @ (X @ w_init - y)  # without the difference of two large terms
    closed32, autograd32 = closed_form_gradient(*single), autograd_gradient(*single)
    return {
        "float64": relative_error(autograd_gradient(X, y, w_init), closed),
        "finite differences": relative_error(finite_difference_gradient(X, y, w_init), closed),
        "factored": relative_error(autograd_gradient(X, y, w_init), factored),
        "float32": relative_error(autograd32, closed32),
        "equal": (autograd32 == closed32).double().mean().item(),  # share of entries
        "difference": (autograd32 - closed32).abs().max().item(),
        "gradient": closed.abs().max().item(),
    }


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


def draw_errors(path, results):
    """Relative error against the scale of X: one thin line per case, the housing-like one thick."""
    figure, panels = plt.subplots(1, 3, figsize=(6.5, 1.8), sharey=True)
    for axes, witness in zip(panels, TOLERANCE):
        for case in CASES:
            errors = [max(results[case, scale][witness], 1e-17) for scale in SCALES]  # an exact 0 has no logarithm
            thick = case == "housing-like"
            axes.loglog(SCALES, errors, color="C3" if thick else "0.6", linewidth=1.6 if thick else 0.7,
                        marker="o" if thick else None, markersize=3, label=case if thick else None)
        axes.axhline(TOLERANCE[witness], linestyle="--", color="black", linewidth=0.8, label="tolerance")
        axes.set(xlabel="scale of X", title=f"autograd, {witness}" if witness.startswith("float") else witness)
    panels[0].set_ylabel("relative error")
    panels[0].legend(loc="center right")
    save_figure(figure, path)


def parse_args(argv=None):
    """The command line (default: sys.argv), checked; a wrong one ends with status 2 and one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: {message} (--help lists every flag)\n")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-cuda", action="store_true", help="stay on the CPU")
    parser.add_argument("--out-dir", type=Path, default=HERE / "plots", help="for the figure and the record")
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(argv)
    if not 0 <= args.seed <= 2**31:
        parser.error(f"--seed {args.seed} is not between 0 and {2**31}")
    args.command = shlex.join(["python", Path(__file__).name, *argv])
    return args


def main(argv=None):
    args = parse_args(argv)
    device = choose_device(args.no_cuda)
    plt.rcParams.update(STYLE)
    start = time.perf_counter()
    results = {(case, scale): check(case, scale, args.seed, device) for case in CASES for scale in SCALES}

    print(f"{'case':16}{'scale of X':>11}{'autograd':>11}{'differences':>13}{'float32':>10}{'float32 ==':>12}  verdict")
    failed = 0
    for (case, scale), result in results.items():
        passed = all(result[witness] <= TOLERANCE[witness] for witness in TOLERANCE)  # so a NaN fails
        failed += not passed
        print(f"{case:16}{scale:11.0e}{result['float64']:11.1e}{result['finite differences']:13.1e}"
              f"{result['float32']:10.1e}{result['equal']:12.0%}  {'pass' if passed else 'FAIL'}")

    numbers = {"cases": (len(results), "d"), "failed": (failed, "d")}
    for case in CASES:
        for name in results[case, 1.0]:
            values = [results[case, scale][name] for scale in SCALES]
            numbers[f"{case}/{name}"] = (np.mean(values).item(), ".0%") if name == "equal" else (max(values), ".1e")
            numbers[f"{case}/{name}, scale 1"] = (results[case, 1.0][name], ".0%" if name == "equal" else ".1e")
    numbers["worst/factored"] = (max(result["factored"] for result in results.values()), ".2g")
    for witness, tolerance in TOLERANCE.items():
        numbers[f"worst/{witness}"] = (max(result[witness] for result in results.values()), ".1e")
        numbers[f"tolerance/{witness}"] = (tolerance, ".0e")
    draw_errors(args.out_dir / "p1_error.pdf", results)
    write_record(args.out_dir / "p1.json", args, device, numbers, seconds=time.perf_counter() - start, curves={})
    if failed:
        sys.exit(f"p1.py: {failed} of {len(results)} cases fail; the table above says which")
    print(f"all {len(results)} cases pass; record and figure: {args.out_dir / 'p1'}*")


if __name__ == "__main__":
    run(main)
