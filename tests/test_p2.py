"""p2.py: derivatives through training against closed forms, a network by hand against autograd."""
import itertools
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import p2

CPU = torch.device("cpu")


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


def test_how_much_of_the_gradient_of_one_image_lies_along_the_weights(network):
    layers, x, y, _ = network
    found = p2.measure(layers, x, y, 0.25)["one image"]
    w = layers[0][0]
    parts, sizes = [], []
    for i in range(7):  # each image as a batch of one
        copies = [(W.clone(), b.clone()) for W, b in layers]
        p2.sgd_step(copies, x[i:i + 1], y[i:i + 1], decay=1)
        g = (w - copies[0][0]) / p2.RATE
        parts.append((g * w).sum(dim=1).abs() / w.norm(dim=1))
        sizes.append(g.norm(dim=1))
    expected = torch.stack(parts).mean(dim=(0, 2)) / torch.stack(sizes).mean(dim=(0, 2))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


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


def test_every_tensor_is_made_on_the_device(monkeypatch, meta):
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: np.ones(tuple(tensor.shape)).tolist())
    layers = p2.initialise(30, meta)
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
    norm = np.exp(-0.2 * np.cumsum(np.concatenate(([0], 1 - pull))))[:, None]
    decay = lam / n * norm
    run = {"mark": np.arange(0, 601, 10), "norm": norm, "along": -np.append(pull, 1)[:, None] * decay,
           "data": 3 * decay, "decay": decay, "noise": 0 * decay, "slope": decay, "one image": decay}
    found = p2.describe((30, lam), run, 0, n)
    assert found["tail/gain"] == pytest.approx(0.5, abs=0.02)
    assert found["tail/pull"] == pytest.approx(found["tail/gain"], abs=0.02)
    assert found["tail/ratio"] == pytest.approx(3) and found["tail/noise share"] == 0
    assert found["by n_in"] == pytest.approx(found["tail"] * 28)


def test_the_factor_of_an_epoch():
    numbers = p2.check_factor(10_000, (1 - 1.5 / 10_000)**(1000 * np.arange(4)))
    assert numbers["dark"] < 1e-10
    assert f"{numbers['factor/book/exact']:.6f}" == "0.778796"
    assert f"{numbers['factor/book/limit']:.6f}" == "0.778801"
    assert numbers["factor/far/exact"] == pytest.approx((1 - 1000 / 50_000)**5000, rel=1e-9)
    assert f"{numbers['factor/far/quotient']:.3f}" == "0.363"  # although eta lambda is far below n


def test_the_command(command, glyph_dir, tmp_path):
    done = command(p2.__file__, "--no-cuda", "--data-dir", glyph_dir, "--out-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"p2.json", "p2_descent.pdf", "p2_decay.pdf"}
    numbers = json.loads((tmp_path / "p2.json").read_text())["numbers"]
    assert numbers["n"] == 300 and numbers["784-30-3/weights"] == 23820
    assert numbers["lambda/floor"] < 0 < numbers["eta/3/edge"] <= 16
    assert numbers["lambda/found"] == pytest.approx(numbers["lambda/best"], rel=0.05)  # of the grid
    for cost in p2.COSTS:
        assert 0 < numbers[f"784-30-3/{cost}/tail/gain"] < 1
        assert numbers[f"784-30-3/{cost}/cosine"] < 0.05
        assert numbers[f"784-30-3/{cost}/cosine, one image"] < 0.05
    assert numbers["784-30-3/quadratic/start"] < numbers["784-30-3/cross-entropy/start"]


def test_a_folder_that_cannot_be_written_is_named_before_training(fails, monkeypatch, tmp_path):
    monkeypatch.setattr(p2, "load_dataset", None)
    (tmp_path / "file").write_text("")
    assert "file/folder" in fails(p2, "--no-cuda", "--out-dir", tmp_path / "file/folder")
