"""Problem 1.2: the gradient of least squares from autograd, checked against its closed form.

    python p1.py
    python p1.py --housing CSV     on a table of numbers too, such as the California housing one;
                                   its last column is the target, a header line is allowed

It prints a table, writes plots/p1.json and plots/p1_error.pdf (with --housing: p1_housing), and
ends with status 1 where a case fails.

The closed form of the gradient of ||Xw - y||^2 is 2 X^T X w - 2 X^T y (section 1.1 of the report).
Autograd comes to it by other sums, which round differently, so what is asked for is a small
relative error of norms, in float64. float32 and `==` stand beside it to show why. Central finite
differences are the third witness: they use the loss alone. They are held against the factored form
2 X^T (Xw - y) too, which is exactly what autograd's backward evaluates.
"""
import argparse
import contextlib
import errno
import io
import json
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

HERE = Path(__file__).resolve().parent

SCALES = [10.0**power for power in range(-3, 7)]  # factors on X
CASES = {  # name: (rows, columns, rank, whether a bias column of ones is added)
    "tall": (1000, 8, 8, False),
    "tall, bias": (1000, 8, 8, True),
    "wide": (20, 100, 20, False),
    "wide, bias": (20, 100, 20, True),
    "rank-deficient": (200, 10, 4, False),
    "one row": (1, 8, 1, False),
    "one row, bias": (1, 8, 1, True),
    "housing-like": (20640, 8, 8, False),
}
# Orders of magnitude of the columns of the California housing table, on which the exercise was
# first set, so that the gradient is as large as there.
HOUSING_COLUMNS = torch.tensor([4.0, 30.0, 5.0, 1.0, 1400.0, 3.0, 36.0, -120.0],
                               dtype=torch.float64)
# Relative errors of norms that pass. Each is 10^4 to 10^6 times the rounding unit: sums over up to
# 20640 rows, and the difference of the two terms, enlarge it; a forgotten factor 2 gives 1.
TOLERANCE = {"float64": 1e-12, "float32": 1e-3, "finite differences": 1e-10}
# Against the factored form. Autograd's is 0, as it evaluates that form, and so proves nothing.
FACTORED = ("factored", "finite differences, factored")


# ------------------------------------------------------------------ the loss and its gradients
def squared_error(X, y, w):
    """||Xw - y||^2, a scalar, for X (n, d), y (n, 1), w (d, 1)."""
    return (X @ w - y).square().sum()


def closed_form_gradient(X, y, w):
    """2 X^T X w - 2 X^T y, (d, 1)."""
    return 2 * X.T @ (X @ w) - 2 * X.T @ y


def autograd_gradient(X, y, w):
    """The same gradient by reverse-mode differentiation of the loss, (d, 1)."""
    w = w.detach().clone().requires_grad_()
    squared_error(X, y, w).backward()
    return w.grad


def factored_gradient(X, y, w):
    """2 X^T (Xw - y), the same gradient without the difference of two large vectors, (d, 1)."""
    return 2 * X.T @ (X @ w - y)


def finite_difference_gradient(X, y, w):
    """Central differences of the loss, (d, 1).

    They are exact for a quadratic at any step, so only rounding is left: a step moves Xw by about
    the residual.
    """
    size = (X @ w - y).norm() / X.norm()
    slopes = []
    for direction in torch.eye(len(w), dtype=w.dtype, device=w.device):
        step = size * direction[:, None]
        rise = squared_error(X, y, w + step) - squared_error(X, y, w - step)
        slopes.append(rise / (2 * size))
    return torch.stack(slopes)[:, None]


# ----------------------------------------------------------------------------------- the check
def is_number(text):
    """Whether float() takes it."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_table(path):
    """X (n, d) and y (n, 1), float64, of a CSV file of numbers; OSError says why it is none.

    The last column is y. A first line without any number is a header.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        lines = [line for line in text.splitlines() if line.strip()]
        if lines and not any(is_number(field) for field in lines[0].split(",")):
            lines = lines[1:]
        if not lines:
            raise ValueError("it has no rows")
        table = np.loadtxt(lines, delimiter=",", comments=None, ndmin=2)
        if table.shape[1] < 2:
            raise ValueError("it has one column only")
        if not np.isfinite(table).all():
            raise ValueError("a number is not finite")
    except (OSError, ValueError) as error:
        cause = " ".join(str(error).split())
        raise OSError(f"{path} is not to be read as a table of numbers: {cause}") from error
    table = torch.from_numpy(table)
    return table[:, :-1], table[:, -1:]


