"""A description of the machine, for the JSON of every benchmark."""

import os
import platform
from pathlib import Path


def machine() -> dict[str, object]:
    """Processor, usable cores, bfloat16 instructions, system and Python version."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = {line.split(": ", 1)[1] for line in lines if line.startswith("model name")}
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return {
        "processor": ", ".join(sorted(names)) or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),  # available to this process
        "bfloat16": [flag for flag in flags if flag in ("avx512_bf16", "amx_bf16")],
        "system": platform.system(),
        "python": platform.python_version(),
    }
