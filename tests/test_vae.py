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
from kill_runs import same
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


def test_gradient_of_the_loss_is_probability_minus_pixel():
    """d/dl of the cross-entropy is sigmoid(l) - x, at l = 0 and far out as well."""
    logits = torch.tensor([[0.0, 1e-30, -3.0, 20.0, -90.0, 200.0, -1e4]]).repeat(1, 112).double().requires_grad_()
    x = torch.rand(1, 784).double()
    vae.VAE_loss_function(logits, x, torch.zeros(1, 2), torch.zeros(1, 2)).backward()
    torch.testing.assert_close(logits.grad, logits.detach().sigmoid() - x, rtol=1e-12, atol=1e-15)


def test_loss_of_many_images_is_exact_in_float32():
    """The sum over 10 000 images loses nothing, also where every logit is the same."""
    torch.manual_seed(0)
    x, mu, logvar = torch.rand(10_000, 784), *torch.randn(2, 10_000, 2)
    for logits in (5 * torch.randn(10_000, 784), torch.zeros(10_000, 784)):
        expected = vae.VAE_loss_function(*(part.double() for part in (logits, x, mu, logvar)))
        torch.testing.assert_close(vae.VAE_loss_function(logits, x, mu, logvar).double(), expected, rtol=1e-6, atol=0)


def test_gradient_of_the_loss_is_that_of_finite_differences():
    """The loss hands autograd a gradient by the logits that it did not derive."""
    torch.manual_seed(0)
    x, logits, mu, logvar = torch.rand(3, 7).double(), *(torch.randn(3, n).double() for n in (7, 2, 2))
    inputs = [tensor.requires_grad_() for tensor in (3 * logits, mu, logvar)]
    assert torch.autograd.gradcheck(lambda *parts: vae.VAE_loss_function(parts[0], x, *parts[1:], 0.7), inputs)


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
    def set_postfix_str(self, text, refresh): pass


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
    mixture, normal = (np.load(tmp_path / f"runs/{name}_samples.npz")["images"]
                       for name in ("vae_fashion", "normal_vae_fashion"))
    assert mixture.shape == normal.shape == (10_000, 28, 28) and mixture.dtype == normal.dtype == np.uint8
    assert (mixture != normal).any()
    assert numbers["mixture_test_reconstruction"] == numbers["test_reconstruction"]  # the same codes, another p(z)
    assert numbers["mixture_test_kl"] != numbers["test_kl"]
    figures = {path.name for path in (tmp_path / "plots").glob("*.pdf")}
    assert figures == {f"vae_fashion_{name}.pdf" for name in ("curves", "reconstructions", "samples")}
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


def test_a_killed_run_resumes_bit_for_bit(glyph_dir, tmp_path, command):
    flags = ["--epochs", "6", "--schedule", "linear", "--prior", "mixture", "--latent-dim", "4", "--batch-size", "50"]
    flags += ["--data-dir", glyph_dir]
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


def test_a_finished_run_resumes_to_the_same_record_and_other_settings_are_refused(folders, tmp_path, capsys, fails):
    vae.main(["--epochs", "1", *folders])
    before = state_of(tmp_path)
    capsys.readouterr()
    vae.main(["--epochs", "1", "--resume", *folders])
    assert "1 epochs were already done" in capsys.readouterr().out
    assert all(map(same, before, state_of(tmp_path)))
    assert "--latent-dim 20" in fails(vae, ["--epochs", "1", "--latent-dim", "3", "--resume", *folders], 1)


def test_divergence_ends_in_one_line_and_keeps_the_last_good_state(folders, tmp_path, fails):
    line = fails(vae, ["--epochs", "2", "--lr", "1e6", *folders], 1)
    assert "epoch 1" in line and "smaller --lr" in line
    state = torch.load(tmp_path / "runs/vae_mnist.pt", weights_only=True)
    assert state["epoch"] == 0 and all(value.isfinite().all() for value in state["parts"][0].values())
    assert not [path for path in (tmp_path / "plots").iterdir() if ".lock-" not in path.name]


def test_only_training_rounds_products(folders, tmp_path, monkeypatch):
    """1 + 2^-9 is no bfloat16; training rounds it when asked to, or where the CPU multiplies bfloat16, nothing else."""
    encode, seen = vae.VAE.encode, {}

    def probe(model, x):
        unit = torch.eye(2)
        seen[model.training] = torch.nn.functional.linear(unit * (1 + 2.0**-9), unit)[0, 0].item() == 1
        return encode(model, x)

    monkeypatch.setattr(vae.VAE, "encode", probe)
    train, test = vae.train, vae.test
    monkeypatch.setattr(vae, "train", lambda model, *rest: train(model.train(), *rest))
    monkeypatch.setattr(vae, "test", lambda model, *rest: test(model.eval(), *rest))
    native = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    for flag, rounded in (("auto", native), ("float32", False), ("bfloat16", True)):
        vae.main(["--epochs", "1", "--no-cuda", "--precision", flag, *folders])
        assert seen == {True: rounded, False: False}
        record = json.loads((tmp_path / "plots/vae_mnist.json").read_text())
        assert record["settings"]["precision"] == ("bfloat16" if rounded else "float32")


