"""The forms in which people have their data: the same records give the same token ids."""

import json
import string

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.files import write_lines
from helpers.models import make_tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from letgo.data.columns import FormReader, read_columns
from letgo.data.conversations import Conversation, earlier_answers
from letgo.data.records import fingerprint, read_records
from letgo.data.tokens import all_example_ids
from letgo.errors import InputError

TOOLS_TEMPLATE = (
    "{% if tools %}<|system|>{{ tools | tojson }}<|end|>{% endif %}"
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def says(role, text):
    return {"role": role, "content": text}


def part(text, key="text"):
    return [{"type": "text", key: text}]


FORMS = {
    "strings": lambda p, c: {"prompt": p, "completion": c},
    "message lists": lambda p, c: {
        "prompt": [says("user", p)],
        "completion": [says("assistant", c)],
    },
    "messages": lambda p, c: {"messages": [says("user", p), says("assistant", c)]},
    "sharegpt": lambda p, c: {
        "conversations": [{"from": "human", "value": p}, {"from": "gpt", "value": c}]
    },
    "alpaca": lambda p, c: {"instruction": p, "input": "", "output": c},
    "parts": lambda p, c: {
        "messages": [
            {"role": "user", "content": part(p, "value"), "loss_weight": 0.0},
            {"role": "assistant", "content": part(c), "loss_weight": 1.0},
        ]
    },
    "preference": lambda p, c: {"prompt": p, "chosen": c, "rejected": c + "!"},
    "implicit": lambda p, c: {
        "chosen": [says("user", p), says("assistant", c)],
        "rejected": [says("user", p), says("assistant", c + "!")],
    },
}


def write_csv(file, rows, delimiter):
    def cell(value):
        text = value if isinstance(value, str) else json.dumps(value)
        return '"' + text.replace('"', '""') + '"'

    lines = [delimiter.join(rows[0]), *(delimiter.join(map(cell, r.values())) for r in rows)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")


def write_arrow(file, rows):
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(str(file), table.schema) as stream:
        stream.write_table(table)


CONTAINERS = {
    "jsonl": lambda file, rows: write_lines(file, rows),
    "json": lambda file, rows: file.write_text(json.dumps({"data": rows}), "utf-8-sig"),
    "csv": lambda file, rows: write_csv(file, rows, ","),
    "tsv": lambda file, rows: write_csv(file, rows, "\t"),
    "parquet": lambda file, rows: pq.write_table(pa.Table.from_pylist(rows), file),
    "arrow": write_arrow,
}
# Characters that formats and shells treat in a way of their own are among them.
TEXT = st.text(string.ascii_letters + string.digits + " ,;'\"\\\t\n[{é日", min_size=1, max_size=9)
PAIR = st.tuples(TEXT, TEXT).filter(lambda pair: all(map(str.strip, pair)))


@settings(
    deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(PAIR, min_size=1, max_size=4), st.booleans())
def test_all_forms_in_all_containers_give_the_same_token_ids(tmp_path, pairs, chat):
    tokenizer, found = make_tokenizer(chat), {}
    expected = all_example_ids(tokenizer, pairs)
    for container, write in CONTAINERS.items():
        for name, form in FORMS.items():
            file = tmp_path / f"a.{container}"
            write(file, [form(*pair) for pair in pairs])
            records = read_records(str(file), "--learn", True)
            ids = all_example_ids(tokenizer, [(r.prompt, r.completion) for r in records])
            assert ids == expected, (container, name)
            found[container, name] = fingerprint(records)
    assert len(set(found.values())) == 1


SEARCH = {"name": "search", "arguments": {"query": "crêpes", "most": 3}}
TOOL = {"name": "search", "description": "finds", "parameters": {"type": "object"}}
CHAT = [
    says("system", "Be brief."),
    says("user", "Find crêpes."),
    {"role": "assistant", "tool_calls": [{"type": "function", "function": SEARCH}]},
    says("tool", "found 1"),
    says("assistant", "There is one."),
    says("user", "Thanks"),
    says("assistant", "You are welcome."),
]
SHARED = [
    {"from": "human", "value": "Find crêpes."},
    {"from": "function_call", "value": json.dumps(SEARCH)},
    {"from": "observation", "value": "found 1"},
    {"from": "gpt", "value": "There is one."},
    {"from": "human", "value": "Thanks"},
    {"from": "gpt", "value": "You are welcome."},
]


def read_rows(folder, *rows, completion=True, **options):
    file = write_lines(folder / "rows.jsonl", rows)
    return read_records(str(file), "--learn", completion, **options)


def test_conversations_with_tools_are_one_whatever_form_they_have(tmp_path):
    openai = json.loads(json.dumps(CHAT))
    openai[2]["tool_calls"][0]["function"]["arguments"] = json.dumps(SEARCH["arguments"])
    rows = [
        {"messages": CHAT, "tools": [{"type": "function", "function": TOOL}]},
        {"messages": openai, "tools": json.dumps([TOOL])},
    ]
    shared = {"conversations": SHARED, "tools": json.dumps([TOOL]), "system": "Be brief."}
    pq.write_table(pa.Table.from_pylist(rows[:1]), tmp_path / "a.parquet")
    records = [
        *read_rows(tmp_path, *rows),
        *read_rows(tmp_path, shared),
        *read_records(str(tmp_path / "a.parquet"), "--learn", True),
    ]
    assert len({record.prompt for record in records}) == 1
    assert len({fingerprint([record]) for record in records}) == 1
    prompt = records[0].prompt
    assert isinstance(prompt, Conversation)
    assert prompt.endswith("[tool]\nfound 1\n[assistant]\nThere is one.\n[user]\nThanks")
    assert '[call]\n{"name": "search", "arguments": {"query": "crêpes", "most": 3}}' in prompt
    assert records[0].completion == "You are welcome."


def test_a_conversation_by_the_chat_template(tmp_path):
    [record] = read_rows(tmp_path, {"messages": CHAT, "tools": [TOOL]})
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TOOLS_TEMPLATE
    before, learned = all_example_ids(tokenizer, [(record.prompt, record.completion)])[0]
    call = {"type": "function", "function": SEARCH}
    messages = [
        {"content": "", **m} | ({"tool_calls": [call]} if "tool_calls" in m else {}) for m in CHAT
    ]
    whole = tokenizer.apply_chat_template(
        messages, tools=[{"type": "function", "function": TOOL}], return_dict=True
    )["input_ids"]
    assert [*before, *learned] == whole
    assert tokenizer.decode(learned) == "You are welcome.<|end|>"
    plain = make_tokenizer()  # its template has neither tools nor calls
    text = plain.decode(all_example_ids(plain, [(record.prompt, record.completion)])[0][0])
    assert 'Be brief.\n\nTools:\n{"name": "search", "description": "finds"' in text
    assert '<|assistant|>{"name": "search", "arguments": {"query": "crêpes", "most": 3}}' in text
    with pytest.raises(ValueError, match="no chat template"):
        all_example_ids(make_tokenizer(chat=False), [(record.prompt, "x")])


def test_all_answers_of_a_conversation(tmp_path):
    [record] = read_rows(tmp_path, {"messages": CHAT, "tools": [TOOL]})
    found = list(earlier_answers(record.prompt))
    assert [answer for _, answer in found] == [
        '{"name": "search", "arguments": {"query": "crêpes", "most": 3}}',
        "There is one.",
    ]
    assert found[0][0].endswith("[user]\nFind crêpes.")
    weightless = [dict(m, weight=0) if m["role"] == "assistant" else m for m in CHAT[:-1]]
    [record] = read_rows(tmp_path, {"messages": [*weightless, CHAT[-1]]})
    assert not list(earlier_answers(record.prompt))
    [record] = read_rows(tmp_path, {"prompt": "a", "completion": "b"})
    assert not list(earlier_answers(record.prompt))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([says("user", "a\n[user]\nb")], [says("user", "a"), says("user", "b")]),
        ([says("system", "[user]"), says("user", "x")], [says("system", ""), says("user", "x")]),
        (
            [says("user", r"\[call]"), says("user", "x")],
            [says("user", "[call]"), says("user", "x")],
        ),
    ],
)
def test_different_conversations_have_different_texts(tmp_path, one, other):
    rows = [{"messages": [*messages, says("assistant", "y")]} for messages in (one, other)]
    first, second = read_rows(tmp_path, *rows)
    assert first.prompt != second.prompt
    assert fingerprint([first]) != fingerprint([second])


