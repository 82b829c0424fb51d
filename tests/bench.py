"""How fast, how large and how close to its products training is: the usual way and ours on identical nets, in turn.

    python tests/bench.py [--rows vae gan_conv linear] [--device cuda]    minutes, best on an idle machine

The usual way is what public examples of VAEs and GANs do: a torchvision data set with transforms behind a DataLoader,
`.item()` on every loss, plain Adam, float32, denormals kept; a VAE's loss takes F.binary_cross_entropy of the sigmoids;
in a GAN D sees real and fake images in separate passes, one batch of fakes serves both nets, and the backward pass of
G's loss also fills D's gradients. Ours is vae.train and gan.train on what vae.main and gan.main give them. In every
round each way trains one chunk of batches; all numbers are medians over the rounds, ratios and shares of numbers of one
round. A share is the time that the matrix products and convolutions of our step take alone, at its shapes and
precision, over that of a step; the usual way's is by those of our float32. Memory is the peak of a child process that
trains one chunk, Python and PyTorch included (on a GPU: what PyTorch allocated there). Also: whether the rate holds on
six times the images, whether memory grows over the epochs, and the time from the command to the first batch beyond that
of importing PyTorch. Prints a table, writes plots/bench.json and plots/bench_rates.pdf.
"""
import argparse
import collections
import contextlib
import functools
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
from pathlib import Path
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
LINEAR_ROUNDS, STARTUP_ROUNDS = 3, 5
LARGE = 468  # batches of 128 in 60 000 images
MANY = 100_000  # epochs, whose last no schedule gets near
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward"}
COLUMNS = {  # of the table: title and format
    "usual_rate": ("usual/s", ".0f"), "our_rate": ("ours/s", ".0f"), "ratio": ("ratio", ".2f"),
    "ratio_low": ("low", ".2f"), "ratio_high": ("high", ".2f"), "usual_memory": ("usual MB", ".0f"),
    "our_memory": ("ours MB", ".0f"), "usual_share": ("usual %", ".0%"), "our_share": ("ours %", ".0%")}
STOP_AT_TRAINING = ("import sys; sys.path.insert(0, sys.argv[1]); import {0}; "
                    "{0}.train = lambda *_, **__: sys.exit(); {0}.main(sys.argv[2:])")
Row = collections.namedtuple("Row", "title script flags batches")  # so many batches take some seconds on a slow core
ROWS = {
    "vae": Row("VAE 784-400-20, batch 128", vae, [], 100),
    "vae_fashion": Row("VAE, Fashion-MNIST default", vae, ["--dataset", "fashion"], 100),
    "gan_mlp": Row("GAN as handed out, batch 64", gan, ["--arch", "mlp"], 40),
    "gan_wide": Row("PyTorch-GAN's sizes, batch 64", gan, ["--arch", "mlp", "--beta1", "0.5"], 40),
    "gan_conv": Row("convolutional GAN, batch 64", gan, [], R1_EVERY),
}


class Net(nn.Sequential):
    """A net that takes labels and ignores them."""

    def forward(self, x, labels=None):
        return super().forward(x)


def wide_generator(*_):
    """Noise (B, 100) -> images (B, 784): PyTorch-GAN's sizes, normalised in all but the first hidden layer."""
    hidden = [(nn.Linear(n, 2 * n), nn.BatchNorm1d(2 * n), nn.LeakyReLU(0.2)) for n in (128, 256, 512)]
    return Net(nn.Linear(gan.NOISE, 128), nn.LeakyReLU(0.2), *sum(hidden, ()), nn.Linear(1024, gan.PIXELS), nn.Tanh())


def wide_discriminator(*_):
    """Images (B, 784) -> logits (B, 1): PyTorch-GAN's sizes."""
    hidden = [(nn.Linear(*pair), nn.LeakyReLU(0.2)) for pair in ((gan.PIXELS, 512), (512, 256))]
    return Net(*sum(hidden, ()), nn.Linear(256, 1))


def build(name, settings, device):
    """The VAE of a row, or what gan.build makes: in row `gan_wide` of the nets above."""
    torch.manual_seed(settings.seed)
    if ROWS[name].script is vae:
        return vae.VAE(settings.hidden_dim, settings.layers, settings.latent_dim).to(device)
    nets = {"Generator": wide_generator, "Discriminator": wide_discriminator} if name == "gan_wide" else {}
    with mock.patch.dict(vars(gan), nets):
        return gan.build(settings, device)


