"""p1.py: the three routes to the gradient agree, and a wrong formula is caught."""
import json
import sys

import numpy as np
import pytest
import torch

import p1


def test_gradient_by_hand():
    X, y = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0], [0.0]])
    w = torch.tensor([[1.0], [-1.0]])  # Xw - y = (-2, -1), so 2 X^T (Xw - y) = 2 (-2 - 3, -4 - 4)
    expected = torch.tensor([[-10.0], [-16.0]])
    assert torch.equal(p1.closed_form_gradient(X, y, w), expected)
    assert torch.equal(p1.autograd_gradient(X, y, w), expected)
    torch.testing.assert_close(p1.finite_difference_gradient(X, y, w), expected)


@pytest.mark.parametrize("case", p1.CASES)
def test_differences_know_no_formula_and_agree_with_the_factored_form(case):
    """They stay at rounding where the closed form subtracts two large vectors."""
    result = p1.check(*p1.make_problem(case, 1.0))
    assert result["finite differences, factored"] < 2e-14


@pytest.mark.parametrize("case", p1.CASES)
def test_shapes_and_rank(case):
    rows, columns, rank = p1.CASES[case]
    X, y, w = p1.make_problem(case, 1.0)
    assert X.shape == (rows, columns) and y.shape == (rows, 1) and w.shape == (columns, 1)
    assert X.dtype == y.dtype == w.dtype == torch.float64
    assert torch.linalg.matrix_rank(X) == rank


def test_the_command_passes_and_writes_its_record(command, tmp_path):
    done = command(p1.__file__, "--out-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"p1.json"}
    record = json.loads((tmp_path / "p1.json").read_text())
    numbers = record["numbers"]
    assert numbers["cases"] == len(p1.CASES) * len(p1.SCALES)
    assert numbers["worst/float64"] < 1e-12 < numbers["worst/float32"]
    assert numbers["housing-like/equal"] < 0.5  # `==` fails in float32
    assert f"float64: {numbers['worst/float64']:.1e}" in done.stdout
    assert record["command"].startswith("python p1.py")


def fails_with(monkeypatch, tmp_path, gradient):
    """What the command says when `gradient` stands in for one of the two; it writes nothing."""
    monkeypatch.setattr(p1, *gradient)
    monkeypatch.setattr(sys, "argv", ["p1.py", "--no-cuda", "--out-dir", str(tmp_path / "plots")])
    with pytest.raises(SystemExit) as stop:
        p1.main()
    assert not (tmp_path / "plots").exists()
    return stop.value.code


@pytest.mark.parametrize("wrong", [
    lambda X, y, w: X.T @ (X @ w) - X.T @ y,  # the factor 2 forgotten
    lambda X, y, w: 2 * X.T @ (X @ w) - X.T @ y,
    lambda X, y, w: 2 / len(X) * X.T @ (X @ w - y)])  # mean for sum
def test_a_wrong_formula_fails(monkeypatch, tmp_path, wrong):
    line = fails_with(monkeypatch, tmp_path, ("closed_form_gradient", wrong))
    assert all(witness in line for witness in p1.TOLERANCE)


def test_a_nan_is_no_pass(monkeypatch, tmp_path):
    def once(X, y, w):  # not in the first case, and not in the last
        return X.T @ (X @ w - y) * (2 if len(X) != 20 else np.nan)
    assert "float64" in fails_with(monkeypatch, tmp_path, ("autograd_gradient", once))
