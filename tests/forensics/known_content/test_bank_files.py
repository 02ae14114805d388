"""Files of known hashes are read strictly: every bad entry is named by its line, and nothing of the file is used."""

import json
import os

import pytest

from veridict.forensics.known_content.bank_files import BankError, Entry, read_entries, write_csv
from veridict.forensics.known_content.threatexchange import write_descriptors

A, B = "0123456789abcdef" * 4, "fedcba9876543210" * 4
UPPER = A.upper()


def descriptor(**fields):
    return {"type": "HASH_PDQ", "indicator": A, **fields}


@pytest.mark.parametrize(
    ("name", "text", "entries"),
    [
        ("a.txt", f"# two\n\n{A}\n {UPPER}\r\n", [Entry(A), Entry(A)]),
        ("a.csv", f"\ufeffhash,label,id\n{UPPER},fake,7\n{B},,\n", [Entry(A, "7", "fake"), Entry(B)]),
        ("a.csv", f'quality,hash,label\r\n50,{A},"a, ""b"""\r\n', [Entry(A, "", 'a, "b"')]),
        ("a.jsonl", f'{{"hash": "{A}", "quality": 100}}\n\n{{"hash": "{B}", "id": "x\u2028"}}'.replace("\u2028", ""),
         [Entry(A), Entry(B, "x")]),
        ("a.json", json.dumps([descriptor()]), [Entry(A)]),
        ("a.json", json.dumps({"data": [descriptor(id=5, tags=["x", "y"], status="MALICIOUS")]}),
         [Entry(A, "5", "x, y")]),
        ("a.json", json.dumps({"data": [{"id": "9", "type": "HASH_PDQ", "indicator": {"id": "1", "type": "HASH_PDQ",
                                         "indicator": B}, "tags": {"data": [{"id": "2", "text": "t"}]}}]}),
         [Entry(B, "9", "t")]),
        ("a.json", json.dumps([{"type": "HASH_PDQ", "raw_indicator": B, "description": "d"}]), [Entry(B, "", "d")]),
        ("a.txt", "", []),
    ],
)  # fmt: skip
def test_every_form_is_read(tmp_path, name, text, entries):
    (tmp_path / name).write_text(text, newline="")
    assert list(read_entries(tmp_path / name)) == entries


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", f"{A}\n{A[:-1]}\n", r"a\.txt: line 2: '0123456789abcdef.*' is no PDQ hash of 64 hexadecimal digits"),
        ("a.txt", f"{A[:-1]}g", "line 1: .*no PDQ hash"),
        ("a.txt", f"{A[:-2]} {A[:1]}", "line 1: .*no PDQ hash"),
        ("a.txt", "0" * 64, "line 1: the hash is zero"),
        ("a.csv", f"{A}\n", "line 1: the header must have the column hash"),
        ("a.csv", f"hash,hash\n{A},{A}", "line 1: the header"),
        ("a.csv", f"hash,note\n{A},x", "line 1: the header"),
        ("a.csv", "", "line 1: the header"),
        ("a.csv", f"hash,id\n{A},1\n{A}\n", "line 3: 1 cells for 2 columns"),
        ("a.csv", f'hash,id\n{A},"1\n', "line 2: unexpected end of data"),
        ("a.csv", f"hash,quality\n{A},49\n{B},x\n{A},101", "line 2: quality '49'.*line 3: quality 'x'.*line 4"),
        ("a.csv", f"hash,id\n{A},{'x' * 201}", "id must be printable text of at most 200"),
        ("a.csv", f"hash,label\n{A},a\tb", "label must be printable"),
        ("a.jsonl", f'{{"hash": "{A}"}}\n{{"hash": \n[]', "line 2: no JSON.*line 3: not a JSON object"),
        ("a.jsonl", f'{{"hash": "{A}", "note": 1}}', "line 1: unknown field 'note'; the fields are hash, id"),
        ("a.jsonl", '{"id": "x"}', "line 1: '' is no PDQ hash"),
        ("a.jsonl", f'{{"hash": "{A}", "id": 5}}', "id must be printable text"),
        ("a.json", "{", "Expecting property name"),
        ("a.json", "[" * 100_000, "recursion"),
        ("a.json", '{"data": {}}', "there is no list 'data'"),
        (
            "a.json",
            json.dumps([descriptor(), {"indicator": A}, 5]),
            r"data\[1\]: it has no type; data\[2\]: not a JSON",
        ),
        ("a.json", json.dumps([descriptor(indicator=None)]), r"data\[0\]: None is no PDQ hash"),
        ("a.json", json.dumps([descriptor(tags=[1])]), r"data\[0\]: label must be"),
        ("a.json", json.dumps([descriptor(tags="x")]), r"data\[0\]: label must be"),
        ("a.xml", "", r"a bank ends with \.csv, \.json, \.jsonl, \.txt"),
    ],
)
def test_bad_entries_are_named_by_line_and_cause(tmp_path, name, text, message):
    (tmp_path / name).write_text(text, newline="")
    with pytest.raises(BankError, match=message):
        read_entries(tmp_path / name)


def test_bytes_that_are_no_text_are_named_by_line(tmp_path):
    (tmp_path / "a.txt").write_bytes(A.encode() + b"\n\xff")
    with pytest.raises(BankError, match="line 2: not UTF-8"):
        read_entries(tmp_path / "a.txt")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(BankError, match=r"gone\.txt: No such file"):
        read_entries(tmp_path / "gone.txt")


def test_a_file_full_of_errors_names_twenty_and_counts_the_rest(tmp_path):
    (tmp_path / "a.txt").write_text("x\n" * 50)
    with pytest.raises(BankError, match=r"line 20: .*and 30 more$") as raised:
        read_entries(tmp_path / "a.txt")
    assert "line 21" not in str(raised.value)


def test_descriptors_of_other_types_and_withdrawn_ones_are_skipped_and_counted(tmp_path):
    others = [{"type": "HASH_MD5", "indicator": "x"}, descriptor(should_delete=True), descriptor(is_expired=True)]
    (tmp_path / "a.json").write_text(json.dumps({"data": [*others, descriptor()], "paging": {}}))
    found = read_entries(tmp_path / "a.json")
    assert list(found) == [Entry(A)]
    assert found.skipped == {"of type HASH_MD5": 1, "withdrawn": 2}


def test_entries_survive_csv_and_threatexchange_json(tmp_path):
    entries = [Entry(A, "1", 'label "a", ü'), Entry(B), Entry(B, "", "x")]
    write_csv(tmp_path / "folder" / "a.csv", entries)
    assert list(read_entries(tmp_path / "folder" / "a.csv")) == entries
    (tmp_path / "a.json").write_text(write_descriptors(entries, "satire"))
    again = list(read_entries(tmp_path / "a.json"))
    assert again == [entries[0], Entry(B, "", "known content: satire"), entries[2]]
    statuses = {
        name: json.loads(write_descriptors(entries[:1], name))["data"][0]["status"]
        for name in ("deepfake", "real", "satire")
    }
    assert statuses == {"deepfake": "MALICIOUS", "real": "NON_MALICIOUS", "satire": "UNKNOWN"}


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    write_csv(tmp_path / "a.csv", [Entry(A)])

    def fail():
        yield Entry(B)
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        write_csv(tmp_path / "a.csv", fail())
    assert list(read_entries(tmp_path / "a.csv")) == [Entry(A)]
    assert os.listdir(tmp_path) == ["a.csv"]
