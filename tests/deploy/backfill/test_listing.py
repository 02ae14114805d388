"""Which images a backfill finds."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from veridict.deploy.backfill.listing import find_sources
from veridict.deploy.backfill.storage import BackfillError


def write_list(path, values, column="path"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({column: values, "other": [0] * len(values)}), path)
    return str(path)


def test_a_folder_is_searched_and_every_image_named_once_in_order(archive):
    (archive / "deep").mkdir()
    (archive / "deep" / "x.PNG").write_bytes(b"x")
    (archive / "deep" / "._x.PNG").write_bytes(b"metadata of macOS")
    (archive / "notes.txt").write_text("no image")
    found = find_sources([str(archive), str(archive / "00.jpg")], "path")
    assert found == [*(str(archive / f"{n:02d}.jpg") for n in range(10)), str(archive / "deep" / "x.PNG")]
    assert find_sources([str(archive)], "path", limit=3) == found[:3]


def test_a_file_that_is_named_is_taken_whatever_its_suffix(tmp_path):
    (tmp_path / "upload").write_bytes(b"x")
    assert find_sources([str(tmp_path / "upload")], "path") == [str(tmp_path / "upload")]


def test_a_list_names_images_relative_to_itself_absolutely_and_by_url(tmp_path):
    names = write_list(
        tmp_path / "lists" / "a.parquet", ["one.jpg", "/two.jpg", "s3://bucket/three", "one.jpg"], "file"
    )
    wanted = ["/two.jpg", "s3://bucket/three", str(tmp_path / "lists" / "one.jpg")]
    assert find_sources([names], "file") == sorted(wanted)


def test_a_list_may_be_a_folder_of_files(tmp_path):
    folder = tmp_path / "all.parquet"
    write_list(folder / "part-0.parquet", ["/a.jpg"])
    write_list(folder / "part-1.parquet", ["/b.jpg"])
    (folder / "_SUCCESS").touch()
    assert find_sources([str(folder)], "path") == ["/a.jpg", "/b.jpg"]


def test_object_storage_is_searched_and_lists_are_read_from_it(bucket, tmp_path):
    for key in ("in/b.jpg", "in/deep/a.webp", "in/notes.txt"):
        bucket.put_object(Key=key, Body=b"x")
    bucket.upload_file(write_list(tmp_path / "l.parquet", ["in/b.jpg", "other.jpg"]), "lists.parquet")
    url = f"s3://{bucket.name}"
    assert find_sources([f"{url}/in"], "path") == [f"{url}/in/b.jpg", f"{url}/in/deep/a.webp"]
    assert find_sources([f"{url}/lists.parquet"], "path") == [f"{url}/in/b.jpg", f"{url}/other.jpg"]


def test_a_name_that_is_no_utf8_is_listed_escaped(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    assert find_sources([str(tmp_path)], "path") == [str(tmp_path / "caf\\xe9.jpg")]


@pytest.mark.parametrize(
    ("values", "column", "message"),
    [
        (["a.jpg"], "url", "no column 'url'; its columns are: path, other"),
        (["a.jpg", None], "path", "row 1 of the column 'path' names no image: None"),
        ([1, 2], "path", "row 0 of the column 'path' names no image: 1"),
    ],
)
def test_a_list_that_cannot_be_used_is_explained(tmp_path, values, column, message):
    with pytest.raises(BackfillError, match=message):
        find_sources([write_list(tmp_path / "list.parquet", values)], column)


def test_inputs_that_cannot_be_used_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").touch()
    (tmp_path / "damaged.parquet").write_bytes(b"no parquet")
    remote = write_list(tmp_path / "remote.parquet", ["nowhere://a.jpg"])
    for name, message in [
        ("missing", "no such file or folder: .*missing"),
        ("empty", "no such file or folder: .*empty"),
        ("text", "no image in .*text"),
        ("damaged.parquet", "cannot read .*damaged.parquet: Arrow"),
        (remote, "nowhere://: Protocol not known"),
    ]:
        with pytest.raises(BackfillError, match=message):
            find_sources([str(tmp_path / name)], "path")