def usual_vae(model, settings, device, loader):
    """A function that trains `model` for one epoch of `loader`."""
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr)

    def chunk():
        total = 0.0
        for x, _ in loader:
            x = x.to(device)
            optimizer.zero_grad()
            recon, mu, logvar = model(x)
            reconstruction = F.binary_cross_entropy(recon.sigmoid(), x.view(-1, vae.PIXELS), reduction="sum")
            loss = reconstruction + settings.beta * vae.gaussian_kl(mu, logvar)
            loss.backward()
            total += loss.item()
            optimizer.step()

    return chunk


def usual_gan(nets, settings, device, loader):
    """A function that trains `nets`, gan.build's, for one epoch of `loader`, with R1 and G's average as in ours."""
    generator = nets.generator.to(memory_format=torch.contiguous_format)
    discriminator = nets.discriminator.to(memory_format=torch.contiguous_format)
    average = {name: value.clone() for name, value in generator.state_dict().items()}
    g_adam, d_adam = (torch.optim.Adam(net.parameters(), lr, (settings.beta1, 0.999))
                      for net, lr in ((generator, settings.lr_g), (discriminator, settings.lr_d)))
    criterion = nn.BCEWithLogitsLoss()

    def chunk():
        total = 0.0
        for step, (x, _) in enumerate(loader):
            x = x.to(device).view(-1, gan.PIXELS)
            real, fake = torch.ones(len(x), 1, device=device), torch.zeros(len(x), 1, device=device)
            penalised = settings.r1 > 0 and step % R1_EVERY == 0
            d_adam.zero_grad()
            on_real = discriminator(x.requires_grad_(penalised))
            penalty, real_loss = 0, criterion(on_real, real)
            if penalised:
                gradient, = torch.autograd.grad(on_real.sum(), x, create_graph=True)
                penalty = R1_EVERY * settings.r1 / 2 * gradient.pow(2).sum(1).mean()
            (real_loss + penalty).backward()
            fakes = generator(torch.randn(len(x), gan.NOISE, device=device))
            fake_loss = criterion(discriminator(fakes.detach()), fake)
            fake_loss.backward()
            d_adam.step()
            g_adam.zero_grad()
            g_loss = criterion(discriminator(fakes), real)
            g_loss.backward()
            g_adam.step()
            total += real_loss.item() + fake_loss.item() + g_loss.item()
            if settings.ema:
                for name, value in generator.state_dict().items():
                    average[name].copy_(settings.ema * average[name] + (1 - settings.ema) * value)

    return chunk


def our_way(nets, settings, device, data, count, precision):
    """A function that trains by vae.train or gan.train on the first `count` images, all of `data` held as by main."""
    bar, epochs = tqdm(file=io.StringIO()), itertools.count(1)  # a bar that is drawn, as for a person watching
    if isinstance(nets, vae.VAE):
        images, _ = (x.to(device).view(-1, vae.PIXELS).float().div_(255) for x in data[::2])
        optimizer = torch.optim.Adam(nets.parameters(), lr=settings.lr, fused=True)
        return lambda: vae.train(nets, images[:count], optimizer, settings, next(epochs), bar, precision)
    images, labels, *_ = [x.to(device).view(-1, gan.PIXELS).float().div_(127.5).sub_(1) if x.ndim == 3 else
                          x.to(device).long() for x in data]
    return lambda: gan.train(nets, images[:count], labels[:count], settings, epoch=next(epochs),
                             iterations=10 * MANY, bar=bar, precision=precision)


def ways(device):
    """Ours in every precision that the scripts would train in on this hardware, and the usual one."""
    ours = ["float32"]
    if vae.choose_precision("auto", device) == "bfloat16":
        ours.append("bfloat16")
    return [*ours, "usual"]


@contextlib.contextmanager
def conditions(way):
    """The modes in which a way trains; threads other than this one flush denormals in both, as main starts them."""
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32, in both ways
    torch.set_flush_denormal(way != "usual")
    yield


def settings_for(name, args):
    """The flags of a row as its script reads them."""
    flags = [*ROWS[name].flags, "--epochs", str(MANY), "--seed", str(args.seed), "--data-dir", str(args.data_dir)]
    return ROWS[name].script.parse_args(flags)


def make_way(name, way, args, device, batches=None):
    """(a function that trains one chunk, images in the chunk: all there are if they fill no `batches`)."""
    settings, script = settings_for(name, args), ROWS[name].script
    count = settings.batch_size * (batches or args.batches or ROWS[name].batches)
    nets = build(name, settings, device)
    if way == "usual":
        dataset = {"mnist": datasets.MNIST, "fashion": datasets.FashionMNIST}[settings.dataset]
        scaling = [transforms.Normalize((0.5,), (0.5,))] * (script is gan)
        images = dataset(args.data_dir, transform=transforms.Compose([transforms.ToTensor(), *scaling]))
        count = min(count, len(images))
        loader = DataLoader(Subset(images, range(count)), settings.batch_size, shuffle=True, num_workers=0)
        train = (usual_vae if script is vae else usual_gan)(nets, settings, device, loader)
    else:
        data = vae.load_dataset(settings.dataset, args.data_dir)
        count = min(count, len(data[0]))
        train = our_way(nets, settings, device, data, count, precision=way)
    return conditions(way)(train), count


