"""p2.py: derivatives through training against closed forms, a network by hand against autograd."""
import functools
import itertools
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


def test_the_quadratic_of_the_figure_leaves_at_its_edge():
    numbers, curves = p2.study_quadratic(torch.device("cpu"), steps=40)
    assert numbers["quadratic/edge"] == 0.5 and numbers["quadratic/error"] < 1e-10
    eta, cost = np.array(curves["quadratic_eta"]), np.array(curves["quadratic_cost"])
    growth = (4 * eta - 1)**80  # (eta h_max - 1)^2T, of the component of h_max = 4
    np.testing.assert_allclose(cost[eta > 0.52], 2 * growth[eta > 0.52], rtol=1e-3)
    assert cost[eta < 0.5].max() < 2.55 < cost[eta > 0.51].min()  # 2.55 is the cost before training


def test_the_largest_curvature():
    w = torch.tensor([[0.3, -1.0, 2.0], [5.0, 0.1, 0.2]], dtype=torch.float64)
    torch.testing.assert_close(p2.largest_curvature(p2.quadratic_cost, w), torch.full((2,), 4.0).double())

    def quartic(w):  # the Hessian is 3 diag(w^2)
        return 0.25 * (w**4).sum(1)

    torch.testing.assert_close(p2.largest_curvature(quartic, w), torch.tensor([12.0, 75.0]).double())
    start, cost = p2.tanh_problem(w, init=1)
    hessian = torch.autograd.functional.hessian(lambda v: cost(v[None])[0], start[0])
    torch.testing.assert_close(p2.largest_curvature(cost, start)[0], torch.linalg.eigvalsh(hessian)[-1])


def test_the_edge_is_where_the_rate_times_the_curvature_comes_to_two():
    etas = torch.tensor([0.1, 0.2, 0.3, 0.4])
    assert p2.find_edge(etas, torch.tensor([9.0, 9.0, 7.0, 1.0])) == 2
    assert p2.find_edge(etas, torch.zeros(4)) == 3  # the last, where no rate gets there


def test_unrolling_keeps_the_runs_apart_and_agrees_with_differences():
    eta = torch.tensor([0.05, 0.1, 0.2], dtype=torch.float64)
    together, slopes, curvatures = p2.sweep_rates(eta, 20, init=1)
    assert together.shape == (21, 3) and (together[1:] < together[:-1]).all()
    alone, slope, curvature = p2.sweep_rates(eta[1:2], 20, init=1)
    torch.testing.assert_close(alone[:, 0], together[:, 1])
    torch.testing.assert_close(torch.stack((slope[0], curvature[0])),
                               torch.stack((slopes[1], curvatures[1])))
    objective = functools.partial(p2.last_tanh_cost, steps=20, init=1)
    torch.testing.assert_close(objective(eta), together[-1])
    torch.testing.assert_close(p2.value_and_slope(objective, eta)[1], slopes)
    assert p2.difference_error(objective, eta) < 1e-6


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


