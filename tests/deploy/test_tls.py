"""TLS between the real client and a real tritonserver: who connects, who is refused, and what is said about it."""

import os
import subprocess
import sys
import time

import pytest
from cryptography import x509

from veridict.client import ClientConfig, DetectorClient, ProtocolError, Tls, TlsError, UnavailableError, VeridictError
from veridict.deploy.command import main
from veridict.deploy.installation import LaunchError
from veridict.deploy.server_tls import ServerTls, check_exposure

from .bare_server import bare_server
from .certificates import Authority


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pki")
    ours, other = Authority(folder, "ours"), Authority(folder, "other")
    files = {
        "server": ours.issue("server"),
        "client": ours.issue("client"),
        "expired": ours.issue("expired", days=(-2, -1)),
        "early": ours.issue("early", days=(1, 2)),
        "elsewhere": ours.issue("elsewhere", names=[x509.DNSName("example.org")]),
        "nameless": ours.issue("nameless", names=()),
        "client-only": ours.issue("client-only", client_only=True),
        "ending": ours.issue("ending", days=(-1, 2)),
        "stranger": other.issue("stranger"),
    }
    return {"ours": ours.certificate, "other": other.certificate, "folder": folder, **files}


def server_files(pki, name, client_ca=None):
    return ServerTls(pki[name].certificate, pki[name].key, client_ca)


def ask(url, tls):
    """Return the error of a request: a server without models answers with a ProtocolError, behind TLS or not."""
    with DetectorClient(config=ClientConfig(url, tls=tls, attempts=1, deadline=20.0)) as client:
        with pytest.raises(VeridictError) as caught:
            client.detect(b"x")
        assert client.ready(5.0) is False  # no detector in any case, and no exception
    return caught.value


@pytest.fixture(scope="module")
def plain_tls(pki, tmp_path_factory):
    with bare_server(tmp_path_factory.mktemp("tls"), tls=server_files(pki, "server")) as (server, _):
        yield server.url


@pytest.fixture(scope="module")
def mutual_tls(pki, tmp_path_factory):
    tls = server_files(pki, "server", pki["ours"])
    with bare_server(tmp_path_factory.mktemp("mutual"), tls=tls) as (server, _):
        yield server.url


@pytest.mark.slow
class TestServerCertificate:
    def test_a_client_that_trusts_the_authority_connects_by_address_and_by_name(self, plain_tls, pki):
        assert isinstance(ask(plain_tls, Tls(pki["ours"])), ProtocolError)
        assert isinstance(ask(plain_tls.replace("127.0.0.1", "localhost"), Tls(pki["ours"])), ProtocolError)

    @pytest.mark.parametrize("root", ["other", None])
    def test_an_unknown_authority_is_refused(self, plain_tls, pki, root):
        error = ask(plain_tls, Tls(pki[root] if root else None))
        assert (type(error), error.code) == (TlsError, "client.tls")
        assert "was not issued by an authority that this client trusts (--tls-root)" in error.message

    def test_a_client_without_tls_gets_no_answer_and_a_hint(self, plain_tls):
        error = ask(plain_tls, None)
        assert (type(error), error.code) == (UnavailableError, "server.unavailable")
        assert "--tls" in error.message

    @pytest.mark.parametrize(
        ("name", "words"), [("expired", "has expired"), ("early", "not valid yet"), ("elsewhere", "another host")]
    )
    def test_a_certificate_that_does_not_hold_is_refused(self, pki, tmp_path, name, words):
        with bare_server(tmp_path, tls=server_files(pki, name)) as (server, _):
            error = ask(server.url, Tls(pki["ours"]))
        assert (type(error), error.code) == (TlsError, "client.tls")
        assert words in error.message

    def test_a_server_without_tls_is_named_as_such(self, pki, tmp_path):
        with bare_server(tmp_path) as (server, _):
            error = ask(server.url, Tls(pki["ours"]))
        assert isinstance(error, TlsError)
        assert "does not use TLS on this port" in error.message


