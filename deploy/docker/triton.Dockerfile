# The server: NVIDIA's tritonserver and Veridict in a virtual environment of its own. Build it in the repository root.
#
# TRITON_IMAGE has no default: give a release that you have checked, by its digest, 26.07 or later:
#   --build-arg TRITON_IMAGE=nvcr.io/nvidia/tritonserver:26.07-py3@sha256:...
# The base needs tritonserver on PATH with its python backend, and Python 3.11 or 3.12 with pip.
ARG TRITON_IMAGE

FROM ${TRITON_IMAGE} AS build
WORKDIR /src
COPY deploy/docker/install.sh deploy/docker/
COPY deploy/docker/locks/ deploy/docker/locks/
RUN deploy/docker/install.sh lock deploy/docker/locks/triton.txt
COPY . .
# none: the model repository is mounted at /models. bundled: the CPU repository of the package is in the image.
ARG WEIGHTS=none
RUN deploy/docker/install.sh package "${WEIGHTS}"

FROM ${TRITON_IMAGE}
COPY --from=build /opt/veridict /opt/veridict
# Triton's python backend takes the python3 that stands first on PATH. HOME: the root file system may be read-only.
ENV PATH=/opt/veridict/bin:${PATH} \
    VIRTUAL_ENV=/opt/veridict \
    HOME=/tmp \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /
USER 10001:10001
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=300s --retries=3 CMD ["veridict", "health"]
ENTRYPOINT ["veridict"]
CMD ["serve", "--repository", "/models", "--profile", "gpu", "--host", "0.0.0.0", "--ready-timeout", "600"]
