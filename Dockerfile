# stmdeploy in a container. Build from the root of the repository:
#   docker build -t stmdeploy .                          NVIDIA GPUs: CUDA 13, TensorRT 11
#   docker build -t stmdeploy:cpu --build-arg VARIANT=cpu .
# CUDA comes with the Python packages, in the version that torch, ONNX Runtime and TensorRT were
# built for; the driver (580 or later) comes from the host, through NVIDIA's container toolkit.
ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS build
ARG VARIANT=gpu
# Of the CPU variant: where pip finds torch without CUDA, which saves 5 GB.
ARG PIP_EXTRA_INDEX_URL
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY locks/ locks/
COPY docker/ docker/
COPY stmdeploy/ stmdeploy/
COPY exporters/ exporters/
COPY profiles/ profiles/
# What the lock lists, by hash; then the project's wheel, with the extras that docker/ names, which
# may fetch what no hash covers.
RUN python -m venv /opt/stmdeploy \
    && /opt/stmdeploy/bin/python -m pip install --no-cache-dir --no-deps --require-hashes \
        --requirement "locks/${VARIANT}.txt" \
    && /opt/stmdeploy/bin/python -m pip wheel --no-cache-dir --no-deps --no-build-isolation \
        --wheel-dir /opt/wheel . \
    && /opt/stmdeploy/bin/python -m pip install --no-cache-dir --constraint constraints.txt \
        "$(echo /opt/wheel/stmdeploy-*.whl)[$(cat "docker/${VARIANT}.extras")]"

FROM python:${PYTHON}
RUN useradd --uid 10001 --create-home stmdeploy \
    && install --directory --owner stmdeploy /work
COPY --from=build /opt/stmdeploy /opt/stmdeploy
ENV PATH=/opt/stmdeploy/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001
# Not the source: Python would find the package there first. Results are written here.
WORKDIR /work
VOLUME /work
ENTRYPOINT ["stmdeploy"]
CMD ["--help"]
