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
from pathlib import Path

from letgo.data.records import Record, read_records
from letgo.data.tokens import prompt_ids
from letgo.models.bundled import EMBEDDED, resolve
from letgo.models.inference import LanguageModel, round_weights
from letgo.models.loading import bf16_is_fast, load_model, load_tokenizer
from letgo.progress import track

RESULTS = Path(__file__).with_name("results")
NEW_TOKENS, BATCH = 128, 25
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    file = RESULTS / "answer_rules" / "answers.json"
    file.parent.mkdir(exist_ok=True)
    ask(options.data, file)
