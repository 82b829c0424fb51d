"""Problems 5.1 to 5.5 and 5.7: a GAN and a Conditional GAN (p5_compare.py judges their samples).

    python gan.py                              Fashion-MNIST, convolutional nets
    python gan.py --conditional                the same nets, told the labels
    python gan.py --arch mlp [--conditional]   the nets and settings that were handed out
    python gan.py --conditional --draw bag     fresh bags of that trained net, in seconds
    python gan.py --resume                     go on where a run was stopped

A run is named after its flags (cgan_fashion, gan_mlp_fashion_g-steps2). After every epoch it saves
a checkpoint and a grid under runs/; at its end 10 000 samples there, of a Conditional GAN with
labels, and record, figures and weights in plots/.

GANs are Goodfellow et al.'s (2014, arXiv:1406.2661), Conditional GANs Mirza & Osindero's (2014,
arXiv:1411.1784), the R1 penalty Mescheder et al.'s (2018, arXiv:1801.04406). Images are in [-1, 1],
the range of the generator's Tanh.
"""
import argparse
import hashlib
import io
import json
import math
import os
import pickle
import shlex
import socket
import sys
import tempfile
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

if __name__ == "__main__":
    os.environ["MPLBACKEND"] = "agg"  # a notebook hands down its own, which may be missing here
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from matplotlib import style
from matplotlib.figure import Figure
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

PIXELS = 28 * 28
NOISE = 100  # dimensions of z ~ N(0, I)
SAMPLES = 10_000  # images that are kept of a trained net, for p5_compare.py
PATHS = 500  # pairs of z between which images are kept

DEFAULTS = {  # by --arch: as handed out, and the best found
    "mlp": {"epochs": 24, "batch_size": 64, "lr_g": 2e-4, "lr_d": 2e-4, "decay": 0.0,
            "beta1": 0.9, "ema": 0.0, "r1": 0.0},
    "conv": {"epochs": 12, "batch_size": 64, "lr_g": 2e-3, "lr_d": 2e-3, "decay": 0.3,
             "beta1": 0.0, "ema": 0.995, "r1": 0.5},
}
# Adam's second decay rate: after a quiet time a step may come to lr / sqrt(1 - beta2). With 0.999
# and the rates above a Conditional GAN blew up; Karras et al. (2020, arXiv:1912.04958) take 0.99.
BETA2 = {"mlp": 0.999, "conv": 0.99}
R1_EVERY = 8  # lazy R1 (Karras et al. 2020): in steps 0, 8, 16, ... of an epoch, with 8-fold weight
CLASSES = {"mnist": list("0123456789"),
           "fashion": ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt",
                       "sneaker", "bag", "boot"]}


# ------------------------------------------------- nets as handed out (5.1), told the labels (5.4)
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


# ------------------------------------------- convolutional nets (5.2, 5.3), told the labels (5.4)
class ConvGenerator(nn.Module):
    """Generator with maps of 7 x 7, 14 x 14, 28 x 28 (Radford et al. 2016, arXiv:1511.06434)."""

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
    logit of (x, y) is w.h + b + v_y.h + c_y.
    """

    def __init__(self, input_dim, output_dim=1, num_labels=None):
        super().__init__()
        self.num_labels = num_labels
        self.layers = nn.Sequential(
            nn.Unflatten(1, (1, 28, 28)),
            nn.Conv2d(1, 32, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(32, 64, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(64, 128, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.Flatten(), nn.Linear(128 * 3 * 3, output_dim + (num_labels or 0)))

    def forward(self, x, labels=None):
        outputs = self.layers(x)  # (B, 1 + num_labels): w.h + b, then v_k.h + c_k of each label
        logits = outputs[:, :1]
        if self.num_labels is not None:
            logits = logits + outputs[:, 1:].gather(1, labels[:, None])
        return logits


# ------------------------------------------------------------- losses and training steps (5.1)
def draw_noise(count, device):
    """z (count, 100) and uniform labels (count,), which nets without labels ignore."""
    return torch.randn(count, NOISE, device=device), torch.randint(10, (count,), device=device)


def adversarial_loss(logits, target):
    """Mean cross-entropy of logits (B, 1) with the probability `target` of being real."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def r1_penalty(discriminator, images, labels):
    """Half the mean squared norm of d logit / dx at `images` (Mescheder et al. 2018, section 4)."""
    x = images.clone().requires_grad_()
    gradient, = torch.autograd.grad(discriminator(x, labels).sum(), x, create_graph=True)
    return gradient.pow(2).sum(1).mean() / 2


