"""The rendered overlays: valid by Kubernetes' own schemas, held to the pod-security list, coherent with the product."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from veridict.deploy.command import build_parser
from veridict.deploy.engines import build_parser as engines_parser

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
#: The oldest Kubernetes that has all that is used (preStop sleep: on by default from 1.30), and newer ones.
VERSIONS = ("1.30", "1.34")
CUSTOM_GROUPS = ("keda.sh", "gateway.networking.k8s.io", "gateway.envoyproxy.io", "serving.kserve.io")
#: Where checkov is looked for besides PATH: `make manifests-check` installs it there, away from our pinned packages.
CHECKOV = Path(__file__).resolve().parents[3] / "build" / "checkov" / "bin" / "checkov"
SERVER = "Deployment/triton/triton"


def is_core(document):
    return document["apiVersion"].partition("/")[0] not in CUSTOM_GROUPS


def seconds(container, name):
    """Return a millisecond option of the server in seconds."""
    text = " ".join(container["args"])
    return int(re.search(rf"{name}=(\d+)", text)[1]) / 1000


@pytest.mark.parametrize("version", VERSIONS)
def test_core_kinds_are_valid(overlay, version):
    core = [document for document in overlay.documents if is_core(document)]
    assert core or overlay.folder.startswith("samples/")
    for document in core:
        kubernetes_validate.validate(document, version, strict=True)


def test_every_object_is_in_the_namespace_and_named_once(overlay):
    names = [(d["kind"], d["metadata"]["name"]) for d in overlay.documents]
    assert len(names) == len(set(names))
    for document in overlay.documents:
        if document["kind"] != "Namespace":
            assert document["metadata"]["namespace"] == "veridict", document["metadata"]["name"]


def test_pods_hold_the_security_list(overlay):
    for name, spec in overlay.pods().items():
        if name.startswith("ServingRuntime/"):  # the InferenceService of the sample carries these fields
            spec = {**spec, **overlay.kind("InferenceService")["veridict"]["spec"]["predictor"]}
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, name
        assert spec["serviceAccountName"] not in ("", "default"), name
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["runAsUser"] >= 10000, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        kinds = {key for volume in spec["volumes"] for key in volume if key != "name"}
        assert kinds <= {"emptyDir", "secret"}, f"{name}: {kinds}"  # no hostPath
        assert all(v["emptyDir"]["sizeLimit"] for v in spec["volumes"] if "emptyDir" in v), name


def test_containers_hold_the_security_list(overlay):
    assert overlay.containers()
    for name, container in overlay.containers().items():
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["readOnlyRootFilesystem"] is True, name
        assert context["runAsNonRoot"] is True, name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert "privileged" not in context, name
        # Equal requests and limits: the pod is Guaranteed, so a static CPU manager gives it cores of its own.
        resources = container["resources"]
        assert resources["requests"] == resources["limits"], name
        assert {"cpu", "memory"} <= set(resources["limits"]), name
        assert re.fullmatch(r"[^:]+:[^:]+", container["image"]), f"{name}: no tag"
        assert not container["image"].endswith(":latest"), name
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert "/tmp" in mounts, f"{name} has no place to write"


def test_every_long_running_container_has_probes(overlay):
    for name, spec in overlay.pods().items():
        if name.startswith("Job/"):  # it ends by itself
            continue
        for container in spec["containers"]:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert container[probe]["timeoutSeconds"] >= 3, f"{name} {probe}"


def test_accounts_exist_and_mount_no_token(overlay):
    accounts = overlay.kind("ServiceAccount")
    for document in accounts.values():
        assert document["automountServiceAccountToken"] is False
    if not overlay.folder.startswith("samples/"):
        assert {spec["serviceAccountName"] for spec in overlay.pods().values()} == set(accounts)


def test_the_namespace_enforces_the_restricted_standard(render):
    labels = render("overlays/cpu").kind("Namespace")["veridict"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_images_are_variables_of_the_overlay(overlay, manifests):
    names = set()
    for path in manifests.rglob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text()):
            names |= {entry["name"] for entry in (document or {}).get("images", []) if "name" in entry}
    text = "\n".join(p.read_text() for p in manifests.rglob("*.yaml") if p.name != "kustomization.yaml")
    assert set(re.findall(r"image: (\S+)", text)) == names
    assert not names & {container["image"] for container in overlay.containers().values()}


def test_commands_are_accepted_by_our_parsers(overlay):
    """The arguments in the manifests are those of the commands in this version."""
    for name, container in overlay.containers().items():
        words = [*container["command"], *container["args"]]
        if words[:2] == ["/bin/sh", "-c"]:
            assert words[2].endswith('exec veridict "$@"'), name
            words = words[3:]
        if words[0] == "veridict":
            build_parser(words[1]).parse_args(words[1:])
        elif words[:3] == ["python3", "-m", "veridict.deploy.engines"]:
            engines_parser().parse_args(words[3:])
        else:
            assert words[0] == "redis-server", name


def test_a_request_in_flight_ends_before_the_server(overlay):
    if overlay.folder == "samples/backfill":
        pytest.skip("a client of the servers")
    servers = {n: c for n, c in overlay.containers().items() if c["name"] in ("triton", "kserve-container")}
    assert len(servers) == 1 + overlay.folder.endswith("-canary")
    pods = {**overlay.pods(), **{k: d["spec"]["predictor"] for k, d in overlay.kind("InferenceService").items()}}
    grace = next(
        spec["terminationGracePeriodSeconds"] for spec in pods.values() if "terminationGracePeriodSeconds" in spec
    )
    deadline, exit_timeout, stop_timeout = 10, 10, 20  # the client's, tritonserver's, that of `veridict serve`
    for container in servers.values():
        age, age_grace = (seconds(container, f"grpc-max-connection-age{end}") for end in ("", "-grace"))
        stop = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert age_grace > deadline  # no call is cut by the server: cancelled calls crash Triton 2.51
        assert stop >= age * 1.1 + deadline  # gRPC spreads the age by 10%
        assert grace >= stop + max(exit_timeout, stop_timeout)


def test_the_model_repository_has_regular_files(overlay):
    """OpenVINO refuses external data behind links that leave the folder: no ConfigMap, Secret or image volume."""
    for name, spec in overlay.pods().items():
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        for container in spec["containers"]:
            for mount in container["volumeMounts"]:
                if mount["mountPath"] in ("/models", "/dev/shm", "/tmp"):
                    assert "emptyDir" in volumes[mount["name"]], name


def test_probes_ask_what_triton_answers(overlay):
    for name, container in overlay.containers().items():
        if container["name"] in ("triton", "kserve-container"):
            paths = {p: container[p]["httpGet"]["path"] for p in ("startupProbe", "readinessProbe", "livenessProbe")}
            assert set(paths.values()) == {"/v2/health/ready", "/v2/health/live"}, name
            assert paths["livenessProbe"] == "/v2/health/live", name  # a server that loads a model is not restarted


@pytest.mark.parametrize("folder", ["overlays/gpu", "overlays/gpu-multi-zone", "overlays/gpu-multi-zone-canary"])
def test_the_gpu_reaches_every_step_that_asks_for_its_type(render, folder):
    for name, container in render(folder).containers().items():
        has_gpu = container["resources"]["limits"].get("nvidia.com/gpu") == "1"
        assert has_gpu == name.startswith(("Deployment/triton/", "Deployment/triton-canary/")), name


def test_the_servers_of_a_zone_may_be_lost(render):
    overlay = render("overlays/gpu-multi-zone")
    spec = overlay.pods()["Deployment/triton"]
    [spread] = spec["topologySpreadConstraints"]
    assert (spread["whenUnsatisfiable"], spread["minDomains"]) == ("DoNotSchedule", 3)
    assert overlay.kind("ScaledObject")["triton"]["spec"]["minReplicaCount"] >= spread["minDomains"]
    assert spec["affinity"]["podAntiAffinity"]
    assert overlay.kind("PodDisruptionBudget")["triton"]["spec"]["maxUnavailable"] == 1


def test_a_scaled_deployment_names_no_replicas(render):
    """Else every `kubectl apply` would set the count back."""
    for folder in ("overlays/gpu", "overlays/gpu-multi-zone"):
        overlay = render(folder)
        for scaled in overlay.kind("ScaledObject").values():
            assert "replicas" not in overlay.kind("Deployment")[scaled["spec"]["scaleTargetRef"]["name"]]["spec"]


def test_nothing_leaves_the_servers_but_to_storage_and_dns(overlay):
    if overlay.folder.startswith("samples/"):
        pytest.skip("a sample without policies")
    policies = overlay.kind("NetworkPolicy")
    assert policies["deny-all"]["spec"]["podSelector"] == {}
    assert policies["deny-all"]["spec"]["policyTypes"] == ["Ingress", "Egress"]
    labels = overlay.kind("Deployment")["triton"]["spec"]["template"]["metadata"]["labels"]
    allowed = []
    for policy in policies.values():
        wanted = policy["spec"]["podSelector"].get("matchLabels", {})
        if wanted.items() <= labels.items():
            allowed += policy["spec"].get("egress", [])
    ports = {
        (rule["port"], "cidr" if "ipBlock" in rule_to else "dns")
        for e in allowed
        for rule in e["ports"]
        for rule_to in e["to"]
    }
    assert ports == {(443, "cidr"), (53, "dns")}


def test_services_reach_the_servers_that_exist(render):
    services = render("overlays/gpu").kind("Service")
    assert services["triton-headless"]["spec"]["clusterIP"] == "None"
    for service in services.values():
        assert service["spec"]["selector"] == {"app.kubernetes.io/name": "triton"}
        assert service["spec"]["ports"] == [{"name": "grpc", "port": 8001, "targetPort": "grpc"}]


@pytest.mark.slow
def test_checkov_finds_nothing_that_is_not_answered(overlay, tmp_path):
    program = shutil.which("checkov") or (str(CHECKOV) if CHECKOV.exists() else None)
    if program is None:
        pytest.skip("checkov is not installed: make manifests-check installs it in build/checkov")
    (tmp_path / "rendered.yaml").write_text(overlay.text)
    options = ["--framework", "kubernetes", "--skip-download", "--compact", "-o", "json"]
    done = subprocess.run(
        [program, "-f", str(tmp_path / "rendered.yaml"), *options],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "LOG_LEVEL": "CRITICAL"},
    )
    report = json.loads(done.stdout)
    if overlay.folder == "samples/kserve":  # checkov knows no KServe
        assert report == {"passed": 0, "failed": 0, "skipped": 0, "parsing_errors": 0, **report}
        return
    failed = [(c["check_id"], c["resource"], c["check_name"]) for c in report["results"]["failed_checks"]]
    assert failed == []
    assert report["summary"]["passed"] > (50 if overlay.folder == "samples/backfill" else 100)
    assert all(c["check_result"]["suppress_comment"] for c in report["results"]["skipped_checks"])
