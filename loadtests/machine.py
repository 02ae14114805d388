"""Describes the machine and the installed versions, and measures the CPU time and memory of a process tree."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

from veridict.deploy.repository import query_gpus

_MEBIBYTE = 1024**2
#: Distributions that affect the figures; reports list their versions.
DISTRIBUTIONS = (
    "nvidia-pytriton",
    "tritonclient",
    "openvino",
    "onnxruntime",
    "opencv-python-headless",
    "simplejpeg",
    "pillow",
    "numpy",
    "torch",
    "open_clip_torch",
    "flask",
    "fastapi",
    "uvicorn",
    "litserve",
    "faiss-cpu",
    "pdqhash",
)


@dataclass(frozen=True)
class Memory:
    """Memory of a process tree in MiB.

    ``rss`` is the resident set size, which counts shared pages in every process; ``pss`` is the proportional set size.
    """

    rss: float
    pss: float


def describe_machine() -> str:
    """Return cores, processor, Python and GPUs in one line, without the host name."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    gpus = describe_gpus()
    return f"{os.cpu_count()} cores, {model}, Python {platform.python_version()}, {gpus or 'no GPU'}"


def describe_gpus() -> str:
    """Return the names of the GPUs that ``nvidia-smi`` lists; "" where it lists none or is not installed."""
    return ", ".join(query_gpus("name"))


def installed_versions(names: Iterable[str] = DISTRIBUTIONS) -> dict[str, str]:
    """Return the version of every named distribution that is installed, by name."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def busy_seconds() -> float:
    """Return the CPU seconds that all processes have used so far, and those that other virtual machines have stolen."""
    times = psutil.cpu_times()._asdict()
    # Guest time is part of user time.
    return float(sum(v for name, v in times.items() if name not in ("idle", "iowait", "guest", "guest_nice")))


class ProcessTree:
    """A process and all its descendants, looked up anew at each call."""

    def __init__(self, pid: int) -> None:
        """Take the process id of the root."""
        self._root = psutil.Process(pid)

    def _members(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_seconds(self) -> float:
        """Return the user and system CPU seconds that the living processes have used so far."""
        total = 0.0
        for process in self._members():
            try:
                spent = process.cpu_times()
                total += spent.user + spent.system
            except psutil.NoSuchProcess:
                continue
        return total

    def memory(self) -> Memory:
        """Return the memory of all processes together; PSS is 0 where the system does not report it."""
        rss = pss = 0.0
        for process in self._members():
            try:
                full = process.memory_full_info()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            rss += full.rss / _MEBIBYTE
            pss += getattr(full, "pss", 0) / _MEBIBYTE
        return Memory(rss, pss)

    def handles(self) -> tuple[int, int]:
        """Return the number of living processes and of their open file descriptors."""
        processes = descriptors = 0
        for process in self._members():
            try:
                descriptors += process.num_fds()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            processes += 1
        return processes, descriptors

    def pause(self) -> None:
        """Suspend every process (SIGSTOP)."""
        for process in self._members():
            try:
                process.suspend()
            except psutil.NoSuchProcess:
                continue

    def resume(self) -> None:
        """Continue every process (SIGCONT)."""
        for process in self._members():
            try:
                process.resume()
            except psutil.NoSuchProcess:
                continue
