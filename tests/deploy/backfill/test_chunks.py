"""One chunk: one result per image whatever happens, stored completely or not at all."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from veridict.deploy.backfill.chunks import ChunkWorker, Task
from veridict.deploy.backfill.plan import Request, open_plan
from veridict.deploy.backfill.results import PartFacts, part_name
from veridict.deploy.backfill.run import find_stored, pending_tasks
from veridict.deploy.backfill.storage import BackfillError, Folder

from .conftest import MODELS, StubJudge


@pytest.fixture
def judge():
    return StubJudge()


@pytest.fixture
def worker(output, plan, judge):
    worker = ChunkWorker(output, plan, judge)
    yield worker
    worker.close()


def rows(output, chunk=None):
    names = [Path(output) / part_name(chunk)] if chunk is not None else sorted(Path(output, "results").glob("*"))
    return [row for name in names for row in pq.read_table(name).to_pylist()]


def test_every_image_has_one_row_in_order(archive, output, plan, worker, judge):
    (archive / "05.jpg").unlink()
    facts = [worker.judge_chunk(Task(chunk)) for chunk in range(plan.chunks)]
    found = rows(output)
    assert [row["index"] for row in found] == list(range(10))
    assert [row["source"] for row in found] == [str(archive / f"{number:02d}.jpg") for number in range(10)]
    errors = {row["index"]: row["error_code"] for row in found if row["error_code"]}
    assert errors == {2: "image.corrupt", 5: "read.not_found"}
    assert all((row["verdict"] is None) == (row["index"] in errors) for row in found)
    assert found[7]["sha256"] == hashlib.sha256(b"image 7").hexdigest()
    assert found[7]["document"]
    assert found[7]["sha256"] in found[7]["document"]
    assert [each.images for each in facts] == [4, 4, 2]
    assert len(judge.asked) == 9


def test_a_stored_chunk_is_not_judged_again_unless_asked(output, worker, judge):
    first = worker.judge_chunk(Task(0))
    assert worker.judge_chunk(Task(0)) == first
    assert len(judge.asked) == 4
    worker.judge_chunk(Task(0, again=True))
    assert len(judge.asked) == 8
    assert len(rows(output)) == 4


def test_files_that_cannot_be_read_are_rows(archive, output, plan, worker):
    for number in range(3):
        (archive / f"{number:02d}.jpg").unlink()
    (archive / "00.jpg").mkdir()
    (archive / "01.jpg").write_bytes(bytes(20 * 1024 * 1024 + 1))
    (archive / "02.jpg").symlink_to("/dev/zero")
    worker.judge_chunk(Task(0))
    codes = [row["error_code"] for row in rows(output, 0)]
    assert codes == ["read.failed", "image.too_large", "read.failed", None]


def test_a_service_that_is_away_stores_nothing_and_ends_the_run(output, plan, judge, worker):
    judge.away = True
    answer = worker({"chunk": 1, "again": False})
    assert (answer["chunk"], answer["facts"]) == (1, "")
    assert "the last error: away" in answer["problem"]
    assert find_stored(Folder(output), plan).parts == {}
    judge.away = False
    answer = worker({"chunk": 1, "again": False})
    assert (PartFacts.from_json(answer["facts"]).images, answer["problem"]) == (4, "")


def test_other_models_than_planned_end_the_run(output, plan, judge, worker):
    judge.versions = replace(MODELS, face_cnn="new")
    with pytest.raises(BackfillError, match="the models have changed"):
        worker.judge_chunk(Task(0))
    assert rows(output) == []


def test_a_resumed_run_judges_what_is_missing_or_damaged(output, plan, worker):
    folder = Folder(output)
    for chunk in range(plan.chunks):
        worker.judge_chunk(Task(chunk))
    Path(output, part_name(1)).write_bytes(b"damaged")
    Path(output, part_name(2)).rename(Path(output, "results", ".part-00000002.parquet.partial-00000000"))
    stored = find_stored(folder, plan)
    assert (sorted(stored.parts), stored.damaged) == ([0], 1)
    assert pending_tasks(plan, stored, retry_errors=False) == [Task(1), Task(2)]
    folder.remove_partial("results")
    assert sorted(path.name for path in Path(output, "results").iterdir()) == [
        "part-00000000.parquet",
        "part-00000001.parquet",
    ]


def test_only_errors_that_may_go_away_are_tried_again(archive, output, plan, worker):
    (archive / "05.jpg").unlink()
    for chunk in range(plan.chunks):
        worker.judge_chunk(Task(chunk))
    stored = find_stored(Folder(output), plan)
    assert pending_tasks(plan, stored, retry_errors=False) == []
    assert pending_tasks(plan, stored, retry_errors=True) == [Task(1, again=True)]  # not chunk 0 with image.corrupt


def test_images_and_results_in_object_storage(bucket, judge):
    for number in range(5):
        bucket.put_object(Key=f"in/{number}.jpg", Body=b"image %d" % number)
    bucket.put_object(Key="in/1.jpg", Body=b"")
    url = f"s3://{bucket.name}"
    plan, _ = open_plan(Folder(f"{url}/out"), Request((f"{url}/in",), chunk=2), MODELS)
    bucket.Object("in/3.jpg").delete()
    worker = ChunkWorker(f"{url}/out", plan, judge)
    for chunk in range(plan.chunks):
        worker.judge_chunk(Task(chunk))
    worker.close()
    folder = Folder(f"{url}/out")
    assert sorted(find_stored(folder, plan).parts) == [0, 1, 2]
    found = []
    for name in folder.names("results"):
        with folder.open(f"results/{name}") as stream:
            found += pq.read_table(stream).to_pylist()
    assert [row["index"] for row in found] == list(range(5))
    assert {row["index"]: row["error_code"] for row in found if row["error_code"]} == {3: "read.not_found"}
    assert found[1]["bytes"] == 0


def test_an_output_that_takes_nothing_is_explained(archive, tmp_path):
    (tmp_path / "file").write_bytes(b"no folder")
    with pytest.raises(BackfillError, match=r"cannot read plan.json in .*file: NotADirectoryError"):
        open_plan(Folder(str(tmp_path / "file")), Request((str(archive),)), MODELS)
