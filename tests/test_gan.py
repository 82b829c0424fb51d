"""gan.py: the two steps against the textbook, what labels reach, and whole runs on glyphs."""
import copy
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import gan

both = pytest.mark.parametrize("arch", ["mlp", "conv"])


NETS = {"mlp": (gan.Generator, gan.Discriminator),
        "conv": (gan.ConvGenerator, gan.ConvDiscriminator)}


def pair(arch, num_labels=None, lr=1e-3):
    """Generator, discriminator and an optimiser for each, the same on every call."""
    torch.manual_seed(0)
    generator, discriminator = NETS[arch]
    nets = generator(gan.NOISE, gan.PIXELS, num_labels), discriminator(gan.PIXELS, 1, num_labels)
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


def step_both(arch, num_labels, labels, images):
    """Weights of both nets after one step of each."""
    generator, discriminator, adam_g, adam_d = pair(arch, num_labels)
    torch.manual_seed(2)
    nets = {"generator": generator, "discriminator": discriminator}
    gan.train_discriminator(len(images), images, labels, optimizer=adam_d, **nets)
    gan.train_generator(len(images), optimizer=adam_g, **nets)
    return weights(generator), weights(discriminator)


class Table(nn.Module):
    """A stand-in for a net: returns the same rows whatever comes in, and remembers what came in."""

    def __init__(self, values):
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values))
        self.calls = []

    def forward(self, x, labels=None):
        self.calls.append((x, labels))
        return self.values[:len(x)] + 0 * x.sum(1, keepdim=True)


class Verdicts(Table):
    """A stand-in for a discriminator with class logits: a row is a logit, then the classes'."""

    def forward(self, x, labels=None):
        return self.scores(x, labels)[0]

    def scores(self, x, labels=None):
        return super().forward(x, labels).tensor_split((1,), 1)


def test_handed_out_nets_have_their_sizes():
    generator, discriminator = gan.Generator(100, 784, None), gan.Discriminator(784)
    shapes = [[tuple(layer.weight.shape) for layer in net.layers if isinstance(layer, nn.Linear)]
              for net in (generator, discriminator)]
    assert shapes == [[(256, 100), (512, 256), (1024, 512), (784, 1024)],
                      [(1024, 784), (512, 1024), (256, 512), (1, 256)]]
    assert sum(p.numel() for p in generator.parameters()) == 1_486_352
    assert sum(p.numel() for p in discriminator.parameters()) == 1_460_225
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
    assert generator.eval()(z[:1], labels[:1]).shape == (1, 784)


@both
def test_without_labels_they_change_nothing(arch):
    images, labels = batch()
    for one, other in zip(step_both(arch, None, labels, images),
                          step_both(arch, None, labels.flip(0), images)):
        assert equal(one, other)


@both
def test_with_labels_they_reach_both_nets(arch):
    images, labels = batch()
    for one, other in zip(step_both(arch, 10, labels, images),
                          step_both(arch, 10, labels.flip(0), images)):
        assert not equal(one, other)
    generator, discriminator, *_ = pair(arch, 10)
    generator.eval(), discriminator.eval()
    wrong = (labels + 1) % 10
    assert ((discriminator(images, labels) - discriminator(images, wrong)).abs() > 1e-6).all()
    z = torch.randn(len(labels), gan.NOISE)
    assert ((generator(z, labels) - generator(z, wrong)).abs().amax(1) > 1e-6).all()


def test_fakes_are_judged_under_the_labels_they_were_made_for():
    images, labels = batch(4)
    generator, discriminator = Table(torch.full((4, 784), 0.5).tolist()), Table([[0.0]] * 8)
    nets = {"generator": generator, "discriminator": discriminator}
    gan.train_discriminator(4, images, labels, optimizer=sgd(discriminator, 0.1), **nets)
    assert torch.equal(discriminator.calls[0][1], torch.cat((labels, generator.calls[0][1])))
    assert torch.equal(discriminator.calls[0][0], torch.cat((images, torch.full((4, 784), 0.5))))
    gan.train_generator(4, optimizer=sgd(generator, 0.1), **nets)
    assert torch.equal(discriminator.calls[1][1], generator.calls[1][1])


