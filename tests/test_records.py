"""The records in plots/ are what their commands would write today, and the report can only quote them."""
import importlib
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

import vae

ROOT = Path(__file__).resolve().parent.parent
RECORDS = sorted((ROOT / "plots").rglob("*.json"))
sys.path.insert(0, str(ROOT / "report"))


def faults(path):
    """What is wrong with a record: its command, its settings, its name, the form of its numbers."""
    record = json.loads(path.read_text())
    python, script, *flags = shlex.split(record["command"])
    module = importlib.import_module(Path(script).stem)
    args = module.parse_args(flags)
    found = []
    if python != "python" or args.command != record["command"]:
        found.append("its command is not the one to type")
    today = getattr(module, "settings_of", vae.settings_of)(args)
    if today.get("precision") == "auto":  # whatever the hardware of that run had
        today["precision"] = record["settings"].get("precision")
    found += [f"{name} is {record['settings'].get(name)!r}, today {today.get(name)!r}"
              for name in {*today, *record["settings"]} if today.get(name) != record["settings"].get(name)]
    if today.get("run_name", path.stem) != path.stem:
        found.append(f"it is named {path.stem}, its run {today['run_name']}")
    found += [f"{name} is no number" for name, entry in record["numbers"].items()
              if not re.fullmatch(r"[-+]?[\d.]+(e[-+]\d+)?%?", format(entry["value"], entry["format"]))]
    return found


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_is_what_its_command_would_write_today(path):
    assert faults(path) == []


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_says_where_it_comes_from(path):
    record = json.loads(path.read_text())
    fields = {"command", "settings", "seed", "device", "seconds", "curves", "versions", "numbers"}
    assert set(record) - {"products", "precision"} == fields  # these two: what training multiplied in
    assert {"torch", "torchvision", "numpy", "matplotlib"} <= set(record["versions"])
    assert not re.search(r"(^| )/|\.\./|~", record["command"])  # no path of one machine


@pytest.mark.parametrize(("part", "key", "value"), [("settings", "epochs", 11), ("settings", "beta", 2.0),
                                                    ("numbers", "test_loss", {"value": "about 105", "format": ""})])
def test_a_planted_stale_record_is_found(tmp_path, part, key, value):
    record = json.loads((ROOT / "plots/vae_mnist.json").read_text())
    record[part][key] = value
    planted = tmp_path / "vae_mnist.json"
    planted.write_text(json.dumps(record))
    assert len(faults(planted)) == 1
    planted.rename(tmp_path / "other_name.json")
    assert len(faults(tmp_path / "other_name.json")) == 2


def test_what_is_exact_is_computed_anew_and_equals_the_records():
    """Closed forms, quadrature and descent in double precision; what is drawn at random may differ between machines."""
    import p1
    import p2
    import p4_divergences
    import p5_toys
    cpu = torch.device("cpu")
    fresh = {"p1": {"cases": (len(p1.CASES) * len(p1.SCALES), ""), "failed": (0, "")},
             "p2": p2.study_lambda(1, cpu)[0], "p4_divergences": p4_divergences.exact_numbers(),
             "p5_toys": {f"norm/{d}/inside": (p5_toys.shell(d)[2], "") for d in p5_toys.DIMENSIONS}}
    for run, numbers in fresh.items():
        record = json.loads((ROOT / f"plots/{run}.json").read_text())["numbers"]
        for name in numbers.keys() - {"lambda/error", "quadrature/error"}:  # these two are nothing but rounding
            assert record[name]["value"] == pytest.approx(numbers[name][0], rel=1e-6, abs=1e-9), (run, name)


def test_every_figure_of_the_report_was_written_by_a_run():
    sources = "".join(path.read_text() for path in (ROOT / "report").glob("*.tex"))
    for name in re.findall(r"\\includegraphics\{(.*?)\}", sources):
        figure = next((ROOT / "plots").rglob(name), None)
        assert figure is not None, name
        stems = [record.stem.replace("p5_compare", "p5") for record in figure.parent.glob("*.json")]
        assert any(name.startswith(stem) for stem in stems), name
