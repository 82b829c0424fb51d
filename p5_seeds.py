"""Problems 4.3, 5.3 and 5.5 over runs and seeds: means, intervals and figures, from records alone.

    python p5_seeds.py

Read are the records of vae.py and gan.py and the scores that p5_compare.py wrote of their samples,
in plots/ and plots/sweep/. A group is the runs whose names, and so their settings, are equal but
for the seed. Its bases are the group whose name is the longest beginning of its own
(gan_fashion_epochs4 of gan_fashion_epochs4_g-steps2), and what it is without labels (gan_fashion of
cgan_fashion) and with the fitted prior (vae_fashion of normal_vae_fashion). Groups are compared on
the seeds that both have, pair by pair.
    plots/p5_seeds.json     "<group>/count"; "<group>/<measure>/mean", sd; of ratios geomean and, of
                            its logarithm's interval, low, high; "<group>/<measure>/change/<base>",
                            change_low, change_high: the mean difference, of ratios the factor
    plots/p5_seeds_*.pdf    figures, of the runs that are there
Intervals are Student's, at 95 %.
"""
import argparse
import hashlib
import io
import json
import os
import re
import shlex
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    os.environ["MPLBACKEND"] = "agg"  # a notebook hands down its own, which may be missing here
import numpy as np
import torch
from matplotlib import style
from matplotlib.figure import Figure

RATIOS = ("frechet_ratio", "pixel_ratio")
SCORES = (*RATIOS, "precision", "recall", "tv", "smallest_share", "diversity", "sharpness",
          "agreement", "copies")
SHOWN = {"real_fashion": "real", "vae_fashion": "VAE", "gan_fashion": "GAN",
         "cgan_fashion": "Conditional GAN"}
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
           "boot")
# 97.5 % quantiles of Student's distribution with 1 to 9 degrees of freedom
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