def make_problem(case, scale, seed, device="cpu", table=None):
    """Data of a case: X (n, d) times `scale`, y = X w_true + noise (n, 1), w_init (d, 1).

    In float64, and drawn on the CPU, so that every device gets the same. A case that is none of
    CASES has the X and y of `table`.
    """
    torch.manual_seed(seed)
    if case not in CASES:
        X, y = table
        w_init = torch.randn(X.shape[1], 1, dtype=torch.float64)
        return scale * X.to(device), y.to(device), w_init.to(device)
    rows, columns, rank, bias = CASES[case]
    if case == "housing-like":
        X = HOUSING_COLUMNS * (1 + 0.5 * torch.randn(rows, columns, dtype=torch.float64))
    else:
        X = torch.randn(rows, rank, dtype=torch.float64)
        X = X @ torch.randn(rank, columns, dtype=torch.float64)
    X = scale * X
    if bias:
        X = torch.cat((X, torch.ones(rows, 1, dtype=torch.float64)), dim=1)
    w_true, w_init = torch.randn(2, X.shape[1], 1, dtype=torch.float64)
    y = X @ w_true + torch.randn(rows, 1, dtype=torch.float64)
    return X.to(device), y.to(device), w_init.to(device)


def relative_error(value, reference):
    """||value - reference|| / ||reference||, computed in float64."""
    value = value.double()
    reference = reference.double()
    return ((value - reference).norm() / reference.norm()).item()


def check(X, y, w_init):
    """Compare the gradients at w_init: {witness: relative error}, and how `==` fares in float32."""
    closed = closed_form_gradient(X, y, w_init)
    autograd = autograd_gradient(X, y, w_init)
    differences = finite_difference_gradient(X, y, w_init)
    factored = factored_gradient(X, y, w_init)
    closed32 = closed_form_gradient(X.float(), y.float(), w_init.float())
    autograd32 = autograd_gradient(X.float(), y.float(), w_init.float())
    return {
        "float64": relative_error(autograd, closed),
        "finite differences": relative_error(differences, closed),
        "factored": relative_error(autograd, factored),
        "finite differences, factored": relative_error(differences, factored),
        "float32": relative_error(autograd32, closed32),
        "equal": (autograd32 == closed32).double().mean().item(),  # share of entries
        "difference": (autograd32 - closed32).abs().max().item(),
        "gradient": closed.abs().max().item(),
    }


def passes(result):
    """Whether every witness of a case is within its tolerance; a NaN is not."""
    return all(result[witness] <= tolerance for witness, tolerance in TOLERANCE.items())


def print_table(results):
    """Print a line for each case and scale of {(case, scale): what `check` found}."""
    print("relative errors against the closed form (factored: against 2 X^T (Xw - y))")
    width = max(len(case) for case, _ in results) + 2
    print(f"{'case':{width}}{'scale of X':>11}{'autograd':>11}{'differences':>13}{'factored':>10}"
          f"{'float32':>10}{'float32 ==':>12}  verdict")
    for (case, scale), result in results.items():
        verdict = "pass" if passes(result) else "FAIL"
        print(f"{case:{width}}{scale:11.0e}{result['float64']:11.1e}"
              f"{result['finite differences']:13.1e}"
              f"{result['finite differences, factored']:10.1e}{result['float32']:10.1e}"
              f"{result['equal']:12.0%}  {verdict}")


