"""Problems 5.1 to 5.5: a GAN and a Conditional GAN (p5_compare.py judges their samples).

    python gan.py                              Fashion-MNIST, convolutional nets
    python gan.py --conditional                the same nets, told the labels
    python gan.py --arch mlp [--conditional]   the nets and settings that were handed out
    python gan.py --conditional --draw bag     bags of a trained net, in seconds
    python gan.py --resume                     go on where a run was stopped

A run is named after its command: gan_fashion, cgan_fashion_seed2, gan_mlp_fashion_g-steps2. It
writes
    runs/<run>.pt              checkpoint, saved after every epoch
    runs/<run>/                a grid of samples of every epoch
    runs/<run>_samples.npz     images: 10 000 samples, of a Conditional GAN 60 000 with labels
                               (with --clusters 10 000, no labels); paths: images on 500 straight
                               lines and 500 arcs between two z
    runs/<run>_drawn.png       what --draw draws
    plots/<run>.json, _*.pdf   record and figures
    plots/<run>_weights.pt     the generator, for --draw

GANs are Goodfellow et al.'s (2014, arXiv:1406.2661), Conditional GANs Mirza & Osindero's (2014,
arXiv:1411.1784). Images are in [-1, 1], the range of the generator's Tanh.
"""
import argparse
import contextlib
import errno
import gzip
import hashlib
import io
import json
import math
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
import zlib
from pathlib import Path
from types import SimpleNamespace

if __name__ == "__main__":
    os.environ["MPLBACKEND"] = "agg"  # a notebook hands down its own, which may be missing here
import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from matplotlib.figure import Figure
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
PIXELS = 28 * 28
NOISE = 100  # dimensions of z ~ N(0, I)
PATHS = 500  # pairs of z between which p5_compare.py is shown images

DEFAULTS = {  # by --arch: as handed out; the best found of one step each (5.3: two of G do better)
    "mlp": {"epochs": 24, "batch_size": 64, "lr_g": 2e-4, "lr_d": 2e-4, "schedule": "constant",
            "beta1": 0.9, "ema": 0.0, "r1": 0.0},
    "conv": {"epochs": 12, "batch_size": 64, "lr_g": 2e-3, "lr_d": 2e-3, "schedule": "linear",
             "beta1": 0.0, "ema": 0.995, "r1": 0.5},
}
# Adam's second decay rate. A step is at most lr / sqrt(1 - beta2) in every weight, and comes near
# that when gradients grow after a quiet time. With 0.999 and the rates above a Conditional GAN blew
# up in its sixth epoch; Karras et al. (2020, arXiv:1912.04958) train with 0.99.
BETA2 = {"mlp": 0.999, "conv": 0.99}
CLASSES = {"mnist": tuple("0123456789"),
           "fashion": tuple(torchvision.datasets.FashionMNIST.classes)}
# Lazy R1 (Karras et al. 2020, arXiv:1912.04958): the penalty is taken in steps 0, 8, 16, ... of an
# epoch, with 8-fold weight. Its gradient is about the same on average; Adam's steps are not.
R1_EVERY = 8


# ------------------------------------------------------------------------- nets as handed out
class Generator(nn.Module):
    """z (B, input_dim) and labels (B,) -> images (B, output_dim) in [-1, 1].

    num_labels=None makes the unconditional generator, which ignores labels.
    """

    def __init__(self, input_dim, output_dim, num_labels=10):
        super().__init__()
        self.embedding = nn.Embedding(num_labels, num_labels) if num_labels else None
        self.layers = nn.Sequential(
            nn.Linear(input_dim + (num_labels or 0), 256), nn.LeakyReLU(0.2),
            nn.Linear(256, 512), nn.LeakyReLU(0.2),
            nn.Linear(512, 1024), nn.LeakyReLU(0.2),
            nn.Linear(1024, output_dim), nn.Tanh())

    def forward(self, x, labels=None):
        if self.embedding is not None:
            x = torch.cat((x, self.embedding(labels)), 1)
        return self.layers(x)


class Discriminator(nn.Module):
    """Images (B, input_dim) and labels (B,) -> logits (B, output_dim); the loss has the sigmoid.

    num_labels=None makes the unconditional discriminator, which ignores labels.
    """

    def __init__(self, input_dim, output_dim=1, num_labels=None):
        super().__init__()
        self.embedding = nn.Embedding(num_labels, num_labels) if num_labels else None
        self.layers = nn.Sequential(
            nn.Linear(input_dim + (num_labels or 0), 1024), nn.LeakyReLU(0.2), nn.Dropout(0.3),
            nn.Linear(1024, 512), nn.LeakyReLU(0.2), nn.Dropout(0.3),
            nn.Linear(512, 256), nn.LeakyReLU(0.2), nn.Dropout(0.3),
            nn.Linear(256, output_dim))

    def forward(self, x, labels=None):
        if self.embedding is not None:
            x = torch.cat((x, self.embedding(labels)), 1)
        return self.layers(x)


