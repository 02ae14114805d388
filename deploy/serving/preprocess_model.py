"""The model ``preprocess``: encoded bytes -> facts, forensic measurements, and what the networks say of the views.

It takes requests from Triton at once, refuses what is too much (:mod:`.tickets`), queues the rest by itself
(:mod:`.intake`), calls the networks for every image that is ready (:mod:`.networks`) and answers later, through the
response senders that the python backend has for it in the default transaction mode.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Hashable
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from veridict.forensics import signature as sig
from veridict.forensics.errors import CODES, ImageError
from veridict.forensics.preprocess import Prepared, prepare, warm_up

from . import responses as serving
from .batching_executor import Intake, Job, Late
from .in_flight import TicketOffice
from .metrics_buffer import Tally
from .networks import Networks, Scores
from .openvino_runtime import usable_cores

#: Seconds after which an image that no step answered is no longer counted as under way.
_LONGEST = 10.0

Prepare = Job[bytes, Prepared]


class TritonPythonModel:
    """Prepares every image once; a request's answer is the tensors of its images, or its first image's error."""

    def initialize(self, args: dict[str, str]) -> None:
        """Start the threads; the configuration's parameters say how many, and how much is too much."""
        serving.set_up_process()
        self.tickets = TicketOffice(int(serving.parameter(args, "capacity", "32")), sig.PREPROCESS.max_batch_size)
        self.patience = float(serving.parameter(args, "patience_seconds", "8"))
        counter, gauge = pb_utils.MetricFamily.COUNTER, pb_utils.MetricFamily.GAUGE
        # The families are kept: metrics go when their family does.
        errors, refused, under_way = self.families = [
            pb_utils.MetricFamily(name=f"veridict_{name}", description=text, kind=kind)
            for name, text, kind in (
                ("image_errors_total", "Images refused, by code", counter),
                ("requests_refused_total", "Requests refused, by reason", counter),
                ("images_under_way", "Images admitted and not yet judged", gauge),
            )
        ]
        counters: dict[Hashable, Any] = {code: errors.Metric(labels={"code": code}) for code in CODES}
        counters |= {reason: refused.Metric(labels={"reason": reason}) for reason in ("full", "late")}
        level = under_way.Metric(labels={"process": str(os.getpid())})
        self.tally = Tally(counters, gauges=[(level, lambda: self.tickets.in_use)])
        calls = int(serving.parameter(args, "calls", "2"))
        self.networks = Networks(calls)
        self.intake: Intake[bytes, Prepared] = Intake(
            int(serving.parameter(args, "threads", "0")) or usable_cores(),
            prepare,
            self._hand_on,
            self._refuse,
            int(serving.parameter(args, "group", "8")),
            calls,
            initializer=warm_up,
        )

    def execute(self, requests: list[Any]) -> None:
        """Take the requests in, or refuse them; the answers follow through their response senders."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                refusal = self._take_in(request, sender)
            except Exception as error:  # one bad request must not take the others down with it
                refusal = serving.fail("preprocess", error)
            if refusal is not None:
                _send(sender, refusal)

    def _take_in(self, request: Any, sender: Any) -> Any:
        """Queue a request; return its refusal where it is not taken."""
        if self.tickets.full:  # asked before the images are read: refusing must cost next to nothing
            self.tally.count("full")
            return serving.overloaded()
        images = list(serving.read(request, sig.IMAGE).ravel())
        if not images:
            return serving.refuse(ImageError("image.empty", "a request without an image"))
        # Microseconds, 0 without one: what the client's own deadline leaves. Nobody waits for an image after it.
        deadline = request.timeout() * 1e-6 or _LONGEST
        tickets = self.tickets.take(len(images), min(deadline, _LONGEST))
        if tickets is None:
            self.tally.count("full")
            return serving.overloaded()
        self.intake.put(Job((sender, tickets), images, time.monotonic() + min(self.patience, deadline)))
        return None

    def _hand_on(self, jobs: list[Prepare]) -> None:
        """Have the images of all jobs scored together, and answer."""
        try:
            answers = self._score(jobs)
        except Exception as failure:  # whatever it is, the clients get an answer
            answers = [serving.fail("preprocess", failure) for _ in jobs]
        for job, answer in zip(jobs, answers, strict=True):
            self._answer(job, answer)

    def _score(self, jobs: list[Prepare]) -> list[Any]:
        began = time.monotonic()
        images = [[item for item in job.results if item is not None] for job in jobs]
        scores = self.networks.score([item for group in images for item in group])
        ended = time.monotonic()
        answers, start = [], 0
        for job, prepared in zip(jobs, images, strict=True):
            rows = slice(start, start + len(prepared))
            facts = [
                _facts(job, i, p, {"grouping": began - job.finished[i], "networks": ended - began})
                for i, p in enumerate(prepared)
            ]
            answers.append(_tensors(facts, scores, rows))
            start = rows.stop
        return answers

    def _refuse(self, job: Prepare) -> None:
        assert job.error is not None
        self._answer(job, self._refusal(job, *job.error))

    def _refusal(self, job: Prepare, index: int, error: Exception) -> Any:
        if isinstance(error, Late):
            self.tally.count("late")
            return serving.late()
        if not isinstance(error, ImageError):
            return serving.fail("preprocess", error)
        self.tally.count(error.code)
        return serving.refuse(ImageError(error.code, f"image {index} of the request") if len(job.items) > 1 else error)

    def _answer(self, job: Prepare, answer: Any) -> None:
        sender, tickets = job.key
        if answer.has_error():
            self.tickets.give_back(tickets)
        _send(sender, answer)

    def finalize(self) -> None:
        """Finish what was taken in."""
        self.intake.close()
        self.networks.close()
        self.tally.close()
        self.tickets.close()


def _send(sender: Any, answer: Any) -> None:
    try:
        sender.send(answer, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    except Exception as error:  # the other requests of the group still get their answers
        pb_utils.Logger.log_error(f"preprocess: an answer could not be sent: {type(error).__name__}: {error}")


def _tensors(facts: list[dict[str, Any]], scores: Scores, rows: slice) -> Any:
    """Return the answer to a request whose images stand in ``rows`` of the scores."""
    faces = scores.face_logits[rows]
    padded = np.full((len(faces), max(len(logits) for logits in faces)), np.nan, np.float32)
    for row, logits in zip(padded, faces, strict=True):
        row[: len(logits)] = logits
    return pb_utils.InferenceResponse(
        [
            serving.write(sig.FACTS, [json.dumps(image, default=vars) for image in facts]),
            serving.write(sig.EMBEDDING_OUT, scores.embeddings[rows]),
            serving.write(sig.INTERMEDIATES_OUT, scores.intermediates[rows]),
            serving.write(sig.FACE_LOGITS, padded),
        ]
    )


def _facts(job: Prepare, index: int, item: Prepared, after: dict[str, float]) -> dict[str, Any]:
    """Return what fusion needs to know of an image; ``after`` are the seconds of what followed its preparation."""
    waited = {"queue": job.begun[index] - job.arrived} | after
    return {
        "image": item.image,
        "measurements": item.measurements,
        "boxes": item.boxes,
        "faces_found": item.faces_found,
        "tone": item.tone,
        "timings_ms": item.timings_ms | {name: round(v * 1e3, 3) for name, v in waited.items()},
        "ticket": (os.getpid(), job.key[1][index]),
    }
