"""A small part of `make faults`, in a process of its own: one that may be forked."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = str(Path(__file__).parents[1])


@pytest.mark.slow
def test_a_few_kills_damaged_files_and_odd_inputs(tmp_path):
    """Other ones than those of `make faults`, which begins with another seed."""
    command = [sys.executable, "-m", "faults", "--jobs", 1, "--seed", 1, "--folder", tmp_path]
    command += ["--kills", 2, "--scenarios", "shared", "--corruptions", 6, "--finished_only"]
    command += ["--fuzz", 60, "--results", tmp_path / "faults.json"]
    path = os.pathsep.join(filter(None, [TESTS, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    figures = json.loads((tmp_path / "faults.json").read_text())
    assert figures["kills"]["same_result"] == 2
    assert figures["corruptions"]["attempts"] == 6
    assert all(kind["attempts"] == 60 for kind in figures["fuzz"].values())
