"""vae.py: the loss against torch.distributions, and the command through its whole life."""
import json

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
    prior = Normal(torch.zeros_like(mu), torch.ones_like(mu))
    expected = kl_divergence(Normal(mu, (0.5 * logvar).exp()), prior).sum()
    torch.testing.assert_close(vae.gaussian_kl(mu, logvar), expected, rtol=1e-12, atol=0)
    assert vae.gaussian_kl(torch.zeros(3, 20), torch.zeros(3, 20)) == 0


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.5])
def test_loss_is_bernoulli_cross_entropy_plus_beta_kl(batch, beta):
    logits, x, mu, logvar = batch
    reconstruction = -Bernoulli(logits=logits, validate_args=False).log_prob(x.view(7, 784)).sum()
    loss = vae.VAE_loss_function(logits, x, mu, logvar, beta)
    assert loss.shape == ()
    expected = reconstruction + beta * vae.gaussian_kl(mu, logvar)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


def test_the_fast_cross_entropy_is_that_of_pytorch(batch):
    logits, x, *_ = batch
    reference = torch.nn.functional.binary_cross_entropy_with_logits
    for scale in (1, 100):
        expected = reference(scale * logits, x.view(7, 784), reduction="sum")
        found = vae.cross_entropy(scale * logits, x.view(7, 784))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_loss_at_perfect_reconstruction_is_the_entropy_of_the_pixels():
    x = torch.rand(3, 784).double()
    zeros = torch.zeros(3, 2).double()
    loss = vae.VAE_loss_function(torch.logit(x), x, zeros, zeros)
    torch.testing.assert_close(loss, Bernoulli(x).entropy().sum())


def test_loss_is_finite_where_a_probability_would_underflow():
    x = torch.tensor([[0.0, 1.0, 0.5]]).repeat(1, 262)[:, :784]
    logits = torch.full((1, 784), -1e4)
    loss = vae.VAE_loss_function(logits, x, torch.zeros(1, 2), torch.zeros(1, 2))
    assert loss == 1e4 * x.sum()


def test_gradient_of_the_loss_is_probability_minus_pixel():
    """d/dl of the cross-entropy is sigmoid(l) - x, at l = 0 and far out as well."""
    logits = torch.tensor([[0.0, 1e-30, -3.0, 20.0, -90.0, 200.0, -1e4]]).repeat(1, 112).double()
    logits.requires_grad_()
    x = torch.rand(1, 784).double()
    vae.VAE_loss_function(logits, x, torch.zeros(1, 2), torch.zeros(1, 2)).backward()
    torch.testing.assert_close(logits.grad, logits.detach().sigmoid() - x, rtol=1e-12, atol=1e-15)


def test_loss_of_many_images_is_exact_in_float32():
    """The sum over 10 000 images loses nothing, also where every logit is the same."""
    torch.manual_seed(0)
    x, mu, logvar = torch.rand(10_000, 784), *torch.randn(2, 10_000, 2)
    for logits in (5 * torch.randn(10_000, 784), torch.zeros(10_000, 784)):
        expected = vae.VAE_loss_function(*(tensor.double() for tensor in (logits, x, mu, logvar)))
        found = vae.VAE_loss_function(logits, x, mu, logvar).double()
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_gradient_of_the_loss_is_that_of_finite_differences():
    """The loss hands autograd a gradient by the logits that it did not derive."""
    torch.manual_seed(0)
    x = torch.rand(3, 7).double()
    logits, mu, logvar = (torch.randn(3, n).double() for n in (7, 2, 2))
    inputs = [tensor.requires_grad_() for tensor in (3 * logits, mu, logvar)]

    def loss(logits, mu, logvar):
        return vae.VAE_loss_function(logits, x, mu, logvar, 0.7)
    assert torch.autograd.gradcheck(loss, inputs)


def test_reparameterize_draws_from_q_and_passes_gradients():
    model = vae.VAE()
    mu, logvar = (torch.full((100_000, 1), value, requires_grad=True) for value in (2.0, -1.0))
    torch.manual_seed(0)
    z = model.reparameterize(mu, logvar)
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
    recon, mu, logvar = model(torch.rand(5, 1, 28, 28))
    assert recon.shape == (5, 784) and mu.shape == logvar.shape == (5, 20)


