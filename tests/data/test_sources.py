"""Data sources as people have them: folders of splits, exports, odd and damaged files."""

import bz2
import gzip
import json
from contextlib import suppress
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from helpers.files import write_lines
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from letgo.data.records import read_records
from letgo.data.splits import set_names
from letgo.errors import InputError

ROWS = [{"prompt": f"{n} + 1?", "completion": str(n + 1)} for n in range(4)]


def prompts(source, **options):
    return [r.prompt for r in read_records(str(source), "--learn", True, **options)]


def refused(source, complaint, completion=True):
    with pytest.raises(InputError, match=complaint) as caught:
        read_records(str(source), "--learn", completion)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("train", "other"),
    [
        ("train.jsonl", "test.jsonl"),
        ("train.jsonl", "more.jsonl"),
        ("xquad.en.train.jsonl", "xquad.en.validation.jsonl"),
        ("train-00000-of-00001.jsonl", "val-00000-of-00001.jsonl"),
        ("training_set.jsonl", "dev_set.jsonl"),
        ("trainset2.jsonl", "sums-testset.jsonl"),
    ],
)
def test_of_a_folder_of_splits_only_the_training_split_is_read(tmp_path, caplog, train, other):
    write_lines(tmp_path / train, ROWS[:1])
    write_lines(tmp_path / other, ROWS[1:])
    assert prompts(tmp_path) == ["0 + 1?"]
    assert f"only {train} is read, and not {other}" in caplog.text


def test_a_folder_of_other_splits_is_refused_by_name(tmp_path):
    write_lines(tmp_path / "test.jsonl", ROWS)
    assert len(prompts(tmp_path)) == 4  # one split is no choice
    write_lines(tmp_path / "valid.jsonl", ROWS)
    refused(tmp_path, "none is named train: test.jsonl, valid.jsonl; name the one to read")


def test_shards_and_sets_without_splits_are_read_together(tmp_path):
    for name in ("a.jsonl", "latest.jsonl", "dataset.jsonl"):
        write_lines(tmp_path / name, ROWS)
    assert len(prompts(tmp_path)) == 12


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    for name in (".train.jsonl", "._train.jsonl", "~$train.csv"):
        (tmp_path / name).write_bytes(b"\0\1")
    (tmp_path / "x.parquet").mkdir()
    refused(tmp_path, "no .jsonl, .json, .csv, .tsv, .parquet, .arrow file in the folder")
    write_lines(tmp_path / "train.jsonl", ROWS)
    assert len(prompts(tmp_path)) == 4


