"""What of a run's data, texts and answers the page shows."""

from letgo.data.splits import NEUTRAL
from letgo.run.folder import Row

# Sets of the learning task, first wherever sets are listed.
_FIRST = ("learn", "validation")

# Of one question, whether LWF and the model it is compared with are right.
OUTCOMES = {
    (True, False): "gained",
    (False, True): "lost",
    (True, True): "both right",
    (False, False): "both wrong",
}
NOT_JUDGED = "without a right answer"


def evaluated_sets(results: dict[str, Row]) -> dict[str, int]:
    """Return every set a model was asked, those of the learning task first: how many questions."""
    counts = {name: cell["n"] for sets in results.values() for name, cell in sets.items()}
    return {name: counts[name] for name in sorted(counts, key=_place)}


def data_origins(config: Row) -> list[Row]:
    """Return a row for each set of data: its name, source, number of examples, fingerprint.

    Args:
        config: the settings; the provenance in it names the sets, forgetting sets in the order in
            which the settings give their sources.
    """
    provenance = config.get("provenance") or {}
    fingerprints = provenance.get("data") or {}
    sources = {"learn": config.get("learn")}
    for name in ("learn_test", "learn_validation"):
        sources[name] = config.get(name) or "kept apart from learn"
    forgotten = [name for name in fingerprints if name not in sources]
    sources.update(zip(forgotten, config.get("forget") or [], strict=False))
    examples = provenance.get("examples") or {}
    return [
        {
            "name": name,
            "source": sources.get(name, ""),
            "examples": examples.get(name, ""),
            "fingerprint": fingerprint,
        }
        for name, fingerprint in fingerprints.items()
    ]


def extremes(texts: list[Row], count: int) -> tuple[list[Row], list[Row]]:
    """Return the most confident texts, and the least confident of those that are left.

    Args:
        texts: rows with "id" and "confidence".
        count: how many of each at most; both lists begin at their extreme.
    """
    ordered = sorted(texts, key=lambda row: (-row["confidence"], row["id"]))
    return ordered[:count], ordered[count:][-count:][::-1]


def decided(texts: list[Row]) -> list[Row]:
    """Return the texts a person has decided on, the latest decision first."""
    # Selections made without a review have no such columns.
    rows = [row for row in texts if row.get("decided_by") == "person"]
    return sorted(rows, key=lambda row: str(row.get("decided_at") or ""), reverse=True)


def compare_answers(answers: list[Row]) -> list[Row]:
    """Return every question with the answers of all models to it.

    Args:
        answers: rows of `answers.parquet`; neutral text among them is passed over.

    Returns:
        rows with "set", "id", "prompt", "reference", "answers" (by model) and "outcome", one of
        `OUTCOMES`: LWF beside plain fine-tuning, or beside the base model where there is no such;
        `NOT_JUDGED` where there is no right answer.
    """
    questions: dict[tuple[str, str], Row] = {}
    for row in answers:
        if row["set"] == NEUTRAL:  # read, not answered
            continue
        key = row["set"], row["id"]
        shared = {name: row.get(name) for name in ("set", "id", "prompt", "reference")}
        questions.setdefault(key, {**shared, "answers": {}})["answers"][row["model"]] = row
    for question in questions.values():
        right = {model: row["correct"] for model, row in question["answers"].items()}
        other = bool(right.get("sft", right.get("base", False)))
        question["outcome"] = OUTCOMES[bool(right.get("lwf", False)), other]
        if all(judged is None for judged in right.values()):
            question["outcome"] = NOT_JUDGED
    return sorted(questions.values(), key=lambda question: _place(question["set"]))


def outcomes(questions: list[Row]) -> dict[str, dict[str, int]]:
    """Return how many questions of each set came out how; every outcome is there."""
    found: dict[str, dict[str, int]] = {}
    for question in questions:
        if question["outcome"] == NOT_JUDGED:
            continue
        counts = found.setdefault(question["set"], dict.fromkeys(OUTCOMES.values(), 0))
        counts[question["outcome"]] += 1
    return found


def sample(questions: list[Row], each: int) -> list[Row]:
    """Return the first `each` questions of every set and outcome, those not judged last."""
    taken: list[Row] = []
    for name in dict.fromkeys(question["set"] for question in questions):
        for outcome in (*OUTCOMES.values(), NOT_JUDGED):
            fits = [q for q in questions if q["set"] == name and q["outcome"] == outcome]
            taken += fits[:each]
    return taken


def _place(name: str) -> int:
    return _FIRST.index(name) if name in _FIRST else len(_FIRST)
