"""How fast, how large and how close to its products training is: the usual way and ours, in turn.

    python tests/bench.py                                   everything, minutes; best on an idle CPU
    python tests/bench.py --rows vae gan_conv linear        some rows
    python tests/bench.py --device cuda

It prints a table and writes plots/bench.json and plots/bench_rates.pdf.

Both ways train identical nets. The usual way is what public examples of VAEs and GANs do: a
torchvision data set with transforms behind a DataLoader, `.item()` on every loss, plain Adam,
float32, denormals kept; a VAE's loss takes F.binary_cross_entropy of the sigmoids; in a GAN D sees
real and fake images in separate passes, one batch of fakes serves both nets, and the backward pass
of G's loss also fills D's gradients. Ours is vae.train and gan.train on what vae.main and gan.main
give them.

In every round each way trains one chunk of batches; all numbers are medians over the rounds, ratios
and shares of numbers of one round. A share is the time that the matrix products and convolutions of
our step take alone, at its shapes and precision, over that of a step; the usual way's is by those
of our float32. Memory is the peak of a child process that trains one chunk, Python and PyTorch
included (on a GPU: what PyTorch allocated there).

Also measured: whether the rate holds on six times the images, whether memory grows over the epochs
(linear), and the time from the command to the first batch beyond that of importing PyTorch
(startup).
"""
import argparse
import io
import itertools
import multiprocessing
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from unittest import mock

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import gan  # noqa: E402
import vae  # noqa: E402

R1_EVERY = 8  # steps of D, as in gan.train; products are recorded over as many
LINEAR_ROUNDS = 3
STARTUP_ROUNDS = 5
LARGE = 468  # batches of 128 in 60 000 images
MANY = 100_000  # epochs, whose last no schedule gets near
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward"}
COLUMNS = {  # of the table: title and format
    "usual_rate": ("usual/s", ".0f"), "our_rate": ("ours/s", ".0f"), "ratio": ("ratio", ".2f"),
    "ratio_low": ("low", ".2f"), "ratio_high": ("high", ".2f"),
    "usual_memory": ("usual MB", ".0f"), "our_memory": ("ours MB", ".0f"),
    "usual_share": ("usual %", ".0%"), "our_share": ("ours %", ".0%")}
STOP_AT_TRAINING = """
import sys
sys.path.insert(0, sys.argv[1])
import {script}
{script}.train = lambda *_, **__: sys.exit()
{script}.main(sys.argv[2:])
"""


@dataclass
class Row:
    """What a row of the table trains."""
    title: str
    script: ModuleType  # vae or gan
    flags: list  # of that script
    batches: int  # in a chunk, which so takes some seconds on a slow core


ROWS = {
    "vae": Row("VAE 784-400-20, batch 128", vae, [], 100),
    "vae_fashion": Row("VAE, Fashion-MNIST default", vae, ["--dataset", "fashion"], 100),
    "gan_mlp": Row("GAN as handed out, batch 64", gan, ["--arch", "mlp"], 40),
    "gan_wide": Row("PyTorch-GAN's sizes, batch 64", gan, ["--arch", "mlp", "--beta1", "0.5"], 40),
    "gan_conv": Row("convolutional GAN, batch 64", gan, [], R1_EVERY),
}


# --------------------------------------------------------------------------------------- models
class Net(nn.Sequential):
    """A net that takes labels and ignores them."""

    def forward(self, x, labels=None):
        return super().forward(x)


def wide_generator(*_):
    """z (B, 100) -> images (B, 784): PyTorch-GAN's sizes, its first hidden layer not normalised."""
    normalised = nn.Sequential(
        nn.Linear(128, 256), nn.BatchNorm1d(256), nn.LeakyReLU(0.2),
        nn.Linear(256, 512), nn.BatchNorm1d(512), nn.LeakyReLU(0.2),
        nn.Linear(512, 1024), nn.BatchNorm1d(1024), nn.LeakyReLU(0.2))
    return Net(nn.Linear(gan.NOISE, 128), nn.LeakyReLU(0.2), *normalised,
               nn.Linear(1024, gan.PIXELS), nn.Tanh())


def wide_discriminator(*_):
    """Images (B, 784) -> logits (B, 1): PyTorch-GAN's sizes."""
    return Net(nn.Linear(gan.PIXELS, 512), nn.LeakyReLU(0.2),
               nn.Linear(512, 256), nn.LeakyReLU(0.2), nn.Linear(256, 1))


