"""p2.py: derivatives through training against closed forms, a network by hand against autograd."""
import itertools
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import p2

CPU = torch.device("cpu")


def test_the_derivative_through_training_on_a_quadratic():
    h, c = torch.tensor([[0.1, 1.0, 4.0], [1.0, -2.0, 0.5]], dtype=torch.float64)
    eta = torch.tensor([0.01, 0.3, 0.49, 0.55, 2.0], dtype=torch.float64, requires_grad=True)

    def cost(w):
        return 0.5 * (h * w**2).sum(1)

    value = cost(p2.unroll(cost, c.repeat(len(eta), 1), eta[:, None], 30)[-1])
    slope, = torch.autograd.grad(value.sum(), eta)
    shrink = 1 - eta[:, None] * h
    expected_slope = -(30 * h**2 * shrink**59 * c**2).sum(1)
    torch.testing.assert_close(value, (0.5 * h * shrink**60 * c**2).sum(1), rtol=1e-10, atol=0)
    torch.testing.assert_close(slope, expected_slope, rtol=1e-10, atol=0)


def test_sweeping_rates_agrees_with_differences():
    eta = torch.tensor([0.05, 0.1, 0.2], dtype=torch.float64)
    costs, slopes, _ = p2.sweep_rates(eta, 20, init=1)
    assert costs.shape == (21, 3) and (costs[1:] < costs[:-1]).all()
    up, down = (p2.sweep_rates(eta + step, 20, init=1)[0][-1] for step in (1e-5, -1e-5))
    torch.testing.assert_close(slopes, (up - down) / 2e-5, rtol=1e-6, atol=0)


def test_the_largest_curvature():
    w = torch.tensor([[0.3, -1.0, 2.0], [5.0, 0.1, 0.2]], dtype=torch.float64)
    curvature = p2.largest_curvature(lambda w: 0.25 * (w**4).sum(1), w)  # the Hessian is 3 diag(w^2)
    torch.testing.assert_close(curvature, torch.tensor([12.0, 75.0]).double())


def test_the_edge_is_where_the_rate_times_the_curvature_comes_to_two():
    etas = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    costs = torch.tensor([4.0, 3.0, 2.0, 1.0]).repeat(11, 1)
    slopes = torch.tensor([-1.0, 1.0, 7.0, -9.0])  # descent is to lead to 0.4
    found = p2.describe_rates(etas, costs, slopes, torch.tensor([9.0, 9.0, 7.0, 1.0]))
    assert found["edge"] == 0.3 and found["best 100"] == 0.4 and found["slope above"] == 9
    assert found["away below"] == found["away above"] == 0.5


def test_validation_cost_after_long_training_is_that_of_the_ridge_solution():
    problem = X, X_val, y, y_val = p2.ridge_problem(CPU)
    log_lam = torch.tensor([2.0, 20.0], dtype=X.dtype).log()
    found = p2.validation_cost(log_lam, problem, steps=2000)
    for lam, cost in zip((2, 20), found):
        w = torch.linalg.solve(X.T @ X + lam * torch.eye(15, dtype=X.dtype), X.T @ y)
        expected = 0.5 * (X_val @ w - y_val).square().mean()
        torch.testing.assert_close(cost, expected, rtol=1e-9, atol=0)


def test_joint_descent_is_descent_and_takes_lambda_below_zero():
    X, _, y, _ = p2.ridge_problem(CPU)
    w, lam = torch.zeros(15, 1, dtype=X.dtype), torch.tensor(2.0, dtype=X.dtype)
    path = p2.descend_jointly(X, y)
    for expected in path[:30]:
        assert lam.item() == pytest.approx(expected, rel=1e-10)
        w, lam = w.detach().requires_grad_(), lam.detach().requires_grad_()
        cost = (X @ w - y).square().sum() / 40 + lam / 40 * w.square().sum()
        gradients = torch.autograd.grad(cost, (w, lam))
        w, lam = w - 0.2 * gradients[0], lam - 0.2 * gradients[1]
    assert path == sorted(path, reverse=True) and path[-1] < 0


