"""The review in a real browser."""

import json
import re
import shutil
import signal
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from helpers.commands import environment, flags, letgo
from helpers.models import make_tokenizer
from helpers.report_runs import outcomes
from helpers.review_runs import HOSTILE, selected, write_texts
from helpers.review_server import Server

from letgo.review.session import Review
from letgo.run import decisions

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
PATIENCE = 120_000  # milliseconds: a busy machine needs half a minute for the first page
sync_api.expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def ready(tiny, data, tmp_path_factory):
    """A run of the real stages up to `select`, then with 2,000 generated texts instead."""
    out = tmp_path_factory.mktemp("ready") / "out"
    for stage in ("elicit", "keep", "probe", "fisher", "score", "select"):
        status, _, error = letgo(stage, *flags(tiny, data, out, rescore_interval=0))
        assert status == 0, error
    stages = json.loads((out / "stages.json").read_text())
    for stage in stages.values():
        del stage["outputs"]  # digests of what is replaced now
    (out / "stages.json").write_text(json.dumps(stages))
    return write_texts(out, 2000, tokenizer=make_tokenizer(), special=HOSTILE)


@pytest.fixture(scope="module")
def untouched(ready):
    """A review of that run, for tests that take no decision."""
    server = Server(ready)
    yield server
    server.stop()


def open_page(browser, server):
    """Open the review in a browser or in one of its contexts."""
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.set_viewport_size({"width": 1400, "height": 1000})
    page.requested = []
    page.on("request", lambda request: page.requested.append(request.url))
    page.goto(server.url)
    sync_api.expect(page.locator("#status")).to_contain_text("will be forgotten")
    return page


def expect_status(page, text):
    sync_api.expect(page.locator("#status")).to_contain_text(text)


def search(page, words):
    page.locator("#words input, #words textarea").first.fill(words)


def type_share(page, percent, preview):
    """Type a share into the number box, and wait for its preview."""
    page.locator("#share input").fill(str(percent))
    sync_api.expect(page.locator("#preview")).to_contain_text(preview)


def threshold_line(page):
    """Position of the threshold in the histogram."""
    return float(page.locator("#picture line.threshold").get_attribute("x1"))


def test_decide_kill_and_start_again(ready, tmp_path, serve, browser):
    """Decide by threshold and filter, undo, kill, restart: training uses exactly those texts."""
    out = tmp_path / "out"
    shutil.copytree(ready, out)
    before = selected(out)
    server = serve(out)
    page = open_page(browser, server)
    expect_status(page, "1,000 of 2,000 texts")
    type_share(page, 30, "0 texts come in, 400 go out")
    page.locator("#apply").click()
    expect_status(page, "600 of 2,000 texts")
    expect_status(page, "Last action: 0 in, 400 out")
    applied = selected(out)
    assert decisions.read(out).fraction == 0.3
    assert len(applied) == 600
    assert applied < before

    search(page, "river mountain")
    sync_api.expect(page.locator("#scope")).to_contain_text('with "river mountain"')
    texts = pq.read_table(out / "self_knowledge.parquet").to_pylist()
    matching = {row["id"] for row in texts if "river mountain" in row["completion"]}
    sync_api.expect(page.locator("#scope")).to_contain_text(f"{len(matching)} texts")
    page.locator("#all-exclude").click()
    expect_status(page, f"{len(matching)} are kept by a person's decision")
    assert selected(out) == applied - matching
    page.locator("#all-include").click()
    expect_status(page, f"{len(matching)} of them by a person's decision")
    assert selected(out) == applied | matching
    page.locator("#undo").click()
    expect_status(page, f"{len(matching)} are kept by a person's decision")

    search(page, "")
    sync_api.expect(page.locator("#scope")).to_contain_text("2,000 texts")
    name = page.locator("#texts [data-testid=cell-1-0]").inner_text().strip()
    page.locator("#texts [data-testid=cell-1-4]").click()
    sync_api.expect(page.locator(".opened")).to_contain_text(name)
    page.locator("#one-exclude").click()
    sync_api.expect(page.locator(".opened")).to_contain_text("kept, by a person")
    decided = selected(out)
    assert decided == applied - matching - {name}

    server.stop(signal.SIGKILL)
    assert selected(out) == decided
    server = serve(out)
    page = open_page(browser, server)
    expect_status(page, f"{len(decided)} of 2,000 texts")
    page.locator("#undo").click()
    expect_status(page, f"{len(applied - matching)} of 2,000 texts")
    assert selected(out) == applied - matching
    own = ("http://127.0.0.1:", "data:", "blob:")
    assert not [url for url in page.requested if not url.startswith(own)]

    assert "is in use by process" in letgo("train", "--output_dir", out)[2]
    server.stop(signal.SIGTERM)
    status, _, error = letgo("train", "--output_dir", out)
    assert status == 0, error
    card = (out / "lwf" / "README.md").read_text()
    assert f"2000 self-generated texts, {len(applied - matching)} of them unlearned" in card


