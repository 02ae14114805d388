"""``veridict perf-analyzer``: writes real images as input data and runs NVIDIA's perf_analyzer with them."""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import shlex
import shutil
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from veridict.client.cli_detect import find_images
from veridict.deploy import option_types
from veridict.deploy.launcher import LaunchError
from veridict.deploy.manifest import RepositoryError
from veridict.deploy.own_server import own_server
from veridict.forensics.signature import DETECTOR, IMAGE

from .payloads import sample_set

_NO_BINARY = (
    "no perf_analyzer was found, so the command was only printed. NVIDIA's Triton SDK container has it; elsewhere "
    "`pip install --no-deps --target build/perf tritonclient==2.51.0 nvidia-cuda-runtime-cu12` (Linux, x86-64) and "
    "`apt-get install libb64-0d`, then --binary build/perf/bin/perf_analyzer"
)


def input_data(images: Sequence[bytes]) -> str:
    """Return perf_analyzer's input-data document: one request of batch 1 per encoded image.

    A BYTES element is its length as a little-endian uint32 followed by its bytes, in base64 (perf_analyzer's
    docs/input_data.md).

    Raises:
        ValueError: there is no image.
    """
    if not images:
        raise ValueError("no image to send")
    rows = [base64.b64encode(struct.pack("<I", len(image)) + image).decode() for image in images]
    return json.dumps({"data": [{IMAGE.name: {"content": {"b64": row}, "shape": [1]}} for row in rows]})


def find_binary(named: Path | None = None) -> Path | None:
    """Return the path of perf_analyzer: the named one, else that on PATH, else that of this environment; or None."""
    if named is not None:
        return named if named.is_file() else None
    in_environment = Path(sysconfig.get_path("scripts")) / "perf_analyzer"
    on_path = shutil.which("perf_analyzer")
    if on_path:
        return Path(on_path)
    return in_environment if in_environment.is_file() else None


def library_path(binary: Path) -> str:
    """Return LD_LIBRARY_PATH extended by the CUDA runtime of a pip-installed wheel next to the binary, if there is one.

    The binary is linked against libcudart although it needs no GPU.
    """
    roots = [binary.resolve().parents[1], Path(sysconfig.get_path("purelib"))]
    folders = [root / "nvidia" / "cuda_runtime" / "lib" for root in roots]
    return os.pathsep.join([*(str(f) for f in folders if f.is_dir()), os.environ.get("LD_LIBRARY_PATH", "")]).rstrip(
        os.pathsep
    )


def command_line(binary: str, url: str, data: Path, arguments: argparse.Namespace) -> list[str]:
    """Return perf_analyzer's command line for the detector."""
    load = (
        [f"--request-rate-range={arguments.request_rate}", f"--request-distribution={arguments.distribution}"]
        if arguments.request_rate
        else [f"--concurrency-range={arguments.concurrency}"]
    )
    export = ["-f", str(arguments.csv)] if arguments.csv else []
    return [
        binary,
        "-m",
        DETECTOR.name,
        "--service-kind=triton",
        "-i",
        "grpc",
        "-u",
        url,
        "--async",
        f"--input-data={data}",
        f"--measurement-interval={round(1000 * arguments.seconds)}",
        "--percentile=99",
        f"--stability-percentage={arguments.stability:g}",
        *load,
        *export,
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--url", default="", help="host:port of a gRPC endpoint (default: starts a server of its own)")
    parser.add_argument("--images", type=Path, nargs="+", metavar="PATH", help="files or folders to send")
    parser.add_argument(
        "--set",
        choices=("photo", "sizes"),
        default="sizes",
        help="images to send without --images (default: %(default)s)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("build/perf_analyzer.json"),
        help="file for the input data (default: %(default)s)",
    )
    parser.add_argument("--concurrency", default="1:16:5", help="closed loop: start:end:step (default: %(default)s)")
    parser.add_argument("--request-rate", default="", help="open loop instead: requests per second, start:end:step")
    parser.add_argument(
        "--distribution", choices=("constant", "poisson"), default="constant", help="arrivals of --request-rate"
    )
    parser.add_argument(
        "--seconds",
        type=option_types.seconds,
        default=5.0,
        help="length of one measurement window (default: %(default)s)",
    )
    parser.add_argument(
        "--stability",
        type=option_types.real(0.0, 1e6, above=True),
        default=10.0,
        help="percent by which windows may differ",
    )
    parser.add_argument("--csv", type=Path, help="file for perf_analyzer's table")
    parser.add_argument(
        "--binary", type=Path, help="path of perf_analyzer (default: that on PATH or in this environment)"
    )
    parser.add_argument(
        "--print",
        dest="print_only",
        action="store_true",
        help="write the input data and print the command without running it",
    )


@contextlib.contextmanager
def _running_server(url: str) -> Iterator[str]:
    """Yield the URL; without one, that of a server that runs inside the ``with`` block."""
    if url:
        yield url
        return
    with own_server() as server:
        yield server.url


def run(arguments: argparse.Namespace) -> int:
    """Write the input data and run perf_analyzer; return its status, 0 if only printed, 2 for invalid options."""
    try:
        if arguments.images:
            files = [Path(p).read_bytes() for p in find_images([str(p) for p in arguments.images])]
        else:
            files = [sample.data for sample in sample_set(arguments.set)]
        binary = find_binary(arguments.binary)
        if arguments.binary is not None and binary is None:
            raise ValueError(f"--binary: there is no file {arguments.binary}")
        arguments.data.parent.mkdir(parents=True, exist_ok=True)
        arguments.data.write_text(input_data(files))
    except (OSError, ValueError) as error:
        print(f"veridict perf-analyzer: {error}", file=sys.stderr)
        return 2
    print(f"{len(files)} images in {arguments.data}", file=sys.stderr)
    if arguments.print_only or binary is None:
        print(shlex.join(command_line("perf_analyzer", arguments.url or "127.0.0.1:8001", arguments.data, arguments)))
        if binary is None and not arguments.print_only:
            print(f"veridict perf-analyzer: {_NO_BINARY}", file=sys.stderr)
        return 0
    try:
        with _running_server(arguments.url) as url:
            command = command_line(str(binary), url, arguments.data, arguments)
            print(shlex.join(command), file=sys.stderr, flush=True)
            environment = {**os.environ, "LD_LIBRARY_PATH": library_path(binary)}
            return subprocess.run(command, env=environment, check=False).returncode
    except (LaunchError, RepositoryError, OSError) as error:
        print(f"veridict perf-analyzer: {error}", file=sys.stderr)
        return 1