def build(name, settings, device):
    """The VAE of a row, or what gan.build makes: in row `gan_wide` of the nets above."""
    torch.manual_seed(settings.seed)
    if ROWS[name].script is vae:
        return vae.VAE(settings.hidden_dim, settings.layers, settings.latent_dim).to(device)
    if name == "gan_wide":
        nets = {"Generator": wide_generator, "Discriminator": wide_discriminator}
        with mock.patch.dict(vars(gan), nets):
            return gan.build(settings, device)
    return gan.build(settings, device)


# -------------------------------------------------------------------------------- the usual way
def usual_loader(settings, count, args, *, script):
    """A shuffled loader of the first `count` training images, and how many there are of these."""
    dataset = {"mnist": datasets.MNIST, "fashion": datasets.FashionMNIST}[settings.dataset]
    steps = [transforms.ToTensor()]  # to [0, 1]
    if script is gan:
        steps.append(transforms.Normalize((0.5,), (0.5,)))  # to [-1, 1]
    images = dataset(args.data_dir, transform=transforms.Compose(steps))
    count = min(count, len(images))
    chosen = Subset(images, range(count))
    return DataLoader(chosen, settings.batch_size, shuffle=True, num_workers=0), count


def usual_vae(model, settings, device, loader):
    """A function that trains `model` for one epoch of `loader`."""
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr)

    def chunk():
        total = 0.0
        for x, _ in loader:
            x = x.to(device)
            optimizer.zero_grad()
            logits, mu, logvar = model(x)
            reconstruction = F.binary_cross_entropy(
                logits.sigmoid(), x.view(-1, vae.PIXELS), reduction="sum")
            loss = reconstruction + settings.beta * vae.gaussian_kl(mu, logvar)
            loss.backward()
            total += loss.item()
            optimizer.step()

    return chunk


def usual_gan(nets, settings, device, loader):
    """A function that trains `nets`, gan.build's, for one epoch of `loader`.

    With the R1 penalty and G's moving average where ours has them.
    """
    generator = nets.generator.to(memory_format=torch.contiguous_format)
    discriminator = nets.discriminator.to(memory_format=torch.contiguous_format)
    average = {name: value.clone() for name, value in generator.state_dict().items()}
    betas = (settings.beta1, 0.999)
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=settings.lr_g, betas=betas)
    optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=settings.lr_d, betas=betas)
    criterion = nn.BCEWithLogitsLoss()

    def chunk():
        total = 0.0
        for step, (x, _) in enumerate(loader):
            x = x.to(device).view(-1, gan.PIXELS)
            real = torch.ones(len(x), 1, device=device)
            fake = torch.zeros(len(x), 1, device=device)
            # (1) update D: maximize log D(x) + log(1 - D(G(z)))
            penalised = settings.r1 > 0 and step % R1_EVERY == 0
            optimizer_d.zero_grad()
            on_real = discriminator(x.requires_grad_(penalised))
            real_loss = criterion(on_real, real)
            penalty = 0
            if penalised:
                gradient, = torch.autograd.grad(on_real.sum(), x, create_graph=True)
                penalty = R1_EVERY * settings.r1 / 2 * gradient.pow(2).sum(1).mean()
            (real_loss + penalty).backward()
            fakes = generator(torch.randn(len(x), gan.NOISE, device=device))
            fake_loss = criterion(discriminator(fakes.detach()), fake)
            fake_loss.backward()
            optimizer_d.step()
            # (2) update G: maximize log D(G(z))
            optimizer_g.zero_grad()
            g_loss = criterion(discriminator(fakes), real)
            g_loss.backward()
            optimizer_g.step()
            total += real_loss.item() + fake_loss.item() + g_loss.item()
            if settings.ema:
                for name, value in generator.state_dict().items():
                    mean = settings.ema * average[name] + (1 - settings.ema) * value
                    average[name].copy_(mean)

    return chunk


# -------------------------------------------------------------------------------------- our way
def our_vae(model, settings, device, data, *, count, precision):
    """A function that trains by vae.train for one epoch of the first `count` images.

    `data` is put on the device as vae.main does, all of it.
    """
    train_images, test_images = (images.to(device).view(-1, vae.PIXELS).float().div_(255)
                                 for images in data[::2])
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr, fused=True)
    bar = tqdm(file=io.StringIO())  # it is drawn, as for a person watching
    epochs = itertools.count(1)

    def chunk():
        vae.train(model, train_images[:count], optimizer, settings, epoch=next(epochs), bar=bar,
                  precision=precision)

    return chunk


