"""The container images: Dockerfiles, lock files and compose files, without building them."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from veridict.deploy.command import build_parser

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "deploy" / "docker"
IMAGES = {"triton": "TRITON_IMAGE", "worker": "PYTHON_IMAGE", "ui": "PYTHON_IMAGE"}
#: The extras that each image installs; torch's lock is a file of its own.
LOCKS = {"triton": ("serving", "storage"), "worker": ("explain", "tracing", "backfill"), "ui": ("review",)}
PINNED = re.compile(r"^([\w.-]+)==([^ ]+)( ; .*)? \\\n((?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)
VARIABLE = re.compile(r"\$\{(\w+)(:[-?][^}]*)?\}")


class Loader(yaml.SafeLoader):
    """Reads compose files: ``!reset`` is a value of its own."""


Loader.add_constructor("!reset", lambda loader, node: "reset")


def compose(name: str) -> dict[str, dict]:
    return yaml.load((DOCKER / name).read_text(), Loader)["services"]


def instructions(name: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile, of its last stage only."""
    text = re.sub(r"^#.*\n", "", (DOCKER / f"{name}.Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line.split(maxsplit=1) for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    start = max(number for number, line in enumerate(lines) if line[0] == "FROM")
    return [(word, " ".join(rest)) for word, *rest in lines[start:]]


def locked(name: str) -> dict[str, list[tuple[str, str]]]:
    """Return version and marker of every package of a lock file."""
    text = re.sub(r"^ *#.*\n", "", (DOCKER / "locks" / f"{name}.txt").read_text(), flags=re.MULTILINE)
    assert not PINNED.sub("", text).strip(), "a requirement without version or hashes"
    found: dict[str, list[tuple[str, str]]] = {}
    for package, version, marker, _ in PINNED.findall(text):
        found.setdefault(canonicalize_name(package), []).append((version, marker))
    return found


def requirements(extra: str) -> list[Requirement]:
    """Return what an extra and the extras within it ask for, and what the package itself does."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = []
    for text in [*project["dependencies"], *project["optional-dependencies"][extra]]:
        requirement = Requirement(text)
        if requirement.name == "veridict":
            found += [each for inner in requirement.extras for each in requirements(inner)]
        else:
            found.append(requirement)
    return found


@pytest.mark.parametrize("name", sorted(path.stem for path in DOCKER.glob("*.Dockerfile")))
def test_hadolint_reports_nothing(name):
    command = [Path(sys.executable).parent / "hadolint", DOCKER / f"{name}.Dockerfile"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.parametrize(("name", "base"), IMAGES.items())
def test_the_base_has_no_default_and_the_process_no_privileges(name, base):
    text = (DOCKER / f"{name}.Dockerfile").read_text()
    assert f"\nARG {base}\n" in text
    assert set(re.findall(r"^FROM (\S+)", text, flags=re.MULTILINE)) == {f"${{{base}}}"}
    last = dict(instructions(name))
    assert last["USER"] == "10001:10001"
    assert last["ENTRYPOINT"] == '["veridict"]'
    assert {"HEALTHCHECK", "EXPOSE", "STOPSIGNAL"} <= set(last)


@pytest.mark.parametrize("name", IMAGES)
def test_the_commands_are_those_of_the_package(name):
    words = yaml.safe_load(dict(instructions(name))["CMD"])
    commands = [words, compose("compose.yaml")[name]["command"]]
    commands += [service["command"] for service in [compose("compose.cpu.yaml").get(name)] if service]
    for command in commands:
        build_parser(command[0]).parse_args(command)


def test_no_weights_are_in_the_images_by_default():
    defaults = {name: (DOCKER / f"{name}.Dockerfile").read_text().partition("ARG WEIGHTS=")[2] for name in IMAGES}
    assert {name: text.split()[0] for name, text in defaults.items()} == {
        "triton": "none",
        "worker": "package",
        "ui": "none",
    }


@pytest.mark.parametrize(("name", "extras"), LOCKS.items())
def test_the_locks_have_what_the_package_asks_for(name, extras):
    packages = locked(name) | locked("torch-cpu")
    for requirement in {each for extra in extras for each in requirements(extra)}:
        versions = packages[canonicalize_name(requirement.name)]
        assert all(requirement.specifier.contains(version) for version, _ in versions), requirement
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            constraint = Requirement(line)
            for version, _ in packages.get(canonicalize_name(constraint.name), []):
                assert constraint.specifier.contains(version), line
    assert "torch" not in locked(name)


def test_the_evaluation_base_has_the_wheel_of_the_package():
    wheel = next(each for each in requirements("server") if each.name == "nvidia-pytriton")
    assert [version for version, _ in locked("evaluation")["nvidia-pytriton"]] == [
        each.version for each in wheel.specifier
    ]


def test_the_build_context_has_every_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for folder in project["package-dir"].values():
        parts = Path(folder).parts
        candidates = {"/".join(parts[: count + 1]) for count in range(len(parts))} | {f"{folder}/*.py"}
        assert candidates & allowed, folder


def test_the_services_are_locked_down():
    for name, service in compose("compose.yaml").items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service.get("read_only", False) or name == "grafana", name
        for port in service.get("ports", []):
            assert port.startswith(("127.0.0.1:", "${LISTEN:-127.0.0.1}:")), port


def test_the_mounted_files_exist_and_the_volumes_are_declared():
    document = yaml.load((DOCKER / "compose.yaml").read_text(), Loader)
    for name, service in document["services"].items():
        for volume in service.get("volumes", []):
            source = VARIABLE.sub("", volume).split(":")[0]
            assert not source.startswith("..") or (DOCKER / source).is_dir(), f"{name}: {volume}"
            assert not source or source.startswith("..") or source in document["volumes"], f"{name}: {volume}"
    config = next(word for word in document["services"]["prometheus"]["command"] if "config.file" in word)
    assert (DOCKER.parent / "observability" / "prometheus" / Path(config).name).is_file()
    config = document["services"]["otel-collector"]["command"][0]
    assert (DOCKER.parent / "observability" / "otel" / Path(config).name).is_file()


def test_the_settings_are_those_of_the_example():
    used: dict[str, str] = {}
    for name, rest in VARIABLE.findall((DOCKER / "compose.yaml").read_text()):
        used.setdefault(name, rest)
    example = dict(
        line.lstrip("#").split("=", 1)
        for line in (DOCKER / "env.example").read_text().splitlines()
        if re.match(r"#?\w+=", line)
    )
    assert set(example) == set(used) | {"COMPOSE_PROFILES"}
    for name, rest in used.items():
        if rest.startswith(":-") and len(rest) > 2:
            assert example[name] == rest[2:], name


def test_the_cpu_variant_asks_for_no_gpu():
    gpu, cpu = compose("compose.yaml")["triton"], compose("compose.cpu.yaml")["triton"]
    assert gpu["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert cpu["deploy"] == "reset"
    assert [word for word in gpu["command"] if word not in cpu["command"]] == ["gpu"]
