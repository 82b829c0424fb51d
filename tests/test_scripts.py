"""Every script alike: it stands alone, does nothing at import, is plain, and repeats helpers word
for word."""
import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {path.name: path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("*.py"))}
TREES = {name: ast.parse(source) for name, source in SOURCES.items()}
BANNER = re.compile(r"^# -+ files and runs: the same text in every script$", re.MULTILINE)
every_script = pytest.mark.parametrize("script", SOURCES)


def definitions(script):
    """{name: source text} of what a script defines below the banner, decorators included."""
    lines = SOURCES[script].splitlines()
    banner = next(number for number, line in enumerate(lines, 1) if BANNER.match(line))
    found = {}
    for node in TREES[script].body:
        if node.lineno > banner and not isinstance(node, ast.If):
            name = getattr(node, "name", None) or ast.unparse(node.targets[0])
            first = min([node.lineno, *(line.lineno for line in getattr(node, "decorator_list", []))])
            found[name] = "\n".join(lines[first - 1:node.end_lineno])
    return found


def test_helpers_are_the_same_everywhere():
    texts = {}
    for script in SOURCES:
        for name, text in definitions(script).items():
            assert texts.setdefault(name, text) == text, f"{name} of {script} differs"
    assert {"load_dataset", "write_file", "run"} <= set(texts)


@every_script
def test_a_script_uses_what_it_carries(script):
    used = {node.id for node in ast.walk(TREES[script]) if isinstance(node, ast.Name)
            and isinstance(node.ctx, ast.Load)}
    assert not set(definitions(script)) - used


@every_script
def test_a_script_stands_alone_and_does_nothing_at_import(script):
    allowed = {"torch", "torchvision", "numpy", "matplotlib", "tqdm", *sys.stdlib_module_names}
    docstring, *body, guard = TREES[script].body
    assert isinstance(docstring, ast.Expr)
    assert ast.unparse(guard).startswith("if __name__ == '__main__':\n    run(main")
    backend = "if __name__ == '__main__':\n    os.environ['MPLBACKEND'] = 'agg'"
    before_matplotlib = True
    for node in body:
        statements = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign)
        assert isinstance(node, statements) or ast.unparse(node) == backend
        if ast.unparse(node) == backend:  # what a person has set for a screen is not asked
            before_matplotlib = False
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            text = ast.unparse(node)
            module = text.split()[1]
            assert module.split(".")[0] in allowed
            assert "pyplot" not in text  # it would choose a backend for a screen
            assert not (before_matplotlib and module.startswith("matplotlib"))


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
