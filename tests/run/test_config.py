"""Settings of a run: checks, flags over YAML, and back to plain values."""

import dataclasses
import itertools
import math
from contextlib import suppress

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from letgo.errors import InputError
from letgo.run import config


def test_flags_override_settings():
    content = {"forget": "a.jsonl", "seed": 3, "learning_rate": 1e-4, "quiet": True}
    parsed = config.parse("run", ["--seed=4", "--max_learn", "9"], content)
    assert parsed.settings.forget == ["a.jsonl"]
    assert parsed.settings.max_learn == 9
    assert parsed.settings.quiet
    assert (parsed.training.seed, parsed.training.learning_rate) == (4, 1e-4)
    parsed = config.parse("run", ["--forget", "b", "--forget=c"], content)
    assert parsed.settings.forget == ["b", "c"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"colour": "red"}, "c.yaml: unknown setting 'colour'"),
        ({"forget": [3]}, "--forget must be names, not [3]"),
        ({"forget": 3}, "--forget must be names, not 3 (c.yaml)"),
        ({"help": 1}, "c.yaml: unknown setting 'help'"),
        ({"model": True}, "--model must be one name (put it in quotes), not True (c.yaml)"),
        ({"seed": True}, "--seed must be a whole number, not True"),
        ({"seed": None}, "--seed must be a whole number, not None"),
        ({"seed": 2**32}, "--seed must be a whole number below 4294967296"),
        ({"max_length": 10**5000}, "--max_length must be a whole number below"),
        ({"learning_rate": [1]}, "--learning_rate must be a number, not [1]"),
        ({"learning_rate": "x"}, "--learning_rate must be a number, not 'x'"),
        ({"learning_rate": math.nan}, "--learning_rate must be a finite number, not nan"),
        ({"logging_steps": math.inf}, "--logging_steps must be a finite number, not inf"),
        ({"pad_to_multiple_of": "x"}, "--pad_to_multiple_of x cannot be used: it is not a whole"),
        ({"accelerator_config": "["}, "--accelerator_config [ cannot be used:"),
        ({"accelerator_config": {"colour": 1}}, "--accelerator_config {'colour': 1} cannot"),
        ({"fsdp_config": 1_000}, "--fsdp_config must be"),
        ({"fsdp": "full_shard", "fsdp_config": "x"}, " cannot be used: x: No such file"),
        ({"deepspeed": "x"}, "--deepspeed x cannot be used: deepspeed is not installed"),
        ({"lr_scheduler_type": "x"}, "--lr_scheduler_type"),
        ({"dtype": "x"}, "--dtype must be one of auto"),
        ({"eval_strategy": False}, "--eval_strategy must be text (put it in quotes), not False"),
        ({"model_init_kwargs": "x"}, "--model_init_kwargs must be a mapping"),
        ({"checkpoint_minutes": -1}, "--checkpoint_minutes must be 0 or more"),
        ({"output_dir": "a" * 256}, "is too long: a file's name has at most 255 bytes"),
        ({"learn": "\u4e2d" * 86}, "--learn: "),
        ({"output_dir": "a\0b"}, "--output_dir: a\0b is not text"),
        ({"forget": ["\ud800"]}, "--forget: \ud800 is not text"),
        ({"model": ["a", "b"]}, "--model must be one name, not ['a', 'b']"),
        ({"score": "height"}, "--score must be one of"),
        ({"selection": "middle"}, "--selection must be one of top, bottom, random, not middle"),
        ({"optimum": "steps:0"}, "--optimum must be full, steps:N, lora or gradient, not steps:0"),
        ({"tokens_per_batch": 0}, "--tokens_per_batch must be a whole number of at least 1, not 0"),
        ({"selection": "random"}, "add --rescore_interval 0"),
    ],
)
def test_unusable_settings_are_named(content, message):
    with pytest.raises(InputError) as error:
        config.parse("run", [], content, "c.yaml")
    assert message in str(error.value)