def train_discriminator(batch_size, images, labels=None, *, generator, discriminator, optimizer,
                        r1=0.0):
    """One Adam step of D that lowers -log D(x) - log(1 - D(G(z))); returns the mean of that loss.

    x: `images` (B, 784) in [-1, 1] with `labels` (B,), which a D without labels ignores;
    B = batch_size, and there are as many fakes. D(x) is the sigmoid of D's logit. The R1 penalty
    with its weight `r1` is lowered too, but not returned.
    """
    z, fake_labels = draw_noise(batch_size, images.device)  # (B, 100), (B,)
    with torch.no_grad():  # no gradient of this step reaches G
        fakes = generator(z, fake_labels)
    # Real and fake in one pass, (2B, 784): D has no BatchNorm, so neither sees the other.
    both_labels = None if labels is None else torch.cat((labels, fake_labels))
    logits = discriminator(torch.cat((images, fakes)), both_labels)
    on_real, on_fake = logits.split(batch_size)
    loss = adversarial_loss(on_real, 1.0) + adversarial_loss(on_fake, 0.0)
    penalty = r1 * r1_penalty(discriminator, images, labels) if r1 > 0 else 0.0
    optimizer.zero_grad()
    (loss + penalty).backward()
    optimizer.step()
    return loss.detach()


def train_generator(batch_size, *, generator, discriminator, optimizer):
    """One Adam step of G that lowers -log D(G(z)), the non-saturating loss; returns its mean."""
    z, labels = draw_noise(batch_size, next(generator.parameters()).device)
    fakes = generator(z, labels)
    loss = adversarial_loss(discriminator(fakes, labels), 1.0)
    optimizer.zero_grad()
    loss.backward(inputs=list(generator.parameters()))  # D needs no gradients here
    optimizer.step()
    return loss.detach()


# --------------------------------------------------------------- training loop (5.2; schemes: 5.3)
def build_generator(args, device):
    """The generator of --arch, untrained."""
    net = ConvGenerator if args.arch == "conv" else Generator
    generator = net(NOISE, PIXELS, 10 if args.conditional else None)
    return generator.to(device, memory_format=torch.channels_last)  # a tenth faster on a CPU


def build(args, device):
    """Both nets, the generator's moving average, which is sampled, and both optimisers, by name."""
    generator = build_generator(args, device)
    net = ConvDiscriminator if args.arch == "conv" else Discriminator
    discriminator = net(PIXELS, 1, 10 if args.conditional else None)
    discriminator.to(device, memory_format=torch.channels_last)
    average = AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(args.ema),
                            use_buffers=True)
    betas = (args.beta1, BETA2[args.arch])
    return SimpleNamespace(
        generator=generator, discriminator=discriminator, average=average,
        optimizer_g=torch.optim.Adam(generator.parameters(), args.lr_g, betas, fused=True),
        optimizer_d=torch.optim.Adam(discriminator.parameters(), args.lr_d, betas, fused=True))


def learning_rate(rate, args, progress):
    """`rate`, falling to 0 over the last share --decay of training; progress is in [0, 1)."""
    if progress < 1 - args.decay:
        return rate
    return rate * (1 - progress) / args.decay


