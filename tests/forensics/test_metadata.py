"""A sound image is judged whatever its metadata are; a file that ends too early is named as such."""

import runpy
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageCms

from veridict.forensics.decode import decode_image
from veridict.forensics.errors import ImageError

files = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("image_files.py"))))


def name_of(value):
    return value if isinstance(value, str) else ""


def code_of(data):
    with pytest.raises(ImageError) as caught:
        decode_image(data)
    return caught.value.code


def png_parts():
    text = np.random.default_rng(0).choice(np.frombuffer(b'{"inputs":0123456789 ', np.uint8), 1_200_000).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    deflated = zlib.compress(text)
    yield "zTXt above 1 MB", files.chunk(b"zTXt", b"workflow\0\0" + deflated)
    yield "iTXt above 1 MB", files.chunk(b"iTXt", b"prompt\0\1\0\0\0" + deflated)
    yield "many texts", files.chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(900_000))) * 80
    yield "text without checksum", files.chunk(b"tEXt", b"Comment\0hello", crc=1)
    yield "text that is not Latin", files.chunk(b"iTXt", b"a\0\0\0\0\0\xff\xfe")
    yield "unknown compression of a text", files.chunk(b"zTXt", b"x\0\x09" + deflated[:9])
    yield "damaged deflate of a text", files.chunk(b"zTXt", b"x\0\0" + deflated[5:90])
    yield "iCCP above 1 MB", files.chunk(b"iCCP", b"a\0\0" + zlib.compress(srgb + bytes(2_000_000)))
    yield "iCCP above its limit", files.chunk(b"iCCP", b"a\0\0" + zlib.compress(srgb + bytes(9_000_000)))
    yield "unknown compression of iCCP", files.chunk(b"iCCP", b"a\0\7" + zlib.compress(srgb))
    yield "iCCP of noise", files.chunk(b"iCCP", b"a\0\0" + zlib.compress(text[:5000]))
    yield "empty iCCP", files.chunk(b"iCCP", b"")
    yield "unknown ancillary chunk", files.chunk(b"prIv", b"anything")
    yield "unknown ancillary chunk without checksum", files.chunk(b"prIv", b"anything", crc=0)
    yield "EXIF of noise", files.chunk(b"eXIf", text[:100])
    yield "short animation control", files.chunk(b"acTL", b"\0\0") + files.chunk(b"fcTL", b"\0")
    yield "animation without frames", files.chunk(b"acTL", struct.pack(">II", 3, 0))
    yield (
        "frame outside the image",
        files.chunk(b"acTL", struct.pack(">II", 1, 0))
        + files.chunk(b"fcTL", struct.pack(">5IHHBB", 0, 9999, 9999, 0, 0, 1, 1, 0, 0)),
    )
    for kind in (b"pHYs", b"cHRM", b"gAMA", b"sRGB", b"tRNS", b"bKGD", b"sBIT", b"tIME", b"cICP", b"eXIf", b"hIST"):
        yield f"short {kind.decode()}", files.chunk(kind, b"\0" if kind != b"sRGB" else b"")
        yield f"{kind.decode()} without checksum", files.chunk(kind, bytes(8), crc=1)


@pytest.mark.parametrize(("name", "part"), list(png_parts()), ids=name_of)
def test_ancillary_png_chunks_do_not_touch_the_pixels(cat, name, part):
    assert np.array_equal(decode_image(files.with_chunk(files.save(cat, "PNG"), part)).pixels, cat)


@pytest.mark.parametrize("entries", [0, 3, 256, 400])
def test_a_palette_may_have_more_or_fewer_transparent_entries(cat, entries):
    image = Image.fromarray(cat[:40]).convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    data = files.save(image, "PNG")
    start = data.index(b"IDAT") - 4
    part = files.chunk(b"tRNS", b"\xff" * entries)
    assert np.array_equal(decode_image(data[:start] + part + data[start:]).pixels, decode_image(data).pixels)


def jpeg_parts():
    yield "short JFIF", files.segment(0xE0, b"JFIF\0\1")
    yield "short Adobe", files.segment(0xEE, b"Adobe\0")
    yield "short Photoshop", files.segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed")
    yield "short MPF", files.segment(0xE2, b"MPF\0II")
    yield "short FlashPix", files.segment(0xE2, b"FPXR\0")
    yield "short ICC", files.segment(0xE2, b"ICC_PROFILE\0\1")
    yield "ICC of noise", files.segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(range(256)))
    yield "part of ICC", files.segment(0xE2, b"ICC_PROFILE\0\1\2" + bytes(300))
    yield "EXIF of noise", files.segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff")
    yield "cyclic EXIF", files.segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\1\0\x69\x87\4\0\1\0\0\0\x08\0\0\0\x08\0\0\0")
    yield "two EXIF", files.segment(0xE1, b"Exif\0\0") * 2
    yield "XMP of noise", files.segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<tiff:Orientation>6")
    yield "empty segments", b"".join(files.segment(marker, b"") for marker in range(0xE0, 0xF0))
    yield "length zero", b"\xff\xe3\0\0"
    yield "fill bytes", b"\xff\xff\xff\xff" + files.segment(0xE5, b"x")
    yield "comment", files.segment(0xFE, b"\xff\xda" * 600)


