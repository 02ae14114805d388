"""The launcher: what is wrong is said before or soon after, and nothing is left behind."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from veridict.deploy import installation
from veridict.deploy.launcher import LaunchError, ServerSettings, TritonServer, pick_ports
from veridict.deploy.manifest import RepositoryError, update_manifest


def shared_memory(owner):
    """Return the shared-memory regions of servers that the process ``owner`` started."""
    return {p.name for p in Path("/dev/shm").glob(f"veridict-{owner}-*")}


def children(pid):
    out = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(line) for line in out.split()]


def test_a_taken_port_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(LaunchError, match=f"--grpc-port: port {port} .* is taken"):
            pick_ports(ServerSettings(grpc_port=port, http_port=0, metrics_port=0))


def test_a_port_named_twice_is_refused():
    free = pick_ports(ServerSettings(grpc_port=0, http_port=0, metrics_port=0))["grpc"]
    with pytest.raises(LaunchError, match="two ports are the same"):
        pick_ports(ServerSettings(grpc_port=free, http_port=free, metrics_port=0))


def test_a_missing_model_is_named_before_anything_starts(tmp_path):
    with pytest.raises(RepositoryError, match="manifest"), TritonServer(ServerSettings(repository=tmp_path)):
        pass


def test_no_triton_names_the_extra(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(installation.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LaunchError, match=r"veridict\[server\]"):
        installation.find_triton()


@pytest.mark.slow
@pytest.mark.live
def test_a_server_that_dies_shows_its_last_lines_and_leaves_nothing(small_repository, tmp_path):
    before = shared_memory(os.getpid())
    target = shutil.copytree(small_repository, tmp_path / "repository")
    (target / "clip_text" / "1" / "model.onnx").write_bytes(b"no network")
    update_manifest(target)
    settings = ServerSettings(repository=target, grpc_port=0, http_port=0, metrics_port=0, ready_timeout=60)
    with pytest.raises(LaunchError, match="clip_text"), TritonServer(settings):
        pass
    assert shared_memory(os.getpid()) <= before


@pytest.mark.slow
@pytest.mark.live
def test_serve_command_starts_says_where_and_stops_on_sigterm(small_repository):
    command = [sys.executable, "-m", "veridict.deploy.command", "serve", "--repository", str(small_repository)]
    ports = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    process = subprocess.Popen([*command, *ports], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready: gRPC 127.0.0.1:")
        servers = children(process.pid)
        stubs = [pid for server in servers for pid in children(server)]
        assert servers
        assert stubs
        assert shared_memory(process.pid)
        process.terminate()
        assert process.wait(timeout=40) == 0
    finally:
        process.kill()
        process.stdout.close()
        process.wait()
    time.sleep(0.5)
    assert not [pid for pid in servers + stubs if os.path.exists(f"/proc/{pid}")]
    assert not shared_memory(process.pid)
