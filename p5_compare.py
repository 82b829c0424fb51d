"""Problems 5.3, 5.5 and 5.6: a judge that scores the samples of every finished run of one data set.

    python p5_compare.py [--dataset mnist]    every runs/*_samples.npz of Fashion-MNIST, or of MNIST
    python p5_compare.py 'lever_*'            only these runs, into plots/p5_compare_part.json

A file belongs to the data set in its record <run>.json; without one, to MNIST if "mnist" is a word of its name and
"fashion" is not, else to Fashion-MNIST. Its first 10 000 images are scored; agreement and cas, the accuracy on real
test images of a judge trained on the samples, take all. sharpness: mean difference of a pixel and the one below, as a
share of the test images'. Distances are between the judge's 128 penultimate features: frechet to the test images,
frechet_train, by which to choose, to the training images. Runs *_seed<k> are not searched for copies. Row real: ten
draws of training images (mean, _sd); all but distances and neighbours are the test images'; cas: the judge's accuracy.
"""
import argparse
import contextlib
import io
import json
import shlex
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
COUNT, NEAR, WIDE = 10_000, 3, 5  # samples compared; neighbours that set the radii of precision, of density
NAMES = {"mnist": "0123456789", "fashion": ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt",
                                            "sneaker", "bag", "boot")}
RUNS = {"vae": ("VAE", "vae.py", "mnist"), "gan": ("GAN", "gan.py", "fashion"),  # title, command, its own data set
        "cgan": ("Conditional GAN", "gan.py --conditional", "fashion")}
COLUMNS = ("frechet", "frechet_ratio", "precision", "recall", "coverage", "tv", "agreement", "cas", "copies")


# ------------------------------------------------------------- helpers, the same text in every script that has them
STYLE = {"backend": "Agg", "font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "image.cmap": "gray",
         "figure.constrained_layout.use": True, "pdf.fonttype": 42, "legend.frameon": False, "lines.linewidth": 1.2}


def load_dataset(name, data_dir):
    """(train images, labels, test images, labels) as uint8 (N, 28, 28) and (N,); OSError names a file not to be had."""
    dataset, tensors = {"mnist": torchvision.datasets.MNIST, "fashion": torchvision.datasets.FashionMNIST}[name], []
    for file in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        path = Path(data_dir, dataset.__name__, "raw", f"{file}-ubyte")
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                path.exists() or dataset(data_dir, download=True)
            tensors.append(torchvision.datasets.mnist.read_sn3_pascalvincent_tensor(path))
            shape = (len(tensors[-1]), 28, 28) if "images" in file else (len(tensors[-2]),)
            assert tensors[-1].shape == shape and 0 not in shape and ("images" in file or tensors[-1].max() < 10)
        except Exception as error:
            fault = "is damaged: delete it" if path.exists() else "is missing and cannot be downloaded: go online"
            raise OSError(f"{path} {fault}, name another --data-dir, or run `make demo` (no download)") from error
    return tensors


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


@contextlib.contextmanager
def claim(path, out_dir):
    """Lock `path`, and another name in `out_dir`, so that no two runs of one name mix; OSError: another has one."""
    with contextlib.ExitStack() as locks:
        for lock in (path, out_dir / f".out{path.name}"):  # two names, since the folder may be the same
            lock.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=lock.parent).close()  # one not to be written is found now, not after training
            try:  # SQLite locks alike on every system
                locks.enter_context(contextlib.closing(sqlite3.connect(lock, timeout=0))).execute("BEGIN EXCLUSIVE")
            except sqlite3.Error as error:
                raise OSError(f"{lock}: {error}: let the other run end, or name other --runs-dir, --out-dir") from error
        yield


