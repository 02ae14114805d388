"""Finding tritonserver: on PATH, or inside the ``nvidia-pytriton`` wheel, which needs a few paths set right."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

#: The environment variable with the folder of banks of known pictures; unset or empty: nothing is searched.
KNOWN_CONTENT = "VERIDICT_KNOWN_CONTENT"
#: The environment variable with the folder of policies that requests can name; unset or empty: there are none.
POLICIES = "VERIDICT_POLICIES"


class LaunchError(RuntimeError):
    """The server could not be started or died; the message says why and what to do."""


@dataclass(frozen=True)
class Installation:
    """Where a tritonserver was found; ``bundled`` means inside the pip-installed wheel."""

    binary: Path
    bundled: Path | None


def find_triton() -> Installation:
    """Return tritonserver from PATH, or from the ``nvidia-pytriton`` wheel of this environment.

    Raises:
        LaunchError: neither is there.
    """
    on_path = shutil.which("tritonserver")
    if on_path:
        return Installation(Path(on_path), None)
    spec = importlib.util.find_spec("pytriton")
    if spec is not None and spec.origin is not None:
        root = Path(spec.origin).parent / "tritonserver"
        if (root / "bin" / "tritonserver").exists():
            return Installation(root / "bin" / "tritonserver", root)
    raise LaunchError("no tritonserver: put one on PATH, or install the embedded one: pip install 'veridict[server]'")


def private_backends(installation: Installation, folder: Path) -> Path:
    """Link the python backend and the stub of this Python version into a backend folder of our own; return it.

    Raises:
        LaunchError: the wheel has no stub for this Python version.
    """
    assert installation.bundled is not None
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = installation.bundled / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        raise LaunchError(f"the installed Triton wheel has no python-backend stub for Python {version}")
    target = folder / "backends" / "python"
    target.mkdir(parents=True)
    for path in (installation.bundled / "backends" / "python").iterdir():
        (target / path.name).symlink_to(path)
    link = target / stub.name
    link.unlink(missing_ok=True)
    link.symlink_to(stub)
    return target.parent


def environment(
    installation: Installation, known_content: Path | None = None, policies: Path | None = None
) -> dict[str, str]:
    """Return the child's environment: the stub embeds the ``python3`` that stands first on PATH.

    ``known_content``: the folder of banks of known pictures, ``policies``: that of policies by name; None leaves what
    this process has.
    """
    env = dict(os.environ)
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")])
    if sys.prefix != sys.base_prefix:
        env["VIRTUAL_ENV"] = sys.prefix
    env.pop("PYTHONHOME", None)
    env.setdefault("ORT_DISABLE_TELEMETRY", "1")  # forensics/onnx_runtime.py says why
    if known_content is not None:
        env[KNOWN_CONTENT] = str(known_content.resolve())
    if policies is not None:
        env[POLICIES] = str(policies.resolve())
    if installation.bundled is not None:
        libraries = [
            sysconfig.get_config_var("LIBDIR") or "",
            str(installation.bundled.parents[1] / "nvidia_pytriton.libs"),
        ]
        env["LD_LIBRARY_PATH"] = os.pathsep.join([*filter(None, libraries), env.get("LD_LIBRARY_PATH", "")]).rstrip(":")
    return env
