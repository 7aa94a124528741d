"""The rows of the page's tables and lists."""

from letgo.data.splits import NEUTRAL
from letgo.evaluation.asking import LABELS
from letgo.evaluation.outcomes import FIGURES
from letgo.report.outcomes import NAMES, measure, measure_of_changes
from letgo.run.folder import Row
from letgo.run.inputs import FORGET_SET, KEEP_SET, VALIDATION

_FIRST = ("learn", VALIDATION)  # sets of the learning task, listed before all other sets

# Changes of a question by whether LWF and the baseline are right.
OUTCOMES = {
    (True, False): "gained",
    (False, True): "lost",
    (True, True): "both right",
    (False, False): "both wrong",
}
NOT_JUDGED = "without a right answer"


def evaluated_sets(results: dict[str, Row]) -> dict[str, int]:
    """The number of questions of every reported set, those of the learning task first."""
    counts = {name: cell["n"] for sets in results.values() for name, cell in sets.items()}
    return {name: counts[name] for name in sorted(counts, key=_rank) if _is_reported(name)}


def direction(outcome: str, figure: str) -> str:
    """Which direction of an outcome's figure is wanted; empty for an unknown figure."""
    for one in FIGURES[outcome]:
        if one.name == figure:
            return f"{'higher' if one.higher_is_better else 'lower'} is better"
    return ""


def outcome_rows(outcomes: Row) -> list[Row]:
    """The figures of the outcomes of `metrics.json` as the page prints them.

    Returns:
        Rows with "outcome" (its key); "name", of the outcome; "decides", whether it is the deciding
        figure; "title"; "direction"; "n", of prompts; "values", by model the "value" and its
        "interval" (empty if unknown); and, where there is an SFT baseline, "change", LWF minus SFT,
        with "value", "unit", "interval" and "p".
    """
    rows = []
    for outcome, main in outcomes.items():
        for name, figure in {main["figure"]: main, **main["more"]}.items():
            how, models = measure(name), [model for model in LABELS if model in figure]
            values = {
                model: {
                    "value": how.write(figure[model]["value"]),
                    "interval": how.write_interval(figure[model]["ci95"]),
                }
                for model in models
            }
            row = {"outcome": outcome, "name": NAMES[outcome], "decides": figure is main}
            row |= {"title": how.title, "direction": direction(outcome, name), "values": values}
            rows.append(row | {"n": figure[models[-1]]["n"], "change": _change(name, figure)})
    return rows


def _change(name: str, figure: Row) -> Row:
    """LWF minus SFT, as in `outcome_rows`; empty without an SFT baseline."""
    pair = figure.get("lwf_minus_sft")
    if pair is None:
        return {}
    how = measure_of_changes(name)
    return {
        "value": how.write(pair["difference"], "+"),
        "unit": how.title,
        "interval": how.write_interval(pair["ci95"], "+"),
        "p": pair["p_value"],
    }


def data_origins(config: Row) -> list[Row]:
    """The "name", "source", "examples" (their number) and "fingerprint" of each set of data.

    Forgetting and keep sets are in the provenance in the order of their sources in the settings.
    """
    provenance = config.get("provenance") or {}
    fingerprints = provenance.get("data") or {}
    sources = {"learn": config.get("learn")}
    for name in ("learn_test", "learn_validation"):
        sources[name] = config.get(name) or "held out from learn"
    for kind in ("forget", "keep"):
        names = [name for name in fingerprints if name.startswith(f"{kind} ")]
        sources.update(zip(names, config.get(kind) or [], strict=False))
    examples = provenance.get("examples") or {}
    return [
        {"name": n, "source": sources.get(n, ""), "examples": examples.get(n, ""), "fingerprint": f}
        for n, f in fingerprints.items()
    ]


def extremes(texts: list[Row], count: int) -> tuple[list[Row], list[Row]]:
    """The `count` most confident texts, and the least confident of the others, lowest first."""
    ordered = sorted(texts, key=lambda row: (-row["confidence"], row["id"]))
    return ordered[:count], ordered[count:][-count:][::-1]


def person_decisions(texts: list[Row]) -> list[Row]:
    """The texts that a person has decided on, the latest decision first."""
    # Selections of older versions have no such columns.
    rows = [row for row in texts if row.get("decided_by") == "person"]
    return sorted(rows, key=lambda row: str(row.get("decided_at") or ""), reverse=True)


