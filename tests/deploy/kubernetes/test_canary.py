"""The canary: the same pods on another repository, a share of the route, and selectors that tell the pods apart."""

import os

import pytest
import yaml

SAMPLE = "overlays/gpu-multi-zone-canary"
STABLE, CANARY = "triton", "triton-canary"
#: An overlay without gateway and autoscaler, for clients of the headless Service.
CPU_SERVER = """\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: veridict
resources: [{manifests}/overlays/cpu]
components: [{manifests}/components/canary/server]
configMapGenerator:
  - name: veridict
    behavior: merge
    literals: [repository-url=s3://veridict-models/v2]
replicas: [{{name: triton, count: 1}}]
"""
CPU = """\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: veridict
resources: [{manifests}/overlays/cpu, server]
components: [{manifests}/components/canary]
"""


@pytest.fixture
def cpu(tmp_path, manifests, render):
    """Return the CPU overlay with a canary."""
    for folder, text in ((tmp_path / "server", CPU_SERVER), (tmp_path, CPU)):
        folder.mkdir(exist_ok=True)
        place = os.path.relpath(manifests, folder.resolve())
        (folder / "kustomization.yaml").write_text(text.format(manifests=place))
    return render(str(tmp_path))


@pytest.fixture(params=[SAMPLE, "cpu"])
def canary(request, render):
    """Return the sample, and a canary without a gateway."""
    return request.getfixturevalue("cpu") if request.param == "cpu" else render(request.param)


def selects(selector, labels):
    """Return whether a selector selects pods with these labels."""
    expressions = selector.get("matchExpressions", [])
    assert all(expression["operator"] == "In" for expression in expressions)
    wanted = selector.get("matchLabels", {})
    return wanted.items() <= labels.items() and all(labels.get(e["key"]) in e["values"] for e in expressions)


def labels_of(overlay, name):
    return overlay.kind("Deployment")[name]["spec"]["template"]["metadata"]["labels"]


def settings(overlay, name):
    """Return the name and the data of the ConfigMap that a Deployment reads."""
    [fetch] = [c for c in overlay.pods()[f"Deployment/{name}"]["initContainers"] if c["name"] == "fetch-repository"]
    [used] = {e["valueFrom"]["configMapKeyRef"]["name"] for e in fetch["env"] if "valueFrom" in e}
    return used, overlay.kind("ConfigMap")[used]["data"]


def test_the_pods_are_the_same_but_for_the_repository(canary):
    pods = {}
    for name in (STABLE, CANARY):
        used, _ = settings(canary, name)
        text = yaml.safe_dump(canary.pods()[f"Deployment/{name}"])
        pods[name] = text.replace(used, "CONFIGURATION").replace(f"name: {CANARY}\n", f"name: {STABLE}\n")
    assert pods[STABLE] == pods[CANARY]
    (_, old), (_, new) = settings(canary, STABLE), settings(canary, CANARY)
    assert {key for key in old if old[key] != new[key]} == {"repository-url"}


def test_no_selector_takes_one_for_the_other(canary):
    owners = {}
    for kind in ("Deployment", "PodDisruptionBudget", "Service"):
        for name, document in canary.kind(kind).items():
            selector = document["spec"]["selector"]
            selector = {"matchLabels": selector} if kind == "Service" else selector
            owners[f"{kind}/{name}"] = [s for s in (STABLE, CANARY) if selects(selector, labels_of(canary, s))]
    expected = {key: [key.partition("/")[2].replace("triton-headless", "triton")] for key in owners if "triton" in key}
    assert {key: found for key, found in owners.items() if found} == expected
    assert len(expected) == 8


def test_the_spread_counts_the_own_pods(canary):
    spec = canary.pods()[f"Deployment/{CANARY}"]
    [anti] = spec["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    for selector in (anti["podAffinityTerm"]["labelSelector"], spec["topologySpreadConstraints"][0]["labelSelector"]):
        assert selects(selector, labels_of(canary, CANARY))
        assert not selects(selector, labels_of(canary, STABLE))


def test_the_network_policies_treat_both_alike_but_for_workers(canary):
    policies = canary.kind("NetworkPolicy")
    chosen = {
        name: [selects(policy["spec"]["podSelector"], labels_of(canary, pod)) for pod in (STABLE, CANARY)]
        for name, policy in policies.items()
    }
    assert all(stable == other for stable, other in chosen.values()), chosen
    assert {"triton-clients", "metrics", "object-storage"} <= {name for name, found in chosen.items() if any(found)}
    reached = [to["podSelector"] for e in policies["worker-egress"]["spec"]["egress"] for to in e["to"]]
    assert any(selects(selector, labels_of(canary, STABLE)) for selector in reached)
    assert not any(selects(selector, labels_of(canary, CANARY)) for selector in reached)


def test_nothing_of_the_overlay_is_there_twice(canary):
    kinds = [document["kind"] for document in canary.documents]
    for kind in ("Namespace", "NetworkPolicy", "ServiceAccount", "StatefulSet", "Gateway", "GRPCRoute", "ScaledObject"):
        assert not [name for name in canary.kind(kind) if "canary" in name], kind
    assert kinds.count("Deployment") == 3
    labelled = [d for d in canary.documents if d["metadata"].get("labels", {}).get("app.kubernetes.io/name") == CANARY]
    assert sorted(d["kind"] for d in labelled) == [
        "ConfigMap",
        "Deployment",
        "PodDisruptionBudget",
        "Service",
        "Service",
    ]


def test_the_count_is_fixed_and_the_autoscaler_keeps_to_the_others(canary):
    assert canary.kind("Deployment")[CANARY]["spec"]["replicas"] == 1
    assert CANARY not in {s["spec"]["scaleTargetRef"]["name"] for s in canary.kind("ScaledObject").values()}


def test_the_route_divides_the_calls(render):
    overlay = render(SAMPLE)
    [rule] = overlay.kind("GRPCRoute")["triton"]["spec"]["rules"]
    weights = {backend["name"]: backend["weight"] for backend in rule["backendRefs"]}
    assert sum(weights.values()) == 100
    assert 0 < weights[CANARY] < weights[STABLE]
    assert set(weights) == {STABLE, CANARY}
    for backend in rule["backendRefs"]:
        assert backend["port"] in [port["port"] for port in overlay.kind("Service")[backend["name"]]["spec"]["ports"]]
    targets = overlay.kind("BackendTLSPolicy")["triton"]["spec"]["targetRefs"]
    assert [target["name"] for target in targets] == [STABLE, CANARY]


def test_prometheus_tells_them_apart(canary, manifests):
    path = manifests.parent / "observability" / "kubernetes" / "podmonitor.yaml"
    jobs = {}
    for document in yaml.safe_load_all(path.read_text()):
        [endpoint] = document["spec"]["podMetricsEndpoints"]
        [job] = [rule["replacement"] for rule in endpoint["relabelings"] if rule["targetLabel"] == "job"]
        for name in (STABLE, CANARY):
            if selects(document["spec"]["selector"], labels_of(canary, name)):
                jobs.setdefault(name, []).append(job)
    assert jobs == {STABLE: ["veridict-triton"], CANARY: ["veridict-triton-canary"]}
