"""Parts of the review's page."""

import json

from helpers.report_runs import outcomes
from helpers.review_runs import write_texts

from letgo.review import html
from letgo.review.session import Review


def test_the_head_has_the_outcomes_of_an_evaluated_run(tmp_path):
    review = Review(write_texts(tmp_path / "run", 20))
    assert "outcomes" not in html.status(review)
    (review.folder / "metrics.json").write_text('{"verdict": "sft"}')  # of an earlier letgo
    assert "outcomes" not in html.status(review)
    metrics = outcomes()
    metrics["outcomes"]["kept"]["figure"] = "<b>of a later letgo"
    (review.folder / "metrics.json").write_text(json.dumps(metrics))
    assert html.status(review).partition('<p id="outcomes">')[2] == (
        "Evaluated on test prompts: "
        "Learned: right answers, %: base 25.0, SFT 50.0, LWF 56.2 \N{MIDDLE DOT} "
        "Let go: old answers, %: base 100.0, SFT 75.0, LWF 31.2 \N{MIDDLE DOT} "
        "Kept: &lt;b&gt;of a later letgo: base 0.000, SFT 0.188, LWF 0.250. "
        "<code>model/</code> is the SFT baseline.</p>"
    )
