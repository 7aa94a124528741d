"""The figures of a run: what they show, their hover texts, and files for papers."""

import math
import re
from xml.etree import ElementTree

import pytest
from helpers.report_runs import make_run

from letgo.report.drawing import FORMATS, inline
from letgo.report.figure_data import collect
from letgo.report.figures import confidence, draw_all, save_figures
from letgo.report.formats import clean
from letgo.report.page import render
from letgo.run.folder import read_texts

OUTCOMES = {"learned", "let-go", "kept"}
TEXTS = {"confidence", "confidence-tokens", "confidence-loss_base", "layers"}
NAMES = {"training", *TEXTS, *OUTCOMES}


def hover_texts(folder) -> dict[str, list[str]]:
    """The texts of every `<title>` element of each figure."""
    drawings = draw_all(collect(folder, read_texts(folder).to_pylist()))
    return {
        name: [
            title.text or ""
            for title in ElementTree.fromstring(inline(name, drawing)).iter("title")
        ]
        for name, drawing in drawings.items()
    }


def test_marks_have_the_numbers_of_the_run_as_hover_texts(tmp_path):
    texts = hover_texts(make_run(tmp_path / "run", text="why"))
    assert set(texts) == NAMES
    one = "SFT 75.0 (95 % interval 70.0 to 81.2), n = 40"
    assert texts["let-go"].count(one) == 2  # of the mark and of the line
    assert texts["kept"][-1] == "LWF 0.250 (95 % interval 0.200 to 0.312), n = 40"
    training = texts["training"]
    assert training.count("step 2: LWF learning loss 1.500") == 1
    assert len([text for text in training if "LWF learning loss" in text]) == 32
    assert len([text for text in training if "SFT learning loss" in text]) == 32
    nll = [text for text in training if "unlearning NLL 1.500" in text]
    assert [int(re.findall(r"\d+", text)[0]) for text in nll] == [4, 8, 12, 16, 20, 24, 28, 32]
    clipped = [text for text in training if "gradient clipped (1)" in text]
    assert [int(re.findall(r"\d+", text)[0]) for text in clipped] == [12, 16, 20, 24, 28, 32]
    assert "step 32: paused: loss had risen (1)" in training
    bars = [re.search(r": (\d+) texts, (\d+) selected", text) for text in texts["confidence"]]
    pairs = [(int(bar[1]), int(bar[2])) for bar in bars]
    # A bin with selected texts has two bars, and both have its numbers.
    assert sum(n / (2 if chosen else 1) for n, chosen in pairs) == 60
    points = texts["confidence-tokens"]
    assert len(points) == len(set(points)) == 60
    assert points[1].startswith("dental: confidence 0.")
    assert points[1].endswith("dental? why\n1 why")
    assert texts["layers"] == [
        "mlp.up_proj: 50.0 %",
        "self_attn.q_proj: 50.0 %",
        "block 0: 16.7 %",
        "block 1: 33.3 %",
        "block 2: 50.0 %",
    ]


def test_hover_texts_stay_with_their_marks_where_losses_are_not_finite(tmp_path):
    folder = make_run(tmp_path / "run")
    lines = (folder / "train_log.jsonl").read_text().splitlines()
    lines[1] = '{"step": 2, "loss": NaN}'
    (folder / "train_log.jsonl").write_text("\n".join(lines))
    texts = hover_texts(folder)["training"]
    assert "step 3: LWF learning loss 1.000" in texts
    assert not any("step 2: LWF learning loss" in text for text in texts)


def test_hostile_texts_are_text_under_the_mouse(tmp_path):
    name = "</title></svg><script>x</script> &amp; \u202e\x07"
    folder = make_run(tmp_path / "run", sets=(name, "law"), count=4)
    texts = hover_texts(folder)
    points = texts["confidence-tokens"]
    assert points[0].startswith("</title></svg><script>x…: confidence")
    assert "<script>alert(1)</script> \ufffdtxt.exe\ufffd" in points[4]
    assert all(clean(text) == text for group in texts.values() for text in group)
    pictures = draw_all(collect(folder, read_texts(folder).to_pylist()))
    svg = inline("x", pictures["confidence"])
    assert not re.search(r"</title></svg>|<script", svg)


def test_text_that_looks_like_an_id_or_a_colour_is_unchanged():
    name = '#010101 id="a" url(#b'
    rows = [{"forget_set": name, "confidence": 0.5, "selected": False}]
    assert f"{name}, n = 1" in inline("x", confidence(rows, None))


def test_files_for_papers(tmp_path):
    folder = make_run(tmp_path / "run")
    paths = save_figures(folder, list(FORMATS))
    assert {path.name for path in paths} == {f"{n}.{suffix}" for n in NAMES for suffix in FORMATS}
    assert sorted(paths) == sorted((folder / "figures").iterdir())
    begins = {".pdf": b"%PDF", ".svg": b"<?xml", ".png": b"\x89PNG"}
    for path in paths:
        assert path.read_bytes().startswith(begins[path.suffix])
    before = {path: path.read_bytes() for path in paths if path.suffix != ".png"}
    save_figures(folder, ["pdf", "svg"])
    assert before == {path: path.read_bytes() for path in before}


def test_figures_of_a_run_without_forgetting_sets(tmp_path):
    paths = save_figures(make_run(tmp_path / "run", sets=()), ["svg"])
    assert {path.stem for path in paths} == NAMES - TEXTS - {"let-go"}


def test_many_texts_give_a_small_page(tmp_path):
    html = render(make_run(tmp_path / "run", count=2500, text="word " * 100))
    assert len(html.encode()) < 1_000_000
    assert "data:image/png;base64," in html


def test_as_many_marks_as_have_hover_texts_give_a_small_page(tmp_path):
    folder = make_run(tmp_path / "run", count=400, text="word " * 100)
    assert len(hover_texts(folder)["confidence-tokens"]) == 800
    assert len(render(folder).encode()) < 1_500_000


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
    assert "<svg" in inline("a", confidence(rows, max(values)))
