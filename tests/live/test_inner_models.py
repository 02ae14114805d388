"""The steps behind the detector can be called by whoever reaches the port: nonsense is refused and harms nobody."""

from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.live


def strings(*values):
    return "BYTES", np.array([[value] for value in values], dtype=np.object_)


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        ("fusion", {"OBSERVATION": strings(b""), "SLOT": ("INT64", np.zeros((1, 2), np.int64))}),
        ("fusion", {"OBSERVATION": strings(b"{}"), "SLOT": ("INT64", np.zeros((1, 2), np.int64))}),
        ("fusion", {"OBSERVATION": strings(bytes(range(256)) * 40), "SLOT": ("INT64", np.full((1, 2), -1, np.int64))}),
        ("fusion", {"OBSERVATION": strings(b"\x80\x04." * 9), "SLOT": ("INT64", np.full((1, 2), 2**62, np.int64))}),
        ("fusion", {"OBSERVATION": strings(b"x"), "SLOT": ("INT64", np.zeros((1, 3), np.int64))}),
        ("clip_image", {"PIXELS": ("UINT8", np.zeros((1, 10, 10, 3), np.uint8))}),
        ("face_cnn", {"PIXELS": ("UINT8", np.zeros((65, 224, 224, 3), np.uint8))}),
        ("preprocess", {"IMAGE": strings(b"../../etc/passwd")}),
        ("preprocess", {"IMAGE": strings(b"http://127.0.0.1:1/a.jpg", b"")}),
        ("clip_text", {"TOKENS": ("INT32", np.full((1, 31), 2**31 - 1, np.int32))}),
    ],
)
def test_nonsense_is_refused_and_the_next_image_is_judged(triton, detector, encode, cat, model, inputs):
    tensors = []
    for name, (kind, values) in inputs.items():
        tensors.append(triton_grpc.InferInput(name, list(values.shape), kind))
        tensors[-1].set_data_from_numpy(values)
    with triton_grpc.InferenceServerClient(triton.url) as client, pytest.raises(InferenceServerException) as caught:
        client.infer(model, tensors, client_timeout=60)
    shown = str(caught.value)
    assert not [text for text in ("Traceback", "site-packages", ".py", str(Path.cwd())) if text in shown], shown
    assert detector.detect(encode(cat)).verdict in ("real", "deepfake")


def test_a_client_cannot_make_shared_memory_of_the_server_readable(triton):
    """Registering names such as those of Triton's own regions is what a client would begin with."""
    with triton_grpc.InferenceServerClient(triton.url) as client, pytest.raises(InferenceServerException) as caught:
        client.register_system_shared_memory("mine", "/veridict-slots-1-1", 16)
    assert "restricted" in str(caught.value)
