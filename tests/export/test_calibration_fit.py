"""Fusion, thresholds and confidence as they are fitted, on numbers made here."""

from dataclasses import replace

import numpy as np
import pytest

from veridict.export.calibrate.confidence import HIGH_ACCURACY, PROMISED, choose_bands, choose_undecided_face
from veridict.export.calibrate.data import draw_head_only
from veridict.export.calibrate.document import kind_of_category
from veridict.export.calibrate.fitting import (
    FORENSIC_CAP,
    REAL_ACCURACY,
    SUSPECT_LOGIT,
    Table,
    choose_thresholds,
    fit_fusion,
)
from veridict.export.calibrate.out_of_fold import outcomes, without_head_only
from veridict.export.datasets import Sample
from veridict.forensics.calibration import GENERAL
from veridict.forensics.logits import sigmoid, to_logit

pytestmark = pytest.mark.export


def make_table(count=3000, seed=0, tiers=("clean", "web")):
    """Rows whose token logit tells real from fake, with noise; ELA on half of them, faces on a third."""
    rng = np.random.default_rng(seed)
    values, labels, kinds = [], [], []
    for _ in range(count):
        label = int(rng.random() < 0.5)
        row = {"clip": rng.normal(), "tokens": rng.normal(3.0 * label - 1.5, 1.5), "blur": rng.uniform(-1, 1)}
        if rng.random() < 0.5:
            row["ela"] = rng.uniform(-1, 1)
        if rng.random() < 0.33:
            row["face"] = rng.normal(4.0 * label - 2.0, 2.0)
        values.append(row)
        labels.append(label)
        close = "face" in row and rng.random() < 0.5
        close_up = "suspect close-up" if row.get("face", 0.0) > SUSPECT_LOGIT else "close-up"
        kinds.append(close_up if close else str(rng.choice(["photograph", "artwork"])))
    rows = range(count)
    return Table(
        values=tuple(values),
        labels=np.array(labels),
        images=np.arange(count),
        sources=tuple(f"s{i % 40}" for i in rows),
        families=tuple(f"f{i % 20}" for i in rows),
        tiers=tuple(tiers[i % len(tiers)] for i in rows),
        kinds=tuple(kinds),
        splits=tuple("train" if i % 2 else "val" for i in rows),
        generators=("FLUX.1",) * count,
    )


class TestFusion:
    @pytest.fixture(scope="class")
    @staticmethod
    def fitted():
        table = make_table()
        fusion = fit_fusion(table)
        logits = fusion.logits(table)
        fusion = choose_thresholds(fusion, table, logits)
        return table, fusion, logits, choose_bands(fusion, table, logits, ["document"])

    def test_real_pictures_pass_in_every_tier(self, fitted):
        table, fusion, logits, _ = fitted
        passed = logits < fusion.thresholds(table)
        for tier in ("clean", "web"):
            for regime, share in REAL_ACCURACY.items():
                rows = (table.labels == 0) & (np.array(table.tiers) == tier) & table.rows_of(regime)
                assert rows.sum() > 10
                assert passed[rows].mean() >= share - 0.02 - 1 / rows.sum()

    def test_answers_outside_the_band_are_right(self, fitted):
        table, _, logits, bands = fitted
        assert set(bands) == {"close-up", "suspect close-up", "other", "photograph", "artwork", "document"}
        assert bands["document"] == bands["other"], "a kind nobody has seen gets the band of all"
        for side in (0, 1):
            sure = [
                int(table.labels[i]) == side
                for i, logit in enumerate(logits)
                if (logit > to_logit(bands[table.kinds[i]][1]) if side else logit < to_logit(bands[table.kinds[i]][0]))
            ]
            assert len(sure) > 100
            assert np.mean(sure) >= HIGH_ACCURACY - 0.01

    def test_forensic_terms_move_no_answer_that_is_sure(self, fitted):
        _, fusion, _, bands = fitted
        for kind in ("close-up", "suspect close-up", "artwork"):
            decision = fusion.decide(kind)
            assert decision.forensic_cap <= FORENSIC_CAP
            center = to_logit(decision.threshold)
            assert to_logit(bands[kind][0]) <= center - 2 * decision.forensic_cap + 1e-9
            assert to_logit(bands[kind][1]) >= center + 2 * decision.forensic_cap - 1e-9

    def test_what_is_absent_counts_as_nothing(self, fitted):
        _, fusion, _, _ = fitted
        values = {"tokens": 1.0, "blur": 0.2}
        general = fusion.regimes[GENERAL]
        assert set(general.weigh(values, FORENSIC_CAP)) == set(values)
        center = general.terms["ela"].center
        assert general.weigh({**values, "ela": center}, FORENSIC_CAP)["ela"] == pytest.approx(0.0)

    def test_a_term_is_left_out_of_a_split(self):
        table = make_table(20).without("clip", "train")
        assert all(("clip" in row) == (split == "val") for row, split in zip(table.values, table.splits, strict=True))

    def test_pictures_that_teach_the_head_alone_are_in_no_figure(self):
        table = make_table(40)
        kept, fold = without_head_only(table, np.arange(40), ("s1",))
        gone = [i for i in range(40) if table.splits[i] == "train" and table.sources[i].startswith("s1")]
        assert gone
        assert set(fold) == set(range(40)) - set(gone)
        assert len(kept.values) == len(fold)
        samples = [Sample(f"{i}", ("real", "fake")[i % 2], "faces/a", "train") for i in range(50)]
        samples.append(Sample("v", "real", "faces/a", "val"))
        drawn = draw_head_only(samples, ("faces/",), 5, 0)
        assert len(drawn) == 11
        assert drawn[-1].split == "val"
        assert draw_head_only(samples, (), 5, 0) == samples

    def test_every_category_has_a_kind(self):
        assert set(kind_of_category().values()) == {"photograph", "artwork", "document"}

    def test_real_is_not_said_with_confidence_where_undecided_faces_make_it_wrong(self, fitted):
        table, fusion, logits, bands = fitted
        # From a logit of -1 on, every seventh face belongs to a fake that all other signals call real.
        values = tuple({**row, "face": -3.0 + 5.0 * i / len(table.values)} for i, row in enumerate(table.values))
        turned = np.zeros_like(table.labels)
        turned[[i for i, row in enumerate(values) if row["face"] > -1.0][::7]] = 1
        table = replace(table, values=values, labels=turned, kinds=("photograph",) * len(values))
        logits = np.full(len(values), to_logit(bands["photograph"][0]) - 1.0)
        bound = choose_undecided_face(bands, table, logits)
        right = [label == 0 for row, label in zip(values, turned, strict=True) if sigmoid(row["face"]) >= bound]
        assert sigmoid(-2.4) < bound < sigmoid(-2.1)
        assert 0.895 < np.mean(right) < PROMISED
        found = outcomes(fusion, bands, bound, table, logits)
        assert [o.sure for o in found] == [sigmoid(row["face"]) < bound for row in values]
        calm = replace(table, labels=np.zeros_like(turned))
        assert choose_undecided_face(bands, calm, logits) == 1.0
        alone = replace(calm, values=tuple({"tokens": 0.0} for _ in values))
        assert choose_undecided_face(bands, alone, logits) == 1.0
        assert all(o.sure for o in outcomes(fusion, bands, 0.0001, alone, logits))