def our_gan(nets, settings, device, data, *, count, precision):
    """A function that trains by gan.train for one epoch of the first `count` images.

    `data` is put on the device as gan.main does, all of it.
    """
    data = [tensor.to(device).view(-1, gan.PIXELS).float().div_(127.5).sub_(1)
            if tensor.ndim == 3 else tensor.to(device).long() for tensor in data]
    images, labels, *_ = data
    bar = tqdm(file=io.StringIO())
    epochs = itertools.count(1)

    def chunk():
        gan.train(nets, images[:count], labels[:count], settings, epoch=next(epochs),
                  iterations=10 * MANY, bar=bar, precision=precision)

    return chunk


# ------------------------------------------------------------------------------ both ways alike
def precisions(device):
    """Those that the scripts would train in on this hardware, each a way of ours."""
    if vae.choose_precision("auto", device) == "bfloat16":
        return ["float32", "bfloat16"]
    return ["float32"]


def settings_for(name, args):
    """The flags of a row as its script reads them."""
    flags = [*ROWS[name].flags, "--epochs", str(MANY), "--seed", str(args.seed),
             "--data-dir", str(args.data_dir)]
    return ROWS[name].script.parse_args(flags)


def in_modes_of(way, train):
    """`train` in the modes in which a way trains.

    Threads other than this one flush denormals in both ways, as main starts them.
    """
    def chunk():
        torch.backends.cudnn.allow_tf32 = False  # float32 is float32, in both ways
        torch.set_flush_denormal(way != "usual")
        train()

    return chunk


def make_way(name, way, args, device, batches=None):
    """(a function that trains one chunk, images in the chunk) of a row.

    `way` is "usual", or a precision of ours. A chunk has so many batches, or all images there are.
    """
    script = ROWS[name].script
    settings = settings_for(name, args)
    count = settings.batch_size * (batches or args.batches or ROWS[name].batches)
    nets = build(name, settings, device)
    if way == "usual":
        loader, count = usual_loader(settings, count, args, script=script)
        make = usual_vae if script is vae else usual_gan
        train = make(nets, settings, device, loader)
    else:
        data = vae.load_dataset(settings.dataset, args.data_dir)
        count = min(count, len(data[0]))
        make = our_vae if script is vae else our_gan
        train = make(nets, settings, device, data, count=count, precision=way)
    return in_modes_of(way, train), count


# ----------------------------------------------------------------------------------------- time
def seconds(call, device):
    """Wall seconds that call() takes, on a GPU from event to event."""
    if device.type == "cuda":
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def alternate(calls, rounds, device):
    """{name: seconds of every round} of {name: function}: each once unmeasured, then in turn.

    Every other round goes backwards, so that a machine that slows down favours none.
    """
    for call in calls.values():
        call()
    times = {name: [] for name in calls}
    for number in range(rounds):
        order = list(calls)
        if number % 2 == 1:
            order.reverse()
        for name in order:
            times[name].append(seconds(calls[name], device))
    return times


class Products(TorchDispatchMode):
    """Notes every matrix product and convolution computed under it, but on random numbers."""

    def __init__(self):
        super().__init__()
        self.calls = []  # (function, arguments, arguments by name)
        self.tensors = {}  # by their layout

    def random_like(self, x):
        """Random numbers in the layout of x, whose strides may be 0; one tensor for a layout."""
        layout = (x.shape, x.stride(), x.dtype)
        if layout not in self.tensors:
            last = sum((n - 1) * stride for n, stride in zip(x.shape, x.stride()))
            numbers = torch.randn(last + 1, device=x.device).to(x.dtype)
            self.tensors[layout] = numbers.as_strided(x.shape, x.stride())
        return self.tensors[layout]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.overloadpacket.__name__ in PRODUCTS:
            inputs = tree_map_only(torch.Tensor, self.random_like, (args, kwargs))
            self.calls.append((func, *inputs))
        return func(*args, **kwargs)


def make_products(name, precision, args, device):
    """(a function that computes the products of our way alone, images whose products these are)."""
    chunk, count = make_way(name, precision, args, device, R1_EVERY)
    with Products() as products:
        chunk()

    @torch.no_grad()
    def replay():
        for func, values, options in products.calls:
            func(*values, **options)

    return in_modes_of(precision, replay), count


