"""``veridict sbom``: what the serving environment consists of, as a CycloneDX document."""

from __future__ import annotations

import argparse
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from .dependencies import ROOT, Package, installed_packages
from .manifest import Manifest, RepositoryError, default_repository, read_manifest

#: Files of the repository that were trained; the others are code and configuration of this package.
_WEIGHTS = {".onnx", ".safetensors", ".npz", ".plan"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "--extras", default="server", help="extras whose packages are listed, by commas (default: %(default)s)"
    )
    parser.add_argument(
        "--repository", type=Path, default=default_repository(), help="model repository whose weights are listed"
    )
    parser.add_argument("-o", "--output", type=Path, help="file to write (default: standard output)")


def build_sbom(packages: Mapping[str, Package], manifest: Manifest) -> str:
    """Return the CycloneDX 1.6 document: packages with versions, licences and dependencies, weights with sha256.

    It names no path of the machine. Its serial number follows from its components, so equal environments have equal
    ones.
    """
    components = {name: _component(package) for name, package in packages.items()}
    weights = [
        Component(
            name=name.rpartition("/")[2],
            group=name.removeprefix("@").rpartition("/")[0],
            type=ComponentType.MACHINE_LEARNING_MODEL,
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
            bom_ref=f"weights:{name}",
            properties=[Property(name="veridict:file", value=name)],
        )
        for name, digest in sorted(manifest.files.items())
        if Path(name).suffix in _WEIGHTS
    ]
    bom = Bom(components=[component for name, component in components.items() if name != ROOT] + weights)
    bom.metadata.component = components[ROOT]
    for name, package in packages.items():
        others = [components[need] for need in package.needs]
        bom.register_dependency(components[name], others + (weights if name == ROOT else []))
    listed = sorted(str(component.bom_ref) for component in bom.components)
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_URL, "\n".join([*listed, *sorted(manifest.files.values())]))
    return str(JsonV1Dot6(bom).output_as_string(indent=2))


def _component(package: Package) -> Component:
    url = PackageURL("pypi", None, package.name, package.version)
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.APPLICATION if package.name == ROOT else ComponentType.LIBRARY,
        purl=url,
        bom_ref=url.to_string(),
        licenses=[LicenseFactory().make_from_string(package.license)] if package.license else [],
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the document; return 0, or 1 with the reason on standard error."""
    try:
        packages = installed_packages([extra for extra in arguments.extras.split(",") if extra])
        document = build_sbom(packages, read_manifest(arguments.repository))
        if arguments.output is not None:
            arguments.output.write_text(document + "\n")
    except (OSError, RepositoryError, ValueError) as error:
        print(f"veridict sbom: {error}", file=sys.stderr)
        return 1
    if arguments.output is None:
        print(document)
    else:
        print(f"{arguments.output}: {len(packages)} packages", file=sys.stderr)
    return 0
