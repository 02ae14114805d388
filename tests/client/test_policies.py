"""The name of a policy travels as a request parameter, and an answer by another policy is never passed on."""

import asyncio
import json

import grpc
import pytest

from veridict.client import AsyncDetectorClient, ClientConfig, DetectorClient, ProtocolError, UnknownPolicyError
from veridict.deploy.command import main

from .conftest import FakeReplica


class NamingReplica(FakeReplica):
    """Keeps the parameters of each request, and answers as if ``policy`` had judged."""

    def __init__(self):
        self.parameters, self.policy = [], "uploads"
        super().__init__()

    def ModelInfer(self, request, context):
        self.parameters.append({name: value.string_param for name, value in request.parameters.items()})
        answer = super().ModelInfer(request, context)
        data = json.dumps({**json.loads(answer.raw_output_contents[0][4:]), "policy": self.policy}).encode()
        answer.raw_output_contents[0] = len(data).to_bytes(4, "little") + data
        return answer

    def named(self):
        """Return the policies of the requests so far, and forget them."""
        found, self.parameters = [part.get("policy") for part in self.parameters], []
        return found


@pytest.fixture
def naming():
    replica = NamingReplica()
    yield replica
    replica.server.stop(0).wait()


def test_the_name_is_sent_and_a_call_overrides_the_configuration(naming):
    with DetectorClient(config=ClientConfig(naming.address, policy="uploads", deadline=60)) as client:
        assert client.detect(b"x").policy == "uploads"
        assert [result.verdict.policy for result in client.detect_many([b"x"])] == ["uploads"]
        naming.policy = "strict"
        assert client.detect(b"x", policy="strict").policy == "strict"
        assert client.detect(b"x", policy="").policy == "strict"  # no name: whatever judges by default
    assert naming.named() == ["uploads", "uploads", "strict", None]


def test_the_asyncio_client_sends_it_too(naming):
    async def detect():
        async with AsyncDetectorClient(config=ClientConfig(naming.address, deadline=60)) as client:
            return await client.detect(b"x", policy="uploads"), await client.detect(b"x")

    assert [verdict.policy for verdict in asyncio.run(detect())] == ["uploads", "uploads"]
    assert naming.named() == ["uploads", None]


def test_an_answer_by_another_policy_is_an_error(naming):
    naming.policy = ""  # a server that knows no policies
    with (
        DetectorClient(config=ClientConfig(naming.address, deadline=60)) as client,
        pytest.raises(ProtocolError, match="did not judge by the policy 'uploads'"),
    ):
        client.detect(b"x", policy="uploads")


def test_an_unknown_policy_is_a_typed_error_and_not_retried(naming, tmp_path, capsys):
    refusal = "in ensemble 'detector', [server.unknown_policy] there is no policy 'moon'"
    naming.behave = lambda number: (grpc.StatusCode.INVALID_ARGUMENT, refusal)
    with (
        DetectorClient(config=ClientConfig(naming.address, deadline=60)) as client,
        pytest.raises(UnknownPolicyError, match=r"^there is no policy 'moon'$") as caught,
    ):
        client.detect(b"x", policy="moon")
    assert caught.value.code == "server.unknown_policy"
    assert naming.received == 1
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"x")
    assert main(["detect", str(path), "--policy", "moon", "--url", naming.address, "--deadline", "60"]) == 1
    assert "[server.unknown_policy] there is no policy 'moon'" in capsys.readouterr().err
    assert naming.named() == ["moon", "moon"]
