"""Problems 4.3, 5.3 and 5.5 over seeds: what p5_compare.py measured of families of runs, their spread and changes.

    python p5_seeds.py

Reads what the judges said (JUDGED, p5_compare.json) and the records of the runs <family>_seed<k>, where no seed in
a name is seed 1. Two families are compared on the seeds that both have, pair by pair: one seed stands for the same
order of the images and, where the nets are the same, for the same first weights; both had the same judge. Intervals are
Student's, at 95 %; Frechet distances are compared as ratios, by their logarithms. Writes plots/p5_seeds.json and
plots/p5_seeds_*.pdf.
"""
import argparse
import contextlib
import json
import re
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
SCHEMES = {  # 5.3, the handed-out nets: every family but the first differs from it in one point
    "sweep_base": "base", "sweep_d1_g4": "rates D : G 1 : 4", "sweep_d1_g2": "rates D : G 1 : 2",
    "sweep_d2_g1": "rates D : G 2 : 1", "sweep_d4_g1": "rates D : G 4 : 1", "sweep_g_2": "steps D : G 1 : 2",
    "sweep_g_5": "steps D : G 1 : 5", "sweep_d_2": "steps D : G 2 : 1", "sweep_d_5": "steps D : G 5 : 1",
    "sweep_beta1_0": "beta1 0", "sweep_beta1_09": "beta1 0.9, handed out", "sweep_batch_256": "batch 256",
    "sweep_smoothing": "label smoothing 0.9"}
LEVERS = {  # short runs of the Conditional GAN and of the VAE: whole, and with one part of the recipe taken away;
    # those without labels or without convolutions have no classifier either, so BASES compares them with no_classifier
    "lever_cgan": ("no_labels", "no_convolutions", "no_classifier", "no_ema", "no_r1", "low_rate"),
    "lever_vae": ("full_weight", "no_warmup", "one_layer", "constant_rate", "batch_128")}
YARDSTICK = "vae_fashion_handout"  # the run whose Frechet distance is the unit of the measure yardstick
BASES = (dict.fromkeys(SCHEMES, "sweep_base") | {"gan_fashion": "gan_fashion", "cgan_fashion": "gan_fashion"}
         | {"normal_vae_fashion": "normal_vae_fashion", "vae_fashion": "normal_vae_fashion"}
         | {"normal_lever_vae_whole": "lever_vae_whole"}  # the prior taken away: same decoder, z ~ N(0, I)
         | {f"{net}_{part}": f"{net}_whole" for net, parts in LEVERS.items() for part in ("whole", *parts)}
         | dict.fromkeys(("lever_cgan_no_labels", "lever_cgan_no_convolutions"), "lever_cgan_no_classifier"))
JUDGED = {  # scored where they were trained, by that machine's judge, in this record; all else: p5_compare.json
    "sweep/p5_compare_part.json": {*SCHEMES}}
MEASURES = {"frechet_ratio": ".1f", "yardstick": ".3f", "frechet_train": ".2f", "precision": ".3f", "recall": ".3f",
            "density": ".3f", "coverage": ".3f", "tv": ".3f", "smallest_share": ".3f", "diversity": ".3f",
            "agreement": ".3f", "agreement_gap": ".3f", "sharpness": ".2f", "d_real": ".2f", "d_fake": ".2f",
            "g_updates": ".0f", "d_updates": ".0f", "test_loss": ".2f", "test_reconstruction": ".2f", "test_kl": ".2f",
            "mixture_test_loss": ".2f"}
PICTURES = {"gan_mlp_fashion": "handed out, 24 epochs", "sweep_base_seed1": "base",
            "sweep_long_beta1_0": "beta1 0, 24 epochs", "sweep_d_5_seed1": "D : G 5 : 1",
            "sweep_g_5_seed1": "D : G 1 : 5", "sweep_long_g_5": "D : G 1 : 5, 24 epochs"}
SWINGS = {"gan_mlp_fashion": "beta1 0.9, batch 64", "sweep_long_batch_256": "beta1 0.5, batch 256",
          "sweep_long_beta1_0": "beta1 0, batch 64"}
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # 97.5 % quantiles, by degrees of freedom


def read(path, what):
    """What the function `what` makes of a file that make sweeps wrote; OSError says so where it is not there."""
    try:
        return what(path)
    except Exception as error:
        raise OSError(f"{path} is missing or damaged: run make sweeps") from error


