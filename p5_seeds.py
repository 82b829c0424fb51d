"""Problems 4.3, 5.3 and 5.5 over runs and seeds: tables and figures from records and scores alone.

    python p5_seeds.py

A family is one command with several seeds: FAMILIES names the run of seed 1, and <run>_seed<k> is
that of seed k. Read are the runs' records and the scores that p5_compare.py wrote beside them, all
under plots/ and all by one judge; a family without scores is left out, but those in NEEDED must be
there, and seeds above 10 are not read.

Two families are compared on the seeds that both have, pair by pair: one seed stands for the same
order of the images and, where the nets are the same, for the same first weights. Intervals are
Student's, at 95 %; Frechet distances are compared as ratios, by their logarithms, and "times real
images" takes in the error of that unit too. A single seed has no interval. It writes
    plots/p5_seeds.json     "<family>/count"; "<family>/<measure>/mean", sd, change, change_low,
                            change_high; of frechet_ratio low and high; "real/unit_error";
                            "<model>/<curve>/ends" and middle, of the paths between two z
    plots/p5_seeds_*.pdf    figures
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

FAMILIES = {  # label in the report: the run of seed 1
    # 5.3: schemes of the convolutional nets, of 4000 updates of both together
    "scheme_base": "gan_fashion_updates4000",
    "scheme_d4_g1": "gan_fashion_lr-g0.001_lr-d0.004_updates4000",
    "scheme_d1_g4": "gan_fashion_lr-g0.004_lr-d0.001_updates4000",
    "scheme_low": "gan_fashion_lr-g0.0004_lr-d0.0004_updates4000",
    "scheme_high": "gan_fashion_lr-g0.01_lr-d0.01_updates4000",
    "scheme_g_2": "gan_fashion_updates4000_g-steps2",
    "scheme_g_5": "gan_fashion_updates4000_g-steps5",
    "scheme_d_2": "gan_fashion_updates4000_d-steps2",
    "scheme_d_5": "gan_fashion_updates4000_d-steps5",
    "scheme_constant": "gan_fashion_updates4000_scheduleconstant",
    "scheme_beta1_05": "gan_fashion_updates4000_beta1-0.5",
    "scheme_beta1_09": "gan_fashion_updates4000_beta1-0.9",
    "scheme_no_ema": "gan_fashion_updates4000_ema0",
    "scheme_no_r1": "gan_fashion_updates4000_r1-0",
    "scheme_no_convolutions":
        "gan_mlp_fashion_lr-g0.002_lr-d0.002_updates4000_schedulelinear_beta1-0_ema0.995_r1-0.5",
    # 5.2, 5.3: the handed-out nets at full length
    "handed_out": "gan_mlp_fashion",
    "handed_out_beta1_05": "gan_mlp_fashion_beta1-0.5",
    "handed_out_g_5": "gan_mlp_fashion_g-steps5",
    "handed_out_conditional": "cgan_mlp_fashion",
    # 5.5: labels, at 4000 updates and at full length; 5.3: schemes at full length; 4.3: the prior
    "short_labels": "cgan_fashion_updates4000",
    "short_clusters_10": "cgan_fashion_clusters10_updates4000",
    "short_clusters_50": "cgan_fashion_clusters50_updates4000",
    "short_classifier": "cgan_fashion_updates4000_classifier0.05",
    "gan_fashion": "gan_fashion",
    "cgan_fashion": "cgan_fashion",
    "long_g_2": "gan_fashion_updates22512_g-steps2",
    "long_labels_g_2": "cgan_fashion_updates22512_g-steps2",
    "long_constant": "gan_fashion_scheduleconstant",
    "double_gan": "gan_fashion_epochs24",
    "normal_vae_fashion": "normal_vae_fashion",
    "vae_fashion": "vae_fashion",
    "lowest": "vae_fashion_lowest",
    "vae_handout": "vae_fashion_handout_epochs20",
    "vae_handout_long": "vae_fashion_handout_epochs60",
    # 4.3: the VAE in a quarter of its length: whole, and with one setting changed
    "short_vae": "vae_fashion_epochs15_warmup7",
    "normal_short_vae": "normal_vae_fashion_epochs15_warmup7",
    "vae_beta_1": "vae_fashion_epochs15_beta1_warmup7",
    "normal_vae_beta_1": "normal_vae_fashion_epochs15_beta1_warmup7",
    "vae_beta_02": "vae_fashion_epochs15_beta0.2_warmup7",
    "normal_vae_beta_02": "normal_vae_fashion_epochs15_beta0.2_warmup7",
    "vae_beta_0002": "vae_fashion_epochs15_beta0.002_warmup7",
    "normal_vae_beta_0002": "normal_vae_fashion_epochs15_beta0.002_warmup7",
    "vae_beta_0": "vae_fashion_epochs15_beta0_warmup7",
    "normal_vae_beta_0": "normal_vae_fashion_epochs15_beta0_warmup7",
    "vae_latent_2": "vae_fashion_epochs15_latent-dim2_warmup7",
    "vae_latent_8": "vae_fashion_epochs15_latent-dim8_warmup7",
    "vae_latent_64": "vae_fashion_epochs15_latent-dim64_warmup7",
    "vae_rate_low": "vae_fashion_epochs15_lr0.0002_warmup7",
    "vae_rate_high": "vae_fashion_epochs15_lr0.005_warmup7",
    "vae_constant_rate": "vae_fashion_epochs15_warmup7_scheduleconstant",
    "vae_no_warmup": "vae_fashion_epochs15_warmup0",
    "vae_hidden_512": "vae_fashion_epochs15_hidden-dim512_warmup7",
    "vae_one_layer": "vae_fashion_epochs15_layers1_warmup7",
    "vae_batch_256": "vae_fashion_epochs15_batch-size256_warmup7",
    "vae_components_10": "vae_fashion_epochs15_components10_warmup7",
    "vae_float32": "vae_fashion_epochs15_warmup7_precisionfloat32",
}
TRAINED_AS = {  # families of other samples of the same nets: the family whose records say how
    label: label.removeprefix("normal_") for label in FAMILIES if label.startswith("normal_")}
SCHEMES = [label for label in FAMILIES if label.startswith("scheme_")]  # 5.3: the base first
COMPARED = {  # a base: the families that differ from it in one point
    "scheme_base": [*SCHEMES[1:], "short_labels", "short_clusters_10", "short_clusters_50"],
    "short_labels": ["short_classifier"],
    "gan_fashion": ["cgan_fashion", "long_g_2", "long_constant", "double_gan"],
    "cgan_fashion": ["long_labels_g_2"],
    "handed_out": ["handed_out_beta1_05", "handed_out_g_5", "handed_out_conditional"],
    "normal_vae_fashion": ["vae_fashion"],
    "short_vae": ["normal_short_vae",
                  *(label for label in FAMILIES if label.startswith("vae_")
                    and label not in ("vae_fashion", "vae_handout", "vae_handout_long"))],
}
BASE_OF = {label: base for base, labels in COMPARED.items() for label in labels}
NEEDED = ("scheme_base", "gan_fashion", "cgan_fashion", "vae_fashion")  # without them no figure
REAL = "real_fashion"  # whose distance is the unit of "times real images"
MEASURES = (
    "frechet_ratio", "precision", "recall", "density", "coverage", "c2st", "tv",
    "smallest_share", "diversity", "diversity_six", "agreement", "agreement_gap", "sharpness",
    "copies",
    "d_real", "d_fake", "g_updates", "d_updates",  # these and what follows are the runs' own
    "test_loss", "test_reconstruction", "test_kl", "mixture_test_loss")
SIX = (0, 2, 3, 4, 6, 8)  # 5.5: classes in which the GAN's images vary no more than real ones
SHOWN = {  # 5.5, 5.6: run: its name in figures and numbers
    "real_fashion": "real", "vae_fashion": "VAE", "gan_fashion": "GAN",
    "cgan_fashion": "Conditional GAN",
}
LOSSES = {  # 5.2, 5.4: run: its name in the figure of training
    "gan_fashion": "GAN", "cgan_fashion": "Conditional GAN",
    "gan_mlp_fashion": "handed-out GAN", "cgan_mlp_fashion": "handed-out, conditional",
}
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
           "boot")
LENGTHS = {  # 5.2, 5.3: families of one scheme and more and more updates, by name of the run
    "GAN": ("scheme_base", "gan_fashion", "double_gan"),
    "Conditional GAN": ("short_labels", "cgan_fashion"),
    "handed-out GAN": ("handed_out",),
    "handed-out, conditional": ("handed_out_conditional",),
}
WEIGHTS = {  # 4.3: families by their weight of the KL
    1.0: "vae_beta_1", 0.2: "vae_beta_02", 0.02: "short_vae", 0.002: "vae_beta_0002",
}
# 97.5 % quantiles of Student's distribution with 1 to 9 degrees of freedom
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


# ----------------------------------------------------------------------------------- families
def to_be_made(path, fault):
    """The error to raise where a record is not what it should be."""
    return OSError(f"{path} {fault}: run `python report/run.py`, which makes it")


def read_record(path):
    """The record in `path`, with plain numbers; OSError says what is wrong with it."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise to_be_made(path, "is missing") from error
    try:
        record = json.loads(content)
        plain = all(isinstance(value, (int, float)) for value in record["numbers"].values())
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise to_be_made(path, "is damaged or no record") from error
    if not plain:
        raise to_be_made(path, "holds numbers of an older form")
    return record


