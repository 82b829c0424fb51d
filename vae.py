"""Problems 4.2 and 4.3: a variational autoencoder on MNIST and on Fashion-MNIST.

    python vae.py                                        MNIST, handed-out network and settings
    python vae.py --dataset fashion                      Fashion-MNIST, the best settings found
    python vae.py --dataset fashion --recipe handout     Fashion-MNIST as MNIST was handed out
    python vae.py --dataset fashion --draw               images of a trained VAE, in seconds
    python vae.py --resume                               go on where a run was stopped

A run is named after its command: vae_mnist, vae_fashion_beta0.5_seed2. It writes
    runs/<run>.pt              checkpoint, saved after every epoch
    runs/<run>/                grids of every epoch
    runs/<run>_samples.npz     10 000 samples; with a fitted prior also those of N(0, I), as
                               runs/normal_<run>_samples.npz
    runs/<run>_drawn.png       what --draw draws
    plots/<run>.json, _*.pdf   record and figures
    plots/<run>_weights.pt     the decoder and the prior, for --draw

The model is Kingma & Welling's (2014, arXiv:1312.6114): p(z) = N(0, I), q(z|x) = N(mu,
diag(exp(logvar))), pixels in [0, 1] scored by the Bernoulli cross-entropy, in nats per image. That
density is not normalised on grey pixels, so the loss bounds no likelihood of theirs. With --prior
mixture the samples come from Gaussians fitted to the codes after training (Ghosh et al. 2020,
arXiv:1903.12436), because codes trained with a small weight of the KL do not fill N(0, I).
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

if __name__ == "__main__":
    os.environ["MPLBACKEND"] = "agg"  # a notebook hands down its own, which may be missing here
import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from matplotlib.figure import Figure
from torch import nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
PIXELS = 28 * 28

# What --recipe sets, flag by flag. handout: as handed out. best: the best images; its width keeps
# plots/<run>_weights.pt below 4 MB. lowest: the lowest test loss.
RECIPES = {
    "handout": {"epochs": 10, "batch_size": 128, "hidden_dim": 400, "layers": 1, "latent_dim": 20,
                "beta": 1.0, "warmup": 0, "schedule": "constant", "prior": "normal",
                "components": 100},
    "best": {"epochs": 60, "batch_size": 64, "hidden_dim": 1000, "layers": 2, "latent_dim": 32,
             "beta": 0.02, "warmup": 30, "schedule": "linear", "prior": "mixture",
             "components": 150},
    "lowest": {"epochs": 100, "batch_size": 64, "hidden_dim": 1024, "layers": 2, "latent_dim": 20,
               "beta": 1.0, "warmup": 50, "schedule": "linear", "prior": "mixture",
               "components": 100},
}
RECIPE_OF = {"mnist": "handout", "fashion": "best"}  # where no --recipe is given


# -------------------------------------------------------------------------------------- model
class VAE(nn.Module):
    """The handed-out network 784-400-20-400-784; `layers` > 1 repeats the hidden layer."""

    def __init__(self, hidden_dim=400, layers=1, latent_dim=20):
        super().__init__()

        def further_layers():
            blocks = [nn.Sequential(nn.Linear(hidden_dim, hidden_dim), nn.ReLU())
                      for _ in range(layers - 1)]
            return nn.Sequential(*blocks)

        self.fc1 = nn.Linear(PIXELS, hidden_dim)
        self.deeper_encoder = further_layers()
        self.deeper_decoder = further_layers()
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
        epsilon = torch.randn(mu.shape, dtype=mu.dtype).to(mu.device)  # a GPU gets the same
        return mu + torch.exp(0.5 * logvar) * epsilon

    def decode(self, z):
        """z (B, latent) -> logits of the pixels (B, 784); the image is their sigmoid."""
        return self.fc4(self.deeper_decoder(F.relu(self.fc3(z))))

    def forward(self, x):
        """x (B, 1, 28, 28) or (B, 784) in [0, 1] -> (logits (B, 784), mu, logvar)."""
        mu, logvar = self.encode(x.view(-1, PIXELS))
        return self.decode(self.reparameterize(mu, logvar)), mu, logvar


# --------------------------------------------------------------------------------------- loss
def VAE_loss_function(recon_x, x, mu, logvar, beta=1.0):
    """Reconstruction + beta * KL in nats, summed over pixels and batch.

    With beta = 1 it is -ELBO of pixels that are 0 or 1; of grey ones, the mean of that over pixels
    redrawn as 0 or 1 with their grey as probability of 1.
    recon_x: logits (B, 784); x: B images in [0, 1]; mu, logvar: (B, latent).
    """
    reconstruction = cross_entropy(recon_x, x.view_as(recon_x))
    return reconstruction + beta * gaussian_kl(mu, logvar)


def gaussian_kl(mu, logvar):
    """KL(N(mu, diag(exp(logvar))) || N(0, I)) in nats, summed over the batch (appendix B)."""
    return -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())


def cross_entropy(logits, x):
    """binary_cross_entropy_with_logits(logits, x, reduction="sum"), in half the time on a CPU.

    With s = sigmoid(l), a pixel costs -x log s - (1 - x) log(1 - s) = l (s - x) + H(s), where
    H(s) = -s log s - (1 - s) log(1 - s). At a fixed l the derivative of l (s - x) + H(s) by s is
    l - log(s / (1 - s)) = 0, so s may be detached, and autograd is left with s - x, the derivative
    by l. With m = max(s, 1 - s), (1 - m) / m = exp(-|l|), hence H(s) = (1 - m) |l| - log m, which
    takes no logarithm of 0.
    """
    s = logits.detach().sigmoid()
    m = torch.maximum(s, 1 - s)
    entropy = (1 - m) * logits.detach().abs() - m.log()  # H(s)
    return (logits * (s - x)).sum() + entropy.sum()


# ----------------------------------------------------------------------------------- training
def kl_weight(args, epoch):
    """The weight of the KL in `epoch` (1, 2, ...): --beta * epoch / --warmup, at most --beta.

    With a small weight at first z comes into use (Bowman et al. 2016, arXiv:1511.06349).
    """
    if args.warmup == 0:
        return args.beta
    return args.beta * min(1, epoch / args.warmup)


def learning_rate(args, progress):
    """--lr, or falling from it to 0 over the last 30 % of training; `progress` is in [0, 1)."""
    if args.schedule == "constant":
        return args.lr
    return args.lr * min(1, (1 - progress) / 0.3)


def train(model, images, optimizer, args, *, epoch, bar, precision="float32"):
    """One epoch over `images` (N, 784) in [0, 1]; means while training, in nats per image.

    {train_loss, train_reconstruction, train_kl}; train_loss is at beta = 1, whatever is minimised.
    """
    torch.manual_seed(1_000_003 * args.seed + epoch)  # so that a resumed run draws the same
    beta = kl_weight(args, epoch)
    bfloat16 = precision == "bfloat16"
    batches = torch.randperm(len(images)).to(images.device).split(args.batch_size)
    totals = torch.zeros(2, dtype=torch.float64, device=images.device)  # of the loss and of the KL
    for step, indices in enumerate(batches):  # (B,)
        progress = (epoch - 1 + step / len(batches)) / args.epochs
        optimizer.param_groups[0]["lr"] = learning_rate(args, progress)
        x = images.index_select(0, indices)
        # The forward pass may be rounded; weights, loss and Adam stay float32.
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):
            recon, mu, logvar = model(x)
        recon, mu, logvar = recon.float(), mu.float(), logvar.float()
        loss = VAE_loss_function(recon, x, mu, logvar, beta)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals += torch.stack((loss.detach(), gaussian_kl(mu.detach(), logvar.detach())))
        if (step + 1) % args.log_interval == 0:
            text = f"epoch {epoch}, loss {loss.item() / len(x):.1f} nats at beta {beta:.3g}"
            bar.set_postfix_str(text, refresh=False)
        bar.update()
    mean_loss, mean_kl = (totals / len(images)).tolist()  # of reconstruction + beta * KL
    return {"train_loss": mean_loss + (1 - beta) * mean_kl,
            "train_reconstruction": mean_loss - beta * mean_kl, "train_kl": mean_kl}


@torch.no_grad()
def test(model, images, args, prior=None):
    """{test_loss, ...} of `images` (N, 784) in nats per image, one seeded z each, beta = 1.

    `prior` is p(z), a distribution over (latent,); None is N(0, I).
    """
    torch.manual_seed(args.seed)
    mu, logvar = model.encode(images)
    z = model.reparameterize(mu, logvar)
    logits = model.decode(z)
    # PyTorch's own form, exact also where a pixel costs next to nothing
    reconstruction = F.binary_cross_entropy_with_logits(logits, images, reduction="sum").item()
    reconstruction /= len(images)
    if prior is None:
        kl = gaussian_kl(mu, logvar).item() / len(images)
    else:  # a mixture has no closed form: log q(z|x) - log p(z) at the one z
        log_q = Normal(mu, (0.5 * logvar).exp()).log_prob(z).sum(1)
        # in parts: all at once are (N, components, latent) numbers
        log_p = torch.cat([prior.log_prob(batch) for batch in z.split(500)])
        kl = (log_q - log_p).mean().item()
    return {"test_loss": reconstruction + kl, "test_reconstruction": reconstruction, "test_kl": kl}


# ----------------------------------------------------------------------------------- sampling
@torch.no_grad()
def sample(model, count, args, prior=None):
    """Pixel means (count, 784) of z ~ N(0, I), or ~ `prior`, the same z on every call."""
    torch.manual_seed(args.seed)
    z = draw_codes(count, args.latent_dim, prior)
    return model.decode(z.to(model.fc4.weight.device)).sigmoid()


def draw_codes(count, latent_dim, prior=None):
    """z (count, latent) ~ N(0, I), or ~ `prior`, drawn by the CPU."""
    if prior is None:
        return torch.randn(count, latent_dim)
    return sample_mixture(prior, count)


def sample_mixture(mixture, count):
    """z (count, latent) ~ a mixture of fit_mixture.

    Its own sample() would draw from every component, (count, components, latent, latent) numbers.
    """
    mean = mixture.component_distribution.loc.cpu()  # (components, latent)
    scale = mixture.component_distribution.scale_tril.cpu()
    probabilities = mixture.mixture_distribution.probs.cpu()
    component = torch.multinomial(probabilities, count, replacement=True)
    codes = []
    for chosen in component.split(1000):
        epsilon = torch.randn(len(chosen), mean.shape[1], 1)
        codes.append(mean[chosen] + (scale[chosen] @ epsilon)[:, :, 0])
    return torch.cat(codes)


@torch.no_grad()
def epoch_grids(model, images, args):
    """8 images over their reconstructions from the mean code (16, 784); 64 samples (64, 784)."""
    mean, _ = model.encode(images[:8])
    reconstructions = model.decode(mean).sigmoid()
    return {"reconstructions": torch.cat((images[:8], reconstructions)),
            "samples": sample(model, 64, args)}


@torch.no_grad()
def interpolations(model, images, labels, steps=9):
    """Rows of images from each class to the next, (rows * (steps + 2), 784); the last to the first.

    Columns: the class's first image; `steps` decodings of (1 - t) m + t m', t = 0 ... 1, where m
    and m' are the mean codes of the two images (so these begin and end with reconstructions); the
    next class's first image. images (N, 784) in [0, 1], labels (N,).
    """
    ends = torch.stack([images[labels == label][0] for label in labels.unique()])
    codes, _ = model.encode(ends)
    weight = torch.linspace(0, 1, steps, device=images.device)[:, None]
    rows = []
    for start in range(len(ends)):
        end = (start + 1) % len(ends)
        line = (1 - weight) * codes[start] + weight * codes[end]
        rows += [ends[start, None], model.decode(line).sigmoid(), ends[end, None]]
    return torch.cat(rows)


@torch.no_grad()
def traversals(model, images, count=10, steps=11):
    """What single latent dimensions do: {dimension: (its KL in nats, images (steps, 784))}.

    The first image's mean code is decoded with one dimension moved from -3 to 3. Shown are the
    `count` dimensions of the largest KL, a mean over images (N, 784); where it is near 0, the
    dimension is not used.
    """
    mu, logvar = model.encode(images)
    kl = -0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).mean(0)  # as gaussian_kl: (latent,)
    order = kl.argsort(descending=True, stable=True)[:count].tolist()
    rows = {}
    for dimension in order:
        codes = mu[:1].repeat(steps, 1)
        codes[:, dimension] = torch.linspace(-3, 3, steps, device=images.device)
        decoded = model.decode(codes).sigmoid()
        rows[dimension] = (kl[dimension].item(), decoded)
    return rows


@torch.no_grad()
def manifold(model, side=20):
    """For 2 latent dimensions: images (side * side, 784) at equally likely steps of N(0, I).

    As figure 4 of the paper: the inverse distribution function takes an even grid of probabilities
    to the codes.
    """
    probability = (torch.arange(side, device=model.fc4.weight.device) + 0.5) / side
    axis = Normal(0.0, 1.0).icdf(probability)
    codes = torch.cartesian_prod(-axis, axis)  # z1 grows upwards, z2 to the right
    return model.decode(codes).sigmoid()


def fit_mixture(codes, count=100, steps=50):
    """Gaussians with weights, fitted to codes (N, latent) by EM (Bishop 2006, section 9.2.2).

    At most `count` components, each started at a code drawn by the global generator. With P the
    inverse of a covariance C, log w + log N(z; m, C) is (log w + log N(0; m, C)) + (P m)^T z -
    z^T P z / 2, linear in the moments (1, z, z z^T) of z, so that one product of matrices gives it
    for all components and many codes.
    """
    codes = codes.double()  # covariances are differences of moments
    dim = codes.shape[1]
    centres = codes[torch.randperm(len(codes))[:count].to(codes.device)]
    ridge = 1e-4 * torch.eye(dim).to(codes)  # on every covariance: one of few codes is singular
    coefficients = None
    for _ in range(steps):
        # E step: each component's share in each code (B, count), and sums of moments by them
        sums = 0
        for z in codes.split(5000):  # the moments of all at once are N * dim^2 numbers
            outer = (z[:, :, None] * z[:, None]).flatten(1)
            moments = torch.cat((torch.ones_like(z[:, :1]), z, outer), 1)  # (B, 1 + dim + dim^2)
            if coefficients is None:  # at first a code belongs to the nearest start
                share = F.one_hot(torch.cdist(z, centres).argmin(1), len(centres)).double()
            else:
                share = (moments @ coefficients.T).softmax(1)
            sums = sums + share.T @ moments
        # M step: weights, means and covariances; then the log densities' coefficients in moments.
        # The 1e-12 keeps a component that has lost every code from dividing by 0.
        weight, first, second = (sums / len(codes) + 1e-12).split((1, dim, dim * dim), 1)
        mean = first / weight  # (count, dim)
        second_moment = (second / weight).view(-1, dim, dim)
        cov = second_moment - mean[:, :, None] * mean[:, None] + ridge
        component = MultivariateNormal(mean, cov)
        precision = component.precision_matrix
        linear = (precision @ mean[:, :, None])[:, :, 0]
        constant = weight.log() + component.log_prob(torch.zeros_like(mean))[:, None]
        coefficients = torch.cat((constant, linear, -0.5 * precision.flatten(1)), 1)
    # Round the Cholesky factor, not the covariance: rounded, that of few codes may have no factor.
    components = MultivariateNormal(mean.float(), scale_tril=component.scale_tril.float())
    return MixtureSameFamily(Categorical(weight[:, 0].float()), components)


# ------------------------------------------------------------------------- a run and its results
def fingerprint(args):
    """Two training losses that tell whether today's code still computes what a record's did.

    In nats per image, taken at the first epoch and at the last, on 64 drawn images as one batch, by
    one thread in float32. `make check` takes them again.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    images = torch.rand(64, PIXELS, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(args.seed)
    model = VAE(args.hidden_dim, args.layers, args.latent_dim)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr, fused=True)
    settings = argparse.Namespace(**vars(args) | {"batch_size": 64})
    silent = tqdm(disable=True)
    losses = [train(model, images, optimizer, settings, epoch=epoch, bar=silent)["train_loss"]
              for epoch in (1, args.epochs)]
    torch.set_num_threads(threads)
    return losses


