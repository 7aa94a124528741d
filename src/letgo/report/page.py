"""The page of a run: what is picked from its folder, and how it comes into the template."""

import shlex
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from letgo.report import formats
from letgo.report import tables as picks
from letgo.report.drawing import inline
from letgo.report.figure_data import collect
from letgo.report.figures import draw_all
from letgo.report.plots import plot_all
from letgo.report.scripts import scripts
from letgo.run import folder as files
from letgo.scoring.scores import SCORES

MODELS = {
    "base": "as it came",
    "sft": "plain fine-tuning",
    "lwf": "with forgetting",
}
_SETTINGS = (
    "model",
    "learn",
    "learn_test",
    "learn_validation",
    "forget",
    "forget_fraction",
    "optimum",
    "score",
    "alpha",
    "fisher_kind",
    "unlearning_interval",
    "rescore_interval",
    "unlearning_schedule",
    "unlearning_loss",
    "unlearning_strength",
    "unlearning_rate",
    "unlearning_state",
    "unlearning_ceiling",
    "regularizer",
    "learning_rate",
    "num_train_epochs",
    "per_device_train_batch_size",
    "use_peft",
    "seed",
)
_SHOWN_TEXTS = 5  # at each end, as cards
_LISTED_TEXTS = 150  # at each end, in the table
_LISTED_DECISIONS = 100
_SHOWN_ANSWERS = 4  # of each set and outcome


def render(folder: Path) -> str:
    """Write the page that tells what a run did.

    Args:
        folder: the run's folder. Training logs, metrics, answers and stages may be missing; the
            page then says so.

    Returns:
        One HTML document that needs nothing beside it. Equal folders give equal pages.

    Raises:
        InputError: the folder lacks a file no page can do without.
    """
    files.check(folder)
    config = files.read_config(folder)
    settings_file = shlex.quote(str(folder / "config.yaml"))
    metrics = files.read_json(folder / "metrics.json")
    results = metrics.get("models") or {}
    difference = metrics.get("lwf_minus_sft") or {}
    texts = files.read_texts(folder)
    shown = collect(folder, texts)
    confident, doubtful = picks.extremes(shown.texts, _SHOWN_TEXTS)
    most, least = picks.extremes(shown.texts, _LISTED_TEXTS)
    decided = picks.decided(texts)
    questions = picks.compare_answers(files.read_rows(folder / "answers.parquet"))
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            name=folder.resolve().name,
            command=f"letgo run --config {settings_file} --output_dir NEW",
            config=config,
            config_text=(folder / "config.yaml").read_text(encoding="utf-8"),
            settings={key: config[key] for key in _SETTINGS if key in config},
            provenance=config.get("provenance") or {},
            data=picks.data_origins(config),
            models=MODELS,
            results=results,
            difference=difference,
            paired=difference.get("learn"),
            asked=results.get("lwf", {}).get("learn", {}).get("n"),
            verdict=metrics.get("verdict"),
            validated="validation" in results.get("lwf", {}),
            perplexity=metrics.get("neutral_perplexity") or {},
            sets=picks.evaluated_sets(results),
            texts=texts,
            selected=sum(row["selected"] for row in texts),
            meaning=_meaning(str(texts[0]["score"])) if texts else "missing",
            constants=files.read_score_constants(folder),
            shown=shown,
            pictures={name: inline(name, drawing) for name, drawing in draw_all(shown).items()},
            plots=plot_all(shown),
            confident=confident,
            doubtful=doubtful,
            listed=most + least[::-1],
            forget_sets=list(dict.fromkeys(row["forget_set"] for row in texts)),
            decisions=len(decided),
            decided=decided[:_LISTED_DECISIONS],
            outcomes=picks.outcomes(questions),
            questions=picks.sample(questions, _SHOWN_ANSWERS),
            stages=files.read_json(folder / "stages.json"),
            scripts=scripts(),
        )
    )


def _meaning(score: str) -> str:
    """What a score measures, with its name; the name alone for a score of another version."""
    return f"{SCORES[score].meaning} ({score})" if score in SCORES else score


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("letgo.report", ""),
        autoescape=True,
        finalize=formats.clean_output,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for make in (
        formats.decimal,
        formats.duration,
        formats.memory,
        formats.p_value,
        formats.percent,
        formats.points,
        formats.shorten,
        formats.significant,
    ):
        environment.filters[make.__name__] = make
    # Browsers read no NaN; what is not known is to be None.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    return environment