@pytest.mark.parametrize("real", [1.0, 0.9])
def test_losses_are_the_textbook_ones(real):
    """Logits whose D(x) are 4/5, 1/2 (real) and 1/4, 3/4 (fake): logarithms taken by hand."""
    log = np.log
    logits = [[log(4.0)], [0.0], [-log(3.0)], [log(3.0)]]
    discriminator, generator = Table(logits), Table(torch.zeros(2, 784).tolist())
    nets = {"generator": generator, "discriminator": discriminator}
    images, labels = batch(2)
    loss = gan.train_discriminator(2, images, labels, optimizer=sgd(discriminator, 0.0),
                                   real_target=real, **nets)
    on_real = -(real * log(4 / 5) + (1 - real) * log(1 / 5) + log(1 / 2)) / 2
    on_fake = -(log(1 - 1 / 4) + log(1 - 3 / 4)) / 2
    assert loss.item() == pytest.approx(on_real + on_fake, rel=1e-6) and not loss.requires_grad
    # of the means, D - target
    gradient = [(4 / 5 - real) / 2, (1 / 2 - real) / 2, (1 / 4) / 2, (3 / 4) / 2]
    assert discriminator.values.grad[:, 0].tolist() == pytest.approx(gradient, rel=1e-5)
    loss = gan.train_generator(2, optimizer=sgd(generator, 0.0), **nets)
    assert loss.item() == pytest.approx(-(log(4 / 5) + log(1 / 2)) / 2, rel=1e-6)
    assert not loss.requires_grad


def test_scores_are_the_logit_under_each_label():
    images, labels = batch()
    discriminator = pair("conv", 10)[1]
    logits, classes = discriminator.scores(images, labels)
    shared = logits - classes.gather(1, labels[:, None])  # to which the projection adds the class'
    assert classes.shape == (16, 10) and torch.equal(logits, discriminator(images, labels))
    for k in range(10):
        under_k = discriminator(images, torch.full_like(labels, k))
        assert torch.allclose(under_k, shared + classes[:, k:k + 1], atol=1e-6)
    assert pair("conv")[1].scores(images, labels)[1].shape == (16, 0)


def test_classifier_adds_the_cross_entropy_of_real_images_for_d_and_of_fakes_for_g():
    images, labels = batch(2)  # labels 0 and 1
    # two real images, two fakes
    rows = [[0.0] + [float(k == c) for k in range(10)] for c in (0, 3, 5, 7)]
    sure, even = np.e / (np.e + 9), 1 / (np.e + 9)  # softmax of a logit of 1 among nine of 0
    steps = {}
    for weight in (0.0, 0.5):
        discriminator, generator = Verdicts(rows), Table(torch.zeros(2, 784).tolist())
        steps[weight] = gan.train_discriminator(
            2, images, labels, generator=generator, discriminator=discriminator,
            optimizer=sgd(discriminator, 0.0), classifier=weight)
        gradient = discriminator.values.grad
        expected = torch.zeros(4, 10)
        for row, told, label in ((0, 0, 0), (1, 3, 1)):
            expected[row] = weight / 2 * even
            expected[row, told] = weight / 2 * sure
            expected[row, label] -= weight / 2
        assert torch.allclose(gradient[:, 1:], expected, atol=1e-6)
        assert gradient[:, 0].tolist() == pytest.approx([-0.25, -0.25, 0.25, 0.25])
        torch.manual_seed(3)
        generator = Table(torch.zeros(2, 784).tolist())
        steps["g", weight] = gan.train_generator(
            2, generator=generator, discriminator=discriminator, optimizer=sgd(generator, 0.0),
            classifier=weight)
    # what is returned is the GAN's loss
    assert steps[0.0] == steps[0.5] and steps["g", 0.0] == steps["g", 0.5]


