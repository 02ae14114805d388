"""Runs TensorRT engines through the CUDA driver's library alone, without PyTorch or the CUDA toolkit.

The driver (``libcuda``) is there wherever ``nvidia-smi`` answers, and this project's PyTorch may be a CPU build. The
functions are those of the CUDA driver API reference, under the names that the library exports (``_v2`` where the header
renames them). TensorRT works in the device's primary context, so this module retains that context.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from veridict.forensics.arrays import AnyArray

from .engines import EngineError, import_runtime

Launch = Callable[[], None]

_POINTER, _SIZE, _ADDRESS = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint64
#: Exported name -> argument types; every function returns a CUresult, 0 for success.
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cuInit": (ctypes.c_uint,),
    "cuGetErrorString": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
    "cuDeviceGet": (ctypes.POINTER(ctypes.c_int), ctypes.c_int),
    "cuDeviceGetName": (ctypes.c_char_p, ctypes.c_int, ctypes.c_int),
    "cuDevicePrimaryCtxRetain": (ctypes.POINTER(_POINTER), ctypes.c_int),
    "cuDevicePrimaryCtxRelease_v2": (ctypes.c_int,),
    "cuCtxSetCurrent": (_POINTER,),
    "cuMemAlloc_v2": (ctypes.POINTER(_ADDRESS), _SIZE),
    "cuMemFree_v2": (_ADDRESS,),
    "cuMemcpyHtoD_v2": (_ADDRESS, _POINTER, _SIZE),
    "cuMemcpyDtoH_v2": (_POINTER, _ADDRESS, _SIZE),
    "cuStreamCreate": (ctypes.POINTER(_POINTER), ctypes.c_uint),
    "cuStreamSynchronize": (_POINTER,),
    "cuStreamDestroy_v2": (_POINTER,),
    "cuEventCreate": (ctypes.POINTER(_POINTER), ctypes.c_uint),
    "cuEventRecord": (_POINTER, _POINTER),
    "cuEventSynchronize": (_POINTER,),
    "cuEventElapsedTime": (ctypes.POINTER(ctypes.c_float), _POINTER, _POINTER),
    "cuEventDestroy_v2": (_POINTER,),
}
_NON_BLOCKING = 1


class Device(AbstractContextManager["Device"]):
    """CUDA's first device: memory, one stream and timing; a context manager that frees everything.

    Raises (on construction):
        EngineError: there is no driver or no device.
    """

    def __init__(self, library: str = "libcuda.so.1") -> None:
        """Load the driver and take the device's primary context for this thread."""
        try:
            self._library = ctypes.CDLL(library)
            for name, types in _FUNCTIONS.items():
                function = getattr(self._library, name)
                function.argtypes, function.restype = list(types), ctypes.c_int
        except (OSError, AttributeError) as error:
            raise EngineError(f"no usable CUDA driver ({error})") from error
        self._call("cuInit", 0)
        self._number, context, self._stream = ctypes.c_int(), _POINTER(), _POINTER()
        self._call("cuDeviceGet", ctypes.byref(self._number), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._number)
        self._call("cuCtxSetCurrent", context)
        self._call("cuStreamCreate", ctypes.byref(self._stream), _NON_BLOCKING)
        self._memory: list[int] = []

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(status, ctypes.byref(text))
            raise EngineError(f"{name} failed: {(text.value or b'unknown error').decode()} ({status})")

    @property
    def name(self) -> str:
        """Return the device's name, such as ``NVIDIA L4``."""
        text = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", text, len(text), self._number)
        return text.value.decode()

    @property
    def stream(self) -> int:
        """Return the stream's handle, which is also a ``cudaStream_t``."""
        return self._stream.value or 0

    def allocate(self, size: int) -> int:
        """Return the address of ``size`` bytes of device memory; :meth:`free` or :meth:`close` frees them."""
        address = _ADDRESS()
        self._call("cuMemAlloc_v2", ctypes.byref(address), max(1, size))
        self._memory.append(address.value)
        return address.value

    def free(self, address: int) -> None:
        """Free one allocation."""
        self._memory.remove(address)
        self._call("cuMemFree_v2", address)

    def upload(self, address: int, values: AnyArray) -> None:
        """Copy a contiguous array to the device and wait for the copy."""
        self._call("cuMemcpyHtoD_v2", address, values.ctypes.data, values.nbytes)

    def download(self, address: int, values: AnyArray) -> None:
        """Copy from the device into a contiguous array."""
        self._call("cuMemcpyDtoH_v2", values.ctypes.data, address, values.nbytes)

    def synchronise(self) -> None:
        """Wait until the stream has done all its work."""
        self._call("cuStreamSynchronize", self._stream)

    def clock(self, work: Launch) -> float:
        """Return the device time in milliseconds of the work that ``work`` enqueues, measured by CUDA events."""
        events = [_POINTER(), _POINTER()]
        taken = ctypes.c_float()
        for event in events:
            self._call("cuEventCreate", ctypes.byref(event), 0)
        try:
            self._call("cuEventRecord", events[0], self._stream)
            work()
            self._call("cuEventRecord", events[1], self._stream)
            self._call("cuEventSynchronize", events[1])
            self._call("cuEventElapsedTime", ctypes.byref(taken), *events)
        finally:
            for event in events:
                self._call("cuEventDestroy_v2", event)
        return taken.value

    def close(self) -> None:
        """Free memory, stream and context; idempotent."""
        if self._stream.value is None:
            return
        self.synchronise()
        for address in list(self._memory):
            self.free(address)
        self._call("cuStreamDestroy_v2", self._stream)
        self._stream = _POINTER()
        self._call("cuDevicePrimaryCtxRelease_v2", self._number)

    def __exit__(self, *details: object) -> None:
        """Close."""
        self.close()


