"""Input as nobody should write it: data files, settings, answers, lines of a review's journal."""

import csv
import io
import json
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from hypothesis import strategies as st

from letgo.run import decisions
from letgo.run.config import RunConfig
from letgo.unlearning.config import LWFConfig

# Characters with which readers have trouble: controls, surrogates, marks of order, wide ones.
ODD = "\x00\x1b\x07\x85\u2028\u202e\ufeff\ud800\U0001f600中é\r\n\t\"'{}[],:#&*!|>%@`\\-~$ "
texts = st.text(max_size=40) | st.text(ODD, max_size=12) | st.sampled_from(["", " ", "x" * 300])
words = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12)
numbers = (
    st.integers()
    | st.floats()
    | st.sampled_from([0, -1, 1, 2**31, 2**63, 2**64, 10**400, 1e308, 0.5, float("nan")])
)
scalars = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4)
)


@st.composite
def damaged(draw: st.DrawFn, content: st.SearchStrategy[bytes]) -> bytes:
    """Bytes as they are, cut, with some bytes replaced, or in another encoding."""
    text = draw(content)
    damage = draw(st.sampled_from(["none", "none", "cut", "replace", "recode", "mark"]))
    position = draw(st.integers(0, len(text)))
    if damage == "cut":
        return text[:position]
    if damage == "replace":
        other = draw(st.binary(max_size=16))
        return text[:position] + other + text[position + len(other) :]
    if damage == "recode":
        encoding = draw(st.sampled_from(["utf-16", "utf-32", "latin-1"]))
        return text.decode("utf-8", "replace").encode(encoding, "replace")
    return b"\xef\xbb\xbf" + text if damage == "mark" else text


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


nested = st.integers(1, 3000).map(lambda depth: b"[" * depth) | st.integers(1, 3000).map(
    lambda depth: b'{"a":' * depth + b"1" + b"}" * depth
)
json_texts = (
    values.map(_json)
    | nested
    | st.sampled_from([b"NaN", b"1e999", b"-Infinity", b'"\\ud800"', b"9" * 5000, b"{}", b"[]"])
)

fields = st.sampled_from(["prompt", "completion", "text", "id", "messages", "Prompt"]) | texts
rows = st.fixed_dictionaries({"prompt": texts, "completion": texts}) | st.dictionaries(
    fields, values, max_size=4
)
json_lines = st.lists(rows.map(_json) | json_texts, max_size=4).map(b"\n".join)
json_files = st.lists(rows | values, max_size=4).map(_json) | json_texts | json_lines


@st.composite
def csv_files(draw: st.DrawFn) -> bytes:
    """Header and rows, not always of the same length."""
    names = draw(st.lists(fields, min_size=1, max_size=4))
    table = draw(st.lists(st.lists(texts, max_size=5), max_size=4))
    text = io.StringIO()
    csv.writer(text, delimiter=draw(st.sampled_from(",;\t"))).writerows([names, *table])
    return text.getvalue().encode("utf-8", "surrogatepass")


TYPES = [
    *map(pa.timestamp, ("s", "ms", "us", "ns")),
    *(pa.timestamp("us", "Asia/Nowhere"), pa.time32("s"), pa.time64("ns"), pa.duration("us")),
    *(pa.date32(), pa.date64(), pa.decimal128(38, 2), pa.uint64(), pa.float16(), pa.bool_()),
]


def _column(kind: pa.DataType, numbers: list[int]) -> pa.Array:
    """A column with these bits as its values, whatever they mean."""
    width = max(8, kind.bit_width) // 8
    bits = b"".join((n % 2 ** (8 * width)).to_bytes(width, "little") for n in numbers)
    return pa.Array.from_buffers(kind, len(numbers), [None, pa.py_buffer(bits)])


@st.composite
def parquet_files(draw: st.DrawFn) -> bytes:
    """Tables with columns of all types."""
    count = draw(st.integers(0, 3))
    columns: dict[str, object] = {}
    for name in draw(st.lists(fields, min_size=1, max_size=4)):
        name = name.encode("utf-8", "replace").decode()
        kind = draw(st.sampled_from(TYPES))
        bits = st.lists(st.integers(0, 2**128), min_size=count, max_size=count)
        text = st.text(max_size=9) | st.binary(max_size=9) | st.none()
        columns[name] = draw(
            bits.map(lambda n, kind=kind: _column(kind, n))
            | st.lists(st.text(max_size=9), min_size=count, max_size=count).map(pa.array)
            | st.lists(text, min_size=count, max_size=count).map(_binary)
        )
    stream = io.BytesIO()
    try:
        pq.write_table(pa.table(columns), stream)
    except (pa.ArrowException, ValueError):  # a type that Parquet does not have
        return b"PAR1"
    return stream.getvalue()


def _binary(cells: list[str | bytes | None]) -> pa.Array:
    return pa.array([c.encode() if isinstance(c, str) else c for c in cells], pa.binary())


