"""Problems 4.2 and 4.3: a variational autoencoder on MNIST and on Fashion-MNIST.

    python vae.py                      MNIST, the handed-out network and settings (10 epochs)
    python vae.py --dataset fashion    Fashion-MNIST, the best settings found; samples from a prior fitted to the codes

Writes runs/<run>.pt (checkpoint; --resume continues), runs/<run>/ (grids of every epoch), runs/<run>_samples.npz
(10 000 samples; normal_<run>_samples.npz: those of N(0, I) beside a fitted prior's), plots/<run>.json and _*.pdf. The
model is Kingma & Welling's (2014, arXiv:1312.6114): p(z) = N(0, I), q(z|x) = N(mu, diag(exp(logvar))), pixels in [0, 1]
scored by the Bernoulli cross-entropy, in nats per image. On grey pixels that is no negative log likelihood.
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
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
PIXELS = 28 * 28

DEFAULTS = {  # MNIST keeps the handed-out settings, Fashion-MNIST has the best ones found
    "mnist": dict(run_name="vae_mnist", epochs=10, batch_size=128, hidden_dim=400, layers=1, schedule="constant",
                  beta=1.0, warmup=0, prior="normal"),
    "fashion": dict(run_name="vae_fashion", epochs=60, batch_size=64, hidden_dim=512, layers=2, schedule="linear",
                    beta=0.75, warmup=30, prior="mixture"),
}


class VAE(nn.Module):
    """The handed-out network 784-400-20-400-784; `layers` > 1 repeats the hidden layer on both sides."""

    def __init__(self, hidden_dim=400, layers=1, latent_dim=20):
        super().__init__()
        self.fc1 = nn.Linear(PIXELS, hidden_dim)
        self.deeper_encoder, self.deeper_decoder = (nn.Sequential(*(
            nn.Sequential(nn.Linear(hidden_dim, hidden_dim), nn.ReLU()) for _ in range(layers - 1))) for _ in range(2))
        self.fc21, self.fc22 = (nn.Linear(hidden_dim, latent_dim) for _ in range(2))  # mean, log variance of q(z|x)
        self.fc3, self.fc4 = nn.Linear(latent_dim, hidden_dim), nn.Linear(hidden_dim, PIXELS)

    def encode(self, x):
        """x (B, 784) in [0, 1] -> mean and log variance of q(z|x), each (B, latent)."""
        h = self.deeper_encoder(F.relu(self.fc1(x)))
        return self.fc21(h), self.fc22(h)

    def reparameterize(self, mu, logvar):
        """Draw z = mu + sigma * epsilon, so that gradients reach mu and logvar (Kingma & Welling, section 2.4)."""
        return mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)

    def decode(self, z):
        """z (B, latent) -> logits of the pixels (B, 784); the image is their sigmoid."""
        return self.fc4(self.deeper_decoder(F.relu(self.fc3(z))))

    def forward(self, x):
        """x (B, 1, 28, 28) or (B, 784) in [0, 1] -> (logits of the reconstruction (B, 784), mu, logvar)."""
        mu, logvar = self.encode(x.view(-1, PIXELS))
        return self.decode(self.reparameterize(mu, logvar)), mu, logvar


def gaussian_kl(mu, logvar):
    """KL(N(mu, diag(exp(logvar))) || N(0, I)) in nats, summed over batch and dimensions (appendix B of the paper)."""
    return -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())


def VAE_loss_function(recon_x, x, mu, logvar, beta=1.0):
    """Reconstruction + beta * KL in nats, summed over pixels and batch; beta = 1: -ELBO if pixels are 0 or 1.

    recon_x: logits l (B, 784); x: B images in [0, 1]; mu, logvar: (B, latent). Equals binary_cross_entropy_with_logits,
    in half the time on a CPU: with s = sigmoid(l) a pixel costs -x log s - (1 - x) log(1 - s) = l (s - x) + H(s), where
    H(s) = -s log s - (1 - s) log(1 - s). The derivative by s is 0, so s is detached, and that by l is s - x."""
    s = recon_x.detach().sigmoid()
    m = torch.maximum(s, 1 - s)
    entropy = ((1 - m) * recon_x.detach().abs() - m.log()).sum()  # H(s) by one logarithm, in which nothing underflows
    return (recon_x * (s - x.view_as(s))).sum() + entropy + beta * gaussian_kl(mu, logvar)


def fit_mixture(codes, count=100, steps=50):
    """A mixture of up to `count` Gaussians, each with its own covariance, fitted to codes (N, latent) by `steps` of EM
    (Bishop 2006, section 9.2.2). log N(z; m, C) is linear in (1, z, z z^T), so half a step is one matrix product."""
    z, dim = codes.double(), codes.shape[1]  # double, since covariances are differences of moments
    moments = torch.cat((torch.ones_like(z[:, :1]), z, (z[:, :, None] * z[:, None]).flatten(1)), 1)
    start = z[torch.randperm(len(z))[:count].to(z.device)]
    share = F.one_hot(torch.cdist(z, start).argmin(1)).double()  # of each component (column) in each code (row)
    for _ in range(steps):
        weight, first, second = (share.T @ moments / len(z) + 1e-12).split((1, dim, dim * dim), 1)
        mean = first / weight
        cov = (second / weight).view(-1, dim, dim) - mean[:, :, None] * mean[:, None] + 1e-4 * torch.eye(dim).to(z)
        part = MultivariateNormal(mean, cov)
        linear = (part.precision_matrix @ mean[:, :, None])[:, :, 0]
        constant = weight.log() + part.log_prob(torch.zeros_like(mean))[:, None]
        share = (moments @ torch.cat((constant, linear, -0.5 * part.precision_matrix.flatten(1)), 1).T).softmax(1)
    return MixtureSameFamily(Categorical(weight[:, 0].float()), MultivariateNormal(mean.float(), cov.float()))


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


def train(model, images, optimizer, args, epoch, bar):
    """One epoch over `images` (N, 784) in [0, 1]: {train_loss, ...}, as means in nats per image with beta = 1."""
    torch.manual_seed(1_000_003 * args.seed + epoch)  # an epoch depends on nothing before but weights and Adam
    beta = args.beta * min(1, epoch / max(1, args.warmup))  # small at first, so that z is used (Bowman et al. 2016)
    batches = torch.randperm(len(images)).to(images.device).split(args.batch_size)
    totals = torch.zeros(2, dtype=torch.float64, device=images.device)  # of the trained loss and the KL
    for step, batch in enumerate(batches):
        left = 1 - (epoch - 1 + step / len(batches)) / args.epochs if args.schedule == "linear" else 1
        optimizer.param_groups[0]["lr"] = args.lr * min(1, left / 0.3)
        x = images.index_select(0, batch)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=args.precision == "bfloat16"):  # products only
            recon, mu, logvar = (part.float() for part in model(x))
        loss = VAE_loss_function(recon, x, mu, logvar, beta)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals += torch.stack((loss.detach(), gaussian_kl(mu.detach(), logvar.detach())))
        if (step + 1) % args.log_interval == 0:
            bar.set_postfix_str(f"epoch {epoch}, loss {loss.item() / len(x):.1f} nats", refresh=False)
        bar.update()
    loss, kl = (totals / len(images)).tolist()
    return {"train_loss": loss + (1 - beta) * kl, "train_reconstruction": loss - beta * kl, "train_kl": kl}


@torch.no_grad()
def test(model, images, args, prior=None):
    """{test_loss, ...} of `images` (N, 784), nats per image: one seeded z each, beta = 1, p(z) = N(0, I) or `prior`."""
    torch.manual_seed(args.seed)
    mu, logvar = model.encode(images)
    z = model.reparameterize(mu, logvar)
    reconstruction = F.binary_cross_entropy_with_logits(model.decode(z), images, reduction="sum").item() / len(images)
    kl = (gaussian_kl(mu, logvar).item() / len(images) if prior is None else  # a mixture has no closed form
          (Normal(mu, (0.5 * logvar).exp()).log_prob(z).sum(1) - prior.log_prob(z)).mean().item())
    return {"test_loss": reconstruction + kl, "test_reconstruction": reconstruction, "test_kl": kl}


@torch.no_grad()
def sample(model, count, args, prior=None):
    """`count` decoded draws of z ~ N(0, I), or of `prior`, the same ones every time: pixel means (count, 784)."""
    torch.manual_seed(args.seed)
    z = prior.sample((count,)) if prior else torch.randn(count, args.latent_dim, device=model.fc4.weight.device)
    return model.decode(z).sigmoid()


@torch.no_grad()
def epoch_grids(model, images, args):
    """8 images over their reconstructions from the mean code, and 64 samples: (16, 784) and (64, 784) in [0, 1]."""
    pairs = torch.cat((images[:8], model.decode(model.encode(images[:8])[0]).sigmoid()))
    return {"reconstructions": pairs, "samples": sample(model, 64, args)}


def draw_grids(path, grids, columns, width=3.2):
    """Draw grids {title: images (N, 784) in [0, 1]} side by side, each `width` inches, on one fixed grey scale."""
    height = width * max(len(images) for images in grids.values()) / columns**2 + 0.25
    figure, panels = plt.subplots(1, len(grids), figsize=(width * len(grids), height), squeeze=False)
    for axes, (title, images) in zip(panels[0], grids.items()):
        tiles = torchvision.utils.make_grid(images.view(-1, 1, 28, 28).cpu(), nrow=columns, pad_value=0.5)[0]
        axes.imshow(tiles.numpy(), vmin=0, vmax=1, interpolation="nearest")
        axes.set(title=title, frame_on=False, xticks=[], yticks=[])
    save_figure(figure, path)


def draw_curves(path, curves):
    """Loss, reconstruction and KL over the epochs, on training and test images."""
    figure, panels = plt.subplots(1, 3, figsize=(6.5, 2.2))
    for axes, part in zip(panels, ("loss", "reconstruction", "kl")):
        for half, style, text in (("train", "--", "training (mean over the epoch)"), ("test", "-", "test (after it)")):
            axes.plot(range(1, len(curves[f"{half}_{part}"]) + 1), curves[f"{half}_{part}"], style, label=text)
        axes.set(xlabel="epoch", title="KL" if part == "kl" else part)
    panels[0].set_ylabel("nats per image")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    save_figure(figure, path)


NUMBERS = {  # flag: (type, default, least, most, what it is); a default of None depends on the data set
    "--epochs": (int, None, 1, 100_000, "passes over the training images"),
    "--batch-size": (int, None, 1, 60_000, "images in a mini-batch"),
    "--lr": (float, 1e-3, 1e-12, 1e12, "learning rate of Adam"),
    "--hidden-dim": (int, None, 1, 65_536, "width of the hidden layers"),
    "--layers": (int, None, 1, 32, "hidden layers in the encoder, and again in the decoder"),
    "--latent-dim": (int, 20, 1, 4_096, "dimensions of z"),
    "--beta": (float, None, 0, 1e6, "weight of the KL in training"),
    "--warmup": (int, None, 0, 100_000, "epochs in which the weight of the KL grows to --beta"),
    "--seed": (int, 1, 0, 2**31, "seed of every random number"),
    "--log-interval": (int, 10, 1, 10**9, "batches between two updates of the loss shown"),
}


def parse_args(argv=None):
    """The command line (default: sys.argv), checked; a wrong one ends with status 2 and one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: {message} (--help lists every flag)\n")
    parser.add_argument("--dataset", choices=DEFAULTS, default="mnist")
    for flag, (kind, default, least, most, text) in NUMBERS.items():
        parser.add_argument(flag, type=kind, default=default, help=f"{text}, {least} to {most}")
    parser.add_argument("--schedule", choices=("constant", "linear"), help="linear: the last 30 %% fall to 0")
    parser.add_argument("--prior", choices=("normal", "mixture"), help="of samples; a mixture is fitted to the codes")
    parser.add_argument("--precision", choices=("auto", "bfloat16", "float32"), default="auto", help="of products")
    parser.add_argument("--no-cuda", action="store_true", help="stay on the CPU")
    parser.add_argument("--resume", action="store_true", help="continue the run of this name where it stopped")
    parser.add_argument("--run-name", help="default: vae_<dataset>")
    for flag, folder in (("--data-dir", "data"), ("--out-dir", "plots"), ("--runs-dir", "runs")):
        parser.add_argument(flag, type=Path, default=HERE / folder, help=f"default: {folder}, beside this script")
    argv = sys.argv[1:] if argv is None else argv
    parser.set_defaults(**DEFAULTS[parser.parse_args(argv).dataset])
    args = parser.parse_args(argv)
    for flag, (_, _, least, most, _) in NUMBERS.items():
        if not least <= (value := getattr(args, flag[2:].replace("-", "_"))) <= most:
            parser.error(f"{flag} {value} is not between {least} and {most}")
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