@pytest.fixture
def network():
    """Layers in float64 of 2 x 2 networks 5-4-10, a batch of 7, and each network's loss."""
    torch.manual_seed(0)
    layers = [[torch.randn(4, *shape, dtype=torch.float64) for shape in layer]
              for layer in (((5, 4), (1, 4)), ((4, 10), (1, 10)))]
    x, y = torch.rand(7, 5, dtype=torch.float64), F.one_hot(torch.arange(7), 10).double()
    x[:, 2] = 0

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
    dark = before[0][:, 2] * 0.9  # a black pixel's weights feel the decay alone
    torch.testing.assert_close(parameters[0][:, 2], dark, rtol=1e-12, atol=0)


def test_what_moves_the_norm(network):
    layers, x, y, cost = network
    found = p2.measure(layers, x, y, 0.25)
    for k in range(4):
        single = [parameter[k].clone().requires_grad_() for layer in layers for parameter in layer]
        w, b, *_ = single
        g, = torch.autograd.grad(cost(k, *single), w)
        sigma = torch.sigmoid(x @ w + b)
        expected = {"cost": cost(k, *single), "slope": (sigma * (1 - sigma)).mean(), "data": g.norm(),
                    "along": (g * w).sum() / w.norm(), "decay": w.norm() / 4}
        for name, value in expected.items():
            assert found[name][k].item() == pytest.approx(value.item(), rel=1e-12), name
        parts, sizes = [], []
        for i in range(7):  # the gradient of one image, as a batch of one
            copies = [(W.clone(), b.clone()) for W, b in layers]
            p2.sgd_step(copies, x[i:i + 1], y[i:i + 1], decay=1)
            g = (single[0] - copies[0][0][k]) / p2.RATE
            parts.append((g * w).sum(dim=0).abs() / w.norm(dim=0))
            sizes.append(g.norm(dim=0))
        expected = torch.stack(parts).mean() / torch.stack(sizes).mean()
        assert found["one image"][k].item() == pytest.approx(expected.item(), rel=1e-10)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_step_changes_the_norm_by_what_is_measured(network, monkeypatch, batch):
    """Averaged over all batches, to the order that `measure` states."""
    layers, x, y, _ = network
    penalty = 1e-4
    monkeypatch.setattr(p2, "BATCH", batch)
    found = p2.measure(layers, x, y, penalty)
    before = layers[0][0].flatten(1).norm(dim=1)
    changes = []
    for chosen in itertools.product(range(len(x)), repeat=batch):  # batches drawn with replacement
        copies = [(W.clone(), b.clone()) for W, b in layers]
        p2.sgd_step(copies, x[list(chosen)], y[list(chosen)], 1 - p2.RATE * penalty)
        changes.append(copies[0][0].flatten(1).square().sum(dim=1) - before.square())
    expected = torch.stack(changes).mean(dim=0) / (2 * before)
    change = -p2.RATE * (found["along"] + found["decay"] - found["noise"])
    torch.testing.assert_close(change, expected, rtol=0, atol=2 * p2.RATE**2 * penalty)


def test_training_stays_on_its_device(monkeypatch):
    """On the meta device a tensor left on the CPU raises."""
    monkeypatch.setattr(torch.Tensor, "item", lambda _: 1.0)
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: np.ones(tuple(tensor.shape)).tolist())
    meta = torch.device("meta")
    layers = p2.initialise(784, 30, meta)
    x, y = torch.rand(20, 784, device=meta), torch.rand(20, 10, device=meta)
    p2.sgd_step(layers, x, y, 0.9)
    assert all(value.is_meta for value in p2.measure(layers, x, y, 0.1).values())
    problem = p2.ridge_problem(meta)
    assert p2.validation_cost(torch.rand(4, dtype=torch.float64, device=meta), problem, 3).is_meta
    etas = torch.linspace(0, 1, 150, dtype=torch.float64, device=meta)
    assert all(part.is_meta for part in p2.sweep_rates(etas, 3, init=1))


