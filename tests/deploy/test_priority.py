"""The GPU profile's queue on a real server: a slow stand-in for the engine under the shipped configurations."""

import re
import threading

import numpy as np
import pytest
import tritonclient.grpc as triton

from veridict.deploy import launcher
from veridict.deploy.manifest import default_repository
from veridict.forensics import signature as sig

pytestmark = pytest.mark.live

#: Triton 2.51 often misses that its only instance is free again and looks only after 500 ms: a request of 100 ms then
#: takes up to 600. The queue rejects what has waited for 5 s, so twelve explanations were now and then too many.
EXPLANATIONS = 6

ENGINE = """
import time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.1)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("LOGIT", np.zeros((1, 1), np.float32))]) for _ in requests]
"""


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serve face_cnn (100 ms per request, one at a time) and face_cnn_explain, neither with an engine."""
    text = (default_repository() / "face_cnn" / "config.pbtxt").read_text()
    text = text.replace('platform: "tensorrt_plan"\ndefault_model_filename: "model.plan"', 'backend: "python"')
    text = re.sub(r"instance_group \[.*?\n\]", "instance_group [ { count: 1 kind: KIND_CPU } ]", text, flags=re.DOTALL)
    text = re.sub(r"optimization \{.*", "", text, flags=re.DOTALL)
    text = text.replace("max_queue_delay_microseconds: 0", "preferred_batch_size: [ 1 ]")
    (tmp_path / "face_cnn" / "1").mkdir(parents=True)
    (tmp_path / "face_cnn" / "config.pbtxt").write_text(text.replace("max_batch_size: 64", "max_batch_size: 1"))
    (tmp_path / "face_cnn" / "1" / "model.py").write_text(ENGINE)
    explain = (default_repository() / sig.FACE_CNN_EXPLAIN.name / "config.pbtxt").read_text()
    (tmp_path / sig.FACE_CNN_EXPLAIN.name / "1").mkdir(parents=True)
    (tmp_path / sig.FACE_CNN_EXPLAIN.name / "config.pbtxt").write_text(
        explain.replace("max_batch_size: 64", "max_batch_size: 1")
    )
    monkeypatch.setattr(launcher, "check_repository", lambda *arguments: None)  # it is no whole repository
    settings = launcher.ServerSettings(tmp_path, profile="gpu", grpc_port=0, http_port=0, metrics_port=0)
    with launcher.TritonServer(settings) as running:
        yield running


def test_a_verdict_overtakes_the_explanations_that_wait(server):
    tensor = triton.InferInput("PIXELS", [1, 224, 224, 3], "UINT8")
    tensor.set_data_from_numpy(np.zeros((1, 224, 224, 3), np.uint8))
    done, begun, finished = [], threading.Event(), threading.Event()

    def note(who):
        def callback(result, error):
            done.append((who, error))
            begun.set()
            if len(done) == EXPLANATIONS + 1:
                finished.set()

        return callback

    with triton.InferenceServerClient(server.url) as client:
        for _ in range(EXPLANATIONS):
            client.async_infer(
                sig.FACE_CNN_EXPLAIN.name, [tensor], note("explanation"), priority=sig.EXPLANATION_PRIORITY
            )
        assert begun.wait(10)
        client.async_infer(sig.FACE_CNN.name, [tensor], note("verdict"))
        assert finished.wait(10)
    assert [str(error) for _, error in done if error] == []
    assert [who for who, _ in done].index("verdict") < EXPLANATIONS - 2  # without priority it would come last
