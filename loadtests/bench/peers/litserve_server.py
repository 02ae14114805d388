"""LitServe with our functions, graphs and runtime: batching on, one worker per core.

As its documentation advises: batching through ``max_batch_size`` and ``batch_timeout``, ``workers_per_device`` to fill
the cores. Each worker runs one thread, since the workers together occupy the machine. The body is the encoded image
itself; base64 in JSON, as in its examples, would cost it time that the others do not pay.
"""

# No ``from __future__ import annotations`` here: LitServe takes the annotation of ``request`` as the body's type.
import argparse
from pathlib import Path
from typing import Annotated, Any

import litserve
from fastapi import Body, Response

from veridict.deploy.serving.openvino_runtime import usable_cores
from veridict.export.pipeline import InProcessDetector

MAX_BATCH = 8
BATCH_TIMEOUT = 0.005


class DetectorAPI(litserve.LitAPI):
    """The detector as LitServe's four steps."""

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
        """Return the batch as it is: images of any size share one."""
        return inputs

    def predict(self, x: list[bytes]) -> list[str]:
        """Return a verdict document per image."""
        return [verdict.to_json() for verdict in self.detector.detect(x)]

    def unbatch(self, output: list[str]) -> list[str]:
        """Return the documents."""
        return output

    def encode_response(self, output: str) -> Any:
        """Return the document as the body."""
        return Response(output, media_type="application/json")


def main() -> None:
    """Serve ``POST /predict`` (an encoded image) and ``GET /health``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--threads", type=int, default=1, help="threads of one worker")
    parser.add_argument("--batch", type=int, default=MAX_BATCH)
    parser.add_argument("--cuda", action="store_true", help="ignored: our CPU runtime runs the networks")
    arguments = parser.parse_args()
    api = DetectorAPI(max_batch_size=arguments.batch, batch_timeout=BATCH_TIMEOUT)
    api.repository, api.threads = arguments.repository, arguments.threads
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=arguments.workers)
    server.run(host="127.0.0.1", port=arguments.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
