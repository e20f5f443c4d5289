#!/usr/bin/env bash
# Fetches nvcc 13.0 from NVIDIA's packages on PyPI into the folder DIR, unless it is there, and prints its path.
# No GPU and no installation is needed.
#
#   crates/cuda/images/nvcc.sh DIR
set -euo pipefail
dir=${1:?usage: nvcc.sh DIR}
nvcc=$dir/nvidia/cu13/bin/nvcc
if [ ! -x "$nvcc" ]; then
    mkdir -p "$dir/wheels"
    python3 -m pip download --quiet --disable-pip-version-check --timeout 10 --retries 1 --no-deps --dest "$dir/wheels" \
        nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96 \
        nvidia-cuda-cccl==13.0.85 >&2
    for wheel in "$dir"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$dir"; done
    # Last, because it says that all is there.
    chmod +x "$dir"/nvidia/cu13/nvvm/bin/* "$dir"/nvidia/cu13/bin/*
fi
echo "$nvcc"
