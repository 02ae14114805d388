"""What is served, as CycloneDX, and what is asked about it: real pip-audit against a service of our own."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from veridict.deploy.cli_audit import AuditError, read_report
from veridict.deploy.command import main
from veridict.deploy.dependencies import installed_packages
from veridict.deploy.manifest import default_repository, read_manifest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def sbom(tmp_path_factory):
    path = tmp_path_factory.mktemp("sbom") / "sbom.json"
    assert main(["sbom", "--output", str(path)]) == 0
    return path.read_text()


def test_the_document_follows_the_schema(sbom):
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(sbom) is None


def test_it_names_what_the_server_needs_as_it_is_installed(sbom):
    document = json.loads(sbom)
    assert document["metadata"]["component"]["name"] == "veridict"
    found = {c["name"]: c["version"] for c in document["components"] if c["type"] == "library"}
    assert {"nvidia-pytriton", "openvino", "onnxruntime", "opencv-python-headless", "numpy", "pillow"} <= set(found)
    assert "pytest" not in found
    assert found == {name: metadata.version(name) for name in found}
    needed = {d["ref"]: d.get("dependsOn", []) for d in document["dependencies"]}
    assert any(ref.startswith("pkg:pypi/openvino@") for ref in needed[document["metadata"]["component"]["bom-ref"]])


def test_it_has_the_weights_with_the_manifests_sha256(sbom):
    models = [c for c in json.loads(sbom)["components"] if c["type"] == "machine-learning-model"]
    files = read_manifest(default_repository()).files
    listed = {c["properties"][0]["value"]: c["hashes"][0]["content"] for c in models}
    assert listed
    assert all(files[name] == digest for name, digest in listed.items())
    assert {name for name in files if name.endswith((".onnx", ".safetensors"))} <= set(listed)


def test_it_names_no_path_of_the_machine(sbom):
    assert not [text for text in (str(ROOT), str(Path.home()), "file:", "site-packages", "/tmp") if text in sbom]


def test_the_same_environment_has_the_same_serial_number(sbom, tmp_path):
    assert main(["sbom", "--output", str(tmp_path / "again.json")]) == 0
    assert json.loads((tmp_path / "again.json").read_text())["serialNumber"] == json.loads(sbom)["serialNumber"]


@pytest.mark.parametrize("command", [["sbom"], ["audit"]])
def test_an_unknown_extra_is_named(command, capsys):
    assert main([*command, "--extras", "nothing"]) == 1
    assert "there is no extra 'nothing'" in capsys.readouterr().err


def test_extras_of_extras_are_followed():
    names = set(installed_packages(["server"]))
    assert set(installed_packages(["serving"])) < names
    assert "nvidia-pytriton" in names


@pytest.fixture
def service():
    """Run a service with OSV's interface that knows one vulnerability: of jinja2 before 3.1.6."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = query["package"]["name"]
            events = [{"introduced": "0"}, {"fixed": "3.1.6"}]
            affected = {
                "package": {"name": name, "ecosystem": "PyPI"},
                "ranges": [{"type": "ECOSYSTEM", "events": events}],
            }
            vulnerability = {
                "id": "PYSEC-1",
                "aliases": ["CVE-1"],
                "summary": "-",
                "details": "-",
                "affected": [affected],
            }
            answer = json.dumps({"vulns": [vulnerability]} if (name, query["version"]) == ("jinja2", "3.1.5") else {})
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()
        thread.join()


@pytest.fixture
def lock(tmp_path):
    path = tmp_path / "lock.txt"
    path.write_text("jinja2==3.1.5 \\\n    --hash=sha256:" + "0" * 64 + "\n")
    return str(path)


@pytest.mark.slow
class TestAudit:
    def test_a_known_vulnerability_fails_and_is_named(self, service, lock, capsys):
        assert main(["audit", "--lock", lock, "--osv-url", service]) == 1
        shown = capsys.readouterr().out
        assert "jinja2 3.1.5: PYSEC-1, fixed in 3.1.6" in shown
        assert "1 packages checked, 1 known vulnerabilities" in shown

    def test_one_that_was_looked_at_can_be_ignored(self, service, lock):
        assert main(["audit", "--lock", lock, "--osv-url", service, "--ignore", "PYSEC-1"]) == 0

    def test_the_packages_of_the_images_are_asked_about(self, service, capsys):
        locks = [str(ROOT / f"deploy/docker/locks/{name}.txt") for name in ("triton", "worker", "torch-cpu")]
        assert main(["audit", "--lock", *locks, "--osv-url", service]) == 0
        assert int(capsys.readouterr().out.split()[0]) > 60

    def test_a_service_that_is_away_is_no_clean_result(self, lock, capsys):
        assert main(["audit", "--lock", lock, "--osv-url", "http://127.0.0.1:9/v1/query"]) == 1
        assert "NOTHING WAS CHECKED" in capsys.readouterr().err


def test_a_package_that_the_service_does_not_know_is_not_checked():
    rows = [{"name": "a", "skip_reason": "unknown"}, {"name": "b", "version": "1", "vulns": []}]
    found = read_report(json.dumps({"dependencies": rows}))
    assert (found.checked, found.unanswered, found.vulnerabilities) == (1, ("a",), ())


@pytest.mark.parametrize("text", ["", "[]", "{}", "Traceback"])
def test_what_is_no_report_is_an_error(text):
    with pytest.raises(AuditError):
        read_report(text)