# --------------------------------------------------------------------------------------- memory
def peak_memory(device):
    """The most memory that this process held so far, in MB; on a GPU that PyTorch held there."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # Linux lets a child's ru_maxrss begin at its parent's
        kilobytes = status.read_text().split("VmHWM:")[1].split()[0]
        return int(kilobytes) / 2**10
    import resource  # which Windows lacks
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform == "darwin":  # bytes there, kilobytes elsewhere
        return peak / 2**20
    return peak / 2**10


def in_child(function, *inputs):
    """function(*inputs) computed in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *inputs).result()


def chunk_memory(name, way, args, device):
    """MB at the peak of setting up one way and training one chunk; for in_child."""
    train, _ = make_way(name, way, args, device)
    train()
    return peak_memory(device)


def epoch_growth(args, device):
    """MB by which the peak rises from the end of epoch 2 to that of epoch 6; for in_child."""
    train, _ = make_way("vae", "float32", args, device, LARGE)
    peaks = []
    for _ in range(6):
        train()
        peaks.append(peak_memory(device))
    return peaks[5] - peaks[1]


# --------------------------------------------------------------------------------- measurements
def measure_row(name, args, device):
    """{name: number} of a row: rates in images per second, memory in MB, shares and ratios."""
    ours = precisions(device)
    memory = {way: in_child(chunk_memory, name, way, args, device) for way in [*ours, "usual"]}
    made = {way: make_way(name, way, args, device) for way in memory}
    for precision in ours:
        made[f"{precision} products"] = make_products(name, precision, args, device)
    calls = {key: call for key, (call, _) in made.items()}
    times = alternate(calls, args.rounds, device)
    per_image = {key: torch.tensor(times[key]).double() / count
                 for key, (_, count) in made.items()}  # seconds (rounds,)
    numbers = {}
    for precision in ours:
        results = compare(per_image, memory, precision)
        numbers |= {f"{name}/{precision}/{column}": value for column, value in results.items()}
        cells = [f"{format(results[column], spec):>8}" for column, (_, spec) in COLUMNS.items()]
        print(f"{ROWS[name].title:31}{precision:9}", *cells, flush=True)
    return numbers


def compare(per_image, memory, precision):
    """{column: number} of ours in one precision beside the usual way.

    per_image: {way or "<precision> products": seconds (rounds,)}; memory: {way: MB}.
    """
    ratios = per_image["usual"] / per_image[precision]
    results = {"ratio": ratios.median().item(), "ratio_low": ratios.min().item(),
               "ratio_high": ratios.max().item()}
    for whose, way, of_products in (("usual", "usual", "float32"), ("our", precision, precision)):
        shares = per_image[f"{of_products} products"] / per_image[way]
        results[f"{whose}_rate"] = 1 / per_image[way].median().item()
        results[f"{whose}_memory"] = memory[way]
        results[f"{whose}_share"] = shares.median().item()
    return results


