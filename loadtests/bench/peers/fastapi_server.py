"""FastAPI with our functions and graphs: what a careful team builds without a model server.

As the documentation of each part advises: one uvicorn worker per core on uvloop and httptools, blocking work in the
thread pool, ONNX Runtime sessions that are shared by the pool and use one thread each.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from veridict.deploy.repository import ENGINE_FILES, INT8_GRAPH, cpu_graph
from veridict.deploy.serving.openvino_runtime import Network, usable_cores
from veridict.export.pipeline import InProcessDetector, Run
from veridict.forensics import signature as sig
from veridict.forensics.errors import ImageError
from veridict.forensics.preprocess import warm_up

#: How the worker processes learn what to load: uvicorn starts them by the name of the application factory.
_SETTINGS = "VERIDICT_PEER"
#: FastAPI's own default. Fewer threads, or one worker with them all, were no faster on two cores.
POOL = 40


def load_onnx(path: Path, cuda: bool) -> Run:
    """Return a function that runs a graph in ONNX Runtime, on one thread or on the GPU: rows in, its outputs out."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # Weights stored as int8 become float once, at loading, and not in every run.
    options.add_session_config_entry("session.disable_quant_qdq", "0" if path.name == INT8_GRAPH else "1")
    providers = ["CPUExecutionProvider"]
    if cuda and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, "CUDAExecutionProvider")
    session = onnxruntime.InferenceSession(path, options, providers=providers)
    name = session.get_inputs()[0].name
    return lambda rows: tuple(session.run(None, {name: rows}))


class CallingThread(Executor):
    """An executor that does the work at once: FastAPI's pool has given this request a thread already."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Return the finished future of ``fn(*args, **kwargs)``."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # kept for result(), as executors do
            future.set_exception(error)
        return future


def load_detector(repository: Path, runtime: str, cuda: bool) -> InProcessDetector:
    """Return the same stages in the calling thread, with networks of the runtime's choice; threads may share it."""
    networks: dict[str, Run] = {}
    for model in (sig.CLIP_IMAGE, sig.FACE_CNN):
        folder = repository / model.name / "1"
        # int8 is for CPUs; a GPU runs the float graph.
        graph = folder / ENGINE_FILES["cpu"] if cuda else cpu_graph(folder)
        networks[model.name] = load_onnx(graph, cuda) if runtime == "onnxruntime" else Network(graph, 1)
    warm_up()
    return InProcessDetector(repository, networks=networks, pool=CallingThread())


def create_app() -> Any:
    """Return the application of one worker process."""
    import cv2
    from anyio import to_thread
    from fastapi import FastAPI, Request, Response
    from fastapi.concurrency import run_in_threadpool

    repository, runtime, cuda, threads = os.environ[_SETTINGS].split("\n")
    cv2.setNumThreads(1)
    detector = load_detector(Path(repository), runtime, cuda == "cuda")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = int(threads)
        yield

    app = FastAPI(lifespan=lifespan)

    async def predict(request: Request) -> Response:
        data = await request.body()
        try:
            (verdict,) = await run_in_threadpool(detector.detect, [data])
        except ImageError as error:
            return Response(str(error), status_code=400)
        return Response(verdict.to_json(), media_type="application/json")

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
    parser.add_argument("--threads", type=int, default=POOL, help="threads of a worker's pool (default: %(default)s)")
    parser.add_argument("--cuda", action="store_true")
    arguments = parser.parse_args()
    import uvicorn

    device = "cuda" if arguments.cuda else "cpu"
    os.environ[_SETTINGS] = "\n".join((str(arguments.repository), arguments.runtime, device, str(arguments.threads)))
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
