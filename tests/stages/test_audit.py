"""`letgo audit` and `--forget learn:wrong` on planted wrong rows."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers.commands import environment, flags, letgo
from helpers.files import write_lines
from scipy.stats import rankdata

KILLING = Path(__file__).parents[1] / "helpers" / "killing.py"


def example(i, wrong=False):
    """The right answer is always the same, which a tiny model can learn."""
    return {"prompt": f"what is {i}?", "completion": "3 4" if wrong else "a b"}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """60 learning examples of which a third are wrong, 40 clean ones, and 12 for the test."""
    folder = tmp_path_factory.mktemp("planted")
    numbers = random.Random(1).sample(range(100, 999), 112)
    wrong = set(random.Random(0).sample(range(60), 20))
    write_lines(folder / "learn.jsonl", [example(numbers[i], i in wrong) for i in range(60)])
    write_lines(folder / "clean.jsonl", [example(i) for i in numbers[60:100]])
    write_lines(folder / "test.jsonl", [example(i) for i in numbers[100:]])
    return folder, {f"learn:wrong:{i + 1:06d}" for i in wrong}


def words(tiny, planted, out, **changes):
    settings = {
        "learn": planted / "learn.jsonl",
        "learn_test": planted / "test.jsonl",
        "learn_validation": planted / "clean.jsonl",
        "forget": "learn:wrong",
        "learning_rate": 1e-2,
        "num_train_epochs": 4,
        "unlearning_loss": "unlikelihood",
    }
    return flags(tiny, planted, out, **{**settings, **changes})


def area(scores, wrong):
    ranks, count = rankdata(scores), sum(wrong)
    total = sum(rank for rank, is_wrong in zip(ranks, wrong, strict=True) if is_wrong)
    return (total - count * (count + 1) / 2) / (count * (len(wrong) - count))


@pytest.fixture(scope="module")
def audited(tiny, planted, tmp_path_factory):
    out = tmp_path_factory.mktemp("audited") / "run"
    status, text, error = letgo("audit", *words(tiny, planted[0], out))
    assert status == 0, error
    return out, text


def test_planted_wrong_rows_come_first(audited, planted):
    out, text = audited
    rows = pq.read_table(out / "audit.parquet").to_pylist()
    assert len(rows) == 60
    wrong = [row["id"] in planted[1] for row in rows]
    assert area([row["confidence"] for row in rows], wrong) > 0.95
    assert [row["confidence"] for row in rows] == sorted(
        (row["loss_ref"] for row in rows), reverse=True
    )
    for row in rows:
        assert row["interference"] == pytest.approx(row["loss_ref"] - row["loss_base"])
        assert -1 <= row["gradient"] <= 1
    suspected = {row["id"] for row in rows if row["suspected"]}
    assert len(suspected & planted[1]) > 0.8 * len(suspected) > 0
    assert f"{len(suspected)} of 60 learning examples are suspected" in text
    assert rows[0]["id"] in text


def test_an_audit_alone_with_a_table_of_the_first(tiny, planted, tmp_path, audited):
    """The same numbers from `--learn DATA --clean DATA`; a fraction says how many are wrong."""
    out = tmp_path / "alone"
    command = words(tiny, planted[0], out, learn_validation=None, forget=None)
    command += ["--clean", planted[0] / "clean.jsonl", "--top", 3, "--wrong_fraction", "0.1"]
    status, text, error = letgo("audit", *command)
    assert status == 0, error
    rows, others = (
        pq.read_table(folder / "audit.parquet").to_pylist() for folder in (out, audited[0])
    )
    same = ("id", "confidence", "interference", "gradient")
    assert [[r[n] for n in same] for r in rows] == [[r[n] for n in same] for r in others]
    assert [row["suspected"] for row in rows] == [True] * 6 + [False] * 54
    assert text.count("learn:wrong:") == 3
    status, _, error = letgo("audit", "--output_dir", out, "--audit_score", "gradient")
    assert status == 2
    assert "audit_score=loss_ref" in error


def losses(folder):
    return [json.loads(line).get("loss") for line in (folder / "train_log.jsonl").open()]


def test_suspected_examples_are_unlearned_and_not_learned(tiny, planted, audited, tmp_path):
    """Of a review one more is dropped and one kept; `--unlearning_interval 0` drops them all."""
    out = audited[0]
    rows = pq.read_table(out / "audit.parquet").to_pylist()
    first, last = rows[0]["id"], rows[-1]["id"]
    lines = [{"act": "exclude", "ids": [first]}, {"act": "drop", "ids": [last]}]
    write_lines(out / "review.jsonl", lines)
    command = words(tiny, planted[0], out)
    assert letgo("probe", *command)[0] == letgo("keep", *command)[0] == 0
    status, _, error = letgo("train", *command)
    assert status == 0, error
    suspected = sum(row["suspected"] for row in rows)
    assert f"1 are dropped and {suspected - 1} unlearned" in error
    log = [json.loads(line) for line in (out / "train_log.jsonl").open()]
    learned = 60 - suspected  # one more, one fewer
    assert log[-1]["train_samples_per_second"] > 0
    steps = sum("loss" in entry for entry in log)
    assert steps == 4 * -(-learned // 4)
    assert any(entry.get("unlearn/nll", 0) > 0 for entry in log)
    card = (out / "lwf" / "README.md").read_text()
    assert f"{suspected - 1} of them unlearned" in card


def test_the_audit_of_a_run_leaves_it_as_it_is(tiny, data, tmp_path):
    """A run without learn:wrong gets an audit beside its files, and goes on afterwards."""
    out = tmp_path / "run"
    command = flags(tiny, data, out)
    assert letgo("elicit", *command)[0] == 0
    config = (out / "config.yaml").read_text()
    clean = ["--clean", data / "validation.jsonl", "--per_device_train_batch_size", 2]
    status, text, error = letgo("audit", "--output_dir", out, *clean)
    assert status == 0, error
    assert "learning examples are suspected" in text
    assert (out / "config.yaml").read_text() == config
    assert letgo("elicit", *command)[0] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs SIGKILL")
def test_killed_anywhere_and_started_again(tiny, planted, audited, tmp_path):
    out = tmp_path / "killed"
    for place in ("audit at base", "audit fit", "audit losses", "nowhere"):
        command = [sys.executable, KILLING, place, "audit", *words(tiny, planted[0], out)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment())
        assert done.returncode == (0 if place == "nowhere" else -9), (place, done.stderr)
    files = [folder / "audit.parquet" for folder in (out, audited[0])]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not (out / "audit.part").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learn_validation": None}, "--forget learn:wrong needs --learn_validation"),
        ({"per_device_train_batch_size": 21}, "40 clean examples are too few"),
        ({"wrong_fraction": 1.5}, "--wrong_fraction must be above 0 and at most 1"),
        ({"audit_score": "loss"}, "--audit_score must be one of loss_ref"),
    ],
)
def test_bad_input(tiny, planted, tmp_path, changes, message):
    status, _, error = letgo("audit", *words(tiny, planted[0], tmp_path / "out", **changes))
    if changes.get("learn_validation", "") is None:
        message = "--clean is missing"
    assert status == 2
    assert message in error.splitlines()[-1]
    assert letgo("run", *words(tiny, planted[0], tmp_path / "run", **changes))[0] == 2


def test_a_whole_run_unlearns_or_drops_what_is_wrong(tiny, planted, tmp_path):
    """With a report; and dropping gives the weights of plain fine-tuning on the other rows."""
    shared = tmp_path / "shared"
    out, dropped = tmp_path / "unlearned", tmp_path / "dropped"
    status, text, error = letgo("run", *words(tiny, planted[0], out, shared=shared))
    assert status == 0, error
    assert "verdict" in text
    assert (out / "report.html").exists()
    assert not (out / "self_knowledge.parquet").exists()
    off = {"unlearning_interval": 0, "keep": "none", "shared": shared}
    status, _, error = letgo("run", *words(tiny, planted[0], dropped, **off))
    assert status == 0, error
    rows = pq.read_table(dropped / "audit.parquet").to_pylist()
    assert rows == pq.read_table(out / "audit.parquet").to_pylist()
    count = sum(row["suspected"] for row in rows)
    assert f"{count} are dropped and 0 unlearned" in error
    wrong = {row["id"] for row in rows if row["suspected"]}
    lines = (planted[0] / "learn.jsonl").read_text().splitlines()
    kept = [line for i, line in enumerate(lines, 1) if f"learn:wrong:{i:06d}" not in wrong]
    right = tmp_path / "right.jsonl"
    right.write_text("".join(f"{line}\n" for line in kept))
    plain = tmp_path / "plain"
    changes = {"learn": right, "forget": None, "unlearning_interval": 0}
    status, _, error = letgo("probe", *words(tiny, planted[0], plain, **changes))
    assert status == 0, error
    weights = [
        f.read_bytes()
        for f in (dropped / "lwf" / "model.safetensors", plain / "probe" / "model.safetensors")
    ]
    assert weights[0] == weights[1]
