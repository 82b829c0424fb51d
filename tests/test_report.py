"""The report builds whatever lies around it; what does not exist stops it; the zip's name."""
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "report"))

import build  # noqa: E402

needs_latex = pytest.mark.skipif(not all(map(shutil.which, ("latexmk", "pdflatex", "bibtex"))),
                                 reason="the report is not built: LaTeX is not installed")


def test_numbers_in_latex():
    assert build.latex(105.573, ".2f") == r"\ensuremath{105.57}"
    assert build.latex(4000, "d") == r"\ensuremath{4000}" and build.latex(11256, "d") == r"\ensuremath{11\,256}"
    assert build.latex(1.24e-15, ".1e") == r"\ensuremath{1.2 \times 10^{-15}}"
    assert build.latex(0.123, ".0p") == r"\ensuremath{12\%}" and build.latex(2.0, ".3G") == r"\ensuremath{2.00}"
    assert build.latex("python vae.py --lr 1", "") == r"python vae.py -{}-lr 1" and "char92" in build.latex("\\", "")


def test_numbers_have_the_digits_that_the_sources_name():
    records = {"a": {"numbers": {"x": 1.25, "n, of 2": 3, "bad": float("nan"), "worse": None}, "seconds": 90,
                     "settings": {"lr": 0.1}, "command": "python a.py --b_c", "curves": {"loss": [0.5, 0.25]}},
               "b": {"numbers": {"x": 2.0}, "processor": "P"}, "b{\\": {"numbers": {"x": 2.0}},
               "c": {"numbers": {"x": 3.0}, "machines": [{"processor": "Q"}]}}
    records |= {f"vae_mnist{seed}": {"numbers": {"test_loss": value}}
                for seed, value in (("", 1.0), ("_seed2", 2.0), ("_seed3", 3.0))}
    records |= {f"{run}_scores": {"dataset": "fashion", "numbers": {"frechet": value, "blur/frechet": 1.0}}
                for run, value in (("real_fashion", 0.5), ("b", 2.0))}
    sources = "\n".join([
        r"\num[.1f]{a/x} \num[d]{a/n,", r"of 2} \newcommand{\both}[3][]{\num[#1]{#2/x} \num[.1e]{#3/x}}",
        r"\both[.3f]{b}{c} \newcommand{\row}[1]{\both[.5f]{#1}{a}} \num[d]{a/x}",
        r"\num[.2f]{vae_mnist_seeds/test_loss/sd} \num[g]{a/first/loss} \num[g]{a/minutes}",
        r"\num[g]{b_scores/blur/frechet_ratio} \num[g]{b_scores/frechet_ratio} \num[g]{a/bad} \num[g]{a/worse}"])
    found = build.definitions(build.values_of(records), sources)
    texts = {name: found.pop(name) for name in list(found) if name[0] == "@"}
    assert texts == {"@a/settings/lr": "0.1", "@a/command": r"python a.py -{}-b\char95{}c", "@b/processor": "P",
                     "@c/processor": "Q", "@campaign/processors": ""}
    expected = {".1f@a/x": "1.2", "d@a/n, of 2": "3", ".3f@b/x": "2.000", ".1e@c/x": r"3.0 \times 10^{0}",
                ".1e@a/x": r"1.2 \times 10^{0}", ".1e@b/x": r"2.0 \times 10^{0}", ".2f@vae_mnist_seeds/test_loss/sd": "1.00", "g@a/first/loss": "0.5",
                "g@a/minutes": "1.5", "g@b_scores/blur/frechet_ratio": "2", "g@b_scores/frechet_ratio": "4",
                ".5f@a/x": "1.25000", ".5f@b/x": "2.00000", ".5f@c/x": "3.00000"}
    assert found == {name: rf"\ensuremath{{{value}}}" for name, value in expected.items()}


@pytest.fixture
def bare(tmp_path):
    """The report's folder in a place of its own, beside the record of one run."""
    folder = tmp_path / "a copy"
    shutil.copytree(ROOT / "report", folder / "report", ignore=shutil.ignore_patterns("build", "*.pdf"))
    (folder / "plots").mkdir()
    shutil.copy(ROOT / "plots/vae_mnist.json", folder / "plots")
    return folder / "report"


@pytest.fixture
def copy(bare, tmp_path):
    """The same with plots/ as git has it: a person's own runs write there, too."""
    archive = tmp_path / "plots.zip"
    done = subprocess.run(["git", "archive", "-o", archive, "HEAD", "plots"], cwd=ROOT, capture_output=True)
    shutil.rmtree(bare.parent / "plots")
    if done.returncode == 0:
        shutil.unpack_archive(archive, bare.parent)
    else:  # without git, or inside another repository
        shutil.copytree(ROOT / "plots", bare.parent / "plots")
    return bare


