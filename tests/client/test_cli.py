"""The command line: usage errors without a server, and every exit status against the real one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from veridict.deploy.command import COMMANDS, main


def run(*arguments, stdin=b""):
    command = [sys.executable, "-m", "veridict.deploy.command", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=120, check=False)


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["detect"], ["detect", "--concurrency", "many", "x"]])
def test_usage_errors_exit_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    assert name in capsys.readouterr().out


def test_bad_paths_and_settings_exit_2(tmp_path, capsys):
    assert main(["detect", str(tmp_path / "none.jpg")]) == 2
    assert main(["detect", str(tmp_path)]) == 2
    (tmp_path / "a.jpg").write_bytes(b"x")
    assert main(["detect", "-", "-"]) == 2
    with pytest.raises(SystemExit, match="2"):
        main(["detect", str(tmp_path), "--concurrency", "0"])
    with pytest.raises(SystemExit, match="2"):
        main(["detect", str(tmp_path), "--url", "http://x:1"])
    assert "none.jpg" in capsys.readouterr().err


def test_no_server_is_said_plainly(tmp_path, capsys):
    (tmp_path / "a.jpg").write_bytes(b"x")
    assert main(["health", "--url", "127.0.0.1:9"]) == 1
    assert main(["detect", str(tmp_path), "--url", "127.0.0.1:9", "--deadline", "2"]) == 1
    assert "start one with veridict serve" in capsys.readouterr().err


@pytest.mark.live
def test_text_json_folders_and_stdin(triton, tmp_path, encode, cat, astronaut, capsys):
    (tmp_path / "sub").mkdir()
    (tmp_path / "cat.jpg").write_bytes(encode(cat))
    (tmp_path / "sub" / "face.png").write_bytes(encode(astronaut, "PNG"))
    assert main(["detect", str(tmp_path), "--url", triton.url]) == 0
    text = capsys.readouterr().out
    assert text.count("Final Verdict       : ") == 2
    assert main(["detect", str(tmp_path), "--url", triton.url, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(line["path"]).name for line in lines] == ["cat.jpg", "face.png"]
    assert all(line["schema"] == "veridict/1" for line in lines)
    piped = run("detect", "-", "--json", "--url", triton.url, stdin=encode(cat))
    assert piped.returncode == 0
    assert json.loads(piped.stdout)["path"] == "stdin"
    assert main(["health", "--url", triton.url]) == 0


@pytest.mark.live
def test_some_failing_exits_1_and_judges_the_rest(triton, tmp_path, encode, cat, capsys):
    (tmp_path / "a.jpg").write_bytes(b"not an image")
    (tmp_path / "b.jpg").write_bytes(encode(cat))
    assert main(["detect", str(tmp_path), "--url", triton.url, "--json"]) == 1
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["error"]["code"] == "image.unsupported_format"
    assert second["verdict"] in ("real", "deepfake")
    assert main(["detect", str(tmp_path), "--url", triton.url]) == 1
    captured = capsys.readouterr()
    assert "[image.unsupported_format]" in captured.err
    assert "1 of 2 failed" in captured.err


@pytest.mark.live
def test_a_reader_that_leaves_is_no_crash(triton, tmp_path, encode, cat):
    for i in range(6):
        (tmp_path / f"{i}.jpg").write_bytes(encode(cat))
    command = f"{sys.executable} -m veridict.deploy.command detect {tmp_path} --url {triton.url} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr


def test_missing_extras_name_the_cause(monkeypatch, capsys):
    monkeypatch.setitem(COMMANDS, "bench", ("veridict.loadtests.no_such_module", "x"))
    assert main(["bench"]) == 2
    assert "pip install 'veridict[server,ui,bench]'" in capsys.readouterr().err
