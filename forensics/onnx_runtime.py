"""ONNX Runtime without its telemetry.

From release 1.29 on the wheels for Linux report to Microsoft by default: an identifier of the machine, versions, and
names and hashes of the networks. They keep the reports in a database below ``~/.cache`` until they are sent. Only the
environment variable prevents that, and only before the library is loaded (onnxruntime pull request 27379).
"""

from __future__ import annotations

import os


def disable_telemetry() -> None:
    """Set ``ORT_DISABLE_TELEMETRY`` unless it is set; to be called before each import of ``onnxruntime``."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
