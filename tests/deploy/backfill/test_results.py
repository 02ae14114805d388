"""The files of results: one row per image, and facts that are believed only where they fit the plan."""

import io
import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from veridict.client import Verdict
from veridict.deploy.backfill.results import (
    COLUMNS,
    Failure,
    Judged,
    Totals,
    encode_part,
    part_name,
    read_facts,
    stored_facts,
)
from veridict.deploy.backfill.storage import Folder

from .conftest import MODELS, make_verdict


@pytest.fixture
def judged():
    return [
        Judged(4, "/a.jpg", "ab" * 32, 3, make_verdict(b"abc")),
        Judged(5, "/b.jpg", None, None, Failure("read.not_found", "there is no such file")),
        Judged(6, "/c.jpg", "cd" * 32, 3, make_verdict(b"abd")),
        Judged(7, "/d.jpg", "ef" * 32, 0, Failure("image.empty", "the image has no bytes")),
    ]


def test_rows_hold_the_verdict_or_the_error(plan, judged):
    data, facts = encode_part(plan, 1, judged)
    table = pq.read_table(io.BytesIO(data))
    assert table.schema.equals(COLUMNS)
    good, missing, _, empty = table.to_pylist()
    verdict = judged[0].outcome
    assert (good["index"], good["source"], good["sha256"], good["bytes"]) == (4, "/a.jpg", "ab" * 32, 3)
    assert (good["verdict"], good["fake_probability"]) == (verdict.verdict, verdict.fake_probability)
    assert (good["category"], good["models"], good["error_code"]) == ("animal", vars(MODELS), None)
    assert Verdict.from_json(good["document"]) == verdict
    assert (missing["verdict"], missing["document"], missing["models"], missing["sha256"]) == (None,) * 4
    assert (missing["error_code"], missing["error_message"]) == ("read.not_found", "there is no such file")
    assert (empty["error_code"], empty["bytes"]) == ("image.empty", 0)
    assert (facts.images, sum(facts.verdicts.values())) == (4, 2)
    assert facts.errors == {"read.not_found": 1, "image.empty": 1}


def test_a_stored_chunk_is_found_by_its_footer(output, plan, judged):
    folder = Folder(output)
    assert stored_facts(folder, plan, 1) is None
    data, facts = encode_part(plan, 1, judged)
    folder.write(part_name(1), data)
    assert stored_facts(folder, plan, 1) == facts
    assert json.loads(facts.to_json())["chunk"] == 1


def test_files_that_are_damaged_or_of_another_plan_do_not_count(output, plan, judged):
    folder = Folder(output)
    data, _ = encode_part(plan, 1, judged)
    other, _ = encode_part(replace(plan, column="other"), 1, judged)
    short, _ = encode_part(plan, 1, judged[:3])
    for content in (data[:-20], b"", b"PAR1", other, short):
        folder.write(part_name(1), content)
        assert stored_facts(folder, plan, 1) is None
    folder.write(part_name(2), data)  # under the name of another chunk
    assert stored_facts(folder, plan, 2) is None


def test_a_parquet_file_of_something_else_has_no_facts(output, plan):
    with Folder(output).open("images.parquet") as stream:
        assert read_facts(stream) is None


def test_each_chunk_counts_once(plan, judged):
    _, facts = encode_part(plan, 1, judged)
    totals = Totals.of([facts, facts])
    assert (totals.images, totals.errors.total(), totals.chunks) == (4, 2, {1})