# ------------------------------------------------------------------------- convolutional nets
class ConvGenerator(nn.Module):
    """Generator with feature maps of 7 x 7, 14 x 14 and 28 x 28 pixels.

    (Radford et al. 2016, arXiv:1511.06434.)
    """

    def __init__(self, input_dim, output_dim, num_labels=10):
        super().__init__()
        self.embedding = nn.Embedding(num_labels, num_labels) if num_labels else None
        self.layers = nn.Sequential(
            nn.Linear(input_dim + (num_labels or 0), 128 * 7 * 7, bias=False),
            nn.Unflatten(1, (128, 7, 7)), nn.BatchNorm2d(128), nn.ReLU(),
            nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(64), nn.ReLU(),
            nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 1, 3, padding=1), nn.Tanh(), nn.Flatten())

    def forward(self, x, labels=None):
        if self.embedding is not None:
            x = torch.cat((x, self.embedding(labels)), 1)
        return self.layers(x)


class ConvDiscriminator(nn.Module):
    """Discriminator with feature maps of 14 x 14, 7 x 7 and 3 x 3 pixels; output_dim must be 1.

    Labels enter by projection (Miyato & Koyama 2018, arXiv:1802.05637): with features h(x), the
    logit of (x, y) is w.h + b + v_y.h + c_y. The v_y.h + c_y are also the class logits that
    --classifier trains.
    """

    def __init__(self, input_dim, output_dim=1, num_labels=None):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Unflatten(1, (1, 28, 28)),
            nn.Conv2d(1, 32, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(32, 64, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(64, 128, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.Flatten(), nn.Linear(128 * 3 * 3, output_dim + (num_labels or 0)))

    def scores(self, x, labels=None):
        """Logits (B, 1) of x being real; class logits (B, num_labels), or (B, 0) if no labels."""
        outputs = self.layers(x)  # (B, 1 + num_labels)
        logits = outputs[:, :1]
        class_logits = outputs[:, 1:]
        if class_logits.shape[1] > 0:
            logits = logits + class_logits.gather(1, labels[:, None])
        return logits, class_logits

    def forward(self, x, labels=None):
        return self.scores(x, labels)[0]


# ------------------------------------------------------------------- losses and training steps
def draw_noise(count, device, num_labels=10):
    """z (count, 100) and uniform labels (count,), which nets without labels ignore.

    Drawn by the CPU, so that a GPU gets the same.
    """
    z = torch.randn(count, NOISE)
    labels = torch.randint(num_labels, (count,))
    return z.to(device), labels.to(device)


def adversarial_loss(logits, target):
    """Mean cross-entropy of logits (B, 1) with the probability `target` of being real."""
    logits = logits.float()
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def r1_penalty(discriminator, images, labels):
    """Half the mean squared norm of d logit / dx at `images` (B, 784).

    (Mescheder et al. 2018, arXiv:1801.04406.)
    """
    x = images.clone().requires_grad_()
    gradient, = torch.autograd.grad(discriminator(x, labels).sum(), x, create_graph=True)
    return gradient.pow(2).sum(1).mean() / 2


def train_discriminator(batch_size, images, labels=None, *, generator, discriminator, optimizer,
                        num_labels=10, real_target=1.0, r1=0.0, classifier=0.0, bfloat16=False):
    """One Adam step of D that lowers -log D(x) - log(1 - D(G(z))); returns the mean of that loss.

    x: `images` (B, 784) in [-1, 1] with `labels` (B,), which a D without labels ignores;
    B = batch_size, and there are as many fakes. D(x) is the sigmoid of D's logit. With
    `real_target` t < 1 (label smoothing) -log D(x) becomes -t log D(x) - (1 - t) log(1 - D(x)).
    `r1` and `classifier` weigh the R1 penalty and the cross-entropy of D's class logits at images
    (Odena et al. 2017, arXiv:1610.09585), which are lowered too but not returned.
    """
    z, fake_labels = draw_noise(batch_size, images.device, num_labels)  # (B, 100), (B,)
    extra = 0
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
        fakes = generator(z, fake_labels).detach()  # no gradient of this step reaches G
        # Real and fake in one pass, (2B, 784): D has no BatchNorm, so neither sees the other.
        both = torch.cat((images, fakes.to(images.dtype)))
        both_labels = None if labels is None else torch.cat((labels, fake_labels))
        if classifier:
            logits, class_logits = discriminator.scores(both, both_labels)
        else:
            logits = discriminator(both, both_labels)
        if r1:
            extra = r1 * r1_penalty(discriminator, images, labels)
    if classifier:
        extra += classifier * F.cross_entropy(class_logits[:batch_size].float(), labels)
    on_real, on_fake = logits.split(batch_size)
    loss = adversarial_loss(on_real, real_target) + adversarial_loss(on_fake, 0.0)
    optimizer.zero_grad()
    (loss + extra).backward()
    optimizer.step()
    return loss.detach()


def train_generator(batch_size, *, generator, discriminator, optimizer, num_labels=10,
                    classifier=0.0, bfloat16=False):
    """One Adam step of G that lowers -log D(G(z)), the non-saturating loss.

    `classifier` is the weight of the cross-entropy of D's class logits at the fakes with the labels
    they were asked for. Returns the average GAN loss over the batch, without it.
    """
    device = next(generator.parameters()).device
    z, labels = draw_noise(batch_size, device, num_labels)
    extra = 0
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        fakes = generator(z, labels)
        if classifier:
            logits, class_logits = discriminator.scores(fakes, labels)
        else:
            logits = discriminator(fakes, labels)
    if classifier:
        extra = classifier * F.cross_entropy(class_logits.float(), labels)
    loss = adversarial_loss(logits, 1.0)
    optimizer.zero_grad()
    (loss + extra).backward(inputs=list(generator.parameters()))  # D needs no gradients here
    optimizer.step()
    return loss.detach()


# ------------------------------------------------------------------------------- training loop
def label_count(args):
    """How many labels there are to be told: the ten classes, or the clusters in their place."""
    return args.clusters or 10


def build_generator(args, device):
    """The generator of --arch, untrained."""
    net = ConvGenerator if args.arch == "conv" else Generator
    generator = net(NOISE, PIXELS, label_count(args) if args.conditional else None)
    return generator.to(device, memory_format=torch.channels_last)  # a tenth faster on a CPU


def build(args, device):
    """Both nets, the generator's moving average, which is sampled, and both optimisers, by name."""
    generator = build_generator(args, device)
    net = ConvDiscriminator if args.arch == "conv" else Discriminator
    discriminator = net(PIXELS, 1, label_count(args) if args.conditional else None)
    discriminator.to(device, memory_format=torch.channels_last)
    average = AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(args.ema),
                            use_buffers=True)
    betas = (args.beta1, BETA2[args.arch])
    return SimpleNamespace(
        generator=generator, discriminator=discriminator, average=average,
        optimizer_g=torch.optim.Adam(generator.parameters(), args.lr_g, betas, fused=True),
        optimizer_d=torch.optim.Adam(discriminator.parameters(), args.lr_d, betas, fused=True))


def learning_rate(rate, args, progress):
    """`rate`, or falling from it to 0 over the last 30 % of training; `progress` is in [0, 1)."""
    if args.schedule == "constant":
        return rate
    return rate * min(1, (1 - progress) / 0.3)


def train(gan, images, labels, args, *, epoch, iterations, bar, precision="float32"):
    """One epoch over `images` (N, 784) and labels (N,): means of both losses, counts of steps.

    An iteration is d_steps steps of D, each on the next batch, then g_steps of G on new noise; an
    epoch's last iteration takes the batches that are left. `iterations` counts those of the whole
    run, which may end within an epoch.
    """
    gan.discriminator.train()  # test() left dropout off
    torch.manual_seed(1_000_003 * args.seed + epoch)  # so that a resumed run draws the same
    order = torch.randperm(len(images)).to(images.device)
    portions = order.split(args.batch_size * args.d_steps)  # of each iteration, indices of images
    remaining = iterations - (epoch - 1) * len(portions)
    common = {"generator": gan.generator, "discriminator": gan.discriminator,
              "num_labels": label_count(args), "classifier": args.classifier,
              "bfloat16": precision == "bfloat16"}
    g_losses, d_losses = [], []
    for iteration, portion in enumerate(portions[:remaining]):
        progress = ((epoch - 1) * len(portions) + iteration) / iterations
        gan.optimizer_d.param_groups[0]["lr"] = learning_rate(args.lr_d, args, progress)
        gan.optimizer_g.param_groups[0]["lr"] = learning_rate(args.lr_g, args, progress)
        for batch in portion.split(args.batch_size):  # indices (B,)
            r1 = 0.0
            if len(d_losses) % R1_EVERY == 0:
                r1 = R1_EVERY * args.r1
            d_losses.append(train_discriminator(
                len(batch), images[batch], labels[batch], optimizer=gan.optimizer_d,
                real_target=args.label_smoothing, r1=r1, **common))
        for _ in range(args.g_steps):
            g_losses.append(train_generator(args.batch_size, optimizer=gan.optimizer_g, **common))
            gan.average.update_parameters(gan.generator)
        bar.update()
    return {"g_loss": torch.stack(g_losses).mean().item(),
            "d_loss": torch.stack(d_losses).mean().item(),
            "g_updates": len(g_losses), "d_updates": len(d_losses)}


@torch.no_grad()
def evaluate(net, x, labels):
    """net(x, labels), 500 at a time, outside autocast; leaves the net in evaluation mode."""
    net.eval()
    return torch.cat([net(*pair) for pair in zip(x.split(500), labels.split(500))])


def test(gan, images, labels, args):
    """{d_real, d_fake}: mean D of the first 2000 test images (N, 784), and of 2000 fakes.

    The fakes are those of the averaged generator.
    """
    torch.manual_seed(args.seed)
    z, fake_labels = draw_noise(2000, images.device, label_count(args))
    fakes = evaluate(gan.average, z, fake_labels)
    on_real = evaluate(gan.discriminator, images[:2000], labels[:2000])
    on_fake = evaluate(gan.discriminator, fakes, fake_labels)
    return {"d_real": on_real.sigmoid().mean().item(), "d_fake": on_fake.sigmoid().mean().item()}


def verdicts(discriminator, images, labels):
    """{d_right_<c>, d_wrong_<c>}: mean D of class c's images under right and wrong labels.

    Taken over the images of class c among the first 2000 (N, 784): told c, and averaged over the
    nine other labels.
    """
    images, labels = images[:2000], labels[:2000]
    claims = range(10)
    probability = torch.cat([
        evaluate(discriminator, images, torch.full_like(labels, claim)).sigmoid()
        for claim in claims], 1)  # (N, 10): of image and claimed label
    numbers = {}
    for label in labels.unique().tolist():
        of_class = probability[labels == label].mean(0)
        wrong = [of_class[claim] for claim in claims if claim != label]
        numbers[f"d_right_{label}"] = of_class[label].item()
        numbers[f"d_wrong_{label}"] = torch.stack(wrong).mean().item()
    return numbers


# ----------------------------------------------------------------------------------- sampling
def sample(generator, args, train_labels):
    """Images (N, 784) in [-1, 1] and their labels (N,) or None; the same on every call.

    60 000 with labels of a Conditional GAN, else 10 000 and None. Of a Conditional GAN the classes
    come in turn, so that each has the same number of images. Clusters come as often as among the
    training images, and are no labels to be kept.
    """
    torch.manual_seed(args.seed)
    device = train_labels.device
    in_turn = args.conditional and not args.clusters
    z, labels = draw_noise(60_000 if in_turn else 10_000, device)
    if in_turn:
        labels = torch.arange(len(z), device=device) % 10
        return evaluate(generator, z, labels), labels
    if args.clusters:
        chosen = torch.randint(len(train_labels), (len(z),))
        labels = train_labels[chosen.to(device)]
    return evaluate(generator, z, labels), None


def grids(generator, args, device):
    """{kind: images (N, 784)}, 8 in a row, of the same noise on every call.

    samples: 64, or, conditional, a row for each of ten classes or clusters; then also same_noise,
    in which every row has the noise of the first.
    """
    torch.manual_seed(args.seed)
    z = torch.randn(10, 8, NOISE)  # (row, column, noise)
    noise = {"samples": z[:8]}
    if args.conditional:
        noise = {"samples": z, "same_noise": z[:1].expand_as(z)}
    labels = torch.arange(10, device=device).repeat_interleave(8)
    return {kind: evaluate(generator, rows.flatten(0, 1).to(device), labels[:8 * len(rows)])
            for kind, rows in noise.items()}


def interpolations(generator, args, device, pairs=10, steps=8):
    """{path: images (pairs * steps, 784)} between pairs of z; with labels, pair k has label k % 10.

    The straight line passes nearer to 0 than any z that the generator was trained on: in 100
    dimensions |z| is close to 10, half way about 7. The arc stays near 10 (White 2016,
    arXiv:1609.04468).
    """
    drawn = torch.Generator().manual_seed(args.seed)
    start, end = torch.randn(2, pairs, 1, NOISE, generator=drawn)  # each (pair, 1, noise)
    t = torch.linspace(0, 1, steps)[:, None]  # (steps, 1)
    angle = F.cosine_similarity(start, end, dim=2).acos()[:, :, None]  # (pair, 1, 1)
    start_weight = ((1 - t) * angle).sin() / angle.sin()  # (pair, steps, 1)
    end_weight = (t * angle).sin() / angle.sin()
    paths = {"straight line": (1 - t) * start + t * end,
             "arc": start_weight * start + end_weight * end}  # each (pair, steps, noise)
    labels = (torch.arange(pairs, device=device) % 10).repeat_interleave(steps)
    return {name: evaluate(generator, z.flatten(0, 1).to(device), labels)
            for name, z in paths.items()}


# ----------------------------------------------------------------- labels that the data suggest
def find_clusters(images, count, seed, steps=30):
    """Cluster (N,) of each of images (N, 784), and the centres (count, 784), by k-means.

    Lloyd's algorithm (1982) from `count` images drawn with `seed`, for `steps` steps. Trained with
    clusters in place of labels, a Conditional GAN shows how much it gains from any grouping of the
    images, and how much from true classes.
    """
    drawn = torch.Generator().manual_seed(seed)
    centres = images[torch.randperm(len(images), generator=drawn)[:count].to(images.device)]
    for _ in range(steps):
        nearest = nearest_centre(images, centres)
        sums = torch.zeros_like(centres).index_add_(0, nearest, images)
        sizes = nearest.bincount(minlength=len(centres))[:, None]
        centres = torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)
    return nearest_centre(images, centres), centres


