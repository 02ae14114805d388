"""Every command in README and docs is accepted: by the command's own parser, the Makefile, or the package."""

import importlib.util
import itertools
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from veridict.deploy.command import COMMANDS, build_parser, main
from veridict.deploy.launcher import Installation, ServerSettings, TritonServer


def make_targets(root):
    return set(re.findall(r"^([a-z][\w-]*):", (root / "Makefile").read_text(), flags=re.MULTILINE))


def server_options():
    """Return the tritonserver options that the launcher passes."""
    server = TritonServer(ServerSettings())
    server.ports = {"grpc": 1, "http": 2, "metrics": 3}
    return {word.partition("=")[0] for word in server.command(Installation(Path("tritonserver"), None), Path())[1:]}


def check_docker(arguments, root):
    """Check the files and the build arguments that a docker command names."""
    files = [value for option, value in itertools.pairwise(arguments) if option == "-f"]
    assert all((root / file).is_file() for file in files)
    given = [value for option, value in itertools.pairwise(arguments) if option == "--build-arg"]
    declared = {name for file in files for name in re.findall(r"^ARG (\w+)", (root / file).read_text(), re.MULTILINE)}
    assert {value.partition("=")[0] for value in given} <= declared


def check_command(words, documents):
    """Check a command without running it; a command of an unknown kind is an error."""
    while re.match(r"VERIDICT_\w+=", words[0]):
        words = words[1:]
    name, arguments = words[0].rpartition("/")[2], words[1:]
    if name == "veridict":
        build_parser(arguments[0]).parse_args(arguments)
    elif name == "make":
        assert {word for word in arguments if "=" not in word} <= make_targets(documents.root)
    elif name == "pip":
        project = tomllib.loads((documents.root / "pyproject.toml").read_text())["project"]
        extras = re.findall(r"veridict\[([\w,]+)\]", shlex.join(arguments))
        assert {extra for names in extras for extra in names.split(",")} <= set(project["optional-dependencies"])
    elif name == "python":
        assert arguments[0] == "-m"
        assert importlib.util.find_spec(arguments[1]) is not None
    elif name == "kubectl":
        assert {"apply", "create", "delete", "get", "kustomize", "rollout"} & set(arguments)
        for option, value in itertools.pairwise(arguments):
            if option in ("-f", "-k", "kustomize"):
                path = documents.root / value
                assert (path / "kustomization.yaml").is_file() if option != "-f" else path.is_file()
    elif name == "docker":
        check_docker(arguments, documents.root)
    elif name == "tritonserver":
        assert {word.partition("=")[0] for word in arguments} <= server_options()
    else:
        pytest.fail("nothing here checks this kind of command")


def test_commands_are_accepted(documents, shell_block):
    commands = documents.commands(shell_block.text)
    assert commands
    for words in commands:
        try:
            check_command(words, documents)
        except (SystemExit, AssertionError) as error:
            raise AssertionError(shlex.join(words)) from error


def test_commands_in_the_text_exist_and_have_their_options(documents, capsys):
    def read_help(*words):
        with pytest.raises(SystemExit):
            main([*words, "--help"])
        return capsys.readouterr().out

    for page in documents.pages:
        for span in re.findall(r"`(?:\.venv/bin/)?veridict ([^`]+)`", documents.prose(page)):
            command, *words = span.split()
            assert command in COMMANDS, f"{page.name}: {span}"
            text = read_help(command)
            if words and words[0] in text.partition("{")[2].partition("}")[0].split(","):
                text += read_help(command, words[0])
            options = {word.partition("=")[0] for word in words if word.startswith("-")}
            assert options <= set(re.findall(r"--?[\w-]+", text)), f"{page.name}: {span}"


def test_make_targets_in_the_text_exist(documents):
    for page in documents.pages:
        assert set(re.findall(r"`make ([\w-]+)`", documents.prose(page))) <= make_targets(documents.root), page.name
