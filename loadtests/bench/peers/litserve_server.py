"""Peer: LitServe with our functions, graphs and runtime, with batching and one worker per core.

It follows LitServe's documentation: batching through ``max_batch_size`` and ``batch_timeout``, and one worker per core
through ``workers_per_device``. Each worker runs one thread, since the workers together use all cores. The request body
is the encoded image; base64 in JSON, as in LitServe's examples, would cost time that the other peers do not spend.
"""

# No ``from __future__ import annotations`` here: LitServe reads the body's type from the annotation of ``request``.
from pathlib import Path
from typing import Annotated, Any

import litserve
from fastapi import Body, Response

from veridict.deploy.serving.processor import usable_cores
from veridict.export.pipeline import InProcessDetector

from .options import peer_parser

MAX_BATCH = 8
BATCH_TIMEOUT = 0.005


class DetectorAPI(litserve.LitAPI):
    """The detector in LitServe's interface."""

    repository: Path
    threads: int

    def setup(self, device: str) -> None:
        """Load the networks in a worker process."""
        import cv2

        cv2.setNumThreads(1)
        self.detector = InProcessDetector(self.repository, threads=self.threads)

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> bytes:
        """Return the encoded image."""
        return request

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        """Return the batch unchanged: a batch may hold images of different sizes."""
        return inputs

    def predict(self, x: list[bytes]) -> list[str]:
        """Return the verdict document of every image."""
        return [verdict.to_json() for verdict in self.detector.detect(x)]

    def unbatch(self, output: list[str]) -> list[str]:
        """Return the documents unchanged."""
        return output

    def encode_response(self, output: str) -> Any:
        """Return the document as the response body."""
        return Response(output, media_type="application/json")


def main() -> None:
    """Serve ``POST /predict`` (an encoded image) and ``GET /health``."""
    parser = peer_parser("the detector behind LitServe; --cuda is ignored, since our CPU runtime runs the networks")
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--threads", type=int, default=1, help="threads of one worker")
    parser.add_argument("--batch", type=int, default=MAX_BATCH)
    arguments = parser.parse_args()
    api = DetectorAPI(max_batch_size=arguments.batch, batch_timeout=BATCH_TIMEOUT)
    api.repository, api.threads = arguments.repository, arguments.threads
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=arguments.workers)
    server.run(host="127.0.0.1", port=arguments.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
