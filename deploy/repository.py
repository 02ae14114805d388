"""The model repository on disk: its manifest, the data the fusion step reads, and the checks before a server starts."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from veridict.forensics.calibration import Calibration, load_calibration
from veridict.forensics.contract import ModelVersions
from veridict.forensics.fusion import PromptBank
from veridict.forensics.signature import ENGINES, MODELS

MANIFEST = "manifest.json"
PROMPT_BANK = Path("fusion/1/prompt_bank.npz")
CALIBRATION = Path("fusion/1/calibration.json")
#: The file an engine step needs in its version folder, by profile.
ENGINE_FILES = {"cpu": "model.onnx", "gpu": "model.plan"}
#: Served by the CPU profile in place of ``model.onnx`` where it is there.
INT8_GRAPH = "model.int8.onnx"
#: What an engine is built from: the same network with half-precision casts in the graph.
FP16_GRAPH = "model.fp16.onnx"
#: What an fp8 engine is built from: the half-precision graph with its matrix products in fp8.
FP8_GRAPH = "model.fp8.onnx"
#: What may stand beside ``model.onnx``, made of the same weights: engines, and graphs of another precision.
DERIVED_FILES = (ENGINE_FILES["gpu"], "model.rtx", INT8_GRAPH, FP16_GRAPH, FP8_GRAPH)


class RepositoryError(RuntimeError):
    """The model repository cannot be served; the message says what is missing or altered and how to mend it."""


@dataclass(frozen=True)
class Manifest:
    """What ``manifest.json`` says: a sha256 per weight or data file, and where the weights come from."""

    files: dict[str, str]
    source: dict[str, Any]


def default_repository() -> Path:
    """Return the bundled model repository: it stands beside this package, installed or in a checkout."""
    here = Path(__file__).resolve().parent
    return here.parent / "model_repository"


def file_sha256(path: Path) -> str:
    """Return the hexadecimal sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tracked_files(repository: Path) -> list[Path]:
    """Return the files a manifest covers, relative and sorted: networks, their weights, prompt bank, calibration."""
    wanted = [Path(name) / "1" / file for name in ENGINES for file in (ENGINE_FILES["cpu"], *DERIVED_FILES)]
    wanted += [path.relative_to(repository) for path in repository.glob("*/1/*.safetensors")]
    return sorted(path for path in [*wanted, PROMPT_BANK, CALIBRATION] if (repository / path).exists())


def write_manifest(repository: Path, source: dict[str, Any]) -> None:
    """Write ``manifest.json`` over the files that stand in the repository now."""
    files = {str(path): file_sha256(repository / path) for path in tracked_files(repository)}
    document = {"schema": "veridict-manifest/1", "files": files, "source": source}
    (repository / MANIFEST).write_text(json.dumps(document, indent=1) + "\n")


def read_manifest(repository: Path) -> Manifest:
    """Return the parsed manifest.

    Raises:
        RepositoryError: it is missing or malformed.
    """
    path = repository / MANIFEST
    try:
        document = json.loads(path.read_text())
        return Manifest(dict(document["files"]), dict(document["source"]))
    except FileNotFoundError as error:
        message = f"{path} is missing: is {repository} a model repository? Build one with veridict export"
        raise RepositoryError(message) from error
    except (ValueError, KeyError, TypeError) as error:
        raise RepositoryError(
            f"{path} is damaged ({error}); build the repository again with veridict export"
        ) from error


def cpu_graph(version_folder: Path) -> Path:
    """Return the graph that the CPU profile runs: the int8 one where the export made one."""
    quantised = version_folder / INT8_GRAPH
    return quantised if quantised.exists() else version_folder / ENGINE_FILES["cpu"]


