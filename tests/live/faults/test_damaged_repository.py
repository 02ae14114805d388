"""A missing, corrupt or mismatched graph, prompt bank or calibration: the command refuses to start and says why."""

import json
import os
import shutil

import numpy as np
import pytest

from veridict.deploy.command import main
from veridict.deploy.manifest import default_repository, update_manifest

BANK, CALIBRATION, POLICY = "fusion/1/prompt_bank.npz", "fusion/1/calibration.json", "fusion/1/policy.json"

PORTS = ("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    target = tmp_path_factory.mktemp("source") / "repository"
    return shutil.copytree(default_repository(), target, ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture
def repository(source, tmp_path):
    """A copy for one test; its weights are links to those of the module's copy, so replace them as a whole."""

    def copy(path, target):
        (os.link if path.endswith(".safetensors") else shutil.copy2)(path, target)

    return shutil.copytree(source, tmp_path / "repository", copy_function=copy)


def refusal(repository, capsys):
    """Return what the command says, which must end with status 1 before anything starts."""
    assert main(["serve", "--repository", str(repository), *PORTS, "--ready-timeout", "1"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "tritonserver" not in said
    return said


@pytest.mark.parametrize("name", [BANK, CALIBRATION, POLICY, "clip_image/1/model.onnx", "face_cnn/1/model.onnx"])
@pytest.mark.parametrize("damage", ["missing", "corrupt"])
def test_a_missing_or_corrupt_file_is_named(repository, capsys, name, damage):
    if damage == "missing":
        (repository / name).unlink()
    else:
        data = bytearray((repository / name).read_bytes())
        data[len(data) // 2] ^= 0xFF
        (repository / name).write_bytes(data)
    said = refusal(repository, capsys)
    assert f"{name} {'is missing' if damage == 'missing' else 'differs from the manifest'}" in said


@pytest.mark.parametrize("data", [b"", b"no archive", b"PK\x03\x04 half an archive"], ids=["empty", "text", "cut off"])
def test_a_prompt_bank_that_is_none_is_named_although_the_manifest_lists_it(repository, capsys, data):
    (repository / BANK).write_bytes(data)
    update_manifest(repository)
    assert "prompt_bank.npz" in refusal(repository, capsys)


@pytest.mark.parametrize("change", ["one array", "no archive", "no arrays", "NaN"])
def test_a_prompt_bank_with_other_contents_is_named(repository, capsys, tmp_path, change):
    path = tmp_path / "other.npz"
    with np.load(repository / BANK) as stored:
        arrays = dict(stored)
    if change == "NaN":
        arrays["embeddings"] = np.full_like(arrays["embeddings"], np.nan)
        np.savez(path, **arrays)
    elif change == "no archive":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    else:
        np.savez(path, **({"embeddings": arrays["embeddings"]} if change == "one array" else {}))
    (repository / BANK).write_bytes(path.read_bytes())
    update_manifest(repository)
    assert "prompt_bank.npz" in refusal(repository, capsys)


@pytest.mark.parametrize("name", [CALIBRATION, POLICY])
@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"regimes": null}'])
def test_a_calibration_or_policy_that_is_none_is_named_although_the_manifest_lists_it(repository, capsys, name, data):
    (repository / name).write_bytes(data)
    update_manifest(repository)
    assert name.rpartition("/")[2] in refusal(repository, capsys)


def test_a_calibration_of_another_clip_is_refused(repository, capsys):
    document = json.loads((repository / CALIBRATION).read_text())
    document["clip"]["family"] = "another-clip"
    (repository / CALIBRATION).write_bytes(json.dumps(document).encode())
    update_manifest(repository)
    said = refusal(repository, capsys)
    assert "another-clip" in said
    assert "calibration.json" in said


def test_without_its_engines_the_gpu_profile_does_not_start(repository, capsys):
    assert main(["serve", "--repository", str(repository), "--profile", "gpu", *PORTS]) == 1
    assert "clip_image/1/model.plan is not in the manifest" in capsys.readouterr().err
