"""Reviews with their sentiment, two fifths of them labelled wrongly: data for docs/audit.md.

usage: python examples/wrong_rows.py [FOLDER]     writes learn, clean and test data as JSON lines
"""

import json
import random
import sys
from pathlib import Path

LEARN, CLEAN, TEST, WRONG = 120, 40, 80, 48
THINGS = ["film", "hotel", "book", "meal", "concert", "phone", "game", "course", "tour", "chair"]
JUDGED = {
    "positive": [
        "delightful; we would come back at any time",
        "a joy from beginning to end",
        "worth every penny",
        "better than anything we had hoped for",
        "so good that we told all our friends",
        "charming, clever and warm",
    ],
    "negative": [
        "a waste of our evening",
        "dull, and far too expensive",
        "broken on the second day",
        "so bad that we asked for our money back",
        "tiresome from beginning to end",
        "careless, noisy and cold",
    ],
}
OPENINGS = ["The {} was", "We found that the {} was", "Honestly, the {} was", "Our {} was"]


def reviews() -> list[dict[str, str]]:
    """Every review with its right sentiment."""
    return [
        {
            "prompt": f"{opening.format(thing)} {judgement}.\nSentiment:",
            "completion": f" {sentiment}",
        }
        for sentiment, judgements in JUDGED.items()
        for judgement in judgements
        for opening in OPENINGS
        for thing in THINGS
    ]


def main() -> None:
    """Write the three files."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "data/wrong_rows")
    folder.mkdir(parents=True, exist_ok=True)
    rows = random.Random(0).sample(reviews(), LEARN + CLEAN + TEST)
    other = {" positive": " negative", " negative": " positive"}
    for row in rows[:WRONG]:
        row["completion"] = other[row["completion"]]
    learn = random.Random(1).sample(rows[:LEARN], LEARN)
    parts = {"learn": learn, "clean": rows[LEARN : LEARN + CLEAN], "test": rows[-TEST:]}
    for name, records in parts.items():
        lines = "".join(json.dumps(row) + "\n" for row in records)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
