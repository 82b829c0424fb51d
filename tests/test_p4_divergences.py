"""p4_divergences.py: closed forms, slopes against differences, estimates against the truth."""
import json
import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, Uniform, kl_divergence

import p4_divergences as p4

KEYS = ["kl_pq", "kl_qp", "js", "mmd2", "mmd", "w1"]


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def close(value, expected, tolerance=1e-9):
    expected = torch.as_tensor(expected, dtype=torch.float64).expand_as(value)
    torch.testing.assert_close(value, expected, rtol=0, atol=tolerance)


def double_sum(density, other, low, high, bandwidth=1.0, points=3000):
    """E k(X, Y) by a midpoint sum over the plane: knows nothing of the closed forms."""
    step = (high - low) / points
    x = low + step * (torch.arange(points, dtype=torch.float64) + 0.5)
    kernel = torch.exp(-(x[:, None] - x).square() / (2 * bandwidth**2))
    return density(x) @ kernel @ other(x) * step**2


def test_gaussians_have_their_closed_forms():
    theta = torch.linspace(0, 8, 17, dtype=torch.float64)
    values = p4.exact("gaussians", theta)
    expected = kl_divergence(Normal(tensor(0.0), 1), Normal(theta, 1))
    close(values["kl_pq"], expected)
    close(values["kl_qp"], expected)
    close(values["w1"], theta)
    s = p4.BANDWIDTH
    fall = torch.exp(-theta**2 / (2 * (s**2 + 2)))
    close(values["mmd2"], 2 * s / math.sqrt(s**2 + 2) * (1 - fall))


def test_js_of_gaussians_by_another_route():
    """JS = log 2 - E_p log(1 + q/p) for a pair that a reflection exchanges, by Gauss-Legendre."""
    nodes, weights = np.polynomial.legendre.leggauss(500)
    nodes = 14 * nodes
    weights = 14 * weights * np.exp(-nodes**2 / 2) / math.sqrt(2 * math.pi)
    for theta in (0.5, 2.0, 3.0):
        log_ratio = theta * nodes - theta**2 / 2
        js = math.log(2) - weights @ np.logaddexp(0, log_ratio)
        close(p4.exact("gaussians", tensor(theta))["js"], js)


@pytest.mark.parametrize(("name", "low", "high"), [
    ("gaussians", -12, 14), ("uniforms", 0, 3), ("mixture", -14, 14)])
@pytest.mark.parametrize("bandwidth", [1.0, 4.0])
def test_mmd_by_a_double_sum(name, low, high, bandwidth):
    theta = tensor(1.5)
    p, q = p4.make_pair(name, theta)

    def density_p(x):
        return p.log_prob(x).exp()

    def density_q(x):
        return q.log_prob(x).exp()

    within_p = double_sum(density_p, density_p, low, high, bandwidth)
    within_q = double_sum(density_q, density_q, low, high, bandwidth)
    between = double_sum(density_p, density_q, low, high, bandwidth)
    close(p4.exact_mmd2(name, theta, bandwidth), within_p + within_q - 2 * between, 1e-6)


def test_uniforms_by_quadrature():
    """JS and W1 from densities and distribution functions on a fine grid; KL is infinite."""
    theta = tensor(0.25, 0.5, 1.0, 1.5)
    values = p4.exact("uniforms", theta)
    x = (torch.arange(30000, dtype=torch.float64) + 0.5) / 10000  # midpoints: no edge on a node
    p = Uniform(tensor(0.0), 1, validate_args=False).log_prob(x).exp()
    q = Uniform(theta[:, None], theta[:, None] + 1, validate_args=False).log_prob(x).exp()
    m = (p + q) / 2
    both = torch.xlogy(p, p / m).nan_to_num() + torch.xlogy(q, q / m).nan_to_num()
    close(values["js"], both.sum(1) / 20000, 1e-9)
    close(values["w1"], ((p.cumsum(-1) - q.cumsum(1)).abs() / 10000).sum(1) / 10000, 1e-3)
    assert values["kl_pq"].isinf().all() and values["kl_qp"].isinf().all()
    assert p4.exact("uniforms", tensor(0.0))["kl_pq"].item() == 0


def test_the_mixture():
    """KL(p||q) = theta^2 / 2 + a constant; KL(q||p) at a mode: nearly log 2.

    W1 at a mode: half the mass travels 8; in the middle the halves of N(0, 1) travel to one each.
    """
    theta = tensor(0.0, 1.0, 4.0, 6.0)
    values = p4.exact("mixture", theta)
    close(values["kl_pq"] - values["kl_pq"][0], theta.square() / 2)
    close(values["kl_qp"][2], math.log(2), 1e-3)
    close(values["w1"][2:], tensor(4.0, 6.0))
    close(values["w1"][0], 4 - math.sqrt(2 / math.pi), 3e-4)