def test_test_is_seeded_and_leaves_beta_out():
    torch.manual_seed(0)
    model, images = vae.VAE(), torch.rand(50, 784)
    one, two = (vae.test(model, images, vae.parse_args(["--beta", beta])) for beta in ("1", "7"))
    assert one == two
    assert one["test_loss"] == pytest.approx(one["test_reconstruction"] + one["test_kl"])


def fixed_images():
    return torch.rand(50, 784, generator=torch.Generator().manual_seed(0))


class Silent:
    """A progress bar that shows nothing."""
    def update(self): pass
    def set_postfix_str(self, text, refresh): pass


def test_train_reports_beta_one_whatever_beta_trains():
    """At a vanishing learning rate the weights stand still: both betas report the same loss."""
    losses = []
    for beta in ("1", "7"):
        torch.manual_seed(0)
        model, images = vae.VAE(), fixed_images()
        args = vae.parse_args(["--beta", beta])
        args.lr = 1e-12
        optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
        losses.append(vae.train(model, images, optimizer, args, epoch=1, bar=Silent()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_command_writes_everything(folders, command, tmp_path):
    flags = ["--dataset", "fashion", "--epochs", 2, "--latent-dim", 2, "--beta", "0.05"]
    name = "vae_fashion_epochs2_latent-dim2_beta0.05"
    done = command(vae.__file__, *flags, *folders)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / f"plots/{name}.json").read_text())
    assert all(len(curve) == 2 for curve in record["curves"].values())
    numbers = record["numbers"]
    assert all(isinstance(value, float) for value in numbers.values())
    loss = numbers["test_reconstruction"] + numbers["test_kl"]
    assert numbers["test_loss"] == pytest.approx(loss)
    assert record["settings"]["layers"] == 2 and record["settings"]["recipe"] == "best"
    assert record["settings"]["seed"] == 1 and record["seconds"] > 0
    assert "vae.py --dataset fashion --epochs 2" in record["command"]
    assert record["precision"] in ("float32", "bfloat16") and record["data"].startswith("sha256 ")
    machine, = record["machines"]
    assert machine["processor"] and machine["threads"] == 1
    assert set(machine["versions"]) == {"torch", "torchvision", "numpy", "matplotlib"}
    weights = vae.VAE(1000, 2, 2).parameters()
    assert record["parameters"] == {"vae": sum(weight.numel() for weight in weights)}
    again = vae.fingerprint(vae.parse_args([*map(str, flags), *folders]))
    assert record["fingerprint"] == pytest.approx(again, rel=1e-6)

    mixture, normal = (np.load(tmp_path / f"runs/{run}_samples.npz")["images"]
                       for run in (name, f"normal_{name}"))
    assert mixture.shape == normal.shape == (10_000, 28, 28)
    assert mixture.dtype == normal.dtype == np.uint8 and (mixture != normal).any()
    # the same codes, another p(z)
    assert numbers["mixture_test_reconstruction"] == numbers["test_reconstruction"]
    assert numbers["mixture_test_kl"] != numbers["test_kl"]

    written = {path.name for path in (tmp_path / "plots").iterdir()}
    ends = (".json", "_curves.pdf", "_reconstructions.pdf", "_samples.pdf", "_interpolations.pdf",
            "_traversals.pdf", "_manifold.pdf", "_weights.pt")
    assert written == {name + end for end in ends}
    grids = [tmp_path / f"runs/{name}/reconstructions_00{epoch}.png" for epoch in (1, 2)]
    first, last = (np.array(Image.open(path)) for path in grids)
    test_set = torchvision.datasets.FashionMNIST(folders[1], train=False).data
    # the same inputs, other reconstructions
    assert (first[:30] == last[:30]).all() and (first[30:] != last[30:]).any()
    assert (first[2:30, 2:30, 0] == test_set[0].numpy()).all()


