"""The index finds exactly the entries that a comparison with every entry finds."""

import threading

import numpy as np
import pytest

from veridict.forensics.known_content.index import LARGEST_DISTANCE, HashIndex

ONES = np.array([value.bit_count() for value in range(256)], np.uint8)


def compare_all(codes, code, most):
    """Return what the index has to find: numbers and distances by distance, then number."""
    distances = ONES[codes ^ np.frombuffer(code, np.uint8)].sum(axis=1)
    found = sorted((int(bits), number) for number, bits in enumerate(distances) if bits <= most)
    return [number for _, number in found], [bits for bits, _ in found]


def flip(code, places):
    bits = np.unpackbits(np.frombuffer(code, np.uint8))
    bits[places] ^= 1
    return np.packbits(bits).tobytes()


def searched(index, code, most):
    numbers, distances = index.search(code, most)
    return numbers.tolist(), distances.tolist()


@pytest.fixture(scope="module")
def codes():
    """Random hashes, hashes that use few values in each part, and copies of one picture, near and just too far."""
    rng = np.random.default_rng(1)
    random = rng.integers(0, 256, (30_000, 32), dtype=np.uint8)
    skewed = rng.choice(np.array([0, 1, 128, 255], np.uint8), (5_000, 32))
    centre = random[0].tobytes()
    copies = [flip(centre, rng.choice(256, bits, replace=False)) for bits in rng.integers(0, 40, 3_000)]
    return np.concatenate([random, skewed, np.frombuffer(b"".join(copies), np.uint8).reshape(-1, 32)])


@pytest.fixture(scope="module")
def index(codes):
    return HashIndex(codes)


@pytest.mark.parametrize("most", [0, 1, 15, 31])
def test_near_and_far_entries_are_told_apart_exactly(codes, index, most):
    rng = np.random.default_rng(most)
    for number in rng.integers(0, len(codes), 60):
        code = flip(codes[number].tobytes(), rng.choice(256, rng.integers(0, 36), replace=False))
        assert searched(index, code, most) == compare_all(codes, code, most)


def test_an_entry_at_the_last_distance_is_found_wherever_its_bits_differ():
    code = bytes(range(32))
    for seed in range(40):
        entry = flip(code, np.random.default_rng(seed).choice(256, LARGEST_DISTANCE, replace=False))
        assert searched(HashIndex(np.frombuffer(entry, np.uint8)[None]), code, 31) == ([0], [31])
    assert searched(HashIndex(np.frombuffer(flip(code, range(32)), np.uint8)[None]), code, 31) == ([], [])


def test_many_copies_of_one_picture_are_all_found(codes):
    rng = np.random.default_rng(2)
    copies = [flip(codes[0].tobytes(), rng.choice(256, bits, replace=False)) for bits in rng.integers(0, 40, 6_000)]
    crowd = np.concatenate([codes[:500], np.frombuffer(b"".join(copies), np.uint8).reshape(-1, 32)])
    assert searched(HashIndex(crowd), codes[0].tobytes(), 31) == compare_all(crowd, codes[0].tobytes(), 31)


def test_an_empty_index_finds_nothing():
    assert searched(HashIndex(np.empty((0, 32), np.uint8)), bytes(32), 31) == ([], [])


def test_threads_share_an_index(codes, index):
    expected = {n: compare_all(codes, codes[n].tobytes(), 31) for n in range(0, 2_000, 100)}
    wrong = []

    def search():
        for number, found in expected.items():
            if searched(index, codes[number].tobytes(), 31) != found:
                wrong.append(number)

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_entry_takes_a_hundred_bytes(codes, index):
    tables = 16 * 65_537 * 4
    assert (index.nbytes - tables) / len(codes) == 96


@pytest.mark.parametrize(("code", "most"), [(bytes(31), 31), (bytes(32), 32), (bytes(32), -1)])
def test_what_the_index_cannot_answer_is_refused(index, code, most):
    with pytest.raises(ValueError, match="cannot search"):
        index.search(code, most)


def test_codes_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"\[N, 32\], not \[2, 31\]"):
        HashIndex(np.zeros((2, 31), np.uint8))
