"""README and docs: form and links, and that every file, setting, code and name in them is one of the code's."""

import json
import os
import re
import tomllib

import veridict.client as client
from veridict.deploy.model_config import read_model_config
from veridict.forensics import errors as image_errors
from veridict.forensics import signature as sig
from veridict.forensics.doubts import WORDS as DOUBTS

README_BYTES = 8192
LANGUAGES = {"python", "sh", "json", "text", "mermaid", "log"}
VARIABLE = re.compile(r"\bVERIDICT_[A-Z_]+\b")


def test_the_readme_is_short(documents):
    assert documents.readme.stat().st_size <= README_BYTES


def test_every_block_is_fenced_and_of_a_language_that_is_tested(documents):
    for page in documents.pages:
        assert page.read_text().count("\n```") % 2 == 0, page
        assert not re.search(r"\n\n {4}\S", documents.prose(page)), f"{page}: an indented block is not tested"
    assert {block.language for block in documents.blocks} <= LANGUAGES


def test_log_lines_are_what_the_formatter_writes(documents):
    """A JSON line of a log block has the fields that every line has."""
    lines = [line for block in documents.blocks if block.language == "log" for line in block.text.splitlines()]
    records = [json.loads(line) for line in lines if line.startswith("{")]
    assert records
    assert all({"time", "level", "logger", "message"} <= set(record) for record in records)


def test_every_local_link_resolves(documents, linked_page):
    for target in re.findall(r"\]\(([^)\s]+)\)", linked_page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (linked_page.parent / name).resolve() if name else linked_page
        assert file.exists(), target
        assert not anchor or anchor in documents.anchors(file), target


def test_every_page_is_linked_from_the_readme(documents):
    linked = set(re.findall(r"\]\(docs/([^)#]+)", documents.readme.read_text()))
    assert {page.name for page in documents.pages[1:]} == linked


def test_the_layout_names_every_folder(documents):
    named = {name for row in documents.table(documents.readme, "| folder |") for name in documents.quoted(row[:1])}
    project = tomllib.loads((documents.root / "pyproject.toml").read_text())
    folders = project["tool"]["setuptools"]["package-dir"].values()
    assert named == {f"{folder.partition('/')[0]}/" for folder in folders} | {"docs/", "tests/"}
    assert all((documents.root / name).is_dir() for name in named)


def test_the_files_that_the_text_names_exist(documents):
    folders = "|".join(path.name for path in documents.root.iterdir() if path.is_dir() and path.name != "build")
    for page in documents.pages:
        for name in re.findall(rf"`((?:{folders})/[\w./*-]*)`", documents.prose(page)):
            found = list(documents.root.glob(name.rstrip("/"))) or "NEW" in name
            assert found, f"{page.name}: {name}"


def test_environment_variables_are_those_of_the_code(documents):
    tests = (path for path in documents.root.glob("tests/**/*.py") if path.parent.name != "docs")
    in_code = {name for path in [*documents.sources(), *tests] for name in VARIABLE.findall(path.read_text())}
    assert {name for page in documents.pages for name in VARIABLE.findall(page.read_text())} == in_code


def test_the_extras_are_those_of_the_package(documents):
    project = tomllib.loads((documents.root / "pyproject.toml").read_text())["project"]
    named = {name for row in documents.table(documents.readme, "| extra |") for name in documents.quoted(row[:1])}
    assert named == set(project["optional-dependencies"])


def test_the_error_codes_are_those_of_the_code(documents):
    page = documents.page("reliability")
    codes = [row[0].strip("`") for row in documents.table(page, "| code | cause")]
    assert codes == list(image_errors.CODES)
    rows = documents.table(page, "| error |")
    assert all(issubclass(getattr(client, row[0].strip("`")), client.VeridictError) for row in rows)
    for name, codes, _ in rows:
        kind = getattr(client, name.strip("`"))
        own = {code for code in documents.quoted([codes]) if code.startswith(("server.", "client."))}
        assert own <= {kind.default_code, "client.throttled"}, name


def test_the_doubts_are_those_of_the_code(documents):
    rows = documents.table(documents.page("verdicts-and-evaluation"), "| code | meaning")
    assert [row[0].strip("`") for row in rows] == list(DOUBTS)


def test_the_parameters_of_preprocess_are_those_of_its_configuration(documents):
    parameters = read_model_config(documents.root / "model_repository" / "preprocess" / "config.pbtxt").parameters
    rows = documents.table(documents.page("serving-and-tuning"), "| parameter |")
    assert {row[0].strip("`"): row[1] for row in rows} == {k: v.string_value for k, v in parameters.items()}


def test_the_diagrams_and_the_table_name_the_served_models(documents):
    steps = {sig.PREPROCESS.name, sig.CLIP_IMAGE.name, sig.FACE_CNN.name, sig.FUSION.name, sig.DETECTOR.name}
    diagrams = [block for block in documents.blocks if block.language == "mermaid"]
    assert all(steps <= set(re.findall(r"\w+", block.text)) for block in diagrams)
    rows = documents.table(documents.page("serving-and-tuning"), "| model |")
    assert {row[0].strip("`") for row in rows} == set(sig.MODELS) - {sig.DETECTOR.name}


def test_faults_are_numbered_and_every_citation_names_one(documents):
    page = documents.page("triton-2.51-faults")
    numbers = [int(number) for number in re.findall(r"^## (\d+)\. ", page.read_text(), flags=re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [int(row[0]) for row in documents.table(page, "| no. |")] == numbers
    for path in [*documents.sources(), *documents.root.glob("tests/**/*.py")]:
        text = re.sub(r"\s*\n\s*(#:?)?\s*", " ", path.read_text())
        for cited in re.findall(r"[Ff]aults? ([\d, and]+)of docs/triton-2\.51-faults\.md", text):
            assert {int(number) for number in re.findall(r"\d+", cited)} <= set(numbers), path


def test_each_common_change_names_at_most_three_files(documents):
    rows = documents.table(documents.page("contributing"), "| change |")
    assert len(rows) == 10
    for change, files, _ in rows:
        named = documents.quoted([files])
        assert 1 <= len(named) <= 3, change
        assert all("NEW" in name or (documents.root / name).is_file() for name in named), change


def test_bundled_weights_fit_and_are_no_pickles(documents):
    folders = ("export/weights_data/*", "model_repository/*/1/*")
    files = [path for pattern in folders for path in documents.root.glob(pattern) if path.is_file()]
    binaries = [p for p in files if p.suffix not in {".py", ".md", ".json"} and "__pycache__" not in p.parts]
    assert {p.suffix or p.name for p in binaries} <= {".safetensors", ".onnx", ".npz", ".txt", ".gitkeep"}
    assert sum(os.path.getsize(p) for p in binaries) < 140e6
    assert max(os.path.getsize(p) for p in binaries) < 50e6
