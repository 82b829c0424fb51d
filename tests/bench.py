"""How long until the pictures are as good as those that the usual way ends with?

    python tests/bench.py                     every row on seeds 1 to 3: hours; goes on where it
                                              was stopped
    python tests/bench.py --only vae_mnist    one row
    python tests/bench.py --choose            instead, on seeds 11 to 13, every length of ours that
                                              a row's own was chosen from; the usual way, which takes
                                              longest, on seed 11 only
    python tests/bench.py --fresh             measure anew what has been measured

The usual way trains what public examples publish, as they do: a torchvision data set with
transforms behind a DataLoader, `.item()` on every loss, plain Adam, float32. Ours is whatever of
vae.py and gan.py gets as far soonest, given as that script's flags. ROWS says what both are.

The clock starts before the data are read and stops when 10 000 samples are written: it has the
fitting of a prior and whatever is compiled or set up at first use. Both ways train in turn, in one
process, with the same threads. Ours goes first, so that files not yet in memory and everything else
that only a first run waits for count against it. After the clock the frozen judge of p5_compare.py
scores the samples of both. cpu_seconds, of all threads, tells where other processes had a part in
the wall's.

Each row and seed has a record, plots/bench/bench_<row>_seed<k>.json; a finished one of the same
settings and judge is not measured again. When all are there, plots/bench.json sums them up: medians
over seeds of the ratio of times, and whether our mean quality reaches the target. Its `rates` are
another question: images per second of the usual way and of ours where both train the same net.
"""
import argparse
import contextlib
import functools
import json
import math
import shlex
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import gan  # noqa: E402
import p5_compare  # noqa: E402
import vae  # noqa: E402

COUNT = 10_000  # samples of either way
PIXELS = 28 * 28
NOISE = 100  # dimensions of z of a GAN
USUAL, OURS = "usual", "ours"  # names of the ways in records
SEEDS, CHOICE_SEEDS = (1, 2, 3), (11, 12, 13)  # measured on; lengths chosen on


@dataclass
class Row:
    """One question: when does ours reach what the usual way ends with?"""
    title: str
    dataset: str
    usual: str  # which of the usual trainings: "vae", "gan" or "cgan"
    epochs: int  # of it
    ours: str  # script and flags
    length: str  # the flag that says for how long ours trains, chosen of `lengths`
    lengths: tuple  # what --choose tries
    asked: float  # the ratio of times that was asked for
    target: float | None = None  # nats of the test loss; None: the usual way's Frechet distance


ROWS = {
    "vae_mnist": Row(
        "VAE, MNIST, 105.6 nats", "mnist", "vae", 10, asked=6, target=105.6,
        ours="vae.py --lr 3e-3 --schedule linear", length="--epochs 5",
        lengths=("--epochs 4", "--epochs 5", "--epochs 6")),
    "vae_fashion": Row(
        "VAE, Fashion-MNIST", "fashion", "vae", 20, asked=8,
        ours="vae.py --dataset fashion --recipe handout --lr 5e-3 --schedule linear --beta 0.05 "
             "--prior mixture --components 10",
        length="--epochs 1", lengths=("--epochs 1", "--epochs 2", "--epochs 3")),
    "gan_fashion": Row(
        "GAN, Fashion-MNIST", "fashion", "gan", 20, asked=30,
        ours="gan.py --ema 0.95", length="--updates 200",
        lengths=("--updates 200", "--updates 300", "--updates 400", "--updates 600")),
    "cgan_fashion": Row(
        "Conditional GAN, Fashion-MNIST", "fashion", "cgan", 20, asked=12,
        ours="gan.py --conditional --ema 0.95", length="--updates 400",
        lengths=("--updates 400", "--updates 600", "--updates 800", "--updates 1200")),
}


# ------------------------------------------------------------------ the usual way: PyTorch-GAN
def hidden(inputs, outputs, normalised=True):
    """The layers of one hidden layer of the generator."""
    layers = [nn.Linear(inputs, outputs)]
    if normalised:
        layers.append(nn.BatchNorm1d(outputs, eps=0.8))  # this eps is published
    return [*layers, nn.LeakyReLU(0.2)]


