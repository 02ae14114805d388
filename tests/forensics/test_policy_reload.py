"""Hot reload of policies: good states come into force as a whole, bad ones leave what was in force."""

import threading

import pytest

from veridict.forensics.named_policies import PolicyFilesError, load_policies
from veridict.forensics.policy_reload import PolicyWatcher

from .test_policies import put

PERIOD = 0.02


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "policies"
    path.mkdir()
    return path


class Followed:
    """A watcher whose reports can be waited for."""

    def __init__(self, folder, judgement):
        self._arrived = threading.Condition()
        self.reports = []
        self.watcher = PolicyWatcher(folder, lambda path: load_policies(path, judgement), self._report, PERIOD)

    def _report(self, message, sound):
        with self._arrived:
            self.reports.append((message, sound))
            self._arrived.notify_all()

    def wait(self, words):
        with self._arrived:
            found = self._arrived.wait_for(lambda: [r for r in self.reports if words in r[0]], 60)
            assert found, f"no report with {words!r}: {self.reports}"
            self.reports.clear()
        return found[0][1]


def test_a_new_state_comes_into_force_and_a_bad_one_leaves_the_old_one(folder, judgement):
    put(folder, "one")
    followed = Followed(folder, judgement)
    watcher = followed.watcher
    try:
        assert set(watcher.policies.by_name) == {"one"}
        put(folder, "two", decisions={"general": {"threshold": 0.8}})
        assert followed.wait("in force: one, two")
        put(folder, "two", decisions={"general": {"threshold": 8}})
        assert not followed.wait("two.json: decisions.general: the threshold must lie inside (0, 1) (the policies that")
        assert "two.json" in watcher.refused
        assert watcher.policies.by_name["two"].judgement.policy.decisions["general"].threshold == 0.8
        moved = folder.rename(folder.with_name("gone"))
        assert not followed.wait(f"{folder}: No such file or directory")
        assert set(watcher.policies.by_name) == {"one", "two"}
        moved.rename(folder)
        assert not followed.wait("two.json")
        (folder / "two.json").unlink()
        assert followed.wait("in force: one")
        assert watcher.refused == ""
    finally:
        watcher.close()


def test_a_folder_that_cannot_be_used_at_the_start_is_an_error(folder, judgement):
    put(folder, "bad", x=1)
    with pytest.raises(PolicyFilesError, match=r"bad\.json: x: unknown entry"):
        Followed(folder, judgement)
    with pytest.raises(FileNotFoundError):
        Followed(folder / "none", judgement)
