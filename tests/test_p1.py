"""p1.py: the three routes to the gradient agree, and a wrong formula is caught."""
import json
import math

import pytest
import torch

import p1


def test_gradient_by_hand():
    X, y = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0], [0.0]])
    w = torch.tensor([[1.0], [-1.0]])  # Xw - y = (-2, -1), so 2 X^T (Xw - y) = 2 (-2 - 3, -4 - 4)
    expected = torch.tensor([[-10.0], [-16.0]])
    assert torch.equal(p1.closed_form_gradient(X, y, w), expected)
    assert torch.equal(p1.autograd_gradient(X, y, w), expected)
    assert torch.equal(p1.factored_gradient(X, y, w), expected)
    torch.testing.assert_close(p1.finite_difference_gradient(X, y, w), expected)


@pytest.mark.parametrize("case", p1.CASES)
def test_differences_know_no_formula_and_agree_with_the_factored_form(case):
    """They stay at rounding where the closed form subtracts two large vectors."""
    result = p1.check(*p1.make_problem(case, 1.0, seed=3))
    assert result["finite differences, factored"] < 2e-14
    assert result["factored"] < 1e-15  # autograd evaluates that form; on some machines to the bit


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


def table_file(folder, text):
    path = folder / "houses.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize("header", ["", "MedInc,HouseAge,value\n", '"a","e","target"\n\n'])
def test_a_table_is_read_with_and_without_a_header(tmp_path, header):
    X, y = p1.read_table(table_file(tmp_path, header + "1,-2.5,3e5\n4,0.5,6\n"))
    assert torch.equal(X, torch.tensor([[1, -2.5], [4, 0.5]], dtype=torch.float64))
    assert torch.equal(y, torch.tensor([[3e5], [6]], dtype=torch.float64))


@pytest.mark.parametrize(("text", "cause"), [
    ("", "no rows"), ("a,b\n", "no rows"), ("1\n2\n", "one column"), ("nan,2\n1,2\n", "not finite"),
    ("1,2\n3\n", "columns"), ("1,near bay\n", "near bay"), ("1,,3\n", "convert")])
def test_what_is_no_table_of_numbers_is_one_line(fails, tmp_path, text, cause):
    path = table_file(tmp_path, text)
    line = fails(p1, ["--housing", path, "--out-dir", tmp_path / "plots"], 1)
    assert "houses.csv" in line and cause in line


def test_a_table_that_is_missing_or_no_text_is_one_line(fails, tmp_path):
    flags = ["--out-dir", tmp_path / "plots", "--housing"]
    assert "No such file" in fails(p1, [*flags, tmp_path / "none.csv"], 1)
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)))
    assert "binary.csv" in fails(p1, [*flags, tmp_path / "binary.csv"], 1)
    assert "directory" in fails(p1, [*flags, tmp_path], 1)
    assert not list((tmp_path / "plots").iterdir())


def test_a_table_is_a_further_case_in_a_record_of_its_own(tmp_path):
    torch.manual_seed(0)
    table = p1.HOUSING_COLUMNS * torch.rand(50, 8, dtype=torch.float64)
    path = table_file(tmp_path, "\n".join(",".join(map(repr, row)) for row in table.tolist()))
    p1.main(["--housing", str(path), "--out-dir", str(tmp_path / "plots")])
    written = {file.name for file in (tmp_path / "plots").iterdir()}
    assert written == {"p1_housing.json", "p1_housing_error.pdf"}
    record = json.loads((tmp_path / "plots/p1_housing.json").read_text())
    X, y = table[:, :-1], table[:, -1:]
    torch.manual_seed(1)
    gradient = 2 * X.T @ (X @ torch.randn(7, 1, dtype=torch.float64) - y)
    found = record["numbers"]["table houses/gradient, scale 1"]
    assert found == pytest.approx(gradient.abs().max().item(), rel=1e-10)
    assert record["numbers"]["cases"] == (len(p1.CASES) + 1) * len(p1.SCALES)
    assert record["numbers"]["failed"] == 0


@pytest.mark.parametrize("column", [[0] * 30, [1.6e18 + 1e15 * row for row in range(30)]],
                         ids=["zeros", "nanoseconds, whose squares float32 does not hold"])
def test_a_table_without_relative_errors_fails_in_one_line_with_a_record(fails, tmp_path, column):
    rows = "\n".join(f"{value},{value},{value}" for value in column)
    flags = ["--housing", table_file(tmp_path, rows), "--out-dir", tmp_path / "plots"]
    assert "of 90 cases fail" in fails(p1, flags, 1)
    numbers = json.loads((tmp_path / "plots/p1_housing.json").read_text())["numbers"]
    assert numbers["failed"] > 0 and all(map(math.isfinite, numbers.values()))


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
