"""Camera data against the file: they never acquit, and a thumbnail of another picture is noticed."""

import io
import struct

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from veridict.forensics.provenance.camera import LIBJPEG_QUALITIES, compare_thumbnail

from ..image_files import segment, with_segment

#: A table that libjpeg writes at no quality, in natural order.
OWN_TABLE = [3 + i // 3 for i in range(64)]


def shrink(pixels, size=(160, 160), quality=75):
    image = Image.fromarray(pixels)
    image.thumbnail(size)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def camera_exif(size, thumbnail=b"", software="", maker_note=b"\1" * 900, make="Example", model="Example One"):
    """Return a segment of EXIF data as cameras write them: IFD0, Exif IFD, and IFD1 with a thumbnail."""

    def ifd(entries, start, following=0):
        body, data = struct.pack("<H", len(entries)), b""
        for tag, kind, value in entries:
            raw = value if isinstance(value, bytes) else struct.pack("<I", value)
            place = raw.ljust(4, b"\0")
            if len(raw) > 4:
                place = struct.pack("<I", start + 6 + 12 * len(entries) + len(data))
                data += raw
            body += struct.pack("<HHI", tag, kind, len(raw) if kind in (2, 7) else 1) + place
        return body + struct.pack("<I", following) + data

    texts = [(0x010F, 2, make.encode() + b"\0"), (0x0110, 2, model.encode() + b"\0")]
    texts += [(0x0131, 2, software.encode() + b"\0")] if software else []

    def first(exif_start, following):
        return ifd([*texts, (0x8769, 4, exif_start)], 8, following)

    exif_start = 8 + len(first(0, 0))
    entries = [(0x927C, 7, maker_note)] if maker_note else []
    exif = ifd([*entries, (0xA002, 4, size[0]), (0xA003, 4, size[1])], exif_start)
    following = exif_start + len(exif) if thumbnail else 0
    second = ifd([(0x0201, 4, following + 30), (0x0202, 4, len(thumbnail))], following) if thumbnail else b""
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + first(exif_start, following) + exif + second + thumbnail


@pytest.fixture
def photo(cat, encode):
    """Return a photograph with camera data, in tables that no software writes."""

    def photo(**options):
        data = encode(cat, qtables=[OWN_TABLE, OWN_TABLE])
        return with_segment(data, segment(0xE1, camera_exif(options.pop("size", (451, 300)), **options)))

    return photo


def test_camera_data_that_fit_the_file_agree(read, photo, cat):
    found = read(photo(thumbnail=shrink(cat)))
    assert (found.camera, found.declares, found.guarantee) == ("agrees", "", "")
    assert {t.field: t.value for t in found.traces} == {
        "EXIF Make and Model": "Example One",
        "EXIF MakerNote": "900 bytes",
        "EXIF size": "451x300, the picture has 451x300",
        "EXIF thumbnail": "shows this picture (correlation 1.00)",
    }
    assert found.text == "There are camera data, which can be copied and prove nothing"


def test_a_thumbnail_of_another_picture_contradicts(read, photo, coffee):
    other = np.asarray(Image.fromarray(coffee).resize((451, 300)))
    found = read(photo(thumbnail=shrink(other)))
    assert found.camera == "contradicts"
    assert "the camera data belong to another picture" in found.text.lower()


def test_a_saved_picture_is_told_from_one_of_the_camera(read, photo, cat, encode):
    assert read(photo(size=(4510, 3000))).camera == "resaved"
    assert read(photo(software="GIMP 2.10")).camera == "resaved"
    found = read(with_segment(encode(cat, quality=83), segment(0xE1, camera_exif((451, 300)))))
    assert found.camera == "resaved"
    assert "the table of libjpeg at quality 83" in [t.value for t in found.traces]


def test_a_camera_that_only_a_name_stands_for_is_bare(read, photo):
    assert read(photo(size=(0, 0), maker_note=b"")).camera == "bare"
    assert read(photo(make="", model="")).camera == ""


@pytest.mark.parametrize("turns", range(4))
def test_a_thumbnail_may_be_turned_and_have_bars(cat, turns):
    small = Image.open(io.BytesIO(shrink(cat)))
    framed = Image.new("RGB", (160, 120))
    framed.paste(small, (0, (120 - small.height) // 2))
    for image in (small, framed):
        thumbnail = simplejpeg.encode_jpeg(np.ascontiguousarray(np.rot90(np.asarray(image), turns)), quality=70)
        assert compare_thumbnail(thumbnail, cat) > 0.95


def test_what_cannot_be_compared_is_left_out(cat):
    plain = np.full((106, 160, 3), 90, np.uint8)
    cropped = np.ascontiguousarray(cat[:, :350])
    huge = simplejpeg.encode_jpeg(np.zeros((2000, 3000, 3), np.uint8))
    for thumbnail in (b"", b"\xff\xd8\xff", shrink(cat)[:40], shrink(plain), shrink(cropped), huge):
        assert compare_thumbnail(thumbnail, cat) is None


def test_the_tables_of_libjpeg_are_known(encode, cat):
    # Qualities below 25 scale to more than a byte's worth; at 100 all entries are 1.
    assert LIBJPEG_QUALITIES[(1,) * 64] == 100
    for quality in (30, 50, 75, 95):
        table = Image.open(io.BytesIO(encode(cat, quality=quality))).quantization[0]
        assert sorted(table) == sorted(next(t for t, q in LIBJPEG_QUALITIES.items() if q == quality))