def fit(model, train_images, test_images, state, args):
    """Train from the epoch of `state` to the last, saving state and grids after each."""
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr, fused=True)
    checkpoint = args.runs_dir / f"{args.run_name}.pt"
    if state["epoch"]:
        restore({"model": model, "optimizer": optimizer}, state, checkpoint)
    steps = math.ceil(len(train_images) / args.batch_size)
    bar = tqdm(total=args.epochs * steps, initial=state["epoch"] * steps, unit="batch",
               disable=None)
    for epoch in range(state["epoch"] + 1, args.epochs + 1):
        start = time.perf_counter()
        losses = train(model, train_images, optimizer, args, epoch=epoch, bar=bar,
                       precision=state["precision"])
        losses |= test(model, test_images, args)
        if not all(map(math.isfinite, losses.values())):
            raise FloatingPointError(f"epoch {epoch} diverged, what was before it is kept: use a "
                                     "smaller --lr (with the same --run-name also --fresh)")
        for name, value in losses.items():
            state["curves"].setdefault(name, []).append(value)
        grids = epoch_grids(model, test_images, args)
        for kind, images in grids.items():
            with replacing(args.runs_dir / args.run_name / f"{kind}_{epoch:03d}.png") as part:
                tiles = images.view(-1, 1, 28, 28)
                torchvision.utils.save_image(tiles, part, nrow=8, pad_value=0.5, format="png")
        if not state["first"]:
            state["first"] = grids
        state["seconds"] += time.perf_counter() - start
        state |= {"epoch": epoch, "finished": epoch == args.epochs, "model": model.state_dict(),
                  "optimizer": optimizer.state_dict()}
        save_state(checkpoint, state)
        text = "  ".join(f"{name} {value:.2f}" for name, value in losses.items())
        bar.write(f"epoch {epoch}  {text}", file=sys.stdout)
    bar.close()