def test_classifier_pulls_the_generator_to_images_of_the_label():
    class Linear(nn.Module):
        def scores(self, x, labels):  # no verdict; the class logits are the first ten pixels
            return 0 * x[:, :1], x[:, :10]

    generator, labels = Table(torch.zeros(4, 784).tolist()), torch.tensor((0, 1, 1, 9))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gan, "draw_noise", lambda *_: (torch.zeros(4, 784), labels))
        gan.train_generator(4, generator=generator, discriminator=Linear(),
                            optimizer=sgd(generator, 1.0), classifier=2.0)
    step = torch.full((4, 10), -0.1) + nn.functional.one_hot(labels, 10)
    assert torch.allclose(generator.values[:, :10], 2.0 / 4 * step, atol=1e-6)
    assert not generator.values[:, 10:].any()


@both
def test_a_step_changes_one_net_only(arch):
    images, labels = batch()
    generator, discriminator, adam_g, adam_d = pair(arch, 10)
    before_g, before_d = weights(generator), weights(discriminator)
    nets = {"generator": generator, "discriminator": discriminator,
            "classifier": 1.0 if arch == "conv" else 0.0}
    gan.train_discriminator(16, images, labels, optimizer=adam_d, r1=1.0, **nets)
    assert equal(dict(generator.named_parameters()), before_g)
    moved = {name for name, tensor in generator.state_dict().items()
             if not torch.equal(tensor, before_g[name])}
    assert all("running_" in name or "num_batches" in name for name in moved)
    assert all(p.grad is None for p in generator.parameters())
    unmoved = [torch.equal(p, before_d[name]) for name, p in discriminator.named_parameters()]
    assert not any(unmoved)

    before_d = weights(discriminator)
    adam_d.zero_grad()
    gan.train_generator(16, optimizer=adam_g, **nets)
    assert equal(before_d, discriminator.state_dict())
    assert all(p.grad is None and p.requires_grad for p in discriminator.parameters())
    changed = [not torch.equal(p, before_g[name]) for name, p in generator.named_parameters()]
    assert all(changed)


def test_dropout_stays_on_in_both_steps():
    images, labels = batch()
    generator, discriminator, adam_g, adam_d = pair("mlp", lr=0.0)
    nets = {"generator": generator, "discriminator": discriminator}
    losses = []
    for seed_of_dropout in (0, 1):
        torch.manual_seed(3)
        noise = [gan.draw_noise(16, "cpu") for _ in range(2)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gan, "draw_noise", lambda *_: noise.pop())  # noqa: B023
            torch.manual_seed(seed_of_dropout)
            losses.append((gan.train_discriminator(16, images, labels, optimizer=adam_d, **nets),
                           gan.train_generator(16, optimizer=adam_g, **nets)))
    assert losses[0][0] != losses[1][0] and losses[0][1] != losses[1][1]


def test_r1_of_a_linear_discriminator_is_half_its_squared_weight():
    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = nn.Linear(784, 1)

        def forward(self, x, labels):
            return self.map(x) * (1 + labels[:, None])

    torch.manual_seed(0)
    discriminator, (images, labels) = Linear(), batch(4)
    squared = discriminator.map.weight.pow(2).sum()
    penalty = gan.r1_penalty(discriminator, images, labels)
    # the logit's gradient at an image is (1 + label) times the weight
    scale = (1 + labels.float()).pow(2).mean()
    assert penalty.item() == pytest.approx((squared * scale / 2).item(), rel=1e-5)
    penalty.backward()
    weight = discriminator.map.weight
    assert torch.allclose(weight.grad, scale * weight, rtol=1e-4)


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


BAR = gan.tqdm(disable=True)


def settings(*flags):
    return gan.parse_args(["--no-cuda", *flags])


def test_rates_fall_at_the_end_of_the_run(monkeypatch):
    args = settings("--epochs", "2", "--batch-size", "100", "--lr-g", "0.4", "--lr-d", "0.2")
    images = torch.zeros(300, 784)
    rates = []

    def note(*_, optimizer, **__):
        rates.append(optimizer.param_groups[0]["lr"])
        return torch.zeros(())

    monkeypatch.setattr(gan, "train_discriminator", note)
    monkeypatch.setattr(gan, "train_generator", note)
    nets = gan.build(args, torch.device("cpu"))
    for epoch in (1, 2):
        gan.train(nets, images, torch.zeros(300).long(), args, epoch=epoch, iterations=6, bar=BAR)
    assert rates[::2] == pytest.approx([0.2] * 5 + [0.2 / 6 / 0.3])
    assert rates[1::2] == pytest.approx([2 * rate for rate in rates[::2]])
    rates.clear()
    args.schedule = "constant"
    gan.train(nets, images, torch.zeros(300).long(), args, epoch=2, iterations=6, bar=BAR)
    assert rates == [0.2, 0.4] * 3


