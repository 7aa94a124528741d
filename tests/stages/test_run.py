"""The whole path of a run on a tiny model."""

import json
import shutil
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from helpers.commands import COLUMNS, STAGE_FILES, digest, flags, letgo
from helpers.files import write_lines

from letgo import cli
from letgo.cli.flags import parse
from letgo.run.inputs import open_run
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
    monkeypatch.setattr(third, "fit", lambda *args: given.extend(args[4]))
    words = ["--config", str(finished / "config.yaml"), "--rescore_interval", str(interval)]
    run = open_run(parse("train", words)[1])
    third.train(replace(run, folder=finished), tmp_path)
    selection = pq.read_table(finished / "selection.parquet")["selected"].to_pylist()
    assert sum(row["allowed"] for row in given) == (len(given) if interval else sum(selection))
    assert [row["selected"] for row in given].count(True) == sum(selection)
    assert {row["score"] for row in given} == {"gradient"}


def test_unlearning_steps_happen_where_the_schedule_says(finished):
    entries = [json.loads(line) for line in (finished / "train_log.jsonl").open()][:-1]
    unlearning = [entry["step"] for entry in entries if "unlearn/loss" in entry]
    kept = [entry["step"] for entry in entries if "keep/loss" in entry]
    # 24 examples in batches of 4, twice; after every 4 steps one of each other kind.
    assert len(entries) == 18
    assert unlearning == [5, 11, 17]
    assert kept == [6, 12, 18]
    other = {*unlearning, *kept}
    assert all(("loss" in entry) is (entry["step"] not in other) for entry in entries)
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
    assert error.count("done before, kept") == 9
    assert digest(finished) == before
    assert times == {path: path.stat().st_mtime_ns for path in (finished / "lwf").iterdir()}


def test_each_stage_is_a_command(finished, tiny, data, tmp_path):
    """One by one, the later ones with the run folder's own settings."""
    out = tmp_path / "staged"
    for number, stage in enumerate(stage for stage in cli.STAGES if stage != "relearn"):
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
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["verdict"] == "sft"
    assert metrics["sentence"].startswith("nothing was unlearned")
    assert "let_go" not in metrics["outcomes"]
    assert not (tmp_path / "out" / "scores.parquet").exists()
    assert (tmp_path / "out" / "report.html").exists()


def test_too_few_steps_for_an_unlearning_step_give_the_sft_baseline(tiny, data, tmp_path):
    words = flags(tiny, data, tmp_path / "out", unlearning_interval=100)
    status, _, error = letgo("run", *words)
    assert status == 0, error
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["verdict"] == "sft"
    assert metrics["sentence"].startswith("nothing was unlearned")


def test_a_run_that_only_keeps(tiny, data, tmp_path):
    keep = write_lines(tmp_path / "keep.jsonl", [{"text": f"a b c d {n} 1 2"} for n in range(9)])
    words = flags(tiny, data, tmp_path / "out", forget=None, unlearning_interval=0, keep=keep)
    status, _, error = letgo("run", *words)
    assert status == 0, error
    ours, theirs = (tmp_path / "out" / name / "model.safetensors" for name in ("lwf", "probe"))
    assert ours.read_bytes() != theirs.read_bytes()
    texts = pq.read_table(tmp_path / "out" / "kept.parquet").to_pylist()
    assert {text["prompt"] for text in texts} == {""}
    assert all(len(text["top_ids"]) == len(text["completion_ids"]) for text in texts)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["verdict_parts"]["let_go"] == "not measured"
    assert metrics["outcomes"]["kept"]["sft"]["value"] > 0


def test_relearning_brings_answers_back_or_not(finished, tiny, data, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    status, _, error = letgo("run", *flags(tiny, data, out, relearn=4, overwrite="true"))
    assert status == 0, error
    assert error.count("done before, kept") == 7  # all but relearn, evaluate and report
    rows = pq.read_table(out / "relearned.parquet").to_pylist()
    figure = json.loads((out / "metrics.json").read_text())["outcomes"]["let_go"]["more"]
    for model in ("sft", "lwf"):
        values = [row["old_answer"] for row in rows if row["model"] == model]
        assert figure["relearned"][model]["n"] == len(values) > 1
        assert figure["relearned"][model]["value"] == sum(values) / len(values)
    before = digest(finished)
    assert digest(out)["lwf/model.safetensors"] == before["lwf/model.safetensors"]


def test_without_headroom_a_run_stops_with_the_baseline(finished, tiny, data, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    found = json.loads((out / "headroom.json").read_text())
    (out / "headroom.json").write_text(json.dumps(found | {"old_answers": 0, "share": 0.0}))
    stages = json.loads((out / "stages.json").read_text())
    del stages["baseline"]["outputs"]  # the digests, which the file no longer has
    (out / "stages.json").write_text(json.dumps(stages))
    words = flags(tiny, data, out, require_headroom="true", overwrite="true")
    status, printed, error = letgo("run", *words)
    assert status == 0, error
    assert "there is no headroom: none of the" in printed.splitlines()[-1]
    made = digest(out)
    assert made["model/model.safetensors"] == made["probe/model.safetensors"]
    status, printed, _ = letgo("headroom", out)
    assert status == 0
    assert "with the base model's own answer" in printed


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
    assert list(json.loads((out / "metrics.json").read_text())["models"]["base"]) == [
        "learn",
        "validation",
    ]


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
