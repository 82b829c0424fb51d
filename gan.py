"""Problems 5.1 to 5.5: a GAN and a Conditional GAN on Fashion-MNIST (p5_compare.py judges their samples).

    python gan.py [--arch mlp] [--conditional]    the convolutional or the handed-out nets, without or with labels

Writes runs/<run>.pt (checkpoint; --resume continues), runs/<run>/ (grids of every epoch), runs/<run>_samples.npz,
plots/<run>.json (record), plots/<run>_*.pdf. See Goodfellow et al. (arXiv:1406.2661), Mirza & Osindero (1411.1784).
"""
import argparse
import contextlib
import io
import json
import math
import re
import shlex
import sqlite3
import sys
import tempfile
import time
import zlib
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
import torchvision
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
PIXELS, NOISE = 28 * 28, 100  # an image is a row of so many numbers in [-1, 1]; dimensions of z ~ N(0, I)


class Generator(nn.Module):
    """Noise (B, 100), labels (B,), unless num_labels=None, -> images (B, 784), by layers handed out or as in DCGAN."""

    def __init__(self, input_dim, output_dim, num_labels=10, arch="mlp"):
        super().__init__()
        self.embedding = nn.Embedding(num_labels, num_labels) if num_labels else None
        self.layers = nn.Sequential(
            nn.Linear(input_dim + (num_labels or 0), 256), nn.LeakyReLU(0.2), nn.Linear(256, 512), nn.LeakyReLU(0.2),
            nn.Linear(512, 1024), nn.LeakyReLU(0.2), nn.Linear(1024, output_dim), nn.Tanh())
        if arch == "conv":  # by 7 x 7 and 14 x 14 to 28 x 28 (Radford et al. 2016, arXiv:1511.06434)
            self.layers = nn.Sequential(
                nn.Linear(input_dim + (num_labels or 0), 128 * 7 * 7, bias=False), nn.Unflatten(1, (128, 7, 7)),
                nn.BatchNorm2d(128), nn.ReLU(), nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(64), nn.ReLU(), nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, output_dim // PIXELS, 3, 1, 1), nn.Tanh(), nn.Flatten())

    def forward(self, x, labels=None):
        return self.layers(torch.cat((x, self.embedding(labels)), 1) if self.embedding else x)


class Discriminator(nn.Module):
    """Images (B, 784), labels (B,) -> logits (B, 1), by layers handed out or convolutions; the loss has the sigmoid."""

    def __init__(self, input_dim, output_dim=1, num_labels=None, arch="mlp"):
        super().__init__()
        self.embedding = nn.Embedding(num_labels, num_labels) if num_labels and arch == "mlp" else None
        mlp, conv = (input_dim + (num_labels or 0), 1024, 512, 256), (input_dim // PIXELS, 32, 64, 128)
        if arch == "mlp":
            hidden = [(nn.Linear(*pair), nn.LeakyReLU(0.2), nn.Dropout(0.3)) for pair in zip(mlp, mlp[1:])]
            self.layers = nn.Sequential(*sum(hidden, ()), nn.Linear(256, output_dim))
        else:  # by 14 x 14 and 7 x 7 to 3 x 3; labels enter by projection (Miyato & Koyama 2018, arXiv:1802.05637)
            hidden = [(nn.Conv2d(*pair, 4, stride=2, padding=1), nn.LeakyReLU(0.2)) for pair in zip(conv, conv[1:])]
            self.layers = nn.Sequential(nn.Unflatten(1, (-1, 28, 28)), *sum(hidden, ()), nn.Flatten(),
                                        nn.Linear(128 * 3 * 3, output_dim + (num_labels or 0)))

    def scores(self, x, labels=None):
        """Logits (B, 1), and ten that tell classes (Odena et al. 2017, arXiv:1610.09585); mlp or no labels: (B, 0)."""
        rows = self.layers(torch.cat((x, self.embedding(labels)), 1) if self.embedding else x)
        return rows[:, :1] + (rows[:, 1:].gather(1, labels[:, None]) if rows.shape[1] > 1 else 0), rows[:, 1:]

    def forward(self, x, labels=None):
        return self.scores(x, labels)[0]


def draw_noise(count, device):
    """z (count, 100) and uniform labels (count,), which nets without labels ignore."""
    return torch.randn(count, NOISE, device=device), torch.randint(10, (count,), device=device)


def r1_penalty(discriminator, images, labels):
    """Half the mean squared norm of d logit / dx at `images` (B, 784) (Mescheder et al. 2018, arXiv:1801.04406)."""
    x = images.clone().requires_grad_()
    gradient, = torch.autograd.grad(discriminator(x, labels).sum(), x, create_graph=True)  # (B, 784)
    return gradient.pow(2).sum(1).mean() / 2


def train_discriminator(batch_size, images, labels, generator, discriminator, optimizer, real=1.0, r1=0.0,
                        classifier=0.0, bf16=False):
    """One step of D on as many x as z: GAN loss (`real`: target of D(x)), R1, cross-entropy at x. Returns the first."""
    z, y = draw_noise(batch_size, images.device)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
        fakes = generator(z, y).detach().to(images.dtype)  # no gradient of this step reaches G
        logits, classes = discriminator.scores(torch.cat((images, fakes)), torch.cat((labels, y)))
        extra = r1 * r1_penalty(discriminator, images, labels) if r1 else 0
    extra += classifier * nn.functional.cross_entropy(classes[:batch_size].float(), labels) if classifier else 0
    on_real, on_fake = logits.float().split(batch_size)
    loss = (nn.functional.binary_cross_entropy_with_logits(on_real, torch.full_like(on_real, real))
            + nn.functional.binary_cross_entropy_with_logits(on_fake, torch.zeros_like(on_fake)))
    optimizer.zero_grad()
    (loss + extra).backward()
    optimizer.step()
    return loss.detach()


def train_generator(batch_size, generator, discriminator, optimizer, classifier=0.0, bf16=False):
    """One step of G: GAN loss (non-saturating, up log D(G(z))), cross-entropy of D's classes. Returns the first."""
    z, labels = draw_noise(batch_size, next(generator.parameters()).device)
    with torch.autocast(z.device.type, torch.bfloat16, enabled=bf16):
        logits, classes = (part.float() for part in discriminator.scores(generator(z, labels), labels))
    loss = nn.functional.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
    extra = classifier * nn.functional.cross_entropy(classes, labels) if classifier else 0
    optimizer.zero_grad()
    (loss + extra).backward(inputs=list(generator.parameters()))  # D gets no gradients here, which saves time
    optimizer.step()
    return loss.detach()


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


def build(args, device):
    """[generator, discriminator, the generator's moving average, both optimisers]."""
    num_labels = 10 if args.conditional else None
    nets = Generator(NOISE, PIXELS, num_labels, args.arch), Discriminator(PIXELS, 1, num_labels, args.arch)
    nets = [net.to(device, memory_format=torch.channels_last) for net in nets]  # a tenth faster on a CPU
    mean = AveragedModel(nets[0], multi_avg_fn=get_ema_multi_avg_fn(args.ema), use_buffers=True)
    return [*nets, mean, *(torch.optim.Adam(net.parameters(), lr, betas=(args.beta1, 0.999), fused=True)
                           for net, lr in zip(nets, (args.lr_g, args.lr_d)))]


def train(gan, images, labels, args, epoch, total, bar):
    """Epoch `epoch` over `images` (N, 784): mean losses and numbers of steps {g_loss, d_loss, g_updates, d_updates}."""
    generator, discriminator, average, *optimizers = gan
    discriminator.train()  # dropout on again, after the tests of the epoch before
    torch.manual_seed(1_000_003 * args.seed + epoch)  # an epoch depends on nothing before it but the state of `gan`
    portions = torch.randperm(len(images)).to(images.device).split(args.batch_size * args.d_steps)
    g_losses, d_losses, more = [], [], (args.classifier, args.precision == "bfloat16")
    for portion in portions[:total - (epoch - 1) * len(portions)]:  # --updates can end within an epoch
        for batch in portion.split(args.batch_size):
            r1 = 0 if len(d_losses) % 8 else 8 * args.r1  # every 8th time, 8-fold: the same in the mean, for less
            d_losses.append(train_discriminator(len(batch), images[batch], labels[batch], generator, discriminator,
                                                optimizers[1], args.label_smoothing, r1, *more))
        for _ in range(args.g_steps):
            g_losses.append(train_generator(args.batch_size, generator, discriminator, optimizers[0], *more))
            average.update_parameters(generator)
        bar.update()
    return {"g_loss": torch.stack(g_losses).mean().item(), "d_loss": torch.stack(d_losses).mean().item(),
            "g_updates": len(g_losses), "d_updates": len(d_losses)}


@torch.no_grad()
def evaluate(net, x, labels):
    """net(x, labels) in evaluation mode and float32, 500 rows at a time."""
    return torch.cat([net.eval()(*rows) for rows in zip(x.split(500), labels.split(500))])


def test(gan, images, labels, args):
    """{d_real, d_fake}: mean D of up to 2000 test images (N, 784), and of as many fakes by the averaged generator."""
    torch.manual_seed(args.seed)
    z, fake_labels = draw_noise(2000, images.device)
    pairs = {"d_real": (images[:2000], labels[:2000]), "d_fake": (evaluate(gan[2], z, fake_labels), fake_labels)}
    return {name: evaluate(gan[1], *pair).sigmoid().mean().item() for name, pair in pairs.items()}


def pictures(generator, args, device):
    """{kind: images (N, 784)}, 8 in a row and the same noise on every call; if conditional, a row for each class."""
    torch.manual_seed(args.seed)
    z = torch.randn(10, 8, NOISE)  # (row, column, noise)
    noise = {"samples": z, "same_noise": z[:1].expand_as(z)} if args.conditional else {"samples": z[:8]}
    labels = torch.arange(10, device=device).repeat_interleave(8)
    return {kind: evaluate(generator, z.flatten(0, 1).to(device), labels[:8 * len(z)]) for kind, z in noise.items()}


def draw_grids(path, grids, names):
    """Draw {title: images (N, 784) in [-1, 1]} side by side on one fixed grey scale, `names` beside the rows."""
    width = 1.8 if names else 2.1  # inches of a panel, 8 images wide
    size = width * len(grids) + 0.55 * bool(names), width * len(next(iter(grids.values()))) / 64 + 0.2
    figure, panels = plt.subplots(1, len(grids), figsize=size, squeeze=False, sharey=True)
    for axes, (title, images) in zip(panels[0], grids.items()):
        tiles = torchvision.utils.make_grid(images.view(-1, 1, 28, 28).cpu())[0].numpy()
        axes.imshow(tiles, vmin=-1, vmax=1, interpolation="nearest")
        axes.set(title=title, frame_on=False, xticks=[], yticks=range(16, 30 * len(names), 30), yticklabels=names)
    save_figure(figure, path)


NUMBERS = {  # name: (default of mlp, the handed-out one, default of conv, least, most, what it is)
    "epochs": (24, 8, 1, 100_000, "passes over the training images"),
    "updates": (0, 0, 0, 10**9, "stop after so many steps of both nets together, not after --epochs; 0 is off"),
    "batch_size": (64, 64, 1, 60_000, "images in a mini-batch"),
    "lr_g": (2e-4, 1e-3, 1e-12, 1e12, "learning rate of G's Adam"),
    "lr_d": (2e-4, 1e-3, 1e-12, 1e12, "learning rate of D's Adam"),
    "g_steps": (1, 1, 1, 1000, "generator steps in an iteration"),
    "d_steps": (1, 1, 1, 1000, "discriminator steps in an iteration, each on a batch of its own"),
    "beta1": (0.9, 0.0, 0, 0.9999, "decay of Adam's mean gradient, in both nets"),
    "label_smoothing": (1.0, 1.0, 0.5, 1, "target of D on real images; 1 is off"),
    "ema": (0.0, 0.995, 0, 0.99999, "decay of the generator's moving average, which is sampled; 0 is off"),
    "r1": (0.0, 0.5, 0, 1e6, "gamma of the R1 penalty; 0 is off"),
    "classifier": (0.0, 0.05, 0, 1e6, "weight of D's class cross-entropy, for --conditional with conv; 0 is off"),
    "seed": (1, 1, 0, 2**31, "seed of every random number"),
}


def parse_args(argv=None):
    """The command line (default: sys.argv), checked; a wrong one ends with status 2 and one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: {message} (--help lists every flag)\n")
    parser.add_argument("--dataset", choices=("mnist", "fashion"), default="fashion")
    parser.add_argument("--arch", choices=("mlp", "conv"), default="conv", help="mlp: the nets and settings handed out")
    parser.add_argument("--conditional", action="store_true", help="tell both nets the labels")
    for name, (default, _, least, most, text) in NUMBERS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), help=f"{text}, {least} to {most}")
    parser.add_argument("--precision", choices=("auto", "bfloat16", "float32"), default="auto", help="of products")
    parser.add_argument("--no-cuda", action="store_true", help="stay on the CPU")
    parser.add_argument("--resume", action="store_true", help="continue the run of this name where it stopped")
    parser.add_argument("--run-name", help="default: gan_<dataset>, cgan_<dataset>, gan_mlp_<dataset>, ...")
    for flag, folder in (("--data-dir", "data"), ("--out-dir", "plots"), ("--runs-dir", "runs")):
        parser.add_argument(flag, type=Path, default=HERE / folder, help=f"default: {folder}, beside this script")
    argv = sys.argv[1:] if argv is None else argv
    conv, conditional = (args := parser.parse_args(argv)).arch == "conv", args.conditional
    parser.set_defaults(**{name: row[conv and (conditional or name != "classifier")] for name, row in NUMBERS.items()})
    args = parser.parse_args(argv)
    if args.classifier and not (conv and conditional):
        parser.error("--classifier needs --conditional and --arch conv")
    for name, (_, _, least, most, _) in NUMBERS.items():
        if not least <= (value := getattr(args, name)) <= most:
            parser.error(f"--{name.replace('_', '-')} {value} is not between {least} and {most}")
    args.run_name = args.run_name or f"{'c' * args.conditional}gan{'_mlp' * (args.arch == 'mlp')}_{args.dataset}"
    if not re.fullmatch(r"\w[\w.-]*", args.run_name):
        parser.error(f"--run-name {args.run_name!r} is not made of letters, digits, '_', '.' and '-'")
    args.command = shlex.join(["python", Path(__file__).name, *(word for word in argv if word != "--resume")])
    return args


def load_checkpoint(path, settings, device, parts):
    """Load what `path` holds into `parts` and return the state; OSError: it is absent, damaged, of other settings."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        there = ", ".join(f"--{name.replace('_', '-')} {state['settings'][name]}"
                          for name, value in settings.items() if state["settings"][name] != value)
        for part, saved in zip(parts, state["parts"][:0 if there else None]):
            part.load_state_dict(saved)
    except Exception as error:
        fault = "is damaged or not of this script: delete it and" if path.exists() else "holds nothing to resume:"
        raise OSError(f"{path} {fault} start the run without --resume") from error
    if there:
        raise OSError(f"{path} was made with {there}: resume with that, or start anew in another --runs-dir")
    print(f"{path.stem}: {state['epoch']} epochs were already done")
    return state


def fit(gan, data, args, device):
    """Train to the last epoch, saving a grid and the state after each; returns the state: epoch, curves, first, ..."""
    checkpoint = args.runs_dir / f"{args.run_name}.pt"
    settings = settings_of(args) | {"data_dir": f"of checksum {sum(zlib.crc32(x.cpu().numpy()) for x in data):x}"}
    state = (load_checkpoint(checkpoint, settings, device, gan) if args.resume else
             {"settings": settings, "epoch": 0, "seconds": 0.0, "curves": {}})
    per_epoch = math.ceil(len(data[0]) / (args.batch_size * args.d_steps))  # iterations
    total = math.ceil(args.updates / (args.g_steps + args.d_steps)) or args.epochs * per_epoch
    with tqdm(total=total, initial=min(total, state["epoch"] * per_epoch), unit="iteration", disable=None) as bar:
        while True:
            torch.save(state | {"parts": [part.state_dict() for part in gan]}, buffer := io.BytesIO())
            with replacing(checkpoint) as part:
                part.write_bytes(buffer.getvalue())  # torch.save itself would hide a full disk behind a RuntimeError
            if state["epoch"] * per_epoch >= total:
                return state
            start, epoch = time.perf_counter() - state["seconds"], state["epoch"] + 1
            numbers = train(gan, *data[:2], args, epoch, total, bar) | test(gan, *data[2:], args)
            if not all(map(math.isfinite, numbers.values())):
                raise FloatingPointError(f"epoch {epoch} diverged, {epoch - 1} is kept: use smaller --lr-g and --lr-d")
            state["curves"] = {name: state["curves"].get(name, []) + [value] for name, value in numbers.items()}
            grid = pictures(gan[2], args, device)["samples"]
            with replacing(args.runs_dir / args.run_name / f"samples_{epoch:03d}.png") as part:
                torchvision.utils.save_image(grid.view(-1, 1, 28, 28) / 2 + 0.5, part, pad_value=0.5)
            state = {"first": grid} | state | {"epoch": epoch, "seconds": time.perf_counter() - start}
            bar.write("  ".join([f"epoch {epoch}", *(f"{k} {v:.4g}" for k, v in numbers.items())]), file=sys.stdout)


def main(argv=None):
    args = parse_args(argv)
    device, stem = choose_device(args.no_cuda), args.out_dir / args.run_name
    plt.rcParams.update(STYLE)
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32 on every device
    torch.set_flush_denormal(True)  # Adam's means of gradients that stay 0 get so small that a CPU slows down
    with claim(args.runs_dir / f".lock-{args.run_name}", args.out_dir):
        avx = torch.cpu.get_capabilities().get("avx512_bf16")
        native = torch.cuda.is_bf16_supported(False) if device.type == "cuda" else avx
        args.precision = {"auto": "bfloat16" if native else "float32"}.get(args.precision, args.precision)
        data = [x.to(device).view(-1, PIXELS).float().div_(127.5).sub_(1) if x.ndim == 3 else x.to(device).long()
                for x in load_dataset(args.dataset, args.data_dir)]
        torch.manual_seed(args.seed)
        state = fit(gan := build(args, device), data, args, device)
        torch.manual_seed(args.seed)
        z, labels = draw_noise(60_000 if args.conditional else 10_000, device)
        images = (evaluate(gan[2], z, labels) * 127.5 + 127.5).round().byte().view(-1, 28, 28)
        with replacing(args.runs_dir / f"{args.run_name}_samples.npz") as part:
            np.savez_compressed(part, images=images.cpu(), **({"labels": labels.cpu()} if args.conditional else {}))
        names = "0123456789" if args.dataset == "mnist" else torchvision.datasets.FashionMNIST.classes
        for kind, images in pictures(gan[2], args, device).items():
            first = {"after epoch 1": state["first"]} if kind == "samples" else {}
            grids = first | {f"after epoch {state['epoch']}": images}
            draw_grids(Path(f"{stem}_{kind}.pdf"), grids, names * args.conditional)
        numbers = {name: (sum(c), "d") if "updates" in name else (c[-1], ".3f") for name, c in state["curves"].items()}
        write_record(Path(f"{stem}.json"), args, device, numbers, seconds=state["seconds"], curves=state["curves"])
        print(f"D(test) {numbers['d_real'][0]:.2f}, D(fakes) {numbers['d_fake'][0]:.2f}; record and figures: {stem}*")


if __name__ == "__main__":
    run(main)
