"""The gate in front of a standby: closed while the launcher holds it, open once the launcher says so or is gone."""

import os
import subprocess
import sys

import pytest

from veridict.deploy.start_gate import GATE_VARIABLE, StartGate, wait_for_gate

WAITS = "from veridict.deploy.start_gate import wait_for_gate; print('waits', flush=True); wait_for_gate()"
HOLDS = (
    "import sys; from pathlib import Path; from veridict.deploy.start_gate import StartGate;"
    "gate = StartGate(Path(sys.argv[1])); print('holds', flush=True); sys.stdin.read()"
)


def run(code, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def waiting(environment):
    process = run(WAITS, **environment)
    assert process.stdout.readline() == "waits\n"
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    return process


def test_a_process_waits_until_the_gate_is_opened(tmp_path):
    gate = StartGate(tmp_path)
    with waiting(gate.environment) as process:
        gate.open()
        gate.open()  # once more: it is open already
        assert process.wait(30) == 0


def test_a_launcher_that_is_killed_leaves_the_gate_open(tmp_path):
    with run(HOLDS, str(tmp_path)) as launcher:
        assert launcher.stdout.readline() == "holds\n"
        with waiting({GATE_VARIABLE: str(tmp_path / "start-gate")}) as process:
            launcher.kill()
            assert process.wait(30) == 0


def test_without_a_gate_nothing_waits(monkeypatch, tmp_path):
    monkeypatch.delenv(GATE_VARIABLE, raising=False)
    wait_for_gate()
    monkeypatch.setenv(GATE_VARIABLE, str(tmp_path / "removed"))
    wait_for_gate()
