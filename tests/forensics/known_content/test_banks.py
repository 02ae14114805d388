"""A folder of banks: what is a bank, what is not, and what a search in several of them answers."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from veridict.forensics.contract import KnownContent, KnownMatch
from veridict.forensics.known_content.bank_files import BankError
from veridict.forensics.known_content.banks import Banks, find_bank_files, load_banks, look_up, place_for_bank
from veridict.forensics.policy import KnownContentPolicy

from ..conftest import observe
from .test_index import flip

A = bytes(range(32))
POLICY = KnownContentPolicy()


def write(folder, name, *rows):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in ("hash,id,label", *rows)))


def near(bits, of=A):
    return flip(of, range(bits)).hex()


def hashed(pdq, quality):
    return replace(observe(), pdq=pdq, pdq_quality=quality)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "deepfake/election.csv", f"{near(9)},9,speech", f"{near(3)},3,speech", f"{near(40)},40,far")
    write(tmp_path, "real/agency.csv", f"{near(5)},,", f"{near(31)},x,")
    (tmp_path / "satire").mkdir()
    (tmp_path / "satire" / "onion.jsonl").write_text(json.dumps({"hash": near(32), "id": "out"}) + "\n")
    return tmp_path


def test_the_nearest_entries_of_every_bank_are_found_nearest_first(folder):
    assert load_banks(folder).match(A.hex(), 31) == (
        KnownMatch("election", "deepfake", "speech", "3", 3),
        KnownMatch("agency", "real", "", "", 5),
        KnownMatch("election", "deepfake", "speech", "9", 9),
        KnownMatch("agency", "real", "", "x", 31),
    )
    assert [match.distance for match in load_banks(folder).match(A.hex(), 5)] == [3, 5]


def test_a_bank_full_of_copies_hides_no_other_bank(folder):
    write(folder, "satire/copies.csv", *(f"{near(bits % 3)},{bits},c" for bits in range(50)))
    found = load_banks(folder).match(A.hex(), 31)
    assert [match.bank for match in found].count("copies") == 8
    assert {match.bank for match in found} == {"copies", "election", "agency"}
    assert [match.distance for match in found] == sorted(match.distance for match in found)


def test_the_version_changes_with_any_bank_and_with_nothing_else(folder):
    version = load_banks(folder).version
    assert load_banks(folder).version == version
    (folder / "satire" / "onion.jsonl").rename(folder / "real" / "onion.jsonl")
    moved = load_banks(folder).version
    write(folder, "real/agency.csv", f"{near(5)},,")
    assert len({version, moved, load_banks(folder).version}) == 3


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("stray.csv", "a bank lies in a folder that says what its pictures are"),
        ("Deep fake/x.csv", "a disposition has lower-case letters"),
        ("real/notes.md", r"a bank ends with \.csv"),
        ("real/inner/x.csv", "a bank is a file; folders of banks have no folders in them"),
        ("real/election.txt", "there is a bank of this name already: .*deepfake/election.csv"),
        (f"real/{'n' * 81}.txt", "at most 80 characters"),
    ],
)
def test_what_is_no_bank_is_named(folder, name, problem):
    write(folder, name)
    with pytest.raises(BankError, match=problem):
        load_banks(folder)


def test_a_pipe_is_no_bank(folder):
    os.mkfifo(folder / "real" / "pipe.csv")
    with pytest.raises(BankError, match=r"pipe\.csv: a bank is a file"):
        load_banks(folder)


def test_hidden_files_and_those_of_file_systems_are_left_out(folder):
    for name in (".git/config", "real/.agency.csv.swp", "lost+found/x.csv"):
        write(folder, name)
    assert all(problem == "" for _, problem in find_bank_files(folder))


def test_a_bank_is_imported_only_where_it_fits(folder):
    assert place_for_bank(folder, "deepfake", "election") == folder / "deepfake" / "election.csv"
    assert place_for_bank(folder / "none", "real", "x") == folder / "none" / "real" / "x.csv"
    for disposition, name in (("real", "election"), ("Real", "x"), ("real", "../x"), ("real", ".x"), ("real", "")):
        with pytest.raises(BankError):
            place_for_bank(folder, disposition, name)


def test_an_image_of_little_quality_is_not_searched(folder):
    banks = load_banks(folder)
    seen = hashed(A.hex(), 49)
    assert look_up(seen, banks, POLICY) == KnownContent(A.hex(), 49)
    assert look_up(hashed(A.hex(), 50), banks, POLICY).matches
    assert look_up(hashed(A.hex(), 49), banks, KnownContentPolicy(quality=49)).matches


def test_the_answer_says_which_banks_were_searched(folder):
    banks, seen = load_banks(folder), hashed(np.random.default_rng(0).bytes(32).hex(), 100)
    assert look_up(seen, banks, POLICY) == KnownContent(seen.pdq, 100, (), banks.version)
    assert look_up(seen, None, POLICY) == KnownContent(seen.pdq, 100, (), "")
    assert look_up(seen, Banks(()), POLICY).banks == Banks(()).version != ""
    assert look_up(observe(), banks, POLICY) is None
