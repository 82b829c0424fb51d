"""vae.py: the loss against torch.distributions, and the command through its whole life."""
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.distributions import Bernoulli, Normal, kl_divergence

import vae


@pytest.fixture
def batch():
    torch.manual_seed(0)
    logits, mu, logvar = torch.randn(7, 784), torch.randn(7, 20), torch.randn(7, 20)
    return logits.double() * 5, torch.rand(7, 1, 28, 28).double(), mu.double(), logvar.double()


def test_kl_is_that_of_torch_distributions(batch):
    _, _, mu, logvar = batch
    expected = kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(torch.zeros_like(mu), torch.ones_like(mu))).sum()
    torch.testing.assert_close(vae.gaussian_kl(mu, logvar), expected, rtol=1e-12, atol=0)
    assert vae.gaussian_kl(torch.zeros(3, 20), torch.zeros(3, 20)) == 0


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.5])
def test_loss_is_bernoulli_cross_entropy_plus_beta_kl(batch, beta):
    logits, x, mu, logvar = batch
    reconstruction = -Bernoulli(logits=logits, validate_args=False).log_prob(x.view(7, 784)).sum()
    loss = vae.VAE_loss_function(logits, x, mu, logvar, beta)
    assert loss.shape == ()
    torch.testing.assert_close(loss, reconstruction + beta * vae.gaussian_kl(mu, logvar), rtol=1e-12, atol=0)


def test_loss_at_perfect_reconstruction_is_the_entropy_of_the_pixels():
    x = torch.rand(3, 784).double()
    loss = vae.VAE_loss_function(torch.logit(x), x, torch.zeros(3, 2).double(), torch.zeros(3, 2).double())
    torch.testing.assert_close(loss, Bernoulli(x).entropy().sum())


def test_loss_is_finite_where_a_probability_would_underflow():
    x = torch.tensor([[0.0, 1.0, 0.5]]).repeat(1, 262)[:, :784]
    loss = vae.VAE_loss_function(torch.full((1, 784), -1e4), x, torch.zeros(1, 2), torch.zeros(1, 2))
    assert loss == 1e4 * x.sum()


def test_reparameterize_draws_from_q_and_passes_gradients():
    model = vae.VAE()
    mu, logvar = torch.full((100_000, 1), 2.0, requires_grad=True), torch.full((100_000, 1), -1.0, requires_grad=True)
    torch.manual_seed(0)
    z = model.reparameterize(mu, logvar)
    sigma = np.exp(-0.5)
    assert abs(z.mean().item() - 2) < 5 * sigma / 100_000**0.5
    assert abs(z.std().item() - sigma) < 5 * sigma / 200_000**0.5
    z.sum().backward()
    assert torch.equal(mu.grad, torch.ones_like(mu))
    torch.testing.assert_close(logvar.grad, (z - mu).detach() / 2)  # d(mu + exp(logvar / 2) eps) / d logvar


def test_the_handed_out_network():
    model = vae.VAE()
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items() if name.endswith("weight")}
    assert shapes == {"fc1.weight": (400, 784), "fc21.weight": (20, 400), "fc22.weight": (20, 400),
                      "fc3.weight": (400, 20), "fc4.weight": (784, 400)}
    recon, mu, logvar = model(torch.rand(5, 1, 28, 28))
    assert recon.shape == (5, 784) and mu.shape == logvar.shape == (5, 20)


def test_test_is_seeded_and_leaves_beta_out():
    torch.manual_seed(0)
    model, images = vae.VAE(), torch.rand(50, 784)
    one, two = (vae.test(model, images, vae.parse_args(["--beta", beta])) for beta in ("1", "7"))
    assert one == two and one["test_loss"] == pytest.approx(one["test_reconstruction"] + one["test_kl"])


class Silent:
    """A progress bar that shows nothing."""
    def update(self): pass
    def set_postfix_str(self, text): pass


