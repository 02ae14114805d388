"""The model ``preprocess``: encoded bytes -> the observation of every image, with the networks' scores.

It takes requests from Triton at once, refuses what exceeds the in-flight limit (:mod:`.in_flight`), queues the images
itself (:mod:`.batching_executor`), has them prepared by child processes (:mod:`.prepare_pool`), calls the networks for
batches of prepared images (:mod:`.networks`), and answers through the response senders of the Python backend.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import triton_python_backend_utils as pb_utils

from veridict.forensics import signature as sig
from veridict.forensics.errors import CODES, ImageError
from veridict.forensics.observation import Observation
from veridict.forensics.preprocess import Prepared
from veridict.forensics.provenance.read import ProvenanceReader
from veridict.forensics.stability import check_stability
from veridict.forensics.work import estimate_seconds

from ..repository import load_judgement
from . import responses
from .batching_executor import BatchingExecutor, DeadlineExceeded, PendingRequest, Postponed, SlowLane
from .in_flight import InFlightLimiter
from .metrics_buffer import MetricsBuffer
from .networks import Networks, ServerStopping
from .prepare_pool import ForkServer, PreparePool
from .prepare_process import ProcessFailed, ProcessSettings
from .processor import usable_cores

#: Seconds after which the slot of an image that was never answered is free again.
_SLOT_LIFETIME = 10.0
#: Longest deadline (seconds) of a request that is kept to while its image is being prepared.
_LONGEST_DEADLINE = 60.0
#: Images that are expected to take more seconds of processor time than this wait and run in the slow lane.
_SLOW = 0.25
#: Seconds of processor time after which an image that was expected to take less moves to the slow lane.
_QUICK_LIMIT = 1.0
#: Niceness of the processes of the slow lane: a tenth of the processor time of one of the others where cores are short.
_SLOW_NICENESS = 10


class Upload(NamedTuple):
    """An image to prepare: its bytes, the monotonic time after which nobody waits for it, and whether it is slow."""

    data: bytes
    ends: float
    slow: bool


Request = PendingRequest[Upload, Prepared]


class TritonPythonModel:
    """Prepares every image once; a request's answer is the tensors of its images, or its first image's error."""

    def initialize(self, args: dict[str, str]) -> None:
        """Start the threads; the configuration's parameters set their number and the limits."""
        responses.set_up_process()
        in_flight = int(responses.number(args, "max_in_flight", 32, 1, 100_000))
        self.max_slow = max(1, in_flight // 2)
        self.queue_timeout = responses.number(args, "queue_timeout_seconds", 8, 0.01, 3600)
        threads = int(responses.number(args, "threads", 0, 0, 1024)) or usable_cores()
        slow_threads = int(responses.number(args, "slow_threads", 0, 0, 1024)) or max(2, threads // 2)
        seconds = responses.number(args, "decode_seconds", 8, 0.1, 600)
        memory = int(responses.number(args, "decode_megabytes", 2048, 64, 65536)) << 20
        batch_images = int(responses.number(args, "batch_images", 8, 1, sig.PREPROCESS.max_batch_size))
        concurrent = int(responses.number(args, "concurrent_batches", 2, 1, 64))
        self.limiter = InFlightLimiter(in_flight, sig.PREPROCESS.max_batch_size)
        self.metrics = MetricsBuffer(pb_utils)
        self.metrics.counters("image_errors_total", "Images refused, by code", {code: {"code": code} for code in CODES})
        reasons = {reason: {"reason": reason} for reason in ("full", "late", "stopping")}
        self.metrics.counters("requests_refused_total", "Requests refused, by reason", reasons)
        failures = "Requests that failed unexpectedly in preprocess"
        self.metrics.counters("requests_failed_total", failures, {"failed": {}})
        self.metrics.gauge("images_under_way", "Images admitted and not yet judged", lambda: self.limiter.in_use)
        self.networks = Networks(concurrent)
        repository = responses.version_folder(args).parent.parent
        #: What settles which images are scored again from re-encodings; the verdict is up to ``fusion``.
        self.judgement = load_judgement(repository)
        self.always_altered = self.judgement.policy.stability.when == "always"
        self.fork_server = ForkServer()
        trust_list = responses.parameter(args, "trust_list", "")
        trust_list = str(responses.version_folder(args) / trust_list) if trust_list else ""
        ProvenanceReader(Path(trust_list) if trust_list else None).check()  # a wrong list ends the start, not a child
        quick = ProcessSettings(memory, trust_list=trust_list)
        self.quick = PreparePool(self.fork_server, threads, quick, min(_QUICK_LIMIT, seconds))
        slow = replace(quick, niceness=_SLOW_NICENESS, keep_memory=False)
        self.slow = PreparePool(self.fork_server, slow_threads, slow, seconds)
        self.executor: BatchingExecutor[Upload, Prepared] = BatchingExecutor(
            threads,
            self._prepare_quick,
            self._score_and_answer,
            self._answer_failure,
            batch_images,
            concurrent,
            SlowLane(slow_threads, self._prepare_slow, lambda upload: upload.slow),
        )

    def execute(self, requests: list[Any]) -> None:
        """Admit or refuse the requests; the answers follow through their response senders."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                refusal = self._admit(request, sender)
            except Exception as error:  # one bad request must not fail the others
                refusal = self._fail(error, request.request_id())
            if refusal is not None:
                _send(sender, refusal)

    def _admit(self, request: Any, sender: Any) -> Any:
        """Queue a request, or return the answer that refuses it."""
        if self.limiter.full:  # checked before the images are read, so that refusing costs almost nothing
            self.metrics.count("full")
            return responses.overloaded()
        images = list(responses.read(request, sig.IMAGE).ravel())
        if request.request_id() == sig.HEALTH_CHECK and images == [b""]:  # answered before all work that waits
            return responses.refuse(ImageError("image.empty"))
        if not images:
            return responses.refuse(ImageError("image.empty", "a request without an image"))
        # The rest of the client's own deadline in microseconds, 0 without one. After it nobody waits for the answer.
        deadline = request.timeout() * 1e-6 or _SLOT_LIFETIME
        now = time.monotonic()
        ends = now + min(deadline, _LONGEST_DEADLINE)
        uploads = [Upload(data, ends, estimate_seconds(data) > _SLOW) for data in images]
        if any(upload.slow for upload in uploads) and self.executor.slow_items >= self.max_slow:
            self.metrics.count("full")  # else the images that wait in the slow lane would take the places of all others
            return responses.overloaded()
        slots = self.limiter.acquire(len(images), min(deadline, _SLOT_LIFETIME))
        if slots is None:
            self.metrics.count("full")
            return responses.overloaded()
        begin_before = now + min(self.queue_timeout, deadline)
        self.executor.submit(PendingRequest((sender, slots, request.request_id()), uploads, begin_before))
        return None

    def _prepare_quick(self, upload: Upload) -> Prepared:
        try:
            return self.quick.prepare(upload.data, upload.ends, self.always_altered)
        except ImageError as error:
            if error.code == "image.decode_timeout":
                raise Postponed from None
            raise

    def _prepare_slow(self, upload: Upload) -> Prepared:
        return self.slow.prepare(upload.data, upload.ends)

    def _score_and_answer(self, batch: list[Request]) -> None:
        """Have the networks score the images of a batch of requests, and answer each request."""
        try:
            answers = self._score(batch)
        except ServerStopping:
            self.metrics.count(*["stopping"] * len(batch))
            answers = [responses.stopping() for _ in batch]
        except Exception as failure:  # whatever it is, the clients get an answer
            answers = [self._fail(failure, request.key[2]) for request in batch]
        for request, answer in zip(batch, answers, strict=True):
            self._answer(request, answer)

    def _score(self, batch: list[Request]) -> list[Any]:
        began = time.monotonic()
        images = [item for request in batch for item in request.results if item is not None]
        scored = self.networks.score(images)
        ended = time.monotonic()
        places = [(request, index) for request in batch for index in range(len(request.items))]
        observations = []
        for (request, index), (observation, embedding, tokens, logits) in zip(places, scored, strict=True):
            seconds = {
                "queue": request.begun[index] - request.arrived,
                "grouping": began - request.finished[index],
                "networks": ended - began,
            }
            observations.append(observation.with_scores(embedding, tokens, logits, seconds))
        uploads = [request.items[index] for request, index in places]
        checked = iter(
            check_stability(
                observations,
                self.judgement,
                lambda place: images[place].alterations or self._prepare_alterations(uploads[place]),
                self._score_alterations,
            )
        )
        return [_tensors([next(checked) for _ in request.items], request.key[1]) for request in batch]

    def _score_alterations(self, images: list[Prepared]) -> list[Observation]:
        return [
            observation.with_scores(embedding, tokens, logits)
            for observation, embedding, tokens, logits in self.networks.score(images)
        ]

    def _prepare_alterations(self, upload: Upload) -> list[Prepared]:
        """Prepare an image again, with its re-encodings; an image that is late or too slow for it is not checked."""
        try:
            return self.quick.prepare(upload.data, upload.ends, alterations=True).alterations
        except (ImageError, DeadlineExceeded, ProcessFailed):
            return []

    def _answer_failure(self, request: Request) -> None:
        assert request.error is not None
        self._answer(request, self._failure(request, *request.error))

    def _failure(self, request: Request, index: int, error: Exception) -> Any:
        if isinstance(error, DeadlineExceeded):
            self.metrics.count("late")
            return responses.deadline_exceeded()
        if not isinstance(error, ImageError):
            return self._fail(error, request.key[2])
        self.metrics.count(error.code)
        if error.code.startswith("image.decode_"):
            pb_utils.Logger.log_warn(f"[request id: {request.key[2]}] preprocess: {error}")
        several = len(request.items) > 1
        return responses.refuse(ImageError(error.code, f"image {index} of the request") if several else error)

    def _fail(self, error: Exception, request_id: str) -> Any:
        self.metrics.count("failed")
        return responses.fail("preprocess", error, request_id)

    def _answer(self, request: Request, answer: Any) -> None:
        sender, slots, _ = request.key
        if answer.has_error():
            self.limiter.release(slots)
        _send(sender, answer)

    def finalize(self) -> None:
        """Finish the admitted requests, then end the threads."""
        self.executor.close()
        self.quick.close()
        self.slow.close()
        self.fork_server.close()
        self.networks.close()
        self.metrics.close()
        self.limiter.close()


def _send(sender: Any, answer: Any) -> None:
    try:
        sender.send(answer, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    except Exception as error:  # the other requests of the batch still get their answers
        pb_utils.Logger.log_error(f"preprocess: an answer could not be sent: {type(error).__name__}: {error}")


def _tensors(observations: list[Observation], slots: list[int]) -> Any:
    rows = np.array([(os.getpid(), slot) for slot in slots], np.int64)
    return pb_utils.InferenceResponse(
        [
            responses.write(sig.OBSERVATION, [observation.to_bytes() for observation in observations]),
            responses.write(sig.SLOT, rows),
        ]
    )
