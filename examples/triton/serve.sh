#!/usr/bin/env bash
# Exports a backbone into a model repository; serves it if TRITON_IMAGE names NVIDIA's image of the
# server and Docker runs here.
set -euo pipefail
stmdeploy export --stm convnext --scale "${SCALE:-tiny}" --layout triton --out repository
if [ -n "${TRITON_IMAGE:-}" ] && docker info >/dev/null 2>&1; then
  docker run --rm -p 8000:8000 -v "$PWD/repository:/models" "$TRITON_IMAGE" \
    tritonserver --model-repository=/models
else
  echo "set TRITON_IMAGE where Docker runs, and the folder repository is served"
fi