@pytest.mark.parametrize("name", p4.PAIRS)
def test_identity_range_and_bounds(name):
    theta = torch.linspace(0.05, 7, 40, dtype=torch.float64)
    values = p4.exact(name, theta)
    assert all((values[key] > 0).all() for key in KEYS)
    assert (values["js"] <= math.log(2) + 1e-12).all() and (values["mmd2"] < 2).all()
    if name != "mixture":
        at_zero = p4.exact(name, tensor(0.0))
        assert all(abs(at_zero[key].item()) < 1e-7 for key in KEYS)  # MMD: a root of rounding


def test_which_of_them_obey_the_triangle_inequality():
    """Between Gaussians at 0, 1, 2: W1, MMD and sqrt(JS) do (as everywhere); KL and JS do not."""
    one, two = (p4.exact("gaussians", tensor(theta)) for theta in (1.0, 2.0))
    for key in ("kl_pq", "js"):
        assert two[key] > 2 * one[key]
    for key in ("js", "mmd2"):
        assert two[key].sqrt() < 2 * one[key].sqrt()
    close(two["w1"], 2 * one["w1"])


@pytest.mark.parametrize("name", p4.PAIRS)
def test_slopes_are_differences(name):
    theta, step = tensor(0.3, 0.7, 1.3, 3.1, 5.0), 1e-4
    slopes = p4.slopes(name, theta)
    above = p4.exact(name, theta + step)
    below = p4.exact(name, theta - step)
    for key in KEYS:
        if name == "uniforms" and key.startswith("kl"):
            assert slopes[key].isnan().all()
            continue
        kinked = name == "mixture" and key == "w1"  # F - G changes sign between nodes
        tolerance = 6e-3 if kinked else 1e-6  # of order step
        close(slopes[key], (above[key] - below[key]) / (2 * step), tolerance)


def test_slopes_far_apart():
    far = {key: slope.item() for key, slope in p4.slopes("gaussians", tensor(10.0)).items()}
    assert far["kl_pq"] == pytest.approx(10) and far["w1"] == pytest.approx(1)
    assert 0 < far["js"] < 1e-4 and 0 < far["mmd2"] < 1e-5
    parted = p4.slopes("uniforms", tensor(1.5))
    assert parted["js"].item() == 0 and parted["w1"].item() == 1


def test_the_slope_of_the_generator_that_is_not_saturating():
    """At the ideal discriminator D, held fixed, -E_q log D has the slope of KL(q||p) - 2 JS."""
    theta, step, x = tensor(3.0), 1e-5, p4.GRID
    p, q = p4.make_pair("gaussians", theta)
    log_D = p.log_prob(x) - torch.logaddexp(p.log_prob(x), q.log_prob(x))

    def loss(at):
        return -torch.trapezoid(Normal(at, 1).log_prob(x).exp() * log_D, x)

    slopes = p4.slopes("gaussians", theta)
    expected = (slopes["kl_qp"] - 2 * slopes["js"]).item()
    close((loss(theta + step) - loss(theta - step)) / (2 * step), expected, 1e-6)


def test_estimates_by_hand():
    x, y = tensor(0.0, 1.0), tensor(2.0, 4.0)
    assert p4.estimate_w1(x, y).item() == 2.5  # 0 to 2, 1 to 4
    within = math.exp(-0.5) + math.exp(-2)
    between = sum(math.exp(-d**2 / 2) for d in (2, 4, 1, 3)) / 2
    close(p4.estimate_mmd2(x, y), within - between, 1e-12)
    with_the_diagonal = (2 + 2 * math.exp(-0.5)) / 4 + (2 + 2 * math.exp(-2)) / 4
    close(p4.estimate_mmd(x, y), math.sqrt(with_the_diagonal - between), 1e-12)
    # k = 1: distances 1 and 1 within x; 2 and 1 to y; so (log 2 + log 1) / 2 + log(2 / 1)
    close(p4.estimate_kl(x, y, k=1), 1.5 * math.log(2), 1e-12)


@pytest.mark.parametrize(("name", "theta"), [
    ("gaussians", 0.0), ("gaussians", 1.0), ("mixture", 4.0)])
def test_estimates_are_near_the_exact_values(name, theta):
    torch.manual_seed(0)
    repetitions = 60
    found = p4.estimates(name, theta, 300, repetitions, torch.device("cpu"))
    truth = p4.exact(name, tensor(theta))
    for key in ("mmd2", "js"):
        error = (found[key].mean() - truth[key]).item()
        allowed = 4 * found[key].std().item() / math.sqrt(repetitions)
        assert error < allowed
        if key == "mmd2":  # it is unbiased, the other a lower bound
            assert error > -allowed
    close(found["js"].mean(), truth["js"].item(), 0.03)
    close(found["w1"].mean(), truth["w1"].item(), 0.15)
    if theta < 4:
        close(found["kl_pq"].mean(), truth["kl_pq"].item(), 0.1)
    close(found["kl_qp"].mean(), truth["kl_qp"].item(), 0.1)