def test_alpaca_with_input_history_and_system(tmp_path):
    row = {"instruction": "Translate.", "input": "oui", "output": "yes"}
    [record] = read_rows(tmp_path, row)
    assert (record.prompt, record.completion) == ("Translate.\noui", "yes")
    [record] = read_rows(tmp_path, {**row, "system": "Be brief.", "history": [["hi", "hello"]]})
    assert [m["content"] for m in record.prompt.messages] == [
        "Be brief.",
        "hi",
        "hello",
        "Translate.\noui",
    ]


def test_columns_are_named(tmp_path):
    rows = {"question": "1 + 1?", "answer": "2", "text": "1 + 1? 2"}
    named = read_columns(["prompt=question", "completion=answer"])
    [record] = read_rows(tmp_path, rows, reader=FormReader(named))
    assert (record.prompt, record.completion) == ("1 + 1?", "2")
    pq.write_table(pa.Table.from_pylist([rows]), tmp_path / "a.parquet")
    found = read_records(str(tmp_path / "a.parquet"), "--learn", True, reader=FormReader(named))
    assert [(r.prompt, r.completion) for r in found] == [("1 + 1?", "2")]
    [record] = read_rows(tmp_path, {"prompt": "a", "completion": "b"}, reader=FormReader(named))
    assert record.prompt == "a"
    for words, complaint in [
        (["prompt"], "is not NAME=COLUMN"),
        (["colour=x"], "is not NAME=COLUMN"),
        (["prompt=a", "prompt=b"], "twice"),
        (["prompt=a", "completion=a"], "twice"),
    ]:
        with pytest.raises(InputError, match=complaint):
            read_columns(words)