def test_average_is_the_moving_mean_and_off_at_zero():
    generator = nn.Linear(1, 1)
    for ema in (0.0, 0.9):
        args = settings("--ema", str(ema), "--arch", "mlp")
        average = gan.build(args, torch.device("cpu")).average
        average.module, expected = copy.deepcopy(generator), None
        for value in (1.0, 2.0, 3.0):
            nn.init.constant_(generator.weight, value)
            average.update_parameters(generator)
            expected = value if expected is None else ema * expected + (1 - ema) * value
        assert average.module.weight.item() == pytest.approx(expected)


def test_evaluated_average_is_as_good_as_in_training_mode(glyph_dir):
    """BatchNorm with averaged statistics gives the images that those of a large batch give."""
    args = settings("--conditional", "--epochs", "12", "--batch-size", "64", "--ema", "0.9",
                    "--lr-g", "3e-4", "--lr-d", "3e-4")  # they fall: at the end nothing moves
    images, labels, *_ = gan.load_dataset("mnist", glyph_dir)
    images, labels = images.view(-1, 784).float() / 127.5 - 1, labels.long()
    torch.manual_seed(0)
    nets = gan.build(args, torch.device("cpu"))
    for epoch in range(1, args.epochs + 1):
        gan.train(nets, images, labels, args, epoch=epoch, iterations=args.epochs * 5, bar=BAR)
    z, labels = gan.draw_noise(500, "cpu")
    evaluated = gan.evaluate(nets.average, z, labels)
    with torch.no_grad():
        trained = copy.deepcopy(nets.average).train()(z, labels)
    assert trained.std() > 0.2  # it does draw something
    assert (evaluated - trained).abs().mean() < 0.05 * trained.std()
    assert evaluated.mean().item() == pytest.approx(trained.mean().item(), abs=0.02)


@pytest.mark.parametrize("flags, expected", [
    ("--epochs 1", (5, 5)), ("--epochs 1 --g-steps 2", (10, 5)), ("--epochs 1 --d-steps 2", (3, 5)),
    ("--updates 7", (4, 4)), ("--epochs 1 --batch-size 600 --g-steps 3", (3, 1))])
def test_counts_of_updates(tmp_path, monkeypatch, flags, expected):
    monkeypatch.setattr(gan, "train_generator", lambda *_, **__: torch.zeros(()))
    monkeypatch.setattr(gan, "train_discriminator", lambda *_, **__: torch.zeros(()))
    args = settings("--arch", "mlp", *flags.split(), "--runs-dir", str(tmp_path))
    images, labels = batch(300)
    device = torch.device("cpu")
    state = gan.open_run(args, "of no file", device) | {"first": None, "precision": "float32"}
    data = images, labels, images[:20], labels[:20]
    gan.fit(gan.build(args, device), data, state, args, device)
    curves = state["curves"]
    assert (sum(curves["g_updates"]), sum(curves["d_updates"])) == expected
    assert state["finished"]


