"""The model ``preprocess``: encoded bytes -> the observation of every image, with the networks' scores.

It takes requests from Triton at once, refuses what exceeds the in-flight limit (:mod:`.in_flight`), works on the images
with threads of its own (:mod:`.batching_executor`), calls the networks for batches of prepared images
(:mod:`.networks`), and answers through the response senders of the Python backend.
"""

from __future__ import annotations

import os
import time
from collections.abc import Hashable
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from veridict.forensics import signature as sig
from veridict.forensics.errors import CODES, ImageError
from veridict.forensics.observation import Observation
from veridict.forensics.preprocess import Prepared, prepare, warm_up

from . import responses
from .batching_executor import BatchingExecutor, DeadlineExceeded, PendingRequest
from .in_flight import InFlightLimiter
from .metrics_buffer import MetricsBuffer
from .networks import Networks
from .openvino_runtime import usable_cores

#: Seconds after which the slot of an image that was never answered is free again.
_SLOT_LIFETIME = 10.0

Request = PendingRequest[bytes, Prepared]


class TritonPythonModel:
    """Prepares every image once; a request's answer is the tensors of its images, or its first image's error."""

    def initialize(self, args: dict[str, str]) -> None:
        """Start the threads; the configuration's parameters set their number and the limits."""
        responses.set_up_process()
        in_flight = int(responses.parameter(args, "max_in_flight", "32"))
        self.limiter = InFlightLimiter(in_flight, sig.PREPROCESS.max_batch_size)
        self.queue_timeout = float(responses.parameter(args, "queue_timeout_seconds", "8"))
        counter, gauge = pb_utils.MetricFamily.COUNTER, pb_utils.MetricFamily.GAUGE
        # A metric disappears with its family, so the families are kept.
        errors, refused, failed, flying = self.families = [
            pb_utils.MetricFamily(name=f"veridict_{name}", description=text, kind=kind)
            for name, text, kind in (
                ("image_errors_total", "Images refused, by code", counter),
                ("requests_refused_total", "Requests refused, by reason", counter),
                ("requests_failed_total", "Requests that failed unexpectedly in preprocess", counter),
                ("images_under_way", "Images admitted and not yet judged", gauge),
            )
        ]
        counters: dict[Hashable, Any] = {code: errors.Metric(labels={"code": code}) for code in CODES}
        counters |= {reason: refused.Metric(labels={"reason": reason}) for reason in ("full", "late")}
        counters["failed"] = failed.Metric(labels={})
        level = flying.Metric(labels={"process": str(os.getpid())})
        self.metrics = MetricsBuffer(counters, gauges=[(level, lambda: self.limiter.in_use)])
        concurrent = int(responses.parameter(args, "concurrent_batches", "2"))
        self.networks = Networks(concurrent)
        self.executor: BatchingExecutor[bytes, Prepared] = BatchingExecutor(
            int(responses.parameter(args, "threads", "0")) or usable_cores(),
            prepare,
            self._score_and_answer,
            self._answer_failure,
            int(responses.parameter(args, "batch_images", "8")),
            concurrent,
            initializer=warm_up,
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
        slots = self.limiter.acquire(len(images), min(deadline, _SLOT_LIFETIME))
        if slots is None:
            self.metrics.count("full")
            return responses.overloaded()
        begin_before = time.monotonic() + min(self.queue_timeout, deadline)
        self.executor.submit(PendingRequest((sender, slots, request.request_id()), images, begin_before))
        return None

    def _score_and_answer(self, batch: list[Request]) -> None:
        """Have the networks score the images of a batch of requests, and answer each request."""
        try:
            answers = self._score(batch)
        except Exception as failure:  # whatever it is, the clients get an answer
            answers = [self._fail(failure, request.key[2]) for request in batch]
        for request, answer in zip(batch, answers, strict=True):
            self._answer(request, answer)

    def _score(self, batch: list[Request]) -> list[Any]:
        began = time.monotonic()
        images = [[item for item in request.results if item is not None] for request in batch]
        scored = iter(self.networks.score([item for group in images for item in group]))
        ended = time.monotonic()
        answers = []
        for request, prepared in zip(batch, images, strict=True):
            observations = []
            for index in range(len(prepared)):
                observation, embedding, tokens, logits = next(scored)
                seconds = {
                    "queue": request.begun[index] - request.arrived,
                    "grouping": began - request.finished[index],
                    "networks": ended - began,
                }
                observations.append(observation.with_scores(embedding, tokens, logits, seconds))
            answers.append(_tensors(observations, request.key[1]))
        return answers

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
        self.networks.close()
        self.metrics.close()
        # A metric that outlives the stub's own objects crashes the process at its end.
        del self.metrics, self.families
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
