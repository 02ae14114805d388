"""What the launcher closes of tritonserver, asked of a real one."""

import json
import urllib.error
import urllib.request

import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from veridict.deploy.command import main
from veridict.deploy.hardening import ADMIN_HEADER, hardening_options, known_options
from veridict.deploy.installation import Installation, find_triton
from veridict.deploy.launcher import ServerSettings

from .bare_server import bare_server

KEY = "the-key-of-this-test-and-of-nothing-else"
HEADER = {f"triton-grpc-protocol-{ADMIN_HEADER}": KEY}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    options = ("--log-verbose=2",)
    with bare_server(tmp_path_factory.mktemp("server"), admin_key=KEY, options=options) as (started, log):
        yield started, log


@pytest.fixture
def client(server):
    with triton.InferenceServerClient(server[0].url) as opened:
        yield opened


def post(server, path, document, **headers):
    """Return the status that the HTTP endpoint answers with."""
    url = f"http://127.0.0.1:{server.ports['http']}/v2/{path}".rstrip("/")
    data = None if document is None else json.dumps(document).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
class TestAdministration:
    CHANGES = (
        lambda c, h: c.register_system_shared_memory("region", "/region", 64, headers=h),
        lambda c, h: c.get_system_shared_memory_status(headers=h),
        lambda c, h: c.load_model("detector", headers=h),
        lambda c, h: c.get_model_repository_index(headers=h),
        lambda c, h: c.update_trace_settings(settings={"trace_level": ["TENSORS"]}, headers=h),
        lambda c, h: c.update_log_settings({"log_verbose_level": 9}, headers=h),
    )

    @pytest.mark.parametrize("change", CHANGES)
    @pytest.mark.parametrize("headers", [None, {f"triton-grpc-protocol-{ADMIN_HEADER}": "guessed"}])
    def test_grpc_refuses_it_without_the_key(self, client, change, headers):
        with pytest.raises(InferenceServerException, match="This protocol is restricted"):
            change(client, headers)

    def test_grpc_takes_it_with_the_key(self, client):
        assert client.get_system_shared_memory_status(headers=HEADER) is not None
        assert client.get_log_settings(headers=HEADER) is not None

    def test_nobody_loads_models_even_with_the_key(self, client):
        with pytest.raises(InferenceServerException, match="explicit model load"):
            client.load_model("detector", headers=HEADER)

    def test_grpc_answers_what_clients_and_the_worker_ask(self, client):
        assert client.is_server_ready()
        assert client.get_server_metadata().name == "triton"
        assert client.get_inference_statistics() is not None


@pytest.mark.slow
class TestHttp:
    @pytest.mark.parametrize("path", ["health/ready", "health/live"])
    def test_health_is_answered(self, server, path):
        assert post(server[0], path, None) == 200

    @pytest.mark.parametrize(
        ("path", "document"),
        [
            ("", None),
            ("models/detector/infer", {"inputs": []}),
            ("models/detector/generate", {}),
            ("models/detector/config", None),
            ("models/detector/stats", None),
            ("repository/index", {}),
            ("repository/models/detector/load", {}),
            ("systemsharedmemory/status", None),
            ("systemsharedmemory/region/r/register", {"key": "/r", "offset": 0, "byte_size": 64}),
            ("trace/setting", {"trace_level": ["TENSORS"]}),
            ("logging", {"log_verbose_level": 9}),
        ],
    )
    def test_everything_else_is_refused(self, server, path, document):
        assert post(server[0], path, document) == 403

    def test_the_key_opens_it(self, server):
        assert post(server[0], "systemsharedmemory/status", None, **{ADMIN_HEADER: KEY}) == 200


@pytest.mark.slow
def test_the_key_is_in_no_log_line(server, client):
    client.get_log_settings(headers=HEADER)
    assert post(server[0], "logging", None, **{ADMIN_HEADER: KEY}) == 200
    log = server[1].read_text()
    assert "Started GRPCInferenceService" in log
    assert KEY not in log


def options(admin_key="", given=()):
    return hardening_options(find_triton(), admin_key, given)


def test_every_server_has_a_key_of_its_own():
    first, second = (next(o for o in options() if o.startswith("--grpc-restricted")) for _ in range(2))
    assert first != second
    assert first.partition(":")[0] == second.partition(":")[0]


def test_an_option_of_the_operator_replaces_ours():
    names = [option.partition("=")[0] for option in options(given=("--grpc-restricted-protocol=trace:a=b",))]
    assert "--grpc-restricted-protocol" not in names
    assert "--model-control-mode" in names


def test_an_option_is_passed_only_to_a_release_that_has_it(tmp_path, monkeypatch):
    assert "--allow-sagemaker=false" in options()
    assert "--allow-client-shm=false" not in options()  # not in the bundled release
    later = tmp_path / "tritonserver"
    later.write_text("#!/bin/sh\nprintf '  --allow-client-shm <boolean>\\n\\tText.\\n' >&2\nexit 1\n")
    later.chmod(0o755)
    assert known_options(Installation(later, None)) == {"--allow-client-shm"}
    assert "--allow-client-shm=false" in hardening_options(Installation(later, None), "", ())
    assert known_options(Installation(tmp_path / "none", None)) == frozenset()


def test_the_key_is_in_no_message(tmp_path, capsys):
    (tmp_path / "key").write_text("a secret that has spaces and is therefore refused")
    assert main(["serve", "--admin-key-file", str(tmp_path / "key")]) == 2
    assert "a secret" not in capsys.readouterr().err
    assert KEY not in repr(ServerSettings(admin_key=KEY))