def test_rates_penalties_and_targets_reach_the_steps(monkeypatch):
    seen = {"d": [], "g": []}

    def watch(who):
        def step(batch_size, *_, optimizer, generator, discriminator, **switches):
            rate = optimizer.param_groups[0]["lr"]
            seen[who].append({"lr": rate, "batch": batch_size, **switches})
            return torch.zeros(())
        return step

    monkeypatch.setattr(gan, "train_discriminator", watch("d"))
    monkeypatch.setattr(gan, "train_generator", watch("g"))
    args = settings("--conditional", "--lr-d", "0.1", "--lr-g", "0.2", "--r1", "0.5",
                    "--label-smoothing", "0.9", "--batch-size", "10", "--epochs", "1",
                    "--classifier", "0.3", "--schedule", "constant")
    nets = gan.build(args, torch.device("cpu"))
    for precision in ("float32", "bfloat16"):
        gan.train(nets, *batch(100), args, epoch=1, iterations=10, bar=BAR, precision=precision)
        both = {"batch": 10, "classifier": 0.3, "bfloat16": precision == "bfloat16",
                "num_labels": 10}
        assert seen["g"] == [{"lr": 0.2, **both}] * 10
        penalties = [step.pop("r1") for step in seen["d"]]
        assert penalties == [4.0] + [0] * 7 + [4.0, 0]
        assert seen["d"] == [{"lr": 0.1, "real_target": 0.9, **both}] * 10
        seen["d"].clear()
        seen["g"].clear()


def test_an_epoch_shows_every_image_once_with_its_label_and_dropout_on(monkeypatch):
    orders, args = [], settings("--arch", "mlp", "--batch-size", "8")
    nets, labels = gan.build(args, torch.device("cpu")), torch.arange(20)
    images = labels[:, None].float().expand(20, 784)  # every pixel tells which image it is

    def watch(count, images, labels, *, generator, discriminator, **_):
        assert torch.equal(images[:, 0], labels.float()) and count == len(images)
        assert generator.training and discriminator.training
        orders[-1].extend(labels.tolist())
        return torch.zeros(())

    monkeypatch.setattr(gan, "train_discriminator", watch)
    for epoch in (1, 2, 1):
        gan.test(nets, images, labels, args)  # which turns dropout off
        orders.append([])
        gan.train(nets, images, labels, args, epoch=epoch, iterations=72, bar=BAR)
        assert sorted(orders[-1]) == list(range(20))
    assert orders[0] == orders[2] != orders[1]


def test_defaults_of_both_architectures():
    conv, mlp = settings("--conditional"), settings("--arch", "mlp", "--dataset", "mnist")
    assert (conv.run_name, mlp.run_name) == ("cgan_fashion", "gan_mlp_mnist")
    assert (mlp.epochs, mlp.batch_size, mlp.beta1) == (24, 64, 0.9)
    assert mlp.lr_g == mlp.lr_d == 2e-4
    assert (mlp.ema, mlp.r1, mlp.classifier, mlp.label_smoothing) == (0, 0, 0, 1)
    assert conv.classifier == conv.clusters == 0  # labels alone make the Conditional GAN
    assert settings("--arch", "mlp", "--lr-g", "0.5").lr_g == 0.5


def test_verdicts_are_means_over_right_and_over_wrong_labels():
    class Discriminator(nn.Module):
        def forward(self, x, labels):  # knows the class from the first pixel
            logit = torch.where(x[:, 0] == labels, x[:, 1], -labels.float())
            return logit[:, None]

    images = torch.tensor([[2, 0.5], [2, 1.5], [0, 3.0]])
    found = gan.verdicts(Discriminator(), images, torch.tensor([2, 2, 0]))

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    wrong = {label: sum(sigmoid(-claim) for claim in range(10) if claim != label) / 9
             for label in (0, 2)}
    expected = {"d_right_0": sigmoid(3), "d_wrong_0": wrong[0], "d_wrong_2": wrong[2],
                "d_right_2": (sigmoid(0.5) + sigmoid(1.5)) / 2}
    assert found == pytest.approx(expected, rel=1e-6)


def test_ways_between_two_noises():
    """By a generator that shows its noise: same ends, and halfway the closed forms of both."""
    class Identity(nn.Module):
        def forward(self, z, labels):
            return torch.cat((z, labels[:, None]), 1)

    args, device = settings("--conditional"), torch.device("cpu")
    ways = gan.interpolations(Identity(), args, device, steps=5)
    line, arc = (way.view(10, 5, 101) for way in ways.values())
    assert list(ways) == ["straight line", "arc"]
    assert torch.equal(line[:, :, 100], torch.arange(10.0)[:, None].expand(10, 5))
    start, end = line[:, 0, :100].double(), line[:, 4, :100].double()
    torch.testing.assert_close(arc[:, [0, 4]], line[:, [0, 4]], rtol=0, atol=1e-5)
    torch.testing.assert_close(line[:, 2, :100].double(), (start + end) / 2, rtol=0, atol=1e-6)
    half = nn.functional.cosine_similarity(start, end).acos() / 2
    expected = (start + end) / (2 * half.cos())[:, None]
    torch.testing.assert_close(arc[:, 2, :100].double(), expected, rtol=0, atol=1e-5)
    state = torch.get_rng_state()
    gan.interpolations(Identity(), args, device)
    assert torch.equal(torch.get_rng_state(), state)


