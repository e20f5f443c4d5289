"""What a measurement must be read with: machine, system, program, model."""

import hashlib
import os
import platform
import subprocess
import time
from pathlib import Path

from serving import ROOT, program


def header(model):
    """The head of a file in `bench/results`."""
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().split("\n")
                if line.startswith("model name")), platform.processor())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    digest = hashlib.sha256(Path(model).read_bytes()).hexdigest()
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": {"cpu": cpu, "n_cpu": os.cpu_count(), "memory_gib": round(memory / 2**30, 1),
                    "os": f"{platform.system()} {platform.release()}", "arch": platform.machine()},
        "program": run([program(), "--version"]),
        "commit": run(["git", "-C", ROOT, "rev-parse", "--short=12", "HEAD"]),
        "model": {"file": Path(model).name, "sha256": digest},
    }


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()
