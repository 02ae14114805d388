"""The bundled models on the images beside the checkout; skipped where there are none."""

import json

import pytest

from veridict.deploy.command import main

pytestmark = pytest.mark.datasets


def evaluate(capsys, *arguments):
    assert main(["evaluate", "--json", *map(str, arguments)]) == 0
    return json.loads(capsys.readouterr().out)["tiers"]["clean"]


def test_face_scores_rank_held_out_fakes_above_real_faces(datasets, capsys):
    report = evaluate(capsys, "--data", datasets / "faces", "--split", "val", "--limit", 60)
    for source in ("gan_ffhq", "swap_dfdc"):
        low, _ = report[source]["signals"]["face"]["interval"]
        assert low > 0.5, f"{source}: no better than chance"


def test_natural_photographs_are_called_real(datasets, capsys):
    report = evaluate(capsys, "--data", datasets / "general" / "natural_real")
    assert report["all"]["real_accuracy"] >= 0.9


def test_held_out_pictures_get_their_category(datasets):
    from veridict.deploy.repository import default_repository
    from veridict.export.datasets import read_manifest
    from veridict.export.pipeline import InProcessDetector
    from veridict.export.prompts import read_kinds

    rows = [s for s in read_manifest(datasets / "manifest.csv", read_kinds()) if s.source == "scenes/nextcloud_shots"]
    chosen = rows[:32]
    verdicts = InProcessDetector(default_repository()).detect([s.path.read_bytes() for s in chosen])
    hits = sum(v.category.label == s.category for v, s in zip(verdicts, chosen, strict=True))
    assert hits / len(chosen) >= 0.7
