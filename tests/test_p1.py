"""p1.py: the three routes to the gradient agree, and a wrong formula is caught."""
import json

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
def test_shapes_and_rank(case):
    rows, columns, rank, bias = p1.CASES[case]
    X, y, w = p1.make_problem(case, 1.0, seed=0)
    width = columns + 1 if bias else columns
    assert X.shape == (rows, width) and y.shape == (rows, 1) and w.shape == (width, 1)
    assert torch.linalg.matrix_rank(X[:, :columns]) == rank


def test_the_command_passes_and_writes_its_record(command, tmp_path):
    done = command(p1.__file__, "--out-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "p1.json").read_text())
    assert record["numbers"]["failed"] == 0
    assert record["numbers"]["cases"] == len(p1.CASES) * len(p1.SCALES)
    assert record["numbers"]["worst/float64"] < 1e-12 < record["numbers"]["worst/float32"]
    assert record["command"].startswith("python p1.py") and (tmp_path / "p1_error.pdf").exists()


@pytest.mark.parametrize("wrong", [
    lambda X, y, w: X.T @ (X @ w) - X.T @ y,  # the factor 2 forgotten
    lambda X, y, w: 2 * X.T @ (X @ w) - X.T @ y,
    lambda X, y, w: 2 / len(X) * X.T @ (X @ w - y)])  # mean for sum
def test_a_wrong_formula_fails(monkeypatch, fails, tmp_path, wrong):
    monkeypatch.setattr(p1, "closed_form_gradient", wrong)
    assert "fail" in fails(p1, ["--out-dir", tmp_path], 1)


def test_a_nan_is_no_pass(monkeypatch, fails, tmp_path):
    monkeypatch.setattr(p1, "autograd_gradient", lambda X, y, w: w * float("nan"))
    monkeypatch.setattr(p1, "draw_errors", lambda *_: None)
    monkeypatch.setattr(p1, "write_record", lambda *_, **__: None)
    assert "80 of 80" in fails(p1, ["--out-dir", tmp_path], 1)


def test_the_fingerprint_moves_with_the_settings():
    one, two, other = (p1.fingerprint(p1.parse_args(flags)) for flags in ([], [], ["--seed", "2"]))
    assert one == two and not set(one) & set(other)
