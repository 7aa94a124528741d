"""The report: its numbers, its safety with hostile texts, its behaviour on incomplete folders."""

import base64
import gzip
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.report_runs import make_run, write_lines
from plotly.graph_objects import Figure
from plotly.offline import get_plotlyjs

from letgo import report
from letgo.errors import InputError
from letgo.report.curves import read_curves
from letgo.report.drawing import COLOURS, FORMATS, inline
from letgo.report.figure_data import collect, rank_correlation
from letgo.report.figures import confidence, save_figures
from letgo.report.formats import clean, decimal, duration, memory, p_value, shorten
from letgo.report.page import render
from letgo.report.plots import plot_all
from letgo.report.tables import compare_answers, data_origins, decided, extremes, outcomes, sample
from letgo.run.folder import read_texts
from letgo.scoring.explain import layer_shares

VOID = {"meta", "br", "img", "hr", "link", "input"}


class Page(HTMLParser):
    """Collects what the tests ask of a page, and fails on tags that do not nest."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: dict[str, str] = {}
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
            name = self.tags[-1][1].get("id") or "own"
            self.scripts[name] = self.scripts.get(name, "") + data
        elif self.open and self.open[-1] != "style":
            self.text += data


def test_page_tells_the_numbers_of_the_run(tmp_path):
    folder = make_run(tmp_path / "my run")
    page = Page(render(folder))
    for part in (
        "No gain shown on the validation set: model/ is that of plain fine-tuning (SFT).",
        "On the test set LWF minus SFT is \u22122.3 percentage points",
        "interval \u22124.6 to +0.1, p = 0.012, n = 321",
        "test set n = 321",
        "61.3 % 58.7 to 63.9",
        "validation set n = 77",
        "50.0 %",
        "forgetting set law n = 321",
        "25.0 %",
        "\u22122.3 \u22124.6 to +0.1, p = 0.012",
        "neutral text perplexity",
        "21.25",
        "23.75",
        "+0.048 \u2013 to \u2013, p = 1.000",
        "alpha = 1.5, constant = 0.25",
        "There were 8 unlearning steps. The guards: 8 examples in them were skipped",
        "6 steps were clipped",
        "2 were left out because the learning loss had risen",
        "1 h 02 min",
        "2.0 GB",
        "sha256:abc",
        "letgo run --config '" + str(folder / "config.yaml") + "' --output_dir NEW",
    ):
        assert part in page.text.replace("\xa0", " "), part


@pytest.mark.parametrize(
    ("verdict", "models", "said"),
    [
        (
            "lwf",
            {"lwf": {"validation": {"accuracy": 0.5, "n": 2, "ci95": [0.1, 0.9]}}},
            "LWF gained on the validation set: model/ is LWF's.",
        ),
        ("sft", {}, "Nothing was unlearned: model/ is that of plain fine-tuning (SFT)."),
        ("no baseline", {}, "not run to its end (optimum lora). model/ is LWF's."),
    ],
)
def test_verdict_in_words(tmp_path, verdict, models, said):
    folder = make_run(tmp_path / "run")
    (folder / "metrics.json").write_text(json.dumps({"models": models, "verdict": verdict}))
    with (folder / "config.yaml").open("a") as config:
        config.write("optimum: lora\n")
    assert said in Page(render(folder)).text


def test_page_is_accessible_and_loads_nothing(tmp_path):
    html = render(make_run(tmp_path / "run"))
    page = Page(html)
    tags = [tag for tag, _ in page.tags]
    assert html.lstrip().startswith("<!DOCTYPE html>")
    assert ("html", {"lang": "en"}) in page.tags
    assert not {"link", "img", "iframe", "object"} & set(tags)
    assert not re.search(r"@import|url\((?!#)", html)
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png"))
        assert not any(name.startswith("on") for name in attributes)
        assert attributes.get("type") != "module"
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")
    pictures = [attributes for _, attributes in page.tags if attributes.get("role") == "img"]
    assert len(pictures) == tags.count("svg") == 5
    assert all(len(picture["aria-label"]) > 20 for picture in pictures)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert [i for i, level in enumerate(levels) if level == 1] == [0]
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_hostile_text_is_only_text(tmp_path):
    name = "</svg><script>$x$ &\u202e\x07"
    html = render(make_run(tmp_path / "run", sets=(name, "_law"), count=4))
    page = Page(html)
    assert [attributes.get("id") for tag, attributes in page.tags if tag == "script"] == [
        "plots",
        "plotly",
        None,
    ]
    assert "<script>alert(1)</script> \ufffdtxt.exe\ufffd" in page.text
    assert "{{ 7*7 }} &amp; '\"" in page.text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)
    html.encode("utf-8")


def test_long_text_is_visibly_shortened(tmp_path):
    html = render(make_run(tmp_path / "run", count=1, text="word " * 3000))
    for part in ("<details>", "word…", "15,00"):
        assert part in html
    assert len(html.replace(Page(html).scripts["plotly"], "")) < 500_000


def test_equal_folders_give_equal_pages(tmp_path):
    folder = make_run(tmp_path / "run")
    assert render(folder) == render(folder)


@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("count", [0, 1, 3, 12])
def test_small_and_constant_data(tmp_path, count, equal):
    page = Page(render(make_run(tmp_path / "run", sets=("one",), count=count, equal=equal)))
    assert f"of {count} texts" in page.text


@pytest.mark.parametrize(
    "name",
    ["train_log.jsonl", "probe/train_log.jsonl", "metrics.json", "answers.parquet", "stages.json"],
)
def test_optional_file_may_be_missing(tmp_path, name):
    folder = make_run(tmp_path / "run")
    (folder / name).unlink()
    Page(render(folder))


def test_everything_optional_missing(tmp_path):
    folder = make_run(tmp_path / "run")
    for name in (
        "train_log.jsonl",
        "probe/train_log.jsonl",
        "metrics.json",
        "answers.parquet",
        "stages.json",
    ):
        (folder / name).unlink()
    (folder / "config.yaml").write_text("model: tiny\n")
    page = Page(render(folder))
    assert "have not been evaluated" in page.text
    assert "no training log" in page.text


def test_required_file_missing(tmp_path):
    folder = make_run(tmp_path / "run")
    (folder / "scores.parquet").unlink()
    with pytest.raises(InputError, match=r"scores\.parquet"):
        render(folder)


def test_no_unlearning_steps_and_partial_metrics(tmp_path):
    folder = make_run(tmp_path / "run")
    write_lines(folder / "train_log.jsonl", [{"step": 1, "loss": 2.0}, {"step": 2}])
    cell = {"accuracy": 0.5, "n": 2, "ci95": [None, None]}
    metrics = {"models": {"sft": {"learn": cell}, "lwf": {"forget:law": cell}}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert "no unlearning steps" in Page(render(folder)).text


def test_a_browser_may_run_the_scripts_of_the_page_and_nothing_else(tmp_path):
    page = Page(render(make_run(tmp_path / "run")))
    policy = next(
        attributes["content"]
        for tag, attributes in page.tags
        if tag == "meta" and "http-equiv" in attributes
    )
    library = gzip.decompress(base64.b64decode(page.scripts["plotly"])).decode()
    assert library == get_plotlyjs()
    hashes = [
        "'sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() + "'"
        for script in (page.scripts["own"], library)
    ]
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives.pop("script-src").split() == hashes
    assert directives == {
        "default-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
    }


def test_plots_are_what_plotly_knows_and_stand_for_every_drawing(tmp_path):
    name = "</script><b>bold</b> <a href='https://x.org'>a</a>\u202e"
    page = Page(render(make_run(tmp_path / "run", sets=(name, "law"))))
    plots = json.loads(page.scripts["plots"])
    drawn = [a["id"] for _, a in page.tags if a.get("class") == "plot"]
    assert sorted(drawn) == sorted(f"plot-{name}" for name in plots)
    assert set(plots) == {
        "training",
        "confidence",
        "confidence-tokens",
        "confidence-loss_base",
        "layers",
    }
    for plot in plots.values():
        Figure(json.loads(json.dumps(plot).replace('"ink"', '"black"')))  # raises if it is not
        for text in strings(plot):
            assert not re.search(r"<(?!br>|/?extra>)", text), text
            assert clean(text) == text


def strings(value):
    """Every text in a plot."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value