def report(model, train_images, test_images, test_labels, state, args):
    """Samples, figures, record and kept weights of a trained VAE."""
    stem = str(args.out_dir / args.run_name)  # a name may hold dots, which are no suffix
    numbers = {name: curve[-1] for name, curve in state["curves"].items()}
    mixture = None
    priors = {args.run_name: None}  # {name of the samples: p(z)}; None is N(0, I)
    if args.prior == "mixture":
        torch.manual_seed(args.seed)
        with torch.no_grad():
            mu, logvar = model.encode(train_images)
            codes = model.reparameterize(mu, logvar)  # one z ~ q(z|x) of each training image
        try:
            mixture = fit_mixture(codes, args.components)
            losses = test(model, test_images, args, mixture)
        except (ValueError, torch.linalg.LinAlgError) as error:
            raise FloatingPointError("the codes are too large or their variances too small for a "
                                     "mixture: use a smaller --lr or --prior normal") from error
        priors = {f"normal_{args.run_name}": None, args.run_name: mixture}
        for name, value in losses.items():
            numbers[f"mixture_{name}"] = value
    for name, prior in priors.items():
        images = (255 * sample(model, 10_000, args, prior)).round().byte().view(-1, 28, 28)
        with replacing(args.runs_dir / f"{name}_samples.npz") as part, part.open("wb") as file:
            np.savez(file, images=images.cpu())

    first = state["first"]
    last = epoch_grids(model, test_images, args)
    now = f"after epoch {state['epoch']}"
    draw_grids(Path(f"{stem}_reconstructions.pdf"),
               {"after epoch 1": first["reconstructions"], now: last["reconstructions"]},
               columns=8, width=3.2, row_names=("input", "output"))
    samples = {"after epoch 1": first["samples"], now: last["samples"]}
    if mixture is not None:
        samples["mixture prior"] = sample(model, 64, args, mixture)
    draw_grids(Path(f"{stem}_samples.pdf"), samples, columns=8, width=2.1)
    draw_curves(Path(f"{stem}_curves.pdf"), state["curves"])
    draw_latent_space(stem, model, test_images, test_labels)

    # The entropy of the pixels as Bernoulli means: no reconstruction costs less, in nats per image.
    on_off = torch.stack((test_images, 1 - test_images))  # probabilities (2, N, 784)
    numbers["pixel_entropy"] = torch.special.entr(on_off).sum().item() / len(test_images)
    headline = [name for name in ("test_loss", "mixture_test_loss") if name in numbers]
    write_record(Path(f"{stem}.json"), args, state["machines"], numbers, headline,
                 data=state["data"], precision=state["precision"], fingerprint=state["fingerprint"],
                 parameters={"vae": sum(p.numel() for p in model.parameters())},
                 seconds=state["seconds"], curves=state["curves"])
    weights = {name: tensor for name, tensor in model.state_dict().items()
               if name.startswith(("fc3", "deeper_decoder", "fc4"))}
    save_weights(Path(f"{stem}_weights.pt"), weights | mixture_state(mixture), args)
    print(f"test loss {numbers['test_loss']:.2f} nats per image; record and figures: {stem}*")