def find_record(run, plots):
    """The path of a run's record, which is in `plots` or in its folder sweep."""
    path = plots / f"{run}.json"
    if path.exists():
        return path
    return plots / "sweep" / f"{run}.json"


def curve_of(run, name, plots):
    """A curve of a run's record."""
    path = find_record(run, plots)
    try:
        return read_record(path)["curves"][name]
    except (LookupError, TypeError) as error:
        raise to_be_made(path, f"lacks the curve {name}") from error


def run_of(label, seed):
    """The name of a family's run."""
    run = FAMILIES[label]
    if seed == 1:
        return run
    return f"{run}_seed{seed}"


def seeds_of(label, plots):
    """The seeds, 1 to 10, of which a family has scores."""
    return [seed for seed in range(1, len(STUDENT) + 2)
            if find_record(f"{run_of(label, seed)}_scores", plots).exists()]


def read_judge(plots):
    """The SHA-256 of the judge that all scores must be of."""
    path = plots / "judge_fashion.json"
    judge = read_record(path).get("judge")
    if judge is None:
        raise to_be_made(path, "names no judge")
    return judge


def read_scores(run, plots, judge):
    """The scores of a run: {measure: value}, which must be those of the judge with this SHA-256."""
    path = find_record(f"{run}_scores", plots)
    record = read_record(path)
    if record.get("judge") != judge:
        raise to_be_made(path, f"is of another judge than {plots / 'judge_fashion.json'} names")
    return record["numbers"]