def nearest_centre(images, centres):
    """The nearest of the centres (count, 784) to each of images (N, 784): its number (N,)."""
    return torch.cat([torch.cdist(batch, centres).argmin(1) for batch in images.split(10_000)])


# ------------------------------------------------------------------------- a run and its results
def fingerprint(args):
    """Losses that tell whether today's code still computes what a record's did.

    D's and G's, means of two epochs of 64 drawn images, by one thread in float32. `make check`
    takes them again.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    drawn = torch.Generator().manual_seed(0)
    images = 2 * torch.rand(64, PIXELS, generator=drawn) - 1
    labels = torch.randint(10, (64,), generator=drawn)
    torch.manual_seed(args.seed)
    gan = build(args, torch.device("cpu"))
    batch_size = max(2, 64 // args.d_steps)  # 64 images have d_steps batches
    settings = argparse.Namespace(**vars(args) | {"batch_size": batch_size})
    losses = []
    for epoch in (1, 2):
        means = train(gan, images, labels, settings, epoch=epoch, iterations=1000,
                      bar=tqdm(disable=True))
        losses += [means["d_loss"], means["g_loss"]]
    torch.set_num_threads(threads)
    return losses


def fit(gan, data, state, args, device):
    """Train from the epoch of `state` to the last, saving state and a grid after each."""
    train_images, train_labels, test_images, test_labels = data
    checkpoint = args.runs_dir / f"{args.run_name}.pt"
    if state["epoch"]:
        restore(vars(gan), state, checkpoint)
    per_epoch = math.ceil(len(train_images) / (args.batch_size * args.d_steps))
    iterations = args.epochs * per_epoch
    if args.updates:
        iterations = math.ceil(args.updates / (args.g_steps + args.d_steps))
    done = min(iterations, state["epoch"] * per_epoch)
    bar = tqdm(total=iterations, initial=done, unit="iteration", disable=None)
    for epoch in range(state["epoch"] + 1, math.ceil(iterations / per_epoch) + 1):
        start = time.perf_counter()
        numbers = train(gan, train_images, train_labels, args, epoch=epoch, iterations=iterations,
                        bar=bar, precision=state["precision"])
        numbers |= test(gan, test_images, test_labels, args)
        if not all(map(math.isfinite, numbers.values())):
            raise FloatingPointError(f"epoch {epoch} diverged, what was before it is kept: use "
                                     "smaller --lr-g and --lr-d (with the same --run-name also "
                                     "--fresh)")
        for name, value in numbers.items():
            state["curves"].setdefault(name, []).append(value)
        grid = grids(gan.average, args, device)["samples"]
        with replacing(args.runs_dir / args.run_name / f"samples_{epoch:03d}.png") as part:
            tiles = grid.view(-1, 1, 28, 28) / 2 + 0.5
            torchvision.utils.save_image(tiles, part, pad_value=0.5, format="png")
        if state["first"] is None:
            state["first"] = grid
        state["seconds"] += time.perf_counter() - start
        state |= {"epoch": epoch, "finished": epoch * per_epoch >= iterations}
        state |= {name: member.state_dict() for name, member in vars(gan).items()}
        save_state(checkpoint, state)
        text = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        bar.write(f"epoch {epoch}  {text}", file=sys.stdout)
    bar.close()


def as_bytes(images):
    """Images (N, 784) in [-1, 1] as uint8 (N, 28, 28), on the CPU."""
    return (images * 127.5 + 127.5).round().byte().view(-1, 28, 28).cpu()


def report(gan, data, state, args):
    """Samples, figures, record and weights of a trained GAN."""
    _, train_labels, test_images, test_labels = data
    device = test_images.device
    stem = str(args.out_dir / args.run_name)  # a name may hold dots, which are no suffix
    images, labels = sample(gan.average, args, train_labels)
    arrays = {"images": as_bytes(images)}
    paths = interpolations(gan.average, args, device, PATHS, steps=9)
    # uint8 (2, PATHS, 9, 28, 28): straight lines, arcs
    arrays["paths"] = torch.stack([as_bytes(between).view(PATHS, 9, 28, 28)
                                   for between in paths.values()])
    if labels is not None:
        arrays["labels"] = labels.cpu()
    samples_file = args.runs_dir / f"{args.run_name}_samples.npz"
    with replacing(samples_file) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)

    row_names = ()
    if args.clusters:
        row_names = tuple(f"cluster {cluster}" for cluster in range(1, 11))
    elif args.conditional:
        row_names = CLASSES[args.dataset]
    for kind, grid in grids(gan.average, args, device).items():
        panels = {}
        if kind == "samples":
            panels["after epoch 1"] = state["first"]
        panels[f"after epoch {state['epoch']}"] = grid
        draw_grids(Path(f"{stem}_{kind}.pdf"), panels, row_names)
    draw_grids(Path(f"{stem}_interpolations.pdf"), interpolations(gan.average, args, device),
               row_names)

    numbers = {}
    for name, curve in state["curves"].items():
        numbers[name] = sum(curve) if name.endswith("updates") else curve[-1]
    if args.conditional and not args.clusters:
        numbers |= verdicts(gan.discriminator, test_images, test_labels)
    parameters = {name: sum(p.numel() for p in getattr(gan, name).parameters())
                  for name in ("generator", "discriminator")}
    write_record(Path(f"{stem}.json"), args, state["machines"], numbers, ("d_real", "d_fake"),
                 data=state["data"], precision=state["precision"],
                 fingerprint=state["fingerprint"], parameters=parameters,
                 seconds=state["seconds"], curves=state["curves"])
    save_weights(Path(f"{stem}_weights.pt"), gan.average.module.state_dict(), args)
    print(f"D(test) {numbers['d_real']:.2f}, D(fakes) {numbers['d_fake']:.2f}; record and figures: "
          f"{stem}*")


def kept_generator(args, device):
    """The generator of a finished run; OSError where it wrote none."""
    path = args.out_dir / f"{args.run_name}_weights.pt"
    weights = load_weights(path, args)
    generator = build_generator(args, device)
    restore({"generator": generator}, {"generator": weights}, path)
    return generator


def draw(args, device):
    """Write a picture of fresh samples of a finished run, a row for each class of args.draw.

    Without classes it has eight rows of whatever comes.
    """
    generator = kept_generator(args, device)
    torch.seed()  # other samples on every call
    rows = 8
    if args.draw:
        rows = len(args.draw)
    z, labels = draw_noise(8 * rows, device, label_count(args))
    if args.draw:
        labels = torch.tensor(args.draw, device=device).repeat_interleave(8)
    save_picture(args.runs_dir / f"{args.run_name}_drawn.png",
                 evaluate(generator, z, labels) / 2 + 0.5)


# ------------------------------------------------------------------------------------ figures
def draw_grids(path, panels, row_names):
    """{title: images (N, 784) in [-1, 1]} side by side, 8 in a row, on one grey scale."""
    width = 1.8 if row_names else 2.1  # inches of a panel
    margin = 0.55 if row_names else 0
    rows = max(len(images) for images in panels.values()) / 8
    figure = Figure(figsize=(width * len(panels) + margin, width * rows / 8 + 0.2))
    all_axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, images) in zip(all_axes, panels.items()):
        # one of three equal colours; tiles of 28 pixels and 2 between, their centres at 16, 46, ...
        tiles = torchvision.utils.make_grid(images.view(-1, 1, 28, 28).cpu())[0].numpy()
        axes.imshow(tiles, vmin=-1, vmax=1, interpolation="nearest")
        axes.set(title=title, frame_on=False, xticks=[])
        axes.set_yticks(range(16, 16 + 30 * len(row_names), 30), row_names)
    save_figure(figure, path)


# ------------------------------------------------------- files: the same text in every script
STYLE = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False,
         "image.cmap": "gray", "figure.constrained_layout.use": True, "pdf.fonttype": 42,
         "legend.frameon": False, "lines.linewidth": 1.2}


def load_dataset(name, data_dir):
    """[train images, labels, test images, labels], each uint8, (N, 28, 28) or (N,).

    Downloaded where they are missing; OSError names the file that is not to be had, and why.
    """
    dataset = {"mnist": torchvision.datasets.MNIST,
               "fashion": torchvision.datasets.FashionMNIST}[name]
    raw = Path(data_dir, dataset.__name__, "raw")
    paths = [raw / file for file in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte",
                                     "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")]
    for path in paths:
        if not path.exists() and not Path(f"{path}.gz").exists():
            download(dataset, Path(data_dir), path)
    tensors = [read_idx(path) for path in paths]
    for images, labels in (tensors[:2], tensors[2:]):
        match = images.shape[1:] == (28, 28) and labels.shape == images.shape[:1]
        if not match or len(images) == 0 or labels.max() > 9:
            raise OSError(f"{paths[0]} and the files beside it do not fit each other: delete them, "
                          "name another --data-dir, or run `make demo` (no download)")
    return tensors


def download(dataset, data_dir, missing):
    """Download a data set into a folder of this process alone, then move its files in place."""
    if data_dir.is_symlink() and not data_dir.exists():
        raise OSError(f"{data_dir} is a link to {data_dir.readlink()}, which is not there: "
                      "name another --data-dir, or run `make demo` (no download)")
    was_there = data_dir.exists()
    prepare_folders(data_dir)
    try:
        with tempfile.TemporaryDirectory(prefix=f".part-{os.getpid()}-", dir=data_dir) as folder:
            with contextlib.redirect_stdout(io.StringIO()):
                dataset(folder, download=True)
            missing.parent.mkdir(parents=True, exist_ok=True)
            for path in Path(folder, dataset.__name__, "raw").iterdir():
                path.replace(missing.parent / path.name)
    except Exception as error:
        if not was_there:
            with contextlib.suppress(OSError):  # another process may be writing into it
                data_dir.rmdir()
        cause = " ".join(str(error).split()) or type(error).__name__
        raise OSError(f"{missing} is missing and cannot be downloaded ({cause}): check network and "
                      "disk, name another --data-dir, or run `make demo` (no download)") from error


def read_idx(path):
    """The uint8 tensor in an IDX file, unpacked from the .gz beside it if absent or cut off."""
    def read(file):
        try:
            return torchvision.datasets.mnist.read_sn3_pascalvincent_tensor(file)
        except (OSError, MemoryError):  # it cannot be read, which is no reason to delete it
            raise
        except Exception:  # the reader asserts what it expects
            return None

    tensor = read(path) if path.exists() else None
    packed = Path(f"{path}.gz")
    if tensor is None and packed.exists():
        prepare_folders(path.parent)
        with contextlib.suppress(EOFError, zlib.error, gzip.BadGzipFile), replacing(path) as part:
            part.write_bytes(gzip.decompress(packed.read_bytes()))
            tensor = read(part)
            if tensor is None:
                raise EOFError(f"{packed} holds no images or labels")
    if tensor is None:
        raise OSError(f"{path} is damaged: delete it and any .gz of it, name another --data-dir, "
                      "or run `make demo` (no download)")
    return tensor


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


def checksum(tensors):
    """A short name for the content of uint8 tensors: the head of their SHA-256, in order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.numpy())
    return f"sha256 {digest.hexdigest()[:16]}"


