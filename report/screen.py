"""Screening: short trainings on 50 000 images, scored against the other 10 000 training images.

    python report/screen.py vae.py --dataset fashion --epochs 12 --beta 0.05
    python report/screen.py --variant relativistic gan.py --epochs 2

Behind the defaults of vae.py and gan.py stand trials of one seed and a quarter of the length. Each
appends a line to report/screening.jsonl: its command and what the judge says. Test images have no
part in it: the last 10 000 training images are held out, and the trial with the smallest Frechet
distance to them wins. (The judge has seen them with the others when it was trained.) What wins is
trained on all 60 000 images by the scripts themselves. A variant is a change of the code that was
tried and is not in the scripts, unless it won.
"""
import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import gan  # noqa: E402
import p5_compare  # noqa: E402
import vae  # noqa: E402

HELD_OUT = SAMPLES = 10_000
WIDER = 1.1  # a standard deviation of z to sample a trained GAN with, beside 1


# ----------------------------------------------------------------------------------- variants
class ConvVAE(vae.VAE):
    """vae.VAE with convolutions of 32 and 64 channels before its hidden layers, and after them."""

    def __init__(self, hidden_dim, layers, latent_dim):
        super().__init__(hidden_dim, layers, latent_dim)
        self.fc1 = nn.Linear(64 * 7 * 7, hidden_dim)
        self.fc4 = nn.Linear(hidden_dim, 64 * 7 * 7)
        self.down = nn.Sequential(
            nn.Conv2d(1, 32, 4, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2, padding=1), nn.ReLU())
        self.up = nn.Sequential(
            nn.ReLU(), nn.Unflatten(1, (64, 7, 7)),
            nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1), nn.ReLU(),
            nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1), nn.Flatten())

    def encode(self, x):
        return super().encode(self.down(x.view(-1, 1, 28, 28)).flatten(1))

    def decode(self, z):
        return self.up(super().decode(z))


class MinibatchStatistics(nn.Module):
    """Appends a channel: the standard deviation over the batch, a mean over channels and pixels.

    Karras et al. 2018 (arXiv:1710.10196); a net that repeats itself is told by it.
    """

    def forward(self, x):
        deviation = (x.float().var(0, unbiased=False) + 1e-8).sqrt().mean()
        channel = deviation.to(x.dtype).expand(len(x), 1, *x.shape[2:])
        return torch.cat((x, channel), 1)


def minibatch_statistics():
    """Statistics of the batch before the discriminator's last layer."""
    build = gan.ConvDiscriminator.__init__

    def init(net, input_dim, output_dim=1, num_labels=None):
        build(net, input_dim, output_dim, num_labels)
        layers = list(net.layers)
        layers[-2:] = [MinibatchStatistics(), nn.Flatten(),
                       nn.Linear(129 * 3 * 3, layers[-1].out_features)]
        net.layers = nn.Sequential(*layers)

    gan.ConvDiscriminator.__init__ = init


def wider(factor, *nets):
    """Convolutional `nets` of `factor` times the channels."""
    def scaled(module):
        for name, layer in module.layers.named_children():
            index = int(name)
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                channels = [count if count == 1 else factor * count  # of an image there is one
                            for count in (layer.in_channels, layer.out_channels)]
                module.layers[index] = type(layer)(
                    *channels, layer.kernel_size, stride=layer.stride,
                    padding=layer.padding, bias=layer.bias is not None)
            elif isinstance(layer, nn.BatchNorm2d):
                module.layers[index] = nn.BatchNorm2d(factor * layer.num_features)
            elif isinstance(layer, nn.Unflatten) and layer.unflattened_size[0] > 1:
                channels, height, width = layer.unflattened_size
                module.layers[index] = nn.Unflatten(1, (factor * channels, height, width))
            elif isinstance(layer, nn.Linear) and layer.in_features > 500:
                module.layers[index] = nn.Linear(factor * layer.in_features, layer.out_features)
            elif isinstance(layer, nn.Linear):
                module.layers[index] = nn.Linear(layer.in_features, factor * layer.out_features,
                                                 bias=False)

    for net in nets:
        def init(module, *sizes, build=net.__init__):
            build(module, *sizes)
            scaled(module)
        net.__init__ = init