FILES = {
    ".jsonl": json_lines,
    ".json": json_files,
    ".csv": csv_files(),
    ".parquet": parquet_files(),
}


@st.composite
def data_files(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file of records: its ending, which may be that of another format, and its content."""
    content = draw(damaged(draw(st.sampled_from([*FILES.values(), st.binary()]))))
    return draw(st.sampled_from([*FILES])), content


# Names of data sets that lead to no file; none of them reaches the network.
sources = (
    st.tuples(texts, st.sampled_from([*FILES, "", "/", ":x:y"])).map("".join)
    | st.tuples(
        st.sampled_from(["x", "file", "memory", "zip", "zip://a.csv::file", "data", "reference"]),
        texts,
        st.sampled_from([*FILES]),
    ).map(lambda parts: f"{parts[0]}://{parts[1]}{parts[2]}")
).filter(lambda name: name.endswith(tuple(FILES)) or len(name) > 255 or "\x00" in name or not name)

# Not tried: they start other programs, or a debugger, or change this process for good.
LEFT_OUT = {"deepspeed", "fsdp", "torch_compile", "full_determinism", "local_rank", "use_cpu"}
NAMES = sorted({*RunConfig.__dataclass_fields__, *LWFConfig.__dataclass_fields__} - LEFT_OUT)
setting_names = st.sampled_from(NAMES) | st.sampled_from(sorted(RunConfig.__dataclass_fields__))
ODD_VALUES = (
    "top bottom random factored diagonal identity empirical sampled gradient interference linear "
    "[ { 1_000 true no .inf steps:3 auto learn:mistakes none epoch /dev/null /proc/self/mem ~ "
    "$HOME . 1e3 0x10 0.5 \x00"
)
setting_values = values | st.sampled_from([*ODD_VALUES.split(" "), "a" * 256])
settings = st.dictionaries(setting_names, setting_values, min_size=1, max_size=5)
unknown_settings = st.dictionaries(setting_names | words | texts, setting_values, max_size=5)
ODD_YAML = (
    "!!bool x|!!timestamp x|!!int x|!!float x|!!binary x|!!null x|!!set {a}"
    "|!!python/object:os.system x|!x y|&a [*a]|*a|{|["
    "|- -|? : ?|%TAG|2001-99-99|0b2|0o9|1:60:99|<<: 1|<<: *a|=|---|...|>"
)
yaml_scalars = st.sampled_from(ODD_YAML.split("|"))


def _yaml(content: dict[str, object]) -> bytes:
    return yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "surrogatepass")


yaml_lines = st.tuples(setting_names | texts, yaml_scalars | texts).map(": ".join)
yaml_texts = (
    st.lists(yaml_lines | yaml_scalars, max_size=4)
    .map("\n".join)
    .map(lambda text: text.encode("utf-8", "surrogatepass"))
)
config_files = (
    settings.map(_yaml)
    | settings.map(_json)
    | damaged(unknown_settings.map(_yaml))
    | damaged(yaml_texts)
    | json_texts
    | st.binary()
)
pairs = st.tuples(setting_names.map("--{}".format), setting_values.map(str)).map(list)
single = (setting_names.map("--{}".format) | texts).filter(lambda word: not word.startswith("-h"))
flags = st.lists(pairs | pairs | single.map(lambda word: [word]), max_size=2).map(
    lambda parts: [word for part in parts for word in part]
)

PARTS_OF_ANSWERS = (
    "####|#### |$|£|1 500|1,234.5|3/4|0/0|1/0|10:45|½|\u0663|²|1e9999|-|\u22125|.5|5.|1.2.3|,"
    "|nan|inf|0x1f|%|(B)|A:|B. |Z)|\n|A. x\nB. y"
)
numerals = st.sampled_from([*PARTS_OF_ANSWERS.split("|"), "9" * 5000])
answers = st.lists(numerals | texts | numbers.map(str), max_size=4).map("".join)
answer_sets = st.lists(st.tuples(answers, answers, answers), min_size=1, max_size=6)

ACTS = [
    decisions.INCLUDE,
    decisions.EXCLUDE,
    decisions.BY_SCORE,
    decisions.FRACTION,
    decisions.UNDO,
]
TEXT_IDS = [f"talk:{number:06d}" for number in range(6)]
ids = st.lists(st.sampled_from(TEXT_IDS), max_size=4)
times = st.datetimes().map(lambda at: at.replace(tzinfo=UTC).isoformat()) | st.just(
    datetime(2025, 1, 1, tzinfo=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
)
entries = st.fixed_dictionaries(
    {"act": st.sampled_from(ACTS) | values},
    optional={
        "at": times | values,
        "ids": ids | values,
        "fraction": st.floats(0, 1) | values,
        "what": texts | values,
        "more": values,
    },
)
journals = damaged(
    st.lists(entries.map(_json) | json_texts, max_size=5).map(
        lambda lines: b"".join(line + b"\n" for line in lines)
    )
)
