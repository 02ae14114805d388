"""A tritonserver with the launcher's own options, but without models: it starts in a moment."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from veridict.deploy.installation import environment, find_triton
from veridict.deploy.launcher import ServerSettings, TritonServer, pick_ports


@contextlib.contextmanager
def bare_server(folder: Path, **settings: object) -> Iterator[tuple[TritonServer, Path]]:
    """Run it; yield the launcher's server, which knows the addresses, and the file of the log."""
    models, log = folder / "models", folder / "log"
    models.mkdir()
    ports = {"grpc_port": 0, "http_port": 0, "metrics_port": 0}
    server = TritonServer(ServerSettings(repository=models, **ports, **settings))
    server.ports = pick_ports(server.settings)
    installation = find_triton()
    with log.open("w") as output:
        command = server.command(installation, folder / "state")
        process = subprocess.Popen(command, env=environment(installation), stdout=output, stderr=output)
    try:
        ends = time.monotonic() + 120
        while "Started Metrics Service" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < ends, log.read_text()
            time.sleep(0.05)
        yield server, log
    finally:
        process.terminate()
        process.wait(60)
