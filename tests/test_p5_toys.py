"""p5_toys.py: networks do not touch, losses and scores are what they are called, it runs."""
import argparse
import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import p5_toys

CPU = torch.device("cpu")
SMALL = ["--prior-steps", "2", "--map-steps", "2", "--seeds", "2"]
NAME = p5_toys.parse_args(SMALL).run_name


def linear(weight, bias):
    """Stacked parameters of maps x -> x weight + bias: weight (n, 2, 2), bias (n, 2)."""
    return [torch.tensor(weight), torch.tensor(bias)[:, None]]


def test_a_stack_computes_what_its_networks_compute():
    params = p5_toys.init_mlps([2, 5, 5, 1], [3, 4, 3])
    x = torch.randn(3, 7, 2)
    for i in range(3):
        layers = []
        for weight, bias in zip(params[::2], params[1::2]):
            layers += [nn.Linear(*weight.shape[1:]), nn.LeakyReLU(0.2)]
            layers[-2].weight.data, layers[-2].bias.data = weight[i].T, bias[i, 0]
        torch.testing.assert_close(p5_toys.mlp(params, x)[i], nn.Sequential(*layers[:-1])(x[i]))
    first, second, third = params[0]  # of seeds 3, 4, 3
    assert torch.equal(first, third)
    assert not torch.equal(first, second)


def test_discriminator_loss_of_a_linear_discriminator():
    params = [torch.tensor([[[3.0], [4.0]]]), torch.tensor([[[0.5]]])]  # so |d logit/dx|^2 = 25
    reals, fakes = torch.randn(2, 1, 6, 2)
    expected = 0.1 * 25
    for points, label in ((reals, 1.0), (fakes, 0.0)):
        logits = points[0] @ params[0][0] + 0.5
        target = torch.full_like(logits, label)
        expected = expected + F.binary_cross_entropy_with_logits(logits, target)
    loss, = p5_toys.discriminator_loss(params, reals, fakes, 0.2)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("recipe", p5_toys.RECIPES)
def test_networks_trained_side_by_side_do_not_touch(recipe):
    def train(chosen):
        generator = torch.Generator().manual_seed(0)

        def draw():
            return torch.randn(2, 3, 8, 2, generator=generator)[:, chosen]

        return p5_toys.train(draw, [1, 2, 3][chosen], width=6, depth=1, steps=15, device=CPU,
                             recipe=p5_toys.RECIPES[recipe])

    together = train(slice(None))
    start = p5_toys.init_mlps([2, 6, 2], [12, 22, 32])
    for i in range(3):
        alone = train(slice(i, i + 1))
        for p, p_alone, before in zip(together, alone, start):
            torch.testing.assert_close(p[i], p_alone[0], rtol=1e-3, atol=1e-4)
            assert not torch.equal(p[i], before[i])


def test_the_two_priors_have_the_same_mean_and_covariance_and_one_has_gaps():
    gaussian, mixture = p5_toys.draw_priors((1, 100_000), torch.Generator().manual_seed(0))
    for z in (gaussian, mixture):
        torch.testing.assert_close(z.mean(0), torch.zeros(2), atol=0.02, rtol=0)
        torch.testing.assert_close(z.T.cov(), torch.eye(2), atol=0.02, rtol=0)
    ray = torch.atan2(mixture[:, 1], mixture[:, 0]).div(math.tau / 8)
    in_gaps = (ray - ray.round()).abs().gt(0.45)  # where a tenth of the angles of N(0, I) lie
    assert in_gaps.float().mean() < 0.01


def test_stretch_is_the_norm_of_the_jacobian():
    weight = [[[3.0, 0.0], [4.0, 0.0]], [[0.0, 2.0], [1.0, 0.0]]]
    params = linear(weight, [[0.0, 1.0], [5.0, 0.0]])
    norms = p5_toys.stretch(params, torch.randn(2, 4, 2))
    torch.testing.assert_close(norms, torch.tensor([[5.0], [2.0]]).expand(2, 4))


