"""The report builds without a fault, and a name or figure that does not exist stops it."""
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from committed import committed_plots

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "report"))

import build  # noqa: E402

needs_latex = pytest.mark.skipif(not shutil.which("latexmk"), reason="report not built: latexmk is not installed")


def test_numbers_in_latex():
    assert build.latex(105.573, ".2f") == r"\ensuremath{105.57}"
    assert build.latex(4000, "d") == r"\ensuremath{4000}" and build.latex(11256, "d") == r"\ensuremath{11\,256}"
    assert build.latex(-0.5, ".1f") == r"\ensuremath{-0.5}"
    assert build.latex(1.24e-15, ".1e") == r"\ensuremath{1.2 \times 10^{-15}}"
    assert build.latex(0.123, ".0p") == r"\ensuremath{12\%}" and build.printed(0.123, ".0p") == "12%"
    assert build.verbatim("python vae.py --run-name a_b") == r"python vae.py -{}-run-name a\_b"


def test_numbers_have_the_digits_that_the_sources_name():
    records = {"a": {"numbers": {"x": 1.25, "n, of 2": 3}, "settings": {"lr": 0.1},
                     "command": "python a.py --b_c"},
               "b": {"numbers": {"x": 2.0}}}
    records |= {run: {"numbers": {"loss": float(value)}}
                for runs in build.SEEDS.values() for value, run in enumerate(runs, start=1)}
    sources = (r"\num[.1f]{a/x} \num[d]{a/n,"  "\n" r"of 2} \newcommand{\both}[2][]{\num[#1]{#2/x}} "
               r"\both[.3f]{b} \num[.2f]{vae_mnist_seeds/loss/sd}")
    found = build.definitions(records, sources)
    assert found["@a/settings/lr"] == "0.1" and found["@a/command"] == r"python a.py -{}-b\_c"
    assert found[".1f@a/x"] == r"\ensuremath{1.2}" and found["d@a/n, of 2"] == r"\ensuremath{3}"
    assert found[".3f@b/x"] == r"\ensuremath{2.000}" and ".2f@a/n, of 2" not in found
    scores = {"real_fashion_scores": {"dataset": "fashion", "numbers": {"frechet": 0.5}},
              "b_scores": {"dataset": "fashion", "numbers": {"blur/frechet": 2.0}, "seconds": 1800,
                           "machines": [{"processor": "A"}, {"processor": "B"}]},
              "b": {"numbers": {}, "seconds": 5400, "machines": [{"processor": "A"}],
                    "precision": "bfloat16"},
              "again/b_scores": {"dataset": "fashion", "numbers": {"frechet": 3.0},
                                 "machines": [{"processor": "C"}]}}
    numbers = build.numbers_of(records | scores)
    assert numbers["again/b_scores/frechet_ratio"] == 6
    texts = build.texts_of(records | scores)
    assert texts["again/b_scores/processor"] == "C" and texts["campaign/processors"] == "A and B"
    assert numbers["b_scores/blur/frechet_ratio"] == 4
    campaign = {"runs": 2, "trainings": 1, "hours": 2.0, "processors": 2, "bfloat16": 1, "float32": 0}
    assert {name: numbers[f"campaign/{name}"] for name in campaign} == campaign
    assert found[".2f@vae_mnist_seeds/loss/sd"] == r"\ensuremath{1.00}"
    assert build.numbers_of(records)["vae_mnist_seeds/loss/mean"] == 2


def test_a_macro_prints_only_what_it_is_called_with():
    sources = r"\newcommand{\mean}[3][]{\num[#1]{p/#2/#3/mean}}" + "\n"
    assert build.uses(sources + r"\mean[.1f]{a}{b}") == {(".1f", "p/a/b/mean")}
    assert build.uses(sources + r"\newcommand{\row}[1]{\mean[.2f]{#1}{b}}") == {(".2f", "p/.+/b/mean")}


@pytest.fixture
def copy(tmp_path):
    """The report and the figures in a folder of their own, so that a build here leaves no trace."""
    shutil.copytree(ROOT / "report", tmp_path / "report", ignore=shutil.ignore_patterns("build", "*.pdf"))
    shutil.copytree(committed_plots(), tmp_path / "plots")
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


MACROS = re.compile(r"\\(num|ms|mean|interval|change|score|judged|tried|scheme|row|setting|command|file|q|question|answer|ref|pageref|label|cite|"
                    r"includegraphics)(\[[^]]*\])?\{[^{}]*\}(\{[^{}]*\})?")


def typed(source):
    """The decimal numbers that a LaTeX source types itself, lengths aside."""
    return re.findall(r"(?<![\d.])\d+\.\d+(?!\d*\s*(?:in|em|pt)\b)", MACROS.sub("", re.sub(r"(?<!\\)%.*", "", source)))


def test_no_measured_number_is_typed_by_hand():
    for path in sorted((ROOT / "report").glob("*.tex")):
        assert typed(path.read_text().split(r"\begin{document}")[-1]) == [], path.name  # layout comes before it
    assert typed(r"\q{5.3} \num[.25f]{a/b 0.5} \hspace{1.5in} % 0.1") == []
    assert typed("a loss of 105.3") == ["105.3"]


@needs_latex
@pytest.mark.parametrize(("planted", "fault"), [(r"\num[.2f]{vae_mnist/no_such_number}", "no record holds"),
                                                (r"\num{vae_mnist/test_loss}", "no record holds"),
                                                (r"\includegraphics{no_such_figure.pdf}", "no_such_figure"),
                                                (r"\command{no_such_run}", "no record holds")])
