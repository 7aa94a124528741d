"""The scripts of examples/ run on a tiny model, and the diffs of CONTRIBUTING.md apply."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def run_example(name: str, *arguments: object) -> str:
    """The standard output of a script, run in a process of its own."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_train(tiny, tmp_path):
    output = run_example("train.py", "--model", tiny, "--output_dir", tmp_path)
    lines = [ast.literal_eval(line) for line in output.splitlines() if line.startswith("{'step'")]
    assert any("loss" in line for line in lines)
    assert any("unlearn/nll" in line for line in lines)


def test_wrong_rows(tmp_path):
    """48 of 120 learning examples contradict a right one of the same words."""
    run_example("wrong_rows.py", tmp_path)
    rows = {
        name: [json.loads(line) for line in (tmp_path / f"{name}.jsonl").open()]
        for name in ("learn", "clean", "test")
    }
    assert [len(rows[name]) for name in rows] == [120, 40, 80]
    assert len({row["prompt"] for part in rows.values() for row in part}) == 240
    bad = ("waste", "dull", "broken", "bad", "tiresome", "careless")
    right = [
        (row["completion"] == " negative") == any(word in row["prompt"] for word in bad)
        for part in ("learn", "clean")
        for row in rows[part]
    ]
    assert right[:120].count(False) == 48
    assert all(right[120:])


def test_own_loss(tiny, tmp_path):
    output = run_example("own_loss.py", "--model", tiny, "--output_dir", tmp_path)
    lines = [ast.literal_eval(line) for line in output.splitlines() if line.startswith("{'step'")]
    losses = [line["unlearn/loss"] for line in lines if "unlearn/loss" in line]
    assert losses
    assert all(loss >= 0 for loss in losses)


def test_own_score_is_used_and_named_in_the_report(tiny, tmp_path):
    out = tmp_path / "run"
    small = ["--max_learn", 16, "--max_test", 6, "--max_forget", 6, "--max_new_tokens", 6]
    cheap = ["--bf16", "false", "--gradient_checkpointing", "false"]
    run_example("own_score.py", "--model", tiny, "--output_dir", out, *small, *cheap)
    scores = pq.read_table(out / "scores.parquet").to_pylist()
    assert {row["score"] for row in scores} == {"influence"}
    assert all(row["confidence"] == -row["learning"] for row in scores)
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "how far a step of ascent on a text lowers the loss" in report


def test_read_run(finished):
    output = run_example("read_run.py", finished)
    assert "letters" in output
    assert all(model in output for model in ("base", "sft", "lwf"))


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.name)
def test_the_docstring_says_how_to_run_it(file):
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    assert f"python examples/{file.name}" in (docstring or "")
    assert f'"{file.name}"' in Path(__file__).read_text(encoding="utf-8"), "run by no test"


def test_the_worked_examples_of_contributing_apply():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    diffs = re.findall(r"^```diff\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(diffs) == 2
    command = ["git", "apply", "--check", "-"]
    result = subprocess.run(command, input="".join(diffs), text=True, cwd=ROOT, check=False)
    assert result.returncode == 0


def test_the_files_and_names_of_the_table_in_contributing_exist():
    """Every row of "to add X, touch Y": the files, and in them the constants and functions."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.partition("## To add X")[2].partition("###")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| a")]
    assert rows
    for _, files, where, _ in rows:
        paths = re.findall(r"`([a-z_]+/[a-z_.]+)`", files)
        code = "".join((ROOT / "src" / "letgo" / path).read_text() for path in paths)
        for name in re.findall(r"`([A-Z_]{5,}|[a-z]*_[a-z_]+)`", where):
            assert re.search(rf"\b{name}\b", code), f"{name} is not in {files}"