def read_numbers(path):
    """{name: value} of a record."""
    return {name: entry["value"] for name, entry in json.loads(path.read_text())["numbers"].items()}


def read_families(plots):
    """{family: {seed: {measure: value}}} of BASES, from what the judges said and the records of the runs themselves."""
    families = {family: {} for family in BASES}
    for file, own in (JUDGED | {"p5_compare.json": BASES.keys() - set.union(*JUDGED.values())}).items():
        judged = read(path := plots / file, read_numbers)
        for name, value in judged.items():
            family, seed = re.fullmatch(r"(.+?)(?:_seed(\d+))?/.+", name).groups()
            if family in own:
                families[family].setdefault(int(seed or 1), {})[name.split("/")[1]] = value
        for family in own:
            if not 2 <= len(families[family]) <= 10:
                raise OSError(f"{path} has {len(families[family])} runs named {family}_seed<k>, it takes 2 to 10: "
                              "run make sweeps")
            for seed, row in families[family].items():
                run = family.removeprefix("normal_") + f"_seed{seed}" * (f"{family}/frechet" not in judged or seed > 1)
                found = plots / ("sweep" if (plots / f"sweep/{run}.json").exists() else "") / f"{run}.json"
                row |= read(found, read_numbers) | {"smallest_share": min(row[f"share_{c}"] for c in range(10))}
                if f"{YARDSTICK}/frechet" in judged:
                    row["yardstick"] = row["frechet"] / judged[f"{YARDSTICK}/frechet"]
                if "agreement" in row:  # the class that falls furthest short of real images
                    row["agreement_gap"] = max(judged[f"real/agreement_{c}"] - row[f"agreement_{c}"] for c in range(10))
    return families


def column(family, measure, seeds=None):
    """The values (S,) of one measure of a family {seed: {measure: value}} at these seeds, or at all it has."""
    return np.array([family[seed][measure] for seed in seeds or sorted(family)])


def paired(values, others):
    """Mean of the differences values - others, both (S,), a seed each, and the ends of its 95 % Student interval."""
    difference = np.subtract(values, others)
    half = STUDENT[len(difference) - 2] * difference.std(ddof=1) / len(difference)**0.5
    return difference.mean() + half * np.array((0, -1, 1))


def summarise(families):
    """The record's numbers: of every family and measure mean and sd, and the change against BASES with its interval."""
    numbers = {}
    for name, base in BASES.items():
        family, other = families[name], families[base]
        numbers[f"{name}/count"] = len(family), "d"
        for measure in [measure for measure in MEASURES if measure in family[min(family)]]:
            values, spec = column(family, measure), MEASURES[measure]
            numbers[f"{name}/{measure}/mean"] = values.mean().item(), spec
            numbers[f"{name}/{measure}/sd"] = values.std(ddof=1).item(), spec
            if base == name or measure not in other[min(other)]:
                continue
            pairs = [column(it, measure, sorted(family.keys() & other.keys())) for it in (family, other)]
            frechet = "frechet" in measure  # a distance changes by a factor, all others by a difference
            change = np.exp(paired(*np.log(pairs))) if frechet else paired(*pairs)
            for end, value in zip(("change", "change_low", "change_high"), change.tolist()):
                numbers[f"{name}/{measure}/{end}"] = value, ".2f" if frechet else spec.replace(".", "+.")
    return numbers


# ------------------------------------------------------------- helpers, the same text in every script that has them
STYLE = {"backend": "Agg", "font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "image.cmap": "gray",
         "figure.constrained_layout.use": True, "pdf.fonttype": 42, "legend.frameon": False, "lines.linewidth": 1.2}


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


# ---------------------------------------------------------------------------------------------------- the figures
def draw_schemes(path, families, swings):
    """Every scheme's runs, one mark a seed: distance, smallest class, what D believed; mean D {title: (epochs,)}."""
    names = sorted(SCHEMES, key=lambda name: -column(families[name], "frechet_ratio").mean())  # the best on top
    figure, panels = plt.subplots(1, 4, figsize=(6.5, 2.3), width_ratios=(1, 1, 1, 1.4))
    for axes, label, measures in zip(panels, ("Frechet / real", "smallest share [%]", "mean D at the end"),
                                     (["frechet_ratio"], ["smallest_share"], ["d_real", "d_fake"])):
        for place, name in enumerate(names):
            for mark, measure in zip("ox", measures):
                values = column(families[name], measure) * (100 if "share" in measure else 1)
                color = "C3" if name == "sweep_base" else "k"
                axes.plot(values, [place] * len(values), mark, color=color, markersize=3, alpha=0.7)
        titles = [SCHEMES[name] for name in names] if axes is panels[0] else []
        axes.set(xlabel=label, yticks=range(len(names)), yticklabels=titles or [""] * len(names))
        axes.grid(axis="y", linewidth=0.3)
    for style, (title, values) in zip((":", "--", "-"), swings.items()):
        panels[3].plot(range(1, len(values) + 1), values, style, color="k", label=title)
    panels[0].set_xticks((600, 1000, 1400))
    panels[2].set(xlim=(0, 1), xticks=(0, 0.5, 1))
    panels[3].set(xlabel="epoch", ylabel="mean D, generated images", ylim=(0, 1))
    panels[3].legend(fontsize=6, handlelength=1.5, loc="upper right")
    save_figure(figure, path)


