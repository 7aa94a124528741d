"""The page of a run, from the files of its folder."""

import base64
import hashlib
import shlex
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from letgo.report import formats, tables
from letgo.report.drawing import inline
from letgo.report.figure_data import collect, has_texts, scored_texts
from letgo.report.figures import draw_all
from letgo.report.outcomes import NAMES, corpus_rows, headroom_line, rules_line
from letgo.run import folder as files
from letgo.run.folder import Row
from letgo.scoring.scores import SCORES

_CARDS = 5  # texts at each end, in full
_TABLE_ROWS = 150  # texts at each end, in the table
_ANSWERS = 4  # of each set and outcome
_EXAMPLES = 4  # held-out prompts, of forgetting sets and of keep sets


def render(folder: Path) -> str:
    """The page of a run: one self-contained HTML document; equal folders give equal pages.

    Training logs, metrics, answers and stages may be missing, and in a run without forgetting sets
    the texts; the page then says so.

    Raises:
        InputError: the folder lacks a required file.
    """
    texts = scored_texts(folder)
    data = collect(folder, texts)
    script = resources.files("letgo.report").joinpath("lists.js").read_text(encoding="utf-8")
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            name=folder.resolve().name,
            script=Markup(script),
            policy=_policy(script),
            stages=files.read_json(folder / "stages.json"),
            figure_data=data,
            figures={name: inline(name, drawing) for name, drawing in draw_all(data).items()},
            first_examples=files.read_json(folder / files.FIRST_EXAMPLES).get("examples", []),
            **_settings(folder),
            **_results(folder),
            **_answers(folder),
            **(_texts(folder, texts, data.texts) if has_texts(folder) else {"has_texts": False}),
        )
    )


def _settings(folder: Path) -> Row:
    config = files.read_config(folder)
    file = folder / "config.yaml"
    return {
        "config": config,
        "config_text": file.read_text(encoding="utf-8"),
        "command": f"letgo run --config {shlex.quote(str(file))} --output_dir NEW",
        "provenance": config.get("provenance") or {},
        "data": tables.data_origins(config),
    }


def _results(folder: Path) -> Row:
    metrics = files.read_json(folder / files.METRICS.name)
    results, outcomes = metrics.get("models") or {}, metrics.get("outcomes") or {}
    found, sets = metrics.get("headroom"), tables.evaluated_sets(results)
    return {
        "verdict": metrics.get("verdict"),
        "sentence": metrics.get("sentence") or "",
        "compares": bool(metrics.get("verdict_parts")),
        "outcomes": tables.outcome_rows(outcomes),
        "unmeasured": [name for key, name in NAMES.items() if key not in outcomes],
        "headroom": headroom_line(found) if found else "",
        "results": results,
        "rules": rules_line(metrics),
        "corpus": corpus_rows(metrics),
        "corpus_sets": [n for n in sets if n in (metrics.get("corpus") or {})],
        "scored": any("score" in cell for sets in results.values() for cell in sets.values()),
        "sets": sets,
        "difference": metrics.get("lwf_minus_sft") or {},
        # It is one of the figures of what was kept.
        "perplexity": {} if outcomes else metrics.get("neutral_perplexity") or {},
    }


def _answers(folder: Path) -> Row:
    file = folder / files.ANSWERS.name
    questions = tables.compare_answers(files.read_table(file).to_pylist() if file.is_file() else [])
    return {
        "let_go_examples": tables.let_go_examples(questions, _EXAMPLES),
        "kept_examples": tables.kept_examples(questions, _EXAMPLES),
        "counts": tables.count_outcomes(questions),
        "questions": tables.sample(questions, _ANSWERS),
    }


def _texts(folder: Path, texts: list[Row], scored: list[Row]) -> Row:
    """What the page says about texts; `scored` are those with a confidence."""
    most_confident, least_confident = tables.extremes(scored, _CARDS)
    top, bottom = tables.extremes(scored, _TABLE_ROWS)
    return {
        "has_texts": True,
        "texts": texts,
        "meaning": _meaning(texts[0]["score"]) if texts else "missing",
        "constants": files.read_score_constants(folder),
        "most_confident": most_confident,
        "least_confident": least_confident,
        "table_rows": top + bottom[::-1],
        "decisions": tables.person_decisions(texts),
    }


def _meaning(score: str) -> str:
    """What a score measures, and its name; the name alone for a score of another version."""
    return f"{SCORES[score].meaning} ({score})" if score in SCORES else score


def _policy(script: str) -> str:
    """A Content-Security-Policy: only this script may run, whatever a text contains."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; "
        f"img-src data:; script-src 'sha256-{digest}'"
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("letgo.report", ""),
        autoescape=True,
        finalize=formats.clean_output,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("decimal", "duration", "memory", "p_value", "percent", "points", "significant"):
        environment.filters[name] = getattr(formats, name)
    environment.filters |= {"shorten": formats.shorten, "sentence": formats.sentence}
    return environment
