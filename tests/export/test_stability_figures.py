"""The figures of stability: counts on answers made by hand, and the command on drawn images with the bundled models."""

import csv

import pytest
from PIL import Image

from veridict.export.evaluate.stability import StabilityFigures, count_answers, main
from veridict.forensics.contract import Category, ClipPrediction, ImageFacts, ModelVersions, Verdict


def answer(verdict, *doubts):
    return Verdict(
        request_id="",
        image=ImageFacts("", "JPEG", 1, 1, 1),
        verdict=verdict,
        fake_probability=0.5,
        confidence="low" if doubts else "high",
        category=Category("object", {}),
        clip=ClipPrediction(0.5, 0.5),
        faces=(),
        forensics={},
        explanation="",
        evidence=(),
        models=ModelVersions("", "", ""),
        doubts=doubts,
    )


def test_the_counts_tell_what_the_check_changed():
    rows = [
        ("fake", answer("deepfake")),
        ("fake", answer("deepfake", "unstable")),
        ("fake", answer("real", "unstable")),
        ("fake", answer("real", "near_threshold", "unstable")),
        ("real", answer("deepfake")),
        ("real", answer("real", "near_threshold")),
    ]
    labels, verdicts = zip(*rows, strict=True)
    assert count_answers(labels, verdicts, 2.0) == StabilityFigures(6, 3, 2, 1, 2, 1, 2.0)


@pytest.mark.slow
def test_the_command_prints_a_row_per_tier(tmp_path, capsys, astronaut, coffee):
    for name, picture in (("a.png", astronaut), ("b.png", coffee)):
        Image.fromarray(picture).save(tmp_path / name)
    with (tmp_path / "manifest.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "label", "split", "source", "kind", "caption", "group"])
        writer.writerow(["a.png", "real", "val", "one", "", "", ""])
        writer.writerow(["b.png", "real", "val", "one", "", "", ""])
    main([str(tmp_path / "manifest.csv"), "--tiers", "clean,hard", "--per-source", "2"])
    header, _, clean, hard = capsys.readouterr().out.splitlines()
    assert header.startswith("| tier | images |")
    assert clean.startswith("| clean | 2 |")
    assert hard.startswith("| hard | 2 |")


def test_an_unknown_tier_is_a_usage_error(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path / "manifest.csv"), "--tiers", "awful"])
    assert end.value.code == 2
    assert "unknown tier 'awful'" in capsys.readouterr().err