class UsualGenerator(nn.Module):
    """z (B, 100) and labels (B,) -> images (B, 784) in [-1, 1]; without `conditional` no labels."""

    def __init__(self, conditional):
        super().__init__()
        self.embedding = nn.Embedding(10, 10) if conditional else None
        self.layers = nn.Sequential(
            *hidden(NOISE + (10 if conditional else 0), 128, normalised=False),
            *hidden(128, 256), *hidden(256, 512), *hidden(512, 1024),
            nn.Linear(1024, PIXELS), nn.Tanh())

    def forward(self, z, labels):
        if self.embedding is not None:
            z = torch.cat((self.embedding(labels), z), 1)
        return self.layers(z)


class UsualDiscriminator(nn.Module):
    """Images (B, 784) -> probability (B, 1) of being real; `conditional`: a number for MSELoss."""

    def __init__(self, conditional):
        super().__init__()
        self.embedding = nn.Embedding(10, 10) if conditional else None
        if conditional:
            self.layers = nn.Sequential(
                nn.Linear(PIXELS + 10, 512), nn.LeakyReLU(0.2),
                nn.Linear(512, 512), nn.Dropout(0.4), nn.LeakyReLU(0.2),
                nn.Linear(512, 512), nn.Dropout(0.4), nn.LeakyReLU(0.2),
                nn.Linear(512, 1))
        else:
            self.layers = nn.Sequential(
                nn.Linear(PIXELS, 512), nn.LeakyReLU(0.2),
                nn.Linear(512, 256), nn.LeakyReLU(0.2),
                nn.Linear(256, 1), nn.Sigmoid())

    def forward(self, x, labels):
        if self.embedding is not None:
            x = torch.cat((x, self.embedding(labels)), 1)
        return self.layers(x)


def usual_gan_epoch(generator, discriminator, optimizers, loader, criterion, device):
    """One epoch of `loader`, as PyTorch-GAN's gan.py and cgan.py; the mean of G's losses.

    optimizers: of G and of D.
    """
    optimizer_g, optimizer_d = optimizers
    total_g, total_d = 0.0, 0.0
    for images, labels in loader:
        images = images.to(device).view(-1, PIXELS)
        labels = labels.to(device)
        valid = torch.ones(len(images), 1, device=device)
        fake = torch.zeros(len(images), 1, device=device)

        optimizer_g.zero_grad()
        z = torch.randn(len(images), NOISE, device=device)
        fake_labels = torch.randint(10, (len(images),), device=device)
        fakes = generator(z, fake_labels)
        g_loss = criterion(discriminator(fakes, fake_labels), valid)
        g_loss.backward()
        optimizer_g.step()

        optimizer_d.zero_grad()
        real_loss = criterion(discriminator(images, labels), valid)
        fake_loss = criterion(discriminator(fakes.detach(), fake_labels), fake)
        d_loss = (real_loss + fake_loss) / 2
        d_loss.backward()
        optimizer_d.step()
        total_d += d_loss.item()
        total_g += g_loss.item()
    return total_g / len(loader)


def usual_gan(row, epochs, args, seed, device):
    """The Run of PyTorch-GAN's gan.py, or of its cgan.py, at 28 x 28 pixels."""
    conditional = row.usual == "cgan"
    loader = usual_loader(row.dataset, 64, args, as_for="gan")
    torch.manual_seed(seed)
    generator = UsualGenerator(conditional).to(device)
    discriminator = UsualDiscriminator(conditional).to(device)
    optimizers = [torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999))
                  for net in (generator, discriminator)]
    criterion = nn.MSELoss() if conditional else nn.BCELoss()
    losses = [usual_gan_epoch(generator, discriminator, optimizers, loader, criterion, device)
              for _ in range(epochs)]
    z = torch.randn(COUNT, NOISE, device=device)
    labels = torch.arange(COUNT, device=device) % 10
    images = gan.evaluate(generator, z, labels)
    return Run(images / 2 + 0.5, losses, labels if conditional else None)


