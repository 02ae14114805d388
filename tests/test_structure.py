"""The shape of the code: short modules, no import circles, no repeated blocks, no private names in the tests."""

import ast
import io
import re
import tokenize
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("client", "forensics", "export", "explain", "deploy", "loadtests", "model_repository")
LONGEST = 300
#: Identical lines in a row from which on they belong in one function.
REPEATED = 6
#: Private names of the standard library that have no public counterpart.
STANDARD_LIBRARY = {"_exit", "_getframe", "_cond", "_actions", "_SubParsersAction"}


def modules(*folders):
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path):
    """Return the dotted name of a module below ``veridict``; a package's is that of its ``__init__``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_typing_block(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_when_loaded(body):
    """Yield the import statements that run when the module is loaded."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not is_typing_block(node) and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imports_when_loaded(child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt))


def imported(node, package):
    """Return the full names that an import statement may load: the module, and each name as a module in it."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = package[: len(package) - node.level + 1] if node.level else []
    module = ".".join([*base, *filter(None, [node.module])])
    return [module, *(f"{module}.{alias.name}" for alias in node.names)]


def with_parents(name):
    parts = name.split(".")
    return {".".join(parts[:end]) for end in range(1, len(parts) + 1)}


def import_graph():
    """Return what each of our modules loads of our modules; a package's ``__init__`` runs before its modules."""
    paths = {f"veridict.{name_of(path)}": path for path in modules(*PACKAGES)}
    graph = {}
    for name, path in paths.items():
        package = (name if path.name == "__init__.py" else name.rpartition(".")[0]).split(".")
        nodes = imports_when_loaded(ast.parse(path.read_text()).body)
        names = {target for node in nodes for target in imported(node, package)}
        loaded = {parent for target in names for parent in with_parents(target)}
        graph[name] = (loaded & paths.keys()) - with_parents(name)
    return graph


def import_circle(graph):
    """Return the modules of one circle, the first one again at the end; [] where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def code_lines(path):
    """Return (line number, stripped line) of code: no comments, docstrings, imports, signatures and blank lines."""
    text = path.read_text()
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(text)):
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            ends = node.body[0].lineno - 1  # the last line of the signature, or the first of a body on the same line
        elif is_docstring or isinstance(node, ast.Import | ast.ImportFrom):
            ends = node.end_lineno
        else:
            continue
        lines[node.lineno - 1 : ends] = [""] * (ends - node.lineno + 1)
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def repeated_blocks(paths):
    """Return each block of ``REPEATED`` lines that occurs more than once, with its places; overlaps are left out."""
    places = defaultdict(list)
    for path in paths:
        lines = code_lines(path)
        for start in range(len(lines) - REPEATED + 1):
            block = tuple(line for _, line in lines[start : start + REPEATED])
            places[block].append((path, start, lines[start][0]))
    found = [where for where in places.values() if len(where) > 1]
    starts = {tuple((path, start) for path, start, _ in where) for where in found}
    return [
        [f"{path.relative_to(ROOT)}:{number}" for path, _, number in where]
        for where in found
        if tuple((path, start - 1) for path, start, _ in where) not in starts  # goes on from the block before
    ]


def private_names(path):
    """Yield the private names of other modules that a test uses: imported, as attributes, or in code in strings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        elif isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id == "self"):
            names = [node.attr]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "veridict" in node.value:
            names = re.findall(r"\w\.(_\w+)", node.value)
        for name in names:
            if re.match(r"_[A-Za-z]", name) and name not in STANDARD_LIBRARY:
                yield f"{path.relative_to(ROOT)}:{node.lineno} {name}"


def none_of(problems):
    """Fail with all problems, a line each: pytest cuts long lists short."""
    found = list(problems)
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize("folder", [*PACKAGES, "tests"])
def test_no_module_is_too_long(folder):
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in modules(folder)}
    none_of(f"{path} has {length} lines" for path, length in lengths.items() if length > LONGEST)


def test_modules_import_each_other_in_no_circle():
    graph = import_graph()
    assert len(graph) > 100
    none_of(import_circle(graph))


def test_no_block_is_repeated():
    none_of(" = ".join(places) for places in repeated_blocks(modules(*PACKAGES)))


def test_tests_use_no_private_names():
    none_of(name for path in modules("tests") for name in private_names(path))


def test_the_checks_find_what_they_look_for(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "client").mkdir()
    block = "\n".join(f"    x{i} = {i}" for i in range(7))
    (tmp_path / "client/a.py").write_text(f'from .b import f\n\ndef g():\n    """Say."""\n{block}  # why\n')
    (tmp_path / "client/b.py").write_text(f"from veridict.client import a\n\ndef f():\n{block}\n")
    (tmp_path / "client/c.py").write_text("def f():\n    from . import d\n    d._x()\n")
    (tmp_path / "client/d.py").write_text("from . import c\n")
    graph = import_graph()
    assert graph["veridict.client.a"] == {"veridict.client.b"}
    assert graph["veridict.client.b"] == {"veridict.client.a"}
    assert (graph["veridict.client.c"], graph["veridict.client.d"]) == (set(), {"veridict.client.c"})
    assert set(import_circle(graph)) == {"veridict.client.a", "veridict.client.b"}
    assert repeated_blocks(modules("client")) == [["client/a.py:5", "client/b.py:4"]]
    assert list(private_names(tmp_path / "client/c.py")) == ["client/c.py:3 _x"]
