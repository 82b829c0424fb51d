"""p5_toys.py: networks do not touch, losses and scores are what they are called, it runs."""
import argparse
import json

import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

import p5_toys

CPU = torch.device("cpu")
SMALL = ["--seeds", "2", "--prior-steps", "2", "--map-steps", "2"]
STEM = "p5_toys_seeds2_prior-steps2_map-steps2"


def test_a_stack_computes_what_its_networks_compute():
    params = [p.detach() for p in p5_toys.init_mlps([2, 5, 5, 1], [3, 4, 3], CPU)]
    x = torch.randn(3, 7, 2)
    for i in range(3):
        layers = []
        for weight, bias in zip(params[::2], params[1::2]):
            layers += [nn.Linear(*weight.shape[1:]), nn.LeakyReLU(0.2)]
            layers[-2].weight.data, layers[-2].bias.data = weight[i].T, bias[i, 0]
        torch.testing.assert_close(p5_toys.mlp(params, x)[i], nn.Sequential(*layers[:-1])(x[i]))
    first, second, third = params[0]  # of seeds 3, 4, 3
    assert torch.equal(first, third) and not torch.equal(first, second)


def test_losses_of_a_linear_discriminator():
    params = [torch.tensor([[[3.0], [4.0]]]), torch.tensor([[[0.5]]])]  # so |d logit/dx|^2 = 25
    points = torch.randn(2, 1, 6, 2)
    entropy = F.binary_cross_entropy_with_logits
    real, fake = (x[0] @ params[0][0] + 0.5 for x in points)
    plain = entropy(real, torch.ones(6, 1)) + entropy(fake, torch.zeros(6, 1))
    for r1 in (0.0, 0.2):
        loss, = p5_toys.discriminator_loss(params, *points, r1)
        torch.testing.assert_close(loss, plain + r1 / 2 * 25)
    loss, = p5_toys.generator_loss(params, points[1])
    torch.testing.assert_close(loss, entropy(fake, torch.ones(6, 1)))


@pytest.mark.parametrize("recipe", ["Adam 3e-3 0.5", "stable"])
def test_networks_trained_side_by_side_do_not_touch(recipe):
    def train(chosen):
        generator = torch.Generator().manual_seed(0)

        def draw():
            return torch.randn(2, 3, 8, 2, generator=generator)[:, chosen]

        return p5_toys.train(draw, [1, 2, 3][chosen], 6, 1, recipe, 15, CPU)

    together = train(slice(None))
    start = p5_toys.init_mlps([2, 6, 2], [12, 22, 32], CPU)
    for i in range(3):
        for p, alone, before in zip(together, train(slice(i, i + 1)), start):
            torch.testing.assert_close(p[i], alone[0], rtol=1e-3, atol=1e-4)
            assert not torch.equal(p[i], before[i])


def test_training_makes_every_tensor_on_its_device(monkeypatch):
    """On the meta device, which holds no numbers and takes no operand from elsewhere."""
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda params, betas, fused: adam(params, betas=betas))
    monkeypatch.setattr(torch.Tensor, "item", lambda self: 1.0)
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: [1.0] * len(self))
    args = argparse.Namespace(seeds=2, prior_steps=2, map_steps=2)
    meta = torch.device("meta")
    weights = list(p5_toys.VARIANTS["stable"].values())
    params = p5_toys.train_maps("stable", weights, args, meta)
    scores, images = p5_toys.judge_maps(params, torch.empty(60, 2, device=meta))
    of_priors, samples, _ = p5_toys.compare_priors(args, meta)
    for result in (*params, *scores.values(), images, *of_priors.values(), samples):
        assert result.device == meta
    assert images.shape == (10, 60, 2) and samples.shape == (4, 10_000, 2)


def test_the_two_priors_have_the_same_mean_and_covariance():
    torch.manual_seed(0)
    for z in p5_toys.draw_priors((1, 100_000), CPU):
        torch.testing.assert_close(z.mean(0), torch.zeros(2), atol=0.02, rtol=0)
        torch.testing.assert_close(z.T.cov(), torch.eye(2), atol=0.02, rtol=0)


def test_stretch_is_the_norm_of_the_jacobian():
    params = [p.detach() for p in p5_toys.init_mlps([2, 9, 2], [1], CPU)]
    z = torch.randn(1, 20, 2)
    jacobians = torch.func.vmap(torch.func.jacrev(
        lambda point: p5_toys.mlp(params, point[None, None])[0, 0]))(z[0])
    norms = torch.linalg.svdvals(jacobians)[:, 0]
    torch.testing.assert_close(p5_toys.stretch(params, z)[0], norms)