# ---------------------------------------------------------------------------------------- judge, measures and figures
def get_judge(path, images, labels, args):
    """A small CNN from (B, 1, 28, 28) in [0, 1] to logits (B, 10), or, less its last two layers, features (B, 128):
    trained on images uint8 (N, 28, 28) and labels (N,), or read from `path` where that was done before."""
    recipe = {"epochs": args.epochs, "seed": args.seed, "images": int(images.sum()), "labels": int(labels.sum())}
    torch.manual_seed(args.seed)
    layers = []
    for a, b, pool in ((1, 32, 2), (32, 64, 2), (64, 128, 1), (128, 128, 2)):
        layers += nn.Conv2d(a, b, 3, padding=1, bias=False), nn.MaxPool2d(pool), nn.BatchNorm2d(b), nn.ReLU()
    judge = nn.Sequential(*layers, nn.Flatten(), nn.Linear(1152, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 10))
    judge.to(images.device, memory_format=torch.channels_last)  # CPUs convolve this layout faster
    with contextlib.suppress(Exception):  # what is absent, damaged or of another recipe is made anew
        state = torch.load(path, map_location=images.device, weights_only=True)
        if state["recipe"] == recipe:
            judge.load_state_dict(state["model"])
            return judge.eval()
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.05)
    batches = [batch for _ in range(args.epochs) for batch in torch.randperm(len(images)).split(256)]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=len(batches))
    for batch in tqdm(batches, desc=path.stem, unit="batch", disable=None):
        top, left = torch.randint(3, (2,)).tolist()  # every batch is moved by up to one pixel
        x = F.pad(images[batch, None].float() / 255, (1, 1, 1, 1))[..., top:top + 28, left:left + 28]
        if args.dataset == "fashion":  # clothes, unlike digits, may be mirrored
            x = torch.where(torch.rand(len(x), 1, 1, 1).to(x.device) < 0.5, x.flip(3), x)
        optimizer.zero_grad()
        F.cross_entropy(judge(x), labels[batch].long()).backward()
        optimizer.step()
        schedule.step()
    torch.save({"recipe": recipe, "model": judge.state_dict()}, buffer := io.BytesIO())
    with replacing(path) as part:
        part.write_bytes(buffer.getvalue())  # torch.save itself would hide a full disk behind a RuntimeError
    return judge.eval()


@torch.no_grad()
def judged(judge, images, labels=None):
    """Features (N, 128) and classes (N,) that the judge gives to images uint8 (N, 28, 28), and counts (10, 10) or None:
    how many that are, or were asked to be, of the row's class are judged to be of the column's."""
    features = torch.cat([judge[:-2](part[:, None].float() / 255) for part in images.split(1000)])
    classes = judge[-1](features).argmax(1)
    counts = None if labels is None else np.histogram2d(labels.cpu(), classes.cpu(), bins=range(11))[0].astype(int)
    return features, classes, counts


def frechet_distance(x, y):
    """|m - n|^2 + tr(S + T - 2 (S T)^(1/2)) of Gaussians fitted to x and y (N, D) (Heusel et al. 2017, 1706.08500)."""
    S, T = torch.cov(x.double().T), torch.cov(y.double().T)
    values, vectors = torch.linalg.eigh(S)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T  # S^(1/2) T S^(1/2) has the eigenvalues of S T
    cross = torch.linalg.eigvalsh(root @ T @ root).clamp(min=0).sqrt().sum()
    return ((x.double().mean(0) - y.double().mean(0)).square().sum() + S.trace() + T.trace() - 2 * cross).item()


def radii(x):
    """Distances of points x (N, D) to their NEAR-th and WIDE-th nearest other points, each (N,)."""
    nearest = torch.cat([torch.cdist(part, x).topk(WIDE + 1, largest=False).values for part in x.split(1000)])
    return nearest[:, NEAR], nearest[:, WIDE]  # column 0 is the point itself


def quality(x, real):
    """Of features x (M, D) against real.features (N, D), whose radii() are real.radii: Frechet distances, precision and
    recall (Kynkaanniemi et al. 2019, 1904.06991), density and coverage (Naeem et al. 2020, 2002.09797)."""
    distance, (near, wide) = torch.cdist(x, real.features), real.radii  # (M, N): 400 MB
    inside = distance <= wide
    return {"frechet": frechet_distance(x, real.features), "frechet_train": frechet_distance(x, real.train_features),
            "precision": (distance <= near).any(1).float().mean().item(),
            "recall": (distance <= radii(x)[0][:, None]).any(0).float().mean().item(),
            "density": inside.sum().item() / WIDE / len(x), "coverage": inside.any(0).float().mean().item()}


