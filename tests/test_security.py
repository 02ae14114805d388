"""What no code of the product does: run data as code, build shell lines, or trust a connection without a check."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("client", "forensics", "export", "explain", "deploy", "loadtests", "model_repository")
#: Modules whose readers run what they read, or whose pseudo-files do.
RUNS_DATA = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
#: Calls that are never right here, by their dotted name.
FORBIDDEN = {
    "eval",
    "exec",
    "__import__",
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "yaml.load",
    "yaml.load_all",
    "yaml.full_load",
    "yaml.unsafe_load",
    "tempfile.mktemp",
    "ssl._create_unverified_context",
    "torch.hub.load",
    "numpy.fromregex",
}
#: Calls that need an argument with this value, spelled out: a default can change with a release.
NEEDED = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}
#: Arguments that no call has with this value.
NEVER = {("shell", True), ("verify", False), ("trust_remote_code", True), ("allow_pickle", True)}


def value_of(node):
    return node.value if isinstance(node, ast.Constant) else None


def problems(tree):
    """Yield (line, what is wrong) for a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for name in names:
                if name.partition(".")[0] in RUNS_DATA:
                    yield node.lineno, f"import {name}"
        elif isinstance(node, ast.Attribute) and node.attr == "CERT_NONE":
            yield node.lineno, "CERT_NONE"
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {keyword.arg: value_of(keyword.value) for keyword in node.keywords if keyword.arg}
            if name in FORBIDDEN:
                yield node.lineno, name
            if name in NEEDED and given.get(NEEDED[name][0]) is not NEEDED[name][1]:
                yield node.lineno, f"{name} without {'='.join(map(str, NEEDED[name]))}"
            for argument, value in NEVER:
                if given.get(argument) is value:
                    yield node.lineno, f"{name} with {argument}={value}"
            if "shell" in given and given["shell"] is not False:
                yield node.lineno, f"{name} with a shell"


def loads_onnxruntime(node):
    if isinstance(node, ast.Import):
        return any(alias.name.partition(".")[0] == "onnxruntime" for alias in node.names)
    return isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "onnxruntime"


def bodies(tree):
    return (getattr(node, name) for node in ast.walk(tree) for name in ("body", "orelse") if hasattr(node, name))


def test_onnx_runtime_is_loaded_without_its_telemetry():
    """The library reads its switch when it is loaded, so the statement before each import sets it."""
    found, wrong = 0, []
    for path in (p for folder in PACKAGES for p in (ROOT / folder).rglob("*.py")):
        for body in (b for b in bodies(ast.parse(path.read_text())) if isinstance(b, list)):
            for number, node in enumerate(body):
                if loads_onnxruntime(node):
                    found += 1
                    if number == 0 or ast.unparse(body[number - 1]) != "disable_telemetry()":
                        wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", PACKAGES)
def test_no_code_runs_data_or_trusts_without_a_check(folder):
    found = [
        f"{path.relative_to(ROOT)}:{line} {problem}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, problem in problems(ast.parse(path.read_text()))
    ]
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "exec(text)",
        "os.system(line)",
        "subprocess.run(line, shell=True)",
        "subprocess.run(line, shell=flag)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "requests.get(url, verify=False)",
        "context.verify_mode = ssl.CERT_NONE",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_the_scan_finds_it(text):
    assert list(problems(ast.parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        "model.eval()",
        "request.exec()",
        "yaml.safe_load(text)",
        "np.load(path, allow_pickle=False)",
        "torch.load(path, map_location='cpu', weights_only=True)",
        "subprocess.run(words, shell=False)",
    ],
)
def test_the_scan_leaves_it(text):
    assert not list(problems(ast.parse(text)))
