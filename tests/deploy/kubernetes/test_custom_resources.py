"""Custom resources, field by field against a table of the published references; a misspelt field is an error."""

import re
from pathlib import Path

import pytest
import yaml

TABLE = yaml.safe_load(Path(__file__).with_name("fields.yaml").read_text())
KINDS = {"string": str, "integer": int, "boolean": bool, "map": dict}
#: What the triggers of a ScaledObject take (KEDA checks these names itself, the schema does not).
METADATA = {
    "prometheus": ({"serverAddress", "query", "threshold"}, {"activationThreshold", "namespace", "ignoreNullValues"}),
    "redis-streams": (
        {"stream", "consumerGroup"},
        {"lagCount", "pendingEntriesCount", "activationLagCount", "enableTLS"},
    ),
}


def problems(value, allowed, path):
    """Yield what is wrong with a value: unknown and missing fields, wrong types and values."""
    if allowed == "podSpec":
        return
    if isinstance(allowed, dict):
        if not isinstance(value, dict):
            yield f"{path} is no object"
            return
        names = {name.rstrip("!"): name for name in allowed}
        yield from (f"{path}.{name} is unknown" for name in value if name not in names)
        yield from (f"{path}.{n[:-1]} is missing" for n in allowed if n.endswith("!") and n[:-1] not in value)
        for name in value.keys() & names.keys():
            yield from problems(value[name], allowed[names[name]], f"{path}.{name}")
    elif isinstance(allowed, list):
        if not isinstance(value, list) or not value:
            yield f"{path} is no list with elements"
            return
        for number, item in enumerate(value):
            yield from problems(item, allowed[0], f"{path}[{number}]")
    elif allowed in KINDS:
        if not isinstance(value, KINDS[allowed]) or (allowed == "integer" and isinstance(value, bool)):
            yield f"{path} is {value!r}, no {allowed}"
    elif allowed.startswith("~"):
        if not re.fullmatch(allowed[1:], value):
            yield f"{path} is {value!r}, not {allowed[1:]}"
    elif value not in allowed.split("|"):
        yield f"{path} is {value!r}, none of {allowed}"


def custom(overlay):
    return [d for d in overlay.documents if f"{d['apiVersion']}/{d['kind']}" in TABLE]


def test_custom_resources_have_the_published_fields(overlay):
    known = {name.rpartition("/")[0].partition("/")[0] for name in TABLE}
    for document in overlay.documents:
        group = document["apiVersion"].partition("/")[0]
        assert group not in known or document in custom(overlay), f"no table for {document['kind']}"
    for document in custom(overlay):
        kind = f"{document['apiVersion']}/{document['kind']}"
        assert not list(problems(document["spec"], TABLE[kind], document["kind"]))


def test_the_table_holds_no_kind_that_is_not_used(render):
    used = {
        f"{d['apiVersion']}/{d['kind']}"
        for folder in ("overlays/gpu-multi-zone", "samples/kserve")
        for d in render(folder).documents
    }
    assert set(TABLE) <= used


@pytest.mark.parametrize(
    ("value", "allowed", "found"),
    [
        ({"nmae": "x"}, {"name!": "string"}, ["x.nmae is unknown", "x.name is missing"]),
        ({"name": 1}, {"name": "string"}, ["x.name is 1, no string"]),
        ({"n": True}, {"n": "integer"}, ["x.n is True, no integer"]),
        ({"n": []}, {"n": ["string"]}, ["x.n is no list with elements"]),
        ("x", {"n": "string"}, ["x is no object"]),
        ("Third", "First|Second", ["x is 'Third', none of First|Second"]),
        ("10 s", "~[0-9]+s", ["x is '10 s', not [0-9]+s"]),
    ],
)
def test_the_check_finds_what_it_looks_for(value, allowed, found):
    assert list(problems(value, allowed, "x")) == found


@pytest.mark.parametrize("folder", ["overlays/gpu", "overlays/gpu-multi-zone"])
def test_triggers_have_the_fields_of_their_scaler(render, folder):
    overlay = render(folder)
    authentications = overlay.kind("TriggerAuthentication")
    for name, document in overlay.kind("ScaledObject").items():
        triggers = document["spec"]["triggers"]
        assert len({trigger["name"] for trigger in triggers}) == len(triggers)
        for trigger in triggers:
            required, optional = METADATA[trigger["type"]]
            assert required <= set(trigger["metadata"]) <= required | optional, name
            assert all(isinstance(value, str) for value in trigger["metadata"].values()), trigger["name"]
            assert trigger.get("authenticationRef", {"name": "queue"})["name"] in authentications


def test_the_workers_scale_on_the_streams_of_the_queue(render):
    from veridict.explain.jobs.queue import JobQueue
    from veridict.explain.jobs.settings import QueueSettings
    from veridict.explain.jobs.streams import GROUP

    queue = JobQueue(QueueSettings(), "redis://127.0.0.1:1/0", "c")
    streams = {stream.name for stream in queue.streams.values()}
    spec = render("overlays/gpu").kind("ScaledObject")["worker"]["spec"]
    assert spec["minReplicaCount"] == 0
    for field in ("lagCount", "pendingEntriesCount"):  # waiting jobs start workers, running ones keep them
        watched = {t["metadata"]["stream"] for t in spec["triggers"] if field in t["metadata"]}
        assert watched == streams
    assert {trigger["metadata"]["consumerGroup"] for trigger in spec["triggers"]} == {GROUP}


def test_the_gateway_leads_to_the_server_with_mutual_tls(render):
    overlay = render("overlays/gpu-multi-zone")
    [gateway], [route] = overlay.kind("Gateway").values(), overlay.kind("GRPCRoute").values()
    listeners = {listener["name"]: listener for listener in gateway["spec"]["listeners"]}
    [parent] = route["spec"]["parentRefs"]
    assert parent["name"] == gateway["metadata"]["name"]
    assert listeners[parent["sectionName"]]["hostname"] in route["spec"]["hostnames"]
    service = overlay.kind("Service")["triton"]
    ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
    for rule in route["spec"]["rules"]:
        assert rule["backendRefs"] == [{"name": "triton", "port": ports["grpc"]}]
    [tls] = overlay.kind("BackendTLSPolicy")["triton"]["spec"]["targetRefs"]
    assert (tls["name"], tls["sectionName"]) == ("triton", "grpc")
    [limit] = overlay.kind("BackendTrafficPolicy")["triton"]["spec"]["targetRefs"]
    assert limit["name"] == route["metadata"]["name"]
    [client] = overlay.kind("ClientTrafficPolicy")["veridict"]["spec"]["targetRefs"]
    assert client["name"] == gateway["metadata"]["name"]
    arguments = overlay.containers()["Deployment/triton/triton"]["args"]
    assert "--tls-client-ca=/etc/veridict/tls/ca.crt" in arguments


def test_the_route_names_the_methods_that_our_client_calls(render):
    [route] = render("overlays/gpu-multi-zone").kind("GRPCRoute").values()
    methods = {match["method"]["method"] for rule in route["spec"]["rules"] for match in rule["matches"]}
    assert methods == {"ModelInfer", "ServerReady", "ModelReady"}
