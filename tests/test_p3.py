"""p3_autoencoder.py: corruption and its exact denoiser, PCA, neighbours, the meta device, the command."""
import json
import math
from argparse import Namespace

import numpy as np
import pytest
import torch

import p3_autoencoder as p3


def test_the_optimal_step_is_tweedies_formula():
    """E[x | x^] - x^ = sigma^2 grad log p_sigma(x^), the gradient by autograd."""
    corrupted = torch.randn(50, 2, dtype=torch.float64, requires_grad=True)
    t = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    squared_distance = (corrupted[:, None] - torch.stack((t, t**2), dim=1)).square().sum(2)
    log_density = torch.logsumexp(-squared_distance / (2 * p3.SIGMA**2), dim=1)
    score, = torch.autograd.grad(log_density.sum(), corrupted)
    torch.testing.assert_close(p3.optimal_step(corrupted.detach()), p3.SIGMA**2 * score)


def test_corruption_has_the_stated_moments():
    torch.manual_seed(0)
    noise = p3.corrupt(torch.ones(100_000, 2)) - 1
    moments, expected = noise.T @ noise / len(noise), p3.SIGMA**2 * torch.eye(2)
    torch.testing.assert_close(moments, expected, atol=5 * p3.SIGMA**2 / 300, rtol=0)
    assert noise.mean(0).abs().max() < 5 * p3.SIGMA / math.sqrt(100_000)


def test_pca_is_the_singular_value_decomposition_and_no_linear_network_is_better():
    torch.manual_seed(3)
    images = torch.rand(200, 4) @ torch.rand(4, p3.PIXELS) / 4
    pca, explained = p3.pca_network(images)
    pixels = images.double().numpy()
    _, singular, vt = np.linalg.svd(pixels - pixels.mean(0), full_matrices=False)
    error = p3.test({"pca": pca}, images, images)["pca_test_mse"]
    assert error == pytest.approx((singular[2:] ** 2).sum() / images.numel(), rel=1e-4)
    assert explained == pytest.approx((singular[:2] ** 2).sum() / (singular**2).sum(), rel=1e-6)
    cosines = np.diag(vt[:2] @ pca.decoder.weight.detach().numpy())
    assert np.allclose(np.abs(cosines), 1, atol=1e-5)
    torch.nn.functional.mse_loss(pca(images), images).backward()  # a stationary point
    assert max(parameter.grad.abs().max() for parameter in pca.parameters()) < 1e-6


def test_neighbours_against_a_double_loop(monkeypatch):
    monkeypatch.setattr(p3, "NEIGHBOURS", 5)
    torch.manual_seed(0)
    codes, queries = torch.randn(60, 2) * torch.tensor([1, 9]), torch.randn(20, 2)
    labels = torch.randint(10, (60,))
    precision = np.linalg.inv(np.cov(codes.double().numpy().T))
    for query, neighbours in zip(queries, p3.neighbour_labels(codes, labels, queries)):
        steps = (codes - query).double().numpy()
        distance = [step @ precision @ step for step in steps]
        assert torch.equal(neighbours, labels[np.argsort(distance)[:5]])


def test_votes_and_shares_of_the_neighbours_by_hand():
    """Three images of class 3 with four neighbours each: half 3, then 5 (4 of 12), then 8."""
    neighbours = torch.tensor([[3, 3, 5, 3], [5, 3, 5, 8], [3, 3, 8, 5], [0, 0, 0, 1]])
    labels = torch.tensor([3, 3, 3, 1])
    found = p3.neighbour_numbers(neighbours, labels)
    assert found["knn_accuracy"] == 2 / 4
    expected = [0, 0, 0, 6 / 12, 0, 4 / 12, 0, 0, 2 / 12, 0]
    assert [found[f"neighbours_3_{other}"] for other in range(10)] == pytest.approx(expected)
    assert (found["neighbours_1_0"], found["neighbours_1_1"]) == pytest.approx((3 / 4, 1 / 4))


def test_no_numeral_hides_another_where_all_classes_lie_in_one_place():
    torch.manual_seed(0)
    codes = torch.randn(1000, 2) * torch.tensor([1, 9])
    spots = p3.numeral_places(codes, torch.arange(1000) % 10)
    steps = (spots[:, None] - spots) / (codes.max(0).values - codes.min(0).values)
    assert (steps.norm(dim=2) + torch.eye(10)).min() > 0.04


def test_every_tensor_is_made_on_the_device(monkeypatch, meta):
    monkeypatch.setattr(torch.Tensor, "cov", lambda rows, correction=1: rows @ rows.T)  # has none
    images = torch.empty(200, p3.PIXELS, device=meta)
    models = torch.nn.ModuleDict({name: p3.Autoencoder(name) for name in ("linear", "sigmoid")})
    models.to(meta)
    optimizer = torch.optim.Adam(models.parameters())
    p3.train(models, images, optimizer, Namespace(seed=1, lr=0.1, epochs=2, batch_size=64), 1)
    assert len(p3.test(models, images, images)) == 4
    pca, _ = p3.pca_network(images)
    codes, labels = models["linear"].encoder(images), torch.empty(200, device=meta)
    neighbours = p3.neighbour_labels(codes, labels, codes)
    assert pca.decoder.weight.device == neighbours.device == meta
    assert neighbours.shape == (200, p3.NEIGHBOURS)


def test_the_command_writes_everything(folders, tmp_path, monkeypatch, call):
    monkeypatch.setattr(p3, "DENOISER_STEPS", 500)
    call(p3, "--dataset", "fashion", "--epochs", 3, "--batch-size", 64, *folders)
    name = "p3_fashion_epochs3_batch-size64"
    record = json.loads((tmp_path / f"plots/{name}.json").read_text())
    assert all(len(curve) == 3 for curve in record["curves"].values())
    numbers = record["numbers"]
    assert numbers["pca_train_mse"] < numbers["linear_train_mse"]  # nothing linear beats PCA there
    assert (numbers["optimal_distance"] <= numbers["denoised_distance"]
            < numbers["corrupted_distance"])
    figures = {path.name for path in (tmp_path / "plots").glob("*.pdf")}
    assert figures == {f"{name}_{kind}.pdf" for kind in (
        "classes", "corruption", "denoiser", "embedding")}


def test_a_loss_that_diverges_ends_in_one_line(folders, tmp_path, fails):
    assert fails(p3, "--lr", "1e6", *folders).endswith("epoch 1 diverged: give a smaller --lr")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