def relativistic():
    """Both nets are told which of a real and a fake image is the more real; R1 at fakes as well.

    R3GAN (Huang et al. 2024, arXiv:2501.05441).
    """
    def train_discriminator(batch_size, images, labels=None, *, generator, discriminator,
                            optimizer, r1=0.0, bfloat16=False, **_):
        z, fake_labels = gan.draw_noise(batch_size, images.device)
        if discriminator_knows_labels(discriminator):
            fake_labels = labels
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bfloat16):
            fakes = generator(z, fake_labels).detach().to(images.dtype)
            both_labels = torch.cat((labels, fake_labels))
            logits = discriminator(torch.cat((images, fakes)), both_labels)
            penalty = 0
            if r1:
                penalty = r1 * (gan.r1_penalty(discriminator, images, labels)
                                + gan.r1_penalty(discriminator, fakes, fake_labels))
        on_real, on_fake = logits.float().split(batch_size)
        loss = F.softplus(on_fake - on_real).mean()
        optimizer.zero_grad()
        (loss + penalty).backward()
        optimizer.step()
        LAST["real"], LAST["labels"] = images, labels
        return loss.detach()

    def train_generator(batch_size, *, generator, discriminator, optimizer, bfloat16=False, **_):
        images, labels = LAST["real"], LAST["labels"]
        z, fake_labels = gan.draw_noise(len(images), images.device)
        if discriminator_knows_labels(discriminator):
            fake_labels = labels
        with torch.autocast(z.device.type, torch.bfloat16, enabled=bfloat16):
            fakes = generator(z, fake_labels)
            on_fake = discriminator(fakes, fake_labels).float()
            on_real = discriminator(images, labels).float()
        loss = F.softplus(on_real - on_fake).mean()
        optimizer.zero_grad()
        loss.backward(inputs=list(generator.parameters()))
        optimizer.step()
        return loss.detach()

    gan.train_discriminator = train_discriminator
    gan.train_generator = train_generator


LAST = {}  # the real images of the discriminator's last step


def falling_rate():
    """Both rates fall linearly to 0 over the second half of training, not only at its end."""
    gan.DEFAULTS["conv"]["schedule"] = "linear"
    gan.learning_rate = lambda rate, args, progress: rate * min(1, 2 * (1 - progress))


def beta2(value):
    """Adam's second decay rate of the convolutional nets."""
    gan.BETA2["conv"] = value


def discriminator_knows_labels(discriminator):
    """Whether it is that of a Conditional GAN."""
    return discriminator.layers[-1].out_features > 1


def clusters():
    """Labels that the GAN finds itself: k-means of the training images, ten of them."""
    load_dataset = p5_compare.load_dataset

    def clustered(name, data_dir):
        images, labels, *test = load_dataset(name, data_dir)
        x = images.flatten(1).float() / 255
        nearest, _ = gan.find_clusters(x, 10, seed=0, steps=29)
        return [images, nearest.byte(), *test]

    gan.load_dataset = clustered


VARIANTS = {
    "convolutions": lambda: setattr(vae, "VAE", ConvVAE),
    "minibatch-statistics": minibatch_statistics,
    "wider": lambda: wider(2, gan.ConvGenerator, gan.ConvDiscriminator),
    "relativistic": relativistic,
    "clusters": clusters,
    "falling-rate": falling_rate,
    "beta2-0.999": lambda: beta2(0.999),
    "wider-discriminator": lambda: wider(2, gan.ConvDiscriminator),
}


# ------------------------------------------------------------------------------------- trials
def try_vae(args, images):
    """Samples uint8 (10 000, 28, 28) of a VAE trained on images (N, 784) in [0, 1]; its numbers."""
    precision = vae.choose_precision(args.precision, images.device)
    train_images, held_out = images[:-HELD_OUT], images[-HELD_OUT:]
    torch.manual_seed(args.seed)
    model = vae.VAE(args.hidden_dim, args.layers, args.latent_dim)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr, fused=True)
    for epoch in range(1, args.epochs + 1):
        vae.train(model, train_images, optimizer, args, epoch=epoch,
                  bar=tqdm(disable=True), precision=precision)
    numbers = vae.test(model, held_out, args)
    prior = None
    if args.prior == "mixture":
        torch.manual_seed(args.seed)
        with torch.no_grad():
            codes = model.reparameterize(*model.encode(train_images))
            prior = vae.fit_mixture(codes, args.components)
    samples = vae.sample(model, SAMPLES, args, prior)
    with torch.no_grad():
        decoded = model.decode(model.encode(held_out)[0]).sigmoid()
    return samples, {"held_out_loss": numbers["test_loss"]}, decoded