def test_what_moves_the_norms(network, monkeypatch):
    layers, x, y, cost = network
    monkeypatch.setattr(p2, "BATCH", 1)
    found = p2.measure(layers, x, y, 0.25)
    for k in range(4):
        single = [parameter[k].clone().requires_grad_() for layer in layers for parameter in layer]
        gradients = torch.autograd.grad(cost(k, *single), single)
        assert found["cost"][k] == pytest.approx(cost(k, *single).item(), rel=1e-12)
        z = (x @ single[0] + single[1]).detach()
        slope = torch.sigmoid(z) * torch.sigmoid(-z)
        assert found["slope"][k] == pytest.approx(slope.mean().item(), rel=1e-12)
        assert found["product"][k] == pytest.approx((z.abs() * slope).mean().item(), rel=1e-9)
        for layer in range(2):
            w, g = single[2 * layer].detach(), gradients[2 * layer]
            expected = torch.stack((g.norm(), (g * w).sum() / w.norm(), w.norm() / 4))
            measured = [found[name][layer, k] for name in ("data", "along", "decay")]
            torch.testing.assert_close(torch.stack(measured), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_step_changes_the_norm_by_what_is_measured(network, monkeypatch, batch):
    """Averaged over all batches, to the order that `measure` states."""
    layers, x, y, _ = network
    penalty = 1e-4
    monkeypatch.setattr(p2, "BATCH", batch)
    found = p2.measure(layers, x, y, penalty)
    before = p2.weight_norms(layers)
    changes = []
    for chosen in itertools.product(range(len(x)), repeat=batch):  # batches drawn with replacement
        copies = [(W.clone(), b.clone()) for W, b in layers]
        p2.sgd_step(copies, x[list(chosen)], y[list(chosen)], 1 - p2.RATE * penalty)
        changes.append(p2.weight_norms(copies).square() - before.square())
    expected = torch.stack(changes).mean(dim=0) / (2 * before)
    change = -p2.RATE * (found["along"] + found["decay"] - found["noise"])
    torch.testing.assert_close(change, expected, rtol=0, atol=2 * p2.RATE**2 * penalty)


def test_a_unit_feels_little_along_its_weights(network):
    """<g_j, w_j> = E[dC_0/da_j sigma'(z_j) (z_j - b_j)], and |z| sigma'(z) is at most 0.224."""
    layers, x, y, cost = network
    for k in range(4):
        W1, b1, W2, b2 = [parameter[k].clone().requires_grad_() for layer in layers for parameter in layer]
        z = (x @ W1 + b1).detach()
        a = torch.sigmoid(z).requires_grad_()
        output = torch.sigmoid(a @ W2 + b2)
        square = 0.5 * (output - y).square().sum() / 7
        loss = square if k < 2 else F.binary_cross_entropy(output, y, reduction="sum") / 7
        by_a, = torch.autograd.grad(loss, a)
        g, = torch.autograd.grad(cost(k, W1, b1, W2, b2), W1)
        slope = torch.sigmoid(z) * torch.sigmoid(-z)
        torch.testing.assert_close((g * W1).sum(dim=0), (by_a * slope * (z - b1)).sum(dim=0))
    z = torch.linspace(-50, 50, 100_001, dtype=torch.float64)
    product = z.abs() * torch.sigmoid(z) * torch.sigmoid(-z)
    assert 0.2238 < product.max() < 0.2240
    assert product.sum().item() / 1000 == pytest.approx(2 * math.log(2), rel=1e-6)


def test_saturation_of_units_from_the_normal_distribution():
    torch.manual_seed(0)
    images = torch.rand(3, 1, 28, 28)
    s = (1 + images.flatten(1).square().sum(1)).sqrt()
    z = s[:, None] * torch.randn(3, 1_000_000)
    slope = torch.sigmoid(z) * torch.sigmoid(-z)
    found = p2.saturation(images)
    assert found["saturation/slope"] == pytest.approx(slope.mean().item(), rel=0.02)
    assert found["saturation/product"] == pytest.approx((z.abs() * slope).mean().item(), rel=0.02)


def test_the_balance_at_the_tail_off():
    """Norms under a known pull: the weights get back what it says."""
    lam, n, epochs = 4, 100, 60  # 10 steps an epoch, pace 0.2
    pace, marks = 0.2, np.arange(0, 601, 10)
    pull = np.linspace(0, 1, epochs)  # of decay, in each epoch
    norm = np.exp(-pace * np.cumsum(np.concatenate(([0], 1 - pull))))
    decay = lam / n * norm
    nets = {"norm": np.stack((norm, norm), axis=1)[:, :, None],
            "along": -(np.append(pull, 1) * decay)[:, None, None], "data": 3 * decay[:, None, None],
            "decay": decay[:, None, None], "noise": 0 * decay[:, None, None],
            "cost": np.ones((epochs + 1, 1)), "slope": np.ones((epochs + 1, 1))}
    found = p2.balance({"mark": marks}, nets, (784, 30, lam), n)
    assert found["tail/gain"] == pytest.approx(0.5, abs=0.02)
    assert found["tail/pull"] == pytest.approx(found["tail/gain"], abs=0.02)
    assert found["tail/ratio"] == pytest.approx(3) and found["tail/noise share"] == 0


def test_the_factor_of_an_epoch():
    numbers = p2.check_factor(10_000)
    assert f"{numbers['factor/book/exact']:.6f}" == "0.778796"
    assert f"{numbers['factor/book/limit']:.6f}" == "0.778801"
    assert numbers["factor/far/exact"] == pytest.approx((1 - 1000 / 50_000)**5000, rel=1e-9)
    assert numbers["factor/far/share"] == 0.02 and numbers["factor/far/square"] == 1
    assert f"{numbers['factor/far/quotient']:.3f}" == "0.363"  # although eta lambda is far below n
    for name in ("here", "book", "near"):
        second = math.exp(-numbers[f"factor/{name}/square"])
        assert numbers[f"factor/{name}/quotient"] == pytest.approx(second, rel=1e-4)


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
    figures = {f"p2_inits2_{name}.pdf" for name in ("lambda", "eta", "decay", "tails")}
    assert written == {"p2_inits2.json"} | figures
    assert record["settings"] == {"dataset": "mnist", "inits": 2, "seed": 1} and numbers["n"] == 300
    assert numbers["lambda/error"] < 1e-6 and numbers["lambda/end"] < numbers["lambda/floor"] < 0
    assert numbers["lambda/cost"] == pytest.approx(numbers["lambda/least"], abs=1e-3)
    assert 0 < numbers["eta/edge/min"] <= numbers["eta/2/edge"] <= 16
    for cost in p2.COSTS:
        assert 0 < numbers[f"784-30-3/{cost}/tail/gain"] < 1
        assert abs(numbers[f"784-30-3/{cost}/cosine"]) < 0.05
    assert numbers["784-30-3/weights"] == 23820 and numbers["196-100-3/weights"] == 20600
    assert numbers["784-30-3/quadratic/start"] < numbers["784-30-3/cross-entropy/start"]
    assert numbers["784-100-3/quadratic/end"] < numbers["784-10-3/quadratic/end"] < 1


def test_missing_data_is_one_line(monkeypatch, fails, tmp_path):
    (tmp_path / "file").write_text("")
    assert "File exists" in fails(p2, ["--data-dir", tmp_path / "file", "--out-dir", tmp_path], 1)


def test_the_fingerprint_moves_with_the_settings():
    one, two, other = (p2.fingerprint(p2.parse_args(flags)) for flags in ([], [], ["--seed", "2"]))
    assert one == two and not set(one) & set(other)
