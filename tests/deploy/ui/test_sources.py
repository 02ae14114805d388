"""What a folder and a JSON-lines file put into the queue, and what they do not."""

import json
import os

import pytest

from veridict.client import Answer as RawAnswer
from veridict.client import ClientConfig, DetectorClient, InvalidImageError, UnavailableError
from veridict.deploy.ui.records import count, refusals
from veridict.deploy.ui.sources import MAX_BYTES, Feed, judge_and_add


class Detector:
    """A transport that answers by the first byte of the image: l and h for low and high confidence, x refuses."""

    def __init__(self, answer):
        self.answer, self.judged, self.down = answer, [], False

    def infer(self, data, request_id, timeout, headers):
        if self.down:
            raise UnavailableError("the server cannot be reached")
        self.judged.append(data)
        if data.startswith(b"x"):
            raise InvalidImageError("the file is damaged", code="image.corrupt")
        confidence = "high" if data.startswith(b"h") else "low"
        return RawAnswer(self.answer(data, confidence=confidence).to_json().encode())

    def ready(self, timeout):
        return not self.down

    def close(self):
        pass


@pytest.fixture
def detector(answer):
    return Detector(answer)


@pytest.fixture
def client(detector):
    with DetectorClient(config=ClientConfig(attempts=1), transport=detector) as client:
        yield client


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def feed_of(store, images, *sources, **options):
    return Feed(store, images, tuple(sources), **options)


def test_a_folder_gives_its_answers_of_low_confidence(store, images, folder, client, detector):
    (folder / "deep").mkdir()
    for name, data in {"low.jpg": b"l1", "deep/also.PNG": b"l2", "high.jpg": b"h", "bad.webp": b"x"}.items():
        (folder / name).write_bytes(data)
    (folder / "notes.txt").write_bytes(b"l3")
    feed = feed_of(store, images, folder)
    assert feed.read(client) == 2
    assert count(store).waiting == 2
    ((refusal),) = refusals(store)
    assert (refusal.code, refusal.place) == ("image.corrupt", str(folder / "bad.webp"))
    judged = len(detector.judged)
    assert feed.read(client) == 0  # nothing is judged twice
    assert len(detector.judged) == judged
    (folder / "high.jpg").write_bytes(b"l4 instead")
    assert feed.read(client) == 1


def test_images_wait_for_the_detector_and_are_not_lost(store, images, folder, client, detector):
    (folder / "low.jpg").write_bytes(b"l1")
    detector.down = True
    feed = feed_of(store, images, folder)
    with pytest.raises(UnavailableError):
        feed.read(client)
    detector.down = False
    assert feed.read(client) == 1


def test_a_file_above_the_limit_is_refused_unread(store, images, folder, client, detector):
    with (folder / "huge.jpg").open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)
    assert feed_of(store, images, folder).read(client) == 0
    assert [refusal.code for refusal in refusals(store)] == ["image.too_large"]
    assert not detector.judged


def line(verdict, path=None):
    document = json.loads(verdict.to_json())
    return json.dumps(document if path is None else {"path": str(path), **document}) + "\n"


def test_lines_of_low_confidence_become_items_with_the_answer_as_it_came(store, images, folder, client, answer):
    file = folder / "answers.jsonl"
    (folder / "a.jpg").write_bytes(b"l1")
    document = {"path": "a.jpg", **json.loads(answer(b"l1").to_json()), "provenance": {"issuer": "someone"}}
    file.write_text(json.dumps(document) + "\n" + line(answer(b"h", confidence="high"), "b.jpg"))
    feed = feed_of(store, images, file)
    assert feed.read(client) == 1
    item = store.claim("ada")
    assert item.name == "a.jpg"
    assert json.loads(item.answer)["provenance"] == {"issuer": "someone"}
    assert images.get(item.sha256) == b"l1"


def test_a_growing_file_is_read_on_and_an_unfinished_line_waits(store, images, folder, client, answer):
    file = folder / "answers.jsonl"
    for number in (1, 2, 3):
        (folder / f"{number}.jpg").write_bytes(b"l%d" % number)
    second = line(answer(b"l2"), "2.jpg")
    file.write_text(line(answer(b"l1"), "1.jpg") + second[:50])
    feed = feed_of(store, images, file)
    assert (feed.read(client), feed.read(client)) == (1, 0)
    with file.open("a") as stream:
        stream.write(second[50:])
    assert feed.read(client) == 1
    file.write_text(line(answer(b"l3"), "3.jpg"))  # rotated
    assert feed.read(client) == 1


def test_a_line_gives_out_no_file_but_the_judged_image(store, images, folder, client, answer, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"l-secret")
    (folder / "link.jpg").symlink_to(secret)
    (folder / "other.jpg").write_bytes(b"l-other")
    os.mkfifo(folder / "pipe")
    file = folder / "answers.jsonl"
    places = (secret, "../secret", "link.jpg", "no\0name", "missing.jpg", "x" * 5000, "pipe")
    known = answer(b"l-secret")  # even with the right sha256 nothing outside the folder is read
    file.write_text("".join(line(known, place) for place in places) + line(answer(b"l9"), "other.jpg"))
    assert feed_of(store, images, file).read(client) == 0
    assert [refusal.code for refusal in refusals(store)] == ["queue.image"] * (len(places) + 1)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "9.jpg").write_bytes(b"l9")
    file.write_text(line(answer(b"l9"), "9.jpg"))
    assert feed_of(store, images, file, roots=(tmp_path / "more",)).read(client) == 1


def test_an_image_without_a_path_is_found_by_its_sha256(store, images, folder, client, answer):
    stored = {answer(b"l1").image.sha256: b"l1", answer(b"l2").image.sha256: b"altered"}
    file = folder / "answers.jsonl"
    file.write_text(line(answer(b"l1")) + line(answer(b"l2")))
    assert feed_of(store, images, file, find_image=stored.get).read(client) == 1
    assert [refusal.code for refusal in refusals(store)] == ["queue.image"]


def test_lines_that_are_no_answers_are_listed(store, images, folder, client):
    file = folder / "answers.jsonl"
    bad = ["no json", "[]", '{"schema": "other/1"}', '{"schema": "veridict/1"}', "", "\udcff"]
    failed = json.dumps({"path": "a.jpg", "error": {"code": "image.truncated", "message": "the file ends"}})
    file.write_text("\n".join([*bad, failed]) + "\n", errors="surrogateescape")
    assert feed_of(store, images, file).read(client) == 0
    assert [refusal.code for refusal in refusals(store)] == ["image.truncated", *["queue.line"] * 5]


def test_an_upload_is_stored_only_when_it_was_judged(store, images, client):
    from veridict.client import VeridictError

    for data, code in ((b"x", "image.corrupt"), (b"l" * (MAX_BYTES + 1), "image.too_large")):
        with pytest.raises(VeridictError) as caught:
            judge_and_add(client, store, images, data, "../../etc/passwd", "upload")
        assert caught.value.code == code
    assert not images.folder.exists()
    item = store.get(judge_and_add(client, store, images, b"h1", "a\nb.jpg", "upload"))
    assert (item.queued, item.name) == (False, "a\N{REPLACEMENT CHARACTER}b.jpg")
