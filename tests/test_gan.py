"""gan.py: the two steps against the textbook, what labels reach, the meta device, whole runs."""
import copy
import json
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

import gan

NETS = {"mlp": (gan.Generator, gan.Discriminator),
        "conv": (gan.ConvGenerator, gan.ConvDiscriminator)}
both = pytest.mark.parametrize("arch", NETS)


@pytest.fixture
def parse(monkeypatch):
    """parse(*flags): the command line as gan.py understands it."""
    def args(*flags):
        monkeypatch.setattr(sys, "argv", ["gan.py", *map(str, flags)])
        return gan.parse_args()
    return args


def pair(arch, num_labels=None, lr=1e-3, device="cpu"):
    """Generator, discriminator and an optimiser for each, the same on every call."""
    torch.manual_seed(0)
    generator, discriminator = NETS[arch]
    nets = generator(gan.NOISE, gan.PIXELS, num_labels), discriminator(gan.PIXELS, 1, num_labels)
    nets = [net.to(device) for net in nets]
    return *nets, *(torch.optim.Adam(net.parameters(), lr) for net in nets)


def sgd(net, lr):
    return torch.optim.SGD(net.parameters(), lr)


def batch(count=16):
    """Images (count, 784) in [-1, 1] and labels that hold every class."""
    torch.manual_seed(1)
    return torch.rand(count, gan.PIXELS) * 2 - 1, torch.arange(count) % 10


def weights(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


class Table(nn.Module):
    """A stand-in for a net: returns the same rows whatever comes in, and remembers what came in."""

    def __init__(self, values):
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values))
        self.calls = []

    def forward(self, x, labels=None):
        self.calls.append((x, labels))
        return self.values[:len(x)] + 0 * x.sum(1, keepdim=True)


# ---------------------------------------------------------------------------------------- nets
def test_handed_out_nets_have_their_sizes():
    generator, discriminator = gan.Generator(100, 784, None), gan.Discriminator(784)
    shapes = [[tuple(layer.weight.shape) for layer in net.layers if isinstance(layer, nn.Linear)]
              for net in (generator, discriminator)]
    assert shapes == [[(256, 100), (512, 256), (1024, 512), (784, 1024)],
                      [(1024, 784), (512, 1024), (256, 512), (1, 256)]]
    dropouts = [layer.p for layer in discriminator.layers if isinstance(layer, nn.Dropout)]
    assert dropouts == [0.3] * 3
    assert {layer.negative_slope for net in (generator, discriminator) for layer in net.layers
            if isinstance(layer, nn.LeakyReLU)} == {0.2}
    conditional = gan.Generator(100, 784)
    assert conditional.embedding.weight.shape == (10, 10)
    assert conditional.layers[0].in_features == 110


@both
@pytest.mark.parametrize("num_labels", [None, 10])
def test_shapes_and_ranges(arch, num_labels):
    generator, discriminator, *_ = pair(arch, num_labels)
    z, labels = gan.draw_noise(12, "cpu")
    images = generator(z, labels)
    assert images.shape == (12, 784) and images.abs().max() <= 1 and images.min() < 0
    assert discriminator(images, labels).shape == (12, 1)


@both
def test_labels_reach_both_nets_that_were_made_for_them(arch):
    images, labels = batch()
    z, wrong = torch.randn(16, gan.NOISE), (labels + 1) % 10
    for num_labels in (None, 10):
        generator, discriminator, *_ = pair(arch, num_labels)
        generator.eval(), discriminator.eval()
        for net, x in ((generator, z), (discriminator, images)):
            changed = (net(x, labels) != net(x, wrong)).any(1)
            assert changed.all() if num_labels else not changed.any()


# --------------------------------------------------------------------------------------- steps
def test_losses_and_gradients_are_the_textbook_ones():
    """Logits whose D(x) are 4/5, 1/2 (real) and 1/4, 3/4 (fake): logarithms taken by hand."""
    log = np.log
    logits = [[log(4.0)], [0.0], [-log(3.0)], [log(3.0)]]
    discriminator, generator = Table(logits), Table(torch.zeros(2, 784).tolist())
    nets = {"generator": generator, "discriminator": discriminator}
    images, labels = batch(2)
    loss = gan.train_discriminator(2, images, labels, optimizer=sgd(discriminator, 0.0), **nets)
    expected = -(log(4 / 5) + log(1 / 2) + log(1 - 1 / 4) + log(1 - 3 / 4)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-6) and not loss.requires_grad
    # of the means, D - target
    gradient = [(4 / 5 - 1) / 2, (1 / 2 - 1) / 2, (1 / 4) / 2, (3 / 4) / 2]
    assert discriminator.values.grad[:, 0].tolist() == pytest.approx(gradient, rel=1e-5)
    loss = gan.train_generator(2, optimizer=sgd(generator, 0.0), **nets)
    assert loss.item() == pytest.approx(-(log(4 / 5) + log(1 / 2)) / 2, rel=1e-6)
    assert not loss.requires_grad