def mixture_state(mixture):
    """{name: tensor} that stand for a mixture of fit_mixture, of None nothing."""
    if mixture is None:
        return {}
    scale = mixture.component_distribution.scale_tril  # (components, latent, latent)
    i, j = torch.tril_indices(*scale.shape[1:])
    return {"prior.share": mixture.mixture_distribution.probs,
            "prior.mean": mixture.component_distribution.loc,
            "prior.scale": scale[:, i, j]}


def mixture_of_state(weight, mean, triangles):
    """The mixture of weights (components,), means (components, latent) and packed triangles."""
    components, latent_dim = mean.shape
    i, j = torch.tril_indices(latent_dim, latent_dim)
    scale_tril = torch.zeros(components, latent_dim, latent_dim)
    scale_tril[:, i, j] = triangles
    return MixtureSameFamily(Categorical(weight), MultivariateNormal(mean, scale_tril=scale_tril))


def kept_model(args):
    """A finished run's VAE, of which only the decoder is trained, and its fitted prior or None."""
    path = args.out_dir / f"{args.run_name}_weights.pt"
    state = load_weights(path, args)
    prior = None
    if args.prior == "mixture":
        prior = mixture_of_state(state.pop("prior.share"), state.pop("prior.mean"),
                                 state.pop("prior.scale"))
    model = VAE(args.hidden_dim, args.layers, args.latent_dim)
    restore({"model": model}, {"model": model.state_dict() | state}, path)
    return model, prior