def test_markup_in_texts_is_shown_and_never_executed(untouched, browser):
    page = open_page(browser, untouched)
    alerts = []
    page.on("dialog", lambda dialog: alerts.append(dialog.message))
    for i, part in enumerate(("onerror", "{{value}}", "desrever")):
        search(page, f"question {i} of")
        sync_api.expect(page.locator("#scope")).to_contain_text("1 texts")
        sync_api.expect(page.locator("#texts [data-testid=cell-0-4]")).to_contain_text(part)
        page.locator("#texts [data-testid=cell-0-4]").click()
        sync_api.expect(page.locator(".opened")).to_contain_text(f"question {i} of")
        answer = page.locator(".opened .passage").nth(1).inner_text()
        cleaned = re.sub("[\u202e\u202c\x1b\x07]", "\ufffd", HOSTILE[i])
        assert answer == cleaned
    assert page.locator(".opened img, .opened script, #texts img").count() == 0
    assert page.title().startswith("letgo review")
    assert not alerts


def test_tokens_are_coloured_by_their_loss(untouched, browser):
    page = open_page(browser, untouched)
    page.locator("#texts [data-testid=cell-0-4]").click()
    sync_api.expect(page.locator(".opened")).to_be_visible()
    assert page.locator(".token").count() == 0
    page.locator("#coloured input").check()
    sync_api.expect(page.locator(".token").first).to_be_visible()
    assert "nats" in page.locator(".token").first.get_attribute("title")
    pieces = page.locator(".token").all_inner_texts()
    assert "".join(pieces) == page.locator(".opened .passage").nth(1).inner_text()


def test_two_runs_side_by_side(tmp_path, serve, browser):
    here, there = (write_texts(tmp_path / name, 300) for name in ("here", "there"))
    (here / "metrics.json").write_text(json.dumps(outcomes()))
    review = Review(there)
    review.decide(decisions.EXCLUDE, review.ranking[:20], "twenty")
    review.decide(decisions.INCLUDE, review.ranking[-5:], "five")
    page = open_page(browser, serve(here, "--compare", there))
    sync_api.expect(page.locator("#outcomes")).to_contain_text("Let go: old answers, %: base 100.0")
    page.get_by_role("tab", name="Compare").click()
    summary = "both forget 130; 20 are forgotten here only, 5 there only"
    sync_api.expect(page.locator("#difference")).to_contain_text(summary)
    ids = page.locator("#compared [role=gridcell][data-col='0']").all_inner_texts()
    assert {name.strip() for name in ids} == {review.ids[i] for i in review.ranking[:20]}


def test_nothing_is_requested_from_elsewhere(untouched, tmp_path, serve, browser):
    """Not even something that the content security policy would stop."""
    here, there = (write_texts(tmp_path / name, 60) for name in ("here", "there"))
    for server in (untouched, serve(here, "--compare", there, "--compare", here)):
        context = browser.new_context()
        requested, complaints = [], []
        context.on("request", lambda request, urls=requested: urls.append(request.url))
        context.on("console", lambda message, texts=complaints: texts.append(message.text))
        open_page(context, server).close()
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(f"http://127.0.0.1:{server.port}/?__theme=dark")
        expect_status(page, "will be forgotten")
        page.locator("#texts [data-testid=cell-0-4]").click()
        sync_api.expect(page.locator(".opened")).to_be_visible()
        if server is untouched:  # has a model
            page.locator("#coloured input").check()
            sync_api.expect(page.locator(".token").first).to_be_visible()
        search(page, "question 1 of")
        sync_api.expect(page.locator("#scope")).to_contain_text("1 texts")
        page.locator("#sort input").click()
        page.get_by_role("option", name="longest first").click()
        type_share(page, 40, "0 texts come in")
        page.get_by_role("tab", name="Compare").click()
        if server is not untouched:
            sync_api.expect(page.locator("#difference")).to_contain_text("60 texts in both runs")
            page.locator("#other input").click()
            page.get_by_role("option", name=str(here)).click()
            sync_api.expect(page.locator("#difference")).to_contain_text("both forget 30")
        page.wait_for_timeout(1_000)  # for requests that nothing above waits for
        context.close()
        own = (f"http://127.0.0.1:{server.port}/", "data:", "blob:")
        assert len(requested) > 20
        assert not [url for url in requested if not url.startswith(own)]
        assert not [text for text in complaints if "Content Security Policy" in text]