def train(gan, images, labels, args, epoch, iterations):
    """One epoch over `images` (N, 784) and labels (N,): means of both losses, counts of steps.

    An iteration is d_steps steps of D, each on the next batch, then g_steps of G on new noise; an
    epoch's last iteration takes the batches that are left. `iterations` counts those of the whole
    run, which may end within an epoch.
    """
    gan.discriminator.train()  # test() left dropout off
    torch.manual_seed(1_000_003 * args.seed + epoch)  # so that a resumed run draws the same
    order = torch.randperm(len(images)).to(images.device)
    portions = order.split(args.batch_size * args.d_steps)  # of each iteration, indices of images
    done = (epoch - 1) * len(portions)
    nets = {"generator": gan.generator, "discriminator": gan.discriminator}
    g_losses, d_losses = [], []
    bar = tqdm(portions[:iterations - done], desc=f"epoch {epoch}", leave=False, disable=None)
    for iteration, portion in enumerate(bar, done):
        progress = iteration / iterations
        gan.optimizer_d.param_groups[0]["lr"] = learning_rate(args.lr_d, args, progress)
        gan.optimizer_g.param_groups[0]["lr"] = learning_rate(args.lr_g, args, progress)
        for batch in portion.split(args.batch_size):  # indices (B,)
            r1 = R1_EVERY * args.r1 if len(d_losses) % R1_EVERY == 0 else 0.0
            d_losses.append(train_discriminator(len(batch), images[batch], labels[batch],
                                                optimizer=gan.optimizer_d, r1=r1, **nets))
        for _ in range(args.g_steps):
            g_losses.append(train_generator(args.batch_size, optimizer=gan.optimizer_g, **nets))
            gan.average.update_parameters(gan.generator)
    return {"g_loss": torch.stack(g_losses).mean().item(),
            "d_loss": torch.stack(d_losses).mean().item(),
            "g_updates": done * args.g_steps + len(g_losses),  # of the run so far
            "d_updates": (epoch - 1) * math.ceil(len(images) / args.batch_size) + len(d_losses)}


@torch.no_grad()
def evaluate(net, x, labels):
    """net(x, labels), 500 at a time; leaves the net in evaluation mode."""
    net.eval()
    return torch.cat([net(*pair) for pair in zip(x.split(500), labels.split(500))])


def test(gan, images, labels, args):
    """{d_real, d_fake}: mean D of 2000 test images, and of 2000 fakes of the averaged generator."""
    torch.manual_seed(args.seed)
    z, fake_labels = draw_noise(2000, images.device)
    fakes = evaluate(gan.average, z, fake_labels)
    on_real = evaluate(gan.discriminator, images[:2000], labels[:2000])
    on_fake = evaluate(gan.discriminator, fakes, fake_labels)
    return {"d_real": on_real.sigmoid().mean().item(), "d_fake": on_fake.sigmoid().mean().item()}


def verdicts(discriminator, images, labels):
    """{d_right, d_wrong}: mean D of images (N, 784) under their label and under the nine others."""
    claims = torch.arange(10, device=images.device)
    d = torch.cat([evaluate(discriminator, images, claim.expand(len(images))).sigmoid()
                   for claim in claims], 1)  # (N, 10)
    right = labels[:, None] == claims
    return {"d_right": d[right].mean().item(), "d_wrong": d[~right].mean().item()}


# ------------------------------------------------------------------------------------- sampling
def sample(generator, args, device):
    """Images (SAMPLES, 784) in [-1, 1] and, of a Conditional GAN, labels, which come in turn."""
    torch.manual_seed(args.seed)
    z, labels = draw_noise(SAMPLES, device)
    if not args.conditional:
        return evaluate(generator, z, labels), None
    labels = torch.arange(len(z), device=device) % 10
    return evaluate(generator, z, labels), labels