@torch.no_grad()
def draw(args):
    """Write a picture of 64 fresh samples of a finished run."""
    model, prior = kept_model(args)
    torch.seed()  # other samples on every call
    z = draw_codes(64, args.latent_dim, prior)
    save_picture(args.runs_dir / f"{args.run_name}_drawn.png", model.decode(z).sigmoid())


# ------------------------------------------------------------------------------------ figures
def draw_grids(path, panels, columns, width=3.2, row_names=()):
    """{title: images (N, 784) in [0, 1]} side by side, each `width` inches, on one grey scale."""
    rows = max(len(images) for images in panels.values()) / columns
    figure = Figure(figsize=(width * len(panels), width * rows / columns + 0.25))
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, images) in zip(all_axes, panels.items()):
        images = images.view(-1, 1, 28, 28).cpu()
        # one of three equal colours; tiles of 28 pixels and 2 between, their centres at 16, 46, ...
        tiles = torchvision.utils.make_grid(images, nrow=columns, pad_value=0.5)[0]
        axes.imshow(tiles.numpy(), vmin=0, vmax=1, interpolation="nearest")
        axes.set(title=title, frame_on=False, xticks=[])
        axes.set_yticks(range(16, 16 + 30 * len(row_names), 30), row_names)
    save_figure(figure, path)


