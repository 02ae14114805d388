"""Head, fusion and confidence as they are fitted, and the figures they are measured by: on numbers made here."""

import io
import math

import numpy as np
import pytest

from veridict.export.calibrate.observations import degrade_file, pack, unpack
from veridict.export.calibrate.out_of_fold import family_folds
from veridict.export.calibrate.token_head import (
    HeadSettings,
    Tokens,
    fit_head,
    save_head,
    score_rows,
    source_weights,
)
from veridict.export.evaluate.figures import ImageOutcome, figures, format_report, generator_family, report_outcomes
from veridict.forensics.contract import ImageFacts
from veridict.forensics.decode import decode_image
from veridict.forensics.observation import Measurement, Observation
from veridict.forensics.token_head import load_token_head, unit_rows

pytestmark = pytest.mark.export


def make_tokens(count=240, blocks=3, width=16, seed=0):
    """Unit-length tokens in two qualities; fakes lean along one direction in the second block."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    rows = rng.normal(size=(count, 2, blocks, width))
    rows[:, :, 1, 0] += np.where(labels, 4.0, -4.0)[:, None]
    rows[..., 5] += 6.0  # what all pictures share, as CLIP's do
    sources = tuple(f"s{i % 12}" for i in range(count))
    return Tokens(unit_rows(rows).astype(np.float16), labels, sources, tuple(f"f{i % 6}" for i in range(count)))


def take(data, images):
    """Return some images."""
    return Tokens(
        data.views[images], data.labels[images], *(tuple(np.array(x)[images]) for x in (data.sources, data.families))
    )


class TestHead:
    def test_what_is_read_is_what_was_fitted(self, tmp_path):
        data = make_tokens()
        fitted = fit_head(data, HeadSettings(components=40, landmarks=100)).head
        save_head(tmp_path / "head.safetensors", fitted, {"note": "test"})
        head = load_token_head(tmp_path / "head.safetensors")
        assert head.components.shape == (40, 48)
        assert head.landmarks.shape == (100, 40)
        scores = score_rows(fitted, data.views[:, 0])
        served = [head.read(tokens * 7.0)[0] for tokens in data.views[:, 0].astype(np.float32)]  # length says nothing
        assert np.abs(scores - served).max() < 1e-4
        assert np.mean((scores > 0) == data.labels.astype(bool)) > 0.9
        assert np.mean([head.read(tokens)[1] for tokens in data.views[:, 1]]) == pytest.approx(1.0, abs=0.05)
        assert head.read(-data.views[0, 0])[1] > 5

    def test_it_learns_what_no_line_separates(self):
        """Fakes are those whose two features have the same sign: every linear score of them is as good as chance."""
        rng = np.random.default_rng(0)
        rows = rng.normal(size=(600, 1, 1, 4)) * [1.0, 1.0, 0.05, 0.05] + [0, 0, 0, 4.0]
        labels = (rows[:, 0, 0, 0] * rows[:, 0, 0, 1] > 0).astype(np.int64)
        sources = tuple(f"s{i % 10}" for i in range(600))
        data = Tokens(unit_rows(rows).astype(np.float16), labels, sources, sources)
        head = fit_head(take(data, np.arange(400)), HeadSettings(components=4)).head
        assert np.mean((score_rows(head, data.views[400:, 0]) > 0) == labels[400:].astype(bool)) > 0.9

    def test_there_are_no_more_landmarks_than_images(self):
        data = make_tokens(40)
        assert len(fit_head(data, HeadSettings(landmarks=30)).head.landmarks) == 30
        assert len(fit_head(data, HeadSettings(landmarks=1000)).head.landmarks) == 40

    def test_coinciding_images_do_no_harm(self):
        data = make_tokens(60)
        twice = take(data, np.concatenate([np.arange(60), np.arange(60)]))
        scores = score_rows(fit_head(twice).head, data.views[:, 0])
        assert np.isfinite(scores).all()
        assert np.mean((scores > 0) == data.labels.astype(bool)) > 0.9

    def test_the_fit_is_deterministic(self):
        data = make_tokens(120)
        a, b, c = (fit_head(data, HeadSettings(landmarks=50), seed).head for seed in (1, 1, 2))
        assert np.array_equal(a.weights, b.weights)
        assert not np.array_equal(a.landmarks, c.landmarks)

    def test_families_stay_on_one_side(self):
        data = make_tokens()
        folds = family_folds(data.families, 3)
        assert set(folds) == {0, 1, 2}
        of_family: dict[str, set[int]] = {}
        for family, fold in zip(data.families, folds.tolist(), strict=True):
            of_family.setdefault(family, set()).add(fold)
        assert all(len(own) == 1 for own in of_family.values())
        with pytest.raises(ValueError, match="n_splits"):
            family_folds(["one"] * 9)

    def test_a_source_counts_by_the_root_of_its_size_and_classes_alike(self):
        labels = np.array([0] * 16 + [0] * 4 + [1] * 9)
        weights = source_weights(labels, ["big"] * 16 + ["small"] * 4 + ["fake"] * 9)
        assert weights[:16].sum() == pytest.approx(2 * weights[16:20].sum())
        assert weights[labels == 0].sum() == pytest.approx(weights[labels == 1].sum())


class TestFigures:
    def test_known_outcomes(self):
        made = [
            ImageOutcome(label, p, p >= 0.5, sure, "clean", source, generator=generator, kind="photograph")
            for label, p, sure, source, generator in [
                (0, 0.1, True, "wild/a", "photograph"),
                (0, 0.6, False, "wild/a", "photograph"),
                (1, 0.9, True, "wild/b", "FLUX.1-dev"),
                (1, 0.4, True, "faces/x", "StyleGAN2"),
            ]
        ]
        found = figures(made)
        assert (found["accuracy"], found["real_accuracy"], found["recall"]) == (0.5, 0.5, 0.5)
        assert (found["high"], found["high_accuracy"]) == (0.75, pytest.approx(0.6667))
        assert found["roc_auc"] == 0.75
        report = report_outcomes([o for o in made for _ in range(12)])
        assert set(report["summary"]["clean"]) == {"all", "set wild", "set faces/x", "kind photograph"}
        assert report["generators"]["FLUX"]["clean"] == {"fakes": 12, "roc_auc": 1.0, "recall": 1.0}
        assert report["generators"]["StyleGAN"]["clean"]["roc_auc"] == 0.5
        text = format_report(report)
        assert "| clean | all | 48 | 0.750" in text
        assert text.index("| StyleGAN | 12 | 0.500") < text.index("| FLUX | 12 | 1.000")
        assert figures(made[:2])["roc_auc"] is None

    @pytest.mark.parametrize(
        ("name", "family"),
        [
            ("StyleGAN2 (thispersondoesnotexist.com faces)", "StyleGAN"),
            ("Stable Diffusion 1.4, plain", "Stable Diffusion 1 and 2"),
            ("stabilityai/stable-diffusion-3.5-medium", "Stable Diffusion 3"),
            ("SDXL 1.0 (base+refiner)", "SDXL"),
            ("gpt-image-2", "GPT image"),
            ("Nano Banana Pro", "Gemini, Nano Banana"),
            ("nobody says", "other or not named"),
        ],
    )
    def test_generators_have_families(self, name, family):
        assert generator_family(name) == family


class TestObservations:
    def test_what_is_kept_is_what_was_seen(self):
        rng = np.random.default_rng(0)
        seen = [
            Observation(
                image=ImageFacts("ab" * 32, "PNG", 64 + i, 80, 1234, 1 + i),
                measurements={
                    "ela": Measurement(None, "not kept"),
                    "blur": Measurement(2.5),
                    "noise": Measurement(1.0),
                },
                embedding=rng.normal(size=8).astype(np.float16).astype(np.float32),
                boxes=tuple((1, 2, 30, 40 + n) for n in range(i)),
                face_logits=tuple(0.5 * n for n in range(i)),
                class_tokens=rng.normal(size=(2, 8)).astype(np.float16),
                faces_found=i + 2,
                tone=12.5,
            )
            for i in range(3)
        ]
        again = unpack(pack(seen))
        for a, b in zip(seen, again, strict=True):
            assert np.array_equal(a.embedding, b.embedding)
            assert np.array_equal(a.class_tokens, b.class_tokens)
            for name in ("image", "measurements", "boxes", "face_logits", "faces_found", "tone"):
                assert getattr(a, name) == getattr(b, name)

    def test_degraded_copies_are_drawn_by_their_seed(self, encode, cat):
        data = encode(cat)
        copies = [degrade_file(data, seed) for seed in range(24)]
        assert copies[3] == degrade_file(data, 3)
        decoded = [decode_image(copy) for copy in copies]
        assert {d.format for d in decoded} == {"JPEG", "WEBP"}
        assert min(max(d.width, d.height) for d in decoded) < max(cat.shape) * 0.7
        assert len({io.BytesIO(c).getbuffer().nbytes for c in copies}) == len(copies)
        assert all(math.isclose(d.width / d.height, cat.shape[1] / cat.shape[0], rel_tol=0.05) for d in decoded)
