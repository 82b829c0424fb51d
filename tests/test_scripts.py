"""What holds for every script: it stands alone, shares its helpers, names its runs."""
import argparse
import ast
import importlib
import os
import random
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))
HELPERS = {"STYLE", "load_dataset", "download", "read_idx", "choose_device", "own_settings",
           "prepare_folders", "is_running", "replacing", "save_figure", "machine", "settings_of",
           "write_record", "number", "folder", "named", "run"}
OF_GENERATORS = {"save_weights", "load_weights", "save_picture", "choose_precision"}
OF_TRAINING = {"checksum", "load_state", "restore", "save_state", "open_run", "add_file_flags"}
TRAINING = {"vae.py", "gan.py", "p3_autoencoder.py"}
SOURCES = {name: (ROOT / name).read_text(encoding="utf-8") for name in SCRIPTS}
TREES = {name: ast.parse(source) for name, source in SOURCES.items()}
every_script = pytest.mark.parametrize("script", SCRIPTS)


def definitions(script):
    """{name: source text} of what a script defines at its top level, decorators included."""
    found = {}
    for node in TREES[script].body:
        name = getattr(node, "name", None)
        if isinstance(node, ast.Assign):
            name = ast.unparse(node.targets[0])
        if name:
            decorators = getattr(node, "decorator_list", [])
            first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
            found[name] = "\n".join(SOURCES[script].splitlines()[first - 1:node.end_lineno])
    return found


def test_helpers_are_the_same_everywhere():
    texts = {}
    for script in SCRIPTS:
        for name, text in definitions(script).items():
            if name in HELPERS | OF_TRAINING | OF_GENERATORS:
                same = texts.setdefault(name, text) == text
                assert same, f"{name} of {script} differs from another script's"
            if name in OF_TRAINING:
                assert script in TRAINING, f"{script} carries {name}"
    assert set(texts) == HELPERS | OF_TRAINING | OF_GENERATORS


@every_script
def test_a_script_uses_what_it_carries(script):
    used = {node.id for node in ast.walk(TREES[script]) if isinstance(node, ast.Name)
            and isinstance(node.ctx, ast.Load)}
    assert not (HELPERS | OF_TRAINING | OF_GENERATORS) & set(definitions(script)) - used


@every_script
def test_a_script_stands_alone_and_does_nothing_at_import(script):
    allowed = {"torch", "torchvision", "numpy", "matplotlib", "tqdm", *sys.stdlib_module_names}
    imported = []
    for node in ast.walk(TREES[script]):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported.append(node.module)
            imported += [f"{node.module}.{alias.name}" for alias in node.names]
    assert {name.split(".")[0] for name in imported} <= allowed
    assert "matplotlib.pyplot" not in imported  # it would choose a backend for a screen

    docstring, *body, guard = TREES[script].body
    assert isinstance(docstring, ast.Expr)
    assert ast.unparse(guard) == "if __name__ == '__main__':\n    run(main)"
    backend = "if __name__ == '__main__':\n    os.environ['MPLBACKEND'] = 'agg'"
    statements = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign)
    for node in body:
        assert isinstance(node, statements) or ast.unparse(node) == backend
    texts = [ast.unparse(node) for node in body]
    if any(text.startswith(("import matplotlib", "from matplotlib")) for text in texts):
        first = min(place for place, text in enumerate(texts) if "import" in text.split()
                    and "matplotlib" in text)
        assert backend in texts[:first]  # what a person has set for a screen is not asked


def places(script, wanted):
    """Line and text of what `wanted`, a function of a node, finds in a script."""
    return [f"{script}:{node.lineno}: {ast.unparse(node)}" for node in ast.walk(TREES[script])
            if wanted(node)]