def draw_latent_space(stem, model, images, labels):
    """Interpolations, traversals and, where z has 2 dimensions, the manifold."""
    between = interpolations(model, images, labels)
    draw_grids(Path(f"{stem}_interpolations.pdf"), {"": between}, columns=11,
               width=4.4)  # 9 steps and both images
    rows = traversals(model, images)
    names = [f"z{dimension + 1}: {kl:.1f}" for dimension, (kl, _) in rows.items()]
    moved = torch.cat([decoded for _, decoded in rows.values()])
    draw_grids(Path(f"{stem}_traversals.pdf"), {"KL in nats; from -3 to 3": moved},
               columns=11, width=3.4, row_names=names)
    if model.fc3.in_features == 2:
        draw_grids(Path(f"{stem}_manifold.pdf"), {"": manifold(model)}, columns=20,
                   width=4.4)


def draw_curves(path, curves):
    """Loss, reconstruction and KL over the epochs, on training and test images."""
    figure = Figure(figsize=(6.5, 2.2))
    all_axes = figure.subplots(1, 3)
    for axes, name in zip(all_axes, ("loss", "reconstruction", "kl")):
        epochs = range(1, len(curves[f"train_{name}"]) + 1)
        axes.plot(epochs, curves[f"train_{name}"], "--", label="training (mean over the epoch)")
        axes.plot(epochs, curves[f"test_{name}"], "-", label="test (after it)")
        axes.set(xlabel="epoch", title="KL" if name == "kl" else name)
    all_axes[0].set_ylabel("nats per image")
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
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
    group = parser.add_argument_group("handed out (what has no default here has one in a recipe)")
    group.add_argument("--dataset", choices=RECIPE_OF, default="mnist")
    group.add_argument("--epochs", type=number(int, 1, 100_000), help="passes over the images")
    group.add_argument("--batch-size", type=number(int, 1, 60_000), help="images in a mini-batch")
    group.add_argument("--lr", type=number(float, 1e-9, 1e3), default=1e-3, help="of Adam")
    group.add_argument("--seed", type=number(int, 0, 2**31), default=1, help="of all chance")
    group.add_argument("--log-interval", type=number(int, 1, 10**9), default=10,
                       help="batches between two losses shown")
    group.add_argument("--no-cuda", action="store_true", help="stay on the CPU")
    group = parser.add_argument_group("model")
    group.add_argument("--recipe", choices=RECIPES, help="defaults: handout for MNIST, else best")
    group.add_argument("--hidden-dim", type=number(int, 1, 65_536), help="width of hidden layers")
    group.add_argument("--layers", type=number(int, 1, 32), help="hidden layers on each side of z")
    group.add_argument("--latent-dim", type=number(int, 1, 4096), help="of z")
    group.add_argument("--prior", choices=("normal", "mixture"),
                       help="of the samples; a mixture is fitted to the codes after training")
    group.add_argument("--components", type=number(int, 1, 1000),
                       help="Gaussians of that mixture")
    group = parser.add_argument_group("training")
    group.add_argument("--beta", type=number(float, 0, 1e6), help="weight of the KL")
    group.add_argument("--warmup", type=number(int, 0, 100_000), help="epochs over which it rises")
    group.add_argument("--schedule", choices=("constant", "linear"),
                       help="of the learning rate; linear: to 0 over the last 30 %% of training")
    group.add_argument("--precision", choices=("auto", "bfloat16", "float32"), default="auto",
                       help="of training's forward pass; auto: bfloat16 where the hardware has it")
    parser.add_argument("--draw", action="store_true",
                        help="instead, draw a finished run's samples")
    add_file_flags(parser)
    chosen = parser.parse_args(argv)  # once for the recipe, then with its defaults
    dataset = chosen.dataset
    recipe = chosen.recipe or RECIPE_OF[dataset]
    parser.set_defaults(recipe=RECIPE_OF[dataset], **RECIPES[recipe])
    args = parser.parse_args(argv)
    if args.prior == "mixture" and args.latent_dim > 256:
        parser.error("above --latent-dim 256 no mixture is fitted: give --prior normal")
    prefix = f"vae_{dataset}" + ("" if recipe == RECIPE_OF[dataset] else f"_{recipe}")
    return named(args, prefix, ("dataset", "recipe"), parser, argv)


