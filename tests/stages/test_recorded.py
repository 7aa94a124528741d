"""Runs of a tiny model give the numbers that were recorded before the code was reorganised."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.commands import flags, letgo
from safetensors.numpy import load_file

RECORDS = Path(__file__).with_name("recorded.json")
LORA = {"use_peft": "true", "lora_target_modules": "all-linear", "lora_r": 4}
# Sums of other orders and other processors' instructions differ in the last bits.
TOLERANCE = {"rel": 1e-3, "abs": 1e-5}


def recorded(folder: Path) -> dict:
    """The numbers of a run: confidences, selection, metrics, and every weight tensor's norm."""
    scores = pq.read_table(folder / "scores.parquet").to_pylist()
    selection = pq.read_table(folder / "selection.parquet").to_pylist()
    norms = {}
    for part in ("probe", "lwf", "model"):
        for file in sorted((folder / part).glob("*.safetensors")):
            for name, tensor in sorted(load_file(file).items()):
                norms[f"{part} {name}"] = float(np.linalg.norm(tensor.astype(np.float64)))
    columns = ("loss_base", "loss_probe", "inner", "learning", "norm", "confidence")
    return {
        "scores": {row["id"]: [row[name] for name in columns] for row in scores},
        "selected": sorted(row["id"] for row in selection if row["selected"]),
        "metrics": json.loads((folder / "metrics.json").read_text()),
        "norms": norms,
    }


def close(value, expected) -> bool:
    """Whether two structures are equal, but for the last digits of their numbers."""
    if isinstance(expected, dict):
        return value.keys() == expected.keys() and all(close(value[k], expected[k]) for k in value)
    if isinstance(expected, list):
        return len(value) == len(expected) and all(map(close, value, expected))
    return value == (pytest.approx(expected, **TOLERANCE) if type(expected) is float else expected)


@pytest.mark.parametrize("name", ["full", "lora"])
def test_a_run_gives_the_recorded_numbers(tiny, data, tmp_path, name):
    changes = LORA if name == "lora" else {}
    status, _, error = letgo("run", *flags(tiny, data, tmp_path / "out", **changes))
    assert status == 0, error
    ours, expected = recorded(tmp_path / "out"), json.loads(RECORDS.read_text())[name]
    for part in expected:
        assert close(ours[part], expected[part]), part