@every_script
def test_a_script_is_plain_to_read(script):
    """One statement, one thought; a function fits a screen."""
    def too_long(node):
        return isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60

    def walrus_as_argument(node):
        if not isinstance(node, ast.Call):
            return False
        values = [*node.args, *(keyword.value for keyword in node.keywords)]
        return any(isinstance(value, ast.NamedExpr) for value in values)

    def boolean_as_statement(node):
        return isinstance(node, ast.Expr) and isinstance(node.value, ast.BoolOp)

    def condition_in_a_condition(node):
        return isinstance(node, ast.IfExp) and any(
            isinstance(below, ast.IfExp) for below in ast.walk(node) if below is not node)

    for wanted in (too_long, walrus_as_argument, boolean_as_statement, condition_in_a_condition,
                   lambda node: isinstance(node, ast.Assert)):
        assert not places(script, wanted)
    assert not [line for line in SOURCES[script].splitlines() if len(line) > 100]


RUNS_ALONE = {"p1.py": [], "p3_autoencoder.py": ["--epochs", "1"], "vae.py": ["--epochs", "1"],
              "gan.py": ["--arch", "mlp", "--epochs", "1"], "p2.py": ["--inits", "2"],
              "p4_divergences.py": ["--points", "20", "--repetitions", "2"],
              "p5_toys.py": ["--prior-steps", "1", "--map-steps", "1", "--seeds", "2"]}


SHORTENED = {"DENOISER_STEPS = 6000": "DENOISER_STEPS = 50",
             "QUADRATURE_POINTS = 4001": "QUADRATURE_POINTS = 21"}