def test_plots_tell_the_numbers_of_the_run(tmp_path):
    folder = make_run(tmp_path / "run")
    plots = plot_all(collect(folder, read_texts(folder)))
    by_name = {trace["name"]: trace for trace in plots["training"]["data"]}
    assert by_name["LWF"]["x"][:5] == [1, 2, 3, 4, 5]
    assert by_name["unlearning step"]["x"] == [4, 8, 12, 16, 20, 24, 28, 32]
    assert by_name["gradient clipped"]["x"] == [12, 16, 20, 24, 28, 32]
    assert by_name["pause: loss had risen"]["text"] == [1, 1]
    every = [trace for trace in plots["confidence"]["data"] if trace["hoverinfo"] == "text"]
    assert [sum(trace["y"][:-1]) for trace in every] == [30, 30]
    assert [len(trace["x"]) for trace in plots["confidence-tokens"]["data"]] == [30, 30]
    kinds, blocks = plots["layers"]["data"]
    assert dict(zip(kinds["y"], kinds["x"], strict=True)) == pytest.approx(
        {"self_attn.q_proj": 0.5, "mlp.up_proj": 0.5}
    )
    assert dict(zip(blocks["x"], blocks["y"], strict=True)) == pytest.approx(
        {"0": 1 / 6, "1": 2 / 6, "2": 3 / 6}
    )


