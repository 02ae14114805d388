"""Images lie under their sha256, and stay no longer than the retention time."""

import os

import pytest
from sqlalchemy import select

from veridict.deploy.ui.database import transaction
from veridict.deploy.ui.images import DAY, delete_expired
from veridict.deploy.ui.records import count, jobs_of, remember_jobs
from veridict.deploy.ui.schema import Decision
from veridict.explain.jobs.store import Store


@pytest.fixture
def add_at(add, images, clock):
    """Return a function that adds an item whose file has the clock's time."""

    def add_at(data):
        item = add(data)
        path = images.folder / item.sha256[:2] / item.sha256
        os.utime(path, (clock.now, clock.now))
        return item

    return add_at


def test_an_image_is_stored_whole_and_private(images):
    sha256 = images.put(b"data")
    assert images.put(b"data") == sha256
    assert images.get(sha256) == b"data"
    assert len(list(images.folder.glob("*/*"))) == 1
    assert images.folder.stat().st_mode & 0o077 == 0
    assert images.get("0" * 64) is None


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "/x"])
def test_only_a_sha256_becomes_a_path(images, name):
    with pytest.raises(ValueError, match="not a sha256"):
        images.get(name)


def test_images_are_deleted_when_their_time_is_over_and_decisions_stay(store, images, add_at, clock):
    old, decided = add_at(b"1"), add_at(b"2")
    store.decide(decided.id, "ada", "confirm")
    clock.now += 2 * DAY
    young = add_at(b"3")
    clock.now += 2 * DAY
    assert delete_expired(store, images, keep_days=3.0) == 2
    assert [images.get(item.sha256) is None for item in (old, decided, young)] == [True, True, False]
    assert store.claim("ada").id == young.id  # nobody gets an item that cannot be seen
    counts = count(store)
    assert (counts.waiting, counts.decided, counts.expired) == (1, 1, 1)
    with transaction(store.sessions) as session:
        assert len(session.scalars(select(Decision)).all()) == 1
    assert delete_expired(store, images, keep_days=3.0) == 0


def test_an_image_that_comes_back_has_a_new_retention_time(store, images, add_at, clock):
    item = add_at(b"1")
    clock.now += 4 * DAY
    delete_expired(store, images, keep_days=3.0)
    assert add_at(b"1").id == item.id
    assert store.claim("ada").id == item.id
    clock.now += 2 * DAY
    assert delete_expired(store, images, keep_days=3.0) == 0


def test_heatmaps_and_the_copy_in_their_store_are_deleted_too(store, images, add_at, clock, tmp_path):
    item = add_at(b"1")
    explanations = Store(str(tmp_path / "explanations"))
    assert explanations.put_image(b"1") == item.sha256
    other = explanations.put_image(b"of somebody else")
    remember_jobs(store, item.id, {"ela": f"{item.sha256}-ela-v1"})
    clock.now += 4 * DAY
    assert delete_expired(store, images, 3.0, explanations.url) == 1
    assert [path.name for path in (tmp_path / "explanations").rglob("*") if path.is_file()] == [other]
    assert jobs_of(store, item.id) == {}


def test_files_of_no_item_are_deleted_too(store, images, clock):
    sha256 = images.put(b"left by a crash")
    os.utime(images.folder / sha256[:2] / sha256, (clock.now - 5 * DAY,) * 2)
    delete_expired(store, images, 3.0)
    assert images.get(sha256) is None
