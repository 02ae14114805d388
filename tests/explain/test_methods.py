"""Every method on models whose explanation is known in closed form, and on the real network."""

import cv2
import numpy as np
import pytest
import torch

from veridict.explain.attribution import Attribution, Budget, Cancellation
from veridict.explain.errors import ExplainError
from veridict.explain.methods import METHODS, run_method
from veridict.explain.methods.background import background
from veridict.explain.methods.lime_superpixels import superpixels
from veridict.explain.models import Models
from veridict.explain.subject import Subject, read_subject
from veridict.export.bundled import FACE_WEIGHTS
from veridict.export.models.face_cnn import FaceCNN, load_face_cnn
from veridict.forensics.decode import decode_image
from veridict.forensics.faces import Box, crop_faces, crop_region, resize_view
from veridict.forensics.preprocess import prepare

from .known_models import Linear, OneFeature

pytestmark = pytest.mark.export

SMALL = Budget(steps=16, samples=40, seconds=60)
FACE_METHODS = [method.name for method in METHODS.values() if method.model == "face_cnn"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def subject(encode, astronaut):
    return read_subject(encode(astronaut, quality=92))


@pytest.fixture(scope="module")
def weights():
    return np.random.default_rng(3).normal(0, 1e-4, (224, 224, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def real():
    return load_face_cnn(FACE_WEIGHTS)


def scorer_of(module):
    def score(crops):
        with torch.inference_mode():
            return module(torch.from_numpy(crops))[:, 0].numpy()

    return score


def test_the_crop_region_is_what_the_pipeline_cuts(encode, astronaut):
    height, width = astronaut.shape[:2]
    boxes = [Box(176, 65, 96, 96), Box(0, 0, 90, 80), Box(430, 400, 80, 110), Box(10, 10, 500, 500)]
    crops = crop_faces(decode_image(encode(astronaut, "PNG")), boxes)
    for box, crop in zip(boxes, crops, strict=True):
        x, y, w, h = crop_region(width, height, box)
        assert np.array_equal(resize_view(astronaut[y : y + h, x : x + w], 224), crop)


def test_subjects_are_what_the_detector_saw(encode, astronaut):
    data = encode(np.repeat(np.repeat(astronaut, 4, axis=0), 4, axis=1))
    seen, subject = prepare(data), read_subject(data)
    assert tuple(subject.boxes) == seen.observation.boxes
    assert np.array_equal(subject.crop, seen.crops[0])
    assert np.array_equal(subject.view, seen.view)


def test_saliency_of_a_linear_model_is_its_weights(subject, weights):
    result = run_method("saliency", subject, Models(face=Linear(weights)), SMALL)
    assert np.allclose(result.values, np.abs(weights).max(axis=2), atol=1e-9)
    assert result.quality["sensitivity_max"] < 1e-6  # a linear model's gradient does not move
    assert result.kind == "strength"
    assert result.region == subject.face_region


@pytest.mark.parametrize("name", ["integrated_gradients", "clip_integrated_gradients", "tokens_integrated_gradients"])
def test_integrated_gradients_of_a_linear_model_are_w_times_the_difference(subject, weights, name):
    linear = Linear(weights)
    models = Models(face=linear, clip=linear, token_head=linear)
    result = run_method(name, subject, models, SMALL)
    pixels = (subject.crop if name == "integrated_gradients" else subject.view).astype(np.float64)
    expected = (weights * (pixels - pixels.mean(axis=(0, 1)))).sum(axis=2)
    assert np.allclose(result.values, expected, atol=1e-5)
    assert abs(result.quality["completeness_delta"]) < 1e-3
    assert result.quality["infidelity"] < 1e-3
    assert result.score == pytest.approx((weights * pixels).sum() + 1.0, abs=1e-3)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_integrated_gradients_are_complete_within_one_percent_on_the_real_network(encode, astronaut, real, step):
    # One per cent of a difference near zero cannot be reached: here image and baseline differ by over a logit.
    subject = read_subject(encode(np.ascontiguousarray(astronaut[::step, ::step]), quality=90))
    result = run_method("integrated_gradients", subject, Models(face=real), Budget())
    difference = result.quality["output_difference"]
    assert abs(difference) > 1.0
    assert abs(result.values.astype(np.float64).sum() - difference) <= 0.01 * abs(difference)
    assert result.quality["steps_used"] <= Budget().steps
    assert result.seconds < 60


def test_grad_cam_is_the_feature_map_times_its_mean_gradient(subject):
    result = run_method("grad_cam", subject, Models(face=OneFeature()), SMALL)
    gradient = 3.0 / (224 * 224)
    assert np.allclose(result.values, subject.crop[:, :, 0] * 0.01 * gradient, rtol=1e-3, atol=1e-9)


def test_shap_values_sum_to_the_output_difference_and_point_at_what_matters(subject):
    def score(crops):
        return (
            crops[:, 64:128, 64:128].astype(np.float32).mean(axis=(1, 2, 3)) / 10
            + crops[:, :, :, 0].std(axis=(1, 2)) / 50
        )

    result = run_method("shap", subject, Models(scorer=score), Budget(samples=200))
    total = result.quality["base_value"] + result.values.astype(np.float64).sum()
    assert total == pytest.approx(result.score, abs=1e-3)
    assert result.quality["additivity_error"] < 1e-6
    assert result.quality["scored"] <= 200 + 2
    y, x = np.unravel_index(np.abs(result.values).argmax(), result.values.shape)
    assert 48 <= y < 144
    assert 48 <= x < 144


def test_what_shap_hides_keeps_the_grain_elsewhere(subject):
    crop, hidden = subject.crop.astype(np.float32), background(subject.crop)
    here, there = (pixels - cv2.GaussianBlur(pixels, (0, 0), 2) for pixels in (crop, hidden))
    assert there.std() == pytest.approx(here.std(), rel=0.25)
    assert abs(np.corrcoef(here.ravel(), there.ravel())[0, 1]) < 0.2


def test_lime_recovers_a_planted_superpixel(subject):
    labels = superpixels(subject.crop)
    planted = int(np.bincount(labels.ravel()).argmax())
    mask = labels == planted

    def score(crops):
        return np.array([2.0 * (crop[mask] == subject.crop[mask]).mean() for crop in crops], np.float32)

    result = run_method("lime", subject, Models(scorer=score), Budget(samples=200))
    assert labels.flat[result.values.argmax()] == planted
    assert result.values[mask].mean() > 5 * np.abs(result.values[~mask]).max()
    assert result.quality["fidelity_r2"] > 0.95


@pytest.mark.parametrize("name", FACE_METHODS)
def test_randomised_weights_change_every_map(subject, real, name):
    """The sanity check of Adebayo et al. (2018): a map that survives randomising shows the image, not the model."""
    torch.manual_seed(11)
    random = FaceCNN().eval()
    maps = []
    for module in (real, random):
        result = run_method(name, subject, Models(face=module, scorer=scorer_of(module)), SMALL)
        maps.append(result.values.astype(np.float64).ravel())
    assert abs(np.corrcoef(*maps)[0, 1]) < 0.6


def test_forensic_maps_point_at_what_was_changed(encode, cat):
    clean = encode(cat, quality=75)
    pixels = np.array(read_subject(clean).image.pixels)
    rng = np.random.default_rng(0)
    pixels[96:160, 192:256] = np.clip(
        pixels[96:160, 192:256] + rng.normal(0, 12, (64, 64, 3)), 0, 255
    )  # a patch with another history
    subject = read_subject(encode(pixels, quality=95))
    for name in ("ela", "noise", "sharpness"):
        result = run_method(name, subject, Models(), SMALL)
        assert result.score is None
        assert result.values.shape == cat.shape[:2]
        inside = result.values[100:156, 196:252].mean()
        assert inside > 1.5 * np.median(result.values), name


def test_maps_of_large_images_stay_bounded(encode, astronaut):
    large = np.kron(astronaut[:100], np.ones((1, 4, 1), np.uint8))
    result = run_method("ela", read_subject(encode(large)), Models(), SMALL)
    assert max(result.values.shape) == 1024
    assert result.region == (0, 0, 2048, 100)


def test_what_does_not_apply_says_so(encode, coffee, subject):
    no_face = read_subject(encode(coffee, "PNG"))
    for name in FACE_METHODS:
        with pytest.raises(ExplainError) as caught:
            run_method(name, no_face, Models(face=OneFeature(), scorer=lambda x: np.zeros(len(x), np.float32)), SMALL)
        assert caught.value.code == "explain.no_face"
        assert caught.value.final
    with pytest.raises(ExplainError, match="never a JPEG"):
        run_method("ela", no_face, Models(), SMALL)
    with pytest.raises(ExplainError, match=r"image\.unsupported_format"):
        read_subject(b"no image")
    with pytest.raises(ExplainError, match="face 3 of 1"):
        run_method("saliency", Subject(subject.image, 3), Models(face=OneFeature()), SMALL)
    with pytest.raises(ExplainError, match="not valid"):
        read_subject(encode(coffee), -1)


@pytest.mark.parametrize(
    "name", ["saliency", "integrated_gradients", "shap", "lime", "clip_occlusion", "tokens_occlusion"]
)
def test_methods_stop_when_cancelled_or_over_budget(subject, name):
    calls = []
    token = Cancellation(60)

    class Stopper(OneFeature):
        def forward(self, pixels):
            calls.append(len(pixels))
            if len(calls) == 2:
                token.cancel()
            return super().forward(pixels)

    def score(crops):
        calls.append(len(crops))
        if len(calls) == 2:
            token.cancel()
        return crops[:, :, :, 0].mean(axis=(1, 2)).astype(np.float32)

    module = Stopper()
    models = Models(face=module, clip=module, token_head=module, scorer=score)
    with pytest.raises(ExplainError) as caught:
        run_method(name, subject, models, Budget(), token)
    assert caught.value.code == "explain.cancelled"
    assert len(calls) <= 3
    with pytest.raises(ExplainError) as caught:
        run_method(name, subject, models, Budget(), Cancellation(-1.0))
    assert caught.value.code == "explain.over_budget"


def test_a_failing_model_is_an_error_with_a_code(subject):
    def broken(crops):
        raise RuntimeError("secret path /x")

    with pytest.raises(ExplainError) as caught:
        run_method("lime", subject, Models(scorer=broken), SMALL)
    assert caught.value.code == "explain.internal"
    assert "secret" not in str(caught.value)


def test_attributions_are_finite_maps_and_survive_json(subject, weights):
    result = run_method("saliency", subject, Models(face=Linear(weights)), SMALL)
    again = Attribution.from_document(result.document(), result.values)
    assert again.document() == result.document()
    with pytest.raises(ExplainError):
        Attribution.from_document({"method": "saliency"}, result.values)
    with pytest.raises(ExplainError):
        Attribution(**{**vars(result), "values": np.full((2, 2), np.nan, np.float32)})
