"""Connecting to Ray: to a cluster, or to a Ray of our own on this machine that ends with the run."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .storage import BackfillError

#: Bytes of Ray's object store; little more than Ray's minimum, since only chunk numbers and counts pass through it.
_OBJECT_STORE = 80 * 2**20
#: Times that our own Ray is started: it gives each of its processes 15 s, too little on a machine that is very busy.
_STARTS = 5
_PREFIX = "veridict-ray-"
#: Longest path of a temporary folder: Ray's sockets below it must not exceed 107 characters.
_LONGEST_PATH = 30
_LOCAL = {
    # Off, Ray takes 127.0.0.1 for this machine's address, and every process of it listens there alone.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Other users of this machine reach the loopback address too.
    "RAY_AUTH_MODE": "token",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # Seconds that an actor's process may take to start: five times as many as by default, for busy machines.
    "RAY_worker_register_timeout_seconds": "300",
}


@dataclass(frozen=True)
class Pool:
    """Where and with how many actors chunks are judged; ``address`` "" starts a Ray of its own on this machine."""

    workers: int
    cpus_per_worker: int = 1
    address: str = ""


@contextlib.contextmanager
def ray_session(pool: Pool) -> Iterator[None]:
    """Connect to the Ray of ``pool.address``, or run one on this machine's loopback address, and end it.

    Raises:
        BackfillError: it cannot be reached or started.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with contextlib.ExitStack() as stack:
        if pool.address:
            _connect(address=pool.address)
        else:
            os.environ.update(_LOCAL, RAY_AUTH_TOKEN=secrets.token_hex(32))  # Ray reads them when it is imported, too
            folder = _temporary_folder()
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            _start(folder, pool.workers * pool.cpus_per_worker)
        stack.callback(_disconnect)
        yield


def _connect(**options: Any) -> None:
    import ray

    try:
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises many types
        ray.shutdown()
        where = f"at {options['address']}" if "address" in options else "could be started"
        raise BackfillError(f"no Ray {where}: {type(error).__name__}: {error}") from error


def _disconnect() -> None:
    import ray

    ray.shutdown()


def _start(folder: Path, cpus: int) -> None:
    for attempt in range(1, _STARTS + 1):
        try:
            _connect(
                num_cpus=cpus,
                num_gpus=0,
                object_store_memory=_OBJECT_STORE,
                include_dashboard=False,
                _temp_dir=str(folder),
            )
            return
        except BackfillError:
            _end_processes(folder)
            if attempt == _STARTS:
                raise


def _end_processes(folder: Path) -> None:
    """Kill our child processes that name ``folder``: a Ray that did not start leaves those that did."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            parent = process.joinpath("stat").read_text().rpartition(")")[2].split()[1]
            if int(parent) == os.getpid() and os.fsencode(folder) in process.joinpath("cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)


def _temporary_folder() -> Path:
    """Make the folder of a Ray on this machine, and remove those of runs that were killed."""
    parent = Path(tempfile.gettempdir())
    if len(str(parent)) > _LONGEST_PATH:
        parent = Path("/tmp")  # noqa: S108 - mkdtemp makes a private folder below it
    for left in parent.glob(f"{_PREFIX}*"):
        owner = left.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))
