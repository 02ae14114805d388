"""``veridict banks``: hashes, checks, imports and exports; and the option of ``veridict serve``."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from veridict.deploy.command import main
from veridict.forensics.known_content.banks import load_banks
from veridict.forensics.preprocess import prepare


@pytest.fixture
def pictures(tmp_path, encode, astronaut, cat):
    for name, pixels in (("astronaut", astronaut), ("cat", cat)):
        (tmp_path / f"{name}.jpg").write_bytes(encode(pixels))
    return tmp_path


def test_hashes_become_a_bank_that_finds_the_pictures(pictures, capsys):
    assert main(["banks", "hash", str(pictures / "astronaut.jpg"), str(pictures / "cat.jpg"), "--label", "mine"]) == 0
    text = capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["id"], row["label"], row["quality"]) for row in rows] == [
        ("astronaut.jpg", "mine", "100"),
        ("cat.jpg", "mine", "100"),
    ]
    (pictures / "hashes.csv").write_text(text)
    folder = pictures / "known"
    words = ["banks", "import", str(pictures / "hashes.csv"), "--into", str(folder), "--disposition", "deepfake"]
    assert main([*words, "--name", "mine"]) == 0
    seen = prepare((pictures / "cat.jpg").read_bytes()).observation
    (match,) = load_banks(folder).match(seen.pdq, 31)
    assert (match.bank, match.disposition, match.id, match.distance) == ("mine", "deepfake", "cat.jpg", 0)
    capsys.readouterr()
    assert main(["banks", "check", str(folder)]) == 0
    assert capsys.readouterr().out.startswith("deepfake/mine: 2 entries\n2 entries in 1 banks, version ")


def test_a_bank_goes_to_threatexchange_json_and_back(pictures, capsys):
    assert main(["banks", "hash", str(pictures / "cat.jpg"), "--label", "mine"]) == 0
    bank = pictures / "known" / "deepfake" / "a.csv"
    bank.parent.mkdir(parents=True)
    bank.write_text(capsys.readouterr().out)
    assert main(["banks", "export", str(bank)]) == 0
    text = capsys.readouterr().out
    (item,) = json.loads(text)["data"]
    assert (item["type"], item["status"], item["tags"]) == ("HASH_PDQ", "MALICIOUS", ["mine"])
    other = {"type": "HASH_MD5", "indicator": "0"}
    (pictures / "feed.json").write_text(json.dumps({"data": [item, other]}))
    words = ["banks", "import", str(pictures / "feed.json"), "--into", str(pictures / "known"), "--disposition"]
    assert main([*words, "real"]) == 0
    assert capsys.readouterr().out.endswith("feed.csv: 1 entries, 1 of type HASH_MD5 skipped\n")
    assert list(load_banks(pictures / "known").banks[0].entries) == list(
        load_banks(pictures / "known").banks[1].entries
    )


def test_what_cannot_be_hashed_is_named_and_the_rest_is_printed(pictures, capsys):
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(pictures / "black.png")
    (pictures / "text.jpg").write_text("no picture")
    names = [str(pictures / name) for name in ("black.png", "text.jpg", "gone.jpg", "cat.jpg")]
    assert main(["banks", "hash", *names]) == 1
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 2
    assert "black.png: quality 0, too little to match by" in printed.err
    assert "image.unsupported_format" in printed.err
    assert "gone.jpg" in printed.err
    assert main(["banks", "hash", "--low-quality", names[0]]) == 0


def test_every_problem_of_a_folder_is_named(tmp_path, capsys):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("bad\n")
    (tmp_path / "real" / "b.txt").write_text("0123456789abcdef" * 4)
    (tmp_path / "stray").write_text("")
    assert main(["banks", "check", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "a.txt: line 1: 'bad' is no PDQ hash" in printed.err
    assert "stray: a bank lies in a folder" in printed.err
    assert "real/b: 1 entries" in printed.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "gone"], "No such file"),
        (["export", "gone.csv"], "No such file"),
        (["import", "a.txt", "--into", "known", "--disposition", "Real"], "lower-case letters"),
        (["import", "a.txt", "--into", "known", "--disposition", "real", "--name", "../a"], "name"),
        (["import", "bad.txt", "--into", "known", "--disposition", "real"], "line 1"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_changes_nothing(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("0123456789abcdef" * 4)
    (tmp_path / "bad.txt").write_text("x")
    assert main(["banks", *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith("veridict banks: ")
    assert message in error
    assert not (tmp_path / "known").exists()


def test_serve_refuses_a_folder_that_is_not_there(tmp_path, capsys):
    assert main(["serve", "--known-content", str(tmp_path / "gone")]) == 2
    assert "--known-content: there is no folder" in capsys.readouterr().err
