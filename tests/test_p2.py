"""p2.py: derivatives through training against closed forms, a network by hand against autograd."""
import functools
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import p2


def test_the_derivative_through_training_on_a_quadratic():
    h = torch.tensor([0.1, 1.0, 4.0], dtype=torch.float64)
    c = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    steps = 30
    eta = torch.tensor([0.01, 0.3, 0.49, 0.55, 2.0], dtype=torch.float64)  # the edge is 2 / 4

    def cost(w):
        return 0.5 * (h * w**2).sum(1)

    def final(eta):
        return cost(p2.unroll(cost, c.repeat(len(eta), 1), eta[:, None], steps)[-1])

    value, slope = p2.value_and_slope(final, eta)
    shrink = 1 - eta[:, None] * h
    expected = (0.5 * h * shrink**(2 * steps) * c**2).sum(1)
    expected_slope = -(steps * h**2 * shrink**(2 * steps - 1) * c**2).sum(1)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(slope, expected_slope, rtol=1e-10, atol=0)
    assert p2.difference_error(final, eta[:2]) < 1e-6


def test_unrolling_keeps_the_runs_apart_and_agrees_with_differences():
    eta = torch.tensor([0.05, 0.1, 0.2], dtype=torch.float64)
    together = p2.tanh_costs(eta, 20, init=1)
    assert together.shape == (21, 3) and (together[1:] < together[:-1]).all()
    torch.testing.assert_close(p2.tanh_costs(eta[1:2], 20, init=1)[:, 0], together[:, 1])
    assert p2.difference_error(lambda eta: p2.tanh_costs(eta, 20, init=1)[-1], eta) < 1e-6


def test_validation_cost_after_long_training_is_that_of_the_ridge_solution():
    problem = X, X_val, y, y_val = p2.ridge_problem(1, torch.device("cpu"))
    for lam in (2.0, 20.0):
        w = torch.linalg.solve(X.T @ X + lam * torch.eye(15, dtype=X.dtype), X.T @ y)
        expected = 0.5 * (X_val @ w - y_val).square().mean()
        log_lam = torch.tensor([math.log(lam)], dtype=X.dtype)
        found = p2.validation_cost(log_lam, problem, steps=2000)
        torch.testing.assert_close(found.squeeze(), expected, rtol=1e-9, atol=0)


def test_joint_descent_is_descent_and_takes_lambda_below_zero():
    X, _, y, _ = p2.ridge_problem(1, torch.device("cpu"))
    w, lam = torch.zeros(15, 1, dtype=X.dtype), torch.tensor(2.0, dtype=X.dtype)
    path = p2.descend_jointly(X, y)
    for expected in path[:30]:
        w, lam = w.detach().requires_grad_(), lam.detach().requires_grad_()
        cost = (X @ w - y).square().sum() / 40 + lam / 40 * w.square().sum()
        assert (lam.item(), cost.item(), w.norm().item()) == pytest.approx(expected, rel=1e-10)
        gradients = torch.autograd.grad(cost, (w, lam))
        w, lam = w - 0.2 * gradients[0], lam - 0.2 * gradients[1]
    lams = [row[0] for row in path]
    assert lams == sorted(lams, reverse=True) and lams[-1] < 0 and path[-1][1] < -1e6


@pytest.fixture
def network():
    """Layers in float64 of 2 x 2 networks 5-4-10, a batch of 7, and each network's loss."""
    torch.manual_seed(0)
    layers = [[torch.randn(4, *shape, dtype=torch.float64) for shape in layer]
              for layer in (((5, 4), (1, 4)), ((4, 10), (1, 10)))]
    x, y = torch.rand(7, 5, dtype=torch.float64), F.one_hot(torch.arange(7), 10).double()

    def cost(k, W1, b1, W2, b2):
        output = torch.sigmoid(torch.sigmoid(x @ W1 + b1) @ W2 + b2)
        if k < 2:
            return 0.5 * (output - y).square().sum() / 7
        return F.binary_cross_entropy(output, y, reduction="sum") / 7
    return layers, x, y, cost


