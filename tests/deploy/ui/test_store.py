"""Items are held by one reviewer at a time, and decisions are stored once and for good."""

import threading

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from veridict.deploy.ui.database import DatabaseError, open_database, transaction
from veridict.deploy.ui.records import count, latest_decisions
from veridict.deploy.ui.schema import Decision
from veridict.deploy.ui.store import ReviewError, ReviewStore, reviewer_name


def test_the_most_urgent_item_comes_first_and_people_before_others(store, add, face):
    far = add(b"1", fake_probability=0.1)
    near = add(b"2", fake_probability=0.79)
    person = add(b"3", fake_probability=0.1, faces=(face,), faces_found=1)
    order = []
    while (item := store.claim("ada")) is not None:
        order.append(item.id)
        store.decide(item.id, "ada", "unsure")
    assert order == [person.id, near.id, far.id]


def test_an_item_is_handed_to_one_reviewer_only(store, add):
    add(b"1")
    held = store.claim("ada")
    assert store.claim("ada").id == held.id  # after a reload the same one
    assert store.claim("bob") is None
    assert not store.claim_item(held.id, "bob")
    add(b"2")
    assert store.claim("bob").id != held.id


def test_an_item_is_free_again_when_the_lease_is_over(store, add, clock):
    add()
    held = store.claim("ada")
    clock.now += 59
    assert store.claim_item(held.id, "ada")  # renewed
    clock.now += 59
    assert store.claim("bob") is None
    clock.now += 2
    assert store.claim("bob").id == held.id
    with pytest.raises(ReviewError, match="bob is working on this item") as caught:
        store.decide(held.id, "ada", "confirm")
    assert caught.value.code == "review.held"


def test_reviewers_at_the_same_time_get_different_items(database, add, clock):
    items = {add(str(number).encode()).id for number in range(40)}
    claimed, failures = [], []

    def review(name):
        own = ReviewStore(open_database(database), lease=60.0, clock=clock)  # connections of its own, as a process has
        try:
            while (item := own.claim(name)) is not None:
                claimed.append(item.id)
                own.decide(item.id, name, "confirm")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=review, args=(f"reviewer {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert sorted(claimed) == sorted(items)


def test_a_decision_keeps_who_when_why_and_the_whole_answer(store, add, clock, database):
    item = add()
    store.claim("ada")
    store.decide(item.id, "ada", "overturn", " a face swap ")
    again = ReviewStore(open_database(database), clock=clock)  # as after a restart
    ((decision, found),) = latest_decisions(again)
    assert (decision.kind, decision.reason, decision.reviewer, decision.at) == (
        "overturn",
        "a face swap",
        "ada",
        clock.now,
    )
    assert decision.answer == found.answer
    assert '"explanation":"CLIP favors' in decision.answer
    assert again.claim("ada") is None


def test_the_second_decision_on_an_item_is_refused(store, add):
    item = add()
    store.claim("ada")
    store.decide(item.id, "ada", "confirm")
    for name in ("ada", "bob"):
        with pytest.raises(ReviewError, match="ada decided this item before: confirm") as caught:
            store.decide(item.id, name, "overturn")
        assert caught.value.code == "review.decided"
    assert count(store).decided == 1


def test_the_database_itself_refuses_two_decisions_on_an_item(store, add, clock):
    item = add()
    store.decide(item.id, "ada", "confirm")
    twin = {"item": item.id, "kind": "overturn", "reason": "", "reviewer": "bob", "at": clock.now, "answer": "{}"}
    with pytest.raises(IntegrityError), transaction(store.sessions) as session:
        session.add(Decision(active_item=item.id, **twin))


def test_undo_opens_the_item_again_and_keeps_the_record(store, add, clock):
    first, second = add(b"1"), add(b"2")
    store.decide(first.id, "ada", "confirm")
    clock.now += 1
    store.decide(second.id, "ada", "confirm")
    assert store.undo("bob") is None  # not his decisions
    assert store.undo("ada").id == second.id
    assert store.claim("ada").id == second.id  # the item to decide next
    store.decide(second.id, "ada", "overturn")
    with transaction(store.sessions) as session:
        kinds = [(d.kind, d.undone is None) for d in session.scalars(select(Decision).order_by(Decision.id))]
    assert kinds == [("confirm", True), ("confirm", False), ("overturn", True)]
    assert [store.undo("ada") is None for _ in range(3)] == [False, False, True]


def test_a_skipped_item_comes_back_last_for_that_reviewer_only(store, add, clock):
    first, second = add(b"1", fake_probability=0.79), add(b"2")
    assert store.claim("ada").id == first.id
    store.skip(first.id, "ada")
    assert store.claim("bob").id == first.id
    store.release(first.id, "bob")
    assert store.claim("ada").id == second.id
    clock.now += 1
    store.skip(second.id, "ada")
    assert store.claim("ada").id == first.id


def test_an_image_becomes_one_item(store, answer):
    item, new = store.add(answer(b"1"), "a.jpg", "upload by ada")
    assert new
    assert item.queued  # low confidence
    known, new = store.add(answer(b"1", fake_probability=0.1), "b.jpg", "folder")
    assert (new, known.id, known.fake_probability) == (False, item.id, 0.4)
    sure, _ = store.add(answer(b"2", confidence="high"), "c.jpg", "upload by ada")
    assert not sure.queued
    assert store.add(answer(b"2", confidence="high"), "c.jpg", "folder", queued=True)[0].queued


@pytest.mark.parametrize("text", ["", "  ", "a" * 129, "a\nb", "\x00"])
def test_names_are_checked(text):
    with pytest.raises(ReviewError, match="printable"):
        reviewer_name(text)


def test_wrong_decisions_change_nothing(store, add):
    item = add()
    for item_id, kind, reason, code in (
        (item.id, "maybe", "", "review.unknown"),
        (99, "confirm", "", "review.unknown"),
        (item.id, "confirm", "x" * 4001, "review.reason"),
    ):
        with pytest.raises(ReviewError) as caught:
            store.decide(item_id, "ada", kind, reason)
        assert caught.value.code == code
    assert count(store).decided == 0


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "cannot be used"),
        ("nosuch://host/x", "cannot be used"),
        ("sqlite:////no/such/folder/x.sqlite", "unable to open"),
        ("postgresql+nodriver://host/x", "cannot be used"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_sentence(url, words):
    with pytest.raises(DatabaseError, match=words):
        open_database(url)


def test_tables_of_another_version_are_refused(database):
    from sqlalchemy import create_engine, text

    with create_engine(database).begin() as connection:
        connection.execute(text("CREATE TABLE review_items (id INTEGER PRIMARY KEY)"))
    with pytest.raises(DatabaseError, match="table review_items is of another version"):
        open_database(database)
