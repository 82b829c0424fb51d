"""Build report/report.pdf from the LaTeX sources and the records in plots/.

    python report/build.py

Every number in the report is named after the record that holds it, with the digits it is printed
to, \\num[.2f]{vae_mnist/test_loss} (Python's format; p is per cent, G keeps the zeros of g);
settings and commands are named alike. This script looks them up, writes them as LaTeX definitions
(report/build/numbers.tex) and calls latexmk; a name that no record holds, or a figure that no
script wrote, stops the build.
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
SEEDS = {  # runs that differ in the seed alone: their mean and standard deviation have names, too
    "vae_mnist_seeds": ["vae_mnist", "vae_mnist_seed2", "vae_mnist_seed3"],
    "vae_mnist_float32_seeds": ["vae_mnist_precisionfloat32", "vae_mnist_precisionfloat32_seed2",
                                "vae_mnist_precisionfloat32_seed3"],
}


def read_records():
    """{run: record} of every record under plots/, of published values and of report/screen.py.

    "again/run" is what `report/run.py --again` found for that run, on another machine.
    """
    paths = [HERE / "published.json", *sorted(PLOTS.rglob("*.json"))]
    records = {path.name.removesuffix(".json"): json.loads(path.read_text()) for path in paths}
    trials = map(json.loads, (HERE / "screening.jsonl").read_text().splitlines())
    numbers = {f"{trial['command'].removeprefix('python report/screen.py ')}/{name}": value
               for trial in trials for name, value in trial.items()
               if isinstance(value, (int, float))}
    again = json.loads((HERE / "again.json").read_text())
    return records | {"screen": {"numbers": numbers}} | {
        f"again/{run}": record for run, record in again.items()}


def numbers_of(records):
    """{run/name: number} of every record, and what follows from them.

    Of the groups of SEEDS mean, sd and count; of every record its minutes and, as "first/name",
    its curves' first values; of D's verdicts under right and wrong labels the mean over the
    classes; of every Frechet distance that p5_compare.py has recorded its ratio to that of real
    images.
    """
    numbers = {f"{run}/{name}": number for run, record in records.items()
               for name, number in record["numbers"].items()}
    for run, record in records.items():
        numbers[f"{run}/minutes"] = record.get("seconds", 0) / 60
        for name, curve in record.get("curves", {}).items():
            if curve and isinstance(curve[0], float):
                numbers[f"{run}/first/{name}"] = curve[0]
        for name in ("d_right", "d_wrong"):
            if f"{name}_0" in record["numbers"]:
                numbers[f"{run}/{name}"] = statistics.mean(
                    record["numbers"][f"{name}_{c}"] for c in range(10))
        dataset = record.get("dataset") or record.get("settings", {}).get("dataset")
        for name, number in record["numbers"].items():
            of = dataset or name.split("/")[0].split("_")[-1]  # bench.py's rows are named after it
            unit = numbers.get(f"real_{of}_scores/frechet")
            if unit and name.endswith("frechet"):
                numbers[f"{run}/{name}_ratio"] = number / unit
    for group, runs in SEEDS.items():
        for name in records[runs[0]]["numbers"]:
            values = [numbers[f"{run}/{name}"] for run in runs]
            numbers[f"{group}/{name}/mean"] = statistics.mean(values)
            numbers[f"{group}/{name}/sd"] = statistics.stdev(values)
        numbers[f"{group}/count"] = len(runs)
    return numbers | campaign_of(records)


def campaign_of(records):
    """{campaign/name: number} that say what the records took: runs, trainings, hours, machines."""
    campaign = of_the_campaign(records)
    runs = [record for record in campaign.values() if "machines" in record]
    trainings = [record for record in runs if "precision" in record]
    numbers = {"runs": len(runs), "trainings": len(trainings),
               "processors": len(processors_of(campaign)),
               "hours": sum(record["seconds"] for record in runs) / 3600,
               "bfloat16": sum(record["precision"] == "bfloat16" for record in trainings),
               "float32": sum(record["precision"] == "float32" for record in trainings)}
    return {f"campaign/{name}": number for name, number in numbers.items()}


def of_the_campaign(records):
    """`records` without those of the second opinion."""
    return {run: record for run, record in records.items() if not run.startswith("again/")}


def processors_of(records):
    """Names of the processors that the records were made on, in order."""
    return sorted({machine["processor"] for record in records.values()
                   for machine in record.get("machines", [])})


def texts_of(records):
    """{run/name: text, as LaTeX}: settings/flag, command and processor of every record.

    And campaign/processors, all those of the campaign.
    """
    texts = {"campaign/processors": verbatim(" and ".join(processors_of(of_the_campaign(records))))}
    for run, record in records.items():
        for flag, value in record.get("settings", {}).items():
            texts[f"{run}/settings/{flag}"] = verbatim(value)
            if isinstance(value, dict):
                texts |= {f"{run}/settings/{flag}/{key}": verbatim(part)
                          for key, part in value.items()}
        if record.get("machines"):
            texts[f"{run}/processor"] = verbatim(record["machines"][-1]["processor"])
        if "command" in record:
            texts[f"{run}/command"] = verbatim(record["command"])
    return texts


def printed(number, digits):
    """A number to `digits`, as a person reads it: 105.40, 1.2e-05, 12%."""
    if digits.endswith("G"):
        return format(number, f"#{digits[:-1]}g")
    return format(number, digits.replace("p", "%"))


def latex(number, digits):
    """A number to `digits`, as LaTeX: powers of ten, minus and per cent as they are printed.

    Whole numbers of five digits or more have a thin space between thousands.
    """
    if digits == "d" and abs(number) >= 10_000:
        return rf"\ensuremath{{{number:,}}}".replace(",", r"\,")
    mantissa, _, power = printed(number, digits).partition("e")
    if power:
        return rf"\ensuremath{{{mantissa} \times 10^{{{int(power)}}}}}"
    return rf"\ensuremath{{{mantissa}}}".replace("%", r"\%")


def verbatim(text):
    """Text for \\texttt: special characters escaped, and no ligature between hyphens."""
    return re.sub(r"([_#&%$])", r"\\\1", str(text)).replace("--", "-{}-")


def expanded(sources):
    """LaTeX sources with every call of a macro whose digits are its option replaced by its body."""
    definition = re.compile(r"\\newcommand\{\\(\w+)\}\[\d\]\[\]\{((?:[^{}]|\{[^{}]*\})*)\}")
    macros = definition.findall(sources)
    sources = definition.sub("", sources)
    for name, body in macros:
        def meaning(call, body=body):
            arguments = [call[1] or "", *re.findall(r"\{([^{}]*)\}", call[2])]
            return re.sub(r"#(\d)", lambda place: arguments[int(place[1]) - 1], body)

        call = rf"\\{name}(?:\[([^\]]*)\])?((?:\{{[^{{}}]*\}})+)"
        sources = re.sub(call, meaning, sources)
    return sources


def uses(sources):
    """{(digits, pattern of names)} of every \\num in LaTeX sources.

    In a macro, where a part of the name is an argument, #1, any will do.
    """
    found = set()
    for digits, name in re.findall(r"\\num\[([^\]]*)\]\{([^{}]*)\}", expanded(sources)):
        pattern = ".+".join(map(re.escape, re.split(r"#\d", " ".join(name.split()))))
        found.add((digits, pattern))
    return found


def definitions(records, sources):
    """{digits@name: LaTeX} of every number that the sources print, {@name: text} of the rest."""
    values = {f"@{name}": text for name, text in texts_of(records).items()}
    numbers = numbers_of(records)
    for digits, pattern in uses(sources):
        for name in filter(re.compile(pattern).fullmatch, numbers):
            whole = isinstance(numbers[name], int)
            if digits != "d" or whole:
                values[f"{digits}@{name}"] = latex(numbers[name], digits)
    return values


def main():
    build = HERE / "build"
    build.mkdir(exist_ok=True)
    sources = "".join(path.read_text() for path in sorted(HERE.glob("*.tex")))
    lines = [rf"\expandafter\def\csname value@{name}\endcsname{{{text}}}"
             for name, text in sorted(definitions(read_records(), sources).items())]
    (build / "numbers.tex").write_text("\n".join(lines) + "\n")
    if not shutil.which("latexmk"):
        sys.exit("report/build.py: latexmk is not installed, so the report was not built. Debian, "
                 "Ubuntu: apt install latexmk lmodern texlive-latex-recommended "
                 "texlive-fonts-recommended")
    command = ["latexmk", "-pdf", "-interaction=nonstopmode", "-halt-on-error", "-file-line-error",
               "-outdir=build", "report.tex"]
    environment = os.environ | {"max_print_line": "1000"}  # latexmk misreads lines that TeX breaks
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, env=environment)
    if done.returncode:
        faults = [line for line in done.stdout.splitlines() if re.match(r"!|\S+:\d+:", line)]
        said = faults[:2] or done.stdout.splitlines()[-3:]
        sys.exit(f"report/build.py: LaTeX failed: {' '.join(said)}")
    shutil.copy(build / "report.pdf", HERE / "report.pdf")
    print(f"built {HERE / 'report.pdf'}")


if __name__ == "__main__":
    main()
