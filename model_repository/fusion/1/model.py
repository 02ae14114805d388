"""Prompt bank x embedding, face scores and forensic signals -> verdict document and fake probability."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils

from veridict.deploy.repository import load_judgement
from veridict.deploy.serving import responses as serving
from veridict.deploy.serving.in_flight import TicketReturns
from veridict.deploy.serving.metrics_buffer import Tally
from veridict.forensics import signature as sig
from veridict.forensics.contract import ImageFacts
from veridict.forensics.fusion import Observation, fuse
from veridict.forensics.measure import Measurement


class TritonPythonModel:
    def initialize(self, args):
        serving.set_up_process()
        self.bank, self.calibration, self.versions = load_judgement(serving.version_folder(args).parent.parent)
        self.verdicts = pb_utils.MetricFamily(
            name="veridict_verdicts_total", description="Images judged", kind=pb_utils.MetricFamily.COUNTER
        )
        counters = {
            (verdict, confidence): self.verdicts.Metric(labels={"verdict": verdict, "confidence": confidence})
            for verdict in ("real", "deepfake")
            for confidence in ("high", "low")
        }
        self.scores = pb_utils.MetricFamily(
            name="veridict_fake_probability_total",
            description="Images by fake probability, in tenths (le = upper bound of the tenth)",
            kind=pb_utils.MetricFamily.COUNTER,
        )
        tenths = {i: self.scores.Metric(labels={"le": f"{(i + 1) / 10:.1f}"}) for i in range(10)}
        self.tally = Tally(counters | tenths)
        self.returns = TicketReturns()

    def execute(self, requests):
        return serving.answer_each(requests, "fusion", self._answer)

    def _answer(self, request):
        facts = [json.loads(f) for f in serving.read(request, sig.FACTS).ravel()]
        for image in facts:
            self.returns.give_back(image["ticket"])
        rows = [serving.read(request, t) for t in (sig.EMBEDDING_OUT, sig.INTERMEDIATES_OUT, sig.FACE_LOGITS)]
        verdicts = [self._judge(request.request_id(), *row) for row in zip(facts, *rows, strict=True)]
        return pb_utils.InferenceResponse(
            [
                serving.write(sig.VERDICT, [v.to_json() for v in verdicts]),
                serving.write(sig.FAKE_PROBABILITY, np.array([[v.fake_probability] for v in verdicts], np.float32)),
            ]
        )

    def _judge(self, request_id, facts, embedding, intermediates, logits):
        boxes = [tuple(box) for box in facts["boxes"]]
        seen = Observation(
            request_id=request_id,
            image=ImageFacts(**facts["image"]),
            measurements={name: Measurement(**m) for name, m in facts["measurements"].items()},
            embedding=embedding,
            intermediates=intermediates,
            boxes=boxes,
            face_logits=[float(v) for v in logits[: len(boxes)]],
            timings_ms=facts["timings_ms"],
            faces_found=facts["faces_found"],
            tone=facts["tone"],
        )
        verdict = fuse(seen, self.bank, self.calibration, self.versions)
        self.tally.count((verdict.verdict, verdict.confidence), min(9, int(verdict.fake_probability * 10)))
        return verdict

    def finalize(self):
        self.tally.close()