def test_a_run_is_drawn_from_its_weights(folders, tmp_path, monkeypatch, fails):
    """--draw shows what the run's own decoder makes of the same codes, up to halves."""
    flags = ["--epochs", "1", "--latent-dim", "5", "--recipe", "best", *folders]
    name = "vae_mnist_best_epochs1_latent-dim5"
    mixtures, fit_mixture = [], vae.fit_mixture
    monkeypatch.setattr(vae, "fit_mixture", lambda codes, count: mixtures.append(
        fit_mixture(codes, 20)) or mixtures[-1])
    assert "is missing: run the same command" in fails(vae, [*flags, "--draw"], 1)
    vae.main(flags)
    monkeypatch.setattr(torch, "seed", lambda: torch.manual_seed(7))
    vae.main([*flags, "--draw"])
    model = vae.VAE(1000, 2, 5)
    state = torch.load(tmp_path / f"runs/{name}.pt", weights_only=True)
    model.load_state_dict(state["model"])
    torch.manual_seed(7)
    codes = vae.sample_mixture(mixtures[0], 64)
    with torch.no_grad():
        images = model.decode(codes).sigmoid()
    tiles = torchvision.utils.make_grid(images.view(-1, 1, 28, 28), pad_value=0.5)[0].numpy()
    drawn = np.array(Image.open(tmp_path / f"runs/{name}_drawn.png"))[::3, ::3, 0]
    assert np.abs(drawn / 255.0 - tiles).max() < 0.02
    path = tmp_path / f"plots/{name}_weights.pt"
    kept = torch.load(path, weights_only=True)
    assert not [key for key in kept["state"] if key.startswith(("fc1", "fc2", "deeper_enc"))]
    path.write_bytes(b"cut")
    assert "damaged" in fails(vae, [*flags, "--draw"], 1)


def test_recipes_are_sets_of_defaults():
    """--recipe says what the flags it stands for would say, and a flag has the last word."""
    for recipe, values in vae.RECIPES.items():
        flags = [word for name, value in values.items()
                 for word in (f"--{name.replace('_', '-')}", str(value))]
        chosen, spelled = (vae.settings_of(vae.parse_args(["--run-name", "a", *words]))
                           for words in (["--recipe", recipe], flags))
        assert chosen | {"recipe": "handout"} == spelled
    assert vae.parse_args(["--recipe", "best", "--beta", "0.3"]).beta == 0.3
    named = {vae.parse_args(flags).run_name for flags in (
        [], ["--recipe", "handout"], ["--dataset", "fashion"],
        ["--dataset", "fashion", "--recipe", "best"],
        ["--dataset", "fashion", "--recipe", "handout"])}
    assert named == {"vae_mnist", "vae_fashion", "vae_fashion_handout"}


def test_ways_between_images_lead_from_one_to_the_next():
    torch.manual_seed(0)
    model, images = vae.VAE(), fixed_images()
    labels = torch.tensor([3, 3, 7, 0, 0]).repeat(10)
    ways = vae.interpolations(model, images, labels, steps=5).view(3, 7, 784)
    ends = images[[3, 0, 2]]  # the first of the classes 0, 3 and 7
    assert torch.equal(ways[:, 0], ends) and torch.equal(ways[:, 6], ends.roll(-1, 0))
    with torch.no_grad():
        codes, _ = model.encode(ends)
        halfway = model.decode((codes + codes.roll(-1, 0)) / 2).sigmoid()
        torch.testing.assert_close(ways[:, 1], model.decode(codes).sigmoid())
    torch.testing.assert_close(ways[:, 3], halfway)


def test_traversals_move_one_dimension_and_are_in_the_order_of_their_kl():
    torch.manual_seed(0)
    model, images = vae.VAE(latent_dim=4), fixed_images()
    rows = vae.traversals(model, images, steps=7)
    kls = [kl for kl, _ in rows.values()]
    assert kls == sorted(kls, reverse=True) and set(rows) == {0, 1, 2, 3}
    with torch.no_grad():
        mu, logvar = model.encode(images)
        assert sum(kls) == pytest.approx(vae.gaussian_kl(mu, logvar).item() / 50, rel=1e-5)
        code = mu[0].clone()
        code[2] = 3.0
        torch.testing.assert_close(rows[2][1][6], model.decode(code).sigmoid())
    assert list(vae.traversals(model, images, count=2)) == list(rows)[:2]


def test_the_manifold_has_its_quantiles_in_their_places():
    torch.manual_seed(0)
    model = vae.VAE(latent_dim=2)
    tiles = vae.manifold(model, side=4).view(4, 4, 784)
    quantiles = torch.tensor([-1.1503494, -0.3186394, 0.3186394, 1.1503494])  # of 1/8, 3/8, ...
    with torch.no_grad():  # top left, then one to the right of bottom left
        codes = torch.stack([quantiles[[3, 0]], quantiles[[0, 1]]])
        torch.testing.assert_close(tiles[[0, 3], [0, 1]], model.decode(codes).sigmoid())