def test_the_unbiased_mmd_is_negative_often_and_the_bound_on_js_stays_below_log_2():
    torch.manual_seed(0)
    found = p4.estimates("gaussians", 0.0, 100, 200, torch.device("cpu"))
    assert 0.4 < (found["mmd2"] < 0).double().mean() < 0.75 and (found["w1"] > 0).all()
    assert p4.estimates("gaussians", 10.0, 100, 20, torch.device("cpu"))["js"].max() < math.log(2)


def test_estimates_of_an_infinite_kl_are_finite():
    torch.manual_seed(0)
    assert p4.estimates("uniforms", 0.5, 200, 5, torch.device("cpu"))["kl_pq"].isfinite().all()


def test_the_exponent_of_a_power():
    sizes = tensor(*p4.SIZES)
    assert p4.exponent(3 * sizes ** -0.75) == pytest.approx(-0.75)


def test_errors_by_size(monkeypatch):
    """Between equal Gaussians MMD^2 errs by 1/n, its root and W1 by 1/sqrt(n); apart all do so.

    The error of the U-statistic at p = q also has a closed form, from the variance of the kernel
    that is centred in both arguments; here by sums over a grid.
    """
    monkeypatch.setattr(p4, "SIZES", (40, 120, 360))
    torch.manual_seed(0)
    equal = p4.errors_by_size(0.0, 120, torch.device("cpu"))
    apart = p4.errors_by_size(1.0, 60, torch.device("cpu"))
    x = torch.linspace(-7, 7, 701, dtype=torch.float64)
    weight = torch.exp(-x**2 / 2) / torch.exp(-x**2 / 2).sum()
    kernel = torch.exp(-(x[:, None] - x).square() / 2)
    row = kernel @ weight
    centred = kernel - row[:, None] - row + weight @ row
    variance = weight @ centred.square() @ weight
    for points, error in zip(p4.SIZES, equal["mmd2"]):
        # two within-terms of 2 variance / (n (n - 1)), the between-term 4 variance / n^2
        expected = (variance * (4 / (points * (points - 1)) + 4 / points**2)).sqrt()
        assert error.item() == pytest.approx(expected.item(), rel=0.3)
    assert p4.exponent(equal["mmd2"]) == pytest.approx(-1, abs=0.15)
    for errors in (equal["mmd"], equal["w1"], apart["mmd"], apart["mmd2"], apart["w1"]):
        assert p4.exponent(errors) == pytest.approx(-0.5, abs=0.15)


NAME = "p4_divergences_points40_repetitions3"


def test_the_command_writes_the_same_record_twice(command, tmp_path):
    flags = ["--points", "40", "--repetitions", "3", "--no-cuda", "--out-dir"]
    done = command(p4.__file__, *flags, tmp_path / "one")
    assert done.returncode == 0, done.stderr
    p4.main([*flags, str(tmp_path / "two")])
    first = json.loads((tmp_path / "one" / f"{NAME}.json").read_text())
    second = json.loads((tmp_path / "two" / f"{NAME}.json").read_text())
    assert first["numbers"] == second["numbers"]
    assert first["settings"] == {"points": 40, "repetitions": 3, "seed": 1}
    pictures = [(tmp_path / folder / f"{NAME}_curves.pdf").read_bytes()
                for folder in ("one", "two")]
    assert pictures[0] == pictures[1]
    numbers = first["numbers"]
    assert numbers["gaussians/2/exact/mmd"] ** 2 == pytest.approx(numbers["gaussians/2/exact/mmd2"])
    assert all(f"rates/{name}/{key}/exponent" in numbers
               for name in ("equal", "apart") for key in KEYS)
    assert numbers["quadrature/error"] < 1e-9 and "uniforms/0.5/exact/kl_pq" not in numbers
    minimum = {key: numbers[f"mixture/minimum/{key}"] for key in (*KEYS, "mmd2, wide")}
    assert minimum["kl_pq"] == minimum["w1"] == minimum["mmd2, wide"] == 0
    assert minimum["kl_qp"] == minimum["js"] == minimum["mmd2"] == pytest.approx(4, abs=0.01)


def test_the_fingerprint_moves_with_the_settings():
    one, two, other = (p4.fingerprint(p4.parse_args(flags)) for flags in ([], [], ["--seed", "2"]))
    assert one == two != other
