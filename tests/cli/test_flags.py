"""The flags of the commands."""

import pytest
from helpers.commands import letgo

from letgo.cli.flags import harness_options, parse, parse_early
from letgo.errors import InputError


def test_yaml_and_every_form_of_a_flag(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("forget: a.jsonl\nseed: 3\nlearning_rate: 1e-4\nquiet: true\n")
    _, made = parse("run", [f"--config={file}", "--seed=4", "--max_learn", "9"])
    assert made.settings.forget == ["a.jsonl"]
    assert (made.training.seed, made.training.learning_rate) == (4, 1e-4)
    assert made.settings.max_learn == 9
    assert made.settings.quiet
    words = ["--forget", "a", "b", "--forget=c", "--quiet", "--forget", "d", "--output_dir=x"]
    _, made = parse("run", [*words, "--config", str(file)])
    assert made.settings.forget == ["a", "b", "c", "d"]
    assert made.training.output_dir == "x"
    assert (made.training.unlearning_strength, made.training.unlearning_rate) == (0.1, None)
    for form in (["--output_dir=x"], ["--output-dir", "x"], ["--seed", "-1", "--output-dir=x"]):
        assert parse_early([*words[:-1], *form]).output_dir == "x"
    assert parse("run", ["--output-dir", "x"])[1].training.output_dir == "x"


def test_options_of_the_harness_are_checked_and_need_it():
    harness = ["--harness", "a,b"]
    words = [*harness, "--limit", "0.5", "--num_fewshot", "3", "--apply_chat_template"]
    flags, _ = parse("evaluate", [*words, "--fewshot_as_multiturn", "False"])
    assert flags.harness == ["a", "b"]
    assert harness_options(flags) == {
        "limit": 0.5,
        "num_fewshot": 3,
        "apply_chat_template": True,
        "fewshot_as_multiturn": False,
    }
    flags, _ = parse("evaluate", [*harness, "--limit", "20", "--apply_chat_template", "tool_use"])
    assert harness_options(flags) == {"limit": 20, "apply_chat_template": "tool_use"}
    assert harness_options(parse("evaluate", harness)[0]) == {}
    for more, message in (
        (["--limit", "2.5"], "--limit must be a whole number or a fraction below 1, not 2.5"),
        (["--limit", "0"], "--limit must be"),
        (["--limit", "inf"], "--limit must be"),
        (["--limit", "nan"], "--limit must be"),
        (["--num_fewshot", "-1"], "--num_fewshot must be 0 or more"),
        (["--num_fewshot", "x"], "--num_fewshot must be a whole number"),
        (["--fewshot_as_multiturn", "maybe"], "must be true or false, not maybe"),
    ):
        with pytest.raises(InputError, match=message):
            harness_options(parse("evaluate", [*harness, *more])[0])
    with pytest.raises(InputError, match="--num_fewshot is an option of --harness TASKS"):
        harness_options(parse("evaluate", ["--num_fewshot", "0"])[0])


def test_a_stage_starts_from_the_settings_of_its_folder(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 3\noverwrite: true\nquiet: true\n")
    words = ["--output_dir", str(tmp_path)]
    _, made = parse("score", words)
    assert made.training.seed == 3
    assert not made.settings.overwrite
    assert not made.settings.quiet
    assert parse("run", words)[1].training.seed == 42
    (tmp_path / "other.yaml").write_text("seed: 5\n")
    other = ["--config", str(tmp_path / "other.yaml")]
    assert parse("score", [*words, *other])[1].training.seed == 5
    (tmp_path / "config.yaml").write_text("colour: red\n")
    with pytest.raises(InputError, match=r"config.yaml: unknown setting 'colour'"):
        parse("score", words)


def test_the_demo_has_its_own_settings():
    _, made = parse("demo", ["--num_train_epochs", "2"])
    assert made.training.output_dir == "runs/demo"
    assert made.settings.learn == "runs/demo/data/capitals.jsonl"
    assert made.training.num_train_epochs == 2
    assert parse("demo", ["--output_dir", "x"])[1].settings.learn == "x/data/capitals.jsonl"


def test_flags_of_single_commands():
    assert parse("score", ["--explain"])[0].explain
    assert parse("report", ["--figures", "pdf,svg"])[0].figures == ["pdf", "svg"]
    assert parse("evaluate", ["--harness=qasc,arc_easy"])[0].harness == ["qasc", "arc_easy"]
    flags, _ = parse("run", [])
    assert (flags.explain, flags.figures, flags.harness) == (False, [], [])
    for words in (["--explain"], ["--figures", "pdf"], ["--harness", "qasc"]):
        with pytest.raises(InputError, match="unknown flag"):
            parse("train", words)


@pytest.mark.parametrize(
    ("command", "own"),
    [("run", "--config"), ("score", "--explain"), ("report", "--figures"), ("evaluate", "--harn")],
)
def test_help_lists_every_flag(command, own):
    status, text, _ = letgo(command, "--help")
    assert status == 0
    for flag in (own, "--config", "--forget", "--unlearning_interval", "--use_peft", "--packing"):
        assert flag in text
