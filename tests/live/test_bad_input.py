"""Bad input against the served detector: a typed error or a right answer, and the same processes afterwards."""

import io
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from PIL import Image
from tritonclient.utils import InferenceServerException

from veridict.client import InvalidImageError, Verdict
from veridict.loadtests.soak.sampling import region_patterns

pytestmark = pytest.mark.live


def count_regions(server):
    """Return how many regions of shared memory the server has."""
    return sum(len(list(Path("/dev/shm").glob(pattern))) for pattern in region_patterns(server.pid))


def stubs(server):
    out = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(server.pid)], capture_output=True, text=True, check=True
    ).stdout
    return sorted(out.split())


def header_only(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IEND", b"")
    )


def cases(cat):
    """Yield (name, bytes, expected codes, or None where a verdict is right)."""
    image = Image.fromarray(cat)

    def save(form, picture=image, **options):
        buffer = io.BytesIO()
        picture.save(buffer, form, **options)
        return buffer.getvalue()

    jpeg, png, webp = save("JPEG"), save("PNG"), save("WEBP")
    yield "empty", b"", {"image.empty"}
    yield "text", b"just some text", {"image.unsupported_format"}
    for name, whole in (("jpeg", jpeg), ("png", png), ("webp", webp)):
        for part in (0.01, 0.3, 0.7, 0.97):
            yield f"truncated {name} {part}", whole[: int(len(whole) * part)], {"image.truncated", "image.corrupt"}
    yield "0xN", header_only(0, 50), {"image.corrupt"}
    yield "65535x65535", header_only(65535, 65535), {"image.too_many_pixels"}
    for form in ("GIF", "BMP", "TIFF"):
        yield form, save(form), {"image.unsupported_format"}
    yield "SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>", {"image.unsupported_format"}
    yield "HEIC", b"\0\0\0\x18ftypheic" + b"\0" * 64, {"image.unsupported_format"}
    yield "too many bytes", jpeg + b"\0" * (20 * 1024 * 1024), {"image.too_large"}
    yield "too many pixels", header_only(10_000, 6_000), {"image.too_many_pixels"}
    yield "CMYK", save("JPEG", image.convert("CMYK")), None
    yield "16-bit PNG", save("PNG", Image.fromarray(cat[:, :, 0].astype(np.uint16) * 257)), None
    yield "palette with alpha", save("PNG", image.convert("P"), transparency=3), None
    yield "animated WebP", save("WEBP", save_all=True, append_images=[image, image]), None
    yield "one pixel", save("PNG", Image.new("RGB", (1, 1))), None
    yield "ribbon", save("PNG", Image.new("RGB", (1, 3000))), None


@pytest.mark.slow
def test_every_bad_input_gets_its_typed_error_and_no_stub_restarts(triton, detector, cat):
    before = stubs(triton)
    shared = count_regions(triton)
    assert before
    assert shared
    wrong = []
    for name, data, expected in cases(cat):
        try:
            result = detector.detect(data)
            assert isinstance(result, Verdict)
            if expected is not None:
                wrong.append((name, result.verdict))
        except InvalidImageError as error:
            if expected is None or error.code not in expected:
                wrong.append((name, error.code))
    assert not wrong
    assert stubs(triton) == before
    assert count_regions(triton) <= shared


@pytest.mark.slow
def test_damage_at_random_never_stops_the_server(triton, detector, encode, cat):
    rng = np.random.default_rng(11)
    before = stubs(triton)
    images = []
    for form in ("JPEG", "PNG", "WEBP"):
        whole = np.frombuffer(encode(cat, form), np.uint8)
        for _ in range(20):
            damaged = whole.copy()
            damaged[rng.integers(0, len(damaged), 8)] = rng.integers(0, 256, 8)
            images.append(damaged.tobytes())
    results = list(detector.detect_many(images, concurrency=8))
    assert len(results) == 60
    assert all(r.verdict is not None or isinstance(r.error, InvalidImageError) for r in results)
    assert stubs(triton) == before


def test_a_request_without_an_image_is_answered(triton):
    tensor = triton_grpc.InferInput("IMAGE", [0, 1], "BYTES")
    tensor.set_data_from_numpy(np.zeros((0, 1), np.object_))
    with triton_grpc.InferenceServerClient(triton.url) as client, pytest.raises(InferenceServerException) as error:
        client.infer("detector", [tensor], client_timeout=20.0)
    assert "INVALID_ARGUMENT" in error.value.status()