def measures_of(label, seed, plots, judge):
    """{measure: value} of one run: its scores, its record's numbers, and what follows from them."""
    run = run_of(label, seed)
    trained = run_of(TRAINED_AS.get(label, label), seed)
    measures = dict(read_scores(run, plots, judge))
    measures |= read_record(find_record(trained, plots))["numbers"]
    real = read_scores(REAL, plots, judge)
    measures["frechet_ratio"] = measures["frechet"] / real["frechet"]
    six = [measures[name] for name in (f"diversity_{c}" for c in SIX) if name in measures]
    if six:  # a class that was drawn less than twice has none
        measures["diversity_six"] = float(np.mean(six))
    if "agreement" in measures:  # the class that falls furthest short of real images
        measures["agreement_gap"] = max(
            real[f"agreement_{c}"] - measures[f"agreement_{c}"] for c in range(10))
    return measures


def read_families(plots):
    """{label: {seed: {measure: value}}} of FAMILIES, from the records and scores under `plots`."""
    judge = read_judge(plots)
    families = {}
    for label, run in FAMILIES.items():
        seeds = seeds_of(label, plots)
        if not seeds:
            if label in NEEDED:
                path = find_record(f"{run}_scores", plots)
                raise to_be_made(path, f"and those of {run}_seed<k> are missing, which are {label}")
            print(f"{label} is left out: {run}* has no scores; `python report/run.py` makes them")
            continue
        try:
            families[label] = {seed: measures_of(label, seed, plots, judge) for seed in seeds}
        except KeyError as error:
            raise to_be_made(plots, f"has a record of {label}, {run}*, that lacks {error}"
                             ) from error
        first = families[label][seeds[0]]
        for seed in seeds[1:]:
            for measure in MEASURES:
                if (measure in first) != (measure in families[label][seed]):
                    path = find_record(f"{run_of(label, seed)}_scores", plots)
                    raise to_be_made(path, f"differs from seed {seeds[0]}'s in {measure}")
    return families