def test_only_runs_of_the_command_line_are_compared_with(tmp_path, serve, browser):
    page = open_page(browser, serve(write_texts(tmp_path / "run", 60)))
    page.get_by_role("tab", name="Compare").click()
    sync_api.expect(page.get_by_text("start letgo review with --compare OTHER")).to_be_visible()
    assert page.locator("#other").count() == 0


def test_a_share_is_previewed_and_then_applied(tmp_path, serve, browser):
    out = write_texts(tmp_path / "run", 1000, fraction=1 / 3)
    page = open_page(browser, serve(out))
    box = page.locator("#share input")
    sync_api.expect(box).to_have_value("33.33")
    page.locator("#apply").click()  # a third is shown rounded; applying that is no action
    before = threshold_line(page)
    type_share(page, 45, "117 texts come in, 0 go out")
    assert threshold_line(page) < before
    assert decisions.read_actions(out) == []
    box.press("Enter")
    expect_status(page, "450 of 1,000 texts")
    sync_api.expect(page.locator("#preview")).to_be_empty()
    type_share(page, 0.1, "0 texts come in, 449 go out")
    assert len(selected(out)) == 450
    page.locator("#apply").click()
    expect_status(page, "1 of 1,000 texts")
    assert len(selected(out)) == 1
    type_share(page, 60, "599 texts come in, 0 go out")
    page.locator("#undo").click()  # leaves the box, which must not apply its content
    expect_status(page, "450 of 1,000 texts")
    sync_api.expect(box).to_have_value("45")
    page.locator("#undo").click()
    expect_status(page, "333 of 1,000 texts")
    sync_api.expect(box).to_have_value("33.33")
    type_share(page, 60, "267 texts come in, 0 go out")
    box.press("Tab")
    search(page, "question 1 of")
    sync_api.expect(page.locator("#scope")).to_contain_text("1 texts")
    assert decisions.read_actions(out) == []
    assert threshold_line(page) == before


def test_errors_are_shown_on_the_page(untouched, browser):
    page = open_page(browser, untouched)
    for share in ("", "0", "100.5", "-3"):
        page.locator("#share input").fill(share)
        page.locator("#apply").click()
        expect_status(page, f"above 0 and at most 100 per cent{share and f', not {share}'}.")
        expect_status(page, "1,000 of 2,000 texts")
        sync_api.expect(page.locator("#share input")).to_have_value("50")
    page.locator("#one-exclude").click()
    expect_status(page, "choose a text in the table first")


def test_the_review_starts_without_torch():
    code = "import sys, letgo.review.server; assert not {'torch', 'transformers'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())


def test_a_second_review_of_a_run_is_refused(tmp_path, serve):
    out = write_texts(tmp_path / "run", 60)
    first = serve(out)
    status, _, error = letgo("review", out)
    assert (status, error.count("\n")) == (2, 1)
    assert f"{out} is in use by process {first.process.pid} since" in error
    first.stop(signal.SIGINT)
    assert first.process.returncode == 0
    Review(out).close()


def test_two_reviews_in_one_browser(tmp_path, serve, browser):
    """Their cookies differ."""
    folders = [write_texts(tmp_path / name, 60) for name in ("one", "two")]
    context = browser.new_context()
    one, two = [open_page(context, serve(folder)) for folder in folders]
    for page in (one, two):
        page.locator("#all-exclude").click()
        expect_status(page, "60 are kept")
    context.close()
    assert not selected(folders[0]) | selected(folders[1])