def grids(generator, args, device):
    """{kind: images (N, 784)}, 8 in a row, of the same noise on every call.

    samples: 64, or, conditional, a row for each class; then also same_noise, in which every row has
    the noise of the first.
    """
    torch.manual_seed(args.seed)
    z = torch.randn(10, 8, NOISE, device=device)  # (row, column, noise)
    noise = {"samples": z[:8]}
    if args.conditional:
        noise = {"samples": z, "same_noise": z[:1].expand_as(z)}
    labels = torch.arange(10, device=device).repeat_interleave(8)
    return {kind: evaluate(generator, rows.flatten(0, 1), labels[:8 * len(rows)])
            for kind, rows in noise.items()}


def paths(generator, args, device, steps=9):
    """Images (2, PATHS, steps, 784) on the straight line and on the arc between two z (5.7).

    With labels, pair k has label k % 10. The straight line passes nearer to 0 than any z that the
    generator was trained on: in 100 dimensions |z| is close to 10, half way about 7. The arc stays
    near 10 (White 2016, arXiv:1609.04468).
    """
    torch.manual_seed(args.seed)
    start, end = torch.randn(2, PATHS, 1, NOISE, device=device)  # each (pair, 1, noise)
    t = torch.linspace(0, 1, steps, device=device)[:, None]  # (step, 1)
    angle = F.cosine_similarity(start, end, dim=2).acos()[:, :, None]  # (pair, 1, 1)
    line = (1 - t) * start + t * end  # (pair, step, noise)
    arc = (((1 - t) * angle).sin() * start + (t * angle).sin() * end) / angle.sin()
    labels = (torch.arange(PATHS, device=device) % 10).repeat_interleave(steps).repeat(2)
    images = evaluate(generator, torch.stack((line, arc)).flatten(0, 2), labels)
    return images.view(2, PATHS, steps, PIXELS)


# -------------------------------------------------------------------------------------- results
def report(stem, gan, test_images, test_labels, state, args):
    """Write samples, figures and weights of a trained GAN; its numbers."""
    device = test_images.device
    images, labels = sample(gan.average, args, device)
    between = paths(gan.average, args, device)
    arrays = {"images": as_bytes(images), "paths": as_bytes(between),
              "train_images": args.train_images}
    if labels is not None:
        arrays["labels"] = labels.cpu().numpy()
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_file(args.runs_dir / f"{args.run_name}_samples.npz", content.getvalue())

    row_names = CLASSES[args.dataset] if args.conditional else ()
    last = f"after epoch {state['epoch']}"
    made = grids(gan.average, args, device)
    samples = {"after epoch 1": state["first"], last: made["samples"]}
    draw_grids(f"{stem}_samples.pdf", samples, row_names)
    if args.conditional:
        draw_grids(f"{stem}_same_noise.pdf", {last: made["same_noise"]}, row_names)
    line, arc = between[:, :10].flatten(1, 2)
    draw_grids(f"{stem}_interpolations.pdf", {"straight line": line, "arc": arc}, row_names, 9)

    generator = {name: tensor.half() if tensor.is_floating_point() else tensor
                 for name, tensor in gan.average.module.state_dict().items()}
    save_state(f"{stem}_weights.pt", args, {"generator": generator})
    numbers = {name: curve[-1] for name, curve in state["curves"].items()}
    if args.conditional:
        numbers |= verdicts(gan.discriminator, test_images[:2000], test_labels[:2000])
    return numbers


def as_bytes(images):
    """Images (..., 784) in [-1, 1] as uint8 (..., 28, 28), a NumPy array."""
    return (images * 127.5 + 127.5).round().byte().unflatten(-1, (28, 28)).cpu().numpy()