def load_state(path, device="cpu"):
    """What save_state wrote to `path`, or None where nothing is; OSError: it is damaged."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        return None
    except (OSError, MemoryError):
        raise
    except Exception as error:
        if "alloc" in str(error).lower():  # memory
            raise
        raise OSError(f"{path} is damaged or no checkpoint: training it with --fresh makes it anew"
                      ) from error


def restore(members, state, path):
    """Load what `state` holds into {name: module or optimizer}; OSError where it does not fit."""
    try:
        for name, member in members.items():
            member.load_state_dict(state[name])
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise OSError(f"{path} is damaged or of another version: --fresh starts over") from error


def save_state(path, state):
    """Save a run's state, unless a later epoch of this run is there.

    So of a run that was started twice the later one stays, and a finished run that is trained once
    more stays until the new one is as far.
    """
    with contextlib.suppress(OSError, LookupError, TypeError):  # nothing there, or nothing of use
        if load_state(path, "meta")["epoch"] > state["epoch"]:  # without its tensors
            return
    with replacing(path) as part, part.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # it closes an archive whose writing had failed: say why
            raise error.__context__ or error from None


def open_run(args, data, device):
    """The state to start this command's run from, or to go on from.

    OSError where a plain command would wipe an unfinished run, or where the file holds a run of
    other settings or of other data than the checksum `data`.
    """
    path = args.runs_dir / f"{args.run_name}.pt"
    new = {"settings": settings_of(args), "data": data, "epoch": 0, "finished": False,
           "seconds": 0.0, "machines": [], "curves": {}}
    if args.fresh:
        path.unlink(missing_ok=True)
    state = load_state(path, device)
    if state is None:
        return new | {"machines": [machine(device)]}
    if not isinstance(state, dict) or not new.keys() <= state.keys():
        raise OSError(f"{path} is damaged or of another version: --fresh starts over")
    changed = [as_typed(name, state["settings"].get(name))
               for name, value in new["settings"].items() if state["settings"].get(name) != value]
    if changed:
        raise OSError(f"{path} was made with {', '.join(changed)}: give that, or another "
                      "--run-name, or start over with --fresh")
    if state["data"] != data:
        raise OSError(f"{path} was trained on other images than --data-dir {args.data_dir} holds: "
                      "name those, or another --runs-dir and --out-dir, or start over with --fresh")
    if state["finished"] and not args.resume:
        return new | {"machines": [machine(device)]}
    if not args.resume:
        raise OSError(f"{args.run_name} is unfinished, {state['epoch']} epochs are done: --resume "
                      "goes on, --fresh starts over")
    print(f"{args.run_name}: {state['epoch']} epochs were already done")
    if not state["finished"]:
        here = machine(device)
        if here not in state["machines"]:
            state["machines"].append(here)
    return state


def as_typed(name, value):
    """A setting as a person types its flag; a switch that is off as "no --flag"."""
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return flag if value else f"no {flag}"
    return f"{flag} {value}"


def save_weights(path, state, args):
    """Write {name: tensor} and the run's settings for --draw, weights and biases as halves."""
    state = {name: tensor.half() if name.endswith(("weight", "bias")) else tensor
             for name, tensor in state.items()}
    with replacing(path) as part, part.open("wb") as file:
        torch.save({"settings": settings_of(args), "state": state}, file)


