"""The manifest of a model repository: the one place that says what is served.

It holds the sha256 of every file of the repository, code and configurations included, and the identity of every
network: its weights, and per profile the graph or engine that is served. The server's check, the verdict's ``models``,
the key of an explanation job and the networks that are explained are all read from here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veridict.forensics.signature import ENGINES

from .model_config import read_model_config

SCHEMA = "veridict-manifest/2"
MANIFEST = "manifest.json"
#: The graph that an engine step runs in its version folder, by profile.
ENGINE_FILES = {"cpu": "model.onnx", "gpu": "model.plan"}
#: Served by the CPU profile in place of ``model.onnx`` where the export made one.
INT8_GRAPH = "model.int8.onnx"
#: The same with the linear layers in integers that suit AVX2; the CPU profile runs it where nothing better is offered.
W7A8_GRAPH = "model.w7a8.onnx"
#: What an engine is built from: the same network with half-precision casts in the graph.
FP16_GRAPH = "model.fp16.onnx"
#: What an fp8 engine is built from: the half-precision graph with its matrix products in fp8.
FP8_GRAPH = "model.fp8.onnx"
#: What may be in the same folder as ``model.onnx``, made of the same weights: engines, graphs of another precision.
DERIVED_FILES = (ENGINE_FILES["gpu"], "model.rtx", INT8_GRAPH, W7A8_GRAPH, FP16_GRAPH, FP8_GRAPH)
#: The network that ``preprocess`` runs itself. Its graph lies in the package, since clients of the functions use it
#: too.
FACE_FINDER = "face_finder"
#: Names that start so are files of the installed package, not of the repository.
_PACKAGE = "@veridict/"
_FACE_FINDER_GRAPH = f"{_PACKAGE}forensics/data/face_finder.onnx"
_FACE_FINDER_WEIGHTS = f"{_PACKAGE}export/weights_data/face-finder.safetensors"
#: The sha256 of a network's weights, and the names of their files.
Weights = tuple[str, tuple[str, ...]]
_UNTRACKED = (MANIFEST, ".gitkeep")
_DIGITS = 12


class RepositoryError(RuntimeError):
    """The model repository cannot be served; the message names what is missing or altered, and what to do."""


@dataclass(frozen=True)
class NetworkIdentity:
    """The identity of a network.

    ``weights``: sha256 over its weights, "" where only the graph holds them. ``weight_files``: where they lie (see
    :meth:`Manifest.path`). ``graphs``: the served file per profile. ``outputs``: dimensions per output tensor, without
    the batch dimension.
    """

    weights: str
    weight_files: tuple[str, ...]
    graphs: Mapping[str, str]
    outputs: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Manifest:
    """A parsed manifest of the repository in ``folder``.

    ``files``: sha256 by name. ``networks``: by the names of the served models, and :data:`FACE_FINDER`. ``source``:
    what the repository was exported from, for people and for repeating the export.
    """

    folder: Path
    files: Mapping[str, str]
    networks: Mapping[str, NetworkIdentity]
    source: dict[str, Any]

    def path(self, name: str) -> Path:
        """Return the path of a file that the manifest names."""
        return resolve(self.folder, name)

    def graph(self, network: str, profile: str) -> Path:
        """Return the graph or engine that a profile serves.

        Raises:
            RepositoryError: the repository has none for this profile.
        """
        return self.path(self._graph(network, profile))

    def version(self, network: str, profile: str) -> str:
        """Return the version of what a profile serves: 12 digits of the sha256 over the graph and its weights."""
        return _digest(self.files[self._graph(network, profile)], self.networks[network].weights)

    def identity(self, network: str) -> str:
        """Return 12 digits that change with the network's weights and with any graph or engine made of them."""
        found = self.networks[network]
        return _digest(found.weights, *(self.files[found.graphs[profile]] for profile in sorted(found.graphs)))

    def _graph(self, network: str, profile: str) -> str:
        graphs = self.networks[network].graphs
        if profile not in graphs:
            raise RepositoryError(f"{self.folder}: {network} has no graph for the {profile} profile")
        return graphs[profile]


def resolve(repository: Path, name: str) -> Path:
    """Return the path of a file by its name in the manifest: inside the repository, or of the installed package."""
    if name.startswith(_PACKAGE):
        return default_repository().parent / name.removeprefix(_PACKAGE)
    return repository / name


def default_repository() -> Path:
    """Return the bundled model repository: a sibling folder of this package, installed or in a checkout."""
    return Path(__file__).resolve().parent.parent / "model_repository"