def draw(args, device):
    """Write a picture of 64 fresh samples of a finished run, or of 8 of each class of --draw."""
    kept = load_state(f"{args.out_dir / args.run_name}_weights.pt")
    generator = build_generator(args, device)
    generator.load_state_dict(kept["generator"])
    torch.seed()  # other samples on every call
    z, labels = draw_noise(8 * (len(args.draw) or 8), device)
    if args.draw:
        rows = [CLASSES[args.dataset].index(name) for name in args.draw]
        labels = torch.tensor(rows, device=device).repeat_interleave(8)
    path = args.runs_dir / f"{args.run_name}_drawn.png"
    save_tiles(path, evaluate(generator, z, labels) / 2 + 0.5)
    print(path)


# -------------------------------------------------------------------------------------- figures
def draw_grids(path, panels, row_names, columns=8):
    """{title: images (N, 784) in [-1, 1]} side by side, on one grey scale."""
    rows = max(len(images) for images in panels.values()) / columns
    width = 2 * len(panels) + 0.09 * max(map(len, row_names), default=0)  # in inches
    figure = Figure(figsize=(width, 2 * rows / columns + 0.2))
    all_axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, images) in zip(all_axes, panels.items()):
        # one of three equal colours; tiles of 28 pixels and 2 between, so that rows are 30 apart
        tiles = torchvision.utils.make_grid(images.view(-1, 1, 28, 28), columns)[0]
        axes.imshow(tiles.cpu().numpy(), vmin=-1, vmax=1, interpolation="nearest")
        axes.set(title=title, frame_on=False, xticks=[])
        axes.set_yticks(range(16, 16 + 30 * len(row_names), 30), row_names)
    save_figure(figure, path)


def save_tiles(path, images):
    """Write images (N, 784) in [0, 1] as PNG, 8 in a row."""
    content = io.BytesIO()
    torchvision.utils.save_image(images.view(-1, 1, 28, 28), content, format="png", pad_value=0.5)
    write_file(path, content.getvalue())