def few_samples(monkeypatch):
    """60 000 samples take long, and show nothing that 200 do not."""
    real = gan.draw_noise
    monkeypatch.setattr(gan, "PATHS", 10)
    monkeypatch.setattr(gan, "draw_noise",
                        lambda count, *others: real(min(count, 200), *others))


def test_a_conditional_run(folders, tmp_path, monkeypatch, fails):
    few_samples(monkeypatch)
    train = gan.train

    def checked(nets, images, labels, args, *, epoch, **others):
        if len(images) == 300:  # no fingerprint
            assert images.shape == (300, 784)
            assert (images.min(), images.max()) == (-1, 1)  # the range of Tanh
        return train(nets, images, labels, args, epoch=epoch, **others)

    monkeypatch.setattr(gan, "train", checked)
    flags = ["--conditional", "--no-cuda", "--epochs", "2", "--batch-size", "100", *folders]
    name = "cgan_fashion_epochs2_batch-size100"
    gan.main(flags)
    grids = [path.name for path in sorted((tmp_path / "runs" / name).iterdir())]
    assert grids == [f"samples_00{epoch}.png" for epoch in (1, 2)]
    written = {path.name for path in (tmp_path / "plots").iterdir()}
    ends = (".json", "_samples.pdf", "_same_noise.pdf", "_interpolations.pdf", "_weights.pt")
    assert written == {f"{name}{end}" for end in ends}
    record = json.loads((tmp_path / f"plots/{name}.json").read_text())
    judged = {f"d_{said}_{label}" for said in ("right", "wrong") for label in range(10)}
    assert set(record["numbers"]) == judged | {
        "d_real", "d_fake", "g_loss", "d_loss", "g_updates", "d_updates"}
    samples = np.load(tmp_path / f"runs/{name}_samples.npz")
    assert samples["images"].shape == (200, 28, 28) and samples["images"].dtype == np.uint8
    assert (np.bincount(samples["labels"]) == 20).all()
    assert set(samples["labels"][:10].tolist()) == set(range(10))  # of the first ones as well
    see_the_run_drawn(flags, name, tmp_path, monkeypatch, fails)
    monkeypatch.setattr(gan, "fingerprint", lambda args: [])
    monkeypatch.setattr(gan, "train_generator", lambda *_, **__: torch.tensor(float("nan")))
    line = fails(gan, folders, 1)
    assert "epoch 1 diverged" in line and "smaller --lr-g and --lr-d" in line


def see_the_run_drawn(flags, name, tmp_path, monkeypatch, fails):
    """--draw shows what the run's own generator makes of the same noise, up to halves."""
    monkeypatch.setattr(torch, "seed", lambda: torch.manual_seed(7))
    gan.main([*flags, "--draw", "Sneaker", "bag", "t-shirt"])
    state = torch.load(tmp_path / f"runs/{name}.pt", weights_only=True)
    nets = gan.build(gan.parse_args(flags), torch.device("cpu"))
    nets.average.load_state_dict(state["average"])
    torch.manual_seed(7)
    z, _ = gan.draw_noise(24, "cpu")
    images = gan.evaluate(nets.average, z, torch.tensor([7, 8, 0]).repeat_interleave(8))
    drawn = np.array(Image.open(tmp_path / f"runs/{name}_drawn.png"))[:, :, 0]
    assert drawn.shape == (3 * 92, 3 * 242)
    for row in range(3):
        for column in range(8):
            top, left = 3 * (2 + 30 * row), 3 * (2 + 30 * column)
            tile = drawn[top:top + 84:3, left:left + 84:3].astype(float) / 127.5 - 1
            expected = images[8 * row + column].view(28, 28).numpy()
            assert np.abs(tile - expected).max() < 0.03
    kept = torch.load(tmp_path / f"plots/{name}_weights.pt", weights_only=True)
    assert {tensor.dtype for key, tensor in kept["state"].items()
            if key.endswith(("weight", "bias"))} == {torch.float16}
    assert "is missing: run the same command" in fails(gan, [*flags, "--seed", "3", "--draw"], 1)
    others = [*flags, "--seed", "3", "--run-name", name, "--draw"]
    assert "of other settings" in fails(gan, others, 1)
    assert "classes are T-shirt/top, Trouser" in fails(gan, [*flags, "--draw", "hat"], 2)