# ------------------------------------------------------------------------- means and intervals
def column(family, measure, seeds=None):
    """The values (S,) of a measure of a family {seed: {measure: value}}, at all seeds or these."""
    if seeds is None:
        seeds = sorted(family)
    return np.array([family[seed][measure] for seed in seeds])


def paired(values, others):
    """Mean of the differences values - others, both (S,), and Student's 95 % interval: (3,).

    As (mean, low, high). A position is a seed, the same one in both.
    """
    difference = np.subtract(values, others)
    half = STUDENT[len(difference) - 2] * difference.std(ddof=1) / len(difference)**0.5
    return difference.mean() + half * np.array((0, -1, 1))


def change(family, base, measure):
    """paired() of two families on the seeds of both: (3,); of Frechet ratios factors, by the log.

    Where they share one seed, there is the change alone, (1,), and no interval.
    """
    seeds = sorted(family.keys() & base.keys())
    values = column(family, measure, seeds)
    others = column(base, measure, seeds)
    by_log = measure == "frechet_ratio"
    if by_log:
        values, others = np.log(values), np.log(others)
    difference = values - others
    if len(seeds) > 1:
        difference = paired(values, others)
    return np.exp(difference) if by_log else difference


def times_real(values, unit_error):
    """Ends of the 95 % interval of a mean of ratios (S,) to the unit, by their logarithms.

    `unit_error` is the unit's standard error as a share of it. The seeds' half width is Student's,
    the unit's is 1.96 times its error, and both are independent.
    """
    logs = np.log(values)
    of_seeds = STUDENT[len(logs) - 2] * logs.std(ddof=1) / len(logs)**0.5
    half = np.hypot(of_seeds, 1.96 * unit_error)
    return np.exp(logs.mean() + half * np.array((-1, 1))).tolist()


def summarise(families, unit_error):
    """The record's numbers: of every family and measure mean and sd, and the change to its base."""
    numbers = {}
    for label, family in families.items():
        numbers[f"{label}/count"] = len(family)
        base = families.get(BASE_OF.get(label), {})
        shared = family.keys() & base.keys()
        for measure in MEASURES:
            if measure not in family[min(family)]:
                continue
            values = column(family, measure)
            found = {"mean": values.mean()}
            if len(values) > 1:
                found["sd"] = values.std(ddof=1)
            if measure == "frechet_ratio" and len(values) > 1:
                found["low"], found["high"] = times_real(values, unit_error)
            if shared and measure in base[min(base)]:
                names = ("change", "change_low", "change_high")
                found |= zip(names, change(family, base, measure))
            numbers |= {f"{label}/{measure}/{name}": float(value) for name, value in found.items()}
    return numbers


def fingerprint(args):
    """Statistics of drawn families, by which `make check` finds a record that other code made.

    They are the same for all `args`, which every script's fingerprint takes.
    """
    rng = np.random.default_rng(0)
    families = {label: {seed: {"frechet_ratio": rng.uniform(1, 2), "recall": rng.uniform()}
                        for seed in (1, 2, 3)} for label in FAMILIES}
    numbers = summarise(families, unit_error=0.1)
    return [numbers[f"cgan_fashion/{name}"] for name in (
        "recall/mean", "recall/sd", "recall/change", "recall/change_low", "frechet_ratio/change",
        "frechet_ratio/change_high", "frechet_ratio/low")]


