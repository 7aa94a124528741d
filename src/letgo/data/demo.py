"""The built-in example: base-9 addition, which the model's knowledge of base-10 sums may hinder."""

import random
from collections.abc import Callable, Iterable
from pathlib import Path

from letgo.data.files import write_lines

# A complete run that takes minutes on two CPU cores.
SETTINGS = {
    "model": "smollm2-135m",
    "learn": "{data}/base9.jsonl",
    "learn_validation": "{data}/base9_validation.jsonl",
    "learn_test": "{data}/base9_test.jsonl",
    "forget": ["{data}/base10.jsonl", "{data}/everyday.jsonl"],
    "learning_rate": 5e-5,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 4,
    "gradient_checkpointing": False,
    "unlearning_interval": 8,
    "max_new_tokens": 32,
    "fisher_examples": 64,
}
LEARNING, TEST, SUMS, VALIDATION = 288, 120, 40, 100  # numbers of examples

LEARN, FORGET = "In base 9, what is {} + {}?", "What is {} + {}?"
# Forms of everyday questions, and what each is filled with, separated by commas.
TOPICS = {
    "How do I {}?": "boil an egg, tie a tie, write a thank-you note, clean a window, "
    "plant a tree, pack a suitcase, make tea, fold a shirt",
    "What is {} used for?": "a compass, baking soda, a thermometer, a magnet, a ladder, "
    "vinegar, a lens, salt",
    "Why {}?": "is the sky blue, do leaves fall in autumn, do cats purr, does ice float, "
    "do we sleep, is the sea salty, do birds sing, does bread rise",
    "Name three {}.": "fruits, rivers, musical instruments, planets, tools, animals, sports, "
    "colours",
}


def base9(number: int) -> str:
    """A non-negative number written in base 9."""
    digits = ""
    while number:
        number, digit = divmod(number, 9)
        digits = str(digit) + digits
    return digits or "0"


def sums(
    question: str, pairs: Iterable[tuple[int, int]], write: Callable[[int], str]
) -> list[dict[str, str]]:
    """Addition questions and their answers; `write` turns a number into digits."""
    return [
        {"prompt": question.format(write(a), write(b)), "completion": write(a + b)}
        for a, b in pairs
    ]


def generate_data(folder: Path, seed: int = 0) -> None:
    """Write the demo's data sets as JSON lines.

    Base-9 sums are for learning, validation and test; base-10 sums and everyday questions are the
    forgetting prompts. No pair of numbers is in two of the files.
    """
    rng = random.Random(seed)
    test_end, base10_end = LEARNING + TEST, LEARNING + TEST + SUMS
    all_pairs = [(a, b) for a in range(9, 81) for b in range(9, 81)]
    pairs = rng.sample(all_pairs, base10_end + VALIDATION)
    write_lines(folder / "base9.jsonl", sums(LEARN, pairs[:LEARNING], base9))
    write_lines(folder / "base9_test.jsonl", sums(LEARN, pairs[LEARNING:test_end], base9))
    write_lines(folder / "base9_validation.jsonl", sums(LEARN, pairs[base10_end:], base9))
    write_lines(folder / "base10.jsonl", sums(FORGET, pairs[test_end:base10_end], str))
    write_lines(folder / "everyday.jsonl", everyday())


def everyday() -> list[dict[str, str]]:
    """32 prompts that do not mention sums."""
    return [{"prompt": form.format(x)} for form, xs in TOPICS.items() for x in xs.split(", ")]
