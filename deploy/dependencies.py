"""The installed packages that Veridict needs for given extras, found by the metadata of the installed distributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

#: The distribution of this package.
ROOT = "veridict"


@dataclass(frozen=True)
class Package:
    """An installed distribution: its normalised name, version, SPDX or other licence text, and the names it needs."""

    name: str
    version: str
    license: str
    needs: tuple[str, ...]


def installed_packages(extras: Sequence[str]) -> dict[str, Package]:
    """Return what ``veridict[extras]`` needs here, itself included, by name.

    Raises:
        ValueError: an extra does not exist, or a package that it needs is not installed; the message names it.
    """
    known = metadata.metadata(ROOT).get_all("Provides-Extra") or []
    for extra in extras:
        if extra not in known:
            raise ValueError(f"there is no extra {extra!r}; the extras are {', '.join(sorted(known))}")
    needed: dict[str, set[str]] = {}
    wanted: dict[str, set[str]] = {ROOT: set(extras)}
    seen: dict[str, set[str]] = {}
    while wanted:
        name, chosen = wanted.popitem()
        if name in seen and chosen <= seen[name]:
            continue
        chosen = seen[name] = seen.get(name, set()) | chosen
        for requirement in _requirements(name, chosen):
            other = canonicalize_name(requirement.name)
            needed.setdefault(name, set()).add(other)
            wanted[other] = wanted.get(other, set()) | requirement.extras
    return {name: _describe(name, needed.get(name, set()) - {name}) for name in sorted(seen)}


def _requirements(name: str, extras: set[str]) -> list[Requirement]:
    try:
        lines = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        raise ValueError(f"{name} is not installed: install what you want to examine first") from None
    found = [Requirement(line) for line in lines]
    return [
        requirement
        for requirement in found
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in (extras or {""}))
    ]


def _describe(name: str, needs: set[str]) -> Package:
    about = metadata.metadata(name)
    # A licence of several lines is the whole text, not its name.
    names = [(about[field] or "").strip() for field in ("License-Expression", "License") if field in about]
    license_name = next((text for text in names if text and "\n" not in text and len(text) < 80), "")
    return Package(name, metadata.version(name), license_name, tuple(sorted(needs)))
