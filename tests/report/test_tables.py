"""The rows of the page's tables."""

from letgo.report.tables import (
    compare_answers,
    count_outcomes,
    data_origins,
    extremes,
    sample,
)


def test_most_and_least_confident_texts():
    rows = [
        {"id": str(i), "forget_set": "a", "confidence": i / 10, "selected": i > 6} for i in range(8)
    ]
    most, least = extremes(rows, 5)
    assert [row["id"] for row in most] == ["7", "6", "5", "4", "3"]
    assert [row["id"] for row in least] == ["0", "1", "2"]


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
    assert count_outcomes(questions) == {
        "learn": {"gained": 1, "lost": 2, "both right": 1, "both wrong": 0},
        "validation": {"gained": 0, "lost": 0, "both right": 1, "both wrong": 0},
        "forget:law": {"gained": 0, "lost": 0, "both right": 0, "both wrong": 1},
    }
    sets = [question["set"] for question in questions]
    assert sets[-3:] == ["validation", "forget:law", "forget:talk"]
    assert [question["id"] for question in sample(questions, 1)] == ["3", "2", "1", "5", "0", "7"]
    assert questions[-1]["outcome"] == "without a right answer"
    # Without SFT, LWF is compared with the base model.
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
        ("held out from learn", "", "2"),
        ("v.csv", "", "3"),
        ("b.csv", "", "4"),
    ]
    assert data_origins({}) == []
