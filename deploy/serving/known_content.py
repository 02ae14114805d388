"""Known content in the model ``fusion``: the banks of a folder, followed while the server runs, and their metrics."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from veridict.forensics.contract import KnownContent, Verdict
from veridict.forensics.known_content.banks import look_up
from veridict.forensics.known_content.reload import BankWatcher
from veridict.forensics.observation import Observation
from veridict.forensics.policy import KnownContentPolicy

from ..installation import KNOWN_CONTENT
from .metrics_buffer import SOUND_OR_REFUSED, MetricsBuffer

#: What became of an image's hash: a match decided the verdict, there was a match, there was none, or nothing was
#: searched because the quality is too low.
RESULTS = ("decided", "matched", "unmatched", "low_quality")
#: Seconds after which a thread that computes lets others run, while banks may be read. Python's own 5 ms would delay
#: answers by several times as much whenever a large bank is read.
_SWITCH_INTERVAL = 0.001


class KnownContentSearch:
    """Searches the banks for each image and counts what is found."""

    def __init__(self, pb_utils: Any) -> None:
        """Load the banks of the folder that the environment names, and create every metric."""
        self._log = pb_utils.Logger
        self._watcher: BankWatcher | None = None
        self._buffer = MetricsBuffer(pb_utils)
        results = {name: {"result": name} for name in RESULTS}
        self._buffer.counters("known_content_images_total", "Images whose hash was to be searched, by result", results)
        self._buffer.counters("known_content_files_total", "Files of banks that were read, by result", SOUND_OR_REFUSED)
        self._buffer.gauge(
            "known_content_entries",
            "Known hashes in force",
            lambda: len(self._watcher.banks) if self._watcher else 0,
        )
        self._buffer.gauge(
            "known_content_refused_files",
            "Files whose present content is not in force",
            lambda: len(self._watcher.refused) if self._watcher else 0,
        )
        if folder := os.environ.get(KNOWN_CONTENT, ""):
            sys.setswitchinterval(_SWITCH_INTERVAL)
            self._watcher = BankWatcher(Path(folder), self._report)

    def _report(self, message: str, sound: bool) -> None:
        self._buffer.count(sound)
        (self._log.log_info if sound else self._log.log_warn)(f"known content: {message}")

    def look_up(self, observation: Observation, policy: KnownContentPolicy) -> KnownContent | None:
        """Return what the banks say about an observed image by a policy's rules; None where it was not hashed."""
        return look_up(observation, self._watcher.banks if self._watcher else None, policy)

    def count(self, verdict: Verdict) -> None:
        """Count one judged image, where there are banks."""
        known = verdict.known_content
        if self._watcher is None or known is None:
            return
        if not known.banks:
            self._buffer.count("low_quality")
        elif known.matches:
            self._buffer.count("decided" if known.decides else "matched")
        else:
            self._buffer.count("unmatched")

    def close(self) -> None:
        """End the threads and publish the last counts."""
        if self._watcher is not None:
            self._watcher.close()
        self._buffer.close()
