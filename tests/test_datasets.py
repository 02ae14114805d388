"""The bundled models on the images beside the checkout; skipped where there are none."""

import json

import numpy as np
import pytest

from veridict.deploy.command import main
from veridict.deploy.manifest import default_repository
from veridict.export.datasets import find_folders, read_categorised
from veridict.export.evaluate.summary import Judged, summarise
from veridict.export.pipeline import InProcessDetector
from veridict.export.prompts import read_kinds
from veridict.forensics import signature as sig

pytestmark = [pytest.mark.datasets, pytest.mark.slow]


def test_face_scores_rank_held_out_fakes_above_real_faces(datasets, networks):
    """The face signal alone: CLIP, most of the time of a verdict, answers the same for every image here."""
    blank = np.zeros((1, sig.CLIP_SIZE, sig.CLIP_SIZE, 3), np.uint8)
    embedding, tokens = networks[sig.CLIP_IMAGE.name](blank)

    def same_for_all(views):
        return np.repeat(embedding, len(views), axis=0), np.repeat(tokens, len(views), axis=0)

    detector = InProcessDetector(default_repository(), networks={**networks, sig.CLIP_IMAGE.name: same_for_all})
    samples = [s for s in find_folders(datasets / "faces") if s.split in ("val", "")]
    of_kind = {(s.source, s.label): [x for x in samples if (x.source, x.label) == (s.source, s.label)] for s in samples}
    chosen = [sample for kind in of_kind.values() for sample in kind[:60]]
    batches = [chosen[start : start + 16] for start in range(0, len(chosen), 16)]
    verdicts = [v for batch in batches for v in detector.detect([s.path.read_bytes() for s in batch])]
    report = summarise([Judged(sample, verdict) for sample, verdict in zip(chosen, verdicts, strict=True)])
    for source in ("gan_ffhq", "swap_dfdc"):
        assert report[source]["count"] == 120
        low, _ = report[source]["signals"]["face"]["interval"]
        assert low > 0.5, f"{source}: no better than chance"


def test_natural_photographs_are_called_real(datasets, capsys):
    folder = str(datasets / "general" / "natural_real")
    assert main(["evaluate", "--json", "--data", folder]) == 0
    report = json.loads(capsys.readouterr().out)["tiers"]["clean"]
    assert report["all"]["real_accuracy"] >= 0.9


def test_held_out_pictures_get_their_category(datasets, networks):
    rows = [
        s for s in read_categorised(datasets / "manifest.csv", read_kinds()) if s.source == "scenes/nextcloud_shots"
    ]
    chosen = rows[:32]
    detector = InProcessDetector(default_repository(), networks=networks)
    verdicts = detector.detect([s.path.read_bytes() for s in chosen])
    hits = sum(v.category.label == s.category for v, s in zip(verdicts, chosen, strict=True))
    assert hits / len(chosen) >= 0.7