# ------------------------------------------------------------------------------------ figures
def draw_training(path, runs, families):
    """Both losses, a mean for each epoch, and how far the images are from real ones by length.

    runs: {title: {"d_loss": a value for each epoch, "g_loss": the same}}. Grey lines: the losses
    where D says one half to everything.
    """
    figure = Figure(figsize=(6.9, 1.9))
    panels = figure.subplots(1, 3)
    styles = dict(zip(LOSSES.values(), ("ko-", "C3s-", "k^--", "C3v--")))
    for axes, name, blind in zip(panels, ("d_loss", "g_loss"), (2 * np.log(2), np.log(2))):
        axes.axhline(blind, color="0.6", linewidth=0.8, label="D says one half")
        for title, curves in runs.items():
            epochs = np.arange(1, len(curves[name]) + 1)
            axes.plot(epochs, curves[name], styles[title], markersize=2.5, linewidth=0.8,
                      label=title)
    for title, labels in LENGTHS.items():
        measured = [families[label] for label in labels if label in families]
        updates = [column(family, "g_updates").mean() for family in measured]
        means = [column(family, "frechet_ratio").mean() for family in measured]
        panels[2].plot(updates, means, styles[title], markersize=4, linewidth=0.8)
    panels[0].set(xlabel="epoch", ylabel="loss of D", ylim=(0, None))
    panels[1].set(xlabel="epoch", ylabel="loss of G", yscale="log")
    panels[1].set_yticks((0.7, 1, 2, 4), labels=("0.7", "1", "2", "4"))
    panels[2].set(xlabel="updates of G", ylabel="Fréchet ratio", xscale="log", yscale="log",
                  ylim=(5, 600))
    panels[2].set_xticks((2000, 5000, 10_000, 20_000), labels=("2000", "5000", "10 000", "20 000"))
    panels[2].set_yticks((10, 30, 100, 300), labels=("10", "30", "100", "300"))
    for axes in panels[1:]:
        axes.minorticks_off()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5,
                  columnspacing=1.2)
    save_figure(figure, path)


def draw_weights(path, families):
    """What the weight of the KL gives and takes: nats, and images of both priors."""
    weights = [weight for weight, label in WEIGHTS.items()
               if label in families and f"normal_{label}" in families]
    fitted = [families[WEIGHTS[weight]] for weight in weights]
    normal = [families[f"normal_{WEIGHTS[weight]}"] for weight in weights]
    figure = Figure(figsize=(6.9, 2.0))
    panels = figure.subplots(1, 3)
    losses = {"prior N(0, I)": ("test_loss", "o-"), "fitted mixture": ("mixture_test_loss", "s--"),
              "reconstruction alone": ("test_reconstruction", "^:")}
    for title, (measure, style) in losses.items():
        means = [column(family, measure).mean() for family in fitted]
        panels[0].plot(weights, means, style, markersize=4, label=title)
    for axes, measure in zip(panels[1:], ("frechet_ratio", "recall")):
        for group, style in ((normal, "o-"), (fitted, "s--")):
            means = [column(family, measure).mean() for family in group]
            axes.plot(weights, means, style, markersize=4)
    titles = ("nats per test image", "Fréchet ratio", "recall")
    for axes, title in zip(panels, titles):
        axes.set(xscale="log", xlabel="weight of the KL", ylabel=title)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    save_figure(figure, path)


def draw_paths(path, runs):
    """Share of images near a real one along straight lines and arcs between two z.

    runs: {title: {curve: a value for each step}}, as p5_compare.py's along_paths has them.
    """
    figure = Figure(figsize=(3.5, 2.2))
    axes = figure.subplots()
    for (title, curves), color in zip(runs.items(), ("k", "C3")):
        for kind, style in (("line", "--"), ("arc", "-")):
            shares = curves[f"{kind}_inside"]
            axes.plot(np.linspace(0, 1, len(shares)), shares, style, color=color,
                      label=f"{title}, {kind}")
    axes.set(xlabel="way from one z to the other", ylabel="near a real image")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    save_figure(figure, path)