def flatten(images, device):
    """uint8 (N, 28, 28) -> float32 (N, 784) in [0, 1] on `device`."""
    return images.to(device).view(-1, PIXELS).float().div_(255)


def main(argv=None):
    args = parse_args(argv)
    torch.set_flush_denormal(True)  # Adam's averages come to numbers that CPUs multiply slowly
    with own_settings():
        if args.draw:
            prepare_folders(args.runs_dir)
            draw(args)
            return
        prepare_folders(args.out_dir, args.runs_dir, args.runs_dir / args.run_name)
        device = choose_device(args.no_cuda)
        data = load_dataset(args.dataset, args.data_dir)
        state = open_run(args, checksum(data), device)
        if state["epoch"] == 0:
            state |= {"precision": choose_precision(args.precision, device), "first": {},
                      "fingerprint": fingerprint(args)}
        elif state["precision"] != choose_precision(args.precision, device):
            print(f"{args.run_name} goes on in {state['precision']}, as it began")

        train_images = flatten(data[0], device)
        test_images = flatten(data[2], device)
        test_labels = data[3].to(device)
        torch.manual_seed(args.seed)  # first weights; of a resumed run, fit loads the saved ones
        model = VAE(args.hidden_dim, args.layers, args.latent_dim).to(device)
        fit(model, train_images, test_images, state, args)
        report(model, train_images, test_images, test_labels, state, args)


if __name__ == "__main__":
    run(main)
