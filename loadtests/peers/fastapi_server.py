"""FastAPI with our functions and graphs: what a careful team builds without a model server.

As the documentation of each part advises: one uvicorn worker per core on uvloop and httptools, blocking work in the
thread pool, ONNX Runtime sessions that are shared by the pool and use one thread each.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from veridict.deploy.repository import ENGINE_FILES, cpu_graph, load_judgement
from veridict.deploy.runtime import Network, usable_cores
from veridict.forensics import signature as sig
from veridict.forensics.errors import ImageError
from veridict.forensics.fusion import Observation, fuse
from veridict.forensics.preprocess import prepare, warm_up

Run = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
#: How the worker processes learn what to load: uvicorn starts them by the name of the application factory.
_SETTINGS = "VERIDICT_PEER"


def load_onnx(path: Path, cuda: bool) -> Run:
    """Return a function that runs a graph in ONNX Runtime, on one thread or on the GPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    providers = ["CPUExecutionProvider"]
    if cuda and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, "CUDAExecutionProvider")
    session = onnxruntime.InferenceSession(path, options, providers=providers)
    name = session.get_inputs()[0].name
    return lambda rows: np.asarray(session.run(None, {name: rows})[0], dtype=np.float32)


class Judge:
    """Judges one image after the other; safe to share between threads."""

    def __init__(self, repository: Path, runtime: str, cuda: bool) -> None:
        """Load the networks, prompt bank and calibration."""
        runs = []
        for model in (sig.CLIP_IMAGE, sig.FACE_CNN):
            folder = repository / model.name / "1"
            if runtime == "onnxruntime":
                # int8 is for CPUs; a GPU runs the float graph.
                runs.append(load_onnx(folder / ENGINE_FILES["cpu"] if cuda else cpu_graph(folder), cuda))
            else:
                runs.append(Network(cpu_graph(folder), 1))
        self._embed, self._score = runs
        self._bank, self._calibration, self._versions = load_judgement(repository)
        warm_up()

    def __call__(self, data: bytes) -> str:
        """Return the verdict document.

        Raises:
            ImageError: the image is refused.
        """
        prepared = prepare(data)
        embedding = self._embed(prepared.view[None])[0]
        logits = self._score(np.stack(prepared.crops))[:, 0] if prepared.crops else ()
        seen = Observation(
            request_id="",
            image=prepared.image,
            measurements=prepared.measurements,
            embedding=embedding,
            boxes=prepared.boxes,
            face_logits=[float(v) for v in logits],
            timings_ms=prepared.timings_ms,
            texture=prepared.texture,
        )
        return fuse(seen, self._bank, self._calibration, self._versions).to_json()


def create_app() -> Any:
    """Return the application of one worker process."""
    import cv2
    from fastapi import FastAPI, Request, Response
    from fastapi.concurrency import run_in_threadpool

    repository, runtime, cuda = os.environ[_SETTINGS].split("\n")
    cv2.setNumThreads(1)
    judge = Judge(Path(repository), runtime, cuda == "cuda")
    app = FastAPI()

    async def predict(request: Request) -> Response:
        data = await request.body()
        try:
            document = await run_in_threadpool(judge, data)
        except ImageError as error:
            return Response(str(error), status_code=400)
        return Response(document, media_type="application/json")

    async def health() -> dict[str, str]:
        return {"status": "ready"}

    # The annotations are strings here, and names of this function: FastAPI reads the real ones.
    predict.__annotations__ = {"request": Request, "return": Response}
    app.add_api_route("/predict", predict, methods=["POST"], response_model=None)
    app.add_api_route("/health", health)
    return app


def main() -> None:
    """Serve ``POST /predict`` (an encoded image) and ``GET /health``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--runtime", choices=("onnxruntime", "openvino"), default="onnxruntime")
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--cuda", action="store_true")
    arguments = parser.parse_args()
    import uvicorn

    os.environ[_SETTINGS] = "\n".join(
        (str(arguments.repository), arguments.runtime, "cuda" if arguments.cuda else "cpu")
    )
    uvicorn.run(
        f"{__spec__.name if __spec__ else __name__}:create_app",
        factory=True,
        host="127.0.0.1",
        port=arguments.port,
        workers=arguments.workers,
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
