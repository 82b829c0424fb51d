"""How long until the pictures are as good as those that the usual way ends with?

    python tests/bench.py                    every row on three seeds: two hours of one thread
    python tests/bench.py --only vae_mnist   one row, without a record

The usual way is what public examples publish: a torchvision data set with transforms behind a
DataLoader, `.item()` on every loss, plain Adam. Ours is the command of vae.py or gan.py that gets
as far soonest. Seconds are a process's CPU seconds from its start until 10 000 samples are written;
ours are of the whole command, figures and all. p5_compare.py scores the samples of both. Stopped,
the same command goes on. plots/bench.json is the record, its curves are over the seeds.
"""
import argparse
import json
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import vae  # noqa: E402, whose net is the example's, and its records

STARTED = time.process_time()  # CPU seconds of Python and the imports, a part of every command
CODE = vae.code_identity(__file__)
COUNT = 10_000  # samples, as many as vae.py and gan.py write
SEEDS = (1, 2, 3)


# ------------------------------------------ the usual way: pytorch/examples' vae and PyTorch-GAN
def usual_vae(row, seed, data_dir):
    """Train the VAE; samples (COUNT, 784) in [0, 1], no further arrays, {test_loss}."""
    torch.manual_seed(seed)
    dataset = datasets.MNIST if row.target else datasets.FashionMNIST
    data = dataset(data_dir, transform=transforms.ToTensor())
    loader = DataLoader(data, batch_size=128, shuffle=True)
    model = vae.VAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(row.epochs):
        train_loss = 0.0
        for images, _ in loader:
            optimizer.zero_grad()
            x = images.view(-1, 784)
            logits, mu, logvar = model(x)
            bce = nn.functional.binary_cross_entropy(logits.sigmoid(), x, reduction="sum")
            loss = bce + vae.gaussian_kl(mu, logvar)
            loss.backward()
            train_loss += loss.item()
            optimizer.step()
    with torch.no_grad():
        samples = model.decode(torch.randn(COUNT, 20)).sigmoid()
    test_images = dataset(data_dir, train=False).data.view(-1, 784) / 255
    return samples, {}, vae.test(model, test_images, argparse.Namespace(seed=seed))


class Net(nn.Module):
    """`layers` of x (B, n); `conditional`: of x and an embedding (B, 10) of labels (B,)."""

    def __init__(self, conditional, layers):
        super().__init__()
        self.embedding = nn.Embedding(10, 10) if conditional else None
        self.layers = nn.Sequential(*layers)

    def forward(self, x, labels):
        if self.embedding is not None:
            x = torch.cat((x, self.embedding(labels)), 1)
        return self.layers(x)


def usual_nets(conditional):
    """Generator of noise (B, 100) and discriminator of images (B, 784) in [-1, 1]."""
    more = 10 if conditional else 0  # inputs
    g_layers = [nn.Linear(100 + more, 128), nn.LeakyReLU(0.2)]
    for n in (128, 256, 512):  # with the eps that is published
        g_layers += [nn.Linear(n, 2 * n), nn.BatchNorm1d(2 * n, eps=0.8), nn.LeakyReLU(0.2)]
    generator = Net(conditional, [*g_layers, nn.Linear(1024, 784), nn.Tanh()])
    d_layers = [nn.Linear(784 + more, 512), nn.LeakyReLU(0.2)]
    if conditional:
        for _ in range(2):
            d_layers += [nn.Linear(512, 512), nn.Dropout(0.4), nn.LeakyReLU(0.2)]
        d_layers += [nn.Linear(512, 1)]  # its loss is the squared error
    else:
        d_layers += [nn.Linear(512, 256), nn.LeakyReLU(0.2), nn.Linear(256, 1), nn.Sigmoid()]
    return generator, Net(conditional, d_layers)


def usual_gan(row, seed, data_dir):
    """Train a GAN; samples (COUNT, 784) in [0, 1], {labels} that were asked for, no numbers."""
    torch.manual_seed(seed)
    conditional = "agreement" in row.measures
    steps = [transforms.Resize(28), transforms.ToTensor(), transforms.Normalize([0.5], [0.5])]
    data = datasets.FashionMNIST(data_dir, transform=transforms.Compose(steps))
    loader = DataLoader(data, batch_size=64, shuffle=True)
    generator, discriminator = usual_nets(conditional)
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    criterion = nn.MSELoss() if conditional else nn.BCELoss()
    for _ in range(row.epochs):
        for images, labels in loader:
            valid, fake = torch.ones(len(images), 1), torch.zeros(len(images), 1)
            optimizer_g.zero_grad()
            z, fake_labels = torch.randn(len(images), 100), torch.randint(10, labels.shape)
            fakes = generator(z, fake_labels)
            g_loss = criterion(discriminator(fakes, fake_labels), valid)
            g_loss.backward()
            optimizer_g.step()

            optimizer_d.zero_grad()
            real_loss = criterion(discriminator(images.view(-1, 784), labels), valid)
            fake_loss = criterion(discriminator(fakes.detach(), fake_labels), fake)
            d_loss = (real_loss + fake_loss) / 2
            d_loss.backward()
            optimizer_d.step()
            losses = [d_loss.item(), g_loss.item()]  # noqa: F841, which the examples print
    labels = torch.arange(COUNT) % 10
    with torch.no_grad():
        samples = generator.eval()(torch.randn(COUNT, 100), labels) / 2 + 0.5
    return samples, {"labels": labels}, {}


