"""The report holds everything in one file, in words a reader understands, and escapes what it is given."""

import jinja2
import numpy as np
import pytest

from veridict.deploy.demo import blend_face, generated_texture, sample_images, splice
from veridict.deploy.manifest import default_repository
from veridict.explain.reports.html import evidence_bars, render_template
from veridict.explain.reports.maps import FULL_SCALE, error_level_image, mark_faces, render_map
from veridict.explain.reports.report import Entry, render_report
from veridict.export.pipeline import InProcessDetector
from veridict.forensics.decode import decode_image
from veridict.forensics.faces import find_faces


def test_report_is_self_contained_and_escaped(networks):
    files = sample_images()
    names = ["photo-cat.jpg", "generated-texture.png"]
    verdicts = InProcessDetector(default_repository(), networks=networks).detect([files[n] for n in names])
    entries = [Entry(f"<b>{n}</b>", files[n], v) for n, v in zip(names, verdicts, strict=True)]
    html = render_report([*entries, Entry("broken", b"", None, "[image.empty] the image has no bytes")])
    assert "<b>photo" not in html
    assert "http" not in html.replace("http-equiv", "")
    assert html.count("data:image/webp;base64,") == 3  # two images, one ELA map: a PNG has none
    assert html.count("linear-gradient(90deg, #440154,") == 1  # the colour bar of the ELA map
    for verdict in verdicts:
        widths = [bar["width"] for bar in evidence_bars(verdict)]
        assert len(widths) == len(verdict.evidence)
        assert 0 <= min(widths) <= max(widths) <= 50.0
    assert "a PNG file carries no JPEG compression history" in html
    assert "[image.empty]" in html


def test_demo_has_photographs_and_three_kinds_of_manipulation():
    names = set(sample_images())
    assert sum(n.startswith("photo-") for n in names) == 4
    assert {"manipulated-splice.jpg", "manipulated-face-blend.jpg", "generated-texture.png"} <= names


def test_manipulations_change_what_they_say(astronaut, cat):
    (box,) = find_faces(astronaut)
    changed = np.abs(blend_face(astronaut, box).astype(int) - astronaut.astype(int)).sum(axis=2)
    x, y, w, h = box
    assert changed[y + h // 3 : y + 2 * h // 3, x + w // 3 : x + 2 * w // 3].mean() > 5
    changed[y : y + h, x : x + w] = 0
    assert changed.max() == 0
    spliced = splice(astronaut, cat[:100, :100], (100, 400))
    assert np.array_equal(spliced[350:, 300:], astronaut[350:, 300:])
    assert generated_texture(64).shape == (64, 64, 3)


def test_maps(encode, cat):
    image = error_level_image(decode_image(encode(cat)))
    assert image is not None
    assert image.shape == cat.shape
    assert error_level_image(decode_image(encode(cat, "PNG"))) is None
    ends = render_map(np.array([[0.0, FULL_SCALE, 99.0]]))
    assert ends[0, 0].tolist() == [68, 1, 84]
    assert ends[0, 1].tolist() == ends[0, 2].tolist()
    assert not np.array_equal(mark_faces(cat, [(10, 10, 50, 50)], ["0.5"]), cat)


def test_templates_escape_values_and_refuse_undefined_names(tmp_path):
    template = tmp_path / "page.html"
    template.write_text(
        '{% import "parts.html" as parts %}\n{{ name }}{{ parts.scale("red, blue", ["<low>", "high"]) }}'
    )
    page = render_template(template, name="<b>")
    assert page.startswith("&lt;b&gt;")
    assert "<span>&lt;low&gt;</span><span>high</span>" in page
    template.write_text("{{ nmae }}")
    with pytest.raises(jinja2.UndefinedError):
        render_template(template, name="<b>")