def try_gan(args, images, labels, score):
    """Samples (10 000, 784) in [0, 1] of a GAN trained on images (N, 784) in [0, 1].

    Then the same for noise z of the standard deviation WIDER, and what `score` says of the samples
    after every second epoch before the last.
    """
    precision = gan.choose_precision(args.precision, images.device)
    train_images = 2 * images[:-HELD_OUT] - 1
    torch.manual_seed(args.seed)
    nets = gan.build(args, images.device)
    torch.manual_seed(args.seed)
    z, drawn = gan.draw_noise(SAMPLES, images.device)
    if args.conditional:
        drawn = torch.arange(len(z)) % 10
    by_epoch = {}
    iterations = args.epochs * -(-len(train_images) // (args.batch_size * args.d_steps))
    for epoch in range(1, args.epochs + 1):
        gan.train(nets, train_images, labels[:-HELD_OUT], args, epoch=epoch,
                  iterations=iterations, bar=tqdm(disable=True), precision=precision)
        if epoch % 2 == 0 and epoch < args.epochs:
            by_epoch[epoch] = score(gan.evaluate(nets.average, z, drawn) / 2 + 0.5)
            print(f"epoch {epoch}: Frechet {by_epoch[epoch]:.2f}", flush=True)
    wider_z = gan.evaluate(nets.average, WIDER * z, drawn) / 2 + 0.5
    return gan.evaluate(nets.average, z, drawn) / 2 + 0.5, wider_z, by_epoch


def measure(images, judge, reference, seed):
    """What decides, of images (N, 784) in [0, 1]."""
    pixels = (255 * images).round().byte().view(-1, 28, 28)
    features, classes = p5_compare.judged(judge, pixels)
    numbers = {"frechet": p5_compare.frechet_distance(features, reference.features)}
    numbers |= p5_compare.neighbourhoods(features, reference)
    shares = p5_compare.abundance(classes, reference.counts, seed)
    numbers |= {name: float(shares[name]) for name in ("tv", "smallest_share")}
    numbers["sharpness"] = p5_compare.steepness(pixels) / reference.steepness
    return {name: round(value, 4) for name, value in numbers.items()}


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--variant", choices=VARIANTS, action="append", default=[])
    parser.add_argument("--judge-dir", type=Path, default=ROOT / "plots")
    parser.add_argument("--table", type=Path, default=ROOT / "report/screening.jsonl")
    parser.add_argument("script", choices=("vae.py", "gan.py"))
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="of the script")
    chosen = parser.parse_args(argv)
    for variant in chosen.variant:
        VARIANTS[variant]()
    script = {"vae.py": vae, "gan.py": gan}[chosen.script]
    args = script.parse_args(chosen.flags)
    torch.set_flush_denormal(True)
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, text=True,
                            capture_output=True).stdout.strip()  # of the code that runs

    data = script.load_dataset(args.dataset, args.data_dir)
    real, labels = p5_compare.load_dataset(args.dataset, args.data_dir)[:2]
    path = chosen.judge_dir / f"judge_{args.dataset}.pt"
    judge, copy_distance, sha256 = p5_compare.load_judge(path, torch.device("cpu"))
    with torch.no_grad():
        reference = p5_compare.make_reference(judge, copy_distance, real[:-HELD_OUT],
                                              real[-HELD_OUT:], labels[-HELD_OUT:])
    images = data[0].view(-1, 784).float() / 255
    start = time.perf_counter()
    numbers = {}
    if script is vae:
        samples, numbers, decoded = try_vae(args, images)
        numbers["frechet_of_reconstructions"] = measure(
            decoded, judge, reference, args.seed)["frechet"]
    else:
        def frechet(samples):
            return measure(samples, judge, reference, args.seed)["frechet"]

        samples, wider_z, by_epoch = try_gan(args, images, data[1].long(), frechet)
        scores = measure(wider_z, judge, reference, args.seed)
        numbers = {"frechet_by_epoch": by_epoch} if by_epoch else {}
        numbers |= {f"{name}_of_wider_z": scores[name] for name in ("frechet", "recall")}
    seconds = round(time.perf_counter() - start)
    numbers |= measure(samples, judge, reference, args.seed)
    line = {"command": shlex.join(["python", "report/screen.py", *argv]), "commit": commit,
            "judge": sha256[:12], "threads": torch.get_num_threads(), "seconds": seconds,
            **numbers}
    with chosen.table.open("a") as file:
        os.write(file.fileno(), (json.dumps(line) + "\n").encode())  # whole, beside other trials
    print(json.dumps(line))


if __name__ == "__main__":
    main()
