"""The first example of each set as the model sees it: in the log, in a file, in the report."""

from pathlib import Path
from typing import Any

from letgo.data.records import Record
from letgo.data.tokens import example_ids, prompt_ids
from letgo.errors import printable
from letgo.progress import log
from letgo.run.folder import FIRST_EXAMPLES, Row, write_json

LEARN = "learn"  # the set whose completions are learned
SHOWN = 400  # characters of a prompt or an answer


def first_examples(tokenizer: Any, sets: dict[str, list[Record]]) -> list[Row]:
    """The first example of each set, with its special tokens.

    Returns:
        rows with "set", "prompt" and "learned", which is empty for prompts that are only asked.
    """
    rows = []
    for name, records in sets.items():
        if not records:
            continue
        prompt, completion = records[0].prompt, records[0].completion or ""
        learned: list[int] = []
        if name == LEARN:
            before, learned = example_ids(tokenizer, prompt, completion)
        else:  # a text to keep has no prompt
            before = prompt_ids(tokenizer, prompt) if prompt else tokenizer(completion)["input_ids"]
        texts = {"prompt": tokenizer.decode(before), "learned": tokenizer.decode(learned)}
        rows.append({"set": name, **{key: shorten(text) for key, text in texts.items()}})
    return rows


def write(folder: Path, rows: list[Row], show: bool) -> None:
    """Write `first_examples.json` for the report, and with `show` print the examples."""
    write_json(folder / FIRST_EXAMPLES, {"examples": rows})
    if show:
        log.info("the first example of each set as the model sees it; it learns what follows ==>")
        for line in as_lines(rows):
            log.info("  %s", line)


def as_lines(rows: list[Row]) -> list[str]:
    """An example a line, without characters that a terminal would act on."""
    lines = []
    for row in rows:
        learned = f" ==> {row['learned']}" if row["learned"] else ""
        text = f"{row['set']}: {row['prompt']}{learned}".replace("\n", "\\n")
        lines.append(printable(text))
    return lines


def shorten(text: str) -> str:
    """The text, or its two ends: what precedes the answer is at the end of a prompt."""
    half = SHOWN // 2
    return text if len(text) <= SHOWN else f"{text[:half]} … {text[-half:]}"
