"""Build report/report.pdf from the LaTeX sources and the records in plots/.

    python report/build.py

Every number in the report is named after the record that holds it, with the digits it is printed
to, \\num[.2f]{vae_mnist/test_loss} (Python's format; p is per cent, G keeps the zeros of g);
settings and commands are named alike. This script looks them up, writes them as LaTeX definitions
(report/build/numbers.tex) and calls latexmk; a name that no record holds, or a figure that no
script wrote, stops the build. What else lies in plots/, whole or damaged, changes nothing.
"""
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PLOTS = [HERE.parent / folder for folder in ("plots/bench", "plots/sweep", "plots")]
PACKAGES = ("Debian, Ubuntu: apt install latexmk lmodern texlive-latex-recommended "
            "texlive-fonts-recommended")
SEEDS = {"vae_mnist_seeds": "vae_mnist",  # with _seed2 and _seed3: their mean has a name, too
         "vae_mnist_float32_seeds": "vae_mnist_precisionfloat32"}


# -------------------------------------------------------------------------------------- records
def read_records(folders):
    """{path: record} of the JSON files in `folders`, without those that are no record."""
    records = {}
    for path in [path for folder in folders for path in sorted(folder.glob("[!.]*.json"))]:
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            values_in("", record)
            records[path] = record
        except Exception:  # anything may lie there; what no sentence names does no harm
            continue
    return records


def read_search():
    """The search for better settings as one record: COMMAND/NAME of every trial."""
    trials = map(json.loads, (HERE / "screening.jsonl").read_text(encoding="utf-8").splitlines())
    return {"numbers": {f"{trial['command'].removeprefix('python report/screen.py ')}/{name}": value
                        for trial in trials for name, value in trial.items()}}


def values_in(run, record):
    """{run/name: value} of one record: finite numbers; settings, command and processor as text.

    Also minutes; as first/NAME its curves' first values; of D's verdicts under right and wrong
    labels the mean over the classes.
    """
    found = dict(record["numbers"])
    found["minutes"] = record.get("seconds", 0) / 60
    for name, curve in record.get("curves", {}).items():
        found[f"first/{name}"] = curve[0] if curve else None
    for name in ("d_right", "d_wrong"):
        if f"{name}_0" in found:
            found[name] = statistics.mean(found[f"{name}_{c}"] for c in range(10))
    for flag, value in record.get("settings", {}).items():
        found[f"settings/{flag}"] = str(value)
    found["command"] = record.get("command")
    found["processor"] = record.get("machines", [record])[-1].get("processor")
    return {f"{run}/{name}": value for name, value in found.items() if isinstance(value, str)
            or isinstance(value, (int, float)) and math.isfinite(value)}


def values_of(records):
    """{run/name: number or text} of {run: record}, and what follows from several records.

    Of every Frechet distance its ratio to that of real images; mean, sd and count of SEEDS; what
    the campaign took.
    """
    values = {}
    for run, record in records.items():
        values |= values_in(run, record)
    for run, record in records.items():
        dataset = record.get("dataset") or record.get("settings", {}).get("dataset")
        unit = values.get(f"real_{dataset}_scores/frechet")
        for name in record["numbers"]:
            value = values.get(f"{run}/{name}")
            if unit and name.endswith("frechet") and isinstance(value, float):
                values[f"{run}/{name}_ratio"] = value / unit
    for group, run in SEEDS.items():
        losses = [values.get(f"{run}{seed}/test_loss") for seed in ("", "_seed2", "_seed3")]
        if None not in losses:
            values[f"{group}/count"] = len(losses)
            values[f"{group}/test_loss/mean"] = statistics.mean(losses)
            values[f"{group}/test_loss/sd"] = statistics.stdev(losses)
    return values | campaign(values, records)


def campaign(values, records):
    """{campaign/name: value}: what the runs of runs.txt, their scores and the race took."""
    commands = {run: values.get(f"{run}/command", "") for run in records}
    plan = set((HERE / "runs.txt").read_text(encoding="utf-8").splitlines()) - {""}
    planned = {run for run, command in commands.items() if command in plan}
    scores = {run for run, command in commands.items()
              if re.sub("^python p5_compare.py (normal_)?", "", command) in planned}
    once = {commands[run]: run for run in sorted(planned | scores, key=len, reverse=True)}
    runs = {*once.values(), *(run for run in records if run.startswith("bench_"))}
    trained = [records[run].get("precision", "float32") for run in runs
               if commands[run].startswith(("python vae.py", "python gan.py"))]
    processors = {values.get(f"{run}/processor", "?") for run in runs}
    found = {"runs": len(runs), "trainings": len(trained), "bfloat16": trained.count("bfloat16"),
             "float32": trained.count("float32"), "processors": " and ".join(sorted(processors)),
             "hours": sum(values.get(f"{run}/minutes", 0) for run in runs) / 60}
    return {f"campaign/{name}": value for name, value in found.items()}