def test_fakes_are_judged_under_the_labels_they_were_made_for():
    images, labels = batch(4)
    generator, discriminator = Table(torch.full((4, 784), 0.5).tolist()), Table([[0.0]] * 8)
    nets = {"generator": generator, "discriminator": discriminator}
    gan.train_discriminator(4, images, labels, optimizer=sgd(discriminator, 0.1), **nets)
    assert torch.equal(discriminator.calls[0][1], torch.cat((labels, generator.calls[0][1])))
    assert torch.equal(discriminator.calls[0][0], torch.cat((images, torch.full((4, 784), 0.5))))
    gan.train_generator(4, optimizer=sgd(generator, 0.1), **nets)
    assert torch.equal(discriminator.calls[1][1], generator.calls[1][1])


@both
def test_a_step_changes_one_net_only(arch):
    images, labels = batch()
    generator, discriminator, adam_g, adam_d = pair(arch, 10)
    before_g, before_d = weights(generator), weights(discriminator)
    nets = {"generator": generator, "discriminator": discriminator}
    gan.train_discriminator(16, images, labels, optimizer=adam_d, r1=1.0, **nets)
    assert equal(dict(generator.named_parameters()), before_g)
    assert all(p.grad is None for p in generator.parameters())
    unmoved = [torch.equal(p, before_d[name]) for name, p in discriminator.named_parameters()]
    assert not any(unmoved)

    before_d = weights(discriminator)
    adam_d.zero_grad()
    gan.train_generator(16, optimizer=adam_g, **nets)
    assert equal(before_d, discriminator.state_dict())
    assert all(p.grad is None and p.requires_grad for p in discriminator.parameters())
    unmoved = [torch.equal(p, before_g[name]) for name, p in generator.named_parameters()]
    assert not any(unmoved)


def test_no_graph_of_the_generator_is_built_for_the_discriminator():
    """Its fakes need no gradient, so the step costs no pass back through G."""
    images, labels = batch(4)
    generator, discriminator = Table(torch.zeros(4, 784).tolist()), Table([[0.0]] * 8)
    gan.train_discriminator(4, images, labels, generator=generator, discriminator=discriminator,
                            optimizer=sgd(discriminator, 0.1))
    assert not discriminator.calls[0][0].requires_grad


def test_r1_of_the_convolutional_discriminator_against_finite_differences():
    discriminator = pair("conv", 10)[1].double()
    images, labels = batch(2)
    images = images.double()
    slopes = torch.zeros(2, 784, dtype=torch.float64)
    with torch.no_grad():
        for pixel in range(784):
            nudge = torch.zeros(1, 784, dtype=torch.float64)
            nudge[0, pixel] = 1e-6
            rise = discriminator(images + nudge, labels) - discriminator(images - nudge, labels)
            slopes[:, pixel] = rise[:, 0] / 2e-6
    assert gan.r1_penalty(discriminator, images, labels).item() == pytest.approx(
        slopes.pow(2).sum(1).mean().item() / 2, rel=1e-4)