def build_in(folder, **options):
    return subprocess.run([sys.executable, "-W", "error", folder / "build.py"], capture_output=True, text=True,
                          timeout=240, **options)


@needs_latex
def test_the_report_builds_without_a_fault_whatever_lies_beside_its_files(copy):
    plots = copy.parent / "plots"
    (plots / "folder.json").mkdir()
    shutil.copytree(plots / "sweep", plots / "mine")
    shutil.copy(plots / "vae_mnist.json", plots / "v (2).json")
    own = json.loads((plots / "vae_fashion_scores.json").read_text())
    for name, content in ((plots / "._p1.json", b"\0\5\026\7"), (copy / "._p1.tex", b"\0\xff"), (plots / "a.json", b""),
                          (copy / "notes.tex", b"caf\xe9 \\num[.2f]{a/b}"), (plots / "b.json", b"\xff{"),
                          (plots / "c.json", b'{"numbers": {"frechet": NaN}, "seconds": "", "command": []}'),
                          (plots / "d.json", b'{"numbers": {"frechet": "x"}, "dataset": "fashion", "command": []}'),
                          (plots / "100%_scores.json", json.dumps(own | {"command": "python a\\{%"}).encode())):
        name.write_bytes(content)
    source = copy / "p1.tex"
    source.write_bytes(source.read_bytes().replace(b"\n", b"\r\n"))
    done = build_in(copy)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    log = (copy / "build/report.log").read_text(errors="replace")
    for fault in ("Overfull", "undefined", "multiply defined", "Missing character", "Font shape"):
        assert fault not in log, [line for line in log.splitlines() if fault in line]
    if shutil.which("pdftotext"):
        texts = [subprocess.run(["pdftotext", folder / "report.pdf", "-"], capture_output=True, check=True).stdout
                 for folder in (copy, ROOT / "report")]
        numbers = [sorted(re.findall(rb"\d+[.\d]*", text)) for text in texts]
        assert numbers[0] == numbers[1], "report/report.pdf is not what the records say: run `make report`"


MACROS = re.compile(r"\\(num|ms|mean|interval|change|score|judged|tried|scheme|row|setting|command|file|q|question|answer|ref|pageref|label|cite|"
                    r"includegraphics)(\[[^]]*\])?\{[^{}]*\}(\{[^{}]*\})?")


def typed(source):
    """The decimal numbers that a LaTeX source types itself, lengths aside."""
    return re.findall(r"(?<![\d.])\d+\.\d+(?!\d*\s*(?:in|em|pt)\b)", MACROS.sub("", re.sub(r"(?<!\\)%.*", "", source)))


def test_no_measured_number_is_typed_by_hand():
    for path in sorted((ROOT / "report").glob("[!.]*.tex")):
        assert typed(path.read_text(encoding="utf-8").split(r"\begin{document}")[-1]) == [], path.name  # layout comes before it
    assert typed(r"\q{5.3} \num[.25f]{a/b 0.5} \hspace{1.5in} % 0.1") == [] and typed("a loss of 105.3") == ["105.3"]


@needs_latex
def test_what_does_not_exist_stops_the_build_until_it_is_there(bare):
    source = bare / "report.tex"
    text = source.read_text().split(r"\input{front}")[0]
    planted = {r"\num[.2f]{vae_mnist/no_such_number}": r'report.tex:\d+: .*no record holds "vae_mnist/no_such_number"',
               r"\command{no_such_run}": r'report.tex:\d+: .*no record holds "no_such_run/command"',
               r"\includegraphics{no_such_figure.pdf}": r"report.tex:\d+: .*no_such_figure.pdf",
               r"\nosuchmacro": r"report.tex:\d+: Undefined control sequence. l.\d+ \\nosuchmacro",
               "caf\udce9 ": "report.tex is not UTF-8"}
    for words, fault in planted.items():
        source.write_text(text + words + "\n\\end{document}\n", errors="surrogateescape")
        done = build_in(bare)
        assert done.returncode == 1 and re.search(fault, done.stderr) and done.stderr.count("\n") == 1, done.stderr
    source.write_text(text + r"\num[.2f]{vae_mnist/test_loss}\end{document}")
    assert build_in(bare).returncode == 0


def stand_ins(folder, script):
    """An environment in which latexmk is `script`, and its companions do nothing."""
    for name in ("latexmk", "pdflatex", "bibtex"):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