def abundance(classes, counts, seed):
    """Shares of judged classes (N,), raw and corrected, with 95 % intervals; tv, their variation distance from uniform.

    Corrected shares p solve C^T p = q: q are the raw ones, C[i, j] how often real test images of class i are judged j
    (`counts`, (10, 10)), as samples are taken to be. p sums to 1 by itself; where noise makes it negative it is set to
    0 and the rest rescaled. Intervals: Wilson's for q; for p, percentiles of 1000 multinomial draws of both q and C."""
    count, totals, draw = len(classes), counts.sum(1), np.random.default_rng(seed).multinomial
    q, C, z2 = np.bincount(classes.cpu(), minlength=10) / count, counts / totals.clip(1)[:, None], 1.96**2 / count
    half = np.sqrt(z2 * q * (1 - q) + z2**2 / 4)
    shares = np.concatenate((q[None], draw(count, q, 1000) / count))  # the first as seen, the others drawn
    rates = np.concatenate((C[None], draw(totals, C, (1000, 10)) / totals.clip(1)[:, None]))
    p = (shares[:, None] @ np.linalg.pinv(rates))[:, 0].clip(0)
    p /= p.sum(1, keepdims=True)
    rows = {"share": (q, (q + z2 / 2 - half) / (1 + z2), (q + z2 / 2 + half) / (1 + z2)),
            "corrected": (p[0], *np.percentile(p[1:], (2.5, 97.5), axis=0))}
    return {"tv": abs(q - 0.1).sum() / 2, "tv_corrected": abs(p[0] - 0.1).sum() / 2,
            **{f"{name}_{c}{end}": values[c] for name, row in rows.items()
               for end, values in zip(("", "_low", "_high"), row) for c in range(10)}}


def nearest_training(images, training):
    """Distance and index (N,) of the nearest of `training` to `images`, both uint8: L2 over pixels in [0, 1]."""
    images, training = (x.flatten(1).float() / 255 for x in (images, training))
    squares, found = training.square().sum(1), []
    for x in images.split(500):
        square, index = torch.addmm(squares, x, training.T, alpha=-2).min(1)  # |t|^2 - 2 x t, still without |x|^2
        found.append(((square + x.square().sum(1)).clamp(min=0).sqrt(), index))
    return map(torch.cat, zip(*found))


def score(run, images, labels, judge, real, args):
    """One run's images uint8 (N, 28, 28) and labels (N,) or None: its numbers, and what the figures show of it."""
    features, classes, counts = judged(judge, images[:COUNT] if labels is None else images, labels)
    images, features, classes = images[:COUNT], features[:COUNT], classes[:COUNT]
    six = [images[classes == c][:6] for c in range(10)]
    sheet = torch.cat([F.pad(some, (0, 0, 0, 0, 0, 6 - len(some)), value=128) for some in six])  # grey where none are
    diversity = np.divide(*[[torch.pdist(x[c == k][:1000]).mean().item() for k in range(10)]  # nan below two images
                            for x, c in ((features, classes), (real.features, real.classes))])
    row = argparse.Namespace(counts=counts, sheet=sheet, pairs=torch.full_like(sheet, 128), numbers={
        **quality(features, real), **abundance(classes, real.counts, args.seed), "diversity": np.nanmean(diversity),
        "sharpness": np.divide(*[x.float().diff(dim=1).abs().mean().item() for x in (images, real.images)]),
        **{f"diversity_{c}": d for c, d in enumerate(diversity)}})
    if labels is not None:
        row.numbers |= {f"agreement_{c}": counts[c, c] / counts[c].sum() for c in range(10) if counts[c].any()}
        row.numbers["agreement"] = np.trace(counts) / len(labels)
    if "_seed" not in run:
        row.distance, index = nearest_training(images, real.training)
        row.numbers["copies"] = (row.distance < real.close).float().mean().item()
        near = row.distance.argsort()[:30]  # five rows of six, each over the row of their neighbours
        row.pairs = torch.stack((images[near].view(5, -1), real.training[index[near]].view(5, -1)), 1).view(60, 28, 28)
    return row


def draw_shares(rows, names):
    """Shares of the ten classes with their intervals, raw and corrected, against the uniform line."""
    figure, panels = plt.subplots(2, 1, figsize=(6.5, 2.9), sharex=True, sharey=True)
    for axes, kind in zip(panels, ("share", "corrected")):
        axes.axhline(10, color="0.6", linewidth=0.8, label="uniform")
        for place, (title, row) in enumerate(rows.items()):
            at, low, high = (100 * np.array([row.numbers[f"{kind}_{c}{end}"] for c in range(10)])
                             for end in ("", "_low", "_high"))
            axes.errorbar(np.arange(10) + 0.15 * (place - (len(rows) - 1) / 2), at, np.abs((at - low, high - at)),
                          fmt="os^Dv"[place], color=f"C{place}", markersize=3.5, linewidth=0.8, label=title)
        axes.set(ylabel=f"{kind.replace('share', 'judged')} share [%]", xticks=range(10), xticklabels=names)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(rows) + 1)
    return figure


