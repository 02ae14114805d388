"""The repository is checked before a server starts, and every problem is named."""

import json
import shutil

import pytest

from veridict.deploy.command import main
from veridict.deploy.manifest import (
    FACE_FINDER,
    RepositoryError,
    default_repository,
    read_manifest,
    weights_sha256,
    write_manifest,
)
from veridict.deploy.repository import CALIBRATION, PROMPT_BANK, check_repository, load_judgement, load_prompt_bank
from veridict.forensics.signature import ENGINES


@pytest.fixture
def copy(tmp_path):
    target = tmp_path / "repository"
    shutil.copytree(default_repository(), target, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def files_of(folder):
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return {p.as_posix() for p in found if "__pycache__" not in p.parts and p.name not in ("manifest.json", ".gitkeep")}


def test_the_manifest_covers_every_file_and_the_face_finder():
    manifest = check_repository(default_repository(), "cpu")
    in_package = {name for name in manifest.files if name.startswith("@veridict/")}
    assert set(manifest.files) - in_package == files_of(default_repository())
    assert {manifest.path(name).name for name in in_package} == {"face_finder.onnx"}
    assert set(manifest.networks) == {*ENGINES, FACE_FINDER}
    for network in manifest.networks.values():
        assert weights_sha256(*(manifest.path(name) for name in network.weight_files)) == network.weights


def test_a_verdict_names_the_graphs_that_are_served():
    manifest, models = read_manifest(default_repository()), load_judgement(default_repository(), "cpu").models
    assert manifest.graph("face_cnn", "cpu").name == "model.int8.onnx"
    assert models.face_cnn == manifest.version("face_cnn", "cpu")
    assert models.clip == manifest.version("clip_image", "cpu")
    assert models.face_finder == manifest.version(FACE_FINDER, "cpu")
    assert len({*vars(models).values()}) == 5
    with pytest.raises(RepositoryError, match="no graph for the gpu profile"):
        load_judgement(default_repository(), "gpu")


@pytest.mark.parametrize(
    ("change", "network"),
    [
        ("face_cnn/1/model.int8.onnx", "face_cnn"),
        ("clip_image/1/model.onnx", "clip_image"),
        ("clip_image/1/clip-vit-b-16-2.safetensors", "clip_image"),
    ],
)
def test_a_changed_graph_or_weight_file_is_another_version(copy, change, network):
    before = read_manifest(copy)
    with (copy / change).open("ab") as stream:
        stream.write(b" ")
    weights = {
        name: (weights_sha256(*(before.path(f) for f in found.weight_files)), found.weight_files)
        for name, found in before.networks.items()
    }
    write_manifest(copy, before.source, weights)
    after = read_manifest(copy)
    for name in ENGINES:
        assert (after.version(name, "cpu") != before.version(name, "cpu")) == (name == network)
        assert (after.identity(name) != before.identity(name)) == (name == network)


def test_a_change_on_purpose_is_recorded(copy):
    config = copy / "preprocess" / "config.pbtxt"
    config.write_text(config.read_text().replace('string_value: "32"', 'string_value: "64"'))
    (copy / "preprocess" / "1" / "model.py").write_text("# nothing\n")
    (copy / "face_cnn" / "2").mkdir()
    (copy / "face_cnn" / "2" / "model.onnx").write_bytes(b"another version that Triton would serve")
    with pytest.raises(RepositoryError) as caught:
        check_repository(copy, "cpu")
    for part in (
        "preprocess/config.pbtxt differs from the manifest",
        "preprocess/1/model.py differs",
        "face_cnn/2/model.onnx is not in the manifest",
        f"veridict export --update-manifest --output {copy}",
    ):
        assert part in str(caught.value)
    assert main(["export", "--update-manifest", "--output", str(copy)]) == 0
    assert check_repository(copy, "cpu").networks == read_manifest(default_repository()).networks


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
    config.write_text(config.read_text().replace('"OBSERVATION"', '"CLIP_VIEW"'))
    broken = copy / "clip_text" / "configs" / "cpu.pbtxt"
    broken.write_text("max_batch_size: many")
    narrow = copy / "clip_image" / "configs" / "cpu.pbtxt"
    narrow.write_text(narrow.read_text().replace("dims: [ 512 ]", "dims: [ 256 ]"))
    with pytest.raises(RepositoryError) as caught:
        check_repository(copy, "cpu")
    for part in (
        "faces has no config.pbtxt: remove it",
        "preprocess/config.pbtxt has no OBSERVATION: export",
        "cpu.pbtxt is not a Triton model configuration: 1:17",
        "clip_image/configs/cpu.pbtxt: EMBEDDING is [256], in the manifest [512]",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [None, "{", "[]", '{"files": 3, "source": {}}', '{"schema": "veridict-manifest/1", "files": {}, "source": {}}'],
)
def test_missing_or_damaged_manifests(copy, text):
    (copy / "manifest.json").unlink() if text is None else (copy / "manifest.json").write_text(text)
    with pytest.raises(RepositoryError, match=r"manifest\.json"):
        check_repository(copy, "cpu")


def test_a_head_or_bank_of_another_width_is_refused(copy):
    document = json.loads((copy / "manifest.json").read_text())
    for tensor, dims, message in (
        ("INTERMEDIATES", [7, 512], "the token head takes"),
        ("EMBEDDING", [64], "embeddings of 512"),
    ):
        changed = json.loads(json.dumps(document))
        changed["networks"]["clip_image"]["outputs"][tensor] = dims
        (copy / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(RepositoryError, match=message):
            load_judgement(copy)
    changed = json.loads(json.dumps(document))
    changed["source"]["clip_family"] = "another"
    (copy / "manifest.json").write_text(json.dumps(changed))
    with pytest.raises(RepositoryError, match="was fitted on ViT-B-16-quickgelu:openai, the repository serves another"):
        load_judgement(copy)


def test_prompt_bank_rows_are_classes():
    import numpy as np

    bank = load_prompt_bank(default_repository() / PROMPT_BANK)
    assert len(bank.embeddings) == 2 + len(bank.labels)
    assert np.allclose(np.linalg.norm(bank.embeddings, axis=1), 1, atol=1e-5)