def test_what_latexmk_says_is_shown_on_whichever_stream_in_whatever_bytes(bare, tmp_path):
    for script, fault in ((r"printf './p1.tex:13: Undefined.\nl.13 ...\244\n'; exit 12", "p1.tex:13: Undefined. l.13 ..."),
                          ("echo of its own >&2; exit 2", "of its own"),
                          (r"""echo "! LaTeX Error: File \`lmodern.sty' not found."; exit 12""", "apt install latexmk lmodern")):
        done = build_in(bare, env=stand_ins(tmp_path, script))
        assert done.returncode == 1 and fault in done.stderr and "Traceback" not in done.stderr
    done = build_in(bare, env={"PATH": str(bare)})
    assert done.stderr.startswith("report/build.py: latexmk, pdflatex, bibtex") and "apt install" in done.stderr
    shutil.rmtree(bare / "build")
    (bare / "build").touch()  # as in a folder that cannot be written
    done = build_in(bare, env=stand_ins(tmp_path, "exit"))
    assert done.returncode == 1 and done.stderr.count("\n") == 1


def test_a_build_that_is_stopped_says_so_in_a_line(bare, tmp_path):
    environment = stand_ins(tmp_path, f"touch '{tmp_path}/ready'; sleep 60")
    child = subprocess.Popen([sys.executable, bare / "build.py"], env=environment, text=True, stderr=subprocess.PIPE)
    while not (tmp_path / "ready").exists():
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    assert "stopped" in child.communicate(timeout=30)[1] and child.returncode == 1


def test_the_numbers_of_the_readme_are_those_of_the_records(copy, monkeypatch):
    monkeypatch.setattr(build, "PLOTS", [copy.parent / folder.relative_to(ROOT) for folder in build.PLOTS])
    values = build.values_of({path.stem: record for path, record in build.read_records(build.PLOTS).items()})
    rows = [[cell.strip() for cell in line.split("|")[1:-1]]
            for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    scored = {"real images": "real_fashion_scores/{}", "handed-out GAN": "gan_mlp_fashion_scores/{}"}
    scored |= {f"{name}, mean of 3 seeds": f"p5_seeds/{run}_fashion/{{}}/mean"
               for name, run in (("VAE", "vae"), ("GAN", "gan"), ("Conditional GAN", "cgan"))}
    for name, pattern in scored.items():
        row, = [row for row in rows if row[0] == name]
        expected = [(".1f", "frechet_ratio"), (".2f", "precision"), (".2f", "recall")]
        assert row[1:4] == [format(values[pattern.format(measure)], digits) for digits, measure in expected]
    race = rows[-4:]
    for row, run in zip(race, ("vae_mnist", "vae_fashion", "gan_fashion", "cgan_fashion")):
        expected = [(".0f", "usual_seconds"), (".0f", "our_seconds"), (".1f", "seconds_ratio")]
        assert row[2:] == [format(values[f"bench/{run}/{name}"], digits) for digits, name in expected]


make = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


@make
def test_the_zip_that_is_handed_in(tmp_path):
    packed = {f"plots/{name}" for name in ("gallery.png", "epochs.gif", "judge_fashion.pt")}
    packed |= {f"plots/{run}_weights.pt" for run in ("vae_fashion", "gan_fashion", "cgan_fashion")}
    packed |= {path.name for path in ROOT.glob("*.py")} | {"requirements.txt", "README.md"}
    for name in packed | {"Makefile", "report/report.pdf"}:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)

    def submit(*words, **exported):
        return subprocess.run(["make", "submission", f"PYTHON={sys.executable}", *words], cwd=tmp_path, text=True,
                              capture_output=True, env={"PATH": "/usr/bin:/bin"} | exported)

    for name in ("", "Riddle, T. M.", "a;b", "../up", "DESKTOP-ABC"):
        done = submit(f"NAME={name}", NAME="host")
        assert done.returncode == 2 and "NAME=riddletm" in done.stderr and not list(tmp_path.rglob("*.zip"))
    assert submit(NAME="host").returncode == 2  # of a shell
    done = submit("NAME=riddletm", NAME="host")
    assert done.returncode == 0, done.stderr
    shutil.unpack_archive(tmp_path / "riddletm.assignment3.zip", tmp_path / "there")
    there = {str(path.relative_to(tmp_path / "there")) for path in (tmp_path / "there").rglob("*") if path.is_file()}
    assert there == packed | {"riddletm.assignment3.pdf"}


@make
def test_an_environment_that_lost_its_python_is_named(tmp_path):
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/run").touch()
    (tmp_path / ".venv/bin/python").symlink_to("no such file")
    done = subprocess.run(["make", "vae"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "make clean" in done.stderr
