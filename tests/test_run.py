"""The command line on a tiny model: the whole path, interruptions, and bad input."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import write_lines

from letgo import cli
from letgo.data.records import Record
from letgo.evaluation.asking import asked_sets
from letgo.evaluation.neutral import neutral_texts
from letgo.run.inputs import open_run
from letgo.stages import train as third

KILLING = Path(__file__).parent / "killing.py"
STAGE_FILES = {
    "config.yaml",
    "stages.json",
    "self_knowledge.parquet",
    "probe",
    "fisher.safetensors",
    "scores.parquet",
    "selection.parquet",
    "lwf",
    "train_log.jsonl",
    "baseline.parquet",
    "metrics.json",
    "answers.parquet",
    "model",
    "report.html",
}
COLUMNS = {
    "self_knowledge.parquet": [
        "id",
        "forget_set",
        "prompt",
        "completion",
        "prompt_ids",
        "completion_ids",
        "finish_reason",
        "mean_logprob",
    ],
    "scores.parquet": [
        "id",
        "forget_set",
        "tokens",
        "loss_base",
        "loss_probe",
        "interference",
        "linear",
        "quadratic",
        "inner",
        "learning",
        "norm",
        "confidence",
        "score",
    ],
    "selection.parquet": ["id", "selected", "reason", "decided_by", "decided_at"],
}


def flags(tiny, data, out, **changes):
    """The command line of a small run."""
    settings = {
        "model": tiny,
        "learn": data / "learn.jsonl",
        "learn_test": data / "heldout.jsonl",
        "learn_validation": data / "validation.jsonl",
        "forget": [data / "letters" / "train.jsonl", data / "talk.jsonl"],
        "output_dir": out,
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "learning_rate": 1e-3,
        "max_new_tokens": 6,
        "unlearning_interval": 4,
        "generation_batch_size": 4,
        "tokens_per_batch": 60,
        "checkpoint_minutes": 0,
        "gradient_checkpointing": False,
        "unlearning_ceiling": 50,
        "bf16": "false",
        **changes,
    }
    words = []
    for name, value in settings.items():
        if name == "forget" and isinstance(value, list):  # may be given several times
            words += [word for item in value for word in ("--forget", str(item))]
        elif value is not None:
            items = value if isinstance(value, list) else [value]
            words += [f"--{name}", *map(str, items)]
    return words


def letgo(*words):
    """Run a command in this process: (exit status, standard output and error)."""
    import contextlib
    import io

    out, err = io.StringIO(), io.StringIO()
    old, sys.argv = sys.argv, ["letgo", *map(str, words)]
    status = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as stop:
        status = stop.code or 0
    finally:
        sys.argv = old
    return status, out.getvalue(), err.getvalue()


def digest(folder):
    """What two equal runs must share, byte for byte."""
    files = [
        "self_knowledge.parquet",
        "scores.parquet",
        "selection.parquet",
        "metrics.json",
        "answers.parquet",
        "model/model.safetensors",
        "lwf/model.safetensors",
        "probe/model.safetensors",
    ]
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}


@pytest.fixture(scope="module")
def finished(tiny, data, tmp_path_factory):
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("run") / "out"
    status, text, error = letgo("run", *flags(tiny, data, out))
    assert status == 0, error
    assert "LWF - SFT, paired" in text
    assert "verdict:" in text
    return out


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
    third.train(
        SimpleNamespace(folder=finished, config=SimpleNamespace(training=training)), tmp_path
    )
    selection = pq.read_table(finished / "selection.parquet")["selected"].to_pylist()
    assert sum(row["allowed"] for row in given) == (len(given) if interval else sum(selection))
    assert [row["selected"] for row in given].count(True) == sum(selection)
    assert {row["score"] for row in given} == {"gradient"}


def test_figures_are_written_beside_a_finished_report(finished, tmp_path):
    out = shutil.copytree(finished, tmp_path / "out")
    before = (out / "report.html").read_bytes()
    status, text, error = letgo("report", "--output_dir", out, "--figures", "pdf,svg")
    assert status == 0, error
    assert "done before" in error
    made = sorted((out / "figures").iterdir())
    assert {path.suffix for path in made} == {".pdf", ".svg"}
    assert all(f"figure: {path}\n" in text for path in made)
    assert (out / "report.html").read_bytes() == before
    (out / "metrics.json").unlink()
    status, text, error = letgo("report", "--output_dir", out)
    assert (status, text.splitlines()[-1][:14]) == (0, "no verdict yet"), error
    status, _, error = letgo("report", "--output_dir", out, "--figures", "jpg")
    assert (status, error.count("\n")) == (2, 1)
    assert "--figures must be one or several of svg, pdf, png" in error


def test_metrics_are_the_answers_counted(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    answers = pq.read_table(finished / "answers.parquet").to_pylist()
    assert set(metrics) == {"models", "lwf_minus_sft", "neutral_perplexity", "verdict"}
    assert set(metrics["models"]) == {"base", "sft", "lwf"}
    for model, sets in metrics["models"].items():
        decides = {"validation"} - ({"validation"} if model == "base" else set())
        assert set(sets) == {"learn", "forget:letters"} | decides  # the other has no references
        for name, score in sets.items():
            right = [a["correct"] for a in answers if (a["model"], a["set"]) == (model, name)]
            assert score["n"] == len(right)
            assert score["accuracy"] == sum(right) / len(right)
            assert score["ci95"][0] <= score["accuracy"] <= score["ci95"][1]
    # Answers without a right one are there to be looked at, a few of every model.
    shown = [a for a in answers if a["set"] == "forget:talk"]
    assert sorted(a["model"] for a in shown) == ["base"] * 4 + ["lwf"] * 4 + ["sft"] * 4
    assert all(a["correct"] is None and np.isnan(a["reference_nll"]) for a in shown)
    assert "without a right answer" in (finished / "report.html").read_text()
    paired = metrics["lwf_minus_sft"]["learn"]
    assert set(paired) == {"difference", "ci95", "p_value", "reference_nll"}
    for model, perplexity in metrics["neutral_perplexity"].items():
        read = [a["reference_nll"] for a in answers if (a["model"], a["set"]) == (model, "neutral")]
        assert len(read) == len(neutral_texts())
        assert perplexity == pytest.approx(np.exp(np.mean(read)))


def test_a_set_without_all_its_right_answers_is_not_judged():
    records = [Record(str(i), f"question {i}", None if i == 30 else "a", "") for i in range(40)]
    run = SimpleNamespace(
        test=records[:1],
        validation=[],
        forget={"some": records},
        config=SimpleNamespace(training=SimpleNamespace(seed=0)),
    )
    shown = asked_sets(run)["forget:some"]
    assert len(shown) == 4
    assert {record.completion for record in shown} == {None}


def test_the_model_that_is_kept_is_that_of_the_verdict(finished, tmp_path, monkeypatch):
    """`model/` is plain fine-tuning's unless the validation set shows a gain of LWF."""
    kept = {"sft": "probe", "lwf": "lwf"}
    metrics = json.loads((finished / "metrics.json").read_text())
    assert same_files(finished / "model", finished / kept[metrics["verdict"]])
    other = "lwf" if metrics["verdict"] == "sft" else "sft"
    monkeypatch.setattr("letgo.stages.evaluate.verdict", lambda difference: other)
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    stages = json.loads((out / "stages.json").read_text())
    del stages["evaluate"]
    (out / "stages.json").write_text(json.dumps(stages))
    for name in ("metrics.json", "answers.parquet", "report.html"):
        (out / name).unlink()
    shutil.rmtree(out / "model")
    assert letgo("evaluate", "--output_dir", out)[0] == 0
    assert same_files(out / "model", out / kept[other])


