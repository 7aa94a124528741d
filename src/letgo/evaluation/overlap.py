"""What an answer shares with the right ones: SQuAD's words, and sacrebleu's chrF and BLEU."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from letgo.run.folder import Row

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = dict.fromkeys(map(ord, string.punctuation))


def normalised(text: str) -> str:
    """The text as SQuAD compares it: lower case, without punctuation, articles and extra spaces."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(prompt: str, references: Sequence[str], answer: str) -> bool:
    """Whether an answer is one of the right ones, both normalised (SQuAD's exact match)."""
    return any(normalised(answer) == normalised(reference) for reference in references)


def f1(prompt: str, references: Sequence[str], answer: str) -> float:
    """SQuAD's F1 of the answer's words, against the right answer that is nearest."""
    return max(_f1(normalised(answer).split(), normalised(r).split()) for r in references)


def _f1(ours: list[str], right: list[str]) -> float:
    shared = (Counter(ours) & Counter(right)).total()
    if not shared:
        return 0.0
    precision, recall = shared / len(ours), shared / len(right)
    return 2 * precision * recall / (precision + recall)


def contains(prompt: str, references: Sequence[str], answer: str) -> bool:
    """Whether the words of a right answer occur in the answer, in order, nothing between them.

    Case, punctuation and articles do not count. A right answer of nothing else is sought as it is.
    """
    words = f" {normalised(answer)} "
    return any(
        f" {normalised(right)} " in words if normalised(right) else right.strip() in answer
        for right in references
    )


@lru_cache(maxsize=4)
def _scorer(name: str, whole: bool) -> Any:
    """Sacrebleu's metric, with its defaults for single sentences or for a whole corpus."""
    from sacrebleu import BLEU, CHRF  # slow to import

    return CHRF() if name == "chrf" else BLEU(effective_order=not whole)


def chrf(prompt: str, references: Sequence[str], answer: str) -> float:
    """Sacrebleu's chrF of the answer, from 0 to 1."""
    return _scorer("chrf", False).sentence_score(answer, list(references)).score / 100


def bleu(prompt: str, references: Sequence[str], answer: str) -> float:
    """Sacrebleu's BLEU of the answer as a sentence, from 0 to 1 (rounding may exceed it)."""
    return min(1.0, _scorer("bleu", False).sentence_score(answer, list(references)).score / 100)


def of_corpus(answers: Sequence[str], references: Sequence[Sequence[str]]) -> Row:
    """`chrf` and `bleu` of all answers to a set together, 0 to 100, with sacrebleu's signatures.

    Args:
        references: the right answers to each prompt; their numbers may differ.
    """
    most = max(map(len, references))
    streams = [[r[i] if i < len(r) else None for r in references] for i in range(most)]
    result: Row = {}
    for name in ("chrf", "bleu"):
        scorer = _scorer(name, True)
        value = scorer.corpus_score(list(answers), streams).score
        result[name] = {"value": value, "signature": str(scorer.get_signature())}
    return result
