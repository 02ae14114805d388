"""Maps follow their settings, agree with the product's own, and lie on the upright picture."""

import cv2
import numpy as np
import pytest

from veridict.deploy.ui.maps import MAPS, MapSettings, NotApplicableError, map_png, measure_map, preview_jpeg
from veridict.explain.methods.error_level import error_levels
from veridict.forensics.decode import decode_image


@pytest.fixture(scope="module")
def jpeg(encode, cat):
    return decode_image(encode(cat, quality=80))


def decode(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def test_with_the_default_settings_the_map_is_that_of_the_reports(jpeg):
    np.testing.assert_array_equal(measure_map(jpeg, MapSettings("ela")), error_levels(jpeg))


@pytest.mark.parametrize("kind", list(MAPS))
def test_every_setting_changes_the_picture_as_it_says(jpeg, kind):
    plain = MapSettings(kind, window=8)
    values = measure_map(jpeg, plain)
    assert values.dtype == np.float32
    assert values.shape == (jpeg.height, jpeg.width)
    assert (values >= 0).all()
    fine = measure_map(jpeg, MapSettings(kind, window=1))
    assert fine.std() > values.std()  # a smaller scale keeps more detail
    bright = decode(map_png(jpeg, MapSettings(kind, window=8, gain=4.0))).mean()
    assert bright > decode(map_png(jpeg, plain)).mean() + 5


def test_lower_quality_loses_more(jpeg):
    low, high = (measure_map(jpeg, MapSettings("ela", quality=quality)).mean() for quality in (60, 95))
    assert low > high


def test_an_error_level_map_needs_a_jpeg(encode, cat):
    with pytest.raises(NotApplicableError, match="a PNG file carries no JPEG compression history"):
        map_png(decode_image(encode(cat, "PNG")), MapSettings("ela"))


@pytest.mark.parametrize("kind", list(MAPS))
def test_maps_are_upright_and_bounded(encode, cat, kind):
    large = np.tile(cat, (6, 3, 1))
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    image = decode_image(encode(large, exif=exif))
    shape = decode(map_png(image, MapSettings(kind))).shape
    assert max(shape) <= 1280
    assert shape[1] / shape[0] == pytest.approx(image.width / image.height, rel=0.01)
    assert image.width > image.height  # turned: the stored picture stands
    small = decode(preview_jpeg(image, 400))
    assert small.shape[1] == 400