# ------------------------------------------------------------- the usual way: pytorch/examples
def usual_vae_epoch(model, optimizer, loader, device, beta=1.0):
    """One epoch of `loader`, as pytorch/examples' vae; the mean loss in nats per image."""
    total = 0.0
    for images, _ in loader:
        images = images.to(device)
        optimizer.zero_grad()
        logits, mu, logvar = model(images)
        pixels = images.view(-1, PIXELS)
        reconstruction = F.binary_cross_entropy(logits.sigmoid(), pixels, reduction="sum")
        loss = reconstruction + beta * vae.gaussian_kl(mu, logvar)
        loss.backward()
        total += loss.item()
        optimizer.step()
    return total / len(loader.dataset)


def usual_vae(row, epochs, args, seed, device):
    """The Run of pytorch/examples' vae, whose samples are of z ~ N(0, I)."""
    loader = usual_loader(row.dataset, 128, args, as_for="vae")
    torch.manual_seed(seed)
    model = vae.VAE().to(device)  # its net, 784-400-20
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = [usual_vae_epoch(model, optimizer, loader, device) for _ in range(epochs)]
    with torch.no_grad():
        images = model.decode(torch.randn(COUNT, 20, device=device)).sigmoid()
    return Run(images, losses, model=model)


def usual_loader(dataset, batch_size, args, *, as_for, count=None):
    """A shuffled loader of all training images or of the first `count`, for a "vae" or a "gan"."""
    steps = [transforms.ToTensor()]  # to [0, 1]
    if as_for == "gan":
        steps = [transforms.Resize(28), *steps, transforms.Normalize([0.5], [0.5])]  # to [-1, 1]
    kind = {"mnist": datasets.MNIST, "fashion": datasets.FashionMNIST}[dataset]
    images = kind(args.data_dir, transform=transforms.Compose(steps))
    if count is not None:
        images = Subset(images, range(min(count, len(images))))
    return DataLoader(images, batch_size, shuffle=True)


# ------------------------------------------------------------------------------------- our way
@dataclass
class Run:
    """What a training ended with."""
    images: torch.Tensor  # samples (COUNT, 784) in [0, 1]
    losses: list  # of every epoch, a mean
    labels: torch.Tensor | None = None  # (COUNT,) that were asked for
    model: nn.Module | None = None  # a VAE, whose test loss is asked for


def our_way(row, command, epochs, args, seed, device):
    """The Run of a `command` of vae.py or gan.py; `epochs`, if not None, instead of its length."""
    script, *flags = shlex.split(command)
    module = {"vae.py": vae, "gan.py": gan}[script]
    settings = module.parse_args([*flags, "--seed", str(seed), "--data-dir", str(args.data_dir)])
    if epochs is not None:
        settings.epochs = epochs
        settings.updates = 0
    train = our_vae if module is vae else our_gan
    return train(row, settings, device)


def our_vae(row, settings, device):
    """The Run of vae.py with these settings."""
    data = vae.load_dataset(settings.dataset, settings.data_dir)
    images = data[0].to(device).view(-1, PIXELS).float().div_(255)
    torch.manual_seed(settings.seed)
    model = vae.VAE(settings.hidden_dim, settings.layers, settings.latent_dim).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr, fused=True)
    precision = vae.choose_precision(settings.precision, device)
    silent = tqdm(disable=True)
    losses = []
    for epoch in range(1, settings.epochs + 1):
        means = vae.train(model, images, optimizer, settings, epoch=epoch, bar=silent,
                          precision=precision)
        losses.append(means["train_loss"])
    prior = None
    if settings.prior == "mixture":
        with torch.no_grad():
            codes = model.reparameterize(*model.encode(images))
        prior = vae.fit_mixture(codes, settings.components)
    return Run(vae.sample(model, COUNT, settings, prior), losses, model=model)


