"""The init step that fetches the repository of a GPU type: regular files, checked by sha256, nothing else left."""

import json
import shutil

import fsspec
import pytest

from veridict.deploy.engines import FetchError, fetch_repository, find_target, main, repository_files
from veridict.deploy.manifest import MANIFEST, default_repository, read_manifest
from veridict.deploy.repository import check_repository


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """Make a folder with one target: the bundled repository."""
    folder = tmp_path_factory.mktemp("storage")
    shutil.copytree(default_repository(), folder / "cpu", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_fetched_repository_passes_the_check(storage, tmp_path):
    target = tmp_path / "models"
    fetched, kept = fetch_repository(str(storage), "cpu", target)
    assert (fetched, kept) == (len(repository_files(read_manifest(target))), 0)
    check_repository(target, "cpu")
    assert not any(path.is_symlink() for path in target.rglob("*"))


def test_a_second_fetch_copies_only_what_differs(storage, tmp_path):
    target = tmp_path / "models"
    fetch_repository(str(storage), "cpu", target)
    before = names(target)
    (target / "fusion/1/policy.json").write_text("{}")
    (target / "old_model/1").mkdir(parents=True)
    (target / "old_model/1/model.plan").write_text("an engine of an earlier version")
    fetched, kept = fetch_repository(str(storage), "cpu", target)
    assert (fetched, names(target)) == (1, before)
    assert kept == len(before) - 2  # all but the altered file and the manifest
    assert not (target / "old_model").exists()


def test_links_are_replaced_by_files(storage, tmp_path):
    target = tmp_path / "models"
    fetch_repository(str(storage), "cpu", target)
    linked = target / "clip_image/1/model.onnx"
    linked.unlink()
    linked.symlink_to(storage / "cpu/clip_image/1/model.onnx")
    assert fetch_repository(str(storage), "cpu", target)[0] == 1
    assert not linked.is_symlink()


def test_an_altered_file_is_refused_and_nothing_starts(storage, tmp_path):
    source, target = tmp_path / "source", tmp_path / "models"
    shutil.copytree(storage, source)
    (source / "cpu/preprocess/config.pbtxt").write_text("altered")
    with pytest.raises(FetchError, match=r"preprocess/config\.pbtxt differs from the manifest"):
        fetch_repository(str(source), "cpu", target)
    assert not (target / MANIFEST).exists()


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../outside"])
def test_a_manifest_cannot_lead_out_of_the_repository(storage, tmp_path, name):
    source = tmp_path / "source"
    (source / "cpu").mkdir(parents=True)
    document = json.loads((storage / "cpu" / MANIFEST).read_text())
    document["files"][name] = "0" * 64
    (source / "cpu" / MANIFEST).write_text(json.dumps(document))
    with pytest.raises(FetchError, match="leads out of the repository"):
        fetch_repository(str(source), "cpu", tmp_path / "models")


def test_any_file_system_of_fsspec_serves(storage, tmp_path):
    memory = fsspec.filesystem("memory")
    memory.put(str(storage / "cpu"), "/veridict/v1/cpu", recursive=True)
    try:
        fetch_repository("memory://veridict/v1/", "cpu", tmp_path)
        check_repository(tmp_path, "cpu")
    finally:
        memory.rm("/veridict", recursive=True)


def test_the_target_is_the_gpu_of_the_machine(tmp_path, monkeypatch):
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\necho 8.9\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert (find_target("auto"), find_target("sm90")) == ("sm89", "sm90")
    command.write_text("#!/bin/sh\nexit 9\n")
    with pytest.raises(FetchError, match="finds no GPU"):
        find_target("auto")


def test_the_command_says_what_it_did(storage, tmp_path, capsys):
    arguments = ["--source", str(storage), "--repository", str(tmp_path / "models"), "--target"]
    assert main([*arguments, "cpu"]) == 0
    assert "cpu: " in capsys.readouterr().out
    assert main([*arguments, "sm89"]) == 1
    assert "sm89/manifest.json: FileNotFoundError" in capsys.readouterr().err
