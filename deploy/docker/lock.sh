#!/bin/sh
# Writes the lock files in locks/ from pyproject.toml and constraints.txt: every package with version and hashes, for
# Linux on x86-64 and Python 3.11 and 3.12. Needs uv. Run it from the repository root after a change of dependencies.
# locks/torch-cpu.txt is written by hand: PyPI has only torch's CUDA build.
set -eu
locks=deploy/docker/locks
project=$(mktemp -d)
trap 'rm -r "$project"' EXIT
cp README.md LICENSE "$project"
cat pyproject.toml deploy/docker/lock.toml >"$project/pyproject.toml"

lock() {
    name=$1
    shift
    uv pip compile --quiet --upgrade --project "$project" --generate-hashes --universal --python-version 3.11 \
        --no-annotate --custom-compile-command deploy/docker/lock.sh --constraint constraints.txt \
        --output-file "$locks/$name.txt" "$@"
}

lock triton "$project/pyproject.toml" --extra serving --extra storage
lock worker "$project/pyproject.toml" --extra explain --extra tracing --extra backfill --no-emit-package torch
lock ui "$project/pyproject.toml" --extra review
echo 'setuptools>=77' | lock build -
echo 'nvidia-pytriton==0.7.0' | lock evaluation --no-deps -
