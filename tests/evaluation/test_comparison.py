"""`letgo compare`: two runs, or two files of answers."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from helpers.commands import letgo
from helpers.files import write_lines
from scipy.stats import binomtest, ttest_rel

from letgo.evaluation.effects import effect, examples_needed, holm
from letgo.evaluation.statistics import accuracy

RIGHT = np.random.default_rng(0).random((2, 60)) < [[0.5], [0.8]]


def answers(side, **more):
    """Lines of a file of answers, right where `RIGHT` is."""
    return [{"id": n, "correct": bool(right), **more} for n, right in enumerate(RIGHT[side])]


def compared(*words):
    """The JSON that the command prints."""
    status, text, error = letgo("compare", *words, "--json")
    assert status == 0, error
    return json.loads(text)


def files(folder, ours, theirs):
    for name, lines in (("a", ours), ("b", theirs)):
        write_lines(folder / f"{name}.jsonl", lines)
    return folder / "a.jsonl", folder / "b.jsonl"


def test_one_seed_has_the_exact_test_and_the_examples_that_are_needed(tmp_path):
    paths = files(tmp_path, answers(0), answers(1)[::-1])  # in any order
    found = compared(*paths, "--difference", 5)
    (row,) = found["figures"]
    differences = RIGHT[1].astype(float) - RIGHT[0]
    won, lost = int((differences > 0).sum()), int((differences < 0).sum())
    pair = row["b_minus_a"]
    assert pair["difference"] == pytest.approx((won - lost) / 60)
    assert pair["p_value"] == pytest.approx(binomtest(won, won + lost).pvalue)
    assert pair["p_holm"] == pair["p_value"]
    assert (pair["n"], pair["seeds"], pair["seeds_needed"]) == (60, 1, None)
    assert pair["examples_needed"] == examples_needed(differences[None], 0.05)
    assert row["a"] == {"value": RIGHT[0].mean(), "n": 60, "ci95": accuracy(RIGHT[0])["ci95"]}
    status, text, _ = letgo("compare", *paths, "--difference", 5)
    assert status == 0
    line = next(line for line in text.splitlines() if "correct, %" in line)
    assert f"{100 * (won - lost) / 60:+.1f}" in line
    assert f"{pair['examples_needed']:,}" in line
    assert "a difference of 5 points" in text
    assert "one seed cannot tell" in text


def test_seeds_are_paired_and_crossed_with_examples(tmp_path):
    rng = np.random.default_rng(1)
    right = rng.random((2, 3, 40)) < 0.6  # sides, seeds, examples
    sides = [
        [
            {"id": n, "seed": seed, "correct": int(right[side, seed, n])}
            for seed in range(3)
            for n in range(40)
        ]
        for side in (0, 1)
    ]
    found = compared(*files(tmp_path, *sides))["figures"][0]["b_minus_a"]
    expected = effect(right[1].astype(float), right[0].astype(float))
    assert {name: found[name] for name in expected if name in found} == {
        name: pytest.approx(value) for name, value in expected.items() if name in found
    }
    assert found["seeds"] == 3
    assert {"seeds_needed", "ci95", "p_value"} <= found.keys()
    status, text, _ = letgo("compare", *files(tmp_path, *sides))
    assert status == 0
    assert "seeds needed" in text.splitlines()[3]


def test_sets_and_metrics_are_corrected_together_and_graded_ones_by_their_mean(tmp_path):
    rng = np.random.default_rng(2)
    scores = rng.random((2, 30))
    sides = [
        [
            {
                "doc_id": n,
                "task": task,
                "acc": float(RIGHT[side][n + 30 * k]),
                "f1": scores[side][n],
            }
            for k, task in enumerate(("one", "two"))
            for n in range(30)
        ]
        for side in (0, 1)
    ]
    rows = compared(*files(tmp_path, *sides))["figures"]
    assert [(r["group"], r["figure"]) for r in rows] == [
        ("one", "acc"),
        ("one", "f1"),
        ("two", "acc"),
        ("two", "f1"),
    ]
    assert [row["is_share"] for row in rows] == [True, False, True, False]
    p_values = [row["b_minus_a"]["p_value"] for row in rows]
    assert [row["b_minus_a"]["p_holm"] for row in rows] == pytest.approx(holm(p_values))
    assert rows[1]["b_minus_a"]["difference"] == pytest.approx(scores[1].mean() - scores[0].mean())
    assert 0 < p_values[1] <= 1
    assert abs(p_values[1] - ttest_rel(scores[1], scores[0]).pvalue) < 0.05


def test_answers_without_a_metric_are_judged_by_the_rule_of_their_set(tmp_path):
    rows = [
        {"id": n, "prompt": f"{n}+{n}?", "target": f"so it is\n#### {2 * n}", "out": f"#### {made}"}
        for n, made in enumerate(["0", "2.0", "7", "6", "$8"])
    ]
    other = [{**row, "out": "#### 0"} for row in rows]
    columns = ["--columns", "reference=target", "generated=out"]
    (row,) = compared(*files(tmp_path, other, rows), *columns)["figures"]
    assert (row["a"]["value"], row["b"]["value"]) == (0.2, 0.8)


def test_samples_of_the_harness(tmp_path):
    """Its columns: `metrics` names those that count, and each filter is a metric of its own."""
    sides = [
        [
            {
                "doc_id": n,
                "doc_hash": f"h{n}",
                "target": "4",
                "resps": [["4"]],
                "filter": rule,
                "metrics": ["exact_match"],
                "exact_match": float(RIGHT[side][n]),
                "seconds": 2.5,
            }
            for n in range(20)
            for rule in ("strict-match", "flexible-extract")
        ]
        for side in (0, 1)
    ]
    rows = compared(*files(tmp_path, *sides))["figures"]
    assert {row["figure"] for row in rows} == {
        "exact_match (strict-match)",
        "exact_match (flexible-extract)",
    }


def test_one_of_several_models_in_a_file(tmp_path):
    lines = [*answers(0, model="small"), *answers(1, model="large")]
    write_lines(tmp_path / "all.jsonl", lines)
    file = tmp_path / "all.jsonl"
    (row,) = compared(f"{file}:small", f"{file}:large")["figures"]
    assert row["b"]["value"] == RIGHT[1].mean()
    status, _, error = letgo("compare", file, file)
    assert status == 2
    assert "line 61: 0 was answered in line 1 already" in error
    assert "PATH:MODEL" in error
    assert "no answer of a model 'tiny'" in letgo("compare", f"{file}:tiny", file)[2]


def test_what_has_no_partner_is_counted(tmp_path):
    status, text, _ = letgo("compare", *files(tmp_path, answers(0)[:50], answers(1)[20:]))
    assert status == 0
    assert "correct: 20 examples of A have no partner" in text
    assert "correct: 10 examples of B have no partner" in text


A = {"id": 1, "correct": True}


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        ([A], [], r"b.jsonl: there is no answer"),
        ([A], ["[1]"], r"b.jsonl, line 1: not a JSON object"),
        ([A], [A, '{"id": 2, '], r"b.jsonl, line 2: not JSON"),
        ([A], [A, A], r"b.jsonl, line 2: 1 was answered in line 1 already"),
        ([A], [{"correct": True}], r"line 1: it has neither `id` nor `prompt`.*--columns id="),
        ([A], [{"id": 2, "correct": 1}], r"no example in common"),
        ([A], [{"id": 1, "acc": 1}], r"no metric in common: .* has correct; .* has acc; rename"),
        ([{"id": 1}], [{"id": 1}], r"line 1: it has no number such as `correct`.*`reference`"),
        (
            [{**A, "prompt": "x"}],
            [{**A, "prompt": "y"}],
            r"b.jsonl, line 1: its prompt differs from that of .*a.jsonl, line 1 with the same id",
        ),
        ([{**A, "seed": 1}], [{**A, "seed": 2}, {**A, "seed": 3}], r"no seed in common"),
    ],
)
def test_files_that_cannot_be_compared(tmp_path, ours, theirs, message):
    for name, lines in (("a", ours), ("b", theirs)):
        text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(text), encoding="utf-8")
    status, _, error = letgo("compare", tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert (status, error.count("\n")) == (2, 1)
    assert re.search(message, error), error


def test_flags_and_paths_that_cannot_be_used(tmp_path):
    write_lines(tmp_path / "a.jsonl", answers(0))
    (tmp_path / "bytes.jsonl").write_bytes(b'{"id": "\xff"}')
    file = tmp_path / "a.jsonl"
    for words, message in (
        ([file, tmp_path / "b.jsonl"], "there is no"),
        ([file, tmp_path], "one is a folder"),
        ([tmp_path, tmp_path], "no run of letgo in"),
        ([f"{tmp_path}:tiny", tmp_path], "the model must be one of base, sft"),
        ([file, tmp_path / "bytes.jsonl"], "bytes.jsonl cannot be read"),
        ([file, file, "--columns", "id"], "must be NAME=COLUMN, not id"),
        ([file, file, "--columns", "id=key"], "--columns id=key: "),
        ([file, file, "--difference", 0], "--difference must be above 0"),
        ([file, file, "--difference", "nan"], "--difference must be above 0"),
        ([file, file, "--difference", "x"], "--difference must be a number"),
        ([file], "required"),
    ):
        status, _, error = letgo("compare", *words)
        assert (status, error.count("\n")) == (2, 1), error
        assert message in error


def run_folder(folder, seed, right, prompts=None):
    """A finished run with the answers of two models to a test set."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed": seed, "provenance": {}}))
    empty = {"reference": "4", "generated": "", "old_answer": None, "kl": None}
    rows = [
        {
            "model": model,
            "set": "learn",
            "id": str(n),
            "prompt": prompts[n] if prompts else f"{n}?",
            **empty,
            "correct": bool(value) if model == "lwf" else False,
            "reference_nll": float(n + value),
        }
        for model in ("sft", "lwf")
        for n, value in enumerate(right)
    ]
    neutral = {"set": "neutral", "prompt": "", **empty, "correct": None, "reference_nll": 3.0}
    rows += [{"model": m, "id": f"t{n}", **neutral} for m in ("sft", "lwf") for n in range(4)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "answers.parquet")
    (folder / "metrics.json").write_text(json.dumps({"verdict": "sft"}))
    return folder