def draw_shares(path, scores):
    """Shares of the ten classes with their intervals, raw and corrected, against uniform.

    scores: {model: {measure: value}}.
    """
    figure = Figure(figsize=(6.9, 2.2))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, kind, title in zip(panels, ("share", "corrected"), ("judged", "corrected")):
        axes.axhline(10, color="0.6", linewidth=0.8, label="uniform")
        for place, (model, numbers) in enumerate(scores.items()):
            percent, low, high = (
                100 * np.array([numbers[f"{kind}_{c}{end}"] for c in range(10)])
                for end in ("", "_low", "_high"))
            errors = np.abs((percent - low, high - percent))
            shift = 0.15 * (place - (len(scores) - 1) / 2)
            axes.errorbar(np.arange(10) + shift, percent, errors, fmt="os^Dv"[place],
                          color=f"C{place}", markersize=2.5, linewidth=0.8, label=model)
        axes.set(title=title, xticks=range(10))
        axes.set_xticklabels(CLASSES, rotation=45, ha="right", rotation_mode="anchor")
    panels[0].set_ylabel("share of a class [%]")
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(scores) + 1)
    save_figure(figure, path)


# ------------------------------------------------------- files: the same text in every script
STYLE = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False,
         "image.cmap": "gray", "figure.constrained_layout.use": True, "pdf.fonttype": 42,
         "legend.frameon": False, "lines.linewidth": 1.2}


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
    parser.add_argument("--out-dir", type=folder, default=HERE / "plots",
                        help="has the records, gets the figures")
    return named(parser.parse_args(argv), "p5_seeds", (), parser, argv)


def main(argv=None):
    args = parse_args(argv)
    with own_settings():
        start = time.perf_counter()
        judge = read_judge(args.out_dir)
        families = read_families(args.out_dir)
        scores = {title: read_scores(run, args.out_dir, judge) for run, title in SHOWN.items()}
        prepare_folders(args.out_dir)
        unit_error = scores["real"]["frechet_se"] / scores["real"]["frechet"]
        numbers = summarise(families, unit_error)
        numbers["real/unit_error"] = unit_error
        for label in families:
            means = (f"{measure} {numbers[f'{label}/{measure}/mean']:.3f}"
                     for measure in ("frechet_ratio", "precision", "recall", "c2st", "tv"))
            print(f"{label:26}", *means)

        stem = f"{args.out_dir / args.run_name}"
        losses = {title: {name: curve_of(run, name, args.out_dir) for name in ("d_loss", "g_loss")}
                  for run, title in LOSSES.items() if find_record(run, args.out_dir).exists()}
        draw_training(Path(f"{stem}_training.pdf"), losses, families)
        draw_weights(Path(f"{stem}_weights.pdf"), families)
        draw_shares(Path(f"{stem}_shares.pdf"), scores)
        path_curves = {}
        for run in ("gan_fashion", "cgan_fashion"):
            path_curves[SHOWN[run]] = {
                name: curve_of(f"{run}_scores", name, args.out_dir)
                for name in ("line_inside", "arc_inside")}
        draw_paths(Path(f"{stem}_paths.pdf"), path_curves)
        for title, curves in path_curves.items():
            for name, values in curves.items():
                numbers[f"{title}/{name}/ends"] = (values[0] + values[-1]) / 2
                numbers[f"{title}/{name}/middle"] = values[len(values) // 2]
        headline = [f"{label}/frechet_ratio/mean" for label in SHOWN if label in families]
        write_record(Path(f"{stem}.json"), args, [machine(torch.device("cpu"))], numbers, headline,
                     judge=judge, fingerprint=fingerprint(args),
                     seconds=time.perf_counter() - start, curves={})


if __name__ == "__main__":
    run(main)
