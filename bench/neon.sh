#!/usr/bin/env bash
# The CPU kernels for Arm, cross-compiled and tested under emulation: every kernel against the
# scalar one, bit by bit, and the runner against its references; first on a processor with the dot
# product instructions, then on one without.
#
# Needs the Rust target aarch64-unknown-linux-gnu, and of Debian gcc-aarch64-linux-gnu and
# qemu-user. Arguments go to `cargo test`. Emulation says nothing of speed.
set -euo pipefail
cd "$(dirname "$0")/.."

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
for cpu in max cortex-a53; do
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -cpu $cpu -L /usr/aarch64-linux-gnu"
    echo "== $cpu"
    cargo test --locked -p ds4-cpu --target aarch64-unknown-linux-gnu --lib --test oracle "$@"
done
