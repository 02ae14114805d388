"""The server's arguments in the manifests, on a real tritonserver: connection age and mutual TLS."""

import re
import shutil
import socket
import subprocess
import time

import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from veridict.deploy.cli_serve import read_tls
from veridict.deploy.command import build_parser
from veridict.deploy.installation import environment, find_triton

pytestmark = pytest.mark.slow
SERVER = "Deployment/triton/triton"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Make an authority, and a certificate for both sides, as the Secrets of the component mutual-tls hold them."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=authority", "-days", "1")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    openssl("req", *key, "-keyout", "tls.key", "-out", "request", "-subj", "/CN=localhost")
    signing = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1", "-extfile", "names"]
    openssl("x509", "-req", "-in", "request", *signing, "-out", "tls.crt")
    return folder


def triton_options(overlay, folder):
    """Return the tritonserver options of an overlay, with the certificates of a folder in place of the Secret's."""
    arguments = [re.sub(r"=/etc/veridict/tls/", f"={folder}/", a) for a in overlay.containers()[SERVER]["args"]]
    parsed = build_parser("serve").parse_args(arguments)
    return (*(f"--{option}" for option in parsed.triton_option), *read_tls(parsed).arguments())


@pytest.fixture
def server(render, certificates, tmp_path):
    """Start tritonserver without models, with the options of the multi-zone overlay; yield its gRPC address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    installation = find_triton()
    (tmp_path / "models").mkdir()
    command = [
        str(installation.binary),
        f"--model-repository={tmp_path / 'models'}",
        f"--grpc-port={port}",
        "--grpc-address=127.0.0.1",
        "--allow-http=false",
        "--allow-metrics=false",
        *triton_options(render("overlays/gpu-multi-zone"), certificates),
    ]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment(installation), stdout=log, stderr=log)
    try:
        ends = time.monotonic() + 120
        while "Started GRPCInferenceService" not in (tmp_path / "log").read_text():
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < ends, (tmp_path / "log").read_text()
            time.sleep(0.1)
        yield f"localhost:{port}"
    finally:
        process.terminate()
        process.wait(60)


def is_ready(address, **options):
    with triton.InferenceServerClient(address, **options) as client:
        try:
            return client.is_server_ready(client_timeout=20)
        except InferenceServerException:
            return False


def test_the_servers_take_only_clients_with_a_certificate(server, certificates):
    root, chain, key = (str(certificates / name) for name in ("ca.crt", "tls.crt", "tls.key"))
    assert is_ready(server, ssl=True, root_certificates=root, certificate_chain=chain, private_key=key)
    assert not is_ready(server, ssl=True, root_certificates=root)
    assert not is_ready(server)