def seconds(call, device):
    """Wall seconds that call() takes, on a GPU from event to event."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def alternate(calls, rounds, device):
    """{name: seconds of every round} of calls {name: function}: each once unmeasured, then in turn, to and fro."""
    for call in calls.values():
        call()
    times = {name: [] for name in calls}
    for number in range(rounds):
        for name in list(calls)[::-1 if number % 2 else 1]:
            times[name].append(seconds(calls[name], device))
    return times


class Products(TorchDispatchMode):
    """Notes every matrix product and convolution computed under it, but on random numbers."""

    def __init__(self):
        super().__init__()
        self.calls, self.tensors = [], {}

    def random_like(self, x):
        """Random numbers in the layout of x, whose strides may be 0; the same ones for every tensor of that layout."""
        layout = x.shape, x.stride(), x.dtype
        if layout not in self.tensors:
            size = 1 + sum((n - 1) * step for n, step in zip(x.shape, x.stride()))
            self.tensors[layout] = torch.randn(size, device=x.device).to(x.dtype).as_strided(*layout[:2])
        return self.tensors[layout]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in PRODUCTS:
            self.calls.append((func, *tree_map_only(torch.Tensor, self.random_like, (args, kwargs or {}))))
        return func(*args, **kwargs or {})


def make_products(name, way, args, device):
    """(a function that computes the products of our way alone, images whose products it computes)."""
    chunk, count = make_way(name, way, args, device, R1_EVERY)
    with Products() as products:
        chunk()

    @torch.no_grad()
    @conditions(way)
    def replay():
        for func, values, options in products.calls:
            func(*values, **options)

    return replay, count


def peak_memory(device):
    """The most memory that this process held so far, in MB; on a GPU that PyTorch held there."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status, mb = Path("/proc/self/status"), 2**20 if sys.platform == "darwin" else 2**10  # in units of ru_maxrss
    if status.exists():  # Linux lets a child's ru_maxrss begin at its parent's
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / mb
    import resource  # which Windows lacks
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / mb


def in_child(function, *inputs):
    """function(*inputs) computed in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *inputs).result()


def chunk_memory(name, way, args, device):
    """MB at the peak of setting up one way and training one chunk; for in_child."""
    make_way(name, way, args, device)[0]()
    return peak_memory(device)


def epoch_growth(args, device):
    """MB by which the peak rises from the end of epoch 2 to that of epoch 6 on all images; for in_child."""
    train, _ = make_way("vae", "float32", args, device, LARGE)
    peaks = [(train(), peak_memory(device))[1] for _ in range(6)]
    return peaks[5] - peaks[1]


def measure_row(name, args, device):
    """{name: number} of a row: rates in images per second, memory in MB, shares and ratios."""
    memory = {way: in_child(chunk_memory, name, way, args, device) for way in ways(device)}
    made = {way: make_way(name, way, args, device) for way in memory}
    made |= {f"{way} products": make_products(name, way, args, device) for way in memory if way != "usual"}
    times = alternate({key: call for key, (call, _) in made.items()}, args.rounds, device)
    times = {key: torch.tensor(row).double() / made[key][1] for key, row in times.items()}  # seconds per image
    numbers = {}
    for way in [way for way in memory if way != "usual"]:
        ratios = times["usual"] / times[way]
        found = {"ratio": ratios.median().item(), "ratio_low": ratios.min().item(),
                 "ratio_high": ratios.max().item()}
        for who, key, precision in (("usual", "usual", "float32"), ("our", way, way)):
            share = times[f"{precision} products"] / times[key]
            found |= {f"{who}_rate": 1 / times[key].median().item(), f"{who}_memory": memory[key],
                      f"{who}_share": share.median().item()}
        numbers |= {f"{name}/{way}/{column}": number for column, number in found.items()}
        cells = [f"{format(found[column], spec):>8}" for column, (_, spec) in COLUMNS.items()]
        print(f"{ROWS[name].title:31}{way:9}", *cells, flush=True)
    return numbers


def measure_linear(args, device):
    """The rate of vae.train on all images over its rate on a sixth of them, and the growth of memory in MB."""
    (few, short), (every, long) = (make_way("vae", "float32", args, device, size) for size in (LARGE // 6, LARGE))
    times = alternate({"few": few, "every": every}, LINEAR_ROUNDS, device)
    ratio = statistics.median((long / b) / (short / a) for a, b in zip(*times.values()))
    return {"linear/ratio": ratio, "linear/growth": in_child(epoch_growth, args, device)}


def measure_startup(args, device):
    """Seconds from the command to the first batch of vae.py and gan.py, beyond those that importing PyTorch takes."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--data-dir", str(args.data_dir), "--out-dir", folder, "--runs-dir", folder]
        flags += ["--no-cuda"] * (device.type == "cpu")
        codes = {"import": "import torch, torchvision", **{n: STOP_AT_TRAINING.format(n) for n in ("vae", "gan")}}
        calls = {name: functools.partial(subprocess.run, [sys.executable, "-c", code, str(ROOT), *flags], check=True,
                                         capture_output=True) for name, code in codes.items()}
        times = alternate(calls, STARTUP_ROUNDS, device)
    return {f"startup/{script}": statistics.median(b - a for a, b in zip(times["import"], times[script]))
            for script in ("vae", "gan")}


