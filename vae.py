"""Problems 4.2 and 4.3: a variational autoencoder on MNIST and on Fashion-MNIST.

    python vae.py                           MNIST, the network and settings handed out
    python vae.py --dataset fashion         Fashion-MNIST, the best settings found
    python vae.py --dataset fashion --draw  64 fresh images of that trained VAE, in seconds
    python vae.py --resume                  go on where a run was stopped

A run is named after its flags (vae_fashion_beta0.5). After every epoch it saves a checkpoint and
grids under runs/; at its end 10 000 samples there, and record, figures and weights in plots/.

The model is Kingma & Welling's (2014, arXiv:1312.6114): p(z) = N(0, I), q(z|x) = N(mu,
diag(exp(logvar))), pixels in [0, 1] scored by the Bernoulli cross-entropy, in nats per image.
Codes trained with a small weight of the KL do not fill N(0, I), so with --components the samples
come from Gaussians fitted to the codes afterwards (Ghosh et al. 2020, arXiv:1903.12436).
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

if __name__ == "__main__":
    os.environ["MPLBACKEND"] = "agg"  # a notebook hands down its own, which may be missing here
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from matplotlib import style
from matplotlib.figure import Figure
from torch import nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal
from tqdm import tqdm

PIXELS = 28 * 28
SAMPLES = 10_000  # images that are kept of a trained net, for p5_compare.py

RECIPES = {  # what --recipe sets: as handed out (4.2), and the best images found (4.3)
    "handout": {"epochs": 10, "batch_size": 128, "hidden_dim": 400, "layers": 1, "latent_dim": 20,
                "beta": 1.0, "warmup": 0.0, "decay": 0.0, "components": 0},
    "best": {"epochs": 60, "batch_size": 64, "hidden_dim": 1000, "layers": 2, "latent_dim": 32,
             "beta": 0.02, "warmup": 0.5, "decay": 0.3, "components": 150},
}
RECIPE_OF = {"mnist": "handout", "fashion": "best"}


# ------------------------------------------------------------------- the model and its loss (4.2)
class VAE(nn.Module):
    """The handed-out network 784-400-20-400-784; `layers` > 1 repeats the hidden layer."""

    def __init__(self, hidden_dim=400, layers=1, latent_dim=20):
        super().__init__()
        self.fc1 = nn.Linear(PIXELS, hidden_dim)
        self.deeper_encoder = hidden_layers(hidden_dim, layers - 1)
        self.deeper_decoder = hidden_layers(hidden_dim, layers - 1)
        self.fc21 = nn.Linear(hidden_dim, latent_dim)  # mean of q(z|x)
        self.fc22 = nn.Linear(hidden_dim, latent_dim)  # log variance of q(z|x)
        self.fc3 = nn.Linear(latent_dim, hidden_dim)
        self.fc4 = nn.Linear(hidden_dim, PIXELS)

    def encode(self, x):
        """x (B, 784) in [0, 1] -> mean and log variance of q(z|x), each (B, latent)."""
        h = self.deeper_encoder(F.relu(self.fc1(x)))
        return self.fc21(h), self.fc22(h)

    def reparameterize(self, mu, logvar):
        """Draw z = mu + sigma * epsilon, so that gradients reach mu and logvar (section 2.4)."""
        return mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)

    def decode(self, z):
        """z (B, latent) -> logits of the pixels (B, 784); the image is their sigmoid."""
        return self.fc4(self.deeper_decoder(F.relu(self.fc3(z))))

    def forward(self, x):
        """x (B, 784) in [0, 1] -> (logits (B, 784), mu, logvar)."""
        mu, logvar = self.encode(x)
        return self.decode(self.reparameterize(mu, logvar)), mu, logvar


def hidden_layers(width, count):
    """`count` fully connected layers of one width, each with its ReLU."""
    layers = [nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(count)]
    return nn.Sequential(*layers)


def VAE_loss_function(recon_x, x, mu, logvar, beta=1.0):
    """Reconstruction + beta * KL in nats, summed over pixels and batch.

    recon_x: logits (B, 784); x (B, 784) in [0, 1]; mu, logvar (B, latent).
    """
    reconstruction = F.binary_cross_entropy_with_logits(recon_x, x, reduction="sum")
    return reconstruction + beta * gaussian_kl(mu, logvar)


def gaussian_kl(mu, logvar):
    """KL(N(mu, diag(exp(logvar))) || N(0, I)) in nats, summed over the batch (appendix B)."""
    return -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())


# ---------------------------------------------------------------------- train and test (4.2)
def kl_weight(args, epoch):
    """--beta, to which the weight of the KL rises over the first share --warmup of the epochs.

    With a small weight at first z comes into use (Bowman et al. 2016, arXiv:1511.06349).
    """
    return args.beta * min(1, epoch / max(1, args.warmup * args.epochs))


def learning_rate(rate, args, progress):
    """`rate`, falling to 0 over the last share --decay of training; progress is in [0, 1)."""
    if progress < 1 - args.decay:
        return rate
    return rate * (1 - progress) / args.decay


def train(model, images, optimizer, args, epoch):
    """One epoch over `images` (N, 784): means at beta = 1 while training, in nats per image."""
    torch.manual_seed(1_000_003 * args.seed + epoch)  # so that a resumed run draws the same
    beta = kl_weight(args, epoch)
    batches = torch.randperm(len(images)).to(images.device).split(args.batch_size)
    bar = tqdm(batches, desc=f"epoch {epoch}", unit="batch", leave=False, disable=None)
    total_loss = torch.zeros((), device=images.device)
    total_kl = torch.zeros((), device=images.device)
    for step, batch in enumerate(bar):
        progress = (epoch - 1 + step / len(batches)) / args.epochs
        optimizer.param_groups[0]["lr"] = learning_rate(args.lr, args, progress)
        x = images[batch]
        recon, mu, logvar = model(x)
        loss = VAE_loss_function(recon, x, mu, logvar, beta)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        kl = gaussian_kl(mu.detach(), logvar.detach())
        total_loss += loss.detach() + (1 - beta) * kl
        total_kl += kl
        if step % args.log_interval == 0:
            bar.set_postfix(loss=f"{loss.item() / len(x):.1f}")
    return {"train_loss": total_loss.item() / len(images),
            "train_kl": total_kl.item() / len(images)}


@torch.no_grad()
def test(model, images, args):
    """Means of `images` (N, 784) at beta = 1 in nats per image, one seeded z each."""
    torch.manual_seed(args.seed)
    recon, mu, logvar = model(images)
    loss = VAE_loss_function(recon, images, mu, logvar).item() / len(images)
    kl = gaussian_kl(mu, logvar).item() / len(images)
    return {"test_loss": loss, "test_reconstruction": loss - kl, "test_kl": kl}


# ---------------------------------------------------------------- samples and a fitted prior (4.3)
@torch.no_grad()
def sample(model, count, prior=None):
    """Images (count, 784) in [0, 1] of z ~ N(0, I), or ~ `prior`, a distribution over z."""
    if prior is None:
        z = torch.randn(count, model.fc3.in_features, device=model.fc3.weight.device)
    else:  # a few at a time: the mixture draws from every one of its components
        z = torch.cat([prior.sample((100,)) for _ in range(0, count, 100)])[:count]
    return model.decode(z).sigmoid()


@torch.no_grad()
def fit_mixture(codes, components, steps=5):
    """Weights, means and Cholesky factors of Gaussians fitted to codes (N, latent).

    By EM (Bishop 2006, section 9.2.2). With P the inverse of a covariance, log w + log N(z; m, C)
    is linear in the moments (1, z, z z^T) of z, so one product of matrices gives it for all
    components and all codes. Each code begins with the nearest of the means, which are drawn codes.
    More steps than 5 make the samples no better; fewer codes, worse.
    """
    codes = codes.double()  # covariances are differences of moments
    count, dim = codes.shape
    ridge = 1e-4 * torch.eye(dim).to(codes)  # a covariance of few codes is singular
    centres = codes[torch.randperm(count)[:components].to(codes.device)]
    nearest = torch.cdist(codes, centres).argmin(1)
    responsibility = F.one_hot(nearest, components).double()  # of components for codes
    moments = torch.cat((torch.ones_like(codes[:, :1]), codes,
                         (codes[:, :, None] * codes[:, None]).flatten(1)), 1)
    for _ in tqdm(range(steps), desc="fitting the prior", leave=False, disable=None):
        sums = responsibility.T @ moments / count + 1e-12  # M step; a component may have no code
        weight, first, second = sums.split((1, dim, dim * dim), 1)
        mean = first / weight
        cov = (second / weight).view(-1, dim, dim) - mean[:, :, None] * mean[:, None] + ridge
        gaussians = MultivariateNormal(mean, cov)
        precision = gaussians.precision_matrix
        constant = weight.log() + gaussians.log_prob(torch.zeros_like(mean))[:, None]
        linear = (precision @ mean[:, :, None])[:, :, 0]
        coefficients = torch.cat((constant, linear, -0.5 * precision.flatten(1)), 1)
        responsibility = (moments @ coefficients.T).softmax(1)  # E step
    return weight[:, 0].float(), mean.float(), gaussians.scale_tril.float()


def mixture(weight, mean, scale_tril):
    """The distribution over z that fit_mixture describes."""
    gaussians = MultivariateNormal(mean, scale_tril=scale_tril)
    return MixtureSameFamily(Categorical(weight), gaussians)


@torch.no_grad()
def epoch_grids(model, images, args):
    """8 images over reconstructions of their mean codes (16, 784); 64 samples of N(0, I)."""
    torch.manual_seed(args.seed)
    mean, _ = model.encode(images[:8])
    return {"reconstructions": torch.cat((images[:8], model.decode(mean).sigmoid())),
            "samples": sample(model, 64)}


# -------------------------------------------------------------------------------------- results
def report(stem, model, train_images, test_images, state, args):
    """Write samples, figures and weights of a trained VAE; its numbers."""
    torch.manual_seed(args.seed)
    fitted, prior = [], None
    if args.components > 0:
        with torch.no_grad():
            codes = model.reparameterize(*model.encode(train_images))
        fitted = fit_mixture(codes, args.components)
        prior = mixture(*fitted)
        save_samples(f"normal_{args.run_name}", sample(model, SAMPLES), args)
    save_samples(args.run_name, sample(model, SAMPLES, prior), args)

    grids = {1: state["first"], args.epochs: epoch_grids(model, test_images, args)}
    samples = {f"N(0, I), after epoch {epoch}": grid["samples"] for epoch, grid in grids.items()}
    if prior is not None:
        samples["fitted prior, after the last"] = sample(model, 64, prior)
    draw_grids(f"{stem}_samples.pdf", samples, width=2.1)
    reconstructions = {f"inputs over outputs, after epoch {epoch}": grid["reconstructions"]
                       for epoch, grid in grids.items()}
    draw_grids(f"{stem}_reconstructions.pdf", reconstructions, width=3.2)
    draw_curves(f"{stem}_curves.pdf", state["curves"])

    decoder = {name: tensor.half() for name, tensor in model.state_dict().items()
               if name.startswith(("fc3", "deeper_decoder", "fc4"))}
    save_state(f"{stem}_weights.pt", args,
               {"decoder": decoder, "prior": [tensor.half() for tensor in fitted]})
    numbers = {name: curve[-1] for name, curve in state["curves"].items()}
    entropy = F.binary_cross_entropy(test_images, test_images)  # no reconstruction costs less
    numbers["pixel_entropy"] = PIXELS * entropy.item()
    return numbers


def save_samples(name, images, args):
    """Write images (N, 784) in [0, 1] as `images`, uint8 (N, 28, 28), and what was trained on."""
    pixels = (255 * images).round().byte().view(-1, 28, 28).cpu().numpy()
    content = io.BytesIO()
    np.savez(content, images=pixels, train_images=args.train_images)
    write_file(args.runs_dir / f"{name}_samples.npz", content.getvalue())


def draw(args, device):
    """Write a picture of 64 fresh samples of a finished run."""
    kept = load_state(f"{args.out_dir / args.run_name}_weights.pt")
    settings = kept["settings"]
    model = VAE(settings["hidden_dim"], settings["layers"], settings["latent_dim"]).to(device)
    model.load_state_dict(kept["decoder"], strict=False)  # the encoder draws nothing
    prior = None
    if kept["prior"]:
        prior = mixture(*(tensor.float().to(device) for tensor in kept["prior"]))
    torch.seed()  # other samples on every call
    path = args.runs_dir / f"{args.run_name}_drawn.png"
    save_tiles(path, sample(model, 64, prior))
    print(path)


# -------------------------------------------------------------------------------------- figures
def draw_grids(path, panels, width):
    """{title: images (N, 784) in [0, 1]} side by side, each `width` inches, 8 images in a row."""
    rows = max(len(images) for images in panels.values()) / 8
    figure = Figure(figsize=(width * len(panels), width * rows / 8 + 0.25))
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, images) in zip(all_axes, panels.items()):
        tiles = torchvision.utils.make_grid(images.view(-1, 1, 28, 28), pad_value=0.5)
        axes.imshow(tiles[0].cpu().numpy(), vmin=0, vmax=1, interpolation="nearest")
        axes.set(title=title, frame_on=False, xticks=[], yticks=[])
    save_figure(figure, path)


def save_tiles(path, images):
    """Write images (N, 784) in [0, 1] as PNG, 8 in a row."""
    content = io.BytesIO()
    torchvision.utils.save_image(images.view(-1, 1, 28, 28), content, format="png", pad_value=0.5)
    write_file(path, content.getvalue())


def draw_curves(path, curves):
    """Loss and KL over the epochs, on training and on test images."""
    figure = Figure(figsize=(6.5, 2.2))
    all_axes = figure.subplots(1, 2)
    for axes, name, title in zip(all_axes, ("loss", "kl"), ("loss", "KL")):
        epochs = range(1, len(curves[f"train_{name}"]) + 1)
        axes.plot(epochs, curves[f"train_{name}"], ".--", label="training (mean over the epoch)")
        axes.plot(epochs, curves[f"test_{name}"], ".-", label="test (after it)")
        axes.set(xlabel="epoch", ylabel="nats per image", title=title)
    all_axes[0].legend()
    save_figure(figure, path)


# --------------------------------------------------------------------------------- command line
def parse_args():
    """The command line, with the defaults of its recipe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--dataset", choices=RECIPE_OF, default="mnist")
    parser.add_argument("--recipe", choices=RECIPES, help="default: handout on MNIST, else best")
    parser.add_argument("--epochs", type=int, help="passes over the training images")
    parser.add_argument("--batch-size", type=int, help="images in a mini-batch")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate of Adam")
    parser.add_argument("--hidden-dim", type=int, help="width of the hidden layers")
    parser.add_argument("--layers", type=int, help="hidden layers on each side of z")
    parser.add_argument("--latent-dim", type=int, help="dimensions of z")
    parser.add_argument("--beta", type=float, help="weight of the KL")
    parser.add_argument("--warmup", type=float, help="share of the epochs over which it rises")
    parser.add_argument("--decay", type=float, help="last share of training with a falling rate")
    parser.add_argument("--components", type=int, help="Gaussians of the fitted prior; 0: N(0, I)")
    parser.add_argument("--train-images", type=int, default=60_000, help="use the first so many")
    parser.add_argument("--seed", type=int, default=1, help="of all chance")
    parser.add_argument("--log-interval", type=int, default=10, help="batches between two losses")
    parser.add_argument("--draw", action="store_true", help="only draw a finished run's samples")
    add_file_flags(parser)
    chosen = parser.parse_args()  # once for the recipe, then with its defaults
    usual = RECIPE_OF[chosen.dataset]
    parser.set_defaults(recipe=usual, **RECIPES[chosen.recipe or usual])
    parser.set_defaults(dataset=chosen.dataset)  # with which the name of every run begins
    args = parser.parse_args()
    sizes = (args.epochs, args.batch_size, args.hidden_dim, args.layers, args.latent_dim,
             args.train_images, args.log_interval)
    if min(sizes) < 1:
        parser.error("epochs, sizes and the interval are at least 1")
    if min(args.warmup, args.decay) < 0 or max(args.warmup, args.decay) > 1:
        parser.error("--warmup and --decay are shares of training, from 0 to 1")
    args.run_name = name_run(f"vae_{args.dataset}", args, parser)
    return args


