"""Settings of a run: checks, flags over YAML, and back to plain values."""

import dataclasses

import pytest
import yaml

from letgo.errors import InputError
from letgo.run import config


def test_flags_override_settings():
    settings = {"forget": "a.jsonl", "seed": 3, "learning_rate": 1e-4, "quiet": True}
    parsed = config.parse("run", ["--seed=4", "--max_learn", "9"], settings)
    assert parsed.settings.forget == ["a.jsonl"]
    assert parsed.settings.max_learn == 9
    assert parsed.settings.quiet
    assert (parsed.training.seed, parsed.training.learning_rate) == (4, 1e-4)
    parsed = config.parse("run", ["--forget", "b", "--forget=c"], settings)
    assert parsed.settings.forget == ["b", "c"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"colour": "red"}, "c.yaml: unknown setting 'colour'"),
        ({"forget": [3]}, "--forget must be names, not [3]"),
        ({"forget": 3}, "'int' object is not iterable"),
        ({"model": ["a", "b"]}, "--model must be one name, not ['a', 'b']"),
        ({"score": "height"}, "--score must be one of"),
        ({"selection": "middle"}, "--selection must be one of top, bottom, random, not middle"),
        ({"optimum": "steps:0"}, "--optimum must be full, steps:N, lora or gradient, not steps:0"),
        ({"tokens_per_batch": 0}, "--tokens_per_batch must be a whole number of at least 1, not 0"),
        ({"selection": "random"}, "add --rescore_interval 0"),
    ],
)
def test_unusable_settings_are_named(settings, message):
    with pytest.raises(InputError) as error:
        config.parse("run", [], settings, "c.yaml")
    assert message in str(error.value)


def test_plain_settings_repeat_the_settings(tmp_path):
    words = ["--forget", "a", "b", "--score", "linear", "--output_dir", "x", "--use_peft"]
    parsed = config.parse("run", [*words, "--max_test", "7"], {})
    file = tmp_path / "config.yaml"
    settings = config.plain_settings(parsed)
    file.write_text(yaml.safe_dump({**settings, "provenance": {"model": "m"}}))
    assert config.read(file) == settings
    again = config.parse("run", [], config.read(file))
    assert again.settings == parsed.settings
    assert config.plain_settings(again) == settings
    changed = config.changed_from_default(parsed.adapter, {"model_name_or_path"})
    assert changed == {"use_peft": True}


@pytest.mark.parametrize(("text", "message"), [("a: [", "is not YAML"), ("- a", "a mapping")])
def test_files_without_settings_are_refused(tmp_path, text, message):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        config.read(file)


def test_every_setting_has_a_help_text():
    assert all(field.metadata["help"] for field in dataclasses.fields(config.RunConfig))