def our_gan(row, settings, device):
    """The Run of gan.py with these settings."""
    data = gan.load_dataset(settings.dataset, settings.data_dir)
    images = data[0].to(device).view(-1, PIXELS).float().div_(127.5).sub_(1)
    labels = data[1].to(device).long()
    torch.manual_seed(settings.seed)
    nets = gan.build(settings, device)
    per_epoch = math.ceil(len(images) / (settings.batch_size * settings.d_steps))
    iterations = settings.epochs * per_epoch
    if settings.updates:
        iterations = math.ceil(settings.updates / (settings.g_steps + settings.d_steps))
    precision = gan.choose_precision(settings.precision, device)
    silent = tqdm(disable=True)
    losses = []
    for epoch in range(1, math.ceil(iterations / per_epoch) + 1):
        means = gan.train(nets, images, labels, settings, epoch=epoch, iterations=iterations,
                          bar=silent, precision=precision)
        losses.append(means["g_loss"])
    z, _ = gan.draw_noise(COUNT, device)
    labels = torch.arange(COUNT, device=device) % 10
    samples = gan.evaluate(nets.average, z, labels)
    return Run(samples / 2 + 0.5, losses, labels if row.usual == "cgan" else None)


# ------------------------------------------------------------------------------------ the race
def timed(train, path):
    """Run train(), write its samples to `path`; (its Run, {seconds, cpu_seconds})."""
    start, cpu_start = time.perf_counter(), time.process_time()
    run = train()
    images = (255 * run.images).round().byte().view(-1, 28, 28).cpu().numpy()
    with vae.replacing(path) as part, part.open("wb") as file:
        np.savez(file, images=images)
    return run, {"seconds": time.perf_counter() - start,
                 "cpu_seconds": time.process_time() - cpu_start}


class Ruler:
    """A data set's frozen judge and its test images, by which both ways are scored."""

    def __init__(self, dataset, args, device):
        path = args.judge_dir / f"judge_{dataset}.pt"
        found = p5_compare.load_judge(path, device)
        if found is None:
            raise OSError(f"{path} is missing: --judge-dir names the folder of the judge that "
                          "comes with the project")
        self.judge, _, self.identity = found
        self.test = vae.load_dataset(dataset, args.data_dir)[2].to(device)
        self.features, _ = p5_compare.judged(self.judge, self.test)

    def score(self, run, path, seed):
        """{measure: number} of a Run whose samples are in `path`."""
        images = torch.from_numpy(np.load(path)["images"]).to(self.test.device)
        features, classes = p5_compare.judged(self.judge, images)
        numbers = {"frechet": p5_compare.frechet_distance(features, self.features),
                   "sharpness": p5_compare.steepness(images) / p5_compare.steepness(self.test)}
        if run.labels is not None:
            numbers["agreement"] = (classes == run.labels).float().mean().item()
        if run.model is not None:
            test_images = self.test.view(-1, PIXELS).float().div(255)
            losses = vae.test(run.model, test_images, argparse.Namespace(seed=seed))
            numbers["test_loss"] = losses["test_loss"]
        return numbers


def race(name, seed, commands, args, rulers, device):
    """Train a row by each of our `commands` and by the usual way; write and return its record.

    commands: {name: script and flags}. What has a record of the same settings is read from there.
    """
    row = ROWS[name]
    if row.dataset not in rulers:
        rulers[row.dataset] = Ruler(row.dataset, args, device)
    ruler = rulers[row.dataset]
    stem = f"{args.run_name}_{name}_seed{seed}"
    path = args.out_dir / "bench" / f"{stem}.json"
    settings = argparse.Namespace(
        command=shlex.join(["python", "tests/bench.py", *args.flags]), row=name, seed=seed,
        usual=f"{row.usual}, {args.epochs or row.epochs} epochs", commands=commands)
    record = finished(path, settings, ruler.identity)
    if record is not None and not args.fresh:
        return record

    ways = {way: functools.partial(our_way, row, command, args.epochs)
            for way, command in commands.items()}
    if seed not in CHOICE_SEEDS[1:]:
        ways[USUAL] = functools.partial(USUAL_WAYS[row.usual], row, args.epochs or row.epochs)
    numbers, curves = {}, {}
    begun = time.perf_counter()
    for way, train in ways.items():
        torch.set_flush_denormal(way != USUAL)  # as the scripts do and public examples do not
        samples = args.runs_dir / "bench" / f"{stem}_{way}_samples.npz"
        run, results = timed(functools.partial(train, args, seed, device), samples)
        results |= ruler.score(run, samples, seed)
        numbers |= {f"{way}/{measure}": value for measure, value in results.items()}
        curves[f"{way}/loss"] = run.losses
        print(f"{name} seed {seed} {way}: " + "  ".join(
            f"{measure} {value:.4g}" for measure, value in results.items()), flush=True)
    paired = commands if USUAL in ways else {}
    for way in paired:
        for kind in ("seconds", "cpu_seconds"):
            numbers[f"{way}/{kind}_ratio"] = numbers[f"{USUAL}/{kind}"] / numbers[f"{way}/{kind}"]
    vae.write_record(path, settings, [vae.machine(device)], numbers, judge=ruler.identity,
                     seconds=time.perf_counter() - begun, curves=curves)
    return json.loads(path.read_text())


