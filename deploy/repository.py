"""The model repository before it is served: the checks, and the data that the fusion step reads."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from veridict.forensics.calibration import Calibration, load_calibration
from veridict.forensics.contract import ModelVersions
from veridict.forensics.judgement import Judgement, PromptBank
from veridict.forensics.policy import load_policy
from veridict.forensics.signature import CLIP_IMAGE, EMBEDDING_OUT, ENGINES, FACE_CNN, INTERMEDIATES_OUT, MODELS

from .manifest import ENGINE_FILES, FACE_FINDER, Manifest, RepositoryError, file_sha256, read_manifest, tracked_files
from .model_config import config_path, read_model_config

if TYPE_CHECKING:
    from veridict.forensics.signature import Model

PROMPT_BANK = Path("fusion/1/prompt_bank.npz")
CALIBRATION = Path("fusion/1/calibration.json")
POLICY = Path("fusion/1/policy.json")
#: The text tower's tokenizer, which the labels of policies need: a vocabulary of word pieces, or a list of byte pairs.
WORD_PIECES, MERGES = Path("clip_text/1/word_pieces.txt"), Path("clip_text/1/merges.txt")


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


def configuration_problems(repository: Path, profile: str, manifest: Manifest) -> list[str]:
    """Return what keeps Triton from loading the model folders, or the models from working together."""
    # A folder of an earlier version may be left with only compiled Python in it; Triton ends when it meets one.
    left_over = (f for f in repository.iterdir() if f.is_dir() and f.name not in MODELS)
    problems = [f"{f.name} has no config.pbtxt: remove it" for f in left_over if not (f / "config.pbtxt").exists()]
    for name, model in MODELS.items():
        path = config_path(repository / name, profile)
        if not path.exists():
            problems.append(f"{name}/config.pbtxt is missing")
            continue
        problems += _tensor_problems(repository, path, model, manifest)
    return problems


def _tensor_problems(repository: Path, path: Path, model: Model, manifest: Manifest) -> list[str]:
    try:
        config = read_model_config(path)
    except ValueError as error:
        return [str(error)]
    where = path.relative_to(repository)
    present = {tensor.name: tuple(tensor.dims) for tensor in (*config.input, *config.output)}
    lacking = [tensor.name for tensor in (*model.inputs, *model.outputs) if tensor.name not in present]
    problems = [f"{where} has no {', '.join(lacking)}: export the repository anew"] if lacking else []
    network = manifest.networks.get(model.name)
    for tensor, dims in (network.outputs if network else {}).items():
        if tensor in present and present[tensor] != dims:
            problems.append(f"{where}: {tensor} is {list(present[tensor])}, in the manifest {list(dims)}")
    return problems


def file_problems(manifest: Manifest) -> list[str]:
    """Return which files are missing, altered or not in the manifest."""
    unknown = [name for name in tracked_files(manifest.folder) if name not in manifest.files]
    return [f"{name} is not in the manifest" for name in unknown] + altered_files(manifest, manifest.files)


def altered_files(manifest: Manifest, names: Iterable[str]) -> list[str]:
    """Return which of these files of the manifest are missing or altered."""
    problems = []
    for name in names:
        path = manifest.path(name)
        if not path.exists():
            problems.append(f"{name} is missing")
        elif file_sha256(path) != manifest.files[name]:
            problems.append(f"{name} differs from the manifest")
    return problems


def check_repository(repository: Path, profile: str) -> Manifest:
    """Return the manifest when every model the profile serves is there and every file is as the manifest says.

    Raises:
        RepositoryError: a model or file is missing, altered, unknown or malformed; the message lists every problem.
    """
    manifest = read_manifest(repository)
    required = [str(Path(name) / "1" / ENGINE_FILES[profile]) for name in ENGINES]
    required += [str(PROMPT_BANK), str(CALIBRATION), str(POLICY)]
    problems = [f"{name} is not in the manifest" for name in required if name not in manifest.files]
    problems += configuration_problems(repository, profile, manifest)
    altered = file_problems(manifest)
    if altered:
        altered[-1] += f" (after a change on purpose: veridict export --update-manifest --output {repository})"
    problems += altered
    if profile == "gpu":
        problems += engine_problems(manifest.source, installed_gpu())
    if not problems:
        try:
            load_judgement(repository, profile)
        except (RepositoryError, ValueError) as error:
            problems.append(str(error))
    if problems:
        raise RepositoryError(f"{repository} cannot be served with the {profile} profile: " + "; ".join(problems))
    return manifest


def load_prompt_bank(path: Path) -> PromptBank:
    """Return the prompt bank of an ``.npz`` file.

    Raises:
        RepositoryError: the file is no prompt bank, its numbers are not finite, or the rows are not one per class.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            embeddings, labels, scale = stored["embeddings"], stored["labels"], float(stored["scale"])
            offsets = stored["offsets"] if "offsets" in stored.files else np.zeros(len(labels))
        finite = all(np.isfinite(numbers).all() for numbers in (embeddings, offsets, scale))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, BadZipFile) as error:
        raise RepositoryError(f"{path} is no prompt bank: {error}") from error
    if not finite:
        raise RepositoryError(f"{path} is no prompt bank: a number is not finite")
    if embeddings.ndim != 2 or len(embeddings) != 2 + len(labels) or offsets.shape != labels.shape:
        raise RepositoryError(f"{path}: {embeddings.shape} embeddings for 2 + {len(labels)} classes")
    return PromptBank(
        embeddings.astype(np.float32), tuple(str(name) for name in labels), scale, tuple(offsets.tolist())
    )


def load_judgement(repository: Path, profile: str = "cpu") -> Judgement:
    """Return all that the fusion step needs besides an observation.

    Raises:
        RepositoryError: a file is missing or malformed, or the files do not fit each other or the served CLIP.
    """
    manifest = read_manifest(repository)
    try:
        bank = load_prompt_bank(repository / PROMPT_BANK)
        calibration = load_calibration(repository / CALIBRATION)
        policy = load_policy(repository / POLICY, calibration)
    except (OSError, ValueError) as error:
        raise RepositoryError(str(error)) from error
    _check_widths(bank, calibration, manifest)
    versions = ModelVersions(
        clip=manifest.version(CLIP_IMAGE.name, profile),
        face_cnn=manifest.version(FACE_CNN.name, profile),
        calibration=calibration.version,
        face_finder=manifest.version(FACE_FINDER, profile),
        policy=policy.version,
    )
    return Judgement(bank, calibration, policy, versions)


def _check_widths(bank: PromptBank, calibration: Calibration, manifest: Manifest) -> None:
    """Check that prompt bank and token head fit what the served CLIP puts out."""
    outputs = manifest.networks[CLIP_IMAGE.name].outputs
    embedding, tokens = outputs.get(EMBEDDING_OUT.name), outputs.get(INTERMEDIATES_OUT.name)
    if embedding != (bank.embeddings.shape[1],):
        raise RepositoryError(
            f"{PROMPT_BANK} has embeddings of {bank.embeddings.shape[1]} features, clip_image puts out {embedding}"
        )
    if calibration.head is not None and calibration.head.mean.shape != tokens:
        raise RepositoryError(
            f"the token head takes class tokens {calibration.head.mean.shape}, clip_image puts out {tokens}: "
            "run veridict calibrate on this repository"
        )
    family = manifest.source.get("clip_family")
    if family and calibration.family != family:
        raise RepositoryError(f"{CALIBRATION} was fitted on {calibration.family}, the repository serves {family}")
