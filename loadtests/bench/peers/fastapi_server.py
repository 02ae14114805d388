"""Peer: FastAPI with our functions and graphs, as a careful team would build it without a model server.

It follows the documentation of each part: one uvicorn worker per core on uvloop and httptools, blocking work in the
thread pool, and ONNX Runtime sessions that the pool shares and that use one thread each.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from veridict.deploy.manifest import ENGINE_FILES, cpu_graph
from veridict.deploy.serving.cpu_runtime import load_network
from veridict.deploy.serving.processor import usable_cores
from veridict.export.pipeline import InProcessDetector, Run
from veridict.forensics import signature as sig
from veridict.forensics.errors import ImageError
from veridict.forensics.preprocess import warm_up

from ..onnx_session import load_session
from .options import peer_parser

#: Environment variable that tells the worker processes what to load: uvicorn starts them by the name of the application
#: factory, without arguments.
_SETTINGS = "VERIDICT_PEER"
#: Threads of a worker's pool, FastAPI's default. Fewer threads, or one worker with all threads, were no faster on two
#: cores.
POOL_THREADS = 40


class InlineExecutor(Executor):
    """An executor that works in the calling thread, since FastAPI's pool has already given the request a thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Return the finished future of ``fn(*args, **kwargs)``."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # result() raises it, as with any executor
            future.set_exception(error)
        return future


def load_detector(repository: Path, runtime: str, cuda: bool) -> InProcessDetector:
    """Return the in-process detector with its networks in ``runtime``.

    It works in the calling thread; several threads may share it.
    """
    networks: dict[str, Run] = {}
    for model in (sig.CLIP_IMAGE, sig.FACE_CNN):
        folder = repository / model.name / "1"
        # The int8 graphs are for CPUs; a GPU runs the float graph.
        graph = folder / ENGINE_FILES["cpu"] if cuda else cpu_graph(folder)
        networks[model.name] = load_session(graph, 1, cuda) if runtime == "onnxruntime" else load_network(graph, 1)
    warm_up()
    return InProcessDetector(repository, networks=networks, pool=InlineExecutor())


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

    # Annotations are strings in this module and name local classes, which FastAPI cannot resolve.
    predict.__annotations__ = {"request": Request, "return": Response}
    app.add_api_route("/predict", predict, methods=["POST"], response_model=None)
    app.add_api_route("/health", health)
    return app


def main() -> None:
    """Serve ``POST /predict`` (an encoded image) and ``GET /health``."""
    parser = peer_parser("the detector behind FastAPI")
    parser.add_argument("--runtime", choices=("onnxruntime", "openvino"), default="onnxruntime")
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument(
        "--threads", type=int, default=POOL_THREADS, help="threads of a worker's pool (default: %(default)s)"
    )
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
