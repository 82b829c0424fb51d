"""p4_divergences.py: SciPy's quadrature, neighbours and distances; the record of the command."""
import json
import math

import numpy as np
import pytest
import torch
from scipy import integrate, spatial, stats

import p4_divergences as p4


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def close(value, expected, tolerance=1e-9):
    expected = torch.as_tensor(expected, dtype=torch.float64).expand_as(value)
    torch.testing.assert_close(value, expected, rtol=0, atol=tolerance)


def scipy_pair(name, theta):
    """Densities and distribution functions (p, q, F_p, F_q) of a pair, from SciPy."""
    kind = stats.uniform if name == "uniforms" else stats.norm
    bumps = [kind(centre) for centre in p4.PAIRS[name]["centres"]]
    return (lambda x: np.mean([bump.pdf(x) for bump in bumps], 0), kind(theta).pdf,
            lambda x: np.mean([bump.cdf(x) for bump in bumps], 0), kind(theta).cdf)


@pytest.mark.parametrize(("name", "theta"), [
    ("gaussians", 3.0), ("mixture", 1.0), ("mixture", 4.0), ("uniforms", 0.3), ("uniforms", 1.4)])
def test_exact_values_by_quadrature(name, theta):
    p, q, F_p, F_q = scipy_pair(name, theta)
    ends = sorted([0, 1, theta, theta + 1] if name == "uniforms" else [-14, -4, 0, theta, 15])

    def integral(function):
        return sum(integrate.quad(function, *piece)[0] for piece in zip(ends, ends[1:]))

    def kl(a, b):
        return integral(lambda x: a(x) * math.log(a(x) / b(x)) if a(x) > 0 else 0.0)

    def m(x):
        return (p(x) + q(x)) / 2

    values = p4.exact(name, tensor(theta))
    close(values["js"], (kl(p, m) + kl(q, m)) / 2, 1e-7)
    close(values["w1"], integral(lambda x: abs(F_p(x) - F_q(x))), 1e-5)
    for key, a, b in (("kl_pq", p, q), ("kl_qp", q, p)):
        close(values[key], math.inf if name == "uniforms" else kl(a, b), 1e-7)
    step = 0.002 if name == "uniforms" else 0.01
    x = np.arange(ends[0] + step / 2, ends[-1], step)  # midpoints: no edge of a uniform on a node
    difference = (p(x) - q(x)) * step
    for bandwidth in (p4.BANDWIDTH, p4.WIDE):
        mmd2 = difference @ np.exp(-(x[:, None] - x)**2 / (2 * bandwidth**2)) @ difference
        close(p4.exact_mmd2(name, tensor(theta), bandwidth), mmd2, 1e-6)


def test_estimates_against_other_ways_to_compute_them():
    x, y = np.random.default_rng(0).normal(size=(2, 60)) * [[1.0], [1.5]]
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    within = spatial.cKDTree(x[:, None]).query(x[:, None], p4.NEIGHBOURS + 1)[0][:, -1]
    between = spatial.cKDTree(y[:, None]).query(x[:, None], p4.NEIGHBOURS)[0][:, -1]
    close(p4.estimate_kl(a, b), np.log(between / within).mean() + math.log(60 / 59), 1e-12)
    close(p4.estimate_w1(a, b), stats.wasserstein_distance(x, y), 1e-12)
    k_x, k_y, k_xy = (np.exp(-spatial.distance.cdist(u[:, None], v[:, None], "sqeuclidean") / 2)
                      for u, v in ((x, x), (y, y), (x, y)))
    close(p4.estimate_mmd(a, b), math.sqrt(k_x.mean() + k_y.mean() - 2 * k_xy.mean()), 1e-12)
    apart = ~np.eye(60, dtype=bool)
    close(p4.estimate_mmd2(a, b), k_x[apart].mean() + k_y[apart].mean() - 2 * k_xy.mean(), 1e-12)
    phi, label = torch.from_numpy(k_x), (a > 0).double()
    w = p4.fit_logistic(phi, label)
    close(phi.T @ (torch.sigmoid(phi @ w) - label) + 0.1 * w, 0.0)  # the gradient of its loss


def test_errors_fall_as_the_theory_says(monkeypatch):
    """MMD^2 at p = q like 1/n, with a constant known from the kernel; the rest like 1/sqrt(n)."""
    monkeypatch.setattr(p4, "SIZES", (40, 120, 360))
    monkeypatch.setattr(p4, "REPETITIONS", 120)
    torch.manual_seed(0)
    numbers = p4.rate_numbers(torch.device("cpu"))
    x = np.linspace(-7, 7, 701)
    weight = stats.norm.pdf(x) / stats.norm.pdf(x).sum()
    kernel = np.exp(-(x[:, None] - x)**2 / 2)
    centred = kernel - (kernel @ weight)[:, None] - kernel @ weight + weight @ kernel @ weight
    variance = weight @ centred**2 @ weight
    for n in p4.SIZES:  # two within-terms of 2 variance / (n (n - 1)), a between-term 4 / n^2
        expected = math.sqrt(variance * (4 / (n * (n - 1)) + 4 / n**2))
        assert numbers[f"rates/equal/mmd2/{n}"] == pytest.approx(expected, rel=0.3)
    assert numbers["rates/equal/mmd2/exponent"] == pytest.approx(-1, abs=0.15)
    for key in ("equal/mmd", "equal/w1", "apart/mmd", "apart/mmd2", "apart/w1"):
        assert numbers[f"rates/{key}/exponent"] == pytest.approx(-0.5, abs=0.15)
    assert numbers["rates/apart/js/360"] < 0.05 < numbers["rates/apart/js/40"]


def test_the_command(call, monkeypatch, tmp_path):
    for name, value in (("POINTS", 40), ("REPETITIONS", 3), ("SIZES", (20, 40))):
        monkeypatch.setattr(p4, name, value)
    call(p4, "--no-cuda", "--out-dir", tmp_path)
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {f"p4_divergences{end}" for end in (".json", "_curves.pdf", "_estimates.pdf")}
    numbers = json.loads((tmp_path / "p4_divergences.json").read_text())["numbers"]
    share = numbers["gaussians/4/mean/kl_pq"] / 8
    assert numbers["gaussians/4/ratio/kl_pq"] == pytest.approx(share)
    assert "uniforms/0.5/exact/kl_pq" not in numbers  # infinite
    minimum = {key: numbers[f"mixture/minimum/{key}"] for key in (*p4.DIVERGENCES, "mmd2, wide")}
    assert minimum["kl_pq"] == minimum["w1"] == minimum["mmd2, wide"] == 0
    assert minimum["kl_qp"] == minimum["js"] == minimum["mmd2"] == pytest.approx(4, abs=0.01)


def test_a_folder_that_cannot_be_written_is_named_before_computing(fails, monkeypatch, tmp_path):
    monkeypatch.setattr(p4, "exact_numbers", None)
    (tmp_path / "file").write_text("")
    assert "file/folder" in fails(p4, "--no-cuda", "--out-dir", tmp_path / "file/folder")
