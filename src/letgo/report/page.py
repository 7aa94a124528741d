"""The page of a run: what is picked from its folder, and how it comes into the template."""

import math
import shlex
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from letgo.report import figures, formats
from letgo.report import folder as files
from letgo.report.folder import Row
from letgo.report.training import follow

MODELS = {
    "base": "the model as it came",
    "sft": "plain fine-tuning on the learning task",
    "lwf": "the same fine-tuning with forgetting",
}
MEANINGS = {
    "fisher_distance": "how far a step on a text leads away from the model fine-tuned on the "
    "learning task, weighted by the Fisher information of that task (fisher_distance)",
    "linear": "how far a step of ascent on a text leads along the way of fine-tuning, weighted by "
    "the Fisher information of the learning task (linear)",
    "gradient": "how straight a step of ascent on a text lowers the loss of the learning task: the "
    "cosine with the learning gradient, from -1 to 1 (gradient)",
    "cosine": "how straight a step of ascent on a text leads along the way of fine-tuning: the "
    "cosine of the two, from -1 to 1 (cosine)",
    "fisher_cosine": "how straight a step of ascent on a text leads along the way of fine-tuning: "
    "their cosine, weighted by the Fisher information of the learning task (fisher_cosine)",
    "interference": "how much a text's loss rose in plain fine-tuning, in nats per token "
    "(interference)",
}
_SETTINGS = (
    "model", "learn", "learn_test", "forget", "forget_fraction", "optimum", "score", "alpha",
    "fisher_kind", "unlearning_interval",
    "unlearning_schedule", "unlearning_loss", "unlearning_strength", "unlearning_rate",
    "unlearning_state", "unlearning_ceiling", "regularizer", "learning_rate", "num_train_epochs",
    "per_device_train_batch_size", "use_peft", "seed",
)  # fmt: skip
_SHOWN_TEXTS = 5
_SHOWN_ANSWERS = 6


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
    metrics = files.read_json(folder / "metrics.json")
    results = metrics.get("models") or {}
    difference = metrics.get("lwf_minus_sft") or {}
    texts = files.read_texts(folder)
    scored = [row for row in texts if _finite(row["confidence"])]
    by_loss = [row for row in scored if _finite(row["loss_base"])]
    threshold = min((row["confidence"] for row in scored if row["selected"]), default=None)
    sft = follow(files.read_log(folder / "probe" / "train_log.jsonl"))
    lwf = follow(files.read_log(folder / "train_log.jsonl"))
    confident, doubtful = extremes(scored, _SHOWN_TEXTS)
    return _environment().get_template("page.html.jinja").render(
        name=folder.resolve().name,
        command=f"letgo run --config {shlex.quote(str(folder / 'config.yaml'))} --output_dir NEW",
        config=config,
        settings={key: config[key] for key in _SETTINGS if key in config},
        provenance=config.get("provenance") or {},
        data=data_origins(config),
        models=MODELS,
        results=results,
        difference=difference,
        paired=difference.get("learn"),
        asked=results.get("lwf", {}).get("learn", {}).get("n"),
        verdict=metrics.get("verdict"),
        sets=evaluated_sets(results),
        texts=texts,
        selected=sum(row["selected"] for row in texts),
        meaning=MEANINGS[str(texts[0]["score"])] if texts else "missing",
        constants=files.read_score_constants(folder),
        lwf=lwf,
        sft=sft,
        loss_curves=figures.loss_curves(sft, lwf),
        histogram=figures.confidence_histogram(scored, threshold) if scored else None,
        scatters=[
            figures.confidence_scatter(rows, key, label)
            for rows, key, label in (
                (scored, "tokens", "length in tokens"),
                (by_loss, "loss_base", "loss of the base model"),
            )
            if rows
        ],
        threshold=threshold,
        confident=confident,
        doubtful=doubtful,
        answers=compare_answers(files.read_rows(folder / "answers.parquet"), _SHOWN_ANSWERS),
        stages=files.read_json(folder / "stages.json"),
    )  # fmt: skip


def evaluated_sets(results: dict[str, Row]) -> list[str]:
    """Return the names of all sets a model was evaluated on, the learning task first."""
    names = dict.fromkeys(name for sets in results.values() for name in sets)
    return sorted(names, key=lambda name: name != "learn")


def data_origins(config: Row) -> list[Row]:
    """Return a row for each set of data: its name, source, number of examples, fingerprint.

    Args:
        config: the settings; the provenance in it names the sets, forgetting sets in the order in
            which the settings give their sources.
    """
    provenance = config.get("provenance") or {}
    fingerprints = provenance.get("data") or {}
    sources = {"learn": config.get("learn"), "learn_test": config.get("learn_test")}
    if not sources["learn_test"]:
        sources["learn_test"] = "kept apart from learn"
    forgotten = [name for name in fingerprints if name not in sources]
    sources.update(zip(forgotten, config.get("forget") or [], strict=False))
    examples = provenance.get("examples") or {}
    return [
        {"name": name, "source": sources.get(name, ""), "examples": examples.get(name, ""),
         "fingerprint": fingerprint}
        for name, fingerprint in fingerprints.items()
    ]  # fmt: skip


def extremes(texts: list[Row], count: int) -> tuple[list[Row], list[Row]]:
    """Return the most confident texts, and the least confident of those that are left.

    Args:
        texts: rows with "id" and "confidence".
        count: how many of each at most; both lists begin at their extreme.
    """
    ordered = sorted(texts, key=lambda row: (-row["confidence"], row["id"]))
    return ordered[:count], ordered[count:][-count:][::-1]


def compare_answers(answers: list[Row], count: int) -> list[dict[str, Row]]:
    """Return a few examples of the learning task as mappings from model to its answer.

    Args:
        answers: rows of `answers.parquet`.
        count: how many examples at most; first those that some models get right and some wrong,
            then those where only the wording differs.
    """
    examples: dict[str, dict[str, Row]] = {}
    for row in answers:
        if row["set"] == "learn":
            examples.setdefault(row["id"], {})[row["model"]] = row

    def agreement(example: dict[str, Row]) -> tuple[bool, bool]:
        rows = example.values()
        return len({row["correct"] for row in rows}) < 2, len(
            {row["generated"] for row in rows}
        ) < 2

    return sorted(examples.values(), key=agreement)[:count]


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


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
        formats.decimal, formats.duration, formats.memory, formats.p_value, formats.percent,
        formats.points, formats.shorten, formats.significant,
    ):  # fmt: skip
        environment.filters[make.__name__] = make
    return environment
