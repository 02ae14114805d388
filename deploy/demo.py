"""``veridict demo``: start a server, judge photographs and manipulated versions of them, and write an HTML report."""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import cv2
import numpy as np

from veridict.client import DetectorClient, VeridictError
from veridict.forensics.arrays import Pixels

from .launcher import LaunchError, ServerSettings
from .manifest import RepositoryError
from .own_server import own_server


def _encode(pixels: Pixels, form: str = "JPEG") -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, quality=90)
    return buffer.getvalue()


def splice(background: Pixels, part: Pixels, center: tuple[int, int]) -> Pixels:
    """Return ``background`` with an ellipse of ``part`` pasted at ``center`` (x, y), lightly feathered."""
    height, width = part.shape[:2]
    mask = np.zeros((height, width), np.float32)
    cv2.ellipse(mask, (width // 2, height // 2), (width * 2 // 5, height * 2 // 5), 0, 0, 360, 1.0, -1)
    mask = cv2.GaussianBlur(mask, (0, 0), 2)[:, :, None]
    left, top = center[0] - width // 2, center[1] - height // 2
    result = background.copy()
    region = result[top : top + height, left : left + width].astype(np.float32)
    result[top : top + height, left : left + width] = (part * mask + region * (1 - mask)).astype(np.uint8)
    return result


def blend_face(pixels: Pixels, box: tuple[int, int, int, int]) -> Pixels:
    """Return the image with its face replaced by a mirrored, smoothed, toned copy: the steps of a simple face swap."""
    x, y, width, height = box
    face = np.ascontiguousarray(pixels[y : y + height, x : x + width][:, ::-1])
    small = cv2.resize(face, (96, 96), interpolation=cv2.INTER_AREA)
    soft = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    toned = np.clip(soft.astype(np.float32) * [1.06, 1.0, 0.95] + 4, 0, 255).astype(np.uint8)
    return splice(pixels, toned, (x + width // 2, y + height // 2))


def generated_texture(side: int = 512, seed: int = 7) -> Pixels:
    """Return an image that no camera took: sinusoids that warp each other, in saturated colours."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side * 2 * np.pi
    channels = []
    for _ in range(3):
        a, b, c = rng.uniform(1, 5, 3)
        warp = np.sin(a * x + 2 * np.sin(b * y)) + np.cos(c * y + 1.5 * np.sin(a * x + y))
        channels.append(127.5 + 63 * warp)
    return np.asarray(np.clip(np.stack(channels, axis=2), 0, 255), dtype=np.uint8)


def sample_images() -> dict[str, bytes]:
    """Return the demo's encoded files by name: photographs from scikit-image, and manipulated versions of them."""
    from skimage import data

    from veridict.forensics.faces import find_faces

    astronaut, cat, coffee = (np.ascontiguousarray(x[:, :, :3]) for x in (data.astronaut(), data.cat(), data.coffee()))
    rocket = np.ascontiguousarray(data.rocket()[:, :, :3])
    boxes = find_faces(astronaut)
    cut = cv2.resize(cat[20:280, 100:400], (150, 130), interpolation=cv2.INTER_AREA)
    images = {
        "photo-astronaut.jpg": _encode(astronaut),
        "photo-cat.jpg": _encode(cat),
        "photo-coffee.jpg": _encode(coffee),
        "photo-rocket.jpg": _encode(rocket),
        "manipulated-splice.jpg": _encode(splice(coffee, cut, (470, 100))),
        "generated-texture.png": _encode(generated_texture(), "PNG"),
    }
    if boxes:
        images["manipulated-face-blend.jpg"] = _encode(blend_face(astronaut, boxes[0]))
    return images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--output", type=Path, default=Path("build/demo"), help="folder for the images and the report")


def run(arguments: argparse.Namespace) -> int:
    """Judge the samples on a server that the demo starts; return 0 if every sample has a verdict, otherwise 1."""
    from veridict.explain.reports.report import Entry, render_report

    folder: Path = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[Entry] = []
    print("starting tritonserver on free loopback ports ...", flush=True)
    try:
        settings = ServerSettings(grpc_port=0, http_port=0, metrics_port=0)
        with own_server(settings) as server, DetectorClient(server.url) as client:
            for name, data in sample_images().items():
                (folder / name).write_bytes(data)
                try:
                    verdict = client.detect(data)
                    entries.append(Entry(name, data, verdict))
                    print(f"\n{name}\n{verdict.to_text()}", flush=True)
                except VeridictError as error:
                    entries.append(Entry(name, data, None, f"[{error.code}] {error.message}"))
                    print(f"\n{name}: [{error.code}] {error.message}", flush=True)
    except (LaunchError, RepositoryError) as error:
        print(f"veridict demo: {error}", file=sys.stderr)
        return 1
    report = folder / "report.html"
    report.write_text(render_report(entries, "Veridict demo"))
    print(f"\nreport: {report}", flush=True)
    return 0 if all(entry.verdict is not None for entry in entries) else 1