def main():
    args = parse_args()
    torch.set_flush_denormal(True)  # Adam's averages become numbers that CPUs multiply slowly
    device = choose_device(args.no_cuda)
    if args.draw:
        draw(args, device)
        return
    train_images, _, test_images, _ = load_dataset(args.dataset, args.data_dir)
    checkpoint = args.runs_dir / f"{args.run_name}.pt"
    state = open_run(checkpoint, args, zlib.crc32(train_images.numpy()))
    earlier = state["seconds"]  # of the processes before this one
    train_images = train_images[:args.train_images].to(device).view(-1, PIXELS) / 255
    test_images = test_images.to(device).view(-1, PIXELS) / 255
    torch.manual_seed(args.seed)
    model = VAE(args.hidden_dim, args.layers, args.latent_dim).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr, fused=True)
    if state["epoch"] > 0:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])

    for epoch in range(state["epoch"] + 1, args.epochs + 1):
        losses = train(model, train_images, optimizer, args, epoch)
        losses |= test(model, test_images, args)
        if not math.isfinite(sum(losses.values())):
            raise FloatingPointError(f"epoch {epoch} diverged: give a smaller --lr")
        for name, value in losses.items():
            state["curves"].setdefault(name, []).append(value)
            print(f"{name} {value:.2f}", end="  ")
        print(f"after epoch {epoch}", flush=True)
        grids = epoch_grids(model, test_images, args)
        for kind, images in grids.items():
            save_tiles(args.runs_dir / args.run_name / f"{kind}_{epoch:03d}.png", images)
        state.setdefault("first", grids)
        state |= {"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                  "seconds": earlier + time.process_time()}
        save_state(checkpoint, args, state)

    stem = args.out_dir / args.run_name
    numbers = report(stem, model, train_images, test_images, state, args)
    state |= {"finished": True, "seconds": earlier + time.process_time()}
    write_record(f"{stem}.json", args, device, numbers=numbers, curves=state["curves"],
                 seconds=state["seconds"])
    save_state(checkpoint, args, state)
    print(f"{stem}*: test loss {numbers['test_loss']:.2f} nats per image")


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
