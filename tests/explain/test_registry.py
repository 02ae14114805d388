"""The registry of methods: what it refuses, and that a new method needs its file, its row and its test."""

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest

from veridict.explain import methods
from veridict.explain.attribution import Attribution, Budget
from veridict.explain.cli_explain import add_arguments, explain_image
from veridict.explain.errors import ExplainError
from veridict.explain.jobs.job import Job
from veridict.explain.methods import METHODS, Method, get_method, get_methods, run_method
from veridict.explain.models import Models
from veridict.explain.reports.image_report import render_image_report
from veridict.explain.reports.render import render_figure, smooth
from veridict.explain.subject import read_subject

pytestmark = pytest.mark.export


def test_unknown_methods_and_bounds_are_refused():
    with pytest.raises(ExplainError, match="there are saliency"):
        get_method("magic")
    with pytest.raises(ExplainError):
        get_methods([])
    assert [m.name for m in get_methods(["ela", "lime", "ela"])] == ["ela", "lime"]
    for bad in ({"steps": 1}, {"samples": 10**6}, {"seconds": 0}, {"steps": "many"}, {"colour": 1}):
        with pytest.raises(ExplainError) as caught:
            Budget.from_mapping(bad)
        assert caught.value.code == "explain.bad_request"


def test_every_method_file_has_a_row_in_the_registry():
    files = {path for path in Path(methods.__file__).parent.glob("*.py") if "\ndef attribute(" in path.read_text()}
    assert {f".{path.stem}" for path in files} == {method.module for method in METHODS.values()}
    assert {m.model for m in METHODS.values()} == {"face_cnn", "clip", "token_head", "forensics"}


NEW_METHOD = '''
"""Brightness: how far each pixel of the view is above the mean."""

import time

from .results import network_result


def attribute(subject, models, budget, cancellation):
    """Explain the margin by brightness; ``values`` [224, 224] in grey levels."""
    started = time.perf_counter()
    cancellation.check()
    grey = subject.view.mean(axis=2)
    return network_result(
        subject,
        models,
        method="brightness",
        model="clip",
        kind="signed",
        values=grey - grey.mean(),
        score=0.5,
        unit="grey levels",
        settings={},
        quality={"mean": grey.mean()},
        started=started,
    )
'''


@pytest.fixture
def brightness(tmp_path, monkeypatch):
    """A new method: its file in the folder of the methods, and its row in the registry."""
    (tmp_path / "brightness.py").write_text(NEW_METHOD)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    row = Method("brightness", "clip", ".brightness", "Brightness", "How bright each pixel is.", smoothed=True)
    monkeypatch.setitem(METHODS, row.name, row)
    yield
    sys.modules.pop(f"{methods.__name__}.brightness")


def test_a_new_method_needs_its_file_and_its_row(brightness, encode, cat):
    """The command, the queue, the figures and the reports read the row; nothing else names a method."""
    subject = read_subject(encode(cat))
    result = run_method("brightness", subject, Models(), Budget())
    grey = subject.view.mean(axis=2)
    assert np.allclose(result.values, grey - grey.mean(), atol=1e-3)
    assert Attribution.from_document(result.document(), result.values).unit == "grey levels"
    assert not np.array_equal(smooth(result), result.values)
    assert render_figure(result, subject.image.pixels).startswith(b"\x89PNG")
    assert explain_image(subject, ["brightness"], Models(), Budget())["brightness"].method == "brightness"
    html = render_image_report("photo.jpg", subject, {"brightness": result})
    assert "What CLIP looked at" in html
    assert "How bright each pixel is." in html
    assert Job.create(subject.image.sha256, "brightness", "v1").method == "brightness"
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert "brightness" in parser.format_help()
