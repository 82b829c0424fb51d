"""What holds for every script: it stands alone, says what is wrong in one line, and shares its helpers."""
import ast
import importlib
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))
HELPERS = ["load_dataset", "choose_device", "replacing", "save_figure", "write_record", "settings_of", "run"]
OF_TRAINING = ["claim", "load_checkpoint"]  # only the scripts that train for minutes carry these
SOURCES = {name: (ROOT / name).read_text() for name in SCRIPTS}
TREES = {name: ast.parse(source) for name, source in SOURCES.items()}


def helper_text(script):
    """{name: source text} of the helpers that a script carries, the figure style among them."""
    found = {}
    for node in TREES[script].body:
        name = getattr(node, "name", None) or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]))
        if name in (*HELPERS, *OF_TRAINING, "STYLE"):
            first = min([node.lineno, *(line.lineno for line in getattr(node, "decorator_list", []))])
            found[name] = "\n".join(SOURCES[script].splitlines()[first - 1:node.end_lineno])
    return found


def test_helpers_are_the_same_everywhere_and_short():
    texts = {}
    for script in SCRIPTS:
        for name, text in helper_text(script).items():
            assert texts.setdefault(name, text) == text, f"{name} of {script} differs from another script's"
    assert set(texts) == {*HELPERS, *OF_TRAINING, "STYLE"}
    lines = {name: len([line for line in text.splitlines() if line.strip()]) for name, text in texts.items()}
    assert sum(lines[name] for name in (*HELPERS, "STYLE")) < 60 and sum(lines[name] for name in OF_TRAINING) < 30


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_stands_alone_and_does_nothing_at_import(script):
    allowed = {"torch", "torchvision", "numpy", "matplotlib", "tqdm", *__import__("sys").stdlib_module_names}
    for node in ast.walk(TREES[script]):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            assert {name.split(".")[0] for name in names} <= allowed
    statements = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign)
    docstring, *body, guard = TREES[script].body
    assert all(isinstance(node, statements) for node in body) and ast.unparse(guard.test) == "__name__ == '__main__'"
    assert isinstance(docstring, ast.Expr)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_fits_a_sitting_and_a_function_a_screen(script):
    assert len(SOURCES[script].splitlines()) < 400
    for node in ast.walk(TREES[script]):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name


RUNS_ALONE = {"p1.py": [], "p3_autoencoder.py": ["--epochs", "1"], "vae.py": ["--epochs", "1"],
              "gan.py": ["--arch", "mlp", "--epochs", "1"], "p2.py": ["--inits", "2"],
              "p4_divergences.py": ["--points", "20", "--repetitions", "2"],
              "p5_toys.py": ["--prior-steps", "1", "--map-steps", "1", "--seeds", "2"]}


@pytest.mark.parametrize("script", RUNS_ALONE)
def test_a_copy_runs_in_an_empty_folder(script, command, glyph_dir, tmp_path):
    """Data, figures and runs lie beside the script, wherever it is called from; the folder's name is no plain one."""
    home = tmp_path / "a folder, önly for this"
    home.mkdir()
    shutil.copy(ROOT / script, home)
    (home / "data").symlink_to(glyph_dir)
    done = command(home / script, *RUNS_ALONE[script], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list((home / "plots").glob("*.json")) and list((home / "plots").glob("*.pdf"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [home.name]


BAD = [("p1.py", flags) for flags in (["--seed", "-1"], ["--seed", "one"], ["--no-such-flag"], ["file.txt"])]
BAD += [(script, flags) for script in ("vae.py", "p3_autoencoder.py") for flags in (
    ["--dataset", "cifar"], ["--dataset"], ["--epochs", "0"], ["--epochs", "ten"], ["--epochs", "1.5"],
    ["--batch-size", "-1"], ["--batch-size", "0"], ["--batch-size", "100000"], ["--lr", "nan"], ["--lr", "inf"],
    ["--lr", "0"], ["--lr", "-1"], ["--lr", ""], ["--seed", "-1"], ["--epoch", "3"], ["--no-such-flag"], ["file.txt"])]
BAD += [("vae.py", flags) for flags in (["--log-interval", "0"], ["--run-name", "a/b"], ["--run-name", "../up"],
                                        ["--latent-dim", "0"], ["--latent-dim", "-3"], ["--hidden-dim", "0"],
                                        ["--layers", "0"], ["--beta", "-1"], ["--beta", "nan"],
                                        ["--schedule", "steps"], ["--precision", "float16"])]
BAD += [("gan.py", flags) for flags in (
    ["--dataset", "cifar"], ["--arch", "cnn"], ["--epochs", "0"], ["--epochs", "1.5"], ["--updates", "-1"],
    ["--batch-size", "0"], ["--batch-size", "60001"], ["--lr-g", "0"], ["--lr-g", "nan"], ["--lr-d", "nan"],
    ["--lr-d", "inf"], ["--g-steps", "0"], ["--d-steps", "-2"], ["--beta1", "1"], ["--beta1", "-0.5"],
    ["--label-smoothing", "2"],
    ["--label-smoothing", "0"], ["--ema", "1"], ["--ema", "nan"], ["--r1", "-1"], ["--seed", "-1"],
    ["--classifier", "0.1"], ["--classifier", "0.1", "--conditional", "--arch", "mlp"],
    ["--classifier", "-1", "--conditional"], ["--precision", "float16"], ["--run-name", "../up"],
    ["--conditional", "yes"], ["--g-step", "2"], ["file.txt"])]
BAD += [("p5_compare.py", flags) for flags in (["--dataset", "cifar"], ["--epochs", "0"], ["--epochs", "ten"],
                                               ["--seed", "-1"], ["--cas"], ["--epoch", "3"], ["--no-such-flag"])]
BAD += [("p2.py", flags) for flags in (["--dataset", "cifar"], ["--inits", "1"], ["--inits", "two"], ["--seed", "-1"],
                                       ["--epochs", "3"], ["file.txt"])]
BAD += [("p4_divergences.py", flags) for flags in (["--points", "19"], ["--points", "many"], ["--repetitions", "1"],
                                                   ["--seed", "-1"], ["--point", "50"], ["file.txt"])]
BAD += [("p5_toys.py", flags) for flags in (["--prior-steps", "0"], ["--map-steps", "-1"], ["--seeds", "1"],
                                            ["--seeds", "100"], ["--seeds", "1.5"], ["--seed", "-1"], ["--step", "9"],
                                            ["--map-steps", "x"], ["file.txt"])]
BAD += [("p5_seeds.py", flags) for flags in (["--no-such-flag"], ["--out-dir"], ["file.txt"])]


@pytest.mark.parametrize(("script", "flags"), BAD, ids=lambda value: "".join(value))
def test_a_bad_flag_is_wrong_usage_in_one_line(script, flags, capsys):
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(Path(script).stem).main(flags)
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.strip().splitlines()) == 1


def test_wrong_usage_as_a_person_meets_it(command):
    done = command(ROOT / "vae.py", "--epochs", "0")
    assert done.returncode == 2 and done.stderr.startswith("vae.py: --epochs 0 ") and done.stderr.count("\n") == 1