def test_the_balance_at_the_tail_off():
    """Norms under a known pull: the weights get back what it says."""
    lam, n, epochs = 4, 100, 60  # 10 steps an epoch, pace 0.2
    pull = np.linspace(0, 1, epochs)  # of decay, in each epoch
    norm = np.exp(-0.2 * np.cumsum(np.concatenate(([0], 1 - pull))))
    decay = (lam / n * norm)[:, None]
    run = {"mark": np.arange(0, 601, 10), "norm": np.stack((norm, norm), axis=1)[:, :, None],
           "along": -np.append(pull, 1)[:, None] * decay, "data": 3 * decay, "decay": decay,
           "noise": 0 * decay, "cost": 1 + decay, "slope": decay, "one image": decay}
    found = p2.describe((784, 30, lam), run, 0, n)
    assert found["tail/gain"] == pytest.approx(0.5, abs=0.02)
    assert found["tail/pull"] == pytest.approx(found["tail/gain"], abs=0.02)
    assert found["tail/ratio"] == pytest.approx(3) and found["tail/noise share"] == 0
    assert found["end by n_in"] == pytest.approx(norm[-1] / 23520**0.5 * 28)
    assert found["end by n_in, output"] == pytest.approx(norm[-1] / 300**0.5 * 30**0.5)


def test_the_factor_of_an_epoch():
    numbers = p2.check_factor(10_000, (1 - 1.5 / 10_000)**(1000 * np.arange(4)))
    assert numbers["dark"] < 1e-10
    assert f"{numbers['factor/book/exact']:.6f}" == "0.778796"
    assert f"{numbers['factor/book/limit']:.6f}" == "0.778801"
    assert numbers["factor/far/exact"] == pytest.approx((1 - 1000 / 50_000)**5000, rel=1e-9)
    assert f"{numbers['factor/far/quotient']:.3f}" == "0.363"  # although eta lambda is far below n


def test_where_decay_tails_off():
    pace, floor = 0.05, 0.1
    norms = np.sqrt(floor**2 + (1 - floor**2) * np.exp(-2 * pace * np.arange(200)))
    # the rate is half of pace where the square of the norm is twice that of the floor
    epoch, norm = p2.tail_off(norms, pace)
    assert norm == pytest.approx(2**0.5 * floor, rel=0.03)
    assert epoch == pytest.approx(-math.log(floor**2 / (1 - floor**2)) / (2 * pace), abs=1)


def test_the_command(command, glyph_dir, tmp_path):
    done = command(p2.__file__, "--no-cuda", "--data-dir", glyph_dir, "--out-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"p2.json", "p2_lambda.pdf", "p2_eta.pdf", "p2_decay.pdf", "p2_tails.pdf"}
    numbers = json.loads((tmp_path / "p2.json").read_text())["numbers"]
    assert numbers["n"] == 300 and numbers["784-30-3/weights"] == 23820
    assert numbers["lambda/floor"] < 0 and 0 < numbers["eta/edge/min"] <= numbers["eta/3/edge"] <= 16
    assert numbers["lambda/found"] == pytest.approx(numbers["lambda/best"], rel=0.05)  # of the grid
    predicted = numbers["saturation/slope"]  # by the argument, from the normal distribution
    assert numbers["784-100-3/quadratic/slope"] == pytest.approx(predicted, rel=0.05)
    for cost in p2.COSTS:
        assert 0 < numbers[f"784-30-3/{cost}/tail/gain"] < 1
        assert numbers[f"784-30-3/{cost}/cosine"] < 0.05
        assert numbers[f"784-30-3/{cost}/cosine, one image"] < numbers["saturation/cosine, one image"]
    assert numbers["784-30-3/quadratic/start"] < numbers["784-30-3/cross-entropy/start"]