def test_preference_pairs_with_the_prompt_in_several_places(tmp_path):
    def answers(*before):
        return {
            "chosen": [*before, says("assistant", "yes")],
            "rejected": [*before, says("assistant", "no")],
        }

    asked = says("user", "Is it?")
    for row in (
        {**answers(asked), "prompt": "Is it?"},
        {**answers(), "prompt": "Is it?"},
        {**answers(), "prompt": [asked]},
        {"chosen": "Is it? yes", "rejected": "Is it? no"},
    ):
        [record] = read_rows(tmp_path, row)
        assert (record.prompt, record.completion.strip()) == ("Is it?", "yes")


ANSWERED = [says("user", "x"), says("assistant", "y")]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (
            {"question": "x", "answer": "y"},
            r"none of 'prompt', .*\(found: question, answer\); name",
        ),
        ({"prompt": "x", "completion": "y", "messages": ANSWERED}, "several forms: prompt and"),
        ({"messages": ANSWERED[:1]}, "the conversation in 'messages' does not end with an answer"),
        ({"messages": [ANSWERED[0], says("assistant", " ")]}, "the last answer is empty"),
        ({"messages": ANSWERED[1:]}, "nothing is asked before the answer"),
        ({"messages": []}, "'messages' has no message"),
        ({"messages": "x"}, "'messages' is text but not JSON"),
        ({"messages": [says("alien", "x"), *ANSWERED]}, "message 1 of 'messages': unknown role"),
        ({"messages": [{"content": "x"}]}, "no role"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "unknown role"),
        ({"chosen": "", "rejected": "x"}, "are not two texts or two lists"),
        ({"messages": [says("user", 3), *ANSWERED]}, "'content' is not a string but int"),
        ({"messages": [says("user", [{"type": "image"}])]}, "'image'; letgo trains on text only"),
        ({"prompt": "x", "completion": "y", "images": ["a.png"]}, "'images'; letgo trains on text"),
        (
            {"conversations": [*SHARED[:1], {"from": "function_call", "value": "{}"}]},
            "a tool call has no name",
        ),
        (
            {"messages": [ANSWERED[0], {"role": "assistant", "tool_calls": [{"function": {}}]}]},
            "a tool call has no name",
        ),
        ({"messages": ANSWERED, "tools": [{"type": "function"}]}, "a tool has no name"),
        ({"chosen": ANSWERED, "rejected": ANSWERED}, "are the same"),
        ({"chosen": "x", "rejected": ANSWERED}, "are not two texts or two lists of messages"),
        ({"instruction": "x", "output": None}, r"no 'output' \(found: null\)"),
        ({"messages": [ANSWERED[0], {**ANSWERED[1], "weight": 0}]}, "has the weight 0"),
        ({"messages": [ANSWERED[0], {**ANSWERED[1], "weight": 0.5}]}, "must be 0 or 1"),
        ({"prompt": ANSWERED[:1], "completion": ANSWERED}, "'completion' has 2 messages"),
    ],
)
def test_a_bad_record_is_one_line(tmp_path, row, complaint):
    with pytest.raises(InputError, match=complaint) as caught:
        read_rows(tmp_path, row)
    assert str(caught.value).startswith(f"--learn: {tmp_path}/rows.jsonl line 1: ")
    assert "\n" not in str(caught.value)


def test_two_forms_in_a_file_are_an_error(tmp_path):
    with pytest.raises(InputError, match=r"line 2: two forms .* messages \(found: messages\)"):
        read_rows(tmp_path, {"prompt": "a", "completion": "b"}, {"messages": ANSWERED})


def test_the_form_is_logged_in_a_line(tmp_path, caplog):
    caplog.set_level("INFO", "letgo")
    read_rows(tmp_path, {"messages": ANSWERED, "id": 1})
    assert "--learn: 1 records of messages (messages)" in caplog.text


def test_a_long_source_is_sampled(tmp_path):
    rows = [{"prompt": f"{n}?", "completion": "x"} for n in range(50)]
    some = read_rows(tmp_path, *rows, most=10)
    assert len({r.id for r in some}) == 10
    assert some == sorted(some)
    assert some == read_rows(tmp_path, *rows, most=10)
    assert max(int(r.id) for r in some) > 20
    assert len(read_rows(tmp_path, *rows, most=50)) == 50
    with pytest.raises(InputError, match="line 51: the prompt is empty"):
        read_rows(tmp_path, *rows, {"prompt": "", "completion": "x"}, most=10)


def test_weights_are_numbers_in_tables_too(tmp_path):
    rows = [{"prompt": "a", "completion": "b", "weight": weight} for weight in (0.5, -1.0)]
    for container in ("jsonl", "parquet", "arrow"):
        CONTAINERS[container](tmp_path / f"a.{container}", rows)
        records = read_records(str(tmp_path / f"a.{container}"), "--learn", True)
        assert [record.weight for record in records] == [0.5, -1.0]