def draw_rates(path, numbers):
    """Images per second of every row, the usual way's and ours, with their ratios beside."""
    figure = Figure(figsize=(6.5, 1.6))
    axes = figure.subplots()
    names = [name for name in ROWS if f"{name}/float32/ratio" in numbers]
    for key, way, marker, color, label in (
            ("usual_rate", "float32", "o", "white", "the usual way"), ("our_rate", "float32", "o", "black", "ours"),
            ("our_rate", "bfloat16", "s", "0.6", "ours in bfloat16")):
        points = [(numbers[f"{name}/{way}/{key}"], row, numbers[f"{name}/{way}/ratio"])
                  for row, name in enumerate(names) if f"{name}/{way}/{key}" in numbers]
        if points:
            axes.plot(*list(zip(*points))[:2], marker, color=color, markeredgecolor="black", label=label)
        for rate, row, ratio in points if key == "our_rate" else ():
            axes.annotate(f"{ratio:.2f}", (rate, row), (6, -3), textcoords="offset points")
    axes.set(xscale="log", xlabel="images per second; beside ours, its ratio to the usual way's", xmargin=0.1,
             yticks=range(len(names)), yticklabels=[ROWS[name].title for name in names], ylim=(len(names) - 0.5, -0.5))
    figure.legend(loc="outside upper right", ncols=3)
    vae.save_figure(figure, path)


def parse_args(argv=None):
    """The command line (default: sys.argv), checked; a wrong one ends with status 2 and one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.error = lambda message: parser.exit(2, f"{parser.prog}: {message} (--help lists every flag)\n")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    rows = [*ROWS, "linear", "startup"]
    parser.add_argument("--rows", choices=rows, nargs="+", default=rows, help="what to measure, default: all")
    parser.add_argument("--rounds", type=vae.number(int, 3, 100), default=7, help="chunks that each way trains")
    parser.add_argument("--batches", type=vae.number(int, 1, 1000), help="in a chunk; default: as suits the row")
    parser.add_argument("--seed", type=vae.number(int, 0, 2**31), default=1, help="of every random number")
    for flag, folder in (("--data-dir", "data"), ("--out-dir", "plots")):
        parser.add_argument(flag, type=vae.folder, default=ROOT / folder, help=f"default: {folder}, in the project")
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(argv)
    prefix = "bench" if args.rows == rows else "_".join(["bench", *args.rows])
    args = vae.named(args, prefix, ("rows",), parser, argv)
    args.command = shlex.join(["python", f"tests/{Path(__file__).name}", *argv])
    return args


def main(argv=None):
    args = parse_args(argv)
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise OSError("there is no CUDA device: leave out --device cuda")
    torch.set_flush_denormal(True)  # before the first parallel work starts the other threads: they keep what holds then
    with vae.own_settings():
        vae.prepare_folders(args.out_dir)
        for dataset in ("mnist", "fashion"):
            vae.load_dataset(dataset, args.data_dir)  # what is missing is fetched or named before anything is timed
        start, numbers = time.perf_counter(), {}
        print(f"{'':40}", *(f"{title:>8}" for title, _ in COLUMNS.values()))
        for name in args.rows:
            others = {"linear": measure_linear, "startup": measure_startup}
            numbers |= others[name](args, device) if name in others else measure_row(name, args, device)
        print(", ".join(f"{name} {value:.3g}" for name, value in numbers.items() if name.count("/") == 1))
        stem = f"{args.out_dir / args.run_name}"
        if set(args.rows) & set(ROWS):
            draw_rates(Path(f"{stem}_rates.pdf"), numbers)
        vae.write_record(Path(f"{stem}.json"), args, [vae.machine(device)], numbers,
                         seconds=time.perf_counter() - start, curves={})
    print(f"record and figure: {stem}*")


if __name__ == "__main__":
    vae.run(main)