def measure_linear(args, device):
    """The rate of vae.train on all images over that on a sixth of them; growth of memory in MB."""
    train_sixth, sixth = make_way("vae", "float32", args, device, LARGE // 6)
    train_all, count = make_way("vae", "float32", args, device, LARGE)
    times = alternate({"sixth": train_sixth, "all": train_all}, LINEAR_ROUNDS, device)
    ratios = [(count / of_all) / (sixth / of_sixth)
              for of_sixth, of_all in zip(times["sixth"], times["all"])]
    return {"linear/ratio": statistics.median(ratios),
            "linear/growth": in_child(epoch_growth, args, device)}


def measure_startup(args, device):
    """Seconds from the command to the first batch, beyond those that importing PyTorch takes."""
    scripts = ("vae", "gan")
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--data-dir", str(args.data_dir), "--out-dir", folder, "--runs-dir", folder]
        if device.type == "cpu":
            flags.append("--no-cuda")

        def starting(code):
            words = [sys.executable, "-c", code, str(ROOT), *flags]
            return lambda: subprocess.run(words, check=True, capture_output=True)

        calls = {"import": starting("import torch, torchvision")}
        for script in scripts:
            calls[script] = starting(STOP_AT_TRAINING.format(script=script))
        times = alternate(calls, STARTUP_ROUNDS, device)
    numbers = {}
    for script in scripts:
        beyond = [total - importing for importing, total in zip(times["import"], times[script])]
        numbers[f"startup/{script}"] = statistics.median(beyond)
    return numbers


# --------------------------------------------------------------------------------------- figure
def draw_rates(path, numbers):
    """Images per second of every row, the usual way's and ours, with their ratios beside."""
    figure = Figure(figsize=(6.5, 1.6))
    axes = figure.subplots()
    names = [name for name in ROWS if f"{name}/float32/ratio" in numbers]
    for key, precision, marker, color, label in (
            ("usual_rate", "float32", "o", "white", "the usual way"),
            ("our_rate", "float32", "o", "black", "ours"),
            ("our_rate", "bfloat16", "s", "0.6", "ours in bfloat16")):
        heights = [height for height, name in enumerate(names)
                   if f"{name}/{precision}/{key}" in numbers]
        if not heights:  # this hardware does not multiply bfloat16
            continue
        rates = [numbers[f"{names[height]}/{precision}/{key}"] for height in heights]
        axes.plot(rates, heights, marker, color=color, markeredgecolor="black", label=label)
        if key == "our_rate":
            for rate, height in zip(rates, heights):
                ratio = numbers[f"{names[height]}/{precision}/ratio"]
                axes.annotate(f"{ratio:.2f}", (rate, height), (6, -3), textcoords="offset points")
    titles = [ROWS[name].title for name in names]
    axes.set(xscale="log", xlabel="images per second; beside ours, its ratio to the usual way's",
             xmargin=0.1, yticks=range(len(names)), yticklabels=titles,
             ylim=(len(names) - 0.5, -0.5))
    figure.legend(loc="outside upper right", ncols=3)
    vae.save_figure(figure, path)


# --------------------------------------------------------------------------------- command line
def parse_args(argv=None):
    """The command line (default: sys.argv), checked; a wrong one ends with status 2, one line."""
    argv = sys.argv[1:] if argv is None else argv
    rows = [*ROWS, "linear", "startup"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.error = lambda text: parser.exit(2, f"{parser.prog}: {text} (--help lists every flag)\n")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rows", choices=rows, nargs="+", default=rows,
                        help="what to measure, default: all")
    parser.add_argument("--rounds", type=vae.number(int, 3, 100), default=7,
                        help="chunks that each way trains")
    parser.add_argument("--batches", type=vae.number(int, 1, 1000),
                        help="in a chunk; default: as suits the row")
    parser.add_argument("--seed", type=vae.number(int, 0, 2**31), default=1,
                        help="of every random number")
    parser.add_argument("--data-dir", type=vae.folder, default=ROOT / "data",
                        help="default: data, in the project")
    parser.add_argument("--out-dir", type=vae.folder, default=ROOT / "plots",
                        help="default: plots, in the project")
    args = parser.parse_args(argv)
    prefix = "bench"
    if args.rows != rows:
        prefix = "_".join(["bench", *args.rows])
    args = vae.named(args, prefix, ("rows",), parser, argv)
    args.command = shlex.join(["python", f"tests/{Path(__file__).name}", *argv])
    return args


def main(argv=None):
    args = parse_args(argv)
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise OSError("there is no CUDA device: leave out --device cuda")
    # before the first parallel work starts the other threads: they keep what holds then
    torch.set_flush_denormal(True)
    with vae.own_settings():
        vae.prepare_folders(args.out_dir)
        for dataset in ("mnist", "fashion"):
            # what is missing is fetched, or named, before anything is timed
            vae.load_dataset(dataset, args.data_dir)
        start = time.perf_counter()
        print(f"{'':40}", *(f"{title:>8}" for title, _ in COLUMNS.values()))
        numbers = {}
        for name in args.rows:
            if name == "linear":
                numbers |= measure_linear(args, device)
            elif name == "startup":
                numbers |= measure_startup(args, device)
            else:
                numbers |= measure_row(name, args, device)
        print(", ".join(f"{name} {value:.3g}" for name, value in numbers.items()
                        if name.startswith(("linear/", "startup/"))))

        stem = args.out_dir / args.run_name
        if any(name in ROWS for name in args.rows):
            draw_rates(Path(f"{stem}_rates.pdf"), numbers)
        vae.write_record(Path(f"{stem}.json"), args, [vae.machine(device)], numbers,
                         seconds=time.perf_counter() - start, curves={})
    print(f"record and figure: {stem}*")


if __name__ == "__main__":
    vae.run(main)
