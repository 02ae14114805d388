"""Peer: the textbook pipeline that tutorials describe, one image at a time behind Flask.

Pillow decodes and re-compresses, numpy computes the Laplacian in float64, OpenCV's Haar cascade finds faces in the full
image, and PyTorch runs our open_clip and face CNN weights in eager mode in float32.
"""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageChops

from veridict.forensics.arrays import Pixels

from .options import peer_parser

_SIZE = 224


def decode(data: bytes) -> Image.Image:
    """Return the decoded image in RGB."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def error_level(image: Image.Image, quality: int = 90) -> float:
    """Return the mean error level: the mean absolute RGB difference to the image after one more JPEG compression."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    again = Image.open(io.BytesIO(buffer.getvalue()))
    return float(np.asarray(ImageChops.difference(image, again)).mean())


def laplacian_variance(grey: Pixels) -> float:
    """Return the variance of the 4-neighbour Laplacian in float64."""
    values = grey.astype(np.float64)
    inner = values[1:-1, 1:-1]
    return float((values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:] - 4 * inner).var())


def residual_median(grey: Pixels) -> float:
    """Return the mean of |grey - 3x3 median| in float64: the fast noise residual of tutorials."""
    return float(np.abs(grey.astype(np.float64) - cv2.medianBlur(grey, 3)).mean())


def residual_nlm(grey: Pixels) -> float:
    """Return the mean of |grey - non-local means| in float64: the usual noise residual of tutorials."""
    return float(np.abs(grey.astype(np.float64) - cv2.fastNlMeansDenoising(grey)).mean())


RESIDUALS: dict[str, Callable[[Pixels], float]] = {"median": residual_median, "nlm": residual_nlm}


def measure(data: bytes, residual: str = "median") -> dict[str, float]:
    """Decode an image and return its ELA, blur and noise: the forensic part of the pipeline."""
    image = decode(data)
    grey = np.asarray(image.convert("L"))
    return {
        "ela": error_level(image),
        "blur": laplacian_variance(grey),
        "noise": RESIDUALS[residual](grey),
    }


class TextbookPipeline:
    """Decodes, measures, finds faces and runs CLIP and the face CNN, one image after the other."""

    def __init__(self, residual: str, cuda: bool = False) -> None:
        """Load the bundled weights through open_clip and the training code, and embed the prompts once."""
        import torch

        from veridict.export.bundled import FACE_WEIGHTS
        from veridict.export.models.clip_model import load_clip
        from veridict.export.models.face_cnn import load_face_cnn
        from veridict.export.prompts import embed_prompts, read_prompts

        self._torch, self._residual = torch, RESIDUALS[residual]
        self._device = "cuda" if cuda and torch.cuda.is_available() else "cpu"
        backbone = load_clip()
        prompts = read_prompts()
        self._labels = list(prompts.categories)
        self._bank = embed_prompts(backbone, prompts).to(self._device)
        self._scale = backbone.scale
        self._clip = backbone.visual.to(self._device)
        self._mean, self._std = (
            torch.tensor(v, device=self._device)[:, None, None] for v in (backbone.mean, backbone.std)
        )
        self._face = load_face_cnn(FACE_WEIGHTS).to(self._device)
        cascades = Path(cv2.__file__).parent / "data"
        self._cascade = cv2.CascadeClassifier(str(cascades / "haarcascade_frontalface_default.xml"))

    def detect(self, data: bytes) -> dict[str, Any]:
        """Return the answer for an encoded image, with the milliseconds of each stage."""
        times: dict[str, float] = {}

        def timed(name: str, work: Callable[[], Any]) -> Any:
            started = time.perf_counter()
            result = work()
            times[name] = round(1e3 * (time.perf_counter() - started), 3)
            return result

        image = timed("decode", lambda: decode(data))
        grey = np.asarray(image.convert("L"))
        ela = timed("ela", lambda: error_level(image))
        blur = timed("blur", lambda: laplacian_variance(grey))
        noise = timed("noise", lambda: self._residual(grey))
        boxes = timed("find_faces", lambda: self._cascade.detectMultiScale(grey, 1.1, 5))
        faces = timed("face_cnn", lambda: [self._score(image, tuple(int(v) for v in box)) for box in boxes])
        shares = timed("clip", lambda: self._classify(image))
        fake = max([shares["deepfake"], *faces])
        return {
            "verdict": "deepfake" if fake >= 0.5 else "real",
            "fake_probability": fake,
            "category": shares["category"],
            "faces": faces,
            "forensics": {"ela": ela, "blur": blur, "noise": noise},
            "timings_ms": times,
        }

    def _score(self, image: Image.Image, box: tuple[int, ...]) -> float:
        x, y, width, height = box
        crop = image.crop((x, y, x + width, y + height)).resize((_SIZE, _SIZE))
        with self._torch.inference_mode():
            pixels = self._torch.from_numpy(np.array(crop))[None].to(self._device)
            return float(self._face(pixels).sigmoid())

    def _classify(self, image: Image.Image) -> dict[str, Any]:
        torch = self._torch
        view = np.array(image.resize((_SIZE, _SIZE), Image.Resampling.BICUBIC))
        with torch.inference_mode():
            pixels = torch.from_numpy(view).to(self._device).permute(2, 0, 1).float() / 255
            features = self._clip(((pixels - self._mean) / self._std)[None])
            embedding = torch.nn.functional.normalize(features, dim=-1)
            logits = self._scale * embedding[0] @ self._bank.T
            pair, best = logits[:2].softmax(dim=0), int(logits[2:].argmax())
        return {"deepfake": float(pair[1]), "category": self._labels[best]}


def main() -> None:
    """Serve ``POST /predict`` (an encoded image) and ``GET /health``."""
    parser = peer_parser("the textbook pipeline behind Flask; --repository is ignored, the weights are the checkpoints")
    parser.add_argument("--residual", choices=tuple(RESIDUALS), default="median")
    arguments = parser.parse_args()
    import flask
    from werkzeug.serving import WSGIRequestHandler

    pipeline, lock = TextbookPipeline(arguments.residual, arguments.cuda), threading.Lock()
    app = flask.Flask(__name__)

    def predict() -> flask.Response:
        data = flask.request.get_data()
        with lock:
            answer = pipeline.detect(data)
        return flask.Response(json.dumps(answer), mimetype="application/json")

    app.add_url_rule("/predict", view_func=predict, methods=["POST"])
    app.add_url_rule("/health", view_func=lambda: "ready")
    # Enables keep-alive, as the other servers have it: otherwise every request would open a connection.
    WSGIRequestHandler.protocol_version = "HTTP/1.1"
    app.run("127.0.0.1", arguments.port, threaded=True)


if __name__ == "__main__":
    main()
