"""The review in a real browser, and who may talk to it."""

import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pyarrow.parquet as pq
import pytest
from helpers.commands import environment, flags, letgo
from helpers.models import make_tokenizer
from helpers.review_runs import HOSTILE, selected, write_texts

from letgo.review.session import Review
from letgo.run import decisions

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
PATIENCE = 120_000  # milliseconds: a busy machine needs half a minute for the first page
sync_api.expect.set_options(timeout=PATIENCE)


class Server:
    """`letgo review` in a process of its own."""

    def __init__(self, *words):
        command = [sys.executable, "-m", "letgo", "review", *map(str, words)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()
        )
        self.said = ""
        for line in self.process.stdout:
            self.said += line
            if found := re.search(r"http://\S+", line):
                self.url = found.group()
                self.port = int(re.search(r":(\d+)/", self.url).group(1))
                return
        raise AssertionError(self.said)

    def stop(self, how=signal.SIGKILL):
        self.process.send_signal(how)
        self.process.wait()
        self.process.stdout.close()

    def ask(self, path="/", **headers):
        """The status of a request."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        try:
            with urllib.request.build_opener(NoRedirect).open(request, timeout=20) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


@pytest.fixture
def serve():
    servers = []

    def start(*words):
        servers.append(Server(*words))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.returncode is None:
            server.stop()


@pytest.fixture(scope="module")
def ready(tiny, data, tmp_path_factory):
    """A real run up to its selection, with 2,000 texts put in place of its own."""
    out = tmp_path_factory.mktemp("ready") / "out"
    for stage in ("elicit", "probe", "fisher", "score", "select"):
        status, _, error = letgo(stage, *flags(tiny, data, out, rescore_interval=0))
        assert status == 0, error
    return write_texts(out, 2000, tokenizer=make_tokenizer(), special=HOSTILE)


@pytest.fixture(scope="module")
def untouched(ready):
    """The review of that run, for tests that decide nothing."""
    server = Server(ready)
    yield server
    server.stop()


def open_page(browser, server):
    """A page of the review in a browser, or in a context of one."""
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.set_viewport_size({"width": 1400, "height": 1000})
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(server.url)
    sync_api.expect(page.locator("#status")).to_contain_text("are to be forgotten")
    return page


def expect_status(page, *words):
    for word in words:
        sync_api.expect(page.locator("#status")).to_contain_text(word)


def drag_to(page, percent):
    """Move the threshold by its slider, with the mouse."""
    slider = page.locator("#share input[type=range]")
    box = slider.bounding_box()
    now = float(slider.input_value())
    y = box["y"] + box["height"] / 2

    def x(at):
        return box["x"] + 8 + (box["width"] - 16) * at / 100

    page.mouse.move(x(now), y)
    page.mouse.down()
    page.mouse.move(x((now + percent) / 2), y, steps=4)
    page.mouse.move(x(percent), y, steps=4)
    sync_api.expect(page.locator("#status")).to_contain_text("Letting go here")
    page.mouse.up()
    expect_status(page, "are to be forgotten")


def test_decide_kill_and_start_again(ready, tmp_path, serve, browser):
    """Drag, exclude by filter, undo, kill, go on; training then uses exactly those texts."""
    out = tmp_path / "out"
    shutil.copytree(ready, out)
    before = selected(out)
    server = serve(out)
    page = open_page(browser, server)
    expect_status(page, "1,000 of 2,000 texts")
    drag_to(page, 30)
    expect_status(page, "Last step: 0 in,")
    dragged = selected(out)
    share = decisions.read(out).fraction
    assert 0.25 < share < 0.35
    assert len(dragged) == round(share * 2000)
    assert dragged < before

    page.locator("#words input, #words textarea").first.fill("river mountain")
    sync_api.expect(page.locator("#scope")).to_contain_text('with "river mountain"')
    texts = pq.read_table(out / "self_knowledge.parquet").to_pylist()
    matching = {row["id"] for row in texts if "river mountain" in row["completion"]}
    sync_api.expect(page.locator("#scope")).to_contain_text(f"{len(matching)} texts")
    page.locator("#all-exclude").click()
    expect_status(page, f"{len(matching)} are kept because a person said so")
    assert selected(out) == dragged - matching
    page.locator("#all-include").click()
    expect_status(page, f"{len(matching)} because a person said so")
    assert selected(out) == dragged | matching
    page.locator("#undo").click()
    expect_status(page, f"{len(matching)} are kept because a person said so")

    page.locator("#words input, #words textarea").first.fill("")
    sync_api.expect(page.locator("#scope")).to_contain_text("2,000 texts")
    name = page.locator("#texts [data-testid=cell-1-0]").inner_text().strip()
    page.locator("#texts [data-testid=cell-1-4]").click()
    sync_api.expect(page.locator(".opened")).to_contain_text(name)
    page.locator("#one-exclude").click()
    sync_api.expect(page.locator(".opened")).to_contain_text("kept, by a person")
    decided = selected(out)
    assert decided == dragged - matching - {name}

    server.stop(signal.SIGKILL)
    assert selected(out) == decided
    page = open_page(browser, serve(out))
    expect_status(page, f"{len(decided)} of 2,000 texts")
    page.locator("#undo").click()
    expect_status(page, f"{len(dragged - matching)} of 2,000 texts")
    assert selected(out) == dragged - matching
    own = ("http://127.0.0.1:", "data:", "blob:")
    assert not [url for url in page.asked if not url.startswith(own)]

    status, _, error = letgo("train", "--output_dir", out)
    assert status == 0, error
    card = (out / "lwf" / "README.md").read_text()
    assert f"2000 self-generated texts, {len(dragged - matching)} of them unlearned" in card


def test_texts_are_shown_and_never_run(untouched, browser):
    page = open_page(browser, untouched)
    alerts = []
    page.on("dialog", lambda dialog: alerts.append(dialog.message))
    for i, said in enumerate(("onerror", "{{value}}", "desrever")):
        page.locator("#words input, #words textarea").first.fill(f"question {i} of")
        sync_api.expect(page.locator("#scope")).to_contain_text("1 texts")
        sync_api.expect(page.locator("#texts [data-testid=cell-0-4]")).to_contain_text(said)
        page.locator("#texts [data-testid=cell-0-4]").click()
        sync_api.expect(page.locator(".opened")).to_contain_text(f"question {i} of")
        shown = page.locator(".opened .said").nth(1).inner_text()
        cleaned = re.sub("[\u202e\u202c\x1b\x07]", "\ufffd", HOSTILE[i])
        assert shown == cleaned
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
    assert "".join(pieces) == page.locator(".opened .said").nth(1).inner_text()


def test_two_runs_side_by_side(tmp_path, serve, browser):
    here, there = (write_texts(tmp_path / name, 300) for name in ("here", "there"))
    review = Review(there)
    review.decide(decisions.EXCLUDE, review.order[:20], "twenty")
    review.decide(decisions.INCLUDE, review.order[-5:], "five")
    page = open_page(browser, serve(here, "--compare", there))
    page.get_by_role("tab", name="Compare").click()
    said = "both forget 130; 20 are forgotten here only, 5 there only"
    sync_api.expect(page.locator("#difference")).to_contain_text(said)
    shown = page.locator("#compared [role=gridcell][data-col='0']").all_inner_texts()
    assert {name.strip() for name in shown} == {review.ids[i] for i in review.order[:20]}


def test_the_threshold_follows_keys(tmp_path, serve, browser):
    out = write_texts(tmp_path / "run", 1000, fraction=1 / 3)
    page = open_page(browser, serve(out))
    slider = page.locator("#share input[type=range]")
    slider.focus()
    page.keyboard.press("Home")
    expect_status(page, "1 of 1,000 texts")
    assert len(selected(out)) == 1
    number = page.locator("#share input[type=number]")
    number.fill("45")
    expect_status(page, "Letting go here: 449 texts come in")
    assert len(selected(out)) == 1
    number.press("Enter")
    expect_status(page, "450 of 1,000 texts")
    page.locator("#undo").click()
    expect_status(page, "1 of 1,000 texts")
    page.locator("#undo").click()
    expect_status(page, "333 of 1,000 texts")
    slider.focus()
    slider.press("Tab")  # a third is shown as 33.3 %; touching it is no decision
    page.locator("#words input, #words textarea").first.fill("question 1 of")
    sync_api.expect(page.locator("#scope")).to_contain_text("1 texts")
    assert decisions.read_actions(out) == []


def test_two_reviews_in_one_browser_and_a_second_one_of_a_run(tmp_path, serve, browser):
    """They keep their tokens apart; of one run the first decides and the second looks on."""
    out = write_texts(tmp_path / "run", 60)
    first, second = serve(out), serve(out)
    assert "read-only: another review of this run is open" in second.said
    context = browser.new_context()
    deciding, looking = open_page(context, first), open_page(context, second)
    sync_api.expect(looking.locator(".banner")).to_contain_text("Read-only")
    assert looking.locator("#all-exclude").is_disabled()
    deciding.locator("#all-exclude").click()
    expect_status(deciding, "60 are kept")
    assert not selected(out)
    looking.reload()
    expect_status(looking, "60 are kept")
    context.close()
    first.stop(signal.SIGINT)
    assert first.process.returncode == 0
    assert not Review(out).read_only


def test_requests_without_the_token_or_from_elsewhere_are_refused(tmp_path, serve):
    server = serve(write_texts(tmp_path / "run", 60))
    token = server.url.rpartition("=")[2]
    own = {"Cookie": f"letgo_review_{server.port}={token}"}
    assert server.ask("/", **own) == 200
    assert server.ask(f"/?token={token}") == 303
    for path in ("/", "/config", "/gradio_api/info", "/?token=wrong", "/?token="):
        assert server.ask(path) == 403, path
    assert server.ask("/", Cookie=f"letgo_review_{server.port}=wrong") == 403
    assert server.ask(f"/?token={token}", Host="evil.example") == 403
    assert server.ask("/", Host=f"evil.example:{server.port}", **own) == 403
    assert server.ask("/", Origin="http://evil.example", **own) == 403
    assert server.ask("/", Origin=f"http://127.0.0.1:{server.port + 1}", **own) == 403
    assert server.ask("/", Origin=f"http://127.0.0.1:{server.port}", **own) == 200
    # Only this machine is listened to.
    with socket.socket() as other, pytest.raises(OSError, match="refused"):
        other.connect((own_address(), server.port))


def own_address():
    """An address of this machine that is not the loop."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
            address = probe.getsockname()[0]
        except OSError:
            address = "127.0.0.2"
        return address
