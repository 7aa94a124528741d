"""The three outcomes and the headroom of a run in words, for pages and terminals.

Nothing here imports torch.
"""

from typing import NamedTuple

from letgo.report.formats import decimal, points
from letgo.run.folder import Row

NAMES = {"learned": "Learned", "let_go": "Let go", "kept": "Kept"}
QUESTIONS = {
    "learned": "learned: is the task learned?",
    "let_go": "let go: is the old answer gone?",
    "kept": "kept: is the rest as it was?",
}


HABIT_QUESTION = "let go: is the habit gone?"


def question(outcome: str, figure: str) -> str:
    """What an outcome with this deciding figure asks."""
    return HABIT_QUESTION if figure in ("loops", "pattern") else QUESTIONS[outcome]


class Measure(NamedTuple):
    """How a figure of an outcome is written.

    Attributes:
        title: what is measured, with its unit.
        factor: that turns a value of `metrics.json` into this unit.
        digits: decimals.
    """

    title: str
    factor: int
    digits: int

    def write(self, value: float | None, sign: str = "-") -> str:
        """A value of `metrics.json` in this unit; `sign` as in `formats.decimal`."""
        return decimal(None if value is None else self.factor * value, self.digits, sign)

    def write_interval(self, limits: list[float | None], sign: str = "-") -> str:
        """An interval of `metrics.json`; empty where fewer than two values were measured."""
        if None in limits:
            return ""
        return " to ".join(self.write(limit, sign) for limit in limits)


MEASURES = {
    "accuracy": Measure("right answers, %", 100, 1),
    "score": Measure("score of the answers, 0 to 100", 100, 1),
    "reference_nll": Measure("NLL of right answers, nats per token", 1, 3),
    "old_answers": Measure("old answers, %", 100, 1),
    "old_nll": Measure("NLL of old answers, nats per token", 1, 3),
    "likelihood_accuracy": Measure("right by likelihood, %", 100, 1),
    "likelihood_accuracy_whole": Measure("right by likelihood, not per token, %", 100, 1),
    "kl": Measure("KL from the base model, nats per token", 1, 3),
    "same_answers": Measure("answers as before, %", 100, 1),
    "neutral_perplexity": Measure("perplexity of neutral text", 1, 2),
    "loops": Measure("answers that repeat themselves, %", 100, 1),
    "pattern": Measure("answers with the pattern, %", 100, 1),
    "endless": Measure("answers that do not end, %", 100, 1),
    "relearned": Measure("old answers, relearned, %", 100, 1),
}


def measure(figure: str) -> Measure:
    """How the values of a figure are written."""
    return MEASURES.get(figure, Measure(figure, 1, 3))


def measure_of_changes(figure: str) -> Measure:
    """How differences of a figure are written; those of perplexities are of NLLs."""
    share = measure(figure).factor == 100
    return Measure("points", 100, 1) if share else Measure("nats per token", 1, 3)


def summaries(outcomes: Row) -> list[str]:
    """For each outcome its name, its deciding figure and the value of every model.

    `outcomes` is that of `metrics.json`.
    """
    lines = []
    for outcome, main in outcomes.items():
        how = measure(main["figure"])
        values = [
            f"{model if model == 'base' else model.upper()} {how.write(main[model]['value'])}"
            for model in ("base", "sft", "lwf")
            if model in main
        ]
        lines.append(f"{NAMES[outcome]}: {how.title}: {', '.join(values)}")
    return lines


# What is said of a model in each outcome; {} is the figure of the model.
PLAIN = {
    "accuracy": "answers {} % of the test prompts right",
    "score": "scores {} of 100 points with its answers to the test prompts",
    "old_answers": "gives the base model's old answer to {} % of the held-out forgetting prompts",
    "loops": "repeats itself in {} % of its answers to the test prompts",
    "pattern": "shows the pattern in {} % of its answers to held-out prompts",
    "kl": "is {} nats per token from the base model on held-out prompts that are to be kept",
}


def in_plain_words(outcomes: Row) -> list[str]:
    """A sentence for each outcome on what became of it, for the test prompts."""
    sentences = []
    for outcome, main in outcomes.items():
        values = {
            model: measure(main["figure"]).write(main[model]["value"])
            for model in ("lwf", "sft")
            if model in main
        }
        ours = PLAIN[main["figure"]].format(values["lwf"])
        theirs = f" (plain fine-tuning: {values['sft']})" if "sft" in values else ""
        sentences.append(f"{NAMES[outcome]}: LWF's model {ours}{theirs}.")
    return sentences


def short_change(main: Row) -> str:
    """LWF minus SFT in an outcome, with a star if its 95 % interval excludes 0; empty without SFT.

    `main` is an outcome of `metrics.json`.
    """
    pair = main.get("lwf_minus_sft")
    if pair is None:
        return ""
    low, high = pair["ci95"]
    star = "*" if low is not None and (low > 0 or high < 0) else ""
    return measure_of_changes(main["figure"]).write(pair["difference"], "+") + star


def rules_line(metrics: Row) -> str:
    """Which rules judge the answers; empty where all follow from the right answers."""
    rules = ", ".join(f"{task} by {rule}" for task, rule in (metrics.get("rules") or {}).items())
    return f"answers are judged: {rules}" if rules else ""


def corpus_rows(metrics: Row) -> list[tuple[str, dict[str, str]]]:
    """The corpus scores of translations by set: for each model and metric a title and values."""
    corpus = metrics.get("corpus") or {}
    rows: dict[str, dict[str, str]] = {}
    for name, models in corpus.items():
        for model, scores in models.items():
            label = model if model == "base" else model.upper()
            for metric, title in (("chrf", "chrF"), ("bleu", "BLEU")):
                values = rows.setdefault(f"{label}, {title} of the corpus", {})
                values[name] = decimal(scores[metric]["value"], 1)
    return list(rows.items())


def headroom_line(found: Row) -> str:
    """The headroom in a sentence; `found` is the content of `headroom.json`."""
    if not found:
        return "headroom: not measured; it needs a validation set and --optimum full"
    low, high = found["ci95"]
    return (
        f"headroom: of {found['n']} validation examples plain fine-tuning errs on "
        f"{found['errors']}, on {found['old_answers']} of them with the base model's own answer. "
        f"Forgetting can gain at most {points(found['share'])} points on the learning task "
        f"[{points(low)}, {points(high)}]."
    )
