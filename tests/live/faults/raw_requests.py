"""Requests that no client of ours would send: any model, tensors, bytes and parameters, straight over gRPC."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

#: Name, data type and shape.
Tensor = tuple[str, str, Sequence[int]]
IMAGE: Tensor = ("IMAGE", "BYTES", (1, 1))


def encode_strings(*items: bytes) -> bytes:
    """Return the raw content of a BYTES tensor: each item after its length in four bytes."""
    return b"".join(struct.pack("<I", len(item)) + item for item in items)


def make_request(
    raw: Sequence[bytes], tensors: Sequence[Tensor] = (IMAGE,), model: str = "detector", **fields: str
) -> service_pb2.ModelInferRequest:
    """Return a request with these tensors and raw contents; ``fields``: such as ``id`` and ``model_version``."""
    request = service_pb2.ModelInferRequest(model_name=model, **fields)
    for name, kind, shape in tensors:
        request.inputs.add(name=name, datatype=kind, shape=shape)
    request.raw_input_contents.extend(raw)
    return request


@contextmanager
def open_stub(url: str) -> Iterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    """Yield a stub on a connection of its own."""
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(url, options=options) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def outcome(
    stub: service_pb2_grpc.GRPCInferenceServiceStub, request: service_pb2.ModelInferRequest, seconds: float = 60.0
) -> tuple[str, str]:
    """Return the gRPC status of a request ("OK" for an answer) and its message."""
    try:
        stub.ModelInfer(request, timeout=seconds)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""