def test_stretch_is_the_most_that_a_small_step_is_stretched():
    params = [p.double() for p in p5_toys.init_mlps([2, 9, 2], [1])]
    z = torch.randn(1, 20, 2).double()
    turns = torch.arange(360) * math.tau / 360
    steps = 1e-6 * torch.stack((turns.cos(), turns.sin()), 1).double()
    around = p5_toys.mlp(params, (z[0, :, None] + steps).view(1, -1, 2)).view(20, 360, 2)
    moved = around - p5_toys.mlp(params, z)[0][:, None]
    steepest = moved.norm(dim=2).amax(1) / 1e-6
    torch.testing.assert_close(steepest, p5_toys.stretch(params, z)[0], rtol=1e-3, atol=0)


@pytest.mark.parametrize("dimension", [1, *p5_toys.DIMENSIONS])
def test_shell_against_draws(dimension):
    z = torch.randn(100_000, dimension, generator=torch.Generator().manual_seed(0))
    norms = z.norm(dim=1) / math.sqrt(dimension)
    mean, sd, inside = p5_toys.shell(dimension)
    assert norms.mean().item() == pytest.approx(mean, abs=0.01)
    assert norms.std().item() == pytest.approx(sd, abs=0.01)
    assert norms.square().lt(0.5).double().mean().item() == pytest.approx(inside, abs=0.01)


def test_shell_in_the_plane_in_closed_form():
    mean = math.sqrt(math.pi) / 2
    sd = math.sqrt(1 - math.pi / 4)
    inside = 1 - math.exp(-0.5)
    assert p5_toys.shell(2) == pytest.approx((mean, sd, inside))


def test_judge_maps_on_maps_whose_scores_are_known():
    """Four pairs: the right one; F right, G collapsed onto a cluster; F turned the wrong way with
    its inverse; F shifted off Y."""
    turn = p5_toys.TURN.tolist()
    back = p5_toys.TURN.T.tolist()
    zero = [[0.0, 0.0], [0.0, 0.0]]
    stay = [0.0, 0.0]
    home = p5_toys.CLUSTERS[2].tolist()
    params = linear([turn, turn, back, turn, back, zero, turn, back],
                    [stay, stay, stay, [9.0, 0.0], stay, home, stay, [0.0, 9.0]])
    generator = torch.Generator().manual_seed(0)
    x = p5_toys.draw_around(p5_toys.CLUSTERS, p5_toys.CLUSTER_SD, (600,), generator)
    scores, images = p5_toys.judge_maps(params, x)
    verdicts = p5_toys.verdicts_on(scores)
    torch.testing.assert_close(images[0], x @ p5_toys.TURN)
    assert verdicts[0] == "right" and verdicts[1] == verdicts[3] == "neither"
    assert scores["distinct"][:, 0].tolist() == [6, 6]
    assert scores["distinct"][:, 1].tolist() == [6, 1]
    assert scores["agreement"][:, 0].tolist() == [1, 1]
    assert scores["agreement"][1, 1].item() == pytest.approx(1 / 6, abs=0.05)
    assert scores["agreement"][0, 2] < 0.5
    assert scores["agreement"][0, 3] == 0
    assert scores["on"][1, 1] == 1
    assert scores["on"][0, 3] == 0
    round_trip = scores["round_trip"]
    torch.testing.assert_close(round_trip[:, [0, 2]], torch.zeros(2, 2), atol=1e-5, rtol=0)
    to_home = (x - torch.tensor(home)).norm(dim=1).mean()  # every x comes back where G ends
    torch.testing.assert_close(round_trip[0, 1], to_home)


