"""The tab with the learning examples of an audit, and its decisions."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from helpers.review_runs import HOSTILE, write_texts

from letgo.review.audit_tab import Controls, find_examples, table_rows
from letgo.review.session import Review
from letgo.run import decisions
from letgo.run.audit import treatments
from letgo.stages.audit import SCHEMA


def write_audit(folder, forget=("learn:wrong",), count=40):
    """An audit of so many examples; a quarter of them is suspected."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "id": f"learn:wrong:{i:06d}",
            "prompt": f"question {i}?",
            "completion": HOSTILE[i] if i < len(HOSTILE) else "answer",
            "loss_ref": 4 - i / count,
            "interference": 1.0,
            "gradient": -0.5,
            "confidence": 4 - i / count,
            "suspected": i < count // 4,
        }
        for i in range(count)
    ]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / "audit.parquet")
    if not (folder / "config.yaml").exists():
        settings = {"forget": list(forget), "seed": 0, "provenance": {}}
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture
def review(tmp_path):
    opened = Review(write_audit(tmp_path / "run"))
    yield opened
    opened.close()


def test_an_audit_alone_is_reviewed(review):
    """Drop, unlearn, keep and undo; another session goes on with the same decisions."""
    assert list(review.treatments) == ["unlearn"] * 10 + ["keep"] * 30
    suspected = find_examples(review, Controls(subset="suspected"))
    assert list(suspected) == list(range(10))
    review.decide_learning("drop", suspected, "drop all")
    review.decide_learning("exclude", [0], "keep one")
    review.decide_learning("include", [39], "unlearn one")
    expected = ["keep"] + ["drop"] * 9 + ["keep"] * 29 + ["unlearn"]
    assert list(review.treatments) == expected
    assert table_rows(review, [39])[0][4] == "unlearn*"
    assert list(find_examples(review, Controls(words="question 39?", subset="unlearn"))) == [39]
    assert review.undo() == "unlearn one"
    assert review.treatments[39] == "keep"
    review.decide_learning("by score", suspected, "leave")
    assert list(review.treatments) == ["unlearn"] * 10 + ["keep"] * 30
    review.undo()
    assert list(review.treatments) == [*expected[:-1], "keep"]
    assert review.warnings == []
    assert not (review.folder / "selection.parquet").exists()
    decided = decisions.read(review.folder)
    ids = review.audit_ids
    assert treatments(ids, [False] * 40, False, decided) == list(review.treatments)


def test_beside_texts_nothing_is_unlearned_unless_a_person_says_so(tmp_path):
    review = Review(write_audit(write_texts(tmp_path / "run", 30)))
    assert set(review.treatments) == {"keep"}
    before = list(review.selected)
    review.decide_learning("include", [3], "unlearn")
    assert list(review.treatments).count("unlearn") == 1
    assert list(review.selected) == before
    review.close()


def test_only_learning_examples_can_be_dropped(tmp_path):
    folder = write_audit(write_texts(tmp_path / "run", 30))
    line = {"act": "drop", "ids": ["sums:000000"]}
    (folder / "review.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(Exception, match="only learning examples can be dropped"):
        Review(folder)


def test_in_a_browser(tmp_path, browser, serve):
    """Drop one, then all that are suspected, and undo; markup in an example stays text."""
    from playwright.sync_api import expect

    page = browser.new_page()
    page.set_default_timeout(120_000)
    expect.set_options(timeout=120_000)
    page.goto(serve(write_audit(tmp_path / "run")).url)
    status = page.locator("#status")
    expect(status).to_contain_text("of 40 learning examples 10 are unlearned and 0 dropped")
    page.locator("#audit [data-testid=cell-0-0]").click()
    expect(page.locator("#audit-example")).to_contain_text("<script>")
    page.locator("#audit-one-drop").click()
    expect(status).to_contain_text("9 are unlearned and 1 dropped")
    expect(page.locator("#audit")).to_contain_text("drop*")
    page.locator("#audit-words input, #audit-words textarea").first.fill("question 3")
    expect(page.locator("#audit-position")).to_contain_text("11 examples")
    page.locator("#audit-all-include").click()
    expect(status).to_contain_text("19 are unlearned and 1 dropped")
    page.locator("#undo").click()
    expect(status).to_contain_text("9 are unlearned and 1 dropped")
    expect(page.locator("#audit")).not_to_contain_text("unlearn*")
    assert page.title() != "owned"
