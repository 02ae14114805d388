"""Processes that prepare one image at a time, and the fork server that starts them.

A decoder runs in native code: a thread in it cannot be stopped, and its crash ends the whole process. So every image is
prepared in a child process, which is killed when it takes too long and replaced when it died. The children are forked
from a process that has loaded everything (``python -m veridict.deploy.serving.prepare_process``), so a new one is ready
after some milliseconds and shares its memory with the others.

The children get no environment, sockets or threads of the server. They end with the fork server (PR_SET_PDEATHSIG), and
that ends when the process that started it does. What they send is read without pickle: see :func:`read_answer`.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import json
import os
import resource
import signal
import socket
import struct
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from veridict.forensics.allocation import keep_freed_memory
from veridict.forensics.alterations import ALTERATIONS
from veridict.forensics.arrays import Pixels
from veridict.forensics.errors import CODES, ImageError
from veridict.forensics.observation import Observation
from veridict.forensics.preprocess import Prepared, prepare, warm_up
from veridict.forensics.provenance.credentials import load_library
from veridict.forensics.provenance.read import ProvenanceReader
from veridict.forensics.signature import CLIP_SIZE, MAX_FACES

#: Before an image's bytes: the processor time it may take (seconds), their number, and whether re-encodings are wanted.
_REQUEST = struct.Struct("<dQ?")
#: Before an answer: its kind and its length in bytes.
_ANSWER = struct.Struct("<BQ")
_PREPARED, _REFUSED, _FAILED = range(3)
#: Before the arrays of a prepared image: the length of its observation in bytes.
_LENGTH = struct.Struct("<Q")
_VIEW = CLIP_SIZE * CLIP_SIZE * 3
#: More than any answer: the views, and an observation without scores.
_MAX_ANSWER = (1 + MAX_FACES) * _VIEW * (1 + len(ALTERATIONS)) + (1 << 20)
#: To the fork server: start a child (a socket and the settings follow), or end one (its process id follows).
START, END = b"S", b"E"
#: What the fork server answers: a process id, or the exit status as of waitpid(2).
NUMBER = struct.Struct("<q")
_MESSAGE = 4096
_PR_SET_PDEATHSIG = 1
#: The kernel ends such a process before the server when memory runs out; see oom_score_adj in proc(5).
_END_FIRST = "500"


@dataclass(frozen=True)
class ProcessSettings:
    """How a child runs.

    ``memory``: bytes of address space beyond what it starts with. ``niceness``: added to that of the server.
    ``keep_memory``: freed memory stays in the process, which is faster and takes up to some 100 MB. ``trust_list``: the
    path of the certificates whose signers of content credentials are trusted, "" for none.
    """

    memory: int
    niceness: int = 0
    keep_memory: bool = True
    trust_list: str = ""


class ProcessFailed(RuntimeError):
    """Preparing an image failed in a way that is not the image's fault, for example by a programming error."""


def receive(connection: socket.socket, length: int) -> bytearray:
    """Return exactly ``length`` bytes.

    Raises:
        EOFError: the other end is closed.
        TimeoutError: the socket's timeout passed.
    """
    data = bytearray(length)
    view = memoryview(data)
    while len(view):
        count = connection.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return data


def write_request(data: bytes, seconds: float, alterations: bool = False) -> bytes:
    """Return the message that asks a child to prepare an image within ``seconds`` of processor time."""
    return _REQUEST.pack(seconds, len(data), alterations) + data


def read_answer(connection: socket.socket) -> Prepared:
    """Read a child's answer. Nothing in it is executed, whatever a child sends that an image took over.

    Raises:
        ImageError: the image is refused.
        ProcessFailed: preparing failed unexpectedly.
        EOFError: the child ended.
        TimeoutError: the socket's timeout passed.
        ValueError: the child sent something else.
    """
    kind, length = _ANSWER.unpack(receive(connection, _ANSWER.size))
    if length > _MAX_ANSWER:
        raise ValueError(f"an answer of {length} bytes")
    body = bytes(receive(connection, length))
    if kind == _PREPARED:
        return _unpack(body)
    if kind == _REFUSED:
        code, _, detail = body.decode(errors="replace").partition(" ")
        if code in CODES:
            raise ImageError(code, detail)
    raise ProcessFailed(body[:1000].decode(errors="replace"))


