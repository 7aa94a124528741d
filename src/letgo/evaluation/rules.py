"""The rules by which the answers to a task are judged, and the choice of one (`--answer`)."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

from letgo.data.records import text_fingerprint
from letgo.data.splits import MISTAKES, WRONG, set_names
from letgo.errors import InputError
from letgo.evaluation import hooks, mathematics, overlap
from letgo.evaluation.answers import (
    Reader,
    correct,
    exact,
    letter,
    number,
    reader,
    reader_of,
    reads,
)
from letgo.run.folder import Row
from letgo.run.inputs import FORGET_SET, KEEP_SET
from letgo.run.settings import RunConfig
from letgo.run.values import short

# The columns of `answers.parquet` that are metrics; what they mean, outcomes.FIGURES.
METRICS = (
    *("correct", "score", "reference_nll", "old_answer", "old_nll"),
    *("likeliest", "likeliest_whole", "kl"),
)
AUTO, REGEX, LEARN = "auto", "regex:", "learn"
OF_TEXTS = ("chrf", "bleu")  # rules of translations, which are also scored as a corpus

Pair = tuple[str, str]  # a right answer and its prompt


def _all(reference: str, prompt: str) -> bool:
    return True


def _as_text(reference: str, prompt: str) -> Reader:
    return exact


class Rule(NamedTuple):
    """How the answers to a task are judged.

    Attributes:
        name: by which `--answer` calls it.
        meaning: when an answer is right, or what its score is.
        metric: of a prompt, its right answers and an answer; true or false, or a score, 0 to 1.
        reads: whether it can read a right answer to a prompt.
        read: what reads the answers to a prompt with this right answer; two answers are the same if
            they read the same.
        is_graded: whether the metric is a score.
        is_right: of a graded rule, whether an answer is also simply right.
    """

    name: str
    meaning: str
    metric: hooks.Metric
    reads: Callable[[str, str], bool] = _all
    read: Callable[[str, str], Reader] = _as_text
    is_graded: bool = False
    is_right: hooks.Metric | None = None


def _reading(
    name: str, meaning: str, reads: Callable[[str, str], bool], read: Callable[[str, str], Reader]
) -> Rule:
    """A rule that compares what is read in an answer with what is read in the right ones."""

    def metric(prompt: str, references: Sequence[str], answer: str) -> bool:
        return any(correct(read(right, prompt), answer, right) for right in references)

    return Rule(name, meaning, metric, reads, read)


def _graded(name: str, meaning: str, metric: hooks.Metric) -> Rule:
    return Rule(name, meaning, metric, is_graded=True)


RULES: dict[str, Rule] = {
    "exact": _reading("exact", "it is the same text", _all, _as_text),
    "letter": _reading(
        "letter",
        "it has the letter of the same option",
        partial(reads, letter),
        partial(reader_of, letter),
    ),
    "number": _reading(
        "number",
        "its number after #### is the same",
        partial(reads, number),
        partial(reader_of, number),
    ),
    "math": _reading(
        "math",
        "the number or formula that it ends with is equal, by math-verify",
        lambda reference, prompt: mathematics.value(reference) is not None,
        lambda reference, prompt: mathematics.value,
    ),
    "contains": Rule(
        "contains", "the words of the right answer occur in it in a row", overlap.contains
    ),
    "f1": _graded("f1", "SQuAD's F1 of its words", overlap.f1)._replace(
        is_right=overlap.exact_match
    ),
    "chrf": _graded("chrf", "sacrebleu's chrF", overlap.chrf),
    "bleu": _graded("bleu", "sacrebleu's BLEU of the sentence", overlap.bleu),
}
BOXED = "\\boxed{"
# Why `auto` takes a rule; {} is how many right answers it reads.
REASONS = {
    "number": "its number after #### is the same, as {} right answers end with such a number",
    "letter": "it has the letter of the same option, as {} right answers are letters or options",
    "math": "what is in \\boxed{{}} is equal by math-verify, as {} right answers have such a box",
    "exact": "it is the same text, as most right answers are neither options of their prompts nor "
    "numbers after ####",
}


def auto(pairs: Sequence[Pair]) -> Rule:
    """The rule that more than half of the right answers leave no doubt about, else `exact`."""
    rule = reader([reference for reference, _ in pairs], [prompt for _, prompt in pairs])
    if rule is exact and 2 * sum(BOXED in reference for reference, _ in pairs) > len(pairs):
        return RULES["math"]
    return RULES["number" if rule is number else "letter" if rule is letter else "exact"]


@lru_cache(maxsize=64)
def named(name: str) -> Rule:
    """The rule of this name: one of `RULES`, `regex:PATTERN` or `FILE.py:FUNCTION`.

    Raises:
        InputError: there is no such rule, or it cannot be used.
    """
    if name.startswith(REGEX):
        return _by_pattern(name)
    if hooks.hook_file(name):
        return _graded(name, "what the function returns", hooks.load(name))
    if name in RULES:
        return RULES[name]
    raise InputError(
        f"--answer: {short(name)!r} is no rule; give auto, {', '.join(RULES)}, regex:PATTERN "
        f"or FILE.py:FUNCTION, for one set as SET=RULE"
    )


def _by_pattern(name: str) -> Rule:
    try:
        pattern = re.compile(name.removeprefix(REGEX))
    except re.error as error:
        message = f"--answer {short(name)}: not a regular expression ({error}); correct it"
        raise InputError(message) from error
    if not pattern.groups:
        raise InputError(
            f"--answer {short(name)}: the regular expression has no group; put what is compared "
            f"in brackets, as in 'regex:answer is (.+)'"
        )

    def read(text: str) -> str | None:
        found = pattern.search(text)
        groups = [group for group in found.groups() if group is not None] if found else []
        return exact(groups[0]) if groups else None

    def metric(prompt: str, references: Sequence[str], answer: str) -> bool:
        found = read(answer)
        return found is not None and any(found == (read(r) or exact(r)) for r in references)

    meaning = f"the first group of {short(pattern.pattern)} is the right answer's"
    return Rule(name, meaning, metric, read=lambda reference, prompt: read)


def assigned(settings: RunConfig) -> dict[str, str]:
    """The name of the rule of every task: "learn" and each forgetting and keep set.

    Raises:
        InputError: `--answer` names two rules for one task, or a set that the run does not have.
    """
    names = set_names(settings.forget)
    sources = zip(names, settings.forget, strict=True)
    tasks = [
        LEARN,
        *(FORGET_SET + name for name, source in sources if source not in (MISTAKES, WRONG)),
    ]
    tasks += [KEEP_SET + name for name in set_names(settings.keep)]
    rules: dict[str, str] = {}
    for item in settings.answer:
        matching = [task for task in tasks if item.startswith(f"{task}=")]
        task = max(matching, key=len, default="")
        if not task and re.match(r"(learn\w*|validation|forget:.*|keep:.*)=", item):
            raise InputError(
                f"--answer {short(item)}: the run has no such set to judge; it has "
                f"{', '.join(tasks)}"
            )
        rule = item.removeprefix(f"{task}=") if task else item
        if task in rules:
            where = f"for {task}" if task else "for all sets; give one as SET=RULE, e.g. learn=math"
            raise InputError(f"--answer: {short(rules[task])} and {short(rule)} are both {where}")
        rules[task] = rule
    return {task: rules.get(task, rules.get("", AUTO)) for task in tasks}


def rule_inputs(settings: RunConfig, *tasks: str) -> Row:
    """What the judgement of answers depends on beside the data; nothing if all is automatic.

    Args:
        tasks: the tasks that are judged; all if none is named.
    """
    rules = {t: r for t, r in assigned(settings).items() if r != AUTO and (not tasks or t in tasks)}
    inputs: Row = {f"answer {task}": name for task, name in rules.items()}
    for task, name in rules.items():
        if file := hooks.hook_file(name):
            code = file.read_text(errors="replace") if file.is_file() else ""
            inputs[f"answer code {task}"] = text_fingerprint(code)
    return inputs


def measure(rule: Rule | None, prompt: str, references: Sequence[str], answer: str) -> Row:
    """The metrics `correct` and `score` of an answer; both None without a rule or right answer."""
    if rule is None or not references:
        return {"correct": None, "score": None}
    if not rule.is_graded:
        return {"correct": bool(rule.metric(prompt, references, answer)), "score": None}
    right = None if rule.is_right is None else bool(rule.is_right(prompt, references, answer))
    return {"correct": right, "score": float(rule.metric(prompt, references, answer))}


def corpus_scores(rows: Sequence[Row], references: Mapping[str, Sequence[str]]) -> Row:
    """Sacrebleu's corpus chrF and BLEU, by model, of the answers to one set.

    Args:
        rows: of `answers.parquet`.
        references: the right answers by id.
    """
    answers: dict[str, list[Row]] = {}
    for row in rows:
        answers.setdefault(row["model"], []).append(row)
    return {
        model: overlap.of_corpus(
            [row["generated"] for row in of_model], [references[row["id"]] for row in of_model]
        )
        for model, of_model in answers.items()
    }


def is_wrong(metrics: Row) -> bool:
    """Whether an answer with these metrics is not right, or does not have the full score."""
    return metrics["score"] < 1 if metrics["correct"] is None else not metrics["correct"]
