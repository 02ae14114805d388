# The worker of explanations. Build it in the repository root.
#
# PYTHON_IMAGE has no default: give a Debian image with Python 3.11 or 3.12 and pip, by its digest:
#   --build-arg PYTHON_IMAGE=docker.io/library/python:3.12-slim-bookworm@sha256:...
ARG PYTHON_IMAGE

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY deploy/docker/install.sh deploy/docker/
COPY deploy/docker/locks/ deploy/docker/locks/
# torch for CPUs: explanations use no GPU, and the CUDA build needs gigabytes. lime is published as source only; it is
# built with the setuptools of the lock.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN deploy/docker/install.sh lock deploy/docker/locks/torch-cpu.txt --index-url "${TORCH_INDEX}" \
    && deploy/docker/install.sh lock deploy/docker/locks/build.txt \
    && deploy/docker/install.sh lock deploy/docker/locks/worker.txt --no-binary lime --use-pep517 --no-build-isolation
COPY . .
# package: the model repository is mounted at /models; only the small networks are here that its manifest names as files
# of the package. bundled: the CPU repository of the package is in the image too.
ARG WEIGHTS=package
RUN deploy/docker/install.sh package "${WEIGHTS}"

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/veridict /opt/veridict
# HOME and the caches: the root file system may be read-only.
ENV PATH=/opt/veridict/bin:${PATH} \
    VIRTUAL_ENV=/opt/veridict \
    HOME=/tmp \
    MPLCONFIGDIR=/tmp/matplotlib \
    NUMBA_CACHE_DIR=/tmp/numba \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    VERIDICT_STATE=/var/lib/veridict
# A volume mounted here belongs to the worker's user.
RUN install --directory --owner=10001 --group=10001 /var/lib/veridict
WORKDIR /
USER 10001:10001
EXPOSE 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=6s --start-period=60s --retries=3 CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9464/health/live', timeout=5)"]
ENTRYPOINT ["veridict"]
CMD ["worker", "--host", "0.0.0.0"]