class LoadedEngine(AbstractContextManager["LoadedEngine"]):
    """An engine on a :class:`Device`, with buffers for its current inputs and outputs; a context manager.

    Raises (on construction):
        EngineError: the runtime is not installed or the engine does not load on this GPU.
    """

    def __init__(self, path: Path, device: Device, runtime: str = "tensorrt") -> None:
        """Load the engine of a file that :func:`~.engines.build_engine` wrote."""
        self._trt, self._device, self._path = import_runtime(runtime), device, path
        # The runtime must outlive the engine, and the logger the runtime.
        self._logger = self._trt.Logger(self._trt.Logger.ERROR)
        self._runtime = self._trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise EngineError(f"{path} does not load on this GPU")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"{path} does not fit into this GPU's memory")
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        given = {n for n in names if self._engine.get_tensor_mode(n) == self._trt.TensorIOMode.INPUT}
        self.inputs = [n for n in names if n in given]
        self.outputs = [n for n in names if n not in given]
        self._buffers: dict[str, tuple[int, int]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def _buffer(self, name: str, size: int) -> int:
        """Return the address of at least ``size`` bytes for a tensor, and give it to the execution context."""
        address, held = self._buffers.get(name, (0, -1))
        if held < size:
            if self._buffers.pop(name, None):
                self._device.free(address)
            address = self._device.allocate(size)
            self._buffers[name] = (address, size)
        if not self._context.set_tensor_address(name, address):
            raise EngineError(f"{self._path}: no buffer can be set for {name}")
        return address

    def give(self, values: Mapping[str, AnyArray]) -> None:
        """Upload every input. Pass types that numpy lacks (fp8) as bytes in the tensor's shape.

        Raises:
            EngineError: an input is missing, has a shape outside the engine's profile or a type of another size.
        """
        if set(values) != set(self.inputs):
            raise EngineError(f"{self._path} takes {', '.join(self.inputs)}, not {', '.join(values)}")
        for name, rows in values.items():
            wanted = self._engine.get_tensor_dtype(name)
            if rows.itemsize != wanted.itemsize:
                raise EngineError(f"{self._path}: {name} is {wanted}, not {rows.dtype}")
            if not self._context.set_input_shape(name, tuple(rows.shape)):
                raise EngineError(f"{self._path}: {name} does not take the shape {rows.shape}")
            self._device.upload(self._buffer(name, rows.nbytes), np.ascontiguousarray(rows))
        for name in self.outputs:
            self._shapes[name] = tuple(self._context.get_tensor_shape(name))
            self._buffer(name, int(np.prod(self._shapes[name])) * int(self._engine.get_tensor_dtype(name).itemsize))

    def launch(self) -> None:
        """Enqueue one execution on the device's stream and return at once.

        Raises:
            EngineError: TensorRT refuses to enqueue it.
        """
        if not self._context.execute_async_v3(self._device.stream):
            raise EngineError(f"{self._path} failed to run")

    def take(self) -> dict[str, AnyArray]:
        """Wait for the stream and return every output, in its own type."""
        self._device.synchronise()
        results = {}
        for name, shape in self._shapes.items():
            results[name] = np.empty(shape, self._trt.nptype(self._engine.get_tensor_dtype(name)))
            self._device.download(self._buffers[name][0], results[name])
        return results

    def close(self) -> None:
        """Free the buffers, the context and the engine; the device stays open."""
        self._device.synchronise()
        self._context = self._engine = self._runtime = None
        for address, _ in self._buffers.values():
            self._device.free(address)
        self._buffers.clear()

    def __exit__(self, *details: object) -> None:
        """Close."""
        self.close()


def run_once(path: Path, values: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
    """Return every output of a ``tensorrt`` engine on this machine's first GPU for one set of inputs.

    Raises:
        EngineError: there is no GPU, or the engine does not load, take the inputs or run here.
    """
    with Device() as device, LoadedEngine(path, device) as engine:
        engine.give(values)
        engine.launch()
        return engine.take()