def fit(model, train_images, test_images, args, device):
    """Train to the last epoch, saving grids and state after each; returns the state: epoch, seconds, curves, first."""
    checkpoint = args.runs_dir / f"{args.run_name}.pt"
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr, fused=True)
    checksum = sum(zlib.crc32(images.cpu().numpy()) for images in (train_images, test_images))
    settings = settings_of(args) | {"data_dir": f"of checksum {checksum:x}"}
    state = (load_checkpoint(checkpoint, settings, device, (model, optimizer)) if args.resume else
             {"settings": settings, "epoch": 0, "seconds": 0.0, "curves": {}, "first": {}})
    steps = math.ceil(len(train_images) / args.batch_size)
    with tqdm(total=args.epochs * steps, initial=state["epoch"] * steps, unit="batch", disable=None) as bar:
        while True:
            torch.save(state | {"parts": [part.state_dict() for part in (model, optimizer)]}, buffer := io.BytesIO())
            with replacing(checkpoint) as part:
                part.write_bytes(buffer.getvalue())  # torch.save itself would hide a full disk behind a RuntimeError
            if state["epoch"] == args.epochs:
                return state
            start, epoch = time.perf_counter() - state["seconds"], state["epoch"] + 1
            losses = train(model, train_images, optimizer, args, epoch, bar) | test(model, test_images, args)
            if not all(map(math.isfinite, losses.values())):
                raise FloatingPointError(f"epoch {epoch} diverged, {epoch - 1} is kept: use a smaller --lr")
            state["curves"] = {name: state["curves"].get(name, []) + [value] for name, value in losses.items()}
            grids = epoch_grids(model, test_images, args)
            for kind, images in grids.items():
                with replacing(args.runs_dir / args.run_name / f"{kind}_{epoch:03d}.png") as part:
                    torchvision.utils.save_image(images.view(-1, 1, 28, 28), part, nrow=8, pad_value=0.5)
            state |= {"epoch": epoch, "first": state["first"] or grids, "seconds": time.perf_counter() - start}
            bar.write("  ".join([f"epoch {epoch}", *(f"{k} {v:.2f}" for k, v in losses.items())]), file=sys.stdout)