# target: of the first of the measures by which both are compared; None: what the usual way reaches
Row = namedtuple("Row", "usual epochs ours measures target", defaults=[None])
ROWS = {
    "vae_mnist": Row(usual_vae, 10, "vae.py --lr 3e-3 --decay 0.3 --epochs 5",
                     ["test_loss"], target=105.6),  # on MNIST, the others on Fashion-MNIST
    "vae_fashion": Row(usual_vae, 20, "vae.py --dataset fashion --recipe handout --lr 5e-3 "
                       "--decay 0.3 --beta 0.05 --components 10 --epochs 1", ["frechet"]),
    "gan_fashion": Row(usual_gan, 20, "gan.py --ema 0.95 --g-updates 100", ["frechet"]),
    "cgan_fashion": Row(usual_gan, 20, "gan.py --conditional --ema 0.95 --g-updates 200",
                        ["frechet", "agreement"]),
}


# ------------------------------------------------------------------------------------- the race
def run_script(words, folder, data_dir):
    """Run a script that writes into `folder`; what goes wrong it says itself."""
    flags = ["--no-cuda", "--data-dir", data_dir, "--out-dir", folder, "--runs-dir", folder]
    status = subprocess.call([sys.executable, ROOT / words[0], *words[1:], *flags])
    if status != 0:
        sys.exit(status)


def race(name, seed, args):
    """{way/measure: number}: both ways train, their samples are scored; once with this code."""
    row, folder = ROWS[name], args.runs_dir / "bench" / f"{name}_seed{seed}_{CODE}"
    finished = folder / "bench.json"
    if finished.exists():
        return json.loads(finished.read_text())
    shutil.rmtree(folder, ignore_errors=True)
    run_script([*row.ours.split(), "--seed", str(seed)], folder, args.data_dir)
    made, = folder.glob("*.json")
    record = json.loads(made.read_text())
    begun = time.process_time()
    images, arrays, numbers = row.usual(row, seed, args.data_dir)
    pixels = (255 * images).round().byte().view(-1, 28, 28)
    np.savez(folder / "usual_samples.npz", images=pixels, **arrays)
    numbers["seconds"] = STARTED + time.process_time() - begun
    found = {"usual": numbers, "our": record["numbers"] | {"seconds": record["seconds"]}}
    if "frechet" in row.measures:
        runs = {"usual": "usual", "our": made.stem}
        run_script(["p5_compare.py", *runs.values()], folder, args.data_dir)
        for way, run in runs.items():
            found[way] |= json.loads((folder / f"{run}_scores.json").read_text())["numbers"]
    numbers = {f"{way}/{measure}": found[way][measure]
               for way in found for measure in ("seconds", *row.measures)}
    vae.write_file(finished, json.dumps(numbers).encode())
    return numbers


def summary(row, curves):
    """Medians of {way/measure: by seed}, ratio of seconds; reached: 1 where ours is as good."""
    ratios = [usual / our for usual, our in zip(curves["usual/seconds"], curves["our/seconds"])]
    numbers = {name.replace("/", "_"): statistics.median(curves[name]) for name in curves}
    numbers |= {"seconds_ratio": statistics.median(ratios), "seconds_ratio_low": min(ratios),
                "seconds_ratio_high": max(ratios)}
    first = row.measures[0]
    numbers["target"] = row.target or numbers[f"usual_{first}"]
    reached = numbers[f"our_{first}"] <= numbers["target"]
    if "agreement" in row.measures:
        reached = reached and numbers["our_agreement"] >= numbers["usual_agreement"]
    return numbers | {"reached": int(reached)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--only", choices=ROWS, help="one row; default: all")
    vae.add_file_flags(parser)
    args = parser.parse_args()
    numbers, curves = {}, {}
    for name in [args.only] if args.only else ROWS:
        races = [race(name, seed, args) for seed in SEEDS]
        columns = {measure: [found[measure] for found in races] for measure in races[0]}
        medians = summary(ROWS[name], columns)
        print(name, medians, flush=True)
        curves |= {f"{name}/{measure}": values for measure, values in columns.items()}
        numbers |= {f"{name}/{measure}": value for measure, value in medians.items()}
    if not args.only:
        seconds = sum(sum(values) for name, values in curves.items() if "seconds" in name)
        vae.write_record(args.out_dir / "bench.json", argparse.Namespace(), torch.device("cpu"),
                         command=shlex.join(["python", "tests/bench.py", *sys.argv[1:]]),
                         code=CODE, numbers=numbers, curves=curves, seconds=seconds)


if __name__ == "__main__":
    main()