@pytest.mark.parametrize("compression", ["gz", "bz2", "zst"])
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv", "parquet", "arrow"])
def test_compressed_files_are_read(tmp_path, suffix, compression):
    table, sink = pa.Table.from_pylist(ROWS), pa.BufferOutputStream()
    if suffix == "parquet":
        pq.write_table(table, sink)
    elif suffix == "arrow":
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    elif suffix.startswith("json"):
        lines = [json.dumps(row) for row in ROWS]
        sink.write("\n".join(lines).encode() if suffix == "jsonl" else json.dumps(ROWS).encode())
    else:
        comma = "," if suffix == "csv" else "\t"
        lines = [comma.join(row.values()) for row in [{k: k for k in ROWS[0]}, *ROWS]]
        sink.write("\n".join(lines).encode())
    content = sink.getvalue().to_pybytes()
    packed = {"gz": gzip.compress, "bz2": bz2.compress}.get(compression, zstd)(content)
    file = tmp_path / f"sums.{suffix}.{compression}"
    file.write_bytes(packed)
    assert prompts(file) == prompts(tmp_path) == [row["prompt"] for row in ROWS]
    assert set_names([str(file)]) == ["sums"]
    file.write_bytes(packed[: len(packed) // 2])
    refused(file, "--learn: .*sums")


def zstd(content):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def test_each_flag_reads_its_split(tmp_path, caplog):
    for number, split in enumerate(("train", "test", "validation")):
        write_lines(tmp_path / "a" / split / "part-0.jsonl", ROWS[number : number + 1])
        write_lines(tmp_path / "b" / "data" / f"{split}-00000.jsonl", ROWS[number : number + 1])
    for folder in (tmp_path / "a", tmp_path / "b"):
        found = {
            flag: [r.prompt for r in read_records(str(folder), flag, True)]
            for flag in ("--learn", "--forget", "--learn_test", "--learn_validation")
        }
        assert [*found.values()] == [["0 + 1?"], ["0 + 1?"], ["1 + 1?"], ["2 + 1?"]]
        assert f"--learn_test {folder} reads its test split" in caplog.text


def test_saved_data_sets_are_loaded(tmp_path, caplog):
    rows = Dataset.from_list([{**row, "when": date(2020, 1, 1)} for row in ROWS])
    rows.save_to_disk(tmp_path / "one")
    assert len(prompts(tmp_path / "one")) == 4
    shuffled = rows.select([3, 1]).with_format("numpy")
    DatasetDict({"train": shuffled, "test": rows}).save_to_disk(tmp_path / "two")
    assert prompts(tmp_path / "two") == ["3 + 1?", "1 + 1?"]
    assert "only train is read, and not test" in caplog.text
    DatasetDict({"train_a": rows, "train_b": rows}).save_to_disk(tmp_path / "three")
    refused(tmp_path / "three", "none is named train: train_a, train_b")
    (tmp_path / "one" / "state.json").write_text("{")
    refused(tmp_path / "one", "cannot load the saved data set")


def test_data_sets_of_the_hub(monkeypatch):
    rows = Dataset.from_list([{**row, "when": date(2020, 1, 1)} for row in ROWS])
    asked = []

    def load(*names, split, revision, streaming):
        asked.append((*names, split, revision))
        return rows if split else DatasetDict({"train": rows, "test": rows.select([0])})

    monkeypatch.setattr("datasets.load_dataset", load)
    assert len(prompts("me/sums@v2")) == len(prompts("sums:en:test")) == 4
    assert asked == [("me/sums", None, None, "v2"), ("sums", "en", "test", None)]
    assert len(read_records("me/sums", "--learn_test", True)) == 1
    rows = rows.to_iterable_dataset()  # as the hub streams it
    assert len(read_records("sums:test", "--learn", True, most=3)) == 3
    rows = Dataset.from_list(list(rows))
    rows = rows.rename_column("completion", "answer")
    refused("me/sums", r"me/sums train record 1: no 'completion' \(found: prompt, answer, when\)")


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.csv", "prompt,completion,completion\nx,y,z\n", "has 2 columns 'completion'; keep one"),
        ("a.csv", "prompt,prompt\nx,y\n", "has 2 columns 'prompt'"),
        ("a.csv", "question,answer\nx,y\n", r"none of 'prompt', .* \(found: question, answer\)"),
        ("a.csv", "prompt,answer\nx,y\n", r"no 'completion' \(found: prompt, answer\)"),
        ("a.csv", b"prompt,completion\n\xe9,y\n", "it is not UTF-8 text; save it as UTF-8"),
        ("a.csv", 'prompt,completion\n"x,y\nz,u\n', "in quotation marks"),
        ("a.csv", "prompt,completion\nx,y\n".encode("utf-16"), "it is not UTF-8 text"),
        ("a.jsonl", '{\n"prompt": "x"}', "line 1 is not JSON that can be read: see column 2"),
        ("a.jsonl", '{"prompt": "x", "prompt": "y"}', "line 1 has 'prompt' more than once"),
        ("a.jsonl", '{"prompt": "x", "completion": null}', r"no 'completion' \(found: null\)"),
        ("a.jsonl", "[" * 100_000, "line 1 is not JSON that can be read: it is nested too deeply"),
        ("a.jsonl", '{"n": ' + "9" * 5000 + "}", "a number has too many digits"),
        ("a.jsonl", b'{"prompt": "\xe9"}', "it is not UTF-8 text"),
        ("a.jsonl", '{"prompt": "x"}'.encode("utf-16"), "it is not UTF-8 text"),
        ("a.jsonl", '{"\x1b]0;pwned\x07\u202e\n": 1}', "not JSON"),
        ("a.jsonl", '{"\\u001b]0;pwned\\u0007\\n": 1}', r"found: \\x1b\]0;pwned\\x07\\n\)"),
        ("a.json", '{"data": [\n{"prompt": "x"}]}', "record 1: no 'completion'"),
        ("a.json", '"x"', "is JSON, but no list of records"),
        ("a.json", "3\n", "is JSON, but no list of records"),
        ("a.json", '[{"prompt": "x",\n}]', "a.json is not JSON that can be read: see line 2"),
        ("a.json", '{"prompt": "x", "completion": "y"}\n{', "line 2 is not JSON"),
    ],
)
def test_an_odd_file_is_refused_in_plain_words(tmp_path, name, content, complaint):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(tmp_path / name, complaint)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
def test_a_byte_order_mark_is_no_text(tmp_path, suffix):
    text = {
        "jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
        "json": json.dumps(ROWS, indent=1),
        "csv": "prompt,completion\n" + "".join(",".join(row.values()) + "\n" for row in ROWS),
    }[suffix]
    file = tmp_path / f"a.{suffix}"
    file.write_text(text, encoding="utf-8-sig")
    assert len(prompts(file)) == 4
    if suffix == "jsonl":
        file.write_text("\ufeff" + text + "\ufeff" + text, encoding="utf-8")  # two files joined
        assert len(prompts(file)) == 8


