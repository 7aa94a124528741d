"""What the model sees of the data: refused or mended before anything is trained."""

import json
import logging
import shutil
import time

import pytest
from helpers.commands import flags, letgo
from helpers.files import write_lines
from helpers.models import CHAT_TEMPLATE, make_model, make_tokenizer
from tokenizers import normalizers

from letgo.data.records import Record
from letgo.errors import InputError
from letgo.run import config
from letgo.run.inputs import open_run
from letgo.run.seen import Prompts, contains

TRIM = CHAT_TEMPLATE.replace("m['content']", "m['content'] | trim")
SQUEEZE = CHAT_TEMPLATE.replace("m['content']", "m['content'].split() | join(' ')")
NO_TEXT = CHAT_TEMPLATE.replace("{{ m['content'] }}", "")


def saved(folder, template=CHAT_TEMPLATE, tokenizer=None, vocabulary=None):
    """A model folder whose tokenizer has this chat template."""
    tokenizer = tokenizer or make_tokenizer()
    tokenizer.chat_template = template
    make_model(vocabulary=vocabulary or len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def opened(model, data, out, **changes):
    return open_run(config.parse("run", flags(model, data, out, **changes), {}))


BAD_TEMPLATES = {
    "no text": (NO_TEXT, "the chat template drops text of the prompt"),
    "cut": (CHAT_TEMPLATE.replace("['content']", "['content'][:3]"), "drops text of the prompt"),
    "one text": (
        CHAT_TEMPLATE.replace("{{ m['content'] }}", "{{ m['content'] | replace('+', '') }}"),
        "",
    ),
    "no answer": (
        CHAT_TEMPLATE.replace(
            "{{ m['content'] }}", "{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}"
        ),
        "the chat template drops text of the completion",
    ),
    "thoughts": (
        CHAT_TEMPLATE.replace("['content']", "['content'].split('1')[-1]"),
        "drops text of the",
    ),
    "no stop": (CHAT_TEMPLATE.replace("<|end|>", ""), "would not learn to end its answer"),
    "another stop": (
        CHAT_TEMPLATE.replace("<|end|>", "<|pad|>"),
        "set --eos_token '<|pad|>'",
    ),
    "stop apart": (CHAT_TEMPLATE + "{% if messages[1:] %} <|end|>{% endif %}", "learned 2 times"),
    "raises": ("{{ raise_exception('no roles') }}", "cannot render it (no roles)"),
    "syntax": ("{% for m in messages %}", "cannot render it"),
    "sandbox": ("{{ messages.__class__.__mro__ }}", "cannot render it"),
    "prompt differs": (
        "{% if add_generation_prompt %}<|user|>{% endif %}" + CHAT_TEMPLATE,
        "the prompt would be learned too",
    ),
}


@pytest.mark.parametrize("name", list(BAD_TEMPLATES))
def test_a_template_that_misrenders_is_refused_in_one_line(name, data, tmp_path):
    template, complaint = BAD_TEMPLATES[name]
    model = saved(tmp_path / "model", template)
    if not complaint:  # "1 + 2?" and "1 - 2?" differ, "1 + 2?" and "1 2?" do not
        assert opened(model, data, tmp_path / "out").learn
        return
    with pytest.raises(InputError) as error:
        opened(model, data, tmp_path / "out")
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("--learn: ")
    assert not (tmp_path / "out").exists()


def test_two_prompts_with_the_same_tokens_are_refused(data, tmp_path):
    template = CHAT_TEMPLATE.replace("m['content']", "m['content'] | replace('-', '+')")
    model = saved(tmp_path / "model", template)
    rows = [{"prompt": f"{a} {sign} 2?", "completion": "1"} for a in range(9) for sign in "+-"]
    learn = write_lines(tmp_path / "learn.jsonl", rows)
    with pytest.raises(InputError, match=r"line 2 and .*line 1 are different prompts"):
        opened(model, data, tmp_path / "out", learn=learn)


@pytest.mark.parametrize(("template", "end"), [(TRIM, " "), (TRIM, "\n"), (SQUEEZE, "  ")])
def test_sets_are_kept_apart_by_token_ids(data, tmp_path, caplog, template, end):
    """F11: a template that trims makes equal what differs as text, in every set."""
    logging.getLogger("letgo").propagate = True
    model = saved(tmp_path / "model", template)
    learned = [json.loads(line) for line in (data / "learn.jsonl").open()]

    def changed(name, first, last):
        rows = [{**row, "prompt": f"{row['prompt']}{end}"} for row in learned[first:last]]
        return write_lines(tmp_path / name, rows)

    talk = [{"prompt": f"say {n} words"} for n in range(9)]
    sets = {
        "learn_test": changed("test.jsonl", 0, 4),
        "learn_validation": changed("validation.jsonl", 2, 8),
        "forget": write_lines(
            tmp_path / "forget.jsonl",
            [{"prompt": f"{row['prompt']}{end}"} for row in learned[:3]] + talk,
        ),
        "keep": write_lines(
            tmp_path / "keep.jsonl",
            [{"prompt": f"say {n} words{end}"} for n in range(4)]
            + [{"prompt": f"tell {n} words"} for n in range(9)],
        ),
    }
    run = opened(model, data, tmp_path / "out", forget_max_overlap=0.5, **sets)
    assert [len(part) for part in (run.learn, run.validation, run.test)] == [16, 4, 4]
    parts = [run.learn, run.validation, run.test, *run.held_out.values()]
    parts += [*run.forget.values(), *run.keep.values()]
    seen = [{record.prompt.strip() for record in part} for part in parts]
    assert len(set.union(*seen)) == sum(map(len, seen))
    assert "4 learning examples are also prompts of --learn_test" in caplog.text
    assert "2 validation examples are also test prompts" in caplog.text
    assert "3 prompts of the forgetting set forget are also test prompts" in caplog.text
    assert "4 of 13 prompts are also learning or forgetting prompts" in caplog.text


def test_a_held_out_tenth_is_kept_apart_by_token_ids(data, tmp_path):
    model = saved(tmp_path / "model", TRIM)
    rows = [
        {"prompt": f"{a} + {b}?{' ' * c}", "completion": "1"}
        for a in range(6)
        for b in range(4)
        for c in range(3)
    ]
    learn = write_lines(tmp_path / "learn.jsonl", rows)
    changes = {"learn_test": None, "learn_validation": None}
    run = opened(model, data, tmp_path / "out", learn=learn, **changes)
    parts = [{r.prompt.strip() for r in part} for part in (run.learn, run.validation, run.test)]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 24
    assert len(run.test) == 6  # two prompts, each three times


def test_a_tokenizer_without_case_makes_no_two_prompts(data, tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    model = saved(tmp_path / "model", tokenizer=tokenizer)
    forget = write_lines(
        tmp_path / "f.jsonl", [{"prompt": p} for n in range(5) for p in (f"Say {n}", f"say {n}")]
    )
    run = opened(model, data, tmp_path / "out", forget=forget)
    held = {r.prompt for name, part in run.held_out.items() if "forget" in name for r in part}
    assert held
    assert not held & {record.prompt for record in run.forget["f"]}
    assert not {p.lower() for p in held} & {r.prompt.lower() for r in run.forget["f"]}


@pytest.mark.parametrize(
    ("completion", "complaint"),
    [
        ("1<|end|>", "the completion contains the stop token '<|end|>'"),
        ("1<|end|>2", "the completion contains the stop token '<|end|>'"),
    ],
)
@pytest.mark.parametrize("chat", [True, False])
def test_a_stop_token_in_the_data_is_refused(data, tmp_path, completion, complaint, chat):
    model = saved(tmp_path / "model", CHAT_TEMPLATE if chat else None)
    rows = [{"prompt": f"{n}?", "completion": "1"} for n in range(9)]
    rows[4]["completion"] = completion
    learn = write_lines(tmp_path / "learn.jsonl", rows)
    with pytest.raises(InputError, match=r"learn\.jsonl line 5: ") as error:
        opened(model, data, tmp_path / "out", learn=learn)
    assert complaint in str(error.value)


@pytest.mark.parametrize("folder", [True, False])
def test_of_named_templates_the_default_is_taken(data, tmp_path, folder):
    """F6: transformers has them as a dictionary."""
    model = saved(tmp_path / "model", CHAT_TEMPLATE)
    if folder:
        (model / "additional_chat_templates").mkdir()
        (model / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    else:
        (model / "chat_template.jinja").unlink()
        file = model / "tokenizer_config.json"
        named = [("default", CHAT_TEMPLATE), ("tool_use", "{{ tools }}")]
        templates = [{"name": name, "template": template} for name, template in named]
        content = json.loads(file.read_text()) | {"chat_template": templates}
        file.write_text(json.dumps(content))
    assert opened(model, data, tmp_path / "out").chat_template == CHAT_TEMPLATE


def test_named_templates_without_a_default_need_a_file(data, tmp_path):
    model = saved(tmp_path / "model", {"rag": CHAT_TEMPLATE, "tool_use": CHAT_TEMPLATE})
    with pytest.raises(InputError, match=r"several chat templates \(.*--chat_template_path"):
        opened(model, data, tmp_path / "out")
    file = tmp_path / "own.jinja"
    file.write_text(CHAT_TEMPLATE)
    run = opened(model, data, tmp_path / "out", chat_template_path=file)
    assert run.chat_template == CHAT_TEMPLATE


def test_a_padding_token_without_embedding_is_replaced(data, tmp_path):
    """F7: padding is masked, so another token will do."""
    tokenizer = make_tokenizer()
    size = len(tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    model = saved(tmp_path / "model", tokenizer=tokenizer, vocabulary=size)
    status, _, error = letgo("elicit", *flags(model, data, tmp_path / "out"))
    assert status == 0, error


@pytest.mark.parametrize("where", ["template", "completion", "prompt", "stop"])
def test_a_token_without_embedding_is_refused(data, tmp_path, where):
    tokenizer = make_tokenizer()
    size = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|new|>"]})
    template = CHAT_TEMPLATE
    if where == "template":
        template = CHAT_TEMPLATE.replace("<|user|>", "<|new|>").replace("<|{{", "<|new|>{{")
    if where == "stop":
        tokenizer.eos_token, template = "<|new|>", CHAT_TEMPLATE.replace("<|end|>", "<|new|>")
    rows = [{"prompt": f"{n}?", "completion": "1"} for n in range(9)]
    if where in rows[0]:
        rows[7][where] += "<|new|>"
    learn = write_lines(tmp_path / "learn.jsonl", rows)
    model = saved(tmp_path / "model", template, tokenizer, size)
    with pytest.raises(InputError, match=r"--learn: .*token '<\|new\|>' has the id 288"):
        opened(model, data, tmp_path / "out", learn=learn)


def test_first_examples_are_printed_and_written(finished, tiny, data, tmp_path):
    rows = json.loads((finished / "first_examples.json").read_text())["examples"]
    assert rows[0] == {
        "set": "learn",
        "prompt": "<|user|>0 + 0?<|end|><|assistant|>",
        "learned": "0<|end|>",
    }
    names = ["learn", "learn_validation", "learn_test", "forget letters", "forget talk"]
    assert [row["set"] for row in rows] == [*names, "keep neutral"]
    assert not any(row["learned"] for row in rows[1:])
    page = (finished / "report.html").read_text()
    assert "What the model sees" in page
    assert "&lt;|user|&gt;0 + 0?&lt;|end|&gt;" in page
    shutil.copytree(finished, tmp_path / "out")
    status, _, error = letgo("run", *flags(tiny, data, tmp_path / "out"))
    assert status == 0, error
    assert "  learn: <|user|>0 + 0?<|end|><|assistant|> ==> 0<|end|>\n" in error


def test_checks_are_fast():
    tokenizer = make_tokenizer()
    records = [Record(f"{n}", f"what is the sum {n}? " * 20, f"{n} " * 9, "") for n in range(1000)]
    start = time.process_time()
    prompts = Prompts(tokenizer, 1 << 30, {0})
    prompts.check_answers("--learn", prompts.unified("--learn", records))
    assert time.process_time() - start < 5  # about one second on an idle machine


@pytest.mark.parametrize(
    ("text", "part", "there"),
    [
        ("<|user|>\u00c9t\u00e9 1", "e\u0301te\u0301  1", True),
        ("say 'a \\\"b\\\"'", 'a "b"', True),
        ("1 + 2", "1 + 3", False),
        ("\u4e2d\u6587?", "\u4e2d \u6587", True),
        ("nothing", "\U0001f600", False),
    ],
)
def test_a_text_is_in_another_whatever_its_spaces_case_and_accents(text, part, there):
    assert contains(text, part) is there
