"""The check of a backfill sees what it is for, and the small image tower is served like any other."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from veridict.deploy.manifest import read_manifest
from veridict.deploy.repository import check_repository
from veridict.export.pipeline import load_networks
from veridict.forensics import signature as sig
from veridict.loadtests.backfill import check_results, draw_archive, make_small_tower


@pytest.fixture
def rows(tmp_path):
    """An archive of four drawn images, and a right row for each."""
    draw_archive(tmp_path / "archive", 4, 32)
    paths = sorted((tmp_path / "archive").iterdir())
    rows = [(str(path), hashlib.sha256(path.read_bytes()).hexdigest(), "real") for path in paths]
    assert len({sha256 for _, sha256, _ in rows}) == 4
    return rows


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda rows: rows, {}),
        (lambda rows: rows[1:], {"rows": 3, "missing": 1}),
        (lambda rows: [*rows, rows[0]], {"rows": 5, "duplicates": 1}),
        (lambda rows: [*rows[1:], (rows[0][0], rows[1][1], "real")], {"of_another_file": 1}),
        (lambda rows: [*rows[1:], (*rows[0][:2], None)], {"without_verdict": 1}),
    ],
)
def test_the_check_counts_what_is_wrong(tmp_path, rows, change, wrong):
    names = ("source", "sha256", "verdict")
    (tmp_path / "output" / "results").mkdir(parents=True)
    table = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in change(rows)])
    pq.write_table(table, tmp_path / "output" / "results" / "part-00000000.parquet")
    right = {"images": 4, "rows": 4, "duplicates": 0, "missing": 0, "of_another_file": 0, "without_verdict": 0}
    assert check_results(tmp_path / "archive", tmp_path / "output") == {**right, **wrong}


def test_the_small_tower_belongs_to_a_repository_that_can_be_served(tmp_path):
    make_small_tower(tmp_path / "repository")
    check_repository(tmp_path / "repository", "cpu")
    tower = load_networks(read_manifest(tmp_path / "repository"), 1)[sig.CLIP_IMAGE.name]
    rng = np.random.default_rng(0)
    embeddings, tokens = tower(rng.integers(0, 256, (2, sig.CLIP_SIZE, sig.CLIP_SIZE, 3)).astype(np.uint8))
    assert (embeddings.shape, tokens.shape) == ((2, sig.EMBEDDING), (2, *sig.INTERMEDIATES))
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1.0, atol=1e-4)