def test_a_json_file_of_one_record_or_of_lines(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(ROWS[0], indent=1))
    (tmp_path / "b.json").write_text("\n".join(map(json.dumps, ROWS)))
    assert (len(prompts(tmp_path / "a.json")), len(prompts(tmp_path / "b.json"))) == (1, 4)


def test_a_long_cell_is_read(tmp_path):
    (tmp_path / "a.csv").write_text('prompt,completion\n"' + "x\n" * 1_000_000 + '",y\nz,u\n')
    assert [len(prompt) for prompt in prompts(tmp_path / "a.csv")] == [2_000_000, 1]


@pytest.mark.parametrize(
    "kind", [pa.timestamp("us"), pa.date32(), pa.date64(), pa.duration("s"), pa.int64()]
)
def test_columns_that_are_not_used_are_not_read(tmp_path, kind):
    far = pa.array([1 << 30 if kind == pa.date32() else 1 << 60] * 4).cast(
        pa.int32() if kind == pa.date32() else pa.int64()
    )
    columns = pa.Table.from_pylist(ROWS).append_column("when", far.view(kind))
    pq.write_table(columns, tmp_path / "a.parquet")
    assert len(prompts(tmp_path / "a.parquet")) == 4
    columns = columns.set_column(0, "prompt", columns["when"])
    pq.write_table(columns, tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", "record 1: 'prompt' is not a string but")
    pq.write_table(
        columns.rename_columns(["completion", "prompt", "prompt"]), tmp_path / "a.parquet"
    )
    refused(tmp_path / "a.parquet", "has 2 columns 'prompt'")


def test_tables_with_other_kinds_of_text(tmp_path):
    table = pa.Table.from_pylist(ROWS)
    for kind in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
        column = table["prompt"].cast(pa.string()).combine_chunks()
        column = column.dictionary_encode() if pa.types.is_dictionary(kind) else column.cast(kind)
        pq.write_table(table.set_column(0, "prompt", column), tmp_path / "a.parquet")
        assert len(prompts(tmp_path / "a.parquet")) == 4
    empty = table.set_column(1, "completion", pa.nulls(4, pa.int64()))
    pq.write_table(empty, tmp_path / "a.parquet")
    found = read_records(str(tmp_path / "a.parquet"), "--forget", False)
    assert [r.completion for r in found] == [None] * 4
    pq.write_table(pa.table({"text": ["x"], "n": [1]}), tmp_path / "a.parquet")
    assert [r.completion for r in read_records(str(tmp_path), "--keep", False, True)] == ["x"]


def test_a_small_file_of_many_rows_is_refused_at_once(tmp_path):
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 10_000_001, pa.int8()), ["x"])
    pq.write_table(pa.table({"prompt": column}), tmp_path / "a.parquet")
    refused(tmp_path, "has 10,000,001 rows")
    pq.write_table(pa.table({"prompt": [["x"] * 100]}), tmp_path / "a.parquet")
    refused(tmp_path, "'prompt' is not a string but list")


@pytest.mark.parametrize(
    "name", ["a" * 300, "a" * 300 + ".jsonl", "é" * 150, "a\0b", "x/\0.csv", ""]
)
def test_names_that_no_file_can_have(name):
    refused(name, "cannot read|is not the name of a data set")


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    def forbidden(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.iterdir", forbidden)
    refused(tmp_path, "--learn: cannot read .*: Permission denied$")


FUZZ = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NAMES = "prompt completion text messages conversations instruction chosen rejected tools history x"
FIELD = st.sampled_from(NAMES.split())
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool"]) | JSON},
    optional={"content": st.text() | JSON, "tool_calls": JSON, "function_call": JSON},
)
VALUE = JSON | st.text(min_size=1) | st.lists(MESSAGE, max_size=3)


def reads_or_refuses(file):
    for completion in (True, False):
        with suppress(InputError):
            assert read_records(str(file), "--learn", completion, texts=not completion)


@FUZZ
@given(st.sampled_from(["jsonl", "json", "csv", "parquet"]), st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(tmp_path, suffix, content):
    (tmp_path / f"a.{suffix}").write_bytes(content)
    reads_or_refuses(tmp_path / f"a.{suffix}")


@FUZZ
@given(st.lists(JSON | st.dictionaries(FIELD, VALUE), max_size=4))
def test_any_rows_are_read_or_refused(tmp_path, rows):
    write_lines(tmp_path / "a.jsonl", rows)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    for name in ("a.jsonl", "a.json"):
        reads_or_refuses(tmp_path / name)


@FUZZ
@given(st.data())
def test_a_damaged_table_is_read_or_refused(tmp_path, data):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "a.parquet").write_bytes(content)
    reads_or_refuses(tmp_path / "a.parquet")


@FUZZ
@given(st.text(max_size=300))
def test_any_name_is_read_or_refused(name):
    for source in (f"./{name}", f"{name}.jsonl", f"{name}://x.csv"):
        reads_or_refuses(source)