def test_plain_settings_repeat_the_settings(tmp_path):
    words = ["--forget", "a", "b", "--score", "linear", "--output_dir", "x", "--use_peft"]
    parsed = config.parse("run", [*words, "--max_test", "7"], {})
    file = tmp_path / "config.yaml"
    plain = config.plain_settings(parsed)
    file.write_text(yaml.safe_dump({**plain, "provenance": {"model": "m"}}))
    assert config.read(file) == plain
    again = config.parse("run", [], config.read(file))
    assert again.settings == parsed.settings
    assert config.plain_settings(again) == plain
    changed = config.changed_from_default(parsed.adapter, {"model_name_or_path"})
    assert changed == {"use_peft": True}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--report_to", "x"], "--report_to must be one of none, all"),
        (
            ["--report_to", "wandb"],
            "--report_to wandb: it is not installed; run",
        ),
        (["--push_to_hub", "--output_dir", "x"], "upload the model by `hf upload ID x/model`"),
        (["--seed", "x"], "--seed must be a whole number, not 'x'"),
        (["--accelerator-config", "["], "--accelerator_config [ cannot be used: [: No such file"),
    ],
)
def test_unusable_flags_are_named(words, message):
    with pytest.raises(InputError) as error:
        config.parse("run", words, {})
    assert message in str(error.value)


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in itertools.pairwise("abcdefgh")
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("- a", "a mapping"),
        ("", "a mapping"),
        ("x: !!bool x", "is not YAML"),
        ("x: !!timestamp x", "is not YAML"),
        ("x: !!int x", "is not YAML"),
        ("x: !!python/object/apply:os.getpid []", "is not YAML"),
        ("[" * 2000, "is not YAML"),
        ("{" * 2000, "is not YAML"),
        ("x: " + "9" * 5000, "is not YAML"),
        (BOMB, "expand to too many values"),
        (BOMB + "model: *h\n", "expand to too many values"),
        ("a: &a {x: 1}\nb: {<<: [*a, *a]}\n" * 1, None),
        ("a: &a [*a]", "expand to too many values"),
        ("seed: 1\nforget: x\nseed: 2\n", "line 3: seed is given twice"),
        ("x: " + "y" * 300_000, "over 256 kB"),
    ],
)
def test_files_without_settings_are_refused(tmp_path, text, message):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    if message is None:
        assert config.read(file)["b"] == {"x": 1}
        return
    with pytest.raises(InputError, match=message):
        config.read(file)


SIGNS = "x: ![]{}&*<-|>'\"#%@`?,\n\t 0aé\u2028"


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=60)
    | st.text("x: ![]{}&*<-|>'\"#%@`?,\n\t 0aé\u2028", max_size=60).map(str.encode)
)
def test_any_file_is_read_or_refused(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "c.yaml"
    file.write_bytes(content)
    with suppress(InputError):
        config.read(file)


NAMES = [f.name for part in config.PARTS for f in dataclasses.fields(part)]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = SCALARS | st.dates() | st.binary(max_size=3) | st.sampled_from([10**5000, "{", "a" * 300])


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(NAMES),
        VALUES | st.lists(SCALARS, max_size=2) | st.dictionaries(SCALARS, SCALARS, max_size=2),
        max_size=3,
    )
)
def test_any_settings_are_taken_or_refused(content):
    with suppress(InputError):
        config.parse("run", [], content)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(NAMES), st.text(max_size=8) | st.floats().map(str))))
def test_any_flags_are_taken_or_refused(words):
    with suppress(InputError):
        config.parse("run", [f"--{name}={value}" for name, value in words], {})


def test_the_home_folder_is_found_in_every_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    content = {"learn": "~/learn.jsonl", "forget": ["~/a", "b~c"], "model": "~", "shared": "~/s"}
    words = ["--output_dir=~/out", "--keep", "~/keep"]
    parsed, training, _ = config.parse("run", words, content)
    assert parsed.learn == "/home/someone/learn.jsonl"
    assert parsed.forget == ["/home/someone/a", "b~c"]
    assert (parsed.model, parsed.shared) == ("/home/someone", "/home/someone/s")
    assert (training.output_dir, parsed.keep) == ("/home/someone/out", ["/home/someone/keep"])


def test_every_setting_has_a_help_text():
    assert all(field.metadata["help"] for field in dataclasses.fields(config.RunConfig))
