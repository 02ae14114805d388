"""Fetches a model repository for this machine's GPU from object storage: ``python -m veridict.deploy.engines``.

TensorRT engines run only on the GPU type they were built for. So the storage has one repository per target, as
``veridict export`` wrote it: ``SOURCE/cpu``, ``SOURCE/sm89`` and so on, each with its ``manifest.json``. An init step
of a pod runs this command; ``veridict export --check`` then checks the result.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from .manifest import MANIFEST, Manifest, RepositoryError, file_sha256, read_manifest
from .repository import installed_gpu

#: The target that stands for the compute capability of the first GPU.
AUTO = "auto"
#: Names that start so are files of the installed package, not of the repository.
_PACKAGE = "@"


class FetchError(RuntimeError):
    """The repository could not be fetched; the message says which file and why."""


def find_target(target: str) -> str:
    """Return the folder's name for a target: ``auto`` is the compute capability of the first GPU, such as ``sm89``.

    Raises:
        FetchError: ``auto`` without a GPU that nvidia-smi knows.
    """
    if target != AUTO:
        return target
    gpu = installed_gpu()
    if not gpu:
        raise FetchError("nvidia-smi finds no GPU: give the container a GPU and the driver capability 'utility'")
    return gpu


def repository_files(manifest: Manifest) -> list[str]:
    """Return the files of the repository that its manifest lists.

    Raises:
        FetchError: a name leads out of the repository.
    """
    names = [name for name in manifest.files if not name.startswith(_PACKAGE)]
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise FetchError(f"the manifest names {name}, which leads out of the repository")
    return names


def fetch_repository(source: str, target: str, repository: Path) -> tuple[int, int]:
    """Copy ``source``/``target`` into the folder ``repository``; return the number of files fetched and kept.

    ``source`` is a folder or a URL of fsspec, whose options come from the environment. Files are written as regular
    files. A file that is there already with the sha256 of the manifest is kept. Every other entry of the folder is
    removed. The manifest is written last, so an interrupted copy has none and does not start.

    Raises:
        FetchError: the storage does not answer, a file is missing, or its sha256 is not the manifest's.
    """
    import fsspec

    try:
        storage, root = fsspec.core.url_to_fs(f"{source.rstrip('/')}/{target}", use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise FetchError(f"{source}: {error}") from error
    repository.mkdir(parents=True, exist_ok=True)
    (repository / MANIFEST).unlink(missing_ok=True)
    document = repository / f"{MANIFEST}.new"
    _download(storage, f"{root}/{MANIFEST}", document)
    manifest = _parse(document, repository)
    names = repository_files(manifest)
    _remove_others(repository, {*names, document.name})
    kept = 0
    for name in names:
        path = repository / name
        if path.is_file() and not path.is_symlink() and file_sha256(path) == manifest.files[name]:
            kept += 1
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(storage, f"{root}/{name}", path)
        if file_sha256(path) != manifest.files[name]:
            path.unlink()
            raise FetchError(f"{root}/{name} differs from the manifest: upload the repository again")
    document.replace(repository / MANIFEST)
    return len(names) - kept, kept


def _parse(document: Path, repository: Path) -> Manifest:
    """Read a downloaded manifest under its own name, and put it aside again."""
    final = document.replace(repository / MANIFEST)
    try:
        return read_manifest(repository)
    except RepositoryError as error:
        raise FetchError(str(error)) from error
    finally:
        final.replace(document)


def _download(storage: Any, remote: str, path: Path) -> None:
    try:
        with storage.open(remote, "rb") as stream, path.open("wb") as file:
            shutil.copyfileobj(stream, file, 1 << 20)
    except Exception as error:  # every file system of fsspec has errors of its own
        path.unlink(missing_ok=True)
        raise FetchError(f"{remote}: {type(error).__name__}: {error}") from error


def _remove_others(repository: Path, wanted: set[str]) -> None:
    for path in sorted(repository.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.is_symlink() or path.relative_to(repository).as_posix() not in wanted:
            path.unlink()


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m veridict.deploy.engines", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--source", required=True, help="folder or URL that holds a repository per target")
    parser.add_argument("--target", default=AUTO, help="cpu, an sm number, or auto: this machine's GPU (default)")
    parser.add_argument(
        "--repository", type=Path, required=True, help="folder to fill; what does not belong is removed"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch; return 0, or 1 with the reason on standard error."""
    arguments = build_parser().parse_args(argv)
    try:
        target = find_target(arguments.target)
        fetched, kept = fetch_repository(arguments.source, target, arguments.repository)
    except (FetchError, OSError) as error:
        print(f"veridict.deploy.engines: {error}", file=sys.stderr)
        return 1
    print(f"{target}: {fetched} files fetched, {kept} kept in {arguments.repository}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
