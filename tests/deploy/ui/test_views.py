"""What the page says about an answer: escaped, complete, and with the fields of servers to come."""

import json
import struct

import pytest

from veridict.client import Evidence, Signal
from veridict.deploy.ui import answer_view
from veridict.deploy.ui.texts import plain
from veridict.deploy.ui.urgency import urgency
from veridict.deploy.ui.viewer import FaceBox, Picture, pack

ATTACK = "<script>alert(1)</script>"


def test_nothing_of_an_answer_becomes_markup(answer):
    bad = answer(
        explanation=ATTACK,
        doubts=(ATTACK,),
        evidence=(Evidence(ATTACK, None, None, 1.0, 0.5, ATTACK),),
        forensics={ATTACK: Signal(None, None, "", False, ATTACK)},
    )
    document = json.dumps({**json.loads(bad.to_json()), "later": {ATTACK: ATTACK}})
    shown = [answer_view.verdict_html(bad), answer_view.evidence_html(bad)]
    tables = [answer_view.measurement_rows(bad), answer_view.file_rows(document)]
    tables += answer_view.further_parts(document).values()
    shown += [answer_view.table_html(ATTACK, rows) for rows in tables]
    assert all("<script" not in html for html in shown)
    assert all("&lt;script&gt;" in html for html in (*shown[:3], shown[-1]))


def test_file_names_have_no_meaning_to_markdown():
    assert plain("a_b*[x](http://y) :red[z] $1$") == r"a\_b\*\[x\]\(http\://y\) \:red\[z\] \$1\$"


def test_the_verdict_is_said_in_words(answer):
    html = answer_view.verdict_html(answer())
    for words in ("Real", "<b>0.40</b> is below the threshold 0.80", "Low confidence", "near threshold"):
        assert words in html
    html = answer_view.verdict_html(answer(verdict="deepfake", fake_probability=0.9, confidence="high", doubts=()))
    for words in ("Deepfake", "<b>0.90</b> reaches the threshold 0.80", "High confidence"):
        assert words in html


def test_fields_that_only_a_later_server_has_are_shown(answer):
    document = json.loads(answer().to_json())
    document["image"]["camera"] = "some camera"
    document |= {
        "provenance": {"issuer": "someone", "actions": [{"when": 1.23456, "valid": True}], "nothing": None},
        "hints": ["one", "two"],
        "remark": "a text",
        "empty": {},
        "absent": None,
    }
    text = json.dumps(document)
    assert answer_view.file_rows(text)["camera"] == "some camera"
    parts = answer_view.further_parts(text)
    assert parts["Provenance"] == {"issuer": "someone", "actions 1 when": "1.235", "actions 1 valid": "yes"}
    assert parts["Hints"] == {"1": "one", "2": "two"}
    assert parts["Remark"] == {"": "a text"}
    assert {"Empty", "Absent", "Verdict", "Faces"}.isdisjoint(parts)


def test_a_flood_of_fields_is_cut(answer):
    document = {**json.loads(answer().to_json()), "huge": {str(i): {str(j): i for j in range(99)} for i in range(99)}}
    assert len(answer_view.further_parts(json.dumps(document))["Huge"]) <= 60


def test_bars_are_as_long_as_their_share_and_point_to_their_side(answer):
    terms = tuple(Evidence(name, None, None, 1.0, value, "text") for name, value in (("a", 2.0), ("b", -1.0)))
    html = answer_view.evidence_html(answer(evidence=terms))
    assert "left:50%;height:100%;width:50.0%" in html
    assert "right:50%;height:100%;width:25.0%" in html
    assert "+2.00" in html
    assert "-1.00" in html


@pytest.mark.parametrize(("probability", "expected"), [(0.8, 1.0), (0.0, 0.0), (1.0, 0.0), (0.4, 0.5), (0.9, 0.5)])
def test_urgency_is_the_nearness_to_the_threshold(answer, probability, expected):
    assert urgency(answer(fake_probability=probability)) == pytest.approx(expected)
    assert urgency(answer(fake_probability=probability, faces_found=1)) == pytest.approx(expected + 1)
    assert 0 <= urgency(answer(fake_probability=probability, threshold=1.0)) <= 1


def test_the_viewer_gets_header_and_images_in_one_message():
    pictures = [
        Picture(b"first", 640, 480, "a cat", (FaceBox((1, 2, 3, 4), "0.91", "Face 1"),), b"layer", "a map", 0.5),
        Picture(b"second", 10, 20, "a dog"),
    ]
    message = pack(pictures)
    (length,) = struct.unpack_from("<I", message)
    header, blobs = json.loads(message[4 : 4 + length]), message[4 + length :]

    def part(place):
        return blobs[place[0] : place[0] + place[1]]

    assert [part(entry["image"]) for entry in header] == [b"first", b"second"]
    assert part(header[0]["layer"]) == b"layer"
    assert header[1]["layer"] is None
    assert header[0]["faces"] == [{"box": [1, 2, 3, 4], "label": "0.91", "spoken": "Face 1"}]