# ---------------------------------------------------------------------------------------- LaTeX
def latex(value, digits):
    """A number to `digits`, as LaTeX: powers of ten, minus and per cent as they are printed.

    Whole numbers of five digits or more have a thin space between thousands. Without digits text,
    for \\texttt: special characters escaped, and no ligature between hyphens.
    """
    if not digits:
        escaped = re.sub(r"[\\{}~^_#&%$]", lambda found: rf"\char{ord(found[0])}{{}}", value)
        return escaped.replace("--", "-{}-")
    if digits == "d" and abs(value) >= 10_000:
        return rf"\ensuremath{{{value:,}}}".replace(",", r"\,")
    python = f"#{digits[:-1]}g" if digits.endswith("G") else digits.replace("p", "%")
    mantissa, _, power = format(value, python).partition("e")
    if power:
        return rf"\ensuremath{{{mantissa} \times 10^{{{int(power)}}}}}"
    return rf"\ensuremath{{{mantissa}}}".replace("%", r"\%")


def uses(sources):
    """{(digits, name)} of every \\num in LaTeX sources; a name may have arguments of macros, #1.

    A macro whose option is the digits, \\newcommand{\\mean}[3][]{... \\num[#1]{...}}, is one line.
    """
    for name, body in re.findall(r"\\newcommand\{\\(\w+)\}\[\d\]\[\](.*)", sources):
        call = rf"\\{name}\[([^]#]*)\]((?:\{{[^{{}}]*\}})*)"
        for digits, arguments in set(re.findall(call, sources)):
            words = [digits, *re.findall(r"\{([^{}]*)\}", arguments), *9 * ["#2"]]
            sources += re.sub(r"#(\d)", lambda n, words=words: words[int(n[1]) - 1], body)
    found = set(re.findall(r"\\num\[([^]#]*)\]\{([^{}]*)\}", sources))
    return {(digits, " ".join(name.split())) for digits, name in found}


def definitions(values, sources):
    """{digits@name: LaTeX} of every number that LaTeX sources print, {@name: text} of all text."""
    plain = re.compile(r"[\w ./,:;()+*=<>-]+", re.ASCII)  # what TeX takes as it is in a name
    values = {name: value for name, value in values.items() if plain.fullmatch(name)}
    found = {f"@{name}": latex(value, "") for name, value in values.items()
             if isinstance(value, str)}
    for digits, name in uses(sources):
        pattern = ".+".join(map(re.escape, re.split(r"#\d", name)))
        for each in filter(re.compile(pattern).fullmatch, values) if "#" in name else [name]:
            if isinstance(values.get(each), int if digits == "d" else (int, float)):
                found[f"{digits}@{each}"] = latex(values[each], digits)
    return found


def fault_of(said):
    """LaTeX's first error and where it is, of the lines it `said`; or else the last of them."""
    for number, line in enumerate(said):
        if re.match(r"!|\S.*\.\w+:\d+: ", line):
            place = [text for text in said[number + 1:number + 3] if text.startswith("l.")]
            hint = [f"({PACKAGES})"] if re.search(r"sty' not found|[Ff]ont .*not", line) else []
            return " ".join([line, *place, *hint])
    return "\n".join(said[-12:])


def main():
    missing = [tool for tool in ("latexmk", "pdflatex", "bibtex") if not shutil.which(tool)]
    if missing:
        raise OSError(f"{', '.join(missing)} is not installed, so the report was not built. "
                      f"{PACKAGES}")
    build = HERE / "build"
    if build.exists():
        shutil.rmtree(build)  # what a build that failed or was stopped left would stop this one
    build.mkdir()
    records = {path.stem: record for path, record in read_records([HERE, *PLOTS]).items()}
    values = values_of(records | {"screen": read_search()})
    sources = {path.name: path.read_text(encoding="utf-8", errors="replace")
               for path in sorted(HERE.glob("[!.]*.tex"))}
    lines = [rf"\expandafter\def\csname value@{name}\endcsname{{{text}}}"
             for name, text in sorted(definitions(values, "\n".join(sources.values())).items())]
    (build / "numbers.tex").write_text("\n".join(lines), encoding="utf-8", errors="replace")
    command = ["latexmk", "-norc", "-pdf", "-interaction=nonstopmode", "-halt-on-error",
               "-file-line-error", "-outdir=build", "report.tex"]
    environment = os.environ | {"max_print_line": "1000"}  # latexmk misreads lines that TeX breaks
    done = subprocess.run(command, cwd=HERE, env=environment, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        said = done.stdout.decode(errors="replace").splitlines()
        odd = [f" ({name} is not UTF-8)" for name, text in sources.items() if "\ufffd" in text]
        sys.exit(f"report/build.py: LaTeX failed: {fault_of(said)}{''.join(odd)}")
    (build / "report.pdf").replace(HERE / "report.pdf")
    print(f"built {HERE / 'report.pdf'}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nreport/build.py: stopped; report.pdf is as it was")
    except OSError as error:
        sys.exit(f"report/build.py: {error}")