def test_train_reports_beta_one_whatever_beta_trains():
    """At a vanishing learning rate the weights stand still, so both betas must report the same loss."""
    losses = []
    for beta in ("1", "7"):
        torch.manual_seed(0)
        model, images = vae.VAE(), torch.rand(50, 784, generator=torch.Generator().manual_seed(0))
        args = vae.parse_args(["--beta", beta, "--lr", "1e-12"])
        optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
        losses.append(vae.train(model, images, optimizer, args, 1, Silent()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_command_writes_everything(folders, command, tmp_path):
    done = command(vae.__file__, "--dataset", "fashion", "--epochs", 2, "--latent-dim", 2, *folders)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "plots/vae_fashion.json").read_text())
    assert all(len(curve) == 2 for curve in record["curves"].values())
    numbers = {name: entry["value"] for name, entry in record["numbers"].items()}
    assert numbers["test_loss"] == pytest.approx(numbers["test_reconstruction"] + numbers["test_kl"])
    assert record["settings"]["layers"] == 2 and record["seed"] == 1 and record["seconds"] > 0
    assert "--dataset fashion --epochs 2" in record["command"]
    with np.load(tmp_path / "runs/vae_fashion_samples.npz") as samples:
        assert samples["images"].shape == (10_000, 28, 28) and samples["images"].dtype == np.uint8
    figures = {path.name for path in (tmp_path / "plots").glob("*.pdf")}
    assert figures == {f"vae_fashion_{name}.pdf" for name in
                       ("curves", "interpolation", "manifold", "reconstructions", "samples", "traversal")}
    grids = [tmp_path / f"runs/vae_fashion/reconstructions_00{epoch}.png" for epoch in (1, 2)]
    first, last = (np.array(Image.open(path)) for path in grids)
    test_set = torchvision.datasets.FashionMNIST(folders[1], train=False).data
    assert (first[:30] == last[:30]).all() and (first[30:] != last[30:]).any()  # the same inputs, other reconstructions
    assert (first[2:30, 2:30, 0] == test_set[0].numpy()).all()
    assert not list(tmp_path.rglob(".part-*"))


def state_of(folder):
    """Everything in a run's folder that must not depend on where it was interrupted."""
    state = torch.load(folder / "runs/vae_mnist.pt", weights_only=True)
    record = json.loads((folder / "plots/vae_mnist.json").read_text())
    del state["seconds"], record["seconds"]
    pictures = {path.name: path.read_bytes() for path in sorted(folder.rglob("*.p[dn][fg]"))}
    with np.load(folder / "runs/vae_mnist_samples.npz") as samples:
        return state, record, pictures, samples["images"]


def same(one, two):
    """Equality of nested dicts, lists and tensors, bit for bit."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    return torch.equal(one, two) if isinstance(one, torch.Tensor) else np.array_equal(one, two)


def test_a_killed_run_resumes_bit_for_bit(glyph_dir, tmp_path, command):
    flags = ["--epochs", "6", "--schedule", "cosine", "--batch-size", "50", "--data-dir", str(glyph_dir)]
    for name in ("whole", "killed"):
        flags_here = [*flags, "--out-dir", tmp_path / name / "plots", "--runs-dir", tmp_path / name / "runs"]
        if name == "killed":
            process = subprocess.Popen([sys.executable, vae.__file__, *map(str, flags_here)])
            while not list((tmp_path / name).rglob("samples_002.png")):
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            assert 1 <= torch.load(tmp_path / "killed/runs/vae_mnist.pt", weights_only=True)["epoch"] < 6
            flags_here.append("--resume")
        done = command(vae.__file__, *flags_here)
        assert done.returncode == 0, done.stderr
    whole, killed = state_of(tmp_path / "whole"), state_of(tmp_path / "killed")
    for record in (whole[1], killed[1]):
        assert record["command"].count("--resume") == 0
        del record["command"]  # it names the folders, which differ here
    assert all(map(same, whole, killed))


def test_more_epochs_append_to_a_run_of_constant_rate(folders, tmp_path, capsys, fails):
    vae.main(["--epochs", "1", *folders])
    vae.main(["--epochs", "2", "--resume", *folders])
    appended = torch.load(tmp_path / "runs/vae_mnist.pt", weights_only=True)
    vae.main(["--epochs", "2", *folders])
    assert same(appended["model"], torch.load(tmp_path / "runs/vae_mnist.pt", weights_only=True)["model"])
    capsys.readouterr()
    vae.main(["--epochs", "2", "--resume", *folders])
    assert "2 of 2 epochs were already done" in capsys.readouterr().out
    assert "--epochs 2" in fails(vae, ["--epochs", "1", "--resume", *folders], 1)
    assert "--latent-dim 20" in fails(vae, ["--epochs", "2", "--latent-dim", "3", "--resume", *folders], 1)


def test_divergence_ends_in_one_line_and_keeps_the_last_good_state(folders, tmp_path, fails):
    line = fails(vae, ["--epochs", "2", "--lr", "1e6", *folders], 1)
    assert "epoch 1" in line and "smaller --lr" in line
    state = torch.load(tmp_path / "runs/vae_mnist.pt", weights_only=True)
    assert state["epoch"] == 0 and all(value.isfinite().all() for value in state["model"].values())
    assert not list((tmp_path / "plots").iterdir())


def test_products_are_named_for_what_they_round_to():
    exact = vae.products(vae.parse_args(["--precision", "float32"]), torch.device("cpu"))
    assert torch.get_float32_matmul_precision() == "highest"
    assert exact == "float32" and vae.products(vae.parse_args([]), torch.device("cpu")) in ("float32", "bfloat16")
