#!/usr/bin/env bash
# Parity with references and with the CPU, memory checks and speed on one GPU: the figures of bench/results/cuda.md but
# those of `ds4 bench`.
#
#   bench/cuda/run.sh q2.gguf [small.gguf]     # small: a file of the same layout with few layers
#
# q2.gguf is the published file or a synthetic one of its layout. Needs the example `check` (cargo build --release -p
# ds4-cuda --features emulator --example check), or CHECK naming it; nano has compiled kernels for sm_80 and 90a, the
# oracle model is compiled by NVRTC.
set -uo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
check=${CHECK:-$here/target/release/examples/check}
file=${1:?usage: run.sh FILE.gguf [SMALLER.gguf]}
small=${2:-}

echo "== machine"
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv,noheader
grep -m1 'model name' /proc/cpuinfo; nproc; uname -sr; date -u +%F

echo "== parity with the references, layer by layer"
"$check" parity
echo "== nano against the CPU, layer by layer"
"$check" stages "$here/models/nano.gguf" 300
if [ -n "$small" ]; then
    echo "== full width, few layers, against the CPU"
    "$check" stages "$small" 64
fi
echo "== greedy text of nano, CPU and GPU"
"$check" greedy "$here/models/nano.gguf" 128 "$here/bench/cuda/prompts.txt"
echo "== how far logits are apart on one text, and how far the CPU's own roundings move them"
"$check" drift "$here/models/nano.gguf" 128 "$here/bench/cuda/prompts.txt"
# racecheck takes some 50 GB of the host's memory.
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        echo "== compute-sanitizer $tool"
        compute-sanitizer --tool $tool "$check" greedy "$here/models/nano.gguf" 2 "$here/bench/cuda/prompts.txt" 2>&1 | tail -2
    done
else
    echo "== compute-sanitizer is not installed: not run"
fi

echo "== speed"
"$check" speed "$file" 2048,16384,65536 16
if [ -n "$small" ]; then
    echo "== experts outside the GPU"
    "$check" hybrid "$small" 4,6,8,80
fi
