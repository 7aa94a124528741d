"""A column `weight` in the learning data of a run."""

import json

import pytest
from helpers.commands import flags, letgo
from helpers.files import write_lines

from letgo.data.records import fingerprint, read_records


def weighted(data, folder, weights):
    lines = (data / "learn.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for row, weight in zip(rows, weights, strict=False):
        row["weight"] = weight
    return write_lines(folder / "weighted.jsonl", rows), len(rows)


def test_a_run_unlearns_examples_below_0(tiny, data, tmp_path):
    """No forgetting set is needed; plain fine-tuning leaves them out."""
    file, count = weighted(data, tmp_path, [-1, 0, 0.5, -0.25])
    out = tmp_path / "out"
    words = flags(tiny, data, out, learn=file, forget=None, learn_test=data / "heldout.jsonl")
    for stage in ("probe", "keep", "baseline", "train"):
        status, _, error = letgo(stage, *words)
        assert status == 0, error
    assert "2 learning examples with a weight below 0 are unlearned" in error
    log = [json.loads(line) for line in (out / "train_log.jsonl").open()]
    assert sum(entry.get("unlearn/nll", 0) > 0 for entry in log) > 0
    config = (out / "config.yaml").read_text()
    assert f"  learn: {count - 3}" in config
    assert "2 self-generated texts" in (out / "lwf" / "README.md").read_text()


@pytest.mark.parametrize("bad", [2, "many", float("nan"), True, [1]])
def test_other_values_are_refused(tiny, data, tmp_path, bad):
    file, _ = weighted(data, tmp_path, [1, bad])
    status, _, error = letgo("run", *flags(tiny, data, tmp_path / "out", learn=file))
    assert status == 2
    assert "line 2: 'weight' must be a number from -1 to 1" in error
    assert not (tmp_path / "out").exists()


def test_weights_are_read_from_tables_and_count_in_the_fingerprint(tmp_path):
    table = tmp_path / "learn.csv"
    table.write_text("prompt,completion,weight\na,b,0.5\nc,d,\n")
    records = read_records(str(table), "--learn", True)
    assert [record.weight for record in records] == [0.5, 1.0]
    plain = [record._replace(weight=1.0) for record in records]
    assert fingerprint(records) != fingerprint(plain)
    assert read_records(str(table), "--forget", False)[0].weight == 1.0