@pytest.mark.parametrize("script", RUNS_ALONE)
def test_a_copy_runs_in_an_empty_folder(script, command, glyph_dir, tmp_path):
    """Data, figures and runs lie beside the script, wherever it is called from; its folder's name
    has letters that the output, as a redirected log on Windows, lacks."""
    home = tmp_path / "Łódź, a folder önly for this"
    home.mkdir()
    source = (ROOT / script).read_text(encoding="utf-8")
    for whole, short in SHORTENED.items():
        source = source.replace(whole, short)
    (home / script).write_text(source, encoding="utf-8")
    (home / "data").symlink_to(glyph_dir)
    surroundings = os.environ | {"PYTHONIOENCODING": "cp1252"}
    done = command(home / script, *RUNS_ALONE[script], cwd=tmp_path, env=surroundings,
                   encoding="cp1252")
    assert done.returncode == 0, done.stderr
    assert list((home / "plots").glob("*.json")) and list((home / "plots").glob("*.pdf"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [home.name]


def test_a_notebooks_backend_stops_no_script(forks):
    """A Jupyter kernel hands its MPLBACKEND to every !command, also where that backend is not.

    (That every script begins alike is tested above.)
    """
    scripts = [ROOT / name for name in ("p1.py", "tests/glyphs.py", "tests/bench.py")]
    for done in forks([[script, "--help"] for script in scripts], MPLBACKEND="module://none.such"):
        assert done.returncode == 0 and "usage:" in done.stdout, done.stderr


# ------------------------------------------------------------------------------------- names
class FlagsError(Exception):
    """Carries the flags of a parser out of parse_args."""


def flags_of(script, monkeypatch):
    """The actions of a script's parser that have a flag, --help aside."""
    def stop(parser, *_):
        raise FlagsError(parser._actions)

    with monkeypatch.context() as patch, pytest.raises(FlagsError) as caught:
        patch.setattr("argparse.ArgumentParser.parse_args", stop)
        script.parse_args([])
    return [action for action in caught.value.args[0]
            if action.option_strings and action.dest != "help"]


def kind_of(action):
    """"int", "float" or "" of a flag."""
    name = getattr(action.type, "__name__", "")
    return name if name in ("int", "float") else ""


def random_value(action, chance):
    """A text that the flag takes."""
    if action.choices:
        return chance.choice(list(action.choices))
    whole = chance.choice((1, 2, 3, 5, 10, 12, 24, 60, 64, 100, 105, chance.randrange(1, 9999)))
    texts = [str(whole)]
    if kind_of(action) == "float":
        size = chance.randrange(1, 9)
        texts = [str(whole), f"{whole}.0", "0.5", "0.05", "0.050", "5e-2", "0", "1e-3",
                 repr(round(chance.random(), size)), f"{chance.random():.2e}",
                 repr(10**-size * chance.random())]
    while True:
        text = chance.choice(texts)
        try:
            action.type(text)
            return text
        except (argparse.ArgumentTypeError, ValueError):
            texts += ["1", "0.5"]


def random_settings(script, actions, chance):
    """What parse_args makes of a few random flags, or None where they do not go together."""
    argv = []
    for action in chance.sample(actions, chance.randrange(min(6, len(actions) + 1))):
        argv.append(action.option_strings[-1])
        if action.nargs != 0:
            argv.append(random_value(action, chance))
    try:
        return script.parse_args(argv)
    except SystemExit:
        return None


def settings_in(name, script, actions):
    """The settings that a run's name states."""
    head, dataset, *words = name.split("_")
    flags = []
    if head == "cgan":
        flags.append("--conditional")
    if dataset == "mlp":
        flags += ["--arch", "mlp"]
        dataset = words.pop(0)
    flags += ["--dataset", dataset]
    if words and words[0] in getattr(script, "RECIPES", ()):
        flags += ["--recipe", words.pop(0)]
    for word in words:
        known = [action.option_strings[-1] for action in actions]
        flag = max((flag for flag in known if word.startswith(flag[2:])), key=len)
        value = word.removeprefix(flag[2:])
        flags += [flag, value.removeprefix("-") if flag[-1].isdigit() else value]
    return script.settings_of(script.parse_args(flags))


@pytest.mark.parametrize("name", ["vae", "gan"])
def test_a_runs_name_states_its_settings(name, monkeypatch, capsys):
    """So two settings never share a name; what decides no result is not in it."""
    script, chance = importlib.import_module(name), random.Random(1)
    files = ("run_name", "data_dir", "out_dir", "runs_dir", "resume", "fresh", "draw")
    actions = [action for action in flags_of(script, monkeypatch) if action.dest not in files]
    settings_of_name, tried = {}, 0
    while tried < 600:
        args = random_settings(script, actions, chance)
        if args is None:
            continue
        tried += 1
        settings = script.settings_of(args)
        assert settings_of_name.setdefault(args.run_name, settings) == settings
        assert settings_in(args.run_name, script, actions) == settings
        assert len(args.run_name) < 120 and not args.run_name.endswith(".")
        assert not re.search(r'[<>:"/\\|?*\s]', args.run_name)
        assert "log-interval" not in args.run_name and "no-cuda" not in args.run_name
    names = {str(sorted(settings.items())): run for run, settings in settings_of_name.items()}
    assert len(names) == len(settings_of_name) > 300  # nor do two names share their settings
    assert "is not 1 to 119" not in capsys.readouterr().err


@pytest.mark.parametrize(("script", "flags", "run"), [
    ("vae", "", "vae_mnist"), ("vae", "--dataset fashion --beta 0.050", "vae_fashion_beta0.05"),
    ("vae", "--seed 2 --lr 1e-5 --beta 2.0", "vae_mnist_lr1e-05_beta2_seed2"),
    ("vae", "--dataset fashion --recipe handout", "vae_fashion_handout"),
    ("vae", "--dataset fashion --recipe best --beta 0.020 --log-interval 5", "vae_fashion"),
    ("gan", "--seed 3 --lr-g 0.0002", "gan_fashion_lr-g0.0002_seed3"),
    ("gan", "--arch mlp --conditional --beta1 0.5", "cgan_mlp_fashion_beta1-0.5"),
    ("gan", "--updates 5000 --arch mlp --r1 10", "gan_mlp_fashion_updates5000_r1-10"),
    ("vae", "--run-name mine --seed 4", "mine")])
def test_names_as_a_person_meets_them(script, flags, run):
    script = importlib.import_module(script)
    args = script.parse_args([*flags.split(), "--resume"])
    assert args.run_name == run
    assert args.command == " ".join(["python", f"{script.__name__}.py", *flags.split()])


# ------------------------------------------------------------------------------------- flags
def bad_values(script, monkeypatch):
    """For every flag of a script, command lines that are wrong usage."""
    for action in flags_of(script, monkeypatch):
        flag = action.option_strings[-1]
        if action.nargs == 0:
            yield [f"{flag}=yes"]  # a switch takes no value
        elif action.nargs != "*":
            yield [flag]
        if action.choices:
            yield from ([flag, value] for value in ("", "nothing of the kind", "-1"))
        if kind_of(action):
            yield from ([flag, value] for value in (
                "", "x", "-1", "1,5", "9" * 40, "nan", "inf", "-inf", "0x10"))
        if kind_of(action) == "int":
            yield from ([flag, value] for value in ("1.5", "1e3"))


BY_HAND = {  # bounds, flags together, abbreviations, words that are no flag
    "p1.py": ["--seed one", "--no-such-flag", "file.txt"],
    "p2.py": ["--inits 1", "--epochs 3", "file.txt"],
    "p3_autoencoder.py": ["--epochs 0", "--batch-size 0", "--batch-size 100000", "--lr 0",
                          "--epoch 3", "file.txt", "--resume --fresh"],
    "p4_divergences.py": ["--points 19", "--repetitions 1", "--point 50", "file.txt"],
    "p5_compare.py": ["--epochs 0", "--cas", "--planted gan", "--train-judge gan", "--cas --planted g",
                      "--epoch 3", "--no-such-flag"],
    "p5_seeds.py": ["--no-such-flag", "--out-dir", "file.txt"],
    "p5_toys.py": ["--prior-steps 0", "--map-steps 0", "--seeds 1", "--seeds 100", "--step 9",
                   "file.txt"],
    "vae.py": ["--epochs 0", "--batch-size 0", "--batch-size 100000", "--lr 0", "--epoch 3",
               "--log-interval 0", "--run-name a/b", "--run-name ../up", "--run-name a:b",
               "--run-name ends.", f"--run-name {'n' * 120}", "--latent-dim 0", "--hidden-dim 0",
               "--layers 0", "--latent-dim 257 --prior mixture", "--resume --fresh", "--runs-dir ~nobody-of-this-name/runs",
               "--no-such-flag", "file.txt"],
    "gan.py": ["--epochs 0", "--batch-size 0", "--batch-size 60001", "--lr-g 0", "--lr-d 0",
               "--g-steps 0", "--d-steps 0", "--beta1 1", "--label-smoothing 2",
               "--label-smoothing 0", "--ema 1", "--classifier 0.1", "--run-name ../up",
               "--classifier 0.1 --conditional --arch mlp", "--clusters 20", "--draw bag",
               "--clusters 9 --conditional", "--conditional --draw hat", "--g-step 2", "file.txt",
               "--resume --fresh", "--epochs 2 --updates 9",
               "--conditional --arch mlp --dataset mnist --batch-size 12345 --label-smoothing 0.789 "
               "--lr-g 0.000123 --lr-d 0.000456 --updates 123456 --g-steps 12 --d-steps 12 "
               "--beta1 0.123 --ema 0.123 --r1 0.123 --seed 123456"],
}


@every_script
def test_wrong_usage_ends_in_one_line(script, monkeypatch, capsys):
    """Status 2 for every bad value of every flag."""
    module = importlib.import_module(Path(script).stem)
    lines = [*bad_values(module, monkeypatch), *(line.split() for line in BY_HAND[script])]
    for flags in lines:
        with pytest.raises(SystemExit) as stop:
            module.main(flags)
        out, err = capsys.readouterr()
        assert (stop.value.code, out, err.count("\n")) == (2, "", 1), flags


def test_wrong_usage_as_a_person_meets_it(command):
    done = command(ROOT / "vae.py", "--epochs", "0")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("vae.py: argument --epochs: 0 is not between 1 and 100000 ")