def draw_tiles(panels, names):
    """{title: 60 uint8 images} side by side, 6 to a row, `names` beside the rows, on one fixed grey scale."""
    figure, places = plt.subplots(1, len(panels), figsize=(6.5, 0.3 + 9.7 / len(panels)), squeeze=False)
    for axes, (title, images) in zip(places[0], panels.items()):
        axes.imshow(torchvision.utils.make_grid(images[:, None].cpu(), 6, pad_value=128)[0].numpy(), vmin=0, vmax=255)
        axes.set(title=title, xticks=[], yticks=range(16, 316, 30), yticklabels=names if axes is places[0, 0] else [])
    return figure


def draw_confusion(rows, names):
    """Of each class asked for (of real images: each true class), the share judged to be of each class."""
    rows = [(title, row.counts) for title, row in rows.items() if row.counts is not None][:2]
    figure, panels = plt.subplots(1, len(rows), figsize=(3.25 * len(rows), 3.2), squeeze=False)
    for axes, (title, counts) in zip(panels[0], rows):
        percent = (100 * counts / counts.sum(1, keepdims=True).clip(1)).round().astype(int)
        axes.imshow(percent, cmap="gray_r", vmin=0, vmax=100)
        for (i, j), value in np.ndenumerate(percent):
            axes.text(j, i, value or "", ha="center", va="center", size=6, color="w" if value > 50 else "k")
        axes.set(title=f"{title} [% of row]", xlabel="judged", ylabel="true" if title == "real" else "asked for")
        axes.set_xticks(range(10), names, rotation=90)
        axes.set_yticks(range(10), names)
    return figure