# ------------------------------------------------------------------------------ records, groups
def read_records(folder):
    """{name: record} of folder/*.json in today's form, which says of which code it is."""
    records = {}
    for path in sorted(folder.glob("[!.]*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise OSError(f"{path} is damaged: delete it, or make it anew") from error
        if "code" in record:
            records[path.stem] = record
    return records


def find_groups(records):
    """{name: {seed: {measure: number}}} of runs whose names are equal but for the seed."""
    groups = {}
    for run, record in records.items():
        if record["command"].split()[1] not in ("vae.py", "gan.py"):
            continue
        for prefix in ("", "normal_"):  # samples of the fitted prior, of N(0, I)
            scores = records.get(f"{prefix}{run}_scores", {"numbers": {}})["numbers"]
            if prefix and not scores:
                continue
            measures = record["numbers"] | {name: scores[name] for name in SCORES if name in scores}
            name = re.sub(r"_seed\d+", "", prefix + run)
            groups.setdefault(name, {})[record["settings"]["seed"]] = measures
    return groups


def bases_of(name, groups):
    """Names of the groups that `name` is compared with, see the top."""
    starts = [other for other in groups if name.startswith(f"{other}_")]
    bases = {max(starts, key=len, default=name), name.removeprefix("c"),
             name.removeprefix("normal_")}
    return sorted(bases & groups.keys() - {name})


# ------------------------------------------------------------------------- means and intervals
def interval(values, measure):
    """Mean of values (S,) and, where S > 1, the ends of its Student's 95 % interval.

    Of a ratio: of its logarithms, which `values` are, then back.
    """
    found = [np.mean(values)]
    if len(values) > 1:
        quantile = STUDENT[min(len(values) - 2, len(STUDENT) - 1)]
        half = quantile * np.std(values, ddof=1) / len(values)**0.5
        found += [found[0] - half, found[0] + half]
    return np.exp(found) if measure in RATIOS else found


def change(group, base, measure):
    """Change from base to group, both {seed: {measure: number}}, as interval(); [] of no pair."""
    seeds = [seed for seed in group if measure in group[seed] and measure in base.get(seed, {})]
    if not seeds:
        return []
    values = np.array([(group[seed][measure], base[seed][measure]) for seed in seeds])
    if measure in RATIOS:
        values = np.log(values)
    return interval(values[:, 0] - values[:, 1], measure)


def summarise(groups):
    """The record's numbers, see the top."""
    numbers = {}
    for name, group in groups.items():
        numbers[f"{name}/count"] = len(group)
        for measure in set.intersection(*map(set, group.values())):
            values = np.array([measures[measure] for measures in group.values()])
            found = {"mean": values.mean()}
            if len(values) > 1:
                found["sd"] = values.std(ddof=1)
            if measure in RATIOS:
                found |= dict(zip(("geomean", "low", "high"), interval(np.log(values), measure)))
            for base in bases_of(name, groups):
                names = (f"{what}/{base}" for what in ("change", "change_low", "change_high"))
                found |= dict(zip(names, change(group, groups[base], measure)))
            numbers |= {f"{name}/{measure}/{what}": float(value) for what, value in found.items()}
    return dict(sorted(numbers.items()))


# ------------------------------------------------------------------------------------- figures
def draw_training(path, records):
    """Losses of both nets of the two headline GANs, a mean for each epoch."""
    figure = Figure(figsize=(6.9, 1.9))
    panels = figure.subplots(1, 2)
    for axes, name, blind in zip(panels, ("d_loss", "g_loss"), (2 * np.log(2), np.log(2))):
        axes.axhline(blind, color="0.6", linewidth=0.8, label="D says one half")
        for run, line in (("gan_fashion", "ko-"), ("cgan_fashion", "C3s--")):
            curve = records.get(run, {"curves": {}})["curves"].get(name, [])
            axes.plot(range(1, len(curve) + 1), curve, line, markersize=2.5, linewidth=0.8,
                      label=SHOWN[run])
        axes.set(xlabel="epoch", ylabel=f"loss of {name[0].upper()}")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    save_figure(figure, path)


def draw_shares(path, records):
    """Shares of the classes with Wilson's intervals, against uniform."""
    figure = Figure(figsize=(6.9, 2.2))
    axes = figure.subplots()
    axes.axhline(10, color="0.6", linewidth=0.8, label="uniform")
    for place, (run, label) in enumerate(SHOWN.items()):
        numbers = records.get(f"{run}_scores", {"numbers": {}})["numbers"]
        if numbers:
            percent, low, high = (100 * np.array([numbers[f"share_{c}{end}"] for c in range(10)])
                                  for end in ("", "_low", "_high"))
            axes.errorbar(np.arange(10) + 0.15 * (place - 1.5), percent,
                          (percent - low, high - percent), fmt="os^D"[place], markersize=2.5,
                          linewidth=0.8, label=label)
    axes.set(ylabel="share of a class [%]")
    axes.set_xticks(range(10), CLASSES)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=5)
    save_figure(figure, path)


def draw_paths(path, records):
    """Share of images near a real one along straight lines and arcs between two z."""
    figure = Figure(figsize=(3.5, 2.2))
    axes = figure.subplots()
    for run, color in (("gan_fashion", "k"), ("cgan_fashion", "C3")):
        curves = records.get(f"{run}_scores", {"curves": {}})["curves"]
        for kind, line in (("line", "--"), ("arc", "-")):
            shares = curves.get(f"{kind}_inside", [])
            axes.plot(np.linspace(0, 1, len(shares)), shares, line, color=color,
                      label=f"{SHOWN[run]}, {kind}")
    axes.set(xlabel="way from one z to the other", ylabel="near a real image")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    save_figure(figure, path)


# --------------------------------------------------------------------------------- command line
def parse_args():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out-dir", type=Path, default=HERE / "plots",
                        help="has the records, gets the figures")
    return parser.parse_args()


def main():
    args = parse_args()
    records = read_records(args.out_dir / "sweep") | read_records(args.out_dir)
    judges = {record["judge"] for record in records.values() if "judge" in record}
    if len(judges) > 1:
        raise OSError(f"{args.out_dir} has scores by {len(judges)} judges: score those runs again")
    groups = find_groups(records)
    if not groups:
        raise OSError(f"{args.out_dir} has no records of vae.py or gan.py in today's form")
    numbers = summarise(groups)
    stem = args.out_dir / "p5_seeds"
    draw_training(f"{stem}_training.pdf", records)
    draw_shares(f"{stem}_shares.pdf", records)
    draw_paths(f"{stem}_paths.pdf", records)
    for run in ("gan_fashion", "cgan_fashion"):  # ends and middle of the ways between two z
        curves = records.get(f"{run}_scores", {"curves": {}})["curves"]
        for name, shares in curves.items():
            numbers[f"{run}/{name}/ends"] = (shares[0] + shares[-1]) / 2
            numbers[f"{run}/{name}/middle"] = shares[len(shares) // 2]
    write_record(f"{stem}.json", args, torch.device("cpu"), numbers=numbers, curves={},
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
