"""The options that close what Veridict does not use of tritonserver, as NVIDIA's guide to secure deployment advises.

Health, inference, metadata, statistics and model configuration stay open on gRPC: clients, the worker and perf_analyzer
ask for them, and they change nothing. HTTP answers health alone. What changes the server or names shared memory needs a
header with the admin key, on both. Without a key of the operator's the key is random, so nobody has it.
"""

from __future__ import annotations

import re
import secrets
import subprocess
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path

from .installation import Installation, environment

#: The name in the header: ``triton-grpc-protocol-veridict-admin`` on gRPC, ``veridict-admin`` on HTTP.
ADMIN_HEADER = "veridict-admin"
#: Protocols of Triton that change the server, or the memory that it reads and writes.
GRPC_RESTRICTED = ("shared-memory", "model-repository", "trace", "logging")
#: All that Triton serves over HTTP, except for health.
HTTP_RESTRICTED = ("metadata", "inference", "model-config", "statistics", *GRPC_RESTRICTED)
#: Passed where the release, or its build, has the option. Client shared memory is off by itself from release 26.04 on.
_WHERE_KNOWN = ("--allow-client-shm=false", "--allow-sagemaker=false", "--allow-vertex-ai=false")
#: Shortest key that is accepted, in characters.
SHORTEST_KEY = 24
_KEY = re.compile(rf"[\w-]{{{SHORTEST_KEY},}}", re.ASCII)


def hardening_options(installation: Installation, admin_key: str, given: Sequence[str]) -> list[str]:
    """Return the options; one that the operator has ``given`` (``--name=value``) is left to the operator.

    ``admin_key``: "" for a random one.
    """
    key = admin_key or secrets.token_urlsafe(32)
    options = [
        "--model-control-mode=none",
        "--strict-readiness=true",
        f"--grpc-restricted-protocol={','.join(GRPC_RESTRICTED)}:{ADMIN_HEADER}={key}",
        f"--http-restricted-api={','.join(HTTP_RESTRICTED)}:{ADMIN_HEADER}={key}",
        *(option for option in _WHERE_KNOWN if _name(option) in known_options(installation)),
    ]
    taken = {_name(option) for option in given}
    return [option for option in options if _name(option) not in taken]


def _name(option: str) -> str:
    return option.partition("=")[0]


@cache
def known_options(installation: Installation) -> Collection[str]:
    """Return the names of the options that a tritonserver prints with ``--help``; none when it cannot be run."""
    try:
        done = subprocess.run(
            [str(installation.binary), "--help"],
            env=environment(installation),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return frozenset()
    return frozenset(re.findall(r"^\s*(--[a-z][\w-]*)", done.stdout + done.stderr, re.MULTILINE))


def read_admin_key(path: Path) -> str:
    """Return the key in a file.

    Raises:
        ValueError: the file cannot be read, or its content is no key; the message does not contain the content.
    """
    try:
        key = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the admin key {path} cannot be read ({getattr(error, 'strerror', 'no text')})") from None
    if not _KEY.fullmatch(key):
        raise ValueError(
            f"the admin key in {path} must be {SHORTEST_KEY} or more letters, digits, - and _ and nothing else"
        )
    return key
