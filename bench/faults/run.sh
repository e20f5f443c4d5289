#!/usr/bin/env bash
# Runs the fault tests: see README.md. Arguments go to pytest; `run.sh schema` runs schemathesis.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=$here/.venv/bin/python
if ! "$python" -c 'import openai, pytest, schemathesis' 2>/dev/null; then
    python3 -m venv "$here/.venv"
    "$python" -m pip install --quiet --requirement "$here/requirements.txt"
fi
if [ "${1:-}" = schema ]; then
    shift
    exec "$python" "$here/schema.py" "$@"
fi
exec "$python" -m pytest "$here" -p no:cacheprovider "$@"