def compare_answers(answers: list[Row]) -> list[Row]:
    """Every question with the answers of all models, from rows of `answers.parquet`.

    Returns:
        Rows with "set", "id", "prompt", "reference", "answers" (by model) and "outcome": one of
        `OUTCOMES` of LWF against SFT, or against the base model where SFT is missing; `NOT_JUDGED`
        for a question without a right answer. Held-out prompts that decide are left out.
    """
    questions: dict[tuple[str, str], Row] = {}
    for row in answers:
        if row["set"] == NEUTRAL or not _is_reported(row["set"]):  # neutral: only its perplexity
            continue
        key = row["set"], row["id"]
        shared = {name: row.get(name) for name in ("set", "id", "prompt", "reference")}
        questions.setdefault(key, {**shared, "answers": {}})["answers"][row["model"]] = row
    for question in questions.values():
        question["outcome"] = _outcome(question["answers"])
    return sorted(questions.values(), key=lambda question: _rank(question["set"]))


def _outcome(answers: dict[str, Row]) -> str:
    """What became of a question; of answers with a score the higher one is gained or lost."""
    scored = any(row.get("score") is not None for row in answers.values())
    worth = {model: row["score" if scored else "correct"] for model, row in answers.items()}
    if all(value is None for value in worth.values()):
        return NOT_JUDGED
    ours = worth.get("lwf") or False
    theirs = worth.get("sft", worth.get("base", False)) or False
    if scored and ours != theirs:
        return OUTCOMES[ours > theirs, ours < theirs]
    return OUTCOMES[ours == 1, theirs == 1]


def count_outcomes(questions: list[Row]) -> dict[str, dict[str, int]]:
    """The number of questions of each set by outcome; every outcome is listed."""
    counts: dict[str, dict[str, int]] = {}
    for question in questions:
        if question["outcome"] != NOT_JUDGED:
            of_set = counts.setdefault(question["set"], dict.fromkeys(OUTCOMES.values(), 0))
            of_set[question["outcome"]] += 1
    return counts


def let_go_examples(questions: list[Row], count: int) -> list[Row]:
    """Held-out forgetting prompts: in each set those first that LWF answers otherwise than SFT.

    That is, SFT still gives the old answer and LWF does not.

    Args:
        questions: of `compare_answers`.
        count: of prompts, the first of every set, then the second, and so on.
    """

    def is_let_go(question: Row) -> bool:
        old = {model: row["old_answer"] for model, row in question["answers"].items()}
        return old.get("sft", True) and not old.get("lwf", True)

    asked = _with_old_answers(questions, FORGET_SET)
    return _first_of_every_set(sorted(asked, key=lambda row: not is_let_go(row)), count)


def kept_examples(questions: list[Row], count: int) -> list[Row]:
    """Held-out keep prompts; arguments as of `let_go_examples`."""
    return _first_of_every_set(_with_old_answers(questions, KEEP_SET), count)


def _with_old_answers(questions: list[Row], sets: str) -> list[Row]:
    """The prompts of these sets to which the base model's answer is known; none of an old run."""
    return [
        question
        for question in questions
        if question["set"].startswith(sets)
        and question["prompt"]  # of a text only predictions are compared
        and all(row.get("old_answer") is not None for row in question["answers"].values())
    ]


def _first_of_every_set(questions: list[Row], count: int) -> list[Row]:
    seen: dict[str, int] = {}
    places = []
    for question in questions:
        places.append(seen.get(question["set"], 0))
        seen[question["set"]] = places[-1] + 1
    order = sorted(range(len(questions)), key=lambda i: (places[i], questions[i]["set"]))
    return [questions[i] for i in order[:count]]


def sample(questions: list[Row], each: int) -> list[Row]:
    """The first `each` questions of every set and outcome, those without a right answer last.

    Without those that are compared with the base model's answer only, which have their own
    examples.
    """
    rows: list[Row] = []
    for name in dict.fromkeys(question["set"] for question in questions):
        of_set = [question for question in questions if question["set"] == name]
        for outcome in OUTCOMES.values():
            rows += [question for question in of_set if question["outcome"] == outcome][:each]
        rows += [q for q in of_set if q["outcome"] == NOT_JUDGED and not _is_compared(q)][:each]
    return rows


def _rank(name: str) -> int:
    return _FIRST.index(name) if name in _FIRST else len(_FIRST)


def _is_compared(question: Row) -> bool:
    """Whether its run compares answers with the base model's; those of earlier versions do not."""
    return any("old_answer" in row for row in question["answers"].values())


def _is_reported(name: str) -> bool:
    """Whether a set is not one of the forgetting or keep sets that only decide."""
    return not name.startswith(f"{VALIDATION}:")
