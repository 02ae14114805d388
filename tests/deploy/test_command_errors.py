"""No command ends in a traceback: numbers have ranges, missing packages and unexpected errors are sentences."""

import argparse
import sys

import pytest

from veridict.deploy import option_types
from veridict.deploy.command import COMMANDS, EXTRAS, TRACEBACK, build_parser, main

BAD_NUMBERS = ("nan", "-nan", "inf", "-inf", "1e999", "", " ", "many", "0x10", "1,5", "9" * 30, "-1e300", "9" * 5000)


def parsers(command):
    """Yield (words, parser) of a command and of its own subcommands."""
    found = build_parser(command)._actions
    (commands,) = (action for action in found if isinstance(action, argparse._SubParsersAction))
    chosen = commands.choices[command]
    yield [command], chosen
    for action in chosen._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from (([command, name], parser) for name, parser in action.choices.items())


def numeric_options(command):
    for words, parser in parsers(command):
        for action in parser._actions:
            if getattr(action.type, "__module__", "") == option_types.__name__:
                yield words, action


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_no_number_escapes_its_range(command, capsys):
    for words, action in numeric_options(command):
        option = action.option_strings[0]
        for text in BAD_NUMBERS:
            with pytest.raises(SystemExit) as caught:
                main([*words, f"{option}={text}"])
            shown = capsys.readouterr().err
            assert caught.value.code == 2, (words, option, text)
            assert option in shown.splitlines()[-1], (words, option, text)
            assert "Traceback" not in shown


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_number_has_a_range_that_its_default_is_in(command):
    for _, parser in parsers(command):
        assert not [a.option_strings for a in parser._actions if a.type in (int, float)]
    for words, action in numeric_options(command):
        given = action.default if isinstance(action.default, list | tuple) else [action.default]
        for value in given:
            assert value is None or action.type(str(value)) == value, (words, action.option_strings)


def test_ranges():
    assert option_types.whole(0, 5)("5") == 5
    assert option_types.real(0.0, 1.0)("0") == 0.0
    for kind, text in ((option_types.whole(0, 5), "6"), (option_types.whole(0), "-1"), (option_types.port, "65536")):
        with pytest.raises(argparse.ArgumentTypeError, match="not in the range"):
            kind(text)
    with pytest.raises(argparse.ArgumentTypeError, match="is not above 0"):
        option_types.seconds("0")


def test_every_command_that_needs_an_extra_names_it():
    assert set(EXTRAS) == set(COMMANDS) - {"compare", "detect", "health"}


def test_a_missing_package_is_named_with_its_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "psutil", None)
    monkeypatch.delitem(sys.modules, "veridict.loadtests.machine", raising=False)
    assert main(["loadtest", "steady", "--url", "127.0.0.1:9"]) == 1
    shown = capsys.readouterr().err
    assert "pip install 'veridict[server,ui,load]'" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    "error", [RuntimeError("boom"), KeyError("x"), OverflowError("big"), OSError("disk"), ValueError()]
)
def test_an_unexpected_error_is_one_sentence(error, monkeypatch, capsys):
    from veridict.client import cli_health

    def fail(arguments):
        raise error

    monkeypatch.setattr(cli_health, "run", fail)
    assert main(["health"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("veridict health: ")
    assert len(shown.splitlines()) == 1
    monkeypatch.setenv(TRACEBACK, "1")
    with pytest.raises(type(error)):
        main(["health"])
