"""Do letgo's answer rules agree with lm-evaluation-harness's filters and with math-verify?

usage: python benchmarks/answer_rules.py --data FOLDER [--json FILE]

SmolLM2-135M-Instruct answers 250 gsm8k and 250 qasc test prompts, plain or with a request for a
form of answer. The answers are saved in answer_rules/answers.json, by the line of their prompt;
those in the file are not computed again. Each is then judged by letgo's rule and by the other
judge. Written are the agreement (both right or both wrong), how often both read the same in an
answer, right or wrong, and every difference.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from machine import machine
from math_verify import parse

from letgo.data.records import Record, read_records
from letgo.data.tokens import prompt_ids
from letgo.evaluation.answers import letter, number
from letgo.evaluation.mathematics import Value, value
from letgo.evaluation.rules import RULES, measure
from letgo.models.bundled import EMBEDDED, resolve
from letgo.models.inference import LanguageModel, round_weights
from letgo.models.loading import bf16_is_fast, load_model, load_tokenizer
from letgo.progress import track
from letgo.run.provenance import versions

RESULTS = Path(__file__).with_name("results")
NEW_TOKENS, BATCH = 128, 10
SOLVED = (
    "Question: Tom has 3 bags with 4 apples each. He eats 2 apples. How many apples are left?\n"
    "Answer: Tom has 3 * 4 = 12 apples.\nThen 12 - 2 = 10 apples are left.\n#### 10\n\n"
)
# How many prompts of a task get which text before and after the question.
FORMS = {
    "gsm8k": (
        (80, "", ""),
        (110, SOLVED, ""),
        (60, "", "\nGive the result as \\boxed{number}."),
    ),
    "qasc": (
        (90, "", ""),
        (80, "", "\nExplain in one sentence, and end with: The answer is (letter)."),
        (80, "", "\nAnswer with the letter only."),
    ),
}


def prompts(task: str, data: Path) -> list[Record]:
    """The asked prompts of a task; an id is the line of the test file."""
    records = read_records(str(data / task / "test.jsonl"), "--data", True)
    asked: list[Record] = []
    for count, before, after in FORMS[task]:
        for record in records[len(asked) : len(asked) + count]:
            asked.append(record._replace(prompt=f"{before}{record.prompt}{after}"))
    return asked


def ask(data: Path, file: Path) -> dict[str, dict[str, str]]:
    """The model's answers, by task and id; the file has those that are there after each batch."""
    answers = json.loads(file.read_text()) if file.exists() else {task: {} for task in FORMS}
    if all(len(answers[task]) == sum(count for count, *_ in FORMS[task]) for task in FORMS):
        return answers
    model = load_model(resolve(EMBEDDED))
    lm = LanguageModel(model.eval(), load_tokenizer(EMBEDDED), bf16=bf16_is_fast())
    if lm.bf16:
        round_weights(m for m in model.modules() if m.__class__.__name__ == "Linear")
    for task, found in answers.items():
        asked = [record for record in prompts(task, data) if record.id not in found]
        pairs = [(record.id, prompt_ids(lm.tokenizer, record.prompt)) for record in asked]
        pairs.sort(key=lambda pair: len(pair[1]))
        for start in track(range(0, len(pairs), BATCH), f"ask {task}", len(pairs) // BATCH):
            chunk = pairs[start : start + BATCH]
            new = lm.generate([ids for _, ids in chunk], NEW_TOKENS)
            texts = lm.tokenizer.batch_decode(new, skip_special_tokens=True)
            for (name, _), text in zip(chunk, texts, strict=True):
                found[name] = text
            ordered = {task: dict(sorted(found.items())) for task, found in answers.items()}
            text = json.dumps(ordered, indent=1, ensure_ascii=False)
            file.write_text(text + "\n", encoding="utf-8")
    return answers


Read = Callable[[str, str], Any]  # what is read in an answer to a prompt; None for nothing


def first_or_last(pattern: str, which: int) -> Read:
    """The harness's filter `regex`: the first or last match, of several groups the first found."""

    def found(prompt: str, answer: str) -> str | None:
        matches = re.findall(pattern, answer)
        if not matches:
            return None
        match = matches[which]
        return (next(filter(None, match), "") if isinstance(match, tuple) else match).strip()

    return found


def plain(text: str) -> str:
    """A text as the harness's gsm8k compares it: without commas, dollars and a last stop."""
    return re.sub(r",|\$|(?s:.*)#### |\.$", "", text).lower().strip()


def named_or_first(prompt: str, answer: str) -> str | None:
    """MMLU-Pro's filter; where it finds nothing, the letter that the answer begins with."""
    found = first_or_last(r"answer is \(?([A-J])\)?", 0)(prompt, answer)
    return found or first_or_last(r"\A\s*\(?([A-J])(?:[.):]|\s*\Z)", 0)(prompt, answer)


def choices(prompt: str, answer: str) -> str | None:
    """The harness's `multi_choice_regex`: "(B)", else an option's text, else a letter after ":"."""
    options = {text.lower(): name for name, text in re.findall(r"^([A-H])\. (.+)$", prompt, re.M)}
    if found := first_or_last(r"\(([A-Z])\)", 0)(prompt, answer):
        return found
    texts = re.findall("|".join(map(re.escape, options)), answer.lower())
    return options[texts[0]] if texts else first_or_last(r":\s*([A-H])", 0)(prompt, answer)


class Other(NamedTuple):
    """Another judge of the answers to a task, and the rule of letgo that it is compared with.

    Attributes:
        read: what it reads.
        value: what it has read, or the right answer, in the form in which it is compared.
        ours: what letgo reads.
        as_ours: what the other has read, as letgo would have read it.
    """

    task: str
    rule: str
    name: str
    read: Read
    value: Callable[[Any], Any]
    ours: Read
    as_ours: Callable[[Any], Any]


OTHERS = [
    Other(
        "gsm8k",
        "number",
        "harness gsm8k, strict-match",
        first_or_last(r"#### (\-?[0-9\.\,]+)", 0),
        plain,
        lambda _, answer: number(answer),
        lambda text: number(f"#### {text}"),
    ),
    Other(
        "gsm8k",
        "math",
        "math-verify",
        lambda _, answer: Value(found) if (found := parse(answer)) else None,
        lambda one: Value(parse(plain(one))) if isinstance(one, str) else one,
        lambda _, answer: value(answer),
        lambda one: one,
    ),
    Other(
        "gsm8k",
        "math",
        "harness gsm8k, flexible-extract",
        first_or_last(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", -1),
        plain,
        lambda _, answer: value(answer),
        value,
    ),
    Other(
        "qasc",
        "letter",
        "harness mmlu_pro, else the first letter",
        named_or_first,
        lambda text: text.strip()[0],
        lambda prompt, answer: letter(answer, prompt),
        str,
    ),
    Other(
        "qasc",
        "letter",
        "harness multi_choice_regex",
        choices,
        lambda text: text.strip()[0],
        lambda prompt, answer: letter(answer, prompt),
        str,
    ),
]


def compare(other: Other, records: list[Record], answers: dict[str, str]) -> dict[str, Any]:
    """Agreement of a rule of letgo with another judge, in judgement and in what is read."""
    both: Counter[tuple[bool, bool]] = Counter()
    same_value, nothing, different = 0, 0, []
    for record in records:
        prompt, right, answer = record.prompt, record.completion or "", answers[record.id]
        read, ours = other.read(prompt, answer), other.ours(prompt, answer)
        is_right = read is not None and other.value(read) == other.value(right)
        judged = bool(measure(RULES[other.rule], prompt, [right], answer)["correct"])
        both[judged, is_right] += 1
        nothing += read is None and ours is None
        is_same = ours == (None if read is None else other.as_ours(read))
        same_value += is_same
        if judged != is_right or not is_same:
            row = {"id": record.id, "right": right.strip().rpartition("\n")[2], "letgo": judged}
            different.append({**row, "other": is_right, "reads": [repr(ours), repr(read)]})
    n = both.total()
    return {
        **{"task": other.task, "rule": other.rule, "judge": other.name, "n": n},
        **{"both_right": both[True, True], "both_wrong": both[False, False]},
        "agreement": (both[True, True] + both[False, False]) / n,
        **{"read_nothing": nothing, "same_value": same_value / n, "differences": different},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, default=RESULTS / "answer_rules.json")
    options = parser.parse_args()
    file = RESULTS / "answer_rules" / "answers.json"
    file.parent.mkdir(exist_ok=True)
    answers = ask(options.data, file)
    found = [
        compare(other, prompts(other.task, options.data), answers[other.task]) for other in OTHERS
    ]
    for row in found:
        print(
            f"{row['task']}, {row['rule']} and {row['judge']}: {row['agreement']:.1%} agree, "
            f"{row['same_value']:.1%} read the same"
        )
        for one in row["differences"]:
            print(f"  {one}: {answers[row['task']][one['id']][-160:]!r}")
    judges = {name: metadata.version(name) for name in ("math-verify", "sacrebleu")}
    content = {"machine": machine(), "versions": {**versions(), **judges}, "comparisons": found}
    options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
