#!/usr/bin/env bash
# Exports a backbone into a model repository, and serves it if Docker is here.
set -euo pipefail
stmdeploy export --stm convnext --scale "${SCALE:-tiny}" --layout triton --out repository
if docker info >/dev/null 2>&1; then
  docker run --rm -p 8000:8000 -v "$PWD/repository:/models" \
    nvcr.io/nvidia/tritonserver:25.09-py3 tritonserver --model-repository=/models
else
  echo "docker does not run here: serve the folder repository on a machine where it does"
fi
