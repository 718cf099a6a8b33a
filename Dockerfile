# syntax=docker/dockerfile:1
# The service, without PyTorch and without a bundle; docs/containers.md says how to build and run it.
ARG BASE=python:3.11-slim-bookworm
# cpu, or cuda for NVIDIA GPUs.
ARG VARIANT=cpu

FROM ${BASE} AS packages
RUN python3 -m venv /opt/dimml
WORKDIR /app
# These files alone decide what is installed, so other changes do not repeat the installation. It is
# editable: the packages are in /opt/dimml, and the sources follow in /app.
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY dimml/__init__.py dimml/
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/dimml/bin/pip install --constraint constraints.txt --editable '.[serve]'

# onnxruntime-gpu computes on the CPU too, without its 285 MB for GPUs.
FROM packages AS packages-cpu
RUN rm -f /opt/dimml/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime_providers_cuda.so

# CUDA and cuDNN are Python packages, so both variants have the same base. The driver is the host's.
FROM packages AS packages-cuda
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/dimml/bin/pip install --constraint constraints.txt --editable '.[serve,cuda]'

# `COPY --from` accepts no variable. The linter takes the name of a stage for an image.
# hadolint ignore=DL3006
FROM packages-${VARIANT} AS chosen-packages

FROM ${BASE}
COPY --from=chosen-packages /opt/dimml /opt/dimml
WORKDIR /app
COPY dimml dimml
COPY serving serving
# The service and its libraries write nowhere but to /tmp.
ENV PATH=/opt/dimml/bin:$PATH HOME=/tmp
# A number, because Kubernetes cannot tell whether a name is root's.
USER 10001:10001
EXPOSE 3000
# http.client ignores HTTP_PROXY, and urllib would ask the proxy.
HEALTHCHECK --interval=10s --timeout=5s --start-period=2m --start-interval=1s \
    CMD ["python3", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 3000); c.request('GET', '/readyz'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["dimml"]
CMD ["serve", "/bundle", "--host", "0.0.0.0"]