def load_weights(path, args):
    """{name: tensor} that save_weights wrote; OSError where a run of these settings wrote none."""
    kept = load_state(path)
    if kept is None:
        raise OSError(f"{path} is missing: run the same command without --draw first, or fetch "
                      "that file of this project")
    if not isinstance(kept, dict) or kept.get("settings") != settings_of(args):
        raise OSError(f"{path} is of other settings: run the same command without --draw first")
    return {name: tensor.float() for name, tensor in kept["state"].items()}


def save_picture(path, images):
    """Write images (N, 784) in [0, 1] as PNG, 8 in a row, each pixel as 3 x 3, and say where."""
    tiles = torchvision.utils.make_grid(images.view(-1, 1, 28, 28).cpu(), pad_value=0.5)
    tiles = tiles.repeat_interleave(3, 1).repeat_interleave(3, 2)
    with replacing(path) as part:
        torchvision.utils.save_image(tiles, part, format="png")
    print(path)


def add_file_flags(parser):
    """The flags that say where files lie and what becomes of a run that is already there."""
    group = parser.add_argument_group("files")
    group.add_argument("--data-dir", type=folder, default=HERE / "data", help="torchvision's root")
    group.add_argument("--out-dir", type=folder, default=HERE / "plots",
                       help="for record and figures")
    group.add_argument("--runs-dir", type=folder, default=HERE / "runs",
                       help="for checkpoint, samples and grids")
    group.add_argument("--run-name", help="default: from the flags that are not their defaults")
    already = group.add_mutually_exclusive_group()
    already.add_argument("--resume", action="store_true",
                         help="go on with the run of this name, or start it; of a finished one, "
                              "make samples, figures and record anew")
    already.add_argument("--fresh", action="store_true", help="start over, whatever is there")