def serve_images(connection: socket.socket, provenance: ProvenanceReader) -> None:
    """Answer requests until the other end is closed, or memory ran out: then the process is to be replaced."""
    short_of_memory = False
    while not short_of_memory:
        try:
            seconds, length, alterations = _REQUEST.unpack(receive(connection, _REQUEST.size))
            data = bytes(receive(connection, length))
        except (EOFError, OSError):
            return
        # When the time is over the kernel ends the process, also in the middle of native code.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            kind, body = _PREPARED, _pack(prepare(data, provenance=provenance, alterations=alterations))
        except ImageError as error:
            kind, body = _REFUSED, f"{error.code} {error.detail}".encode()
        except MemoryError:
            kind, body, short_of_memory = _REFUSED, b"image.decode_memory ", True
        except Exception as error:  # the server logs it and goes on
            kind, body = _FAILED, f"{type(error).__name__}: {error}".encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        del data
        try:
            connection.sendall(_ANSWER.pack(kind, len(body)) + body)
        except OSError:
            return


def _pack(prepared: Prepared) -> bytes:
    observation = prepared.observation.to_bytes()
    views = (prepared.view, *prepared.crops, *itertools.chain.from_iterable(prepared.altered))
    return b"".join([_LENGTH.pack(len(observation)), observation, *(view.tobytes() for view in views)])


def _unpack(body: bytes) -> Prepared:
    if len(body) < _LENGTH.size:
        raise ValueError(f"{len(body)} bytes")
    start = _LENGTH.size + _LENGTH.unpack_from(body)[0]
    observation = Observation.from_bytes(body[_LENGTH.size : start])
    each = 1 + len(observation.boxes)
    if len(body) - start not in (each * _VIEW, each * _VIEW * (1 + len(ALTERATIONS))):
        raise ValueError(f"{len(body) - start} bytes of views for {len(observation.boxes)} faces")
    views: Pixels = np.frombuffer(body, np.uint8, offset=start).reshape(-1, CLIP_SIZE, CLIP_SIZE, 3)
    first, *altered = (list(views[place : place + each]) for place in range(0, len(views), each))
    return Prepared(observation, first[0], first[1:], tuple(altered))


def write_start(settings: ProcessSettings) -> bytes:
    """Return the message that asks the fork server for a child; a socket goes with it."""
    return START + json.dumps(asdict(settings)).encode()


def write_end(pid: int) -> bytes:
    """Return the message that asks the fork server to end a child and to tell how it ended."""
    return END + NUMBER.pack(pid)


def run_fork_server(control: socket.socket) -> None:
    """Start and end children as asked, until the other end of ``control`` (SOCK_SEQPACKET) is closed."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, _MESSAGE, 1)
        if not message:
            return
        if message[:1] == START:
            number = _fork(control, socket.socket(fileno=descriptors[0]), ProcessSettings(**json.loads(message[1:])))
        else:
            (pid,) = NUMBER.unpack_from(message, 1)
            os.kill(pid, signal.SIGKILL)  # one that has ended already keeps its own exit status
            number = os.waitpid(pid, 0)[1]
        control.sendall(NUMBER.pack(number))


def _fork(control: socket.socket, connection: socket.socket, settings: ProcessSettings) -> int:
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:  # no memory, or too many processes: the server hears of it and goes on
        return -(error.errno or 1)
    if pid:
        connection.close()
        return pid
    try:
        control.close()
        _set_up_child(parent, settings)
        serve_images(connection, ProvenanceReader(Path(settings.trust_list) if settings.trust_list else None))
    finally:
        os._exit(0)


def _set_up_child(parent: int, settings: ProcessSettings) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the fork server ended before the call
        os._exit(0)
    os.nice(settings.niceness)
    if settings.keep_memory:
        keep_freed_memory()
    try:
        Path("/proc/self/oom_score_adj").write_text(_END_FIRST)
    except OSError:  # a sandbox may forbid it
        pass
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file of a large image would take seconds
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + settings.memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main() -> None:
    """Load everything once, say so, and run the fork server on the socket whose descriptor is the argument."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole process group; the server decides when we end
        signal.signal(number, signal.SIG_IGN)
    import cv2

    cv2.setNumThreads(1)
    warm_up()
    load_library()
    gc.collect()
    gc.freeze()  # else a collection would copy the pages that children share
    with socket.socket(fileno=int(sys.argv[1])) as control:
        control.sendall(NUMBER.pack(os.getpid()))
        run_fork_server(control)


if __name__ == "__main__":
    main()
