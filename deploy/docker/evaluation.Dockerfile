# A base for triton.Dockerfile where NVIDIA's image is not to be had: Debian and the tritonserver 2.51 of the wheel
# nvidia-pytriton, laid out as in NVIDIA's image. CPU only; for tests and evaluation, never for production
# (docs/triton-2.51-faults.md). Build it in the repository root.
#
#   --build-arg DEBIAN_IMAGE=docker.io/library/debian:bookworm-slim@sha256:...
ARG DEBIAN_IMAGE

FROM ${DEBIAN_IMAGE} AS python
# Debian's own fixes of vulnerabilities are wanted, so no versions.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libpython3.11 python3 python3-pip \
    && rm -rf /var/lib/apt/lists/* /var/log/* /var/cache/*

FROM python AS wheel
WORKDIR /src
COPY deploy/docker/locks/evaluation.txt .
RUN python3 -m pip install --no-cache-dir --no-deps --require-hashes --requirement evaluation.txt --target wheel \
    && mkdir /opt/tritonserver \
    && cp -r wheel/pytriton/tritonserver/bin wheel/pytriton/tritonserver/backends wheel/pytriton/tritonserver/caches \
        /opt/tritonserver/ \
    && cp wheel/pytriton/tritonserver/python_backend_stubs/3.11/triton_python_backend_stub \
        /opt/tritonserver/backends/python/ \
    && cp -r wheel/nvidia_pytriton.libs /opt/tritonserver/lib

FROM python
COPY --from=wheel /opt/tritonserver /opt/tritonserver
RUN echo /opt/tritonserver/lib >/etc/ld.so.conf.d/tritonserver.conf && ldconfig
ENV PATH=/opt/tritonserver/bin:${PATH}