def choose_precision(wanted, device):
    """--precision, where auto is bfloat16 on hardware that multiplies it, else float32."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = getattr(torch.cpu, "get_capabilities", dict)  # PyTorch 2.9 does not tell
        native = capabilities().get("avx512_bf16")
    return "bfloat16" if native else "float32"


# ------------------------------------------------------------------------------- command line
def parse_args(argv=None):
    """The command line (default: sys.argv), checked; a wrong one ends with status 2, one line."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.error = lambda text: parser.exit(2, f"{parser.prog}: {text} (--help lists every flag)\n")
    group = parser.add_argument_group("handed out (defaults of --arch mlp)")
    group.add_argument("--dataset", choices=("mnist", "fashion"), default="fashion")
    group.add_argument("--epochs", type=number(int, 1, 100_000), help="passes over the images")
    group.add_argument("--batch-size", type=number(int, 1, 60_000), help="images in a mini-batch")
    group.add_argument("--lr-g", type=number(float, 1e-9, 1e3), help="of the generator's Adam")
    group.add_argument("--lr-d", type=number(float, 1e-9, 1e3), help="of the discriminator's Adam")
    group.add_argument("--seed", type=number(int, 0, 2**31), default=1, help="of all chance")
    group.add_argument("--no-cuda", action="store_true", help="stay on the CPU")
    group = parser.add_argument_group("model")
    group.add_argument("--arch", choices=DEFAULTS, default="conv", help="mlp: as handed out")
    group.add_argument("--conditional", action="store_true", help="tell both nets the labels")
    group.add_argument("--clusters", type=number(int, 0, 1000), default=0,
                       help="in place of the labels, so many clusters of the training images")
    group = parser.add_argument_group("training")
    group.add_argument("--updates", type=number(int, 0, 10**9), default=0,
                       help="stop after about so many steps of both nets together, and not after "
                            "--epochs")
    group.add_argument("--g-steps", type=number(int, 1, 1000), default=1,
                       help="generator steps in an iteration")
    group.add_argument("--d-steps", type=number(int, 1, 1000), default=1,
                       help="discriminator steps in an iteration, each on a batch of its own")
    group.add_argument("--schedule", choices=("constant", "linear"),
                       help="of both learning rates; linear: to 0 over the last 30 %% of training")
    group.add_argument("--beta1", type=number(float, 0, 0.9999), help="of both Adams")
    group.add_argument("--label-smoothing", type=number(float, 0.5, 1), default=1.0,
                       help="target of D on real images; 1 is off")
    group.add_argument("--ema", type=number(float, 0, 0.99999),
                       help="decay of the generator's moving average, which is sampled; 0 is off")
    group.add_argument("--r1", type=number(float, 0, 1e6), help="gamma of the penalty; 0 is off")
    group.add_argument("--classifier", type=number(float, 0, 1e6), default=0.0,
                       help="weight of D's class cross-entropy; 0 is off")
    group.add_argument("--precision", choices=("auto", "bfloat16", "float32"), default="auto",
                       help="of training; auto: bfloat16 where the hardware has it")
    parser.add_argument("--draw", nargs="*", metavar="CLASS",
                        help="instead, draw a finished run's samples, of a Conditional GAN a row "
                             "of each class named")
    add_file_flags(parser)
    args = parser.parse_args(argv)  # once for what was typed, then with --arch's defaults
    if args.updates and args.epochs is not None:
        parser.error("--epochs and --updates both say when to stop: give one of them")
    parser.set_defaults(**DEFAULTS[args.arch])
    args = parser.parse_args(argv)
    if args.classifier and not (args.arch == "conv" and args.conditional):
        parser.error("--classifier needs --conditional and --arch conv")
    if args.clusters and (args.clusters < 10 or not args.conditional):
        parser.error("--clusters needs --conditional, and 10 clusters or more")
    if args.draw and (args.clusters or not args.conditional):
        parser.error("--draw with classes needs --conditional without --clusters")
    if args.draw:
        args.draw = [class_number(name, args.dataset, parser) for name in args.draw]
    prefix = "cgan" if args.conditional else "gan"
    if args.arch == "mlp":
        prefix += "_mlp"
    chosen = ("dataset", "arch", "conditional")
    return named(args, f"{prefix}_{args.dataset}", chosen, parser, argv)