def numbers_of(cases, results, failed):
    """The record's numbers: of each case the worst over all scales, and that at scale 1.

    Of the shares of equal entries it is the mean. What is not finite, as where a table's squares
    are too large for float32, fails its case and is left out.
    """
    numbers = {"cases": len(results), "failed": failed}
    for case in cases:
        for name, value in results[case, 1.0].items():
            values = [results[case, scale][name] for scale in SCALES]
            numbers[f"{case}/{name}"] = np.mean(values).item() if name == "equal" else max(values)
            numbers[f"{case}/{name}, scale 1"] = value
    for witness in (*FACTORED, *TOLERANCE):
        numbers[f"worst/{witness}"] = max(result[witness] for result in results.values())
    for witness, tolerance in TOLERANCE.items():
        numbers[f"tolerance/{witness}"] = tolerance
    return {name: value for name, value in numbers.items() if np.isfinite(value)}


def fingerprint(args):
    """Norms of the closed-form gradient and of the loss of every case, at scale 1."""
    cases, table = choose_cases(args)
    numbers = []
    for case in cases:
        X, y, w_init = make_problem(case, 1.0, args.seed, table=table)
        numbers.append(closed_form_gradient(X, y, w_init).norm().item())
        numbers.append(squared_error(X, y, w_init).item())
    return numbers


# ------------------------------------------------------------------------------------- figures
def draw_errors(path, cases, results):
    """Relative error against the scale of X: one thin grey line per case, the last one thick."""
    titles = {"float64": "autograd, float64", "float32": "autograd, float32",
              "finite differences": "finite differences"}
    figure = Figure(figsize=(6.9, 1.9))
    panels = figure.subplots(1, 3, sharey=True)
    for axes, (witness, tolerance) in zip(panels, TOLERANCE.items()):
        for case in cases:
            look = {"color": "0.6", "linewidth": 0.7}
            if case == cases[-1]:
                look = {"color": "black", "linewidth": 1.6, "marker": "o", "label": case}
            errors = [results[case, scale][witness] for scale in SCALES]
            drawn = [max(error, 1e-17) for error in errors]  # an exact 0 has no logarithm
            axes.loglog(SCALES, drawn, markersize=3, **look)
        axes.axhline(tolerance, linestyle="--", color="black", linewidth=0.8, label="tolerance")
        axes.set(xlabel="scale of X", title=titles[witness])
    panels[0].set_ylabel("relative error")
    panels[0].legend(loc="center right")
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
    parser.add_argument("--seed", type=number(int, 0, 2**31), default=1, help="of all chance")
    parser.add_argument("--housing", metavar="CSV",
                        help="a table of numbers as a further case; its last column is the target")
    parser.add_argument("--no-cuda", action="store_true", help="stay on the CPU")
    parser.add_argument("--out-dir", type=folder, default=HERE / "plots",
                        help="for the figure and the record")
    args = parser.parse_args(argv)
    prefix = "p1" if args.housing is None else "p1_housing"
    return named(args, prefix, ("housing",), parser, argv)


def choose_cases(args):
    """Names of the cases, and (X, y) of the table, whose case is the last and has its name."""
    if args.housing is None:
        return list(CASES), None
    path = Path(args.housing).expanduser()
    return [*CASES, f"table {path.stem}"], read_table(path)


def main(argv=None):
    args = parse_args(argv)
    with own_settings():
        prepare_folders(args.out_dir)
        device = choose_device(args.no_cuda)
        start = time.perf_counter()
        cases, table = choose_cases(args)
        results = {}
        for case in cases:
            for scale in SCALES:
                problem = make_problem(case, scale, args.seed, device, table)
                results[case, scale] = check(*problem)
        failed = sum(1 for result in results.values() if not passes(result))
        print_table(results)

        stem = f"{args.out_dir / args.run_name}"
        draw_errors(Path(f"{stem}_error.pdf"), cases, results)
        numbers = numbers_of(cases, results, failed)
        write_record(Path(f"{stem}.json"), args, [machine(device)], numbers,
                     headline=("failed", "worst/float64"), fingerprint=fingerprint(args),
                     seconds=time.perf_counter() - start, curves={})
    if failed:
        sys.exit(f"p1.py: {failed} of {len(results)} cases fail; the table above says which")
    print(f"all {len(results)} cases pass; record and figure: {stem}*")


if __name__ == "__main__":
    run(main)