def draw_pairs(path, families):
    """The same seed without and with labels, joined by a line."""
    figure, panels = plt.subplots(1, 4, figsize=(6.5, 1.9))
    pair = families["gan_fashion"], families["cgan_fashion"]
    for axes, measure, label in zip(panels, ("frechet_ratio", "precision", "recall", "tv"),
                                    ("Frechet distance / real", "precision", "recall", "total variation")):
        lines = np.array([column(family, measure, sorted(pair[0].keys() & pair[1].keys())) for family in pair])
        axes.plot((0, 1), lines, "o-", color="0.3", markersize=3, linewidth=0.8)
        axes.set(xticks=(0, 1), xticklabels=("GAN", "Conditional"), xlim=(-0.3, 1.3), ylabel=label)
    save_figure(figure, path)


def draw_pictures(path, pictures):
    """{title: images uint8 (24, 28, 28)} side by side, 4 in a row, on one fixed grey scale."""
    figure, panels = plt.subplots(1, len(pictures), figsize=(6.5, 0.3 + 9.2 / len(pictures)), squeeze=False)
    for axes, (title, images) in zip(panels[0], pictures.items()):
        tiles = torchvision.utils.make_grid(torch.from_numpy(images)[:, None], 4, pad_value=128)
        axes.imshow(tiles[0].numpy(), vmin=0, vmax=255)
        axes.set(title=title.replace(", ", "\n"), xticks=[], yticks=[], frame_on=False)
    save_figure(figure, path)


def parse_args(argv=None):
    """The command line (default: sys.argv), checked; a wrong one ends with status 2 and one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: {message} (--help lists every flag)\n")
    parser.add_argument("--out-dir", type=Path, default=HERE / "plots", help="has the records, gets the figures")
    parser.add_argument("--runs-dir", type=Path, default=HERE / "runs", help="has the samples")
    parser.set_defaults(seed=None)  # nothing here is drawn at random
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(argv)
    args.command = shlex.join(["python", Path(__file__).name, *argv])
    return args


def main(argv=None):
    args, start = parse_args(argv), time.perf_counter()
    plt.rcParams.update(STYLE)
    families = read_families(args.out_dir)
    numbers = summarise(families)
    for name in [name for name in BASES if name not in SCHEMES]:
        print(f"{name:26}", *(f"{measure} {numbers[f'{name}/{measure}/mean'][0]:.3f}"
                              for measure in ("frechet_ratio", "precision", "recall", "tv")))
    files = {title: args.runs_dir / f"{run}_samples.npz" for run, title in PICTURES.items()}
    swings = {}
    for run, title in SWINGS.items():
        path = next(args.out_dir.rglob(f"{run}.json"), args.out_dir / f"{run}.json")
        swings[title] = read(path, lambda path: json.loads(path.read_text())["curves"]["d_fake"])
    draw_schemes(args.out_dir / "p5_seeds_schemes.pdf", families, swings)
    draw_pairs(args.out_dir / "p5_seeds_pairs.pdf", families)
    if absent := [path.name for path in files.values() if not path.exists()]:
        print(f"p5_seeds_pictures.pdf is not drawn anew: {args.runs_dir} lacks {', '.join(absent)} (run make sweeps)")
    else:
        pictures = {title: read(path, lambda path: np.load(path)["images"][:24]) for title, path in files.items()}
        draw_pictures(args.out_dir / "p5_seeds_pictures.pdf", pictures)
    write_record(args.out_dir / "p5_seeds.json", args, torch.device("cpu"), numbers,
                 seconds=time.perf_counter() - start, curves={})


if __name__ == "__main__":
    run(main)
