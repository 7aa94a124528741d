"""The rows of the page's tables and lists."""

from letgo.data.splits import NEUTRAL
from letgo.run.folder import Row

_FIRST = ("learn", "validation")  # sets of the learning task, listed before all other sets

# Outcomes of a question by whether LWF and the baseline are right.
OUTCOMES = {
    (True, False): "gained",
    (False, True): "lost",
    (True, True): "both right",
    (False, False): "both wrong",
}
NOT_JUDGED = "without a right answer"


def evaluated_sets(results: dict[str, Row]) -> dict[str, int]:
    """The number of questions of every evaluated set, those of the learning task first."""
    counts = {name: cell["n"] for sets in results.values() for name, cell in sets.items()}
    return {name: counts[name] for name in sorted(counts, key=_rank)}


def data_origins(config: Row) -> list[Row]:
    """The "name", "source", "examples" (their number) and "fingerprint" of each set of data.

    Forgetting sets are in the provenance in the order of their sources in "forget".
    """
    provenance = config.get("provenance") or {}
    fingerprints = provenance.get("data") or {}
    sources = {"learn": config.get("learn")}
    for name in ("learn_test", "learn_validation"):
        sources[name] = config.get(name) or "held out from learn"
    forgetting = [name for name in fingerprints if name not in sources]
    sources.update(zip(forgetting, config.get("forget") or [], strict=False))
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
        for a question without a right answer.
    """
    questions: dict[tuple[str, str], Row] = {}
    for row in answers:
        if row["set"] == NEUTRAL:  # only its perplexity is measured
            continue
        key = row["set"], row["id"]
        shared = {name: row.get(name) for name in ("set", "id", "prompt", "reference")}
        questions.setdefault(key, {**shared, "answers": {}})["answers"][row["model"]] = row
    for question in questions.values():
        correct = {model: row["correct"] for model, row in question["answers"].items()}
        baseline = bool(correct.get("sft", correct.get("base", False)))
        question["outcome"] = OUTCOMES[bool(correct.get("lwf", False)), baseline]
        if all(value is None for value in correct.values()):
            question["outcome"] = NOT_JUDGED
    return sorted(questions.values(), key=lambda question: _rank(question["set"]))


def count_outcomes(questions: list[Row]) -> dict[str, dict[str, int]]:
    """The number of questions of each set by outcome; every outcome is listed."""
    counts: dict[str, dict[str, int]] = {}
    for question in questions:
        if question["outcome"] != NOT_JUDGED:
            of_set = counts.setdefault(question["set"], dict.fromkeys(OUTCOMES.values(), 0))
            of_set[question["outcome"]] += 1
    return counts


def sample(questions: list[Row], each: int) -> list[Row]:
    """The first `each` questions of every set and outcome, those without a right answer last."""
    rows: list[Row] = []
    for name in dict.fromkeys(question["set"] for question in questions):
        for outcome in (*OUTCOMES.values(), NOT_JUDGED):
            rows += [q for q in questions if (q["set"], q["outcome"]) == (name, outcome)][:each]
    return rows


def _rank(name: str) -> int:
    return _FIRST.index(name) if name in _FIRST else len(_FIRST)
