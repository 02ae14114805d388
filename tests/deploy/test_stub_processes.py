"""Dead and stopped Python processes of a server are found, on a process table of our own making."""

import shutil

import pytest

from veridict.deploy.stub_processes import StubWatch, find_stubs, model_of, read_state

SERVER = 100


class Processes:
    """A folder like /proc, and a clock."""

    def __init__(self, root):
        self.root, self.now = root, 0.0
        self.put(SERVER, "tritonserver", 1)

    def put(self, pid, name, parent, state="S", model=""):
        folder = self.root / str(pid)
        folder.mkdir(exist_ok=True)
        (folder / "stat").write_text(f"{pid} ({name}) {state} {parent} {parent} 0 0")
        words = f"stub\0/repository/{model}/1/model.py\0prefix" if model else ""
        (folder / "cmdline").write_bytes(words.encode())

    def stub(self, pid, model, state="S"):
        self.put(pid, "triton_python_b", SERVER, state, model)

    def end(self, pid):
        shutil.rmtree(self.root / str(pid))


@pytest.fixture
def processes(tmp_path):
    (tmp_path / "self").mkdir()  # /proc holds more than processes
    return Processes(tmp_path)


@pytest.fixture
def watch(processes):
    processes.stub(101, "preprocess")
    processes.stub(102, "clip_image")
    watch = StubWatch(SERVER, processes.root, lambda: processes.now)
    assert watch.find_fault() == ""
    return watch


def test_stubs_are_the_servers_own(processes, watch):
    processes.put(200, "triton_python_b", 999)
    processes.put(201, "bash (x)", SERVER)
    assert find_stubs(SERVER, processes.root) == {101: "S", 102: "S"}
    assert read_state(201, processes.root) == ("bash (x)", SERVER, "S")
    assert read_state(12345, processes.root) == ("", 0, "")
    assert model_of(102, processes.root) == "clip_image"


def test_a_dead_stub_is_a_fault_that_names_its_model(processes, watch):
    processes.stub(102, "", state="Z")  # a zombie has no command line
    assert watch.find_fault() == ""  # the server may be about to collect it
    processes.now += 0.4
    assert watch.find_fault() == "the Python process 102 of the model clip_image died"


def test_a_stub_that_the_server_collects_is_no_fault(processes, watch):
    processes.stub(101, "", state="Z")
    assert watch.find_fault() == ""
    processes.end(101)
    processes.now += 5.0
    assert watch.find_fault() == ""


def test_a_stopped_stub_is_a_fault_after_a_while_unless_the_server_is_stopped_too(processes, watch):
    processes.stub(101, "preprocess", state="T")
    assert watch.find_fault() == ""
    processes.now += 2.0
    assert watch.find_fault() == ""
    processes.put(SERVER, "tritonserver", 1, "T")
    processes.now += 2.0
    assert watch.find_fault() == ""
    processes.put(SERVER, "tritonserver", 1)
    assert watch.find_fault() == ""
    processes.now += 3.5
    assert "of the model preprocess is stopped" in watch.find_fault()


def test_stubs_that_start_later_are_watched(processes, watch):
    processes.stub(103, "fusion")
    processes.now += 2.5
    watch.find_fault()
    processes.stub(103, "", state="Z")
    watch.find_fault()
    processes.now += 0.5
    assert "of the model fusion died" in watch.find_fault()
