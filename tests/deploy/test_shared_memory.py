"""A /dev/shm that is too small is found before the server starts, with the size that it needs."""

import shutil

import pytest

from veridict.deploy.launcher import LaunchError
from veridict.deploy.manifest import default_repository
from veridict.deploy.shared_memory import check_shared_memory, free_shared_memory, needed_shared_memory

MEBIBYTE = 1024**2


def test_docker_s_default_is_refused_and_the_need_is_named():
    need = needed_shared_memory(default_repository(), "cpu")
    assert 64 * MEBIBYTE < need.least < 128 * MEBIBYTE
    assert need.most - need.least == (need.images - 1) * 20 * MEBIBYTE
    with pytest.raises(LaunchError, match=r"64 MiB free; .*--shm-size=\d+m"):
        check_shared_memory(default_repository(), "cpu", 64 * MEBIBYTE)


def test_less_than_the_most_is_a_warning_and_enough_is_silent():
    need = needed_shared_memory(default_repository(), "cpu")
    assert "warning" in check_shared_memory(default_repository(), "cpu", need.least)
    assert check_shared_memory(default_repository(), "cpu", need.most) == ""


def test_the_gpu_profile_needs_less():
    assert (
        needed_shared_memory(default_repository(), "gpu").least
        < needed_shared_memory(default_repository(), "cpu").least
    )


def test_more_instances_need_more(tmp_path):
    repository = shutil.copytree(default_repository(), tmp_path / "r", ignore=shutil.ignore_patterns("1"))
    before = needed_shared_memory(repository, "cpu")
    config = repository / "preprocess" / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 3"))
    assert needed_shared_memory(repository, "cpu").images == 3 * before.images


def test_a_system_without_the_folder_is_not_checked(tmp_path):
    assert free_shared_memory(tmp_path / "none") is None
    assert free_shared_memory(tmp_path) > 0