# --------------------------------------------------------------------------------- command line
def parse_args():
    """The command line, with the defaults of its nets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--dataset", choices=CLASSES, default="fashion")
    parser.add_argument("--arch", choices=DEFAULTS, default="conv", help="mlp: as handed out")
    parser.add_argument("--conditional", action="store_true", help="tell both nets the labels")
    parser.add_argument("--epochs", type=int, help="passes over the training images")
    parser.add_argument("--g-updates", type=int, default=0,
                        help="stop after so many steps of the generator, in place of --epochs")
    parser.add_argument("--batch-size", type=int, help="images in a mini-batch")
    parser.add_argument("--lr-g", type=float, help="learning rate of the generator's Adam")
    parser.add_argument("--lr-d", type=float, help="learning rate of the discriminator's Adam")
    parser.add_argument("--g-steps", type=int, default=1, help="generator steps in an iteration")
    parser.add_argument("--d-steps", type=int, default=1,
                        help="discriminator steps in an iteration, each on a batch of its own")
    parser.add_argument("--decay", type=float, help="last share of training with falling rates")
    parser.add_argument("--beta1", type=float, help="of both Adams")
    parser.add_argument("--ema", type=float, help="decay of the generator's average; 0: none")
    parser.add_argument("--r1", type=float, help="gamma of the penalty; 0: none")
    parser.add_argument("--train-images", type=int, default=60_000, help="use the first so many")
    parser.add_argument("--seed", type=int, default=1, help="of all chance")
    parser.add_argument("--draw", nargs="*", metavar="CLASS", type=str.lower,
                        help="only draw a finished run's samples, of each class named")
    add_file_flags(parser)
    chosen = parser.parse_args()  # once for --arch, then with its defaults
    parser.set_defaults(dataset=chosen.dataset, arch=chosen.arch, conditional=chosen.conditional,
                        **DEFAULTS[chosen.arch])  # the first three begin the name of every run
    args = parser.parse_args()
    if min(args.epochs, args.batch_size, args.g_steps, args.d_steps, args.train_images) < 1:
        parser.error("epochs, sizes and steps are at least 1")
    if args.g_updates < 0 or args.g_updates > 0 and chosen.epochs is not None:
        parser.error("--g-updates is at least 1, and stands in place of --epochs")
    if not 0 <= args.decay <= 1:
        parser.error("--decay is a share of training, from 0 to 1")
    if args.draw and not args.conditional:
        parser.error("--draw with classes needs --conditional")
    if not set(args.draw or ()) <= set(CLASSES[args.dataset]):
        parser.error(f"the classes are {', '.join(CLASSES[args.dataset])}")
    prefix = "cgan" if args.conditional else "gan"
    if args.arch == "mlp":
        prefix += "_mlp"
    args.run_name = name_run(f"{prefix}_{args.dataset}", args, parser)
    return args


def main():
    args = parse_args()
    torch.set_flush_denormal(True)  # Adam's averages become numbers that CPUs multiply slowly
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32 on every device
    device = choose_device(args.no_cuda)
    if args.draw is not None:
        draw(args, device)
        return
    data = load_dataset(args.dataset, args.data_dir)
    checkpoint = args.runs_dir / f"{args.run_name}.pt"
    state = open_run(checkpoint, args, zlib.crc32(data[0].numpy()))
    earlier = state["seconds"]  # of the processes before this one
    train_images = data[0][:args.train_images].to(device).view(-1, PIXELS) / 127.5 - 1
    test_images = data[2].to(device).view(-1, PIXELS) / 127.5 - 1
    train_labels, test_labels = data[1].to(device), data[3].to(device)
    torch.manual_seed(args.seed)
    gan = build(args, device)
    if state["epoch"] > 0:
        for name, member in vars(gan).items():
            member.load_state_dict(state[name])

    per_epoch = math.ceil(len(train_images) / (args.batch_size * args.d_steps))
    iterations = math.ceil(args.g_updates / args.g_steps) or args.epochs * per_epoch
    for epoch in range(state["epoch"] + 1, math.ceil(iterations / per_epoch) + 1):
        numbers = train(gan, train_images, train_labels, args, epoch, iterations)
        numbers |= test(gan, test_images, test_labels, args)
        if not math.isfinite(sum(numbers.values())):
            raise FloatingPointError(f"epoch {epoch} diverged: give smaller --lr-g and --lr-d")
        for name, value in numbers.items():
            state["curves"].setdefault(name, []).append(value)
            print(f"{name} {value:.4g}", end="  ")
        print(f"after epoch {epoch}", flush=True)
        grid = grids(gan.average, args, device)["samples"]
        save_tiles(args.runs_dir / args.run_name / f"samples_{epoch:03d}.png", grid / 2 + 0.5)
        state.setdefault("first", grid)
        state |= {name: member.state_dict() for name, member in vars(gan).items()}
        state |= {"epoch": epoch, "seconds": earlier + time.process_time()}
        save_state(checkpoint, args, state)

    stem = args.out_dir / args.run_name
    numbers = report(stem, gan, test_images, test_labels, state, args)
    state |= {"finished": True, "seconds": earlier + time.process_time()}
    write_record(f"{stem}.json", args, device, numbers=numbers, curves=state["curves"],
                 seconds=state["seconds"])
    save_state(checkpoint, args, state)
    print(f"{stem}*: D(test images) {numbers['d_real']:.2f}, D(fakes) {numbers['d_fake']:.2f}")


# ---------------------------------------------- files and runs: the same text in every script
HERE = Path(__file__).resolve().parent
NO_SETTINGS = ("data_dir", "out_dir", "runs_dir", "resume", "draw", "log_interval", "no_cuda",
               "run_name")  # flags that do not change what a run computes
STYLE = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False,
         "image.cmap": "gray", "figure.constrained_layout.use": True, "pdf.fonttype": 42,
         "legend.frameon": False, "lines.linewidth": 1.2}


def load_dataset(name, data_dir):
    """Training images, labels, test images, labels: uint8 (N, 28, 28), int64 (N,).

    OSError where they are missing and cannot be downloaded, or are damaged.
    """
    dataset = {"mnist": torchvision.datasets.MNIST,
               "fashion": torchvision.datasets.FashionMNIST}[name]
    raw = data_dir / dataset.__name__ / "raw"
    files = [raw / packed.removesuffix(".gz") for packed, _ in dataset.resources]
    if not all(file.exists() for file in files):
        download(dataset, data_dir, files)
    try:
        train, test = dataset(data_dir, train=True), dataset(data_dir, train=False)
    except (AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise OSError(f"{raw} is damaged ({error!r}): delete it, and this command downloads it "
                      "again, or give another --data-dir") from error
    return train.data, train.targets, test.data, test.targets


def download(dataset, data_dir, files):
    """Fetch a data set into a folder of its own, then move it: two scripts may do so at once."""
    print(f"downloading {dataset.__name__} from {dataset.mirrors[0]}", flush=True)
    socket.setdefaulttimeout(30)  # seconds without an answer
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=data_dir) as folder:
            dataset(folder, download=True)
            files[0].parent.mkdir(parents=True, exist_ok=True)
            for file in files:
                Path(folder, dataset.__name__, "raw", file.name).replace(file)
    except Exception as error:  # a network fails in many ways
        raise OSError(f"{dataset.__name__} is not in {data_dir} and cannot be downloaded "
                      f"({error!r}): mend that, or give another --data-dir") from error


def add_file_flags(parser):
    """The flags that change where results lie, and not what they are."""
    parser.add_argument("--data-dir", type=Path, default=HERE / "data", help="torchvision's root")
    parser.add_argument("--out-dir", type=Path, default=HERE / "plots", help="of the results")
    parser.add_argument("--runs-dir", type=Path, default=HERE / "runs", help="of what is large")
    parser.add_argument("--resume", action="store_true", help="go on where this run was stopped")
    parser.add_argument("--no-cuda", action="store_true", help="stay on the CPU")


def settings_of(args):
    """{name: value} of the flags that decide what a run computes."""
    return {name: value for name, value in vars(args).items() if name not in NO_SETTINGS}


def name_run(name, args, parser):
    """`name` and every setting that is not its default: vae_fashion_beta0.5_seed2."""
    for flag, value in settings_of(args).items():
        if value != parser.get_default(flag):
            dash = "-" if flag[-1].isdigit() else ""  # beta1-0.5
            name += f"_{flag.replace('_', '-')}{dash}{str(value).removesuffix('.0')}"
    return name


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


def save_state(path, args, state):
    """Save numbers and tensors by name with the run's settings."""
    content = io.BytesIO()
    torch.save(state | {"settings": settings_of(args)}, content)
    write_file(path, content.getvalue())


def load_state(path):
    """What save_state wrote, on the CPU; OSError where it is missing or damaged."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise OSError(f"{path} is missing: run this command without --draw first") from error
    except (EOFError, LookupError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise OSError(f"{path} is damaged: delete it to start over") from error


def open_run(path, args, data):
    """The state to start from: of the checkpoint `path` with --resume, else empty.

    OSError where a folder cannot be written, a run is unfinished, or settings or data are others.
    """
    for folder in (args.out_dir, args.runs_dir):  # one that cannot be written is told before hours
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    new = {"data": data, "epoch": 0, "finished": False, "curves": {}, "seconds": 0.0}
    if not path.exists():
        return new
    saved = load_state(path)
    if not args.resume and not saved["finished"]:
        raise OSError(f"{path} is an unfinished run: go on with --resume, or delete it")
    if not args.resume:
        return new
    if saved["settings"] != settings_of(args) or saved["data"] != data:
        raise OSError(f"{path} is of other settings or images: delete it to start over")
    return saved


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
    run(main, stopped="; --resume goes on after the last whole epoch")
