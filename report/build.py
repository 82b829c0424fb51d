"""Build report/report.pdf from the LaTeX sources and the records in plots/.

    python report/build.py

Every number, setting and command in the report is named after the record it comes from. This script turns the
records into LaTeX definitions (report/build/numbers.tex) and calls latexmk; a name that no record holds, or a figure
that no script wrote, stops the build.
"""
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PLOTS = HERE.parent / "plots"
SEEDS = {  # runs that differ in the seed alone
    "vae_mnist_seeds": ["vae_mnist", "vae_mnist_seed2", "vae_mnist_seed3"],
    "vae_mnist_float32_seeds": [f"vae_mnist_float32_seed{seed}" for seed in (1, 2, 3)],
}


def latex(value, spec):
    """A value in its record's format, as LaTeX: 1.2e-05 becomes a power of ten, 12% and -3 print as they should."""
    text = format(value, spec)
    mantissa, _, power = text.partition("e")
    if power:
        return rf"\ensuremath{{{mantissa} \times 10^{{{int(power)}}}}}"
    return rf"\ensuremath{{{text}}}".replace("%", r"\%")


def verbatim(text):
    """Text for \\texttt: special characters escaped, and no ligature between hyphens."""
    return re.sub(r"([_#&%$])", r"\\\1", str(text)).replace("--", "-{}-")


def definitions(records):
    """{name: LaTeX} for every number, setting and command of {run: record}, and means over seeds."""
    names = {}
    for run, record in records.items():
        names |= {f"{run}/{key}": latex(entry["value"], entry["format"]) for key, entry in record["numbers"].items()}
        names |= {f"{run}/settings/{key}": verbatim(value) for key, value in record.get("settings", {}).items()}
        if "command" in record:
            names[f"{run}/command"] = verbatim(record["command"])
    for group, runs in SEEDS.items():
        for key, entry in records[runs[0]]["numbers"].items():
            values = [records[run]["numbers"][key]["value"] for run in runs]
            names[f"{group}/{key}/mean"] = latex(statistics.mean(values), entry["format"])
            names[f"{group}/{key}/sd"] = latex(statistics.stdev(values), entry["format"])
        names[f"{group}/count"] = str(len(runs))
    return names


def read_records():
    """{run: record} of every record under plots/, and of the published values in report/published.json."""
    paths = [HERE / "published.json", *sorted(PLOTS.rglob("*.json"))]
    levels = (HERE, PLOTS, PLOTS / "sweep")  # a folder below these is a part of the name
    return {path.stem if path.parent in levels else f"{path.parent.name}/{path.stem}": json.loads(path.read_text())
            for path in paths}


def main():
    build = HERE / "build"
    build.mkdir(exist_ok=True)
    lines = [rf"\expandafter\def\csname value@{name}\endcsname{{{text}}}"
             for name, text in definitions(read_records()).items()]
    (build / "numbers.tex").write_text("\n".join(lines) + "\n")
    if not shutil.which("latexmk"):
        sys.exit("report/build.py: latexmk is not installed, so the report was not built. Debian, Ubuntu: apt install "
                 "latexmk lmodern texlive-latex-recommended texlive-fonts-recommended")
    done = subprocess.run(["latexmk", "-pdf", "-interaction=nonstopmode", "-halt-on-error", "-file-line-error",
                           "-outdir=build", "report.tex"], cwd=HERE, capture_output=True, text=True,
                          env=os.environ | {"max_print_line": "1000"})  # latexmk misreads lines that TeX breaks
    if done.returncode:
        faults = [line for line in done.stdout.splitlines() if re.match(r"!|\S+:\d+:", line)]
        sys.exit("report/build.py: LaTeX failed: " + " ".join(faults[:2] or done.stdout.splitlines()[-3:]))
    shutil.copy(build / "report.pdf", HERE / "report.pdf")
    print(f"built {HERE / 'report.pdf'}")


if __name__ == "__main__":
    main()