def query_gpus(what: str) -> list[str]:
    """Return ``nvidia-smi``'s answer (such as ``name``) for each GPU; none where there is no GPU or no such command."""
    try:
        answer = subprocess.run(
            ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def installed_gpu() -> str:
    """Return the compute capability of this machine's first GPU, such as ``sm89``; "" where there is none to ask."""
    found = query_gpus("compute_cap")
    return f"sm{found[0].replace('.', '')}" if found else ""


def engine_problems(source: dict[str, Any], gpu: str) -> list[str]:
    """Return why engines built as ``source`` says cannot run on a GPU of this compute capability ("" = unknown)."""
    problems = []
    for engine in source.get("engines", []):
        target = engine["target"]
        if engine["file"] == ENGINE_FILES["gpu"] and gpu and target not in ("", gpu) and not engine["compatible"]:
            problems.append(f"{engine['model']}/1/{engine['file']} was built for {target}, this GPU is {gpu}")
    return problems


def configuration_problems(repository: Path) -> list[str]:
    """Return what keeps Triton from loading the model folders, or them from working together."""
    # A folder of an earlier version may be left with nothing but compiled Python in it; Triton ends at its sight.
    left_over = (f for f in repository.iterdir() if f.is_dir() and f.name not in MODELS)
    problems = [f"{f.name} has no config.pbtxt: remove it" for f in left_over if not (f / "config.pbtxt").exists()]
    for name, model in MODELS.items():
        path = repository / name / "config.pbtxt"
        if not path.exists():
            problems.append(f"{name}/config.pbtxt is missing")
            continue
        text = path.read_text()
        lacking = [t.name for t in (*model.inputs, *model.outputs) if f'name: "{t.name}"' not in text]
        if lacking:
            problems.append(f"{name}/config.pbtxt has no {', '.join(lacking)}: export the repository anew")
    return problems


def check_repository(repository: Path, profile: str) -> Manifest:
    """Return the manifest when every model the profile serves is there and every file is what the manifest says.

    Raises:
        RepositoryError: a model or file is missing, altered or malformed; the message lists every problem.
    """
    manifest = read_manifest(repository)
    problems = configuration_problems(repository)
    required = [str(Path(name) / "1" / ENGINE_FILES[profile]) for name in ENGINES]
    required += [str(PROMPT_BANK), str(CALIBRATION)]
    problems += [f"{name} is not in the manifest" for name in required if name not in manifest.files]
    for name, expected in manifest.files.items():
        path = repository / name
        if not path.exists():
            problems.append(f"{name} is missing")
        elif file_sha256(path) != expected:
            problems.append(f"{name} differs from the manifest")
    if profile == "gpu":
        problems += engine_problems(manifest.source, installed_gpu())
    if problems:
        raise RepositoryError(f"{repository} cannot be served with the {profile} profile: " + "; ".join(problems))
    return manifest


def load_prompt_bank(path: Path) -> PromptBank:
    """Return the prompt bank of an ``.npz`` file.

    Raises:
        RepositoryError: the rows are not one per class.
    """
    with np.load(path, allow_pickle=False) as stored:
        embeddings, labels, scale = stored["embeddings"], stored["labels"], float(stored["scale"])
        offsets = stored["offsets"] if "offsets" in stored.files else np.zeros(len(labels))
    if embeddings.ndim != 2 or len(embeddings) != 2 + len(labels) or offsets.shape != labels.shape:
        raise RepositoryError(f"{path}: {embeddings.shape} embeddings for 2 + {len(labels)} classes")
    return PromptBank(
        embeddings.astype(np.float32), tuple(str(name) for name in labels), scale, tuple(offsets.tolist())
    )


def load_judgement(repository: Path) -> tuple[PromptBank, Calibration, ModelVersions]:
    """Return all that the fusion step needs besides its inputs."""
    bank = load_prompt_bank(repository / PROMPT_BANK)
    calibration = load_calibration(repository / CALIBRATION)
    files = read_manifest(repository).files

    def version(model: str) -> str:
        found = [
            sha for name, sha in files.items() if name.startswith(f"{model}/") and name.endswith((".onnx", ".plan"))
        ]
        return found[-1][:12] if found else "unknown"

    return bank, calibration, ModelVersions(version("clip_image"), version("face_cnn"), calibration.version)
