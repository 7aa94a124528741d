"""Several right answers, and choices, in the forms in which people have them."""

import json

import pytest
from helpers.files import write_lines

from letgo.data.columns import FormReader
from letgo.data.records import fingerprint, read_records
from letgo.errors import InputError

SQUAD = {"text": ["Denver", "Denver, Colorado", "Denver"], "answer_start": [3, 3, 9]}


def read(tmp_path, *rows, **named):
    file = write_lines(tmp_path / "x.jsonl", list(rows))
    return read_records(str(file), "--learn", True, reader=FormReader(named))


@pytest.mark.parametrize(
    ("row", "references"),
    [
        ({"completion": "Denver"}, ()),
        ({"completion": "Denver", "answers": None}, ()),
        ({"completion": "Denver", "answers": " "}, ()),
        ({"completion": "Denver", "answers": ["Denver", ""]}, ("Denver",)),
        ({"completion": "A city", "answers": "Denver"}, ("A city", "Denver")),
        ({"answers": SQUAD}, ("Denver", "Denver, Colorado")),
        ({"answers": json.dumps(SQUAD)}, ("Denver", "Denver, Colorado")),
        ({"answers": {"text": []}, "completion": "x"}, ()),
    ],
)
def test_several_right_answers(tmp_path, row, references):
    (record,) = read(tmp_path, {"prompt": "Where?", **row})
    assert record.references == references
    assert record.completion == row.get("completion", "Denver")


def test_choices_and_columns_of_other_names(tmp_path):
    rows = [
        {"q": "Which?", "a": "oak", "options": {"text": ["oak", "elm"], "label": ["A", "B"]}},
        {"q": "What?", "a": "fir", "options": ["fir", "ash"]},
        {"q": "Who?", "a": "yew", "options": "yew or box"},
    ]
    records = read(tmp_path, *rows, prompt="q", completion="a", choices="options")
    assert [record.choices for record in records] == [("oak", "elm"), ("fir", "ash"), ()]


@pytest.mark.parametrize("name", ["answers", "choices"])
@pytest.mark.parametrize("value", [3, [1, 2], {"text": "x"}, [["a"]]])
def test_what_is_no_list_of_texts_is_refused(tmp_path, name, value):
    with pytest.raises(InputError, match=f"x.jsonl line 1: '{name}' is no list of texts"):
        read(tmp_path, {"prompt": "?", "completion": "x", name: value})


def test_right_answers_change_the_fingerprint_and_their_absence_does_not(tmp_path):
    plain = {"prompt": "?", "completion": "x"}
    assert fingerprint(read(tmp_path, plain)) == fingerprint(
        read(tmp_path, {**plain, "answers": None})
    )
    others = [plain, {**plain, "answers": ["x", "y"]}, {**plain, "choices": ["x", "y"]}]
    assert len({fingerprint(read(tmp_path, row)) for row in others}) == 3
