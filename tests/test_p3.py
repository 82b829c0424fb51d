"""p3_autoencoder.py: corruption and its exact denoiser, PCA, angles, neighbours, the command."""
import itertools
import json
import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import p3_autoencoder as p3


def test_posterior_mean_is_tweedies_formula():
    """E[x | x^] - x^ = sigma^2 grad log p_sigma(x^), the gradient by autograd."""
    corrupted = torch.randn(50, 2, dtype=torch.float64, requires_grad=True)
    t = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    curve = torch.stack((t, t**2), dim=1)
    squared_distance = (corrupted[:, None] - curve).square().sum(2)
    log_density = torch.logsumexp(-squared_distance / (2 * p3.SIGMA**2), dim=1)
    score, = torch.autograd.grad(log_density.sum(), corrupted)
    points = corrupted.detach()
    torch.testing.assert_close(p3.posterior_mean(points) - points, p3.SIGMA**2 * score)


def test_gaussian_corruption_has_the_stated_moments():
    torch.manual_seed(0)
    noise = p3.corrupt_gaussian(torch.zeros(100_000, 2))
    assert noise.mean(0).abs().max() < 5 * p3.SIGMA / math.sqrt(100_000)
    covariance = p3.SIGMA**2 * torch.eye(2)
    torch.testing.assert_close(noise.T.cov(), covariance, atol=5 * p3.SIGMA**2 / 300, rtol=0)


def test_masking_keeps_or_zeroes_each_coordinate_alone():
    torch.manual_seed(0)
    clean = torch.rand(100_000, 2) + 1
    corrupted = p3.corrupt_masking(clean)
    masked = corrupted == 0
    assert torch.equal(corrupted[~masked], clean[~masked])
    for found, expected in ((masked[:, 0], p3.MASKED), (masked[:, 1], p3.MASKED),
                            (masked.all(1), p3.MASKED**2)):
        assert abs(found.double().mean() - expected) < 5 * math.sqrt(expected / 100_000)


def test_parabola():
    points = p3.parabola(1000)
    assert torch.equal(points[:, 1], points[:, 0] ** 2) and points[:, 0].abs().max() <= 1


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(3)
    return torch.rand(200, 4) @ torch.rand(4, p3.PIXELS) / 4


def test_pca_is_the_singular_value_decomposition(images):
    pca, explained = p3.pca_network(images)
    pixels = images.double().numpy()
    _, singular, vt = np.linalg.svd(pixels - pixels.mean(0), full_matrices=False)
    discarded = (singular[2:] ** 2).sum() / images.numel()
    assert p3.mean_squared_error(pca, images) == pytest.approx(discarded, rel=1e-4)
    assert explained == pytest.approx((singular[:2] ** 2).sum() / (singular**2).sum(), rel=1e-6)
    cosines = np.diag(vt[:2] @ pca.decoder.weight.detach().numpy())
    assert np.allclose(np.abs(cosines), 1, atol=1e-5)


def test_pca_is_a_stationary_point_of_the_linear_network(images):
    pca, _ = p3.pca_network(images)
    torch.nn.functional.mse_loss(pca(images), images).backward()
    assert max(parameter.grad.abs().max() for parameter in pca.parameters()) < 1e-6


def test_planes_of_a_known_rotation():
    axes = torch.linalg.qr(torch.randn(p3.PIXELS, 4)).Q
    pca, model = p3.Autoencoder(), p3.Autoencoder()
    kept = axes[:, 0]
    tilted = math.cos(0.3) * axes[:, 1] + math.sin(0.3) * axes[:, 2]  # the other, by 0.3 rad
    with torch.no_grad():
        pca.decoder.weight.copy_(axes[:, :2])
        model.decoder.weight.copy_(torch.stack((kept - 2 * tilted, 3 * kept + tilted), dim=1))
        model.encoder.weight.copy_(torch.tensor([[2.0, 1.0], [-1.0, 3.0]]) @ pca.encoder.weight)
        numbers, basis = p3.compare_planes(model, pca, torch.rand(100, p3.PIXELS))
        angles = sorted((numbers["angle_1"], numbers["angle_2"]))
        assert angles == pytest.approx([0, math.degrees(0.3)], abs=0.05)
        correlations = numbers["canonical_1"], numbers["canonical_2"]
        assert correlations == pytest.approx((1, 1))  # the codes are each other's affine map
        torch.testing.assert_close(basis, torch.stack((kept, tilted), dim=1), atol=1e-5, rtol=0)
        model.encoder.weight[1] = torch.randn(p3.PIXELS)
        numbers, _ = p3.compare_planes(model, pca, torch.rand(100, p3.PIXELS))
    assert numbers["canonical_1"] > 0.9 > numbers["canonical_2"]


