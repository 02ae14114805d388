"""The model ``fusion``: observations -> verdict documents and fake probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from veridict.forensics import signature as sig
from veridict.forensics.observation import Observation

from ..repository import load_judgement
from ..start_gate import wait_for_gate
from . import responses
from .in_flight import SlotReturns
from .known_content import KnownContentSearch
from .policies import LabelsUnavailable, PolicyChoice, UnknownPolicy
from .verdict_metrics import VerdictMetrics


class TritonPythonModel:
    """Judges observations by the repository's calibration and policy."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load what judges; the configuration's ``profile`` says which graphs were served."""
        responses.set_up_process()
        repository = responses.version_folder(args).parent.parent
        self.judgement = load_judgement(repository, responses.parameter(args, "profile", "gpu"))
        self.metrics = VerdictMetrics(pb_utils, self.judgement.bank.labels, self.judgement.models)
        self.known = KnownContentSearch(pb_utils)
        self.policies = PolicyChoice(pb_utils, self.judgement, repository)
        self.slots = SlotReturns()
        wait_for_gate()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request by itself."""
        return responses.answer_each(requests, "fusion", self._answer)

    def _answer(self, request: Any) -> Any:
        for slot in responses.read(request, sig.SLOT):
            self.slots.release(slot.tolist())
        observations = [Observation.from_bytes(data) for data in responses.read(request, sig.OBSERVATION).ravel()]
        name = request.request_id()
        try:
            chosen = self.policies.choose(request.parameters())
            verdicts = [self.policies.judge(seen, chosen, name, self.known.look_up) for seen in observations]
        except UnknownPolicy as error:
            return responses.unknown_policy(str(error))
        except LabelsUnavailable as error:
            pb_utils.Logger.log_error(f"[request id: {name or '<id_unknown>'}] fusion: {error}")
            return responses.labels_unavailable()
        for verdict in verdicts:
            self.metrics.count(verdict)
            self.known.count(verdict)
            self.policies.count(verdict)
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
        self.known.close()
        self.policies.close()
        # A metric that outlives the stub's own objects crashes the process at its end.
        del self.metrics, self.known, self.policies
