"""Decisions become labelled data that the product's own commands read, and figures of agreement."""

import csv
import io
import json
import zipfile

import pytest

from veridict.deploy.ui.agreement import figures
from veridict.deploy.ui.export import Exported, write_folder, zip_bytes
from veridict.deploy.ui.images import DAY
from veridict.export.datasets import find_folders, read_labelled


@pytest.fixture
def decided(store, add, clock):
    """Four decisions: confirmed real, overturned real, confirmed fake, unsure; and one that was undone."""
    kinds = (("1", "real", "confirm"), ("2", "real", "overturn"), ("3", "deepfake", "confirm"), ("4", "real", "unsure"))
    for data, verdict, kind in kinds:
        item = add(data.encode(), verdict=verdict, confidence="high" if data == "3" else "low")
        store.decide(item.id, "ada", kind, "because")
    clock.now += DAY
    store.decide(add(b"5").id, "ada", "confirm")
    store.undo("ada")
    store.decide(add(b"6").id, "bob", "overturn")
    return store


def test_the_folder_is_read_as_labelled_data(decided, images, tmp_path):
    exported = write_folder(decided, images, tmp_path / "out")
    assert exported == Exported(real=1, fake=3, unsure=1, deleted=0)
    by_folder = {(sample.path.read_bytes(), sample.label) for sample in find_folders(tmp_path / "out")}
    assert by_folder == {(b"1", "real"), (b"2", "fake"), (b"3", "fake"), (b"6", "fake")}
    rows = read_labelled(tmp_path / "out" / "manifest.csv")
    assert {(sample.path.read_bytes(), sample.label) for sample in rows} == by_folder
    assert {(sample.source, sample.kind) for sample in rows} == {("review/folder", "animal")}
    entries = [json.loads(line) for line in (tmp_path / "out" / "decisions.jsonl").read_text().splitlines()]
    assert [entry["decision"] for entry in entries] == ["confirm", "overturn", "confirm", "unsure", "overturn"]
    assert entries[0]["answer"]["schema"] == "veridict/1"
    with pytest.raises(FileExistsError):
        write_folder(decided, images, tmp_path / "out")


def test_deleted_images_are_left_out_and_counted(decided, images, tmp_path):
    sample = next(s for s in find_folders_after(decided, images, tmp_path) if s.label == "real")
    images.delete(sample.path.stem)
    assert write_folder(decided, images, tmp_path / "again") == Exported(real=0, fake=3, unsure=1, deleted=1)


def find_folders_after(store, images, tmp_path):
    write_folder(store, images, tmp_path / "first")
    return find_folders(tmp_path / "first")


def test_the_archive_has_the_same_files(decided, images, tmp_path):
    write_folder(decided, images, tmp_path / "out")
    with zipfile.ZipFile(io.BytesIO(zip_bytes(decided, images))) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert contents == {str(path.relative_to(tmp_path / "out")): path.read_bytes() for path in files}
    assert list(csv.DictReader(io.StringIO(contents["manifest.csv"].decode())))


def test_figures_count_what_is_decided(decided):
    found = figures(decided)
    overall = found.overall
    assert (overall.confirmed, overall.overturned, overall.unsure, overall.share) == (2, 2, 1, 0.5)
    assert [(each.group, each.share) for each in found.by_confidence] == [("high", 1.0), ("low", 1 / 3)]
    assert [(each.group, each.confirmed) for each in found.by_verdict] == [("deepfake", 1), ("real", 1)]
    assert [each.group for each in found.by_category] == ["animal"]
    assert [each.overturned for each in found.by_day] == [1, 1]


def test_intervals_are_wilsons(decided):
    # 2 of 4: Wilson's 95% interval as published calculators give it.
    low, high = figures(decided).overall.interval
    assert (round(low, 4), round(high, 4)) == (0.15, 0.85)


def test_no_decision_has_no_share(store):
    overall = figures(store).overall
    assert (overall.share, overall.interval) == (None, None)