def test_neighbours_against_a_double_loop(monkeypatch):
    monkeypatch.setattr(p3, "NEIGHBOURS", 5)
    torch.manual_seed(0)
    model, train, test = p3.Autoencoder(), torch.rand(60, p3.PIXELS), torch.rand(20, p3.PIXELS)
    labels = torch.randint(10, (60,))
    with torch.no_grad():
        found = p3.neighbour_labels(model, (train, labels), test)
        codes = model.encoder(train).double().numpy()
        queries = model.encoder(test).double().numpy()
    precision = np.linalg.inv(np.cov(codes.T))
    for query, neighbours in zip(queries, found):
        distance = [(query - code) @ precision @ (query - code) for code in codes]
        assert torch.equal(neighbours, labels[np.argsort(distance)[:5]])


def test_shares_of_the_neighbours_by_hand():
    """Three images of class 3 with four neighbours each: half 3, then 5 (4 of 12), then 8."""
    neighbours = torch.tensor([[3, 3, 5, 5], [3, 3, 5, 8], [3, 3, 8, 5]])
    found = p3.neighbour_shares(neighbours, own=3)
    assert (found["first"], found["second"]) == (5, 8)
    shares = found["own_share"], found["first_share"], found["second_share"]
    assert shares == pytest.approx((1 / 2, 4 / 12, 2 / 12))
    differences = np.array([1 / 2, 0, 0])  # of the shares of 5 and of 8, by image
    assert found["gap"] == pytest.approx(differences.mean())
    assert found["gap_error"] == pytest.approx(differences.std() / math.sqrt(3))


def test_a_tie_is_within_two_standard_errors_and_a_real_difference_is_not():
    torch.manual_seed(0)
    even = p3.neighbour_shares(torch.randint(2, (1000, 15)) + 1, own=0)
    assert 0 <= even["gap"] < 3 * even["gap_error"]
    uneven = p3.neighbour_shares((torch.rand(1000, 15) < 0.4).long() + 1, own=0)
    assert uneven["first"] == 1 and uneven["gap"] > 10 * uneven["gap_error"]


def test_every_class_has_a_name_in_the_plane_that_no_other_hides():
    torch.manual_seed(0)
    with p3.own_settings():
        figure = Figure(figsize=(3.4, 2.7))  # the smallest that is drawn
        axes = figure.subplots()
        labels = torch.arange(1000) % 10
        p3.draw_plane(axes, torch.randn(1000, 2) / 10, labels, size=1)  # all means in one place
        figure.draw_without_rendering()
    boxes = [text.get_bbox_patch().get_window_extent() for text in axes.texts]
    assert sorted(text.get_text() for text in axes.texts) == list("0123456789")
    assert not any(one.overlaps(two) for one, two in itertools.combinations(boxes, 2))


def test_one_hidden_layer_of_two_neurons():
    model = p3.Autoencoder("sigmoid")
    assert [tuple(p.shape) for p in model.parameters()] == [(2, 784), (2,), (784, 2), (784,)]
    assert model(torch.randn(5, 784)).min() > 0 and model(torch.randn(5, 784)).max() < 1


def test_the_command_writes_everything(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(p3, "DENOISER_STEPS", 500)
    p3.main(["--epochs", "3", "--batch-size", "64", *folders])
    name = "p3_mnist_epochs3_batch-size64"
    names = {f"{model}_{kind}" for model in ("linear", "sigmoid", "pca")
             for kind in ("train_mse", "test_mse", "knn_accuracy")}
    record = json.loads((tmp_path / f"plots/{name}.json").read_text())
    assert names <= record["numbers"].keys()
    assert all(len(curve) == 3 for curve in record["curves"].values())
    assert record["parameters"] == {"linear": 784 * 4 + 2 + 784, "sigmoid": 784 * 4 + 2 + 784}
    numbers = record["numbers"]
    assert numbers["pca_train_mse"] < numbers["linear_train_mse"]  # nothing linear beats PCA there
    assert (numbers["optimal_distance"] <= numbers["denoised_distance"]
            < numbers["corrupted_distance"])
    for label in range(10):
        shares = [numbers[f"sigmoid_neighbours_{label}_{kind}_share"]
                  for kind in ("own", "first", "second")]
        assert 0 <= shares[2] <= shares[1] and sum(shares) <= 1 + 1e-9
        assert numbers[f"sigmoid_neighbours_{label}_gap"] == pytest.approx(shares[1] - shares[2])
    figures = {path.name for path in (tmp_path / "plots").glob("*.pdf")}
    assert figures == {f"{name}_{kind}.pdf" for kind in (
        "classes", "corruption", "denoiser", "embedding", "planes", "reconstructions", "variants")}


def test_the_fingerprint_moves_with_the_settings():
    one, two, other, slow = (p3.fingerprint(p3.parse_args(flags)) for flags in (
        [], [], ["--seed", "2"], ["--lr", "0.001"]))
    assert one == two and one != other and one != slow
