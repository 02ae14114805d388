"""Drawn maps: colours mean what the legend says, all methods share one scale, and the report is self-contained."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from veridict.explain.attribution import Attribution
from veridict.explain.errors import ExplainError
from veridict.explain.reports.colours import colour_table, css_stops, ends
from veridict.explain.reports.image_report import render_image_report
from veridict.explain.reports.render import colourise, cut_region, overlay, render_figure, scale, smooth
from veridict.explain.subject import read_subject


def make(values, method="lime", kind="signed"):
    values = np.asarray(values, np.float32)
    height, width = values.shape
    region = (0, 0, width, height)
    return Attribution(method, kind, values, "logits", region, 0.5, {}, {"fidelity_r2": 0.9}, 1.2, "face_cnn", "v1")


def test_red_is_fake_blue_is_real_and_white_is_neither():
    values = np.zeros((10, 30))
    values[:, :10], values[:, 20:] = -2.0, 2.0
    image = colourise(scale(make(values)), "signed").astype(int)
    left, middle, right = image[5, 2], image[5, 15], image[5, 27]
    assert left[2] > left[0] + 80
    assert right[0] > right[2] + 80
    assert middle.min() > 240
    assert "blue: speaks for real" in ends("signed")


def test_colours_are_monotone_in_lightness_where_people_read_amounts():
    def lightness(table):
        return table.astype(float) @ [0.2126, 0.7152, 0.0722]

    assert (np.diff(lightness(colour_table("measurement"))) > -0.6).all()
    signed = lightness(colour_table("signed"))
    assert (np.diff(signed[:128]) > -0.6).all()
    assert (np.diff(signed[128:]) < 0.6).all()
    # red-blind people tell red and blue apart by the blue channel
    assert colour_table("signed")[0][2] - int(colour_table("signed")[-1][2]) > 100


def test_the_colour_bar_of_reports_has_the_colours_of_the_map():
    for kind in ("signed", "strength", "measurement"):
        stops = css_stops(kind).split(", ")
        assert stops[0] == "#{:02x}{:02x}{:02x}".format(*colour_table(kind)[0])
        assert stops[-1] == "#{:02x}{:02x}{:02x}".format(*colour_table(kind)[-1])


def test_only_maps_of_methods_marked_as_smoothed_are_blurred():
    values = np.random.default_rng(1).normal(size=(40, 40))
    assert smooth(make(values, "saliency", "strength")).std() < 0.5 * values.std()
    assert np.array_equal(smooth(make(values, "lime")), values.astype(np.float32))


def test_the_scale_is_the_same_for_every_method_whatever_its_unit():
    pattern = np.linspace(-1, 1, 400).reshape(20, 20)
    first, second = scale(make(pattern)), scale(make(pattern * 1e-6))
    assert np.allclose(first.values, second.values, atol=1e-5)
    assert first.full_scale == pytest.approx(second.full_scale * 1e6, rel=1e-4)
    assert np.array_equal(scale(make(np.zeros((4, 4)))).values, np.zeros((4, 4)))
    spike = np.zeros((20, 20))
    spike[3, 3] = 5.0
    assert scale(make(spike)).values.max() == 1.0
    assert scale(make(np.abs(pattern), "ela", "measurement")).values.min() >= 0


def test_overlays_cover_the_region_they_explain(cat):
    result = replace(make(np.ones((224, 224))), region=(40, 20, 100, 100))
    assert overlay(result, cat, 200).shape == (200, 200, 3)
    assert cut_region(cat, (0, 0, 451, 300), 100).shape == (67, 100, 3)
    alone = overlay(make(np.ones((30, 45)), "ela", "measurement"), cat[:30, :45], 90)
    assert alone.shape == (60, 90, 3)


@pytest.mark.parametrize("shape", [(224, 224), (40, 400), (400, 40)])
def test_figures_hold_images_bar_and_legend(cat, shape):
    values = np.random.default_rng(0).normal(size=shape)
    image = Image.open(io.BytesIO(render_figure(make(values), np.ascontiguousarray(np.resize(cat, (*shape, 3))))))
    assert image.format == "PNG"
    assert image.width >= 700
    pixels = np.asarray(image)
    assert (pixels[0] == 255).all()
    assert (pixels[-1] == 255).all()
    assert (pixels[:, -5:] == 255).all()  # nothing runs over the edge


def test_the_report_stands_alone_and_escapes(encode, astronaut):
    subject = read_subject(encode(astronaut))
    results = {
        "lime": replace(make(np.ones((224, 224))), region=subject.face_region),
        "ela": replace(make(np.ones((64, 64)), "ela", "measurement"), region=subject.whole_region, score=None),
        "clip_occlusion": ExplainError("explain.over_budget"),
    }
    html = render_image_report("<b>name</b>", subject, results, None, "no server <here>")
    assert "<b>name" not in html
    assert "<script" not in html
    assert "http" not in html
    assert "no server &lt;here&gt;" in html
    assert html.count("data:image/webp;base64,") == 4  # the image, the crop, two maps
    assert "more seconds than its budget" in html
    assert "no proof of manipulation" in html
