"""Hostile images: every kind gets a typed error or a right verdict, at a bounded cost; mutants never end a process."""

import functools
import hashlib
import itertools
import operator
import sys
from collections import Counter
from pathlib import Path

import pytest

from veridict.forensics.decode import decode_image
from veridict.forensics.errors import CODES, ImageError
from veridict.loadtests.hostile.assemble import PNG_MAGIC, chunk, picture, png_file, png_header, save
from veridict.loadtests.hostile.generator import FAMILIES, hostile_images
from veridict.loadtests.hostile.kinds import judged, refused
from veridict.loadtests.hostile.measure import MOST_MIB, measure_all
from veridict.loadtests.hostile.mutant_run import run_mutants, save_findings
from veridict.loadtests.hostile.mutants import Mutator, parts_of, with_right_checksums
from veridict.loadtests.hostile.served import prepare_as_served

CORPUS = sorted((Path(__file__).parents[1] / "fuzz" / "corpus").iterdir())
SEEDS = [save(picture(), form) for form in ("JPEG", "PNG", "WEBP")]


def fault_of(kind):
    try:
        image = decode_image(kind.data)
    except ImageError as error:
        return kind.fault_of_refusal(error.code)
    return kind.fault_of_size(image.width, image.height, image.frames) or kind.fault_of_pixels(image.pixels)


@pytest.mark.parametrize(
    "family", FAMILIES, ids=lambda family: f"{family.__module__.rpartition('.')[2]}.{family.__name__}"
)
def test_every_kind_gets_its_error_or_the_pixels_that_a_viewer_shows(family):
    faults = [f"{kind.name}: {fault}" for kind in family() if not kind.large and (fault := fault_of(kind))]
    assert not faults, "\n".join(["", *faults])


@pytest.mark.slow
def test_every_kind_is_prepared_within_the_memory_and_ends_no_process():
    measured = list(measure_all(hostile_images()))
    assert len(measured) >= 150
    assert [f"{item.name}: {item.fault}" for item in measured if item.fault] == []
    assert [(item.name, item.mib) for item in measured if not item.large and item.mib > MOST_MIB] == []
    # A valid image of 49 million pixels holds what is decoded, its RGB pixels and smaller copies.
    assert [(item.name, item.mib) for item in measured if item.large and item.mib > 500] == []


@pytest.mark.slow
def test_the_kinds_are_named_and_the_same_at_every_generation():
    first, second = [
        [(kind.name, hashlib.sha256(kind.data).hexdigest()) for kind in hostile_images()] for _ in range(2)
    ]
    assert [name for (name, digest), (_, other) in zip(first, second, strict=True) if digest != other] == []
    names = Counter(name for name, _ in first)
    assert len(names) >= 150
    assert [name for name, count in names.items() if count > 1] == []


def test_a_wrong_answer_is_a_fault():
    data, black = save(picture(), "PNG"), picture() * 0
    (sound,) = measure_all([judged("sound", data, picture())])
    assert (sound.answer, sound.fault) == ("judged", "")
    wrong = (judged("black", data, black), refused("refused", data, "corrupt"), judged("cut", data[:200], picture()))
    assert all(fault_of(kind) for kind in wrong)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_the_corpus_of_the_fuzzer_raises_nothing_else(path):
    try:
        prepare_as_served(path.read_bytes())
    except ImageError as error:
        if error.code not in CODES:
            raise


def test_the_corpus_of_the_fuzzer_is_small():
    assert 50 <= len(CORPUS) <= 200
    assert sum(path.stat().st_size for path in CORPUS) <= 1_000_000


@pytest.mark.slow
def test_mutants_raise_nothing_else_and_end_no_process(tmp_path):
    result = run_mutants(2000, seed=int.from_bytes(b"tests"), seeds=SEEDS)
    save_findings(result, tmp_path)
    assert (tmp_path / "findings.txt").read_text() == ""
    assert result.mutants == sum(result.answers.values()) == 2000
    assert result.answers["judged"] > 100
    assert len(result.answers) >= 4


def test_a_mutant_depends_on_its_number_and_the_seed_alone():
    mutants = [Mutator(SEEDS, 3).mutant(number) for number in range(60)]
    assert mutants == [Mutator(SEEDS, 3).mutant(number) for number in range(60)]
    assert mutants != [Mutator(SEEDS, 4).mutant(number) for number in range(60)]
    assert len(set(mutants)) > 55


def test_the_parts_of_a_file_are_found_and_checksums_repaired():
    png = png_file(png_header(9, 9), chunk(b"tEXt", b"a\0b"), chunk(b"IDAT", b"data"))
    assert [png[start + 4 : start + 8] for start, _ in parts_of(png)] == [b"IHDR", b"tEXt", b"IDAT", b"IEND"]
    damaged = png.replace(b"a\0b", b"a\0c")
    assert with_right_checksums(png) == png
    assert with_right_checksums(damaged) == png_file(png_header(9, 9), chunk(b"tEXt", b"a\0c"), chunk(b"IDAT", b"data"))
    assert with_right_checksums(PNG_MAGIC) == PNG_MAGIC
    jpeg, _, webp = SEEDS
    assert jpeg[parts_of(jpeg)[-1][0] :][:2] == b"\xff\xda"
    assert parts_of(webp)[-1][1] == len(webp)
    assert parts_of(b"text") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (sys.exit, "ended the process with status 1"),
        (functools.partial(operator.countOf, itertools.repeat(1)), "took more than 2 s of CPU time"),
    ],
    ids=["death", "hang"],
)
def test_a_mutant_that_ends_or_blocks_its_process_is_recorded_and_the_others_go_on(tmp_path, answer, what):
    result = run_mutants(2, seed=1, seeds=SEEDS, answer=answer)
    assert [finding.what for finding in result.findings] == [what, what]
    save_findings(result, tmp_path)
    assert (tmp_path / "mutant-1.bin").read_bytes() == Mutator(SEEDS, 1).mutant(1)
    assert f"mutant-0.bin: {what}" in (tmp_path / "findings.txt").read_text()


def test_a_png_of_its_first_bytes_alone_is_truncated():
    for length in range(8, 33):
        with pytest.raises(ImageError, match="truncated"):
            decode_image(png_file(png_header(96, 80))[:length])