def test_runs_are_compared_by_question_and_by_the_figures_of_the_outcomes(tmp_path):
    a = run_folder(tmp_path / "a", 1, RIGHT[0][:12])
    order = [f"{n}?" for n in range(12)][::-1]  # the same questions in another order
    b = run_folder(tmp_path / "b", 1, RIGHT[1][:12][::-1], order)
    found = compared(a, b)
    rows = {row["figure"]: row for row in found["figures"]}
    assert list(rows) == ["accuracy", "reference_nll", "neutral_perplexity"]
    pair = rows["accuracy"]["b_minus_a"]
    assert pair["difference"] == pytest.approx(np.mean(RIGHT[1][:12] - RIGHT[0][:12].astype(float)))
    assert rows["neutral_perplexity"]["a"]["value"] == pytest.approx(np.exp(3))
    assert found["a"] == f"{a}, LWF, seed 1"
    same = compared(f"{a}:returned", f"{a}:sft")
    assert same["a"] == f"{a}, SFT, seed 1"
    assert all(row["b_minus_a"]["difference"] == 0 for row in same["figures"])
    assert all(row["b_minus_a"]["detectable"] is None for row in same["figures"])
    assert "has no answers of base" in letgo("compare", f"{a}:base", a)[2]


def test_folders_of_runs_are_paired_by_seed(tmp_path):
    rng = np.random.default_rng(3)
    right = rng.random((2, 3, 30)) < 0.5
    for side, name in enumerate("ab"):
        for seed in range(3):
            run_folder(tmp_path / name / f"run-{seed}", seed, right[side, seed])
    rows = compared(tmp_path / "a", tmp_path / "b")["figures"]
    pair = rows[0]["b_minus_a"]
    expected = effect(right[1].astype(float), right[0].astype(float))
    assert (pair["seeds"], pair["n"]) == (3, 30)
    assert pair["p_value"] == pytest.approx(expected["p_value"])
    assert pair["seeds_needed"] == expected["seeds_needed"]
    run_folder(tmp_path / "a" / "again", 2, right[0, 0])
    status, _, error = letgo("compare", tmp_path / "a", tmp_path / "b")
    assert status == 2
    assert "both have the seed 2" in error
    run_folder(tmp_path / "c", 0, right[0, 0], [f"other {n}" for n in range(30)])
    found = compared(tmp_path / "b" / "run-0", tmp_path / "c")
    assert [row["figure"] for row in found["figures"]] == ["neutral_perplexity"]
    assert "learned accuracy: 30 examples of A have no partner and are left out" in found["notes"]


def test_a_finished_run_against_its_own_baseline(finished):
    """The differences of the command are those of its own report."""
    metrics = json.loads((finished / "metrics.json").read_text())
    rows = compared(f"{finished}:sft", finished)["figures"]
    for row in rows:
        main = metrics["outcomes"][row["group"]]
        expected = {main["figure"]: main, **main["more"]}[row["figure"]]
        for side, model in (("a", "sft"), ("b", "lwf")):
            assert row[side]["value"] == pytest.approx(expected[model]["value"])
            assert row[side]["n"] == expected[model]["n"]
        difference = expected["lwf_minus_sft"]["difference"]
        assert row["b_minus_a"]["difference"] == pytest.approx(difference)
        assert row["b_minus_a"]["p_value"] == pytest.approx(expected["lwf_minus_sft"]["p_value"])
    assert {row["group"] for row in rows} == set(metrics["outcomes"])