@pytest.mark.slow
class TestClientCertificate:
    def test_a_client_with_a_certificate_connects(self, mutual_tls, pki):
        tls = Tls(pki["ours"], pki["client"].certificate, pki["client"].key)
        assert isinstance(ask(mutual_tls, tls), ProtocolError)

    @pytest.mark.parametrize("name", ["", "stranger", "expired"])
    def test_a_client_without_a_certificate_that_holds_is_refused(self, mutual_tls, pki, name):
        own = (pki[name].certificate, pki[name].key) if name else ()
        error = ask(mutual_tls, Tls(pki["ours"], *own))
        assert (type(error), error.code) == (UnavailableError, "server.unavailable")
        assert "client certificate" in error.message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tls-cert", "server.pem"], "--tls-key is missing"),
        (["--tls-key", "server.key"], "--tls-cert is missing"),
        (["--tls-client-ca", "ours.pem"], "--tls-cert is missing"),
        (["--tls-cert", "missing.pem", "--tls-key", "server.key"], "missing.pem cannot be read"),
        (["--tls-cert", "server.pem", "--tls-key", "missing.key"], "missing.key cannot be read"),
        (["--tls-cert", "server.pem", "--tls-key", "client.key"], "are not a PEM certificate and its unencrypted"),
        (["--tls-cert", "server.key", "--tls-key", "server.key"], "are not a PEM certificate and its unencrypted"),
        (["--tls-cert", "expired.pem", "--tls-key", "expired.key"], "expired.pem: certificate has expired"),
        (["--tls-cert", "early.pem", "--tls-key", "early.key"], "early.pem: certificate is not yet valid"),
        (["--tls-cert", "client-only.pem", "--tls-key", "client-only.key"], "client-only.pem: unsuitable certificate"),
        (["--tls-cert", "server.pem", "--tls-key", "server.key", "--tls-client-ca", "gone.pem"], "gone.pem cannot be"),
        (["--tls-cert", "server.pem", "--tls-key", "server.key", "--tls-client-ca", "server.key"], "holds no PEM"),
        (["--admin-key-file", "missing.key"], "the admin key missing.key cannot be read"),
        (["--admin-key-file", "server.pem"], "24 or more letters"),
    ],
)
def test_serve_refuses_files_that_cannot_be_used_before_anything_starts(pki, monkeypatch, capsys, options, words):
    monkeypatch.chdir(pki["folder"])
    assert main(["serve", *options]) == 2
    shown = capsys.readouterr().err
    assert words in shown
    assert "BEGIN" not in shown


def test_the_launcher_checks_the_files_at_every_start(pki):
    with pytest.raises(LaunchError, match="has expired"):
        check_exposure("127.0.0.1", server_files(pki, "expired"))


def test_an_authority_that_has_expired_lets_no_client_in(pki):
    tls = server_files(pki, "server", pki["ours"])
    assert tls.check() == []
    with pytest.raises(ValueError, match="expired certificates only"):
        tls.check(now=time.time() + 4 * 86400)


def test_what_will_soon_fail_is_a_warning(pki):
    (ending,) = server_files(pki, "ending").check()
    assert "ends on" in ending
    (nameless,) = server_files(pki, "nameless").check()
    assert "names no host" in nameless
    os.chmod(pki["client"].key, 0o644)
    try:
        (readable,) = server_files(pki, "client").check()
    finally:
        os.chmod(pki["client"].key, 0o600)
    assert "every user of this machine can read" in readable


@pytest.mark.slow
@pytest.mark.live
def test_serve_with_mutual_tls_judges_for_a_client_with_a_certificate_only(
    pki, small_repository, encode, cat, tmp_path, monkeypatch
):
    monkeypatch.chdir(pki["folder"])
    (tmp_path / "cat.jpg").write_bytes(encode(cat))
    veridict = [sys.executable, "-m", "veridict.deploy.command"]
    own = ["--tls-cert", "server.pem", "--tls-key", "server.key", "--tls-client-ca", "ours.pem"]
    ports = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0", "--no-standby"]
    ports += ["--repository", str(small_repository)]
    serving = subprocess.Popen([*veridict, "serve", *ports, *own], stdout=subprocess.PIPE, text=True)
    try:
        ready = serving.stdout.readline()
        assert ready.startswith("ready: gRPC 127.0.0.1:")
        assert " with mutual TLS, health http://" in ready
        url = ["--url", ready.split()[2]]

        def run(*words):
            done = subprocess.run([*veridict, *words], capture_output=True, text=True, timeout=120, check=False)
            return done.returncode, done.stdout + done.stderr

        trusted = ["--tls-root", "ours.pem", "--tls-certificate", "client.pem", "--tls-key", "client.key"]
        status, shown = run("detect", str(tmp_path / "cat.jpg"), "--deadline", "60", *url, *trusted)
        assert (status, "Final Verdict" in shown) == (0, True), shown
        assert run("health", *url, *trusted)[0] == 0
        status, shown = run("detect", str(tmp_path / "cat.jpg"), "--deadline", "5", *url, "--tls-root", "ours.pem")
        assert status == 1
        assert "client certificate" in shown
        assert run("health", *url)[0] == 1
    finally:
        serving.terminate()
        assert serving.wait(timeout=60) == 0
        serving.stdout.close()


@pytest.mark.parametrize(
    ("host", "tls", "warns"),
    [("127.0.0.1", False, False), ("localhost", False, False), ("0.0.0.0", False, True), ("0.0.0.0", True, False)],
)
def test_a_server_without_tls_that_others_reach_says_so(pki, host, tls, warns):
    assert bool(check_exposure(host, server_files(pki, "server") if tls else None)) is warns
