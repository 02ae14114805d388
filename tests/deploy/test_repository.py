"""The repository is checked before a server starts, and every problem is named."""

import shutil

import pytest

from veridict.deploy.repository import (
    CALIBRATION,
    PROMPT_BANK,
    RepositoryError,
    check_repository,
    default_repository,
    load_judgement,
    load_prompt_bank,
)


@pytest.fixture
def copy(tmp_path):
    target = tmp_path / "repository"
    shutil.copytree(default_repository(), target, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def test_the_bundled_repository_is_whole():
    manifest = check_repository(default_repository(), "cpu")
    shards = {f"clip_image/1/clip-vit-b-16-{half}.safetensors" for half in (1, 2)}
    assert shards | {"fusion/1/token_head.safetensors", "fusion/1/calibration.json"} < set(manifest.files)
    assert len(manifest.files) == 9
    _, calibration, versions = load_judgement(default_repository())
    assert versions.clip == manifest.files["clip_image/1/model.onnx"][:12]
    assert versions.calibration == calibration.version


def test_the_gpu_profile_says_what_it_lacks():
    with pytest.raises(RepositoryError, match=r"model\.plan is not in the manifest"):
        check_repository(default_repository(), "gpu")


def test_altered_and_missing_files_are_all_named(copy):
    with (copy / CALIBRATION).open("a") as stream:
        stream.write(" ")
    (copy / "face_cnn" / "1" / "model.onnx").unlink()
    shutil.rmtree(copy / "fusion" / "configs", ignore_errors=True)
    (copy / "fusion" / "config.pbtxt").unlink()
    with pytest.raises(RepositoryError) as caught:
        check_repository(copy, "cpu")
    for part in ("calibration.json differs", "face_cnn/1/model.onnx is missing", "fusion/config.pbtxt is missing"):
        assert part in str(caught.value)


def test_folders_and_configurations_of_another_version_are_named(copy):
    (copy / "faces" / "1").mkdir(parents=True)
    config = copy / "preprocess" / "config.pbtxt"
    config.write_text(config.read_text().replace('"EMBEDDING"', '"CLIP_VIEW"'))
    with pytest.raises(RepositoryError) as caught:
        check_repository(copy, "cpu")
    for part in ("faces has no config.pbtxt: remove it", "preprocess/config.pbtxt has no EMBEDDING: export"):
        assert part in str(caught.value)


@pytest.mark.parametrize("text", [None, "{", "[]", '{"files": 3, "source": {}}'])
def test_missing_or_damaged_manifests(copy, text):
    (copy / "manifest.json").unlink() if text is None else (copy / "manifest.json").write_text(text)
    with pytest.raises(RepositoryError, match=r"manifest\.json"):
        check_repository(copy, "cpu")


def test_prompt_bank_rows_are_classes():
    import numpy as np

    bank = load_prompt_bank(default_repository() / PROMPT_BANK)
    assert len(bank.embeddings) == 2 + len(bank.labels)
    assert np.allclose(np.linalg.norm(bank.embeddings, axis=1), 1, atol=1e-5)
