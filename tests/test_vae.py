"""vae.py: the loss against torch.distributions, the fitted prior, the meta device, whole runs."""
import argparse
import copy
import json
import math
import sys

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence

import vae


@pytest.fixture
def parse(monkeypatch):
    """parse(*flags): the command line as vae.py understands it."""
    def args(*flags):
        monkeypatch.setattr(sys, "argv", ["vae.py", *map(str, flags)])
        return vae.parse_args()
    return args


@pytest.fixture
def batch():
    torch.manual_seed(0)
    logits, mu, logvar = torch.randn(7, 784), torch.randn(7, 20), torch.randn(7, 20)
    return logits.double() * 5, torch.rand(7, 784).double(), mu.double(), logvar.double()


def images_of(count, pixels=784):
    return torch.rand(count, pixels, generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------------------------------- loss
def test_kl_is_that_of_torch_distributions(batch):
    _, _, mu, logvar = batch
    prior = Normal(torch.zeros_like(mu), torch.ones_like(mu))
    expected = kl_divergence(Normal(mu, (0.5 * logvar).exp()), prior).sum()
    torch.testing.assert_close(vae.gaussian_kl(mu, logvar), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.5])
def test_loss_is_bernoulli_cross_entropy_plus_beta_kl(batch, beta):
    logits, x, mu, logvar = batch
    reconstruction = -Bernoulli(logits=logits, validate_args=False).log_prob(x).sum()
    expected = reconstruction + beta * vae.gaussian_kl(mu, logvar)
    loss = vae.VAE_loss_function(logits, x, mu, logvar, beta)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


def test_loss_is_finite_where_a_probability_would_underflow():
    x = torch.tensor([[0.0, 1.0, 0.5]]).repeat(1, 262)[:, :784]
    logits = torch.full((1, 784), -1e4)
    loss = vae.VAE_loss_function(logits, x, torch.zeros(1, 2), torch.zeros(1, 2))
    assert loss == 1e4 * x.sum()


def test_reparameterize_draws_from_q_and_passes_gradients():
    mu, logvar = (torch.full((100_000, 1), value, requires_grad=True) for value in (2.0, -1.0))
    torch.manual_seed(0)
    z = vae.VAE().reparameterize(mu, logvar)
    sigma = np.exp(-0.5)
    assert abs(z.mean().item() - 2) < 5 * sigma / 100_000**0.5
    assert abs(z.std().item() - sigma) < 5 * sigma / 200_000**0.5
    z.sum().backward()
    assert torch.equal(mu.grad, torch.ones_like(mu))
    # d(mu + exp(logvar / 2) eps) / d logvar
    torch.testing.assert_close(logvar.grad, (z - mu).detach() / 2)


def test_the_handed_out_network():
    model = vae.VAE()
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()
              if name.endswith("weight")}
    assert shapes == {"fc1.weight": (400, 784), "fc21.weight": (20, 400), "fc22.weight": (20, 400),
                      "fc3.weight": (400, 20), "fc4.weight": (784, 400)}
    recon, mu, logvar = model(torch.rand(5, 784))
    assert recon.shape == (5, 784) and mu.shape == logvar.shape == (5, 20)


# ------------------------------------------------------------------------------------ training
def test_losses_are_reported_at_beta_one_whatever_beta_trains(parse):
    """At a learning rate of 0 the weights stand still: both betas report the same losses."""
    found = []
    for beta in (1, 7):
        torch.manual_seed(0)
        model, args = vae.VAE(), parse("--beta", beta, "--lr", 0)
        optimizer = torch.optim.Adam(model.parameters(), lr=0)
        found.append(vae.train(model, images_of(50), optimizer, args, epoch=1)
                     | vae.test(model, images_of(50), args))
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    expected = found[0]["test_reconstruction"] + found[0]["test_kl"]
    assert found[0]["test_loss"] == pytest.approx(expected)


def test_weight_of_the_kl_and_learning_rate_over_a_run():
    args = argparse.Namespace(beta=0.4, warmup=0.5, epochs=8, decay=0.25)
    weights = [vae.kl_weight(args, epoch) for epoch in range(1, 9)]
    assert weights == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4])
    rates = [vae.learning_rate(2.0, args, progress) for progress in (0, 0.75, 0.875, 0.99)]
    assert rates == pytest.approx([2, 2, 1, 0.08])
    constant = argparse.Namespace(beta=0.4, warmup=0.0, epochs=8, decay=0.0)
    assert vae.kl_weight(constant, 1) == 0.4 and vae.learning_rate(2.0, constant, 0.999) == 2


