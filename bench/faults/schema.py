#!/usr/bin/env python3
"""schemathesis against a server's own OpenAPI document: valid and invalid requests without end.

    bench/faults/schema.py [--examples N] [--seed N] [arguments of `st run`]

Starts a server with nano and short answers. Fails when the server answers 5xx, ends, leaves
requests at work, or answers otherwise than its document says."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from serving import Server  # noqa: E402

# What the lenient server takes on purpose though the document does not promise it: unknown fields,
# other names of fields, and headers that it ignores. And what it refuses for reasons that no schema
# says: a chosen function that is not among the tools, a prompt longer than the context.
NOT_CHECKED = "negative_data_rejection,unsupported_method,positive_data_acceptance"
# The same operations under the paths of other servers and of clients that leave a part out.
ALIASES = r"^/(beta|anthropic|chat|completions|messages|responses|models|v1/health|v1/openapi|v1/(de)?tok)"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--seed", type=int, default=4)
    options, more = parser.parse_known_args()
    st = Path(sys.executable).parent / "st"
    with Server("--ctx", 2048, "--parallel", 4, "--tokens", 8, "--max-sec", 20) as server:
        done = subprocess.run([
            st, "run", f"{server.url}/openapi.json", "--url", server.url,
            "--max-examples", str(options.examples), "--seed", str(options.seed),
            "--exclude-path-regex", ALIASES, "--exclude-checks", NOT_CHECKED, "--phases", "examples,coverage,fuzzing",
            "--continue-on-failure", "--request-timeout", "30", "--no-color",
            "--suppress-health-check", "all", *more,
        ], check=False)
        time.sleep(0.5)
        load = json.loads(server.get("/health")[2])
        panics = server.said("panicked")
        print(f"afterwards: {load}, {len(panics)} panics, {server.resident() >> 20} MiB resident")
        is_well = server.is_alive() and load["active"] == load["queue"] == 0 and not panics
    sys.exit(done.returncode or (0 if is_well else 1))


if __name__ == "__main__":
    main()
