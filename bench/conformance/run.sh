#!/usr/bin/env bash
# Runs the conformance tests: see README.md.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
python=$here/.venv/bin/python
install() {
    cmp -s "$here/requirements.txt" "$here/.venv/installed.txt" && return
    python3 -m venv "$here/.venv" &&
        "$python" -m pip install --quiet --disable-pip-version-check --timeout 10 --retries 1 \
            --requirement "$here/requirements.txt" &&
        cp "$here/requirements.txt" "$here/.venv/installed.txt"
}
install
[ "${1:-}" != --install ] || exit 0
case "${1:-}" in
http://* | https://*)
    url=$1
    shift
    ;;
*)
    ds4=${DS4:-}
    if [ -z "$ds4" ]; then
        (cd "$root" && cargo build --release --package ds4-cli)
        ds4=$root/target/release/ds4
    fi
    log=$(mktemp)
    "$ds4" serve --model "$root/models/nano.gguf" --port 0 --parallel 4 \
        --test-script "$here/script.json" 2>"$log" &
    server=$!
    trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; rm -f "$log"' EXIT
    for _ in $(seq 300); do
        url=$(grep -oE 'http://[0-9.]+:[0-9]+' "$log" | head -1 || true)
        [ -n "$url" ] && break
        kill -0 "$server" 2>/dev/null || { cat "$log" >&2; exit 1; }
        sleep 0.1
    done
    [ -n "$url" ] || { echo "the server did not say where it listens" >&2; cat "$log" >&2; exit 1; }
    export DS4_SCRIPTED=1
    ;;
esac
DS4_URL=$url "$python" -m pytest "$here" --ignore "$here/agents" -p no:cacheprovider "$@"
