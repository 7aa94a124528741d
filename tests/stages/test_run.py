"""The whole path of a run on a tiny model."""

import json
import shutil
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from helpers.commands import COLUMNS, STAGE_FILES, digest, flags, letgo
from helpers.files import write_lines

from letgo import cli
from letgo.stages import train as third


def test_the_run_folder_is_as_designed(finished):
    assert {path.name for path in finished.iterdir()} == STAGE_FILES
    for name, columns in COLUMNS.items():
        assert pq.read_schema(finished / name).names == columns
    texts = pq.read_table(finished / "self_knowledge.parquet").to_pylist()
    assert {t["forget_set"] for t in texts} == {"letters", "talk"}
    assert len({t["id"] for t in texts}) == len(texts)
    assert {t["finish_reason"] for t in texts} <= {"stop", "length"}
    assert all(t["completion_ids"] and t["mean_logprob"] < 0 for t in texts)
    scores = pq.read_table(finished / "scores.parquet")
    for row in scores.to_pylist():
        assert row["interference"] == pytest.approx(row["loss_probe"] - row["loss_base"])
        known = next(t for t in texts if t["id"] == row["id"])
        assert row["loss_base"] == pytest.approx(-known["mean_logprob"], rel=1e-3)
        square = float(scores.schema.metadata[b"learning"]) * row["norm"]
        assert row["score"] == "gradient"
        assert row["confidence"] == pytest.approx(-row["learning"] / square**0.5)
    selection = pq.read_table(finished / "selection.parquet").to_pylist()
    assert sum(row["selected"] for row in selection) == round(0.5 * len(selection))
    by_confidence = sorted(scores.to_pylist(), key=lambda row: -row["confidence"])
    top = {row["id"] for row in by_confidence[: round(0.5 * len(selection))]}
    assert {row["id"] for row in selection if row["selected"]} == top
    assert "\n- score: gradient\n" in (finished / "lwf" / "README.md").read_text()


@pytest.mark.parametrize("interval", [0, 2])
def test_rescoring_may_choose_among_all_that_have_a_score(
    finished, tmp_path, monkeypatch, interval
):
    """The stage gives the trainer the selection, or with re-scoring all texts to choose among."""
    given = []
    monkeypatch.setattr(third, "fit", lambda *args: given.extend(args[-1]))
    training = SimpleNamespace(rescore_interval=interval)
    third.train(SimpleNamespace(folder=finished, training=training), tmp_path)
    selection = pq.read_table(finished / "selection.parquet")["selected"].to_pylist()
    assert sum(row["allowed"] for row in given) == (len(given) if interval else sum(selection))
    assert [row["selected"] for row in given].count(True) == sum(selection)
    assert {row["score"] for row in given} == {"gradient"}


def test_unlearning_steps_happen_where_the_schedule_says(finished):
    entries = [json.loads(line) for line in (finished / "train_log.jsonl").open()][:-1]
    unlearning = [entry["step"] for entry in entries if "unlearn/loss" in entry]
    assert len(entries) == 15  # 24 examples in batches of 4, twice, and one step after every 4
    assert unlearning == [5, 10, 15]
    assert all("loss" in entry for entry in entries if entry["step"] not in unlearning)
    probe = [json.loads(line) for line in (finished / "probe" / "train_log.jsonl").open()][:-1]
    assert len(probe) == 12
    assert not any("unlearn/loss" in entry for entry in probe)
    assert [e["loss"] for e in probe[:4]] == [e["loss"] for e in entries[:4]]


def test_nothing_pickled_is_left(finished):
    suffixes = {path.suffix for path in finished.rglob("*") if path.is_file()}
    assert suffixes <= {
        ".yaml",
        ".json",
        ".jsonl",
        ".parquet",
        ".safetensors",
        ".html",
        ".md",
        ".jinja",
    }


def test_a_finished_run_is_kept(finished, tiny, data):
    before = digest(finished)
    times = {path: path.stat().st_mtime_ns for path in (finished / "lwf").iterdir()}
    status, _, error = letgo("run", *flags(tiny, data, finished))
    assert status == 0
    assert error.count("done before, kept") == 8
    assert digest(finished) == before
    assert times == {path: path.stat().st_mtime_ns for path in (finished / "lwf").iterdir()}