def test_the_penalty_is_of_real_images_lowered_and_not_returned(monkeypatch):
    class Linear(nn.Module):  # whose penalty has the gradient r1 W
        def __init__(self):
            super().__init__()
            self.map = nn.Linear(784, 1, bias=False)

        def forward(self, x, labels):
            return self.map(x)

    images, labels = batch(4)
    penalty, steps, losses = gan.r1_penalty, [], []

    def watch(discriminator, penalised, their_labels):
        assert penalised is images and their_labels is labels
        return penalty(discriminator, penalised, their_labels)

    monkeypatch.setattr(gan, "r1_penalty", watch)
    for r1 in (0.0, 3.0):
        torch.manual_seed(0)
        discriminator, generator = Linear(), Table(torch.zeros(4, 784).tolist())
        before = discriminator.map.weight.detach().clone()
        losses.append(gan.train_discriminator(4, images, labels, generator=generator, r1=r1,
                                              discriminator=discriminator,
                                              optimizer=sgd(discriminator, 1.0)))
        steps.append(discriminator.map.weight.detach() - before)
    assert losses[0] == losses[1]
    torch.testing.assert_close(steps[1] - steps[0], -3.0 * before, rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------------- training
def test_rates_and_penalties_over_a_run(monkeypatch, parse):
    args = parse("--epochs", 2, "--batch-size", 10, "--lr-g", 0.4, "--lr-d", 0.2, "--r1", 0.5)
    seen = {"g": [], "d": []}

    def watch(who):
        def step(batch_size, *_, optimizer, r1=None, **__):
            seen[who].append((optimizer.param_groups[0]["lr"], r1, batch_size))
            return torch.zeros(())
        return step

    monkeypatch.setattr(gan, "train_discriminator", watch("d"))
    monkeypatch.setattr(gan, "train_generator", watch("g"))
    nets = gan.build(args, torch.device("cpu"))
    for epoch in (1, 2):
        gan.train(nets, *batch(100), args, epoch, iterations=20)
    falling = [1] * 14 + [(1 - step / 20) / 0.3 for step in range(14, 20)]
    for who, rate in (("d", 0.2), ("g", 0.4)):
        assert [lr for lr, *_ in seen[who]] == pytest.approx([rate * share for share in falling])
    penalties = [r1 for _, r1, _ in seen["d"]]
    assert penalties == ([4.0] + [0] * 7 + [4.0, 0]) * 2
    assert {size for *_, size in seen["g"] + seen["d"]} == {10}


@pytest.mark.parametrize("flags, expected", [
    ("--epochs 1", (5, 5)), ("--epochs 2 --g-steps 2", (20, 10)),
    ("--epochs 1 --d-steps 2", (3, 5)), ("--g-updates 7", (7, 7)),
    ("--g-updates 7 --g-steps 2", (8, 4)), ("--g-updates 4 --d-steps 2", (4, 7)),
    ("--epochs 1 --batch-size 600 --g-steps 3", (3, 1))])
def test_counts_of_updates(folders, tmp_path, monkeypatch, call, flags, expected):
    """300 images are five batches of 64; the last one is short."""
    monkeypatch.setattr(gan, "train_generator", lambda *_, **__: torch.zeros(()))
    monkeypatch.setattr(gan, "train_discriminator", lambda *_, **__: torch.zeros(()))
    monkeypatch.setattr(gan, "report", lambda *arguments: {
        name: curve[-1] for name, curve in arguments[4]["curves"].items()})
    call(gan, "--arch", "mlp", *flags.split(), *folders)
    record, = (tmp_path / "plots").iterdir()
    numbers = json.loads(record.read_text())["numbers"]
    assert (numbers["g_updates"], numbers["d_updates"]) == expected


def test_an_epoch_shows_every_image_once_with_its_label_and_dropout_on(monkeypatch, parse):
    orders, args = [], parse("--arch", "mlp", "--batch-size", 8)
    nets, labels = gan.build(args, torch.device("cpu")), torch.arange(20)
    images = labels[:, None].float().expand(20, 784)  # every pixel tells which image it is

    def watch(count, images, labels, *, generator, discriminator, **_):
        assert torch.equal(images[:, 0], labels.float()) and count == len(images)
        assert generator.training and discriminator.training
        orders[-1].extend(labels.tolist())
        return torch.zeros(())

    monkeypatch.setattr(gan, "train_discriminator", watch)
    for epoch in (1, 2, 1):
        gan.test(nets, images, labels % 10, args)  # which turns dropout off
        orders.append([])
        gan.train(nets, images, labels, args, epoch, iterations=72)
        assert sorted(orders[-1]) == list(range(20))
    assert orders[0] == orders[2] != orders[1]


def test_average_is_the_moving_mean_and_off_at_zero(parse):
    generator = nn.Linear(1, 1)
    for ema in (0.0, 0.9):
        average = gan.build(parse("--ema", ema, "--arch", "mlp"), torch.device("cpu")).average
        average.module, expected = copy.deepcopy(generator), None
        for value in (1.0, 2.0, 3.0):
            nn.init.constant_(generator.weight, value)
            average.update_parameters(generator)
            expected = value if expected is None else ema * expected + (1 - ema) * value
        assert average.module.weight.item() == pytest.approx(expected)


def test_optimisers_and_average_are_those_of_the_flags(parse):
    args = parse("--lr-g", 0.1, "--lr-d", 0.2, "--beta1", 0.3, "--g-steps", 2, "--batch-size", 8)
    nets = gan.build(args, torch.device("cpu"))
    for optimizer, lr in ((nets.optimizer_g, 0.1), (nets.optimizer_d, 0.2)):
        assert optimizer.defaults["lr"] == lr and optimizer.defaults["betas"] == (0.3, 0.99)
    gan.train(nets, *batch(20), args, 1, iterations=10)
    assert nets.average.n_averaged == 3 * 2 and nets.average.use_buffers


def test_verdicts_on_test_images_and_on_fakes_of_the_average(parse):
    """By nets that show what they are told: D(x) from the first pixel and the label."""
    class Generator(nn.Module):
        def forward(self, z, labels):
            return torch.stack((torch.full((len(z),), -2.0), labels), 1)

    class Discriminator(nn.Module):
        def forward(self, x, labels):
            assert not self.training
            matched = (x[:, 1] == labels).float()  # 1 where fakes are told their own label
            return (x[:, 0] * matched)[:, None]

    nets = SimpleNamespace(average=Generator(), discriminator=Discriminator())
    labels = torch.arange(30) % 10
    images = torch.stack((torch.full((30,), 3.0), labels), 1)
    found = gan.test(nets, images, labels, parse())
    expected = {"d_real": 1 / (1 + math.exp(-3)), "d_fake": 1 / (1 + math.exp(2))}
    assert found == pytest.approx(expected, rel=1e-5)


@both
@pytest.mark.parametrize("conditional", [[], ["--conditional"]])
def test_every_tensor_is_on_the_device(monkeypatch, parse, meta, arch, conditional):
    args = parse("--arch", arch, *conditional)
    adam = torch.optim.Adam  # whose fused form knows no meta device
    monkeypatch.setattr(torch.optim, "Adam", lambda *given, fused: adam(*given))
    nets = gan.build(args, meta)
    images = torch.empty(100, 784, device=meta)
    labels = torch.zeros(100, dtype=torch.long, device=meta)
    numbers = gan.train(nets, images, labels, args, 1, iterations=100)
    assert (numbers | gan.test(nets, images, labels, args))["g_updates"] == 2
    for grid in (*gan.grids(nets.average, args, meta).values(),
                 gan.paths(nets.average, args, meta), gan.sample(nets.average, args, meta)[0]):
        assert grid.device == meta


# ------------------------------------------------------------------------------------- results
def test_verdicts_are_means_over_right_and_over_wrong_labels():
    class Knows(nn.Module):  # the class from the first pixel
        def forward(self, x, labels):
            return torch.where(x[:, 0] == labels, x[:, 1], -labels.float())[:, None]

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    images = torch.tensor([[2, 0.5], [2, 1.5], [0, 3.0]])
    found = gan.verdicts(Knows(), images, torch.tensor([2, 2, 0]))
    wrong = [sigmoid(-claim) for label in (2, 2, 0) for claim in range(10) if claim != label]
    assert found == pytest.approx({"d_right": (sigmoid(0.5) + sigmoid(1.5) + sigmoid(3)) / 3,
                                   "d_wrong": sum(wrong) / 27}, rel=1e-6)


def test_ways_between_two_noises(parse):
    """By a generator that shows its noise: same ends, and halfway the closed forms of both."""
    class ShowsItsNoise(nn.Module):
        def forward(self, z, labels):
            return torch.cat((z, labels[:, None].float(), torch.zeros(len(z), 683)), 1)

    line, arc = gan.paths(ShowsItsNoise(), parse("--conditional"), torch.device("cpu"), steps=5)
    assert torch.equal(line[:10, :, 100], torch.arange(10.0)[:, None].expand(10, 5))
    start, end = line[:, 0, :100].double(), line[:, 4, :100].double()
    torch.testing.assert_close(arc[:, [0, 4]], line[:, [0, 4]], rtol=0, atol=1e-5)
    torch.testing.assert_close(line[:, 2, :100].double(), (start + end) / 2, rtol=0, atol=1e-6)
    half = nn.functional.cosine_similarity(start, end).acos() / 2
    expected = (start + end) / (2 * half.cos())[:, None]
    torch.testing.assert_close(arc[:, 2, :100].double(), expected, rtol=0, atol=1e-5)


def test_a_conditional_run(folders, tmp_path, monkeypatch, call, fails):
    flags = ["--conditional", "--epochs", 2, "--batch-size", 100, *folders]
    name = "cgan_fashion_epochs2_batch-size100"
    train = gan.train

    def checked(nets, images, *others):
        assert images.shape == (300, 784)
        assert (images.min(), images.max()) == (-1, 1)  # the range of Tanh
        return train(nets, images, *others)

    monkeypatch.setattr(gan, "train", checked)
    monkeypatch.setattr(gan, "SAMPLES", 200)
    monkeypatch.setattr(gan, "PATHS", 20)
    call(gan, *flags)
    plots, runs = tmp_path / "plots", tmp_path / "runs"
    assert len(list((runs / name).glob("samples_00[12].png"))) == 2
    ends = (".json", "_samples.pdf", "_same_noise.pdf", "_interpolations.pdf", "_weights.pt")
    assert {path.name for path in plots.iterdir()} == {f"{name}{end}" for end in ends}
    record = json.loads((plots / f"{name}.json").read_text())
    assert set(record["numbers"]) == {"d_right", "d_wrong", "d_real", "d_fake", "g_loss", "d_loss",
                                      "g_updates", "d_updates"}
    samples = np.load(runs / f"{name}_samples.npz")
    assert samples["images"].shape == (200, 28, 28) and samples["images"].dtype == np.uint8
    assert samples["paths"].shape == (2, 20, 9, 28, 28)
    assert np.array_equal(samples["labels"], np.arange(200) % 10)

    # samples and grids are of the average
    nets = gan.build(gan.parse_args(), torch.device("cpu"))
    state = torch.load(runs / f"{name}.pt", weights_only=True)
    nets.average.load_state_dict(state["average"])
    torch.manual_seed(1)
    z, _ = gan.draw_noise(200, "cpu")
    expected = gan.as_bytes(gan.evaluate(nets.average, z, torch.arange(200) % 10))
    assert np.array_equal(samples["images"], expected)
    grid = gan.grids(nets.average, gan.parse_args(), "cpu")["samples"]
    gan.save_tiles(tmp_path / "last.png", grid / 2 + 0.5)
    assert (tmp_path / "last.png").read_bytes() == (runs / name / "samples_002.png").read_bytes()

    # --draw shows what the run's own generator makes of the same noise, up to halves
    monkeypatch.setattr(torch, "seed", lambda: torch.manual_seed(7))
    call(gan, *flags, "--draw", "Sneaker", "bag", "t-shirt")
    torch.manual_seed(7)
    z, _ = gan.draw_noise(24, "cpu")
    images = gan.evaluate(nets.average, z, torch.tensor([7, 8, 0]).repeat_interleave(8)) / 2 + 0.5
    tiles = torchvision.utils.make_grid(images.view(-1, 1, 28, 28), pad_value=0.5)[0].numpy()
    drawn = np.array(Image.open(runs / f"{name}_drawn.png"))[:, :, 0]
    assert np.abs(drawn / 255.0 - tiles).max() < 0.02
    monkeypatch.setattr(gan, "train_generator", lambda *_, **__: torch.tensor(math.nan))
    assert "epoch 1 diverged: give smaller --lr-g and --lr-d" in fails(gan, *folders)


def test_a_run_of_the_handed_out_nets(folders, tmp_path, command):
    name = "gan_mlp_mnist_epochs1_beta1-0.05"
    done = command(gan.__file__, "--arch", "mlp", "--epochs", 1, "--dataset", "mnist",
                   "--beta1", "0.05", *folders)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    samples = np.load(tmp_path / f"runs/{name}_samples.npz")
    assert samples["images"].shape == (10_000, 28, 28)
    assert set(samples) == {"images", "paths", "train_images"}
    settings = json.loads((tmp_path / f"plots/{name}.json").read_text())["settings"]
    assert (settings["lr_g"], settings["lr_d"], settings["batch_size"]) == (2e-4, 2e-4, 64)
    assert settings["ema"] == settings["r1"] == settings["decay"] == 0
