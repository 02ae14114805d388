"""A pretended GPU, ONNX graphs made by hand, and a pipeline whose figures are made up."""

import ctypes
import time
import types
from contextlib import contextmanager

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from veridict.export.convert import engine_run
from veridict.loadtests.bench.pipelines import Pipeline
from veridict.loadtests.closed_loop import Block


class HostDevice:
    """Stands in for :class:`Device`: its memory is the host's, and every launch takes a millisecond."""

    stream = 77

    def __init__(self):
        self.blocks = {}

    def allocate(self, size):
        block = np.zeros(size, np.uint8)
        self.blocks[block.ctypes.data] = block
        return block.ctypes.data

    def free(self, address):
        del self.blocks[address]

    def upload(self, address, values):
        self.blocks[address][: values.nbytes] = np.frombuffer(values.tobytes(), np.uint8)

    def download(self, address, values):
        ctypes.memmove(values.ctypes.data, address, values.nbytes)

    def synchronise(self):
        pass

    def clock(self, work):
        work()
        return 1.0

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


class DType:
    def __init__(self, kind):
        self.kind, self.itemsize = kind, np.dtype(kind).itemsize


class Context:
    """An execution context of an engine X uint8 [-1, 3] -> Y float32 [-1, 1], the sum of each row."""

    def __init__(self):
        self.addresses, self.shape = {}, None

    def set_input_shape(self, name, shape):
        self.shape = shape
        return name == "X" and len(shape) == 2 and shape[1] == 3 and 1 <= shape[0] <= 64

    def get_tensor_shape(self, name):
        return self.shape if name == "X" else (self.shape[0], 1)

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        assert stream == HostDevice.stream
        rows = self.shape[0]
        given = np.frombuffer((ctypes.c_uint8 * (3 * rows)).from_address(self.addresses["X"]), np.uint8)
        made = given.reshape(rows, 3).sum(axis=1).astype(np.float32)
        ctypes.memmove(self.addresses["Y"], made.ctypes.data, made.nbytes)
        return True


@pytest.fixture
def pretended(monkeypatch, tmp_path):
    """A runtime with the part of TensorRT's API that is used, the file of an engine, and the device it runs on."""
    types_of = {"X": DType(np.uint8), "Y": DType(np.float32)}
    engine = types.SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=lambda i: "XY"[i],
        get_tensor_mode=lambda n: "in" if n == "X" else "out",
        get_tensor_dtype=types_of.__getitem__,
        create_execution_context=Context,
    )
    logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None})
    runtime = type(
        "Runtime",
        (),
        {
            "__init__": lambda self, log: None,
            "deserialize_cuda_engine": lambda self, data: engine if data == b"engine" else None,
        },
    )
    module = types.SimpleNamespace(
        Logger=logger,
        Runtime=runtime,
        TensorIOMode=types.SimpleNamespace(INPUT="in"),
        nptype=lambda dtype: dtype.kind,
        __version__="11.4.0",
    )
    monkeypatch.setattr(engine_run, "import_runtime", lambda name: module)
    path = tmp_path / "model.plan"
    path.write_bytes(b"engine")
    return path, HostDevice()


def graph_of(nodes, inputs, outputs, stored=()):
    value = helper.make_tensor_value_info
    given = [value(n, TensorProto.FLOAT, dims) for n, dims in inputs.items()]
    made = [value(n, TensorProto.FLOAT, dims) for n, dims in outputs.items()]
    weights = [numpy_helper.from_array(np.zeros(d, np.float32), n) for n, d in dict(stored).items()]
    body = helper.make_graph(nodes, "test", given, made, weights)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)


def block(rate=10.0, latencies=(1.0, 2.0, 3.0), seconds=2.0, server=1.0, generator=0.5, rejected=0, memory=None):
    return Block(latencies, round(rate * seconds), rejected, seconds, generator, server, memory)


class Fake(Pipeline):
    """A pipeline that answers at once and records its events."""

    def __init__(self, name="fake", serial=False):
        super().__init__(name, None)
        self.serial, self.events = serial, []

    @contextmanager
    def connect(self, data, batch=1):
        def call():
            self.events.append("call")
            time.sleep(0.002)
            return batch

        yield call

    def pause(self):
        self.events.append("pause")

    def resume(self):
        self.events.append("resume")
