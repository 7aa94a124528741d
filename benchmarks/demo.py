"""Run the demo and record its results, with a description of the machine.

usage: python benchmarks/demo.py [--output_dir runs/demo]   writes benchmarks/results/demo.json
"""

import argparse
import json
import subprocess
import time
from pathlib import Path

from machine import machine

from letgo.run.provenance import git_revision, versions

RESULTS = Path(__file__).parent / "results" / "demo.json"


def main() -> None:
    """Run `letgo demo` in a new folder and write the JSON."""
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