USUAL_WAYS = {"vae": usual_vae, "gan": usual_gan, "cgan": usual_gan}


def finished(path, settings, judge):
    """The record in `path` if it is of these settings and this judge, else None."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        record = json.loads(path.read_text())
        if record["settings"] == vae.settings_of(settings) and record["judge"] == judge:
            return record
    return None


def compare(row, records, way=OURS):
    """{measure: number} of one of our ways beside the usual one, over the records of all seeds.

    `reached`, 1 or 0, says whether ours is as good in the mean: the test loss at most the target,
    or the Frechet distance at most the usual way's, and of a Conditional GAN the agreement at
    least that.
    """
    def values(name):
        return [record["numbers"][name] for record in records if name in record["numbers"]]

    measure = "frechet" if row.target is None else "test_loss"
    numbers = {}
    for kind in ("seconds", "cpu_seconds"):
        ratios = values(f"{way}/{kind}_ratio")
        numbers |= {f"{kind}_ratio": statistics.median(ratios),
                    f"{kind}_ratio_low": min(ratios), f"{kind}_ratio_high": max(ratios),
                    f"usual_{kind}": statistics.median(values(f"{USUAL}/{kind}")),
                    f"our_{kind}": statistics.median(values(f"{way}/{kind}"))}
    for name in (measure, "sharpness"):
        numbers[f"usual_{name}"] = statistics.mean(values(f"{USUAL}/{name}"))
        numbers[f"our_{name}"] = statistics.mean(values(f"{way}/{name}"))
    target = numbers[f"usual_{measure}"] if row.target is None else row.target
    reached = numbers[f"our_{measure}"] <= target
    if row.usual == "cgan":
        numbers["usual_agreement"] = statistics.mean(values(f"{USUAL}/agreement"))
        numbers["our_agreement"] = statistics.mean(values(f"{way}/agreement"))
        reached = reached and numbers["our_agreement"] >= numbers["usual_agreement"]
    return numbers | {"target": target, "asked": row.asked, "reached": int(reached)}


def print_row(title, row, numbers):
    """A line of the table: seconds, ratio and quality of both ways."""
    measure = "frechet" if row.target is None else "test_loss"
    quality = f"{measure} {numbers[f'our_{measure}']:.2f}, target {numbers['target']:.2f}"
    if row.usual == "cgan":
        quality += (f"; agreement {numbers['our_agreement']:.3f}, "
                    f"target {numbers['usual_agreement']:.3f}")
    verdict = "reached" if numbers["reached"] else "NOT REACHED"
    print(f"{title}: {numbers['usual_seconds']:.1f} s / {numbers['our_seconds']:.1f} s, ratio "
          f"{numbers['seconds_ratio']:.1f} ({numbers['seconds_ratio_low']:.1f} to "
          f"{numbers['seconds_ratio_high']:.1f}; of CPU seconds "
          f"{numbers['cpu_seconds_ratio']:.1f}), asked {row.asked}; {quality}: {verdict}",
          flush=True)


# --------------------------------------------------------------------------- images per second
@dataclass
class Net:
    """A net that both ways train, for its images per second."""
    title: str
    command: str
    batches: int  # in a chunk, which so takes some seconds on a slow core


NETS = {
    "vae": Net("VAE 784-400-20, batch 128", "vae.py", 100),
    "vae_best": Net("VAE, Fashion-MNIST default", "vae.py --dataset fashion", 100),
    "gan_mlp": Net("GAN as handed out, batch 64", "gan.py --arch mlp", 40),
}
ROUNDS = 7


def measure_rates(args, device):
    """{name: number} of images per second: in each round every way trains one chunk, in turn."""
    numbers = {}
    for name, net in NETS.items():
        chunks, count = make_chunks(net, args, device)
        seconds = {way: [] for way in chunks}
        for number in range(1 + ROUNDS):
            for way, chunk in chunks.items():
                torch.set_flush_denormal(way != USUAL)
                start = time.perf_counter()
                chunk()
                if number > 0:  # the first round sets up what the others find
                    seconds[way].append(time.perf_counter() - start)
        numbers[f"{name}/usual_rate"] = count / statistics.median(seconds[USUAL])
        for way in chunks.keys() - {USUAL}:
            ratios = [usual / ours for usual, ours in zip(seconds[USUAL], seconds[way])]
            numbers |= {f"{name}/{way}_rate": count / statistics.median(seconds[way]),
                        f"{name}/{way}_ratio": statistics.median(ratios),
                        f"{name}/{way}_ratio_low": min(ratios),
                        f"{name}/{way}_ratio_high": max(ratios)}
            print(f"{net.title}, {way}: {numbers[f'{name}/usual_rate']:.0f} and "
                  f"{numbers[f'{name}/{way}_rate']:.0f} images per second, ratio "
                  f"{numbers[f'{name}/{way}_ratio']:.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                  flush=True)
    return numbers


def race_of_rates(args, device):
    """The record of measure_rates, made where there is none of these settings."""
    path = args.out_dir / "bench" / f"{args.run_name}_rates.json"
    settings = argparse.Namespace(
        command=shlex.join(["python", "tests/bench.py", *args.flags]), row="rates", rounds=ROUNDS,
        nets={name: [net.command, net.batches] for name, net in NETS.items()})
    record = finished(path, settings, None)
    if record is not None and not args.fresh:
        return record
    begun = time.perf_counter()
    numbers = measure_rates(args, device)
    vae.write_record(path, settings, [vae.machine(device)], numbers, judge=None,
                     seconds=time.perf_counter() - begun, curves={})
    return json.loads(path.read_text())


def make_chunks(net, args, device):
    """({way: a function that trains one chunk}, images in a chunk) of a Net."""
    script, *flags = shlex.split(net.command)
    module = {"vae.py": vae, "gan.py": gan}[script]
    settings = module.parse_args([*flags, "--data-dir", str(args.data_dir)])
    data = vae.load_dataset(settings.dataset, args.data_dir)
    count = min(net.batches * settings.batch_size, len(data[0]))
    loader = usual_loader(settings.dataset, settings.batch_size, args, as_for=script[:3],
                          count=count)
    ways = [USUAL, *dict.fromkeys(["float32", vae.choose_precision("auto", device)])]
    make = vae_chunk if module is vae else gan_chunk
    images, labels = (tensor[:count].to(device) for tensor in data[:2])
    chunks = {way: make(way, settings, loader, images, labels, device) for way in ways}
    return chunks, count


def vae_chunk(way, settings, loader, images, labels, device):
    """A function that trains a VAE for one chunk, by a loader or by resident images."""
    model = vae.VAE(settings.hidden_dim, settings.layers, settings.latent_dim).to(device)
    if way == USUAL:
        optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr)
        return lambda: usual_vae_epoch(model, optimizer, loader, device, settings.beta)
    images = images.view(-1, PIXELS).float().div(255)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr, fused=True)
    return lambda: vae.train(model, images, optimizer, settings, epoch=1, bar=tqdm(disable=True),
                             precision=way)


def gan_chunk(way, settings, loader, images, labels, device):
    """A function that trains a GAN for one chunk, by a loader or by resident images."""
    nets = gan.build(settings, device)
    if way == USUAL:
        optimizers = [torch.optim.Adam(net.parameters(), lr=2e-4, betas=(settings.beta1, 0.999))
                      for net in (nets.generator, nets.discriminator)]
        criterion = nn.BCEWithLogitsLoss()  # these nets' discriminator ends in a logit
        return lambda: usual_gan_epoch(nets.generator, nets.discriminator, optimizers, loader,
                                       criterion, device)
    images = images.view(-1, PIXELS).float().div(127.5).sub(1)
    return lambda: gan.train(nets, images, labels.long(), settings, epoch=1,
                             iterations=len(images), bar=tqdm(disable=True), precision=way)


# -------------------------------------------------------------------------------- command line
def parse_args(argv=None):
    """The command line (default: sys.argv), checked; a wrong one ends with status 2, one line."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.error = lambda text: parser.exit(2, f"{parser.prog}: {text} (--help lists every flag)\n")
    parser.add_argument("--only", choices=(*ROWS, "rates"), help="default: all")
    parser.add_argument("--choose", action="store_true",
                        help="instead, try every length of ours on seeds 11 to 13")
    parser.add_argument("--epochs", type=vae.number(int, 1, 100_000),
                        help="of all trainings, in place of theirs: to see that it runs")
    parser.add_argument("--no-cuda", action="store_true", help="stay on the CPU")
    parser.add_argument("--fresh", action="store_true", help="measure anew what is there")
    group = parser.add_argument_group("files")
    group.add_argument("--data-dir", type=vae.folder, default=ROOT / "data",
                       help="torchvision's root")
    group.add_argument("--judge-dir", type=vae.folder, default=ROOT / "plots",
                       help="where judge_<dataset>.pt is")
    group.add_argument("--out-dir", type=vae.folder, default=ROOT / "plots", help="for records")
    group.add_argument("--runs-dir", type=vae.folder, default=ROOT / "runs", help="for samples")
    args = parser.parse_args(argv)
    if args.choose and args.only == "rates":
        parser.error("--choose is of rows that train to an end")
    args.flags = [word for word in argv if word != "--fresh"]
    prefix = "bench_choose" if args.choose else "bench"
    args = vae.named(args, prefix, ("only", "choose"), parser, argv)
    args.command = shlex.join(["python", "tests/bench.py", *args.flags])
    args.rows = {name: f"{row.ours} {row.length}" for name, row in ROWS.items()}
    return args