def file_sha256(path: Path) -> str:
    """Return the hexadecimal sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def weights_sha256(*paths: Path) -> str:
    """Return the sha256 of one file, or one sha256 over those of several files in this order."""
    digests = [file_sha256(path) for path in paths]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _digest(*parts: str) -> str:
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:_DIGITS]


def package_file(path: Path) -> str:
    """Return the manifest's name for a file of the installed package."""
    return _PACKAGE + path.resolve().relative_to(default_repository().parent).as_posix()


def tracked_files(repository: Path) -> list[str]:
    """Return the names of all files of a repository, sorted; not the manifest itself and no compiled Python."""
    found = (path.relative_to(repository) for path in repository.rglob("*") if path.is_file())
    return sorted(p.as_posix() for p in found if "__pycache__" not in p.parts and p.name not in _UNTRACKED)


def cpu_graph(version_folder: Path) -> Path:
    """Return the graph that the CPU profile runs: the int8 one where the export made one."""
    quantised = version_folder / INT8_GRAPH
    return quantised if quantised.exists() else version_folder / ENGINE_FILES["cpu"]


def write_manifest(repository: Path, source: dict[str, Any], weights: Mapping[str, Weights] | None = None) -> None:
    """Write ``manifest.json`` for the files that are in the repository now.

    ``weights``: sha256 and files of the weights by network; a network that it does not name has its weights in its
    graph.

    Raises:
        ValueError: a ``config.pbtxt`` is no model configuration.
    """
    weights = weights or {}
    networks: dict[str, dict[str, Any]] = {
        FACE_FINDER: {
            "weights": file_sha256(resolve(repository, _FACE_FINDER_WEIGHTS)),
            "weight_files": [_FACE_FINDER_WEIGHTS],
            "graphs": dict.fromkeys(ENGINE_FILES, _FACE_FINDER_GRAPH),
            "outputs": {},
        }
    }
    for name in ENGINES:
        folder = repository / name / "1"
        graphs = {
            "cpu": cpu_graph(folder),
            "cpu_w7a8": folder / W7A8_GRAPH,
            "gpu": folder / ENGINE_FILES["gpu"],
        }
        config = repository / name / "config.pbtxt"
        outputs = read_model_config(config).output if config.exists() else []
        digest, weight_files = weights.get(name, ("", ()))
        networks[name] = {
            "weights": digest,
            "weight_files": list(weight_files),
            "graphs": {k: p.relative_to(repository).as_posix() for k, p in graphs.items() if p.exists()},
            "outputs": {tensor.name: list(tensor.dims) for tensor in outputs},
        }
    files = {name: file_sha256(repository / name) for name in tracked_files(repository)}
    files[_FACE_FINDER_GRAPH] = file_sha256(resolve(repository, _FACE_FINDER_GRAPH))
    document = {"schema": SCHEMA, "files": files, "networks": networks, "source": source}
    (repository / MANIFEST).write_text(json.dumps(document, indent=1) + "\n")


def update_manifest(repository: Path) -> None:
    """Write the manifest anew after a deliberate change of files; weights and source stay as they were.

    Raises:
        RepositoryError: there is no manifest.
        ValueError: a ``config.pbtxt`` is no model configuration.
    """
    manifest = read_manifest(repository)
    weights = {name: (network.weights, network.weight_files) for name, network in manifest.networks.items()}
    write_manifest(repository, manifest.source, weights)


def read_manifest(repository: Path) -> Manifest:
    """Return the parsed manifest.

    Raises:
        RepositoryError: the manifest is missing, malformed or of another version.
    """
    path = repository / MANIFEST
    try:
        document = json.loads(path.read_text())
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']!r}, not {SCHEMA!r}")
        networks = {
            str(name): NetworkIdentity(
                str(entry["weights"]),
                tuple(entry["weight_files"]),
                dict(entry["graphs"]),
                {str(tensor): tuple(dims) for tensor, dims in entry["outputs"].items()},
            )
            for name, entry in document["networks"].items()
        }
        if missing := {*ENGINES, FACE_FINDER} - set(networks):
            raise ValueError(f"no network {sorted(missing)[0]}")
        return Manifest(repository, dict(document["files"]), networks, dict(document["source"]))
    except FileNotFoundError as error:
        message = f"{path} is missing: is {repository} a model repository? Build one with veridict export"
        raise RepositoryError(message) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RepositoryError(
            f"{path} is damaged ({error}); build the repository again with veridict export"
        ) from error
