"""Banks follow their files: good changes come into force at once, bad ones leave what was in force."""

import os
import threading
import time

import pytest

from veridict.forensics.known_content import reload
from veridict.forensics.known_content.reload import BankWatcher

from .test_banks import A, near, write

PERIOD = 0.02


class Reports(list):
    """The reports of a watcher; ``wait`` returns the next one that holds certain words."""

    def __init__(self):
        self._arrived = threading.Condition()

    def __call__(self, message, sound):
        with self._arrived:
            self.append((message, sound))
            self._arrived.notify_all()

    def wait(self, words):
        with self._arrived:
            found = self._arrived.wait_for(lambda: [r for r in self if words in r[0]], 60)
        assert found, f"no report with {words!r}: {list(self)}"
        self.remove(found[0])
        return found[0]


@pytest.fixture
def reports():
    return Reports()


@pytest.fixture
def watcher(tmp_path, reports):
    write(tmp_path, "deepfake/a.csv", f"{near(1)},1,")
    watching = BankWatcher(tmp_path, reports, PERIOD)
    yield watching
    watching.close()


def found(watcher):
    return [match.id for match in watcher.banks.match(A.hex(), 31)]


def wait_until(holds):
    ends = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.005)


def test_banks_are_there_from_the_start_and_follow_their_files(tmp_path, watcher, reports):
    assert found(watcher) == ["1"]
    version = watcher.banks.version
    write(tmp_path, "real/b.csv", f"{near(2)},2,")
    wait_until(lambda: found(watcher) == ["1", "2"])
    assert watcher.banks.version != version
    (tmp_path / "deepfake/a.csv").unlink()
    wait_until(lambda: found(watcher) == ["2"])
    assert reports.wait("a.csv is gone")[1]
    assert watcher.refused == {}


def test_a_bad_file_leaves_the_old_bank_in_force_and_is_reported_once(tmp_path, watcher, reports):
    write(tmp_path, "deepfake/a.csv", f"{near(2)},2,", "bad,3,")
    message, sound = reports.wait("line 3")
    assert not sound
    assert message.endswith("(its last good version stays in force)")
    assert found(watcher) == ["1"]
    assert list(watcher.refused) == [tmp_path / "deepfake/a.csv"]
    write(tmp_path, "real/b.csv", f"{near(4)},4,")
    wait_until(lambda: found(watcher) == ["1", "4"])
    assert not [report for report in reports if "line 3" in report[0]]
    write(tmp_path, "deepfake/a.csv", f"{near(2)},2,")
    wait_until(lambda: found(watcher) == ["2", "4"])
    assert watcher.refused == {}


def test_bad_files_at_the_start_keep_nothing_else_out(tmp_path, reports):
    write(tmp_path, "deepfake/a.csv", "bad,1,")
    write(tmp_path, "real/b.csv", f"{near(2)},2,")
    (tmp_path / "stray").write_text("")
    watcher = BankWatcher(tmp_path, reports, PERIOD)
    watcher.close()
    assert found(watcher) == ["2"]
    assert set(watcher.refused) == {tmp_path / "deepfake/a.csv", tmp_path / "stray"}
    assert reports.wait("line 2")[0].endswith("(it is not in force)")


def test_a_folder_that_goes_away_leaves_the_banks_in_force(tmp_path, reports):
    folder = tmp_path / "known"
    write(folder, "deepfake/a.csv", f"{near(1)},1,")
    watcher = BankWatcher(folder, reports, PERIOD)
    try:
        folder.rename(tmp_path / "elsewhere")
        assert not reports.wait("No such file")[1]
        assert found(watcher) == ["1"]
        (tmp_path / "elsewhere").rename(folder)
        wait_until(lambda: watcher.refused == {})
        assert found(watcher) == ["1"]
    finally:
        watcher.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_banks_of_a_folder_that_cannot_be_read_stay_in_force(tmp_path, watcher, reports):
    write(tmp_path, "real/b.csv", f"{near(2)},2,")
    wait_until(lambda: found(watcher) == ["1", "2"])
    (tmp_path / "real").chmod(0)
    try:
        assert not reports.wait("Permission denied")[1]
        write(tmp_path, "deepfake/a.csv", f"{near(3)},3,")
        wait_until(lambda: found(watcher) == ["2", "3"])
    finally:
        (tmp_path / "real").chmod(0o755)


def test_a_failure_of_the_thread_is_reported_and_files_are_still_followed(tmp_path, watcher, reports, monkeypatch):
    def fail(banks):
        raise MemoryError("no memory")

    with monkeypatch.context() as patched:
        patched.setattr(reload, "Banks", fail)
        write(tmp_path, "real/b.csv", f"{near(2)},2,")
        assert not reports.wait("MemoryError: no memory")[1]
    assert found(watcher) == ["1"]
    write(tmp_path, "real/c.csv", f"{near(3)},3,")
    wait_until(lambda: found(watcher) == ["1", "2", "3"])


def test_a_file_that_is_being_written_is_not_read_halfway(tmp_path, reports):
    """Every state of the growing file would be a sound bank; only the last one may come into force."""
    write(tmp_path, "deepfake/a.csv", f"{near(1)},0,")
    watcher = BankWatcher(tmp_path, reports, 0.5)
    try:
        with (tmp_path / "deepfake/a.csv").open("a") as stream:
            for number in range(1, 30):
                stream.write(f"{near(1)},{number},\n")
                stream.flush()
                time.sleep(0.05)
        wait_until(lambda: len(watcher.banks) > 1)
        assert len(watcher.banks) == 30
    finally:
        watcher.close()


def test_a_link_that_is_swapped_is_a_change(tmp_path, watcher):
    """Kubernetes updates a mounted ConfigMap by swapping a link to a folder."""
    for name, bits in (("..1", 6), ("..2", 7)):
        write(tmp_path, f"{name}/b.csv", f"{near(bits)},{bits},")
    os.symlink("../..1/b.csv", tmp_path / "deepfake/b.csv")
    wait_until(lambda: found(watcher) == ["1", "6"])
    os.symlink("../..2/b.csv", tmp_path / "deepfake/.new")
    os.replace(tmp_path / "deepfake/.new", tmp_path / "deepfake/b.csv")
    wait_until(lambda: found(watcher) == ["1", "7"])


def test_a_search_meets_whole_states_only(tmp_path, watcher):
    """While a bank of two entries is replaced again and again, a search finds both old or both new entries."""
    seen, stop = set(), threading.Event()

    def search():
        while not stop.is_set():
            seen.add(tuple(found(watcher)))

    thread = threading.Thread(target=search)
    thread.start()
    try:
        for names in ("cd", "ef"):
            rows = [f"{near(bits)},{name}," for bits, name in enumerate(names, 1)]
            write(tmp_path, "deepfake/.new", *rows)
            os.replace(tmp_path / "deepfake/.new", tmp_path / "deepfake/a.csv")
            wait_until(lambda names=names: tuple(names) in seen)
    finally:
        stop.set()
        thread.join()
    assert seen <= {("1",), ("c", "d"), ("e", "f")}
