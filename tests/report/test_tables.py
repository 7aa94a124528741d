"""The rows of the page's tables."""

from helpers.report_runs import held_out, outcomes

from letgo.report.tables import (
    compare_answers,
    count_outcomes,
    data_origins,
    direction,
    evaluated_sets,
    extremes,
    kept_examples,
    let_go_examples,
    outcome_rows,
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
            ("validation:forget:talk", "8", (True, True, True)),
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


def test_reported_sets():
    cells = {name: {"n": 3} for name in ("keep:a", "validation:keep:a", "validation", "learn")}
    assert list(evaluated_sets({"lwf": cells})) == ["learn", "validation", "keep:a"]


def test_examples_come_from_every_set_and_begin_with_what_was_let_go():
    questions = compare_answers([*held_out("forget:a", ""), *held_out("forget:b", "")])
    chosen = [(row["set"][-1], row["id"]) for row in let_go_examples(questions, 5)]
    assert chosen == [("a", "2"), ("b", "2"), ("a", "0"), ("b", "0"), ("a", "1")]
    assert kept_examples(questions, 5) == []
    kept = kept_examples(compare_answers(held_out("keep:a", "")), 9)
    assert [row["id"] for row in kept] == ["0", "1", "2", "3", "4"]  # the last one is a text
    # An earlier letgo did not compare answers with the base model's.
    old = [{key: v for key, v in row.items() if key != "old_answer"} for row in held_out("x", "")]
    assert let_go_examples(compare_answers(old), 5) == []


def test_outcome_rows():
    rows = outcome_rows(outcomes()["outcomes"])
    assert [(row["name"], row["decides"]) for row in rows] == [
        (name, decides) for name in ("Learned", "Let go", "Kept") for decides in (True, False)
    ]
    assert rows[2]["values"]["sft"] == {"value": "75.0", "interval": "70.0 to 81.2"}
    assert [row["direction"].split()[0] for row in rows] == [
        *("higher", "lower", "lower"),
        *("higher", "lower", "lower"),
    ]
    # The difference of perplexities is one of NLLs.
    assert (rows[5]["change"]["value"], rows[5]["change"]["unit"]) == ("+0.054", "nats per token")
    assert direction("kept", "of a later letgo") == ""


def test_data_origins():
    config = {
        "learn": "a.jsonl",
        "learn_test": None,
        "forget": ["b.csv"],
        "learn_validation": "v.csv",
        "keep": ["c.csv"],
        "provenance": {
            "data": {
                "learn": "1",
                "learn_test": "2",
                "learn_validation": "3",
                "forget b": "4",
                "keep c": "5",
            },
            "examples": {"learn": 7},
        },
    }
    rows = [(row["source"], row["examples"], row["fingerprint"]) for row in data_origins(config)]
    assert rows == [
        ("a.jsonl", 7, "1"),
        ("held out from learn", "", "2"),
        ("v.csv", "", "3"),
        ("b.csv", "", "4"),
        ("c.csv", "", "5"),
    ]
    assert data_origins({}) == []
