"""The textbook pipeline: what tutorials put together, one image at a time behind Flask.

Pillow decodes and re-compresses, numpy takes the Laplacian in float64, OpenCV's Haar cascade finds faces in the full
picture, and PyTorch runs the same open_clip and face CNN weights as ours, eagerly in float32.
"""

from __future__ import annotations

import argparse
import io
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops

Grey = npt.NDArray[np.uint8]
_SIZE = 224


def decode(data: bytes) -> Image.Image:
    """Return the decoded picture."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def error_level(image: Image.Image, quality: int = 90) -> float:
    """Return the mean error level: the picture saved as JPEG again, decoded, and subtracted in colour."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    again = Image.open(io.BytesIO(buffer.getvalue()))
    return float(np.asarray(ImageChops.difference(image, again)).mean())


def laplacian_variance(grey: Grey) -> float:
    """Return the variance of the 4-neighbour Laplacian in float64."""
    values = grey.astype(np.float64)
    inner = values[1:-1, 1:-1]
    return float((values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:] - 4 * inner).var())


def residual_median(grey: Grey) -> float:
    """Return the mean of |grey - 3x3 median| in float64: the cheap textbook residual."""
    return float(np.abs(grey.astype(np.float64) - cv2.medianBlur(grey, 3)).mean())


def residual_nlm(grey: Grey) -> float:
    """Return the mean of |grey - non-local means| in float64: the common textbook residual."""
    return float(np.abs(grey.astype(np.float64) - cv2.fastNlMeansDenoising(grey)).mean())


RESIDUALS: dict[str, Callable[[Grey], float]] = {"median": residual_median, "nlm": residual_nlm}


def measure(data: bytes, residual: str = "median") -> dict[str, float]:
    """Return ELA, blur and noise of an encoded image, decoding included; the forensic part of the pipeline."""
    image = decode(data)
    grey = np.asarray(image.convert("L"))
    return {
        "ela": error_level(image),
        "blur": laplacian_variance(grey),
        "noise": RESIDUALS[residual](grey),
    }


class Pipeline:
    """Decoding, measurements, faces, CLIP and face CNN of one image after the other."""

    def __init__(self, residual: str, cuda: bool = False) -> None:
        """Load the bundled weights through open_clip and the training code; texts are embedded once."""
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
        self._mean, self._std = (torch.tensor(v, device=self._device)[:, None, None] for v in self._moments(backbone))
        self._face = load_face_cnn(FACE_WEIGHTS).to(self._device)
        cascades = Path(cv2.__file__).parent / "data"
        self._cascade = cv2.CascadeClassifier(str(cascades / "haarcascade_frontalface_default.xml"))

    @staticmethod
    def _moments(backbone: Any) -> tuple[Any, Any]:
        return backbone.mean, backbone.std

    def judge(self, data: bytes) -> dict[str, Any]:
        """Return the answer, with the milliseconds of each stage."""
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
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument(
        "--repository", type=Path, required=True, help="not read: the weights come from the checkpoints"
    )
    parser.add_argument("--residual", choices=tuple(RESIDUALS), default="median")
    parser.add_argument("--cuda", action="store_true")
    arguments = parser.parse_args()
    import flask
    from werkzeug.serving import WSGIRequestHandler

    pipeline, turn = Pipeline(arguments.residual, arguments.cuda), threading.Lock()
    app = flask.Flask(__name__)

    def predict() -> flask.Response:
        data = flask.request.get_data()
        with turn:
            answer = pipeline.judge(data)
        return flask.Response(json.dumps(answer), mimetype="application/json")

    app.add_url_rule("/predict", view_func=predict, methods=["POST"])
    app.add_url_rule("/health", view_func=lambda: "ready")
    # Keep-alive: without it every request would pay for a connection, which the other servers do not.
    WSGIRequestHandler.protocol_version = "HTTP/1.1"
    app.run("127.0.0.1", arguments.port, threaded=True)


if __name__ == "__main__":
    main()
