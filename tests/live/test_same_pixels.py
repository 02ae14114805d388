"""What says nothing about a picture moves no verdict: container, orientation, what stands beside it, repetition."""

import io
import json

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from PIL import Image

pytestmark = pytest.mark.live


def write(pixels, form, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def agree(verdicts):
    """Whether answers say the same, or none of those that differ is sure."""
    return len({v.verdict for v in verdicts}) == 1 or all(v.confidence == "low" for v in verdicts)


@pytest.mark.parametrize("quality", [60, 85, 95])
def test_the_same_pixels_in_another_container(detector, cat, coffee, astronaut, quality):
    for pixels in (cat, coffee, astronaut):
        jpeg = write(pixels, "JPEG", quality=quality)
        decoded = np.asarray(Image.open(io.BytesIO(jpeg)))
        verdicts = [
            detector.detect(data) for data in (jpeg, write(decoded, "PNG"), write(decoded, "WEBP", lossless=True))
        ]
        assert agree(verdicts)
        assert verdicts[1].fake_probability == pytest.approx(verdicts[2].fake_probability, abs=1e-3)
        logits = [np.log(v.fake_probability / (1 - v.fake_probability)) for v in verdicts]
        # Decoders differ a little and ELA is for JPEG alone: together they move less than the band is wide.
        assert np.ptp(logits) < 0.7


def test_a_picture_stored_turned_is_the_same_picture(detector, astronaut):
    pixels = np.ascontiguousarray(astronaut[:509, :507])
    verdicts = []
    turns = ((1, 0), (3, 2), (6, 1), (8, 3))  # EXIF orientation, quarter turns of the stored pixels
    for orientation, turned in ((tag, np.rot90(pixels, count)) for tag, count in turns):
        exif = Image.Exif()
        exif[274] = orientation
        verdicts.append(detector.detect(write(np.ascontiguousarray(turned), "JPEG", quality=90, exif=exif)))
    assert {(v.image.width, v.image.height) for v in verdicts} == {(507, 509)}
    assert agree(verdicts)


@pytest.mark.parametrize(
    ("make", "doubt"),
    [
        (lambda: write(np.full((400, 600, 3), 255, np.uint8), "PNG"), "little_to_see"),
        (lambda: write(np.zeros((1, 1, 3), np.uint8), "PNG"), "little_to_see"),
        (lambda: write(np.zeros((1, 3000, 3), np.uint8), "PNG"), "little_to_see"),
        (lambda: write(np.full((64, 64, 3), 128, np.uint8), "JPEG"), "little_to_see"),
    ],
)
def test_where_there_is_nothing_to_see_nothing_is_sure(detector, make, doubt):
    verdict = detector.detect(make())
    assert verdict.confidence == "low"
    assert doubt in verdict.doubts
    assert "nothing to see" in verdict.explanation


def test_an_animation_says_how_many_frames_it_has(detector, cat):
    frames = [Image.fromarray(np.roll(cat, i * 9, axis=1)) for i in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], duration=50)
    verdict = detector.detect(buffer.getvalue())
    assert verdict.image.frames == 3
    assert "animation" in verdict.doubts
    assert verdict.confidence == "low"


@pytest.mark.slow
def test_answers_are_the_same_to_the_last_digit_in_any_company(triton, encode, cat, astronaut, three_faces, coffee):
    images = [encode(p) for p in (cat, astronaut, three_faces, coffee)]

    def ask(batch):
        tensor = triton_grpc.InferInput("IMAGE", [len(batch), 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[data] for data in batch], dtype=np.object_))
        with triton_grpc.InferenceServerClient(triton.url) as client:
            answers = client.infer("detector", [tensor]).as_numpy("VERDICT").ravel()
        return [json.loads(a) for a in answers]

    alone = [ask([data])[0] for data in images]
    for batch in ([3, 2, 1, 0], [0, 0, 1, 1, 2, 2, 3], [2] * 9):
        for number, answer in zip(batch, ask([images[i] for i in batch]), strict=True):
            expected = alone[number]
            assert answer["fake_probability"] == expected["fake_probability"]
            assert answer["category"] == expected["category"]
            assert answer["faces"] == expected["faces"]