def weights_after(*flags, epoch=1):
    """The weights that one epoch over 50 fixed images leaves, and every learning rate on the way."""
    torch.manual_seed(0)
    model, images = vae.VAE(), torch.rand(50, 784, generator=torch.Generator().manual_seed(0))
    optimizer, rates = torch.optim.Adam(model.parameters()), []
    optimizer.register_step_pre_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))
    vae.train(model, images, optimizer, vae.parse_args(["--batch-size", "10", *flags]), epoch, Silent())
    return model.fc1.weight, rates


def test_the_kl_grows_to_its_weight():
    quarter, _ = weights_after("--beta", "0.25")
    assert torch.equal(weights_after("--warmup", "4")[0], quarter)
    assert torch.equal(weights_after("--beta", "0.5", "--warmup", "2")[0], quarter)  # half of its weight, not of 1
    assert not torch.equal(weights_after("--warmup", "4", epoch=4)[0], weights_after(epoch=1)[0])  # another order
    assert torch.equal(weights_after("--warmup", "4", epoch=5)[0], weights_after(epoch=5)[0])


def test_the_rate_falls_over_the_last_three_tenths():
    flags = ("--schedule", "linear", "--epochs", "2", "--lr", "1")  # ten steps
    first, second = (weights_after(*flags, epoch=epoch)[1] for epoch in (1, 2))
    assert first + second == pytest.approx([1] * 8 + [2 / 3, 1 / 3])
    assert weights_after("--lr", "0.5")[1] == [0.5] * 5


def test_one_component_has_the_moments_of_the_codes():
    torch.manual_seed(0)
    z = torch.randn(500, 3) @ torch.randn(3, 3) + 4
    part = vae.fit_mixture(z, 1, 2).component_distribution
    torch.testing.assert_close(part.loc[0], z.mean(0))
    torch.testing.assert_close(part.covariance_matrix[0], torch.cov(z.T, correction=0) + 1e-4 * torch.eye(3))


def test_a_step_of_em_is_that_of_the_textbook():
    """From two steps to three: responsibilities by torch.distributions, then weighted means and covariances."""
    z = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).double()
    z[:60] += 3
    two, three = ((torch.manual_seed(1), vae.fit_mixture(z, 4, steps))[1] for steps in (2, 3))
    part, shares = two.component_distribution, two.mixture_distribution.probs.double()
    joint = part.log_prob(z[:, None].float()).double() + shares.log()
    share = torch.exp(joint - joint.logsumexp(1, keepdim=True))  # (200, 4)
    mean = share.T @ z / share.sum(0)[:, None]
    centred = z[:, None] - mean  # (200, 4, 2)
    covariance = torch.einsum("nk,nki,nkj->kij", share, centred, centred) / share.sum(0)[:, None, None]
    found = three.component_distribution
    torch.testing.assert_close(three.mixture_distribution.probs, share.mean(0).float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.loc, mean.float(), rtol=1e-4, atol=1e-5)
    covariance += 1e-4 * torch.eye(2)
    torch.testing.assert_close(found.covariance_matrix, covariance.float(), rtol=1e-3, atol=1e-4)


def test_em_raises_the_likelihood_and_survives_equal_codes():
    z = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))**3
    fits = [(torch.manual_seed(1), vae.fit_mixture(z, 10, steps))[1].log_prob(z).mean() for steps in range(1, 12)]
    assert all(later > earlier for earlier, later in zip(fits, fits[1:]))
    assert vae.fit_mixture(torch.ones(20, 2), 5, 10).log_prob(torch.ones(1, 2)).isfinite()


def test_the_loss_under_a_fitted_prior():
    """With N(0, I) as the prior its estimate is the closed form up to sampling; both have the same reconstruction."""
    torch.manual_seed(0)
    model, images = vae.VAE(), torch.rand(4000, 784)
    prior = torch.distributions.MultivariateNormal(torch.zeros(20), torch.eye(20))
    args = vae.parse_args([])
    with torch.no_grad():
        model.fc22.bias -= 2  # so that the KL is not near 0
    closed, sampled = vae.test(model, images, args), vae.test(model, images, args, prior)
    assert closed["test_reconstruction"] == sampled["test_reconstruction"]
    # log q - log p = sum of (z^2 - epsilon^2 - logvar) / 2 varies by less than 4 over draws of epsilon in 20 dimensions
    assert abs(closed["test_kl"] - sampled["test_kl"]) < 5 * 4 / 4000**0.5 and closed["test_kl"] > 5
    assert sampled["test_loss"] == pytest.approx(sampled["test_reconstruction"] + sampled["test_kl"])