def test_divergence_ends_in_one_line_and_keeps_the_last_good_state(
        folders, tmp_path, monkeypatch, fails):
    train = vae.train

    def diverge(model, images, optimizer, args, *, epoch, **others):
        if epoch == begin and len(images) == 300:  # no fingerprint
            args.lr = 1e6
        return train(model, images, optimizer, args, epoch=epoch, **others)

    monkeypatch.setattr(vae, "train", diverge)
    for begin in (1, 2):
        line = fails(vae, ["--epochs", "4", *folders], 1)
        assert "diverged" in line and "smaller --lr" in line
        assert not list((tmp_path / "plots").iterdir())
        checkpoint = tmp_path / "runs/vae_mnist_epochs4.pt"
        if begin == 1:
            assert "epoch 1 diverged" in line and not checkpoint.exists()
    state = torch.load(checkpoint, weights_only=True)
    assert f"epoch {state['epoch'] + 1} diverged" in line and not state["finished"]
    assert all(value.isfinite().all() for value in state["model"].values())


def test_codes_that_no_mixture_fits_end_in_one_line(folders, tmp_path, monkeypatch, fails):
    """With --beta 0 and a high rate a variance can come to 0 in float32."""
    monkeypatch.setattr(vae.VAE, "encode", lambda model, x: (
        torch.zeros(len(x), 20), torch.full((len(x), 20), -300.0)))
    flags = ["--epochs", "1", "--prior", "mixture", "--components", "2", *folders]
    assert "--prior normal" in fails(vae, flags, 1)
    assert not list((tmp_path / "plots").iterdir())


def test_only_training_rounds_products(folders, tmp_path, monkeypatch):
    """1 + 2^-9 is no bfloat16; training alone rounds it, when asked to or where hardware does."""
    encode, seen = vae.VAE.encode, {}

    def probe(model, x):
        unit = torch.eye(2)
        product = torch.nn.functional.linear(unit * (1 + 2.0**-9), unit)
        seen[model.training] = product[0, 0].item() == 1
        return encode(model, x)

    monkeypatch.setattr(vae.VAE, "encode", probe)
    monkeypatch.setattr(vae, "fingerprint", lambda args: [])  # which trains in float32
    train, test = vae.train, vae.test
    monkeypatch.setattr(vae, "train", lambda model, *rest, **others: train(
        model.train(), *rest, **others))
    monkeypatch.setattr(vae, "test", lambda model, *rest: test(model.eval(), *rest))
    native = vae.choose_precision("auto", torch.device("cpu")) == "bfloat16"
    for flag, rounded in (("auto", native), ("float32", False), ("bfloat16", True)):
        vae.main(["--epochs", "1", "--no-cuda", "--precision", flag, "--run-name", flag, *folders])
        assert seen == {True: rounded, False: False}
        record = json.loads((tmp_path / f"plots/{flag}.json").read_text())
        assert record["precision"] == ("bfloat16" if rounded else "float32")


def weights_after(*flags, epoch=1):
    """The weights that one epoch over 50 fixed images leaves, and every rate on the way."""
    torch.manual_seed(0)
    model, args = vae.VAE(), vae.parse_args(["--batch-size", "10", *flags])
    optimizer, rates = torch.optim.Adam(model.parameters()), []
    optimizer.register_step_pre_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))
    vae.train(model, fixed_images(), optimizer, args, epoch=epoch, bar=Silent())
    return model.fc1.weight, rates


def test_the_kl_grows_to_its_weight():
    quarter, _ = weights_after("--beta", "0.25")
    assert torch.equal(weights_after("--warmup", "4")[0], quarter)
    # half of its weight, not of 1
    assert torch.equal(weights_after("--beta", "0.5", "--warmup", "2")[0], quarter)
    # another order
    assert not torch.equal(weights_after("--warmup", "4", epoch=4)[0], weights_after(epoch=1)[0])
    assert torch.equal(weights_after("--warmup", "4", epoch=5)[0], weights_after(epoch=5)[0])


