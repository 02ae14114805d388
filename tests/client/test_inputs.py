"""Every input becomes the bytes that give the verdict of its file, or an InputError; nothing else escapes."""

import io
import json
import os
import threading
import time

import numpy as np
import pytest
from PIL import Image, ImageOps

from veridict.client import Answer, ClientConfig, DeadlineError, DetectorClient, InputError
from veridict.client.cli_detect import find_images
from veridict.forensics.decode import decode_image


class Refusing:
    """A transport that keeps what it gets and answers nothing that is a verdict."""

    def __init__(self):
        self.sent = []

    def infer(self, data, request_id, timeout, headers):
        self.sent.append(data)
        return Answer(json.dumps({"schema": "other"}).encode())

    def ready(self, timeout):
        return True

    def close(self):
        pass


def make(**settings):
    transport = Refusing()
    return DetectorClient(config=ClientConfig(**settings), transport=transport), transport


def sent(*images):
    client, transport = make(concurrency=1)
    results = list(client.detect_many(images))
    assert [result.error.code for result in results] == ["client.protocol"] * len(images)
    return transport.sent


def save(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def portrait(cat, form="JPEG"):
    """A file stored turned, as phones do."""
    exif = Image.Exif()
    exif[274] = 6
    return save(Image.fromarray(cat), form, exif=exif)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_an_unmodified_pil_image_is_sent_as_its_own_file(tmp_path, cat, form):
    data = portrait(cat, form)
    path = tmp_path / "image"
    path.write_bytes(data)
    fresh, loaded, buffered = Image.open(path), Image.open(path), Image.open(io.BytesIO(data))
    loaded.load()
    assert sent(fresh, loaded, buffered) == [data] * 3
    assert np.array_equal(np.asarray(fresh), np.asarray(loaded))  # the image can still be used
    fresh.close()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.putpixel((3, 3), (1, 2, 3)),
        lambda image: image.thumbnail((100, 100)),
        lambda image: image.paste((0, 0, 0), (0, 0, 9, 9)),
        lambda image: ImageOps.exif_transpose(image, in_place=True),
        lambda image: image.draft("L", (100, 100)),
    ],
    ids=["pixel", "thumbnail", "paste", "transpose", "draft"],
)
def test_a_modified_pil_image_is_sent_as_it_looks(tmp_path, cat, form, change):
    path = tmp_path / "image"
    path.write_bytes(portrait(cat, form))
    image = Image.open(path)
    change(image)
    expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    (data,) = sent(image)
    assert np.abs(decode_image(data).pixels.astype(int) - expected).max() <= 1


def test_a_pil_image_without_its_file_keeps_its_orientation_and_profile(cat):
    image = Image.open(io.BytesIO(portrait(cat)))
    image.load()
    (data,) = sent(image)
    assert np.array_equal(decode_image(data).pixels, np.asarray(ImageOps.exif_transpose(image)))
    profile = b"an ICC profile"
    tagged = Image.fromarray(cat)
    tagged.info["icc_profile"] = profile
    assert Image.open(io.BytesIO(sent(tagged)[0])).info["icc_profile"] == profile


def test_a_file_that_is_gone_or_changed_leaves_the_pixels(tmp_path, cat, coffee):
    for later in (None, coffee):
        path = tmp_path / "image.png"
        path.write_bytes(save(Image.fromarray(cat), "PNG"))
        image = Image.open(path)
        image.load()
        path.unlink() if later is None else path.write_bytes(save(Image.fromarray(later), "PNG"))
        assert np.array_equal(decode_image(sent(image)[0]).pixels, cat)


def test_a_further_frame_is_sent_as_it_looks(cat, coffee):
    frames = [Image.fromarray(pixels).resize((90, 80)) for pixels in (cat, coffee)]
    image = Image.open(io.BytesIO(save(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)))
    image.seek(1)
    assert np.array_equal(decode_image(sent(image)[0]).pixels, np.asarray(frames[1]))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "La", "RGBa", "I"])
def test_pil_modes_are_sent_with_their_pixels(cat, mode):
    steps = {"La": ["LA", "La"], "RGBa": ["RGBA", "RGBa"], "PA": ["P", "PA"]}
    image = Image.fromarray(cat)
    for step in steps.get(mode, [mode]):
        image = image.convert(step)
    shown = image.convert("LA").convert("RGB") if mode == "La" else image.convert("RGBA" if mode == "RGBa" else "RGB")
    assert np.abs(decode_image(sent(image)[0]).pixels.astype(int) - np.asarray(shown.convert("RGB"))).max() <= 1


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_sixteen_bits_are_sent_as_such(cat, mode):
    grey = cat[:, :, 0].astype(np.uint16) * 257
    image = Image.fromarray(grey.astype(np.int32)) if mode == "I" else Image.fromarray(grey)
    if mode == "I;16B":
        image = Image.fromarray(grey.astype(">u2"))
    assert image.mode == mode
    assert np.array_equal(decode_image(sent(image)[0]).pixels[:, :, 0], cat[:, :, 0])


def bad_inputs():
    whole = save(Image.effect_noise((200, 200), 90), "PNG")
    truncated = Image.open(io.BytesIO(save(Image.effect_noise((200, 200), 90), "TIFF")[:9000]))
    closed = Image.open(io.BytesIO(whole))
    closed.close()
    return [
        truncated,
        closed,
        Image.new("RGB", (0, 0)),
        Image.new("RGB", (0, 7)),
        Image.new("F", (9, 9)),
        Image.fromarray(np.full((9, 9), -5, np.int32)),
        "a\0b",
        "\ud800",
        "",
        ".",
        "https://example.org/a.jpg",
        object(),
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((4, 0), np.uint8),
    ]


def test_every_bad_input_is_an_input_error_of_its_own(cat):
    client, transport = make()
    images = [item for bad in bad_inputs() for item in (bad, cat)]
    results = list(client.detect_many(images))
    assert [type(result.error) for result in results[::2]] == [InputError] * len(results[::2])
    assert len(transport.sent) == len(results) // 2


def test_a_truncated_file_in_a_pil_image_is_left_to_the_server(cat):
    data = save(Image.fromarray(cat), "JPEG")
    half = data[: len(data) // 2]
    assert sent(Image.open(io.BytesIO(half))) == [half]


def test_one_pil_image_may_be_passed_to_many_threads(cat):
    data = portrait(cat)
    image = Image.open(io.BytesIO(data))
    client, transport = make()
    threads = [threading.Thread(target=lambda: list(client.detect_many([image]))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert transport.sent == [data] * 8


class SlowPath(os.PathLike):
    """A path on a slow disk."""

    def __fspath__(self):
        time.sleep(0.05)
        return __file__


def test_the_deadline_counts_from_the_call():
    client, transport = make()
    with pytest.raises(DeadlineError):
        client.detect(SlowPath(), deadline=0.01)
    assert transport.sent == []


def test_folders_are_searched_for_every_name_of_the_formats(tmp_path):
    names = ["a.jpg", "b.JPEG", "c.jpe", "d.jfif", "e.jfi", "f.mpo", "g.png", "h.apng", "i.webp"]
    for name in [*names, "._a.jpg", "notes.txt", "j.jpg.part"]:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "._k.png").write_bytes(b"x")
    assert find_images([str(tmp_path)]) == [str(tmp_path / name) for name in names]
    with pytest.raises(ValueError, match="no JPEG, PNG or WebP"):
        find_images([str(tmp_path / "inner")])
