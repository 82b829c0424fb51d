"""The report builds without a fault, and a name or figure that does not exist stops it."""
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "report"))

import build  # noqa: E402

needs_latex = pytest.mark.skipif(not shutil.which("latexmk"), reason="report not built: latexmk is not installed")


def test_numbers_in_latex():
    assert build.latex(105.573, ".2f") == r"\ensuremath{105.57}"
    assert build.latex(-0.5, ".1f") == r"\ensuremath{-0.5}"
    assert build.latex(1.24e-15, ".1e") == r"\ensuremath{1.2 \times 10^{-15}}"
    assert build.latex(0.123, ".0%") == r"\ensuremath{12\%}"
    assert build.verbatim("python vae.py --run-name a_b") == r"python vae.py -{}-run-name a\_b"


def test_means_over_seeds():
    records = {run: {"numbers": {"loss": {"value": float(value), "format": ".1f"}}}
               for runs in build.SEEDS.values() for value, run in enumerate(runs, start=1)}
    names = build.definitions(records)
    assert names["vae_mnist_seeds/loss/mean"] == r"\ensuremath{2.0}"
    assert names["vae_mnist_seeds/loss/sd"] == r"\ensuremath{1.0}"


@pytest.fixture
def copy(tmp_path):
    """The report and the figures in a folder of their own, so that a build here leaves no trace."""
    shutil.copytree(ROOT / "report", tmp_path / "report", ignore=shutil.ignore_patterns("build", "*.pdf"))
    shutil.copytree(ROOT / "plots", tmp_path / "plots")
    return tmp_path / "report"


def build_in(folder):
    return subprocess.run([sys.executable, folder / "build.py"], capture_output=True, text=True, timeout=240)


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@needs_latex
def test_the_report_builds_without_a_fault(copy):
    done = build_in(copy)
    assert done.returncode == 0, done.stderr
    log = (copy / "build/report.log").read_text(errors="replace")
    for fault in ("Overfull", "undefined", "multiply defined", "Missing character", "Font shape"):
        assert fault not in log, [line for line in log.splitlines() if fault in line]
    if shutil.which("pdffonts"):
        assert "Type 3" not in output("pdffonts", copy / "report.pdf")  # which would be bitmapped text
        fresh, committed = (sorted(re.findall(r"\d+\.\d+", output("pdftotext", folder / "report.pdf", "-")))
                            for folder in (copy, ROOT / "report"))
        assert fresh == committed, "report/report.pdf is not what the records say: run `make report`"


@needs_latex
@pytest.mark.parametrize(("planted", "fault"), [(r"\num{vae_mnist/no_such_number}", "no record holds"),
                                                (r"\includegraphics{no_such_figure.pdf}", "no_such_figure"),
                                                (r"\command{no_such_run}", "no record holds")])
def test_what_does_not_exist_stops_the_build(copy, planted, fault):
    with (copy / "p1.tex").open("a") as source:
        source.write(planted + "\n")
    done = build_in(copy)
    assert done.returncode == 1 and fault in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_without_latex_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build.shutil, "which", lambda _: None)
    monkeypatch.setattr(build, "HERE", tmp_path)
    monkeypatch.setattr(build, "read_records", dict)
    monkeypatch.setattr(build, "SEEDS", {})
    with pytest.raises(SystemExit, match="latexmk is not installed"):
        build.main()