def test_verdicts_need_both_directions():
    good = {"distinct": 6.0, "on": 0.99, "round_trip": 0.01, "agreement": 1.0}
    for change, verdict in (
            ({}, "right"), ({"agreement": 0.3}, "wrong"), ({"distinct": 5.0}, "neither"),
            ({"on": 0.5}, "neither"), ({"round_trip": 1.0}, "neither")):
        changed = good | change
        for f, g in ((good, changed), (changed, good)):
            scores = {key: torch.tensor([[f[key]], [g[key]]]) for key in good}
            assert p5_toys.verdicts_on(scores) == [verdict]


def test_each_weight_does_what_its_name_says():
    """Strong weights, a short training: cycles return, identities stay, pairs are met, and only
    where asked for."""
    args = argparse.Namespace(seed=1, seeds=2, map_steps=300)
    weights = [(0, 0, 0), (20, 0, 0), (0, 20, 0), (0, 0, 20)]
    params = p5_toys.train_maps("stable", weights, args, CPU)
    count = len(params[0]) // 2
    x = p5_toys.both_domains(p5_toys.CLUSTERS[:p5_toys.PAIRS], count)
    y = p5_toys.swap(x)
    assert torch.equal(y[:count], x[count:])
    assert torch.equal(y[0], p5_toys.CLUSTERS[:3] @ p5_toys.TURN)
    images = p5_toys.mlp(params, x)
    cycle = p5_toys.mlp(params, p5_toys.swap(images)) - y
    identity = p5_toys.mlp(params, y) - y
    pairs = images - y
    for variant, error in ((1, cycle), (2, identity), (3, pairs)):
        by_variant = error.norm(dim=2).mean(1).view(2, 4, 2).mean((0, 2))
        assert by_variant[variant] < 0.6
        assert by_variant[0] > 1.2


def test_the_command_writes_its_record_and_figures_and_repeats(command, tmp_path):
    done = command(p5_toys.__file__, *SMALL, "--no-cuda", "--out-dir", tmp_path / "first")
    assert done.returncode == 0, done.stderr
    written = {path.name for path in (tmp_path / "first").iterdir()}
    assert written == {f"{NAME}.json", f"{NAME}_prior.pdf", f"{NAME}_maps.pdf"}
    p5_toys.main([*SMALL, "--no-cuda", "--out-dir", str(tmp_path / "second")])
    first, second = (json.loads((tmp_path / run / f"{NAME}.json").read_text())
                     for run in ("first", "second"))
    numbers = first["numbers"]
    assert numbers == second["numbers"]
    assert first["settings"]["seeds"] == 2
    for variant in p5_toys.VARIANTS:
        counts = [numbers[f"{variant}/{verdict}"] for verdict in ("right", "wrong", "neither")]
        assert sum(counts) == 2
    difference = numbers["Gaussian/share/mean"] - numbers["mixture/share/mean"]
    assert numbers["paired/share/mean"] == pytest.approx(difference, abs=1e-6)


def test_the_ideal_share_is_that_of_the_data(monkeypatch):
    monkeypatch.setattr(p5_toys, "FAR", 2)
    generator = torch.Generator().manual_seed(0)
    x = p5_toys.draw_around(p5_toys.MODES, p5_toys.MODE_SD, (100_000,), generator)
    far = torch.cdist(x, p5_toys.MODES).amin(1) > p5_toys.FAR * p5_toys.MODE_SD
    assert far.float().mean().item() == pytest.approx(math.exp(-p5_toys.FAR**2 / 2), abs=0.005)


def test_a_diverged_training_ends_in_one_line(monkeypatch, fails, tmp_path):
    monkeypatch.setitem(p5_toys.RECIPES, "prior", p5_toys.RECIPES["prior"] | {"lr": 1e38})
    assert "no longer finite" in fails(p5_toys, [*SMALL, "--out-dir", tmp_path], 1)
    assert not list(tmp_path.iterdir())


def test_the_fingerprint_moves_with_the_settings():
    first, second, other = (p5_toys.fingerprint(p5_toys.parse_args(flags))
                            for flags in ([], [], ["--seed", "2"]))
    assert first == second
    assert not set(first) & set(other)
