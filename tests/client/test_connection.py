"""The connection options: a TLS wish never ends in plaintext, and a TLS file that cannot be used is a usage error."""

import subprocess
from pathlib import Path

import pytest

from veridict.client import ClientConfig, Tls
from veridict.deploy.command import main


def make_certificate(folder, name):
    """Make a self-signed certificate and its key with the openssl command; return their paths."""
    key, certificate = folder / f"{name}.key", folder / f"{name}.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    try:
        subprocess.run([*words, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl command")
    return certificate, key


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pem")
    (folder / "garbage.pem").write_bytes(b"\xff\xd8\xff no PEM")
    (folder / "empty.pem").write_bytes(b"")
    for name in ("one", "two"):
        make_certificate(folder, name)
    return folder


@pytest.mark.parametrize("command", [["health"], ["detect", __file__], ["explain", __file__], ["loadtest", "steady"]])
@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--tls-root", "missing.pem"], "missing.pem"),
        (["--tls-root", "."], "."),
        (["--tls-root", "garbage.pem"], "garbage.pem"),
        (["--tls-root", "empty.pem"], "empty.pem"),
        (["--tls-root", "one.key"], "one.key"),
        (["--tls-certificate", "one.pem"], "--tls-key"),
        (["--tls-key", "one.key"], "--tls-certificate"),
        (["--tls-key", "missing.key"], "--tls-certificate"),
        (["--tls-certificate", "missing.pem", "--tls-key", "one.key"], "missing.pem"),
        (["--tls-certificate", "one.pem", "--tls-key", "missing.key"], "missing.key"),
        (["--tls-certificate", "one.pem", "--tls-key", "two.key"], "two.key"),
        (["--tls-certificate", "garbage.pem", "--tls-key", "one.key"], "garbage.pem"),
    ],
)
def test_a_tls_file_that_cannot_be_used_is_a_usage_error_that_names_it(
    command, options, named, pem, monkeypatch, capsys
):
    monkeypatch.chdir(pem)
    try:
        status = main([*command, "--url", "127.0.0.1:9", *options])
    except SystemExit as ended:
        status = ended.code
    shown = capsys.readouterr().err
    assert status == 2, shown
    assert named in shown
    assert "Traceback" not in shown


def test_files_that_fit_together_are_accepted(pem):
    Tls(pem / "one.pem", pem / "one.pem", pem / "one.key").check_files()
    Tls(pem / "one.pem").check_files()
    Tls().check_files()


def test_a_key_or_certificate_alone_is_refused():
    with pytest.raises(ValueError, match="needs its certificate"):
        Tls(key=Path("k.pem"))
    with pytest.raises(ValueError, match="needs its key"):
        Tls(certificate=Path("c.pem"))


@pytest.mark.parametrize("name", ["deadline", "backoff", "throttle"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e300, -1.0])
def test_numbers_that_mean_nothing_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        ClientConfig(**{name: value})