def test_what_does_not_exist_stops_the_build(copy, planted, fault):
    with (copy / "p1.tex").open("a") as source:
        source.write(planted + "\n")
    done = build_in(copy)
    assert done.returncode == 1 and fault in done.stderr and len(done.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_the_zip_that_is_handed_in(tmp_path, glyph_dir, command):
    for name in ("report", "plots"):
        (tmp_path / name).mkdir()
    judges = list(ROOT.glob("plots/judge_*.pt"))
    assert {path.name for path in judges} == {"judge_fashion.pt", "judge_mnist.pt"}
    pictures = [ROOT / "plots/gallery.png", ROOT / "plots/epochs.gif"]
    weights = [ROOT / f"plots/{run}_weights.pt" for run in ("vae_fashion", "gan_fashion", "cgan_fashion")]
    for path in (*judges, *pictures, *weights):
        shutil.copy(path, tmp_path / "plots")
    for path in (*ROOT.glob("*.py"), *ROOT.glob("require*.txt"), ROOT / "README.md", ROOT / "Makefile"):
        shutil.copy(path, tmp_path)
    shutil.copy(ROOT / "report/report.pdf", tmp_path / "report")
    for name in ([], ["NAME="], ["NAME=Riddle, T. M."], ["NAME=a;b"], ["NAME=../up"]):
        done = subprocess.run(["make", "submission", *name], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2 and "NAME=riddletm" in done.stderr and not list(tmp_path.rglob("*.zip"))
    done = subprocess.run(["make", "submission", "NAME=riddletm"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shutil.unpack_archive(tmp_path / "riddletm.assignment3.zip", tmp_path / "elsewhere")
    there = {path.name for path in (tmp_path / "elsewhere").rglob("*") if path.is_file()}
    assert there == {"riddletm.assignment3.pdf", "requirements.txt", "README.md",
                     *(path.name for path in (*judges, *pictures, *weights, *ROOT.glob("*.py")))}
    for script, *flags in (("vae.py", "--epochs", 1, "--data-dir", glyph_dir), ("vae.py", "--dataset", "fashion", "--draw"),
                           ("gan.py", "--conditional", "--draw", "bag")):
        done = command(tmp_path / "elsewhere" / script, *flags)
        assert done.returncode == 0, done.stderr


def test_without_latex_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build.shutil, "which", lambda _: None)
    monkeypatch.setattr(build, "HERE", tmp_path)
    monkeypatch.setattr(build, "read_records", dict)
    monkeypatch.setattr(build, "SEEDS", {})
    (tmp_path / "published.json").write_text("{}")
    with pytest.raises(SystemExit, match="latexmk is not installed"):
        build.main()


IN_README = {  # where build.py has a row's numbers: {} is the measure
    "real images": "real_fashion_scores/{}",
    "handed-out VAE, 20 epochs": "vae_fashion_handout_epochs20_scores/{}",
    "VAE, mean of 3 seeds": "p5_seeds/vae_fashion/{}/mean",
    "handed-out GAN, 24 epochs": "gan_mlp_fashion_scores/{}",
    "GAN, mean of 3 seeds": "p5_seeds/gan_fashion/{}/mean",
    "GAN, two steps of the generator, mean of 3 seeds": "p5_seeds/long_g_2/{}/mean",
    "Conditional GAN, mean of 3 seeds": "p5_seeds/cgan_fashion/{}/mean"}


def table_rows_of_the_readme():
    """The cells of every line of the README's tables."""
    return [re.split(r"\s*\|\s*", line.strip("| \n")) for line in (ROOT / "README.md").read_text().splitlines()
            if line.startswith("|")]


def test_the_numbers_of_the_readme_are_those_of_the_records(monkeypatch):
    monkeypatch.setattr(build, "PLOTS", committed_plots())
    numbers = build.numbers_of(build.read_records())
    rows = {row[0]: row[1:5] for row in table_rows_of_the_readme()}
    for title, name in IN_README.items():
        scores = [numbers[name.format(measure)] for measure in ("frechet_ratio", "precision", "recall", "sharpness")]
        if "3 seeds" in title:
            assert numbers[name.split("/{}")[0] + "/count"] == 3
        assert rows[title] == [f"{value:.{digits}f}" for value, digits in zip(scores, (1, 2, 2, 2))], title


RACES = {"`pytorch/examples` vae, 10 epochs": "vae_mnist", "the same, 20 epochs": "vae_fashion",
         "PyTorch-GAN's `gan.py`, 20 epochs": "gan_fashion", "PyTorch-GAN's `cgan.py`, 20 epochs": "cgan_fashion"}


def test_the_seconds_of_the_readme_are_those_of_the_record(monkeypatch):
    monkeypatch.setattr(build, "PLOTS", committed_plots())
    numbers = build.numbers_of(build.read_records())
    rows = {row[1]: row[2:] for row in table_rows_of_the_readme() if len(row) == 5}
    for usual, race in RACES.items():
        seconds, ours, ratio, low, high = (numbers[f"bench/{race}/{name}"] for name in (
            "usual_seconds", "our_seconds", "seconds_ratio", "seconds_ratio_low", "seconds_ratio_high"))
        assert rows[usual] == [f"{seconds:.0f}", f"{ours:.0f}", f"{ratio:.1f} ({low:.1f} to {high:.1f})"]
