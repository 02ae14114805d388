"""Renders the overlays with kubectl once per session; without kubectl (or kustomize) these tests are skipped."""

from __future__ import annotations

import copy
import functools
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
MANIFESTS = ROOT / "deploy" / "kubernetes"
OVERLAYS = (
    "overlays/cpu",
    "overlays/gpu",
    "overlays/gpu-multi-zone",
    "overlays/gpu-multi-zone-canary",
    "samples/backfill",
    "samples/kserve",
)
#: The pods of a rendered document are found at these places.
POD_SPECS = {
    "Deployment": ("spec", "template", "spec"),
    "StatefulSet": ("spec", "template", "spec"),
    "Job": ("spec", "template", "spec"),
    "ServingRuntime": ("spec",),
}
Document = dict[str, Any]


def renderer() -> list[str]:
    """Return the command that renders a folder; [] where there is none."""
    if shutil.which("kubectl"):
        return ["kubectl", "kustomize"]
    return ["kustomize", "build"] if shutil.which("kustomize") else []


@functools.cache
def render_text(folder: str) -> str:
    """Return the rendered manifests of a folder below ``deploy/kubernetes``."""
    command = renderer()
    if not command:
        pytest.skip("neither kubectl nor kustomize is installed: apt-get install kubernetes-client, or kubectl")
    done = subprocess.run([*command, str(MANIFESTS / folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # deprecated fields are reported there
    return done.stdout


@functools.cache
def parse(folder: str) -> list[Document]:
    """Return the rendered documents of a folder, read once: PyYAML takes half a second for an overlay."""
    return [d for d in yaml.safe_load_all(render_text(folder)) if d]


class Overlay:
    """The rendered documents of one overlay."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.text = render_text(folder)
        self.documents = copy.deepcopy(parse(folder))

    def kind(self, kind: str) -> dict[str, Document]:
        """Return the documents of a kind by name."""
        return {d["metadata"]["name"]: d for d in self.documents if d["kind"] == kind}

    def pods(self) -> dict[str, Document]:
        """Return the pod specifications by kind/name."""
        found = {}
        for document in self.documents:
            if document["kind"] in POD_SPECS:
                spec = document
                for key in POD_SPECS[document["kind"]]:
                    spec = spec[key]
                found[f"{document['kind']}/{document['metadata']['name']}"] = spec
        return found

    def containers(self) -> dict[str, Document]:
        """Return all containers, init containers included, by kind/name/container."""
        return {
            f"{pod}/{container['name']}": container
            for pod, spec in self.pods().items()
            for container in [*spec.get("initContainers", []), *spec["containers"]]
        }


@pytest.fixture(params=OVERLAYS, ids=lambda folder: folder.rpartition("/")[2])
def overlay(request: pytest.FixtureRequest) -> Overlay:
    """Return each overlay and sample in turn."""
    return Overlay(request.param)


@pytest.fixture
def render():
    """Return the function that renders one overlay, such as ``overlays/gpu``."""
    return Overlay


@pytest.fixture
def manifests() -> Path:
    """Return the folder of the manifests."""
    return MANIFESTS
