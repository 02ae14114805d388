"""Encoded bytes -> facts and forensic measurements, the CLIP view and the face crops; every image decoded once."""

import base64
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import numpy as np
import triton_python_backend_utils as pb_utils

from veridict.deploy.backend import serving
from veridict.forensics import signature as sig
from veridict.forensics.errors import CODES, ImageError
from veridict.forensics.preprocess import Prepared, prepare, warm_up


class TritonPythonModel:
    def initialize(self, args):
        serving.limit_threads(1)
        workers = int(serving.parameter(args, "threads", "0")) or len(os.sched_getaffinity(0))
        self.pool = ThreadPoolExecutor(workers, initializer=warm_up)
        # Threads start with their first job: give each one now, so that no request pays for loading the face finder.
        list(self.pool.map(time.sleep, [0.05] * workers))
        family = pb_utils.MetricFamily(
            name="veridict_image_errors_total",
            description="Images refused, by code",
            kind=pb_utils.MetricFamily.COUNTER,
        )
        self.errors = {code: family.Metric(labels={"code": code}) for code in CODES}
        self.family = family

    def execute(self, requests):
        # All images of all requests go to the pool at once; the native decoders release the interpreter's lock.
        jobs = [[self.pool.submit(prepare, data) for data in serving.read(r, sig.IMAGE).ravel()] for r in requests]
        pending = iter(jobs)
        return serving.answer_each(requests, "preprocess", lambda request: self._answer(next(pending)))

    def _answer(self, futures):
        prepared = []
        for index, future in enumerate(futures):
            try:
                prepared.append(future.result())
            except ImageError as error:
                self.errors[error.code].increment(1)
                if len(futures) > 1:
                    raise ImageError(error.code, f"image {index} of the request") from None
                raise
        most = max(len(p.boxes) for p in prepared)
        faces = np.zeros((len(prepared), most, sig.FACE_SIZE, sig.FACE_SIZE, 3), np.uint8)
        for row, item in zip(faces, prepared, strict=True):
            row[: len(item.crops)] = item.crops if len(item.crops) else 0
        return pb_utils.InferenceResponse(
            [
                serving.write(sig.FACTS, [json.dumps(_facts(p)) for p in prepared]),
                serving.write(sig.CLIP_VIEW, np.stack([p.view for p in prepared])),
                serving.write(sig.FACES, faces),
                serving.write(sig.FACE_COUNT, np.array([[len(p.boxes)] for p in prepared], np.int32)),
            ]
        )

    def finalize(self):
        self.pool.shutdown(wait=True)


def _facts(item: Prepared) -> dict:
    return {
        "image": asdict(item.image),
        "measurements": {name: asdict(m) for name, m in item.measurements.items()},
        "texture": None if item.texture is None else base64.b64encode(item.texture.tobytes()).decode(),
        "boxes": item.boxes,
        "timings_ms": item.timings_ms,
        "received": time.time(),
    }