def same_files(one, other):
    names = sorted(file.name for file in one.iterdir())
    assert names == sorted(file.name for file in other.iterdir())
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


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
    assert error.count("done before, kept") == 9
    assert digest(finished) == before
    assert times == {path: path.stat().st_mtime_ns for path in (finished / "lwf").iterdir()}


def test_config_yaml_repeats_the_run(finished, tmp_path):
    settings = yaml.safe_load((finished / "config.yaml").read_text())
    assert settings["unlearning_interval"] == 4
    assert settings["provenance"]["versions"]["letgo"]
    assert "hub_token" not in settings
    out = tmp_path / "again"
    status, _, error = letgo("run", "--config", finished / "config.yaml", "--output_dir", out)
    assert status == 0, error
    assert digest(out) == digest(finished)


def test_each_stage_is_a_command(finished, tiny, data, tmp_path):
    """One by one, the later ones with the run folder's own settings."""
    out = tmp_path / "staged"
    for number, stage in enumerate(cli.STAGES):
        words = flags(tiny, data, out) if number == 0 else ["--output_dir", out]
        status, _, error = letgo(stage, *words)
        assert status == 0, error
    assert digest(out) == digest(finished)


def test_a_users_own_model_folder_is_never_replaced(tiny, data, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(tiny, project / "model")
    before = sorted((f, f.stat().st_mtime_ns) for f in project.rglob("*"))
    for model in (project / "model", tiny):
        status, _, error = letgo("run", *flags(model, data, project))
        assert status == 2
        assert "replace its own --model" in error or "holds model" in error
    assert before == sorted((f, f.stat().st_mtime_ns) for f in project.rglob("*"))
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.yaml").write_text("mine: true\n")
    status, _, error = letgo("run", *flags(tiny, data, other))
    assert status == 2
    assert "is not letgo's" in error


def test_sets_of_like_names_keep_their_own_answers(tiny, data, tmp_path):
    files = [
        write_lines(tmp_path / name, [{"prompt": f"say {name} {n}"} for n in range(2)])
        for name in ("a b.jsonl", "a-b.jsonl", "a+b.jsonl")
    ]
    status, _, error = letgo("elicit", *flags(tiny, data, tmp_path / "out", forget=files))
    assert status == 0, error
    for text in pq.read_table(tmp_path / "out" / "self_knowledge.parquet").to_pylist():
        assert text["prompt"].startswith(f"say {text['forget_set']}.jsonl")


def test_test_prompts_are_not_elicited_either(tiny, data, tmp_path):
    from letgo.run import config

    words = flags(tiny, data, tmp_path / "out", learn_test=None, forget=data / "learn.jsonl")
    run = open_run(config.parse("run", words, {}))
    assert not {r.prompt for r in run.test} & {r.prompt for r in run.forget["learn"]}
    assert len(run.forget["learn"]) == 22


def test_an_overwrite_that_fails_leaves_nothing_stale(finished, tiny, data, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    long = write_lines(tmp_path / "long.jsonl", [{"prompt": "long " * 200}])
    words = ["--output_dir", out, "--forget", long, "--overwrite"]
    assert letgo("elicit", *words)[0] == 2
    status, _, error = letgo("score", *words)
    assert status == 2
    assert "has no self_knowledge.parquet" in error


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


def test_save_only_model_does_not_change_a_resumed_run(tiny, data, tmp_path):
    words = flags(tiny, data, tmp_path / "out")
    command = [sys.executable, KILLING, "probe", "run", *words, "--save_only_model"]
    assert subprocess.run(command, env=environment(), capture_output=True).returncode == -9
    states = list((tmp_path / "out" / "probe.part" / "checkpoints").glob("*/optimizer.pt"))
    assert states


def test_yaml_and_every_form_of_a_flag(tiny, data, tmp_path):
    from letgo.run import config

    file = tmp_path / "c.yaml"
    file.write_text("forget: a.jsonl\nseed: 3\nlearning_rate: 1e-4\nquiet: true\n")
    made = config.parse("run", [f"--config={file}", "--seed=4", "--max_learn", "9"], {})
    assert made.run.forget == ["a.jsonl"]
    assert (made.training.seed, made.training.learning_rate, made.run.max_learn) == (4, 1e-4, 9)
    assert made.run.quiet
    words = ["--forget", "a", "b", "--forget=c", "--quiet", "--forget", "d", "--output_dir=x"]
    made = config.parse("run", [*words, "--config", str(file)], {})
    assert made.run.forget == ["a", "b", "c", "d"]
    assert made.training.output_dir == "x"
    assert config.output_dirs(words) == ["x"]
    assert (made.training.unlearning_strength, made.training.unlearning_rate) == (0.1, None)


def test_a_single_stage_does_not_mix_runs(finished, tiny, data, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    for words in (["--seed", "7"], ["--seed", "7", "--overwrite"]):
        status, _, error = letgo("train", "--output_dir", out, *words)
        assert status == 2
        assert "its probe was made with" in error or "self_knowledge.parquet was made" in error
    status, _, error = letgo("select", "--output_dir", out, "--forget_fraction", 0.2)
    assert status == 2
    status, _, error = letgo("select", "--output_dir", out, "--forget_fraction", 0.2, "--overwrite")
    assert status == 0, error
    selection = pq.read_table(out / "selection.parquet")["selected"].to_pylist()
    assert sum(selection) == round(0.2 * len(selection))


def test_settings_that_do_not_go_together_are_one_line(tiny, data, tmp_path):
    words = flags(tiny, data, tmp_path / "out", lora_target_modules=["nothing", "none"])
    status, _, error = letgo("run", *words, "--use_peft")
    assert status == 2
    assert "Target modules" in error.splitlines()[-1]
    words = flags(tiny, data, tmp_path / "two", unlearning_loss="graddiff")
    status, _, error = letgo("run", *words, "--packing")
    assert status == 2
    assert "graddiff does not work with packed learning data" in error


def test_a_stage_without_the_one_before_names_it(tiny, data, tmp_path):
    status, _, error = letgo("score", *flags(tiny, data, tmp_path / "out"))
    assert status == 2
    assert "has no self_knowledge.parquet; run `letgo elicit` first" in error


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs SIGKILL")
def test_killed_in_every_stage_and_started_again(finished, tiny, data, tmp_path):
    """The same command again and again, killed at another place each time."""
    out = tmp_path / "killed"
    places = [
        "elicit",
        "probe",
        "probe checkpoint",
        "fisher",
        "score",
        "train",
        "train renames",
        "baseline",
        "evaluate",
        "nowhere",
    ]
    for place in places:
        command = [sys.executable, KILLING, place, "run", *flags(tiny, data, out)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment())
        assert done.returncode == (0 if place == "nowhere" else -9), (place, done.stderr)
        assert not (out / "metrics.json").exists() or place == "nowhere"
        if place in ("probe", "probe checkpoint", "train"):
            stage = place.split()[0]
            assert list((out / f"{stage}.part" / "checkpoints").glob("checkpoint-*"))
    assert {path.name for path in out.iterdir()} == STAGE_FILES
    assert digest(out) == digest(finished)


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_a_folder_of_another_run_is_refused_and_untouched(finished, tiny, data, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    for changes, name in [
        ({"seed": 1}, "seed"),
        ({"score": "linear"}, "score"),
        ({"forget_fraction": 0.1}, "forget_fr"),
        ({"learn": data / "heldout.jsonl", "learn_test": data / "learn.jsonl"}, "learn"),
        ({"unlearning_strength": 0.7}, "unlearning_strength"),
        ({"max_new_tokens": 3}, "max_new_tokens"),
    ]:
        status, _, error = letgo("run", *flags(tiny, data, out, **changes))
        assert status == 2
        assert error.startswith("letgo: --output_dir: ")
        assert "belongs to another run" in error
        assert f"{name}" in error
        assert error.count("\n") == 1
    assert digest(out) == digest(finished)
    words = flags(tiny, data, out, score="fisher_distance", alpha=0.5, overwrite="true")
    status, _, error = letgo("run", *words)
    assert status == 0, error
    assert error.count("done before, kept") == 4  # elicit, probe, fisher, baseline
    new = pq.read_table(out / "scores.parquet").schema.metadata
    assert new[b"alpha"] == b"0.5"


BAD = [
    ({"learn": "none.jsonl"}, "--learn: there is no file none.jsonl"),
    ({"learn": "empty.jsonl"}, "--learn: empty.jsonl is empty"),
    ({"learn": "torn.jsonl"}, "--learn: torn.jsonl line 2 is not JSON"),
    ({"learn_test": "unlabelled.jsonl"}, "--learn_test: unlabelled.jsonl line 1: no 'completion'"),
    ({"forget": "numbers.jsonl"}, "--forget: numbers.jsonl line 1: 'prompt' is not a string"),
    ({"forget": "blank.jsonl"}, "--forget: blank.jsonl line 1: the prompt is empty"),
    ({"forget": None}, "--forget is missing"),
    ({"learn": None}, "--learn is missing"),
    ({"output_dir": None}, "--output_dir is missing"),
    ({"output_dir": "empty.jsonl"}, "--output_dir: empty.jsonl is a file"),
    ({"max_learn": 3}, "--learn: 3 examples are fewer than one batch of 4"),
    ({"max_learn": 0}, "--max_learn must be a whole number of at least 1, not 0"),
    ({"num_train_epochs": 0}, "--num_train_epochs must be above 0"),
    ({"learning_rate": -1}, "--learning_rate must be above 0"),
    ({"chat_template_path": "none.jinja"}, "--chat_template_path must be a Jinja file"),
    ({"eos_token": "<none>"}, "--eos_token: '<none>' is not in the vocabulary"),
    ({"config": "fraction.yaml"}, "argument --max_forget/--max-forget: invalid int value: '2.5'"),
    ({"forget_fraction": 0}, "--forget_fraction must be above 0"),
    ({"forget_fraction": 1.2}, "--forget_fraction must be above 0 and at most 1, not 1.2"),
    ({"unlearning_interval": -1}, "--unlearning_interval must be 0 (off) or more, not -1"),
    ({"unlearning_interval": "often"}, "argument --unlearning_interval"),
    ({"model": "no-such-folder/no-such-model/x"}, "--model: cannot load"),
    ({"nonsense": 3}, "unknown flag --nonsense"),
    ({"gradient_accumulation_steps": 0}, "--gradient_accumulation_steps must be above 0"),
    ({"alpha": -1}, "--alpha must be auto, or a number of 0 or more"),
    ({"config": "listed.yaml", "learn": None}, "--learn must be one name"),
    ({"config": "none.yaml"}, "--config: cannot read none.yaml"),
    ({"config": "odd.yaml"}, "--config odd.yaml: unknown setting 'colour'"),
    ({"max_length": 8}, "--forget: none of the 8 prompts of letters fits into 8 tokens"),
    ({"max_new_tokens": 500}, "--forget: none of the 8 prompts of letters fits into 128 tokens"),
    (
        {"max_length": 60, "max_new_tokens": 1, "learn": "wordy.jsonl"},
        "--learn: 9 of 9 learning examples are longer than 60 tokens",
    ),
]


@pytest.mark.parametrize(("changes", "complaint"), BAD, ids=[b[1][:40] for b in BAD])
def test_bad_input_is_one_line_and_leaves_nothing(
    tiny, data, tmp_path, monkeypatch, changes, complaint
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "torn.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a\n')
    (tmp_path / "odd.yaml").write_text("colour: red\n")
    write_lines(tmp_path / "unlabelled.jsonl", [{"prompt": "x"}])
    write_lines(tmp_path / "numbers.jsonl", [{"prompt": 3}])
    write_lines(tmp_path / "blank.jsonl", [{"prompt": ""}])
    (tmp_path / "fraction.yaml").write_text("max_forget: 2.5\n")
    (tmp_path / "listed.yaml").write_text("learn: [a, b]\n")
    wordy = [{"prompt": f"{n}?", "completion": "long " * 20} for n in range(9)]
    write_lines(tmp_path / "wordy.jsonl", wordy)
    before = sorted(tmp_path.iterdir())
    status, out, error = letgo("run", *flags(tiny, data, "out", **changes))
    assert status == 2
    last = error.splitlines()[-1]
    assert last.startswith("letgo: ")
    assert complaint in last
    assert "Traceback" not in error
    assert out == ""
    left = [path for path in tmp_path.iterdir() if path not in before]
    assert [path.name for path in left] in ([], ["out"])
    assert not list(tmp_path.glob("out/*.part*"))


def test_a_model_that_only_ends_its_answers(tiny, data, tmp_path):
    """A forgetting set from which nothing at all is generated."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny)
    head = torch.nn.Linear(16, model.config.vocab_size, bias=True)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))
    silent = tmp_path / "silent"  # equal logits: greedy takes token 0, the end of the turn
    model.save_pretrained(silent)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(silent)
    status, _, error = letgo("run", *flags(silent, data, tmp_path / "out"))
    assert status == 2
    assert "--forget: the model generates nothing at all from letters" in error
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.yaml"}


def test_long_examples_are_counted_and_never_cut(tiny, data, tmp_path):
    learn = [json.loads(line) for line in (data / "learn.jsonl").open()]
    learn.insert(3, {"prompt": "long " * 60, "completion": "1"})
    learn.insert(9, {"prompt": "short", "completion": "long " * 90})
    file = write_lines(tmp_path / "learn.jsonl", learn)
    prompts = [{"prompt": "say it " * 60}, {"prompt": "say a word"}]
    forget = write_lines(tmp_path / "forget.jsonl", prompts)
    asked = write_lines(
        tmp_path / "test.jsonl",
        [{"prompt": "a " * 200, "completion": "b"}, {"prompt": "a", "completion": "b"}],
    )
    words = flags(tiny, data, tmp_path / "out", learn=file, forget=forget, learn_test=asked)
    status, _, error = letgo("run", *words)
    assert status == 0, error
    assert "2 of 26 learning examples are longer than 128 tokens and are left out" in error
    assert f"(first: {file} line 4)" in error
    assert "elicit forget: 1 of 2 prompts left out" in error
    assert "evaluate learn: 1 prompts of 128 tokens or more count as wrong" in error
    texts = pq.read_table(tmp_path / "out" / "self_knowledge.parquet")["prompt"].to_pylist()
    assert texts == ["say a word"]


def test_a_tenth_is_kept_apart_and_never_trained_on(tiny, data, tmp_path):
    from letgo.run import config

    words = flags(tiny, data, tmp_path / "out", learn_test=None)
    run = open_run(config.parse("run", words, {}))
    assert len(run.test) == 2
    assert len(run.learn) == 22
    assert not {r.prompt for r in run.test} & {r.prompt for r in run.learn}
    for test_set in (None, data / "heldout.jsonl"):
        words = flags(tiny, data, tmp_path / "out", learn_test=test_set, learn_validation=None)
        run = open_run(config.parse("run", words, {}))
        parts = [{r.prompt for r in part} for part in (run.learn, run.validation, run.test)]
        assert len(set.union(*parts)) == sum(map(len, parts))
        assert len(run.validation) == 2
    for word in (["--optimum", "steps:2"], ["--unlearning_interval", "0"]):  # nothing to decide
        assert not open_run(config.parse("run", [*words, *word], {})).validation


def test_few_validation_examples_are_enough(data):
    from letgo.data.records import Record
    from letgo.data.splits import hold_out

    records = [Record(str(i), f"{i}?", "1", "") for i in range(3000)]
    learn, apart = hold_out(records, 0, 200)
    assert (len(learn), len(apart)) == (2800, 200)


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


def test_a_full_disk_is_said_and_the_run_goes_on(finished, tiny, data, tmp_path, monkeypatch):
    import errno

    from letgo.stages import score as scoring

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(scoring.pq, "write_table", full)
        patch.setattr("letgo.stages.elicit.pq.write_table", pq.write_table, raising=False)
        status, _, error = letgo("run", *flags(tiny, data, out))
    assert status == 2
    assert error.splitlines()[-1].startswith("letgo: the disk is full; make room")
    assert "Traceback" not in error
    status, _, error = letgo("run", *flags(tiny, data, out))
    assert status == 0
    assert digest(out) == digest(finished)


def test_help_and_version_import_no_torch():
    code = (
        "import sys; sys.argv = ['letgo', sys.argv[1]]; import letgo.cli; letgo.cli.main(); "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    for flag in ("--help", "--version"):
        done = subprocess.run([sys.executable, "-c", code, flag], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "letgo" in done.stdout
    assert letgo("fly")[0] == 2
    assert "no command 'fly'" in letgo("fly")[2]


def test_quiet_says_nothing_but_the_result(tiny, data, tmp_path):
    words = flags(tiny, data, tmp_path / "out", quiet="true")
    status, out, error = letgo("run", *words)
    assert status == 0
    assert error == ""
    assert "verdict:" in out


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounts a small disk")
@pytest.mark.parametrize("size", ["24k", "120k"])
def test_a_disk_that_is_really_full(tiny, data, tmp_path, size):
    """In the probe's checkpoint and in the final training; room is made, and the run goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount")
    try:
        words = flags(tiny, data, disk / "out")
        status, _, error = letgo("run", *words)
        assert status == 2
        assert error.splitlines()[-1].startswith("letgo: the disk is full; make room")
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        status, _, error = letgo("run", *words)
        assert status == 0, error
        assert {path.name for path in (disk / "out").iterdir()} == STAGE_FILES
    finally:
        subprocess.run(["umount", disk], check=True)


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
    assert "give --rescore_interval 0 with it" in error
