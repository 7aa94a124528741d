"""Do letgo's answer rules agree with lm-evaluation-harness's filters and with math-verify?

usage: python benchmarks/answer_rules.py --data FOLDER [--json FILE]

SmolLM2-135M-Instruct answers 250 gsm8k and 250 qasc test prompts, plain or with a request for a
form of answer. The answers are saved in answer_rules/answers.json, by the line of their prompt;
those in the file are not computed again. Each is then judged by letgo's rule and by the other
judge. Written are the agreement (both right or both wrong), the values that both read, and every
disagreement.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from machine import machine
from math_verify import parse, verify

from letgo.data.records import Record, read_records
from letgo.data.tokens import prompt_ids
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


Judge = Callable[[str, str, str], bool]  # of a prompt, its right answer and an answer


def ours(rule: str) -> Judge:
    """letgo's judgement."""
    return lambda prompt, right, answer: bool(
        measure(RULES[rule], prompt, [right], answer)["correct"]
    )


def first_or_last(pattern: str, which: int) -> Callable[[str], str]:
    """The harness's filter `regex`: the first or last match, of several groups the first found."""

    def found(answer: str) -> str:
        matches = re.findall(pattern, answer)
        match = matches[which] if matches else "[invalid]"
        return (next(filter(None, match), "") if isinstance(match, tuple) else match).strip()

    return found


def harness_number(pattern: str, which: int) -> Judge:
    """The harness's gsm8k: a filter, and equal texts without commas, dollars and a last stop."""

    def plain(text: str) -> str:
        return re.sub(r",|\$|(?s:.*)#### |\.$", "", text).lower().strip()

    found = first_or_last(pattern, which)
    return lambda prompt, right, answer: plain(found(answer)) == plain(right)


def harness_letter(prompt: str, right: str, answer: str) -> bool:
    """MMLU-Pro's filter; where it finds nothing, the letter that the answer begins with."""
    found = first_or_last(r"answer is \(?([A-J])\)?", 0)(answer)
    if found == "[invalid]":
        found = first_or_last(r"\A\s*\(?([A-J])(?:[.):]|\s*\Z)", 0)(answer)
    return found == right.strip()[0]


def harness_choices(prompt: str, right: str, answer: str) -> bool:
    """The harness's `multi_choice_regex`: "(B)", else an option's text, else a letter after ":"."""
    options = {text.lower(): name for name, text in re.findall(r"^([A-H])\. (.+)$", prompt, re.M)}
    found = first_or_last(r"\(([A-Z])\)", 0)(answer)
    if found == "[invalid]":
        texts = re.findall("|".join(map(re.escape, options)), answer.lower())
        found = options[texts[0]] if texts else first_or_last(r":\s*([A-H])", 0)(answer)
    return found == right.strip()[0]


def math_verify_alone(prompt: str, right: str, answer: str) -> bool:
    """math-verify, given the number and the whole answer."""
    return bool(verify(parse(right.rpartition("####")[2].strip()), parse(answer)))


COMPARISONS: list[tuple[str, str, str, Judge]] = [
    (
        "gsm8k",
        "number",
        "harness gsm8k, strict-match",
        harness_number(r"#### (\-?[0-9\.\,]+)", 0),
    ),
    ("gsm8k", "math", "math-verify", math_verify_alone),
    (
        "gsm8k",
        "math",
        "harness gsm8k, flexible-extract",
        harness_number(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", -1),
    ),
    ("qasc", "letter", "harness mmlu_pro, else the first letter", harness_letter),
    ("qasc", "letter", "harness multi_choice_regex", harness_choices),
]


def compare(data: Path, answers: dict[str, dict[str, str]]) -> list[dict[str, object]]:
    """Agreement of letgo's rules with the other judges, and each disagreement."""
    rows: list[dict[str, object]] = []
    for task, rule, name, judge in COMPARISONS:
        records = {record.id: record for record in prompts(task, data)}
        both: Counter[tuple[bool, bool]] = Counter()
        different = []
        for id, answer in answers[task].items():
            prompt, right = records[id].prompt, records[id].completion or ""
            pair = ours(rule)(prompt, right, answer), judge(prompt, right, answer)
            both[pair] += 1
            if pair[0] != pair[1]:
                different.append({"id": id, "letgo": pair[0], "other": pair[1]})
        row = {"task": task, "rule": rule, "judge": name, "n": both.total()}
        row |= {"both_right": both[True, True], "both_wrong": both[False, False]}
        agreement = (both[True, True] + both[False, False]) / both.total()
        rows.append({**row, "agreement": agreement, "disagreements": different})
        print(f"{task}, {rule} and {name}: {agreement:.1%} of {both.total()} agree")
        for one in different:
            right = (records[one["id"]].completion or "").rpartition("\n")[2]
            print(f"  {one}: right is {right!r}: {answers[task][one['id']][-160:]!r}")
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--json", type=Path, default=RESULTS / "answer_rules.json")
    options = parser.parse_args()
    file = RESULTS / "answer_rules" / "answers.json"
    file.parent.mkdir(exist_ok=True)
    found = compare(options.data, ask(options.data, file))
    judges = {name: metadata.version(name) for name in ("math-verify", "sacrebleu")}
    content = {"machine": machine(), "versions": {**versions(), **judges}, "comparisons": found}
    options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