def test_clusters_are_those_of_their_centres():
    torch.manual_seed(0)
    blobs = torch.arange(12)[:, None] * 10.0 + torch.rand(12, 40)  # twelve, well apart
    images = blobs.flatten()[torch.randperm(480)][:, None].expand(480, 784)
    nearest, centres = gan.find_clusters(images, 12, seed=4)
    for cluster in range(12):
        members = images[nearest == cluster]
        torch.testing.assert_close(centres[cluster], members.mean(0))
    distances = (images[:, None, 0] - centres[None, :, 0]).abs()
    assert torch.equal(nearest, distances.argmin(1))
    assert torch.equal(gan.find_clusters(images, 12, seed=4)[0], nearest)


def test_a_run_with_clusters_in_place_of_labels(folders, tmp_path, monkeypatch):
    """Both nets are told clusters; samples are drawn by their frequency and carry no labels."""
    seen = []
    train = gan.train

    def watch(nets, images, labels, args, **others):
        if len(images) == 300:
            seen.append(labels)
            expected, _ = gan.find_clusters(images, 12, args.seed)
            assert torch.equal(labels, expected)
        return train(nets, images, labels, args, **others)

    evaluate = gan.evaluate

    def told(net, x, labels):
        seen.append(labels)
        return evaluate(net, x, labels)

    few_samples(monkeypatch)
    monkeypatch.setattr(gan, "train", watch)
    monkeypatch.setattr(gan, "evaluate", told)
    flags = ["--conditional", "--clusters", "12", "--no-cuda", "--epochs", "1", *folders]
    gan.main(flags)
    samples = np.load(tmp_path / "runs/cgan_fashion_epochs1_clusters12_samples.npz")
    assert set(samples) == {"images", "paths"} and len(samples["images"]) == 200
    labels, drawn = seen[0], next(told for told in seen[1:] if len(told) == 200)
    absent = set(range(12)) - set(labels.tolist())
    assert not absent & set(drawn.tolist()) and len(set(drawn.tolist())) > 5
    record = json.loads((tmp_path / "plots/cgan_fashion_epochs1_clusters12.json").read_text())
    assert "d_right_0" not in record["numbers"]


def test_the_command_itself(folders, tmp_path, command):
    flags = ["--arch", "mlp", "--epochs", "1", "--dataset", "mnist", "--no-cuda", "--beta1", "0.05"]
    name = "gan_mlp_mnist_epochs1_beta1-0.05"
    done = command(gan.__file__, *flags, *folders)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    samples = np.load(tmp_path / f"runs/{name}_samples.npz")
    assert samples["images"].shape == (10_000, 28, 28) and set(samples) == {"images", "paths"}
    record = json.loads((tmp_path / f"plots/{name}.json").read_text())
    assert record["numbers"]["d_updates"] == 5
    assert all(isinstance(value, (int, float)) for value in record["numbers"].values())
    assert record["precision"] in ("float32", "bfloat16")
    assert record["parameters"] == {"generator": 1_486_352, "discriminator": 1_460_225}
    again = gan.fingerprint(gan.parse_args([*flags, *folders]))
    assert record["fingerprint"] == pytest.approx(again, rel=1e-6)
    written = {path.name for path in (tmp_path / "plots").iterdir()}
    ends = (".json", "_samples.pdf", "_interpolations.pdf", "_weights.pt")
    assert written == {f"{name}{end}" for end in ends}
