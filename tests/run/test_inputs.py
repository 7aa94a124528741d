"""The data and the folder of a run: checked before anything is written."""

import json
import random
import shutil

import pyarrow.parquet as pq
import pytest
import yaml
from helpers.commands import digest, flags, letgo
from helpers.files import write_lines

from letgo.data.records import Record
from letgo.run import inputs
from letgo.run.inputs import open_run


def test_config_yaml_repeats_the_run(finished, tmp_path):
    settings = yaml.safe_load((finished / "config.yaml").read_text())
    assert settings["unlearning_interval"] == 4
    assert settings["provenance"]["versions"]["letgo"]
    assert "hub_token" not in settings
    out = tmp_path / "again"
    status, _, error = letgo("run", "--config", finished / "config.yaml", "--output_dir", out)
    assert status == 0, error
    assert digest(out) == digest(finished)


def test_a_users_own_model_folder_is_never_replaced(tiny, data, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(tiny, project / "model")
    before = sorted((f, f.stat().st_mtime_ns) for f in project.rglob("*"))
    for model in (project / "model", tiny):
        status, _, error = letgo("run", *flags(model, data, project))
        assert status == 2
        assert "replace its own --model" in error or "already contains model" in error
    assert before == sorted((f, f.stat().st_mtime_ns) for f in project.rglob("*"))
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.yaml").write_text("mine: true\n")
    status, _, error = letgo("run", *flags(tiny, data, other))
    assert status == 2
    assert f"letgo did not create {other / 'config.yaml'}" in error


def test_test_prompts_are_not_elicited_either(tiny, data, tmp_path):
    from letgo.run import config

    words = flags(tiny, data, tmp_path / "out", learn_test=None, forget=data / "learn.jsonl")
    run = open_run(config.parse("run", words, {}))
    assert not {r.prompt for r in run.test} & {r.prompt for r in run.forget["learn"]}
    held = [r for records in run.held_out.values() for r in records]
    assert len(run.forget["learn"]) == 22
    assert set(run.held_out) == {"keep:neutral", "validation:keep:neutral"}  # no learning prompt
    trained = [*run.learn, *run.forget["learn"], *run.keep["neutral"]]
    assert not {r.prompt for r in held} & {r.prompt for r in trained}


def test_max_keep_takes_the_same_prompts_for_every_seed(tiny, data, tmp_path):
    from letgo.run import config

    kept = []
    for seed in (1, 2):
        words = flags(tiny, data, tmp_path / "out", max_keep=5, seed=seed)
        run = open_run(config.parse("run", words, {}))
        kept.append([record.prompt for record in run.keep["neutral"]])
        assert len(run.held_out["keep:neutral"]) > 5
    assert len(kept[0]) == 5
    assert kept[0] == kept[1]


@pytest.mark.parametrize("source", [None, "validation.jsonl"])
def test_max_test_bounds_every_set_that_is_asked(tiny, data, tmp_path, source):
    from letgo.run import config

    file = source and data / source
    words = flags(tiny, data, tmp_path / "out", max_test=2, learn_validation=file)
    run = open_run(config.parse("run", words, {}))
    asked = {"test": run.test, "validation": run.validation, **run.held_out}
    assert all(len(records) <= 2 for records in asked.values())
    assert len(run.test) == len(run.validation) == 2
    assert len(run.learn) == (24 if source else 22)


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
    assert "graddiff does not work with packed or padding-free learning data" in error


def test_a_stage_without_the_one_before_names_it(tiny, data, tmp_path):
    out = tmp_path / "out"
    status, _, error = letgo("score", *flags(tiny, data, out))
    assert status == 2
    assert f"has no self_knowledge.parquet; run `letgo elicit --output_dir {out}` first" in error


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
        line = error.splitlines()[-1]  # those before it name the forms of the data
        assert line.startswith("letgo: --output_dir: ")
        assert "belongs to another run" in line
        assert f"{name}" in line
    assert digest(out) == digest(finished)
    words = flags(tiny, data, out, score="fisher_distance", alpha=0.5, overwrite="true")
    status, _, error = letgo("run", *words)
    assert status == 0, error
    assert error.count("done before, kept") == 4  # elicit, keep, probe, baseline
    new = pq.read_table(out / "scores.parquet").schema.metadata
    assert new[b"alpha"] == b"0.5"


BAD = [
    ({"margin": -1}, "--margin must be 0 or more, not -1"),
    ({"relearn": -1}, "--relearn must be 0 (off) or more, not -1"),
    ({"keep_share": -0.5}, "--keep_share must be 0 (off) or more, not -0.5"),
    ({"keep_loss": "mse"}, "--keep_loss must be one of kl, nll"),
    ({"keep": "none.jsonl"}, "--keep: there is no file none.jsonl"),
    ({"keep": "wanted.jsonl"}, "--keep: wanted: 3 of 3 prompts are also learning or forgetting"),
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
    ({"config": "fraction.yaml"}, "--max_forget must be a whole number, not '2.5'"),
    ({"forget_fraction": 0}, "--forget_fraction must be above 0"),
    ({"forget_fraction": 1.2}, "--forget_fraction must be above 0 and at most 1, not 1.2"),
    ({"unlearning_interval": -1}, "--unlearning_interval must be 0 (off) or more, not -1"),
    ({"unlearning_interval": "often"}, "--unlearning_interval must be a whole number"),
    ({"model": "no-such-folder/no-such-model/x"}, "--model: cannot load"),
    ({"nonsense": 3}, "unknown flag --nonsense"),
    ({"gradient_accumulation_steps": 0}, "--gradient_accumulation_steps must be above 0"),
    ({"alpha": -1}, "--alpha must be auto, or a number of 0 or more"),
    ({"config": "listed.yaml", "learn": None}, "--learn must be one name"),
    ({"config": "none.yaml"}, "cannot read none.yaml: No such file"),
    ({"config": "odd.yaml"}, "--config odd.yaml: unknown setting 'colour'"),
    ({"max_length": 8}, "--forget: none of the 6 prompts of letters fits into 8 tokens"),
    ({"max_new_tokens": 500}, "--forget: none of the 6 prompts of letters fits into 128 tokens"),
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
    learned = [json.loads(line) for line in (data / "learn.jsonl").open()]
    write_lines(tmp_path / "wanted.jsonl", learned[:3])
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


def test_long_examples_are_counted_and_never_cut(tiny, data, tmp_path):
    learn = [json.loads(line) for line in (data / "learn.jsonl").open()]
    learn.insert(3, {"prompt": "long " * 60, "completion": "1"})
    learn.insert(9, {"prompt": "short", "completion": "long " * 90})
    file = write_lines(tmp_path / "learn.jsonl", learn)
    prompts = [{"prompt": "say it " * 60}] + [{"prompt": f"say word {i}"} for i in range(5)]
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
    assert "forget: 1 of " in error
    assert "evaluate learn: 1 of 2 prompts" in error
    texts = pq.read_table(tmp_path / "out" / "self_knowledge.parquet")["prompt"].to_pylist()
    assert texts
    assert all(text.startswith("say word") for text in texts)


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
    from letgo.data.splits import hold_out

    records = [Record(str(i), f"{i}?", "1", "") for i in range(3000)]
    learn, apart = hold_out(records, 0, 200)
    assert (len(learn), len(apart)) == (2800, 200)


def test_no_held_out_prompt_is_in_any_training_set():
    """For random sets that share prompts with one another, of any size."""
    draw = random.Random(0)
    for _ in range(200):
        prompts = [f"prompt {n}" for n in range(draw.randint(3, 40))]
        some = [draw.choices(prompts, k=draw.randint(1, 60)) for _ in range(4)]
        learn, *sets = [
            [Record(f"{i:06d}", prompt, None, "") for i, prompt in enumerate(chosen)]
            for chosen in some
        ]
        held: dict = {}
        for number, records in enumerate(sets):
            held |= inputs._held_out_parts(f"forget:{number}", records, learn, None)
        named = {str(number): records for number, records in enumerate(sets)}
        trained = inputs._without_held_out(named, held)
        seen = {r.prompt for records in [learn, *trained.values()] for r in records}
        assert not seen & {r.prompt for records in held.values() for r in records}
        for number in range(3):
            test, validation = (
                {r.prompt for r in held.get(f"{before}forget:{number}", [])}
                for before in ("", "validation:")
            )
            assert not test & validation