def test_the_rate_falls_over_the_last_three_tenths():
    flags = ("--schedule", "linear", "--epochs", "2", "--lr", "1")  # ten steps
    first, second = (weights_after(*flags, epoch=epoch)[1] for epoch in (1, 2))
    assert first + second == pytest.approx([1] * 8 + [2 / 3, 1 / 3])
    assert weights_after("--lr", "0.5")[1] == [0.5] * 5


def test_one_component_has_the_moments_of_the_codes():
    torch.manual_seed(0)
    z = torch.randn(500, 3) @ torch.randn(3, 3) + 4
    component = vae.fit_mixture(z, 1, 2).component_distribution
    covariance = torch.cov(z.T, correction=0) + 1e-4 * torch.eye(3)
    torch.testing.assert_close(component.loc[0], z.mean(0))
    torch.testing.assert_close(component.covariance_matrix[0], covariance)


def test_drawn_codes_have_the_moments_of_the_mixture():
    torch.manual_seed(0)
    z = torch.cat((torch.randn(500, 3), torch.randn(500, 3) @ torch.randn(3, 3) + 4))
    mixture = vae.fit_mixture(z, 5, 5)
    drawn = vae.sample_mixture(mixture, 200_000)
    assert drawn.shape == (200_000, 3)
    error = (mixture.variance / 200_000).sqrt()
    assert ((drawn.mean(0) - mixture.mean).abs() < 5 * error).all()
    torch.testing.assert_close(drawn.var(0), mixture.variance, rtol=0.02, atol=0)
    few = mixture.log_prob(mixture.sample((2000,))).mean()
    assert abs(mixture.log_prob(drawn[:2000]).mean() - few) < 0.2


def seeded_fit(z, count, steps):
    torch.manual_seed(1)
    return vae.fit_mixture(z, count, steps)


def test_a_step_of_em_is_that_of_the_textbook():
    """From two steps to three: responsibilities by torch.distributions, then weighted moments."""
    z = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).double()
    z[:60] += 3
    two, three = (seeded_fit(z, 4, steps) for steps in (2, 3))
    component, weights = two.component_distribution, two.mixture_distribution.probs.double()
    joint = component.log_prob(z[:, None].float()).double() + weights.log()
    share = torch.exp(joint - joint.logsumexp(1, keepdim=True))  # (200, 4)
    mean = share.T @ z / share.sum(0)[:, None]
    centred = z[:, None] - mean  # (200, 4, 2)
    covariance = torch.einsum("nk,nki,nkj->kij", share, centred, centred)
    covariance /= share.sum(0)[:, None, None]
    found, weights = three.component_distribution, three.mixture_distribution.probs
    torch.testing.assert_close(weights, share.mean(0).float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.loc, mean.float(), rtol=1e-4, atol=1e-5)
    covariance += 1e-4 * torch.eye(2)
    torch.testing.assert_close(
        found.covariance_matrix, covariance.float(), rtol=1e-3, atol=1e-4)


def test_em_raises_the_likelihood_and_survives_equal_codes():
    z = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))**3
    fits = [seeded_fit(z, 10, steps).log_prob(z).mean() for steps in range(1, 12)]
    assert all(later > earlier for earlier, later in zip(fits, fits[1:]))
    assert vae.fit_mixture(torch.ones(20, 2), 5, 10).log_prob(torch.ones(1, 2)).isfinite()


def test_the_loss_under_a_fitted_prior():
    """With N(0, I) as the prior its estimate is the closed form up to sampling."""
    torch.manual_seed(0)
    model, images = vae.VAE(), torch.rand(4000, 784)
    prior = torch.distributions.MultivariateNormal(torch.zeros(20), torch.eye(20))
    args = vae.parse_args([])
    with torch.no_grad():
        model.fc22.bias -= 2  # so that the KL is not near 0
    closed, sampled = vae.test(model, images, args), vae.test(model, images, args, prior)
    assert closed["test_reconstruction"] == sampled["test_reconstruction"]
    # log q - log p = sum of (z^2 - epsilon^2 - logvar) / 2 varies by less than 4 over draws of
    # epsilon in 20 dimensions
    assert abs(closed["test_kl"] - sampled["test_kl"]) < 5 * 4 / 4000**0.5
    assert closed["test_kl"] > 5
    loss = sampled["test_reconstruction"] + sampled["test_kl"]
    assert sampled["test_loss"] == pytest.approx(loss)
