"""Run the demo and keep its figures with the machine's description.

usage: python benchmarks/demo.py [--output_dir runs/demo]   writes benchmarks/results/demo.json
"""

import argparse
import json
import os
import platform
import subprocess
import time
from pathlib import Path

from letgo.config import git_revision, versions

RESULTS = Path(__file__).parent / "results" / "demo.json"


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = {line.split(": ", 1)[1] for line in lines if line.startswith("model name")}
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return {
        "processor": ", ".join(sorted(names)) or platform.processor(),
        "cores": os.cpu_count(),
        "bfloat16": [flag for flag in flags if flag in ("avx512_bf16", "amx_bf16")],
        "system": platform.system(),
        "python": platform.python_version(),
    }


def main() -> None:
    """Run `letgo demo` from nothing and write what it measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", default="runs/demo", type=Path)
    folder = parser.parse_args().output_dir
    if folder.exists():
        raise SystemExit(f"{folder} exists; move it away, or give another --output_dir")
    start = time.monotonic()
    subprocess.run(["letgo", "demo", "--output_dir", str(folder)], check=True)
    seconds = time.monotonic() - start
    stages = json.loads((folder / "stages.json").read_text())
    result = {
        "seconds": round(seconds),
        "peak_memory_mb": max(stage["peak_memory_mb"] for stage in stages.values()),
        "stages": {
            name: {key: stage[key] for key in ("seconds", "peak_memory_mb")}
            for name, stage in stages.items()
        },
        "metrics": json.loads((folder / "metrics.json").read_text()),
        "machine": machine(),
        "versions": versions(),
        "git_revision": git_revision(),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
