# The page on which people decide. Build it in the repository root.
#
# PYTHON_IMAGE has no default: give a Debian image with Python 3.11 or 3.12 and pip, by its digest:
#   --build-arg PYTHON_IMAGE=docker.io/library/python:3.12-slim-bookworm@sha256:...
ARG PYTHON_IMAGE

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY deploy/docker/install.sh deploy/docker/
COPY deploy/docker/locks/ deploy/docker/locks/
RUN deploy/docker/install.sh lock deploy/docker/locks/ui.txt
COPY . .
# The page runs no network: detector and worker are other containers.
ARG WEIGHTS=none
RUN deploy/docker/install.sh package "${WEIGHTS}"

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/veridict /opt/veridict
# HOME: the root file system may be read-only.
ENV PATH=/opt/veridict/bin:${PATH} \
    VIRTUAL_ENV=/opt/veridict \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    VERIDICT_STATE=/var/lib/veridict
# A volume mounted here belongs to the page's user.
RUN install --directory --owner=10001 --group=10001 /var/lib/veridict
WORKDIR /
USER 10001:10001
EXPOSE 8501
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=6s --start-period=60s --retries=3 CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=5)"]
ENTRYPOINT ["veridict"]
CMD ["ui", "--host", "0.0.0.0", "--no-worker"]