def parse_args(argv=None):
    """The command line (default: sys.argv), checked; a wrong one ends with status 2 and one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: {message} (--help lists every flag)\n")
    parser.add_argument("runs", nargs="*", metavar="RUN", help="score only these; may be patterns such as 'lever_*'")
    parser.add_argument("--dataset", choices=NAMES, default="fashion")
    parser.add_argument("--epochs", type=int, default=12, help="passes of a judge over its images, 1 to 1000")
    parser.add_argument("--seed", type=int, default=1, help="seed of every random number, 0 to 2147483648")
    parser.add_argument("--cas", metavar="PATTERN", help="the conditional runs that get a cas; default: cgan_<dataset>")
    parser.add_argument("--no-cuda", action="store_true", help="stay on the CPU")
    parser.add_argument("--data-dir", type=Path, default=HERE / "data", help="torchvision's root")
    parser.add_argument("--out-dir", type=Path, default=HERE / "plots", help="for figures and the record")
    parser.add_argument("--runs-dir", type=Path, default=HERE / "runs", help="where samples and the judge are")
    args = parser.parse_args(argv)
    if not (1 <= args.epochs <= 1000 and 0 <= args.seed <= 2**31):
        parser.error(f"--epochs {args.epochs} is not in 1 to 1000, or --seed {args.seed} not in 0 to 2147483648")
    args.command = shlex.join(["python", Path(__file__).name, *(sys.argv[1:] if argv is None else argv)])
    return args


def dataset_of(run, out_dir):
    """The data set of a run: by its record, else by its name."""
    with contextlib.suppress(StopIteration, OSError, ValueError, LookupError, TypeError):
        return json.loads(next(out_dir.rglob(f"{run}.json")).read_text())["settings"]["dataset"]
    words = run.replace("-", "_").split("_")
    return "mnist" if "mnist" in words and "fashion" not in words else "fashion"


def find_samples(args, device):
    """{run: (images uint8 (N, 28, 28), labels (N,) or None)} of the runs to score; prints what makes a missing one."""
    commands = {f"{run}_{args.dataset}": f"python {command}" + f" --dataset {args.dataset}" * (args.dataset != default)
                for run, (_, command, default) in RUNS.items()}
    names = sorted(path.name.removesuffix("_samples.npz") for path in args.runs_dir.glob("[!.]*_samples.npz"))
    there = [run for run in names if dataset_of(run, args.out_dir) == args.dataset]
    if absent := [want for want in args.runs or ["*"] if not any(Path(run).match(want) for run in there)]:
        raise OSError(f"no samples of {args.dataset} named {' '.join(absent)} in {args.runs_dir}; to make some: "
                      + ", ".join(commands.values()))
    wanted = [run for want in args.runs or ["*"] for run in (*commands, *there) if Path(run).match(want)]
    for run in [run for run in commands if run in wanted and run not in there]:
        print(f"{args.runs_dir / run}_samples.npz is missing; this makes it: {commands[run]}")
    samples = {}
    for run in [run for run in dict.fromkeys(wanted) if run in there]:
        path = args.runs_dir / f"{run}_samples.npz"
        try:
            with path.open("rb") as stream, np.load(stream) as file:
                images, labels = file["images"], file.get("labels")
            assert images.dtype == np.uint8 and images.shape[1:] == (28, 28) and len(images) >= 30
            assert labels is None or labels.shape == images.shape[:1] and np.isin(labels, range(10)).all()
            samples[run] = [x if x is None else torch.tensor(np.uint8(x)).to(device) for x in (images, labels)]
        except Exception as error:
            raise OSError(f"{path} is damaged or no sample file: it should hold images, uint8 (N, 28, 28), N >= 30, "
                          "and if conditional labels (N,) from 0 to 9; make it again or delete it") from error
    return samples


def compare(args):
    """Score every run asked for, print and draw what comes out, and write the record."""
    device, start = choose_device(args.no_cuda), time.perf_counter()
    samples = find_samples(args, device)
    train, train_labels, test, test_labels = (x.to(device) for x in load_dataset(args.dataset, args.data_dir))
    judge = get_judge(args.runs_dir / f"judge_{args.dataset}.pt", train, train_labels, args)
    features, classes, counts = judged(judge, test, test_labels)
    real = argparse.Namespace(images=test, features=features, classes=classes, counts=counts, radii=radii(features),
                              training=train, train_features=judged(judge, train)[0], close=0.0)
    rows = {"real": (row := score("real", test, test_labels, judge, real, args))}
    real.close = row.distance.quantile(0.01)  # a sample nearer than this to a training image counts as a copy
    torch.manual_seed(args.seed)
    draws = [quality(real.train_features[torch.randperm(len(train))[:len(test[:COUNT])]], real) for _ in range(10)]
    for name in ("frechet", "precision", "recall", "density", "coverage"):
        row.numbers |= {name: np.mean([d[name] for d in draws]), f"{name}_sd": np.std([d[name] for d in draws], ddof=1)}
    row.numbers |= {"copies": 0.01, "cas": row.numbers["agreement"]}
    for run, (images, labels) in samples.items():
        rows[run] = score(run, images, labels, judge, real, args)
        if labels is not None and Path(run).match(args.cas or f"cgan_{args.dataset}"):
            counts = judged(get_judge(args.runs_dir / f"judge_{run}.pt", images, labels, args), test, test_labels)[2]
            rows[run].numbers["cas"] = np.trace(counts) / counts.sum()
    numbers = {"judge/accuracy": (row.numbers["agreement"], ".3f")}
    print(f"{'':24}", *(f"{name:>13}" for name in COLUMNS))
    for run, it in rows.items():
        it.numbers["frechet_ratio"] = it.numbers["frechet"] / row.numbers["frechet"]
        print(f"{run:24}", *(f"{it.numbers[name]:13.4f}" if name in it.numbers else f"{'-':>13}" for name in COLUMNS))
        numbers |= {f"{run}/{name}": (float(value), ".1f" if "ratio" in name else ".4f" if "frechet" in name else ".3f")
                    for name, value in it.numbers.items() if np.isfinite(value)}
    titles = {f"{run}_{args.dataset}": title for run, (title, _, _) in RUNS.items()}
    chosen = ["real", *([run for run in samples if run in titles and not args.runs] or list(samples)[:4])]
    shown, names = {titles.get(run, run): rows[run] for run in chosen}, NAMES[args.dataset]
    end = "_mnist" * (args.dataset == "mnist") + "_part" * bool(args.runs)
    sheets, pairs = ({title: vars(it)[what] for title, it in shown.items()} for what in ("sheet", "pairs"))
    for name, figure in (("shares", draw_shares(shown, names)), ("confusion", draw_confusion(shown, names)),
                         ("sheet", draw_tiles(sheets, names)),
                         ("neighbours", draw_tiles(pairs, ["image", "nearest"] * 5))):
        save_figure(figure, args.out_dir / f"p5_{name}{end}.pdf")
    write_record(args.out_dir / f"p5_compare{end}.json", args, device, numbers, seconds=time.perf_counter() - start,
                 curves={f"{r}/confusion": it.counts.tolist() for r, it in rows.items() if it.counts is not None})


def main(argv=None):
    args = parse_args(argv)
    plt.rcParams.update(STYLE)
    torch.backends.cudnn.allow_tf32 = False  # float32 on every device
    with claim(args.runs_dir / f".lock-p5_compare_{args.dataset}", args.out_dir):
        compare(args)


if __name__ == "__main__":
    run(main)
