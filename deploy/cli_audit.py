"""``veridict audit``: asks a vulnerability service about every package that is served, by pip-audit."""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .dependencies import ROOT, installed_packages

#: Seconds for the whole audit.
_TIMEOUT = 600.0


@dataclass(frozen=True)
class Audit:
    """The outcome: vulnerabilities as (package, version, id, versions with a fix), and packages without an answer."""

    checked: int
    vulnerabilities: tuple[tuple[str, str, str, str], ...]
    unanswered: tuple[str, ...]


class AuditError(RuntimeError):
    """Nothing was checked; the message says why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "--extras", default="server", help="extras whose installed packages are checked (default: %(default)s)"
    )
    parser.add_argument(
        "--lock",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="check the packages of lock files instead of installed ones",
    )
    parser.add_argument(
        "--service",
        choices=("osv", "pypi"),
        default="osv",
        help="who is asked, over the network (default: %(default)s)",
    )
    parser.add_argument("--osv-url", help="URL of another service with OSV's interface")
    parser.add_argument(
        "--ignore", nargs="+", default=[], metavar="ID", help="vulnerabilities that do not count: say why in a comment"
    )


def read_report(text: str) -> Audit:
    """Return what pip-audit's JSON says; a package that it skipped has no answer.

    Raises:
        AuditError: it is not pip-audit's JSON.
    """
    try:
        rows = json.loads(text)["dependencies"]
    except (ValueError, KeyError, TypeError):
        raise AuditError("the vulnerability service gave no answer") from None
    answered = [row for row in rows if "skip_reason" not in row]
    found = [
        (row["name"], row["version"], vulnerability["id"], ", ".join(vulnerability["fix_versions"]) or "none")
        for row in answered
        for vulnerability in row["vulns"]
    ]
    skipped = tuple(row["name"] for row in rows if "skip_reason" in row)
    return Audit(len(answered), tuple(dict.fromkeys(found)), skipped)


def audit(files: Sequence[Path], service: str, osv_url: str | None, ignored: Sequence[str]) -> Audit:
    """Ask about the packages of requirements files, each pinned to a version.

    Raises:
        AuditError: pip-audit is not installed, or the service cannot be reached.
    """
    if importlib.util.find_spec("pip_audit") is None:
        raise AuditError("pip-audit is not installed: pip install 'veridict[audit]'")
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--format", "json"]
    command += ["--progress-spinner", "off", "--vulnerability-service", service]
    command += [word for file in files for word in ("--requirement", str(file))]
    command += [word for name in ignored for word in ("--ignore-vuln", name)]
    if osv_url:
        command += ["--osv-url", osv_url]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise AuditError(f"the vulnerability service did not answer within {_TIMEOUT:.0f} s") from None
    try:
        return read_report(done.stdout)
    except AuditError as error:
        said = done.stderr.strip().splitlines()
        raise AuditError(f"{error} ({said[-1] if said else 'no message'})") from None


def run(arguments: argparse.Namespace) -> int:
    """Return 0 when every package was checked and none has a known vulnerability that counts, else 1."""
    try:
        with tempfile.TemporaryDirectory(prefix="veridict-audit-") as folder:
            files = arguments.lock
            if files is None:
                packages = installed_packages([extra for extra in arguments.extras.split(",") if extra])
                lines = [f"{package.name}=={package.version}" for name, package in packages.items() if name != ROOT]
                files = [Path(folder) / "requirements.txt"]
                files[0].write_text("\n".join(lines) + "\n")
            found = audit(files, arguments.service, arguments.osv_url, arguments.ignore)
    except (AuditError, OSError, ValueError) as error:
        print(f"veridict audit: NOTHING WAS CHECKED: {error}", file=sys.stderr)
        return 1
    for name, version, vulnerability, fixed in found.vulnerabilities:
        print(f"{name} {version}: {vulnerability}, fixed in {fixed}")
    summary = f"{found.checked} packages checked, {len(found.vulnerabilities)} known vulnerabilities"
    print(summary)
    if found.unanswered:
        print(
            f"veridict audit: NOT CHECKED, the service does not know them: {', '.join(found.unanswered)}",
            file=sys.stderr,
        )
    return 1 if found.vulnerabilities or found.unanswered else 0