def test_each_stage_is_a_command(finished, tiny, data, tmp_path):
    """One by one, the later ones with the run folder's own settings."""
    out = tmp_path / "staged"
    for number, stage in enumerate(cli.STAGES):
        words = flags(tiny, data, out) if number == 0 else ["--output_dir", out]
        status, _, error = letgo(stage, *words)
        assert status == 0, error
    assert digest(out) == digest(finished)


def test_sets_of_like_names_keep_their_own_answers(tiny, data, tmp_path):
    files = [
        write_lines(tmp_path / name, [{"prompt": f"say {name} {n}"} for n in range(2)])
        for name in ("a b.jsonl", "a-b.jsonl", "a+b.jsonl")
    ]
    status, _, error = letgo("elicit", *flags(tiny, data, tmp_path / "out", forget=files))
    assert status == 0, error
    for text in pq.read_table(tmp_path / "out" / "self_knowledge.parquet").to_pylist():
        assert text["prompt"].startswith(f"say {text['forget_set']}.jsonl")


def test_a_diverged_probe_is_named(tiny, data, tmp_path):
    words = flags(tiny, data, tmp_path / "out", learning_rate="1e30", max_grad_norm=0)
    status, _, error = letgo("run", *words)
    assert status == 2
    assert "learning loss is" in error.splitlines()[-1]
    assert "lower --learning_rate" in error.splitlines()[-1]


def test_a_run_without_forgetting_sets(tiny, data, tmp_path):
    words = flags(tiny, data, tmp_path / "out", forget=None, unlearning_interval=0)
    status, _, error = letgo("run", *words)
    assert status == 0, error
    assert pq.read_table(tmp_path / "out" / "scores.parquet").num_rows == 0


def test_off_gives_the_baseline(tiny, data, tmp_path):
    """--unlearning_interval 0: the model is the probe, bit for bit."""
    out = tmp_path / "out"
    status, _, error = letgo("run", *flags(tiny, data, out, unlearning_interval=0))
    assert status == 0, error
    made = digest(out)
    assert made["lwf/model.safetensors"] == made["probe/model.safetensors"]
    assert json.loads((out / "metrics.json").read_text())["verdict"] == "sft"


@pytest.mark.parametrize("extra", [[], ["--use_dora"]])
def test_a_lora_run(tiny, data, tmp_path, extra):
    out = tmp_path / "out"
    words = flags(tiny, data, out, lora_r=2, lora_target_modules=["q_proj", "v_proj"])
    status, _, error = letgo("run", *words, "--use_peft", *extra)
    assert status == 0, error
    assert (out / "lwf" / "adapter_model.safetensors").exists()
    assert not (out / "lwf" / "model.safetensors").exists()
    assert "4 of 14 weight matrices" in error  # only those the adapter can move are scored
    assert (out / "report.html").exists()


def test_own_mistakes_are_a_forgetting_set(tiny, data, tmp_path):
    """Wrong answers to learning prompts; right ones stay."""
    out = tmp_path / "out"
    status, _, error = letgo("run", *flags(tiny, data, out, forget="learn:mistakes"))
    assert status == 0, error
    texts = pq.read_table(out / "self_knowledge.parquet").to_pylist()
    lines = (data / "learn.jsonl").read_text().splitlines()
    asked = {row["prompt"]: row["completion"] for row in map(json.loads, lines)}
    assert texts
    assert all(text["completion"].split() != asked[text["prompt"]].split() for text in texts)
    assert {text["forget_set"] for text in texts} == {"learn-mistakes"}
    assert list(json.loads((out / "metrics.json").read_text())["models"]["base"]) == ["learn"]


@pytest.mark.parametrize("which", ["bottom", "random"])
def test_controls_take_as_many_others(finished, tiny, data, tmp_path, which):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    changes = {"selection": which, "rescore_interval": 0}
    status, _, error = letgo("select", *flags(tiny, data, out, **changes), "--overwrite")
    assert status == 0, error
    confidence = pq.read_table(out / "scores.parquet").to_pylist()
    ranked = [row["id"] for row in sorted(confidence, key=lambda row: row["confidence"])]
    chosen = {
        r["id"] for r in pq.read_table(out / "selection.parquet").to_pylist() if r["selected"]
    }
    assert len(chosen) == round(0.5 * len(ranked))
    assert (chosen == set(ranked[: len(chosen)])) == (which == "bottom")
    assert chosen != set(ranked[-len(chosen) :])
    changes["rescore_interval"] = 4
    status, _, error = letgo("select", *flags(tiny, data, out, **changes), "--overwrite")
    assert status == 2
    assert "add --rescore_interval 0" in error
