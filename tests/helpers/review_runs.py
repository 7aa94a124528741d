"""Generated runs with any number of texts, in letgo's file formats."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from letgo.run import decisions
from letgo.stages import score as scoring
from letgo.stages.elicit import SCHEMA

SETS = ("sums", "trivia", "letters")
WORDS = [
    "the",
    "of",
    "a",
    "river",
    "mountain",
    "answer",
    "seven",
    "city",
    "king",
    "number",
    "water",
    "light",
    "is",
    "was",
    "and",
    "old",
]
HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>",
    "${document.title='owned'} {{value}} `x` &lt;b&gt;",
    "\u202edesrever\u202c \x1b[31mred\x07 שלום עולם",
)


def write_texts(
    folder: Path,
    count: int,
    fraction: float = 0.5,
    tokenizer=None,
    seed: int = 0,
    special: tuple[str, ...] = (),
) -> Path:
    """Write the texts of a run, their scores and their selection by the score.

    Args:
        folder: created if it does not exist; an existing `config.yaml` is not overwritten.
        count: number of texts.
        fraction: fraction that the score selects.
        tokenizer: makes the token ids of the answers; without one they are invented.
        seed: seed of the texts and their scores.
        special: answers of the first texts.
    """
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    texts, scores = [], []
    for i in range(count):
        name = SETS[i % len(SETS)]
        words = [special[i]] if i < len(special) else rng.choices(WORDS, k=rng.randint(3, 25))
        answer = " ".join(words)
        ids = tokenizer(answer)["input_ids"] if tokenizer else [5] * len(words)
        prompt_ids = [9, 7 + i % 200, 7 + i // 200 % 200]
        texts.append(
            {
                "id": f"{name}:{i:06d}",
                "forget_set": name,
                "prompt": f"question {i} of {name}?",
                "completion": answer,
                "prompt_ids": prompt_ids,
                "completion_ids": ids,
                "finish_reason": "stop",
                "mean_logprob": -rng.uniform(0.1, 3),
            }
        )
        scores.append(
            {
                **dict.fromkeys(scoring.NUMBERS, 0.1),
                "id": texts[-1]["id"],
                "forget_set": name,
                "tokens": len(ids),
                "loss_base": -texts[-1]["mean_logprob"],
                "confidence": rng.gauss(0.02 * (i % 3 - 1), 0.05),
                "score": "gradient",
            }
        )
    pq.write_table(pa.Table.from_pylist(texts, SCHEMA), folder / "self_knowledge.parquet")
    pq.write_table(pa.Table.from_pylist(scores, scoring.SCHEMA), folder / "scores.parquet")
    ids, values = [row["id"] for row in scores], [row["confidence"] for row in scores]
    ranking = decisions.rank(ids, values, "top", 0)
    none = decisions.Decisions({}, None)
    table = decisions.selection_table(ids, ranking, fraction, "top", none)
    pq.write_table(table, folder / "selection.parquet")
    if not (folder / "config.yaml").exists():
        settings = {"forget_fraction": fraction, "seed": 0, "provenance": {}}
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


def selected(folder: Path) -> set[str]:
    """Ids of the texts that `selection.parquet` selects."""
    rows = pq.read_table(folder / "selection.parquet").to_pylist()
    return {row["id"] for row in rows if row["selected"]}