def main(argv=None):
    args = parse_args(argv)
    device, stem = choose_device(args.no_cuda), args.out_dir / args.run_name
    plt.rcParams.update(STYLE)
    torch.set_flush_denormal(True)  # Adam's means of gradients that stay 0 get so small that a CPU slows down
    with claim(args.runs_dir / f".lock-{args.run_name}", args.out_dir):
        avx = torch.cpu.get_capabilities().get("avx512_bf16")
        native = torch.cuda.is_bf16_supported(False) if device.type == "cuda" else avx
        args.precision = {"auto": "bfloat16" if native else "float32"}.get(args.precision, args.precision)
        train_images, test_images = (x.to(device).view(-1, PIXELS).float().div_(255)
                                     for x in load_dataset(args.dataset, args.data_dir)[::2])
        torch.manual_seed(args.seed)
        model = VAE(args.hidden_dim, args.layers, args.latent_dim).to(device)
        state = fit(model, train_images, test_images, args, device)
        numbers = {name: (curve[-1], ".2f") for name, curve in state["curves"].items()}
        priors = {args.run_name: None}  # by the name of the samples; None is N(0, I)
        if args.prior == "mixture":
            torch.manual_seed(args.seed)
            mixture = fit_mixture(model.reparameterize(*model.encode(train_images)).detach())
            priors = {f"normal_{args.run_name}": None, args.run_name: mixture}
            numbers |= {f"mixture_{name}": (v, ".2f") for name, v in test(model, test_images, args, mixture).items()}
        for name, prior in priors.items():
            with replacing(args.runs_dir / f"{name}_samples.npz") as part:
                np.savez(part, images=(255 * sample(model, 10_000, args, prior)).round().byte().view(-1, 28, 28).cpu())
        for kind, last in epoch_grids(model, test_images, args).items():
            grids = {"after epoch 1": state["first"][kind], f"after epoch {state['epoch']}": last}
            if args.prior == "mixture" and kind == "samples":
                grids["mixture prior"] = sample(model, 64, args, mixture)
            draw_grids(Path(f"{stem}_{kind}.pdf"), grids, 8, width=2.1 if kind == "samples" else 3.2)
        draw_curves(Path(f"{stem}_curves.pdf"), state["curves"])
        entropy = torch.special.entr(torch.stack((test_images, 1 - test_images))).sum().item() / len(test_images)
        numbers["pixel_entropy"] = (entropy, ".2f")  # the reconstruction cannot cost less
        write_record(Path(f"{stem}.json"), args, device, numbers, seconds=state["seconds"], curves=state["curves"])
        print(f"test loss {numbers['test_loss'][0]:.2f} nats per image; record and figures: {stem}*")


if __name__ == "__main__":
    run(main)