def class_number(name, dataset, parser):
    """The label of the class of this name, of a part of it ("boot") or of this number."""
    for label, class_name in enumerate(CLASSES[dataset]):
        names = {str(label), class_name.lower(), *re.split("[/ ]", class_name.lower())}
        if name.lower() in names:
            return label
    parser.error(f"there is no class {name!r}: the classes are "
                 + ", ".join(CLASSES[dataset]))


def flatten_signed(images, device):
    """uint8 (N, 28, 28) -> float32 (N, 784) in [-1, 1] on `device`."""
    return images.to(device).view(-1, PIXELS).float().div_(127.5).sub_(1)


def main(argv=None):
    args = parse_args(argv)
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32 on every device
    torch.set_flush_denormal(True)  # Adam's averages come to numbers that CPUs multiply slowly
    with own_settings():
        device = choose_device(args.no_cuda)
        if args.draw is not None:
            prepare_folders(args.runs_dir)
            draw(args, device)
            return
        prepare_folders(args.out_dir, args.runs_dir, args.runs_dir / args.run_name)
        data = load_dataset(args.dataset, args.data_dir)
        state = open_run(args, checksum(data), device)
        if state["epoch"] == 0:
            state |= {"precision": choose_precision(args.precision, device), "first": None,
                      "fingerprint": fingerprint(args)}
        elif state["precision"] != choose_precision(args.precision, device):
            print(f"{args.run_name} goes on in {state['precision']}, as it began")
        train_images = flatten_signed(data[0], device)
        train_labels = data[1].to(device).long()
        test_images = flatten_signed(data[2], device)
        test_labels = data[3].to(device).long()
        if args.clusters:
            train_labels, centres = find_clusters(train_images, args.clusters, args.seed)
            test_labels = nearest_centre(test_images, centres)
        prepared = train_images, train_labels, test_images, test_labels
        torch.manual_seed(args.seed)
        gan = build(args, device)
        fit(gan, prepared, state, args, device)
        report(gan, prepared, state, args)


if __name__ == "__main__":
    run(main)