@pytest.mark.parametrize(
    ("name", "part"), list(jpeg_parts()), ids=lambda value: value if isinstance(value, str) else ""
)
@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_metadata_segments_of_a_jpeg_do_not_touch_the_pixels(cat, name, part, options, mode):
    data = files.save(Image.fromarray(cat).convert(mode), "JPEG", **options)
    assert np.array_equal(decode_image(files.with_segment(data, part)).pixels, decode_image(data).pixels)


@pytest.mark.parametrize("kind", [b"EXIF", b"XMP ", b"ICCP", b"abcd"])
def test_webp_metadata_that_are_cut_off_do_not_touch_the_pixels(cat, kind):
    data = files.save(cat, "WEBP", exif=files.orientation(1))
    start = data.rindex(b"EXIF")
    cut = data[:start] + kind + struct.pack("<I", 5000) + b"short"
    assert np.array_equal(decode_image(cut).pixels, decode_image(data).pixels)


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("missing", [1, 2])
def test_a_jpeg_that_only_lacks_its_end_marker_is_judged(cat, options, mode, missing):
    data = files.save(Image.fromarray(cat).convert(mode), "JPEG", **options)
    assert np.array_equal(decode_image(data[:-missing]).pixels, decode_image(data).pixels)


@pytest.mark.parametrize("missing", [4, 8, 12, 16])
def test_a_png_that_only_lacks_its_end_is_judged(cat, missing):
    assert np.array_equal(decode_image(files.save(cat, "PNG")[:-missing]).pixels, cat)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9, 0.99])
def test_missing_pixels_are_called_truncated_in_every_format(cat, form, mode, part):
    if mode == "CMYK" and form != "JPEG":
        pytest.skip("only JPEG has this mode")
    data = files.save(Image.fromarray(cat).convert(mode), form)
    assert code_of(data[: int(len(data) * part)]) == "image.truncated"


def test_a_progressive_jpeg_without_all_components_is_truncated(cat):
    data = files.save(cat, "JPEG")
    first = data.index(b"\xff\xda")
    assert code_of(data[:first]) == "image.truncated"
    assert code_of(data[: first + 14]) == "image.truncated"


def test_damaged_critical_parts_are_called_corrupt(cat):
    png, jpeg, webp = (bytearray(files.save(cat, form)) for form in ("PNG", "JPEG", "WEBP"))
    png[20] ^= 1  # the width, under a checksum
    palette = bytearray(files.save(Image.fromarray(cat).convert("P"), "PNG"))
    palette[palette.index(b"PLTE") + 5] ^= 1
    jpeg[jpeg.index(b"\xff\xc4") + 5] = 255  # more Huffman codes than there can be
    webp[23:26] = b"abc"
    for data in (png, palette, jpeg, webp):
        assert code_of(bytes(data)) == "image.corrupt"


def test_kinds_of_jpeg_that_no_viewer_shows_are_called_unsupported(cat):
    data = files.save(cat, "JPEG")
    frame = data.index(b"\xff\xc0")
    for offset, value in ((4, 12), (9, 2), (1, 0xC5), (1, 0xCB)):
        changed = bytearray(data)
        changed[frame + offset] = value
        assert code_of(bytes(changed)) == "image.unsupported_format"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"/9j/4AAQSkZJRgABAQ==", "base64 text"),
        (b"iVBORw0KGgoAAAANSUhEUg==", "base64 text"),
        (b'"UklGRiQAAABXRUJQVlA4"', "base64 text"),
        (b"QUJDx" * 40, "base64 text"),
        (b"data:image/jpeg;base64,/9j/4AAQSk", "data: URI"),
        (b"https://example.org/a.jpg", "URL"),
        (b"/home/me/photo.JPG", "name of a file"),
        (b"ffd8ffe000104a46494600010101004800480000ffdb", "hexadecimal text"),
        (b"<!DOCTYPE html><p>", "HTML"),
        (b"%PDF-1.7", "PDF"),
        (b"just some words", "no known image format"),
    ],
)
def test_text_in_place_of_an_image_is_named(data, words):
    with pytest.raises(ImageError, match=words) as caught:
        decode_image(data)
    assert caught.value.code == "image.unsupported_format"
