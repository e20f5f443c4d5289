#!/usr/bin/env bash
# Real agents against the server: see README.md. Arguments go to pytest (`run.sh -k codex`).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export DS4_AGENTS_DIR=${DS4_AGENTS_DIR:-${TMPDIR:-/tmp}/ds4-agents}
mkdir -p "$DS4_AGENTS_DIR"
if ! cmp -s "$here/package.json" "$DS4_AGENTS_DIR/package.json"; then
    cp "$here/package.json" "$DS4_AGENTS_DIR/package.json"
    npm install --prefix "$DS4_AGENTS_DIR" --no-audit --no-fund --loglevel=error ||
        { rm "$DS4_AGENTS_DIR/package.json"; exit 1; }
fi
python=$DS4_AGENTS_DIR/venv/bin/python
if ! "$python" -c 'import pytest' 2>/dev/null; then
    python3 -m venv "$DS4_AGENTS_DIR/venv"
    "$python" -m pip install --quiet --requirement "$here/requirements.txt"
fi
# A network of its own, with nothing in it but this machine: agents call home otherwise.
exec unshare --map-root-user --net sh -c 'ip link set lo up && exec "$@"' sh \
    "$python" -m pytest "$here" -p no:cacheprovider -rP "$@"
