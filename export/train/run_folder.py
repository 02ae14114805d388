"""The folder of a training run: its state, from which it resumes, and its log.

A run resumes only with the settings that it began with. One file holds the whole state and is replaced in one step, so
a kill at any moment leaves the previous state or the new one. The log is written anew from the state each time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..files import replacing


def check_identity(run: Path, found: str | None, wanted: str) -> None:
    """Check that what a run's folder holds comes from the same settings.

    Raises:
        ValueError: it comes from others.
    """
    if found != wanted:
        raise ValueError(f"{run} holds a run of other settings or other data; name another --run")


def save_state(run: Path, identity: str, state: dict[str, Any], log: Sequence[dict[str, Any]]) -> None:
    """Write ``state.pt`` and ``log.jsonl``; ``state`` holds tensors and plain values only."""
    with replacing(run / "state.pt") as partial:
        torch.save(state | {"settings": identity, "log": list(log)}, partial)
    _write_log(run, log)


def load_state(run: Path, identity: str) -> dict[str, Any] | None:
    """Return the saved state, its ``log`` included, or None when the run begins.

    Raises:
        ValueError: the folder holds a run of other settings.
    """
    path = run / "state.pt"
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    check_identity(run, state.get("settings"), identity)
    _write_log(run, state["log"])  # the run may have ended between the state and its log
    return state


def _write_log(run: Path, log: Sequence[dict[str, Any]]) -> None:
    with replacing(run / "log.jsonl") as partial:
        partial.write_text("".join(json.dumps(line) + "\n" for line in log))
