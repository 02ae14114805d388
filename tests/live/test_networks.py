"""A network that fails in the middle of the graph: a real server whose face network raises."""

import shutil
from collections.abc import Iterator

import pytest

from veridict.client import ClientConfig, DetectorClient, InternalError
from veridict.deploy.launcher import ServerSettings, TritonServer
from veridict.deploy.manifest import update_manifest

pytestmark = [pytest.mark.live, pytest.mark.slow]

BROKEN = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(pb_utils.get_input_tensor_by_name(r, "PIXELS").as_numpy()) for r in requests]

    def answer(self, pixels):
        if pixels.any():
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("no memory left in /secret/place"))
        # The server starts only if the warm-up, of zeros, succeeds.
        return pb_utils.InferenceResponse([pb_utils.Tensor("LOGIT", np.zeros((len(pixels), 1), np.float32))])
"""


@pytest.fixture(scope="module")
def client(small_repository, tmp_path_factory) -> Iterator[DetectorClient]:
    repository = shutil.copytree(small_repository, tmp_path_factory.mktemp("broken") / "repository")
    (repository / "face_cnn" / "1" / "model.py").write_text(BROKEN)
    update_manifest(repository)
    with (
        TritonServer(ServerSettings(repository=repository, grpc_port=0, http_port=0, metrics_port=0)) as server,
        DetectorClient(config=ClientConfig(server.url, deadline=60.0)) as client,
    ):
        yield client


def test_a_failing_network_is_an_internal_error_that_tells_nothing_and_the_rest_is_judged(
    client, encode, astronaut, coffee
):
    # More than the server takes at once (64): a failure that kept its place would fill it.
    for _ in range(70):
        with pytest.raises(InternalError) as caught:
            client.detect(encode(astronaut))
        assert "secret" not in str(caught.value)
    assert client.detect(encode(coffee)).faces == ()
