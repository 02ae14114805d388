"""The benchmark of provenance prepares the images of a folder both ways."""

import re

import pytest

from veridict.loadtests.bench.provenance_cost import main


def test_it_prints_one_line(tmp_path, encode, cat, capsys):
    for form in ("JPEG", "PNG"):
        (tmp_path / f"image.{form.lower()}").write_bytes(encode(cat[:96, :96], form))
    main([str(tmp_path), "--rounds", "2"])
    line = capsys.readouterr().out
    number = r"\d+\.\d+"
    assert re.fullmatch(
        rf"2 images: {number} ms without, {number} ms with provenance in the mean; median ratio {number}\n", line
    )


def test_a_folder_without_images_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "holds no JPEG, PNG or WebP file" in capsys.readouterr().err
