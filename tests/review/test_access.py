"""Who and what the review answers."""

import json
import os
import signal
import socket
import time

import pytest
from helpers.commands import letgo
from helpers.review_runs import write_texts
from helpers.review_server import Server

pytest.importorskip("gradio", reason="needs the extra review")

PREDICT = "/gradio_api/run/predict"
JSON = {"Content_Type": "application/json"}
ELSEWHERE = [
    "/docs",
    "/docs/",
    "//docs",
    "/%64ocs",
    "/redoc",
    "/openapi.json",
    "/gradio_api/info",
    "/gradio_api/info/",
    "/gradio_api/openapi.json",
    "/gradio_api/upload",
    "/gradio_api/upload_progress",
    "/gradio_api/runs",
    "/gradio_api/queue/join",
    "/gradio_api/queue/data",
    "/gradio_api/call/show",
    "/gradio_api/api/predict",
    "/gradio_api/file=/etc/hostname",
    "/gradio_api/proxy=http://127.0.0.1/",
    "/gradio_api/app_id",
    "/gradio_api/startup-events",
    "/gradio_api/vibe-code",
    "/gradio_api/process_recording",
    "/monitoring",
    "/gradio_api/mcp",
    "/login",
    "/gradio_api/component_server",
    "/gradio_api/heartbeat/a/b",
    "/static",
    "/assets/",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A review that only these tests use; what it prints must stay short."""
    server = Server(write_texts(tmp_path_factory.mktemp("review") / "run", 60))
    yield server
    printed = server.stop()
    assert "x" * 1_001 not in printed
    assert len(printed) < 100_000


@pytest.fixture(scope="module")
def call(server):
    """Sends the values of the controls to the handler of the filters."""
    config = json.loads(server.request("/config", **server.own)[1])
    words = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "words")
    handler = next(d for d in config["dependencies"] if [words, "change"] in d["targets"])

    def call(change):
        values = [50, "", "", "all", "most confident first", None, None, False]
        body = {"fn_index": handler["id"], "data": change(values), "session_hash": "a"}
        return server.request(PREDICT, "POST", json.dumps(body), **JSON, **server.own)

    return call


def replace(index, value):
    """A change of one control's value."""
    return lambda values: [*values[:index], value, *values[index + 1 :]]


def test_requests_without_the_token_or_from_other_pages_are_rejected(server):
    own, token = server.own, server.url.rpartition("=")[2]
    assert server.status("/", **own) == 200
    assert server.status(f"/?token={token}") == 303
    for path in ("/", "/config", "/gradio_api/info", "/?token=wrong", "/?token="):
        assert server.status(path) == 403, path
    assert server.status("/", Cookie=f"letgo_review_{server.port}=wrong") == 403
    assert server.status(f"/?token={token}", Host="evil.example") == 403
    assert server.status("/", Host=f"evil.example:{server.port}", **own) == 403
    here = f"http://127.0.0.1:{server.port}"
    for origin in (
        "http://evil.example",
        f"http://127.0.0.1:{server.port + 1}",
        here.replace("http", "https"),
        here.replace("http:", "ws:"),
        here.replace("http:", ""),
        f"{here}.evil.example",
        "http://127.0.0.1",
        "null",
        "",
    ):
        assert server.status("/", Origin=origin, **own) == 403, origin
    assert server.status("/", Origin=here, **own) == 200
    # The server listens on the loopback interface only.
    with socket.socket() as other, pytest.raises(OSError, match="refused"):
        other.connect((own_address(), server.port))


def own_address():
    """An address of this machine other than the default loopback address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # UDP: sends nothing
            address = probe.getsockname()[0]
        except OSError:
            address = "127.0.0.2"
        return address


def test_only_what_the_page_needs_is_served(server):
    for path in ELSEWHERE:
        for method in ("GET", "POST"):
            assert server.status(path, method=method, **server.own) == 404, path
    for path in ("/", "/config", "/theme.css"):
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert server.status(path, method=method, **server.own) == 405, path
    assert server.status(PREDICT, **server.own) == 405


@pytest.mark.parametrize("path", [PREDICT, "/gradio_api/upload", "/"])
def test_large_bodies_are_refused(server, path):
    start = time.monotonic()
    expected = 413
    for size in (1_000_001, 50_000_000):
        body = b"x" * size
        assert server.status(path, method="POST", body=body, **server.own) == expected
        assert server.status(path, method="POST", body=body) == 403
        parts = (body[i : i + 60_000] for i in range(0, size, 60_000))
        chunked = {"body": parts, "chunked": True, "Transfer_Encoding": "chunked"}
        assert server.status(path, method="POST", **chunked, **server.own) == expected
    assert time.monotonic() - start < 20
    status, answer = server.request(path, "POST", b"x" * 1_000_000, **server.own)
    assert status in (400, 404, 405)
    assert len(answer) < 500


def test_headers_of_proxies_are_ignored(server):
    _, page = server.request("/", **server.own)
    headers = {
        "X_Forwarded_Host": "evil.example",
        "X_Forwarded_Proto": "https",
        "X_Forwarded_For": "192.0.2.1",
        "X_Forwarded_Prefix": "/evil",
        "X_Gradio_Server": "http://evil.example",
        "X_Original_Url": "/evil",
        "Forwarded": "host=evil.example;proto=https",
    }
    for path in ("/", "/config", "/theme.css"):
        answer = server.request(path, **headers, **server.own)
        assert answer == server.request(path, **server.own)
        assert b"evil" not in answer[1]
    assert f"http://127.0.0.1:{server.port}".encode() in page


def test_values_are_short_and_never_repeated(call):
    assert call(lambda values: values)[0] == 200
    long = "x" * 900_000
    for index in range(8):
        for value in (long, [long], ["x"] * 100_000, {"x": long}, "x" * 1_001):
            status, answer = call(replace(index, value))
            assert (status, len(answer) < 300) == (400, True), (index, answer[:500])
    for index in (1, 3, 4):  # not one of the choices: an error of gradio's
        status, answer = call(replace(index, "x" * 1_000))
        assert status == 500
        assert len(answer) < 500
    status, answer = call(replace(2, "(" + "\u017f" * 999))
    assert status == 200
    assert b"banner" not in answer


@pytest.mark.parametrize(
    "body",
    ["", "x", "[]", "{}", '{"data": 5}', "[" * 100_000, '{"data": ' + "[" * 100_000, "\x00", "ÿ"],
)
def test_bodies_that_are_not_of_the_page(server, body):
    status, answer = server.request(PREDICT, "POST", body.encode("latin-1"), **server.own)
    assert (status, len(answer) < 300) == (400, True)


def test_errors_of_the_library_are_cut(server):
    for name in ("fn_index", "session_hash", "trigger_id", "batched"):
        for value in ("x" * 900_000, ["x"] * 200_000, {"x": "x" * 900_000}):
            body = json.dumps({"fn_index": 0, "data": [], name: value})
            _, answer = server.request(PREDICT, "POST", body, **JSON, **server.own)
            assert len(answer) < 500, name


@pytest.mark.parametrize(
    ("host", "local"), [("::1", True), ("127.0.0.2", True), ("LocalHost", True), ("0", False)]
)
def test_loopback_addresses(tmp_path, serve, host, local):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            pytest.skip(f"this machine has no {host}")
    server = serve(write_texts(tmp_path / "run", 9), "--host", host)
    assert ("anyone who can reach" not in server.output) == local
    assert server.status("/", **server.own) == 200


def test_the_server_connects_to_nothing(tmp_path, serve):
    """Nor does it look up a name, also where telemetry is switched on."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def watch(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.sendto'):\n"
        "        os.write(2, f'CONNECTS {event} {arguments}\\n'.encode())\n"
        "sys.addaudithook(watch)\n"
    )
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    telemetry = {"GRADIO_ANALYTICS_ENABLED": "True", "HF_HUB_DISABLE_TELEMETRY": "0"}
    server = serve(write_texts(tmp_path / "run", 9), PYTHONPATH=paths, **telemetry)
    assert server.status("/", **server.own) == 200
    assert "CONNECTS" not in server.output + server.stop(signal.SIGINT)


def test_a_path_of_5000_letters_is_named_in_one_short_line(tmp_path):
    out = write_texts(tmp_path / "run", 9)
    for words in (["review", out, "--compare", "x" * 5000], ["review", "x" * 5000]):
        status, _, error = letgo(*words)
        assert (status, error.count("\n")) == (2, 1)
        assert len(error) < 400
        assert "File name too long; give the --output_dir of a run" in error