def commands_of(row, args):
    """{name: script and flags} of our trainings: the chosen one, or all that are to be tried."""
    if not args.choose:
        return {OURS: f"{row.ours} {row.length}"}
    return {length.strip("-").replace(" ", ""): f"{row.ours} {length}" for length in row.lengths}


def main(argv=None):
    args = parse_args(argv)
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32 on every device
    # before the first parallel work starts the other threads, which keep what holds then
    torch.set_flush_denormal(True)
    with vae.own_settings():
        vae.prepare_folders(args.out_dir / "bench", args.runs_dir / "bench")
        device = vae.choose_device(args.no_cuda)
        try:
            measure(args, device)
        except KeyboardInterrupt:
            print("\nbench.py: stopped; the same command goes on", file=sys.stderr)
            sys.exit(130)


def measure(args, device):
    """Every row and seed that was asked for, then the table and, when all are there, the record."""
    seeds = CHOICE_SEEDS if args.choose else SEEDS
    rulers, numbers, seconds = {}, {}, 0.0
    for name in [args.only] if args.only else ROWS:
        if name == "rates":
            continue
        row = ROWS[name]
        commands = commands_of(row, args)
        records = [race(name, seed, commands, args, rulers, device) for seed in seeds]
        seconds += sum(record["seconds"] for record in records)
        for way in commands:
            results = compare(row, records, way)
            print_row(row.title if way == OURS else f"{row.title}, {way}", row, results)
            numbers |= {f"{name}/{measure}": value for measure, value in results.items()}
    if not args.choose and args.only in (None, "rates"):
        rates = race_of_rates(args, device)
        numbers |= {f"rates/{name}": value for name, value in rates["numbers"].items()}
        seconds += rates["seconds"]
    if not args.choose and args.only is None:
        path = args.out_dir / f"{args.run_name}.json"
        vae.write_record(path, args, [vae.machine(device)], numbers, seconds=seconds, curves={})
        print(f"record: {path}")


if __name__ == "__main__":
    vae.run(main)
