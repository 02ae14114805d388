"""The model ``fusion``: observations -> verdict documents and fake probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from veridict.forensics import signature as sig
from veridict.forensics.fusion import fuse
from veridict.forensics.observation import Observation

from ..repository import load_judgement
from . import responses
from .in_flight import SlotReturns
from .verdict_metrics import VerdictMetrics


class TritonPythonModel:
    """Judges observations by the repository's calibration and policy."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load what judges; the configuration's ``profile`` says which graphs were served."""
        responses.set_up_process()
        repository = responses.version_folder(args).parent.parent
        self.judgement = load_judgement(repository, responses.parameter(args, "profile", "gpu"))
        self.metrics = VerdictMetrics(pb_utils, self.judgement.bank.labels, self.judgement.models)
        self.slots = SlotReturns()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request by itself."""
        return responses.answer_each(requests, "fusion", self._answer)

    def _answer(self, request: Any) -> Any:
        for slot in responses.read(request, sig.SLOT):
            self.slots.release(slot.tolist())
        verdicts = [
            fuse(Observation.from_bytes(data), self.judgement, request.request_id())
            for data in responses.read(request, sig.OBSERVATION).ravel()
        ]
        for verdict in verdicts:
            self.metrics.count(verdict)
        probabilities = np.array([[verdict.fake_probability] for verdict in verdicts], np.float32)
        return pb_utils.InferenceResponse(
            [
                responses.write(sig.VERDICT, [verdict.to_json() for verdict in verdicts]),
                responses.write(sig.FAKE_PROBABILITY, probabilities),
            ]
        )

    def finalize(self) -> None:
        """Publish the last counts."""
        self.metrics.close()
        # A metric that outlives the stub's own objects crashes the process at its end.
        del self.metrics
