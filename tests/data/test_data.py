"""Reading, checking and splitting data sets, and token ids."""

import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.files import write_lines
from helpers.models import make_tokenizer

from letgo.data.records import Record, fingerprint, read_records
from letgo.data.splits import hold_out, sample, set_names
from letgo.data.tokens import example_ids, prompt_ids
from letgo.errors import InputError

GOOD = [{"prompt": "1 + 1?", "completion": "2"}, {"prompt": 'a "b",\nc', "completion": "007"}]


def formats(folder):
    write_lines(folder / "a.jsonl", GOOD)
    (folder / "b.json").write_text(json.dumps(GOOD))
    (folder / "c.csv").write_text('prompt,completion\n1 + 1?,2\n"a ""b"",\nc",007\n')
    pq.write_table(pa.Table.from_pylist(GOOD), folder / "d.parquet")
    return sorted(folder.iterdir())


def test_every_format_gives_the_same_records(tmp_path):
    for file in formats(tmp_path):
        records = read_records(str(file), "--learn", True)
        assert [(r.prompt, r.completion) for r in records] == [
            (row["prompt"], row["completion"]) for row in GOOD
        ]
        assert str(file) in records[1].where
    assert len(read_records(str(tmp_path), "--learn", True)) == 8  # the folder
    assert len(read_records(f"file://{tmp_path}/a.jsonl", "--learn", True)) == 2


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{not json", r"line 2 is not JSON"),
        ("[1, 2]", r"line 2: not a record"),
        ('{"completion": "x"}', r"line 2: no 'prompt' \(found: completion\)"),
        ('{"prompt": "x"}', r"line 2: no 'completion'"),
        ('{"prompt": 3, "completion": "x"}', r"line 2: 'prompt' is not a string but int"),
        ('{"prompt": "x", "completion": ["y"]}', r"line 2: 'completion' is not a string but list"),
        ('{"prompt": " ", "completion": "x"}', r"line 2: the prompt is empty"),
        ('{"prompt": "x", "completion": ""}', r"line 2: the completion is empty"),
        ('{"prompt": "\\ud800", "completion": "x"}', r"line 2: .* not valid text"),
        ("\udcff", r"line 2 is not JSON"),
    ],
)
def test_a_bad_record_is_named_by_flag_file_and_line(tmp_path, line, complaint):
    file = tmp_path / "bad.jsonl"
    text = json.dumps(GOOD[0]) + "\n" + line + "\n"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=f"^--learn: .*bad.jsonl {complaint}"):
        read_records(str(file), "--learn", True)


def test_missing_and_empty_sources(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.txt").write_text("x")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 torn")
    for source, complaint in [
        ("empty.jsonl", "is empty"),
        ("none.jsonl", "there is no file"),
        ("folder", "no .jsonl"),
        ("text.txt", "is not one of"),
        ("torn.parquet", "cannot read"),
    ]:
        with pytest.raises(InputError, match=complaint):
            read_records(str(tmp_path / source), "--forget", False)


def test_forgetting_sets_need_no_completion(tmp_path):
    file = write_lines(tmp_path / "p.jsonl", [{"prompt": "x"}, {"prompt": "y", "completion": "z"}])
    assert [r.completion for r in read_records(str(file), "--forget", False)] == [None, "z"]


def test_names_of_forgetting_sets():
    sources = [
        "d/dental/train.jsonl",
        "x/qasc.jsonl",
        "y/dental/test.jsonl",
        "a/b:test",
        "train.csv",
    ]
    assert set_names(sources) == ["dental", "qasc", "dental-2", "b-test", "train"]
    assert set_names(["a-2.jsonl", "a.jsonl", "a.csv", "a.json"]) == ["a-2", "a", "a-3", "a-4"]


def test_held_out_prompts_are_never_trained_on():
    rng = random.Random(0)
    records = [Record(str(i), f"p{rng.randint(0, 60)}", "c", "") for i in range(100)]
    learn, test = hold_out(records, seed=1)
    assert sorted(learn + test) == sorted(records)
    assert not {r.prompt for r in learn} & {r.prompt for r in test}
    assert len({r.prompt for r in test}) == len({r.prompt for r in records}) // 10
    assert hold_out(records, seed=1) == (learn, test)
    assert hold_out(records, seed=2) != (learn, test)


def test_samples_are_seeded_and_keep_their_order():
    records = [Record(f"{i:03}", "p", "c", "") for i in range(50)]
    some = sample(records, 7, seed=3)
    assert some == sorted(some) == sample(records, 7, seed=3)
    assert sample(records, 80, 0) == sample(records, None, 0) == records


def test_fingerprints_follow_the_content_only():
    a, b = Record("1", "p", "c", "x line 1"), Record("9", "p", "c", "y line 7")
    assert fingerprint([a]) == fingerprint([b])
    assert fingerprint([a]) != fingerprint([a._replace(completion=None)])


@pytest.mark.parametrize("chat", [True, False])
def test_token_ids_of_prompt_and_completion(chat):
    tokenizer = make_tokenizer(chat)
    before = prompt_ids(tokenizer, "what is one")
    prompt, completion = example_ids(tokenizer, "what is one", " two")
    assert prompt == before  # the same prompt in training and in generation
    answer = tokenizer.decode(completion)
    assert answer == ("two<|end|>" if chat else " two<|end|>")
    whole = tokenizer.decode([*prompt, *completion])
    assert whole == (
        "<|user|>what is one<|end|><|assistant|>two<|end|>" if chat else "what is one two<|end|>"
    )


def test_a_token_across_the_border_belongs_to_the_completion():
    tokenizer = make_tokenizer(chat=False)
    prompt, completion = example_ids(tokenizer, "wh", "at is")
    assert tokenizer.decode([*prompt, *completion]) == "what is<|end|>"
    assert completion
    assert "what"[len(tokenizer.decode(prompt)) :] in tokenizer.decode(completion)