def test_scores_of_maps_that_are_known():
    """Three pairs: the right one; F right, G collapsed onto a cluster; both shifted off."""
    turn, back = p5_toys.TURN, p5_toys.TURN.T
    home = p5_toys.CLUSTERS[2]
    weights = torch.stack([turn, turn, turn, back, torch.zeros(2, 2), back])
    biases = torch.zeros(6, 1, 2)
    biases[4], biases[2], biases[5] = home, 9, 9
    torch.manual_seed(0)
    x = p5_toys.draw_around(p5_toys.CLUSTERS, p5_toys.CLUSTER_SD, (600,), CPU)
    scores, images = p5_toys.judge_maps([weights, biases], x)
    torch.testing.assert_close(images[0], x @ turn)
    assert scores["distinct"][:, :2].tolist() == [[6, 6], [6, 1]]
    assert scores["on"].tolist() == [[1, 1, 0], [1, 1, 0]]
    assert scores["agreement"][:, [0, 2]].tolist() == [[1, 0], [1, 0]]
    assert scores["agreement"][1, 1].item() == pytest.approx(1 / 6, abs=0.05)
    to_home = (x - home).norm(dim=1).mean()  # every x comes back where G ends
    torch.testing.assert_close(scores["round_trip"][0, :2], torch.tensor([0, to_home]))


def test_verdicts_need_both_directions():
    good = {"distinct": 6.0, "on": 0.99, "round_trip": 0.01, "agreement": 1.0}
    for change, verdict in (
            ({}, "right"), ({"agreement": 0.3}, "wrong"), ({"distinct": 5.0}, "collapsed"),
            ({"on": 0.5}, "inconsistent"), ({"round_trip": 1.0}, "inconsistent")):
        changed = good | change
        for f, g in ((good, changed), (changed, good)):
            scores = {key: torch.tensor([f[key], g[key]]) for key in good}
            assert p5_toys.verdict_on(scores) == verdict


def test_each_weight_does_what_its_name_says():
    """Strong weights, a short training: cycles return, identities stay, pairs are met, and only
    where asked for."""
    args = argparse.Namespace(seeds=2, map_steps=300)
    weights = [(0, 0, 0), (20, 0, 0), (0, 20, 0), (0, 0, 20)]
    params = [p.detach() for p in p5_toys.train_maps("stable", weights, args, CPU)]
    x = p5_toys.both_domains(p5_toys.CLUSTERS[:p5_toys.PAIRS], 8)
    y = p5_toys.swap(x)
    assert torch.equal(y[0], p5_toys.CLUSTERS[:3] @ p5_toys.TURN) and torch.equal(y[:8], x[8:])
    images = p5_toys.mlp(params, x)
    cycle = p5_toys.mlp(params, p5_toys.swap(images)) - y
    identity = p5_toys.mlp(params, y) - y
    for variant, error in ((1, cycle), (2, identity), (3, images - y)):
        by_variant = error.norm(dim=2).mean(1).view(2, 4, 2).mean((0, 2))
        assert by_variant[variant] < 0.6 and by_variant[0] > 1.2


def test_the_command_repeats_and_its_counts_add_up(command, monkeypatch, tmp_path):
    done = command(p5_toys.__file__, *SMALL, "--no-cuda", "--out-dir", tmp_path / "first")
    assert done.returncode == 0, done.stderr
    written = {path.name for path in (tmp_path / "first").iterdir()}
    assert written == {f"{STEM}.json", f"{STEM}_prior.pdf", f"{STEM}_maps.pdf"}
    out_dir = str(tmp_path / "second")
    monkeypatch.setattr("sys.argv", ["p5_toys.py", *SMALL, "--no-cuda", "--out-dir", out_dir])
    p5_toys.run(p5_toys.main)
    first, second = (json.loads((tmp_path / run / f"{STEM}.json").read_text())
                     for run in ("first", "second"))
    numbers = first["numbers"]
    assert numbers == second["numbers"]
    plain = [recipe for recipe in p5_toys.VARIANTS if recipe != "stable"]
    for verdict in (*p5_toys.VERDICTS, "neither"):
        counts = [numbers[f"{recipe}, cycle/{verdict}"] for recipe in plain]
        assert numbers[f"plain, cycle/{verdict}"] == sum(counts)
    collapsed = numbers["plain, cycle/collapsed"] / (2 * len(plain))
    assert numbers["plain, cycle/covered"] == 1 - collapsed
    for d in (2, 100):
        assert numbers[f"norm/{d}/inside"] == pytest.approx(stats.chi2(d).cdf(d / 2))
    assert numbers["ideal/share"] == pytest.approx(stats.chi2(2).sf(p5_toys.FAR**2))


def test_a_diverged_training_ends_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(p5_toys.RECIPES, "prior", p5_toys.RECIPES["prior"] | {"lr": 1e38})
    monkeypatch.setattr("sys.argv", ["p5_toys.py", *SMALL, "--out-dir", str(tmp_path)])
    with pytest.raises(SystemExit, match="^p5_toys.py: .*no longer finite$"):
        p5_toys.run(p5_toys.main)
    assert not list(tmp_path.iterdir())
