"""The paper's kinds of data, where they are at hand: `LETGO_DATA` names their folder."""

import os
from pathlib import Path

import pytest

from letgo.data.records import read_records
from letgo.data.splits import set_names
from letgo.evaluation.answers import correct, exact, letter, number, reader

DATA = Path(os.environ.get("LETGO_DATA", "no-data"))


@pytest.mark.realdata
@pytest.mark.skipif(not DATA.is_dir(), reason="LETGO_DATA names no folder")
@pytest.mark.parametrize(
    ("name", "kind"),
    [("gsm8k", number), ("qasc", letter), ("sst5", exact), ("dental", letter), ("psychol", letter)],
)
def test_every_data_set_is_read_and_understood(name, kind):
    file = str(DATA / name / "train.jsonl")
    records = read_records(file, "--learn", True)
    references = [record.completion for record in records]
    assert reader(references, [record.prompt for record in records]) is kind
    assert all(correct(kind, reference, reference) for reference in references)
    assert set_names([file]) == [name]