def test_a_step_is_gradient_descent_with_decay_of_the_weights_alone(network):
    layers, x, y, cost = network
    parameters = [parameter for layer in layers for parameter in layer]  # W1, b1, W2, b2
    before = [parameter.clone() for parameter in parameters]
    p2.sgd_step(layers, x, y, decay=0.9)
    for k in range(4):
        single = [parameter[k].clone().requires_grad_() for parameter in before]
        gradients = torch.autograd.grad(cost(k, *single), single)
        for i, decay in enumerate((0.9, 1, 0.9, 1)):
            expected = decay * single[i].detach() - p2.RATE * gradients[i]
            torch.testing.assert_close(parameters[i][k], expected, rtol=1e-12, atol=1e-14)


def test_the_norms_of_the_gradients(network):
    layers, x, y, cost = network
    data, along, decay = p2.gradient_norms(layers, x, y, 0.25)
    assert data.shape == along.shape == decay.shape == (2, 4)
    for k in range(4):
        single = [parameter[k].clone().requires_grad_() for layer in layers for parameter in layer]
        gradients = torch.autograd.grad(cost(k, *single), single)
        for layer in range(2):
            w, g = single[2 * layer].detach(), gradients[2 * layer]
            expected = torch.stack((g.norm(), (g * w).sum() / w.norm(), w.norm() / 4))
            found = torch.stack((data[layer, k], along[layer, k], decay[layer, k]))
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_weights_of_a_black_pixel_feel_the_decay_alone(network):
    layers, x, y, _ = network
    x[:, 2] = 0
    start = layers[0][0][:, 2].clone()
    for _ in range(50):
        p2.sgd_step(layers, x, y, decay=1 - 0.01)
    torch.testing.assert_close(layers[0][0][:, 2], start * 0.99**50, rtol=1e-12, atol=0)


def test_where_decay_tails_off():
    pace, floor = 0.05, 0.1
    norms = np.sqrt(floor**2 + (1 - floor**2) * np.exp(-2 * pace * np.arange(200)))
    # the rate is half of pace where the square of the norm is twice that of the floor
    epoch, norm = p2.tail_off(norms, pace)
    assert norm == pytest.approx(2**0.5 * floor, rel=0.03)
    assert epoch == pytest.approx(-math.log(floor**2 / (1 - floor**2)) / (2 * pace), abs=1)
    never_slow = np.exp(-pace * np.arange(11))
    assert p2.tail_off(never_slow, pace) == pytest.approx((9.5, math.exp(-9.5 * pace)))


def test_the_command(monkeypatch, glyph_dir, tmp_path):
    monkeypatch.setattr(p2, "study_eta", functools.partial(p2.study_eta, steps=12))
    p2.main(["--inits", "2", "--no-cuda", "--data-dir", str(glyph_dir), "--out-dir", str(tmp_path)])
    record = json.loads((tmp_path / "p2_inits2.json").read_text())
    numbers = record["numbers"]
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"p2_inits2.json", "p2_inits2_hyper.pdf", "p2_inits2_decay.pdf"}
    assert record["settings"] == {"dataset": "mnist", "inits": 2, "seed": 1} and numbers["n"] == 300
    assert numbers["lambda/error"] < 1e-6 and numbers["lambda/end"] < numbers["lambda/floor"] < 0
    assert numbers["lambda/cost"] == pytest.approx(numbers["lambda/least"], abs=1e-3)
    assert f"{numbers['check/exact']:.6f}" == "0.778796"
    assert f"{numbers['check/limit']:.6f}" == "0.778801"
    assert numbers["second order/1"] == pytest.approx(0.01 / 2 + 0.01**2 / 3, rel=1e-3)
    assert numbers["784-30-3/weights"] == 23820 and numbers["196-100-3/weights"] == 20600
    assert numbers["784-30-3/quadratic/start"] < numbers["784-30-3/cross-entropy/start"]
    assert numbers["784-100-3/quadratic/end"] < numbers["784-10-3/quadratic/end"] < 1


def test_missing_data_is_one_line(monkeypatch, fails, tmp_path):
    (tmp_path / "file").write_text("")
    assert "File exists" in fails(p2, ["--data-dir", tmp_path / "file", "--out-dir", tmp_path], 1)


def test_the_fingerprint_moves_with_the_settings():
    one, two, other = (p2.fingerprint(p2.parse_args(flags)) for flags in ([], [], ["--seed", "2"]))
    assert one == two and not set(one) & set(other)
