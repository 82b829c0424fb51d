"""p5_toys.py: networks do not touch, losses and scores are what they are called, it runs."""
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import p5_toys

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name in ("SEEDS", "PRIOR_STEPS", "MAP_STEPS"):
        monkeypatch.setattr(p5_toys, name, 2)


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


@pytest.mark.parametrize("name", ["Adam 3e-3 0.5", "stable"])
def test_networks_trained_side_by_side_do_not_touch(name):
    def train(chosen):
        generator = torch.Generator().manual_seed(0)

        def draw():
            return torch.randn(2, 3, 8, 2, generator=generator)[:, chosen]

        recipe = p5_toys.MAP_RECIPES[name]
        return p5_toys.train(draw, [1, 2, 3][chosen], 6, 1, recipe, 15, CPU)

    together = train(slice(None))
    start = p5_toys.init_mlps([2, 6, 2], [12, 22, 32], CPU)
    for i in range(3):
        for p, alone, before in zip(together, train(slice(i, i + 1)), start):
            torch.testing.assert_close(p[i], alone[0], rtol=1e-3, atol=1e-4)
            assert not torch.equal(p[i], before[i])


def test_training_makes_every_tensor_on_its_device(monkeypatch, meta):
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda params, betas, fused: adam(params, betas=betas))
    params = p5_toys.train_maps(p5_toys.MAP_RECIPES["stable"], meta)
    scores, images = p5_toys.judge_maps(params, torch.empty(60, 2, device=meta))
    samples, far = p5_toys.compare_priors(meta)
    for result in (*params, *scores.values(), images, samples, far):
        assert result.device == meta
    assert images.shape == (4, 60, 2) and samples.shape == (2, 2, 10_000, 2)


def test_the_two_priors_have_the_same_mean_and_covariance():
    torch.manual_seed(0)
    for z in p5_toys.draw_priors((1, 100_000), CPU):
        torch.testing.assert_close(z.mean(0), torch.zeros(2), atol=0.02, rtol=0)
        torch.testing.assert_close(z.T.cov(), torch.eye(2), atol=0.02, rtol=0)


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


def test_the_cycle_loss_brings_points_back_and_only_where_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(p5_toys, "MAP_STEPS", 300)
    monkeypatch.setattr(p5_toys, "CYCLE", {"independent": 0.0, "cycle": 20.0})  # drowns the GANs
    params = [p.detach() for p in p5_toys.train_maps(p5_toys.MAP_RECIPES["stable"], CPU)]
    scores, _ = p5_toys.judge_maps(params, p5_toys.CLUSTERS)
    independent, cycle = scores["round_trip"].chunk(2, dim=1)
    assert cycle.mean() < 0.6 and independent.mean() > 1.2


def test_the_command_and_that_its_counts_add_up(call, tmp_path):
    call(p5_toys, "--no-cuda", "--out-dir", tmp_path)
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"p5_toys.json", "p5_toys_prior.pdf", "p5_toys_maps.pdf"}
    numbers = json.loads((tmp_path / "p5_toys.json").read_text())["numbers"]
    for variant in p5_toys.CYCLE:
        for name, trainings in (("plain", 8), *dict.fromkeys(p5_toys.MAP_RECIPES, 2).items()):
            counts = [numbers[f"{name}, {variant}/{verdict}"] for verdict in p5_toys.VERDICTS]
            assert sum(counts) == trainings


def test_a_diverged_training_ends_in_one_line(fails, monkeypatch, tmp_path):
    monkeypatch.setitem(p5_toys.PRIOR_RECIPE, "lr", 1e38)
    line = fails(p5_toys, "--no-cuda", "--out-dir", tmp_path)
    assert line.endswith("no longer finite") and not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named_before_training(fails, monkeypatch, tmp_path):
    monkeypatch.setattr(p5_toys, "train", None)
    (tmp_path / "file").write_text("")
    assert "file/folder" in fails(p5_toys, "--no-cuda", "--out-dir", tmp_path / "file/folder")