def test_a_step_descends_on_the_weighted_loss_at_the_epochs_rate(parse):
    """One batch, plain gradient descent, by hand: beta 0.4 * 3/4 and half of the rate."""
    args = parse("--epochs", 8, "--beta", 0.4, "--warmup", 0.5, "--decay", 1, "--lr", 1e-3)
    model = vae.VAE()
    twin = copy.deepcopy(model)
    vae.train(model, images_of(50), torch.optim.SGD(model.parameters(), lr=9), args, epoch=3)
    torch.manual_seed(1_000_003 + 3)
    x = images_of(50)[torch.randperm(50)]
    recon, mu, logvar = twin(x)
    vae.VAE_loss_function(recon, x, mu, logvar, 0.3).backward()
    for after, before in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(after, before - 0.75e-3 * before.grad)


def test_what_is_compared_over_epochs_does_not_depend_on_chance(parse):
    model, args = vae.VAE(), parse()
    losses = [vae.test(model, images_of(50), args) for _ in range(2)]
    grids = [vae.epoch_grids(model, images_of(50), args)["samples"] for _ in range(2)]
    assert losses[0] == losses[1] and torch.equal(*grids)


def test_every_tensor_is_on_the_device(parse, meta):
    args = parse()
    model = vae.VAE().to(meta)
    images = torch.empty(300, 784, device=meta)
    optimizer = torch.optim.Adam(model.parameters())
    numbers = vae.train(model, images, optimizer, args, epoch=1) | vae.test(model, images, args)
    assert {"train_loss", "test_loss"} <= numbers.keys()
    grids = vae.epoch_grids(model, images, args)
    assert grids["samples"].device == grids["reconstructions"].device == meta
    assert vae.sample(model, 30).shape == (30, 784)


# ------------------------------------------------------------------------------------ sampling
def test_one_gaussian_is_fitted_in_closed_form():
    torch.manual_seed(0)
    codes = torch.randn(500, 3) @ torch.randn(3, 3) + 5
    weight, mean, scale = vae.fit_mixture(codes, 1, steps=2)
    covariance = codes.double().T.cov(correction=0) + 1e-4 * torch.eye(3)
    assert weight.item() == pytest.approx(1)
    torch.testing.assert_close(mean[0], codes.mean(0))
    torch.testing.assert_close((scale @ scale.mT)[0], covariance.float(), rtol=1e-3, atol=1e-4)


def test_em_never_lowers_the_likelihood_and_is_sampled_from():
    torch.manual_seed(0)
    true = vae.mixture(torch.tensor([0.7, 0.3]), torch.tensor([[-4.0, 0.0], [4.0, 1.0]]),
                       torch.stack((torch.eye(2), torch.tensor([[0.5, 0.0], [0.4, 0.3]]))))
    codes = true.sample((4000,))
    likelihoods = []
    for steps in (1, 2, 4, 8, 16):
        torch.manual_seed(1)
        fitted = vae.mixture(*vae.fit_mixture(codes, 5, steps))
        likelihoods.append(fitted.log_prob(codes).mean().item())
    assert likelihoods == sorted(likelihoods)
    assert likelihoods[-1] == pytest.approx(true.log_prob(codes).mean().item(), abs=0.02)


def test_samples_are_decoded_draws_of_the_prior():
    torch.manual_seed(0)
    model = vae.VAE(latent_dim=3)
    prior = MultivariateNormal(torch.tensor([5.0, -2.0, 0.0]), torch.eye(3))
    for given, drawn in ((None, lambda: torch.randn(150, 3)),
                         (prior, lambda: torch.cat([prior.sample((100,)) for _ in range(2)])[:150])):
        torch.manual_seed(7)
        with torch.no_grad():
            expected = model.decode(drawn()).sigmoid()
        torch.manual_seed(7)
        torch.testing.assert_close(vae.sample(model, 150, given), expected, rtol=0, atol=0)


