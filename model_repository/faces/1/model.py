"""Collects the face crops of every request in the batch and scores them with one BLS call to ``face_cnn``."""

import numpy as np
import triton_python_backend_utils as pb_utils

from veridict.deploy.backend import serving
from veridict.forensics import signature as sig


class TritonPythonModel:
    def initialize(self, args):
        serving.set_up_process()

    def execute(self, requests):
        batches = [(serving.read(r, sig.FACES), serving.read(r, sig.FACE_COUNT)[:, 0]) for r in requests]
        crops = [row[:count] for faces, counts in batches for row, count in zip(faces, counts, strict=True)]
        crops = np.concatenate(crops) if crops else np.zeros((0, sig.FACE_SIZE, sig.FACE_SIZE, 3), np.uint8)
        try:
            logits = _score(crops)
        except Exception as error:
            return [serving.fail("faces", error) for _ in requests]
        responses, start = [], 0
        for faces, counts in batches:
            # Requests of several images are padded to the largest face count; NaN marks what is no face.
            padded = np.full(faces.shape[:2], np.nan, np.float32)
            for row, count in zip(padded, counts, strict=True):
                row[:count] = logits[start : start + count]
                start += count
            responses.append(pb_utils.InferenceResponse([serving.write(sig.FACE_LOGITS, padded)]))
        return responses


def _score(crops):
    """Return the logits [N] of crops [N, 224, 224, 3]; no call is made when there are none."""
    parts = []
    step = sig.FACE_CNN.max_batch_size
    for start in range(0, len(crops), step):
        response = pb_utils.InferenceRequest(
            model_name=sig.FACE_CNN.name,
            requested_output_names=[sig.LOGIT.name],
            inputs=[serving.write(sig.FACE_PIXELS, crops[start : start + step])],
            # Without this a GPU engine's output may stay in device memory, which as_numpy cannot read.
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        ).exec()
        if response.has_error():
            raise RuntimeError(response.error().message())
        tensor = pb_utils.get_output_tensor_by_name(response, sig.LOGIT.name)
        parts.append(tensor.as_numpy())
    return np.concatenate(parts)[:, 0] if parts else np.zeros(0, np.float32)
