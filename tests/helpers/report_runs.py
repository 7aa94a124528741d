"""Run folders with invented numbers, and a parser of their pages."""

import json
import random
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from helpers.files import write_lines
from letgo.stages.score import SCHEMA as SCORES_SCHEMA

VOID = {"meta", "br", "img", "hr", "link", "input"}
HOSTILE = (
    "<script>alert(1)</script> \u202etxt.exe\u202c \x00\x1b[31m\ttab\nline {{ 7*7 }} &amp; '\""
)


class Page(HTMLParser):
    """The tags, the text and the script of a page; tags that do not nest are an error."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.script = ""
        self.feed(html)
        self.close()
        assert not self.open
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.script += data
        elif self.open and self.open[-1] not in ("style", "title"):
            self.text += data


def make_run(
    folder: Path,
    sets: tuple[str, ...] = ("dental", "law"),
    count: int = 30,
    equal: bool = False,
    text: str = HOSTILE,
    old: bool = False,
) -> Path:
    """Write a synthetic run.

    Args:
        sets: its forgetting sets; a run without any has no texts.
        count: of texts of each set.
        equal: whether all texts have the same confidence and length.
        text: is in every prompt and answer.
        old: whether it is of a letgo that did not measure what was let go and kept.
    """
    (folder / "probe").mkdir(parents=True)
    if sets:
        _write_texts(folder, sets, count, equal, text)
    _write_config(folder, sets)
    _write_logs(folder)
    _write_metrics(folder, sets, old)
    _write_answers(folder, sets, text, old)
    stages = {"elicit": {"seconds": 3725.0, "peak_memory_mb": 2048.0}, "score": {"seconds": 9.0}}
    (folder / "stages.json").write_text(json.dumps(stages))
    return folder


def _write_texts(folder: Path, sets: tuple[str, ...], count: int, equal: bool, text: str) -> None:
    rng = random.Random(0)
    words, scores, selection = [], [], []
    for name in sets:
        for i in range(count):
            confidence = 0.5 if equal else rng.random()
            id_ = f"{name}-{i}"
            words.append(
                {
                    "id": id_,
                    "forget_set": name,
                    "prompt": f"{name}? {text}",
                    "completion": f"{i} {text}",
                    "finish_reason": "stop",
                }
            )
            scores.append(
                {
                    "id": id_,
                    "forget_set": name,
                    "tokens": 5 if equal else 1 + i % 97,
                    "loss_base": 1 + rng.random(),
                    "loss_probe": 2.0,
                    "interference": 0.1,
                    "linear": 0.1,
                    "quadratic": 0.0,
                    "confidence": confidence,
                    "score": "fisher_distance",
                }
            )
            selection.append({"id": id_, "selected": confidence >= 0.5, "reason": "top fraction"})
    columns = ("id", "forget_set", "prompt", "completion", "finish_reason")
    schema = pa.schema([(column, pa.string()) for column in columns])
    pq.write_table(pa.Table.from_pylist(words, schema), folder / "self_knowledge.parquet")
    shares = {
        f"model.layers.{i}.{kind}": i + 1.0
        for i in range(3)
        for kind in ("self_attn.q_proj", "mlp.up_proj")
    }
    metadata = {"alpha": "1.5", "constant": "0.25", "shares": json.dumps(shares)}
    table = pa.Table.from_pylist(scores, SCORES_SCHEMA).replace_schema_metadata(metadata)
    pq.write_table(table, folder / "scores.parquet")
    types = {"id": pa.string(), "selected": pa.bool_(), "reason": pa.string()}
    pq.write_table(pa.Table.from_pylist(selection, pa.schema(types)), folder / "selection.parquet")


def _write_config(folder: Path, sets: tuple[str, ...]) -> None:
    config = {
        "model": "tiny/model",
        "learn": "gsm8k",
        "forget": list(sets),
        "seed": 3,
        "learning_rate": 1e-5,
        "use_peft": False,
        "provenance": {
            "letgo": "0.1.0",
            "versions": {"torch": "2.6"},
            "git_revision": None,
            "data": {"learn": "sha256:abc", **{f"forget {n}": "0" for n in sets}},
            "created": "2026-01-02",
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def _write_logs(folder: Path) -> None:
    log = []
    for step in range(1, 41):
        if step % 5 == 0:
            log.append(
                {
                    "step": step,
                    "epoch": step / 40,
                    "unlearn/loss": -0.2,
                    "unlearn/nll": 1.5,
                    "unlearn/steps": step // 5,
                    "unlearn/skipped": 1,
                    "unlearn/clipped": int(step > 10),
                    "unlearn/paused": int(step > 30),
                }
            )
        else:
            log.append({"step": step, "epoch": step / 40, "loss": 3 / step, "grad_norm": 1.0})
    log.append({"step": 40, "train_runtime": 3.0, "train_loss": 1.0})
    write_lines(folder / "train_log.jsonl", log)
    write_lines(folder / "probe" / "train_log.jsonl", [line for line in log if "loss" in line])


def _write_metrics(folder: Path, sets: tuple[str, ...], old: bool) -> None:
    cell = {"accuracy": 0.6125, "n": 321, "ci95": [0.5871, 0.6392]}
    results = {"learn": cell, **{f"forget:{name}": {**cell, "accuracy": 0.25} for name in sets}}
    tuned = {**results, "validation": {**cell, "accuracy": 0.5, "n": 77}}
    difference = {
        "difference": -0.0234,
        "ci95": [-0.0456, 0.0011],
        "p_value": 0.0123,
        "reference_nll": {"difference": 0.0478, "ci95": [None, None], "p_value": 1.0},
    }
    metrics = {
        "models": {"base": results, "sft": tuned, "lwf": tuned},
        "lwf_minus_sft": {"learn": difference, "validation": difference},
        "neutral_perplexity": {"base": 21.25, "sft": 22.5, "lwf": 23.75},
        "verdict": "sft",
    }
    if not old:
        for name in sets:  # these decide and are not on the page
            tuned[f"validation:forget:{name}"] = {**cell, "accuracy": 0.125}
        metrics |= outcomes(bool(sets))
    (folder / "metrics.json").write_text(json.dumps(metrics))


def figure(name: str, base: float, sft: float, lwf: float, change: float | None = None) -> dict:
    """A figure of an outcome, as `metrics.json` has it; `change` is LWF minus SFT."""
    values = {
        model: {"value": value, "n": 40, "ci95": [value - 0.05, value + 0.0625]}
        for model, value in (("base", base), ("sft", sft), ("lwf", lwf))
    }
    change = lwf - sft if change is None else change
    pair = {"difference": change, "ci95": [change - 0.125, change + 0.0125], "p_value": 0.02}
    return {"figure": name, **values, "lwf_minus_sft": pair}


def outcomes(let_go: bool = True) -> dict:
    """The part of a `metrics.json` about the outcomes; without `let_go` two of them."""
    nll = figure("reference_nll", 3.0, 1.0, 1.25)
    nll["lwf"]["ci95"] = nll["lwf_minus_sft"]["ci95"] = [None, None]
    measured = {"learned": {**figure("accuracy", 0.25, 0.5, 0.5625), "more": {nll["figure"]: nll}}}
    if let_go:
        old_nll = figure("old_nll", 1.0, 2.0, 4.5)
        measured["let_go"] = {
            **figure("old_answers", 1.0, 0.75, 0.3125),
            "more": {"old_nll": old_nll},
        }
    perplexity = figure("neutral_perplexity", 21.25, 22.5, 23.75, change=0.054)
    measured["kept"] = {
        **figure("kl", 0.0, 0.1875, 0.25),
        "more": {"neutral_perplexity": perplexity},
    }
    return {
        "outcomes": measured,
        "validation_outcomes": measured,
        "verdict": "sft",
        "verdict_parts": {"learned": "open", "let_go": "more", "kept": "less"},
        "sentence": "LWF learned neither better nor surely not worse (56.2 % right, SFT 50.0, "
        "n = 40)",
        "headroom": {
            "errors": 9,
            "old_answers": 4,
            "n": 40,
            "share": 0.1,
            "ci95": [0.0396, 0.2305],
        },
    }


def _write_answers(folder: Path, sets: tuple[str, ...], text: str, old: bool) -> None:
    answers = [
        {
            "model": model,
            "set": name,
            "id": str(i),
            "prompt": text,
            "reference": "4",
            "generated": model + text,
            "correct": model == "lwf" or i % 2 == 0,
        }
        for name, n in (("learn", 20), *((f"forget:{s}", 3) for s in sets[:1]))
        for i in range(n)
        for model in ("base", "sft", "lwf")
    ]
    answers += [
        {
            "model": model,
            "set": name,
            "id": "0",
            "prompt": "which?",
            "reference": "",
            "generated": "",
            "correct": correct,
        }
        for name, correct in (("validation", True), ("neutral", None))
        for model in ("sft", "lwf")
    ]
    if not old:
        names = [f"{kind}:{name}" for kind in ("forget", "validation:forget") for name in sets]
        answers = [{**row, "old_answer": None} for row in answers if row["set"] not in names]
        for name in (*names, "keep:daily", "validation:keep:daily"):
            answers += held_out(name, text)
    pq.write_table(pa.Table.from_pylist(answers), folder / "answers.parquet")


def held_out(name: str, text: str) -> list[dict]:
    """Answers to the prompts of a forgetting or keep set; LWF lets go of the third one.

    SFT gives the old answer to all, LWF to all but the third. The last prompt is a text.
    """
    return [
        {
            "model": model,
            "set": name,
            "id": str(i),
            "prompt": f"{name} {i}? {text}" if i < 5 else "",
            "reference": "",
            "generated": f"{model} says {i} {text}" if i < 5 else "",
            "correct": None,
            "old_answer": None if i == 5 else model != "lwf" or i != 2,
        }
        for i in range(6)
        for model in ("base", "sft", "lwf")
    ]