# ------------------------------------------------------------------------------------ commands
def test_the_command_writes_everything(folders, command, call, tmp_path):
    flags = ["--dataset", "fashion", "--epochs", 2, "--latent-dim", 2, "--beta", "0.05",
             "--components", 10, *folders]
    name = "vae_fashion_epochs2_latent-dim2_beta0.05_components10"
    done = command(vae.__file__, *flags)
    assert done.returncode == 0, done.stderr
    plots, runs = tmp_path / "plots", tmp_path / "runs"
    record = json.loads((plots / f"{name}.json").read_text())
    assert record["command"].startswith("python vae.py --dataset fashion --epochs 2")
    assert record["settings"]["layers"] == 2 and record["settings"]["recipe"] == "best"
    assert record["code"] == vae.code_identity() and record["threads"] == 1
    for measure, curve in record["curves"].items():
        assert len(curve) == 2 and record["numbers"][measure] == curve[1]
    test_images = torchvision.datasets.FashionMNIST(folders[1], train=False).data
    entropy = Bernoulli(test_images.view(70, 784).double() / 255).entropy().sum(1).mean().item()
    assert record["numbers"]["pixel_entropy"] == pytest.approx(entropy, rel=1e-5)
    assert record["numbers"]["test_reconstruction"] > entropy

    ends = (".json", "_curves.pdf", "_reconstructions.pdf", "_samples.pdf", "_weights.pt")
    assert {path.name for path in plots.iterdir()} == {name + end for end in ends}
    grids = [np.array(Image.open(runs / f"{name}/reconstructions_00{epoch}.png"))
             for epoch in (1, 2)]
    # the same inputs, other reconstructions
    assert (grids[0][:30] == grids[1][:30]).all() and (grids[0][30:] != grids[1][30:]).any()
    assert (grids[0][2:30, 2:30, 0] == test_images[0].numpy()).all()


def test_what_a_run_keeps_is_of_the_trained_model(folders, call, fails, tmp_path, monkeypatch):
    """Samples of both priors, the first epoch's grids, and what --draw draws, up to halves."""
    monkeypatch.setattr(vae, "SAMPLES", 200)
    flags = ["--epochs", 2, "--latent-dim", 5, "--layers", 2, "--components", 4, *folders]
    assert "is missing: run this command without --draw first" in fails(vae, *flags, "--draw")
    call(vae, *flags)
    name = "vae_mnist_epochs2_layers2_latent-dim5_components4"
    state = torch.load(tmp_path / f"runs/{name}.pt", weights_only=True)
    model = vae.VAE(layers=2, latent_dim=5)
    model.load_state_dict(state["model"])
    train_images = vae.load_dataset("mnist", folders[1])[0].view(-1, 784) / 255
    torch.manual_seed(1)
    with torch.no_grad():
        codes = model.reparameterize(*model.encode(train_images))
    prior = vae.mixture(*vae.fit_mixture(codes, 4))
    for run, p in ((f"normal_{name}", None), (name, prior)):
        kept = np.load(tmp_path / f"runs/{run}_samples.npz")
        expected = (255 * vae.sample(model, 200, p)).round().byte().view(-1, 28, 28)
        assert np.array_equal(kept["images"], expected) and kept["train_images"] == 60_000
    vae.save_tiles(tmp_path / "first.png", state["first"]["samples"])
    first = (tmp_path / "first.png").read_bytes()
    assert first == (tmp_path / f"runs/{name}/samples_001.png").read_bytes()
    assert first != (tmp_path / f"runs/{name}/samples_002.png").read_bytes()

    monkeypatch.setattr(torch, "seed", lambda: torch.manual_seed(7))
    call(vae, *flags, "--draw")
    kept = torch.load(tmp_path / f"plots/{name}_weights.pt", weights_only=True)
    assert {tensor.dtype for tensor in kept["decoder"].values()} == {torch.float16}
    torch.manual_seed(7)
    images = vae.sample(model, 64, vae.mixture(*(tensor.float() for tensor in kept["prior"])))
    tiles = torchvision.utils.make_grid(images.view(-1, 1, 28, 28), pad_value=0.5)[0].numpy()
    drawn = np.array(Image.open(tmp_path / f"runs/{name}_drawn.png"))[:, :, 0]
    assert np.abs(drawn / 255.0 - tiles).max() < 0.02  # but for the rounding to halves and bytes


def test_a_recipe_is_a_set_of_defaults(parse):
    for recipe, values in vae.RECIPES.items():
        typed = [word for name, value in values.items()
                 for word in (f"--{name.replace('_', '-')}", value)]
        chosen = vae.settings_of(parse("--recipe", recipe))
        assert chosen | {"recipe": "handout"} == vae.settings_of(parse(*typed))
    assert parse("--recipe", "best", "--beta", 0.3).beta == 0.3


def test_a_diverged_loss_keeps_what_was_before_it(folders, call, fails, tmp_path, monkeypatch):
    def diverge(model, images, optimizer, args, epoch):
        return {"train_loss": 100.0 if epoch == 1 else math.nan}

    monkeypatch.setattr(vae, "train", diverge)
    line = fails(vae, "--epochs", 4, *folders)
    assert "epoch 2 diverged: give a smaller --lr" in line
    assert not list((tmp_path / "plots").iterdir())
    state = torch.load(tmp_path / "runs/vae_mnist_epochs4.pt", weights_only=True)
    assert state["epoch"] == 1 and not state["finished"]
