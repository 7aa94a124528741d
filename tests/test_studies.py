"""What studies/README.md says is what the studies found."""

import json
import re
from pathlib import Path

import pytest

from letgo.study.command import check
from letgo.study.page import page

STUDIES = Path(__file__).parents[1] / "studies"
RESULTS = sorted(STUDIES.glob("*/results.json"))
# A difference with its interval: +1.2 [-0.3, +2.7]
CLAIMED = re.compile(r"[+-]\d+\.\d+ \[[+-]\d+\.\d+, [+-]\d+\.\d+\]")


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.parent.name)
def test_results_are_those_of_the_runs(file):
    check(file)
    assert file.with_suffix(".md").read_text() == page(json.loads(file.read_text()))


def test_every_claim_stands_in_some_results():
    """In the summary every difference with an interval is one that a results.json supports."""
    summary = (STUDIES / "README.md").read_text().split("\n## ")[0]
    claimed = CLAIMED.findall(summary)
    found = "\n".join(page(json.loads(file.read_text())) for file in RESULTS)
    assert claimed
    assert [claim for claim in claimed if claim not in found] == []