def test_letters_stand_out_in_both_themes():
    css = (Path(report.__file__).parent / "page.css").read_text()
    blocks = re.findall(r":root {.*?}", css, re.S)
    light, dark, printed = (dict(re.findall(r"--(\w+): #(\w+)", block)) for block in blocks)
    assert "@media (prefers-color-scheme: dark)" in css
    assert set(light) == set(dark) == set(printed)
    for theme in (light, dark, printed):
        for name in ("ink", "quiet", "right", "wrong"):
            assert contrast(theme[name], theme["paper"]) >= 4.5
            assert contrast(theme[name], theme["card"]) >= 4.5
        for colour in COLOURS:
            assert contrast(colour[1:], theme["paper"]) >= 3


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, as WCAG defines it."""
    shades = []
    for colour in (one, other):
        digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        red, green, blue = (
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts
        )
        shades.append(0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05)
    return max(shades) / min(shades)


def test_decisions_of_a_person_are_listed(tmp_path):
    folder = make_run(tmp_path / "run")
    assert "Decided by a person" not in render(folder)
    rows = pq.read_table(folder / "selection.parquet").to_pylist()
    for i, row in enumerate(rows):
        person = i in (3, 40)
        row["decided_by"] = "person" if person else "score"
        row["decided_at"] = f"2026-01-0{i % 9 + 1}T10:00:00+00:00" if person else None
    rows[3]["selected"], rows[40]["selected"] = False, True
    pq.write_table(pa.Table.from_pylist(rows), folder / "selection.parquet")
    text = Page(render(folder)).text
    table = text[text.index("Decided by a person") : text.index("Most confident")]
    assert "2 of 60 texts" in table
    assert 0 < table.index("forget2026-01-05T10:00") < table.index("keep2026-01-04T10:00")
    decisions = decided(read_texts(folder))
    assert [(row["id"], row["selected"]) for row in decisions] == [
        ("law-10", True),
        ("dental-3", False),
    ]


def test_figures_for_papers(tmp_path):
    folder = make_run(tmp_path / "run")
    made = save_figures(folder, list(FORMATS))
    names = {"training", "confidence", "confidence-tokens", "confidence-loss_base", "layers"}
    assert {path.name for path in made} == {f"{n}.{kind}" for n in names for kind in FORMATS}
    assert sorted(made) == sorted((folder / "figures").iterdir())
    begins = {".pdf": b"%PDF", ".svg": b"<?xml", ".png": b"\x89PNG"}
    for path in made:
        assert path.read_bytes().startswith(begins[path.suffix])
    before = {path: path.read_bytes() for path in made if path.suffix != ".png"}
    save_figures(folder, ["pdf", "svg"])
    assert before == {path: path.read_bytes() for path in before}


def test_many_texts_stay_small(tmp_path):
    html = render(make_run(tmp_path / "run", count=2500, text="word " * 100))
    assert len(html.encode()) < 5_000_000
    assert "data:image/png;base64," in html


def test_follow_counts_learning_steps():
    log = [
        {"step": 1, "loss": 2.0},
        {
            "step": 2,
            "unlearn/nll": 1.0,
            "unlearn/steps": 1,
            "unlearn/skipped": 3,
            "unlearn/paused": 2,
        },
        {"step": 3, "loss": None},
        {"step": 4, "loss": 1.0},
        {"step": 5, "unlearn/nll": 0.0, "unlearn/steps": 2},
        {"train_loss": 1.5},
    ]
    training = read_curves(log)
    assert training.learning == ([1, 3], [2.0, 1.0])
    assert training.unlearning == ([1], [1.0])
    assert training.unlearning_steps == 2
    assert training.guards == {
        "skipped": ([1], [3]),
        "clipped": ([], []),
        "paused": ([1], [2]),
        "idle": ([3], [1]),
    }


def test_picks():
    rows = [
        {"id": str(i), "forget_set": "a", "confidence": i / 10, "selected": i > 6} for i in range(8)
    ]
    confident, doubtful = extremes(rows, 5)
    assert [row["id"] for row in confident] == ["7", "6", "5", "4", "3"]
    assert [row["id"] for row in doubtful] == ["0", "1", "2"]


def test_outcomes_of_questions():
    answers = [
        {"set": name, "id": id_, "model": model, "correct": correct, "generated": "x"}
        for name, id_, right in (
            ("forget:law", "0", (False, False, False)),
            ("learn", "1", (False, True, True)),
            ("learn", "2", (False, True, False)),
            ("learn", "3", (True, False, True)),
            ("learn", "4", (True, True, False)),
            ("validation", "5", (True, True, True)),
            ("neutral", "6", (None, None, None)),
            ("forget:talk", "7", (None, None, None)),
        )
        for model, correct in zip(("base", "sft", "lwf"), right, strict=True)
    ]
    questions = compare_answers(answers)
    assert outcomes(questions) == {
        "learn": {"gained": 1, "lost": 2, "both right": 1, "both wrong": 0},
        "validation": {"gained": 0, "lost": 0, "both right": 1, "both wrong": 0},
        "forget:law": {"gained": 0, "lost": 0, "both right": 0, "both wrong": 1},
    }
    sets = [question["set"] for question in questions]
    assert sets[-3:] == ["validation", "forget:law", "forget:talk"]
    assert [question["id"] for question in sample(questions, 1)] == ["3", "2", "1", "5", "0", "7"]
    assert questions[-1]["outcome"] == "without a right answer"
    # Without plain fine-tuning the base model stands in.
    alone = compare_answers([row for row in answers if row["model"] != "sft"])
    assert [question["outcome"] for question in alone][:2] == ["gained", "both wrong"]


def test_data_origins():
    config = {
        "learn": "a.jsonl",
        "learn_test": None,
        "forget": ["b.csv"],
        "learn_validation": "v.csv",
        "provenance": {
            "data": {"learn": "1", "learn_test": "2", "learn_validation": "3", "forget b": "4"},
            "examples": {"learn": 7},
        },
    }
    rows = [(row["source"], row["examples"], row["fingerprint"]) for row in data_origins(config)]
    assert rows == [
        ("a.jsonl", 7, "1"),
        ("kept apart from learn", "", "2"),
        ("v.csv", "", "3"),
        ("b.csv", "", "4"),
    ]
    assert data_origins({}) == []


@pytest.mark.parametrize(
    "values",
    [
        [1e-9, 1e-3, 5.0],
        [0.0, 0.0],
        [1e20, 1e20],
        [-1.0, 5.0],
        [0.1, math.nextafter(0.1, 1)],
    ],
)
def test_histogram_of_any_range(values):
    rows = [{"forget_set": "a", "confidence": value, "selected": True} for value in values]
    assert "<svg" in inline("a", confidence(rows, max(values))).svg


def test_layers_come_in_their_order():
    names = [f"model.layers.{i}.mlp.up_proj" for i in (10, 9, 0)]  # as a backward pass meets them
    shares = layer_shares({b"shares": json.dumps(dict.fromkeys(names, 2.0)).encode()})
    assert list(shares["block"]) == ["block 0", "block 9", "block 10"]
    assert shares["matrix"] == pytest.approx({"mlp.up_proj": 1.0})
    assert layer_shares(None) == layer_shares({}) == {}


def test_rank_correlation():
    assert rank_correlation([1, 2], [1, 2]) is None
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None
    assert rank_correlation([1, 2, 3], [1, 4, 9]) == pytest.approx(1)


def test_formats():
    assert clean("a\r\nb\x00\u202e\ud800\tc") == "a\nb\ufffd\ufffd\ufffd\tc"
    assert [shorten(text, 4) for text in ("abcdef", "abcd")] == ["abc…", "abcd"]
    assert [decimal(x) for x in (-0.001, -1.5, None, math.nan)] == [
        "0.00",
        "\u22121.50",
        "\u2013",
        "\u2013",
    ]
    assert decimal(1.5, 1, "+") == "+1.5"
    assert [p_value(p) for p in (0.0001, 0.25)] == ["p\xa0<\xa00.001", "p\xa0=\xa00.250"]
    assert [duration(s) for s in (8.21, 185)] == ["8.2\xa0s", "3\xa0min 05\xa0s"]
    assert duration(7620) == "2\xa0h 07\xa0min"
    assert [memory(m) for m in (12.0, 1500.0)] == ["12\xa0MB", "1.5\xa0GB"]
