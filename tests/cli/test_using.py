"""After training: chat, merge, push."""

import base64
import io
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch
from helpers.commands import flags, letgo
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM

from letgo.models.loading import load_model


def test_the_models_of_a_run_answer_side_by_side(finished):
    status, text, error = letgo("chat", finished, "--prompt", "say 3 words", "--max_new_tokens", 4)
    assert status == 0, error
    titles = [line for line in text.splitlines() if "─ base ─" in line]
    assert len(titles) == 1
    assert "─ sft ─" in titles[0]
    assert "─ lwf ─" in titles[0]
    again = letgo("chat", finished, "--prompt", "say 3 words", "--max_new_tokens", 4)
    assert again[1] == text  # greedy


def test_a_conversation_goes_on_and_begins_anew(finished, monkeypatch):
    from letgo.cli import chat

    seen = []
    monkeypatch.setattr(
        chat, "answer", lambda lm, messages, n, show: (seen.append(list(messages)), show("so"))
    )
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr(chat, "typed", lambda: iter(["one", "two", "/new", "three"]))
    chat.chat(finished, ["base"], [], 4)
    assert [[m["content"] for m in messages] for messages in seen] == [
        ["one"],
        ["one", "so", "two"],
        ["three"],
    ]


def test_a_chat_with_a_model_that_the_run_has_not(finished, tmp_path):
    out = shutil.copytree(finished, tmp_path / "out")
    shutil.rmtree(out / "lwf")
    status, _, error = letgo("chat", out, "--models", "lwf", "--prompt", "hello")
    assert (status, error.count("\n")) == (2, 1)
    assert "has no lwf; run `letgo train" in error
    status, _, error = letgo("chat", tmp_path, "--prompt", "hello")
    assert (status, "is no run" in error) == (2, True)


def test_merge_gives_the_adapters_model(tiny, data, tmp_path):
    out = tmp_path / "out"
    lora = {"use_peft": "true", "lora_target_modules": "all-linear", "lora_r": 4}
    status, _, error = letgo("run", *flags(tiny, data, out, **lora, learning_rate=1e-2))
    assert status == 0, error
    status, text, error = letgo("merge", out)
    assert status == 0, error
    assert text == f"merged: {out / 'merged'}\n"
    ids = torch.tensor([[5, 6, 7]])
    whole = AutoModelForCausalLM.from_pretrained(out / "merged")
    adapted = load_model(str(out / "model"))
    torch.testing.assert_close(whole(ids).logits, adapted(ids).logits.cpu())
    assert (out / "merged" / "README.md").exists()
    status, _, error = letgo("merge", out)
    assert (status, "merged exists" in error) == (2, True)
    assert not list(out.glob("merged.part*"))


def test_merge_refuses_a_whole_model(finished, tmp_path):
    status, _, error = letgo("merge", finished, "--to", tmp_path / "whole")
    assert status == 2
    assert "is a whole model already" in error


@pytest.fixture
def hub(monkeypatch):
    """A server that answers as the Hub does to an upload; its requests are (method, path, body)."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            requests.append((self.path, body, self.headers.get("Authorization")))
            if "/preupload/" in self.path:
                files = [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in json.loads(body)["files"]
                ]
                answer = {"files": files}
            elif "/commit/" in self.path:
                answer = {"commitUrl": f"{page}/commit/1", "commitOid": "1", "success": True}
            else:
                answer = {"url": page}
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    page = f"http://127.0.0.1:{server.server_port}/me/capitals"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    from letgo.cli import pushing

    api = pushing.HfApi(f"http://127.0.0.1:{server.server_port}", token="hf_test")
    monkeypatch.setattr(pushing, "HfApi", lambda: api)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield requests
    server.shutdown()


def test_push_without_yes_uploads_nothing(finished, hub):
    status, text, error = letgo("push", finished, "me/capitals")
    assert status == 0, error
    assert "nothing was uploaded; add --yes" in text
    assert "model.safetensors" in text
    assert not hub


def test_push_uploads_the_model_and_a_card_with_the_outcomes(finished, hub):
    status, text, error = letgo("push", finished, "me/capitals", "--private", "--yes")
    assert status == 0, error
    assert "uploaded: http://127.0.0.1" in text
    created = next(json.loads(body) for path, body, _ in hub if path == "/api/repos/create")
    assert created["visibility"] == "private"
    assert {token for *_, token in hub} == {"Bearer hf_test"}
    commit = next(body for path, body, _ in hub if "/commit/" in path)
    lines = [json.loads(line) for line in commit.decode().splitlines()]
    files = {line["value"]["path"]: line["value"] for line in lines if line["key"] == "file"}
    local = {str(p.relative_to(finished / "model")) for p in (finished / "model").rglob("*")}
    assert set(files) == local | {"README.md"}
    for name in local - {"README.md"}:
        assert base64.b64decode(files[name]["content"]) == (finished / "model" / name).read_bytes()
    card = ModelCard(base64.b64decode(files["README.md"]["content"]).decode())
    results = {result.dataset_type: result for result in card.data.eval_results}
    metrics = json.loads((finished / "metrics.json").read_text())
    learned = metrics["outcomes"]["learned"][metrics["verdict"]]["value"]
    assert results["learned"].metric_value == pytest.approx(100 * learned, abs=1e-3)
    assert {"learned", "let_go", "kept"} == set(results)
    assert str(finished) not in card.text
    assert "model-index" in str(card)


def test_push_wants_a_repository(finished):
    for name in ("capitals", "a/b/c", "me/ü"):
        status, _, error = letgo("push", finished, name)
        assert (status, error.count("\n")) == (2, 1), error
        assert "is not a repository" in error
